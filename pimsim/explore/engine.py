"""Runs the points of a sweep: in this process, in processes of this computer, or on a Dask cluster."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

import pimsim
from pimsim.errors import InputError, PimsimError, SimulationError
from pimsim.explore.expressions import Expression, ExpressionError
from pimsim.explore.plan import Point, look_up, resolve
from pimsim.run import simulate_loaded
from pimsim.runners import Engine, RunOptions

Record = dict[str, Any]
"""A finished point: plain values, as the store keeps them."""


def run_point(point: Point, engine: Engine, objectives: dict[str, str]) -> Record:
    """Simulate one point; what goes wrong with it becomes part of the record."""
    start = time.perf_counter()
    record: Record = {"point": point.number, "setting": point.setting, "status": "ok", "error": None, "figures": {}}
    wall = 0.0
    try:
        arch, workload = resolve(point.setting)
        record |= {"arch_hash": arch.hash, "workload_hash": workload.hash}
        text = f"{pimsim.__version__}\n{engine}\n{arch.hash}\n{workload.hash}"
        record["id"] = hashlib.sha256(text.encode()).hexdigest()[:32]
        before = time.perf_counter()
        figures = dict(simulate_loaded(arch, workload, RunOptions(engine)).figures())
        wall = time.perf_counter() - before
        figures.pop("wall_seconds", None)
        names = {**point.setting, **figures}
        record["figures"] = figures
        record["objectives"] = {
            name: float(Expression(text).evaluate(lambda path: look_up(names, path)))
            for name, text in objectives.items()
        }
    except Exception as error:  # noqa: BLE001 (also a fault of the simulator itself must not stop the other points)
        record |= {"status": "failed", "error": _message(error), "figures": {}}
    overhead = time.perf_counter() - start - wall
    record["timing"] = {"wall_seconds": wall, "overhead_seconds": overhead, "worker": str(os.getpid())}
    record["timing"]["finished_at"] = time.time()
    return record


def _message(error: Exception) -> str:
    """What went wrong; for a fault of the simulator itself also where."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, PimsimError | ExpressionError | MemoryError):
        return text
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{text} (a fault of pimsim: {Path(place.filename).name}, line {place.lineno})"


def _lost(point: Point, why: str) -> Record:
    """The record of a point whose process died."""
    record: Record = {"point": point.number, "setting": point.setting, "status": "failed", "error": why, "figures": {}}
    record["timing"] = {"wall_seconds": 0.0, "overhead_seconds": 0.0, "worker": "", "finished_at": time.time()}
    return record


def run_here(points: Iterable[Point], engine: Engine, objectives: dict[str, str]) -> Iterator[Record]:
    """One point after the other in this process."""
    return (run_point(point, engine, objectives) for point in points)


def run_locally(points: Iterable[Point], engine: Engine, objectives: dict[str, str], workers: int) -> Iterator[Record]:
    """Points on ``workers`` processes, in the order in which they finish.

    When a process dies, the points that were under way run again, one after the other, each in a process of its own; one
    whose process dies again has failed.
    """
    rest = iter(points)
    while True:
        under_way: dict[Any, Point] = {}
        pool = _pool(workers)
        submit = partial(_submit, pool, engine, objectives)
        try:
            yield from _windowed(rest, 2 * workers, submit, _first_finished, under_way)
        except BrokenProcessPool:
            pass  # the points under way are looked after below
        else:
            return
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        for future, point in under_way.items():
            yield future.result() if _ended_well(future) else _run_alone(point, engine, objectives)


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_become_worker)


def _submit(pool: ProcessPoolExecutor, engine: Engine, objectives: dict[str, str], point: Point) -> Any:
    return pool.submit(run_point, point, engine, objectives)


def _ended_well(future: Any) -> bool:
    return isinstance(future, Future) and future.done() and not future.cancelled() and future.exception() is None


def _run_alone(point: Point, engine: Engine, objectives: dict[str, str]) -> Record:
    with _pool(1) as pool:
        try:
            return pool.submit(run_point, point, engine, objectives).result()
        except BrokenProcessPool:
            return _lost(point, "SimulationError: its process died twice, perhaps for lack of memory")


def run_on_cluster(
    points: Iterable[Point], engine: Engine, objectives: dict[str, str], address: str
) -> Iterator[Record]:
    """Points on a Dask cluster, which runs those of a lost worker again.

    Raises:
        InputError: no scheduler answers.
        SimulationError: the scheduler was lost.
    """
    import distributed

    try:
        cluster: Any = distributed
        client = cluster.Client(address, timeout="10s")
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(f"--scheduler {address}: must be the address of a Dask scheduler that answers") from error

    def first(pending: set[Any]) -> set[Any]:
        return set(cluster.wait(pending, return_when="FIRST_COMPLETED").done)

    under_way: dict[Any, Point] = {}
    try:
        width = 2 * max(1, sum(client.nthreads().values()))
        submit = lambda point: client.submit(run_point, point, engine, objectives, pure=False)  # noqa: E731
        rest = iter(points)
        while True:
            try:
                yield from _windowed(rest, width, submit, first, under_way)
            except cluster.KilledWorker as error:
                lost = next(future for future in under_way if future.key == error.task)
                yield _lost(under_way.pop(lost), "SimulationError: every worker that ran it died")
            else:
                return
    except (OSError, TimeoutError, CancelledError) as error:
        raise SimulationError(
            f"--scheduler {address}: must answer until the end, but was lost; finished points are stored, go on with --resume"
        ) from error
    finally:
        client.close()


def _windowed(
    rest: Iterator[Point],
    width: int,
    submit: Callable[[Point], Any],
    first: Callable[[set[Any]], set[Any]],
    under_way: dict[Any, Point],
) -> Iterator[Record]:
    """Results of futures, with ``width`` of them in ``under_way``; after an error those that were not given remain there."""

    def fill() -> None:
        for point in islice(rest, width - len(under_way)):
            try:
                under_way[submit(point)] = point
            except BaseException:
                under_way[object()] = point
                raise

    fill()
    while under_way:
        for future in first(set(under_way)):
            record: Record = future.result()
            point = under_way.pop(future)
            try:
                fill()
            except BaseException:
                under_way[future] = point  # its record has not been given yet
                raise
            yield record


def _first_finished(pending: set[Any]) -> set[Any]:
    return set(wait(pending, return_when=FIRST_COMPLETED).done)


def _become_worker() -> None:
    """Leave interrupts to the parent, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)


__all__ = ["Record", "run_here", "run_locally", "run_on_cluster", "run_point"]
