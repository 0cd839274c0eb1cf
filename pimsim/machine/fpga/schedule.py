"""A whole program: every call starts when the calls that it waits for are complete.

A region takes the time that it takes on an idle machine, as calls that run at the same time share no port; that is checked.
Regions that differ in the names of their ports only are timed once, as all ports are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pimsim.errors import MappingError, ProgramError
from pimsim.machine.fpga.books import RegionTimes
from pimsim.machine.fpga.ports import PortTiming
from pimsim.program.dataflow import Burst, Call, Region

RunRegion = Callable[[Region, Mapping[str, PortTiming]], RegionTimes]


@dataclass(frozen=True)
class ProgramTimes:
    """When every call runs, in cycles, and where the time of its stages went."""

    starts: list[int]
    ends: list[int]
    regions: list[RegionTimes]

    @property
    def cycles(self) -> int:
        """Length of the program."""
        return max(self.ends, default=0)


def run_program(
    calls: Sequence[Call],
    timing: PortTiming,
    run_region: RunRegion,
    progress: Callable[[int, int], None] | None = None,
) -> ProgramTimes:
    """Time a program on a machine whose ports are all alike.

    Raises:
        MappingError: a stage takes more beats at once than requests in flight can bring.
        ProgramError: two calls that run at the same time use the same port.
        Deadlock: stages of a region wait for each other for ever.
    """
    times: dict[Region, RegionTimes] = {}
    plain: dict[int, Region] = {}
    found = ProgramTimes([], [], [])
    for done, call in enumerate(calls):
        if progress:
            progress(done, len(calls))
        if id(call.region) not in plain:
            plain[id(call.region)] = canonical(call.region)
        region = plain[id(call.region)]
        if region not in times:
            check_in_flight(region, timing)
            times[region] = run_region(region, dict.fromkeys(_ports(region), timing))
        start = max((found.ends[other] for other in call.after), default=0)
        found.starts.append(start)
        found.ends.append(start + times[region].cycles)
        found.regions.append(times[region])
    if progress:
        progress(len(calls), len(calls))
    check_ports(calls, found)
    return found


def canonical(region: Region) -> Region:
    """The region with its ports numbered by first use and its requests without addresses.

    So regions that differ in nothing else are equal: all ports are alike, and no address takes longer than another.
    """
    names: dict[str, str] = {}
    for port in _ports(region):
        names.setdefault(port, str(len(names)))
    return replace(
        region,
        reads=tuple(
            replace(read, port=names[read.port], bursts=tuple(map(_anywhere, read.bursts))) for read in region.reads
        ),
        writes=tuple(
            replace(write, port=names[write.port], bursts=tuple(map(_anywhere, write.bursts)))
            for write in region.writes
        ),
    )


def _anywhere(burst: Burst) -> Burst:
    return replace(burst, start=0, stride=0)


def check_in_flight(region: Region, timing: PortTiming) -> None:
    """Check that no stage waits for more beats of a stream than the port may have on their way.

    Raises:
        MappingError: one does.
    """
    streams, most = {read.fifo for read in region.reads}, timing.outstanding * timing.max_burst
    for stage in region.stages:
        for action in stage.actions:
            for fifo, tokens in action.reads:
                if fifo in streams and tokens > most:
                    raise MappingError(
                        f"a port must have at least {tokens} beats in flight (outstanding x max_burst), as {stage.name} takes "
                        f"so many of {fifo} at once, not {most}"
                    )


def check_ports(calls: Sequence[Call], times: ProgramTimes) -> None:
    """Check that calls which ran at the same time used different ports.

    Raises:
        ProgramError: two did not.
    """
    running: list[tuple[int, Call]] = []
    for start, end, call in sorted(zip(times.starts, times.ends, calls, strict=True), key=lambda entry: entry[:2]):
        running = [(until, other) for until, other in running if until > start]
        for _, other in running:
            shared = set(_ports(call.region)) & set(_ports(other.region))
            if shared:
                raise ProgramError(f"{call.name} and {other.name} must not use {', '.join(sorted(shared))} at once")
        running.append((end, call))


def _ports(region: Region) -> list[str]:
    """Ports of all streams, one entry for each stream."""
    return [*(read.port for read in region.reads), *(write.port for write in region.writes)]


__all__ = ["ProgramTimes", "RunRegion", "canonical", "check_in_flight", "check_ports", "run_program"]
