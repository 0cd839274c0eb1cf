"""Progress of a run on standard error: a bar on a terminal, now and then a line elsewhere, nothing for short runs."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pimsim.report.si import significant

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PATIENCE = 1.0
"""Seconds before a bar appears."""

REFRESH = 0.1
"""Seconds between drawings of the bar."""

LINE_EVERY = 10.0
"""Seconds between lines where there is no terminal."""


class Report(Protocol):
    """What is called after every step."""

    def __call__(self, done: int, total: int, failed: int | None = None) -> None:
        """So many are done of so many in all; ``failed`` of them, where a step can fail without stopping the rest."""


@contextlib.contextmanager
def progress(what: str, *, quiet: bool) -> Iterator[Report | None]:
    """Something to call with (done, in all, failed), or None if nothing is to be shown."""
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


def how_to_go_on(folder: Path) -> str:
    """What is said when a sweep or a search is interrupted."""
    return f"finished points are in {folder}; go on with the same command and --resume"


class _Pace:
    """How fast it goes, counted from the first report: what an earlier run has done took no time of this one."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._first: int | None = None

    def seconds(self) -> float:
        """Time since the beginning."""
        return time.monotonic() - self._start

    def text(self, done: int, total: int, failed: int | None) -> str:
        """Rate, time left and failures; what is not known yet is left out."""
        self._first = done if self._first is None else self._first
        seconds = self.seconds()
        parts = []
        if done > self._first and seconds > 0:
            rate = (done - self._first) / seconds
            parts = [f"{significant(rate, 2)}/s", f"{duration((total - done) / rate)} left"]
        return ", ".join([*parts, *([] if failed is None else [f"{failed:,} failed"])])


def duration(seconds: float) -> str:
    """A time as people say it.

    >>> duration(8.4), duration(75), duration(3 * 3600 + 1700)
    ('8 s', '1 min 15 s', '3 h 28 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


class _Lines:
    """A line every `LINE_EVERY` seconds, and one at once if an earlier run has done a part."""

    def __init__(self, what: str) -> None:
        self._what, self._pace = what, _Pace()
        self._last = 0.0
        self._begun = False

    def __call__(self, done: int, total: int, failed: int | None = None) -> None:
        rest, seconds = self._pace.text(done, total, failed), self._pace.seconds()
        again = not self._begun and failed is not None and done > 0
        self._begun = True
        if again or seconds - self._last >= LINE_EVERY:
            self._last = seconds
            parts = [f"{done:,} of {total:,} {self._what}", duration(seconds), *([rest] if rest else [])]
            print(", ".join(parts), file=sys.stderr, flush=True)


class _Bar:
    """A bar that appears after `PATIENCE` seconds and vanishes at the end."""

    def __init__(self, what: str) -> None:
        self._what, self._pace = what, _Pace()
        self._last = time.monotonic() + PATIENCE - REFRESH
        self._shown: tuple[Progress, TaskID] | None = None

    def __call__(self, done: int, total: int, failed: int | None = None) -> None:
        now = time.monotonic()
        rest = self._pace.text(done, total, failed)
        if now - self._last < REFRESH:
            return
        self._last = now
        bar, task = self._shown or self._show(total)
        bar.update(task, completed=done, total=total, rest=rest, refresh=True)

    def _show(self, total: int) -> tuple[Progress, TaskID]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rest]}"),
            console=Console(stderr=True),
            transient=True,
            auto_refresh=False,
        )
        self._shown = bar, bar.add_task(self._what, total=total, rest="")
        bar.start()
        return self._shown

    def close(self) -> None:
        """Remove the bar."""
        if self._shown:
            self._shown[0].stop()


__all__ = ["Report", "duration", "how_to_go_on", "progress"]
