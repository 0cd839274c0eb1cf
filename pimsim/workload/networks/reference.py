"""Stem, downsampling and classifier of a vision network in float64, as the layers are written in the papers.

Shares nothing with the graph of primitives: convolutions are sums over the taps of a kernel of shifted images.
"""

from __future__ import annotations

from math import isqrt

import numpy as np

from pimsim.workload.attention.base import Floats, Tensors
from pimsim.workload.attention.vision_blocks import fed_forward_reference, mixed_reference


def _taps(image: Floats) -> list[Floats]:
    """For each tap of a 3 x 3 kernel, line by line, the pixels ``[lines, columns, C]`` that it meets with a stride of 2."""
    height, width, channels = image.shape
    framed = np.zeros((height + 2, width + 2, channels))
    framed[1:-1, 1:-1] = image
    lines, columns = (height + 1) // 2, (width + 1) // 2
    return [framed[dy : dy + 2 * lines - 1 : 2, dx : dx + 2 * columns - 1 : 2] for dy in range(3) for dx in range(3)]


def embedded(image: Floats, weights: Tensors) -> Floats:
    """Tokens ``[n, C]`` of an image ``[lines, columns, 3]``: convolutions with a stride of 2, ReLU between them."""
    x, layers = image, sum(name.startswith("stem") and name.endswith(".w") for name in weights)
    for number in range(layers):
        w, bias = weights[f"stem{number}.w"], weights[f"stem{number}.b"]
        of_tap = w.reshape(9, x.shape[2], -1)
        y = bias + sum(pixels @ of_tap[tap] for tap, pixels in enumerate(_taps(x)))
        x = np.maximum(y, 0) if number < layers - 1 else y
    tokens: Floats = x.reshape(-1, x.shape[2])
    return tokens


def _channels(weights: Tensors, layer: str, what: str, axis: int = -1) -> Floats:
    """Weights of all groups of channels, in order."""
    parted = sum(name.startswith(layer) and name.endswith(f".{what}") for name in weights)
    found: Floats = np.concatenate([weights[f"{layer}{group}.{what}"] for group in range(parted)], axis)
    return found


def downsampled(x: Floats, weights: Tensors) -> Floats:
    """Tokens of half the image's side."""
    x = fed_forward_reference(mixed_reference(x, weights, "before.mix"), weights, "before.ff")
    hidden = np.maximum(x @ _channels(weights, "widen", "w") + _channels(weights, "widen", "b"), 0)
    side, filters = isqrt(len(x)), _channels(weights, "reduce", "filters", 0)
    pixels = _taps(hidden.reshape(side, side, -1))
    reduced = _channels(weights, "reduce", "bias") + sum(
        filters[:, tap // 3, tap % 3] * each for tap, each in enumerate(pixels)
    )
    reduced = np.maximum(reduced.reshape(-1, reduced.shape[2]), 0)
    few = np.maximum(reduced.mean(axis=0) @ weights["squeeze.w"] + weights["squeeze.b"], 0)
    shares = 1 / (1 + np.exp(-(few @ weights["excite.w"] + weights["excite.b"])))
    x = (reduced * shares) @ weights["narrow.w"] + weights["narrow.b"]
    return fed_forward_reference(mixed_reference(x, weights, "after.mix"), weights, "after.ff")


def classified(x: Floats, weights: Tensors) -> Floats:
    """Logits ``[1, classes]``."""
    logits: Floats = x.mean(axis=0)[None] @ weights["head.w"] + weights["head.b"]
    return logits


__all__ = ["classified", "downsampled", "embedded"]
