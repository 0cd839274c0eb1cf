"""``pimsim search``: the best points of a sweep file, with progress on standard error."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pimsim.commands.output import TABLE_FORMATS, choose, columns, write_json, write_out
from pimsim.commands.progress import how_to_go_on
from pimsim.commands.progress import progress as bar
from pimsim.explore.plan import Plan
from pimsim.explore.search import SearchResult, load_search, run_search
from pimsim.report.si import significant


def search(
    file: str,
    *,
    trials: int,
    out: Path | None,
    workers: int,
    resume: bool,
    overrides: Sequence[str],
    output: str,
    quiet: bool,
) -> None:
    """Search the axes of a sweep file and print the Pareto front.

    Raises:
        InputError: an option, the sweep or its folder is wrong.
        KeyboardInterrupt: it was interrupted; how to go on has been said.
    """
    choose("format", output, TABLE_FORMATS)
    plan = load_search(file, overrides)
    folder = out if out is not None else Path("runs") / f"{plan.config.name}-search"
    try:
        with bar("trials", quiet=quiet) as report:
            result = run_search(plan, folder, trials=trials, workers=workers, resume=resume, progress=report)
    except KeyboardInterrupt:
        print(how_to_go_on(folder), file=sys.stderr, flush=True)
        raise
    _print(plan, result, output)


def _print(plan: Plan, result: SearchResult, output: str) -> None:
    names = [*plan.config.objectives, *plan.paths]
    front = [[row[name] for name in names] for row in result.pareto().sort_values(names[0]).to_dict("records")]
    if output == "json":
        counts = {"trials": result.trials, "points": result.points, "excluded": result.excluded}
        pareto = [dict(zip(names, row, strict=True)) for row in front]
        write_json({"folder": str(result.folder), **counts, "failed": result.failed, "pareto": pareto})
        return
    text = [names, *([_text(value) for value in row] for row in front)]
    write_out(
        f"{result.trials:,} trials, {result.points:,} points in {result.folder}, {result.excluded:,} excluded, "
        f"{result.failed:,} failed\n{columns(text)}"
    )


def _text(value: object) -> str:
    return (f"{value:.4g}" if abs(value) < 1e-3 else significant(value, 4)) if isinstance(value, float) else str(value)


__all__ = ["search"]
