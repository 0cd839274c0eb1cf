"""A search finds what a sweep over everything would, and ends the same however often it is interrupted."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from cli_tools import pimsim
from test_sweep import TINY, tables

from pimsim import sweep
from pimsim.errors import InputError
from pimsim.explore.search import POPULATION, search

pytest.importorskip("optuna")
TRIALS = 2 * POPULATION + 5


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("search") / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(file: Path) -> Path:
    return search(file, trials=TRIALS, out=file.parent / "whole").folder


def test_the_front_is_a_front_of_all_points(file: Path, tmp_path: Path) -> None:
    """With more trials than the 36 points of the sweep can fill, the best latency and capacity are found."""
    every = sweep(file, out=tmp_path / "all").pareto()
    found = search(file, trials=150, out=tmp_path / "found")
    front = found.pareto()
    assert found.points <= 36
    assert front["latency"].min() == every["latency"].min()
    assert front["capacity"].max() == every["capacity"].max()
    best = {tuple(row) for row in every[["latency", "capacity"]].to_numpy()}
    assert {tuple(row) for row in front[["latency", "capacity"]].to_numpy()} <= best


def test_rows_are_those_of_the_sweep(file: Path, whole: Path, tmp_path: Path) -> None:
    rows = pq.read_table(whole / "results.parquet").to_pylist()
    every = {row["id"]: row for row in sweep(file, out=tmp_path).to_frame().to_dict("records")}
    assert len({row["id"] for row in rows}) == len(rows) > POPULATION // 2
    for row in rows:
        same = every[row["id"]]
        assert (row["seconds"], row["joules"], row["capacity"]) == (same["seconds"], same["joules"], same["capacity"])


def test_killed_at_random_moments_it_ends_the_same(file: Path, whole: Path, tmp_path: Path) -> None:
    out, moments = tmp_path / "killed", random.Random(3)
    for _ in range(6):
        child = os.fork()
        if child == 0:  # pragma: no cover - killed
            try:
                search(file, trials=TRIALS, out=out, resume=True)
            finally:
                os._exit(0)
        time.sleep(moments.uniform(0.0, 0.4))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    result = search(file, trials=TRIALS, out=out, resume=True)
    assert tables(out) == tables(whole)
    lines = (out / "records-1-of-1.log").read_text(encoding="utf-8").splitlines()
    assert len(lines) == result.points


def test_workers_and_earlier_stops_change_nothing(file: Path, whole: Path, tmp_path: Path) -> None:
    search(file, trials=POPULATION + 3, out=tmp_path / "more")
    search(file, trials=TRIALS, out=tmp_path / "more", resume=True)
    search(file, trials=TRIALS, out=tmp_path / "two", workers=2)
    assert tables(tmp_path / "more") == tables(whole) == tables(tmp_path / "two")


def test_another_seed_is_another_search(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(TINY + "seed: 9\n", encoding="utf-8")
    first = [row["id"] for row in search(path, trials=8, out=tmp_path / "nine").to_frame().to_dict("records")]
    assert first != pq.read_table(whole / "results.parquet")["id"].to_pylist()[: len(first)]


def test_constraints_exclude_and_ranges_are_searched(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    head, _, _ = TINY.partition("axes:")
    path.write_text(
        head
        + """\
zip:
  - {arch.dram.channels: [1, 2, 4], workload.model.d_ff: [64, 128, 192]}
random:
  samples: 3
  axes: {arch.asic.clock_mhz: {low: 100, high: 1000, log: true}, arch.asic.adders: {choices: [64, 128]}}
derived: {arch.asic.multipliers: arch.asic.adders}
constraints: [arch.dram.channels < 4]
objectives: {latency: {value: seconds}, clock: {value: arch.asic.clock_mhz}}
""",
        encoding="utf-8",
    )
    result = search(path, trials=20, out=tmp_path / "out")
    frame = result.to_frame()
    assert result.excluded + result.points <= 20
    assert result.excluded > 0
    assert set(zip(frame["arch.dram.channels"], frame["workload.model.d_ff"], strict=True)) <= {(1, 64), (2, 128)}
    assert frame["arch.asic.clock_mhz"].between(100, 1000).all()
    assert frame["arch.asic.clock_mhz"].nunique() > 3  # more than the samples of the sweep
    assert (frame["arch.asic.multipliers"] == frame["arch.asic.adders"]).all()


def test_points_that_fail_are_recorded(file: Path, tmp_path: Path) -> None:
    done = pimsim("search", str(file), "--trials", "4", "--out", str(tmp_path / "o"), "--set", "arch.dram.rows=2",
                  "--format", "json", "--quiet")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    plain = json.loads(done.stdout)
    assert plain["failed"] == plain["points"] > 0
    assert plain["pareto"] == []


def test_the_command_prints_the_front_and_the_report_takes_the_folder(file: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "o")
    done = pimsim("search", str(file), "--trials", "8", "--workers", "1", "--out", out, "--quiet")
    assert done.exit_code == 0, done.stderr
    first, head, *rows = done.stdout.splitlines()
    assert first.startswith("8 trials, ")
    assert head.split()[:2] == ["latency", "capacity"]
    assert len(rows) == len(pq.read_table(tmp_path / "o" / "pareto.parquet"))
    report = pimsim("report", out, "--html", str(tmp_path / "page.html"))
    assert report.exit_code == 0, report.stderr


def test_folders_of_searches_and_sweeps_are_kept_apart(file: Path, whole: Path) -> None:
    with pytest.raises(InputError, match=r"^.*: must hold points of this very sweep, but"):
        sweep(file, out=whole, resume=True)
    with pytest.raises(InputError, match=r"^.*: must be empty, or --resume must be given"):
        search(file, out=whole)


def test_a_sweep_without_objectives_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(TINY.partition("objectives:")[0], encoding="utf-8")
    with pytest.raises(
        InputError, match=r"^.*s\.yaml.*: must have objectives, so that there is something to search for$"
    ):
        search(path, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_optuna_it_says_what_to_install(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"^search must have the package optuna: pip install 'pimsim\[search\]'$"):
        search(file, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
