"""What stands around the blocks of a vision network: stem, downsampling, classifier, and weights that lie in memory.

Tokens are ``[side * side, C]``, row by row of the image. Batch normalisations are folded into the convolutions before them
and the linear layer behind them, which leaves weights and a bias.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from math import prod
from typing import Any

from pimsim.workload.attention.expansion import Expansion, P
from pimsim.workload.attention.primitives import Arrange, Depthwise, Patches, Primitive, Shape
from pimsim.workload.attention.vision_blocks import feed_forward, feed_forward_inputs, mixing, mixing_inputs

KERNEL = 3
"""Side of the kernels of the stem and of downsampling."""

STRIDE = 2
"""Of every convolution of the stem, and of downsampling."""

CHANNELS = 3
"""Colours of a pixel."""

STEM = (8, 4, 2, 1)
"""The widths of the stem's layers are that of the first stage over these."""

WIDENING = 4
"""Hidden channels of downsampling over its inputs."""

SQUEEZE_MULTIPLE = 8
"""The squeezed width is rounded to a multiple of this."""


class Weights(Expansion):
    """An expansion whose tensors lie in memory, each a row or a matrix, and are loaded where they are first asked for.

    Names of operations begin with the part of the network that they are in.
    """

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        """``shapes`` of the tensors as they are used."""
        super().__init__({name: in_memory(shape) for name, shape in shapes.items()})
        self._shapes = shapes
        self._loaded: dict[str, Primitive] = {}
        self._entered: Counter[tuple[str, str]] = Counter()
        self.part = "stem"
        """Part of the network that is under construction."""

    def add(self, kind: type[P], *inputs: Primitive, name: str = "", **values: Any) -> P:
        """An operation on results; its name is that of its part and kind and a number unless one is given."""
        if not name:
            self._entered[self.part, kind.KIND] += 1
            name = f"{self.part}.{kind.KIND}.{self._entered[self.part, kind.KIND]}"
        return super().add(kind, *inputs, name=name, **values)

    def __getitem__(self, name: str) -> Primitive:
        if name not in self._loaded:
            loaded, shape = self.load(self.given(name)), self._shapes[name]
            self._loaded[name] = loaded if loaded.shape == shape else self.add(Arrange, loaded, to=shape)
        return self._loaded[name]

    def given(self, name: str) -> Primitive:
        """The tensor in memory."""
        return super().__getitem__(name)


def in_memory(shape: Shape) -> Shape:
    """A matrix as it is, anything else as one row."""
    return shape if len(shape) == 2 else (1, prod(shape))


# ---------------------------------------------------------------------------------------------------------------- stem


def stem_layers(width: int, side: int) -> list[tuple[int, int, int]]:
    """(channels in, channels out, side of the input) of each convolution."""
    widths = (CHANNELS, *(width // over for over in STEM))
    return [(a, b, side // STRIDE**number) for number, (a, b) in enumerate(pairwise(widths))]


def stem_inputs(width: int) -> dict[str, Shape]:
    """Weights ``[kernel^2 * in, out]``, their rows as `Patches` has them, and biases."""
    shapes: dict[str, Shape] = {}
    for number, (c, out, _) in enumerate(stem_layers(width, 1)):
        shapes |= {f"stem{number}.w": (KERNEL**2 * c, out), f"stem{number}.b": (out,)}
    return shapes


def strips(side: int, channels: int, words: int) -> list[tuple[int, int]]:
    """Lines of a convolution's result, (first, behind the last), whose patches take at most so many words, or one line."""
    lines = max(1, words // (side * KERNEL**2 * channels))
    return [(start, min(side, start + lines)) for start in range(0, side, lines)]


def stem(b: Weights, image: Primitive, width: int, side: int, words: int) -> Primitive:
    """Convolutions with a stride of 2, ReLU between them, from an image in memory to tokens on chip.

    The lines of each result are computed strip by strip, and go to memory except for the last layer.
    """
    layers = stem_layers(width, side)
    stored = [(0, image)]
    for number, (c, out, width_in) in enumerate(layers):
        results = width_in // STRIDE
        found: list[Primitive] = []
        after: list[tuple[int, Primitive]] = []
        for start, stop in strips(results, c, words):
            first = max(0, STRIDE * start - 1)
            pixels = _lines(b, stored, first, STRIDE * stop, c)
            patches = b.add(Patches, pixels, width=width_in, kernel=KERNEL, stride=STRIDE, above=int(start == 0))
            result = b.product(patches, b[f"stem{number}.w"], b[f"stem{number}.b"])
            if number == len(layers) - 1:
                found.append(result)
                continue
            result = b.add(Arrange, b.apply("relu", result), to=(stop - start, results * out))
            after.append((start, b.store(result)))
        stored = after
    return found[0] if len(found) == 1 else b.join(found)


def _lines(b: Expansion, stored: list[tuple[int, Primitive]], first: int, behind: int, channels: int) -> Primitive:
    """Lines of an image that lies in memory in strips, as pixels ``[lines * width, channels]``."""
    parts = []
    for start, strip in stored:
        low, high = max(first, start), min(behind, start + strip.shape[0])
        if low < high:
            parts.append(b.load(strip, low - start, high - start))
    lines = parts[0] if len(parts) == 1 else b.join(parts)
    return b.add(Arrange, lines, to=(lines.shape[0] * lines.shape[1] // channels, channels))


# -------------------------------------------------------------------------------------------------------- downsampling


def squeezed(channels: int) -> int:
    """Width of a quarter of the channels, rounded to the next multiple (up, if it lies in the middle), at least one."""
    return max(SQUEEZE_MULTIPLE, (channels // 4 + SQUEEZE_MULTIPLE // 2) // SQUEEZE_MULTIPLE * SQUEEZE_MULTIPLE)


def groups(side: int, c: int, words: int) -> int:
    """Fewest equal groups of the widened channels of which each takes at most so many words, or has one channel."""
    hidden = WIDENING * c
    return next(n for n in range(1, hidden + 1) if hidden % n == 0 and (side**2 * hidden // n <= words or n == hidden))


def downsampling_inputs(at: str, c: int, out: int, parted: int) -> dict[str, Shape]:
    """Weights of `downsampling` from ``c`` to ``out`` channels, with the widened channels in so many groups."""
    hidden = WIDENING * c
    narrow, each = squeezed(hidden), hidden // parted
    shapes: dict[str, Shape] = {}
    for group in range(parted):
        shapes |= {f"{at}.widen{group}.w": (c, each), f"{at}.widen{group}.b": (each,)}
        shapes |= {f"{at}.reduce{group}.filters": (each, KERNEL, KERNEL), f"{at}.reduce{group}.bias": (each,)}
    shapes |= {f"{at}.squeeze.w": (hidden, narrow), f"{at}.squeeze.b": (narrow,)}
    shapes |= {f"{at}.excite.w": (narrow, hidden), f"{at}.excite.b": (hidden,)}
    shapes |= {f"{at}.narrow.w": (hidden, out), f"{at}.narrow.b": (out,)}
    for half, width in (("before", c), ("after", out)):
        shapes |= mixing_inputs(f"{at}.{half}.mix", width) | feed_forward_inputs(f"{at}.{half}.ff", width)
    return shapes


def downsampling(b: Expansion, x: Primitive, at: str, side: int, parted: int) -> Primitive:
    """Mixing and a feed-forward layer, patch merging, and the two again, on tokens of an image of ``side * side``.

    Patch merging is an inverted residual block without the residual: widen, ReLU, depthwise with a stride of 2, ReLU, weigh
    the channels by squeeze-and-excitation, narrow. The widened image is there one group of channels after the other.
    """
    x = feed_forward(b, mixing(b, x, f"{at}.before.mix"), f"{at}.before.ff")
    found = []
    for group in range(parted):
        wide = b.apply("relu", b.product(x, b[f"{at}.widen{group}.w"], b[f"{at}.widen{group}.b"]))
        filters, bias = b[f"{at}.reduce{group}.filters"], b[f"{at}.reduce{group}.bias"]
        found.append(b.apply("relu", b.add(Depthwise, wide, filters, bias, side=side, stride=STRIDE)))
    hidden = found[0] if parted == 1 else b.join(found, axis=-1)
    few = b.apply("relu", b.product(b.reduce("mean", hidden, axis=-2), b[f"{at}.squeeze.w"], b[f"{at}.squeeze.b"]))
    weights = b.apply("sigmoid", b.product(few, b[f"{at}.excite.w"], b[f"{at}.excite.b"]))
    x = b.product(b.apply("multiply", hidden, weights), b[f"{at}.narrow.w"], b[f"{at}.narrow.b"])
    return feed_forward(b, mixing(b, x, f"{at}.after.mix"), f"{at}.after.ff")


# ---------------------------------------------------------------------------------------------------------- classifier


def classifier_inputs(c: int, classes: int) -> dict[str, Shape]:
    """Weights of `classifier`."""
    return {"head.w": (c, classes), "head.b": (classes,)}


def classifier(b: Expansion, x: Primitive) -> Primitive:
    """Logits ``[1, classes]`` of the mean token."""
    return b.product(b.reduce("mean", x, axis=-2), b["head.w"], b["head.b"])


def halved(side: int) -> int:
    """Side of an image after downsampling."""
    return (side - 1) // STRIDE + 1


def sides(image: int, stages: int) -> Iterator[int]:
    """Side of the image of tokens in each stage."""
    side = image // STRIDE ** len(STEM)
    for _ in range(stages):
        yield side
        side = halved(side)


__all__ = [
    "CHANNELS", "KERNEL", "STEM", "STRIDE", "WIDENING", "Weights", "classifier", "classifier_inputs", "downsampling",
    "downsampling_inputs", "groups", "halved", "in_memory", "sides", "squeezed", "stem", "stem_inputs", "stem_layers", "strips",
]  # fmt: skip
