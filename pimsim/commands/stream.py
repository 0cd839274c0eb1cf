"""Text as it comes, with what each token took on the machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from pimsim.commands.output import write_out

if TYPE_CHECKING:
    from pimsim.meter import Reading


class Display(Protocol):
    """Shows a text while it grows."""

    def show(self, piece: str) -> None:
        """A piece of text, once the pass behind it has been timed."""

    def close(self) -> None:
        """Nothing more will come."""


class Silent:
    """Shows nothing."""

    def show(self, piece: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Plain:
    """Text on standard output; a line of figures for each token on standard error, unless told to be quiet."""

    def __init__(self, prompt: str, readings: Sequence[Reading], prompt_tokens: int, *, quiet: bool) -> None:
        self._readings, self._prompt_tokens, self._quiet = readings, prompt_tokens, quiet
        self._told = 0
        write_out(prompt)

    def show(self, piece: str) -> None:
        """Write the piece, and figures if a token made it."""
        write_out(piece)
        generated = len(self._readings) - self._prompt_tokens + 1
        if self._quiet or generated == self._told:
            return
        self._told = generated
        line = f"token {generated} {piece!r}: {figures(self._readings, self._prompt_tokens)}"
        print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the line."""
        write_out("\n")


class Live:
    """One terminal for both: the text, and under it what the last token took."""

    def __init__(self, prompt: str, readings: Sequence[Reading], prompt_tokens: int) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._text, self._readings, self._prompt_tokens = prompt, readings, prompt_tokens
        self._live = RichLive(console=Console(highlight=False), auto_refresh=False, vertical_overflow="visible")
        self._live.start()
        self._draw("")

    def show(self, piece: str) -> None:
        """Draw the longer text."""
        if not piece:
            return
        self._text += piece
        self._draw(figures(self._readings, self._prompt_tokens))

    def _draw(self, line: str) -> None:
        from rich.console import Group
        from rich.text import Text

        self._live.update(Group(Text(self._text), Text(line, style="dim")) if line else Text(self._text), refresh=True)

    def close(self) -> None:
        """Leave the text, without the figures."""
        self._draw("")
        self._live.stop()


def display(prompt: str, readings: Sequence[Reading], prompt_tokens: int, *, quiet: bool) -> Display:
    """The display that fits where standard output and standard error go."""
    if sys.stdout.isatty() and sys.stderr.isatty() and not quiet:
        return Live(prompt, readings, prompt_tokens)
    return Plain(prompt, readings, prompt_tokens, quiet=quiet)


def figures(readings: Sequence[Reading], prompt_tokens: int) -> str:
    """What the last token took, and the whole so far; the first token waits for the prompt."""
    now = readings[-1]
    first = len(readings) == prompt_tokens
    before = (0.0, 0.0) if first else readings[-2]
    took = f"{(now.seconds - before[0]) * 1e3:.4g} ms, {(now.joules - before[1]) * 1e3:.4g} mJ simulated"
    behind = (
        f"prompt of {prompt_tokens} included"
        if first
        else f"{now.seconds * 1e3:.4g} ms, {now.joules * 1e3:.4g} mJ in all"
    )
    return f"{took} ({behind})"


__all__ = ["Display", "Live", "Plain", "Silent", "display", "figures"]
