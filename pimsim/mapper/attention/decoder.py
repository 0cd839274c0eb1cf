"""An attention algorithm inside a decoder: one token's attention of a layer as a block, over caches that grow.

What an algorithm by itself loads and stores, a decoder partly has on chip: queries, the token's key and value, the layer's
input, and the output. `at_home` takes these loads and stores out of an expansion. Everything that lies in the banks has a
fixed place in the rows of a layer, whatever the context: the caches, states, parameters, and room for what a token's
attention stores and loads again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

from pimsim.arch.dram import DramSpec
from pimsim.errors import CapacityExceeded, UnsupportedOp
from pimsim.mapper.attention.banks import Banks, BankTensor, View
from pimsim.mapper.attention.caches import CacheTensor, room_for_queries
from pimsim.mapper.attention.lowering import AttentionLowering
from pimsim.mapper.attention.slices import in_turn, sliced
from pimsim.mapper.attention.space import Buffer, Space
from pimsim.mapper.attention.values import Nested, Value
from pimsim.mapper.builder import BlockBuilder, Result
from pimsim.mapper.layout import KeyLayout
from pimsim.mapper.lower.pim import PimLowering
from pimsim.program.isa import Block, Compute
from pimsim.workload import ops
from pimsim.workload.attention import primitives as prim
from pimsim.workload.attention.base import Algorithm
from pimsim.workload.attention.primitives import Primitive
from pimsim.workload.decoder_attention import (
    CACHES,
    HIDDEN,
    PROJECTED,
    case_of,
    depends_on_data,
    parameters_of,
    primitives_of,
    states_of,
)

ATTENDED = "attended0"
"""Token that says that the output is there."""

NAME = "attention"
"""Name of the block."""

SCORES_SHARE = 8
"""Scores that take more than this part of the SRAM are cut into heads, where the SRAM does not hold everything."""

Decide = Callable[[int, int], Mapping[str, Any]]
"""(layer, context) -> what data decide there, by operation."""


@dataclass(frozen=True)
class AtHome:
    """An expansion without the loads and stores of what a decoder has on chip, and the words of these."""

    ops: tuple[Primitive, ...]
    reads: int
    writes: int


def at_home(expansion: Sequence[Primitive]) -> AtHome:
    """Loads of queries, the new key and value and the hidden state become names; so do stores that nobody loads again.

    Empty states are loaded by nobody either: the ASIC writes them.
    """
    readers: dict[str, list[tuple[Primitive, int]]] = {op.name: [] for op in expansion}
    for op in expansion:
        for position, name in enumerate(op.inputs):
            readers[name].append((op, position))
    here = {*PROJECTED, HIDDEN, *(op.name for op in expansion if isinstance(op, prim.EmptyState))}
    found: list[Primitive] = []
    reads = writes = 0
    for op in expansion:
        if isinstance(op, prim.Load) and op.inputs[0] in here:
            reads += op.size
            found.append(_part_of(op))
        elif isinstance(op, prim.Store) and not _read_again(op, readers):
            writes += op.size
            found.append(_renamed(op))
        else:
            found.append(op)
            if isinstance(op, prim.Arrange | prim.Part) and op.inputs[0] in here:
                here.add(op.name)
    return AtHome(tuple(found), reads, writes)


def _renamed(op: Primitive) -> Primitive:
    return prim.Arrange(op.name, prim.Arrange.KIND, op.inputs, sources=op.sources, pairs=op.pairs, to=op.shape)


def _part_of(load: prim.Load) -> Primitive:
    if load.shape == load.sources[0]:
        return _renamed(load)
    stop = load.start + load.shape[-2]
    return prim.Part(load.name, prim.Part.KIND, load.inputs, sources=load.sources, axis=-2, start=load.start, stop=stop)


def _read_again(store: Primitive, readers: Mapping[str, list[tuple[Primitive, int]]]) -> bool:
    """Whether somebody needs a stored result in memory: loads or gathers rows, multiplies with it, or keeps it."""
    for op, position in readers[store.name]:
        matrix = position == 1 and isinstance(op, prim.Scores | prim.WeightedSum | prim.Product)
        if matrix or isinstance(op, prim.Load | prim.Gather | prim.Keep):
            return True
        if isinstance(op, prim.Part | prim.Arrange | prim.Join) and _read_again(op, readers):
            return True
    return False


def head_by_head(method: Algorithm, op: ops.Attention, context: int) -> list[Primitive] | None:
    """The same attention, heads of keys one after the other, which takes less of the SRAM; None where that does other work.

    An operation of head h has ``/h<h>`` behind its name. LeanAttention, for one, cuts across heads.
    """
    case, share = op.case(context), op.heads // op.kv_heads
    one = case_of(share, 1, op.d_head, context)
    if op.kv_heads == 1 or method.counts(one) * op.kv_heads != method.counts(case):
        return None
    whole = {each.name: each for each in primitives_of(method, case) if isinstance(each, prim.Source)}
    found: list[Primitive] = list(whole.values())
    for head in range(op.kv_heads):
        for each in primitives_of(method, one):
            mark = f"{each.name}/h{head}"
            if isinstance(each, prim.Source):
                heads = each.shape[0]
                if each.shape[1:] != whole[each.name].shape[1:] or heads * op.kv_heads != whole[each.name].shape[0]:
                    return None
                sources, start = (whole[each.name].shape,), head * heads
                found.append(
                    prim.Part(
                        mark, prim.Part.KIND, (each.name,), sources=sources, axis=0, start=start, stop=start + heads
                    )
                )
            else:
                found.append(replace(each, name=mark, inputs=tuple(f"{name}/h{head}" for name in each.inputs)))
    outputs = [each for each in found if each.name.startswith("output/h")]
    names, shapes = tuple(each.name for each in outputs), tuple(each.shape for each in outputs)
    return [*found, prim.Join("output", prim.Join.KIND, names, sources=shapes, axis=0)]


class _Named(BlockBuilder):
    """A builder whose operations belong to one of the model."""

    owner = ""

    def op(self, kind: str, name: str) -> int:
        """Begin an operation; returns its index for the steps."""
        return super().op(kind, f"{self.owner}.{name}")


class DecoderLowering(AttentionLowering):
    """The lowering of one token's attention."""

    def __init__(
        self,
        expansion: Sequence[Primitive],
        pim: PimLowering,
        banks: Banks,
        space: Space,
        indices: Mapping[str, Nested],
        held: Mapping[str, BankTensor],
        **more: Any,
    ) -> None:
        """``held``: caches, states and parameters by the name of the source; they have their places already."""
        self.held = held
        self._state_of = {op.inputs[0]: op.name.removeprefix("new_") for op in expansion if isinstance(op, prim.Keep)}
        self._appended: set[str] = set()
        super().__init__(expansion, pim, banks, space, indices, **more)

    def _demand(self) -> None:
        parameters = [op.name for op in self.ops if isinstance(op, prim.Source) and op.name in self.held]
        self.in_banks = frozenset(name for name in parameters if not self._wanted_in_memory(name))
        super()._demand()

    def _new_tensor(self, op: Primitive) -> View:
        name = self._state_of.get(op.name, "") if isinstance(op, prim.Store) else op.name
        name, _, head = name.partition("/h")
        tensor = self.held.get(name)
        if tensor is None:
            return super()._new_tensor(op)
        heads, rows, _ = three_of(op)
        first = heads * int(head) if head else 0
        return View(tensor, range(first, first + heads), range(rows))

    def write_rows(self, view: View, value: Value, index: int | None = None) -> dict[str, None]:
        """Write rows to a view; to a cache as the decoder does, all heads at once, which lie side by side.

        Channels read a cache in order, so nobody waits for that.
        """
        if not isinstance(view.tensor, CacheTensor):
            return super().write_rows(view, value, index)
        if view.tensor.name in self._appended:
            return {}
        self._appended.add(view.tensor.name)
        [row] = view.rows
        at = value.at - view.heads.start * view.tensor.shape[2]
        waits = self.waits([value], [])
        for number, layout in enumerate(view.tensor.layouts.values()):
            into = self.builder.op("copy" if number else "kv_write", self._op.name)
            if isinstance(layout, KeyLayout):
                channel, items = self.pim.key_write(layout, row, at)
                self.builder.pim(into, [channel], items, waits)
                continue
            for channel in range(self.shape.channels):
                self.builder.pim(into, [channel], self.pim.value_write(layout, channel, row, at), waits)
        return {}

    def hand_over(self, target: int) -> None:
        """Move the output to where the decoder has it, once nobody reads or writes a place of the algorithm any more."""
        value = self.on_chip("output")
        name = f"{self.label}{ATTENDED}"
        self.constants[name] = {"shapes": [value.shape], "shape": value.shape}
        channels = [token for token in self.space.pending() if "@" in token]  # the ASIC itself is in order
        waits = dict.fromkeys((*self.waits([value], []), *channels))
        index = self.builder.op("attention_output", ATTENDED)
        self.builder.asic(index, (Compute("move", value.size, (value.at,), target, name),), tuple(waits), (ATTENDED,))


def three_of(op: Primitive) -> tuple[int, int, int]:
    """Heads, rows and width of a result."""
    from pimsim.mapper.attention.values import three

    return three(op.shape)


@dataclass(frozen=True)
class Surroundings:
    """What a decoder has for a token's attention, and where the output goes."""

    qkv: Result
    hidden: Result
    target: int
    """First SRAM element of the output."""
    region: int
    """First SRAM element that the algorithm may use."""
    capacity: int
    """Elements of the SRAM."""
    element_bytes: int
    after: str
    """Name of the block before."""


@dataclass(frozen=True)
class Lowered:
    """The program of one token's attention."""

    lowering: DecoderLowering
    home: AtHome
    decided: Mapping[str, Any]


class DecoderAttention:
    """An algorithm's place in the rows of a layer, and its program for every context.

    Attributes:
        held: caches, states and parameters, by the name of the algorithm's input.
        decide: what data decide; layers share one outcome unless `of_layers`.
        of_layers: whether layers differ in what data decide.
        programs: what is known of the blocks that somebody still has.
    """

    def __init__(self, op: ops.Attention, tokens: int, spec: DramSpec, pim: PimLowering, dispatch: str) -> None:
        self.op, self.tokens, self.spec, self.pim, self.serial = op, tokens, spec, pim, dispatch == "serial"
        self.method = op.algorithm
        self.depends_on_data = depends_on_data(self.method)
        self.decide: Decide = self._drawn
        self.origin = f"distribution: {self.method.name()}.sample, seed 0, one outcome for all layers of a token"
        self.of_layers, self._recorded = False, 0
        self.held: dict[str, BankTensor] = {}
        self._row, self._stop = 0, 0
        self._alike: Block | None = None
        """The last block."""
        self.programs: WeakKeyDictionary[Block, Lowered] = WeakKeyDictionary()
        self._blocks: dict[tuple[int, int], Block] = {}

    # -- places ---------------------------------------------------------------------------------------------------

    def place(self, row: int) -> int:
        """Find out what lies in memory, and give it rows of a layer from ``row`` on; returns the row behind them.

        Raises:
            CapacityExceeded: the global buffer does not hold the queries that share the keys of a head.
        """
        self._make_tensors()
        contexts = sorted({*range(1, min(self.tokens, 16) + 1), *self._spread(), self.tokens})
        scratch = max(self._planned(context) for context in contexts)
        if scratch:
            scratch = max(scratch, *(self._planned(context) for context in range(1, self.tokens + 1)))
        shape = self.pim.shape
        for tensor in self.held.values():
            if isinstance(tensor, CacheTensor):
                row = tensor.lay_out(set(tensor.orientations), row, self.op.heads // self.op.kv_heads)
                self._check_buffer(tensor)
        banks = Banks(shape, 1 << 40)
        banks.used = row
        for tensor in self.held.values():
            if not isinstance(tensor, CacheTensor):
                banks.place(tensor)
        self._row, self._stop = banks.used, banks.used + scratch
        return self._stop

    def _spread(self) -> Iterator[int]:
        """Contexts over the whole run."""
        yield from range(1, self.tokens + 1, max(1, self.tokens // 16))

    def _make_tensors(self) -> None:
        op, case = self.op, self.op.case(self.tokens)
        shapes = self.method.inputs(case)
        for name in shapes:
            if name in CACHES:
                self.held[name] = CacheTensor(name, self.pim.shape, op.kv_heads, self.tokens, op.d_head)
            elif name in states_of(self.method) or name in parameters_of(self.method, case):
                heads, rows, width = three_of(prim.Source(name, prim.Source.KIND, (), shape=shapes[name]))
                self.held[name] = BankTensor(name, (heads, rows, width))

    def _planned(self, context: int) -> int:
        """Note what a context needs in memory; returns the DRAM rows for what it stores and loads again."""
        banks = Banks(self.pim.shape, 1 << 40)
        home = at_home(primitives_of(self.method, self.op.case(context)))
        lowering = DecoderLowering(home.ops, self.pim, banks, Space(0, self.pim.shape.lanes, 1), {}, self.held)
        assert lowering.ops
        return banks.used

    def _check_buffer(self, tensor: CacheTensor) -> None:
        for layout in tensor.layouts.values():
            if isinstance(layout, KeyLayout) and not layout.heads_per_chunk:
                raise CapacityExceeded(
                    f"pim.global_buffer_bytes must hold the queries that share the keys of a head: "
                    f"{room_for_queries(layout)} elements, not {layout.shape.buffer}"
                )

    def rows_of(self, name: str) -> Iterator[tuple[int, int]]:
        """First DRAM row and the row behind the last one of what is left from token to token: ``"keys"``, or all else."""
        for held, tensor in self.held.items():
            if (held == "k") != (name == "keys"):
                continue
            if isinstance(tensor, CacheTensor):
                yield from ((each.row0, each.row0 + each.rows) for each in tensor.layouts.values())
            elif held in states_of(self.method):
                pieces = [piece for each in tensor.orientations.values() for piece in each]
                yield from ((piece.row0, piece.row0 + piece.dram_rows) for piece in pieces)

    def states(self) -> dict[str, BankTensor]:
        """What a token leaves for the next one besides caches, where it lies."""
        tensors = {name: self.held[name] for name in states_of(self.method)}
        return {name: tensor for name, tensor in tensors.items() if not tensor.grows}

    def parameters(self) -> dict[str, BankTensor]:
        """What the model must have for the algorithm, where it lies."""
        return {name: self.held[name] for name in parameters_of(self.method, self.op.case(2))}

    # -- programs -------------------------------------------------------------------------------------------------

    def _drawn(self, _layer: int, context: int) -> Mapping[str, Any]:
        from pimsim.workload.attention.decisions import draw

        return draw(self.method, self.op.case(context)).decisions

    def take(self, recorded: Sequence[Mapping[int, Mapping[str, Any]]]) -> None:
        """Take what data decide from a run, for as many passes as it has; layers differ."""
        drawn = self.decide
        self.decide = lambda layer, context: (
            recorded[context - 1][layer] if context <= len(recorded) else drawn(layer, context)
        )
        self.of_layers, self._recorded = True, len(recorded)
        run = f"functional: float64 run of the check, {min(len(recorded), self.tokens)} of {self.tokens} tokens"
        self.origin = run if len(recorded) >= self.tokens else f"{run}; then {self.origin}"
        self._blocks.clear()

    def block(self, context: int, layer: int, around: Surroundings) -> Block:
        """The program of a context; one for all layers unless data decide layer by layer.

        Raises:
            UnsupportedOp: the machine cannot carry out a primitive.
            CapacityExceeded: a memory is too small.
        """
        key = (context, layer if self.of_layers and context <= self._recorded else 0)
        if key not in self._blocks:
            if context not in {known for known, _ in self._blocks}:
                self._blocks.clear()
            self._blocks[key] = self._lower(*key, around)
        return self._blocks[key]

    def _lower(self, context: int, layer: int, around: Surroundings) -> Block:
        home = at_home(primitives_of(self.method, self.op.case(context)))
        if self._alike is not None and self.programs[self._alike].home == home and not self.depends_on_data:
            return self._alike  # a state of constant size: every token is alike
        decided = self.decide(layer, context) if self.depends_on_data else {}
        indices, label = _indices(home.ops, decided), f"{context}.{layer}:"
        attempts = self._attempts(home.ops, context, around)
        for number, (order, compact) in enumerate(attempts):
            lowering = self._lowering(order, indices, around, label, compact=compact)
            try:
                lowering.lower_operations()
                lowering.hand_over(around.target)
            except CapacityExceeded:
                if number == len(attempts) - 1:
                    raise
                continue
            self._alike = lowering.builder.build()
            self.programs[self._alike] = Lowered(lowering, home, decided)
            return self._alike
        raise AssertionError("the last attempt returns or raises")

    def _attempts(
        self, operations: Sequence[Primitive], context: int, around: Surroundings
    ) -> list[tuple[Sequence[Primitive], bool]]:
        """(order, compact) from what is fastest to what needs the least SRAM."""
        cut = sliced(operations, around.capacity // SCORES_SHARE)
        found: list[tuple[Sequence[Primitive], bool]] = [(in_turn(operations), False), (operations, False)]
        found += [(cut, False), (cut, True)]
        alone = None if self.depends_on_data else head_by_head(self.method, self.op, context)
        return found if alone is None else [*found, (at_home(alone).ops, False), (at_home(alone).ops, True)]

    def _lowering(
        self,
        order: Sequence[Primitive],
        indices: Mapping[str, Nested],
        around: Surroundings,
        label: str,
        *,
        compact: bool,
    ) -> DecoderLowering:
        banks = Banks(self.pim.shape, self._stop)
        banks.used = self._row
        space = Space(around.capacity, self.pim.shape.lanes, around.element_bytes, compact=compact)
        space.begin(around.region, around.qkv.tokens())
        lowering = DecoderLowering(order, self.pim, banks, space, indices, self.held)
        self._check_places(lowering)
        builder = _Named(NAME, self.pim.shape.channels, serial=self.serial, after=f"{around.after}.end")
        builder.owner = self.op.name
        lowering.builder, lowering.label = builder, label
        lowering.given = self._given(around)
        return lowering

    def _check_places(self, lowering: DecoderLowering) -> None:
        """Raises: UnsupportedOp, if a context needs something in memory in a way that none before it has shown."""
        for name, tensor in self.held.items():
            have: Iterable[Any] = tensor.orientations if not isinstance(tensor, CacheTensor) else tensor.layouts
            missing = set(tensor.orientations) - set(have)
            missing |= {
                turned
                for turned, pieces in tensor.orientations.items()
                if not isinstance(tensor, CacheTensor) and not pieces
            }
            if missing:
                raise UnsupportedOp(
                    f"attention {self.method.name()} must need {name} by {' and '.join(sorted(have)) or 'nothing'} in every "
                    f"context, not by {' and '.join(sorted(missing))} as in one of {len(lowering.ops)} operations"
                )

    def _given(self, around: Surroundings) -> dict[str, Value]:
        op, shapes = self.op, self.method.inputs(self.op.case(2))
        queries, width = op.heads * op.d_head, op.kv_heads * op.d_head
        starts = {"q": 0, "k_new": queries, "v_new": queries + width}
        found = {}
        for name in shapes:
            if name in starts:
                size = queries if name == "q" else width
                tokens = around.qkv.tokens(starts[name], starts[name] + size)
                buffer = Buffer(around.qkv.sram + starts[name], size, tokens=dict.fromkeys(tokens), uses=1)
                found[name] = Value(shapes[name], buffer)
            elif name == HIDDEN:
                buffer = Buffer(around.hidden.sram, queries, tokens=dict.fromkeys(around.hidden.tokens()), uses=1)
                found[name] = Value(shapes[name], buffer)
        return found


def _indices(operations: Sequence[Primitive], decided: Mapping[str, Any]) -> dict[str, Nested]:
    """Integers that addresses depend on, as nested lists."""
    names = {op.inputs[1] for op in operations if isinstance(op, prim.Gather) and not op.on_chip}
    return {name: decided[name].tolist() for name in names if name in decided}


__all__ = ["ATTENDED", "AtHome", "DecoderAttention", "Lowered", "Surroundings", "at_home"]
