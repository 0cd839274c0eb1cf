"""Checks across fields of a GDDR6-AiM machine."""

from __future__ import annotations

from pimsim.arch.aim import AimConfig
from pimsim.arch.formats import format_bytes
from pimsim.checks.dram import check_dram, check_limits
from pimsim.checks.sources import check_sources
from pimsim.loaded import Loaded

_AIM = (
    *("ACT", "PRE", "PREA", "RD", "WR", "ACT16", "MAC", "MAC16", "AF16"),
    *("EWMUL16", "RDCP", "WRCP", "WRA16", "WRGB", "WRMAC16", "RDMAC16", "RDAF16", "TMOD", "REFab"),
)
_AIM_CHANNELS = 32


def check_aim(loaded: Loaded[AimConfig]) -> None:
    """Check what must hold between fields of a GDDR6-AiM machine.

    Raises:
        ConfigError: as `check_arch`, or the DRAM lacks a command of AiM.
    """
    check_sources(loaded)
    check_dram(loaded.tree, loaded.value.dram, ("dram",))
    check_limits(loaded.tree, loaded.value.dram, ("dram",))
    dram = loaded.value.dram
    missing = [name for name in _AIM if name not in dram.commands]
    if missing:
        raise loaded.tree.error(
            f"must have the commands of AiM, {', '.join(_AIM)}; missing: {', '.join(missing)}", ("dram", "commands")
        )
    if len(dram.levels) != 2:
        raise loaded.tree.error(
            f"must have two levels, such as {{bankgroup: 4, bank: 4}}, not {len(dram.levels)}", ("dram", "levels")
        )
    element = format_bytes(loaded.value.pim.format)
    if dram.burst_bytes % element:
        raise loaded.tree.error(
            f"must be a multiple of the {element} bytes of a {loaded.value.pim.format}, not {dram.burst_bytes}",
            ("dram", "burst_bytes"),
        )
    if dram.ticks_per_clock != 1:
        raise loaded.tree.error(f"must be 1, not {dram.ticks_per_clock}", ("dram", "ticks_per_clock"))
    if dram.channels > _AIM_CHANNELS:
        raise loaded.tree.error(
            f"must be at most {_AIM_CHANNELS}, the bits of a channel mask, not {dram.channels}", ("dram", "channels")
        )


__all__ = ["check_aim"]
