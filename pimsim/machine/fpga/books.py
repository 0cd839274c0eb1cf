"""What a region took: length, and where the time of each stage went."""

from __future__ import annotations

from dataclasses import dataclass

OUTPUT = "output"
"""Stall reason of a stage whose pipeline is full because nobody takes its results."""


@dataclass(frozen=True)
class RegionTimes:
    """Cycles of a region, and for each stage reason -> cycles between iterations beyond the initiation interval."""

    cycles: int
    stalls: dict[str, dict[str, int]]


__all__ = ["OUTPUT", "RegionTimes"]
