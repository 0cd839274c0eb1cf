"""What lies in each memory of a PIM machine, when: from the program and the ticks at which its steps ran."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pimsim.arch.dram import DramSpec
from pimsim.mapper.attention.lowering import AttentionLowering
from pimsim.program.isa import Block, Run
from pimsim.trace.spans import BlockSpans

MAX_POINTS = 256
"""Points of a course that a result keeps."""


def attention_memory(
    lowering: AttentionLowering,
    block: Block,
    spans: Sequence[BlockSpans],
    spec: DramSpec,
    element: int,
    ends_of_runs: Sequence[int],
) -> dict[str, Any]:
    """The ``memory`` section: bytes of results in the SRAM and of tensors in the banks.

    An element lies in the SRAM from the first write of its place on until the last one reads it, by the order of the program. The
    banks hold what is given, from the beginning, and what is written. Persistent is what the algorithm keeps for its next
    step (`Keep`), on chip or in the banks. A program that runs again and again has a point for each run, with its peak.
    """
    ends = _ends(block, spans)
    live, course = 0, [(tick, lowering.space.peak * element) for tick in ends_of_runs] if not spans else []
    for name, live in lowering.space.history:
        op = name.partition(".weights")[0].partition(".head")[0].partition(".factor")[0]
        course.append((ends.get(op, 0), live * element))
    kept_on_chip = sum(value.size for value in lowering.persistent.values() if value.view is None)
    kept_in_banks = sum(value.size for value in lowering.persistent.values() if value.view is not None)
    given, written = lowering.words_given(), _written(block, lowering.shape.lanes)
    return {
        "asic.sram": _unit(
            lowering.space.peak * element,
            kept_on_chip * element,
            lowering.space.capacity * element,
            [[tick * spec.tick_seconds, n] for tick, n in _thinned(course)],
        ),
        "dram": _unit(
            (given + written) * element,
            kept_in_banks * element,
            spec.channels * spec.banks_per_channel * spec.rows * spec.columns * spec.burst_bytes,
            [[0.0, given * element], [ends_of_runs[-1] * spec.tick_seconds, (given + written) * element]],
        ),
    }


def _unit(peak: int, persistent: int, capacity: int, course: list[list[float]]) -> dict[str, Any]:
    return {"peak_bytes": peak, "persistent_bytes": persistent, "capacity_bytes": capacity, "over_time": course}


def _ends(block: Block, spans: Sequence[BlockSpans]) -> dict[str, int]:
    """Operation -> tick at which its last step was done."""
    ends: dict[str, int] = {}
    for each in spans:
        for span in each.spans:
            name = each.ops[span.op].name
            ends[name] = max(ends.get(name, 0), each.origin + span.end)
    assert block.ops
    return ends


def _written(block: Block, lanes: int) -> int:
    """Elements that the program writes into the banks."""
    words = 0
    for stream in block.channels:
        for step in stream:
            for item in step.items:
                if isinstance(item, Run) and item.command == "WR":
                    full = item.count if item.lane >= 0 else item.count * lanes
                    words += item.elements if item.elements >= 0 else full
    return words


def _thinned(course: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """By time; of several values at one time the largest, and of many points as many as a result keeps, peaks included."""
    by_tick: dict[int, int] = {}
    latest = 0
    for tick, n in course:
        latest = max(latest, tick)
        by_tick[latest] = max(by_tick.get(latest, 0), n)
    points = sorted(by_tick.items())
    step = -(-len(points) // MAX_POINTS) or 1
    return [max(points[i : i + step], key=lambda point: point[1]) for i in range(0, len(points), step)]


__all__ = ["attention_memory"]
