"""Checks across fields of a memory behind a controller."""

from __future__ import annotations

from pimsim.arch.memory import MemoryConfig
from pimsim.checks.controller import check_controller_of
from pimsim.checks.dram import check_dram, check_limits
from pimsim.checks.sources import check_sources
from pimsim.loaded import Loaded


def check_memory(loaded: Loaded[MemoryConfig]) -> None:
    """Check what must hold between fields of a memory behind a controller.

    Raises:
        ConfigError: as `check_arch` of its DRAM, the DRAM does not say how long a burst is, or the controller does not
            fit it.
    """
    check_sources(loaded)
    check_dram(loaded.tree, loaded.value.dram, ("dram",))
    check_limits(loaded.tree, loaded.value.dram, ("dram",))
    check_controller_of(loaded, loaded.value.dram.resolve(), loaded.value.controller, ("controller",))


__all__ = ["check_memory"]
