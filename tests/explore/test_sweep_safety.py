"""What a sweep acknowledges is kept: on the disk before it is said, on a full or read-only disk, when a worker dies."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tracemalloc
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path
from time import process_time
from typing import Any

import pyarrow.parquet as pq
import pytest
from test_sweep import TINY, tables

from pimsim import sweep
from pimsim.errors import InputError
from pimsim.explore import engine
from pimsim.explore.engine import run_here, run_locally
from pimsim.explore.plan import Point, load_plan


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("safety") / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(file: Path) -> Path:
    return sweep(file, out=file.parent / "whole").folder


def test_a_point_is_on_the_disk_before_it_is_reported(file: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """After a power cut a file is as long as it was at its last fsync, and a name is there if its folder was synced."""
    synced: dict[int, int] = {}
    named: set[str] = set()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        found = os.fstat(descriptor)
        synced[found.st_ino] = found.st_size
        if (tmp_path / "out").exists() and found.st_ino == (tmp_path / "out").stat().st_ino:
            named.update(os.listdir(tmp_path / "out"))  # noqa: PTH208 (by the real path)

    monkeypatch.setattr(os, "fsync", fsync)
    log = tmp_path / "out" / "records-1-of-1.log"

    def check(done: int, total: int, failed: int) -> None:
        assert {"records-1-of-1.log", "sweep.json", "sweep.yaml"} <= named
        survives = log.read_bytes()[: synced.get(log.stat().st_ino, 0)]
        assert survives.count(b"\n") == done

    sweep(file, out=tmp_path / "out", progress=check)
    assert "results.parquet" in named


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own of 32 KB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    path = tmp_path / "disk"
    path.mkdir()
    if not mounted("-t", "tmpfs", "-o", "size=32k", "tmpfs", str(path)):
        pytest.skip("this system does not let us mount a tmpfs")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def mounted(*options: str) -> bool:
    return subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0


def test_a_full_disk_loses_nothing_and_more_room_completes_it(file: Path, whole: Path, disk: Path) -> None:
    out, acknowledged = disk / "out", []
    message = (
        rf"^{re.escape(str(out))}: must be a folder that can be written \(No space left on device\); finished points are "
        r"kept, go on with --resume$"
    )
    with pytest.raises(InputError, match=message):
        sweep(file, out=out, progress=lambda done, *_: acknowledged.append(done))
    log = out / "records-1-of-1.log"
    kept = log.read_bytes().splitlines()
    assert len(kept) == acknowledged[-1]
    assert 0 < len(kept) < 36
    assert [path.name for path in out.iterdir() if path.name.endswith(".part")] == []
    with pytest.raises(InputError, match=message):  # still full: nothing changes
        sweep(file, out=out, resume=True)
    assert log.read_bytes().splitlines() == kept
    assert mounted("-o", "remount,size=4m", str(disk))
    assert sweep(file, out=out, resume=True).done == 36
    assert log.read_bytes().splitlines()[: len(kept)] == kept
    assert tables(out) == tables(whole)


def test_a_read_only_disk_is_refused_and_left_as_it_is(file: Path, whole: Path, disk: Path) -> None:
    assert mounted("-o", "remount,size=4m", str(disk))
    out = disk / "out"
    sweep(file, out=out, shard=(1, 2))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert mounted("-o", "remount,ro", str(disk))
    with pytest.raises(InputError, match=r"^.*out: must be a folder that can be written \(Read-only file system\)"):
        sweep(file, out=out, shard=(2, 2))
    with pytest.raises(InputError, match=r"^.*new: must be a folder that can be written \(Read-only file system\)"):
        sweep(file, out=disk / "new")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert mounted("-o", "remount,rw", str(disk))
    sweep(file, out=out, shard=(2, 2))
    assert tables(out) == tables(whole)


def test_a_killed_local_worker_loses_nothing(file: Path, whole: Path, tmp_path: Path) -> None:
    def kill(done: int, *_: int) -> None:
        if done == 5:
            os.kill(active_children()[0].pid or 0, signal.SIGKILL)

    result = sweep(file, out=tmp_path, workers=2, progress=kill)
    assert (result.done, result.failed) == (36, 0)
    assert tables(tmp_path) == tables(whole)


class Bomb:
    """Ends the process that unpacks it."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (9,)


def test_a_point_that_kills_its_process_fails_and_the_rest_runs(file: Path) -> None:
    points = list(load_plan(file).points())[:6]
    points[2] = Point(2, {**points[2].setting, "arch.name": Bomb()})
    records = {record["point"]: record for record in run_locally(points, "fast", {}, 2)}
    assert sorted(records) == list(range(6))
    assert [n for n, record in records.items() if record["status"] != "ok"] == [2]
    assert records[2]["error"] == "SimulationError: its process died twice, perhaps for lack of memory"


def test_a_fault_of_the_simulator_is_a_failed_point(file: Path, monkeypatch: Any) -> None:
    def broken(*_: object) -> None:
        raise KeyError("nBUG")

    monkeypatch.setattr(engine, "simulate_loaded", broken)
    record = next(run_here(load_plan(file).points(), "fast", {}))
    assert record["status"] == "failed"
    assert re.match(r"^KeyError: 'nBUG' \(a fault of pimsim: test_sweep_safety\.py, line \d+\)$", str(record["error"]))


def test_failed_points_are_in_the_table_of_a_resumed_sweep(file: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def broken(*_: object) -> None:
        raise KeyError("nBUG")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "simulate_loaded", broken)
        with pytest.raises(InputError, match=r"^must have at most 2 failed points; the last one is KeyError: 'nBUG'"):
            sweep(file, out=tmp_path, max_failures=2)
    result = sweep(file, out=tmp_path, resume=True)
    assert (result.done, result.failed) == (36, 3)
    status = pq.read_table(tmp_path / "results.parquet")["status"].to_pylist()
    assert status == ["failed"] * 3 + ["ok"] * 33


def test_ten_thousand_points_are_planned_in_bounded_time_and_memory(tmp_path: Path) -> None:
    """CPU time, as other programs run beside the tests; 200 values of one axis have to be resolved one by one."""
    path = tmp_path / "s.yaml"
    head, _, tail = TINY.partition("axes:")
    axes = (
        f"axes:\n  workload.model.d_ff: {list(range(64, 264))}\n  arch.asic.clock_mhz: {list(range(100, 1100, 20))}\n"
    )
    path.write_text(head + axes + "objectives:" + tail.partition("objectives:")[2], encoding="utf-8")
    start = process_time()
    assert load_plan(path).count == 10_000
    assert process_time() - start < 5
    tracemalloc.start()
    try:
        assert sum(1 for _ in load_plan(path).points()) == 10_000
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
