"""A whole machine: DRAM with in-bank MACs, controller ASIC, interface and energy coefficients."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pimsim.arch.controller import HostTrafficConfig
from pimsim.arch.dram import DramConfig
from pimsim.arch.formats import Accumulator, MacFormat
from pimsim.model import Documented, Model, NonNegativeFloat, PositiveFloat, PositiveInt


class PimConfig(Documented):
    """In-bank MAC units: one per bank, fed from one global buffer per channel."""

    format: MacFormat = Field(
        "bfloat16",
        description="number format of weights, vectors and results: bfloat16, float16, float32, int8 (with scales) or "
        "fixed<8 or 16>_<integer bits>",
    )
    accumulator: Accumulator | None = Field(
        None,
        description="format in which a MAC unit adds up. Default: float32, and int32 for int8 and fixed point",
    )
    adder_tree: bool = Field(
        True,
        description="a balanced tree adds the products of a column before the accumulator; false: one product after the other",
    )
    multipliers: PositiveInt | None = Field(
        None,
        description="multipliers per bank; one MAC_AB consumes this many weights per bank. Default: as many as one column "
        "access feeds, burst_bytes / bytes of the format",
    )
    accumulators: PositiveInt = Field(description="accumulator registers per MAC unit")
    global_buffer_bytes: PositiveInt = Field(description="vector buffer per channel")


class AsicFunctions(Model):
    """Algorithms of the ASIC: the cost model and the functional back end read the same numbers."""

    exp_taylor_terms: PositiveInt = Field(
        description="Taylor terms of exp after range reduction, the constant included"
    )
    reciprocal_newton_steps: PositiveInt = Field(description="Newton-Raphson steps of a reciprocal")
    rsqrt_newton_steps: PositiveInt = Field(description="Newton steps after the bit-trick seed of 1/sqrt")


class AsicConfig(Documented):
    """Controller ASIC: vector arithmetic and SRAM."""

    clock_mhz: PositiveFloat
    sram_bytes: PositiveInt
    adders: PositiveInt
    multipliers: PositiveInt
    adder_latency: PositiveInt = Field(description="ASIC cycles from operands to sum")
    multiplier_latency: PositiveInt = Field(description="ASIC cycles from operands to product")
    functions: AsicFunctions
    function_units: Literal["pipelined", "shared"] = Field(
        description="pipelined: a lane per multiplier starts one element each cycle and runs through the whole function; "
        "shared: each addition and multiplication of a function occupies one of the adders and multipliers for a cycle"
    )


class EnergyConfig(Documented):
    """Energy coefficients that are not DRAM currents. ``null`` means unknown and is listed as uncosted."""

    all_bank_activate_charge: PositiveFloat = Field(
        description="single-bank activates that one all-bank activate costs"
    )
    all_bank_column_charge: PositiveFloat = Field(description="column reads (IDD4R) that one all-bank MAC costs")
    mac_units_power_mw: NonNegativeFloat | None = Field(
        description="power of all MAC units of one channel while they compute"
    )
    interface_pj_per_bit: NonNegativeFloat | None = Field(description="energy per bit on the data pins")
    asic_busy_power_mw: NonNegativeFloat | None = Field(description="power of the ASIC while it computes")
    asic_idle_power_mw: NonNegativeFloat | None = Field(description="power of the ASIC while it waits")


class AnyArch(Documented):
    """What machines of every kind have; `pimsim.arch.kinds` lists the kinds."""

    kind: str
    name: str
    description: str = ""


class ArchConfig(AnyArch):
    """A PIM machine, as an ``arch_configs/*.yaml`` file describes it."""

    has_streaming_unit: ClassVar[bool] = False
    """Whether there is a streaming unit beside the channels (`pimsim.arch.hybrid`)."""

    kind: Literal["pim"] = "pim"
    dram: DramConfig
    pim: PimConfig
    asic: AsicConfig
    dispatch: Literal["overlap", "serial"] = Field(
        "overlap",
        description="overlap: a unit starts when its operands are there; serial: one instruction at a time, as in the paper",
    )
    energy: EnergyConfig
    host_traffic: HostTrafficConfig | None = Field(
        None, description="requests of a host that compete with the program for the channels; null: none"
    )


__all__ = [
    "AnyArch",
    "ArchConfig",
    "AsicConfig",
    "AsicFunctions",
    "EnergyConfig",
    "PimConfig",
]
