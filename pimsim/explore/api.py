"""`sweep`: every point of a sweep file that is not in its folder yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pimsim.errors import InputError
from pimsim.explore.engine import run_here, run_locally, run_on_cluster
from pimsim.explore.plan import Plan, Point, load_plan
from pimsim.explore.store import Store
from pimsim.extras import require

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int, int], None]
"""Called with (points done, points in all, failures), once before the first point and after each one."""


@dataclass(frozen=True)
class SweepResult:
    """The folder of a sweep, and how many of its points are finished and failed."""

    folder: Path
    points: int
    done: int
    failed: int

    def to_frame(self) -> pd.DataFrame:
        """One row per finished point, as in ``results.parquet``."""
        import pandas as pd

        return pd.read_parquet(self.folder / "results.parquet")

    def pareto(self) -> pd.DataFrame:
        """The rows that no other row beats in every objective; the sweep must have objectives."""
        import pandas as pd

        return pd.read_parquet(self.folder / "pareto.parquet")


def sweep(
    spec: str | Path,
    *,
    out: str | Path | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    resume: bool = False,
    overrides: Sequence[str] = (),
    shard: tuple[int, int] = (1, 1),
    max_failures: int | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """Run every point of a sweep that is not finished yet, and write the tables.

    Args:
        spec: shipped sweep, or path of a sweep file.
        out: its folder; ``runs/<name of the sweep>`` if not given.
        workers: processes on this computer; 1 runs in this process.
        scheduler: address of a Dask scheduler, in place of ``workers``.
        resume: go on in a folder that has points already.
        overrides: ``"workload.generate_tokens=4"`` and the like, for every point.
        shard: ``(i, n)`` runs every n-th point, from the i-th on.
        max_failures: stop after more failed points than that.
        progress: called with (points done, points in all, failures), first with those of earlier runs.

    Raises:
        InputError: the sweep, the folder or the scheduler is wrong, a package is missing, or there were too many failures.
    """
    plan = load_plan(spec, overrides)
    return run_plan(
        plan,
        Path(out) if out is not None else Path("runs") / plan.config.name,
        workers=workers,
        scheduler=scheduler,
        resume=resume,
        shard=shard,
        max_failures=max_failures,
        progress=progress,
    )


def run_plan(
    plan: Plan,
    folder: Path,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    resume: bool = False,
    shard: tuple[int, int] = (1, 1),
    max_failures: int | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """`sweep` for a file that has been read already; an interrupt leaves tables of what is finished."""
    if not 1 <= shard[0] <= shard[1]:
        raise InputError(f"--shard must be i/n with i from 1 to n, not {shard[0]}/{shard[1]}")
    require("sweep", "a sweep", "pyarrow")
    if scheduler is not None:
        require("cluster", "--scheduler", "distributed")
    store = Store(folder, plan, resume=resume, shard=shard)
    try:
        points = range(shard[0] - 1, plan.count, shard[1])
        failed = sum(store.records[n]["status"] == "failed" for n in points if n in store.records)
        done = sum(n in store.records for n in points)
        todo = _todo(plan, shard, set(store.records))
        goals = {name: goal.value for name, goal in plan.config.objectives.items()}
        engine = plan.config.engine
        if scheduler is not None:
            records = run_on_cluster(todo, engine, goals, scheduler)
        elif workers > 1:
            records = run_locally(todo, engine, goals, workers)
        else:
            records = run_here(todo, engine, goals)
        if progress:
            progress(done, len(points), failed)
        try:
            for record in records:
                store.add(record)
                done, failed = done + 1, failed + (record["status"] == "failed")
                if progress:
                    progress(done, len(points), failed)
                if max_failures is not None and failed > max_failures:
                    raise InputError(
                        f"must have at most {max_failures} failed points; the last one is {record['error']}"
                    )
        finally:
            store.compact()
        return SweepResult(folder, len(points), done, failed)
    finally:
        store.close()


def _todo(plan: Plan, shard: tuple[int, int], finished: set[int]) -> Iterator[Point]:
    for point in plan.points():
        if point.number % shard[1] == shard[0] - 1 and point.number not in finished:
            yield point


__all__ = ["Progress", "SweepResult", "run_plan", "sweep"]
