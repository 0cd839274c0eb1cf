"""Expansions of attention algorithms as calls of streaming regions: one call for each primitive, none knows an algorithm.

* A value lies in memory, in the buffer on the chip, or in both (what was stored and is used again).
* What is loaded for a single product does not rest on the chip: its rows stream past the other factor.
* Results that are only put side by side and stored go to memory one by one, as soon as they are there.
* Parts, most rearrangements and marks are other windows of the same words and take no time.
* A call waits for what it reads, for the call before it on each of its units and ports, and for the readers of the words that
  it overwrites. Everything else overlaps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from pimsim.errors import UnsupportedOp
from pimsim.mapper.fpga import streams
from pimsim.mapper.fpga.buffers import Buffer, Memory
from pimsim.mapper.fpga.lengths import masked_lengths
from pimsim.mapper.fpga.passes import Pass, passes
from pimsim.mapper.fpga.streams import Lanes, Rows
from pimsim.program.dataflow import Burst, Call, Region
from pimsim.program.places import Place, Shape, Work, dense
from pimsim.program.streaming import Held, Kept, StreamProgram
from pimsim.workload.attention import primitives as p
from pimsim.workload.attention.primitives import Primitive
from pimsim.workload.graph import WorkloadGraph

WINDOWS = (p.Part, p.Arrange, p.Keep)
"""Primitives that may be another window of the same words."""

STREAMED = (p.Scores, p.Product, p.WeightedSum)
"""Primitives whose second operand can stream past the first one."""


@dataclass(frozen=True)
class StreamUnits:
    """What the machine has for primitives, in plain numbers."""

    units: Mapping[str, Lanes]
    buffer_words: int
    ports: tuple[str, ...]
    words_per_beat: int
    load_depth: int
    store_depth: int
    fifo: int
    name: str = "the machine"


def lower(
    graph: WorkloadGraph, machine: StreamUnits, progress: Callable[[int, int], None] | None = None
) -> StreamProgram:
    """The program of an expansion.

    Raises:
        UnsupportedOp: a primitive needs a unit that the machine does not have, or words that lie nowhere.
        CapacityExceeded: what must be on the chip at once is larger than the buffer.
    """
    return _Lowering(graph, machine).run(progress)


@dataclass
class _Value:
    """Where a value lies, and which calls must be complete before it is there."""

    memory: Place | None = None
    chip: tuple[Place, ...] = ()
    ready: tuple[int, ...] = ()
    held: tuple[Held, ...] = ()
    stream: Rows | None = None
    """Rows that stream into the only call that reads the value, from this port."""
    port: str = ""
    work: Work | None = None
    """What streams, where it is no window of memory."""

    def operand(self) -> tuple[Place, ...] | Work:
        """Where a call reads the value."""
        return self.work or self.chip or ((self.memory,) if self.memory else ())


class _Needs:
    """What the rest of the graph wants of every value: in memory, on the chip, until when."""

    def __init__(self, ops: Sequence[Primitive]) -> None:
        self.memory: set[str] = set()
        self.chip: set[str] = set()
        self.uses: dict[str, int] = {}
        self.host: set[str] = set()
        self.last: dict[str, int] = {}
        self.growth: dict[str, int] = {}
        """Rows that appends will add."""
        self.streamed: set[str] = set()
        """Loads and gathers whose rows stream past the other factor of a product."""
        self.joined: dict[str, p.Store] = {}
        """Joins whose parts are stored one by one -> the store that would have followed."""
        self.parts: dict[str, list[tuple[p.Store, int, int]]] = {}
        """Part of such a join -> (store, axis, first entry) of its places."""
        self._count(ops)
        self._find_host(ops)
        self._by_name = by_name = {op.name: op for op in ops}
        for op in ops:
            if isinstance(op, STREAMED) and op.name not in self.host and self._streams(by_name[op.inputs[1]]):
                self.streamed.add(op.inputs[1])
        for index in reversed(range(len(ops))):
            self._look_at(index, ops[index], len(ops))

    def _streams(self, source: Primitive) -> bool:
        moves = isinstance(source, p.Load) or (isinstance(source, p.Gather) and not source.on_chip)
        return moves and self.uses[source.name] == 1 and source.size > 0

    def _count(self, ops: Sequence[Primitive]) -> None:
        for op in ops:
            for name in op.inputs:
                self.uses[name] = self.uses.get(name, 0) + 1

    def _find_host(self, ops: Sequence[Primitive]) -> None:
        """Operations on stored results whose own results nobody but such operations reads."""
        stored: set[str] = set()
        for op in ops:
            beside = isinstance(op, p.Join | p.Part | p.Arrange | p.Keep) and all(name in stored for name in op.inputs)
            if beside or isinstance(op, p.Store):
                stored.add(op.name)
        read: set[str] = set()
        for op in reversed(ops):
            if op.name in stored and not isinstance(op, p.Store) and op.name not in read:
                self.host.add(op.name)
            else:
                read.update(op.inputs)

    def _look_at(self, index: int, op: Primitive, end: int) -> None:
        if op.name in self.host:
            return
        last = self.last.setdefault(op.name, end if not self.uses.get(op.name) else index)
        if isinstance(op, p.Keep):
            last = self.last[op.name] = end
        if op.name in self.joined:
            self.chip.update(op.inputs)
            return
        if isinstance(op, p.Store) and op.name not in self.chip:
            self._split(op)
            last = index
        window = isinstance(op, (*WINDOWS, p.Store)) or op.name in self.streamed
        for position, name in enumerate(op.inputs):
            self.last[name] = max(self.last.get(name, 0), last if window else index)
            if isinstance(op, WINDOWS) or (isinstance(op, p.Join) and op.name in self.memory):
                for wanted in (self.memory, self.chip):
                    if op.name in wanted:
                        wanted.add(name)
            elif position == 0 and self._from_memory(op):
                self.memory.add(name)
            else:
                self.chip.add(name)
        if isinstance(op, p.Append):
            self.growth[op.inputs[0]] = op.sources[1][-2] + self.growth.get(op.name, 0)

    def _split(self, store: p.Store) -> None:
        """Let the parts of a join that is stored go to memory one by one, if whole rows are joined and nobody else reads it."""
        join = self._by_name[store.inputs[0]]
        if (
            not isinstance(join, p.Join)
            or self.uses[join.name] > 1
            or join.axis % len(join.shape) == len(join.shape) - 1
        ):
            return
        self.joined[join.name] = store
        start, axis = 0, join.axis % len(join.shape)
        for name, shape in zip(join.inputs, join.sources, strict=True):
            self.parts.setdefault(name, []).append((store, axis, start))
            start += shape[axis]

    @staticmethod
    def _from_memory(op: Primitive) -> bool:
        return isinstance(op, p.Load | p.Append) or (isinstance(op, p.Gather) and not op.on_chip)


class _Lowering:
    """Walks the graph once."""

    def __init__(self, graph: WorkloadGraph, machine: StreamUnits) -> None:
        self.machine = machine
        self.ops: list[Primitive] = [op for op in graph if isinstance(op, Primitive)]
        self.needs = _Needs(self.ops)
        self.masked = masked_lengths(self.ops)
        self.by_name = {op.name: op for op in self.ops}
        self.memory = Memory(machine.words_per_beat, machine.ports)
        self.buffer = Buffer(machine.buffer_words)
        self.live = 0
        self.values: dict[str, _Value] = {}
        self.program = StreamProgram()
        self.latest: dict[str, int] = {}
        """Unit or port -> the last call that uses it."""
        self.expiring: dict[int, list[Held]] = {}
        self.targets: dict[str, Place] = {}
        """Store whose operand comes in parts -> where it lies."""

    def run(self, progress: Callable[[int, int], None] | None) -> StreamProgram:
        self._check_units()
        for index, op in enumerate(self.ops):
            if progress and index % 256 == 0:
                progress(index, len(self.ops))
            if op.name in self.needs.host:
                self.program.assembled.append(op)
                if isinstance(op, p.Keep):
                    self.program.kept.append(Kept(op.name, op.size, "memory"))
            else:
                self._lower(index, op)
                self._store_parts(op)
            for held in self.expiring.pop(index, ()):
                self.live -= held.size
                self.buffer.take_back(held.start, held.size, tuple(held.calls))
        end = len(self.ops)
        for op in self.ops:
            if op.name in self.needs.host or op.name in self.needs.joined:
                continue
            if isinstance(op, p.Store | p.Append) or self.needs.last[op.name] >= end:
                value = self.values[op.name]
                self.program.results[op.name] = (value.memory,) if value.memory else value.chip
        self.program.memory_words, self.program.buffer_words = self.memory.size, self.buffer.high
        return self.program

    def _check_units(self) -> None:
        for op in self.ops:
            if isinstance(op, (*WINDOWS, p.Source, p.Load, p.Store, p.Append, p.Gather)):
                continue
            for work in passes(op):
                if work.unit not in self.machine.units:
                    raise UnsupportedOp(
                        f"fpga.primitives.units of {self.machine.name} must have {work.unit} for {op.name} ({op.KIND}), not "
                        f"only {', '.join(self.machine.units)}"
                    )

    # -- kinds ----------------------------------------------------------------------------------------------------

    def _lower(self, index: int, op: Primitive) -> None:
        if op.name in self.needs.joined or op.name in self.targets:
            return  # its parts are in memory already
        if isinstance(op, p.Source):
            self.values[op.name] = self._given(op)
        elif isinstance(op, p.Part | p.Arrange | p.Keep):
            self.values[op.name] = self._window(index, op)
        elif isinstance(op, p.Join) and op.name in self.needs.memory:
            self.values[op.name] = self._beside(op)
        elif isinstance(op, p.Load):
            self.values[op.name] = self._load(index, op)
        elif isinstance(op, p.Store):
            self.values[op.name] = self._store(op)
        elif isinstance(op, p.Append):
            self.values[op.name] = self._append(op)
        elif isinstance(op, p.Gather) and not op.on_chip:
            self.values[op.name] = self._gather(index, op)
        elif isinstance(op, p.EmptyState) and op.name in self.needs.memory:
            place = self._in_memory(op)
            self.program.presets.append((op, place))
            self.values[op.name] = _Value(memory=place)
        else:
            self.values[op.name] = self._compute(index, op)

    def _given(self, op: p.Source) -> _Value:
        """A tensor that is there from the start, where it is used."""
        value = _Value()
        if op.name in self.needs.chip:
            place, held, _ = self._on_chip(-1, op.name, op.shape, len(self.ops))
            held.calls.append(-1)
            value.chip, value.held = (place,), (held,)
        if op.name in self.needs.memory or not value.chip:
            value.memory = self._in_memory(op)
        self.program.inputs[op.name] = [*value.chip, *((value.memory,) if value.memory else ())]
        return value

    def _window(self, index: int, op: Primitive) -> _Value:
        source = self.values[op.inputs[0]]
        if isinstance(op, p.Keep):
            space = "memory" if source.memory else "chip"
            self.program.kept.append(Kept(op.name, op.size, space))
            return source
        memory = self._seen(op, source.memory) if source.memory is not None else None
        chip = tuple(self._seen(op, place) for place in source.chip)
        if op.name in self.needs.memory and memory is None:
            raise UnsupportedOp(
                f"{op.name} ({op.KIND}) must keep rows in memory at equal distances, as rows begin with a beat of "
                f"{self.machine.words_per_beat} words and heads have room for new rows; {op.sources[0]} cannot be seen as "
                f"{op.shape}"
            )
        if any(place is None for place in chip):
            return replace(self._compute(index, op), memory=memory)
        return _Value(memory, tuple(place for place in chip if place is not None), source.ready, source.held)

    @staticmethod
    def _seen(op: Primitive, place: Place) -> Place | None:
        """The window of the same words that an operation shows, or None if there is none."""
        if isinstance(op, p.Part):
            return place.part(op.axis, op.start, op.stop)
        assert isinstance(op, p.Arrange)
        found: Place | None = place.reshape(op.split) if op.split else place
        if found is not None and op.order:
            found = found.permute(op.order)
        return found.reshape(op.to) if found is not None else None

    def _beside(self, op: p.Join) -> _Value:
        """Stored tensors at equal distances, seen as one."""
        sources = [self.values[name] for name in op.inputs]
        places = [self._memory_of(op, source) for source in sources]
        first, axis = places[0], op.axis % len(op.shape)
        step = places[1].start - first.start if len(places) > 1 else 0
        apart = [replace(first, start=first.start + number * step) for number in range(len(places))]
        if places != apart or first.shape[axis] != 1 or (op.name in self.needs.chip):
            raise UnsupportedOp(
                f"{op.name} ({op.KIND}) must join single rows at equal distances in memory, which these are not"
            )
        strides = (*first.strides[:axis], step, *first.strides[axis + 1 :])
        ready = tuple(sorted({call for source in sources for call in source.ready}))
        return _Value(memory=Place("memory", first.start, op.shape, strides), ready=ready)

    def _load(self, index: int, op: p.Load) -> _Value:
        source = self.values[op.inputs[0]]
        place = self._memory_of(op, source).part(-2, op.rows.start, op.rows.stop, op.rows.step)
        if not op.size:
            return _Value(chip=(dense("chip", 0, op.shape),))
        rows, port = self._rows(op, place, ("reads",)), self.memory.port(place)
        if op.name in self.needs.streamed:
            return _Value(memory=place, ready=source.ready, stream=rows, port=port)
        region = streams.load(rows, port, self.machine.load_depth)
        window = replace(op, sources=(place.shape,), start=0, stop=-1, step=1)
        return self._call(index, window, region, [_Value(memory=place, ready=source.ready)])

    def _store(self, op: p.Store) -> _Value:
        source = self.values[op.inputs[0]]
        place = self._in_memory(op)
        if not op.size:
            return replace(source, memory=place)
        rows = self._rows(op, place, ("writes",))
        region = streams.store(rows, self.memory.port(place), self.machine.store_depth, self.machine.fifo)
        number = self._add(op, region, [source], (place,), ())
        return _Value(place, source.chip, tuple(sorted({*source.ready, number})), source.held)

    def _store_parts(self, op: Primitive) -> None:
        """Store a value where it is a part of something that is stored."""
        for store, axis, start in self.needs.parts.get(op.name, ()):
            if store.name not in self.targets:
                self.targets[store.name] = self._in_memory(store)
                self.values[store.name] = _Value(memory=self.targets[store.name])
            if op.size:
                source, whole = self.values[op.name], self.values[store.name]
                place = self.targets[store.name].part(axis, start, start + op.shape[axis])
                rows = self._rows(store, place, ("writes",))
                region = streams.store(rows, self.memory.port(place), self.machine.store_depth, self.machine.fifo)
                work = Work(replace(store, sources=(op.shape,), shape=op.shape), (source.operand(),), (place,))
                number = self._add(store, region, [source], (place,), (), work)
                self.values[store.name] = replace(whole, ready=(*whole.ready, number))

    def _append(self, op: p.Append) -> _Value:
        cache, new = (self.values[name] for name in op.inputs)
        before = self._memory_of(op, cache)
        if op.name in self.needs.chip:
            raise UnsupportedOp(f"{op.name} must be loaded before it is used, as it lies in memory")
        shape = list(before.shape)
        shape[-2] += op.sources[1][-2]
        whole = replace(before, shape=tuple(shape))
        place = whole.part(-2, op.sources[0][-2], shape[-2])
        rows = self._rows(op, place, ("writes",))
        region = streams.store(rows, self.memory.port(place), self.machine.store_depth, self.machine.fifo)
        work = Work(
            p.Store(op.name, p.Store.KIND, (op.inputs[1],), sources=(op.sources[1],)), (new.operand(),), (place,)
        )
        number = self._add(op, region, [new], (place,), (), work)
        return _Value(whole, (), tuple(sorted({*cache.ready, number})))

    def _gather(self, index: int, op: p.Gather) -> _Value:
        source, chosen = (self.values[name] for name in op.inputs)
        place = self._memory_of(op, source)
        rows = Rows(prod(op.shape[:-1]), op.shape[-1], self.machine.words_per_beat, (), ("reads", "gathered"))
        at, per_beat = place.start // self.machine.words_per_beat, rows.beats
        dense = op.block == 1 or place.strides[-2] == per_beat * self.machine.words_per_beat
        length = per_beat * (op.block if dense else 1)  # what follows each other is a request of its own
        rows = replace(rows, bursts=(Burst(length, rows.count * per_beat // length, at, length),))
        port = self.memory.port(place)
        if op.name in self.needs.streamed:
            work = Work(op, ((place,), chosen.operand()), ())
            ready = tuple(sorted({*source.ready, *chosen.ready}))
            return _Value(ready=ready, held=chosen.held, stream=rows, port=port, work=work)
        region = streams.load(rows, port, self.machine.load_depth)
        return self._call(index, op, region, [_Value(memory=place, ready=source.ready), chosen])

    def _compute(self, index: int, op: Primitive) -> _Value:
        operands = [self.values[name] for name in op.inputs]
        work = passes(op)
        if not op.size:
            return _Value(chip=(dense("chip", 0, op.shape),))
        stream, port = next(((value.stream, value.port) for value in operands if value.stream), (None, ""))
        if stream is not None:
            work = [replace(work[0], rows=stream.count), *work[1:]]
        masked = self.masked.get(op.name)
        if masked is not None:
            first = masked.rows if stream is None else masked.columns
            work = [
                each.of_rows(first if number == 0 else masked.rows, masked.total) for number, each in enumerate(work)
            ]
        *before, last = self._regions(work, stream, port)
        for region in before:
            number = self._add(op, region, operands, (), ())
            operands = [*operands, _Value(ready=(number,))]
        return self._call(index, op, last, operands)

    def _regions(self, work: Sequence[Pass], stream: Rows | None, port: str) -> list[Region]:
        regions = []
        for group in streams.split(work):
            units = streams.lanes_of(group, self.machine.units)
            regions.append(streams.compute(group, units, stream, port, self.machine.load_depth))
            stream, port = None, ""
        return regions

    # -- inside ---------------------------------------------------------------------------------------------------

    def _call(self, index: int, op: Primitive, region: Region, operands: Sequence[_Value]) -> _Value:
        """A call whose results lie in new words of the buffer."""
        until = self.needs.last[op.name]
        shapes = _shapes(op)
        found = [self._on_chip(index, op.name, shape, until) for shape in shapes]
        places = tuple(place for place, _, _ in found)
        waits = tuple(sorted({call for _, _, calls in found for call in calls}))
        held = tuple(block for _, block, _ in found)
        number = self._add(op, region, operands, places, waits)
        for block in held:
            block.calls.append(number)
        return _Value(chip=places, ready=(number,), held=held)

    def _add(
        self,
        op: Primitive,
        region: Region,
        operands: Sequence[_Value],
        results: tuple[Place, ...],
        waits: Iterable[int],
        work: Work | None = None,
    ) -> int:
        """Append a call and give its position."""
        number = len(self.program.calls)
        after = {*waits}
        for value in operands:
            after.update(value.ready)
            for block in value.held:
                block.calls.append(number)
        used = {stage.unit for stage in region.stages if stage.unit in self.machine.units}
        used |= {read.port for read in region.reads} | {write.port for write in region.writes}
        for one in used:
            if one in self.latest:
                after.add(self.latest[one])
            self.latest[one] = number
        if work is None and results:
            work = Work(op, tuple(value.operand() for value in operands[: len(op.inputs)]), results)
        after -= {-1}
        self.program.calls.append(Call(op.name, op.KIND, 0, region, tuple(sorted(after)), work))
        return number

    def _on_chip(self, index: int, what: str, shape: Shape, until: int) -> tuple[Place, Held, tuple[int, ...]]:
        size = max(1, prod(shape))
        start, calls = self.buffer.give(size, what, self.live)
        self.live += size
        held = Held(what, start, size, [], until >= len(self.ops))
        self.program.held.append(held)
        self.expiring.setdefault(max(until, index), []).append(held)
        return dense("chip", start, shape), held, calls

    def _in_memory(self, op: Primitive) -> Place:
        before = self.memory.size
        rows = (op.shape[-2] if len(op.shape) > 1 else 1) + self.needs.growth.get(op.name, 0)
        place = self.memory.place(op.shape, rows)
        self.program.tensor_words[op.name] = self.memory.size - before
        return place

    def _memory_of(self, op: Primitive, value: _Value) -> Place:
        if value.memory is None:
            raise UnsupportedOp(f"{op.name} ({op.KIND}) must read what lies in memory, not a result on the chip")
        return value.memory

    def _rows(self, op: Primitive, place: Place, events: tuple[str, ...]) -> Rows:
        """The rows of a place as bursts; rows that follow each other without a gap make one burst."""
        per_beat = self.machine.words_per_beat
        shape, strides = (1, 1, *place.shape)[-max(2, len(place.shape)) :], place.strides
        strides = (0,) * (len(shape) - len(strides)) + strides
        rows = Rows(prod(shape[:-1]), shape[-1], per_beat, (), events)
        pitch = rows.beats * per_beat
        if (shape[-1] > 1 and strides[-1] != 1) or place.start % per_beat:
            raise UnsupportedOp(
                f"{op.name} ({op.KIND}) must move rows of words that begin with a beat, which these do not"
            )
        merged: list[tuple[int, int]] = []  # (first word, rows) of each burst
        for start in _starts(place.start, shape[:-1], strides[:-1]):
            if merged and start == merged[-1][0] + merged[-1][1] * pitch:
                merged[-1] = (merged[-1][0], merged[-1][1] + 1)
            else:
                merged.append((start, 1))
        return replace(rows, bursts=_bursts(merged, rows.beats, per_beat))


def _starts(first: int, shape: Shape, strides: Shape) -> list[int]:
    starts = [first]
    for size, step in zip(shape, strides, strict=True):
        starts = [start + number * step for start in starts for number in range(size)]
    return starts


def _bursts(runs: Sequence[tuple[int, int]], beats: int, per_beat: int) -> tuple[Burst, ...]:
    """Bursts at equal distances become one with a count."""
    found: list[Burst] = []
    for start, rows in runs:
        last = found[-1] if found else None
        at, length = start // per_beat, rows * beats
        if (
            last is not None
            and last.beats == length
            and (last.count == 1 or at == last.start + last.count * last.stride)
        ):
            found[-1] = replace(last, count=last.count + 1, stride=at - last.start if last.count == 1 else last.stride)
        else:
            found.append(Burst(length, 1, at))
    return tuple(found)


def _shapes(op: Primitive) -> list[Shape]:
    """Shapes of what a primitive leaves: one, or the three parts of weights (head of the state, factor, weights)."""
    if not isinstance(op, p.Exponentiate):
        return [op.shape]
    outer = op.shape[:-1]
    factor = [(*outer, 1)] if len(op.sources) > 1 else []
    return [(*outer, p.HEAD[op.layout]), *factor, op.shape]


__all__ = ["StreamUnits", "lower"]
