"""A streaming accelerator on an FPGA: fabric clock, memory ports and the attention unit."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pimsim.arch.system import AnyArch
from pimsim.model import Documented, PositiveFloat, PositiveInt


class FpgaPorts(Documented):
    """Memory ports of one kind; each has a bandwidth of its own in each direction."""

    names: list[str] = Field(min_length=1, description="one name for each port")
    width_bits: PositiveInt = Field(description="data width on the memory side")
    clock_mhz: PositiveFloat = Field(description="clock on the memory side")
    latency: PositiveInt = Field(description="fabric cycles from request to first beat, and from last beat to response")
    max_burst: PositiveInt = Field(description="longest burst in beats of the fabric")
    outstanding: PositiveInt = Field(description="requests in flight for each stream")


class FpgaAttention(Documented):
    """Units of the two attention products and of the softmax statistics between them; depths in cycles."""

    parallelism: PositiveInt = Field(description="query rows (reordered) or keys (naive) at once")
    load_depth: PositiveInt
    product_depth: PositiveInt
    statistics_depth: PositiveInt
    statistics_interval: PositiveInt
    weighted_depth: PositiveInt
    store_depth: PositiveInt
    fifo_depth: PositiveInt = Field(description="tokens between two stages")
    placement: dict[str, str] = Field(description="stream -> port")


class FpgaConfig(Documented):
    """The programmable logic."""

    clock_mhz: PositiveFloat = Field(description="clock of the fabric")
    beat_bits: PositiveInt = Field(description="width of the streams inside")
    word_bits: PositiveInt = Field(description="width of an activation")
    board_power_w: PositiveFloat = Field(description="power of the whole board while it computes")
    ports: FpgaPorts
    attention: FpgaAttention


class FpgaArchConfig(AnyArch):
    """A machine of kind ``fpga``, as an ``arch_configs/*.yaml`` file describes it."""

    kind: Literal["fpga"] = "fpga"
    fpga: FpgaConfig


__all__ = ["FpgaArchConfig", "FpgaAttention", "FpgaConfig", "FpgaPorts"]
