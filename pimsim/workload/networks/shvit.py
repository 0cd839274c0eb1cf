"""SHViT, whole: blocks of `pimsim.workload.attention.shvit` between stem, downsampling and classifier.

Source: Yun and Ro 2024, arXiv 2401.16456, and its code. The blocks of the first stage have no attention.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pimsim.errors import WorkloadError
from pimsim.model import NonNegativeInt, PositiveInt
from pimsim.workload.attention.base import Case, Counts, Floats, Tensors
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Primitive, Shape
from pimsim.workload.attention.shvit import ShvitStage
from pimsim.workload.attention.vision_blocks import (
    around,
    fed_forward_reference,
    feed_forward,
    feed_forward_inputs,
    mixed_reference,
    mixing,
    mixing_inputs,
)
from pimsim.workload.networks.network import Stage, VisionNetwork


class Shvit(VisionNetwork):
    """One head on some channels in every block of a stage, or mixing and feed-forward layers only."""

    description: ClassVar[str] = "SHViT, image in, logits out"
    source: ClassVar[str] = "Yun and Ro 2024, arXiv 2401.16456"

    attended: tuple[NonNegativeInt, ...] = Field(description="channels that attend in each stage; 0: no attention")
    d_qk: PositiveInt = Field(16, description="elements of a query and a key")

    def check(self, case: Case) -> None:
        """Raises: WorkloadError, as for every vision network, or if a stage has fewer channels than attend."""
        super().check(case)
        for stage in self.stages(case):
            if self.attended[stage.number] > stage.width:
                raise WorkloadError(
                    f"attended of {stage.name} must be at most its width {stage.width}, not {self.attended[stage.number]}"
                )

    def _stage(self, stage: Stage) -> ShvitStage | None:
        """None where blocks have no attention."""
        attended = self.attended[stage.number]
        if not attended:
            return None
        return ShvitStage(depth=self.depths[stage.number], attended=attended, d_qk=self.d_qk)

    def _plain(self, stage: Stage) -> list[str]:
        return [f"block{number}" for number in range(self.depths[stage.number])]

    def block_inputs(self, stage: Stage) -> dict[str, Shape]:
        """Of all blocks of the stage."""
        attending = self._stage(stage)
        if attending is not None:
            return {name: shape for name, shape in attending.inputs(stage.case()).items() if name != "x"}
        shapes: dict[str, Shape] = {}
        for at in self._plain(stage):
            shapes |= mixing_inputs(f"{at}.mix", stage.width) | feed_forward_inputs(f"{at}.ff", stage.width)
        return shapes

    def blocks(self, b: Expansion, stage: Stage, x: Primitive) -> Primitive:
        """Block by block."""
        attending = self._stage(stage)
        if attending is not None:
            return attending.blocks(b, stage.case(), x, f"{stage.name}.")
        for at in self._plain(stage):
            x = feed_forward(b, mixing(b, x, f"{stage.name}.{at}.mix"), f"{stage.name}.{at}.ff")
        return x

    def block_counts(self, stage: Stage) -> Counts:
        """Those of the stage by itself, but for the words that it moves then."""
        attending = self._stage(stage)
        if attending is None:
            return around(stage.side**2, stage.width, 1, 1) * self.depths[stage.number]
        found = attending.counts(stage.case())
        return Counts(scores=found.scores, exps=found.exps, macs=found.macs)

    def block_reference(self, stage: Stage, x: Floats, weights: Tensors) -> Floats:
        """The reference of the stage by itself; layer by layer where there is no attention."""
        attending = self._stage(stage)
        if attending is not None:
            return attending.reference(stage.case(), {**weights, "x": x})["output"]
        for at in self._plain(stage):
            x = fed_forward_reference(mixed_reference(x, weights, f"{at}.mix"), weights, f"{at}.ff")
        return x

    def block_normalised(self, stage: Stage) -> int:
        """Behind a mixing and a feed-forward layer, and queries, keys, values and the projection."""
        c, attended = stage.width, self.attended[stage.number]
        return self.depths[stage.number] * (c + 3 * c + (2 * self.d_qk + attended + c if attended else 0))


__all__ = ["Shvit"]
