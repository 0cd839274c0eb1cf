"""Whether a streaming program of a decoder computed what the model says; bounds as for encoders (`Judge`).

Operations are those of a group of tokens: rows of a matrix, attention of each sequence by itself over its own keys and values.
What a causal mask hides is minus infinity here: nothing is added to a sum for it, and nothing is allowed for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pimsim.functional.streaming.fixed import GeluForm
from pimsim.functional.streaming.judge import Judge
from pimsim.functional.verdict import Verdict
from pimsim.workload import encoder_reference as rows
from pimsim.workload.encoder_reference import EncoderOp
from pimsim.workload.reference import gelu_erf, gelu_tanh

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
    """An operation of a decoder; ``sequence``: of attention."""

    sequence: SequenceRows | None = None


def operations(layers: int, sequences: Sequence[SequenceRows], head_rows: int) -> Iterator[_Op]:
    """All operations of a pass in order, from the embedding on; names are those of checkpoints, and of `arrange`."""
    stream = "embedding"
    for layer in range(layers):
        h = f"h{layer}."
        yield _Op(f"{h}norm1", "layernorm", (stream,), f"{h}norm1", layer)
        for name in ("query", "key", "value"):
            yield _Op(f"{h}{name}", "linear", (f"{h}norm1",), f"{h}{name}", layer)
        for each in sequences:
            s = f"{h}{each.name}"
            yield _Op(f"{s}scores", "scores", (f"{s}queries", f"{s}keys"), "", layer, sequence=each)
            yield _Op(f"{s}statistics", "statistics", (f"{s}visible",), "", layer, sequence=each)
            yield _Op(f"{s}attended", "attention", (f"{s}visible", f"{s}values"), "", layer, sequence=each)
        yield _Op(f"{h}projection", "linear", (f"{h}attention",), f"{h}projection", layer)
        yield _Op(f"{h}residual1", "residual", (stream, f"{h}projection"), "", layer)
        yield _Op(f"{h}norm2", "layernorm", (f"{h}residual1",), f"{h}norm2", layer)
        yield _Op(f"{h}ffn_up", "linear", (f"{h}norm2",), f"{h}ffn_up", layer, gelu=True)
        yield _Op(f"{h}ffn_down", "linear", (f"{h}ffn_up",), f"{h}ffn_down", layer)
        stream = f"{h}residual2"
        yield _Op(stream, "residual", (f"{h}residual1", f"{h}ffn_down"), "", layer)
    if head_rows:
        yield _Op("final_norm", "layernorm", ("last_rows",), "final_norm")
        yield _Op("lm_head", "linear", ("final_norm",), "lm_head")


def visible(count: int, before: int) -> npt.NDArray[np.bool_]:
    """Whether a row sees a key under the causal mask. ``[count, before + count]``."""
    seen: npt.NDArray[np.bool_] = np.arange(before + count) <= before + np.arange(count)[:, None]
    return seen


class Cache:
    """Keys and values of all sequences as the program wrote them, pass after pass."""

    def __init__(self) -> None:
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
                for new, captured in (("queries", "query"), ("attended", "attention")):
                    if f"{h}{captured}" in values:
                        found[f"{s}{new}"] = values[f"{h}{captured}"][part]
                for kept, captured in (("keys", "key"), ("values", "value")):
                    if f"{h}{captured}" in values:
                        found[f"{s}{kept}"] = self._extended(f"{s}{kept}", values[f"{h}{captured}"][part], each.before)
                if f"{s}scores" in values:
                    scores = values[f"{s}scores"]
                    found[f"{s}visible"] = np.where(visible(each.count, each.before)[..., None], scores, -np.inf)
        last = f"h{layers - 1}.residual2"
        if head_rows and last in values:
            found["last_rows"] = values[last][-head_rows:]
        return found

    def _extended(self, name: str, new: Floats, before: int) -> Floats:
        old = self._rows.get(name, new[:0])[:before]
        self._rows[name] = np.concatenate([old, new])
        return self._rows[name]


@dataclass
class DecoderJudge(Judge):
    """Judges passes; `values` has what `Cache.arrange` gave.

    Attributes:
        form: of GELU.
        parallelism: rows that meet a key in a step, at most.
    """

    form: GeluForm = "erf"
    parallelism: int = 1

    def judge(self, op: EncoderOp) -> Verdict:
        """Of one operation."""
        if isinstance(op, _Op) and op.sequence is not None:
            self.lanes = min(self.parallelism, op.sequence.count)
        return super().judge(op)

    def _plain(self, op: EncoderOp, inputs: Sequence[Any]) -> tuple[Any, Any]:
        """Result and exact result; zero where a mask hides it."""
        values = dict(zip(op.inputs, inputs, strict=True))
        exact = rows.compute(replace(op, gelu=False), values, self.weights, self.heads, self.eps)
        if op.gelu:
            exact = (gelu_tanh if self.form == "tanh" else gelu_erf)(exact)
        if op.kind == "scores":
            assert isinstance(op, _Op)
            assert op.sequence is not None
            exact = np.where(visible(op.sequence.count, op.sequence.before)[..., None], exact, 0.0)
        return self.values[op.name], exact


__all__ = ["Cache", "DecoderJudge", "SequenceRows", "operations", "visible"]
