"""Runs the points of a sweep: in this process, in processes of this computer, or on a Dask cluster."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait as wait_for
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
    except (PimsimError, ExpressionError, MemoryError) as error:
        record |= {"status": "failed", "error": f"{type(error).__name__}: {error}", "figures": {}}
    overhead = time.perf_counter() - start - wall
    record["timing"] = {"wall_seconds": wall, "overhead_seconds": overhead, "worker": str(os.getpid())}
    record["timing"]["finished_at"] = time.time()
    return record


def run_here(points: Iterable[Point], engine: Engine, objectives: dict[str, str]) -> Iterator[Record]:
    """One point after the other in this process."""
    return (run_point(point, engine, objectives) for point in points)


def run_locally(points: Iterable[Point], engine: Engine, objectives: dict[str, str], workers: int) -> Iterator[Record]:
    """Points on ``workers`` processes, in the order in which they finish.

    Raises:
        SimulationError: a process died.
    """
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_become_worker)
    try:
        yield from _windowed(
            points, 2 * workers, lambda point: pool.submit(run_point, point, engine, objectives), _first_finished
        )
    except BrokenProcessPool as error:
        raise SimulationError(
            "a worker process died, perhaps for lack of memory; finished points are stored"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def run_on_cluster(
    points: Iterable[Point], engine: Engine, objectives: dict[str, str], address: str
) -> Iterator[Record]:
    """Points on a Dask cluster, which runs those of a lost worker again.

    Raises:
        InputError: distributed is not installed, or no scheduler answers.
    """
    try:
        import distributed
    except ImportError as error:
        raise InputError("--scheduler must have the package distributed: pip install 'pimsim[cluster]'") from error
    try:
        cluster: Any = distributed
        client = cluster.Client(address, timeout="5s")
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(f"--scheduler {address}: must be the address of a Dask scheduler that answers") from error

    def first(pending: set[Any]) -> set[Any]:
        return set(cluster.wait(pending, return_when="FIRST_COMPLETED").done)

    try:
        width = 2 * max(1, sum(client.nthreads().values()))
        submit = lambda point: client.submit(run_point, point, engine, objectives, pure=False)  # noqa: E731
        yield from _windowed(points, width, submit, first)
    finally:
        client.close()


def _windowed(
    points: Iterable[Point], width: int, submit: Callable[[Point], Any], first: Callable[[set[Any]], set[Any]]
) -> Iterator[Record]:
    """Results of futures, with ``width`` of them under way."""
    rest = iter(points)
    pending = {submit(point) for point in islice(rest, width)}
    while pending:
        done = first(pending)
        pending -= done
        pending |= {submit(point) for point in islice(rest, len(done))}
        for future in done:
            yield future.result()


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
