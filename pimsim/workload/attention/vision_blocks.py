"""What stands around attention in blocks of convolutional vision transformers: mixing of neighbours and feed-forward layers.

Tokens are ``[side * side, C]``, row by row of the image. Normalisations are folded into the layers before them.
"""

from __future__ import annotations

from math import isqrt

import numpy as np

from pimsim.workload.attention.base import Counts, Floats, Tensors
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Depthwise, Primitive, Shape

KERNEL = 3
"""Side of the filters that mix neighbours."""

EXPANSION = 2
"""Hidden width of a feed-forward layer over that of a token."""

GAIN = 0.25
"""Of drawn weights: residuals then stay in range over the blocks of a stage, where scores would else saturate the softmax."""


def mixing_inputs(name: str, c: int) -> dict[str, Shape]:
    """Filters and bias of `mixing`."""
    return {f"{name}.filters": (c, KERNEL, KERNEL), f"{name}.bias": (c,)}


def feed_forward_inputs(name: str, c: int) -> dict[str, Shape]:
    """Weights of `feed_forward`."""
    hidden = EXPANSION * c
    return {f"{name}.w1": (c, hidden), f"{name}.b1": (hidden,), f"{name}.w2": (hidden, c), f"{name}.b2": (c,)}


def mixing(b: Expansion, x: Primitive, name: str) -> Primitive:
    """A depthwise convolution of x, added to it."""
    side = isqrt(x.shape[0])
    return b.apply("add", x, b.add(Depthwise, x, b[f"{name}.filters"], b[f"{name}.bias"], side=side))


def feed_forward(b: Expansion, x: Primitive, name: str) -> Primitive:
    """A feed-forward layer of x, added to it."""
    hidden = b.apply("relu", b.product(x, b[f"{name}.w1"], b[f"{name}.b1"]))
    return b.apply("add", x, b.product(hidden, b[f"{name}.w2"], b[f"{name}.b2"]))


def around(n: int, c: int, mixings: int, feed_forwards: int) -> Counts:
    """``9 n C`` MACs for each mixing and ``4 n C^2`` for each feed-forward layer."""
    return Counts(macs=mixings * KERNEL**2 * n * c + feed_forwards * 2 * EXPANSION * n * c * c)


def mixed_reference(x: Floats, tensors: Tensors, name: str) -> Floats:
    """`mixing`, neighbour by neighbour."""
    side, filters = isqrt(len(x)), tensors[f"{name}.filters"]
    out = x + tensors[f"{name}.bias"]
    for y, z in np.ndindex(side, side):
        for dy, dz in np.ndindex(KERNEL, KERNEL):
            at = (y + dy - 1, z + dz - 1)
            if min(at) >= 0 and max(at) < side:
                out[y * side + z] += filters[:, dy, dz] * x[at[0] * side + at[1]]
    return out


def fed_forward_reference(x: Floats, tensors: Tensors, name: str) -> Floats:
    """`feed_forward`, as written."""
    t = tensors
    found: Floats = x + np.maximum(x @ t[f"{name}.w1"] + t[f"{name}.b1"], 0) @ t[f"{name}.w2"] + t[f"{name}.b2"]
    return found


def weights_in_range(tensors: dict[str, Floats]) -> dict[str, Floats]:
    """Drawn tensors, all but the tokens times `GAIN`, and matrices and filters over the root of the number of their inputs."""
    found = {"x": tensors["x"]}
    for name, x in tensors.items():
        if name != "x":
            inputs = 1 if x.ndim == 1 or name.endswith("distance") else x.shape[0] if x.ndim == 2 else x[0].size
            found[name] = x * GAIN * inputs**-0.5
    return found
