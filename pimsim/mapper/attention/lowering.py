"""From primitives to a PIM program: what the banks multiply, what crosses the pins, what the ASIC computes.

* What an operation multiplies with and what lies in memory (a source, a cache, a stored result) stays in the banks: ``MAC_AB``
  with the other operand in the global buffer. A `Load` that only feeds such products moves nothing over the pins.
* Other loads and gathers are reads, stores and appends are writes.
* What is on chip lies in the ASIC's SRAM and is computed on by its functions over tensors.

`LOWERINGS` has an entry for each kind of primitive that the machine can carry out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, log2, prod
from typing import Any, TypeAlias, cast

from pimsim.errors import UnsupportedOp
from pimsim.mapper.attention.banks import Banks, BankTensor, Orientation, Piece, View
from pimsim.mapper.attention.space import Buffer, Space
from pimsim.mapper.builder import BlockBuilder
from pimsim.mapper.lower.pim import PimLowering, ragged
from pimsim.mapper.rows import DotProduct
from pimsim.program.isa import Block, Compute, Item, Run, bank_where
from pimsim.workload.attention import primitives as prim
from pimsim.workload.attention.primitives import Band, Primitive

Nested: TypeAlias = "int | Sequence[Nested]"
"""Integers in nested lists."""


@dataclass
class Value:
    """A result: on chip (`buffer`), in memory (`view`), or both."""

    shape: tuple[int, ...]
    buffer: Buffer | None = None
    offset: int = 0
    view: View | None = None
    tokens: dict[str, None] = field(default_factory=dict)
    """Of what wrote the banks."""
    load: str = ""
    """The load that brought it where it is used, if it stayed in the banks for that."""
    band: Band | None = None
    """Entries of each row that may differ from zero."""
    made_of: tuple[str, ...] = ()
    """Results in memory that it puts together in name only: nobody in the program reads it."""

    @property
    def at(self) -> int:
        """First SRAM element."""
        assert self.buffer is not None
        return self.buffer.at + self.offset

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)


@dataclass
class WeightsValue(Value):
    """What `Exponentiate` leaves: weights in `buffer`, and the state's new head and the factor of the old values."""

    head: Value | None = None
    factor: Value | None = None


class AttentionLowering:
    """A program under construction.

    Args:
        ops: an expansion, in order.
        pim: of the machine.
        banks: DRAM rows to give out.
        space: the SRAM.
        indices: name of a result that addresses depend on -> its integers, from a functional run.
        in_banks: sources that lie in the banks although they are used on chip; they are fetched where they are read.
        serial: one operation at a time.
        name: of the block.
        after: name of the block whose end this one waits for, where it is one of a stream.
    """

    def __init__(
        self,
        ops: Sequence[Primitive],
        pim: PimLowering,
        banks: Banks,
        space: Space,
        indices: Mapping[str, Nested],
        *,
        in_banks: frozenset[str] = frozenset(),
        serial: bool = False,
        name: str = "attention",
        after: str = "",
    ) -> None:
        self.ops, self.pim, self.banks, self.space, self.indices = list(ops), pim, banks, space, indices
        self.in_banks = in_banks
        self.shape = pim.shape
        self.builder = BlockBuilder(name, self.shape.channels, serial=serial)
        self.after = after
        self.values: dict[str, Value] = {}
        self.constants: dict[str, dict[str, Any]] = {}
        """Name of a call of the ASIC -> what it must know besides its operands."""
        self.served: dict[int, str] = {}
        """Operation of the block -> load whose words its products read in the banks."""
        self.skipped: Counter[str] = Counter()
        """``"scores"`` and ``"macs"`` that the banks compute although a mask excludes them."""
        self.persistent: dict[str, Value] = {}
        self._calls = 0
        self._by_name = {op.name: op for op in self.ops}
        self.readers = self._consumers()
        self._last = {name: number for number, op in enumerate(self.ops) for name in op.inputs}
        self._spilled: set[str] = set()
        """Results on chip that are written to memory because rows of them are gathered from there."""
        self._demand()

    # -- what must lie where --------------------------------------------------------------------------------------

    def _consumers(self) -> dict[str, list[tuple[Primitive, int]]]:
        found: dict[str, list[tuple[Primitive, int]]] = {op.name: [] for op in self.ops}
        for op in self.ops:
            for position, name in enumerate(op.inputs):
                found[name].append((op, position))
        return found

    def _demand(self) -> None:
        """Decide which results lie in memory, as which tensor, cut and turned how."""
        self.views: dict[str, View] = {}
        self._tensors: dict[str, BankTensor] = {}
        for op in self.ops:
            self._demand_of(op)
        for op in self.ops:
            self._use(op)
        for tensor in self._tensors.values():
            if not tensor.orientations:
                tensor.orientations["rows"] = []
            self.banks.place(tensor)

    def _demand_of(self, op: Primitive) -> None:
        given = self.views.get(op.inputs[0]) if op.inputs else None
        view: View | None = None
        gathered = any(
            position == 0 and isinstance(reader, prim.Gather) and not reader.on_chip
            for reader, position in self.readers[op.name]
        )
        if isinstance(op, prim.Source | prim.EmptyState):
            wanted = op.name in self.in_banks or self._wanted_in_memory(op.name)
            view = self._new_tensor(op) if wanted else None
        elif isinstance(op, prim.Store):
            view = self._new_tensor(op)
        elif isinstance(op, prim.Append) and given is not None:
            view = self._grown(given, op)
        elif isinstance(op, prim.Keep | prim.Load) and given is not None:
            view = given
            if isinstance(op, prim.Load):
                view = given.part(1, op.start, op.start + op.shape[-2]) if self._stays(op) else None
                self._cut(given.part(1, op.start, op.start + op.shape[-2]))
        elif isinstance(op, prim.Arrange) and given is not None and not op.order and not op.split:
            view = _reshaped(given, op.to)
        elif isinstance(op, prim.Part) and given is not None:
            axis = _axis(op)
            view = given.part(axis, op.start, op.stop) if axis < 2 else None
            if view is not None and axis == 1:
                self._cut(view)
        if view is None and gathered:
            view = self._new_tensor(op)
            self._spilled.add(op.name)
        if view is not None:
            self.views[op.name] = view

    def _wanted_in_memory(self, name: str) -> bool:
        """Whether somebody loads it, appends to it, gathers from it or multiplies with it."""
        for op, position in self.readers[name]:
            if isinstance(op, prim.Load) or (position == 0 and isinstance(op, prim.Append)):
                return True
            if position == 0 and isinstance(op, prim.Gather) and not op.on_chip:
                return True
            if self.is_matrix(op, position):
                return True
            if isinstance(op, prim.Keep | prim.Arrange | prim.Part) and self._wanted_in_memory(op.name):
                return True
        return False

    def is_matrix(self, op: Primitive, position: int) -> bool:
        """Whether an operand is one that the banks can hold in a product."""
        return (
            position == 1 and isinstance(op, prim.Scores | prim.WeightedSum | prim.Product) and len(op.sources[1]) < 4
        )

    def _stays(self, load: Primitive) -> bool:
        readers = self.readers[load.name]
        return bool(readers) and all(
            self.is_matrix(op, position) or (isinstance(op, prim.Part) and _axis(op) < 2 and self._stays(op))
            for op, position in readers
        )

    def _new_tensor(self, op: Primitive) -> View:
        heads, rows, width = _three(op.shape)
        tensor = self._tensors[op.name] = BankTensor(op.name, (heads, rows, width))
        return View(tensor, range(heads), range(rows))

    def _grown(self, cache: View, op: prim.Append) -> View:
        heads, rows, width = cache.tensor.shape
        cache.tensor.shape = (heads, max(rows, cache.rows.stop + op.sources[1][-2]), width)
        return View(cache.tensor, cache.heads, range(cache.rows.start, cache.rows.stop + op.sources[1][-2]))

    @staticmethod
    def _cut(view: View | None) -> None:
        if view is not None:
            view.tensor.cuts |= {view.rows.start, view.rows.stop}

    def _use(self, op: Primitive) -> None:
        """Note how an operation needs the tensors that it finds in memory."""
        for position, name in enumerate(op.inputs):
            view = self.views.get(name)
            if view is None or (op.name in self.views and isinstance(op, VIEWS) and position == 0):
                continue
            if name in self.in_banks:
                view.tensor.orientations.setdefault("rows", [])
            elif isinstance(self._by_name[name], prim.Source | prim.Store | prim.EmptyState) and not _reads_memory(
                self, op, position
            ):
                continue  # has a copy on chip
            turned: Orientation = "rows"
            if self.is_matrix(op, position) and not isinstance(op, prim.Scores):
                turned = "columns"
            if self.is_matrix(op, position):
                self._cut(view)
            view.tensor.orientations.setdefault(turned, [])

    # -- the program ----------------------------------------------------------------------------------------------

    def lower(self) -> Block:
        """The block of all operations.

        Raises:
            UnsupportedOp: the machine cannot carry out a primitive; the error says which and why.
            CapacityExceeded: the SRAM does not hold what is alive.
        """
        for number, op in enumerate(self.ops):
            handler = LOWERINGS.get(type(op))
            if handler is None:
                raise UnsupportedOp(
                    f"attention primitives must be ones that a PIM machine carries out, not {op.KIND!r} ({op.name})"
                )
            self._op = op
            self._index = -1
            if self._in_name_only(op):
                self.values[op.name] = Value(op.shape, made_of=op.inputs)
            else:
                handler(self, op)
            if op.name in self._spilled:
                value = self.values[op.name]
                value.view = self.views[op.name]
                value.tokens = self.write_rows(value.view, value, self.builder.op("spill", op.name))
            self._release(number)
        return self._in_a_stream(self.builder.build()) if self.after else self.builder.build()

    def _in_a_stream(self, block: Block) -> Block:
        """The block with a start that waits for the end of the one before, and an end that the next one waits for."""
        streams = [
            tuple(
                replace(
                    step,
                    waits=step.waits or (f"{self.after}.end",),
                    signals=(*step.signals, f"{block.name}.end") if step is stream[-1] else step.signals,
                )
                for step in stream
            )
            for stream in block.streams
        ]
        return Block(block.name, block.ops, tuple(streams[:-1]), streams[-1])

    def _in_name_only(self, op: Primitive) -> bool:
        """Whether an operation rearranges results in memory for nobody but who looks at them after the run."""
        if not isinstance(op, prim.Join | prim.Part | prim.Arrange) or op.name in self.views:
            return False
        sources = [self.values[name] for name in op.inputs]
        if not all(value.view is not None or value.made_of for value in sources):
            return False
        return all(self.in_name_only_next(reader) for reader, _ in self.readers[op.name])

    def in_name_only_next(self, op: Primitive) -> bool:
        """Whether an operation and all that reads it only rearrange."""
        return isinstance(op, prim.Join | prim.Part | prim.Arrange) and all(
            self.in_name_only_next(reader) for reader, _ in self.readers[op.name]
        )

    def words_given(self) -> int:
        """Elements that lie in the banks before the program begins, every copy counted."""
        words = 0
        for op in self.ops:
            view = self.views.get(op.name)
            if view is not None and isinstance(op, prim.Source | prim.EmptyState):
                words += op.size * len(view.tensor.orientations)
        return words

    @property
    def index(self) -> int:
        """The operation of the block that stands for the current primitive."""
        if self._index < 0:
            self._index = self.builder.op(self._op.KIND, self._op.name)
        return self._index

    def _release(self, number: int) -> None:
        """Give back what nobody reads after this operation; what is never read is a result and stays."""
        for name in {*self.ops[number].inputs}:
            if self._last[name] == number and name not in self.persistent:
                self._drop(name, self.values[name])

    def _drop(self, name: str, value: Value) -> None:
        if isinstance(self._by_name.get(name), prim.Source) and name not in self.in_banks:
            return  # resident
        parts = [value.buffer]
        if isinstance(value, WeightsValue):
            parts += [each.buffer for each in (value.head, value.factor) if each is not None]
        for buffer in parts:
            if buffer is not None:
                buffer.uses -= 1
                if not buffer.uses:
                    self.space.give_back(name, buffer)

    # -- short forms ----------------------------------------------------------------------------------------------

    def new(self, name: str, shape: tuple[int, ...]) -> Value:
        """A place on chip for a result."""
        buffer = self.space.take(name, prod(shape))
        buffer.uses = 1
        return Value(shape, buffer)

    def scratch(self, name: str, shape: tuple[int, ...]) -> Value:
        """A place on chip for something within an operation; `done_with` gives it back."""
        return self.new(f"{self._op.name}.{name}", shape)

    def in_place_of(self, name: str, shape: tuple[int, ...]) -> Value:
        """The place of a result that nobody reads after this operation, so that a state is updated where it lies; or another."""
        value = self.values[name]
        assert value.buffer is not None
        last = self.ops[self._last[name]] is self._op
        given = isinstance(self._by_name[name], prim.Source) and not isinstance(self._op, prim.WeightedSum)
        if name in self.persistent or given or not last or value.buffer.uses > 1 or value.view is not None:
            return self.new(self._op.name, shape)
        if value.shape != shape:
            return self.new(self._op.name, shape)
        value.buffer.uses += 1
        return Value(shape, value.buffer, value.offset)

    def done_with(self, *values: Value | None) -> None:
        """Give back scratch places."""
        for value in values:
            if value is not None and value.buffer is not None:
                value.buffer.uses -= 1
                if not value.buffer.uses:
                    self.space.give_back(self._op.name, value.buffer)

    def alias(self, name: str, value: Value, shape: tuple[int, ...], offset: int = 0) -> Value:
        """The same elements under another name and shape; costs nothing."""
        found = replace(value, shape=shape, offset=value.offset + offset)
        if found.buffer is not None:
            found.buffer.uses += 1
        self.values[name] = found
        return found

    def on_chip(self, name: str) -> Value:
        """A result in the SRAM; what lies in memory only is fetched, which is counted apart from loads."""
        value = self.values[name]
        if value.buffer is None:
            assert value.view is not None
            fetched = self.read_view(value.view, f"{name}.fetched", value.shape, value.tokens, kind="fetch")
            value.buffer, value.offset = fetched.buffer, 0
        return value

    def call(
        self,
        function: str,
        length: int,
        sources: Sequence[Value],
        target: Value,
        second: Value | None = None,
        /,
        **constants: Any,
    ) -> None:
        """A function of the ASIC over tensors; it waits for its operands and for whoever used the places before."""
        if length < 1:
            return
        self._calls += 1
        name = f"{self._op.name}#{self._calls}"
        self.constants[name] = {"shapes": [each.shape for each in sources], "shape": target.shape, **constants}
        compute = Compute(
            function,
            length,
            tuple(each.at for each in sources),
            target.at,
            name,
            total=second.at if second is not None else -1,
        )
        waits = self.waits(sources, [target, *([second] if second is not None else [])])
        self.builder.asic(self.index, (compute,), waits, (name,))
        self.mark(name, sources, [target, *([second] if second is not None else [])])

    def waits(self, sources: Iterable[Value], targets: Iterable[Value]) -> tuple[str, ...]:
        """Tokens to wait for before these are read and those written."""
        waits: dict[str, None] = {}
        for each in sources:
            assert each.buffer is not None
            waits |= each.buffer.tokens
        for each in targets:
            assert each.buffer is not None
            waits |= dict.fromkeys(each.buffer.free_after) | each.buffer.readers | each.buffer.tokens
        return tuple(waits)

    @staticmethod
    def mark(token: str, sources: Iterable[Value], targets: Iterable[Value]) -> None:
        """Note that ``token`` says when these have been read and those written."""
        for each in sources:
            assert each.buffer is not None
            each.buffer.readers[token] = None
        for each in targets:
            assert each.buffer is not None
            each.buffer.tokens[token] = None
            each.buffer.free_after = ()

    # -- banks ----------------------------------------------------------------------------------------------------

    def on_channels(self, items: Mapping[int, list[Item]], waits: tuple[str, ...], index: int | None = None) -> str:
        """A step for each channel that has something to do; returns the token of all of them."""
        self._calls += 1
        token = f"{self._op.name}@{self._calls}"
        for channel in sorted(items):
            self.builder.pim(self.index if index is None else index, [channel], tuple(items[channel]), waits, (token,))
        return token

    def _where(self, bank: int) -> tuple[int, ...]:
        counts = self.pim.spec.counts
        return bank_where(bank, counts) + self.pim.none[len(counts) :]

    def read_view(
        self, view: View, name: str, shape: tuple[int, ...], ready: Mapping[str, None], kind: str = ""
    ) -> Value:
        """All rows of a view, into the SRAM."""
        target = self.new(name, shape)
        index = self.builder.op(kind, name) if kind else self.index
        items: dict[int, list[Item]] = {}
        at = target.at
        for head in view.heads:
            for piece in view.tensor.pieces("rows", head, view.rows):
                start = at + (piece.rows.start - view.rows.start) * piece.width
                for channel, runs in self._transfer("RD", piece, start).items():
                    items.setdefault(channel, []).extend(runs)
            at += len(view.rows) * view.tensor.shape[2]
        token = self.on_channels(items, (*ready, *self.waits([], [target])), index)
        self.mark(token, [], [target])
        return target

    def _transfer(self, command: str, piece: Piece, sram: int) -> dict[int, list[Item]]:
        """Read or write a piece by rows: all banks' rows open at once, dot after dot; SRAM ``[rows, width]``."""
        found: dict[int, list[Item]] = {}
        for chunk, inner in enumerate(piece.chunks):
            for group in range(piece.groups):
                items = found.setdefault(piece.owner(group), [])
                column = piece.column(group, chunk)
                for row, part in _by_rows(column, piece.columns(chunk), self.shape.columns):
                    done = row * self.shape.columns + part.start - column
                    carried = min(len(part) * self.shape.lanes, len(inner) - done * self.shape.lanes)
                    items.append(Run("ACT_AB", self.pim.none, row=row))
                    for bank in range(piece.dots_of(group)):
                        dot = group * self.shape.banks + bank
                        items.append(
                            Run(
                                command,
                                self._where(bank),
                                row=row,
                                column=part.start,
                                count=len(part),
                                sram=sram + dot * piece.width + inner.start + done * self.shape.lanes,
                                sram_step=self.shape.lanes,
                                elements=ragged(carried, self.shape.lanes),
                            )
                        )
                    items.append(Run("PREab", self.pim.none))
        return found

    def write_rows(self, view: View, value: Value, index: int | None = None) -> dict[str, None]:
        """Write rows ``[heads, rows, width]`` from the SRAM to a view, in every orientation of its tensor; returns the tokens."""
        width, tokens = view.tensor.shape[2], []
        for number, orientation in enumerate(view.tensor.orientations):
            items: dict[int, list[Item]] = {}
            at = value.at
            for head in view.heads:
                for row in view.rows:
                    start = at + (row - view.rows.start) * width
                    for channel, runs in self._write_row(view.tensor, orientation, head, row, start).items():
                        items.setdefault(channel, []).extend(runs)
                at += len(view.rows) * width
            into = self.builder.op("copy", self._op.name) if number else index
            tokens.append(self.on_channels(items, self.waits([value], []), into))
            self.mark(tokens[-1], [value], [])
        return dict.fromkeys(tokens)

    def _write_row(
        self, tensor: BankTensor, orientation: Orientation, head: int, row: int, sram: int
    ) -> dict[int, list[Item]]:
        piece = next(p for p in tensor.orientations[orientation] if p.head == head and row in p.rows)
        inside = row - piece.rows.start
        if orientation == "rows":
            return {piece.owner(inside // self.shape.banks): self.row_access("WR", piece, inside, sram)}
        found: dict[int, list[Item]] = {}
        for group in range(piece.groups):
            place = piece.place(group * self.shape.banks, inside)
            found.setdefault(place.channel, []).extend(
                [
                    Run("ACT_AB", self.pim.none, row=place.row),
                    Run(
                        "WR",
                        self.pim.none,
                        row=place.row,
                        column=place.column,
                        count=piece.dots_of(group),
                        sweep=True,
                        lane=place.lane,
                        sram=sram + group * self.shape.banks,
                        sram_step=1,
                    ),
                    Run("PREab", self.pim.none),
                ]
            )
        return found

    def row_access(self, command: str, piece: Piece, dot: int, sram: int) -> list[Item]:
        """Read or write one dot of a piece."""
        group, bank = divmod(dot, self.shape.banks)
        items: list[Item] = []
        for chunk, inner in enumerate(piece.chunks):
            column = piece.column(group, chunk)
            for row, part in _by_rows(column, piece.columns(chunk), self.shape.columns):
                done = row * self.shape.columns + part.start - column
                carried = min(len(part) * self.shape.lanes, len(inner) - done * self.shape.lanes)
                items += [
                    Run("ACT", self._where(bank), row=row),
                    Run(
                        command,
                        self._where(bank),
                        row=row,
                        column=part.start,
                        count=len(part),
                        sram=sram + inner.start + done * self.shape.lanes,
                        sram_step=self.shape.lanes,
                        elements=ragged(carried, self.shape.lanes),
                    ),
                    Run("PREpb", self._where(bank)),
                ]
        return items

    def multiply(
        self,
        vectors: Value,
        view: View,
        out: Value,
        orientation: Orientation,
        load: str = "",
        tokens: Mapping[str, None] | None = None,
        used: Callable[[int], range] | None = None,
        limited: bool = False,
    ) -> None:
        """Products in the banks of rows ``[heads, rows, inner]`` with a view: ``[heads, rows, dots]``.

        Args:
            vectors: on chip.
            view: rows as keys (scores), or columns as values (weighted sums).
            out: on chip.
            orientation: which of both.
            load: the load that these words count for.
            tokens: of what wrote the banks.
            used: row -> entries of the result (keys) or of the vector (weights) that matter; None: all.
            limited: for weights, ``used`` names entries of the vector.
        """
        heads, rows, inner = _three(vectors.shape)
        results = out.shape[-1]
        shared = heads // len(view.heads)
        last: dict[int, list[_Job]] = {}
        partial: list[Value] = []
        missing = False
        for h in range(heads):
            pieces = view.tensor.pieces(orientation, view.heads[h // shared], view.rows)
            for number, (piece, chunk) in enumerate((p, c) for p in pieces for c in range(len(p.chunks))):
                add_up = orientation == "columns" or len(piece.chunks) > 1
                turn = number if orientation == "columns" else chunk
                if add_up and turn and len(partial) < turn:
                    partial.append(self.scratch(f"partial{turn}", out.shape))
                target = partial[turn - 1] if add_up and turn else out
                first = vectors.at + h * rows * inner
                into = target.at + h * rows * results
                for row in range(rows):
                    job = self._job(piece, chunk, view, orientation, used(row) if used else None, limited=limited)
                    if job is None:
                        missing = missing or limited
                        continue
                    job.vector = first + row * inner + job.vector
                    job.target = into + row * results + job.target
                    last.setdefault(turn if add_up else 0, []).append(job)
        jobs = [(last[turn], partial[turn - 1] if turn else None) for turn in sorted(last)]
        if load:
            self.served[self.index] = load
        if missing:  # what a row does not reach must be zero
            for each in (out, *partial):
                self.call("move", each.size, (), each, fill=0.0)
        self._emit(jobs, vectors, out, tokens or {})
        for each in partial:
            self.call("elementwise.add", out.size, (out, each), out, function="add")
        self.done_with(*partial)

    def _job(
        self, piece: Piece, chunk: int, view: View, orientation: Orientation, used: range | None, *, limited: bool
    ) -> _Job | None:
        """A vector that meets a chunk of a piece; what ``used`` leaves out at the end is not computed at all."""
        inner = piece.chunks[chunk]
        begin = piece.rows.start - view.rows.start
        if orientation == "rows":
            stop = min(piece.dots, used.stop - begin) if used is not None else piece.dots
            first = max(0, used.start - begin) if used is not None else 0
            if stop <= first:
                return None
            group = first // self.shape.banks
            skipped = first - group * self.shape.banks
            self.skipped["macs"] += skipped * len(inner)
            self.skipped["scores"] += skipped if chunk == 0 else 0
            return _Job(piece, chunk, inner.start, begin, 0, len(inner), group, stop)
        start = begin + inner.start
        low, high = (
            (max(used.start, start), min(used.stop, start + len(inner)))
            if used is not None and limited
            else (start, start + len(inner))
        )
        if used is not None and limited and high <= low:
            return None
        skip = (low - start) // self.shape.lanes  # whole columns of zeros are left out
        self.skipped["macs"] += (low - start - skip * self.shape.lanes) * piece.dots
        offset = skip * self.shape.lanes
        return _Job(piece, chunk, start + offset, 0, skip, high - start - offset, 0, piece.dots)

    def _emit(
        self,
        jobs: list[tuple[list[_Job], Value | None]],
        vectors: Value,
        out: Value,
        tokens: Mapping[str, None],
    ) -> None:
        for group, target in jobs:
            into = target if target is not None else out
            items: dict[int, list[Item]] = {}
            for batch in _batches(group, self.shape.buffer // self.shape.lanes, self.shape.lanes):
                for channel, runs in self._batch(batch).items():
                    items.setdefault(channel, []).extend(runs)
            token = self.on_channels(items, (*tokens, *self.waits([vectors], [into])))
            self.mark(token, [vectors], [into])

    def _batch(self, batch: list[_Job]) -> dict[int, list[Item]]:
        """Vectors that are in the global buffer together and meet the same chunk."""
        piece, chunk = batch[0].piece, batch[0].chunk
        lanes, banks = self.shape.lanes, self.shape.banks
        buffers, place = [], 0
        for job in batch:
            buffers.append(place)
            place += ceil(job.length / lanes)
        loads = tuple(
            self.pim.load(job.vector, job.length, buffer=at)[0] for job, at in zip(batch, buffers, strict=True)
        )
        products: dict[int, list[DotProduct]] = {}
        for group in range(piece.groups):
            for job, at in zip(batch, buffers, strict=True):
                dots = min(banks, job.stop - group * banks)
                if group < job.group or dots < 1:
                    continue
                products.setdefault(piece.owner(group), []).append(
                    DotProduct(
                        piece.column(group, chunk) + job.skip,
                        ceil(job.length / lanes),
                        job.target + group * banks,
                        at,
                        ragged(dots, banks),
                    )
                )
        rows = self.pim.rows(0)
        return {channel: list(rows.segments(mine, loads)[0]) for channel, mine in products.items()}


@dataclass
class _Job:
    """One vector and one chunk of a piece."""

    piece: Piece
    chunk: int
    vector: int
    """SRAM element of the vector's first used element; first relative to the vector, then absolute."""
    target: int
    """Likewise of the result of dot 0."""
    skip: int
    """Columns of each dot that are left out at its beginning."""
    length: int
    """Elements of the vector that are used."""
    group: int
    """First group of dots that is computed."""
    stop: int
    """Dot before which it ends."""


def _batches(jobs: list[_Job], columns: int, lanes: int) -> Iterator[list[_Job]]:
    """Neighbours that meet the same columns, as many as the global buffer holds."""
    batch: list[_Job] = []
    taken = 0
    for job in jobs:
        needs = ceil(job.length / lanes)
        same = batch and (job.piece, job.chunk) == (batch[0].piece, batch[0].chunk)
        if batch and (not same or taken + needs > columns):
            yield batch
            batch, taken = [], 0
        batch.append(job)
        taken += needs
    if batch:
        yield batch


def _by_rows(column: int, count: int, per_row: int) -> Iterator[tuple[int, range]]:
    """(DRAM row, columns within it) of consecutive columns."""
    while count:
        row, first = divmod(column, per_row)
        take = min(count, per_row - first)
        yield row, range(first, first + take)
        column, count = column + take, count - take


def _axis(op: prim.Part) -> int:
    """Axis of heads (0), rows (1) or width (2) along which it takes a part."""
    return op.axis % len(op.sources[0]) + 3 - len(op.sources[0])


def _three(shape: Sequence[int]) -> tuple[int, int, int]:
    """Heads, rows, width: axes that are missing have one entry, heads take up what is more."""
    padded = (1,) * (3 - len(shape)) + tuple(shape)
    return prod(padded[:-2]), padded[-2], padded[-1]


def _reshaped(view: View, to: tuple[int, ...]) -> View | None:
    """A view under another shape, if that is one of its heads, or of all of them behind each other."""
    _, rows, width = view.tensor.shape
    if view.flat or len(view.rows) != rows:
        return view if _three(to) == (len(view.heads), len(view.rows), width) and not view.flat else None
    if _three(to) == (len(view.heads), rows, width):
        return view
    if _three(to) == (1, len(view.heads) * rows, width):
        return View(view.tensor, view.heads, view.rows, flat=True)
    return None


# -------------------------------------------------------------------------------------------------- memory and layout


def _source(b: AttentionLowering, op: prim.Source) -> None:
    value = Value(op.shape, view=b.views.get(op.name))
    direct = [
        (reader, position)
        for reader, position in b.readers[op.name]
        if not (value.view is not None and _reads_memory(b, reader, position))
    ]
    if op.name not in b.in_banks and (value.view is None or direct):
        value.buffer = b.space.take(op.name, op.size)
        value.buffer.uses = 1
    b.values[op.name] = value


def _reads_memory(b: AttentionLowering, op: Primitive, position: int) -> bool:
    if b.in_name_only_next(op):
        return True
    if isinstance(op, prim.Load) or b.is_matrix(op, position):
        return True
    if position == 0 and (isinstance(op, prim.Append) or (isinstance(op, prim.Gather) and not op.on_chip)):
        return True
    return isinstance(op, prim.Keep | prim.Arrange | prim.Part) and op.name in b.views


def _keep(b: AttentionLowering, op: prim.Keep) -> None:
    kept = b.alias(op.name, b.values[op.inputs[0]], op.shape)
    b.persistent[op.name] = kept


def _store(b: AttentionLowering, op: prim.Store) -> None:
    value = b.on_chip(op.inputs[0])
    view = b.views[op.name]
    tokens = b.write_rows(view, value)
    if all(_reads_memory(b, reader, position) for reader, position in b.readers[op.name]):
        b.values[op.name] = Value(op.shape, view=view, tokens=tokens, band=value.band)
        return
    stored = b.alias(op.name, value, op.shape)
    stored.view, stored.tokens = view, tokens


def _load(b: AttentionLowering, op: prim.Load) -> None:
    value = b.values[op.inputs[0]]
    if isinstance(value, WeightsValue) or value.view is None:
        raise UnsupportedOp(
            f"{op.name} must load rows of a tensor as they lie in memory, not of {op.inputs[0]}, which cuts them another way "
            "or is on chip"
        )
    if op.name in b.views:
        b.values[op.name] = Value(op.shape, view=b.views[op.name], tokens=value.tokens, load=op.name)
        return
    view = value.view.part(1, op.start, op.start + op.shape[-2])
    if view is None:
        raise UnsupportedOp(f"{op.name} must load rows of one head of {op.inputs[0]}, not of several")
    b.values[op.name] = b.read_view(view, op.name, op.shape, value.tokens)
    b.values[op.name].band = value.band


def _append(b: AttentionLowering, op: prim.Append) -> None:
    cache, new = b.values[op.inputs[0]], b.on_chip(op.inputs[1])
    view = b.views[op.name]
    added = View(view.tensor, view.heads, range(view.rows.stop - op.sources[1][-2], view.rows.stop))
    b.values[op.name] = Value(op.shape, view=view, tokens={**cache.tokens, **b.write_rows(added, new)})


def _gather(b: AttentionLowering, op: prim.Gather) -> None:
    if op.on_chip:
        _moved(b, op)
        return
    source = b.values[op.inputs[0]]
    if source.view is None:
        raise UnsupportedOp(f"{op.name} must gather from a tensor in memory, not from a result on chip")
    index = b.on_chip(op.inputs[1])  # addresses are known when it is there
    if op.inputs[1] not in b.indices:
        raise UnsupportedOp(f"{op.name} must be given the outcome of {op.inputs[1]}, on which its addresses depend")
    view, width = source.view, source.view.tensor.shape[2]
    target = b.new(op.name, op.shape)
    chosen = list(_flat(b.indices[op.inputs[1]]))
    per_head, items = len(chosen) // op.shape[0], cast("dict[int, list[Item]]", {})
    for number, row in enumerate(chosen):
        head = view.heads[number // per_head * len(view.heads) // op.shape[0]]
        piece = view.tensor.piece_of(head, view.rows[row])
        dot = view.rows[row] - piece.rows.start
        runs = b.row_access("RD", piece, dot, target.at + number * width)
        items.setdefault(piece.owner(dot // b.shape.banks), []).extend(runs)
    token = b.on_channels(items, (*source.tokens, *b.waits([index], [target])))
    b.mark(token, [index], [target])
    b.values[op.name] = target


def _flat(nested: Nested) -> Iterator[int]:
    if isinstance(nested, int):
        yield nested
        return
    for each in nested:
        yield from _flat(each)


def _moved(b: AttentionLowering, op: Primitive) -> None:
    """Elements that go to other places on chip."""
    sources = [b.on_chip(name) for name in op.inputs]
    target = b.new(op.name, op.shape)
    b.call("move", op.size, sources, target, op=op)
    b.values[op.name] = target


def _part(b: AttentionLowering, op: prim.Part) -> None:
    value = b.values[op.inputs[0]]
    if op.name in b.views:
        b.values[op.name] = Value(op.shape, view=b.views[op.name], tokens=value.tokens, load=value.load)
        if value.buffer is None:
            return
    value = b.on_chip(op.inputs[0])
    axis = op.axis % len(op.sources[0])
    if prod(op.sources[0][:axis]) == 1:  # entries of the first axis lie behind each other
        part = b.alias(op.name, value, op.shape, op.start * prod(op.sources[0][axis + 1 :]))
        part.view = b.views.get(op.name)
        part.band = None
        return
    _moved(b, op)
    b.values[op.name].view = b.views.get(op.name)


def _arrange(b: AttentionLowering, op: prim.Arrange) -> None:
    value = b.values[op.inputs[0]]
    if value.buffer is None and op.name in b.views:
        b.values[op.name] = Value(op.shape, view=b.views[op.name], tokens=value.tokens)
        return
    value = b.on_chip(op.inputs[0])
    split = op.split or op.sources[0]
    if not op.order or _keeps_order(split, op.order):
        found = b.alias(op.name, value, op.shape)
        found.view, found.band = b.views.get(op.name), None
        return
    _moved(b, op)


def _keeps_order(split: Sequence[int], order: Sequence[int]) -> bool:
    """Whether a permutation moves axes of one entry only."""
    long = [axis for axis in order if split[axis] > 1]
    return long == sorted(long)


# ----------------------------------------------------------------------------------------------------------- products


def _scores(b: AttentionLowering, op: prim.Scores) -> None:
    q, k = b.on_chip(op.inputs[0]), b.values[op.inputs[1]]
    scaled = q
    if op.scale != 1.0:
        scaled = b.scratch("scaled", q.shape)
        b.call("elementwise.scale", q.size, (q,), scaled, function="scale", numbers=(op.scale,))
    out = b.new(op.name, op.shape)
    rows, columns = op.shape[-2:]
    if k.view is not None and len(op.sources[1]) == 3:
        used = (lambda row: _allowed(op.band, row, columns)) if op.band is not None else None
        b.multiply(scaled, k.view, out, "rows", k.load, k.tokens, used)
    else:
        b.call("matmul", op.macs(), (scaled, b.on_chip(op.inputs[1])), out, product="scores")
    if len(op.inputs) > 2:
        b.call("elementwise.add", op.live, (out, b.on_chip(op.inputs[2])), out, function="add")
    masked = op.size - (op.shape[0] * op.band.count(rows, columns) if op.band is not None else op.size)
    if masked:
        b.call("compare", masked, (out,), out, band=op.band)
    if scaled is not q:
        b.done_with(scaled)
    out.band = op.band
    b.values[op.name] = out


def _allowed(band: Band | None, row: int, columns: int) -> range:
    """Columns that a row meets."""
    assert band is not None
    here = band.row0 - band.col0 + row
    stop = columns if band.low is None else min(columns, here - band.low + 1)
    return range(max(0, here - band.high) if band.high is not None else 0, max(0, stop))


def _product(b: AttentionLowering, op: prim.Product) -> None:
    a, matrix = b.on_chip(op.inputs[0]), b.values[op.inputs[1]]
    out = b.new(op.name, op.shape)
    if matrix.view is not None and len(op.sources[1]) < 4:
        turned = a
        if op.transpose:
            outer, rows, inner = op.sources[0][:-2], *op.sources[0][-2:]
            turned = b.scratch("transposed", (*outer, inner, rows))
            b.call("move", a.size, (a,), turned, transpose=True)
        band = None if op.transpose else a.band
        used = (lambda row: _allowed(band, row, a.shape[-1])) if band is not None else None
        b.multiply(turned, matrix.view, out, "columns", matrix.load, matrix.tokens, used, limited=used is not None)
        if turned is not a:
            b.done_with(turned)
        if used is None and op.pairs >= 0:  # zeros at places that only the algorithm knows
            b.skipped["macs"] += a.size * op.shape[-1] - op.macs()
    else:
        b.call(
            "matmul", op.macs(), (a, b.on_chip(op.inputs[1])), out, product="transposed" if op.transpose else "plain"
        )
    if len(op.inputs) > 2:
        b.call("elementwise.add", op.size, (out, b.on_chip(op.inputs[2])), out, function="add")
    b.values[op.name] = out


# ------------------------------------------------------------------------------------------------------ softmax states


def _filled(b: AttentionLowering, op: prim.EmptyState | prim.Constant) -> None:
    view = b.views.get(op.name)
    if view is not None:  # in memory from the beginning, as a source is
        b.values[op.name] = Value(op.shape, view=view)
        if all(_reads_memory(b, reader, position) for reader, position in b.readers[op.name]):
            return
    target = b.new(op.name, op.shape)
    target.view = view
    b.call("move", op.size, (), target, op=op)
    b.values[op.name] = target


def _exponentiate(b: AttentionLowering, op: prim.Exponentiate) -> None:
    s = b.on_chip(op.inputs[0])
    old = [b.on_chip(name) for name in op.inputs[1:]]
    rows = s.shape[:-1]
    column, n = (*rows, 1), prod(rows)
    weights = b.new(f"{op.name}.weights", s.shape)
    head = b.new(f"{op.name}.head", (*rows, prim.HEAD[op.layout]))
    factor = b.new(f"{op.name}.factor", column) if old else None
    top, sums = b.scratch("top", column), b.scratch("sums", column)
    carried = old if op.layout == "mla" else []
    b.call("row_max", op.live, (s, *carried), top)
    b.call("exponentials", op.live, (s, top), weights, sums)
    if op.layout == "mla":
        if factor is not None:
            b.call("rescale", n, (old[0], top), factor)
        b.call("combine", n, (top, sums, *([factor, old[0]] if factor is not None else [])), head, state="head")
    else:
        b.call("logarithm", n, (sums, top), sums)
        if factor is not None:
            b.call("softplus", n, (old[0], sums), head)
            b.call("rescale", n, (old[0], head), factor)
        else:
            b.call("move", n, (sums,), head)
        b.call("exponentials", op.live, (s, head), weights, sums)
    b.done_with(top, sums)
    value = WeightsValue(s.shape, weights.buffer, band=s.band, head=head, factor=factor)
    b.values[op.name] = value


def _weighted_sum(b: AttentionLowering, op: prim.WeightedSum) -> None:
    found, v = b.values[op.inputs[0]], b.values[op.inputs[1]]
    assert isinstance(found, WeightsValue)
    assert found.head is not None
    width = op.sources[1][-1]
    sums = b.scratch("sums", (*op.shape[:-1], width))
    weights = Value(found.shape, found.buffer)
    if v.view is not None and len(op.sources[1]) == 3:
        band, columns = found.band, found.shape[-1]
        used = (lambda row: _allowed(band, row, columns)) if band is not None else None
        b.multiply(weights, v.view, sums, "columns", v.load, v.tokens, used, limited=used is not None)
    else:
        b.call("matmul", op.macs(), (weights, b.on_chip(op.inputs[1])), sums, product="weighted")
    old = [b.on_chip(name) for name in op.inputs[2:]]
    state = b.in_place_of(op.inputs[2], op.shape) if old else b.new(op.name, op.shape)
    factor = [found.factor] if old and found.factor is not None else []
    b.call("combine" if old else "move", sums.size, (found.head, sums, *factor, *old), state, state="values")
    b.done_with(sums)
    b.values[op.name] = state


def _merge(b: AttentionLowering, op: prim.Merge) -> None:
    one, other = (b.on_chip(name) for name in op.inputs)
    rows = op.shape[:-1]
    factors = b.scratch("factors", (*rows, 3))
    b.call("merge_factors", prod(rows), (one, other), factors)
    target = b.new(op.name, op.shape)
    b.call("merge", op.size, (one, other, factors), target)
    b.done_with(factors)
    b.values[op.name] = target


def _normalise(b: AttentionLowering, op: prim.Normalise) -> None:
    state = b.on_chip(op.inputs[0])
    if op.layout == "log":
        width = prim.HEAD["log"]
        target = b.new(op.name, op.shape)
        b.call("move", op.size, (state,), target, drop=width)
        b.values[op.name] = target
        return
    column = (*state.shape[:-1], 1)
    factors = b.scratch("factors", column)
    b.call("rows_reciprocal", prod(column), (state,), factors, column=1)
    target = b.new(op.name, op.shape)
    heads: list[Value] = []
    if op.also == "lse":
        heads = [b.scratch("lse", column)]
        b.call("logarithm", prod(column), (state,), heads[0], state=True)
    values = prod(column) * (state.shape[-1] - prim.HEAD["mla"])
    b.call("scale_rows", values, (state, factors, *heads), target, also=op.also, state=True)
    b.done_with(factors, *heads)
    b.values[op.name] = target


def _denormalise(b: AttentionLowering, op: prim.Denormalise) -> None:
    state = b.on_chip(op.inputs[0])
    target = b.new(op.name, op.shape)
    b.call("scale_rows", op.size, (state,), target, also="sum", state=True)
    b.values[op.name] = target


def _softmax(b: AttentionLowering, op: prim.Softmax) -> None:
    s = b.on_chip(op.inputs[0])
    column = (*s.shape[:-1], 1)
    top, sums = b.scratch("top", column), b.scratch("sums", column)
    target = b.in_place_of(op.inputs[0], op.shape)
    b.call("row_max", op.live, (s,), top)
    b.call("exponentials", op.live, (s, top), target, sums)
    b.call("rows_reciprocal", prod(column), (sums,), sums, column=0)
    b.call("scale_rows", op.live, (target, sums), target)
    b.done_with(top, sums)
    target.band = s.band
    b.values[op.name] = target


# --------------------------------------------------------------------------------------------- element-wise and others


def _elementwise(b: AttentionLowering, op: prim.Elementwise) -> None:
    sources = [b.on_chip(name) for name in op.inputs]
    target = b.in_place_of(op.inputs[0], op.shape)
    b.call(f"elementwise.{op.function}", op.live, sources, target, function=op.function, numbers=op.constants)
    if op.function in ("scale", "multiply") or (op.function == "clip" and op.constants[1] <= 0):  # zero stays zero
        target.band = sources[0].band
    b.values[op.name] = target


def _outer(b: AttentionLowering, op: prim.Outer) -> None:
    sources = [b.on_chip(name) for name in op.inputs]
    target = b.new(op.name, op.shape)
    b.call("elementwise.subtract", op.size, sources, target, function="subtract")
    b.values[op.name] = target


def _reduce(b: AttentionLowering, op: prim.Reduce) -> None:
    source, target = b.on_chip(op.inputs[0]), b.new(op.name, op.shape)
    b.call(f"reduce.{op.function}", source.size, (source,), target, function=op.function, axis=op.axis)
    b.values[op.name] = target


def _norm(b: AttentionLowering, op: prim.Norm) -> None:
    x, gain, shift = (b.on_chip(name) for name in op.inputs)
    width = prod(op.shape[-op.axes :])
    rows = op.size // width
    sums = b.scratch("sums", (rows, 2))
    target = b.in_place_of(op.inputs[0], op.shape)
    b.call("norm_sums", op.size, (x,), sums, rows=rows)
    b.call("norm_statistics", rows, (sums,), sums, width=width, eps=op.eps)
    b.call("norm_scale", op.size, (x, sums, gain, shift), target, rows=rows)
    b.done_with(sums)
    b.values[op.name] = target


def _compared(b: AttentionLowering, op: Primitive) -> None:
    """Entries that are looked at, some of which become constants."""
    sources = [b.on_chip(name) for name in op.inputs]
    target = b.new(op.name, op.shape)
    b.call("compare", op.size, sources, target, op=op)
    b.values[op.name] = target


def _selected(b: AttentionLowering, op: prim.TopK) -> None:
    source, target = b.on_chip(op.inputs[0]), b.new(op.name, op.shape)
    b.call("select", source.size * ceil(log2(op.k + 1)), (source,), target, op=op)
    b.values[op.name] = target


def _computed(b: AttentionLowering, op: Primitive) -> None:
    """What is mostly products on chip: pooling filters, convolutions, distances to centres."""
    sources = [b.on_chip(name) for name in op.inputs]
    target = b.new(op.name, op.shape)
    b.call(
        "matmul" if op.macs() else "reduce.mean",
        op.macs() or sum(each.size for each in sources),
        sources,
        target,
        op=op,
    )
    b.values[op.name] = target


VIEWS = (prim.Keep, prim.Load, prim.Append, prim.Arrange, prim.Part)
"""Kinds whose result may be a view of their first operand in memory."""

LOWERINGS: dict[type[Primitive], Callable[[AttentionLowering, Any], None]] = {
    prim.Source: _source,
    prim.Load: _load,
    prim.Store: _store,
    prim.Keep: _keep,
    prim.Append: _append,
    prim.Gather: _gather,
    prim.Pick: _moved,
    prim.Part: _part,
    prim.Join: _moved,
    prim.Arrange: _arrange,
    prim.Scores: _scores,
    prim.Product: _product,
    prim.EmptyState: _filled,
    prim.Exponentiate: _exponentiate,
    prim.WeightedSum: _weighted_sum,
    prim.Merge: _merge,
    prim.Normalise: _normalise,
    prim.Denormalise: _denormalise,
    prim.Softmax: _softmax,
    prim.TopK: _selected,
    prim.Boundary: _compared,
    prim.Norm: _norm,
    prim.Pool: _computed,
    prim.Elementwise: _elementwise,
    prim.Outer: _outer,
    prim.Reduce: _reduce,
    prim.Select: _moved,
    prim.Exclude: _compared,
    prim.MaskBeyond: _compared,
    prim.Constant: _filled,
    prim.Children: _moved,
    prim.SignHash: _compared,
    prim.OutlierColumns: _compared,
    prim.Clusters: _computed,
    prim.GroupMean: _computed,
    prim.Depthwise: _computed,
    prim.Patches: _moved,
}
"""Kind of primitive -> its lowering. A kind without an entry is not supported by this machine."""

__all__ = ["LOWERINGS", "AttentionLowering", "Nested", "Value", "WeightsValue"]
