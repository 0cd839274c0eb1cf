"""A vision transformer that encodes one image: patches, transformer layers, some of them with a mixture of experts."""

from __future__ import annotations

import random
from typing import Literal, Self

from pydantic import Field, model_validator

from pimsim.model import Documented, Model, NonNegativeInt, PositiveInt
from pimsim.workload.config import AnyWorkload


class ImageConfig(Model):
    """The image, cut into square patches."""

    height: PositiveInt = Field(le=16_384)
    width: PositiveInt = Field(le=16_384)
    channels: PositiveInt = Field(le=64)
    patch: PositiveInt = Field(description="edge of a patch in pixels")
    class_token: bool = Field(True, description="a learned token before the patches")

    @model_validator(mode="after")
    def _whole_patches(self) -> Self:
        for name in ("height", "width"):
            if getattr(self, name) % self.patch:
                raise ValueError(
                    f"{name} must be a multiple of patch, which is {self.patch}, not {getattr(self, name)}"
                )
        return self

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return (self.height // self.patch) * (self.width // self.patch) + self.class_token


class MoeConfig(Documented):
    """Mixture of experts in place of the feed-forward part of every second layer, the second one first."""

    experts: PositiveInt = Field(le=1024)
    d_expert: PositiveInt = Field(le=65_536, description="hidden width of an expert")
    top_k: PositiveInt = Field(description="experts of each token")
    routing: list[NonNegativeInt] | None = Field(
        None, description="tokens of each expert, the same in every layer; absent: drawn from `seed`"
    )
    seed: NonNegativeInt = Field(0, description="for routing that is drawn")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.top_k > self.experts:
            raise ValueError(f"top_k must be at most experts, which are {self.experts}, not {self.top_k}")
        if self.routing is not None and len(self.routing) != self.experts:
            raise ValueError(f"routing must have one entry for each of {self.experts} experts, not {len(self.routing)}")
        return self


class EncoderConfig(AnyWorkload):
    """One image through patch embedding, layers and an optional classifier."""

    kind: Literal["encoder"] = "encoder"
    image: ImageConfig
    layers: PositiveInt = Field(le=1024)
    d_model: PositiveInt = Field(le=65_536)
    heads: PositiveInt = Field(le=1024)
    d_ff: PositiveInt = Field(le=262_144, description="hidden width of a dense feed-forward part")
    moe: MoeConfig | None = Field(None, description="absent: every layer has a dense feed-forward part")
    final_norm: bool = Field(False, description="a LayerNorm behind the last layer")
    classes: PositiveInt | None = Field(None, le=1_000_000, description="outputs of a classifier on the first token")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.d_model % self.heads:
            raise ValueError(f"d_model must be a multiple of heads, which are {self.heads}, not {self.d_model}")
        if self.moe is not None and self.moe.routing is not None:
            tokens, wanted = self.moe.routing, self.image.tokens * self.moe.top_k
            if sum(tokens) != wanted:
                raise ValueError(f"moe.routing must sum to tokens x top_k, which is {wanted}, not {sum(tokens)}")
            if max(tokens) > self.image.tokens:
                raise ValueError(f"moe.routing must be at most the tokens, {self.image.tokens}, not {max(tokens)}")
        return self

    def is_moe(self, layer: int) -> bool:
        """Whether a layer, counted from 0, has a mixture of experts."""
        return self.moe is not None and layer % 2 == 1

    def queues(self, layer: int) -> list[int]:
        """Tokens of each expert in a layer; drawn routing gives every token ``top_k`` different experts, all equally likely."""
        assert self.moe is not None
        if self.moe.routing is not None:
            return list(self.moe.routing)
        draw = random.Random(self.moe.seed * 1_000_003 + layer)  # noqa: S311  (routing, not secrets)
        counts = [0] * self.moe.experts
        for _ in range(self.image.tokens):
            for expert in draw.sample(range(self.moe.experts), self.moe.top_k):
                counts[expert] += 1
        return counts


__all__ = ["EncoderConfig", "ImageConfig", "MoeConfig"]
