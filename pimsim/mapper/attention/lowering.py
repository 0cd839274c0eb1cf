"""From primitives to a PIM program: what the banks multiply, what crosses the pins, what the ASIC computes.

* What an operation multiplies with and what lies in memory (a source, a cache, a stored result) stays in the banks: ``MAC_AB``
  with the other operand in the global buffer. A `Load` that only feeds such products moves nothing over the pins.
* Other loads and gathers are reads, stores and appends are writes.
* What is on chip lies in the ASIC's SRAM and is computed on by its functions over tensors.

`handlers.LOWERINGS` has an entry for each kind of primitive that the machine can carry out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from pimsim.errors import UnsupportedOp
from pimsim.mapper.attention.banks import Banks, BankTensor, Orientation, Piece, View
from pimsim.mapper.attention.handlers import LOWERINGS
from pimsim.mapper.attention.parts import Rewritten
from pimsim.mapper.attention.scattered import overlapped
from pimsim.mapper.attention.space import Space
from pimsim.mapper.attention.values import Nested, Value, WeightsValue, three
from pimsim.mapper.builder import BlockBuilder
from pimsim.mapper.lower.pim import PimLowering, ragged
from pimsim.program.isa import Block, Compute, Item, Run, bank_where
from pimsim.workload.attention import primitives as prim
from pimsim.workload.attention.base import successor
from pimsim.workload.attention.primitives import Primitive

VIEWS = (prim.Keep, prim.Load, prim.Append, prim.Arrange, prim.Part)
"""Kinds whose result may be a view of their first operand in memory."""


class AttentionLowering:
    """A program under construction.

    Attributes:
        given: sources that are on chip already, where somebody else has put them.
        label: what names of calls begin with, where programs share an executor.

    Args:
        ops: an expansion, in order.
        pim: of the machine.
        banks: DRAM rows to give out.
        space: the SRAM.
        indices: name of a result that addresses depend on -> its integers, from a functional run.
        rewritten: what became of the operations of the expansion, if ``ops`` are others.
        in_banks: sources that lie in the banks although they are used on chip; they are fetched where they are read.
        keeps_in_banks: whether what is kept goes to the banks, also where it is computed on chip.
        serial: one operation at a time.
        name: of the block.
        after: name of the block whose end this one waits for, where it is one of a stream.
    """

    given: Mapping[str, Value] = {}
    label = ""

    def __init__(
        self,
        ops: Sequence[Primitive],
        pim: PimLowering,
        banks: Banks,
        space: Space,
        indices: Mapping[str, Nested],
        *,
        rewritten: Rewritten | None = None,
        in_banks: frozenset[str] = frozenset(),
        keeps_in_banks: bool = False,
        serial: bool = False,
        name: str = "attention",
        after: str = "",
    ) -> None:
        self.ops, self.pim, self.banks, self.space, self.indices = list(ops), pim, banks, space, indices
        self.keeps_in_banks = keeps_in_banks
        self.in_banks, self.rewritten = in_banks, rewritten or Rewritten(ops)
        self._written_in_parts = {window.whole for window in self.rewritten.windows.values()}
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
        """Results on chip that are written to memory, because rows of them are gathered from there or to be kept there."""
        self._before = {successor(op.name): op.name for op in self.ops if isinstance(op, prim.Source)}
        """Name of a state that may be kept -> source whose place it takes."""
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
        elif isinstance(op, prim.Store) or op.name in self._written_in_parts:
            view = self._stored(op)
        elif isinstance(op, prim.Append) and given is not None:
            view = self._grown(given, op)
        elif isinstance(op, prim.Keep | prim.Load) and given is not None:
            view = given
            if isinstance(op, prim.Load):
                loaded = given.part(1, op.rows.start, op.rows.stop, op.rows.step)
                view = loaded if self._stays(op) else None
                self._cut(loaded)
        elif isinstance(op, prim.Arrange) and given is not None and not op.order and not op.split:
            view = _reshaped(given, op.to)
        elif isinstance(op, prim.Part) and given is not None:
            axis = _axis(op)
            view = given.part(axis, op.start, op.stop) if axis < 2 else None
            if view is not None and axis == 1:
                self._cut(view)
        if view is None and (gathered or (isinstance(op, prim.Keep) and self._goes_to_banks(op))):
            view = self._place_before(op) or self._new_tensor(op)
            self._spilled.add(op.name)
        if view is not None:
            self.views[op.name] = view

    def _goes_to_banks(self, op: prim.Keep) -> bool:
        """Whether a state is kept in the banks: not where it takes the place of one that lies on chip."""
        return self.keeps_in_banks and (op.name not in self._before or self._before[op.name] in self.views)

    def _place_before(self, op: Primitive) -> View | None:
        """Where the state lies whose place a kept one takes, if nobody reads it any more."""
        before = self._before.get(op.name)
        if before is None or self._by_name[before].shape != op.shape:
            return None
        return self.views[before] if self._last[before] < self.ops.index(op) else None

    def misplaced(self) -> str:
        """A kept state that is not where the one lies whose place it takes, so that a next program would not find it; or none."""
        for name, value in self.persistent.items():
            given = self.values[self._before[name]] if name in self._before else None
            same = given is not None and (value.buffer or value.view) == (given.buffer if value.buffer else given.view)
            if not same:
                return name
        return ""

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

    def reads_memory(self, op: Primitive, position: int) -> bool:
        """Whether an operation takes this operand from the banks, not from the SRAM."""
        if self.in_name_only_next(op):
            return True
        if isinstance(op, prim.Load) or self.is_matrix(op, position):
            return True
        if position == 0 and (isinstance(op, prim.Append) or (isinstance(op, prim.Gather) and not op.on_chip)):
            return True
        return isinstance(op, prim.Keep | prim.Arrange | prim.Part) and op.name in self.views

    def _stays(self, load: Primitive) -> bool:
        readers = self.readers[load.name]
        return bool(readers) and all(
            self.is_matrix(op, position) or (isinstance(op, prim.Part) and _axis(op) < 2 and self._stays(op))
            for op, position in readers
        )

    def _new_tensor(self, op: Primitive) -> View:
        tensor = self._tensors[op.name] = BankTensor(op.name, three(op.shape))
        return _whole(tensor)

    def _stored(self, op: Primitive) -> View:
        """A tensor of its own, a part of one that is written in parts, or that one."""
        window = self.rewritten.windows.get(op.name)
        if window is None:
            return _whole(self._tensors[op.name]) if op.name in self._written_in_parts else self._new_tensor(op)
        tensor = self._tensors.setdefault(window.whole, BankTensor(window.whole, three(window.shape)))
        return View(tensor, window.heads, window.rows)

    def _grown(self, cache: View, op: prim.Append) -> View:
        heads, rows, width = cache.tensor.shape
        cache.tensor.shape = (heads, max(rows, cache.rows.stop + op.sources[1][-2]), width)
        return View(cache.tensor, cache.heads, range(cache.rows.start, cache.rows.stop + op.sources[1][-2]))

    @staticmethod
    def _cut(view: View | None) -> None:
        if view is None:
            return
        if view.rows.step == 1:
            view.tensor.cuts |= {view.rows.start, view.rows.stop}
        elif view.rows:
            view.tensor.apart.add(view.rows)

    def _use(self, op: Primitive) -> None:
        """Note how an operation needs the tensors that it finds in memory."""
        for position, name in enumerate(op.inputs):
            view = self.views.get(name)
            if view is None or (op.name in self.views and isinstance(op, VIEWS) and position == 0):
                continue
            if name in self.in_banks:
                view.tensor.orientations.setdefault("rows", [])
            elif isinstance(self._by_name[name], prim.Source | prim.Store | prim.EmptyState) and not self.reads_memory(
                op, position
            ):
                continue  # has a copy on chip
            turned: Orientation = "rows"
            if self.is_matrix(op, position) and not isinstance(op, prim.Scores):
                turned = "columns"
            if self.is_matrix(op, position):
                self._cut(view)
            view.tensor.orientations.setdefault(turned, [])

    def _has_a_copy(self, name: str) -> bool:
        """Whether what lies in memory is on chip, too, for those who want it there."""
        return isinstance(self._by_name[name], prim.Source | prim.Store | prim.EmptyState)

    # -- the program ----------------------------------------------------------------------------------------------

    def lower(self) -> Block:
        """The block of all operations.

        Raises:
            UnsupportedOp: the machine cannot carry out a primitive; the error says which and why.
            CapacityExceeded: the SRAM does not hold what is alive.
        """
        self.lower_operations()
        return self._in_a_stream(self.builder.build()) if self.after else self.builder.build()

    def lower_operations(self) -> None:
        """All operations, without building the block. Raises: as `lower`."""
        for number, op in enumerate(self.ops):
            handler = LOWERINGS.get(type(op))
            if handler is None:
                raise UnsupportedOp(
                    f"attention primitives must be ones that a PIM machine carries out, not {op.KIND!r} ({op.name})"
                )
            self._op = op
            self._index = -1
            if op.name in self._written_in_parts:
                tokens = {token: None for name in op.inputs for token in self.values[name].tokens}
                self.values[op.name] = Value(op.shape, view=self.views[op.name], tokens=tokens)
            elif self._in_name_only(op):
                self.values[op.name] = Value(op.shape, made_of=op.inputs)
            else:
                handler(self, op)
            if op.name in self._spilled:
                value = self.values[op.name]
                value.view = self.views[op.name]
                value.tokens = self.write_rows(value.view, value, self.builder.op("spill", op.name))
                if op.name in self.persistent:
                    self.persistent[op.name] = self.values[op.name] = replace(value, buffer=None)
                    self.done_with(value)
            self._release(number)

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
        kept = [name in self.persistent or self.values[name].view or self.values[name].made_of for name in op.inputs]
        if not all(kept):
            return False
        return all(self.in_name_only_next(reader) for reader, _ in self.readers[op.name])

    def operation(self, name: str) -> Primitive:
        """The primitive of a name."""
        return self._by_name[name]

    def in_name_only_next(self, op: Primitive) -> bool:
        """Whether an operation and all that reads it only rearrange, or keep."""
        return isinstance(op, prim.Join | prim.Part | prim.Arrange | prim.Keep) and all(
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
        known = f"{self.label}{name}"
        self.constants[known] = {"shapes": [each.shape for each in sources], "shape": target.shape, **constants}
        compute = Compute(
            function,
            length,
            tuple(each.at for each in sources),
            target.at,
            known,
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
        read: dict[int, list[Run]] = {}
        at = target.at
        for head in view.heads:
            for piece in view.tensor.pieces("rows", head, view.rows):
                for channel, runs in self._transfer("RD", piece, view, at).items():
                    read.setdefault(channel, []).extend(runs)
            at += len(view.rows) * view.tensor.shape[2]
        items = {channel: self._in_all_banks(runs) for channel, runs in read.items()}
        token = self.on_channels(items, (*ready, *self.waits([], [target])), index)
        self.mark(token, [], [target])
        return target

    def _transfer(self, command: str, piece: Piece, view: View, sram: int) -> dict[int, list[Run]]:
        """Read or write a piece by rows, dot after dot; SRAM ``[rows of the view, width]``."""
        found: dict[int, list[Run]] = {}
        for chunk, inner in enumerate(piece.chunks):
            for group in range(piece.groups):
                runs = found.setdefault(piece.owner(group), [])
                column = piece.column(group, chunk)
                for row, part in _by_rows(column, piece.columns(chunk), self.shape.columns):
                    done = row * self.shape.columns + part.start - column
                    carried = min(len(part) * self.shape.lanes, len(inner) - done * self.shape.lanes)
                    for bank in range(0 if group else piece.lead, piece.dots_of(group)):
                        place = view.place_of(piece.rows[group * self.shape.banks + bank])
                        runs.append(
                            Run(
                                command,
                                self._where(bank),
                                row=row,
                                column=part.start,
                                count=len(part),
                                sram=sram + place * piece.width + inner.start + done * self.shape.lanes,
                                sram_step=self.shape.lanes,
                                elements=ragged(carried, self.shape.lanes),
                            )
                        )
        return found

    def scattered(self, runs: Iterable[Run]) -> list[Item]:
        """Accesses to rows of single banks, with the commands that open and close these."""
        return overlapped(self.pim.spec, runs)

    def _in_all_banks(self, runs: Iterable[Run]) -> list[Item]:
        """Accesses to rows that are opened in all banks at once, each row once."""
        rows: dict[int, list[Run]] = {}
        for run in runs:
            rows.setdefault(run.row, []).append(run)
        items: list[Item] = []
        for row, of_row in rows.items():
            items += [Run("ACT_AB", self.pim.none, row=row), *of_row, Run("PREab", self.pim.none)]
        return items

    def write_rows(self, view: View, value: Value, index: int | None = None) -> dict[str, None]:
        """Write rows ``[heads, rows, width]`` from the SRAM to a view, in every orientation of its tensor; returns the tokens."""
        width, tokens = view.tensor.shape[2], []
        for number, orientation in enumerate(view.tensor.orientations):
            written: dict[int, list[Run]] = {}
            at = value.at
            for head in view.heads:
                for row in view.rows:
                    start = at + (row - view.rows.start) * width
                    for channel, runs in self._write_row(view.tensor, orientation, head, row, start).items():
                        written.setdefault(channel, []).extend(runs)
                at += len(view.rows) * width
            with_rows = self.scattered if orientation == "rows" else self._in_all_banks
            items = {channel: with_rows(runs) for channel, runs in written.items()}
            into = self.builder.op("copy", self._op.name) if number else index
            tokens.append(self.on_channels(items, self.waits([value], []), into))
            self.mark(tokens[-1], [value], [])
        return dict.fromkeys(tokens)

    def _write_row(
        self, tensor: BankTensor, orientation: Orientation, head: int, row: int, sram: int
    ) -> dict[int, list[Run]]:
        """The writes of one row ``[width]``: a dot, or an element of every dot."""
        piece = tensor.piece_of(head, row, orientation)
        inside = piece.number_of(row)
        if orientation == "rows":
            return {piece.owner(inside // self.shape.banks): self.row_access("WR", piece, inside, sram)}
        found: dict[int, list[Run]] = {}
        for group in range(piece.groups):
            place = piece.place(group * self.shape.banks, inside)
            found.setdefault(place.channel, []).append(
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
                )
            )
        return found

    def row_access(self, command: str, piece: Piece, dot: int, sram: int) -> list[Run]:
        """Read or write one dot of a piece; `overlapped` opens and closes the rows."""
        group, bank = divmod(dot, self.shape.banks)
        runs: list[Run] = []
        for chunk, inner in enumerate(piece.chunks):
            column = piece.column(group, chunk)
            for row, part in _by_rows(column, piece.columns(chunk), self.shape.columns):
                done = row * self.shape.columns + part.start - column
                carried = min(len(part) * self.shape.lanes, len(inner) - done * self.shape.lanes)
                runs.append(
                    Run(
                        command,
                        self._where(bank),
                        row=row,
                        column=part.start,
                        count=len(part),
                        sram=sram + inner.start + done * self.shape.lanes,
                        sram_step=self.shape.lanes,
                        elements=ragged(carried, self.shape.lanes),
                    )
                )
        return runs


def _by_rows(column: int, count: int, per_row: int) -> Iterator[tuple[int, range]]:
    """(DRAM row, columns within it) of consecutive columns."""
    while count:
        row, first = divmod(column, per_row)
        take = min(count, per_row - first)
        yield row, range(first, first + take)
        column, count = column + take, count - take


def _whole(tensor: BankTensor) -> View:
    return View(tensor, range(tensor.shape[0]), range(tensor.shape[1]))


def _axis(op: prim.Part) -> int:
    """Axis of heads (0), rows (1) or width (2) along which it takes a part."""
    return op.axis % len(op.sources[0]) + 3 - len(op.sources[0])


def _reshaped(view: View, to: tuple[int, ...]) -> View | None:
    """A view under another shape, if that is one of its heads, or of all of them behind each other."""
    _, rows, width = view.tensor.shape
    if view.tensor.grows:
        rows = len(view.rows)
    if view.flat or len(view.rows) != rows:
        return view if three(to) == (len(view.heads), len(view.rows), width) and not view.flat else None
    if three(to) == (len(view.heads), rows, width):
        return view
    if three(to) == (1, len(view.heads) * rows, width):
        return View(view.tensor, view.heads, view.rows, flat=True)
    return None


__all__ = ["AttentionLowering"]
