"""A decoder as calls of streaming regions: groups of tokens through layers, keys and values in a cache behind the ports.

A forward pass takes a *group* of tokens (`pimsim.mapper.group`): a part of a prompt, or the newest token of every sequence. A
matrix streams once for all tokens of a group, so a prompt is matrix-matrix work and a decode step of one sequence is
matrix-vector work. Attention goes sequence by sequence over the sequence's own cache, in the schedules of the encoder under a
causal mask.

A pass consists of *parts*, and a part begins when the one before is complete. Parts with equal keys have the same regions in
the same order, whatever their layer and their token, so whoever times them needs to look at each only once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from pimsim.arch.fpga import FpgaConfig, FpgaEncoder
from pimsim.errors import CapacityExceeded, MappingError
from pimsim.mapper.fpga import units
from pimsim.mapper.fpga.attention import PASSES
from pimsim.mapper.fpga.encoder import OUTSIDE, AttentionRegions, attention_regions, linear_tile, linear_unit
from pimsim.mapper.fpga.places import pass_work, product_beats, product_checkpoints, product_works
from pimsim.mapper.fpga.schedules import Shape
from pimsim.mapper.group import Group, groups
from pimsim.program.dataflow import Call, Region, beats
from pimsim.program.works import (
    Checkpoint,
    Copy,
    Linear,
    Load,
    Norm,
    Parameter,
    Product,
    Residual,
    Rotate,
    SideBySide,
    StreamingProgram,
    Work,
)
from pimsim.workload.config import WorkloadConfig

Waits = tuple[int, ...]
"""Positions of calls."""

NORMS = "norms"
"""Buffer of the gain and shift of a norm."""


@dataclass(frozen=True)
class Segment:
    """Tokens of a group that belong to one sequence: rows of the features from ``row`` on, positions from ``start`` on."""

    row: int
    count: int
    sequence: int
    start: int


@dataclass
class Stretch:
    """Calls that follow each other within a part; a call without a predecessor begins with the part."""

    calls: list[Call] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)

    def ends(self) -> tuple[int, ...]:
        """The calls that no other call of the stretch waits for."""
        waited = {other for call in self.calls for other in call.after}
        return tuple(number for number in range(len(self.calls)) if number not in waited)


@dataclass(frozen=True)
class Part:
    """A stretch that can be made: parts of equal ``key`` differ in addresses and names only."""

    key: Hashable
    layer: int
    make: Callable[[], Stretch]


def segments(group: Group) -> list[Segment]:
    """The sequences of a group in order.

    >>> from pimsim.mapper.group import Token
    >>> segments((Token(0, 4), Token(0, 5), Token(1, 7)))
    [Segment(row=0, count=2, sequence=0, start=4), Segment(row=2, count=1, sequence=1, start=7)]
    """
    found: list[Segment] = []
    for row, token in enumerate(group):
        last = found[-1] if found else None
        if last and last.sequence == token.sequence and last.start + last.count == token.position:
            found[-1] = replace(last, count=last.count + 1)
        else:
            found.append(Segment(row, 1, token.sequence, token.position))
    return found


def check(fpga: FpgaConfig, unit: FpgaEncoder, work: WorkloadConfig) -> None:
    """What must hold between a machine and the sizes of a model.

    Raises:
        MappingError: a width is no multiple of the tile, a head is no multiple of a beat, or weights share a port with what
            is moved while they come.
        CapacityExceeded: a weight buffer does not hold a tile of outputs.
    """
    model, tile, words = work.model, linear_tile(unit), fpga.beat_bits // fpga.word_bits
    widths = {
        "d_model": model.d_model,
        "d_ff": model.d_ff,
        "heads * d_head": model.heads * model.head_width,
        "kv_heads * d_head": model.key_value_heads * model.head_width,
    }
    for name, width in widths.items():
        if width % tile:
            raise MappingError(
                f"{name} of {work.name} must be a multiple of the tile of the linear unit, which is {tile}, not {width}"
            )
    if model.head_width % words:
        raise MappingError(
            f"a head of {work.name} must be a multiple of the words of a beat, which are {words}, not {model.head_width}"
        )
    widest = max(model.d_model, model.d_ff, model.heads * model.head_width)
    if unit.buffer_weights < tile * widest:
        raise CapacityExceeded(
            f"a weight buffer must hold a tile of outputs of {work.name}, which are {tile * widest} weights, "
            f"not {unit.buffer_weights}"
        )
    if unit.weight_prefetch == "layers":
        ports = {**fpga.attention.placement, **unit.placement}
        brings = {"placement.parameters": [ports["parameters"]], "weight_ports": unit.weight_ports or []}
        for field_name, used in brings.items():
            shared = [name for name in _MOVED if ports[name] in used]
            if shared:
                raise MappingError(
                    f"fpga.encoder.{field_name} must be without the port of {shared[0]} for {work.name}, as weights come while "
                    f"a layer computes, not {', '.join(used)}"
                )


_MOVED = ("residual", "normed", "projected", "hidden", "query", "key", "value", "output")
"""Streams that are busy while weights may come."""


class DecoderProgram:
    """Where everything lies, and the parts of every pass.

    Attributes:
        parameters: matrices, biases and norms of all layers, and of the head.
        beats: size of the memory.
        groups: tokens of each pass.
        capacity: tokens that the cache of a sequence holds.
    """

    def __init__(self, fpga: FpgaConfig, unit: FpgaEncoder, work: WorkloadConfig) -> None:
        """Raises: MappingError, CapacityExceeded, as `check`."""
        check(fpga, unit, work)
        self.fpga, self.unit, self.work, self.model = fpga, unit, work, work.model
        self.words = fpga.beat_bits // fpga.word_bits
        self.tile = linear_tile(unit)
        self.linear_unit = linear_unit(unit, self.words)
        self.ports: Mapping[str, str] = {**fpga.attention.placement, **unit.placement}
        self.fifo = fpga.attention.fifo_depth
        self.beats = 0
        self.parameters: list[Parameter] = []
        self.attention = lru_cache(maxsize=None)(self._attention_regions)
        self.row_beats = self.model.d_model // self.words
        self.head_beats = self.model.head_width // self.words
        self.query_beats = self.model.heads * self.head_beats
        self.key_beats = self.model.key_value_heads * self.head_beats
        self.turns = self.model.position == "rope"
        """Whether queries and keys are rotated."""
        self.positions = work.prompt_tokens + work.generate_tokens - 1
        lanes = fpga.attention.parallelism
        self.side_by_side = fpga.attention.schedule == "naive" and lanes > 1
        self.capacity = -(-self.positions // lanes) * lanes if self.side_by_side else self.positions
        self._place_features()
        first = self.beats
        self._caches = [(self._take(size), self._take(size)) for size in [self.cache_beats()] * self.model.layers]
        self.cached = range(first, self.beats)
        """Beats of all caches."""
        self._weights: dict[tuple[int, str], list[_Piece]] = {}
        self._norms: dict[tuple[int, str], int] = {}
        self._place_weights()
        self.tables: dict[str, int] = {}
        if work.embeddings:
            self.tables["tokens"] = self._take(self.model.vocabulary * self.row_beats)
        if work.embeddings and self.model.position == "learned":
            self.tables["positions"] = self._take(self.model.context * self.row_beats)
        self.angles = self._take(self.positions * self.head_beats) if self.turns else 0
        """Cosines, then sines, of every position."""

    # -- memory ---------------------------------------------------------------------------------------------------

    def _take(self, beats: int) -> int:
        """Beats of the memory; the address of the first."""
        self.beats += beats
        return self.beats - beats

    def _row(self, width: int) -> int:
        """Beats of a row that the linear unit writes: whole tiles."""
        return -(-width // self.tile) * self.linear_unit.tile_beats

    def cache_beats(self) -> int:
        """Beats of the keys, or of the values, of all sequences in a layer."""
        return self.work.batch * self.capacity * self.key_beats

    def kept_beats(self, calls: Sequence[Call]) -> int:
        """Beats that calls write into caches."""
        return sum(
            beats(write.bursts)
            for call in calls
            for write in call.region.writes
            if call.work.at[write.name] in self.cached
        )

    def shares(self, piece: _Piece) -> list[_Share]:
        """What each port brings of a piece: whole tiles of outputs, if these are whole beats, spread evenly."""
        per_beat = self.fpga.beat_bits // self.unit.weight_bits
        beats = -(-piece.rows * piece.inputs // per_beat)
        ports, size = self.unit.weight_ports, self.tile * piece.inputs
        if ports is None or size % per_beat:
            return [_Share(self.ports["parameters"] if ports is None else ports[0], piece.matrix, beats)]
        most = -(-piece.rows // (self.tile * len(ports))) * size // per_beat
        return [
            _Share(port, piece.matrix + first, min(most, beats - first))
            for port, first in zip(ports, range(0, beats, most), strict=False)
        ]

    @property
    def norm_parts(self) -> int:
        """Vectors of a norm: gain and shift, or a gain only."""
        return 1 if self.model.norm == "rmsnorm" else 2

    @property
    def buffered_weights(self) -> int:
        """Weights of the largest piece in a buffer."""
        return max(piece.rows * piece.inputs for pieces in self._weights.values() for piece in pieces)

    @property
    def rows_side_by_side(self) -> SideBySide | None:
        """How keys and values lie where several are read at once; None where one follows the other."""
        if not self.side_by_side:
            return None
        return SideBySide(self.work.batch * self.capacity, self.key_beats, self.fpga.attention.parallelism)

    def _place_features(self) -> None:
        model, n = self.model, self.work.together
        sizes = {
            **dict.fromkeys(("residual", "normed"), n * self.row_beats),
            **dict.fromkeys(("query", "output"), n * self.query_beats),
            "projected": n * self._row(model.d_model),
            "hidden": n * self._row(model.d_ff),
            "up": n * self._row(model.d_ff) if model.gated else 0,
            "unturned": n * self.key_beats if self.turns else 0,
            "logits": self.work.batch * self._row(model.vocabulary) if self.work.lm_head else 0,
            "scores": 0,
            "statistics": 0,
        }
        for shape in self._largest_shapes():
            for name, size in product_beats(shape, self.attention(shape).scores).items():
                sizes[name] = max(sizes[name], size)
        self.places = {name: self._take(size) for name, size in sizes.items()}

    def _largest_shapes(self) -> Iterator[Shape]:
        """Attention of the last decode step and of the last part of a prompt, which no other outgrows."""
        yield self.shape(1, self.positions - 1)
        if self.work.prefill == "matrix":
            count = min(self.work.prefill_tokens, self.work.prompt_tokens)
            yield self.shape(count, self.work.prompt_tokens - count)

    def _place_weights(self) -> None:
        model, attended = self.model, self.model.heads * self.model.head_width
        for layer in range(model.layers):
            self._norm_weights(layer, "norm1", "norm2")
            kept = model.key_value_heads * model.head_width
            for name, width in (("query", attended), ("key", kept), ("value", kept)):
                self._matrix(layer, name, width, model.d_model, attention=True, bias="attention" in model.biases)
            self._matrix(
                layer, "projection", model.d_model, attended, attention=True, bias="projection" in model.biases
            )
            bias = "feed_forward" in model.biases
            if model.gated:
                self._matrix(layer, "ffn_gate", model.d_ff, model.d_model, bias=bias)
            self._matrix(layer, "ffn_up", model.d_ff, model.d_model, bias=bias)
            self._matrix(layer, "ffn_down", model.d_model, model.d_ff, bias=bias)
        if self.work.lm_head:
            self._norm_weights(OUTSIDE, "final_norm")
            self._matrix(OUTSIDE, "lm_head", model.vocabulary, model.d_model, bias="lm_head" in model.biases)

    def _norm_weights(self, layer: int, *names: str) -> None:
        """Gain and, of a LayerNorm, shift, each in whole beats."""
        per_beat = self.fpga.beat_bits // self.unit.weight_bits
        whole = -(-self.model.d_model // per_beat) * per_beat
        for name in names:
            for part, form in (("gain", "norm_gain"), ("shift", "biases"))[: self.norm_parts]:
                base = self._parameter(f"{_name(layer, name)}.{part}", form, self.model.d_model, 0, whole)
                self._norms.setdefault((layer, name), base)

    def _matrix(self, layer: int, name: str, outputs: int, inputs: int, *, bias: bool, attention: bool = False) -> None:
        """Rows of a matrix in pieces that fit a weight buffer, each with its biases behind it."""
        most, tensor = self.unit.buffer_weights // inputs // self.tile * self.tile, _name(layer, name)
        pieces = []
        for first in range(0, outputs, most):
            part = min(most, outputs - first)
            rows = -(-part // self.tile) * self.tile
            matrix = self._parameter(
                f"{tensor}.weights", "linear_weights", part * inputs, first * inputs, rows * inputs
            )
            form = "attention_biases" if attention else "biases"
            biases = self._parameter(f"{tensor}.biases", form, part, first, rows) if bias else None
            pieces.append(_Piece(first, part, rows, inputs, matrix, biases, attention))
        self._weights[layer, name] = pieces

    def _parameter(self, tensor: str, form: str, count: int, first: int, size: int) -> int:
        bits = self.unit.weight_bits
        base = self._take(-(-size * bits // self.fpga.beat_bits))
        self.parameters.append(Parameter(tensor, form, base, first, count, size, bits))
        return base

    # -- passes ---------------------------------------------------------------------------------------------------

    @property
    def groups(self) -> Iterator[Group]:
        """The tokens of every pass, in order."""
        return groups(self.work)

    def head_rows(self, group: Group) -> int:
        """Rows, at the end of the group, whose logits are wanted: those from the last token of the prompt on."""
        if not self.work.lm_head:
            return 0
        return sum(token.position >= self.work.prompt_tokens - 1 for token in group)

    def parts(self, group: Group, tokens: Sequence[int] = ()) -> Iterator[Part]:
        """The parts of a pass; ``tokens``: numbers of the tokens of the group in the vocabulary, by default all 0."""
        of = segments(group)
        n, apart = len(group), len(of) > 1
        shapes = tuple((each.count, each.start) for each in of)
        if self.work.embeddings:
            ids = tuple(tokens) or (0,) * n
            yield Part(("embedding", n), OUTSIDE, lambda: self._embedding(group, ids))
        for layer in range(self.model.layers):
            yield Part(("project", n, apart), layer, lambda layer=layer: self._project(layer, of))  # type: ignore[misc]
            yield Part(("attend", shapes), layer, lambda layer=layer: self._attend(layer, of))  # type: ignore[misc]
            yield Part(("feed forward", n), layer, lambda layer=layer: self._feed_forward(layer, n))  # type: ignore[misc]
        wanted = self.head_rows(group)
        if wanted:
            yield Part(("head", wanted), OUTSIDE, lambda: self._head(n - wanted, wanted))

    def shape(self, count: int, start: int) -> Shape:
        """Attention of ``count`` tokens behind ``start`` others."""
        lanes = self.fpga.attention.parallelism
        lanes = min(lanes, count) if self.fpga.attention.schedule == "reordered" else lanes
        shared = self.model.heads // self.model.key_value_heads
        return Shape(count, self.query_beats, lanes, self.model.heads, self.words, start, shared)

    def _attention_regions(self, shape: Shape) -> AttentionRegions:
        return attention_regions(self.fpga.attention, shape)

    # -- parts ----------------------------------------------------------------------------------------------------

    def _embedding(self, group: Group, tokens: Sequence[int]) -> Stretch:
        """A row of the table of tokens for each token, one after the other; that of its position added, if there is one."""
        b, size = _Builder(self, OUTSIDE), self.row_beats
        parameters, residual = self.ports["parameters"], self.ports["residual"]
        copied = units.copy(size, (parameters, residual), self.unit.scatter_depth, self.fifo)
        added = units.residual(size, (parameters, self.ports["normed"], residual), self.unit.residual_depth, self.fifo)
        for row, (token, at) in enumerate(zip(tokens, group, strict=True)):
            read = self.tables["tokens"] + token * size
            write = self.places["residual"] + row * size
            if "positions" in self.tables:
                other = self.tables["positions"] + at.position * size
                work = Residual({"read_one": read, "read_other": other, "write": write})
                b.compute("embedding", "embedding", added, work)
            else:
                b.compute("embedding", "embedding", copied, Copy({"read": read, "write": write}))
        b.result("embedding", "residual", self.model.d_model, len(group))
        return b.stretch

    def _project(self, layer: int, of: Sequence[Segment]) -> Stretch:
        """Norm, queries, and keys and values into the cache; queries and keys rotated where positions are rotations."""
        b, n = _Builder(self, layer), sum(each.count for each in of)
        first, among = of[0].sequence * self.capacity + of[0].start, self.rows_side_by_side
        step = self.capacity if len(of) > 1 else 1
        keys, values = (_Rows(base, self.key_beats, first, step, among) for base in self._caches[layer])
        queries, unturned = (
            _Rows(self.places["query"], self.query_beats),
            _Rows(self.places["unturned"], self.key_beats),
        )
        b.norm("norm1", 0, n)
        b.linear("qkv_projection", "query", "normed", queries, n)
        b.linear(
            "qkv_projection",
            "key",
            "normed",
            unturned if self.turns else keys,
            n,
            port="projected" if self.turns else "",
        )
        b.linear("qkv_projection", "value", "normed", values, n)
        if self.turns:
            b.rotate("turned_query", "query", self.places["query"], queries, "query", of)
            b.rotate("turned_key", "projected", self.places["unturned"], keys, "key", of)
        return b.stretch

    def _attend(self, layer: int, of: Sequence[Segment]) -> Stretch:
        """Attention of one sequence after the other."""
        b, schedule = _Builder(self, layer), self.fpga.attention.schedule
        for each in of:
            shape = self.shape(each.count, each.start)
            regions, place = self.attention(shape), each.row * self.query_beats
            kept = each.sequence * self.capacity * self.key_beats
            places = {
                **self.places,
                "query": self.places["query"] + place,
                "output": self.places["output"] + place,
                "key": self._caches[layer][0] + kept,
                "value": self._caches[layer][1] + kept,
            }
            scores, values = product_works(shape, schedule, places, self.head_beats)
            at = b.compute("query x key", "attention_scores", regions.scores, scores)
            prefix = _name(layer, self.of_sequence("", each))
            b.stretch.checkpoints += product_checkpoints(
                shape, schedule, places, at, prefix, passes=bool(regions.softmax)
            )
            for which, passed in zip(PASSES, regions.softmax, strict=False):
                b.compute(f"softmax {which}", "softmax", passed, pass_work(shape, schedule, places, which))
            b.compute("weights x value", "attention_values", regions.values, values)
        b.result("attention", "output", self.model.heads * self.model.head_width, sum(each.count for each in of))
        return b.stretch

    def of_sequence(self, name: str, segment: Segment) -> str:
        """A name that says which sequence of several is meant."""
        return name if self.work.batch == 1 else f"sequence{segment.sequence}.{name}"

    def _feed_forward(self, layer: int, n: int) -> Stretch:
        """Output projection, residual, norm, the two products of the feed-forward part, residual."""
        b, model = _Builder(self, layer), self.model
        projected = _Rows(self.places["projected"], self._row(model.d_model))
        b.linear("output_projection", "projection", "output", projected, n)
        b.residual("residual1", n)
        b.norm("norm2", 0, n)
        hidden = _Rows(self.places["hidden"], self._row(model.d_ff))
        if model.gated:
            b.linear("ffn_up", "ffn_gate", "normed", hidden, n, gelu=True)
            b.linear("ffn_up", "ffn_up", "normed", replace(hidden, base=self.places["up"]), n, port="projected")
            b.gate("gated", n)
        else:
            b.linear("ffn_up", "ffn_up", "normed", hidden, n, gelu=True)
        b.linear("ffn_down", "ffn_down", "hidden", projected, n)
        b.residual("residual2", n)
        return b.stretch

    def _head(self, row: int, n: int) -> Stretch:
        """Last norm and logits of the last ``n`` rows, which begin with ``row``."""
        b = _Builder(self, OUTSIDE)
        b.norm("final_norm", row, n)
        b.linear("lm_head", "lm_head", "normed", _Rows(self.places["logits"], self._row(self.model.vocabulary)), n)
        return b.stretch


@dataclass(frozen=True, slots=True)
class _Piece:
    """Outputs of a matrix that fit a weight buffer, and where they lie."""

    first: int
    outputs: int
    rows: int
    """Outputs in whole tiles."""
    inputs: int
    matrix: int
    biases: int | None
    attention: bool


@dataclass(frozen=True, slots=True)
class _Share:
    """Beats that a port brings."""

    port: str
    base: int
    beats: int


@dataclass(frozen=True, slots=True)
class _Rows:
    """Where a linear layer writes: rows of ``beats`` beats behind ``base``; row ``first``, and each ``step`` rows on."""

    base: int
    beats: int
    first: int = 0
    step: int = 1
    among: SideBySide | None = None


class _Builder:
    """Appends calls to a stretch. A computation waits for the one before; weights come as early as the machine lets them."""

    def __init__(self, program: DecoderProgram, layer: int) -> None:
        self.program, self.layer = program, layer
        self.stretch = Stretch()
        self.early = program.unit.weight_prefetch == "layers"
        self._computed: Waits = ()
        self._fetched: Waits = ()
        self._users: dict[str, Waits] = {}
        """Buffer -> the last computation that reads it."""
        self._latest: Waits = ()
        """What everything waits for where nothing is early."""
        self._buffer = "pong"

    def compute(self, name: str, op: str, region: Region, work: Work, reads: Sequence[str] = ()) -> int:
        """A call that waits for the computation before and for all weights that were asked for; its position."""
        at = self._add(name, op, region, work, self._computed + self._fetched)
        self._computed = self._latest = (at,)
        self._users.update(dict.fromkeys(reads, self._computed))
        return at

    def _fetch(self, name: str, op: str, shares: Sequence[_Share], buffer: str) -> int:
        """Shares of a buffer, at once, when nobody reads it any more and the fetch before is complete; how many there are."""
        waits, depth = self._fetched + self._users.get(buffer, ()), self.program.unit.weight_load_depth
        found = []
        for number, share in enumerate(shares):
            unit, part = (
                ("weight_loader", buffer) if len(shares) == 1 else (f"weight_loader.{number}", f"{buffer}.{number}")
            )
            region = units.load(share.beats, share.port, depth, unit)
            found.append(self._add(name, op, region, Load({"read": share.base}, part), waits))
        self._fetched = self._latest = tuple(found)
        return len(found)

    def _add(self, name: str, op: str, region: Region, work: Work, waits: Waits) -> int:
        after = tuple(sorted(set(waits))) if self.early else self._latest
        self.stretch.calls.append(Call(name, op, self.layer, region, after, work))
        return len(self.stretch.calls) - 1

    def result(self, name: str, place: str, width: int, rows: int) -> None:
        """The last call completes rows of whole beats."""
        self._checkpoint(name, _Rows(self.program.places[place], width // self.program.words), width, rows)

    def _checkpoint(self, name: str, to: _Rows, width: int, rows: int) -> None:
        base = to.base if to.among else to.base + to.first * to.beats
        self.stretch.checkpoints.append(
            Checkpoint(
                len(self.stretch.calls) - 1, _name(self.layer, name), "rows", base, rows, width, to.step * to.beats,
                first=to.first, step=to.step, among=to.among,
            )
        )  # fmt: skip

    def norm(self, name: str, row: int, n: int) -> None:
        """Gain and shift, then LayerNorm of ``n`` rows of the stream from ``row`` on."""
        program, unit, d = self.program, self.program.unit, self.program.model.d_model
        beats = program.norm_parts * -(-d * unit.weight_bits // program.fpga.beat_bits)
        whole = _Share(program.ports["parameters"], program._norms[self.layer, name], beats)  # noqa: SLF001
        self._fetch("load", "layernorm_weights", [whole], NORMS)
        ports = (program.ports["residual"], program.ports["normed"])
        depths = (unit.moments_depth, unit.normalize_depth)
        region = units.layernorm(n, program.row_beats, ports, depths, program.fifo)
        at = {
            "read": program.places["residual"] + row * program.row_beats,
            "write": program.places["normed"],
        }
        work = Norm(at, NORMS, 0, d, program.model.norm_eps, program.model.norm == "rmsnorm")
        self.compute("norm", program.model.norm, region, work, (NORMS,))
        self.result(name, "normed", d, n)

    def residual(self, name: str, n: int) -> None:
        """The stream and what was projected, added."""
        program = self.program
        ports = (program.ports["residual"], program.ports["projected"], program.ports["residual"])
        region = units.residual(n * program.row_beats, ports, program.unit.residual_depth, program.fifo)
        at = {
            "read_one": program.places["residual"],
            "read_other": program.places["projected"],
            "write": program.places["residual"],
        }
        self.compute("residual", "residual", region, Residual(at))
        self.result(name, "residual", program.model.d_model, n)

    def rotate(self, name: str, port: str, source: int, to: _Rows, target: str, of: Sequence[Segment]) -> None:
        """Heads of all rows turned by the angles of their positions, from ``port`` to the port of ``target``."""
        program, n, first = self.program, sum(each.count for each in of), of[0].start
        heads = to.beats // program.head_beats
        ports = (program.ports[port], program.ports["parameters"], program.ports[target])
        depths = (program.unit.gather_depth, program.unit.normalize_depth)
        region = units.rotate(
            n, heads, program.head_beats, ports, depths, program.fifo, to.step * to.beats, same=len(of) > 1
        )
        begin = to.first * to.beats
        at = {
            "read": source,
            "read_angles": program.angles + first * program.head_beats,
            "write": to.base + (0 if to.among else begin),
        }
        work = Rotate(
            at,
            program.model.head_width,
            program.model.rope_convention == "interleaved",
            to.among,
            begin if to.among else 0,
        )
        self.compute("rotate", "rope", region, work)
        self._checkpoint(name, to, to.beats * program.words, n)

    def gate(self, name: str, n: int) -> None:
        """The activated rows times those beside them."""
        program, beats = self.program, n * self.program.model.d_ff // self.program.words
        ports = (program.ports["hidden"], program.ports["projected"], program.ports["hidden"])
        region = units.product(beats, ports, program.unit.residual_depth, program.fifo)
        places = program.places
        work = Product({"read_one": places["hidden"], "read_other": places["up"], "write": places["hidden"]})
        self.compute("gate", "gate", region, work)
        self.result(name, "hidden", program.model.d_ff, n)

    def linear(self, op: str, name: str, source: str, to: _Rows, n: int, *, gelu: bool = False, port: str = "") -> None:
        """A matrix, piece by piece, times ``n`` rows, to the port of its results or to another ``port``."""
        program = self.program
        pieces = program._weights[self.layer, name]  # noqa: SLF001
        target = name if op == "qkv_projection" else "logits" if op == "lm_head" else _TARGETS[op]
        ports = (program.ports[source], program.ports[port or _PORTS.get(target, target)])
        unit = program.linear_unit
        if program.unit.linear_units == "separate":
            unit = replace(unit, name=f"linear.{target if op == 'qkv_projection' else op}")
        for piece in pieces:
            weights, biases, shares = self._piece(op, piece)
            column = piece.first // program.words
            region = units.linear(n, piece.outputs, piece.inputs, unit, ports, gelu=gelu, pitch=to.step * to.beats)
            begin = to.first * to.beats + column
            at = {
                "read_input": program.places[source],
                "write_output": to.base + (0 if to.among else begin),
            }
            work = Linear(
                at, weights, biases, piece.inputs, piece.outputs, piece.attention, gelu and unit.direct_gelu is None,
                written=to.among, column=begin if to.among else 0, shares=shares,
            )  # fmt: skip
            self.compute("linear", op, region, work, (weights, biases))
        outputs = pieces[-1].first + pieces[-1].outputs
        self._checkpoint(name, to, outputs, n)

    def _piece(self, op: str, piece: _Piece) -> tuple[str, str, int]:
        """Fetch a piece and its biases into the other buffer; names of both, and the shares of the first."""
        program, unit = self.program, self.program.unit
        self._buffer = "ping" if self._buffer == "pong" else "pong"
        per_beat = program.fpga.beat_bits // unit.weight_bits
        shares = self._fetch("load weights", f"{op}_weights", program.shares(piece), self._buffer)
        if piece.biases is None:
            return self._buffer, "", shares
        biases = f"{self._buffer}_biases"
        whole = _Share(program.ports["parameters"], piece.biases, -(-piece.rows // per_beat))
        self._fetch("load biases", f"{op}_weights", [whole], biases)
        return self._buffer, biases, shares


_TARGETS = {"output_projection": "projected", "ffn_up": "hidden", "ffn_down": "projected"}
"""Operation -> where its results lie."""

_PORTS = {"logits": "projected"}
"""What has no port of its own -> whose port it uses."""


def _name(layer: int, name: str) -> str:
    return name if layer == OUTSIDE else f"h{layer}.{name}"


def append(program: StreamingProgram, parts: Sequence[Part], barrier: Sequence[int] = ()) -> tuple[int, ...]:
    """Append parts to a program, the first behind the calls of ``barrier``; the calls that whatever follows must wait for."""
    for part in parts:
        stretch, first = part.make(), len(program.calls)
        for call in stretch.calls:
            after = tuple(other + first for other in call.after) if call.after else tuple(barrier)
            program.calls.append(replace(call, after=after))
        program.checkpoints += [replace(point, after=point.after + first) for point in stretch.checkpoints]
        barrier = tuple(first + number for number in stretch.ends())
    return tuple(barrier)


__all__ = ["DecoderProgram", "Part", "Segment", "Stretch", "append", "check", "segments"]
