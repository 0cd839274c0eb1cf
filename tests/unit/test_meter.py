"""A program that is timed pass by pass takes what it takes in one run."""

from __future__ import annotations

import pytest

from pimsim.config import load_arch, load_workload
from pimsim.mapper.mapping import Mapping
from pimsim.meter import Meter
from pimsim.run import simulate_loaded
from pimsim.runners import RunOptions
from pimsim.workload.models import build_graph


@pytest.mark.parametrize("engine", ["fast", "reference"])
@pytest.mark.parametrize("dispatch", ["overlap", "serial"])
def test_readings_are_those_of_one_run(engine: str, dispatch: str) -> None:
    model = {"layers": 2, "heads": 2, "d_model": 64, "d_ff": 100, "vocabulary": 77, "context": 40}
    fields = [(f"model.{name}", str(value)) for name, value in model.items()]
    arch = load_arch("pim_gpt", [("dispatch", dispatch)])
    workload = load_workload("gpt2_decode", [*fields, ("prompt_tokens", "3"), ("generate_tokens", "20")])
    result = simulate_loaded(arch, workload, RunOptions(engine=engine))  # type: ignore[arg-type]
    spec = arch.value.dram.resolve()
    meter = Meter(arch.value, spec)
    for blocks in Mapping(workload.value, build_graph(workload.value), arch.value, spec).program():
        meter.add(blocks)
    assert [reading.seconds for reading in meter.readings] == list(result.pass_seconds)
    assert meter.readings[-1].joules == result.energy.joules
    assert meter.uncosted == result.energy.uncosted
    assert all(a.joules < b.joules for a, b in zip(meter.readings, meter.readings[1:], strict=False))
