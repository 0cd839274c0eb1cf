"""What a ``workloads/*.yaml`` file may say."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator

from pimsim.errors import did_you_mean
from pimsim.model import Documented, Model, NonNegativeFloat, PositiveFloat, PositiveInt

Family = Literal["gpt2", "gpt_neo", "gptj", "opt", "llama", "mistral", "qwen2", "gemma"]
Norm = Literal["layernorm", "rmsnorm"]
ActivationName = Literal["gelu_tanh", "gelu_erf", "relu", "silu"]
Position = Literal["learned", "rope", "none"]
RopeConvention = Literal["half", "interleaved"]
BiasedLinear = Literal["attention", "projection", "feed_forward", "lm_head"]

FAMILIES: tuple[str, ...] = get_args(Family)
"""Labels of model families."""


_RMS_DECODER: dict[str, str | bool] = {"norm": "rmsnorm", "gated": True, "position": "rope"}
_MARKS: dict[str, dict[str, str | bool]] = {
    "gptj": {"position": "rope", "parallel_residual": True},
    "llama": _RMS_DECODER,
    "mistral": _RMS_DECODER,
    "qwen2": _RMS_DECODER,
    "gemma": _RMS_DECODER,
}
"""What every model of a family has; sizes alone would silently give the structure of GPT-2."""


def _gpt2_biases() -> list[BiasedLinear]:
    return ["attention", "projection", "feed_forward"]


class DecoderConfig(Model):
    """Shape and structure of a decoder-only transformer; what is left out is as in GPT-2."""

    layers: PositiveInt
    d_model: PositiveInt
    heads: PositiveInt
    d_ff: PositiveInt
    vocabulary: PositiveInt
    context: PositiveInt = Field(description="longest context that the published model was trained for")
    kv_heads: PositiveInt | None = Field(
        None, description="heads of keys and values, each shared by heads / kv_heads query heads; default: heads"
    )
    d_head: PositiveInt | None = Field(None, description="elements of a head; default: d_model / heads")
    norm: Norm = Field("layernorm", description="layernorm (gain and shift) or rmsnorm (gain only)")
    norm_eps: PositiveFloat = Field(1e-5, description="added to the variance or the mean square")
    norm_offset: NonNegativeFloat = Field(0.0, description="added to the stored gain of a norm; 1 in Gemma")
    activation: ActivationName = Field("gelu_tanh", description="nonlinearity of the feed-forward part")
    gated: bool = Field(False, description="feed-forward is down(activation(gate x) * (up x)), as in SwiGLU")
    position: Position = Field("learned", description="learned table, rotation of queries and keys, or nothing")
    rope_theta: PositiveFloat = Field(10_000.0, description="base of the rotation's wavelengths")
    rope_convention: RopeConvention = Field(
        "half", description="what is rotated together: element i and i + half of the rotated part, or 2i and 2i + 1"
    )
    rope_fraction: float = Field(1.0, gt=0, le=1, description="part of a head, from its beginning, that is rotated")
    rope_factors: list[PositiveFloat] | None = Field(
        None, description="divisor of each rotated pair's frequency, for models with a stretched context"
    )
    biases: list[BiasedLinear] = Field(
        default_factory=_gpt2_biases,
        description="products with a bias: attention (queries, keys, values), projection, feed_forward, lm_head",
    )
    tied_embeddings: bool = Field(True, description="the head's matrix is the transposed token table")
    parallel_residual: bool = Field(False, description="attention and feed-forward read the same norm, as in GPT-J")
    attention_scale: PositiveFloat | None = Field(
        None, description="factor of the scores; default: 1 / sqrt(d_head). GPT-Neo has 1"
    )
    embedding_scale: PositiveFloat = Field(1.0, description="factor of the token embedding; sqrt(d_model) in Gemma")
    window: PositiveInt | None = Field(
        None,
        description="tokens that some layers see at most (sliding window); runs must not be longer, as up to there it "
        "is full attention",
    )

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and values."""
        return self.kv_heads or self.heads

    @property
    def head_width(self) -> int:
        """Elements of a head; rounded down where the heads do not divide the width (`build_graph` refuses that)."""
        return self.d_head or self.d_model // self.heads

    @property
    def rotary_width(self) -> int:
        """Elements of a head that are rotated; 0 without rotation."""
        return round(self.rope_fraction * self.head_width) if self.position == "rope" else 0

    @property
    def score_scale(self) -> float:
        """Factor of the attention scores."""
        return self.attention_scale or self.head_width**-0.5


class AnyWorkload(Documented):
    """What workloads of every kind have; `pimsim.workload.kinds` lists the kinds."""

    kind: str
    name: str
    description: str = ""


class WorkloadConfig(AnyWorkload):
    """Autoregressive generation with a decoder-only transformer."""

    kind: Literal["decoder"] = "decoder"
    family: Family = Field("gpt2", description="what the model is called; its structure stands in model")
    model: DecoderConfig
    prompt_tokens: PositiveInt = Field(1, description="tokens that are processed before the first one is generated")
    generate_tokens: PositiveInt = Field(1024, description="tokens to generate")
    attention: str = Field("vanilla", description="a name that `pimsim list attention` lists as one for decoders")
    attention_parameters: dict[str, Any] = Field(
        default_factory=dict, description="of that algorithm; what is left out has defaults"
    )
    batch: PositiveInt = Field(1, description="sequences that are generated together, each with a KV cache of its own")
    prefill: Literal["token_by_token", "matrix"] = Field(
        "token_by_token",
        description="how a prompt is processed: a forward pass for each token, or prefill_tokens of them together, as "
        "matrix-matrix products",
    )
    prefill_tokens: PositiveInt = Field(4, description="tokens of a prompt at once, with prefill matrix")
    lm_head: bool = Field(False, description="include the projection onto the vocabulary")
    embeddings: bool = Field(False, description="include the look-up of token and position embeddings")

    @property
    def together(self) -> int:
        """Most tokens that a forward pass processes."""
        prompt = min(self.prefill_tokens, self.prompt_tokens) if self.prefill == "matrix" else 1
        return max(self.batch, prompt)

    @field_validator("attention")
    @classmethod
    def _is_registered(cls, name: str) -> str:
        if name != "vanilla":  # the usual one needs no import of all algorithms
            from pimsim.workload.attention.base import discover

            names = discover().names()
            if name not in names:
                raise ValueError(f"must be one of {', '.join(names)}, not {name!r}{did_you_mean(name, names)}")
        return name

    @field_validator("model")
    @classmethod
    def _has_the_marks_of_its_family(cls, model: DecoderConfig, info: ValidationInfo) -> DecoderConfig:
        family = info.data.get("family", "")
        for name, wanted in _MARKS.get(family, {}).items():
            given = getattr(model, name)
            if given != wanted:
                raise ValueError(
                    f"must have {name}: {str(wanted).lower()} for family {family}, not {str(given).lower()}"
                )
        return model
