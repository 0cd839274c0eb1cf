"""Random small decoders in groups on hybrid machines: both engines, legal programs and traces, numbers in both orders."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pimsim.analysis.strict import StrictOracle
from pimsim.arch.hybrid import PLACEABLE, PLACEABLE_PRODUCTS
from pimsim.config import load_arch
from pimsim.errors import CapacityExceeded
from pimsim.machine.fast import FastEngine
from pimsim.machine.fpga.fast import run_region
from pimsim.machine.fpga.reference import run_region as run_beats
from pimsim.machine.hybrid import further_units
from pimsim.machine.reference import ReferenceEngine
from pimsim.mapper.choice import graph_for, mapping_for
from pimsim.mapper.hybrid_group import HybridGroupMapping
from pimsim.program.verify import verify
from pimsim.runners.pim_check import check
from pimsim.trace.spans import SpanList
from pimsim.workload.config import WorkloadConfig
from tests.property.test_engines import plain
from tests.property.test_group_numbers import draw as draw_workload

HYBRID = load_arch("hybrid_pim_fpga").value


def draw(seed: int) -> tuple[Any, WorkloadConfig, HybridGroupMapping]:
    """A machine and a run that fits it: any placement, in prompts another one; SRAMs, buffers and units of any size."""
    c = random.Random(seed)
    while True:
        fixed = {work: c.choice(["pim", "fpga"]) for work in PLACEABLE}
        lanes, parallelism = c.choice([1, 3, 16]), c.choice([1, 2, 8])
        fpga = HYBRID.fpga.model_copy(
            update={
                "clock_mhz": c.choice([300.0, 333.3]),
                "buffer_bytes": c.choice([30_000, 8388608]),
                "attention": HYBRID.fpga.attention.model_copy(update={"lanes": lanes, "parallelism": parallelism}),
                "linear": HYBRID.fpga.linear.model_copy(update={"lanes": lanes, "parallelism": parallelism}),
            }
        )
        arch = HYBRID.model_copy(
            update={
                "placement": "fixed",
                "fixed": fixed,
                "fixed_prompt": {work: c.choice(["pim", "fpga"]) for work in PLACEABLE_PRODUCTS},
                "fpga": fpga,
                "link": HYBRID.link.model_copy(update={"width_bits": c.choice([64, 512]), "clock_mhz": 700.0}),
                "asic": HYBRID.asic.model_copy(update={"sram_bytes": c.choice([5_000, 12_000, 131072])}),
            }
        )
        streamed = fixed["attention"] == "fpga"
        work = draw_workload(c).model_copy(
            update={"attention": c.choice(["vanilla", "single_pass"]) if streamed else "vanilla"}
        )
        try:
            mapping = mapping_for(work, graph_for(work, arch), arch, arch.dram.resolve())
        except CapacityExceeded:
            continue
        if isinstance(mapping, HybridGroupMapping):
            return arch, work, mapping


@pytest.mark.parametrize("seed", range(12))
def test_engines_agree_and_no_rule_is_broken(seed: int) -> None:
    arch, _, mapping = draw(seed)
    lanes = mapping.shape.lanes
    for placed in mapping.program():
        verify(placed, mapping.spec, arch.asic.sram_bytes // 2, mapping.shape.buffer // lanes, lanes=lanes)
    oracle, recorders = StrictOracle(mapping.spec), (SpanList(), SpanList())
    fast = FastEngine(arch, mapping.spec, further=further_units(arch, run_region), recorder=recorders[0])
    slow = ReferenceEngine(
        arch, mapping.spec, further=further_units(arch, run_beats), recorder=recorders[1], sink=oracle
    )
    found, expected = plain(fast.run(mapping.program())), plain(slow.run(mapping.program()))
    assert found == expected
    assert recorders[0].passes == recorders[1].passes
    assert oracle.checked > 0


@pytest.mark.parametrize("seed", range(12))
def test_every_token_of_drawn_runs(seed: int) -> None:
    arch, work, _ = draw(seed)
    assert check(arch, work, 4)["message"] is None


def test_the_cases_differ() -> None:
    """In some of them tokens take turns in the SRAM, and rows of the channels meet one token or several."""
    mappings = [draw(seed)[2] for seed in range(12)]
    assert {mapping.slots < mapping.together for mapping in mappings} == {True, False}
    assert {mapping.at_once for mapping in mappings} > {4}
