"""The single-pass softmax: a running sum and bias, one exponential for each element."""

from __future__ import annotations

import numpy as np

from pimsim.functional.numerics import FixedSpec
from pimsim.functional.streaming.fixed import Ints, exponential, narrow


def running_sums(scores: Ints, seen: np.ndarray, spec: FixedSpec) -> tuple[Ints, Ints]:
    """(sum, bias) of rows of scores, element after element.

    A larger element becomes the bias and rescales the sum, ``s <- s exp(b - x) + 1``; any other adds ``exp(x - b)``.

    Args:
        scores: ``[rows, elements, heads]`` in the format.
        seen: ``[rows, elements]``, False where a row has ended.
        spec: format of scores, exponentials, sums and biases.

    Returns:
        ``[rows, heads]`` each.
    """
    rows, elements, heads = scores.shape
    total = np.zeros((rows, heads), np.int64)
    bias = np.full((rows, heads), spec.limits[0], np.int64)
    one = np.int64(1) << spec.fraction_bits
    for number in range(elements):
        x, now = scores[:, number], seen[:, number, None]
        step = narrow(bias - x, spec.fraction_bits, spec)  # the first one wraps, and multiplies a sum of zero
        larger = x > bias
        found = exponential(np.where(larger, step, -step), spec)
        rescaled = narrow(total * found, 2 * spec.fraction_bits, spec) + one
        summed = narrow(np.where(larger, rescaled, total + found), spec.fraction_bits, spec)
        total = np.where(now, summed, total)
        bias = np.where(now & larger, x, bias)
    return total, bias


__all__ = ["running_sums"]
