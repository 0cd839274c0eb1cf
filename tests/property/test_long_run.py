"""Long runs: no drift against the reference engine and closed forms, memory that does not grow with tokens.

``PIMSIM_LARGE=1`` generates 65,536 tokens with GPT-2 small (minutes).
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from pimsim.arch.dram import DramSpec
from pimsim.arch.system import ArchConfig
from pimsim.config import load_arch, load_workload
from pimsim.machine import fast
from pimsim.machine.fast import FastEngine
from pimsim.machine.reference import ReferenceEngine
from pimsim.mapper.mapping import Mapping
from pimsim.program.isa import Block, Op, Placed, Repeat, Run, Step
from pimsim.trace.totals import RunTotals
from pimsim.workload.models import build_graph

TINY = [("model.layers", "1"), ("model.d_model", "64"), ("model.heads", "2"), ("model.d_ff", "128")]


def machine(*overrides: tuple[str, str]) -> tuple[ArchConfig, DramSpec]:
    arch = load_arch("pim_gpt", overrides).value
    return arch, arch.dram.resolve()


def mapping(arch: ArchConfig, spec: DramSpec, tokens: int, *overrides: tuple[str, str]) -> Mapping:
    work = load_workload("gpt2_decode", [*overrides, ("generate_tokens", str(tokens))]).value
    return Mapping(work, build_graph(work), arch, spec)


def refresh_cost(spec: DramSpec) -> int:
    """Ticks that one refresh can move the end of a pass by: closing, refreshing, opening, and a bit for the pipes."""
    timing = spec.timing
    return timing["nRFC"] + 2 * timing["nRP"] + timing["nRC"] + timing["nRCD"] + timing["nFAW"]


def check_drift(totals: RunTotals, arch: ArchConfig, spec: DramSpec, of: Mapping, contexts: list[int]) -> None:
    """A late pass takes as long as in a run of its own by the reference engine, but for the phase of refreshes."""
    for context in contexts:
        lone = ReferenceEngine(arch, spec).run([of.forward_pass(context)]).ticks
        within = totals.token_ticks[context - 1] - totals.token_ticks[context - 2]
        refreshes = max(lone, within) // spec.refresh_interval + 2
        assert abs(within - lone) <= refreshes * refresh_cost(spec), context


def test_late_passes_take_as_long_as_alone() -> None:
    arch, spec = machine(("dram.channels", "2"))
    of = mapping(arch, spec, 800, *TINY)
    totals = FastEngine(arch, spec).run(of.program())
    check_drift(totals, arch, spec, of, [400, 800])
    assert totals.ticks == totals.token_ticks[-1] == sum(totals.op_ticks.values()) == sum(totals.layer_ticks.values())


def test_without_refresh_a_late_pass_is_as_long_as_alone_to_the_tick() -> None:
    """With everything idle behind it; what is left is the start of the next pass, which overlaps with nothing here."""
    arch, spec = machine(("dram.channels", "2"), ("dram.refresh.policy", "none"), ("dispatch", "serial"))
    of = mapping(arch, spec, 400, *TINY)
    totals = FastEngine(arch, spec).run(of.program())
    lone = [ReferenceEngine(arch, spec).run([of.forward_pass(context)]).ticks for context in (200, 400)]
    within = [totals.token_ticks[context - 1] - totals.token_ticks[context - 2] for context in (200, 400)]
    assert within[1] - within[0] == lone[1] - lone[0]


def hour(count: int) -> list[Placed]:
    """``count`` passes over a row by all banks: open, multiply with 64 columns, close."""
    nowhere = (-1, -1, -1)
    body = (
        Run("ACT_AB", nowhere, row=0),
        Run("MAC_AB", (-1, -1, 0), row=0, column=0, count=64, buffer=0),
        Run("PREab", nowhere),
    )
    step = Step(0, (Repeat(count, body, row_step=0),), (), ("done",))
    return [Placed(Block("hour", (Op("linear", "h0"),), ((step,),), ()), 0, 0)]


def test_ticks_and_commands_of_an_hour_are_exact() -> None:
    """A row pass is nRCD + 63 nCCD + nRTP + nRP = 89 ticks of 1 ns; 4.1e10 of them are more than an hour."""
    arch, spec = machine(("dram.channels", "1"), ("dram.refresh.policy", "none"))
    count = 41_000_000_007
    totals = FastEngine(arch, spec).run([hour(count)])
    once = FastEngine(arch, spec).run([hour(1)])
    assert totals.ticks == once.ticks + (count - 1) * (12 + 63 + 2 + 12)
    assert totals.ticks > 3600 * 10**9
    assert totals.count("MAC_AB") == 64 * count
    assert totals.unit_busy["channel0.mac"] == 64 * count
    assert totals.unit_busy["channel0.mac"] + sum(totals.unit_stalls["channel0.mac"].values()) == totals.ticks


def test_memory_does_not_grow_with_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """With small limits, the tables are full after some tokens; from then on nothing but the list of ends grows."""
    monkeypatch.setattr(fast, "MEMORY_LIMIT", 800)
    monkeypatch.setattr(fast, "ALIKE_LIMIT", 16)
    arch, spec = machine(("dram.channels", "2"))
    of = mapping(arch, spec, 360, *TINY)
    held = {}

    def watched() -> Iterator[list[Placed]]:
        for number, blocks in enumerate(of.program()):
            if number in (180, 350):
                held[number] = tracemalloc.get_traced_memory()[0]
            if number == 180:
                tracemalloc.reset_peak()
            yield blocks

    tracemalloc.start()
    totals = FastEngine(arch, spec).run(watched())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held[350] < 1.5 * held[180] + 400_000
    assert peak < 3 * held[180] + 2_000_000
    monkeypatch.undo()
    assert totals == FastEngine(arch, spec).run(mapping(arch, spec, 360, *TINY).program())


PROCESS = """
import json, resource, sys
from test_long_run import TINY, machine, mapping
from pimsim.machine import fast
fast.MEMORY_LIMIT, fast.ALIKE_LIMIT = 800, 16
arch, spec = machine(("dram.channels", "2"), ("asic.sram_bytes", "1048576"))
engine = fast.FastEngine(arch, spec)
totals = engine.run(mapping(arch, spec, int(sys.argv[1]), *TINY, ("model.context", "8192")).program())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([peak, list(totals.token_ticks), sum(totals.op_ticks.values()), sum(totals.layer_ticks.values())]))
"""


def in_a_process(tokens: int) -> tuple[int, list[int]]:
    """(largest resident set in KiB, ends of the passes) of a process of its own, with small tables."""
    found = subprocess.run(
        [sys.executable, "-c", PROCESS, str(tokens)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    peak, ends, by_op, by_layer = json.loads(found.stdout)
    assert ends[-1] == by_op == by_layer
    return peak, ends


def test_four_times_the_tokens_take_the_same_memory_and_begin_alike() -> None:
    """What is left of growth is the program of a pass, which is longer at the end; without limits it is 18 MB, not 8."""
    (short, ends), (long, further) = in_a_process(1000), in_a_process(4000)
    assert long < 1.2 * short
    assert further[:1000] == ends
    assert len(further) == 4000


def test_a_run_in_pieces_adds_up_to_the_same() -> None:
    """Four calls, between which everything that was remembered is dropped, and one; all totals are equal."""
    arch, spec = machine(("dram.channels", "2"))
    of = mapping(arch, spec, 160, *TINY)
    pieces, ticks = FastEngine(arch, spec), []
    for first in range(1, 161, 40):
        totals = pieces.run(of.forward_pass(context) for context in range(first, first + 40))
        ticks.append(totals.ticks)
        pieces._forget(set())
    whole = FastEngine(arch, spec).run(mapping(arch, spec, 160, *TINY).program())
    assert ticks == whole.token_ticks[39::40]
    assert (totals.ticks, totals.token_ticks) == (whole.ticks, whole.token_ticks)
    assert totals.op_ticks == whole.op_ticks
    assert totals.commands == whole.commands


@pytest.mark.skipif(not os.environ.get("PIMSIM_LARGE"), reason="65,536 tokens take minutes; set PIMSIM_LARGE=1")
def test_65536_tokens() -> None:
    arch, spec = machine(("asic.sram_bytes", "4194304"))
    of = mapping(arch, spec, 65_536)
    peaks = {}

    def watched() -> Iterator[list[Placed]]:
        for number, blocks in enumerate(of.program()):
            if number in (16_384, 65_535):
                peaks[number] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            yield blocks

    totals = FastEngine(arch, spec).run(watched())
    assert len(totals.token_ticks) == 65_536
    assert peaks[65_535] < 1.25 * peaks[16_384]
    assert totals.ticks == sum(totals.op_ticks.values()) == sum(totals.layer_ticks.values())
    one_layer = mapping(arch, spec, 65_536, ("model.layers", "1"))
    check_slopes(totals, arch, spec, one_layer)


def check_slopes(totals: RunTotals, arch: ArchConfig, spec: DramSpec, one_layer: Mapping) -> None:
    """How much longer late passes are, against single passes of one layer by the reference engine, times the layers."""
    early, late, layers = 20_000, 60_000, 12
    alone = [ReferenceEngine(arch, spec).run([one_layer.forward_pass(context)]).ticks for context in (early, late)]
    ends = totals.token_ticks
    within = [(ends[context + 31] - ends[context - 33]) / 64 for context in (early, late)]
    assert (within[1] - within[0]) / layers == pytest.approx(alone[1] - alone[0], rel=0.02)
