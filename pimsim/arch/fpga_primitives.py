"""Units of a streaming machine for the primitives of attention algorithms, beside its two fixed attention products."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pimsim.model import Documented, PositiveInt

PrimitiveUnit = Literal[
    "multiply_accumulate", "exponential", "logarithm", "divide", "compare", "elementwise", "reduce", "move"
]
"""What the passes of primitives need; `pimsim.mapper.fpga.passes` says which primitive needs which."""


class FpgaLanes(Documented):
    """A pipelined unit that takes as many elements per cycle as it has lanes."""

    lanes: PositiveInt = Field(le=65_536, description="elements per cycle")
    depth: PositiveInt = Field(le=65_536, description="cycles from an element to its result")


class FpgaPrimitives(Documented):
    """Units by name, the buffer that they share, and the ports behind which tensors lie."""

    arithmetic: Literal["fixed", "float32"] | None = Field(
        None, description="fixed: the formats of fpga.formats; absent: these where the machine has them, else float32"
    )

    buffer_words: PositiveInt = Field(description="words of the buffer on the chip that operands and results share")
    fixed_schedules: bool = Field(
        True,
        description="vanilla and reordered run on the units of fpga.attention in their exact schedules, where the case fits",
    )
    ports: list[str] = Field(
        min_length=1, description="tensors in memory are spread over these ports, one after the other"
    )
    units: dict[PrimitiveUnit, FpgaLanes] = Field(
        description="a primitive that needs a unit which is not here is refused"
    )


__all__ = ["FpgaLanes", "FpgaPrimitives", "PrimitiveUnit"]
