"""A vision transformer as calls of streaming regions, in the order of Edge-MoE: one step after the other, weights in two buffers.

What may overlap is the fetch of weights: while an expert computes from one buffer, the other is filled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pimsim.arch.fpga import FpgaAttention, FpgaConfig, FpgaEncoder
from pimsim.errors import CapacityExceeded, MappingError
from pimsim.mapper.fpga import units
from pimsim.mapper.fpga.attention import PASSES, Pipelines, query_key, softmax_pass, weighted_values
from pimsim.mapper.fpga.places import (
    keys_side_by_side,
    pass_work,
    product_beats,
    product_checkpoints,
    product_works,
)
from pimsim.mapper.fpga.schedules import Schedule, Shape
from pimsim.mapper.fpga.units import DirectGelu, GateUnit, LinearUnit, PatchShape
from pimsim.program.dataflow import Call, Region
from pimsim.program.works import (
    Checkpoint,
    Clear,
    Copy,
    FillQueues,
    Gate,
    Linear,
    Load,
    Norm,
    Parameter,
    PatchRow,
    Residual,
    Routes,
    StreamingProgram,
    Work,
)  # fmt: skip
from pimsim.workload.encoder import EncoderConfig, ImageConfig, MoeConfig

OUTSIDE = -1
"""Layer number of what belongs to no layer."""


Router = Callable[[int, StreamingProgram], Routes]
"""Experts of each token of a layer; the program up to this layer's gates is there, so that it can be run."""


def encoder_calls(fpga: FpgaConfig, unit: FpgaEncoder, work: EncoderConfig) -> list[Call]:
    """The calls of one image or text; `encoder_program` also says where things lie.

    Raises:
        MappingError: a width is no multiple of the tile, or patches do not fill beats.
        CapacityExceeded: a tile of outputs of a layer, or a layer of an expert, does not fit a weight buffer.
        WorkloadError: routing is left to the gates.
    """
    return encoder_program(fpga, unit, work).calls


def encoder_program(
    fpga: FpgaConfig, unit: FpgaEncoder, work: EncoderConfig, router: Router | None = None
) -> StreamingProgram:
    """The program of one image or text; ``router`` decides routing, else the workload does (`EncoderConfig.routes`).

    Raises:
        MappingError, CapacityExceeded, WorkloadError: as for `encoder_calls`.
    """
    builder = _Builder(fpga, unit, work)
    builder.embedding()
    for layer in range(work.layers):
        builder.layer = layer
        builder.attention()
        if work.moe is not None and work.is_moe(layer):
            builder.experts(work.moe, router)
        else:
            builder.feed_forward()
    builder.layer = OUTSIDE
    builder.head()
    return builder.program


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


def linear_unit(unit: FpgaEncoder, words: int) -> LinearUnit:
    """The linear unit, or each of the separate ones, with so many words in a beat."""
    direct = unit.direct_gelu if unit.gelu == "direct" else None
    return LinearUnit(
        linear_tile(unit), words, unit.input_fifo, unit.result_fifo, unit.gather_depth, unit.linear_depth, unit.gelu_depth,
        unit.scatter_depth, unit.accumulate_depth,
        direct_gelu=DirectGelu(direct.units, direct.interval, direct.depth) if direct else None,
    )  # fmt: skip


def check(fpga: FpgaConfig, unit: FpgaEncoder, work: EncoderConfig) -> None:
    """What must hold between a machine and a workload.

    Raises:
        MappingError: parallelism is above the tokens, a width is no multiple of the tile, or patches do not fill beats.
    """
    tokens, pixels = work.tokens, fpga.beat_bits // unit.pixel_bits
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
    if work.image is None:
        return
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
        self.program = StreamingProgram()
        self.calls = self.program.calls
        self.layer = OUTSIDE
        self.words = fpga.beat_bits // fpga.word_bits
        self.ports: Mapping[str, str] = {**fpga.attention.placement, **unit.placement}
        self.fifo = fpga.attention.fifo_depth
        self.tile = linear_tile(unit)
        self.linear_unit = linear_unit(unit, self.words)
        self.tokens = work.tokens
        self.beats = work.d_model // self.words
        self.weights_per_beat = fpga.beat_bits // unit.weight_bits
        check(fpga, unit, work)
        self.shape = Shape(self.tokens, self.beats, fpga.attention.parallelism, work.heads, self.words)
        self.regions = attention_regions(fpga.attention, self.shape)
        self.buffer = "pong"
        """Weight buffer that was filled last."""
        self.places = self._place_features()
        self.stream = "residual" if work.norm == "pre" else "normed"
        """Where the features are that a layer begins with."""

    def _place_features(self) -> dict[str, int]:
        work, n = self.work, self.tokens
        widest = max(work.d_ff, work.moe.d_expert if work.moe else 0)
        outputs = max(work.d_model, work.classes or 0)
        sizes = {
            **dict.fromkeys(("residual", "normed", "query", "key", "value", "output"), n * self.beats),
            "projected": n * self._row(outputs),
            "hidden": n * self._row(widest),
            **product_beats(self.shape, self.regions.scores),
        }
        return {name: self._take(beats) for name, beats in sizes.items()}

    def _take(self, beats: int) -> int:
        """Beats of the memory; the address of the first."""
        self.program.beats += beats
        return self.program.beats - beats

    def _row(self, width: int) -> int:
        """Beats of a row that the linear unit writes: whole tiles."""
        return -(-width // self.tile) * self.linear_unit.tile_beats

    # -- parts ----------------------------------------------------------------------------------------------------

    def embedding(self) -> None:
        """Patches of an image, or what the host has summed up of a text; with a LayerNorm where it stands behind sums."""
        if self.work.image is not None:
            self._patches(self.work.image)
        else:
            base = self.places["residual"]
            self.program.parameters.append(
                Parameter("embedding", "features", base, 0, self.tokens * self.work.d_model,
                          self.tokens * self.work.d_model, self.fpga.word_bits)
            )  # fmt: skip
        if self.work.norm == "post":
            self._norm_weights("embedding_norm")
            self._norm("embedding_norm", 0)

    def _patches(self, image: ImageConfig) -> None:
        """Rows of patches one after the other, and the class token."""
        d, shape = self.work.d_model, self._patch_shape(image)
        pixels = shape.colours * shape.pitch * self.fpga.beat_bits // self.unit.pixel_bits
        picture = self._parameter("image", "pixels", pixels, self.unit.pixel_bits)
        patches = self.tokens - image.class_token
        positions = self._parameter("position", "features", patches * d, self.fpga.word_bits)
        for name, size, form in (
            ("patch.weights", d * image.channels * image.patch**2, "patch_weights"),
            ("patch.biases", d, "biases"),
        ):
            found = Parameter(name, form, 0, 0, size, size, self.unit.weight_bits, name)
            self.program.parameters.append(found)
        ports = (self.ports["image"], self.ports["parameters"], self.ports["residual"])
        region = units.patch_row(shape, self.unit.patch_interval, self.unit.patch_depth, ports, self.fifo)
        across, first = shape.columns * shape.patches, int(image.class_token)
        for row in range(image.height // image.patch):
            at = {"read_image": picture + row * shape.columns * image.patch}
            for number in range(shape.patches):
                token = row * across + number
                at[f"read_positions{number}"] = positions + token * self.beats
                at[f"write_output{number}"] = self.places["residual"] + (first + token) * self.beats
            work = PatchRow(
                at, shape.columns, shape.lines, shape.patches, image.patch, d, "patch.weights", "patch.biases"
            )
            self._add(f"patch row {row}", "patch_embedding", region, work=work)
        if image.class_token:
            token = self._parameter("class_token", "features", d, self.fpga.word_bits)
            region = units.copy(
                self.beats, (self.ports["parameters"], self.ports["residual"]), self.unit.scatter_depth, self.fifo
            )
            copy = Copy({"read": token, "write": self.places["residual"]})
            self._add("class token", "patch_embedding", region, work=copy)
        self._result("embedding", "residual", d)

    def _patch_shape(self, image: ImageConfig) -> PatchShape:
        per_beat = self.fpga.beat_bits // self.unit.pixel_bits
        columns = image.width // per_beat
        return PatchShape(
            columns, image.patch, image.channels, per_beat // image.patch, self.beats, image.height * columns
        )

    def attention(self) -> None:
        """LayerNorm, attention and residual; the parameters of both LayerNorms are read first."""
        d = self.work.d_model
        self._norm_weights("norm1", "norm2")
        if self.work.norm == "pre":
            self._norm("norm1", 0)
        self._linear("qkv_projection", "query", d, d, "normed", "query")
        self._linear("qkv_projection", "key", d, d, "normed", "key")
        schedule = self.fpga.attention.schedule
        scores, values = product_works(self.shape, schedule, self.places, d // self.work.heads // self.words)
        self._add("query x key", "attention_scores", self.regions.scores, work=scores)
        passes = bool(self.regions.softmax)
        self.program.checkpoints += product_checkpoints(
            self.shape, schedule, self.places, len(self.calls) - 1, self._name(""), passes=passes
        )
        for which, passed in zip(PASSES, self.regions.softmax, strict=False):
            self._add(f"softmax {which}", "softmax", passed, work=pass_work(self.shape, schedule, self.places, which))
        self._linear("qkv_projection", "value", d, d, "normed", "value")
        self._add("weights x value", "attention_values", self.regions.values, work=values)
        self._result("attention", "output", d)
        self._linear("output_projection", "projection", d, d, "output", "projected")
        self._residual("residual1")
        if self.work.norm == "post":
            self._norm("norm1", 0)

    def feed_forward(self) -> None:
        """LayerNorm, dense feed-forward part and residual."""
        if self.work.norm == "pre":
            self._norm("norm2", 1)
        self._linear("ffn_up", "ffn_up", self.work.d_ff, self.work.d_model, "normed", "hidden", gelu=True)
        self._linear("ffn_down", "ffn_down", self.work.d_model, self.work.d_ff, "hidden", "projected")
        self._end()

    def _end(self) -> None:
        """The second residual of a layer."""
        self._residual("residual2")
        if self.work.norm == "post":
            self._norm("norm2", 1)

    def experts(self, moe: MoeConfig, router: Router | None) -> None:
        """LayerNorm, gating, the experts that have tokens, and residual."""
        unit, d = self.unit, self.work.d_model
        given = None if router is not None else self.work.routes(self.layer)
        if self.work.norm == "pre":
            self._norm("norm2", 1)
        base = self._parameter(self._name("gating.weights"), "linear_weights", moe.experts * d, self.fpga.word_bits)
        self._load(moe.experts * self.beats, "gating_weights", Load({"read": base}, "gating"))
        gate = GateUnit(
            unit.gate_depth, unit.gate_statistics_depth, unit.gate_statistics_interval, unit.select_depth,
            unit.gate_normalize_depth, unit.queue_interval,
        )  # fmt: skip
        region = units.gating(self.tokens, self.beats, moe.experts, moe.top_k, gate, self.ports["normed"])
        chosen = Gate({"read": self.places["normed"]}, "gating", moe.experts, moe.top_k, given)
        self._add("gating", "gating", region, work=chosen)
        self.program.checkpoints.append(Checkpoint(len(self.calls) - 1, self._name("gating"), "gates"))
        queues = units.fill_queues(self.tokens, unit.queue_interval)
        self._add("fill queues", "gating", queues, work=FillQueues({}, moe.experts))
        region = units.clear(self.tokens * self.beats, self.ports["projected"], unit.scatter_depth, self.fifo)
        self._add("clear", "moe_clear", region, work=Clear({"write": self.places["projected"]}))
        self._queues(given if router is None else router(self.layer, self.program), moe)
        self._result("moe", "projected", d)
        self._end()

    def head(self) -> None:
        """What follows the last layer: LayerNorm, classifier of the first token."""
        if self.work.final_norm:
            self._norm_weights("final_norm")
            self._norm("final_norm", 0)
        if self.work.classes is not None:
            source = "normed" if self.work.final_norm or self.work.norm == "post" else "residual"
            self._linear(
                "classifier", "classifier", self.work.classes, self.work.d_model, source, "projected", tokens=1
            )

    # -- inside ---------------------------------------------------------------------------------------------------

    def _add(self, name: str, op: str, region: Region, after: tuple[int, ...] | None = None, *, work: Work) -> int:
        """Append a call and give its position; ``after``: what it waits for, if not just the call before."""
        if after is None:
            after = (len(self.calls) - 1,) if self.calls else ()
        self.calls.append(Call(name, op, self.layer, region, after, work))
        return len(self.calls) - 1

    def _name(self, name: str) -> str:
        return name if self.layer == OUTSIDE else f"h{self.layer}.{name}"

    def _result(
        self, name: str, place: str, width: int, rows: int = 0, queue: tuple[int, ...] = (), lanes: int = 0
    ) -> None:
        """The last call completes a result of whole rows, ``lanes`` of them side by side or one after the other."""
        self.program.checkpoints.append(
            Checkpoint(
                len(self.calls) - 1, self._name(name), "rows", self.places[place], rows or self.tokens, width,
                self._row(width), lanes=lanes, queue=queue,
            )
        )  # fmt: skip

    def _parameter(self, tensor: str, form: str, count: int, bits: int, first: int = 0, size: int = 0) -> int:
        """Room for elements of a tensor; its address."""
        size = max(size, count)
        base = self._take(-(-size * bits // self.fpga.beat_bits))
        self.program.parameters.append(Parameter(tensor, form, base, first, count, size, bits))
        return base

    def _load(self, beats: int, op: str, work: Load) -> None:
        region = units.load(beats, self.ports["parameters"], self.unit.weight_load_depth)
        self._add("load", op, region, work=work)

    def _norm_weights(self, *names: str) -> None:
        """Gain and shift of LayerNorms, each in whole beats."""
        d, per_beat = self.work.d_model, self.weights_per_beat
        whole = -(-d // per_beat) * per_beat
        bases = [
            self._parameter(f"{self._name(name)}.{part}", form, d, self.unit.weight_bits, size=whole)
            for name in names
            for part, form in (("gain", "norm_gain"), ("shift", "biases"))
        ]
        work = Load({"read": bases[0]}, "norms")
        self._load(len(bases) * whole // per_beat, "layernorm_weights", work)

    def _norm(self, name: str, number: int) -> None:
        """A LayerNorm with the parameters that were read as number so and so."""
        unit, d = self.unit, self.work.d_model
        region = units.layernorm(
            self.tokens,
            self.beats,
            (self.ports["residual"], self.ports["normed"]),
            (unit.moments_depth, unit.normalize_depth),
            self.fifo,
        )
        at = {"read": self.places["residual"], "write": self.places["normed"]}
        first = 2 * number * -(-d // self.weights_per_beat)
        self._add("LayerNorm", "layernorm", region, work=Norm(at, "norms", first, d, self.work.norm_eps))
        self._result(name, "normed", d)

    def _residual(self, name: str) -> None:
        ports = (self.ports[self.stream], self.ports["projected"], self.ports["residual"])
        region = units.residual(self.tokens * self.beats, ports, self.unit.residual_depth, self.fifo)
        at = {
            "read_one": self.places[self.stream],
            "read_other": self.places["projected"],
            "write": self.places["residual"],
        }
        self._add("residual", "residual", region, work=Residual(at))
        self._result(name, "residual", self.work.d_model)

    def _linear(
        self,
        op: str,
        name: str,
        outputs: int,
        inputs: int,
        source: str,
        target: str,
        *,
        gelu: bool = False,
        tokens: int = 0,
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
        attention = op in {"qkv_projection", "output_projection"}
        together = keys_side_by_side(self.shape, self.fpga.attention.schedule) if target in {"key", "value"} else None
        for first in range(0, outputs, most):
            part = min(most, outputs - first)
            self._weights(op, name, first, part, inputs, None)
            unit = self._unit(target if op == "qkv_projection" else op)
            region = units.linear(tokens or self.tokens, part, inputs, unit, ports, gelu=gelu, pitch=self._row(outputs))
            column = first // self.words
            at = {"read_input": self.places[source], "write_output": self.places[target] + (0 if together else column)}
            work = Linear(
                at, self.buffer, f"{self.buffer}_biases", inputs, part, attention, gelu and unit.direct_gelu is None,
                written=together, column=column,
            )  # fmt: skip
            self._add("linear", op, region, work=work)
        self._result(name, target, outputs, tokens, lanes=together.lanes if together else 0)

    def _unit(self, use: str) -> LinearUnit:
        """The linear unit of a use: the only one, or one of its own."""
        if self.unit.linear_units == "unified":
            return self.linear_unit
        return replace(self.linear_unit, name=f"linear.{use}")

    def _weights(self, op: str, name: str, first: int, outputs: int, inputs: int, after: tuple[int, ...] | None) -> int:
        """Load rows of a matrix into the other buffer, then their biases; the position of the last call."""
        rows = -(-outputs // self.tile) * self.tile
        port, depth, bits = self.ports["parameters"], self.unit.weight_load_depth, self.unit.weight_bits
        attention = op in {"qkv_projection", "output_projection"}
        tensor = self._name(name)
        matrix = self._parameter(
            f"{tensor}.weights", "linear_weights", outputs * inputs, bits, first * inputs, rows * inputs
        )
        biases = self._parameter(
            f"{tensor}.biases", "attention_biases" if attention else "biases", outputs, bits, first, rows
        )
        self.buffer = "ping" if self.buffer == "pong" else "pong"
        region = units.load(-(-rows * inputs // self.weights_per_beat), port, depth)
        filled = Load({"read": matrix}, self.buffer)
        loaded = self._add("load weights", f"{op}_weights", region, after, work=filled)
        region = units.load(-(-rows // self.weights_per_beat), port, depth)
        filled = Load({"read": biases}, f"{self.buffer}_biases")
        return self._add("load biases", f"{op}_weights", region, (loaded,), work=filled)

    def _queues(self, routes: Routes | None, moe: MoeConfig) -> None:
        """The listed experts one after the other, two layers each; the next weights come while one computes, if they may.

        Loading and computing of a step end together, as in one basic block of the authors' source.
        """
        d, hidden, capacity = self.work.d_model, moe.d_expert, self.unit.buffer_weights
        if d * hidden > capacity:
            raise CapacityExceeded(
                f"a weight buffer must hold a layer of an expert, which are {d * hidden} weights, not {capacity}"
            )
        assert routes is not None
        steps = [(part, second) for part in _parts(routes, moe, self.unit.order) for second in (False, True)]
        overlaps = self.unit.weight_prefetch != "none"
        barrier = (len(self.calls) - 1,)
        loaded = self._expert_weights(*steps[0], moe, barrier) if steps and overlaps else None
        for number, (part, second) in enumerate(steps):
            if not overlaps:
                loaded = self._expert_weights(part, second, moe, barrier)
            assert loaded is not None
            ready = (*barrier, loaded)
            barrier = (self._expert(part, second, moe, ready),)
            if overlaps and number + 1 < len(steps):
                loaded = self._expert_weights(*steps[number + 1], moe, ready)

    def _expert_weights(self, part: _Part, second: bool, moe: MoeConfig, after: tuple[int, ...]) -> int:
        d, hidden = self.work.d_model, moe.d_expert
        if second:
            return self._weights("moe_down", f"expert{part.expert}.down", 0, d, hidden, after)
        return self._weights("moe_up", f"expert{part.expert}.up", 0, hidden, d, after)

    def _expert(self, part: _Part, second: bool, moe: MoeConfig, ready: tuple[int, ...]) -> int:
        d, hidden, places = self.work.d_model, moe.d_expert, self.places
        unit = self._unit("moe_down" if second else "moe_up")
        tokens, buffer = len(part.tokens), self.buffer
        biases = f"{buffer}_biases"
        if second:
            region = units.expert(
                tokens, d, hidden, unit, (self.ports["hidden"], self.ports["projected"]), gelu=False, gathers=False
            )
            at = {
                "read_input": places["hidden"],
                "read_output": places["projected"],
                "write_output": places["projected"],
            }
            work = Linear(
                at, buffer, biases, hidden, d, False, False, part.expert, part.first, ("read_output", "write_output"), True
            )  # fmt: skip
            return self._add("expert", "moe_down", region, ready, work=work)
        ports = (self.ports["normed"], self.ports["hidden"])
        at, table = {"read_input": places["normed"], "write_output": places["hidden"]}, unit.direct_gelu is None
        if tokens == self.tokens:
            region = units.linear(tokens, hidden, d, unit, ports, gelu=True)
            work = Linear(at, buffer, biases, d, hidden, False, table)
        else:
            region = units.expert(tokens, hidden, d, unit, ports, gelu=True, gathers=True)
            work = Linear(at, buffer, biases, d, hidden, False, table, part.expert, part.first, ("read_input",))
        found = self._add("expert", "moe_up", region, ready, work=work)
        self._result(f"expert{part.expert}.up", "hidden", hidden, tokens, part.tokens)
        return found


@dataclass(frozen=True, slots=True)
class _Part:
    """Entries of an expert's queue from ``first`` on, and the tokens that stand there."""

    expert: int
    first: int
    tokens: tuple[int, ...]


def _parts(routes: Routes, moe: MoeConfig, order: str) -> list[_Part]:
    """What the experts do one after the other: a queue each, or the experts of one token after the other."""
    queues: list[list[int]] = [[] for _ in range(moe.experts)]
    single: list[_Part] = []
    for token, experts in enumerate(routes):
        for expert in experts:
            single.append(_Part(expert, len(queues[expert]), (token,)))
            queues[expert].append(token)
    if order == "token_by_token":
        return single
    return [_Part(expert, 0, tuple(queue)) for expert, queue in enumerate(queues) if queue]


__all__ = [
    "OUTSIDE", "AttentionRegions", "Router", "attention_regions", "check", "encoder_calls", "encoder_program", "linear_tile",
    "linear_unit", "pipelines",
]  # fmt: skip
