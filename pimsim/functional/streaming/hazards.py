"""Whether calls wait for what they read: two calls that may run at once must not touch what one of them writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pimsim.program.dataflow import Call
from pimsim.program.works import FillQueues, Gate, Linear, Load, Norm, PatchRow, Work

Interval = tuple[int, int]
"""First and last beat."""


@dataclass
class Footprint:
    """What a call reads and writes: beats of the memory, and names of buffers and registers on the chip."""

    reads: list[Interval] = field(default_factory=list)
    writes: list[Interval] = field(default_factory=list)
    uses: set[str] = field(default_factory=set)
    fills: set[str] = field(default_factory=set)

    def meets(self, other: Footprint) -> str:
        """What one of the two writes and the other reads or writes; empty if nothing."""
        shared = (self.fills & (other.uses | other.fills)) | (other.fills & self.uses)
        if shared:
            return min(shared)
        for writes, touched in ((self.writes, other.reads + other.writes), (other.writes, self.reads)):
            for first, last in writes:
                for low, high in touched:
                    if first <= high and low <= last:
                        return f"beat {max(first, low)}"
        return ""


def footprint(work: Work) -> Footprint:
    """What a call touches on the chip."""
    match work:
        case Load():
            return Footprint(fills={work.buffer})
        case Norm():
            return Footprint(uses={work.buffer})
        case PatchRow():
            return Footprint(uses={work.weights, work.biases})
        case Gate():
            return Footprint(uses={work.buffer}, fills={"gates"})
        case FillQueues():
            return Footprint(uses={"gates"}, fills={"queues"})
        case Linear():
            biases = {work.biases} if work.biases else set()
            return Footprint(uses={*work.buffers, *biases, *(("queues",) if work.queue >= 0 else ())})
        case _:
            return Footprint()


def first_hazard(calls: Sequence[Call], touched: Sequence[Footprint]) -> str:
    """The first two calls that may run at once although one writes what the other touches; empty if there are none.

    Calls may run at once where neither waits for the other, directly or through others.
    """
    waits: list[int] = []
    for number, call in enumerate(calls):
        mask = 0
        for other in call.after:
            mask |= waits[other] | 1 << other
        waits.append(mask)
        free = ~mask & ((1 << number) - 1)
        while free:
            other = free.bit_length() - 1
            free ^= 1 << other
            shared = touched[number].meets(touched[other])
            if shared:
                layer = f"layer {call.layer}, " if call.layer >= 0 else ""
                return (
                    f"{layer}{call.name} (call {number}) must wait for {calls[other].name} (call {other}), as both use {shared} "
                    "and one of them writes it"
                )
    return ""


__all__ = ["Footprint", "first_hazard", "footprint"]
