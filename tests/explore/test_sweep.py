"""A sweep is a table that does not depend on how it came about: workers, shards, kills."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pimsim import sweep
from pimsim.errors import InputError
from pimsim.explore.expressions import Expression, ExpressionError
from pimsim.explore.plan import FIGURES, load_plan
from pimsim.explore.store import Store
from pimsim.run import simulate

TINY = """\
name: tiny
arch: pim_gpt
workload: gpt2_decode
set: {workload.generate_tokens: 1, workload.model.layers: 1, workload.model.d_model: 128, workload.model.heads: 4}
axes:
  arch.dram.channels: [1, 2, 4, 8]
  workload.model.d_ff: [64, 128, 192]
  arch.asic.clock_mhz: [100, 500, 1000]
objectives:
  latency: {value: seconds}
  capacity: {value: arch.dram.channels * arch.dram.rows, goal: maximize}
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(file: Path) -> Path:
    """The folder of an uninterrupted run in one process."""
    return sweep(file, out=file.parent / "whole").folder


def tables(folder: Path) -> list[bytes]:
    return [(folder / f"{name}.parquet").read_bytes() for name in ("results", "configs", "pareto")]


def test_a_row_has_the_figures_of_a_run(file: Path, whole: Path) -> None:
    rows = pq.read_table(whole / "results.parquet").to_pylist()
    assert [row["point"] for row in rows] == list(range(36))
    options = [f"{path}={value}" for path, value in next(iter(load_plan(file).points())).setting.items() if "." in path]
    figures = simulate("pim_gpt", "gpt2_decode", overrides=options).figures()
    assert {name: rows[0][name] for name in FIGURES} == {name: figures[name] for name in FIGURES}
    assert set(figures) == {*FIGURES, "wall_seconds"}
    assert rows[0]["latency"] == figures["seconds"]


def test_tables_do_not_depend_on_workers_or_shards(file: Path, whole: Path, tmp_path: Path) -> None:
    sweep(file, out=tmp_path / "two", workers=2)
    sweep(file, out=tmp_path / "shards", shard=(2, 2))
    sweep(file, out=tmp_path / "shards", shard=(1, 2))
    assert tables(tmp_path / "two") == tables(whole) == tables(tmp_path / "shards")


def test_killed_at_random_moments_nothing_is_lost_or_repeated(file: Path, whole: Path, tmp_path: Path) -> None:
    out, moments = tmp_path / "killed", random.Random(5)
    for _ in range(20):
        child = os.fork()
        if child == 0:  # pragma: no cover - killed
            try:
                sweep(file, out=out, resume=True, progress=lambda *_: time.sleep(0.02))
            finally:
                os._exit(0)
        time.sleep(moments.uniform(0.0, 0.3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    sweep(file, out=out, resume=True)
    assert tables(out) == tables(whole)
    lines = (out / "records-1-of-1.log").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 36


def test_two_sweeps_in_one_folder_are_refused(file: Path, tmp_path: Path) -> None:
    store = Store(tmp_path, load_plan(file), resume=False)
    with pytest.raises(InputError, match=r"^.*: must not be in use; another sweep runs in it$"):
        sweep(file, out=tmp_path, resume=True)
    store.close()


def test_a_folder_of_another_sweep_is_refused(file: Path, whole: Path) -> None:
    with pytest.raises(InputError, match=r"^.*: must hold points of this very sweep, but"):
        sweep(file, out=whole, resume=True, overrides=["workload.model.vocabulary=100"])
    with pytest.raises(InputError, match=r"^.*: must be empty, or --resume must be given"):
        sweep(file, out=whole)


def test_a_failed_point_is_recorded_and_the_rest_runs(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(TINY.replace("[64, 128, 192]", "[64]").replace("[100, 500, 1000]", "[100]"), encoding="utf-8")
    result = sweep(path, out=tmp_path / "out", overrides=["arch.dram.rows=2"])
    assert (result.done, result.failed) == (4, 4)
    errors = pq.read_table(tmp_path / "out" / "results.parquet")["error"].to_pylist()
    assert all(text.startswith("CapacityExceeded: ") for text in errors)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("arch.dram.channels:", "arch.dram.chanels:", r".*'chanels'; did you mean 'channels'\?"),
        ("[1, 2, 4, 8]", "[]", r".*: must have at least one value$"),
        ("objectives:", "constraints: [arch.dram.channels > 8]\nobjectives:", r".*constraints: must hold for at least"),
        ("value: seconds}", "value: second}", r".*a name must start with arch\. or workload\., not 'second'"),
        ("[100, 500, 1000]", "[fast]", r".*must be a number, not 'fast'"),
    ],
)
def test_bad_sweeps_are_refused_before_the_first_run(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(TINY.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        sweep(path, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_expression_cannot_run_code() -> None:
    for text in ("__import__('os')", "(1).real", "[x for x in y]", "f.g(1)"):
        with pytest.raises(ExpressionError, match=r"^(a function|an expression) must be"):
            Expression(text)


def test_a_scheduler_that_does_not_answer_is_an_error(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--scheduler tcp://127\.0\.0\.1:1: must be the address of a Dask scheduler"):
        sweep(file, out=tmp_path, scheduler="tcp://127.0.0.1:1")
