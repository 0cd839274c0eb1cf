"""How fast the engines are: ``pytest tests/benchmarks --benchmark-only``; simulated commands per second in ``extra_info``."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from pimsim.config import load_arch
from pimsim.machine.calendar import Calendar
from pimsim.run import simulate

pytestmark = pytest.mark.benchmark


@pytest.mark.parametrize(
    ("engine", "workload", "tokens"),
    [("fast", "gpt2_decode", 1024), ("fast", "gpt3_xl_decode", 64), ("reference", "gpt2_decode", 2)],
)
def test_commands_per_second(benchmark: Any, engine: Literal["fast", "reference"], workload: str, tokens: int) -> None:
    overrides = [f"workload.generate_tokens={tokens}"]
    result = benchmark.pedantic(
        simulate, ("pim_gpt", workload), {"overrides": overrides, "engine": engine}, rounds=1, warmup_rounds=0
    )
    speed = result.simulation.commands / benchmark.stats["mean"]
    benchmark.extra_info["commands_per_second"] = round(speed)
    assert speed > (10_000_000 if engine == "fast" else 50_000)  # a floor far below any machine that this should run on


def test_calendar(benchmark: Any) -> None:
    calendar = Calendar(load_arch("pim_gpt").value.dram.resolve())
    plan = calendar.plan("MAC_AB", (-1, -1, 0))
    tick = 0

    def issue() -> None:
        nonlocal tick
        tick = max(tick + 1, calendar.earliest(plan))
        calendar.record(plan, tick)

    benchmark(issue)
