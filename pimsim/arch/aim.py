"""GDDR6-AiM as an architecture: a DRAM with AiM commands and a policy about the quirks of aim_simulator."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pimsim.arch.dram import DramConfig
from pimsim.arch.system import AnyArch, AsicConfig, EnergyConfig
from pimsim.model import Documented


class AimMac(Documented):
    """The arithmetic of the MAC units; it has no influence on time."""

    format: Literal["float16", "bfloat16"] = Field(
        "float16", description="number format of weights, vectors and results, which has 16 bits"
    )
    accumulator: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="format in which a MAC unit adds up"
    )
    adder_tree: bool = Field(
        True,
        description="a balanced tree adds the products of a column before the accumulator; false: one product after the other",
    )


class AimConfig(AnyArch):
    """A GDDR6-AiM machine, which runs traces of AiM instructions, and decoders that are mapped to such instructions."""

    kind: Literal["aim"] = "aim"
    dram: DramConfig
    pim: AimMac = Field(AimMac(), description="arithmetic of the MAC units, for --check")
    asic: AsicConfig | None = Field(
        None, description="what does the arithmetic between products of a decoder; null: it takes no time"
    )
    energy: EnergyConfig | None = Field(
        None, description="coefficients beside the currents in dram.electrical; null: what needs them is uncosted"
    )
    quirks: Literal["none", "aim_simulator", "aim_simulator_refreshed"] = Field(
        "none",
        description="what aim_simulator gets wrong: none; all of it (aim_simulator); or all but the refresh that it "
        "never issues (aim_simulator_refreshed)",
    )


__all__ = ["AimConfig", "AimMac"]
