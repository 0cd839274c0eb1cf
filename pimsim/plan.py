"""Plans of buffers: what a run is on machines of which nothing but the memory is known.

```python
>>> from pimsim.config import load_arch, load_workload
>>> found = plan(load_arch("mcu_stm32f746"), load_workload("mcuformer_vit"))
>>> found.plan.peak, found.plan.peak_step
(113856, 'block 0 head 0 qkv')

```
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pimsim.arch.mcu import McuConfig
from pimsim.config import Loaded
from pimsim.errors import MappingError
from pimsim.workload.classifier import ClassifierConfig
from pimsim.workload.vision import VitConfig
from pimsim.workload.vit_memory import MemoryPlan, Microcontroller

SCHEMA = "pimsim.memory_plan/1"
"""Name and version of the JSON shape."""

SHOWN = 10
"""Buffers in the table, the largest ones."""


@dataclass(frozen=True)
class BufferPlan:
    """Where the buffers of one inference lie in the memory of a device."""

    arch: Loaded[McuConfig]
    workload: Loaded[VitConfig] | Loaded[ClassifierConfig]
    plan: MemoryPlan

    def to_json(self) -> dict[str, Any]:
        """Plain data; ``live`` are the bytes that are live in each step, lives of buffers include both of their steps."""
        plan = self.plan
        return {
            "schema": SCHEMA,
            "arch": {"name": self.arch.value.name, "hash": self.arch.hash},
            "workload": {"name": self.workload.value.name, "hash": self.workload.hash},
            "sram_bytes": self.arch.value.sram_bytes,
            "peak_bytes": plan.peak,
            "peak_step": plan.peak_step,
            "arena_bytes": plan.arena,
            "steps": list(plan.steps),
            "live_bytes": list(plan.live),
            "buffers": {name: buffer._asdict() for name, buffer in plan.buffers.items()},
        }

    def text(self) -> str:
        """The figures, and the largest buffers."""
        plan, sram = self.plan, self.arch.value.sram_bytes
        largest = sorted(plan.buffers.items(), key=lambda item: (-item[1].size, item[1].first, item[0]))[:SHOWN]
        width = max(len(name) for name, _ in largest)
        lines = [
            f"{self.workload.value.name} on {self.arch.value.name}  (buffers of one inference; nothing is timed)",
            f"  sram    {sram:>9,} bytes",
            f"  arena   {plan.arena:>9,} bytes   {100 * plan.arena / sram:.1f} % of it",
            f"  peak    {plan.peak:>9,} bytes   live in {plan.peak_step!r}",
            "",
            f"{'Buffer':<{width}}      bytes     offset   from .. to",
            *(
                f"{name:<{width}}  {b.size:>9,}  {b.offset:>9,}   {plan.steps[b.first]} .. {plan.steps[b.last]}"
                for name, b in largest
            ),
        ]
        if len(plan.buffers) > SHOWN:
            lines.append(f"{len(plan.buffers) - SHOWN} more")
        return "\n".join(lines) + "\n"


def plan(arch: Loaded[Any], workload: Loaded[Any]) -> BufferPlan:
    """Place the buffers of a workload in the memory of a device.

    Raises:
        MappingError: the device or the workload is of another kind.
        CapacityExceeded: the buffers do not fit.
    """
    if not isinstance(arch.value, McuConfig) or not isinstance(workload.value, VitConfig | ClassifierConfig):
        raise MappingError(
            f"a plan of buffers must be for an architecture of kind mcu and a workload of kind vit or classifier, not for "
            f"{arch.value.name} of kind {arch.value.kind} and {workload.value.name} of kind {workload.value.kind}"
        )
    found = workload.value.plan()
    Microcontroller(name=arch.value.name, sram_bytes=arch.value.sram_bytes).check(found)
    return BufferPlan(arch, workload, found)


__all__ = ["BufferPlan", "plan"]
