"""A vision transformer as calls of streaming regions, in the order of Edge-MoE: one step after the other, weights in two buffers.

What may overlap is the fetch of weights: while an expert computes from one buffer, the other is filled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pimsim.arch.fpga import FpgaAttention, FpgaConfig, FpgaEncoder
from pimsim.errors import CapacityExceeded, MappingError
from pimsim.mapper.fpga import units
from pimsim.mapper.fpga.attention import PASSES, Pipelines, query_key, softmax_pass, weighted_values
from pimsim.mapper.fpga.schedules import Schedule, Shape
from pimsim.mapper.fpga.units import DirectGelu, GateUnit, LinearUnit, PatchShape
from pimsim.program.dataflow import Call, Region
from pimsim.workload.encoder import EncoderConfig, MoeConfig

OUTSIDE = -1
"""Layer number of what belongs to no layer."""


def encoder_calls(fpga: FpgaConfig, unit: FpgaEncoder, work: EncoderConfig) -> list[Call]:
    """The program of one image.

    Raises:
        MappingError: a width is no multiple of the tile, or patches do not fill beats.
        CapacityExceeded: a tile of outputs of a layer, or a layer of an expert, does not fit a weight buffer.
    """
    builder = _Builder(fpga, unit, work)
    builder.patch_embedding()
    for layer in range(work.layers):
        builder.layer = layer
        builder.attention()
        if work.moe is not None and work.is_moe(layer):
            builder.experts(work.moe, work.queues(layer))
        else:
            builder.feed_forward()
    builder.layer = OUTSIDE
    builder.head()
    return builder.calls


@dataclass(frozen=True)
class AttentionRegions:
    """The regions of attention in one layer: scores, passes of the softmax between the products (or none), weighted sums."""

    scores: Region
    softmax: tuple[Region, ...]
    values: Region


def attention_regions(unit: FpgaAttention, shape: Shape, schedule: Schedule | None = None) -> AttentionRegions:
    """Attention as the machine computes it; ``schedule``: another one than the machine's."""
    pipes, order = pipelines(unit), schedule or unit.schedule
    passes = PASSES if unit.softmax == "three_pass" else ()
    return AttentionRegions(
        query_key(shape, pipes, unit.placement, schedule=order, softmax=unit.softmax),
        tuple(softmax_pass(which, shape, pipes, unit.placement, schedule=order) for which in passes),
        weighted_values(shape, pipes, unit.placement, schedule=order, softmax=unit.softmax),
    )


def pipelines(unit: FpgaAttention) -> Pipelines:
    """The depths of the attention units."""
    plain = Pipelines(
        unit.load_depth, unit.product_depth, unit.statistics_depth, unit.weighted_depth, unit.store_depth,
        unit.statistics_interval, unit.fifo_depth,
    )  # fmt: skip
    three = unit.three_pass
    if three is None:
        return plain
    return replace(
        plain,
        passes={
            "maximum": (three.maximum_interval, three.maximum_depth),
            "sum": (three.sum_interval, three.sum_depth),
            "divide": (three.divide_interval, three.divide_depth),
        },
    )


def linear_tile(unit: FpgaEncoder) -> int:
    """Inputs and outputs at once of the linear unit, or of each of the separate ones."""
    if unit.linear_units == "separate":
        assert unit.separate_tile is not None  # checked with the configuration
        return unit.separate_tile
    return unit.tile


def check(fpga: FpgaConfig, unit: FpgaEncoder, work: EncoderConfig) -> None:
    """What must hold between a machine and a workload.

    Raises:
        MappingError: parallelism is above the tokens, a width is no multiple of the tile, or patches do not fill beats.
    """
    tokens, pixels = work.image.tokens, fpga.beat_bits // unit.pixel_bits
    if fpga.attention.parallelism > tokens:
        raise MappingError(
            f"fpga.attention.parallelism must be at most the tokens of {work.name}, which are {tokens}, "
            f"not {fpga.attention.parallelism}"
        )
    widths = {"d_model": work.d_model, "d_ff": work.d_ff}
    tile = linear_tile(unit)
    if work.moe is not None:
        widths["moe.d_expert"] = work.moe.d_expert
    for name, width in widths.items():
        if width % tile:
            raise MappingError(
                f"{name} of {work.name} must be a multiple of the tile of the linear unit, which is {tile}, not {width}"
            )
    if (work.d_model // work.heads) % (fpga.beat_bits // fpga.word_bits):
        raise MappingError(
            f"a head of {work.name} must be a multiple of the words of a beat, which are "
            f"{fpga.beat_bits // fpga.word_bits}, not {work.d_model // work.heads}"
        )
    if pixels % work.image.patch:
        raise MappingError(
            f"image.patch of {work.name} must divide the pixels of a beat, which are {pixels}, not {work.image.patch}"
        )
    if work.image.width % pixels:
        raise MappingError(
            f"image.width of {work.name} must be a multiple of the pixels of a beat, which are {pixels}, "
            f"not {work.image.width}"
        )


class _Builder:
    """Appends calls; a call waits for the one before unless it says otherwise."""

    def __init__(self, fpga: FpgaConfig, unit: FpgaEncoder, work: EncoderConfig) -> None:
        self.fpga, self.unit, self.work = fpga, unit, work
        self.calls: list[Call] = []
        self.layer = OUTSIDE
        self.words = fpga.beat_bits // fpga.word_bits
        self.ports: Mapping[str, str] = {**fpga.attention.placement, **unit.placement}
        self.fifo = fpga.attention.fifo_depth
        self.tile = linear_tile(unit)
        direct = unit.direct_gelu if unit.gelu == "direct" else None
        self.linear_unit = LinearUnit(
            self.tile, self.words, unit.input_fifo, unit.result_fifo, unit.gather_depth, unit.linear_depth, unit.gelu_depth,
            unit.scatter_depth, unit.accumulate_depth,
            direct_gelu=DirectGelu(direct.units, direct.interval, direct.depth) if direct else None,
        )  # fmt: skip
        self.tokens = work.image.tokens
        self.beats = work.d_model // self.words
        self.weights_per_beat = fpga.beat_bits // unit.weight_bits
        check(fpga, unit, work)
        shape = Shape(self.tokens, self.beats, fpga.attention.parallelism, work.heads, self.words)
        self.regions = attention_regions(fpga.attention, shape)

    # -- parts ----------------------------------------------------------------------------------------------------

    def patch_embedding(self) -> None:
        """Rows of patches one after the other, and the class token."""
        image = self.work.image
        per_beat = self.fpga.beat_bits // self.unit.pixel_bits
        shape = PatchShape(image.width // per_beat, image.channels * image.patch, per_beat // image.patch, self.beats)
        ports = (self.ports["image"], self.ports["parameters"], self.ports["residual"])
        region = units.patch_row(shape, self.unit.patch_interval, self.unit.patch_depth, ports, self.fifo)
        for row in range(image.height // image.patch):
            self._add(f"patch row {row}", "patch_embedding", region)
        if image.class_token:
            region = units.copy(
                self.beats, (self.ports["parameters"], self.ports["residual"]), self.unit.scatter_depth, self.fifo
            )
            self._add("class token", "patch_embedding", region)

    def attention(self) -> None:
        """LayerNorm, attention and residual; the parameters of both LayerNorms are read first."""
        d = self.work.d_model
        self._load(4 * -(-d // self.weights_per_beat), "layernorm_weights")
        self._norm()
        self._linear("qkv_projection", d, d, "normed", "query")
        self._linear("qkv_projection", d, d, "normed", "key")
        self._add("query x key", "attention_scores", self.regions.scores)
        for which, region in zip(PASSES, self.regions.softmax, strict=False):
            self._add(f"softmax {which}", "softmax", region)
        self._linear("qkv_projection", d, d, "normed", "value")
        self._add("weights x value", "attention_values", self.regions.values)
        self._linear("output_projection", d, d, "output", "projected")
        self._residual()

    def feed_forward(self) -> None:
        """LayerNorm, dense feed-forward part and residual."""
        self._norm()
        self._linear("ffn_up", self.work.d_ff, self.work.d_model, "normed", "hidden", gelu=True)
        self._linear("ffn_down", self.work.d_model, self.work.d_ff, "hidden", "projected")
        self._residual()

    def experts(self, moe: MoeConfig, queues: list[int]) -> None:
        """LayerNorm, gating, the experts that have tokens, and residual."""
        unit = self.unit
        self._norm()
        self._load(moe.experts * self.beats, "gating_weights")
        gate = GateUnit(
            unit.gate_depth, unit.gate_statistics_depth, unit.gate_statistics_interval, unit.select_depth,
            unit.gate_normalize_depth, unit.queue_interval,
        )  # fmt: skip
        region = units.gating(self.tokens, self.beats, moe.experts, moe.top_k, gate, self.ports["normed"])
        self._add("gating", "gating", region)
        self._add("fill queues", "gating", units.fill_queues(self.tokens, unit.queue_interval))
        region = units.clear(self.tokens * self.beats, self.ports["projected"], unit.scatter_depth, self.fifo)
        self._add("clear", "moe_clear", region)
        if unit.order == "token_by_token":
            queues = [1] * sum(queues)
        self._queues([tokens for tokens in queues if tokens], moe)
        self._residual()

    def head(self) -> None:
        """What follows the last layer: LayerNorm, classifier of the first token."""
        if self.work.final_norm:
            self._load(2 * -(-self.work.d_model // self.weights_per_beat), "layernorm_weights")
            self._norm()
        if self.work.classes is not None:
            source = "normed" if self.work.final_norm else "residual"
            self._linear("classifier", self.work.classes, self.work.d_model, source, "projected", tokens=1)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _add(self, name: str, op: str, region: Region, after: tuple[int, ...] | None = None) -> int:
        """Append a call and give its position; ``after``: what it waits for, if not just the call before."""
        if after is None:
            after = (len(self.calls) - 1,) if self.calls else ()
        self.calls.append(Call(name, op, self.layer, region, after))
        return len(self.calls) - 1

    def _load(self, beats: int, op: str) -> None:
        self._add("load", op, units.load(beats, self.ports["parameters"], self.unit.weight_load_depth))

    def _norm(self) -> None:
        unit = self.unit
        region = units.layernorm(
            self.tokens,
            self.beats,
            (self.ports["residual"], self.ports["normed"]),
            (unit.moments_depth, unit.normalize_depth),
            self.fifo,
        )
        self._add("LayerNorm", "layernorm", region)

    def _residual(self) -> None:
        ports = (self.ports["residual"], self.ports["projected"], self.ports["residual"])
        region = units.residual(self.tokens * self.beats, ports, self.unit.residual_depth, self.fifo)
        self._add("residual", "residual", region)

    def _linear(
        self, op: str, outputs: int, inputs: int, source: str, target: str, *, gelu: bool = False, tokens: int = 0
    ) -> None:
        """Load a matrix and apply it; one that is too large for a weight buffer in pieces of whole output tiles."""
        tile = self.tile
        most = self.unit.buffer_weights // inputs // tile * tile
        if not most:
            raise CapacityExceeded(
                f"a weight buffer must hold a tile of outputs of {op}, which are {tile * inputs} weights, "
                f"not {self.unit.buffer_weights}"
            )
        ports = (self.ports[source], self.ports[target])
        for first in range(0, outputs, most):
            part = min(most, outputs - first)
            self._weights(op, part, inputs, None)
            unit = self._unit(target if op == "qkv_projection" else op)
            region = units.linear(tokens or self.tokens, part, inputs, unit, ports, gelu=gelu)
            self._add("linear", op, region)

    def _unit(self, use: str) -> LinearUnit:
        """The linear unit of a use: the only one, or one of its own."""
        if self.unit.linear_units == "unified":
            return self.linear_unit
        return replace(self.linear_unit, name=f"linear.{use}")

    def _weights(self, op: str, outputs: int, inputs: int, after: tuple[int, ...] | None) -> int:
        """Load the weights of a matrix, then its biases; the position of the last call."""
        rows = -(-outputs // self.tile) * self.tile
        port, depth = self.ports["parameters"], self.unit.weight_load_depth
        first = self._add(
            "load weights", f"{op}_weights", units.load(-(-rows * inputs // self.weights_per_beat), port, depth), after
        )
        biases = units.load(-(-rows // self.weights_per_beat), port, depth)
        return self._add("load biases", f"{op}_weights", biases, (first,))

    def _queues(self, queues: list[int], moe: MoeConfig) -> None:
        """The listed experts one after the other, two layers each; the next weights come while one computes, if they may.

        Loading and computing of a step end together, as in one basic block of the authors' source.
        """
        d, hidden, capacity = self.work.d_model, moe.d_expert, self.unit.buffer_weights
        if d * hidden > capacity:
            raise CapacityExceeded(
                f"a weight buffer must hold a layer of an expert, which are {d * hidden} weights, not {capacity}"
            )
        steps = [(tokens, second) for tokens in queues for second in (False, True)]
        overlaps = self.unit.weight_prefetch != "none"
        barrier = (len(self.calls) - 1,)
        loaded = self._expert_weights(steps[0][1], moe, barrier) if steps and overlaps else None
        for number, (tokens, second) in enumerate(steps):
            if not overlaps:
                loaded = self._expert_weights(second, moe, barrier)
            assert loaded is not None
            ready = (*barrier, loaded)
            computed = self._add("expert", "moe_down" if second else "moe_up", self._expert(tokens, moe, second), ready)
            barrier = (computed,)
            if overlaps and number + 1 < len(steps):
                loaded = self._expert_weights(steps[number + 1][1], moe, ready)

    def _expert_weights(self, second: bool, moe: MoeConfig, after: tuple[int, ...]) -> int:
        d, hidden = self.work.d_model, moe.d_expert
        if second:
            return self._weights("moe_down", d, hidden, after)
        return self._weights("moe_up", hidden, d, after)

    def _expert(self, tokens: int, moe: MoeConfig, second: bool) -> Region:
        d, hidden = self.work.d_model, moe.d_expert
        unit = self._unit("moe_down" if second else "moe_up")
        if second:
            ports = (self.ports["hidden"], self.ports["projected"])
            return units.expert(tokens, d, hidden, unit, ports, gelu=False, gathers=False)
        ports = (self.ports["normed"], self.ports["hidden"])
        if tokens == self.tokens:
            return units.linear(tokens, hidden, d, unit, ports, gelu=True)
        return units.expert(tokens, hidden, d, unit, ports, gelu=True, gathers=True)


__all__ = ["OUTSIDE", "AttentionRegions", "attention_regions", "check", "encoder_calls", "linear_tile", "pipelines"]
