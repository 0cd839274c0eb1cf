"""Channels of memory ports: when the beats of a request arrive. Both engines ask these, in the order of requests.

A channel is one direction of a port. Addresses go out one per cycle, data in request order, a beat every
``numerator / denominator`` cycles. A request is made with all that went before it known, so its times are known at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from pimsim.program.dataflow import Burst, Loop, Nest, Run, nest


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

    def read(self, now: int, beats: int) -> list[int]:
        """Arrival cycle of each beat of a read that is requested at ``now``."""
        timing = self.timing
        self.address = max(now, self.address + 1)
        free = max((self.address + timing.latency) * timing.denominator, self.free)
        arrivals = []
        for _ in range(beats):
            arrivals.append(-(-free // timing.denominator))
            free += timing.numerator
        self.free = free
        return arrivals

    def write(self, now: int, beats: int) -> int:
        """Cycle at which the response to a write arrives whose data is complete at ``now``."""
        timing = self.timing
        self.free = max((now + 1) * timing.denominator, self.free) + beats * timing.numerator
        return -(-self.free // timing.denominator) + timing.latency


def request_nest(bursts: tuple[Burst, ...], max_burst: int) -> tuple[Nest, ...]:
    """The requests of a stream as a nest whose actions are numbers of beats; long bursts are split.

    >>> request_nest((Burst(40, 2),), 16)
    (Loop(count=2, body=(Run(action=16, count=2), Run(action=8, count=1))),)
    """
    return nest(*(Loop(b.count, (Run(max_burst, b.beats // max_burst), *_rest(b.beats % max_burst))) for b in bursts))


def _rest(beats: int) -> tuple[Run, ...]:
    return (Run(beats, 1),) if beats else ()


__all__ = ["PortChannel", "PortTiming", "request_nest"]
