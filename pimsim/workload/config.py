"""What a ``workloads/*.yaml`` file may say."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pimsim.model import Documented, Model, PositiveInt


class DecoderConfig(Model):
    """Shape of a decoder-only transformer."""

    layers: PositiveInt
    d_model: PositiveInt
    heads: PositiveInt
    d_ff: PositiveInt
    vocabulary: PositiveInt
    context: PositiveInt = Field(description="longest context that the published model was trained for")


class WorkloadConfig(Documented):
    """Autoregressive generation with a decoder-only transformer, batch 1."""

    name: str
    description: str = ""
    family: Literal["gpt2"] = Field("gpt2", description="block structure: pre-LayerNorm, GELU, biases, full attention")
    model: DecoderConfig
    prompt_tokens: PositiveInt = Field(1, description="tokens that are processed before the first one is generated")
    generate_tokens: PositiveInt = Field(1024, description="tokens to generate")
    attention: Literal["vanilla"] = "vanilla"
    lm_head: bool = Field(False, description="include the projection onto the vocabulary")
    embeddings: bool = Field(False, description="include the look-up of token and position embeddings")
