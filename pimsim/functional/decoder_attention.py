"""Attention algorithms inside a decoder on numbers: how they are carried out, and what they should have given.

Two comparisons for every token and layer. Each primitive's result is held against float64 on the operands that the program
had, at the moment at which it is complete (`Primitives`); and the output against the algorithm's own reference on the
queries, keys and values that the program had (`AttentionRule`), within what stochastic arithmetic on the expansion gives for
the format (see `attention_check`). What data decide is taken as decided, as addresses follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from pimsim.arch.system import ArchConfig
from pimsim.functional.attention import AttentionExecutor
from pimsim.functional.attention_check import BESIDES, EXACT, Inputs, amplitudes, tolerances
from pimsim.functional.attention_judge import Judge as PrimitiveJudge
from pimsim.functional.attention_judge import Snapshots
from pimsim.functional.executor import Executor
from pimsim.functional.numerics import Array
from pimsim.functional.stream import HybridExecutor
from pimsim.program.isa import Compute, Placed, Step
from pimsim.workload import ops
from pimsim.workload.attention import primitives as prim
from pimsim.workload.attention.interpreter import evaluate
from pimsim.workload.attention.primitives import Primitive
from pimsim.workload.decoder_attention import primitives_of, states_of

BLOCK = "attention"
"""Name of the blocks in which an algorithm runs."""

OWN = BESIDES | {"kv_write", "attention_output"}
"""Operations of such a block that no primitive names."""


class DecoderExecutor(AttentionExecutor):
    """An executor of decoders whose attention is an algorithm.

    Attributes:
        calls: name of a call -> what a function over tensors must know besides its operands.
        decided: name of a call that decides -> its outcome.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.calls: dict[str, Mapping[str, Any]] = {}
        self.decided: dict[str, Any] = {}

    def call(self, compute: Compute, _constants: Mapping[str, Any]) -> None:
        """A function of the ASIC over tensors, or what is decided already."""
        if compute.parameters in self.decided:
            self._store_whole(compute.target, self.decided[compute.parameters])
            return
        self.tensor_call(compute, self.calls[compute.parameters])

    functions: ClassVar[dict[str, Callable[..., None]]] = {
        **AttentionExecutor.functions,
        **dict.fromkeys(set(AttentionExecutor.functions) - set(Executor.functions), call),
    }


class HybridDecoderExecutor(DecoderExecutor, HybridExecutor):
    """The same with a streaming unit beside the channels."""


class LoweredLike(Protocol):
    """The program of one token's attention; `pimsim.mapper.attention.decoder.Lowered` is one."""

    @property
    def lowering(self) -> Any:
        """Where results lie."""

    @property
    def decided(self) -> Mapping[str, Any]:
        """What data decide, by operation."""


def learn(executor: DecoderExecutor, lowered: LoweredLike) -> None:
    """Tell an executor what the calls of a program must know."""
    for name, known in lowered.lowering.constants.items():
        executor.calls[name] = known
        op = known.get("op")
        if isinstance(op, prim.Decision) and op.name in lowered.decided:
            executor.decided[name] = lowered.decided[op.name]


def content(executor: AttentionExecutor, tensor: Any, row_base: int) -> Array:
    """A tensor ``[heads, rows, width]`` in the banks."""
    found = np.zeros(tensor.shape)
    for piece in next(iter(tensor.orientations.values())):
        found[piece.head, piece.rows.start : piece.rows.stop] = executor.content(piece, row_base)
    return found


@dataclass
class Primitives:
    """Compares the primitives of attention as they are completed, on the executor's way through a program."""

    executor: DecoderExecutor
    judge: PrimitiveJudge
    lowered_of: Callable[[Placed], Any]
    """The program behind a block."""
    by_kind: dict[str, dict[str, float]] = field(default_factory=dict)
    message: str = ""
    """The first result that is wrong."""
    _now: Placed | None = None
    _left: int = 0
    _snapshots: Snapshots | None = None

    def after_step(self, step: Step, placed: Placed) -> None:
        """A step has been carried out."""
        if placed.block.name != BLOCK or self.message:
            return
        if placed is not self._now:
            self._begin(placed)
        assert self._snapshots is not None
        self._snapshots.after_step(step, placed)
        self._left -= 1
        if not self._left:
            self._compare(placed)

    def _begin(self, placed: Placed) -> None:
        lowering = self.lowered_of(placed).lowering
        self._now = placed
        self._snapshots = Snapshots(lambda name: self._look(lowering, name.split(".", 2)[2], placed.row_base), OWN)
        self._snapshots.begin(placed)
        self._left = sum(self._snapshots.left.values())
        self._given = {
            op.name: self._source(lowering, op, placed.row_base) for op in lowering.ops if isinstance(op, prim.Source)
        }

    def _source(self, lowering: Any, op: Primitive, row_base: int) -> Array:
        """An operand as it is before the program; a cache as it will be, of which nothing but the rows before is read."""
        value = lowering.values[op.name]
        if op.name in lowering.given:
            return self.executor.tensor(value.at, value.shape).astype(np.float64)
        if value.view.tensor.grows:
            return self._cached(value.view, row_base)
        return content(self.executor, value.view.tensor, row_base).reshape(op.shape)

    def _cached(self, view: Any, row_base: int) -> Array:
        """Rows of a view of a cache, in the first layout that it has."""
        found = np.zeros((len(view.heads), len(view.rows), view.tensor.shape[2]))
        turned = next(iter(view.tensor.layouts))
        for number, head in enumerate(view.heads):
            for piece in view.tensor.pieces(turned, head, view.rows):
                rows = self.executor.content(piece, row_base)
                found[number] = rows[view.rows.start - piece.rows.start :]
        return found

    def _look(self, lowering: Any, name: str, row_base: int) -> Any:
        """A result as the program has it; weights with their head and factor."""
        value, op = lowering.values[name], lowering.operation(name)
        head = getattr(value, "head", None)
        if head is not None:
            parts = [self.executor.tensor(each.at, each.shape).astype(np.float64) for each in (head, value)]
            factor = value.factor and self.executor.tensor(value.factor.at, value.factor.shape).astype(np.float64)
            return prim.Weights(parts[0], factor, parts[1])
        if value.buffer is not None and not isinstance(op, prim.Store):
            return self.executor.tensor(value.at, value.shape).astype(np.float64)
        if value.view.tensor.grows:
            return self._cached(value.view, row_base).reshape(value.shape)
        whole = content(self.executor, value.view.tensor, row_base)
        view = value.view
        part = whole[view.heads.start : view.heads.stop, view.rows.start : view.rows.stop]
        return part.reshape(value.shape)

    def _compare(self, placed: Placed) -> None:
        lowering = self.lowered_of(placed).lowering
        assert self._snapshots is not None
        taken = {name.split(".", 2)[2]: found for name, found in self._snapshots.taken.items()}
        figures, wrong = self.judge.compare(lowering.ops, self._given, taken, EXACT)
        for kind, row in figures.items():
            known = self.by_kind.setdefault(kind, dict(row, compared=0))
            compared = known["compared"] + row["compared"]
            self.by_kind[kind] = {name: max(known[name], number) for name, number in row.items()} | {
                "compared": compared
            }
        if wrong:
            self.message = f"attention of layer {placed.layer}: {wrong}"


def primitive_judge(arch: ArchConfig) -> PrimitiveJudge:
    """How far off primitives may be on a machine."""
    return PrimitiveJudge(*amplitudes(arch))


@dataclass
class AttentionRule:
    """What an algorithm gives for the operands that the program had, and how far off the program may be.

    Attributes:
        state: (layer, name) -> a state in the banks, as it is now.
        decided: (layer, context) -> what was decided.
    """

    arch: ArchConfig
    state: Callable[[int, str], Array]
    decided: Callable[[int, int], Mapping[str, Any]]
    _kept: dict[tuple[int, str], Array] = field(default_factory=dict)

    def exact(
        self, op: ops.Attention, layer: int, shapes: Mapping[str, Any], operands: Mapping[str, Array], context: int
    ) -> tuple[Array, float]:
        """(output in float64, allowed error relative to it in the 2-norm) of a token; ``operands`` are of its layer.

        A state is what the token before has left in the banks; zeros before the first one.
        """
        tensors = dict(operands)
        for name in states_of(op.algorithm):
            tensors[name] = self._kept.get((layer, name), np.zeros(shapes[name]))
            self._kept[layer, name] = self.state(layer, name).reshape(shapes[name])
        method, case = op.algorithm, op.case(context)
        tensors = {name: np.asarray(tensors[name], np.float64) for name in shapes}
        decided = dict(self.decided(layer, context))
        if decided:
            found = evaluate(method.expand(case), tensors, replay=decided)["output"]
        else:
            found = method.reference(case, tensors)["output"]
        inputs = Inputs(method, case, tensors, primitives_of(method, case), decided, None, {})
        allowed = tolerances(inputs, self.arch, ["output"])["output"]
        return np.ravel(found), allowed


__all__ = [
    "BLOCK",
    "AttentionRule",
    "DecoderExecutor",
    "HybridDecoderExecutor",
    "Primitives",
    "content",
    "learn",
    "primitive_judge",
]
