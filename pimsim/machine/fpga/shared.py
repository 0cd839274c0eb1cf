"""A whole program on ports that share a DRAM: calls that run at the same time compete for it, so all are timed together.

`run_fast` interleaves the fast engines of the calls that run, cycle by cycle; `run_reference` has all their processes in one
kernel. Every call is timed where it stands, as rows and refreshes are never again what they were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pimsim.errors import Deadlock
from pimsim.machine.fpga.books import RegionTimes
from pimsim.machine.fpga.fast import NEVER, FastEngine
from pimsim.machine.fpga.memory import MemoryChannel
from pimsim.machine.fpga.ports import Behind, PortTiming
from pimsim.machine.fpga.schedule import ProgramTimes, check_in_flight, check_ports
from pimsim.program.dataflow import Call

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Machine:
    """Ports that are all alike, the memory channel behind each, and where the streams of each call lie."""

    timing: PortTiming
    memory: Mapping[str, MemoryChannel]
    places: Sequence[Mapping[str, int]]
    """Stream -> beat address, for every call."""

    def ports(self) -> dict[str, PortTiming]:
        """Port -> timing."""
        return dict.fromkeys(self.memory, self.timing)

    def behind(self, number: int) -> Behind:
        """The memory as a call sees it."""
        return Behind(self.memory, self.places[number])


def run_fast(calls: Sequence[Call], machine: Machine, progress: Progress | None = None) -> ProgramTimes:
    """Time a program event by event.

    Raises:
        MappingError: a stage takes more beats at once than requests in flight can bring.
        ProgramError: two calls that run at the same time use the same port.
        Deadlock: stages wait for each other for ever.
    """
    _check(calls, machine)
    ends: dict[int, int] = {}
    starts: dict[int, int] = {}
    regions: dict[int, RegionTimes] = {}
    running: dict[int, FastEngine] = {}
    waiting = list(range(len(calls)))
    ended = True
    while waiting or running:
        for number in [n for n in waiting if all(other in ends for other in calls[n].after)] if ended else ():
            waiting.remove(number)
            starts[number] = max((ends[other] for other in calls[number].after), default=0)
            engine = FastEngine(calls[number].region, machine.ports(), machine.behind(number), starts[number])
            engine.begin()
            running[number] = engine
        order = sorted(running, key=lambda n: (running[n].upcoming, n))
        number, engine = order[0], running[order[0]]
        # alone to its end; with others, up to where the next of them has its turn
        until = NEVER - 1
        if len(order) > 1:
            follows = running[order[1]].upcoming
            until = max(engine.upcoming, follows - 1)
        engine.run_until(until)
        ended = engine.upcoming == NEVER
        if ended:
            regions[number] = engine.finish()
            ends[number] = starts[number] + regions[number].cycles
            del running[number]
            if progress:
                progress(len(ends), len(calls))
    return _found(calls, starts, ends, regions)


def run_reference(calls: Sequence[Call], machine: Machine, progress: Progress | None = None) -> ProgramTimes:
    """Time a program beat by beat.

    Raises:
        MappingError, ProgramError, Deadlock: as for `run_fast`.
    """
    from pimsim.machine.fpga.reference import ReferenceEngine  # SimPy is only needed here
    from pimsim.machine.kernel import Kernel, Process, Token, Turn

    _check(calls, machine)
    kernel = Kernel()
    among = Turn(kernel)
    tokens = [Token(kernel, call.name, "call", 1) for call in calls]
    starts: dict[int, int] = {}
    ends: dict[int, int] = {}
    regions: dict[int, RegionTimes] = {}

    def finish(number: int, times: RegionTimes) -> None:
        regions[number], ends[number] = times, starts[number] + times.cycles
        tokens[number].signal(ends[number])
        if progress:
            progress(len(ends), len(calls))

    def run(number: int, call: Call) -> Process:
        for other in call.after:
            if tokens[other].pending is not None:
                yield tokens[other].pending
        starts[number] = max((tokens[other].time for other in call.after), default=0)
        if starts[number] > kernel.now:
            yield kernel.until(starts[number])
        engine = ReferenceEngine(call.region, machine.ports(), machine.behind(number), among, number)
        engine.begin(lambda times: finish(number, times))

    for number, call in enumerate(calls):
        kernel.start(f"call {number}", run(number, call), lambda: "for calls")
    kernel.run()
    return _found(calls, starts, ends, regions)


def _check(calls: Sequence[Call], machine: Machine) -> None:
    seen: set[int] = set()
    for call in calls:
        if id(call.region) not in seen:
            check_in_flight(call.region, machine.timing)
            seen.add(id(call.region))


def _found(
    calls: Sequence[Call], starts: Mapping[int, int], ends: Mapping[int, int], regions: Mapping[int, RegionTimes]
) -> ProgramTimes:
    if len(ends) < len(calls):
        raise Deadlock("calls wait for each other for ever")
    order = range(len(calls))
    found = ProgramTimes([starts[n] for n in order], [ends[n] for n in order], [regions[n] for n in order])
    check_ports(calls, found)
    return found


__all__ = ["Machine", "run_fast", "run_reference"]
