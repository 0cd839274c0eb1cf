"""Figures of plain requests: bandwidth against the data pins, latency, what requests met in their banks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pimsim.arch.dram import DramSpec
from pimsim.trace.served import Served


@dataclass(frozen=True)
class Latency:
    """Seconds from entering a queue to the last data; a percentile is the smallest latency that so many do not exceed."""

    mean: float
    p50: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True)
class Interference:
    """What host requests do to the PIM program on the same channels."""

    seconds_alone: float
    """Length of the run without host requests."""
    slowdown: float
    """Length of this run over `seconds_alone`."""
    turns: int
    """How often a channel went from the program to requests, summed over channels."""
    host_seconds: float
    """Time that channels spent on requests, rows that had to be closed for them included; summed over channels."""


@dataclass(frozen=True)
class Requests:
    """What a controller did for plain requests, all channels together."""

    reads: int
    """Answered by the memory."""
    writes: int
    forwarded: int
    """Reads that the write queue answered; they are in no other figure."""
    bytes: int
    bandwidth: float
    """Bytes per second over the whole run."""
    peak_bandwidth: float
    """Bytes per second with a burst on all data pins all the time."""
    hits: int
    """Requests that found their row open; `misses` found their bank closed, `conflicts` another row open."""
    misses: int
    conflicts: int
    read_latency: Latency | None
    """None without reads; likewise `write_latency`."""
    write_latency: Latency | None
    waiting_seconds: float
    """Mean time in front of a full queue."""
    interference: Interference | None = None
    """None where no PIM program runs."""


def summarise(
    spec: DramSpec, served: Sequence[Served], ticks: int, interference: Interference | None = None
) -> Requests:
    """The figures of a run of ``ticks``; ``served``: one for each channel."""
    reads, writes = sum(one.reads for one in served), sum(one.writes for one in served)
    moved, seconds = spec.burst_bytes * (reads + writes), ticks * spec.tick_seconds
    waited = sum(one.waited for one in served) * spec.tick_seconds
    met: Counter[str] = sum((one.met for one in served), Counter())
    return Requests(
        reads=reads,
        writes=writes,
        forwarded=sum(one.forwarded for one in served),
        bytes=moved,
        bandwidth=moved / seconds if seconds else 0.0,
        peak_bandwidth=peak_bandwidth(spec),
        hits=met["hit"],
        misses=met["miss"],
        conflicts=met["conflict"],
        read_latency=_latency(spec, [one.read_latency for one in served]),
        write_latency=_latency(spec, [one.write_latency for one in served]),
        waiting_seconds=waited / (reads + writes) if reads + writes else 0.0,
        interference=interference,
    )


def peak_bandwidth(spec: DramSpec) -> float:
    """Bytes per second of all data pins: a burst every ``nBL`` in every channel (pseudo channel)."""
    sets = spec.counts[spec.levels.index("pseudochannel")] if "pseudochannel" in spec.levels else 1
    return spec.channels * sets * spec.burst_bytes / (spec.timing["nBL"] * spec.tick_seconds)


def _latency(spec: DramSpec, parts: Sequence[Counter[int]]) -> Latency | None:
    ticks: Counter[int] = sum(parts, Counter())
    number = ticks.total()
    if not number:
        return None
    places = {share: math.ceil(share * number) for share in (0.5, 0.95, 0.99, 1.0)}
    found: dict[float, int] = {}
    seen = 0
    for latency in sorted(ticks):
        seen += ticks[latency]
        for share, place in places.items():
            if share not in found and seen >= place:
                found[share] = latency
    mean = sum(latency * n for latency, n in ticks.items()) / number
    return Latency(*(spec.tick_seconds * each for each in (mean, found[0.5], found[0.95], found[0.99], found[1.0])))


__all__ = ["Interference", "Latency", "Requests", "peak_bandwidth", "summarise"]
