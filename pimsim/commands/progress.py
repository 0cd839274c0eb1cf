"""Progress of a run on standard error: a bar on a terminal, now and then a line elsewhere, nothing for short runs."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PATIENCE = 1.0
"""Seconds before a bar appears."""

REFRESH = 0.1
"""Seconds between drawings of the bar."""

LINE_EVERY = 10.0
"""Seconds between lines where there is no terminal."""

Report = Callable[[int, int], None]
"""Called with (done, in all)."""


@contextlib.contextmanager
def progress(what: str, *, quiet: bool) -> Iterator[Report | None]:
    """Something to call with (done, in all), or None if nothing is to be shown."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        bar = _Bar(what)
        try:
            yield bar
        finally:
            bar.close()
    else:
        yield _Lines(what)


class _Lines:
    """A line every `LINE_EVERY` seconds."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._start = self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= LINE_EVERY:
            self._last = now
            print(f"{done:,} of {total:,} {self._what}, {now - self._start:.0f} s", file=sys.stderr, flush=True)


class _Bar:
    """A bar that appears after `PATIENCE` seconds and vanishes at the end."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._last = time.monotonic() + PATIENCE - REFRESH
        self._shown: tuple[Progress, TaskID] | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last < REFRESH:
            return
        self._last = now
        bar, task = self._shown or self._show(total)
        bar.update(task, completed=done, total=total, refresh=True)

    def _show(self, total: int) -> tuple[Progress, TaskID]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            auto_refresh=False,
        )
        self._shown = bar, bar.add_task(self._what, total=total)
        bar.start()
        return self._shown

    def close(self) -> None:
        """Remove the bar."""
        if self._shown:
            self._shown[0].stop()


__all__ = ["progress"]
