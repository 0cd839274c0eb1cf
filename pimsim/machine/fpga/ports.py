"""Channels of memory ports: when the beats of a request arrive. Both engines ask these, in the order of requests.

A channel is one direction of a port. Addresses go out one per cycle, data in request order, a beat every
``numerator / denominator`` cycles. A request is made with all that went before it known, so its times are known at once.

Behind a port is a memory of fixed latency and unlimited bandwidth (`PortChannel`) or a DRAM channel that other ports may share
(`DramPortChannel`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat

from pimsim.machine.fpga.memory import MemoryChannel
from pimsim.program.dataflow import Burst, Loop, Nest, Read, Run, Write, nest, requests


@dataclass(frozen=True, slots=True)
class PortTiming:
    """A port in fabric cycles: ``numerator / denominator`` cycles per beat, latency, longest burst, requests in flight."""

    numerator: int = 1
    denominator: int = 1
    latency: int = 64
    max_burst: int = 16
    outstanding: int = 16


class PortChannel:
    """One direction of one port."""

    def __init__(self, timing: PortTiming) -> None:
        self.timing = timing
        self.address = -1
        """Cycle of the latest address."""
        self.free = 0
        """First moment at which data may move, in 1 / denominator cycles."""

    def read(self, now: int, beats: int, address: int) -> list[int]:  # noqa: ARG002 (all are alike)
        """Arrival cycle of each beat of a read, from beat address ``address`` on, that is requested at ``now``."""
        timing = self.timing
        self.address = max(now, self.address + 1)
        free = max((self.address + timing.latency) * timing.denominator, self.free)
        arrivals = []
        for _ in range(beats):
            arrivals.append(-(-free // timing.denominator))
            free += timing.numerator
        self.free = free
        return arrivals

    def write(self, now: int, beats: int, address: int) -> int:  # noqa: ARG002 (all are alike)
        """Cycle at which the response to a write, to beat address ``address``, arrives whose data is complete at ``now``."""
        timing = self.timing
        self.free = max((now + 1) * timing.denominator, self.free) + beats * timing.numerator
        return -(-self.free // timing.denominator) + timing.latency


class DramPortChannel(PortChannel):
    """One direction of one port, with a DRAM channel behind it.

    A request is ``path`` cycles on its way to the memory, and so is what comes back. The port's data lines are as fast as
    without a DRAM; the memory takes the data of a write while the port still sends it.
    """

    def __init__(self, timing: PortTiming, memory: MemoryChannel) -> None:
        super().__init__(timing)
        self.memory, self.path = memory, memory.timing.path

    def read(self, now: int, beats: int, address: int) -> list[int]:
        """Arrival cycle of each beat of a read, from beat address ``address`` on, that is requested at ``now``."""
        self.address = max(now, self.address + 1)
        denominator, arrivals = self.timing.denominator, []
        for ready in self.memory.access(self.address + self.path, address, beats, write=False):
            self.free = max((ready + self.path) * denominator, self.free)
            arrivals.append(-(-self.free // denominator))
            self.free += self.timing.numerator
        return arrivals

    def write(self, now: int, beats: int, address: int) -> int:
        """Cycle at which the response to a write, to beat address ``address``, arrives whose data is complete at ``now``."""
        denominator = self.timing.denominator
        self.free = max((now + 1) * denominator, self.free) + beats * self.timing.numerator
        written = self.memory.access(now + 1 + self.path, address, beats, write=True)[-1]
        return max(-(-self.free // denominator) + 2 * self.path, written + self.path)


@dataclass(frozen=True)
class Behind:
    """A DRAM as one call sees it: the channel behind each port, and the beat address from which each stream counts."""

    memory: Mapping[str, MemoryChannel]
    places: Mapping[str, int]


def open_channel(port: str, timing: PortTiming, behind: Behind | None) -> PortChannel:
    """A direction of a port that has been idle."""
    return PortChannel(timing) if behind is None else DramPortChannel(timing, behind.memory[port])


def stream_addresses(stream: Read | Write, timing: PortTiming, behind: Behind | None) -> Iterator[int]:
    """Beat address of every request of a stream; without a DRAM nobody asks where things lie."""
    return repeat(0) if behind is None else addresses(stream.bursts, timing.max_burst, behind.places[stream.name])


def addresses(bursts: tuple[Burst, ...], max_burst: int, base: int) -> Iterator[int]:
    """First beat address of every request of `request_nest`; the addresses of a stream count from ``base``.

    >>> list(addresses((Burst(40, 2, start=0, stride=100),), 16, 7))
    [7, 23, 39, 107, 123, 139]
    """
    for start, beats in requests(bursts):
        yield from (base + start + first for first in range(0, beats, max_burst))


def request_nest(bursts: tuple[Burst, ...], max_burst: int) -> tuple[Nest, ...]:
    """The requests of a stream as a nest whose actions are numbers of beats; long bursts are split.

    >>> request_nest((Burst(40, 2),), 16)
    (Loop(count=2, body=(Run(action=16, count=2), Run(action=8, count=1))),)
    """
    return nest(*(Loop(b.count, (Run(max_burst, b.beats // max_burst), *_rest(b.beats % max_burst))) for b in bursts))


def _rest(beats: int) -> tuple[Run, ...]:
    return (Run(beats, 1),) if beats else ()


__all__ = [
    "Behind", "DramPortChannel", "PortChannel", "PortTiming", "addresses", "open_channel", "request_nest", "stream_addresses",
]  # fmt: skip
