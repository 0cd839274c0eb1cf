"""Regions that differ in how often their loops run: one that has been timed answers for others, exactly.

Let the fast engine find, at some moment of region A, the state of an earlier moment, with every agent that moved since then
moved by the counter of one loop that is in no other loop. Region B has the same stages, FIFOs and streams, and exactly these
counters have other limits, each by k times what it moves in a period. Then A and B are the same until that moment, as no limit
that differs has been reached; the period follows k times more often in B; and from there on both are equally far from every
limit, so the rest is the same. B takes k periods longer than A, and every stage waits as much longer as it does in k periods.

Keys of one more token do just that to an attention product, so a decode of any length times a few contexts.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from pimsim.machine.fpga.books import RegionTimes
from pimsim.machine.fpga.cursor import Cursor
from pimsim.machine.fpga.fast import FastEngine, Jump
from pimsim.machine.fpga.ports import PortTiming, request_nest
from pimsim.program.dataflow import Read, Region, Write


@dataclass(frozen=True)
class _Member:
    """A region that has been timed: limits of the counters of every agent, times, and periods that repeated.

    ``outermost``: for every agent, the counters that are in no loop.
    """

    limits: list[list[int]]
    outermost: list[set[int]]
    times: RegionTimes
    jumps: list[Jump]
    stages: tuple[str, ...]

    def answer(self, limits: Sequence[Sequence[int]]) -> RegionTimes | None:
        """The times of a region with other limits, if one of the periods accounts for them."""
        differ = {
            (agent, counter): theirs - mine
            for agent, (own, others) in enumerate(zip(self.limits, limits, strict=True))
            for counter, (mine, theirs) in enumerate(zip(own, others, strict=True))
            if mine != theirs
        }
        if not differ:
            return self.times
        if any(counter not in self.outermost[agent] for agent, counter in differ):
            return None
        for jump in self.jumps:
            more = _periods(jump, differ)
            if more is not None:
                return self._stretched(jump, more)
        return None

    def _stretched(self, jump: Jump, more: int) -> RegionTimes:
        stalls = {}
        for name, waited in zip(self.stages, jump.waited, strict=True):
            found = dict(self.times.stalls[name])
            for reason, cycles in waited.items():
                found[reason] = found.get(reason, 0) + more * cycles
            stalls[name] = dict(sorted((reason, cycles) for reason, cycles in found.items() if cycles))
        return RegionTimes(self.times.cycles + more * jump.period, stalls)


def _periods(jump: Jump, differ: Mapping[tuple[int, int], int]) -> int | None:
    """How many periods more make exactly this difference; None if no number does, or so many that the moment is not reached."""
    if {(agent, counter) for agent, counter, _ in jump.moved} != differ.keys():
        return None
    found = set()
    for agent, counter, step in jump.moved:
        more, rest = divmod(differ[agent, counter], step)
        if rest:
            return None
        found.add(more)
    more = found.pop()
    return more if not found and more >= -jump.times else None


class Families:
    """Times regions, each by an earlier one where that is possible; `run` has the form of `pimsim.machine.fpga.fast.run_region`.

    Attributes:
        timed: regions that had to be run.
    """

    def __init__(self) -> None:
        self._members: dict[Hashable, list[_Member]] = {}
        self.timed = 0

    def run(self, region: Region, ports: Mapping[str, PortTiming]) -> RegionTimes:
        """A region on an idle machine.

        Raises:
            Deadlock: stages wait for each other for ever.
        """
        cursors = _cursors(region, ports)
        limits = [list(cursor.limits) for cursor in cursors]
        members = self._members.setdefault(_form(region, ports, cursors), [])
        for member in reversed(members):
            times = member.answer(limits)
            if times is not None:
                return times
        engine = FastEngine(region, ports)
        times = engine.run()
        self.timed += 1
        outermost = [cursor.outermost for cursor in cursors]
        members.append(_Member(limits, outermost, times, engine.jumps, tuple(stage.name for stage in region.stages)))
        return times


def _cursors(region: Region, ports: Mapping[str, PortTiming]) -> list[Cursor]:
    """A cursor for every agent, in the order of the engine."""
    streams: list[Read | Write] = [*region.reads, *region.writes]
    nests = [request_nest(stream.bursts, ports[stream.port].max_burst) for stream in streams]
    return [Cursor(nest) for nest in [*(stage.nest for stage in region.stages), *nests]]


def _form(region: Region, ports: Mapping[str, PortTiming], cursors: Sequence[Cursor]) -> Hashable:
    """All that a region is but for the limits of its loops."""
    return (
        tuple((stage.name, stage.actions, stage.interval, stage.depth) for stage in region.stages),
        region.fifos,
        tuple((read.name, read.fifo, read.port) for read in region.reads),
        tuple((write.name, write.fifo, write.port) for write in region.writes),
        region.overhead,
        tuple(ports.items()),
        tuple(cursor.form for cursor in cursors),
    )


__all__ = ["Families"]
