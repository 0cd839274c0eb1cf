"""What a run added up to: the fold over its records that tables, energy and plots read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class RunTotals:
    """Counters of one run. Times are memory-clock ticks unless the name says otherwise; keys are plain values.

    An *op* is an operation kind of the workload (``"qkv_projection"``, ``"softmax"``, ...); ``"refresh"`` stands for
    what the refresh policy issued. A *layer* is a decoder block, or -1 for what lies outside the blocks.
    """

    ticks: int = 0
    """End of the run: the tick at which the last result was complete."""
    commands: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    """(op, layer, DRAM command) -> how many were issued, summed over channels."""
    op_count: Counter[str] = field(default_factory=Counter)
    """Op -> how many times it ran."""
    op_ticks: Counter[str] = field(default_factory=Counter)
    """Op -> ticks by which it moved the end of the program so far; sums to `ticks`."""
    layer_ticks: Counter[int] = field(default_factory=Counter)
    """Layer -> ticks by which it moved the end of the program so far; sums to `ticks`."""
    asic_cycles: Counter[tuple[str, int]] = field(default_factory=Counter)
    """(op, layer) -> ASIC clock cycles in which the ASIC computed for it."""
    unit_cycles: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    """(unit, op, layer) -> cycles of its own clock in which a further unit worked for it."""
    link_elements: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    """(link, op, layer) -> elements that crossed the link."""
    unit_busy: Counter[str] = field(default_factory=Counter)
    """Unit (``"channel0.mac"``, ``"channel0.bus"``, ``"asic"``) -> ticks in which it worked."""
    unit_stalls: dict[str, Counter[str]] = field(default_factory=dict)
    """Unit -> reason (timing name, ``"refresh"``, ``"wait softmax"``, ...) -> ticks lost; busy and stalls add up to `ticks`."""
    row_open_ticks: int = 0
    """Ticks with at least one open row, summed over channels (active standby); the rest is precharge standby."""
    token_ticks: list[int] = field(default_factory=list)
    """Tick at which each forward pass was complete."""

    def count(self, command: str) -> int:
        """How many times a DRAM command was issued."""
        return sum(n for (_, _, name), n in self.commands.items() if name == command)
