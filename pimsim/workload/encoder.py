"""A transformer that encodes one image or one text: embedding, layers, some of them with a mixture of experts."""

from __future__ import annotations

import random
from typing import Literal, Self

from pydantic import Field, model_validator

from pimsim.errors import WorkloadError
from pimsim.model import Documented, Model, NonNegativeFloat, NonNegativeInt, PositiveInt
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


class TextConfig(Model):
    """A text; its embeddings are summed by the host, and the machine begins with their LayerNorm."""

    tokens: PositiveInt = Field(le=100_000, description="tokens of the text; a check cuts or pads it to so many")
    text: str = Field("", description="what a check encodes with the tokenizer of `weights`")


class WeightsConfig(Documented):
    """Trained weights for a check, in an installed Python package."""

    package: str = Field(pattern=r"^[A-Za-z_]\w*$", description="name to import; it is looked for and not run")
    distribution: str = Field(description="name to install")
    folder: str = Field(description="folder in the package that holds model.safetensors and tokenizer.json")


class MoeConfig(Documented):
    """Mixture of experts in place of the feed-forward part of every second layer, the second one first."""

    experts: PositiveInt = Field(le=1024)
    d_expert: PositiveInt = Field(le=65_536, description="hidden width of an expert")
    top_k: PositiveInt = Field(description="experts of each token")
    routing: list[NonNegativeInt] | Literal["gates"] | None = Field(
        None,
        description="tokens of each expert, the same in every layer; gates: what the gates choose when seeded weights are run "
        "in the machine's numbers; absent: drawn from `seed`",
    )
    seed: NonNegativeInt = Field(0, description="for routing that is drawn")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.top_k > self.experts:
            raise ValueError(f"top_k must be at most experts, which are {self.experts}, not {self.top_k}")
        if isinstance(self.routing, list) and len(self.routing) != self.experts:
            raise ValueError(f"routing must have one entry for each of {self.experts} experts, not {len(self.routing)}")
        return self


class EncoderConfig(AnyWorkload):
    """One image or text through its embedding, layers and an optional classifier."""

    kind: Literal["encoder"] = "encoder"
    image: ImageConfig | None = Field(None, description="what is encoded; exactly one of image and text is given")
    text: TextConfig | None = None
    layers: PositiveInt = Field(le=1024)
    d_model: PositiveInt = Field(le=65_536)
    heads: PositiveInt = Field(le=1024)
    d_ff: PositiveInt = Field(le=262_144, description="hidden width of a dense feed-forward part")
    moe: MoeConfig | None = Field(None, description="absent: every layer has a dense feed-forward part")
    norm: Literal["pre", "post"] = Field(
        "pre",
        description="pre: LayerNorm before attention and feed-forward part; post: behind each residual sum, as in BERT",
    )
    norm_eps: NonNegativeFloat = Field(1e-6, description="added to the variance")
    seed: NonNegativeInt = Field(0, description="for weights and input that a check draws")
    weights: WeightsConfig | None = Field(None, description="absent: a check draws weights from `seed`")
    final_norm: bool = Field(False, description="a LayerNorm behind the last layer")
    classes: PositiveInt | None = Field(None, le=1_000_000, description="outputs of a classifier on the first token")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.d_model % self.heads:
            raise ValueError(f"d_model must be a multiple of heads, which are {self.heads}, not {self.d_model}")
        if (self.image is None) == (self.text is None):
            raise ValueError(f"exactly one of image and text must be given, not {'both' if self.image else 'neither'}")
        if self.text is not None and self.norm != "post":
            raise ValueError("norm must be post where text is encoded, not pre")
        if self.weights is not None and (self.text is None or self.moe is not None or self.classes is not None):
            raise ValueError("weights of a package must be of a text encoder without experts and classes")
        if self.norm == "post" and self.final_norm:
            raise ValueError("final_norm must be false where norm is post, as the last layer ends with a LayerNorm")
        if self.moe is not None and isinstance(self.moe.routing, list):
            tokens, wanted = self.moe.routing, self.tokens * self.moe.top_k
            if sum(tokens) != wanted:
                raise ValueError(f"moe.routing must sum to tokens x top_k, which is {wanted}, not {sum(tokens)}")
            if max(tokens) > self.tokens:
                raise ValueError(f"moe.routing must be at most the tokens, {self.tokens}, not {max(tokens)}")
        return self

    @property
    def tokens(self) -> int:
        """Rows of every feature."""
        if self.text is not None:
            return self.text.tokens
        assert self.image is not None
        return self.image.tokens

    def is_moe(self, layer: int) -> bool:
        """Whether a layer, counted from 0, has a mixture of experts."""
        return self.moe is not None and layer % 2 == 1

    def queues(self, layer: int) -> list[int]:
        """Tokens of each expert in a layer; drawn routing gives every token ``top_k`` different experts, all equally likely."""
        assert self.moe is not None
        counts = [0] * self.moe.experts
        for experts in self.routes(layer):
            for expert in experts:
                counts[expert] += 1
        return counts

    def routes(self, layer: int) -> tuple[tuple[int, ...], ...]:
        """Experts of each token in a layer, drawn or such that the given routing holds.

        A given routing says how many tokens an expert has, not which: token after token takes the experts that still miss most.

        Raises:
            WorkloadError: routing is left to the gates, so no one knows it before they have run.
        """
        assert self.moe is not None
        if self.moe.routing == "gates":
            raise WorkloadError("moe.routing must be a list or absent where gates do not run, not 'gates'")
        if self.moe.routing is None:
            draw = random.Random(self.moe.seed * 1_000_003 + layer)  # noqa: S311  (routing, not secrets)
            return tuple(tuple(draw.sample(range(self.moe.experts), self.moe.top_k)) for _ in range(self.tokens))
        left, found = list(self.moe.routing), []
        for _ in range(self.tokens):
            chosen = sorted(range(self.moe.experts), key=lambda expert: -left[expert])[: self.moe.top_k]
            for expert in chosen:
                left[expert] -= 1
            found.append(tuple(chosen))
        return tuple(found)


__all__ = ["EncoderConfig", "ImageConfig", "MoeConfig", "TextConfig", "WeightsConfig"]
