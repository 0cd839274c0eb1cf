"""``--check`` of decoders on streaming machines: the program that is timed, in fixed point, against float64 pass by pass."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from itertools import islice
from typing import Any, Literal

from pimsim.arch.fpga import FpgaConfig
from pimsim.errors import ProgramError
from pimsim.functional.streaming.decoder_judge import Cache, DecoderJudge, SequenceRows, angle_table, operations, turner
from pimsim.functional.streaming.hazards import first_hazard
from pimsim.functional.verdict import Verdict, relative_error, summary
from pimsim.mapper.fpga.decoder import DecoderProgram, append, segments
from pimsim.mapper.fpga.encoder import linear_tile
from pimsim.mapper.group import Group, Token
from pimsim.program.works import Parameter, StreamingProgram
from pimsim.runners.fpga_check import StreamingNumbers
from pimsim.workload.config import DecoderConfig, WorkloadConfig
from pimsim.workload.models import softmax_graph
from pimsim.workload.ops import Rope
from pimsim.workload.reference import Reference, random_weights


class MachineTensors(Mapping[str, Any]):
    """The tensors of a model as the machine takes them: matrices ``[outputs, inputs]``, queries, keys and values apart."""

    def __init__(self, weights: Mapping[str, Any], model: DecoderConfig) -> None:
        self._weights, self._model = weights, model
        self._names = {
            f"h{layer}.{name}.{part}"
            for layer in range(model.layers)
            for name in (*_QKV, *_LINEARS, *_NORMS, "ffn_gate")
            for part in (("gain", "shift") if name in _NORMS else ("weights", "biases"))
        } | {"final_norm.gain", "final_norm.shift", "lm_head.weights", "lm_head.biases"}
        self._latest: tuple[str, Any] = ("", None)

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        if name != self._latest[0]:  # a matrix is asked for piece by piece
            self._latest = name, self._make(name)
        return self._latest[1]

    def _make(self, name: str) -> Any:
        stem, _, part = name.rpartition(".")
        head, _, last = stem.rpartition(".")
        at = f"{head}." if head else ""
        if last in _NORMS or stem == "final_norm":
            norm = "final.ln_f" if stem == "final_norm" else f"{at}{_NORMS[last]}"
            return self._weights[f"{norm}.{'gamma' if part == 'gain' else 'beta'}"]
        if stem == "lm_head" and self._model.tied_embeddings:
            table = self._weights["embed.tokens"]
            return table if part == "weights" else self._weights.get("final.lm_head.bias", 0 * table[:, 0])
        if stem == "lm_head":
            return self._matrix("final.lm_head", part, slice(None))
        if last in _QKV:
            queries, kept = (n * self._model.head_width for n in (self._model.heads, self._model.key_value_heads))
            ends = {"query": (0, queries), "key": (queries, queries + kept), "value": (queries + kept, None)}
            return self._matrix(f"{at}qkv", part, slice(*ends[last]))
        if self._model.gated and last in {"ffn_gate", "ffn_up"}:
            half = slice(self._model.d_ff) if last == "ffn_gate" else slice(self._model.d_ff, None)
            return self._matrix(f"{at}gate_up", part, half)
        return self._matrix(f"{at}{_LINEARS[last]}", part, slice(None))

    def _matrix(self, name: str, part: str, outputs: slice) -> Any:
        matrix = self._weights[f"{name}.weight"]
        if part == "weights":
            return matrix[:, outputs].T.copy()
        bias = self._weights.get(f"{name}.bias")
        return (0 * matrix[0] if bias is None else bias)[outputs]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names))

    def __len__(self) -> int:
        return len(self._names)


_QKV = ("query", "key", "value")
_LINEARS = {"projection": "proj", "ffn_up": "up", "ffn_down": "down"}
_NORMS = {"norm1": "ln_1", "norm2": "ln_2"}
"""Names of the machine's operations -> names in the graph."""


FORMS: dict[str, Literal["erf", "tanh", "silu"]] = {"gelu_tanh": "tanh", "gelu_erf": "erf", "silu": "silu"}
"""Activation of a model -> what the tables of the linear unit are filled with."""


class DecoderCheck:
    """One check of the first passes; `program` may be changed by ``change`` before it is carried out.

    Attributes:
        groups: tokens of the passes that are checked.
        program: calls of the passes so far.
    """

    def __init__(self, fpga: FpgaConfig, name: str, work: WorkloadConfig, passes: int) -> None:
        """Raises: MappingError, if the machine has no formats."""
        assert fpga.encoder is not None
        self.fpga, self.work = fpga, work
        self.graph = softmax_graph(work)
        tied, drawn = self.graph.tied(), random_weights(self.graph)
        self.weights = {tensor: drawn[tensor] for tensor in drawn if tensor not in tied}
        self.decoder = DecoderProgram(fpga, fpga.encoder, work)
        self.groups = list(islice(self.decoder.groups, passes))
        self.form = FORMS[work.model.activation]
        self._given: MutableMapping[str, Any] = {}
        tensors = MachineTensors(self.weights, work.model)
        self.numbers = StreamingNumbers(fpga, name, ChainMap(self._given, tensors), self.form)  # type: ignore[arg-type]
        self._rope = next((op for op in self.graph if isinstance(op, Rope)), None)
        self.program = StreamingProgram(parameters=list(self.decoder.parameters), beats=self.decoder.beats)
        self._tensors = tensors
        self._references = [Reference(self.graph, work, self.weights) for _ in range(work.batch)]
        if self._rope is not None:
            self._place_angles(self._rope)
        self._barrier: tuple[int, ...] = ()
        self._worst = {"error": 0.0, "relative": 0.0, "tolerance": 0.0}

    def _place_angles(self, rope: Rope) -> None:
        """Cosines and sines of all positions."""
        count = self.decoder.positions * rope.d_head
        self._given["angles"] = angle_table(rope, self.decoder.positions)
        self.program.parameters.append(
            Parameter("angles", "features", self.decoder.angles, 0, count, count, self.fpga.word_bits)
        )

    def token(self, at: Token) -> int:
        """The token at a place; sequences differ."""
        return (7919 * at.position + 104729 * at.sequence + 17) % self.work.model.vocabulary

    def extend(self, number: int) -> None:
        """Append the calls of a pass, and what they find in memory."""
        group = self.groups[number]
        tokens = [self.token(at) for at in group]
        self._place_inputs(number, group, tokens)
        self._barrier = append(self.program, list(self.decoder.parts(group, tokens)), self._barrier)

    def run(self) -> dict[str, Any]:
        """The ``functional`` section: op by op, then the ends of passes, then what only the order hides."""
        verdicts: list[Verdict] = []
        model = self.work.model
        cache, message, done = Cache(model.heads, model.heads // model.key_value_heads), "", 0
        for number in range(len(self.groups)):
            first = len(self.program.calls)
            self.extend(number)
            if len(self.program.calls) > first:
                self.change(number, first)
            message = self._pass(number, cache, verdicts)
            done += 1
            if message:
                break
        message = message or first_hazard(self.program.calls, self.numbers.executor.touched)
        return {
            "passed": not message,
            "format": self.numbers.formats.features.name,
            "max_abs_error": self._worst["error"],
            "max_rel_error": self._worst["relative"],
            "tolerance": self._worst["tolerance"],
            "compared": len(verdicts),
            "passes": done,
            "by_op": summary(verdicts),
            "message": message or None,
        }

    def change(self, number: int, first: int) -> None:
        """A pass was appended from call ``first`` on; here it can be broken, to see what a wrong program does."""

    def _place_inputs(self, number: int, group: Group, tokens: Sequence[int]) -> None:
        """Rows of the tables that the pass reads; without embeddings, the stream where they would put it."""
        d, bits, tables = self.work.model.d_model, self.fpga.word_bits, self.decoder.tables
        embed = {part: self.weights.get(f"embed.{part}") for part in ("tokens", "positions")}
        rows = {"tokens": tokens, "positions": [at.position for at in group]}
        for part, table in tables.items():
            for row in rows[part]:
                name = f"embed.{part}[{row}]"
                self._given[name] = embed[part][row]  # type: ignore[index]
                base = table + row * self.decoder.row_beats
                self.program.parameters.append(Parameter(name, "features", base, 0, d, d, bits))
        if tables:
            return
        stream = self._stream(group, tokens)
        name = f"embedding[{number}]"
        self._given[name] = stream
        self.program.parameters.append(
            Parameter(name, "features", self.decoder.places["residual"], 0, len(group) * d, len(group) * d, bits)
        )

    def _stream(self, group: Group, tokens: Sequence[int]) -> Any:
        """The embeddings of a group. ``[tokens, d_model]``."""
        found = self.weights["embed.tokens"][list(tokens)].astype(float)
        if self.work.model.position == "learned":
            found = found + self.weights["embed.positions"][[at.position for at in group]]
        return found

    def _pass(self, number: int, cache: Cache, verdicts: list[Verdict]) -> str:
        """Carry out a pass and compare it; what is wrong."""
        group, capture = self.groups[number], self.numbers.capture
        capture.values.clear()
        try:
            self.numbers.advance(self.program)
            broken = ""
        except ProgramError as error:
            broken = str(error)
        model = self.work.model
        of = [
            SequenceRows(self.decoder.of_sequence("", each), each.row, each.count, each.start)
            for each in segments(group)
        ]
        head_rows = self.decoder.head_rows(group)
        if not self.work.embeddings:
            exact_stream = self._given[f"embedding[{number}]"]
            capture.values["embedding"] = self.numbers.formats.features.round_to(exact_stream)
        judge = DecoderJudge(
            self._tensors, self.numbers.formats, model.heads, 1, self.numbers.executor.chip.words, self._tile,
            cache.arrange(capture.values, model.layers, of, head_rows), {}, model.norm_eps,
        )  # fmt: skip
        judge.form = self.form
        if self._rope is not None:
            judge.turn = turner(self._rope)
        judge.parallelism = self.fpga.attention.parallelism if self.fpga.attention.schedule == "reordered" else 1
        now: list[Verdict] = []
        if "embedding" in judge.values:
            stream = self._stream(group, [self.token(at) for at in group])
            now.append(judge.placed(stream, len(self.decoder.tables) or 1))
        if now and now[0].passed:
            now += judge.verdicts(operations(model, of, head_rows), partial=bool(broken))
        verdicts += now
        wrong = next((each.message(self.numbers.formats.features.name) for each in now if not each.passed), broken)
        where = f"pass {number}: " if len(self.groups) > 1 else ""
        return where + wrong if wrong else self._compare_end(number, judge.values, now, head_rows)

    @property
    def _tile(self) -> int:
        assert self.fpga.encoder is not None
        return linear_tile(self.fpga.encoder)

    def _compare_end(self, number: int, values: Mapping[str, Any], verdicts: Sequence[Verdict], head_rows: int) -> str:
        """The end of a pass against a reference that has seen nothing of the program."""
        group, last = self.groups[number], self.work.model.layers - 1
        exact = [self._references[at.sequence].step(self.token(at), at.position) for at in group]
        ends = [(f"h{last}.residual2", f"h{last}.add_2", exact)]
        if head_rows:
            ends.append(("lm_head", "final.lm_head", exact[len(exact) - head_rows :]))
        tolerance = sum(each.relative for each in verdicts)
        self._worst["tolerance"] = max(self._worst["tolerance"], tolerance)
        for found, wanted, of in ends:
            pairs = [(row, each[wanted]) for row, each in zip(values[found], of, strict=True)]
            relative = max(relative_error(row, right) for row, right in pairs)
            error = max(float(abs(row - right).max()) for row, right in pairs)
            self._worst["error"] = max(self._worst["error"], error)
            self._worst["relative"] = max(self._worst["relative"], relative)
            if not relative <= tolerance:
                return (
                    f"{found} must be within {tolerance:.3g} of the reference at the end of pass {number}, the sum of the errors "
                    f"of all operations, not {relative:.3g} off"
                )
        return ""


__all__ = ["DecoderCheck", "MachineTensors"]
