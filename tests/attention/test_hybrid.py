"""Attention by itself on a hybrid machine: the PIM side carries it out, the streaming unit waits."""

from __future__ import annotations

from typing import Any

import pytest

from pimsim.errors import UnsupportedOp
from pimsim.run import simulate

SMALL = ("workload.keys=40", "workload.heads=2", "workload.d_head=16")


@pytest.mark.parametrize("algorithm", ["vanilla", "lean", "topk"])
def test_it_takes_what_it_takes_on_the_pure_machine(algorithm: str) -> None:
    """Commands, numbers and counts are the same, whether or not the program depends on data; the idle unit draws power."""
    options = [*SMALL, f"workload.algorithm={algorithm}"]
    traces: list[list[Any]] = [[], []]
    pure, both = (
        simulate(machine, "attention_decode", overrides=options, check_tokens=1, trace=trace)
        for machine, trace in zip(("pim_gpt", "hybrid_pim_fpga"), traces, strict=True)
    )
    same = traces[0] == traces[1]
    assert same
    assert (both.time, both.counts, both.functional) == (pure.time, pure.counts, pure.functional)
    assert both.functional is not None
    assert both.functional["passed"]
    assert both.counts is not None
    assert both.counts["equal"]
    assert bool(both.counts["decisions"]) == (algorithm == "topk")  # where they come from
    assert both.placement == {"attention": "pim"}
    assert both.energy.joules - pure.energy.joules == pytest.approx(25 * both.time.seconds)


@pytest.mark.parametrize("options", [("stream_attention",), ("fixed", "arch.fixed={attention: fpga}")])
def test_it_is_refused_on_the_streaming_unit(options: tuple[str, ...]) -> None:
    placement, *more = options
    overrides = [*SMALL, "workload.algorithm=topk", f"arch.placement={placement}", *more]
    with pytest.raises(
        UnsupportedOp, match=r"^topk by itself must be on the PIM side of hybrid_pim_fpga \(placement pim_"
    ):
        simulate("hybrid_pim_fpga", "attention_decode", overrides=overrides)
