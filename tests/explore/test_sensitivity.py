"""The shipped sensitivity sweep: how many points, how long, and what a point costs beyond its simulation."""

from __future__ import annotations

import os
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from cli_tools import process

from pimsim.explore import engine
from pimsim.explore.engine import run_here
from pimsim.explore.plan import load_plan
from pimsim.explore.store import Store
from pimsim.run import simulate_loaded

LARGE = bool(os.environ.get("PIMSIM_LARGE"))
"""All of it with the environment variable PIMSIM_LARGE=1."""

AXES = {"arch.dram.channels", "arch.pim.multipliers", "arch.asic.clock_mhz", "arch.dram.pin_gbps", "workload",
        "workload.prompt_tokens"}  # fmt: skip


def test_the_shipped_sweep_varies_what_it_should() -> None:
    plan = load_plan("pim_gpt_sensitivity")
    assert plan.count >= 200
    assert set(plan.paths) >= AXES


def test_a_point_costs_less_than_10_ms_beyond_its_simulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU time of the first 12 points with the store, less that of their simulations: other programs do not count."""
    spent = 0.0

    def timed(*arguments: Any) -> Any:
        nonlocal spent
        before = time.process_time()
        result = simulate_loaded(*arguments)
        spent += time.process_time() - before
        return result

    plan = load_plan("pim_gpt_sensitivity")
    store = Store(tmp_path, plan, resume=False)
    list(run_here(islice(plan.points(), 1), "fast", {}))  # what is imported at first use
    monkeypatch.setattr(engine, "simulate_loaded", timed)
    start = time.process_time()
    for record in run_here(islice(plan.points(), 12), "fast", {}):
        store.add(record)
    overhead = time.process_time() - start - spent
    store.close()
    assert spent > 0.5
    assert overhead / 12 < 0.010


@pytest.mark.large
@pytest.mark.skipif(not LARGE, reason="runs for a minute on two processors; PIMSIM_LARGE=1 runs it")
def test_all_of_it_takes_less_than_three_minutes_on_two_processors(tmp_path: Path) -> None:
    start = time.perf_counter()
    done = process("sweep", "pim_gpt_sensitivity", "--out", str(tmp_path / "sens"), "--workers", "2", timeout=600)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 180
    timings = pq.read_table(tmp_path / "sens" / "timings.parquet").to_pylist()
    assert len(timings) == load_plan("pim_gpt_sensitivity").count
    assert sum(row["overhead_seconds"] for row in timings) / len(timings) < 0.010
    workers = [row["worker"] for row in timings]
    assert all(workers.count(worker) > len(workers) // 4 for worker in set(workers))
    assert len(set(workers)) == 2
