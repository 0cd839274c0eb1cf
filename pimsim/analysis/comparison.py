"""Rows of a comparison of attention algorithms, and the law by which a figure grows with the context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import exp, fsum, log

FIGURES = {"seconds": "s", "joules": "J", "peak_bytes": "B", "interface_bytes": "B"}
"""Figure of a row that grows with the context -> its unit."""


@dataclass(frozen=True)
class Row:
    """One algorithm on one machine at one context; figures are None where ``why`` says why there are none."""

    attention: str
    arch: str
    context: int
    phase: str
    seconds: float | None = None
    joules: float | None = None
    """None where no part of the machine has a coefficient; without `uncosted` parts otherwise."""
    uncosted: str = ""
    """Parts of the machine whose energy is not known, separated by commas."""
    peak_bytes: int | None = None
    """Most bytes at once, all memories of the machine together; keys and values included."""
    persistent_bytes: int | None = None
    interface_bytes: int | None = None
    """Bytes over the data pins or memory ports."""
    error: float | None = None
    """Against exact attention, relative 2-norm; None where there is nothing to compare with."""
    checked: bool | None = None
    """Whether the numbers of the program passed their check; None where none was asked for."""
    why: str | None = None


LAWS: dict[str, Callable[[float], float]] = {
    "constant": lambda _n: 1.0,
    "log n": log,
    "linear": lambda n: n,
    "n log n": lambda n: n * log(n),
    "quadratic": lambda n: n * n,
}
"""Name -> how a figure grows with n."""


CLOSE = 0.05
"""Largest relative distance of a point from a law that is said to fit."""

NO_LAW = "none"
"""Name where no law fits."""


@dataclass(frozen=True)
class Growth:
    """The law ``a + b g(n)`` that fits best, and the exponent of a power law between the last two contexts."""

    law: str
    fixed: float
    factor: float
    worst: float
    """Largest relative distance of a measured point from the law."""
    exponent: float
    """``log(y2 / y1) / log(n2 / n1)``."""


def growth(contexts: Sequence[int], values: Sequence[float]) -> Growth | None:
    """The simplest law within `CLOSE` of every point; None for fewer than three points or figures of 0.

    Where no law is as close, its name is `NO_LAW`, and the rest is that of the closest one.

    Least squares of relative errors for ``a`` and ``b``, both not negative.

    >>> growth([8, 16, 32], [11.0, 19.0, 35.0]).law, growth([8, 16, 32], [5.0, 5.0, 5.0]).law
    ('linear', 'constant')
    >>> round(growth([100, 1000, 10000], [3e4, 3e6, 3e8]).exponent, 3)
    2.0
    """
    if len(contexts) < 3 or min(values) <= 0:
        return None
    last = sorted(zip(contexts, values, strict=True))[-2:]
    exponent = log(last[1][1] / last[0][1]) / log(last[1][0] / last[0][0])
    fits = [_fit(name, contexts, values, exponent) for name in LAWS]
    closest = min(fits, key=lambda fit: fit.worst)
    return next((fit for fit in fits if fit.worst <= CLOSE), replace(closest, law=NO_LAW))


def _fit(law: str, contexts: Sequence[int], values: Sequence[float], exponent: float) -> Growth:
    """Weights 1 / y, so that small contexts count as much as large ones."""
    ones = [1 / y for y in values]
    slopes = [LAWS[law](n) / y for n, y in zip(contexts, values, strict=True)]
    aa, ab, bb = fsum(x * x for x in ones), fsum(map(_product, ones, slopes)), fsum(x * x for x in slopes)
    a, b = fsum(ones), fsum(slopes)
    det = aa * bb - ab * ab
    fixed, factor = ((a * bb - b * ab) / det, (b * aa - a * ab) / det) if det > 1e-12 * aa * bb else (0.0, b / bb)
    if factor < 0:
        fixed, factor = a / aa, 0.0
    if fixed < 0:
        fixed, factor = 0.0, b / bb
    worst = max(abs(fixed * one + factor * slope - 1) for one, slope in zip(ones, slopes, strict=True))
    return Growth(law, fixed, factor, worst, exponent)


def _product(one: float, other: float) -> float:
    return one * other


def geometric(low: int, high: int, points: int) -> list[int]:
    """Contexts at equal ratios.

    >>> geometric(128, 1024, 4)
    [128, 256, 512, 1024]
    """
    return [round(exp(log(low) + (log(high) - log(low)) * i / (points - 1))) for i in range(points)]


__all__ = ["CLOSE", "FIGURES", "LAWS", "NO_LAW", "Growth", "Row", "geometric", "growth"]
