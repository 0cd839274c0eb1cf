"""Whoever is stuck is named, with what it waits for and since when; both engines say the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pimsim.config import load_arch, load_dram
from pimsim.errors import Deadlock
from pimsim.machine.controller.fast import FastController
from pimsim.machine.controller.policy import make_policy
from pimsim.machine.fpga.fast import run_region as fast
from pimsim.machine.fpga.ports import PortTiming
from pimsim.machine.fpga.reference import run_region as reference
from pimsim.machine.reference import ReferenceEngine
from pimsim.program import order
from pimsim.program.dataflow import Action, Burst, Fifo, Loop, Read, Region, Run, Stage, Write, nest
from pimsim.program.isa import Block, Compute, Op, Placed, Step


def fork(
    blocks: int, size: int, depth: int, interval: int = 1, latency: int = 1, requests: int = 4
) -> tuple[Region, dict[str, PortTiming]]:
    """A fork whose one branch gathers ``size`` tokens before it lets one go, and a join that needs both branches.

    The direct branch must hold ``size`` tokens, or everything stops.
    """
    every = (Run(0, blocks * size),)
    gather = nest(Loop(blocks, (Run(0, size - 1), Run(1, 1))))
    join = nest(Loop(blocks, (Run(0, 1), Run(1, size - 1))))
    stages = (
        Stage("fork", (Action((("in", 1),), (("long", 1), ("short", 1))),), every, interval, 3),
        Stage("gather", (Action((("long", 1),)), Action((("long", 1),), (("sum", 1),))), gather, 1, 5),
        Stage(
            "join",
            (Action((("sum", 1), ("short", 1)), (("out", 1),)), Action((("short", 1),), (("out", 1),))),
            join,
            1,
            2,
        ),
    )
    fifos = (Fifo("in", 0), Fifo("long", 2, latency), Fifo("short", depth), Fifo("sum", 2), Fifo("out", 2))
    reads, writes = (
        (Read("load", "in", "p", (Burst(blocks * size),)),),
        (Write("store", "out", "p", (Burst(blocks * size),)),),
    )
    return Region(stages, fifos, reads, writes), {"p": PortTiming(1, 1, 20, 4, requests)}


def complaint(run: Callable[..., Any], region: Region, ports: dict[str, PortTiming]) -> str:
    with pytest.raises(Deadlock) as caught:
        run(region, ports)
    return str(caught.value)


@pytest.mark.parametrize("run", [fast, reference])
def test_a_stuck_region_names_every_unit_what_it_waits_for_and_since_when(run: Callable[..., Any]) -> None:
    """Five tokens are on the direct branch when it is full; the sixth, in the pipeline, keeps the others out."""
    assert complaint(run, *fork(blocks=2, size=16, depth=5)) == (
        "fork waits for its own results to leave before it starts iteration 8, since cycle 28; "
        "fork (results) waits for 1 free places of short, which has 0, since cycle 27; "
        "gather waits for 1 tokens of long, which holds 0, to start iteration 5, since cycle 28; "
        "join waits for 1 tokens of sum, which holds 0, to start iteration 0, since cycle 0; "
        "load waits for the data of one of its 4 requests to be taken, since cycle 29; "
        "store waits for a beat of out, since cycle 0"
    )


@settings(deadline=None, max_examples=80)
@given(
    st.integers(1, 3), st.integers(2, 300), st.integers(1, 40), st.integers(1, 4), st.integers(1, 3), st.integers(1, 5)
)
def test_engines_give_the_same_report(
    blocks: int, size: int, depth: int, interval: int, latency: int, requests: int
) -> None:
    case = fork(blocks, size, depth, interval, latency, requests)
    try:
        times = reference(*case)
    except Deadlock:
        assert complaint(fast, *case) == complaint(reference, *case)
    else:
        assert fast(*case) == times


def test_a_fork_that_is_deep_enough_is_not_stuck() -> None:
    assert fast(*fork(3, 64, 64)) == reference(*fork(3, 64, 64))


def test_a_stuck_program_names_units_tokens_blocks_and_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks refuse circles when they are made, so one is smuggled in."""
    spec = load_arch("pim_gpt", [("dram.channels", "1")]).value
    monkeypatch.setattr(order, "schedule", lambda block: ((), ()))
    first = Step(0, (Compute("softmax", 64, (0,), 0),), (), ("go",))
    block = Block(
        "scores",
        (Op("linear", "h0.qkv"),),
        ((Step(0, (), ("b",), ("a",)),),),
        (first, Step(0, (Compute("softmax", 64, (0,), 0),), ("a",), ("b",))),
    )
    with pytest.raises(Deadlock) as caught:
        ReferenceEngine(spec, spec.dram.resolve()).run([[Placed(block, 0, 0)]])
    assert re.fullmatch(
        r"asic waits for a in scores since tick [1-9]\d*; channel0 waits for b in scores since tick 0",
        str(caught.value),
    )


def test_a_controller_that_cannot_go_on_says_what_waits_and_since_when(monkeypatch: pytest.MonkeyPatch) -> None:
    from pimsim.arch.controller import ControllerConfig, ControllerRefresh
    from pimsim.traffic.stream import Request

    spec = load_dram("ddr4_3200aa").value.resolve()
    policy = make_policy(spec, ControllerConfig(refresh=ControllerRefresh(policy="none")))
    monkeypatch.setattr(FastController, "_serve_next", lambda self, tick: None)
    source = iter([Request(6, 64, write=False), Request(9, 64, write=True), Request(9, 0, write=True)])
    with pytest.raises(
        Deadlock,
        match=r"^1 reads, the oldest since tick 7, and 0 writes wait, but nothing can issue after tick 10$",
    ):
        FastController(policy, source).run()
