"""Attention programs on numbers: where data decide, what the program computes, and how far from the reference it may be.

The tolerance is that of stochastic arithmetic (J. Vignes, "A stochastic arithmetic for reliable scientific computation",
1993): the expansion is evaluated in float64 again and again, each time with every computed result off by a random part of what
the format and the functions of the ASIC may be off there. The spread of the outputs is what the arithmetic can explain; nothing
of the program takes part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pimsim.arch.dram import DramSpec
from pimsim.arch.formats import FLOAT_BITS
from pimsim.arch.system import ArchConfig
from pimsim.errors import InputError
from pimsim.functional.attention import AttentionExecutor, PieceLike
from pimsim.functional.attention_judge import Judge, Snapshots
from pimsim.functional.functions import measure
from pimsim.functional.numerics import Array, FloatSpec, float_spec
from pimsim.functional.order import Timed, run_in_issue_order
from pimsim.functional.verdict import relative_error
from pimsim.program.isa import Op, Placed
from pimsim.workload.attention import primitives as prim
from pimsim.workload.attention.base import Algorithm, Case, successor
from pimsim.workload.attention.decisions import Recording, check_range, load, run
from pimsim.workload.attention.interpreter import evaluate
from pimsim.workload.attention.primitives import Primitive

SAMPLES = 6
SPREAD = 3.0
"""The tolerance is so many times the largest deviation of the samples."""

EXACT = (
    *(prim.Source, prim.Load, prim.Store, prim.Keep, prim.Append, prim.Gather, prim.Pick, prim.Part, prim.Join),
    *(
        prim.Arrange,
        prim.EmptyState,
        prim.Select,
        prim.Patches,
        prim.Exclude,
        prim.MaskBeyond,
        prim.Constant,
        prim.Children,
        prim.Decision,
    ),
)
"""Primitives that compute nothing."""


BESIDES = frozenset({"fetch", "copy", "spill"})
"""Operations of a program that no primitive names."""


class TensorLike(Protocol):
    """A tensor in the banks."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Heads, rows, width."""

    @property
    def orientations(self) -> Mapping[Any, Sequence[Any]]:
        """Orientation -> pieces."""


class ViewLike(Protocol):
    """Rows of heads of a tensor."""

    @property
    def tensor(self) -> TensorLike:
        """The tensor."""

    @property
    def heads(self) -> range:
        """Which heads."""

    @property
    def rows(self) -> range:
        """Which rows."""


class ValueLike(Protocol):
    """Where a result lies; `pimsim.mapper.attention.lowering.Value` is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def at(self) -> int:
        """SRAM element."""

    @property
    def buffer(self) -> Any:
        """None if it is not on chip."""

    @property
    def view(self) -> ViewLike | None:
        """Its place in memory."""

    @property
    def made_of(self) -> tuple[str, ...]:
        """Results that it puts together in name only."""


@dataclass(frozen=True)
class Inputs:
    """A case with its tensors, and what data decide in it."""

    method: Algorithm
    case: Case
    tensors: Mapping[str, Array]
    ops: Sequence[Primitive]
    decided: Mapping[str, Any]
    origin: str | None
    """Where decisions come from; None where there are none."""
    results: Mapping[str, Any]
    """Of every operation in float64; empty where nothing depends on data."""
    chunks: int = 1
    """Times that the program runs; ``ops`` are those of one time, ``case`` and ``tensors`` of all."""
    replayed: bool = False
    """Whether decisions are those of other tensors, so that the result is that of the expansion, not of the reference."""

    def chunk_of(self, op: Primitive, number: int) -> Array:
        """A source as the program finds it in its ``number``-th run: some rows, where it is one of several for all."""
        whole = self.tensors[op.name]
        if whole.shape == op.shape:
            return whole
        rows = op.shape[-2]
        return whole[..., number * rows : (number + 1) * rows, :]

    def indices(self) -> dict[str, Any]:
        """Integers that addresses depend on, by operation, as nested lists."""
        names = {op.inputs[1] for op in self.ops if isinstance(op, prim.Gather) and not op.on_chip}
        return {name: np.asarray(self.results[name]).tolist() for name in names}


def prepare(
    method: Algorithm, case: Case, seed: int, number_format: str, recorded: str | None, chunk: Case | None = None
) -> Inputs:
    """Draw tensors and take the decisions from them, or from a file; ``chunk``: the case that the program is made for.

    Raises:
        ConfigError: the file is no recording.
        InputError: it is one of another algorithm or case.
    """
    tensors = rounded(method.sample(case, seed), number_format)
    if recorded is not None:
        known = _recorded(method, case, recorded)
        decided, origin = dict(known.decisions), f"file {recorded}: {known.origin}"
    else:
        decided, origin = dict(method.decide(case, tensors)), f"distribution: {method.name()}.sample, seed {seed}"
    if chunk is not None and chunk != case:
        ops = [op for op in method.expand(chunk, decided) if isinstance(op, Primitive)]
        if any(isinstance(op, prim.Decision | prim.Gather) for op in ops):
            raise InputError(f"chunk must be left out for attention {method.name()}, whose program depends on data")
        return Inputs(method, case, tensors, ops, {}, None, {}, case.queries // chunk.queries)
    ops = [op for op in method.expand(case, decided) if isinstance(op, Primitive)]
    if not decided and not any(isinstance(op, prim.Decision | prim.Gather) for op in ops):
        return Inputs(method, case, tensors, ops, {}, None, {})
    if recorded is None:
        decided = dict(run(method, case, tensors).decisions)
    results = evaluate(method.expand(case, decided), tensors, replay=decided)
    return Inputs(method, case, tensors, ops, decided, origin, results, replayed=recorded is not None)


def _recorded(method: Algorithm, case: Case, file: str) -> Recording:
    from pathlib import Path

    known = load(Path(file))
    if (known.algorithm, known.case) != (method, case):
        raise InputError(
            f"{file}: must hold decisions of {method.name()} with the parameters and the case of the workload, not of "
            f"{known.algorithm.name()} with {known.algorithm.model_dump()} on {known.case.model_dump()}"
        )
    check_range(Path(file), known)
    return known


def rounded(tensors: Mapping[str, Any], number_format: str) -> dict[str, Array]:
    """Tensors of values that the format has, in float64; machines that compute with integers are timed on float32 numbers."""
    spec = float_spec(number_format if number_format in FLOAT_BITS else "float32")
    return {name: spec.round_to(np.asarray(x, np.float32)).astype(np.float64) for name, x in tensors.items()}


class AttentionCheck:
    """A program, its tensors, and memories to run it on."""

    def __init__(
        self,
        arch: ArchConfig,
        spec: DramSpec,
        inputs: Inputs,
        values: Mapping[str, ValueLike],
        constants: Mapping[str, Mapping[str, Any]],
        rows: int,
        ops: Sequence[Primitive] = (),
        decided: Mapping[str, Any] | None = None,
    ) -> None:
        """``ops`` and ``decided``: operations of the program and what data decide in them, if not those of the expansion."""
        self.arch, self.spec, self.inputs, self.values = arch, spec, inputs, values
        self.constants = {(-1, name): found for name, found in constants.items()}
        self.rows = rows
        self.ops = ops or inputs.ops
        self.decided = inputs.decided if decided is None else decided
        self._by_name = {op.name: op for op in self.ops}

    def run(self, program: Sequence[Placed], timed: Iterable[Timed]) -> dict[str, Any]:
        """The ``functional`` section of a result: in program order against the reference, then in the machine's order."""
        number_format, inputs = self.arch.pim.format, self.inputs
        executor = self._executor()
        snapshots = Snapshots(lambda name: self._look(executor, name), BESIDES)
        executor.after_step = snapshots.after_step
        for number, placed in enumerate(program):
            if number == len(program) - 1:  # of many runs, the operations of the last one are compared
                given = {op.name: self.output(executor, op.name) for op in self.ops if isinstance(op, prim.Source)}
            self._enter(executor, number)
            snapshots.begin(placed)
            executor.run([placed])
        given |= {op.name: inputs.chunk_of(op, inputs.chunks - 1) for op in self.ops if self._is_fed(op)}
        by_op, wrong = self._judge().compare(self.ops, given, snapshots.taken, EXACT)
        expected = inputs.method.reference(inputs.case, inputs.tensors)
        if inputs.replayed:  # the reference decides for itself
            expected = {name: np.asarray(inputs.results[name]) for name in expected}
        allowed = tolerances(inputs, self.arch, list(expected))
        worst = {"max_abs_error": 0.0, "max_rel_error": 0.0, "tolerance": 0.0}
        message, compared, found = "", 0, {}
        for name, exact in expected.items():
            found[name] = self.output(executor, name)
            error = np.abs(np.where(np.isfinite(exact), found[name] - exact, 0.0))
            relative = relative_error(found[name], exact)
            compared += int(error.size)
            worst["max_abs_error"] = max(worst["max_abs_error"], float(np.max(error, initial=0.0)))
            worst["max_rel_error"] = max(worst["max_rel_error"], relative)
            worst["tolerance"] = max(worst["tolerance"], allowed[name])
            if not relative <= allowed[name] and not wrong and not message:
                message = (
                    f"{name} of attention {inputs.method.name()} must be within {allowed[name]:.3g} of the reference, as "
                    f"{number_format} and the functions of the ASIC allow, not {relative:.3g} off"
                )
        message = wrong or message or self._other_order(timed, found)
        return {
            "passed": not message,
            "format": number_format,
            **worst,
            "compared": compared,
            "passes": inputs.chunks,
            "by_op": by_op,
            "message": message or None,
        }

    def _judge(self) -> Judge:
        return Judge(*amplitudes(self.arch))

    def _is_fed(self, op: Primitive) -> bool:
        """Whether a source has other rows in every run."""
        return isinstance(op, prim.Source) and self.inputs.tensors[op.name].shape != op.shape

    def _look(self, executor: AttentionExecutor, name: str) -> Any:
        """A result as the program has it; weights with their head and factor."""
        value: Any = self.values[name]
        head = getattr(value, "head", None)
        if head is None and value.buffer is not None and not isinstance(self._by_name[name], prim.Store):
            return executor.tensor(value.at, value.shape).astype(np.float64)  # a copy in memory comes later
        if head is None:
            return self.output(executor, name)
        parts = [executor.tensor(each.at, each.shape).astype(np.float64) for each in (head, value)]
        factor = (
            None if value.factor is None else executor.tensor(value.factor.at, value.factor.shape).astype(np.float64)
        )
        return prim.Weights(parts[0], factor, parts[1])

    def _executor(self) -> AttentionExecutor:
        arch = self.arch
        columns = arch.pim.global_buffer_bytes // self.spec.burst_bytes
        executor = AttentionExecutor(self.spec, arch.asic, arch.pim, max(1, self.rows), columns, self.constants)
        executor.sram[:] = np.nan  # what nobody wrote must not pass for a number
        executor.replay = self.decided
        for op in self.inputs.ops:
            if isinstance(op, prim.Source):
                self._place(executor, self.values[op.name], self.inputs.chunk_of(op, 0))
            elif isinstance(op, prim.EmptyState) and self.values[op.name].view is not None:
                self._place(executor, self.values[op.name], op.meaning(), memory_only=True)
        return executor

    def _enter(self, executor: AttentionExecutor, number: int) -> None:
        """Before the program runs again: the rows of the next chunk."""
        for op in self.inputs.ops:
            if number and self._is_fed(op):
                self._place(executor, self.values[op.name], self.inputs.chunk_of(op, number))

    @staticmethod
    def _place(executor: AttentionExecutor, value: ValueLike, x: Array, *, memory_only: bool = False) -> None:
        if value.buffer is not None and not memory_only:
            executor.load(value.at, x)
        if value.view is None:
            return
        tensor = value.view.tensor
        given = np.zeros(tensor.shape)
        rows = x.reshape(tensor.shape[0], -1, tensor.shape[2])
        given[:, : rows.shape[1]] = rows
        for pieces in tensor.orientations.values():
            for piece in pieces:
                executor.fill(piece, given[piece.head, list(piece.rows)])

    def output(self, executor: AttentionExecutor, name: str) -> Array:
        """A result, from where the program left it."""
        value = self.values[name]
        if value.made_of:
            found: Array = self._by_name[name].meaning(*(self.output(executor, each) for each in value.made_of))
            return found
        if value.view is None:
            return executor.tensor(value.at, value.shape).astype(np.float64)
        view = value.view
        whole = np.zeros(view.tensor.shape)
        pieces: Iterable[Any] = next(iter(view.tensor.orientations.values()))
        for piece in pieces:
            content: PieceLike = piece
            whole[piece.head, list(piece.rows)] = executor.content(content)
        part = whole[view.heads.start : view.heads.stop, view.rows.start : view.rows.stop : view.rows.step]
        return part.reshape(value.shape)

    def _other_order(self, timed: Iterable[Timed], found: Mapping[str, Array]) -> str:
        executor = self._executor()
        captures = [_Silent() for _ in range(self.inputs.chunks)]
        run_in_issue_order(executor, timed, captures, lambda number: self._enter(executor, number))  # type: ignore[arg-type]
        for name, one in found.items():
            other = self.output(executor, name)
            if not np.array_equal(one, other, equal_nan=True):
                return (
                    f"{name} must be the same in program order and in the machine's order; a step does not wait for what "
                    "it reads"
                )
        return ""


class _Silent:
    """An observer that nobody asks."""

    def begin(self, op: Op, layer: int) -> None:
        """Nothing is kept."""

    def store(self, at: Any, values: Array) -> None:
        """Nothing is kept."""


def function_errors(arch: ArchConfig) -> dict[str, float]:
    """Largest relative errors of the functions of the ASIC, as `measure` finds them."""
    return {name: measure(name, arch.asic.functions)[1] for name in ("exp", "reciprocal", "rsqrt")}


def amplitudes(arch: ArchConfig) -> tuple[FloatSpec, Callable[[Primitive], float]]:
    """The format of a machine, and how far off the result of a primitive may be there."""
    spec, adding = float_spec(arch.pim.format), float_spec(arch.pim.accumulator or "float32")
    errors = function_errors(arch)
    return spec, lambda op: _amplitude(op, spec, adding, errors)


def tolerances(inputs: Inputs, arch: ArchConfig, names: Sequence[str]) -> dict[str, float]:
    """Output -> relative error, in the 2-norm, that the arithmetic explains."""
    spec = float_spec(arch.pim.format)
    errors = function_errors(arch)
    adding = float_spec(arch.pim.accumulator or "float32")
    exact = _perturbed(inputs, None, spec, adding, errors)
    worst = dict.fromkeys(names, 0.0)
    for sample in range(SAMPLES):
        found = _perturbed(inputs, np.random.default_rng(sample), spec, adding, errors)
        for name in names:
            worst[name] = max(worst[name], relative_error(found[name], exact[name]))
    unit = 2.0**-spec.precision
    return {name: SPREAD * deviation + unit for name, deviation in worst.items()}


def _perturbed(
    inputs: Inputs,
    random: np.random.Generator | None,
    spec: FloatSpec,
    adding: FloatSpec,
    errors: Mapping[str, float],
) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for number in range(inputs.chunks):
        _perturbed_once(inputs, number, results, random, spec, adding, errors)
    return results


def _perturbed_once(
    inputs: Inputs,
    number: int,
    results: dict[str, Any],
    random: np.random.Generator | None,
    spec: FloatSpec,
    adding: FloatSpec,
    errors: Mapping[str, float],
) -> None:
    """One run of the expansion; a state that the run before has left takes the place of the one that was given."""
    for op in inputs.ops:
        if isinstance(op, prim.Source):
            left = results.get(successor(op.name))
            results[op.name] = inputs.chunk_of(op, number) if left is None else left
            continue
        if op.name in inputs.decided and isinstance(op, prim.Decision):
            results[op.name] = np.asarray(inputs.decided[op.name])
            continue
        found: Any = op.meaning(*(results[name] for name in op.inputs))
        if random is not None and not isinstance(op, EXACT) and not _is_whole(found):
            size = _amplitude(op, spec, adding, errors)
            found = _weights_off(found, size, random) if isinstance(found, prim.Weights) else _off(found, size, random)
        results[op.name] = found


def _is_whole(x: Any) -> bool:
    return isinstance(x, np.ndarray) and bool(np.issubdtype(x.dtype, np.integer))


def _weights_off(found: prim.Weights, size: float, random: np.random.Generator) -> prim.Weights:
    factor = None if found.factor is None else _off(found.factor, size, random)
    return prim.Weights(_off(found.head, size, random), factor, _off(found.weights, size, random))


def _off(x: Array, size: float, random: np.random.Generator) -> Array:
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(x), x * (1 + size * random.uniform(-1, 1, np.shape(x))), x)


def _amplitude(op: Primitive, spec: FloatSpec, adding: FloatSpec, errors: Mapping[str, float]) -> float:
    """Largest relative error of a primitive's result: roundings on its way, and the functions that it takes.

    Operands and results in between are rounded to the format; sums in the format of the accumulators grow with their length.
    """
    unit = 2.0**-spec.precision
    terms = op.sources[0][-1] if op.sources and op.sources[0] else 1
    size = 2 * unit + (terms + 8) * 2.0**-adding.precision
    if op.exps() or op.logs() or isinstance(op, prim.Normalise | prim.Softmax):
        size += 2 * errors["exp"] + errors["reciprocal"]
    if isinstance(op, prim.Norm) or getattr(op, "function", "") == "inverse_root":
        size += errors["rsqrt"] + (terms + 8) * 2.0**-22
    if getattr(op, "function", "") in ("divide", "quantise", "gelu_gate"):
        size += errors["exp"] + errors["reciprocal"]
    return size


__all__ = ["AttentionCheck", "Inputs", "amplitudes", "function_errors", "prepare", "rounded", "tolerances"]
