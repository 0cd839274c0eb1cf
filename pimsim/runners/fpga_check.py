"""Numbers of streaming machines: programs carried out in fixed point, ``--check`` against float64, routing by gates."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, Literal, cast

from pimsim.arch.fpga import FpgaConfig, FpgaEncoder
from pimsim.errors import CapacityExceeded, MappingError, ProgramError, WorkloadError
from pimsim.functional.streaming.capture import Capture
from pimsim.functional.streaming.chip import WIDTHS, Chip
from pimsim.functional.streaming.executor import Executor
from pimsim.functional.streaming.fixed import Formats
from pimsim.functional.streaming.hazards import first_hazard
from pimsim.functional.streaming.judge import Judge
from pimsim.functional.verdict import Verdict, relative_error, summary
from pimsim.mapper.fpga.encoder import encoder_program, linear_tile
from pimsim.mapper.fpga.places import products_program, rows_at_once
from pimsim.mapper.fpga.schedules import Schedule, Shape
from pimsim.program.dataflow import Call
from pimsim.program.works import Routes, StreamingProgram
from pimsim.runners.fpga_encoder import by_gates
from pimsim.runners.pim_check import available_memory
from pimsim.workload import encoder_reference as reference
from pimsim.workload.attention_only import AttentionConfig
from pimsim.workload.encoder import EncoderConfig
from pimsim.workload.importers import bert


class StreamingNumbers:
    """A program on numbers: parameters are placed and calls carried out as the program grows.

    Attributes:
        executor: memory and chip.
        capture: results so far.
    """

    def __init__(
        self, fpga: FpgaConfig, name: str, tensors: Mapping[str, Any], gelu: Literal["erf", "tanh"] = "erf"
    ) -> None:
        """``name``: of the machine; ``tensors``: every tensor that parameters of the program name; ``gelu``: form of GELU.

        Raises:
            MappingError: the machine has no formats, or elements of a width that memory does not hold.
        """
        if fpga.formats is None:
            raise MappingError(f"{name} must have a section fpga.formats to be run on numbers")
        encoder = fpga.encoder
        bits = {"word_bits": fpga.word_bits}
        if encoder is not None:
            bits |= {"encoder.weight_bits": encoder.weight_bits, "encoder.pixel_bits": encoder.pixel_bits}
        for field, width in bits.items():
            if width not in WIDTHS:
                raise MappingError(f"fpga.{field} of {name} must be 8, 16 or 32 to be run on numbers, not {width}")
        self.tensors = tensors
        self.formats = Formats.of(fpga.formats, gelu)
        chip = Chip(
            self.formats,
            fpga.beat_bits,
            fpga.word_bits,
            encoder.weight_bits if encoder else fpga.word_bits,
            encoder.pixel_bits if encoder else 8,
            linear_tile(encoder) if encoder else 1,
        )
        self.executor = Executor(chip)
        self.capture = Capture(self.executor)
        self._placed = 0

    def advance(self, program: StreamingProgram) -> None:
        """Carry out the calls that were not yet.

        Raises:
            CapacityExceeded: the memory of the machine and copies of the largest tensor do not fit into that of the computer.
        """
        largest = max((parameter.first + parameter.size for parameter in program.parameters), default=0)
        needed, there = program.beats * (self.executor.chip.beat_bits // 8 + 1) + 24 * largest, available_memory()
        if needed > there:
            raise CapacityExceeded(
                f"numbers must fit into memory: they need about {needed / 2**30:.1f} GiB, not {there / 2**30:.1f} GiB"
            )
        self.executor.grow(program.beats)
        for parameter in program.parameters[self._placed :]:
            self.executor.place(parameter, self.tensors[parameter.tensor], getattr(self.formats, parameter.format))
        self._placed = len(program.parameters)
        self.executor.run(program.calls, lambda done: self.capture.take(program.checkpoints, done))

    def try_advance(self, program: StreamingProgram) -> str:
        """`advance`; what is wrong where the program cannot be carried out, or only because calls do not run at once."""
        try:
            self.advance(program)
        except ProgramError as error:
            return str(error)
        return first_hazard(program.calls, self.executor.touched)

    def complete(self, program: StreamingProgram) -> bool:
        """Whether all calls were carried out."""
        return self.executor.done == len(program.calls)

    def judge(self, weights: Mapping[str, Any], heads: int, lanes: int, tile: int, eps: float = 0.0) -> Judge:
        """Of what was captured."""
        words = self.executor.chip.words
        return Judge(weights, self.formats, heads, lanes, words, tile, self.capture.values, self.capture.selected, eps)

    def route(self, _layer: int, program: StreamingProgram) -> Routes:
        """What the gates choose, once they have run."""
        self.advance(program)
        assert self.executor.chip.gates is not None
        return tuple(tuple(row) for row in self.executor.chip.gates[0].tolist())


class EncoderNumbers:
    """An encoder on numbers: seeded weights and a seeded image, or the weights and the text that the workload names.

    Attributes:
        program: what is timed, too; with routing by gates it is made while it runs.
        routing: experts of each token, by layer.
    """

    def __init__(self, fpga: FpgaConfig, name: str, work: EncoderConfig) -> None:
        """Raises: InputError, if the machine has no formats or the weights are not there."""
        assert fpga.encoder is not None
        self.fpga, self.work = fpga, work
        self.weights, self.input = _inputs(fpga.encoder, work)
        inputs = {"image" if work.image else "embedding": self.input}
        self.numbers = StreamingNumbers(fpga, name, ChainMap(inputs, cast(MutableMapping[str, Any], self.weights)))
        if work.image is None:
            self.numbers.capture.values["embedding"] = self.numbers.formats.features.round_to(self.input)
        self.routing: dict[int, Routes] = {}
        self.program = encoder_program(fpga, fpga.encoder, work, self._route if by_gates(work) else None)

    def _route(self, layer: int, program: StreamingProgram) -> Routes:
        self.routing[layer] = self.numbers.route(layer, program)
        return self.routing[layer]

    def routes(self, layer: int) -> Routes:
        """Experts of each token of a layer."""
        return self.routing[layer] if layer in self.routing else self.work.routes(layer)

    def check(self) -> dict[str, Any]:
        """The ``functional`` section of a result."""
        broken = self.numbers.try_advance(self.program)
        assert self.fpga.encoder is not None
        attention = self.fpga.attention
        judge = self.numbers.judge(
            self.weights,
            self.work.heads,
            attention.parallelism if attention.schedule == "reordered" else 1,
            linear_tile(self.fpga.encoder),
            self.work.norm_eps,
        )
        verdicts: list[Verdict] = []
        if "embedding" in self.numbers.capture.values:
            verdicts = [judge.patches(self.input, self.work) if self.work.image else judge.placed(self.input)]
        if verdicts and verdicts[0].passed:
            verdicts += judge.verdicts(
                reference.operations(self.work, self.routes),
                partial=self.numbers.executor.done < len(self.program.calls),
            )
        if broken or not verdicts[-1].passed:
            return report(verdicts, self.numbers.formats, broken=broken)
        found, exact = self._end(verdicts[-1].op.name)
        section = report(verdicts, self.numbers.formats, found, exact)
        if self.work.text is not None:
            one, other = reference.sentence_embedding(found), reference.sentence_embedding(exact)
            section["sentence_embedding"] = {"values": one.tolist(), "cosine": float(one @ other)}
        return section

    def _end(self, last: str) -> tuple[Any, Any]:
        """(found, exact) of the last operation, by a reference that has seen nothing of the program but its routing."""
        start = reference.patch_embedding(self.input, self.weights, self.work) if self.work.image else self.input
        return self.numbers.capture.values[last], reference.encode(self.work, self.weights, start, self.routes)[last]


def _inputs(encoder: FpgaEncoder, work: EncoderConfig) -> tuple[Mapping[str, Any], Any]:
    """(weights, image or embedding) of a workload."""
    if work.weights is not None:
        folder = bert.find_folder(work.weights)
        weights = bert.BertWeights(folder, work)
        assert work.text is not None
        ids = bert.token_ids(folder, work.text.text)
        if len(ids) != work.text.tokens:
            raise WorkloadError(
                f"text.tokens of {work.name} must be the tokens of text.text, which are {len(ids)}, not {work.text.tokens}"
            )
        return weights, weights.embedding(ids)
    drawn = reference.DrawnWeights(work)
    if work.image is not None:
        return drawn, reference.drawn_image(work, 1 << encoder.pixel_bits)
    features = reference.drawn_features(work.seed, "embedding", (work.tokens, work.d_model))
    return drawn, features.astype(float)


def check_attention(
    fpga: FpgaConfig, name: str, work: AttentionConfig, calls: Sequence[Call], shape: Shape, schedule: Schedule
) -> dict[str, Any]:
    """The ``functional`` section for attention by itself, on seeded queries, keys and values in the format of features.

    Raises:
        InputError: the machine has no formats.
    """
    program = products_program(calls, shape, schedule, work.d_head, fpga.word_bits)
    size = (shape.tokens, work.heads * work.d_head)
    tensors: dict[str, Any] = {}
    numbers = StreamingNumbers(fpga, name, tensors)
    for tensor in ("query", "key", "value"):
        drawn = reference.drawn_features(work.seed, tensor, size)
        tensors[tensor] = numbers.formats.features.round_to(drawn.astype(float))
    broken = numbers.try_advance(program)
    numbers.capture.values |= tensors
    judge = numbers.judge({}, work.heads, rows_at_once(shape, schedule), 1)
    verdicts = judge.verdicts(reference.ATTENTION, partial=not numbers.complete(program))
    if broken or not verdicts[-1].passed:
        return report(verdicts, numbers.formats, broken=broken)
    scores = reference.scores(tensors["query"], tensors["key"], work.heads)
    exact = reference.attention(scores, tensors["value"])
    return report(verdicts, numbers.formats, numbers.capture.values["attention"], exact)


def report(
    verdicts: Sequence[Verdict], formats: Formats, found: Any = None, exact: Any = None, *, broken: str = ""
) -> dict[str, Any]:
    """The ``functional`` section: operations one by one, then the end against a reference that knows no program.

    ``broken``: why the program could not be carried out to its end; an operation that was wrong before that is told first.
    """
    name = formats.features.name
    message = next((each.message(name) for each in verdicts if not each.passed), broken)
    tolerance = sum(each.relative for each in verdicts)
    relative = error = mean = 0.0
    if not message and exact is not None:
        relative, error = relative_error(found, exact), float(abs(found - exact).max())
        mean = float(abs(found - exact).mean())
        if not relative <= tolerance:
            message = (
                f"{verdicts[-1].op.name} must be within {tolerance:.3g} of the reference at the end, the sum of the errors of "
                f"all operations, not {relative:.3g} off"
            )
    return {
        "passed": not message,
        "format": name,
        "max_abs_error": error,
        "mean_abs_error": mean,
        "max_rel_error": relative,
        "tolerance": tolerance,
        "compared": len(verdicts),
        "by_op": summary(verdicts),
        "message": message or None,
    }


__all__ = ["EncoderNumbers", "StreamingNumbers", "check_attention", "report"]
