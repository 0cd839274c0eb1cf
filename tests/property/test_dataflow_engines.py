"""Random regions: the fast engine and the reference engine agree on cycles and on every stall."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pimsim.machine.fpga.fast import run_region as fast
from pimsim.machine.fpga.ports import PortTiming
from pimsim.machine.fpga.reference import run_region as reference
from pimsim.program.dataflow import Action, Burst, Fifo, Loop, Read, Region, Run, Stage, Write, nest, verify_region

PORTS = st.builds(
    PortTiming,
    numerator=st.integers(1, 5),
    denominator=st.integers(1, 2),
    latency=st.integers(1, 40),
    max_burst=st.integers(1, 16),
    outstanding=st.integers(1, 5),
)


@st.composite
def regions(draw: st.DrawFn) -> Region:
    """A pipeline: one or two read streams, stages that keep the rate or collect or spread tokens, one write stream."""
    outer, inner, tail = draw(st.integers(1, 6)), draw(st.integers(1, 20)), draw(st.integers(0, 3))
    blocks = outer * inner + tail
    fold = draw(st.integers(1, 4))
    two = draw(st.booleans())

    def number(low: int, high: int) -> int:
        return draw(st.integers(low, high))

    first = "a"
    fifos = [Fifo("a", 0), Fifo("x", number(1, 4), number(1, 2)), Fifo("y", number(fold, 6)), Fifo("z", number(1, 3))]
    reads = [Read("read_a", "a", "p", (Burst(inner, outer), Burst(tail, 1) if tail else Burst(1, 0)))]
    both = ((first, 1),)
    if two:
        fifos.append(Fifo("b", 0))
        reads.append(Read("read_b", "b", draw(st.sampled_from(["p", "q"])), (Burst(number(1, 3), blocks),)))
        reads[1] = Read("read_b", "b", reads[1].port, (Burst(blocks, 1),))
        both = (("a", 1), ("b", 1))
    body = nest(Loop(outer, (Run(0, inner),)), Run(0, tail))
    stages = (
        Stage("in", (Action(both, (("x", 1),)),), body, number(1, 3), number(1, 9)),
        Stage("fan", (Action((("x", 1),), (("y", fold),)),), (Run(0, blocks),), number(1, 4), number(1, 20)),
        Stage(
            "fold",
            (Action((("y", 1),)), Action((("y", 1),), (("z", 1),))),
            nest(Loop(blocks, (Run(0, fold - 1), Run(1, 1)))),
            number(1, 3),
            number(1, 12),
        ),
    )
    writes = (Write("out", "z", "p", (Burst(1, blocks),) if draw(st.booleans()) else (Burst(blocks, 1),)),)
    region = Region(stages, tuple(fifos), tuple(reads), writes)
    verify_region(region)
    return region


@settings(deadline=None, max_examples=150)
@given(regions(), PORTS, PORTS)
def test_engines_agree(region: Region, one: PortTiming, other: PortTiming) -> None:
    ports = {"p": one, "q": other}
    assert fast(region, ports) == reference(region, ports)


def test_a_long_stream_takes_a_beat_per_cycle_and_its_latencies() -> None:
    region = Region(
        (Stage("copy", (Action((("a", 1),), (("b", 1),)),), (Run(0, 100_000),), 1, 3),),
        (Fifo("a", 0), Fifo("b", 2)),
        (Read("r", "a", "p", (Burst(100_000),)),),
        (Write("w", "b", "p", (Burst(100_000),)),),
    )
    timing = PortTiming(1, 1, 10, 16, 16)
    first, pipeline, fifo = 10, 3, 1
    collected = first + pipeline - 1 + fifo + 100_000 - 1
    assert fast(region, {"p": timing}).cycles == collected + 1 + 16 + 10
