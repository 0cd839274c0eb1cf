"""A position in a loop nest that can move on by one iteration and tell how far a repetition reaches."""

from __future__ import annotations

from collections.abc import Sequence

from pimsim.program.dataflow import Nest, Run


class Cursor:
    """Walks a nest; a *counter* belongs to each loop and each run, and only those around the position are not zero.

    Attributes:
        leaf: index of the current run, -1 at the end.
        counters: passes completed of every loop and run.
        outermost: counters of what is in no loop, so that each reaches its limit once.
    """

    __slots__ = ("_after", "_counter", "actions", "counters", "leaf", "limits", "outermost")

    def __init__(self, nest: Sequence[Nest]) -> None:
        self.actions: list[int] = []
        self.limits: list[int] = []
        self._counter: list[int] = []
        self._after: list[tuple[tuple[int, int], ...]] = []
        self.outermost: set[int] = set()
        self._compile(nest, (), outside=True)
        self.counters = [0] * len(self.limits)
        self.leaf = 0 if self.actions else -1

    def _compile(self, nest: Sequence[Nest], around: tuple[tuple[int, int], ...], *, outside: bool = False) -> None:
        """``around``: (counter, first leaf) of the enclosing loops that end where this part ends, innermost first."""
        for number, item in enumerate(nest):
            ends = around if number == len(nest) - 1 else ()
            counter = len(self.limits)
            self.limits.append(item.count)
            if outside:
                self.outermost.add(counter)
            if isinstance(item, Run):
                self.actions.append(item.action)
                self._counter.append(counter)
                self._after.append(ends)
            else:
                self._compile(item.body, ((counter, len(self.actions)), *ends))

    @property
    def form(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[tuple[int, int], ...], ...]]:
        """The nest without its limits: action and counter of every run, and the loops that end behind it."""
        return tuple(self.actions), tuple(self._counter), tuple(self._after)

    @property
    def done(self) -> bool:
        """Whether the nest is finished."""
        return self.leaf < 0

    @property
    def action(self) -> int:
        """Action of the next iteration."""
        return self.actions[self.leaf]

    @property
    def run_length(self) -> int:
        """Iterations of the current run in all."""
        return self.limits[self._counter[self.leaf]]

    def advance(self) -> int:
        """Move on by one iteration; the counter that went up, the outermost if several did."""
        counters, limits = self.counters, self.limits
        counter = self._counter[self.leaf]
        counters[counter] += 1
        if counters[counter] < limits[counter]:
            return counter
        counters[counter] = 0
        for loop, first in self._after[self.leaf]:
            counters[loop] += 1
            counter = loop
            if counters[loop] < limits[loop]:
                self.leaf = first
                return counter
            counters[loop] = 0
        self.leaf = self.leaf + 1 if self.leaf + 1 < len(self.actions) else -1
        return counter


def repeats(cursor: Cursor, before: Sequence[int]) -> tuple[int, int, int]:
    """How often what happened since ``before`` (counters at the same leaf) can happen again in the same way.

    Returns:
        (times, counter that went up, by how much). Times is -1 where nothing happened, so that there is no limit, and 0
        where more than one counter differs.
    """
    changed = [at for at, (old, new) in enumerate(zip(before, cursor.counters, strict=True)) if old != new]
    if not changed:
        return -1, 0, 0
    at = changed[0]
    step = cursor.counters[at] - before[at]
    if len(changed) > 1 or step < 0:
        return 0, 0, 0
    return (cursor.limits[at] - 1 - cursor.counters[at]) // step, at, step


__all__ = ["Cursor", "repeats"]
