"""Putting a block together: operations in program order, a stream per unit, tokens between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from pimsim.program.isa import Block, Compute, Item, Op, Step, Work


@dataclass(frozen=True)
class Part:
    """A range of a result's elements and the token that says it is complete in SRAM."""

    start: int
    stop: int
    token: str


@dataclass(frozen=True)
class Result:
    """A vector in the ASIC's SRAM."""

    sram: int
    parts: tuple[Part, ...]

    def tokens(self, start: int = 0, stop: int | None = None) -> tuple[str, ...]:
        """Tokens to wait for before reading elements ``start`` to ``stop``."""
        return tuple(p.token for p in self.parts if p.stop > start and (stop is None or p.start < stop))


class BlockBuilder:
    """Collects the steps of one block.

    With ``serial``, an operation begins only when the one before it is complete on all units (the paper's
    instruction loop):
    every unit's last step of an operation signals a barrier that every unit's first step of the next one waits for.
    """

    def __init__(self, name: str, channels: int, *, serial: bool = False, after: str = "") -> None:
        self.name, self.serial = name, serial
        self._after = after
        self._ops: list[Op] = []
        self._channels: list[list[Step]] = [[] for _ in range(channels)]
        self._asic: list[Step] = []
        self._further: dict[str, list[Step]] = {}

    def op(self, kind: str, name: str) -> int:
        """Begin an operation; returns its index for the steps."""
        self._ops.append(Op(kind, name))
        return len(self._ops) - 1

    def pim(
        self,
        op: int,
        channels: Sequence[int],
        items: tuple[Item, ...],
        waits: tuple[str, ...] = (),
        signals: tuple[str, ...] = (),
    ) -> None:
        """The same step for each of ``channels``."""
        if not items:
            return
        step = Step(op, items, waits, signals)
        for channel in channels:
            self._channels[channel].append(step)

    def asic(
        self,
        op: int,
        computes: tuple[Compute, ...],
        waits: tuple[str, ...],
        signals: tuple[str, ...] = (),
        *,
        soon: bool = False,
    ) -> None:
        """A step of the ASIC: the next in its stream or, with ``soon``, right after the step that signals what it waits for."""
        step = Step(op, computes, waits, signals)
        if soon and not self.serial:
            for i in reversed(range(len(self._asic))):
                if set(self._asic[i].signals) & set(waits):
                    self._asic.insert(i + 1, step)
                    return
        self._asic.append(step)

    def unit(
        self, name: str, op: int, work: tuple[Work, ...], waits: tuple[str, ...], signals: tuple[str, ...] = ()
    ) -> None:
        """The next step of a further unit."""
        self._further.setdefault(name, []).append(Step(op, work, waits, signals))

    def build(self) -> Block:
        """The finished block."""
        further = tuple((name, tuple(steps)) for name, steps in self._further.items())
        channels, asic = [tuple(c) for c in self._channels], tuple(self._asic)
        if self.serial:
            *channels, asic = self._with_barriers([*channels, asic])
        shared: dict[tuple[int, ...], tuple[Step, ...]] = {}
        streams = tuple(shared.setdefault(tuple(map(id, stream)), stream) for stream in channels)
        return Block(self.name, tuple(self._ops), streams, asic, further=further)

    def barrier(self) -> str:
        """Token of the end of this block, for the block after it."""
        return f"{self.name}.end" if self.serial else ""

    def _with_barriers(self, streams: list[tuple[Step, ...]]) -> list[tuple[Step, ...]]:
        used = sorted({step.op for stream in streams for step in stream})
        before = {op: f"{self.name}.bar{prev}" for prev, op in pairwise(used)}
        after = dict(zip(used, before.values(), strict=False))
        if used:
            after[used[-1]] = self.barrier()
            if self._after:
                before[used[0]] = self._after
        shared: dict[tuple[int, str, str], Step] = {}
        return [self._barred(stream, before, after, shared) for stream in streams]

    @staticmethod
    def _barred(
        stream: tuple[Step, ...],
        before: dict[int, str],
        after: dict[int, str],
        shared: dict[tuple[int, str, str], Step],
    ) -> tuple[Step, ...]:
        steps: list[Step] = []
        for i, step in enumerate(stream):
            first = i == 0 or stream[i - 1].op != step.op
            last = i == len(stream) - 1 or stream[i + 1].op != step.op
            wait = before.get(step.op, "") if first else ""
            signal = after.get(step.op, "") if last else ""
            key = (id(step), wait, signal)
            if key not in shared:
                shared[key] = replace(
                    step,
                    waits=step.waits + ((wait,) if wait else ()),
                    signals=step.signals + ((signal,) if signal else ()),
                )
            steps.append(shared[key])
        return tuple(steps)
