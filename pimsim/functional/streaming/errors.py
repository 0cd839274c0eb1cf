"""Errors of the approximations by themselves: GELU by table, and the softmax in a single pass."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pimsim.functional.streaming.fixed import Formats, exponential, narrow, reciprocal
from pimsim.functional.streaming.softmax import running_sums
from pimsim.workload.reference import softmax


@dataclass(frozen=True)
class GeluErrors:
    """Of GELU between -8 and 8."""

    largest: float
    at: float
    """Where it is largest."""
    mean: float
    without_interpolation: float
    """The largest error if the entry below is taken."""
    largest_entry: float
    """Of the table, and the argument for which it stands."""
    largest_entry_at: float


def gelu_errors(names: Any, points: int = 1 << 18) -> GeluErrors:
    """Errors over arguments of the features' format; ``names``: formats as configured (`FpgaFormats`)."""
    formats = Formats.of(names)
    spec, table = formats.features, formats.gelu
    x = np.round(np.linspace(-8, 8, points + 1) / spec.step).astype(np.int64)
    values = x * spec.step
    exact = np.array([v * math.erfc(-v / math.sqrt(2)) / 2 for v in values])
    error = np.abs(table.apply(x, spec) * spec.step - exact)
    plain = np.abs(replace(table, interpolates=False).apply(x, spec) * spec.step - exact)
    peak = int(np.argmax(table.table))
    return GeluErrors(
        float(error.max()),
        float(values[np.argmax(error)]),
        float(error.mean()),
        float(plain.max()),
        float(table.table[peak] * table.spec.step),
        peak * 2.0**-table.step_bits,
    )


@dataclass(frozen=True)
class SoftmaxErrors:
    """Of the weights of a softmax over rows."""

    largest: float
    rms: float
    row_sum: float
    """Largest distance of the sum of a row from 1."""


def softmax_errors(names: Any, rows: int = 387, keys: int = 129, deviation: float = 1.0) -> SoftmaxErrors:
    """Errors over seeded normal scores; ``rows`` are those of all heads, ``names`` as for `gelu_errors`."""
    spec = Formats.of(names).softmax
    drawn = np.random.default_rng(0).standard_normal((rows, keys)) * deviation
    scores = spec.encode(drawn).astype(np.int64)
    total, bias = running_sums(scores[..., None], np.ones(scores.shape, bool), spec)
    shares = (
        narrow(exponential(scores - bias, spec) * reciprocal(total, spec), 2 * spec.fraction_bits, spec) * spec.step
    )
    error = shares - softmax(scores.astype(np.float64) * spec.step)
    return SoftmaxErrors(
        float(np.abs(error).max()),
        float(np.sqrt((error * error).mean())),
        float(np.abs(shares.sum(axis=1) - 1).max()),
    )


__all__ = ["GeluErrors", "SoftmaxErrors", "gelu_errors", "softmax_errors"]
