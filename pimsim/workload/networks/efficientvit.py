"""EfficientViT-M, whole: blocks of `pimsim.workload.attention.efficientvit` between stem, downsampling and classifier.

Source: Liu et al. 2023, arXiv 2305.07027, and the implementation in timm.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pimsim.model import PositiveInt
from pimsim.workload.attention.base import Case, Counts, Floats, Tensors
from pimsim.workload.attention.efficientvit import EfficientVitStage
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Primitive, Shape
from pimsim.workload.networks.network import Stage, VisionNetwork


class EfficientVit(VisionNetwork):
    """Cascaded group attention in windows, between two feed-forward layers, in every block."""

    description: ClassVar[str] = "EfficientViT-M, image in, logits out"
    source: ClassVar[str] = "Liu et al. 2023, arXiv 2305.07027"

    heads: tuple[PositiveInt, ...] = Field(description="attention heads in each stage")
    kernels: tuple[PositiveInt, ...] = Field(description="side of each head's depthwise kernel, odd; last repeats")
    window: PositiveInt = Field(7, description="side of a window in tokens, or that of the image if it is smaller")
    d_qk: PositiveInt = Field(16, description="elements of a query and a key")

    def check(self, case: Case) -> None:
        """Raises: WorkloadError, as for every vision network, or if a kernel is even."""
        super().check(case)
        for stage in self.stages(case):
            self._stage(stage).check(self._case(stage))

    def _stage(self, stage: Stage) -> EfficientVitStage:
        return EfficientVitStage(
            depth=self.depths[stage.number], window=self.window, d_qk=self.d_qk, kernels=self.kernels
        )

    def _case(self, stage: Stage) -> Case:
        return stage.case(self.heads[stage.number])

    def block_inputs(self, stage: Stage) -> dict[str, Shape]:
        """Of all blocks of the stage."""
        shapes = self._stage(stage).inputs(self._case(stage))
        return {name: shape for name, shape in shapes.items() if name != "x"}

    def blocks(self, b: Expansion, stage: Stage, x: Primitive) -> Primitive:
        """Block by block."""
        return self._stage(stage).blocks(b, self._case(stage), x, f"{stage.name}.")

    def block_counts(self, stage: Stage) -> Counts:
        """Those of the stage by itself, but for the words that it moves then."""
        found = self._stage(stage).counts(self._case(stage))
        return Counts(scores=found.scores, exps=found.exps, macs=found.macs)

    def block_reference(self, stage: Stage, x: Floats, weights: Tensors) -> Floats:
        """The reference of the stage by itself."""
        return self._stage(stage).reference(self._case(stage), {**weights, "x": x})["output"]

    def block_normalised(self, stage: Stage) -> int:
        """Behind two mixings, two feed-forward layers, the projection, and of each head queries, keys, values and kernel."""
        c, heads = stage.width, self.heads[stage.number]
        return self.depths[stage.number] * (2 * (c + 3 * c) + heads * (3 * self.d_qk + c // heads) + c)


__all__ = ["EfficientVit"]
