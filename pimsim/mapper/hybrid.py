"""Mapping a decoder onto a hybrid machine: which work goes to which side, and what crosses the link.

The PIM side is mapped as on a machine of its own. Work that is placed on the streaming unit becomes three steps: its
operands cross the link into the unit's buffer, kernels run, the result crosses back into the SRAM. Attention is placed as
a whole, because scores, softmax and weighted sums go where the cache lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import ceil

from pimsim.arch.dram import DramSpec
from pimsim.arch.formats import format_bytes
from pimsim.arch.hybrid import FPGA, LINK_IN, LINK_OUT, HybridConfig
from pimsim.arch.system import ArchConfig
from pimsim.errors import CapacityExceeded
from pimsim.mapper.builder import Part, Result
from pimsim.mapper.fpga import kernels
from pimsim.mapper.lower.ops import LayerLowering
from pimsim.mapper.mapping import Mapping
from pimsim.mapper.placement import place, work_of
from pimsim.mapper.sram import SramMap
from pimsim.program.dataflow import Region
from pimsim.program.isa import Block, Compute, Kernel, Transfer
from pimsim.workload import ops
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.graph import WorkloadGraph

SCORE_BYTES = 4
"""Scores and everything else in the unit's buffer stand in 32 bits."""


class HybridMapping(Mapping):
    """A `Mapping` some of whose work is on the streaming unit.

    Attributes:
        sides: kind of work -> ``"pim"`` or ``"fpga"``, while tokens are generated.
        prompt_sides: the same while prompts are processed as matrices.
        stream: the unit's buffer as a map of named places.
    """

    def __init__(self, workload: WorkloadConfig, graph: WorkloadGraph, arch: ArchConfig, spec: DramSpec) -> None:
        """Raises: CapacityExceeded, as `Mapping`, or if the unit's memory or buffer is too small."""
        assert isinstance(arch, HybridConfig)
        self.unit = arch.fpga
        self.sides, self.prompt_sides = place(workload, graph, arch, spec)
        self._element = format_bytes(arch.pim.format)
        self.words = self.unit.beat_bits // (8 * self._element)
        super().__init__(workload, graph, arch, spec)
        self.single_pass = workload.attention == "single_pass"
        self.linear_region = lru_cache(maxsize=None)(self._linear_region)
        self.attention_region = lru_cache(maxsize=None)(self._attention_region)
        self._check_memory()
        self._map_buffer()

    def on_fpga(self, op: ops.OpNode) -> bool:
        """Whether an operation is carried out by the streaming unit."""
        return self.sides.get(work_of(op)) == "fpga"

    def streamed_tokens(self, work: str) -> int:
        """Most tokens that the streaming unit takes at once of a kind of work; 0 if it takes none."""
        return int(self.sides.get(work) == "fpga")

    @property
    def queries(self) -> int:
        """Most tokens of a sequence that attend at once."""
        return 1

    @property
    def heads(self) -> kernels.Heads:
        """Heads and beats of attention."""
        model = self.workload.model
        return kernels.Heads(model.heads, model.key_value_heads, model.head_width, self.words)

    # -- decisions ------------------------------------------------------------------------------------------------

    def _in_dram(self, work: str) -> bool:
        return self.sides.get(work, "pim") == "pim"

    def _scores_in_sram(self, free: int) -> int:
        if self._in_dram("attention"):
            return super()._scores_in_sram(free)
        self.heads_per_pass = self.workload.model.heads
        return 0

    def _check_memory(self) -> None:
        """Weights and cache of the unit, in whole beats, against its memory."""
        model, words = self.workload.model, self.words
        beats = sum(op.d_out * ceil(op.d_in / words) for op in self._streamed_products())
        if not self._in_dram("attention"):
            beats += 2 * self.workload.batch * self.passes * self.heads.token_beats
        self.stream_bytes = beats * model.layers * self.unit.beat_bits // 8
        """Bytes of the unit's memory that are in use at the end of the run."""
        if self.stream_bytes > self.unit.memory_bytes:
            raise CapacityExceeded(
                f"fpga.memory_bytes must hold what is placed there of {self.workload.name}: {self.stream_bytes} bytes, "
                f"not {self.unit.memory_bytes}"
            )

    def stream_elements_given(self) -> int:
        """Elements that lie in the unit's memory before the first pass: matrices of all layers."""
        return self.workload.model.layers * sum(op.d_in * op.d_out for op in self._streamed_products())

    def _streamed_products(self) -> list[ops.Linear]:
        """Products of the first layer whose matrices lie in the unit's memory."""
        return [op for op in self._layers[0] if isinstance(op, ops.Linear) and self.streamed_tokens(op.kind)]

    def _map_buffer(self) -> None:
        self.stream = SramMap(self.unit.buffer_bytes // SCORE_BYTES)
        for op in self._streamed_products():
            tokens = self.streamed_tokens(op.kind)
            self.stream.add(f"{op.kind}.in", tokens * op.d_in)
            self.stream.add(f"{op.kind}.out", tokens * op.d_out)
        tokens = self.streamed_tokens("attention")
        if tokens:
            heads, attended = self.heads, self.heads.heads * self.heads.d_head
            self.stream.add("attention.in", tokens * (heads.heads + 2 * heads.kv_heads) * heads.d_head)
            self.stream.add("attention.scores", 0 if self.single_pass else self.queries * heads.heads * self.passes)
            self.stream.add("attention.out", tokens * attended)
            # lanes have registers for the sums of one token; where there are more, they are here
            self.stream.add("attention.sums", (self.queries - 1) * self.unit.attention.lanes * attended)
        self._add_to_buffer()
        if self.stream.free < 0:
            raise CapacityExceeded(
                f"fpga.buffer_bytes must hold operands, scores and results of {self.workload.name}: "
                f"{self.stream.used * SCORE_BYTES} bytes, not {self.unit.buffer_bytes}"
            )

    def _add_to_buffer(self) -> None:
        """Places of the unit's buffer beyond those of its kernels: none, with one token at a time."""

    # -- program --------------------------------------------------------------------------------------------------

    def _linear_region(self, d_in: int, d_out: int, tokens: int = 1) -> Region:
        return kernels.linear(d_in, d_out, self.words, self.unit.linear, tokens)

    def _attention_region(self, function: str, lane: kernels.Share, queries: int = 1) -> Region:
        """The region of a kernel; contexts that give the busiest lane equally much share it."""
        build = {"scores": kernels.scores, "weighted": kernels.weighted, "attend": kernels.attend}[function]
        return build(self.heads, lane, self.unit.attention, queries)

    def attention_kernels(
        self, context: int, queries: int = 1, first: int = 0, cache: str = "kv"
    ) -> Iterator[tuple[str, Kernel]]:
        """Kernels, one after the other, for the last ``queries`` tokens of a context, with the kind that each counts as.

        ``first`` is the place of the first of these tokens in the group.
        """
        heads, unit, stream = self.heads, self.unit.attention, self.stream
        qkv = stream["attention.in"] + first * (heads.heads + 2 * heads.kv_heads) * heads.d_head
        out = stream["attention.out"] + first * heads.heads * heads.d_head
        places = {
            "attend": ("attention", qkv, out),
            "scores": ("attention_scores", qkv, stream["attention.scores"]),
            "weighted": ("attention_values", stream["attention.scores"], out),
        }
        lane = kernels.share(heads, context, unit, queries)
        shape = (
            heads.heads,
            heads.kv_heads,
            heads.d_head,
            unit.lanes,
            self.words,
            *((queries,) if queries > 1 else ()),
        )
        for function in ("attend",) if self.single_pass else ("scores", "weighted"):
            kind, source, target = places[function]
            region = self.attention_region(function, lane, queries)
            yield kind, Kernel(function, region, shape, source, target, cache, context)

    def _lowering(self, name: str, after: str, context: int = 1) -> LayerLowering:
        plain = super()._lowering(name, after, context)
        lowering = HybridLowering(**{each: getattr(plain, each) for each in plain.__dataclass_fields__})
        lowering.mapping = self
        return lowering

    def _freed(self, shared: Sequence[str], token: str) -> dict[str, str]:
        """Nothing where there are no scores in the SRAM."""
        return super()._freed(shared, token) if self._in_dram("attention") else {}

    def _rest_order(self, after: list[ops.OpNode]) -> list[ops.OpNode]:
        """What does not read attention goes first, so that channels work on it while the streaming unit attends."""
        if self._in_dram("attention"):
            return after
        _, attention, _ = self._split_layer()
        late = {attention[-1].name}
        for op in after:
            if late & set(op.inputs):
                late.add(op.name)
        return sorted(after, key=lambda op: op.name in late)

    def _attention_blocks(self, context: int) -> tuple[Block, ...]:
        if self._in_dram("attention"):
            return super()._attention_blocks(context)
        _, attention, _ = self._split_layer()
        b = self._lowering("attention", "projection", context)
        b.results[attention[0].inputs[0]] = self._projection_result
        for op in attention:
            b.lower(op)
        return (b.builder.build(),)


class HybridLowering(LayerLowering):
    """Lowers what is placed on the streaming unit, and leaves the rest to the PIM side."""

    mapping: HybridMapping

    def lower(self, op: ops.OpNode) -> None:
        """Lower one operation on its side.

        Raises:
            UnsupportedOp: no unit of this machine can run it.
        """
        if not self.mapping.on_fpga(op):
            super().lower(op)
            return
        if isinstance(op, ops.Linear):
            result = self._linear(op)
        elif isinstance(op, ops.Scores):
            result = self._attend(op)
        else:  # the cache is written and read by the kernels of the scores
            result = self.results[op.inputs[0]]
        self.results[op.name] = result
        self.places[op.name] = result.sram

    def _linear(self, op: ops.Linear) -> Result:
        name, source, stream = self.short(op), self.results[op.inputs[0]], self.mapping.stream
        start, target = stream[f"{op.kind}.in"], self.sram[name]
        self._send(op, Transfer(op.d_in, source.sram, start), source.tokens(), name)
        index = self.builder.op(op.kind, op.name)
        region = self.mapping.linear_region(op.d_in, op.d_out)
        kernel = Kernel(
            "linear", region, (op.d_in, op.d_out, self.mapping.words), start, stream[f"{op.kind}.out"], name
        )
        self.builder.unit(FPGA, index, (kernel,), (f"{name}.sent",), (f"{name}.done",))
        free = (self.freed[name],) if name in self.freed else ()
        ready = self._receive(op, Transfer(op.d_out, kernel.target, target, back=True), (f"{name}.done", *free), name)
        if op.bias:
            add = Compute("add", op.d_out, (target,), target, f"{name}.bias")
            adding = self.builder.op("bias", f"{op.name}.0")
            self.builder.asic(adding, (add,), (ready,), (f"{name}.part0",))
            ready = f"{name}.part0"
        return Result(target, (Part(0, op.d_out, ready),))

    def _attend(self, op: ops.Scores) -> Result:
        softmax = self.graph.consumers(op.name)[0]
        values = self.graph.consumers(softmax.name)[0]
        qkv, stream, mapping = self.results[op.inputs[0]], self.mapping.stream, self.mapping
        width, attended = (op.heads + 2 * op.kv_heads) * op.d_head, op.heads * op.d_head
        self._send(op, Transfer(width, qkv.sram, stream["attention.in"]), qkv.tokens(), "attention")
        ready = "attention.sent"
        for kind, kernel in mapping.attention_kernels(self.context):
            index = self.builder.op(kind, (op if kind == op.kind else values).name)
            self.builder.unit(FPGA, index, (kernel,), (ready,), (f"attention.{kernel.function}",))
            ready = f"attention.{kernel.function}"
        back = Transfer(attended, stream["attention.out"], self.sram["values"], back=True)
        self._receive(values, back, (ready,), "attended0", whole=True)
        return Result(self.sram["values"], (Part(0, attended, "attended0"),))

    def _send(self, op: ops.OpNode, transfer: Transfer, waits: tuple[str, ...], name: str) -> None:
        index = self.builder.op("link", f"{op.name}.in")
        self.builder.unit(LINK_IN, index, (transfer,), waits, (f"{name}.sent",))

    def _receive(
        self, op: ops.OpNode, transfer: Transfer, waits: tuple[str, ...], name: str, *, whole: bool = False
    ) -> str:
        token = name if whole else f"{name}.back"
        index = self.builder.op("link", f"{op.name}.out")
        self.builder.unit(LINK_OUT, index, (transfer,), waits, (token,))
        return token


__all__ = ["HybridLowering", "HybridMapping"]
