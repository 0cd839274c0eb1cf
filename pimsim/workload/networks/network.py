"""A vision network: sizes, tensors, graph and closed-form counts. What its blocks are, a subclass says."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt, prod
from typing import ClassVar

from pydantic import Field

from pimsim.errors import WorkloadError
from pimsim.model import PositiveInt
from pimsim.workload.attention.base import Algorithm, Case, Counts, Decided, Floats, Tensors
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Primitive, Shape
from pimsim.workload.attention.vision_blocks import GAIN, around
from pimsim.workload.attention_only import Phase
from pimsim.workload.graph import WorkloadGraph
from pimsim.workload.networks import parts
from pimsim.workload.networks.reference import classified, downsampled, embedded

PLAIN_GAIN = 2**0.5
"""Of drawn weights that no residual goes around: a ReLU behind them then keeps the size of what they get (He et al. 2015)."""


@dataclass(frozen=True)
class Stage:
    """Number of a stage from 0, side of its image of tokens, and width of a token."""

    number: int
    side: int
    width: int

    @property
    def name(self) -> str:
        """Name as published, which counts from 1."""
        return f"stage{self.number + 1}"

    def case(self, heads: int = 1) -> Case:
        """Sizes for the algorithm of its blocks."""
        tokens = self.side**2
        return Case(queries=tokens, keys=tokens, d_head=self.width // heads, heads=heads, causal=False)


class VisionNetwork(Algorithm):
    """Stem, stages of blocks with downsampling between them, and a classifier.

    The case says the size of the image, as tokens of three elements. It is no attention algorithm and not registered as one,
    but has all that one has, so that the same machines run it.
    """

    phases: ClassVar[tuple[Phase, ...]] = ("prefill",)
    exact: ClassVar[bool] = False

    widths: tuple[PositiveInt, ...] = Field(description="elements of a token in each stage")
    depths: tuple[PositiveInt, ...] = Field(description="blocks of each stage")
    classes: PositiveInt = Field(1000, description="logits")
    tile_words: PositiveInt = Field(
        16_384, description="words that the patches of a strip of the stem, or a group of widened channels, may take"
    )

    # ------------------------------------------------------------------------------------------- what a subclass says

    @abstractmethod
    def block_inputs(self, stage: Stage) -> dict[str, Shape]:
        """Shapes of the weights of a stage's blocks."""

    @abstractmethod
    def blocks(self, b: Expansion, stage: Stage, x: Primitive) -> Primitive:
        """The blocks of a stage; their weights have its name in front."""

    @abstractmethod
    def block_counts(self, stage: Stage) -> Counts:
        """Closed forms of the blocks of a stage, words moved left out."""

    @abstractmethod
    def block_reference(self, stage: Stage, x: Floats, weights: Tensors) -> Floats:
        """The blocks of a stage in float64; ``weights`` without its name."""

    @abstractmethod
    def block_normalised(self, stage: Stage) -> int:
        """Channels of the batch normalisations in a stage's blocks."""

    # ---------------------------------------------------------------------------------------------------- all of them

    @classmethod
    def name(cls) -> str:
        """Name of the family."""
        return cls.__name__

    def check(self, case: Case) -> None:
        """Raises: WorkloadError, if the tokens are no square image whose sides the stem can halve four times."""
        super().check(case)
        side, over = isqrt(case.keys), parts.STRIDE ** len(parts.STEM)
        square = case.queries == case.keys == side**2 and not case.causal
        if not square or side % over or case.width != parts.CHANNELS:
            raise WorkloadError(
                f"a vision network must have an image of {parts.CHANNELS} colours, its sides equal and a multiple of {over} "
                f"pixels, not {case.queries} and {case.keys} pixels of {case.width}"
            )

    @staticmethod
    def case(image: int) -> Case:
        """Sizes of a square image."""
        return Case(queries=image**2, keys=image**2, d_head=parts.CHANNELS, heads=1, causal=False)

    def stages(self, case: Case) -> list[Stage]:
        """All stages for this image."""
        found = parts.sides(isqrt(case.keys), len(self.widths))
        return [Stage(n, side, width) for n, (side, width) in enumerate(zip(found, self.widths, strict=True))]

    def weight_shapes(self, case: Case) -> dict[str, Shape]:
        """Shapes of all weights as they are used."""
        shapes = parts.stem_inputs(self.widths[0])
        before: Stage | None = None
        for stage in self.stages(case):
            if before is not None:
                at, width = f"{stage.name}.down", before.width
                shapes |= parts.downsampling_inputs(at, width, stage.width, self._groups(before))
            shapes |= {f"{stage.name}.{name}": shape for name, shape in self.block_inputs(stage).items()}
            before = stage
        return shapes | parts.classifier_inputs(self.widths[-1], self.classes)

    def _groups(self, before: Stage) -> int:
        """Groups of channels behind a stage, where they are widened."""
        return parts.groups(before.side, before.width, self.tile_words)

    def parameters(self, case: Case) -> int:
        """Words of all weights, normalisations folded."""
        return sum(prod(shape) for shape in self.weight_shapes(case).values())

    def published_parameters(self, case: Case) -> int:
        """Parameters as publications count them: batch normalisations, not folded, have a gain and a shift for each channel.

        Folded, a channel has a bias instead. The normalisation before the classifier's linear layer folds into weights that are
        there anyway.
        """
        channels = sum(out for _, out, _ in parts.stem_layers(self.widths[0], 1))
        before = None
        for stage in self.stages(case):
            if before is not None:
                hidden = parts.WIDENING * before
                channels += 2 * hidden + stage.width
                channels += sum(c + 3 * c for c in (before, stage.width))  # a mixing and a feed-forward layer
            channels += self.block_normalised(stage)
            before = stage.width
        return self.parameters(case) + channels + 2 * self.widths[-1]

    def inputs(self, case: Case) -> dict[str, Shape]:
        """Tensors as they lie in memory: the image ``[lines, pixels of a line * 3]``, weights as matrices or rows."""
        side = isqrt(case.keys)
        found: dict[str, Shape] = {"image": (side, side * parts.CHANNELS)}
        return found | {name: parts.in_memory(shape) for name, shape in self.weight_shapes(case).items()}

    def sample(self, case: Case, seed: int = 0) -> dict[str, Floats]:
        """Standard normal image; weights over the root of the number of their inputs, times `PLAIN_GAIN` or `GAIN` in blocks.

        Blocks have residuals, which small gains keep in range from block to block.
        """
        found = super().sample(case, seed)
        for name, shape in self.weight_shapes(case).items():
            inputs = (
                1 if len(shape) == 1 or name.endswith("distance") else shape[0] if len(shape) == 2 else prod(shape[1:])
            )
            plain = name.startswith(("stem", "head")) or (".down." in name and not name.endswith(_RESIDUAL))
            gain = PLAIN_GAIN if plain and len(shape) > 1 else GAIN
            found[name] = found[name] * gain * inputs**-0.5
        return found

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """Layer by layer without primitives; ``output``: the logits."""
        shapes = self.weight_shapes(case)
        weights = {name: tensors[name].reshape(shape) for name, shape in shapes.items()}
        side = isqrt(case.keys)
        x = embedded(tensors["image"].reshape(side, side, parts.CHANNELS), weights)
        for stage in self.stages(case):
            if stage.number:
                x = downsampled(x, beginning(weights, f"{stage.name}.down."))
            x = self.block_reference(stage, x, beginning(weights, f"{stage.name}."))
        return {"output": classified(x, weights)}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """Sums of the layers; every weight is read once.

        ``9 n C_in C_out`` MACs for a convolution of n results, ``9 n C`` for a depthwise one. Of the stem's results all but
        those of its last layer are written and read, and strips that follow each other read a line twice.
        """
        side = isqrt(case.keys)
        total = self._stem_counts(side) + Counts(reads=self.parameters(case), writes=self.classes)
        total += Counts(macs=self.widths[-1] * self.classes)
        before: Stage | None = None
        for stage in self.stages(case):
            if before is not None:
                total += self._down_counts(before, stage)
            total += self.block_counts(stage)
            before = stage
        return total

    def _stem_counts(self, side: int) -> Counts:
        total = Counts()
        layers = parts.stem_layers(self.widths[0], side)
        for number, (c, out, width) in enumerate(layers):
            results = width // parts.STRIDE
            again = len(parts.strips(results, c, self.tile_words)) - 1
            written = 0 if number == len(layers) - 1 else results**2 * out
            reads = (width + again) * width * c
            total += Counts(macs=parts.KERNEL**2 * results**2 * c * out, reads=reads, writes=written)
        return total

    @staticmethod
    def _down_counts(before: Stage, after: Stage) -> Counts:
        n, m, c, out = before.side**2, after.side**2, before.width, after.width
        hidden = parts.WIDENING * c
        narrow = parts.squeezed(hidden)
        macs = n * c * hidden + parts.KERNEL**2 * m * hidden + 2 * hidden * narrow + m * hidden * out
        return around(n, c, 1, 1) + around(m, out, 1, 1) + Counts(macs=macs, exps=hidden)

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """From the image in memory to the logits in memory."""
        self.check(case)
        side = isqrt(case.keys)
        shapes = self.weight_shapes(case) | {"image": (side, side * parts.CHANNELS)}
        b = parts.Weights(shapes)
        x = parts.stem(b, b.given("image"), self.widths[0], side, self.tile_words)
        before: Stage | None = None
        for stage in self.stages(case):
            if before is not None:
                b.part = f"{stage.name}.down"
                x = parts.downsampling(b, x, f"{stage.name}.down", before.side, self._groups(before))
            b.part = stage.name
            x = self.blocks(b, stage, x)
            before = stage
        b.part = "head"
        b.store(parts.classifier(b, x), name="output")
        return b.graph()

    @staticmethod
    def part_of(operation: str) -> str:
        """Part of the network that an operation belongs to.

        >>> [VisionNetwork.part_of(name) for name in ("stem.product.4", "stage2.down.load.1", "output")]
        ['stem', 'stage2.down', 'head']
        """
        return "head" if operation == "output" else operation.rsplit(".", 2)[0]


_RESIDUAL = ("mix.filters", "ff.w1", "ff.w2")
"""Weights of layers in downsampling that a residual goes around."""


def beginning(tensors: Mapping[str, Floats], prefix: str) -> dict[str, Floats]:
    """Tensors whose names begin so, without it."""
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


__all__ = ["Stage", "VisionNetwork", "beginning"]
