"""Several tokens in a forward pass: prompts as matrix-matrix work, and batches of sequences.

A *group* is the tokens of a pass, each a (sequence, position). Matrix products take the group together: the pieces of all
inputs lie side by side in the global buffer, and an opened row meets each of them before it is closed. So the buffer,
divided by the tokens at once, is the longest piece of an input, and an accumulator is needed for each token. Everything
else is done token by token, attention over the cache of the token's sequence; each token has buffers of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, NamedTuple

from pimsim.arch.dram import DramSpec
from pimsim.arch.system import ArchConfig
from pimsim.errors import CapacityExceeded, MappingError
from pimsim.mapper.builder import BlockBuilder, Part, Result
from pimsim.mapper.layout import Shape, WeightLayout
from pimsim.mapper.lower.ops import LayerLowering, lower_attention_together
from pimsim.mapper.mapping import Mapping, renamed
from pimsim.mapper.sram import SramMap
from pimsim.program.isa import Block, Compute, Item, Placed, Work
from pimsim.workload import ops
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.graph import WorkloadGraph


class Token(NamedTuple):
    """A token of a group."""

    sequence: int
    position: int

    @property
    def context(self) -> int:
        """Tokens that attention sees, this one included."""
        return self.position + 1


Group = tuple[Token, ...]


def groups(workload: WorkloadConfig) -> Iterator[Group]:
    """The groups of a run in order: prompts, then a token of each sequence at a time."""
    sequences, prompt = range(workload.batch), workload.prompt_tokens
    if workload.prefill == "matrix":
        for sequence in sequences:
            for start in range(0, prompt, workload.prefill_tokens):
                stop = min(start + workload.prefill_tokens, prompt)
                yield tuple(Token(sequence, position) for position in range(start, stop))
        start = prompt
    else:
        start = 0
    for position in range(start, prompt + workload.generate_tokens - 1):
        yield tuple(Token(sequence, position) for sequence in sequences)


def prompt_groups(workload: WorkloadConfig) -> int:
    """Groups that process prompts; the first token of every sequence is known behind the last of them."""
    if workload.prefill == "matrix":
        return workload.batch * ceil(workload.prompt_tokens / workload.prefill_tokens)
    return workload.prompt_tokens


class GroupMapping(Mapping):
    """A `Mapping` whose passes process groups of tokens.

    Attributes:
        together: most tokens of a group.
        stride: SRAM elements from the buffers of a token to those of the next.
        sequence_rows: rows from the cache of a sequence to that of the next, in every decoder block.
    """

    def __init__(self, workload: WorkloadConfig, graph: WorkloadGraph, arch: ArchConfig, spec: DramSpec) -> None:
        """Map.

        Raises:
            CapacityExceeded: as `Mapping`, or the global buffer has no column for each of the tokens.
            MappingError: operations are dispatched one after the other.
        """
        if arch.dispatch == "serial":
            raise MappingError("dispatch must be overlap where several tokens are processed at once, not 'serial'")
        self.together = workload.together
        super().__init__(workload, graph, arch, spec)
        self.stride = self.sram.used
        self._projections: dict[int, Block] = {}
        self._feed_forwards: dict[int, Block] = {}
        self._heads: dict[tuple[int, ...], Block] = {}
        self._qkv: dict[int, list[Result]] = {}

    # -- decisions ------------------------------------------------------------------------------------------------

    @property
    def copies(self) -> int:
        """Tokens whose vectors are in the SRAM at once."""
        return self.together

    @property
    def at_once(self) -> int:
        """Tokens that share an opened row: each needs an accumulator."""
        return min(self.together, self.arch.pim.accumulators)

    @property
    def weight_shape(self) -> Shape:
        """The shape that weights see: the buffer holds a piece of the input of each token.

        Raises:
            CapacityExceeded: not even a column of each fits.
        """
        columns = self.shape.buffer // self.shape.lanes // self.at_once
        if not columns:
            raise CapacityExceeded(
                f"pim.global_buffer_bytes must hold a column of each of {self.at_once} tokens, not "
                f"{self.arch.pim.global_buffer_bytes} bytes"
            )
        return replace(self.shape, buffer=columns * self.shape.lanes)

    def shift(self, slot: int) -> int:
        """SRAM elements from the buffers of the first token of a group to those of another."""
        return slot * self.stride

    def suffix(self, slot: int) -> str:  # noqa: ARG002
        """Behind the names of operations of a token, where its buffers are not its own for the whole pass."""
        return ""

    def _place_cache(self, row: int) -> int:
        self.sequence_rows = super()._place_cache(row) - row
        return row + self.workload.batch * self.sequence_rows

    def cache_rows(self, layer: int, name: str) -> Iterator[tuple[int, int]]:
        """Rows of the ``"keys"`` or ``"values"`` of every sequence."""
        for first, stop in super().cache_rows(layer, name):
            for sequence in range(self.workload.batch):
                shift = sequence * self.sequence_rows
                yield first + shift, stop + shift

    # -- program --------------------------------------------------------------------------------------------------

    @property
    def prompt_passes(self) -> int:
        """Groups that process prompts."""
        return prompt_groups(self.workload)

    def contexts(self) -> Iterator[tuple[int, ...]]:
        """For each group, the tokens that attention sees from each of its tokens."""
        yield from (tuple(token.context for token in group) for group in groups(self.workload))

    def program(self) -> Iterator[list[Placed]]:
        """The blocks of each group in turn."""
        for group in groups(self.workload):
            yield self.group_pass(group)

    def group_pass(self, group: Group, tokens: Sequence[int] = (), *, head: bool = False) -> list[Placed]:
        """The blocks of the pass of a group; with ``head``, logits are computed for all tokens of a prompt, too."""
        placed: list[Placed] = []
        if self.workload.embeddings:
            placed.append(Placed(self._embeddings(group, tokens or (0,) * len(group)), 0, -1))
        blocks = self.layer_blocks(group)
        for layer in range(self.workload.model.layers):
            base = layer * self.layer_rows
            placed += [Placed(block, base, layer) for block in blocks]
        if self.workload.lm_head:
            last = self.workload.prompt_tokens - 1
            chosen = tuple(k for k, token in enumerate(group) if head or token.position >= last)
            if chosen:
                placed.append(Placed(self._logits(chosen, group), 0, -1))
        return placed

    def layer_blocks(self, group: Group) -> tuple[Block, ...]:
        """The blocks of a decoder block."""
        return self._projection(len(group)), self._attend(group), self._rest(len(group))

    # -- blocks ---------------------------------------------------------------------------------------------------

    def lowerings_of(self, name: str, slots: Sequence[int], contexts: Sequence[int] = ()) -> GroupLowering:
        """A new block, and what lowers the operations of tokens of a group into it."""
        shared = BlockBuilder(name, self.shape.channels)
        lowerings = []
        for k, slot in enumerate(slots):
            plain = self._lowering(name, "", contexts[k] if contexts else 1)
            lowering = SlotLowering(**{each: getattr(plain, each) for each in plain.__dataclass_fields__})
            lowering.builder, lowering.sram = (
                SlotBuilder(shared, slot, self.suffix(slot)),
                _Copy(self.sram, self.shift(slot)),
            )
            lowering.places = self.places if slot == 0 else {}
            lowerings.append(lowering)
        return GroupLowering(self, shared, lowerings)

    def stream_of(self, slot: int, *, embedded: bool = False, begins: bool = True) -> Result:
        """The residual stream of a token: there when the layer before, or the pass before, is done with all tokens.

        What ``begins`` a pass waits for the tokens of the last one, too, if there is an LM head.
        """
        slots = range(self.together)
        tokens = [f"x@{k}" for k in slots]
        tokens += ["embedded"] if embedded else []
        tokens += [f"argmax@{k}" for k in slots] if begins and self.workload.lm_head else []
        return Result(
            self.sram["x"] + self.shift(slot), tuple(Part(0, self.workload.model.d_model, token) for token in tokens)
        )

    def _embeddings(self, group: Group, tokens: Sequence[int]) -> Block:
        op = next(op for op in self.graph if isinstance(op, ops.Embedding))
        b = self.lowerings_of("embedding", range(len(group)), [each.context for each in group])
        for slot, (lowering, token) in enumerate(zip(b.lowerings, tokens, strict=True)):
            lowering.token = token
            lowering.results["previous"] = self.stream_of(slot)
            lowering.lower(op)
        return b.shared.build()

    def _projection(self, count: int) -> Block:
        if count not in self._projections:
            before, _, _ = self._split_layer()
            b = self.lowerings_of("projection", range(count))
            for slot, lowering in enumerate(b.lowerings):
                lowering.results[before[0].inputs[0]] = self.stream_of(slot, embedded=self.workload.embeddings)
            for op in before:
                b.lower(op)
            self._qkv[count] = [lowering.results[before[-1].name] for lowering in b.lowerings]
            self._projections[count] = b.shared.build()
        return self._projections[count]

    def _attend(self, group: Group) -> Block:
        _, attention, _ = self._split_layer()
        write, scores, softmax, values = attention
        b = self.lowerings_of("attention", range(len(group)), [token.context for token in group])
        for token, lowering, qkv in zip(group, b.lowerings, self._qkv[len(group)], strict=True):
            lowering.results[write.inputs[0]] = qkv
            lowering.layouts = {**self.layouts, **self.cache_of(token.sequence)}
        assert isinstance(write, ops.CacheWrite)
        assert isinstance(scores, ops.Scores)
        assert isinstance(softmax, ops.Softmax)
        assert isinstance(values, ops.Values)
        lower_attention_together(b.lowerings, write, scores, softmax, values)
        return b.shared.build()

    def cache_of(self, sequence: int) -> dict[str, Any]:
        """Layouts of the cache of a sequence."""
        shift = sequence * self.sequence_rows
        return {name: replace(self.layouts[name], row0=self.layouts[name].row0 + shift) for name in ("keys", "values")}

    def _rest(self, count: int) -> Block:
        if count not in self._feed_forwards:
            before, attention, after = self._split_layer()
            model = self.workload.model
            b = self.lowerings_of("feed_forward", range(count))
            for lowering in b.lowerings:
                self.enter_rest(lowering, before, attention[-1])
            for op in after:
                b.lower(op)
            block, last = b.shared.build(), after[-1].name.partition(".")[2]
            for slot in range(count):
                block = renamed(block, f"{last}@{slot}", f"x@{slot}")
            assert model.layers
            self._feed_forwards[count] = block
        return self._feed_forwards[count]

    def enter_rest(self, lowering: LayerLowering, before: Sequence[ops.OpNode], values: ops.OpNode) -> None:
        """What the second half of a decoder block finds, as in the block of a single token."""
        model, norm = self.workload.model, before[0].name.partition(".")[2]
        stream = (Part(0, model.d_model, norm),)
        lowering.results[before[0].inputs[0]] = Result(lowering.sram["x"], stream)
        if model.parallel_residual:
            lowering.results[before[0].name] = Result(lowering.sram["norm"], stream)
        n, d_head = self.heads_per_pass, model.head_width
        parts = tuple(
            Part(h * d_head, min(h + n, model.heads) * d_head, f"attended{i}")
            for i, h in enumerate(range(0, model.heads, n))
        )
        lowering.results[values.name] = Result(lowering.sram["values"], parts)
        shared = ["partial0", "partial1"]  # space that they share with the scores
        if model.parallel_residual:
            shared.append("gate_up" if model.gated else "up")
        lowering.freed = dict.fromkeys(shared, parts[-1].token)

    def _logits(self, slots: tuple[int, ...], group: Group) -> Block:  # noqa: ARG002
        if slots not in self._heads:
            found = self._layers[-2]
            b = self.lowerings_of("head", slots)
            for slot, lowering in zip(slots, b.lowerings, strict=True):
                lowering.results[found[0].inputs[0]] = self.stream_of(slot, begins=False)
            for op in found:
                b.lower(op)
            self._heads[slots] = b.shared.build()
        return self._heads[slots]


class _Copy(SramMap):
    """The buffers of one token."""

    def __init__(self, of: SramMap, shift: int) -> None:
        super().__init__(of.capacity)
        self._of, self._shift = of, shift

    def __getitem__(self, name: str) -> int:
        return self._of[name] + self._shift

    def length(self, name: str) -> int:
        """Elements of a buffer."""
        return self._of.length(name)


class SlotBuilder(BlockBuilder):
    """Adds the steps of one token to a shared block; its tokens and the tables of its position have names of their own.

    A name with an ``@`` says already whose it is.
    """

    def __init__(self, shared: BlockBuilder, slot: int, suffix: str = "") -> None:
        super().__init__(shared.name, 0)
        self._shared, self._slot, self._suffix = shared, slot, suffix

    def own(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Names of this token."""
        return tuple(name if "@" in name else f"{name}@{self._slot}" for name in names)

    def op(self, kind: str, name: str) -> int:
        """Begin an operation of the shared block."""
        return self._shared.op(kind, name + self._suffix)

    def pim(
        self,
        op: int,
        channels: Sequence[int],
        items: tuple[Item, ...],
        waits: tuple[str, ...] = (),
        signals: tuple[str, ...] = (),
    ) -> None:
        """The same step for each of ``channels``."""
        self._shared.pim(op, channels, items, self.own(waits), self.own(signals))

    def asic(
        self,
        op: int,
        computes: tuple[Compute, ...],
        waits: tuple[str, ...],
        signals: tuple[str, ...] = (),
        *,
        soon: bool = False,
    ) -> None:
        """A step of the ASIC."""
        if self._slot:
            computes = tuple(
                replace(each, parameters=f"{each.function}@{self._slot}")
                if each.function in {"rope", "argmax"}
                else each
                for each in computes
            )
        self._shared.asic(op, computes, self.own(waits), self.own(signals), soon=soon)

    def unit(
        self, name: str, op: int, work: tuple[Work, ...], waits: tuple[str, ...], signals: tuple[str, ...] = ()
    ) -> None:
        """A step of a further unit."""
        self._shared.unit(name, op, work, self.own(waits), self.own(signals))


class SlotLowering(LayerLowering):
    """Lowers the operations of one token; all tokens stay in one block."""

    def cut(self, name: str) -> None:
        """Nothing: the block goes on."""


@dataclass
class GroupLowering:
    """Lowers an operation for all tokens of a group: matrix products together, everything else one after the other."""

    mapping: GroupMapping
    shared: BlockBuilder
    lowerings: list[SlotLowering]

    def lower(self, op: ops.OpNode) -> None:
        """Lower one operation.

        Raises:
            UnsupportedOp: no unit of this machine can run it.
        """
        if not isinstance(op, ops.Linear) or (self.mapping.head_piece and op.kind == "lm_head"):
            for lowering in self.lowerings:
                lowering.lower(op)
            return
        for start in range(0, len(self.lowerings), self.mapping.at_once):
            self._products(op, self.lowerings[start : start + self.mapping.at_once])

    def _products(self, op: ops.Linear, lowerings: Sequence[SlotLowering]) -> None:
        """Chunk after chunk of the inputs; bias and partial sums token by token on the ASIC."""
        first = lowerings[0]
        name, layout = first.short(op), first.layouts[first.short(op)]
        assert isinstance(layout, WeightLayout)
        ready = [""] * len(lowerings)
        for chunk, length in enumerate(layout.chunks):
            start, partial = chunk * layout.shape.buffer, f"partial{chunk % 2}" if chunk else ""
            waits = dict.fromkeys(
                token
                for b in lowerings
                for token in owned(b)(
                    b.results[op.inputs[0]].tokens(start, start + length)
                    + ((b.freed[partial or name],) if (partial or name) in b.freed else ())
                )
            )
            vectors = tuple((b.results[op.inputs[0]].sram, b.sram[partial or name]) for b in lowerings)
            done = owned(first)((f"{name}.out{chunk}",))
            self._steps(first, op, layout, chunk, vectors, tuple(waits), done)
            ready = list(done) * len(lowerings)
            if chunk or op.bias:
                ready = [self._add(b, op, chunk, done) for b in lowerings]
            if chunk:
                for b, token in zip(lowerings, ready, strict=True):
                    b.freed[partial] = token
        for b, token in zip(lowerings, ready, strict=True):
            b.results[op.name] = Result(b.sram[name], (Part(0, op.d_out, token),))
            b.places[op.name] = b.sram[name]

    def _steps(
        self,
        first: SlotLowering,
        op: ops.Linear,
        layout: WeightLayout,
        chunk: int,
        vectors: tuple[tuple[int, int], ...],
        waits: tuple[str, ...],
        done: tuple[str, ...],
    ) -> None:
        """The channels' steps for one chunk, channels with equally many groups of outputs sharing theirs."""
        index = first.builder.op(op.kind, op.name)
        by_slots: dict[int, list[int]] = {}
        for channel in range(self.mapping.shape.channels):
            by_slots.setdefault(layout.slots(channel), []).append(channel)
        for slots, channels in by_slots.items():
            if slots:
                items = self.mapping.pim.group_items(layout, chunk, slots, vectors)
                self.shared.pim(index, channels, items, waits, done)

    @staticmethod
    def _add(b: SlotLowering, op: ops.Linear, chunk: int, done: tuple[str, ...]) -> str:
        name = b.short(op)
        target = b.sram[name]
        operands = (target, b.sram[f"partial{chunk % 2}"]) if chunk else (target,)
        bias = f"{name}.bias" if chunk == 0 and op.bias else ""
        token = owned(b)((f"{name}.sum{chunk}",))[0]
        adding = b.builder.op("partial_sum" if chunk else "bias", f"{op.name}.{chunk}")
        b.builder.asic(adding, (Compute("add", op.d_out, operands, target, bias),), done, (token,))
        return token


def owned(b: LayerLowering) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    """How a token's builder names tokens."""
    assert isinstance(b.builder, SlotBuilder)
    return b.builder.own


__all__ = [
    "Group",
    "GroupLowering",
    "GroupMapping",
    "SlotBuilder",
    "SlotLowering",
    "Token",
    "groups",
    "owned",
    "prompt_groups",
]
