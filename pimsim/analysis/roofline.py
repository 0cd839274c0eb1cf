"""Where the operations of a run lie under the roofs of a PIM machine (Williams et al., CACM 52(4), 2009).

An operation with ``F`` floating-point operations on ``B`` bytes of weights, keys and values has the intensity ``F / B``
and cannot be faster than ``min(peak, intensity x bandwidth)``. A PIM machine has two bandwidths: that of its banks, which
it computes with, and that of its data pins, which is all that a processor beside the same memory would have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pimsim.arch.dram import DramSpec


class Counted(Protocol):
    """What a roofline reads of an operation; `pimsim.workload.ops.OpNode` has it. Counts are linear in the context."""

    @property
    def kind(self) -> str:
        """Name that the figures of a run use."""

    def macs(self, context: int) -> int:
        """Multiply-accumulates of one forward pass."""

    def weights(self) -> int:
        """Matrix elements that are read."""

    def cache_reads(self, context: int) -> int:
        """Elements of keys and values that are read."""


@dataclass(frozen=True)
class OpWork:
    """What one kind of operation computed in the whole run."""

    flop: int
    """A multiply-accumulate is two; bias, norms and activations are not counted."""
    bytes: int
    """Weights, keys and values that it read."""
    seconds: float
    """Time by which it moved the end of the program, as in ``ops``."""


@dataclass(frozen=True)
class Roofs:
    """The roofs of a machine, and the operations under them."""

    peak_flop_s: float
    """All multipliers of all banks, as many as a column access feeds, at the highest rate of MAC commands."""
    bank_bytes_s: float
    """Column accesses of all banks at that rate."""
    pin_bytes_s: float
    """Reads over the data pins of all channels."""
    ops: dict[str, OpWork]


def roofs(
    spec: DramSpec,
    element_bytes: int,
    passes: int,
    graph: Iterable[Counted],
    seconds: Mapping[str, float],
) -> Roofs:
    """The roofs of a machine and the work of a generation.

    Args:
        spec: the DRAM; ``MAC_AB`` computes in all banks of a channel.
        element_bytes: bytes of a weight, key or value.
        passes: forward passes, with contexts from 1 on.
        graph: operations of one forward pass.
        seconds: time of each kind of operation.
    """
    banks = spec.channels * spec.banks_per_channel
    macs_per_second = 1 / (_interval(spec, "MAC_AB") * spec.tick_seconds)
    reads_per_second = 1 / (_interval(spec, "RD") * spec.tick_seconds)
    flop: dict[str, int] = {}
    moved: dict[str, int] = {}
    for op in graph:
        reads = _over_contexts(op.cache_reads(1), op.cache_reads(passes), passes)
        flop[op.kind] = flop.get(op.kind, 0) + 2 * _over_contexts(op.macs(1), op.macs(passes), passes)
        moved[op.kind] = moved.get(op.kind, 0) + (passes * op.weights() + reads) * element_bytes
    return Roofs(
        peak_flop_s=2 * banks * (spec.burst_bytes // element_bytes) * macs_per_second,
        bank_bytes_s=banks * spec.burst_bytes * macs_per_second,
        pin_bytes_s=spec.channels * spec.burst_bytes * reads_per_second,
        ops={kind: OpWork(count, moved[kind], seconds.get(kind, 0.0)) for kind, count in flop.items() if count},
    )


def _interval(spec: DramSpec, name: str) -> float:
    """Ticks from one command to the next of its kind in a channel, where different banks and groups take turns."""
    gaps = [
        rule.gap / rule.window
        for rule in spec.rules
        if rule.level == "channel" and name in rule.prev and name in rule.next
    ]
    return max([float(spec.commands[name].ticks), *gaps])


def _over_contexts(first: int, last: int, passes: int) -> int:
    """Sum of a count that grows linearly over contexts 1 to ``passes``."""
    return (first + last) * passes // 2


__all__ = ["OpWork", "Roofs", "roofs"]
