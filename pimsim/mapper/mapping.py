"""Mapping a decoder onto a PIM machine: layouts, SRAM map, and the program of every forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from math import ceil, prod
from typing import TYPE_CHECKING, Any

from pimsim.arch.dram import DramSpec
from pimsim.arch.formats import format_bytes
from pimsim.arch.system import ArchConfig
from pimsim.errors import CapacityExceeded, UnsupportedOp
from pimsim.mapper.builder import BlockBuilder, Part, Result
from pimsim.mapper.layout import KeyLayout, Shape, TableLayout, ValueLayout, WeightLayout
from pimsim.mapper.lower.ops import LayerLowering
from pimsim.mapper.lower.pim import PimLowering
from pimsim.mapper.sram import SramMap
from pimsim.program.isa import Block, Compute, Placed, Step
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.graph import WorkloadGraph
from pimsim.workload.ops import Attention, Embedding, Linear, OpNode

if TYPE_CHECKING:
    from pimsim.mapper.attention.banks import BankTensor
    from pimsim.mapper.attention.decoder import DecoderAttention


class Mapping:
    """The recorded decisions, and the program that follows from them."""

    def __init__(self, workload: WorkloadConfig, graph: WorkloadGraph, arch: ArchConfig, spec: DramSpec) -> None:
        """Map.

        Raises:
            CapacityExceeded: weights and KV cache do not fit the DRAM, or a buffer does not fit the SRAM.
            UnsupportedOp: the attention is on a streaming unit that does not have it.
        """
        self.workload, self.graph, self.arch, self.spec = workload, graph, arch, spec
        element = format_bytes(arch.pim.format)
        self.shape = Shape(
            channels=spec.channels,
            banks=spec.banks_per_channel,
            columns=spec.columns,
            lanes=spec.burst_bytes // element,
            buffer=arch.pim.global_buffer_bytes // element,
        )
        self.passes = workload.prompt_tokens + workload.generate_tokens - 1
        self.pim = PimLowering(spec, self.shape, arch.pim.accumulators)
        self._layers = graph.layers()
        self.attention = self._algorithm()
        self._place_tensors()
        self._map_sram(element)
        self.places: dict[str, int] = {}
        """SRAM address of the result of each operation, of the first layer for all layers, once its block is lowered."""
        self._shape_lowered: tuple[int, int] | None = None
        self._template: Block
        self._attention = lru_cache(maxsize=4)(self._attention_blocks)

    # -- decisions ------------------------------------------------------------------------------------------------

    def _algorithm(self) -> DecoderAttention | None:
        """Attention by an algorithm of the registry; None for the decoder's own softmax over the cache."""
        op = next((op for op in self._layers[0] if isinstance(op, Attention)), None)
        if op is None:
            return None
        if not self._in_dram("attention"):
            raise UnsupportedOp(
                f"attention must be vanilla or single_pass on the streaming unit, which has no other, not "
                f"{self.workload.attention!r}; the PIM side has it"
            )
        if self.workload.together > 1:
            raise UnsupportedOp(
                f"attention must be vanilla on PIM channels where {self.workload.together} tokens go through a forward pass "
                f"together, not {self.workload.attention!r}"
            )
        from pimsim.mapper.attention.decoder import DecoderAttention  # numpy, which the usual decoder does without

        return DecoderAttention(op, self.passes, self.spec, self.pim, self.arch.dispatch)

    def _place_tensors(self) -> None:
        """Give every tensor its rows; all decoder blocks look the same, ``layer_rows`` apart."""
        shape, model = self.shape, self.workload.model
        row = 0
        self.layouts: dict[str, Any] = {}
        for op in self._layers[0]:
            if isinstance(op, Linear) and self._in_dram(op.kind):
                self.layouts[_short(op)] = layout = WeightLayout(self.weight_shape, op.d_in, op.d_out, row)
                row += layout.rows
        if self._in_dram("attention"):
            row = self._place_cache(row)
        self.layer_rows = row
        row *= model.layers
        if self.workload.embeddings:
            tables = [("token_table", model.vocabulary)]
            tables += [("position_table", model.context)] if model.position == "learned" else []
            for name, entries in tables:
                self.layouts[name] = table = TableLayout(shape, entries, model.d_model, row)
                row += table.rows
        if self.workload.lm_head:
            head = self.graph["final.lm_head"]
            assert isinstance(head, Linear)
            self.layouts["lm_head"] = layout = WeightLayout(self.weight_shape, head.d_in, head.d_out, row)
            row += layout.rows
        self.rows_used = row
        if row > self.spec.rows:
            bank = self.spec.columns * self.spec.burst_bytes
            total = bank * shape.banks * shape.channels
            raise CapacityExceeded(
                f"dram.rows must hold {self.workload.name} with a KV cache of {self.passes} tokens: {row} rows per bank "
                f"({row * total / 2**30:.2f} GiB), not {self.spec.rows} ({self.spec.rows * total / 2**30:.2f} GiB)"
            )

    def _place_cache(self, row: int) -> int:
        """Give keys and values of a layer their rows from ``row`` on; returns the row behind them."""
        if self.attention is not None:
            return self.attention.place(row)
        shape, model = self.shape, self.workload.model
        d_head, kv_heads = model.head_width, model.key_value_heads
        keys = KeyLayout(shape, kv_heads, d_head, self.passes, row, model.heads // kv_heads)
        if not keys.heads_per_chunk:
            shared = (
                f"the {keys.group} queries that share the keys of a head" if keys.group > 1 else "the query of one head"
            )
            needed = keys.group * keys.columns_per_head * shape.lanes
            raise CapacityExceeded(f"pim.global_buffer_bytes must hold {shared}: {needed} elements, not {shape.buffer}")
        self.layouts["keys"] = keys
        row += keys.rows
        self.layouts["values"] = values = ValueLayout(shape, kv_heads, d_head, self.passes, row)
        return row + values.rows

    @property
    def weight_shape(self) -> Shape:
        """The shape that weights see; its buffer is the longest piece of an input that products take at once."""
        return self.shape

    @property
    def copies(self) -> int:
        """Tokens whose vectors are in the SRAM at once."""
        return 1

    def _in_dram(self, work: str) -> bool:  # noqa: ARG002
        """Whether what this kind of work reads lies in the DRAM; on a machine with no other memory, all does."""
        return True

    def _map_sram(self, element: int) -> None:
        """Place the ASIC's buffers. Scores share space with the feed-forward vectors; they never live together."""
        model, shape = self.workload.model, self.shape
        sram = SramMap(self.arch.asic.sram_bytes // element // self.copies)
        attended = model.heads * model.head_width
        for name, length in (
            ("x", model.d_model),
            ("norm", model.d_model),
            ("qkv", attended + 2 * model.key_value_heads * model.head_width),
            ("values", attended),
            ("proj", model.d_model),
            ("down", model.d_model),
            ("sums", model.heads),
            ("token", 2),
        ):
            sram.add(name, self._padded(length))
        if "values" in self.layouts and self.passes > self.layouts["values"].chunk_tokens:
            sram.add("weighted0", self._padded(attended))
            sram.add("weighted1", self._padded(attended))
        self.score_pitch = shape.lanes * ceil(self.passes / shape.lanes)
        self.score_pitch = max(self.score_pitch, shape.banks * ceil(self.passes / shape.banks))
        feed_forward = {"gate_up": self._padded(2 * model.d_ff)} if model.gated else {"up": self._padded(model.d_ff)}
        head = self._map_head(sram.free)
        whole = {name for name in self.layouts if name != "lm_head" or not self.head_piece}
        linears = [each for name, each in self.layouts.items() if isinstance(each, WeightLayout) and name in whole]
        widest = max((w.d_out for w in linears if len(w.chunks) > 1), default=0)
        if widest:
            feed_forward |= {"partial0": self._padded(widest), "partial1": self._padded(widest)}
        free = sram.free
        attention = {"scores": self._scores_in_sram(free)}
        sram.overlay(attention, feed_forward, head)
        each = f", for each of {self.copies} tokens at once" if self.copies > 1 else ""
        sram.check(f"{self.workload.name}{each}", element)
        self.sram = sram

    def _scores_in_sram(self, free: int) -> int:
        """Elements for the scores of as many heads as fit into what is free, at least one; all that is free for algorithms."""
        if self.attention is not None:
            self.heads_per_pass = self.workload.model.heads
            return free
        self.heads_per_pass = min(self.workload.model.heads, free // self.score_pitch)
        return max(1, self.heads_per_pass) * self.score_pitch

    def _map_head(self, free: int) -> dict[str, int]:
        """Buffers of the logits: all of them, or as large pieces as there is space for, two of each kind to take turns."""
        self.head_piece = 0
        layout = self.layouts.get("lm_head")
        if layout is None:
            return {}
        chunks, whole = len(layout.chunks), self._padded(layout.d_out)
        if whole * (3 if chunks > 1 else 1) <= free:
            return {"lm_head": whole}
        kinds = ("lm_head", "head_partial") if chunks > 1 else ("lm_head",)
        pitch = self.shape.banks * self.shape.channels
        self.head_piece = max(1, free // (2 * len(kinds) * pitch))
        return {f"{kind}{turn}": self.head_piece * pitch for kind in kinds for turn in range(2)}

    def _padded(self, length: int) -> int:
        """Whole groups of results and whole columns."""
        return max(unit * ceil(length / unit) for unit in (self.shape.banks, self.shape.lanes))

    def cache_rows(self, layer: int, name: str) -> Iterator[tuple[int, int]]:
        """First row and the row behind the last one of the ``"keys"`` or ``"values"`` of a decoder block, if they are here.

        With the values goes whatever else an attention algorithm leaves for the next token.
        """
        if self.attention is not None:
            base = layer * self.layer_rows
            yield from ((base + first, base + stop) for first, stop in self.attention.rows_of(name))
        layout = self.layouts.get(name)
        if layout is not None:
            first = layer * self.layer_rows + layout.row0
            yield first, first + layout.rows

    def elements_given(self) -> int:
        """Elements that lie in the DRAM before the first pass: matrices of all layers, the head and the tables."""
        layers, total = self.workload.model.layers, 0
        for name, layout in self.layouts.items():
            if isinstance(layout, WeightLayout):
                total += layout.d_in * layout.d_out * (1 if name == "lm_head" else layers)
            elif isinstance(layout, TableLayout):
                total += layout.entries * layout.width
        return total + layers * sum(map(elements_held, self.attention.parameters().values() if self.attention else ()))

    # -- program --------------------------------------------------------------------------------------------------

    @property
    def prompt_passes(self) -> int:
        """Forward passes that process prompts; the first token is known behind the last of them."""
        return self.workload.prompt_tokens

    def contexts(self) -> Iterator[tuple[int, ...]]:
        """For each forward pass, the tokens that attention sees from each of those that it processes."""
        yield from ((context,) for context in range(1, self.passes + 1))

    def program(self) -> Iterator[list[Placed]]:
        """The blocks of each forward pass in turn; blocks that repeat are the same object."""
        for context in range(1, self.passes + 1):
            yield self.forward_pass(context)

    def forward_pass(self, context: int, token: int = 0, *, head: bool = False) -> list[Placed]:
        """The blocks of the pass in which attention sees ``context`` tokens, the last of which is ``token``.

        With ``head``, logits are computed for a token of the prompt, too.
        """
        placed: list[Placed] = []
        if self.workload.embeddings:
            placed.append(Placed(self._embedding_block(context, token), 0, -1))
        projection, rest = self._projection_block, self._feed_forward_block
        for layer in range(self.workload.model.layers):
            base = layer * self.layer_rows
            attention = self._attention(context) if self.attention is None else (self._attended(context, layer),)
            placed += [
                Placed(projection, base, layer),
                *[Placed(block, base, layer) for block in attention],
                Placed(rest, base, layer),
            ]
        if self.workload.lm_head and (head or context >= self.workload.prompt_tokens):
            placed.append(Placed(self._head_block, 0, -1))
        return placed

    # -- blocks ---------------------------------------------------------------------------------------------------

    def _lowering(self, name: str, after: str, context: int = 1) -> LayerLowering:
        builder = BlockBuilder(
            name, self.shape.channels, serial=self.arch.dispatch == "serial", after=f"{after}.end" if after else ""
        )
        return LayerLowering(
            builder,
            self.pim,
            self.sram,
            self.layouts,
            self.graph,
            context,
            self.heads_per_pass,
            self.score_pitch,
            head_piece=self.head_piece,
            places=self.places,
        )

    def _carried(self, lowering: LayerLowering, name: str, buffer: str, token: str, width: int) -> None:
        """A result of an earlier block."""
        lowering.results[name] = Result(self.sram[buffer], (Part(0, width, token),))

    def _stream(self, *, embedded: bool) -> Result:
        """The residual stream as a layer finds it: left by the layer before or, for the first, by what begins a pass.

        With an LM head, a pass begins when the token of the last one is known.
        """
        tokens = ["x", *(["embedded"] if embedded else []), *(["argmax"] if self.workload.lm_head else [])]
        return Result(self.sram["x"], tuple(Part(0, self.workload.model.d_model, token) for token in tokens))

    def _split_layer(self) -> tuple[list[OpNode], list[OpNode], list[OpNode]]:
        """Operations of a decoder block: before attention, attention (depends on the context), after it."""
        layer = self._layers[0]
        kinds = [op.kind for op in layer]
        begin, end = ("kv_write", "attention_values") if "kv_write" in kinds else ("attention", "attention")
        first, last = kinds.index(begin), kinds.index(end) + 1
        return layer[:first], layer[first:last], layer[last:]

    @property
    def _projection_block(self) -> Block:
        return self._cached("projection")

    @property
    def _feed_forward_block(self) -> Block:
        return self._cached("feed_forward")

    @property
    def _head_block(self) -> Block:
        return self._cached("head")

    def _cached(self, name: str) -> Block:
        blocks: dict[str, Block] = self.__dict__.setdefault("_blocks", {})
        if name not in blocks:
            blocks[name] = getattr(self, f"_make_{name}")()
        return blocks[name]

    def _make_projection(self) -> Block:
        before, _, _ = self._split_layer()
        b = self._lowering("projection", "feed_forward")
        b.results[before[0].inputs[0]] = self._stream(embedded=self.workload.embeddings)
        for op in before:
            b.lower(op)
        self._projection_result = b.results[before[-1].name]
        return b.builder.build()

    def _attention_blocks(self, context: int) -> tuple[Block, ...]:
        """Attention of one forward pass, as two blocks: up to the scores, and from the softmax on.

        The second one differs little from token to token, so it is derived from the one before where it can be.
        """
        new_shape = self._is_new_shape(context)
        _, attention, _ = self._split_layer()
        b = self._lowering("scores", "projection", context)
        b.scores_only = not new_shape
        b.results[attention[0].inputs[0]] = self._projection_result
        for op in attention:
            b.lower(op)
        if new_shape:
            scores, self._template = b.finish()
            return scores, self._template
        return b.blocks[0], self._moved(self._template, context)

    def _attended(self, context: int, layer: int) -> Block:
        """The program of attention by an algorithm."""
        from pimsim.mapper.attention.decoder import Surroundings

        assert self.attention is not None
        before, _, _ = self._split_layer()
        assert self._projection_block
        self.places[self.attention.op.name] = self.sram["values"]
        norm = Result(self.sram["norm"], (Part(0, self.workload.model.d_model, _short(before[0])),))
        around = Surroundings(
            qkv=self._projection_result,
            hidden=norm,
            target=self.sram["values"],
            region=self.sram["scores"],
            capacity=self.sram.capacity,
            element_bytes=format_bytes(self.arch.pim.format),
            after="projection",
        )
        return self.attention.block(context, layer, around)

    def _is_new_shape(self, context: int) -> bool:
        """Whether attention at this context has other steps than at the last one that was lowered."""
        values = self.layouts["values"]
        chunk, last = divmod(context - 1, values.chunk_tokens)
        shape = (chunk, last // self.shape.lanes)
        heads = self.workload.model.heads
        if self.arch.dispatch == "overlap" and self.heads_per_pass >= heads and self._shape_lowered == shape:
            return False
        self._shape_lowered = shape
        return True

    def _moved(self, block: Block, context: int) -> Block:
        """The block for another context of the same shape: the value goes elsewhere, the softmax is of another length."""
        values = self.layouts["values"]
        source = self.sram["qkv"] + (self.workload.model.heads + values.heads) * values.d_head
        channels = []
        for channel, stream in enumerate(block.channels):
            write = stream[0] if stream and block.ops[stream[0].op].kind == "kv_write" else None
            items = self.pim.value_write(values, channel, context - 1, source)
            channels.append(stream if write is None else (replace(write, items=items), *stream[1:]))
        asic = tuple(_with_softmax_of(step, context) for step in block.asic)
        return Block(block.name, block.ops, tuple(channels), asic, like=block)

    def _make_feed_forward(self) -> Block:
        before, attention, after = self._split_layer()
        model = self.workload.model
        d = model.d_model
        b = self._lowering("feed_forward", "attention")
        # the first LayerNorm of the layer has waited for the stream, so its token stands for both
        self._carried(b, before[0].inputs[0], "x", _short(before[0]), d)
        if model.parallel_residual:
            self._carried(b, before[0].name, "norm", _short(before[0]), d)
        n, d_head = self.heads_per_pass, model.head_width
        parts = tuple(
            Part(h * d_head, min(h + n, model.heads) * d_head, f"attended{i}")
            for i, h in enumerate(range(0, model.heads, n))
        )
        b.results[attention[-1].name] = Result(self.sram["values"], parts)
        shared = ["partial0", "partial1"]  # space that they share with the scores
        if model.parallel_residual:  # its first product does not read what attention writes
            shared.append("gate_up" if model.gated else "up")
        b.freed = self._freed(shared, parts[-1].token)
        for op in self._rest_order(after):
            b.lower(op)
        return renamed(b.builder.build(), _short(after[-1]), "x")

    def _freed(self, shared: Sequence[str], token: str) -> dict[str, str]:
        """Buffers that share space with the scores, and the token behind which they may be written."""
        return dict.fromkeys(shared, token)

    def _rest_order(self, after: list[OpNode]) -> list[OpNode]:
        """The order in which units take the operations behind attention."""
        return after

    def _make_head(self) -> Block:
        b = self._lowering("head", "feed_forward")
        ops = self._layers[-2]
        self._carried(b, ops[0].inputs[0], "x", "x", self.workload.model.d_model)
        for op in ops:
            b.lower(op)
        return b.builder.build()

    def _embedding_block(self, context: int, token: int) -> Block:
        op = next(op for op in self.graph if isinstance(op, Embedding))
        b = self._lowering("embedding", "head" if self.workload.lm_head else "feed_forward", context)
        b.token = token
        b.results["previous"] = self._stream(embedded=False)  # this token is known, and the buffer is free
        b.lower(op)
        return b.builder.build()


def elements_held(tensor: BankTensor) -> int:
    """Elements of a tensor in the banks, every copy counted."""
    return prod(tensor.shape) * len(tensor.orientations)


def _short(op: OpNode) -> str:
    return op.name.partition(".")[2]


def _with_softmax_of(step: Step, context: int) -> Step:
    """The step with a softmax over ``context`` scores, if it is one."""
    compute = step.items[0]
    if not isinstance(compute, Compute) or compute.function != "softmax":
        return step
    return replace(step, items=(replace(compute, length=context),))


def renamed(block: Block, old: str, new: str) -> Block:
    """The block with one signalled token under another name, as later blocks know it."""
    asic = tuple(
        replace(step, signals=tuple(new if t == old else t for t in step.signals)) if old in step.signals else step
        for step in block.asic
    )
    return replace(block, asic=asic)
