"""`search`: the points of a sweep file that no other beats, found by Optuna's NSGA-II instead of running all.

Every choice follows from the seed and from the figures before it, a whole generation at a time. So a search that is
resumed makes the same choices again, takes the figures that are stored, and runs only what is missing: it ends as the
uninterrupted one does, with any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pimsim.explore.config import RandomAxis
from pimsim.explore.engine import Record, run_here, run_locally
from pimsim.explore.expressions import ExpressionError
from pimsim.explore.plan import Plan, Point, Setting, load_plan
from pimsim.explore.store import Store
from pimsim.extras import require

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

POPULATION = 16
"""Trials of a generation; they are chosen together and may run side by side."""


@dataclass(frozen=True)
class SearchResult:
    """The folder of a search, and what its trials came to."""

    folder: Path
    trials: int
    points: int
    """Distinct points that were run."""
    excluded: int
    """Trials that a constraint excluded."""
    failed: int
    """Points that failed."""

    def to_frame(self) -> pd.DataFrame:
        """One row per point that was run, as in ``results.parquet``."""
        import pandas as pd

        return pd.read_parquet(self.folder / "results.parquet")

    def pareto(self) -> pd.DataFrame:
        """The rows that no other row beats in every objective."""
        import pandas as pd

        return pd.read_parquet(self.folder / "pareto.parquet")


def search(
    spec: str | Path,
    *,
    trials: int = 64,
    out: str | Path | None = None,
    workers: int = 1,
    resume: bool = False,
    overrides: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> SearchResult:
    """Search the axes of a sweep for the best points, and write the tables and the Pareto front.

    Args:
        spec: shipped sweep, or path of a sweep file, with objectives.
        trials: points to look at; one that was looked at before is not run again.
        out: its folder; ``runs/<name of the sweep>-search`` if not given.
        workers: processes on this computer; 1 runs in this process.
        resume: go on in a folder that has points already; ``trials`` may be larger than before.
        overrides: ``"workload.generate_tokens=4"`` and the like, for every point.
        progress: called with (trials done, trials in all).

    Raises:
        InputError: Optuna is not installed, or the sweep or the folder is wrong.
    """
    plan = load_search(spec, overrides)
    folder = Path(out) if out is not None else Path("runs") / f"{plan.config.name}-search"
    return run_search(plan, folder, trials=trials, workers=workers, resume=resume, progress=progress)


def load_search(spec: str | Path, overrides: Sequence[str] = ()) -> Plan:
    """A sweep file as the plan of a search.

    Raises:
        InputError: the file is wrong, or has no objectives.
    """
    plan = load_plan(spec, overrides)
    if not plan.config.objectives:
        raise plan.tree.error("must have objectives, so that there is something to search for")
    return replace(plan, search={"sampler": "NSGA-II", "population": POPULATION})


def run_search(
    plan: Plan,
    folder: Path,
    *,
    trials: int,
    workers: int = 1,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> SearchResult:
    """`search` for a file that has been read already; an interrupt leaves tables of what is finished."""
    require("search", "search", "optuna", "pyarrow")
    study = _study(plan)
    store = Store(folder, plan, resume=resume)
    try:
        memory = {_key(record["setting"]): record for record in store.records.values()}
        excluded, met = 0, set()
        try:
            for start in range(0, trials, POPULATION):
                generation = [study.ask() for _ in range(min(POPULATION, trials - start))]
                settings = [_complete(plan, trial) for trial in generation]
                excluded += sum(setting is None for setting in settings)
                for record in _run_missing(plan, settings, memory, workers):
                    store.add(record)
                    memory[_key(record["setting"])] = record
                for trial, setting in zip(generation, settings, strict=True):
                    _tell(study, trial, None if setting is None else memory[_key(setting)])
                    met |= set() if setting is None else {_key(setting)}
                if progress:
                    progress(start + len(generation), trials)
        finally:
            store.compact()
        failed = sum(memory[key]["status"] == "failed" for key in met)
        return SearchResult(folder, trials, len(met), excluded, failed)
    finally:
        store.close()


def _study(plan: Plan) -> Any:
    """An Optuna study in memory; the store is what lasts."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        directions=[goal.goal for goal in plan.config.objectives.values()],
        sampler=optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=plan.config.seed),
    )


def _complete(plan: Plan, trial: Any) -> Setting | None:
    """The setting that a trial chooses; None if a constraint excludes it, or an expression has no value there."""
    try:
        return plan.complete(_chosen(plan, trial))
    except ExpressionError:
        return None


def _chosen(plan: Plan, trial: Any) -> Iterator[Setting]:
    """One row of each dimension of the sweep; values of a random axis may be any of its range."""
    config = plan.config
    axes = config.random.axes if config.random else {}
    for rows in plan.dimensions[: len(plan.dimensions) - bool(axes)]:
        name = " ".join(rows[0])
        yield rows[trial.suggest_int(name, 0, len(rows) - 1)]
    yield {path: _value(trial, path, axis) for path, axis in axes.items()}


def _value(trial: Any, path: str, axis: RandomAxis) -> Any:
    if axis.choices is not None:
        return axis.choices[trial.suggest_int(path, 0, len(axis.choices) - 1)]
    assert axis.low is not None
    assert axis.high is not None
    if axis.step is not None and not axis.log:
        steps = int((axis.high - axis.low) // axis.step)
        return axis.low + axis.step * trial.suggest_int(path, 0, steps)
    if isinstance(axis.low, int) and isinstance(axis.high, int):
        return trial.suggest_int(path, axis.low, axis.high, log=axis.log)
    return trial.suggest_float(path, axis.low, axis.high, log=axis.log)


def _run_missing(
    plan: Plan, settings: Sequence[Setting | None], memory: dict[str, Record], workers: int
) -> Iterator[Record]:
    """Records of the settings that have none yet, each once."""
    missing = {_key(setting): setting for setting in settings if setting is not None}
    todo = [setting for key, setting in missing.items() if key not in memory]
    first = 1 + max((record["point"] for record in memory.values()), default=-1)
    points = [Point(first + offset, setting) for offset, setting in enumerate(todo)]
    goals = {name: goal.value for name, goal in plan.config.objectives.items()}
    if workers > 1 and len(points) > 1:
        yield from run_locally(points, plan.config.engine, goals, workers)
    else:
        yield from run_here(points, plan.config.engine, goals)


def _tell(study: Any, trial: Any, record: Record | None) -> None:
    if record is None or record["status"] == "failed":
        import optuna

        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(trial, list(record["objectives"].values()))


def _key(setting: Setting) -> str:
    return repr(sorted(setting.items()))


__all__ = ["POPULATION", "SearchResult", "load_search", "run_search", "search"]
