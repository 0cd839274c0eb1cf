"""Mapping a decoder onto a hybrid machine: which work goes to which side, and what crosses the link.

The PIM side is mapped as on a machine of its own. Work that is placed on the streaming unit becomes three steps: its
operands cross the link into the unit's buffer, kernels run, the result crosses back into the SRAM. Attention is placed as
a whole, because scores, softmax and weighted sums go where the cache lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import ceil

from pimsim.arch.dram import DramSpec
from pimsim.arch.formats import format_bytes
from pimsim.arch.hybrid import FPGA, LINK_IN, LINK_OUT, PLACEABLE, HybridConfig, Side
from pimsim.arch.system import ArchConfig
from pimsim.bounds.hybrid import HybridBounds
from pimsim.errors import CapacityExceeded
from pimsim.mapper.builder import Part, Result
from pimsim.mapper.fpga import decode
from pimsim.mapper.lower.ops import LayerLowering
from pimsim.mapper.mapping import Mapping
from pimsim.mapper.sram import SramMap
from pimsim.program.dataflow import Region
from pimsim.program.isa import Block, Compute, Kernel, Transfer
from pimsim.workload import ops
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.graph import WorkloadGraph

SCORE_BYTES = 4
"""Scores and everything else in the unit's buffer stand in 32 bits."""


def place(workload: WorkloadConfig, graph: WorkloadGraph, arch: HybridConfig, spec: DramSpec) -> dict[str, Side]:
    """Kind of work -> side, for all that can be placed and that the workload has."""
    layer = graph.layers()[0]
    work = [name for name in PLACEABLE if name == "attention" or any(op.kind == name for op in layer)]
    if arch.placement == "best_bound":
        return {name: _lower_bound(name, workload, layer, arch, spec) for name in work}
    streamed: dict[str, Side] = {"attention": "fpga"} if arch.placement == "stream_attention" else {}
    chosen = {**streamed, **(arch.fixed if arch.placement == "fixed" else {})}
    return {name: chosen.get(name, "pim") for name in work}


def _lower_bound(
    name: str, workload: WorkloadConfig, layer: list[ops.OpNode], arch: HybridConfig, spec: DramSpec
) -> Side:
    """The side with the lower bound at the mean context of the run; equal ones stay on the PIM side.

    Attention in a single pass goes to the streaming unit, which has a schedule for it; other algorithms are the PIM side's.
    """
    bounds, model = HybridBounds(arch, spec), workload.model
    if name == "attention":
        shape = (model.heads, model.key_value_heads, model.head_width)
        context = ceil((workload.prompt_tokens + workload.generate_tokens) / 2)
        if workload.attention != "vanilla":
            return "fpga" if workload.attention == "single_pass" else "pim"
        pim, fpga = bounds.pim_attention(*shape, context), bounds.fpga_attention(*shape, context, single_pass=False)
        if model.parallel_residual:  # the feed-forward products do not wait for it
            hidden = [op for op in layer if isinstance(op, ops.Linear) and op.kind in {"ffn_up", "ffn_down"}]
            fpga = max(0.0, fpga - sum(bounds.pim_linear(op.d_in, op.d_out) for op in hidden))
    else:
        op = next(each for each in layer if each.kind == name)
        assert isinstance(op, ops.Linear)
        pim, fpga = bounds.pim_linear(op.d_in, op.d_out), bounds.fpga_linear(op.d_in, op.d_out)
    return "fpga" if fpga < pim else "pim"


class HybridMapping(Mapping):
    """A `Mapping` some of whose work is on the streaming unit.

    Attributes:
        sides: kind of work -> ``"pim"`` or ``"fpga"``.
        stream: the unit's buffer as a map of named places.
    """

    def __init__(self, workload: WorkloadConfig, graph: WorkloadGraph, arch: ArchConfig, spec: DramSpec) -> None:
        """Raises: CapacityExceeded, as `Mapping`, or if the unit's memory or buffer is too small."""
        assert isinstance(arch, HybridConfig)
        self.unit = arch.fpga
        self.sides = place(workload, graph, arch, spec)
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
        cached = isinstance(op, ops.CacheWrite | ops.Scores | ops.Softmax | ops.Values)
        return self.sides.get("attention" if cached else op.kind) == "fpga"

    @property
    def heads(self) -> decode.Heads:
        """Heads and beats of attention."""
        model = self.workload.model
        return decode.Heads(model.heads, model.key_value_heads, model.head_width, self.words)

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
        placed = [op for op in self._layers[0] if isinstance(op, ops.Linear) and self.on_fpga(op)]
        beats = sum(op.d_out * ceil(op.d_in / words) for op in placed)
        if not self._in_dram("attention"):
            beats += 2 * self.passes * self.heads.token_beats
        self.stream_bytes = beats * model.layers * self.unit.beat_bits // 8
        """Bytes of the unit's memory that are in use at the end of the run."""
        if self.stream_bytes > self.unit.memory_bytes:
            raise CapacityExceeded(
                f"fpga.memory_bytes must hold what is placed there of {self.workload.name}: {self.stream_bytes} bytes, "
                f"not {self.unit.memory_bytes}"
            )

    def stream_elements_given(self) -> int:
        """Elements that lie in the unit's memory before the first pass: matrices of all layers."""
        placed = [op for op in self._layers[0] if isinstance(op, ops.Linear) and self.on_fpga(op)]
        return self.workload.model.layers * sum(op.d_in * op.d_out for op in placed)

    def _map_buffer(self) -> None:
        self.stream = SramMap(self.unit.buffer_bytes // SCORE_BYTES)
        for op in self._layers[0]:
            if isinstance(op, ops.Linear) and self.on_fpga(op):
                self.stream.add(f"{op.kind}.in", op.d_in)
                self.stream.add(f"{op.kind}.out", op.d_out)
        if not self._in_dram("attention"):
            heads = self.heads
            self.stream.add("attention.in", (heads.heads + 2 * heads.kv_heads) * heads.d_head)
            self.stream.add("attention.scores", 0 if self.single_pass else heads.heads * self.passes)
            self.stream.add("attention.out", heads.heads * heads.d_head)
        if self.stream.free < 0:
            raise CapacityExceeded(
                f"fpga.buffer_bytes must hold operands, scores and results of {self.workload.name}: "
                f"{self.stream.used * SCORE_BYTES} bytes, not {self.unit.buffer_bytes}"
            )

    # -- program --------------------------------------------------------------------------------------------------

    def _linear_region(self, d_in: int, d_out: int) -> Region:
        return decode.linear(d_in, d_out, self.words, self.unit.linear)

    def _attention_region(self, function: str, read: int, newest: bool) -> Region:
        """The region of a kernel; contexts with equally many tokens in the fullest lane share it."""
        lanes = self.unit.attention.lanes
        context = read * lanes + (1 if newest else 0)
        build = {"scores": decode.scores, "weighted": decode.weighted, "attend": decode.attend}[function]
        return build(self.heads, context, self.unit.attention)

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
        lanes = mapping.unit.attention.lanes
        places = {
            "attend": (values, "attention.in", "attention.out"),
            "scores": (op, "attention.in", "attention.scores"),
            "weighted": (values, "attention.scores", "attention.out"),
        }
        ready = "attention.sent"
        for function in ("attend",) if mapping.single_pass else ("scores", "weighted"):
            of, source, target = places[function]
            region = mapping.attention_region(function, *decode.lane_tokens(self.context, lanes))
            shape = (op.heads, op.kv_heads, op.d_head, lanes, mapping.words)
            kernel = Kernel(function, region, shape, stream[source], stream[target], "kv", self.context)
            index = self.builder.op("attention" if mapping.single_pass else of.kind, of.name)
            self.builder.unit(FPGA, index, (kernel,), (ready,), (f"attention.{function}",))
            ready = f"attention.{function}"
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


__all__ = ["HybridLowering", "HybridMapping", "place"]
