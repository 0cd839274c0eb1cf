"""The executor in the machine's issue order: each step reads the SRAM when it begins, and writes when it signals.

What a step computes is decided when it begins, and what it writes is seen by others from the tick at which it signals
its tokens. A step that begins before its operands are there, because it does not wait for a token that it needs, takes
what happens to lie there; in program order it would not. A step that reads late what another one overwrites in the
meantime is not noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from pimsim.functional.check import Capture
from pimsim.functional.executor import Executor
from pimsim.functional.numerics import Array
from pimsim.program.isa import Op, Placed, Step


class Timed(NamedTuple):
    """A step of some channels (none: of the ASIC), with the ticks at which it begins and at which it signals."""

    begin: int
    signal: int
    number: int
    """Forward pass, from 0."""
    placed: Placed
    step: Step
    channels: Sequence[int]


class _Delayed:
    """An observer that keeps what a step writes, so that it can be taken back and written later."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.writes: list[tuple[Array | slice, Array, Array]] = []

    def begin(self, op: Op, layer: int) -> None:
        """Steps are told apart by who runs them."""

    def store(self, at: Array | slice, values: Array) -> None:
        """Keep what is there and what is to be."""
        self.writes.append((at, self._executor.sram[at].copy(), values))

    def take_back(self) -> list[tuple[Array | slice, Array]]:
        """Undo the writes; returns them."""
        writes, self.writes = self.writes, []
        for at, old, _ in reversed(writes):
            self._executor.sram[at] = old
        return [(at, new) for at, _, new in writes]


def run_in_issue_order(
    executor: Executor, steps: Iterable[Timed], captures: Sequence[Capture], enter: Callable[[int], None]
) -> None:
    """Carry out steps by their ticks; what a tick completes is there for what begins at it.

    Args:
        executor: with weights in place, and an empty cache.
        steps: of all passes; those of one unit in its order.
        captures: one for each forward pass, told what its steps wrote.
        enter: called with the number of a pass before its first step of the ASIC begins.
    """
    timed = list(steps)
    # what completes in the tick in which it begins, on a unit with a faster clock, is there for steps that follow it
    events = [(each.begin, 1, 2 * i) for i, each in enumerate(timed)]
    events += [
        (each.signal, 0, 2 * i + 1) if each.signal > each.begin else (each.begin, 1, 2 * i + 1)
        for i, each in enumerate(timed)
    ]
    delayed = _Delayed(executor)
    executor.observer = delayed
    pending: dict[int, list[tuple[Array | slice, Array]]] = {}
    entered: set[int] = set()
    for _, _, event in sorted(events):
        i, completes = divmod(event, 2)
        each = timed[i]
        if not completes:
            if not each.channels and each.number not in entered:
                entered.add(each.number)
                enter(each.number)
            executor.step(each.step, each.placed, each.channels)
            pending[i] = delayed.take_back()
            continue
        capture = captures[each.number]
        capture.begin(each.placed.block.ops[each.step.op], each.placed.layer)
        for at, values in pending.pop(i):
            executor.sram[at] = values
            capture.store(at, values)
    executor.observer = None


__all__ = ["Timed", "run_in_issue_order"]
