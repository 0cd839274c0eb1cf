"""Static rules of a program, each broken once, and shipped programs that break none."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from builders import dram

from pimsim.arch.formats import format_bytes
from pimsim.config import load_arch, load_workload
from pimsim.errors import ProgramError
from pimsim.mapper.mapping import Mapping
from pimsim.program.isa import Block, Compute, Item, Op, Placed, Repeat, Run, Step
from pimsim.program.verify import verify
from pimsim.workload.models import build_graph

SPEC = dram().resolve()  # 2 channels, 4 x 4 banks, 64 rows, 64 columns, 4 accumulators
SRAM, BUFFER, LANES = 1000, 16, 16
NONE, ACC0, BANK = (-1, -1, -1), (-1, -1, 0), (1, 2, -1)

ACT_AB, PREab = Run("ACT_AB", NONE, row=3), Run("PREab", NONE)
MAC = Run("MAC_AB", ACC0, row=3, column=0, count=16, buffer=0)
ACT, PREpb = Run("ACT", BANK, row=3), Run("PREpb", BANK)
RD = Run("RD", BANK, row=3, column=0, count=4, sram=0, sram_step=16)
WR = replace(RD, command="WR")
WR_GB = Run("WR_GB", NONE, count=16, buffer=0, sram=0, sram_step=16)
RD_MAC = Run("RD_MAC", ACC0, sram=0, sram_channel=16)
SWEEP = Run("WR", NONE, row=3, column=5, count=16, sweep=True, lane=2, sram=0, sram_step=1)


def block(*items: Item, asic: tuple[Compute, ...] = (), name: str = "b") -> Block:
    """The items on both channels."""
    stream = (Step(0, items),) if items else ()
    return Block(name, (Op("linear", "h0.qkv"),), (stream,) * 2, (Step(0, asic),) if asic else ())


def check(*items: Item, base: int = 0, asic: tuple[Compute, ...] = ()) -> None:
    verify([Placed(block(*items, asic=asic), base, 0)], SPEC, SRAM, BUFFER, lanes=LANES)


def opened(run: Run) -> tuple[Item, ...]:
    return (ACT_AB, run, PREab)


@pytest.mark.parametrize(
    "items",
    [
        (ACT_AB, WR_GB, MAC, PREab, RD_MAC),
        (ACT, RD, WR, PREpb),
        (ACT, RD, PREab),
        opened(SWEEP),
        opened(RD),
        (PREab, PREpb),
        (Run("REFab", NONE),),
        (Repeat(60, (ACT_AB, MAC, PREab, RD_MAC), row_step=1, sram_step=16),),
        (ACT_AB, Repeat(5, (MAC,)), PREab),
        # a loop whose passes hand an open row on: it moves with the loop
        (ACT_AB, Repeat(9, (MAC, PREab, replace(ACT_AB, row=4)), row_step=1), PREab),
        (Repeat(3, (Repeat(4, (ACT_AB, MAC, PREab), row_step=1),), row_step=4),),
        (),
    ],
)
def test_legal_programs_pass(items: tuple[Item, ...]) -> None:
    check(*items)


BROKEN: dict[str, tuple[tuple[Item, ...], str, str]] = {
    "unknown command": (
        (replace(PREab, command="PREba"),),
        "item 0 (PREba)",
        "command must be one of ACT, ACT_AB, MAC_AB, PREab, PREpb, RD, RD_MAC, REFab, WR, WR_GB, not 'PREba'; did you",
    ),
    "count": ((replace(PREab, count=0),), "item 0 (PREab)", "count must be at least 1, not 0"),
    "count of a row command": (
        (replace(PREab, count=2),),
        "item 0 (PREab)",
        "count must be 1, because PREab changes rows, not 2",
    ),
    "repeat count": ((Repeat(0, (PREab,)),), "item 0 (repeat)", "count must be at least 1, not 0"),
    "compute on a channel": ((Compute("add", 1),), "item 0", "must be a Run or a Repeat, not Compute"),  # type: ignore[dict-item]
    "address length": (
        (replace(PREab, where=(-1,)),),
        "item 0 (PREab)",
        "address must have 3 entries (bankgroup, bank, accumulator), not 1",
    ),
    "bank": ((replace(PREpb, where=(1, 4, -1)),), "item 0 (PREpb)", "bank must be 0 to 3, not 4"),
    "bank missing": ((replace(PREpb, where=(1, -1, -1)),), "item 0 (PREpb)", "bank must be 0 to 3, not -1"),
    "bank too much": (
        (replace(PREab, where=(1, -1, -1)),),
        "item 0 (PREab)",
        "bankgroup must be -1, because PREab does not address it, not 1",
    ),
    "register": (
        opened(replace(MAC, where=(-1, -1, 4))),
        "item 1 (MAC_AB)",
        "accumulator must be 0 to 3, not 4",
    ),
    "register too much": (
        (replace(WR_GB, where=ACC0),),
        "item 0 (WR_GB)",
        "accumulator must be -1, because WR_GB does not address it, not 0",
    ),
    "row": ((replace(ACT_AB, row=64),), "item 0 (ACT_AB)", "row must be 0 to 63, not 64"),
    "row missing": ((replace(ACT_AB, row=-1),), "item 0 (ACT_AB)", "row must be 0 to 63, not -1"),
    "row too much": ((replace(PREab, row=3),), "item 0 (PREab)", "row must be -1, because PREab has none, not 3"),
    "row of the last pass": (
        (Repeat(62, (ACT_AB, PREab), row_step=1),),
        "item 0[61].0 (ACT_AB)",
        "row must be 0 to 63, not 64",
    ),
    "column": (opened(replace(MAC, column=50)), "item 1 (MAC_AB)", "column must be within 0 to 63, not 50 to 65"),
    "column too much": (
        (replace(WR_GB, column=1),),
        "item 0 (WR_GB)",
        "column must be -1, because WR_GB has none, not 1",
    ),
    "lane": (opened(replace(SWEEP, lane=16)), "item 1 (WR)", "lane must be 0 to 15, not 16"),
    "lane of a read": (
        opened(replace(RD, lane=0)),
        "item 1 (RD)",
        "lane must be -1, because RD does not write a column, not 0",
    ),
    "buffer": (opened(replace(MAC, buffer=1)), "item 1 (MAC_AB)", "buffer column must be within 0 to 15, not 1 to 16"),
    "buffer missing": (
        (replace(WR_GB, buffer=-1, count=1),),
        "item 0 (WR_GB)",
        "buffer column must be within 0 to 15, not -1",
    ),
    "buffer too much": (
        opened(replace(RD, buffer=0)),
        "item 1 (RD)",
        "buffer must be -1, because RD has none, not 0",
    ),
    "sram": ((replace(WR_GB, sram=800),), "item 0 (WR_GB)", "SRAM elements must be within 0 to 999, not 800 to 1055"),
    "sram of the last channel": (
        (replace(RD_MAC, sram=980),),
        "item 0 (RD_MAC)",
        "SRAM elements must be within 0 to 999, not 980 to 1011",
    ),
    "sram backwards": (
        (replace(WR_GB, sram_step=-16),),
        "item 0 (WR_GB)",
        "SRAM elements must be within 0 to 999, not -240 to 15",
    ),
    "sram of a command without data": (
        opened(replace(MAC, sram=0)),
        "item 1 (MAC_AB)",
        "sram must be -1, because MAC_AB moves no data, not 0",
    ),
    "sram of the last pass": (
        (Repeat(100, (RD_MAC,), sram_step=16),),
        "item 0[99].0 (RD_MAC)",
        "SRAM elements must be within 0 to 999, not 1584 to 1615",
    ),
    "sram of what is carried": (
        (replace(RD_MAC, sram=980, elements=5),),
        "item 0 (RD_MAC)",
        "SRAM elements must be within 0 to 999, not 980 to 1000",
    ),
    "elements": ((replace(WR_GB, elements=257),), "item 0 (WR_GB)", "elements must be 241 to 256, not 257"),
    "elements of an empty column": (
        opened(replace(RD, elements=48)),
        "item 1 (RD)",
        "elements must be 49 to 64, not 48",
    ),
    "elements of no results": ((replace(RD_MAC, elements=0),), "item 0 (RD_MAC)", "elements must be 1 to 16, not 0"),
    "elements of a command without data": (
        (replace(PREab, elements=1),),
        "item 0 (PREab)",
        "elements must be -1, because PREab moves no data, not 1",
    ),
    "elements of a masked write": (
        opened(replace(SWEEP, elements=16)),
        "item 1 (WR)",
        "elements must be -1, because WR writes one element of a column, not 16",
    ),
    "sweep": (opened(replace(SWEEP, count=17)), "item 1 (WR)", "count of a sweep must be at most 16"),
    "sweep of an all-bank command": (
        opened(replace(MAC, sweep=True)),
        "item 1 (MAC_AB)",
        "sweep must be false, because MAC_AB does not address a single bank",
    ),
    "closed": ((MAC,), "item 0 (MAC_AB)", "MAC_AB must find an open row, not bankgroup 0, bank 0 closed"),
    "partly closed": ((ACT, MAC), "item 1 (MAC_AB)", "MAC_AB must find an open row, not bankgroup 0, bank 0 closed"),
    "other row": (
        (replace(ACT_AB, row=4), MAC),
        "item 1 (MAC_AB)",
        "MAC_AB must find row 3 open, not bankgroup 0, bank 0 with row 4 open",
    ),
    "other row in the second pass": (
        (ACT_AB, Repeat(5, (MAC,), row_step=1)),
        "item 1[1].0 (MAC_AB)",
        "MAC_AB must find row 4 open, not bankgroup 0, bank 0 with row 3 open",
    ),
    "opened twice": (
        (ACT, ACT_AB),
        "item 1 (ACT_AB)",
        "ACT_AB must find closed banks, not bankgroup 1, bank 2 with row 3 open",
    ),
    "refresh of an open bank": (
        (ACT_AB, Run("REFab", NONE)),
        "item 1 (REFab)",
        "REFab must find closed banks, not bankgroup 0, bank 0 with row 3 open",
    ),
    "left open by the first pass": (
        (Repeat(5, (ACT_AB,), row_step=1),),
        "item 0[1].0 (ACT_AB)",
        "ACT_AB must find closed banks, not bankgroup 0, bank 0 with row 3 open",
    ),
    "partly closing": (
        (ACT_AB, PREpb),
        "item 1 (PREpb)",
        "PREpb must close all banks that were opened together, not 1 of 16",
    ),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_named_with_its_place(rule: str) -> None:
    items, place, message = BROKEN[rule]
    expected = f"block 'b', channel0, step 0 (h0.qkv), {place}: {message}"
    with pytest.raises(ProgramError, match=f"^{re.escape(expected)}"):
        check(*items)


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (
            Compute("gelo", 1, (0,), 0),
            r"item 0 \(gelo\): function must be one of add, .*, not 'gelo'; did you mean 'gelu'",
        ),
        (Compute("add", 0, (0,), 0), r"item 0 \(add\): length must be at least 1, not 0"),
        (Compute("add", 8, (0,)), r"item 0 \(add\): target must be within SRAM elements 0 to 999, not -1 to 6"),
        (
            Compute("add", 8, (0, 993), 0),
            r"item 0 \(add\): source 1 must be within SRAM elements 0 to 999, not 993 to 1000",
        ),
        (
            Compute("gelu", 8, (0,), 993),
            r"item 0 \(gelu\): target must be within SRAM elements 0 to 999, not 993 to 1000",
        ),
        (MAC, r"item 0: must be a Compute, not Run"),
    ],
)
def test_rules_of_the_asic(compute: Any, message: str) -> None:
    with pytest.raises(ProgramError, match=rf"^block 'b', asic, step 0 \(h0.qkv\), {message}"):
        check(asic=(compute,))


def test_a_factor_and_an_index_are_one_element() -> None:
    check(asic=(Compute("scale", 8, (0, 999), 0), Compute("argmax", 8, (0,), 999)))


def test_rows_are_relative_to_the_place_of_the_block() -> None:
    check(*opened(MAC), base=60)
    with pytest.raises(ProgramError, match=r"^block 'b', channel0, .* row must be 0 to 63, not 64"):
        check(*opened(MAC), base=61)


def test_a_block_that_was_seen_is_checked_at_its_new_place() -> None:
    same = block(*opened(MAC))
    with pytest.raises(ProgramError, match=r"^block 'b', channel0, .* row must be 0 to 63, not 64"):
        verify([Placed(same, base, 0) for base in (0, 30, 61)], SPEC, SRAM, BUFFER)


def test_open_rows_are_carried_over_blocks() -> None:
    first, second = block(ACT_AB), block(replace(MAC, row=1), PREab, name="c")
    verify([Placed(first, 0, 0), Placed(second, 2, 0)] * 2, SPEC, SRAM, BUFFER)
    with pytest.raises(
        ProgramError, match=r"^block 'c', channel0, step 0 \(h0.qkv\), item 0 \(MAC_AB\): MAC_AB must find row 2"
    ):
        verify(
            [Placed(first, 0, 0), Placed(second, 2, 0), Placed(first, 0, 0), Placed(second, 1, 0)], SPEC, SRAM, BUFFER
        )


def test_open_rows_are_carried_over_steps_of_one_channel_only() -> None:
    op = (Op("k", "n"),)
    steps = (Step(0, (ACT_AB,)), Step(0, (MAC, PREab)))
    verify([Placed(Block("b", op, (steps, ()), ()), 0, 0)], SPEC, SRAM, BUFFER)
    with pytest.raises(
        ProgramError, match=r"^block 'b', channel1, step 0 \(n\), item 0 \(MAC_AB\): MAC_AB must find an open"
    ):
        verify([Placed(Block("b", op, (steps[:1], steps[1:]), ()), 0, 0)], SPEC, SRAM, BUFFER)


def test_channels_and_operations_are_those_of_the_machine_and_the_block() -> None:
    with pytest.raises(ProgramError, match=r"^block 'b': channels must be 2, not 1"):
        verify([Placed(Block("b", (), ((),), ()), 0, 0)], SPEC, SRAM, BUFFER)
    with pytest.raises(ProgramError, match=r"^block 'b', channel0, step 0: op must be 0 to -1, not 0"):
        verify([Placed(Block("b", (), ((Step(0, ()),), ()), ()), 0, 0)], SPEC, SRAM, BUFFER)


@cache
def mapping(arch: str, workload: str) -> Mapping:
    machine, work = load_arch(arch).value, load_workload(workload).value
    return Mapping(work, build_graph(work), machine, machine.dram.resolve())


@pytest.mark.parametrize("arch", ["pim_gpt", "pim_gpt_v1"])
@pytest.mark.parametrize("workload", ["gpt2_decode", "gpt3_xl_decode"])
def test_shipped_programs_are_clean(arch: str, workload: str) -> None:
    mapped = mapping(arch, workload)
    sram = mapped.arch.asic.sram_bytes // format_bytes(mapped.arch.pim.format)
    lanes = mapped.shape.lanes
    for context in (1, mapped.passes // 2, mapped.passes):
        verify(mapped.forward_pass(context), mapped.spec, sram, mapped.shape.buffer // lanes, lanes=lanes)
