"""What lies in each memory of a PIM machine, when: from the program and the ticks at which its steps ran."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pimsim.arch.dram import DramSpec
from pimsim.mapper.mapping import Mapping
from pimsim.program.isa import Block, Compute, Kernel, Placed, Repeat, Run
from pimsim.trace.spans import BlockSpans

if TYPE_CHECKING:
    from pimsim.mapper.attention.lowering import AttentionLowering  # numpy, which a decoder does without

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
    kept_on_chip = sum(value.size for value in lowering.persistent.values() if not (value.view or value.made_of))
    kept_in_banks = sum(value.size for value in lowering.persistent.values() if value.view or value.made_of)
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
    return sum(_words_written(step.items, lanes) for stream in block.channels for step in stream)


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


class MemoryWatch:
    """Sees the program of a decoder go by, and adds up what it writes into the banks."""

    def __init__(self, mapping: Mapping, spec: DramSpec) -> None:
        self.mapping, self.spec = mapping, spec
        self.course: list[int] = []
        """Elements written since the beginning, after each forward pass."""
        self.streamed: list[int] = []
        """The same of the cache in the memory of a streaming unit."""
        self.scratch = 0
        """Elements that an attention algorithm stores and loads again, or leaves in a state, at places of their own."""
        self._writers: set[str] | None = None
        self._last: Sequence[Placed] = ()

    def watch(self, passes: Iterable[list[Placed]]) -> Iterator[list[Placed]]:
        """The same passes."""
        for blocks in passes:
            self._note(blocks)
            yield blocks

    def _note(self, blocks: Sequence[Placed]) -> None:
        if self._writers is None:  # the first pass is walked whole, to see which operations write
            self._writers = {
                placed.block.ops[step.op].kind
                for placed in blocks
                for stream in placed.block.channels
                for step in stream
                if _words_written(step.items, self.mapping.shape.lanes)
            }
        words: dict[int, int] = {}
        total = 0
        for placed in blocks:
            key = id(placed.block)
            if key not in words:
                words[key] = self._written(placed.block)
            total += words[key]
        self.course.append(total + (self.course[-1] if self.course else 0))
        appended = sum(_appended(placed.block) for placed in blocks)
        self.streamed.append(appended + (self.streamed[-1] if self.streamed else 0))
        self._last = blocks

    def _of_algorithm(self, block: Block) -> int:
        """Elements that attention by an algorithm adds to the caches; what else it writes takes the same places again."""
        lanes = self.mapping.shape.lanes
        appends = {number for number, op in enumerate(block.ops) if ".append." in op.name}
        words = {True: 0, False: 0}
        for stream in block.channels:
            for step in stream:
                words[step.op in appends] += _words_written(step.items, lanes)
        self.scratch = max(self.scratch, words[False] * self.mapping.workload.model.layers)
        return words[True]

    def _written(self, block: Block) -> int:
        if self.mapping.attention is not None and block in self.mapping.attention.programs:
            return self._of_algorithm(block)
        writers = [number for number, op in enumerate(block.ops) if op.kind in (self._writers or ())]
        lanes = self.mapping.shape.lanes
        return sum(
            _words_written(step.items, lanes) for stream in block.channels for step in stream if step.op in writers
        )

    def section(self, ends_of_passes: Sequence[int], element: int) -> dict[str, Any]:
        """The ``memory`` section: weights and tables lie in the banks from the beginning, the cache grows with every pass.

        Of the SRAM, what the last pass touches, as buffers lie at fixed places. What the next pass needs is the cache.
        """
        spec, mapping = self.spec, self.mapping
        top = max((self._top(placed.block) for placed in self._last), default=0) * element
        dram = spec.channels * spec.banks_per_channel * spec.rows * spec.columns * spec.burst_bytes
        found = {
            "asic.sram": _unit(top, 0, mapping.sram.capacity * mapping.copies * element, [[0.0, top]]),
            "dram": self._growing(mapping.elements_given(), self.course, dram, ends_of_passes, element),
        }
        if mapping.attention is not None:
            found["dram"] = self._with_states(found["dram"], element)
        if mapping.arch.has_streaming_unit:
            from pimsim.mapper.hybrid import SCORE_BYTES, HybridMapping

            assert isinstance(mapping, HybridMapping)
            held, used = mapping.stream_elements_given(), mapping.stream.used * SCORE_BYTES
            memory = self._growing(held, self.streamed, mapping.unit.memory_bytes, ends_of_passes, element)
            found |= {"fpga.buffer": _unit(used, 0, mapping.unit.buffer_bytes, [[0.0, used]]), "fpga.memory": memory}
        return found

    def _top(self, block: Block) -> int:
        """The SRAM element behind the last one that a block uses."""
        attention = self.mapping.attention
        if attention is not None and block in attention.programs:
            return attention.programs[block].lowering.space.peak
        return _touched(block, self.mapping.shape.lanes, self.mapping.shape.banks)

    def _with_states(self, dram: dict[str, Any], element: int) -> dict[str, Any]:
        """The same with what an algorithm writes at fixed places, from the first pass on; its states persist."""
        from pimsim.mapper.mapping import elements_held

        assert self.mapping.attention is not None
        states = sum(map(elements_held, self.mapping.attention.states().values())) * self.mapping.workload.model.layers
        (start, given), *later = dram["over_time"]
        course = [[start, given], *([at, held + self.scratch * element] for at, held in later)]
        return _unit(
            dram["peak_bytes"] + self.scratch * element,
            dram["persistent_bytes"] + states * element,
            dram["capacity_bytes"],
            course,
        )

    def _growing(
        self, given: int, written: Sequence[int], capacity: int, ends: Sequence[int], element: int
    ) -> dict[str, Any]:
        """A memory that holds ``given`` elements from the beginning, and after each pass what was ``written`` so far."""
        last = written[-1] if written else 0
        course = [(0, given * element), *((t, (given + n) * element) for t, n in zip(ends, written, strict=True))]
        points = [[tick * self.spec.tick_seconds, n] for tick, n in _thinned(course)]
        return _unit((given + last) * element, last * element, capacity, points)


def _appended(block: Block) -> int:
    """Elements of keys and values that kernels of a streaming unit append to its cache."""
    return sum(
        2 * item.shape[1] * item.shape[2] * (item.shape[5] if len(item.shape) > 5 else 1)
        for _, stream in block.further
        for step in stream
        for item in step.items
        if isinstance(item, Kernel) and item.function in {"scores", "attend"}
    )


def _words_written(items: Sequence[Any], lanes: int) -> int:
    """Elements that items of a channel write into the banks."""
    words = 0
    for item in items:
        if isinstance(item, Repeat):
            words += item.count * _words_written(item.body, lanes)
        elif isinstance(item, Run) and item.command == "WR":
            full = item.count if item.lane >= 0 else item.count * lanes
            words += item.elements if item.elements >= 0 else full
    return words


def _touched(block: Block, lanes: int, banks: int) -> int:
    """The SRAM element behind the last one that a block reads or writes."""
    top = 0
    for channel, stream in enumerate(block.channels):
        for step in stream:
            top = max(top, _top(step.items, channel, lanes, banks))
    for step in block.asic:
        for item in step.items:
            if isinstance(item, Compute):
                top = max(top, item.target + 1, *(at + item.length for at in item.sources[:1]))
    return top


def _top(items: Sequence[Any], channel: int, lanes: int, banks: int) -> int:
    top = 0
    for item in items:
        if isinstance(item, Repeat):
            top = max(top, _top(item.body, channel, lanes, banks) + (item.count - 1) * item.sram_step)
        elif item.sram >= 0:
            width = banks if item.command == "RD_MAC" else 1 if item.lane >= 0 else lanes
            top = max(top, item.sram + (item.count - 1) * item.sram_step + channel * item.sram_channel + width)
    return top


__all__ = ["MemoryWatch", "attention_memory"]
