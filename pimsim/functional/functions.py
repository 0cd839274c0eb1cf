"""The functions of the ASIC as algorithms: what its adders and multipliers compute, rounding by rounding.

`pimsim.arch.functions` says what the same algorithms cost; both read the numbers of Taylor terms and Newton steps
from `AsicFunctions`. Every addition and every multiplication is rounded to the internal format of an `Arithmetic`.
Constants and tables are computed in float64 and rounded once. What the ASIC does to exponent fields and signs
(normalising, scaling by a power of two, comparing, flipping a sign) is exact, but a result of exponent arithmetic
that would be subnormal becomes zero: the field cannot hold it.

Vectors lie along the last axis; all other axes are independent calls. Inputs must be values of the internal format
(`Arithmetic.cast` makes them so); results are carriers, see `pimsim.functional.numerics`.

NaN gives NaN, except in `argmax`. Functions of infinities are those of the real function's limit, but for ``gelu`` and
``silu`` at minus infinity and ``gelu_erf`` at both, where the ASIC multiplies infinity by zero: NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from math import erfc, factorial, inf, log, pi, sqrt
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pimsim.arch.system import AsicConfig, AsicFunctions
from pimsim.errors import UnknownName, WorkloadError
from pimsim.functional.numerics import FLOAT32, Array, FloatSpec, float_spec, tree_sum

RSQRT_MAGIC = 0x5F3759DF
"""Seed constant of 1/sqrt for float32, from the Quake III Arena routine (see C. Lomont, "Fast inverse square root",
2003)."""

ERFC_P = 0.3275911
"""erfc(z) is near ``t (a1 + t (a2 + ... + t a5)) exp(-z^2)`` with ``t = 1 / (1 + p z)``; this is p."""
ERFC_A = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
"""a1 to a5 of the same formula, Abramowitz and Stegun 7.1.26: within 1.5e-7 for z >= 0."""

_quiet = np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")
"""Overflow and NaN are results here, not warnings."""


@dataclass(frozen=True)
class Arithmetic:
    """Adders and multipliers of one floating-point format.

    float32 arrays carry narrower formats: a product of two of their values is exact in float32, and a sum that is
    rounded to float32 first is rounded as if once (`pimsim.functional.numerics.MacArithmetic` has the source).
    """

    format: FloatSpec = FLOAT32
    lanes: int = 128
    """Partial sums of a reduction: element i is added to number ``i % lanes``."""

    @classmethod
    def of(cls, asic: AsicConfig, name: str = "float32") -> Arithmetic:
        """The arithmetic of an ASIC that computes in the format of this name, with a lane per multiplier.

        Raises:
            UnknownName: there is no such floating-point format.
        """
        return cls(float_spec(name), asic.multipliers)

    def cast(self, values: npt.ArrayLike) -> Array:
        """Values rounded to the format, as carriers ``[...]``."""
        return self.format.decode(self.format.encode(values))

    def add(self, a: Array, b: npt.ArrayLike) -> Array:
        """Sum, rounded."""
        return self._round(a + np.asarray(b, self.format.carrier))

    def subtract(self, a: npt.ArrayLike, b: Array) -> Array:
        """Difference, rounded."""
        return self._round(np.asarray(a, self.format.carrier) - b)

    def multiply(self, a: Array, b: npt.ArrayLike) -> Array:
        """Product, rounded."""
        return self._round(a * np.asarray(b, self.format.carrier))

    def sum(self, values: Array) -> Array:
        """Sum over the last axis: each lane adds its elements in order, then a balanced tree adds the lanes.

        Args:
            values: ``[..., n]``.

        Returns:
            ``[..., 1]``.
        """
        n = values.shape[-1]
        rows = np.ascontiguousarray(np.moveaxis(values, -1, 0))
        partial = rows[: self.lanes].copy()
        for start in range(self.lanes, n, self.lanes):
            row = rows[start : start + self.lanes]
            partial[: len(row)] = self._round(partial[: len(row)] + row)
        return tree_sum(partial, self._round)[..., np.newaxis]

    def shift(self, values: Array, exponent: Array) -> Array:
        """``values * 2**exponent`` by adding to the exponent field: exact, infinite above the range, zero below it."""
        shifted = self._round(np.ldexp(values, exponent))
        tiny = np.abs(shifted) < self.format.smallest_normal
        if np.any(tiny):
            shifted = np.where(tiny, np.copysign(np.zeros_like(shifted), shifted), shifted)
        return shifted

    def _round(self, values: Array) -> Array:
        if self.format.dtype == values.dtype:
            return values
        return values.astype(self.format.dtype).astype(self.format.carrier)


@dataclass(frozen=True)
class AsicMath:
    """The functions of one ASIC: an arithmetic and the parameters of the algorithms.

    Each name in `pimsim.arch.functions.FUNCTIONS` is a method.
    """

    functions: AsicFunctions
    arithmetic: Arithmetic = Arithmetic()

    # ------------------------------------------------------------------------------------------- elementary functions

    @_quiet
    def exp(self, x: Array) -> Array:
        """e^x: k = round(x log2 e), r = x - k ln 2, Taylor polynomial in r (Horner), exponent += k.

        The polynomial of T = ``exp_taylor_terms`` terms leaves ``(ln 2 / 2)^T / T!`` (times at most sqrt 2 relative to
        the result). ln 2 is one constant: its rounding and that of k ln 2 add a relative error of about ``u |x|``.
        """
        a = self.arithmetic
        limit = a.format.max_exponent + 2.0  # beyond it the result is 0 or infinite
        x = np.clip(x, -limit, limit)
        k = np.rint(a.multiply(x, self._constant(1.0 / log(2.0))))
        r = a.subtract(x, a.multiply(k, self._constant(log(2.0))))
        terms = self.functions.exp_taylor_terms
        y = np.full_like(r, self._constant(1.0 / factorial(terms - 1)))
        for i in reversed(range(terms - 1)):
            y = a.add(a.multiply(y, r), self._constant(1.0 / factorial(i)))
        return a.shift(y, k.astype(np.int32))  # a NaN makes y NaN, whatever its k becomes

    @_quiet
    def reciprocal(self, d: Array) -> Array:
        """1/d: mantissa m in [0.5, 1), seed 48/17 - 32/17 m, Newton x <- x (2 - m x), exponent and sign put back.

        The seed is within 1/17 and a step squares the relative error: 17^-2, 17^-4, 17^-8, ... until rounding stops it.
        Zero gives infinity of its sign, infinity gives zero.
        Source of the seed: minimax line on [0.5, 1], e.g. Wikipedia, "Division algorithm", Newton-Raphson division.
        """
        a = self.arithmetic
        m, exponent = np.frexp(np.abs(d))
        x = a.subtract(self._constant(48 / 17), a.multiply(m, self._constant(32 / 17)))
        for _ in range(self.functions.reciprocal_newton_steps):
            x = a.multiply(x, a.subtract(2.0, a.multiply(m, x)))
        x = a.shift(x, -exponent)
        special = (d == 0) | np.isinf(d)
        if np.any(special):
            x = np.where(special, np.where(d == 0, np.asarray(inf, x.dtype), np.zeros_like(x)), x)
        return np.copysign(x, d)

    @_quiet
    def rsqrt(self, v: Array) -> Array:
        """1/sqrt(v): seed ``magic - (bits >> 1)`` on the bit pattern, then Newton y <- y (1.5 - (v/2) y y).

        Read as an integer, the pattern of a positive number is close to ``2^(p-1) (log2 v + bias - s)``, so that of
        1/sqrt(v) is close to ``3/2 2^(p-1) (bias - s)`` minus half of it. float32's 0x5F3759DF means s = 0.0450466; the
        same s gives the magic of other formats. The seed is within 3.5 %, and a step turns a relative error e into
        ``1.5 e^2``, always below the true value: 1.8e-3, 4.7e-6, 3.3e-11, ... until rounding stops it.
        Zero gives infinity, infinity zero, negative numbers NaN. Subnormal numbers are normalised first.
        """
        a, spec = self.arithmetic, self.arithmetic.format
        half = spec.precision // 2 + 1
        tiny = v < spec.smallest_normal  # also zero and negative numbers, which come out special anyway
        normalise = bool(np.any(tiny))
        if normalise:
            v = np.where(tiny, np.ldexp(v, 2 * half), v)
        integers = np.dtype(f"i{spec.bits // 8}")
        bits = v.astype(spec.dtype).view(integers)
        magic = np.asarray(self._magic, integers)
        y = (magic - (bits >> 1)).astype(integers).view(spec.dtype).astype(spec.carrier)
        halved = a.multiply(v, 0.5)
        for _ in range(self.functions.rsqrt_newton_steps):
            y = a.multiply(y, a.subtract(1.5, a.multiply(a.multiply(halved, y), y)))
        if normalise:
            y = np.where(tiny, np.ldexp(y, half), y)
        usual = (v > 0) & (v < inf)
        if not np.all(usual):
            special = np.where(v == 0, inf, np.where(v == inf, 0.0, np.nan))
            y = np.where(usual, y, special.astype(spec.carrier))
        return np.asarray(y)

    @cached_property
    def _magic(self) -> int:
        spec = self.arithmetic.format
        if spec == FLOAT32:
            return RSQRT_MAGIC
        offset = FLOAT32.max_exponent - RSQRT_MAGIC / (1.5 * 2.0 ** (FLOAT32.precision - 1))
        return round(1.5 * 2.0 ** (spec.precision - 1) * (spec.max_exponent - offset))

    # ---------------------------------------------------------------------------------------------------- element by
    # element

    @_quiet
    def add(self, *operands: Array) -> Array:
        """Sum of vectors ``[..., n]`` (broadcast), from left to right: residual, bias, partial sums."""
        total = operands[0]
        for operand in operands[1:]:
            total = self.arithmetic.add(total, operand)
        return total

    @_quiet
    def multiply(self, x: Array, y: Array) -> Array:
        """Product of two vectors ``[..., n]``, element by element."""
        return self.arithmetic.multiply(x, y)

    @_quiet
    def scale(self, x: Array, factor: npt.ArrayLike) -> Array:
        """Product of a vector ``[..., n]`` and a factor (broadcast)."""
        return self.arithmetic.multiply(x, factor)

    @_quiet
    def gelu(self, x: Array) -> Array:
        """GELU in its tanh form, ``x / (1 + exp(-2 sqrt(2/pi) (x + 0.044715 x^3)))``.

        Source: D. Hendrycks and K. Gimpel, arXiv:1606.08415; 0.5 (1 + tanh u) = 1 / (1 + exp(-2u)).
        """
        a, linear = self.arithmetic, -2.0 * sqrt(2.0 / pi)
        inner = a.add(a.multiply(a.multiply(x, x), self._constant(0.044715 * linear)), self._constant(linear))
        return a.multiply(x, self.reciprocal(a.add(self.exp(a.multiply(x, inner)), 1.0)))

    @_quiet
    def gelu_erf(self, x: Array) -> Array:
        """GELU in its erf form, ``x Phi(x) = max(x, 0) - |x| Phi(-|x|)``, Phi of the standard normal distribution.

        ``Phi(-|x|) = t (b1 + t (b2 + ... + t b5)) exp(-x^2 / 2)``, ``t = 1 / (1 + p |x|)`` is within 7.5e-8 (absolute):
        half of erfc by M. Abramowitz and I. Stegun, Handbook of Mathematical Functions, 7.1.26. So the result is within
        7.5e-8 ``|x|``, beside roundings and the errors of `exp` and `reciprocal`.
        """
        a, size = self.arithmetic, np.abs(x)
        t = self.reciprocal(a.add(a.multiply(size, self._constant(ERFC_P / sqrt(2.0))), 1.0))
        tail = np.full_like(t, self._constant(ERFC_A[-1] / 2.0))
        for coefficient in reversed(ERFC_A[:-1]):
            tail = a.add(a.multiply(tail, t), self._constant(coefficient / 2.0))
        tail = a.multiply(a.multiply(tail, t), self.exp(a.multiply(a.multiply(x, x), -0.5)))
        return a.subtract(self.relu(x), a.multiply(size, tail))

    def relu(self, x: Array) -> Array:
        """``max(x, 0)``, exact."""
        return np.maximum(x, np.zeros_like(x))

    @_quiet
    def silu(self, x: Array) -> Array:
        """SiLU, ``x / (1 + exp(-x))``."""
        a = self.arithmetic
        return a.multiply(x, self.reciprocal(a.add(self.exp(-x), 1.0)))

    @_quiet
    def rope(self, x: Array, cos: Array, sin: Array, interleaved: bool = False) -> Array:
        """Rotary position embedding: pairs (a, b) become (a cos - b sin, b cos + a sin).

        Args:
            x: ``[..., d]``; the first ``2 r`` elements are rotated, the others pass. cos: ``[..., r]``, broadcast
            (from `rope_tables`). sin: as ``cos``. interleaved: pairs are elements (2i, 2i + 1), as in GPT-J;
            otherwise (i, i + r), as in Llama of Hugging Face.

        Raises:
            WorkloadError: the tables are longer than half of the vector.
        """
        r = cos.shape[-1]
        if 2 * r > x.shape[-1]:
            raise WorkloadError(f"rotary tables must have at most {x.shape[-1] // 2} angles, not {r}")
        first = np.s_[..., 0 : 2 * r : 2] if interleaved else np.s_[..., :r]
        second = np.s_[..., 1 : 2 * r : 2] if interleaved else np.s_[..., r : 2 * r]
        a, rotated = self.arithmetic, np.array(x)
        rotated[first] = a.subtract(a.multiply(x[first], cos), a.multiply(x[second], sin))
        rotated[second] = a.add(a.multiply(x[second], cos), a.multiply(x[first], sin))
        return rotated

    # -------------------------------------------------------------------------------------------------------- over a
    # vector

    @_quiet
    def softmax(self, x: Array) -> tuple[Array, Array]:
        """``exp(x - max x)`` ``[..., n]`` and its sum ``[..., 1]``; `reciprocal` and `scale` complete the softmax.

        Elements of minus infinity (masked) give 0; a vector of nothing else gives NaN.
        """
        e = self.exp(self.arithmetic.subtract(x, np.max(x, axis=-1, keepdims=True)))
        return e, self.arithmetic.sum(e)

    @_quiet
    def layernorm(self, x: Array, gamma: Array, beta: Array, eps: float = 1e-5) -> Array:
        """(x - mean) / sqrt(var + eps) gamma + beta over the last axis, from sum x and sum x^2 in one pass.

        ``var = E[x^2] - mean^2`` cancels: its absolute error is about ``k u E[x^2]`` with k roundings in a sum, so
        vectors whose mean is large against their spread lose accuracy. A negative variance counts as zero.

        Args:
            x: ``[..., n]``.
            gamma: ``[n]``.
            beta: ``[n]``.
            eps: added to the variance.
        """
        a, per_element = self.arithmetic, self._constant(1.0 / x.shape[-1])
        mean = a.multiply(a.sum(x), per_element)
        mean_square = a.multiply(a.sum(a.multiply(x, x)), per_element)
        variance = np.maximum(a.subtract(mean_square, a.multiply(mean, mean)), 0.0)
        rstd = self.rsqrt(a.add(variance, self._constant(eps)))
        return a.add(a.multiply(a.multiply(a.subtract(x, mean), rstd), gamma), beta)

    @_quiet
    def rmsnorm(self, x: Array, gamma: Array, eps: float = 1e-5) -> Array:
        """X / sqrt(E[x^2] + eps) gamma over the last axis; arguments as in `layernorm`.

        Source: B. Zhang and R. Sennrich, "Root mean square layer normalization", NeurIPS 2019.
        """
        a = self.arithmetic
        mean_square = a.multiply(a.sum(a.multiply(x, x)), self._constant(1.0 / x.shape[-1]))
        rrms = self.rsqrt(a.add(mean_square, self._constant(eps)))
        return a.multiply(a.multiply(x, rrms), gamma)

    def argmax(self, x: Array) -> npt.NDArray[np.int64]:
        """Index ``[...]`` of the largest element of ``[..., n]``, the first of equals; NaN never wins (all NaN: 0)."""
        return np.asarray(np.argmax(np.where(np.isnan(x), -inf, x), axis=-1), np.int64)

    def _constant(self, value: float) -> Array:
        return _rounded(self.arithmetic.format, value)


@cache
def _rounded(spec: FloatSpec, value: float) -> Array:
    """A constant of float64, rounded once."""
    constant = spec.decode(spec.encode(np.float64(value)))
    constant.setflags(write=False)
    return constant


def rope_tables(
    positions: npt.ArrayLike,
    rotary: int,
    theta: float = 10000.0,
    factors: npt.ArrayLike | None = None,
    spec: FloatSpec = FLOAT32,
) -> tuple[Array, Array]:
    """Cosines and sines of ``position * theta^(-2i / rotary) / factors[i]``, in float64, rounded once to ``spec``.

    Source: J. Su et al., "RoFormer", arXiv:2104.09864; ``factors`` stretch wavelengths for long contexts (Llama 3).

    Args:
        positions: ``[...]``, tokens from the start of the sequence.
        rotary: elements of a head that are rotated; even.
        theta: base of the wavelengths.
        factors: ``[rotary / 2]``, 1 if left out.
        spec: format of the tables.

    Returns:
        cos and sin, each ``[..., rotary / 2]``.

    Raises:
        WorkloadError: ``rotary`` is odd or not positive.
    """
    if rotary <= 0 or rotary % 2:
        raise WorkloadError(f"rotary elements of a head must be a positive even number, not {rotary}")
    frequency = theta ** (-np.arange(0, rotary, 2, dtype=np.float64) / rotary)
    if factors is not None:
        frequency = frequency / np.asarray(factors, np.float64)
    angle = np.asarray(positions, np.float64)[..., np.newaxis] * frequency
    return spec.decode(spec.encode(np.cos(angle))), spec.decode(spec.encode(np.sin(angle)))


# ---------------------------------------------------------------------------------------------- errors against float64


Parameter = Literal["exp_taylor_terms", "reciprocal_newton_steps", "rsqrt_newton_steps"]
PARAMETER_VALUES: Mapping[Parameter, range] = {
    "exp_taylor_terms": range(3, 11),
    "reciprocal_newton_steps": range(1, 6),
    "rsqrt_newton_steps": range(1, 5),
}
"""Values for which `errors` tabulates a function."""


@dataclass(frozen=True)
class ErrorRow:
    """Largest error of a function over its range, for one value of a parameter."""

    parameter: Parameter | None
    """None where no parameter plays a part."""
    value: int | None
    max_abs: float
    max_rel: float


@dataclass(frozen=True)
class ErrorCase:
    """How the error of a function is measured."""

    parameter: Parameter | None
    """The parameter that its error depends on most, if there is one."""
    domain: str
    """Inputs, in words."""
    inputs: Callable[[], Array]
    computed: Callable[[AsicMath, Array], Array]
    exact: Callable[[Array], Array]
    """In float64."""
    normwise: bool = False
    """Relative to the largest result of the vector instead of to each result, because single results cancel."""


def _spread(low: float, high: float, n: int) -> Array:
    """``n`` numbers that fill [low, high] evenly in no simple order (multiples of the golden ratio)."""
    return np.asarray(low + (high - low) * np.mod(np.arange(1, n + 1) * ((sqrt(5.0) - 1) / 2), 1.0))


def _vectors(low: float, high: float) -> Array:
    return _spread(low, high, 64 * 1024).reshape(64, 1024)


def _scaled_vectors() -> Array:
    """Vectors whose variances cover a factor of 4, the period of the error of 1/sqrt."""
    return _vectors(-1.5, 2.5) * np.exp2(np.arange(64) / 63.0)[:, np.newaxis]


def _softmax_exact(x: Array) -> Array:
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return np.asarray(e / np.sum(e, axis=-1, keepdims=True))


def _softmax_computed(m: AsicMath, x: Array) -> Array:
    e, total = m.softmax(x)
    return m.scale(e, m.reciprocal(total))


def _ones(x: Array) -> Array:
    return np.ones(x.shape[-1:], x.dtype)


def _layernorm_exact(x: Array) -> Array:
    centred = x - np.mean(x, axis=-1, keepdims=True)
    return np.asarray(centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + 1e-5))


def _gelu_exact(x: Array) -> Array:
    return np.asarray(x / (1.0 + np.exp(-2.0 * sqrt(2.0 / pi) * (x + 0.044715 * x**3))))


def _gelu_erf_exact(x: Array) -> Array:
    return np.asarray([0.5 * v * erfc(-v / sqrt(2.0)) for v in x.tolist()])


_POSITIONS = np.arange(1024)


def _rope_computed(m: AsicMath, x: Array) -> Array:
    return m.rope(x, *rope_tables(_POSITIONS, 64, spec=m.arithmetic.format))


def _rope_exact(x: Array) -> Array:
    angle = _POSITIONS[:, np.newaxis] * 10000.0 ** (-np.arange(32) / 32)
    a, b = x[:, :32], x[:, 32:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], axis=-1)


_TERMS: Parameter = "exp_taylor_terms"
_RECIPROCAL: Parameter = "reciprocal_newton_steps"
_RSQRT: Parameter = "rsqrt_newton_steps"

ERROR_CASES: dict[str, ErrorCase] = {
    "exp_reduced": ErrorCase(
        _TERMS,
        "|x| <= ln 2 / 2, where no range reduction is needed",
        lambda: np.linspace(-log(2.0) / 2, log(2.0) / 2, 100_001),
        lambda m, x: m.exp(x),
        np.exp,
    ),
    "exp": ErrorCase(_TERMS, "-87 <= x <= 0", lambda: np.linspace(-87.0, 0.0, 200_001), lambda m, x: m.exp(x), np.exp),
    "softmax": ErrorCase(
        _TERMS,
        "64 vectors of 1024 scores in [-10, 10], normalised",
        lambda: _vectors(-10.0, 10.0),
        _softmax_computed,
        _softmax_exact,
    ),
    "gelu": ErrorCase(
        _TERMS, "-5 <= x <= 8", lambda: np.linspace(-5.0, 8.0, 200_001), lambda m, x: m.gelu(x), _gelu_exact
    ),
    "gelu_erf": ErrorCase(
        _TERMS, "-5 <= x <= 8", lambda: np.linspace(-5.0, 8.0, 200_001), lambda m, x: m.gelu_erf(x), _gelu_erf_exact
    ),
    "silu": ErrorCase(
        _TERMS,
        "-20 <= x <= 20",
        lambda: np.linspace(-20.0, 20.0, 200_001),
        lambda m, x: m.silu(x),
        lambda x: np.asarray(x / (1.0 + np.exp(-x))),
    ),
    "reciprocal": ErrorCase(
        _RECIPROCAL,
        "2^-10 <= d <= 2^10",
        lambda: np.exp2(np.linspace(-10.0, 10.0, 200_001)),
        lambda m, x: m.reciprocal(x),
        lambda x: 1.0 / x,
    ),
    "rsqrt": ErrorCase(
        _RSQRT,
        "2^-14 <= v <= 2^14",
        lambda: np.exp2(np.linspace(-14.0, 14.0, 200_001)),
        lambda m, x: m.rsqrt(x),
        lambda x: 1.0 / np.sqrt(x),
    ),
    "layernorm": ErrorCase(
        _RSQRT,
        "64 vectors of 1024 elements in [-1.5, 2.5] times 1 to 2, gamma 1, beta 0, eps 1e-5",
        _scaled_vectors,
        lambda m, x: m.layernorm(x, _ones(x), 0 * _ones(x)),
        _layernorm_exact,
        normwise=True,
    ),
    "rmsnorm": ErrorCase(
        _RSQRT,
        "64 vectors of 1024 elements in [-1.5, 2.5] times 1 to 2, gamma 1, eps 1e-5",
        _scaled_vectors,
        lambda m, x: m.rmsnorm(x, _ones(x)),
        lambda x: np.asarray(x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-5)),
    ),
    "rope": ErrorCase(
        None,
        "positions 0..1023, heads of 64 elements in [-1, 1], theta 10000",
        lambda: _spread(-1.0, 1.0, 1024 * 64).reshape(1024, 64),
        _rope_computed,
        _rope_exact,
        normwise=True,
    ),
}
"""Functions whose error can be measured, with the range over which it is."""


def measure(function: str, functions: AsicFunctions, name: str = "float32") -> tuple[float, float]:
    """Largest absolute and relative error against float64 over the function's range.

    Inputs are rounded to the internal format first, so this is the error of the function alone. Relative errors leave
    out results below the format's normal numbers.

    Raises:
        UnknownName: the function has no `ERROR_CASES` entry, or there is no such floating-point format.
    """
    if function not in ERROR_CASES:
        raise UnknownName("function", function, ERROR_CASES)
    case, spec = ERROR_CASES[function], float_spec(name)
    arithmetic = Arithmetic(spec)
    x = arithmetic.cast(case.inputs())
    exact = case.exact(x.astype(np.float64))
    error = np.abs(case.computed(AsicMath(functions, arithmetic), x).astype(np.float64) - exact)
    size = np.max(np.abs(exact), axis=-1, keepdims=True) + 0 * exact if case.normwise else np.abs(exact)
    normal = size >= spec.smallest_normal
    return float(np.max(error)), float(np.max(error[normal] / size[normal]))


def errors(function: str, functions: AsicFunctions, name: str = "float32") -> tuple[ErrorRow, ...]:
    """Errors of a function for each value of the parameter that it depends on most, or one row without.

    `PARAMETER_VALUES` lists the values. The other parameters are those of ``functions``; ``name`` is the internal
    format.

    Raises:
        UnknownName: the function has no `ERROR_CASES` entry, or there is no such floating-point format.
    """
    if function not in ERROR_CASES:
        raise UnknownName("function", function, ERROR_CASES)
    parameter = ERROR_CASES[function].parameter
    if parameter is None:
        return (ErrorRow(None, None, *measure(function, functions, name)),)
    changed: list[tuple[int, dict[str, Any]]] = [(v, {parameter: v}) for v in PARAMETER_VALUES[parameter]]
    return tuple(
        ErrorRow(parameter, value, *measure(function, functions.model_copy(update=update), name))
        for value, update in changed
    )
