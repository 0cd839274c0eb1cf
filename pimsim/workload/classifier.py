"""A vision network that classifies one image."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from pimsim.model import Model, NonNegativeInt, PositiveInt
from pimsim.workload.config import AnyWorkload

if TYPE_CHECKING:
    from pimsim.workload.attention.base import Case
    from pimsim.workload.networks.network import VisionNetwork
    from pimsim.workload.vit_memory import MemoryPlan

VisionFamily = Literal["efficientvit", "shvit"]


class ClassifierSizes(Model):
    """Sizes of a vision network, a number for each stage where it says so."""

    widths: list[PositiveInt] = Field(
        min_length=1, max_length=8, description="elements of a token in each stage; the first a multiple of 8"
    )
    depths: list[PositiveInt] = Field(description="blocks of each stage")
    heads: list[PositiveInt] | None = Field(None, description="efficientvit: attention heads in each stage")
    kernels: list[PositiveInt] | None = Field(
        None, min_length=1, description="efficientvit: side of each head's depthwise kernel, odd; the last one repeats"
    )
    window: PositiveInt = Field(
        7, description="efficientvit: side of a window in tokens, or that of the image if it is smaller"
    )
    attended: list[NonNegativeInt] | None = Field(
        None, description="shvit: channels that attend in each stage; 0: its blocks have no attention"
    )
    d_qk: PositiveInt = Field(16, le=65_536, description="elements of a query and a key")
    classes: PositiveInt = Field(1000, le=1_000_000, description="logits")

    @model_validator(mode="after")
    def _fits(self) -> ClassifierSizes:
        stages = len(self.widths)
        for name in ("depths", "heads", "attended"):
            given = getattr(self, name)
            if given is not None and len(given) != stages:
                raise ValueError(f"{name} must have a number for each of the {stages} widths, not {len(given)}")
        if self.widths[0] % 8:
            raise ValueError(
                f"widths must begin with a multiple of 8, as the stem begins with an eighth, not {self.widths[0]}"
            )
        if max(self.widths) > 65_536 or max(self.depths) > 1000:
            raise ValueError("widths must be at most 65,536 and depths at most 1,000")
        for width, heads, attended in zip_longest(self.widths, self.heads or (), self.attended or ()):
            if heads is not None and width % heads:
                raise ValueError(f"widths must be multiples of heads, not {width} of {heads}")
            if attended is not None and attended > width:
                raise ValueError(f"attended must be at most widths, not {attended} of {width}")
        if any(kernel % 2 == 0 for kernel in self.kernels or ()):
            raise ValueError(f"kernels must be odd, not {self.kernels}")
        return self


class ClassifierConfig(AnyWorkload):
    """One image through a vision network, to its logits."""

    kind: Literal["classifier"] = "classifier"
    family: VisionFamily = Field(description="which blocks it has: efficientvit (EfficientViT-M) or shvit (SHViT)")
    image: PositiveInt = Field(224, le=1024, description="side of the image in pixels, a multiple of 16")
    model: ClassifierSizes
    tile_words: PositiveInt = Field(
        16_384,
        description="words that the patches of a strip of the stem, or a group of widened channels in downsampling, may take; a "
        "strip has at least one line and a group one channel",
    )
    seed: NonNegativeInt = Field(0, description="of the image and the weights, which are drawn")
    patchwise: bool = Field(
        True, description="of a plan of buffers: lines of the image come a strip at a time, not all of it at once"
    )
    element_bytes: PositiveInt = Field(1, le=16, description="of a plan of buffers: bytes of an activation")

    @model_validator(mode="after")
    def _is_one_of_the_family(self) -> ClassifierConfig:
        needed = {"efficientvit": ("heads", "kernels"), "shvit": ("attended",)}
        for family, names in needed.items():
            for name in names:
                given = getattr(self.model, name) is not None
                if given != (family == self.family):
                    raise ValueError(
                        f"model must {'have' if not given else 'leave out'} {name} for family {self.family}"
                    )
        if self.image % 16:
            raise ValueError(f"image must be a multiple of 16, as the stem halves it four times, not {self.image}")
        return self

    def case(self) -> Case:
        """The size of the image, as tokens of three elements."""
        from pimsim.workload.networks.network import VisionNetwork

        return VisionNetwork.case(self.image)

    def chunk_case(self) -> Case:
        """The same; there is one image."""
        return self.case()

    def method(self) -> VisionNetwork:
        """The network."""
        sizes = self.model
        widths, depths = tuple(sizes.widths), tuple(sizes.depths)
        if self.family == "shvit":
            from pimsim.workload.networks.shvit import Shvit

            return Shvit(
                widths=widths,
                depths=depths,
                attended=tuple(sizes.attended or ()),
                d_qk=sizes.d_qk,
                classes=sizes.classes,
                tile_words=self.tile_words,
            )
        from pimsim.workload.networks.efficientvit import EfficientVit

        return EfficientVit(
            widths=widths,
            depths=depths,
            heads=tuple(sizes.heads or ()),
            kernels=tuple(sizes.kernels or ()),
            window=sizes.window,
            d_qk=sizes.d_qk,
            classes=sizes.classes,
            tile_words=self.tile_words,
        )

    def plan(self) -> MemoryPlan:
        """Lives and places of all buffers on a machine with one memory for activations."""
        from pimsim.workload.networks.memory import buffer_steps
        from pimsim.workload.vit_memory import MemoryPlan

        return MemoryPlan.of(buffer_steps(self.method().expand(self.case()), self.patchwise, self.element_bytes))

    @property
    def title(self) -> str:
        """What messages call it."""
        return self.name

    @property
    def algorithm(self) -> str:
        """What decisions would be recorded of; there are none."""
        return self.family

    @property
    def chunk(self) -> None:
        """All pixels are taken up together."""

    @property
    def decisions(self) -> None:
        """Data decide nothing."""

    @property
    def shares(self) -> None:
        """Tensors lie in all channels of a PIM machine."""


__all__ = ["ClassifierConfig", "ClassifierSizes", "VisionFamily"]
