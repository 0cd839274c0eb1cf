"""``pimsim sweep``: run the points of a sweep file, with progress on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pimsim.commands.output import TABLE_FORMATS, choose, write_json, write_out
from pimsim.commands.progress import duration, how_to_go_on
from pimsim.commands.progress import progress as bar
from pimsim.errors import InputError
from pimsim.explore.api import SweepResult, run_plan
from pimsim.explore.engine import run_point
from pimsim.explore.plan import Plan, load_plan


def sweep(
    file: str,
    *,
    out: Path | None,
    workers: int,
    scheduler: str | None,
    resume: bool,
    overrides: Sequence[str],
    shard: str,
    dry_run: bool,
    max_failures: int | None,
    output: str,
    quiet: bool,
) -> bool:
    """Run a sweep; whether no point failed.

    Raises:
        InputError: an option, the sweep or its folder is wrong.
        KeyboardInterrupt: it was interrupted; how to go on has been said.
    """
    choose("format", output, TABLE_FORMATS)
    index, slash, count = shard.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise InputError(f"--shard must be i/n with i from 1 to n, such as 1/4, not {shard!r}")
    plan = load_plan(file, overrides)
    folder = out if out is not None else Path("runs") / plan.config.name
    if not quiet or dry_run:
        _say(_estimate(plan, int(count), workers))
    if dry_run:
        return True
    try:
        with bar("points", quiet=quiet) as report:
            result = run_plan(
                plan,
                folder,
                workers=workers,
                scheduler=scheduler,
                resume=resume,
                shard=(int(index), int(count)),
                max_failures=max_failures,
                progress=report,
            )
    except KeyboardInterrupt:
        _say(how_to_go_on(folder))
        raise
    _print(result, output)
    return result.failed == 0


def _estimate(plan: Plan, shards: int, workers: int) -> str:
    """Number of points, and the time that they take if all are like the first, which is timed here."""
    first = next(iter(plan.points()))
    start = time.perf_counter()
    run_point(replace(first, number=0), plan.config.engine, {})
    each = time.perf_counter() - start
    points = -(-plan.count // shards)
    about = duration(points * each / max(1, workers))
    return f"{points:,} points; about {about} if all are like the first ({each:.2f} s)"


def _print(result: SweepResult, output: str) -> None:
    if output == "json":
        write_json(
            {"folder": str(result.folder), "points": result.points, "done": result.done, "failed": result.failed}
        )
    else:
        write_out(f"{result.done:,} of {result.points:,} points in {result.folder}, {result.failed:,} failed\n")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


__all__ = ["sweep"]
