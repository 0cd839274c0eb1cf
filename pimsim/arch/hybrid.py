"""A hybrid machine: PIM channels and their ASIC, a streaming unit with a memory of its own, and a link between them."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pimsim.arch.system import ArchConfig
from pimsim.model import Documented, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

Placement = Literal["pim_only", "stream_attention", "best_bound", "fixed"]
Side = Literal["pim", "fpga"]

PLACEABLE = ("attention", "qkv_projection", "output_projection", "ffn_up", "ffn_down")
"""Work that may go to either side; everything else is the ASIC's. Attention goes where its KV cache lies, as a whole."""

PLACEABLE_PRODUCTS = PLACEABLE[1:]
"""Of these, what needs no cache, so that it may be elsewhere while prompts are processed."""

FPGA, LINK_IN, LINK_OUT = UNITS = ("fpga", "link_in", "link_out")
"""Units beyond the channels and the ASIC; ``in`` is towards the streaming unit."""


class LinkConfig(Documented):
    """The link between the ASIC's SRAM and the streaming unit; each direction has its own wires."""

    clock_mhz: PositiveFloat
    width_bits: PositiveInt = Field(description="bits that cross in a cycle, in each direction")
    latency: NonNegativeInt = Field(description="cycles from the last bit sent to the last bit that can be used")
    pj_per_bit: NonNegativeFloat | None = Field(description="energy per bit, both ends together")


class StreamPorts(Documented):
    """Memory ports of the streaming unit, all alike; each has its own share of the memory."""

    count: PositiveInt
    width_bits: PositiveInt = Field(description="data width on the memory side")
    clock_mhz: PositiveFloat = Field(description="clock on the memory side")
    latency: PositiveInt = Field(description="fabric cycles from request to first beat, and from last beat to response")
    max_burst: PositiveInt = Field(description="longest burst in beats of the fabric")
    outstanding: PositiveInt = Field(description="requests in flight for each stream")


class StreamAttention(Documented):
    """Attention of one token, or of several of a sequence; depths in fabric cycles."""

    lanes: PositiveInt = Field(description="tokens at once: each lane has a port for keys and one for values")
    parallelism: PositiveInt = Field(
        description="queries, heads times tokens, that meet a beat of keys or values at once"
    )
    load_depth: PositiveInt
    product_depth: PositiveInt
    statistics_interval: PositiveInt = Field(description="cycles for each score of a lane")
    statistics_depth: PositiveInt
    weighted_depth: PositiveInt
    merge_depth: PositiveInt = Field(description="one level of the tree that merges lanes")
    store_depth: PositiveInt
    fifo_depth: PositiveInt = Field(description="tokens between two stages")


class StreamLinear(Documented):
    """Products with a matrix of weights; depths in fabric cycles."""

    lanes: PositiveInt = Field(description="beats of weights at once, from as many ports")
    parallelism: PositiveInt = Field(1, description="tokens that meet a beat of weights at once")
    load_depth: PositiveInt
    product_depth: PositiveInt
    store_depth: PositiveInt
    fifo_depth: PositiveInt


class StreamUnit(Documented):
    """The programmable logic, its memory and its power."""

    clock_mhz: PositiveFloat = Field(description="clock of the fabric")
    beat_bits: PositiveInt = Field(description="width of the streams inside")
    memory_bytes: PositiveInt = Field(description="memory behind all ports")
    buffer_bytes: PositiveInt = Field(description="on-chip buffer of operands, scores and results")
    busy_power_w: NonNegativeFloat | None = Field(description="power while a region runs")
    idle_power_w: NonNegativeFloat | None = Field(description="power while it waits")
    ports: StreamPorts
    attention: StreamAttention
    linear: StreamLinear


class HybridConfig(ArchConfig):
    """A machine of kind ``hybrid``, as an ``arch_configs/*.yaml`` file describes it."""

    has_streaming_unit: ClassVar[bool] = True

    kind: Literal["hybrid"] = "hybrid"  # type: ignore[assignment]
    fpga: StreamUnit
    link: LinkConfig
    placement: Placement = Field(
        "pim_only",
        description="pim_only: everything on the PIM side; stream_attention: attention on the streaming unit, with the KV "
        "cache in its memory; best_bound: each piece of work where its closed-form bound is lower; fixed: as `fixed` says",
    )
    fixed: dict[str, Side] = Field(
        default_factory=dict, description="with placement fixed: work -> side; what is left out stays on the PIM side"
    )
    fixed_prompt: dict[str, Side] = Field(
        default_factory=dict,
        description="with placement fixed and prefill matrix: products -> side while prompts are processed; what is left "
        "out is where `fixed` has it",
    )


__all__ = [
    "FPGA", "LINK_IN", "LINK_OUT", "PLACEABLE", "PLACEABLE_PRODUCTS", "UNITS", "HybridConfig", "LinkConfig", "Placement", "Side",
    "StreamAttention", "StreamLinear", "StreamPorts", "StreamUnit",
]  # fmt: skip
