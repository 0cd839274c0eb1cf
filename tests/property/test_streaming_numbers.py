"""Attention of random shapes on a streaming machine: the program that is timed computes what float64 computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pimsim.mapper.fpga.schedules import Shape, naive_steps, steps
from pimsim.run import simulate

WORD_BITS = 32


@dataclass(frozen=True)
class Drawn:
    """Attention alone on a unit of some size."""

    schedule: str
    softmax: str
    tokens: int
    heads: int
    d_head: int
    lanes: int
    beat_bits: int
    seed: int

    def overrides(self) -> dict[str, Any]:
        return {
            "arch.fpga.attention.parallelism": self.lanes,
            "arch.fpga.attention.softmax": self.softmax,
            "arch.fpga.beat_bits": self.beat_bits,
            "arch.fpga.encoder.separate_tile": 16,
            "arch.fpga.resources": None,
            "workload.tokens": self.tokens,
            "workload.heads": self.heads,
            "workload.d_head": self.d_head,
            "workload.seed": self.seed,
        }

    def iterations(self) -> int:
        """Of each product: a beat of every step, by the schedules as lists, which no program uses."""
        beats = self.heads * self.d_head * WORD_BITS // self.beat_bits
        shape = Shape(self.tokens, beats, self.lanes)
        return beats * len(naive_steps(shape) if self.schedule == "naive" else steps(shape))


@st.composite
def attention(draw: st.DrawFn) -> Drawn:
    tokens = draw(st.integers(1, 14))
    beat_bits = draw(st.sampled_from([64, 128, 256, 512]))
    return Drawn(
        schedule=draw(st.sampled_from(["reordered", "naive"])),
        softmax=draw(st.sampled_from(["single_pass", "three_pass"])),
        tokens=tokens,
        heads=draw(st.integers(1, 9)),
        d_head=beat_bits // WORD_BITS * draw(st.integers(1, 4)),
        lanes=draw(st.integers(1, min(tokens, 6))),
        beat_bits=beat_bits,
        seed=draw(st.integers(0, 1000)),
    )


@settings(
    max_examples=40, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate]
)  # shrinking takes minutes
@given(attention())
def test_every_shape_computes_what_float64_computes(drawn: Drawn) -> None:
    result = simulate("edge_moe_zcu102", f"attention_{drawn.schedule}", overrides=drawn.overrides(), check_tokens=1)
    functional = result.functional
    assert functional is not None
    assert (functional["message"], functional["passed"], functional["compared"]) == (None, True, 3)
    assert all(row["used"] <= 1 for row in functional["by_op"].values())
    clock = result.time.cycles / result.time.seconds
    busy = round(result.units["attention.query_key"].busy_seconds * clock)
    assert busy == drawn.iterations()
