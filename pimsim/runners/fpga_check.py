"""Numbers of streaming machines: programs carried out in fixed point, ``--check`` against float64, routing by gates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pimsim.arch.fpga import FpgaConfig
from pimsim.config import Loaded
from pimsim.errors import MappingError
from pimsim.functional.check import relative_error
from pimsim.functional.streaming.capture import Capture
from pimsim.functional.streaming.chip import WIDTHS, Chip
from pimsim.functional.streaming.executor import Executor
from pimsim.functional.streaming.fixed import Formats
from pimsim.functional.streaming.judge import Judge, Verdict, summary
from pimsim.mapper.fpga.encoder import encoder_program
from pimsim.program.dataflow import Call
from pimsim.program.streaming import Routes, StreamingProgram
from pimsim.workload import encoder_reference as reference
from pimsim.workload.attention_only import AttentionConfig
from pimsim.workload.encoder import EncoderConfig


class StreamingNumbers:
    """A program on numbers: parameters are placed and calls carried out as the program grows.

    Attributes:
        executor: memory and chip.
        capture: results so far.
    """

    def __init__(self, fpga: FpgaConfig, name: str, tensors: Mapping[str, Any]) -> None:
        """``name``: of the machine; ``tensors``: every tensor that parameters of the program name.

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
        self.formats = Formats.of(fpga.formats)
        chip = Chip(
            self.formats,
            fpga.beat_bits,
            fpga.word_bits,
            encoder.weight_bits if encoder else fpga.word_bits,
            encoder.pixel_bits if encoder else 8,
            encoder.tile if encoder else 1,
        )
        self.executor = Executor(chip)
        self.capture = Capture(self.executor)
        self._placed = 0

    def advance(self, program: StreamingProgram) -> None:
        """Carry out the calls that were not yet."""
        self.executor.grow(program.beats)
        for parameter in program.parameters[self._placed :]:
            self.executor.place(parameter, self.tensors[parameter.tensor], getattr(self.formats, parameter.format))
        self._placed = len(program.parameters)
        self.executor.run(program.calls, lambda done: self.capture.take(program.checkpoints, done))

    def route(self, _layer: int, program: StreamingProgram) -> Routes:
        """What the gates choose, once they have run."""
        self.advance(program)
        assert self.executor.chip.gates is not None
        return tuple(tuple(row) for row in self.executor.chip.gates[0].tolist())


class EncoderNumbers:
    """An encoder on numbers.

    Attributes:
        program: what is timed, too; with routing by gates it is made while it runs.
        routing: experts of each token, by layer.
    """

    def __init__(self, fpga: FpgaConfig, name: str, work: EncoderConfig) -> None:
        assert fpga.encoder is not None
        self.fpga, self.work = fpga, work
        self.weights: Mapping[str, Any] = reference.DrawnWeights(work)
        self.image = reference.drawn_image(work, 1 << fpga.encoder.pixel_bits)
        self.numbers = StreamingNumbers(fpga, name, _Tensors(self.weights, {"image": self.image}))
        self.routing: dict[int, Routes] = {}
        gates = work.moe is not None and work.moe.routing == "gates"
        self.program = encoder_program(fpga, fpga.encoder, work, self._route if gates else None)

    def _route(self, layer: int, program: StreamingProgram) -> Routes:
        self.routing[layer] = self.numbers.route(layer, program)
        return self.routing[layer]

    def routes(self, layer: int) -> Routes:
        """Experts of each token of a layer."""
        return self.routing[layer] if layer in self.routing else self.work.routes(layer)

    def check(self) -> dict[str, Any]:
        """The ``functional`` section of a result."""
        self.numbers.advance(self.program)
        assert self.fpga.encoder is not None
        capture = self.numbers.capture
        judge = Judge(
            self.work,
            self.weights,
            self.numbers.formats,
            self.fpga.encoder.tile,
            self.numbers.executor.chip.words,
            self.fpga.attention.parallelism,
            capture.values,
            capture.selected,
        )
        verdicts = [judge.embedding(self.image)]
        if verdicts[0].passed:
            verdicts += judge.verdicts(self.routes)
        return report(verdicts, self.numbers.formats, *self._end(verdicts))

    def _end(self, verdicts: list[Verdict]) -> tuple[Any, Any]:
        """(found, exact) of the last operation, by a reference that has seen nothing of the program but its routing."""
        if not verdicts[-1].passed:
            return None, None
        embedding = reference.patch_embedding(self.image, self.weights, self.work)
        last = verdicts[-1].op.name
        return self.numbers.capture.values[last], reference.encode(self.work, self.weights, embedding, self.routes)[last]


class _Tensors(Mapping[str, Any]):
    """Weights and inputs under their names."""

    def __init__(self, *parts: Mapping[str, Any]) -> None:
        self._parts = parts

    def __getitem__(self, name: str) -> Any:
        return next(part for part in self._parts if name in part)[name]

    def __iter__(self) -> Any:
        return (name for part in self._parts for name in part)

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)


def report(verdicts: list[Verdict], formats: Formats, found: Any, exact: Any) -> dict[str, Any]:
    """The ``functional`` section: operations one by one, then the end against a reference that knows no program."""
    name = formats.features.name
    message = "" if verdicts[-1].passed else verdicts[-1].message(name)
    tolerance = sum(each.relative for each in verdicts)
    relative = error = 0.0
    if not message and exact is not None:
        relative, error = relative_error(found, exact), float(abs(found - exact).max())
        if not relative <= tolerance:
            message = (
                f"{verdicts[-1].op.name} must be within {tolerance:.3g} of the reference at the end, the sum of the errors of "
                f"all operations, not {relative:.3g} off"
            )
    return {
        "passed": not message,
        "format": name,
        "max_abs_error": error,
        "max_rel_error": relative,
        "tolerance": tolerance,
        "compared": len(verdicts),
        "by_op": summary(verdicts),
        "message": message or None,
    }


__all__ = ["EncoderNumbers", "StreamingNumbers", "report"]
