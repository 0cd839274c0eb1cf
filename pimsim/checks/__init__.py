"""What must hold between fields of a configuration; a module per kind of machine, imported when one is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pimsim.registry import Lazy

if TYPE_CHECKING:
    from pimsim.loaded import Loaded

ARCH_CHECKS: Lazy[Callable[[Loaded[Any]], None]] = Lazy(
    {
        "pim": "pimsim.checks.pim:check_arch",
        "aim": "pimsim.checks.aim:check_aim",
        "fpga": "pimsim.checks.fpga:check_fpga",
        "memory": "pimsim.checks.memory:check_memory",
        "hybrid": "pimsim.checks.hybrid:check_hybrid",
        "mcu": "pimsim.checks.sources:check_sources",
    }
)
"""Kind of architecture -> what checks it across fields."""

WORKLOAD_CHECKS: Lazy[Callable[[Loaded[Any]], None]] = Lazy(
    {
        "attention": "pimsim.checks.workloads:check_attention",
        "decoder": "pimsim.checks.workloads:check_decoder",
    }
)
"""Kind of workload -> what checks it across fields besides its sources, for kinds that need it."""

__all__ = ["ARCH_CHECKS", "WORKLOAD_CHECKS"]
