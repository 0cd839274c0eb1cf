"""Whether a streaming program of a decoder computed what the model says; bounds as for encoders (`Judge`).

Operations are those of a group of tokens: rows of a matrix, attention of each sequence by itself over its own keys and values.
What a causal mask hides is minus infinity here: nothing is added to a sum for it, and nothing is allowed for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pimsim.functional.streaming.fixed import GeluForm
from pimsim.functional.streaming.judge import Judge, Rule, cut
from pimsim.functional.verdict import Verdict
from pimsim.workload import encoder_reference as rows
from pimsim.workload.config import DecoderConfig
from pimsim.workload.encoder_reference import EncoderOp
from pimsim.workload.ops import Rope
from pimsim.workload.reference import gelu_erf, gelu_tanh, rms_norm, rotate, silu

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SequenceRows:
    """Tokens of one sequence in a group: its name in results, its first row, rows, and tokens before them."""

    name: str
    row: int
    count: int
    before: int


@dataclass(frozen=True)
class _Op(EncoderOp):
    """An operation of a decoder; ``sequence``: of attention; ``positions``: of rows that are rotated."""

    sequence: SequenceRows | None = None
    positions: tuple[int, ...] = ()


def operations(model: DecoderConfig, sequences: Sequence[SequenceRows], head_rows: int) -> Iterator[_Op]:
    """All operations of a pass in order, from the embedding on; names are those of checkpoints, and of `arrange`."""
    stream = "embedding"
    positions = tuple(each.before + number for each in sequences for number in range(each.count))
    for layer in range(model.layers):
        h = f"h{layer}."
        yield _Op(f"{h}norm1", model.norm, (stream,), f"{h}norm1", layer)
        for name in ("query", "key", "value"):
            yield _Op(f"{h}{name}", "linear", (f"{h}norm1",), f"{h}{name}", layer)
        for name in ("query", "key") if model.position == "rope" else ():
            yield _Op(f"{h}turned_{name}", "rope", (f"{h}{name}",), "", layer, positions=positions)
        for each in sequences:
            s = f"{h}{each.name}"
            yield _Op(f"{s}scores", "scores", (f"{s}queries", f"{s}keys"), "", layer, sequence=each)
            yield _Op(f"{s}statistics", "statistics", (f"{s}visible",), "", layer, sequence=each)
            yield _Op(f"{s}attended", "attention", (f"{s}visible", f"{s}values"), "", layer, sequence=each)
        yield _Op(f"{h}projection", "linear", (f"{h}attention",), f"{h}projection", layer)
        yield _Op(f"{h}residual1", "residual", (stream, f"{h}projection"), "", layer)
        yield _Op(f"{h}norm2", model.norm, (f"{h}residual1",), f"{h}norm2", layer)
        if model.gated:
            yield _Op(f"{h}ffn_gate", "linear", (f"{h}norm2",), f"{h}ffn_gate", layer, gelu=True)
        yield _Op(f"{h}ffn_up", "linear", (f"{h}norm2",), f"{h}ffn_up", layer, gelu=not model.gated)
        if model.gated:
            yield _Op(f"{h}gated", "gate", (f"{h}ffn_gate", f"{h}ffn_up"), "", layer)
        hidden = f"{h}gated" if model.gated else f"{h}ffn_up"
        yield _Op(f"{h}ffn_down", "linear", (hidden,), f"{h}ffn_down", layer)
        stream = f"{h}residual2"
        yield _Op(stream, "residual", (f"{h}residual1", f"{h}ffn_down"), "", layer)
    if head_rows:
        yield _Op("final_norm", model.norm, ("last_rows",), "final_norm")
        yield _Op("lm_head", "linear", ("final_norm",), "lm_head")


def visible(count: int, before: int) -> npt.NDArray[np.bool_]:
    """Whether a row sees a key under the causal mask. ``[count, before + count]``."""
    seen: npt.NDArray[np.bool_] = np.arange(before + count) <= before + np.arange(count)[:, None]
    return seen


class Cache:
    """Keys and values of all sequences as the program wrote them, pass after pass; ``shared`` heads use the same ones."""

    def __init__(self, heads: int, shared: int) -> None:
        self.heads, self.shared = heads, shared
        self._rows: dict[str, Floats] = {}

    def arrange(
        self, values: dict[str, Any], layers: int, sequences: Sequence[SequenceRows], head_rows: int
    ) -> dict[str, Any]:
        """What the operations of a pass read, from what was captured: parts of it that belong to a sequence, and the cache."""
        found = dict(values)
        for layer in range(layers):
            h = f"h{layer}."
            for each in sequences:
                s, part = f"{h}{each.name}", slice(each.row, each.row + each.count)
                turned = "turned_" if f"{h}turned_query" in values else ""
                for new, captured in (("queries", f"{turned}query"), ("attended", "attention")):
                    if f"{h}{captured}" in values:
                        found[f"{s}{new}"] = values[f"{h}{captured}"][part]
                for kept, captured in (("keys", f"{turned}key"), ("values", "value")):
                    if f"{h}{captured}" in values:
                        rows_of = self._extended(f"{s}{kept}", values[f"{h}{captured}"][part], each.before)
                        found[f"{s}{kept}"] = self._of_all_heads(rows_of)
                if f"{s}scores" in values:
                    scores = values[f"{s}scores"]
                    found[f"{s}visible"] = np.where(visible(each.count, each.before)[..., None], scores, -np.inf)
        last = f"h{layers - 1}.residual2"
        if head_rows and last in values:
            found["last_rows"] = values[last][-head_rows:]
        return found

    def _of_all_heads(self, kept: Floats) -> Floats:
        """``[tokens, width]`` with a copy for each head that uses it."""
        apart = kept.reshape(len(kept), self.heads // self.shared, -1)
        return np.repeat(apart, self.shared, axis=1).reshape(len(kept), -1)

    def _extended(self, name: str, new: Floats, before: int) -> Floats:
        old = self._rows.get(name, new[:0])[:before]
        self._rows[name] = np.concatenate([old, new])
        return self._rows[name]


@dataclass
class DecoderJudge(Judge):
    """Judges passes; `values` has what `Cache.arrange` gave.

    Attributes:
        form: of the activation.
        turn: rows ``[rows, width]`` and their positions -> rows with rotated heads, in float64.
        parallelism: rows that meet a key in a step, at most.
    """

    form: GeluForm = "erf"
    parallelism: int = 1
    turn: Callable[[Floats, Sequence[int]], Floats] = lambda found, _positions: found

    def judge(self, op: EncoderOp) -> Verdict:
        """Of one operation."""
        if isinstance(op, _Op) and op.sequence is not None:
            self.lanes = min(self.parallelism, op.sequence.count)
        return super().judge(op)

    def _plain(self, op: EncoderOp, inputs: Sequence[Any]) -> tuple[Any, Any]:
        """Result and exact result; zero where a mask hides it."""
        if op.kind == "gate":
            return self.values[op.name], inputs[0] * inputs[1]
        if op.kind == "rope":
            assert isinstance(op, _Op)
            return self.values[op.name], self.turn(inputs[0], op.positions)
        if op.kind == "rmsnorm":
            gain = np.asarray(self.weights[f"{op.tensor}.gain"], np.float64)
            return self.values[op.name], np.array([rms_norm(row, gain, self.eps) for row in inputs[0]])
        values = dict(zip(op.inputs, inputs, strict=True))
        exact = rows.compute(replace(op, gelu=False), values, self.weights, self.heads, self.eps)
        if op.gelu:
            exact = _ACTIVATIONS[self.form](exact)
        if op.kind == "scores":
            assert isinstance(op, _Op)
            assert op.sequence is not None
            exact = np.where(visible(op.sequence.count, op.sequence.before)[..., None], exact, 0.0)
        return self.values[op.name], exact

    def _rms_norm(self, op: EncoderOp, inputs: Sequence[Any]) -> Rule:
        found, exact = self._plain(op, inputs)
        return found, exact, self._normed(op, inputs[0], np.zeros((len(exact), 1)))

    def _rope(self, op: EncoderOp, inputs: Sequence[Any]) -> Rule:
        """Cosine and sine are rounded once each, and so is the result."""
        found, exact = self._plain(op, inputs)
        c = cut(self.formats.features)
        size = np.abs(inputs[0]).max(axis=1, keepdims=True)
        return found, exact, np.broadcast_to((2 * size + 1) * c, exact.shape)

    def _gate(self, op: EncoderOp, inputs: Sequence[Any]) -> Rule:
        found, exact = self._plain(op, inputs)
        return found, exact, np.full_like(exact, cut(self.formats.features))

    rules: ClassVar[dict[str, Callable[..., Rule]]] = {
        **Judge.rules,
        "rmsnorm": _rms_norm,
        "rope": _rope,
        "gate": _gate,
    }


def angle_table(rope: Rope, positions: int) -> Floats:
    """Cosines, then sines, of the angles of all pairs. ``[positions, d_head]``."""
    angles = np.outer(np.arange(positions), rope.frequencies())
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


def turner(rope: Rope) -> Callable[[Floats, Sequence[int]], Floats]:
    """Rows of heads rotated by their positions, in float64."""

    def turn(found: Floats, positions: Sequence[int]) -> Floats:
        frequencies = np.array(rope.frequencies())
        heads = found.reshape(len(found), -1, rope.d_head)
        turned = [rotate(row, at * frequencies, rope.convention) for row, at in zip(heads, positions, strict=True)]
        return np.array(turned).reshape(found.shape)

    return turn


_ACTIVATIONS: dict[GeluForm, Callable[[Floats], Floats]] = {"erf": gelu_erf, "tanh": gelu_tanh, "silu": silu}

__all__ = ["Cache", "DecoderJudge", "SequenceRows", "angle_table", "operations", "turner", "visible"]
