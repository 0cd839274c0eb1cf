"""Whether a streaming program computed what the model says: each operation against float64, with bounds from the formats.

Each operation is computed in float64 on what the *program* had as inputs, with unrounded weights, so the first one that
differs is the one that is wrong. With c(F) the largest rounding error of a format F (a step where it truncates, half of
one to nearest), f the features', a the accumulator's, s the softmax's:

================  =====================================================================================================
product x W + b   ``sum |x| c(W) + c(b) + tiles c(a)``: every tile of inputs is added with one rounding
GELU              1.13 times that of its argument (its largest slope), and ``h^2/8 max|d''| = h^2/10`` between entries h apart
                  (``h/2`` without interpolation), the rounding of the entries, and the difference behind the last one
LayerNorm         mean and variance from single sums of cut squares: ``(3 + 2 |mean|) c(f)`` off in the variance, through 1/sqrt;
                  then three roundings, and the rounding of gain and shift
scores            a rounding for each beat of a head, and of the scale where it is no power of two
statistics        the error of the sum as the recursion carries it, ``E <- E e + (S + 1) c(s)`` where the bias rises, ``E + c(s)``
                  elsewhere; then ``E / (S (S - E)) + c(s)``; the bias itself is exact
attention         of every weight ``(r + E_r) c(s) + e E_r + c(s)``, times the value's magnitude, and a rounding for each key
gating            the error of the scores through the softmax, then as the statistics; a chosen expert may be worse than one
                  that was not by the error of both scores
mixture           the products', times what an expert counts, and two roundings for each
residual          none
================  =====================================================================================================

None of these knows that errors cancel, so most of an allowance is unused; `used` says how much is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isqrt, sqrt
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pimsim.functional.numerics import FixedSpec
from pimsim.functional.streaming.fixed import Formats, GeluTable, below_relu
from pimsim.functional.verdict import Verdict, compare
from pimsim.workload import encoder_reference as reference
from pimsim.workload.encoder import EncoderConfig
from pimsim.workload.encoder_reference import EncoderOp
from pimsim.workload.reference import softmax

Floats = npt.NDArray[np.float64]
Rule = tuple[Any, Any, Any]
"""(found, exact, bound)."""


def cut(spec: FixedSpec) -> float:
    """Largest error of one rounding."""
    return spec.step if spec.rounding == "truncate" else spec.step / 2


@dataclass
class Judge:
    """Compares captured results with float64.

    Attributes:
        values: operation -> what the program computed.
    """

    weights: Mapping[str, Any]
    formats: Formats
    heads: int
    lanes: int
    words: int
    """Features in a beat."""
    tile: int
    values: dict[str, Any]
    selected: Mapping[str, Any]
    """Gating -> the experts that the unit found best."""
    eps: float = 0.0
    _score_error: float = 0.0

    def verdicts(self, ops: Iterable[EncoderOp], *, partial: bool = False) -> list[Verdict]:
        """Of every operation in order, up to and with the first that fails; with ``partial``, up to the first without result."""
        found: list[Verdict] = []
        for op in ops:
            if partial and op.name not in self.values:
                break
            found.append(self.judge(op))
            if not found[-1].passed:
                break
        return found

    def judge(self, op: EncoderOp) -> Verdict:
        """Of one operation."""
        if op.name not in self.values:
            return Verdict(op, inf, 0.0, 0.0, inf, inf, (), float("nan"), float("nan"))
        inputs = [self.values[name] for name in op.inputs]
        found, exact, bound = self.rules[op.kind](self, op, inputs)
        verdict = compare(op, found, exact, bound, f"layer {op.layer}, " if op.layer >= 0 else "")
        if op.kind == "scores":
            self._score_error = verdict.error
        if op.kind == "attention":
            return replace(verdict, relative=verdict.relative + self._spread(inputs, exact))
        return verdict

    def _spread(self, inputs: Sequence[Any], exact: Floats) -> float:
        """What errors of the scores do to weighted values, relative to those: shares move by up to twice the error.

        Values average out and their magnitudes do not, so this is more than the relative error of the scores.
        """
        sizes = reference.attention(inputs[0], np.abs(inputs[1]))
        return float(np.expm1(2 * self._score_error) * np.linalg.norm(sizes) / np.linalg.norm(exact))

    # -- rules: (found, exact, bound) -----------------------------------------------------------------------------

    def _plain(self, op: EncoderOp, inputs: Sequence[Any]) -> tuple[Any, Any]:
        values = dict(zip(op.inputs, inputs, strict=True))
        return self.values[op.name], reference.compute(op, values, self.weights, self.heads, self.eps)

    def _layernorm(self, op: EncoderOp, inputs: Sequence[Any]) -> Rule:
        found, exact = self._plain(op, inputs)
        return found, exact, self._normed(op, inputs[0], inputs[0].mean(axis=1, keepdims=True))

    def _normed(self, op: EncoderOp, x: Floats, mean: Floats) -> Floats:
        """Error of rows that were divided by the root of their mean square distance from ``mean``."""
        c = max(cut(self.formats.features), self.formats.features.step)  # moments are always cut
        variance = ((x - mean) ** 2).mean(axis=1, keepdims=True) + self.eps
        off = (4 + 2 * np.abs(mean)) * c
        low = 1 / np.sqrt(variance + off)
        high = 1 / np.sqrt(np.maximum(variance - off, self.formats.features.step))
        root = 1 / np.sqrt(variance)
        error = np.maximum(high - root, root - low) + c
        gain = np.abs(np.asarray(self.weights[f"{op.tensor}.gain"], np.float64))
        unit = np.abs(x - mean) * error + c * (root + error) + c
        size = np.abs(x - mean) * root
        found: Floats = (
            (gain + cut(self.formats.norm_gain)) * unit
            + size * cut(self.formats.norm_gain)
            + 2 * c
            + cut(self.formats.biases)
        )
        return found

    def _product(self, x: Floats, inputs: int, biases: FixedSpec) -> Floats:
        """Error of a product's row. ``[rows, 1]``."""
        form = self.formats
        tiles = -(-inputs // self.tile)
        rounded = np.abs(x).sum(axis=1, keepdims=True) * cut(form.linear_weights)
        found: Floats = rounded + cut(biases) + tiles * cut(form.accumulator) + cut(form.features)
        return found

    def _linear(self, op: EncoderOp, inputs: Sequence[Any]) -> Rule:
        found, exact = self._plain(op, inputs)
        x = inputs[0][list(op.queue)] if op.queue else inputs[0][: len(exact)]
        attention = op.name.rpartition(".")[2] in {"query", "key", "value", "projection"}
        bound = self._product(x, x.shape[1], self.formats.attention_biases if attention else self.formats.biases)
        if op.gelu:
            bound = 1.13 * bound + gelu_error(self.formats.gelu, self.formats.features)
        return found, exact, np.broadcast_to(bound, exact.shape)

    def _scores(self, op: EncoderOp, inputs: Sequence[Any]) -> Rule:
        found, exact = self._plain(op, inputs)
        query, key = inputs
        width, c = query.shape[1] // self.heads, cut(self.formats.accumulator)
        beats, root = -(-width // self.words), isqrt(width)
        if root * root == width and root & (root - 1) == 0:
            return found, exact, np.full_like(exact, beats * c + cut(self.formats.features))
        size = reference.scores(np.abs(query), np.abs(key), self.heads) * sqrt(width)
        return found, exact, 2 * beats * c + size * self.formats.accumulator.step + cut(self.formats.features)

    def _sums(self, scores: Floats, start: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Sums of exponentials and the error of each, for rows that see their scores from ``start`` on. ``[rows, heads]``.

        Scores that a row does not see are minus infinity; the one at ``start`` is seen.
        """
        rows, keys, _ = scores.shape
        order = (start[:, None] + np.arange(keys)) % keys
        seen = scores[np.arange(rows)[:, None], order]
        c = max(cut(self.formats.softmax), self.formats.softmax.step)
        largest, total = seen[:, 0], np.ones_like(seen[:, 0])
        error = np.zeros_like(total)
        for number in range(1, keys):
            x = seen[:, number]
            rises, decay = x > largest, np.exp(-np.abs(x - largest))
            error = np.where(rises, error * decay + (total + 1) * c, error + np.where(np.isneginf(x), 0.0, c))
            total = np.where(rises, total * decay + 1, total + decay)
            largest = np.maximum(largest, x)
        return total, error

    def _lane(self, rows: int) -> npt.NDArray[np.int64]:
        """Where each row starts: at the key with the number of its lane."""
        return np.arange(rows) % self.lanes

    def _inverse(self, total: Floats, error: Floats) -> Floats:
        found: Floats = error / (total * np.maximum(total - error, 1e-3)) + self.formats.softmax.step
        return found

    def _statistics(self, op: EncoderOp, inputs: Sequence[Any]) -> Rule:
        found, exact = self._plain(op, inputs)
        total, error = self._sums(inputs[0], self._lane(len(exact)))
        bias = np.full_like(total, self.formats.features.step / 2 + self._converted())
        return found, exact, np.concatenate([self._inverse(total, error), bias], axis=1)

    def _converted(self) -> float:
        """Error of a score on its way into the format of the softmax."""
        same = self.formats.softmax.fraction_bits >= self.formats.features.fraction_bits
        return 0.0 if same else cut(self.formats.softmax)

    def _attention(self, op: EncoderOp, inputs: Sequence[Any]) -> Rule:
        found, exact = self._plain(op, inputs)
        scores, value = inputs
        c, form = self.formats.softmax.step, self.formats
        total, error = self._sums(scores, self._lane(len(exact)))
        root, off = 1 / total[:, None], self._inverse(total, error)[:, None]
        e = np.exp(scores - scores.max(axis=1, keepdims=True))
        weight = (root + off) * c + e * off + c + 2 * self._converted() * e * root
        weight = np.where(np.isneginf(scores), 0.0, weight)
        sizes = reference.split_heads(np.abs(value), self.heads)
        bound = (weight.transpose(2, 0, 1) @ sizes).transpose(1, 0, 2).reshape(exact.shape)
        return found, exact, bound + len(value) * cut(form.accumulator) + cut(form.features)

    def _residual(self, op: EncoderOp, inputs: Sequence[Any]) -> Rule:
        found, exact = self._plain(op, inputs)
        return found, exact, np.full_like(exact, self.formats.features.step / 2)

    def _gating(self, op: EncoderOp, inputs: Sequence[Any]) -> Rule:
        """What the chosen experts count; a choice that is worse than it may be is infinitely wrong."""
        (x,), form = inputs, self.formats
        weights = np.asarray(self.weights[f"{op.tensor}.weights"], np.float64)
        scores = x @ weights.T
        beats = -(-x.shape[1] // self.words)
        off = (
            np.abs(x).sum(axis=1, keepdims=True) * cut(form.linear_weights)
            + beats * cut(form.accumulator)
            + cut(form.softmax)
        )
        chosen, shares = self.values[op.name]
        exact = np.take_along_axis(softmax(scores), chosen, axis=1)
        total, error = (each[:, :1] for each in self._sums(scores[..., None], np.zeros(len(x), np.int64)))
        c = form.softmax.step
        bound = exact * np.expm1(2 * off) + (c + self._inverse(total, error)) * np.exp(2 * off) + c
        best = self.selected[op.name]
        least = -np.sort(-scores, axis=1)[:, best.shape[1] - 1 : best.shape[1]]
        distinct = np.array([len(set(row)) == len(row) for row in best.tolist()])
        wrong = (np.take_along_axis(scores, best, axis=1) < least - 2 * off) | ~distinct[:, None]
        return shares, exact, np.where(wrong, 0.0, bound)

    def _mixture(self, op: EncoderOp, inputs: Sequence[Any]) -> Rule:
        found, exact = self._plain(op, inputs)
        chosen, shares = inputs[0]
        bound = np.zeros((len(exact), 1))
        for expert, rows in zip(op.experts, inputs[1:], strict=True):
            token, place = np.nonzero(chosen == expert)
            share = shares[token, place][:, None]
            bound[token] += share * self._product(rows, rows.shape[1], self.formats.biases) + 2 * cut(
                self.formats.features
            )
        return found, exact, np.broadcast_to(bound + self.formats.features.step / 2, exact.shape)

    rules: ClassVar[dict[str, Callable[..., Rule]]] = {
        "layernorm": _layernorm,
        "linear": _linear,
        "expert_up": _linear,
        "scores": _scores,
        "statistics": _statistics,
        "attention": _attention,
        "residual": _residual,
        "gating": _gating,
        "moe": _mixture,
    }
    """Kind of operation -> what was found, the float64 result, and the allowed error of each element."""

    def patches(self, image: Floats, work: EncoderConfig) -> Verdict:
        """Of the patch embedding, which has an image as its input."""
        form, op = self.formats, EncoderOp("embedding", "patch_embedding", ("image",), "patch")
        exact = reference.patch_embedding(image, self.weights, work)
        assert work.image is not None
        size, lines = work.image.channels * work.image.patch**2, work.image.channels * work.image.patch
        off = size * cut(form.patch_weights) + cut(form.biases) + lines * cut(form.accumulator) + 2 * cut(form.features)
        bound = np.full_like(exact, off)
        if work.image.class_token:
            bound[0] = cut(form.features)
        return compare(op, self.values["embedding"], exact, bound)

    def placed(self, exact: Floats, parts: int = 1) -> Verdict:
        """Of an embedding that is put into memory, or added up from so many parts that are."""
        op = EncoderOp("embedding", "embedding", ())
        return compare(op, self.values["embedding"], exact, np.full_like(exact, parts * cut(self.formats.features)))


def gelu_error(table: GeluTable, features: FixedSpec) -> float:
    """Largest error of GELU by table: between entries, of entries, behind the last one, and of the last rounding.

    The difference ``d(a) = a Phi(-a)`` has ``|d''| <= 2 phi(0) = 0.798`` and ``|d'| <= 1/2``, and so has that of the tanh form.
    """
    h, end = 2.0**-table.step_bits, (table.entries - 1) * 2.0**-table.step_bits
    between = h * h / 8 * 0.798 if table.interpolates else h / 2
    behind = below_relu(table.form, end) if end >= 1.28 else 0.28  # where it is largest, at most
    return max(between + 2 * table.spec.step + features.step, behind + features.step)


__all__ = ["Judge", "cut", "gelu_error"]
