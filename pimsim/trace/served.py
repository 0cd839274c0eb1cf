"""What a controller did for plain requests: counters of one channel, folded as it goes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

HIT, MISS, CONFLICT = "hit", "miss", "conflict"
"""What a request meets in its bank: its row open, no row open, another row open."""


@dataclass
class Served:
    """Counters of one channel; times in ticks."""

    commands: Counter[str] = field(default_factory=Counter)
    reads: int = 0
    """Reads that the memory answered."""
    writes: int = 0
    forwarded: int = 0
    """Reads that the write queue answered."""
    met: Counter[str] = field(default_factory=Counter)
    """What requests met in their bank: `HIT`, `MISS`, `CONFLICT`."""
    read_latency: Counter[int] = field(default_factory=Counter)
    """Ticks from entering the queue to the last data -> reads."""
    write_latency: Counter[int] = field(default_factory=Counter)
    waited: int = 0
    """Ticks that requests spent in front of full queues, summed."""
    row_open_ticks: int = 0
    end: int = 0
    """Tick at which the last data of any request was there."""


__all__ = ["CONFLICT", "HIT", "MISS", "Served"]
