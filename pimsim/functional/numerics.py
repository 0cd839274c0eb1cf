"""Number formats, and the arithmetic of an in-bank MAC unit, bit for bit.

Values travel in *carriers*: NumPy float32 (or float64) arrays whose elements are representable in the format. What
lies in memory is *storage*: ``ml_dtypes.bfloat16``, ``float16``, ``float32`` or an integer type. `FormatSpec.encode`
and `FormatSpec.decode` go from one to the other, `FormatSpec.round_to` does both at once.

==============  ===========================  =============================  ==================================
format          rounding                     overflow, infinity             NaN
==============  ===========================  =============================  ==================================
floating point  nearest, ties to even        infinity of the same sign      stays NaN (the payload is not kept)
``int8``        nearest, ties to even        saturates at -127 and 127      becomes 0
fixed point     nearest even, or truncation  saturates, or wraps            becomes 0
==============  ===========================  =============================  ==================================

Subnormal numbers are kept (gradual underflow) by encoding, multiplication and addition. A fixed-point format that
wraps takes the value modulo its range; infinities, which have no remainder, still saturate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from math import ceil, inf, log2
from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

from pimsim.arch.formats import ACCUMULATORS, Accumulator, fixed_name
from pimsim.errors import ConfigError, UnknownName

Array = npt.NDArray[Any]
_quiet = np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")
"""Overflow and NaN are results here, not warnings."""


class FormatSpec(ABC):
    """A number format: how values lie in memory and what rounding they undergo on the way there."""

    name: str
    bits: int
    dtype: np.dtype[Any]
    """Type of storage arrays."""

    def scale(self, values: npt.ArrayLike, axis: int | None = None) -> Array:
        """The scale that `encode` should use: 1, except for ``int8``.

        Args:
            values: ``[...]``.
            axis: None for one scale per tensor, otherwise one scale per vector along this axis.

        Returns:
            float32, with the number of dimensions of ``values`` and length 1 along the reduced axes.
        """
        shape = np.shape(values)
        return np.ones(
            [n if axis is not None and i != axis % len(shape) else 1 for i, n in enumerate(shape)], np.float32
        )

    def quantize(self, values: npt.ArrayLike, axis: int | None = None) -> tuple[Array, Array]:
        """(storage, scale) of values whose scale is not known yet; ``axis`` as in `scale`."""
        scale = self.scale(values, axis)
        return self.encode(values, scale), scale

    @abstractmethod
    def encode(self, values: npt.ArrayLike, scale: npt.ArrayLike | None = None) -> Array:
        """Storage of float values ``[...]``; ``scale`` (broadcast) is the value of one unit, 1 if left out."""

    @abstractmethod
    def decode(self, storage: Array, scale: npt.ArrayLike | None = None) -> Array:
        """Values of a storage array ``[...]``: float32, or float64 where float32 cannot hold them."""

    @_quiet
    def round_to(self, values: npt.ArrayLike, scale: npt.ArrayLike | None = None) -> Array:
        """The nearest (or truncated) values of this format, in the float type of the input (float32 at least)."""
        values = np.asarray(values)
        decoded = self.decode(self.encode(values, scale), scale)
        return decoded.astype(np.result_type(decoded.dtype, _carrier(values)), copy=False)

    @abstractmethod
    def operand_error(self, max_abs: float) -> float:
        """Largest ``|round_to(v) - v|`` over ``|v| <= max_abs`` (for ``int8``: when the scale fits ``max_abs``)."""


@dataclass(frozen=True)
class FloatSpec(FormatSpec):
    """A binary floating-point format, IEEE 754 style: round to nearest even, subnormals, infinities and NaN."""

    name: str
    bits: int
    precision: int
    """Significant bits, the hidden one included."""
    min_exponent: int
    """Exponent of the smallest normal number."""
    max_exponent: int
    """Exponent of the largest binade."""
    dtype: np.dtype[Any]

    @property
    def unit_roundoff(self) -> float:
        """u: largest relative error of rounding to nearest, without underflow."""
        return 2.0**-self.precision

    @property
    def smallest_normal(self) -> float:
        """Smallest positive number with full precision."""
        return 2.0**self.min_exponent

    @property
    def smallest_subnormal(self) -> float:
        """Smallest positive number."""
        return 2.0 ** (self.min_exponent - self.precision + 1)

    @property
    def largest(self) -> float:
        """Largest finite number."""
        return (2.0 - 2.0 ** (1 - self.precision)) * 2.0**self.max_exponent

    @property
    def carrier(self) -> np.dtype[Any]:
        """Float type that computes in this format: float64 for float64, float32 for all others."""
        return np.dtype(np.float64 if self.precision > 24 else np.float32)

    @_quiet
    def encode(self, values: npt.ArrayLike, scale: npt.ArrayLike | None = None) -> Array:
        """Storage of float values; too large a value becomes infinite. A scale other than None divides first."""
        scaled: Array = np.asarray(values)
        if scale is not None:
            scaled = scaled / np.asarray(scale)
        if scaled.dtype == np.float64 and self.precision < 24:
            scaled = _float32_round_to_odd(scaled)  # 53 -> 24 -> p bits would round twice
        return scaled.astype(self.dtype, copy=False)

    def decode(self, storage: Array, scale: npt.ArrayLike | None = None) -> Array:
        """Values of a storage array, exactly, in the carrier (times the scale, if there is one)."""
        values = np.asarray(storage).astype(self.carrier, copy=False)
        return values if scale is None else values * np.asarray(scale, self.carrier)

    def operand_error(self, max_abs: float) -> float:
        """Unit roundoff times the value, or half the spacing of subnormals; infinite beyond the largest number."""
        return inf if max_abs > self.largest else max(self.unit_roundoff * max_abs, self.smallest_subnormal / 2)


@dataclass(frozen=True)
class Int8Spec(FormatSpec):
    """Symmetric 8-bit integers -127..127 times a scale; products add up in 32-bit integers."""

    name = "int8"
    bits = 8
    dtype = np.dtype(np.int8)

    def scale(self, values: npt.ArrayLike, axis: int | None = None) -> Array:
        """Largest finite magnitude / 127, per tensor or per vector; 1 where all values are zero (or not finite)."""
        magnitude = np.abs(np.asarray(values, np.float64))
        magnitude = np.where(np.isfinite(magnitude), magnitude, 0.0)
        largest = np.max(magnitude, axis=axis, keepdims=True, initial=0.0)
        # a scale below float32's normal numbers would lose its precision
        scale = np.clip(largest / 127.0, FLOAT32.smallest_normal, FLOAT32.largest).astype(np.float32)
        return np.where(largest == 0.0, np.float32(1.0), scale)

    def encode(self, values: npt.ArrayLike, scale: npt.ArrayLike | None = None) -> Array:
        """round(values / scale), saturated; NaN becomes 0."""
        return _to_integers(values, scale, -127, 127, np.rint).astype(np.int8)

    def decode(self, storage: Array, scale: npt.ArrayLike | None = None) -> Array:
        """Integers times scale, rounded to float32."""
        values = np.asarray(storage).astype(np.float32)
        return values if scale is None else values * np.asarray(scale, np.float32)

    def operand_error(self, max_abs: float) -> float:
        """Half a scale, and the float32 rounding of the scale and of the decoded value."""
        return max(max_abs, 127.0 * FLOAT32.smallest_normal) * (1.0 / 254.0 + 2.0**-22)


@dataclass(frozen=True)
class FixedSpec(FormatSpec):
    """Fixed point: ``bits`` in all, ``integer_bits`` before the point; two's complement with the sign among them, or unsigned.

    No integer bits put the sign (or the first bit) right behind the point: signed, that is -1/2 to 1/2.

    Raises:
        ConfigError: the numbers of bits are impossible.
    """

    bits: int
    integer_bits: int
    rounding: Literal["nearest", "truncate"] = "nearest"
    """nearest: to even; truncate: drop the bits behind the last one (towards minus infinity)."""
    overflow: Literal["saturate", "wrap"] = "saturate"
    signed: bool = True

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 32:
            raise ConfigError(f"fixed point must have 2 to 32 bits, not {self.bits}")
        if not 0 <= self.integer_bits <= self.bits:
            raise ConfigError(f"integer bits must be 0 to {self.bits}, not {self.integer_bits}")

    @property
    def name(self) -> str:  # type: ignore[override]
        """Name that `format_spec` understands."""
        mode = {("nearest", "saturate"): "", ("truncate", "wrap"): "_wrap"}.get((self.rounding, self.overflow))
        mode = f"_{self.rounding}_{self.overflow}" if mode is None else mode
        return f"{'' if self.signed else 'u'}fixed{self.bits}_{self.integer_bits}{mode}"

    @property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        """Smallest integer type that holds the bits."""
        size = 8 if self.bits <= 8 else 16 if self.bits <= 16 else 32
        return np.dtype(f"{'int' if self.signed else 'uint'}{size}")

    @property
    def fraction_bits(self) -> int:
        """Bits behind the point."""
        return self.bits - self.integer_bits

    @property
    def step(self) -> float:
        """Distance of neighbours."""
        return 2.0**-self.fraction_bits

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest integer that can be stored."""
        if not self.signed:
            return 0, (1 << self.bits) - 1
        return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1

    def encode(self, values: npt.ArrayLike, scale: npt.ArrayLike | None = None) -> Array:
        """Round, then saturate or wrap; NaN becomes 0."""
        unit = self.step if scale is None else self.step * np.asarray(scale, np.float64)
        rounder = np.rint if self.rounding == "nearest" else np.floor
        if self.overflow == "saturate":
            return _to_integers(values, unit, *self.limits, rounder).astype(self.dtype)
        return self._wrap(_to_integers(values, unit, -inf, inf, rounder), np.asarray(values))

    @_quiet
    def _wrap(self, integers: Array, values: Array) -> Array:
        low, high = self.limits
        wrapped = np.mod(integers, float(1 << self.bits))  # exact, also where integers are beyond 2^53
        wrapped = np.where(wrapped > high, wrapped - float(1 << self.bits), wrapped)
        wrapped = np.where(np.isinf(values), np.where(values > 0, high, low), wrapped)
        return wrapped.astype(self.dtype)

    def decode(self, storage: Array, scale: npt.ArrayLike | None = None) -> Array:
        """Integers times 2^-fraction_bits: float32 up to 24 bits (exact), else float64."""
        carrier = np.dtype(np.float32 if self.bits <= 24 else np.float64)
        values: Array = np.asarray(storage).astype(carrier) * np.asarray(self.step, carrier)
        return values if scale is None else values * np.asarray(scale, carrier)

    def operand_error(self, max_abs: float) -> float:
        """A step (half, to nearest); beyond the range what saturation cuts off, infinite with wrapping."""
        largest = self.limits[1] * self.step
        error = self.step / 2 if self.rounding == "nearest" else self.step
        if max_abs <= largest:
            return error
        return inf if self.overflow == "wrap" else max(error, max_abs - largest)


BFLOAT16 = FloatSpec("bfloat16", 16, 8, -126, 127, np.dtype(ml_dtypes.bfloat16))
FLOAT16 = FloatSpec("float16", 16, 11, -14, 15, np.dtype(np.float16))
FLOAT32 = FloatSpec("float32", 32, 24, -126, 127, np.dtype(np.float32))
FLOAT64 = FloatSpec("float64", 64, 53, -1022, 1023, np.dtype(np.float64))
INT8 = Int8Spec()

FORMATS: dict[str, FormatSpec] = {spec.name: spec for spec in (BFLOAT16, FLOAT16, FLOAT32, FLOAT64, INT8)}
"""Formats with a fixed name; `format_spec` also knows the fixed-point ones."""


@cache
def format_spec(name: str) -> FormatSpec:
    """The format of a name: one of `FORMATS`, ``fixed16_4`` (16 bits, 4 of them before the point), ``fixed16_4_wrap``.

    A fixed-point name without suffix rounds to nearest and saturates, ``_wrap`` truncates and wraps, and
    ``_nearest_wrap`` and ``_truncate_saturate`` are the other two combinations. ``ufixed8_0`` is unsigned.

    >>> format_spec("fixed16_4_wrap")
    FixedSpec(bits=16, integer_bits=4, rounding='truncate', overflow='wrap', signed=True)

    Raises:
        UnknownName: there is no such format.
        ConfigError: a fixed-point name has impossible numbers of bits.
    """
    if name in FORMATS:
        return FORMATS[name]
    fixed = fixed_name(name)
    if fixed is None:
        raise UnknownName("format", name, (*FORMATS, "fixed<bits>_<integer bits>", "fixed<bits>_<integer bits>_wrap"))
    return FixedSpec(fixed.bits, fixed.integer_bits, fixed.rounding, fixed.overflow, fixed.signed)


def fixed_spec(name: str) -> FixedSpec:
    """The fixed-point format of a name.

    Raises:
        UnknownName: it is the name of no format, or of one that is no fixed point.
        ConfigError: the numbers of bits are impossible.
    """
    spec = format_spec(name)
    if not isinstance(spec, FixedSpec):
        raise UnknownName("fixed-point format", name, ("fixed<bits>_<integer bits>", "ufixed<bits>_<integer bits>"))
    return spec


def float_spec(name: str) -> FloatSpec:
    """The floating-point format of a name.

    Raises:
        UnknownName: there is no such floating-point format.
    """
    spec = FORMATS.get(name)
    if not isinstance(spec, FloatSpec):
        raise UnknownName("floating-point format", name, (n for n, s in FORMATS.items() if isinstance(s, FloatSpec)))
    return spec


@dataclass(frozen=True)
class MacArithmetic:
    """What an in-bank MAC unit computes, rounding by rounding.

    One MAC command multiplies ``lanes`` weights by ``lanes`` elements of the global buffer:

    1. Each product is computed exactly and rounded once to the accumulator format. (bfloat16 x bfloat16 has 16
       significant bits and float16 x float16 has 22: in float32 nothing is lost, except to underflow.)
    2. ``tree``: a balanced binary tree adds neighbours, (0 + 1), (2 + 3), ..., then their sums, and so on, rounding
       after each addition; where a level has an odd number of entries the last one goes up unchanged. Then one
       addition, rounded, into the accumulator. Not ``tree``: lane 0, 1, 2, ... are added to the accumulator one
       after the other, each rounded.
    3. Integer formats (``int8`` and fixed point up to 16 bits) add up exactly in 32 bits and wrap (two's
       complement); the unit of the sums is the product of both operands' units.

    Rounding a sum of two numbers of the accumulator format first to float32 and then to the narrow format equals
    rounding it once (24 >= 2 p + 2 for p = 8 and p = 11: S. A. Figueroa, "When is double rounding innocuous?", SIGNUM
    Newsletter 30(3), 1995), which is why float32 arrays can carry the computation.

    Raises:
        ConfigError: the accumulator cannot add products of the format.
    """

    format: FormatSpec
    accumulator: Accumulator = "float32"
    tree: bool = True

    def __post_init__(self) -> None:
        if self.accumulator not in ACCUMULATORS:
            raise ConfigError(f"accumulator must be one of {', '.join(ACCUMULATORS)}, not {self.accumulator!r}")
        integer = not isinstance(self.format, FloatSpec)
        if integer != (self.accumulator == "int32"):
            choices = "int32" if integer else "float32, bfloat16, float16"
            raise ConfigError(f"accumulator of {self.format.name} products must be {choices}, not {self.accumulator!r}")
        if integer and self.format.bits > 16:
            raise ConfigError(f"operands of an int32 accumulator must have at most 16 bits, not {self.format.bits}")
        if self.format == FLOAT64:
            raise ConfigError("operands of a MAC unit must be one of bfloat16, float16, float32, not 'float64'")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of accumulator arrays: int32, or float32 as the carrier of all floating-point formats."""
        return np.dtype(np.int32 if self.accumulator == "int32" else np.float32)

    def zeros(self, shape: tuple[int, ...]) -> Array:
        """Cleared accumulators."""
        return np.zeros(shape, self.dtype)

    @_quiet
    def mac(self, acc: npt.ArrayLike, weights: Array, vector: Array) -> Array:
        """The accumulators after one MAC command per column, in order.

        Args:
            acc: ``[...]``, values of the accumulator format.
            weights: ``[..., columns, lanes]``: storage, or carriers with values of the format.
            vector: ``[..., columns, lanes]``, broadcast against ``weights``.

        Returns:
            ``[...]`` of `dtype`.
        """
        products = self._products(np.asarray(weights), np.asarray(vector))
        # what is added one after the other comes first, so that every addition runs over contiguous memory
        return self._accumulate(acc, np.ascontiguousarray(np.moveaxis(products, (-1, -2), (0, 1))))

    @_quiet
    def mac_first(self, acc: npt.ArrayLike, weights: Array, vector: Array) -> Array:
        """`mac` for operands ``[lanes, columns, ...]``, which need not be moved."""
        return self._accumulate(acc, self._products(weights, vector))

    def _accumulate(self, acc: npt.ArrayLike, products: Array) -> Array:
        """Add products ``[lanes, columns, ...]`` to accumulators ``[...]``."""
        rounding = None if self.dtype == np.int32 or self.accumulator == "float32" else self._round
        addends: Iterable[Array] = tree_sum(products, rounding) if self.tree else _by_column(products)
        start = np.asarray(acc, self.dtype)
        total = np.empty(np.broadcast_shapes(start.shape, products.shape[2:]), self.dtype)
        total[...] = start
        for addend in addends:
            total += addend
            if rounding is not None:
                total = rounding(total)
        return total

    @_quiet
    def read(self, acc: Array, scale: npt.ArrayLike | None = None) -> Array:
        """What leaves the unit: accumulators in the number format, as float carriers.

        Floating point rounds to the format. Fixed point shifts, rounds and saturates (or wraps) to the format.
        ``int8`` has no scale for results that are not known yet, so its sums leave as float32: integer times
        ``scale``, the product of the scales of weights and vector.
        """
        acc = np.asarray(acc)
        if isinstance(self.format, FixedSpec):
            return self.format.round_to(acc.astype(np.float64) * self.format.step**2).astype(np.float32)
        if isinstance(self.format, FloatSpec):
            return self.format.round_to(acc)
        return (acc.astype(np.float64) * (1.0 if scale is None else np.asarray(scale, np.float64))).astype(np.float32)

    def _products(self, weights: Array, vector: Array) -> Array:
        if self.accumulator == "int32":
            return np.multiply(weights, vector, dtype=np.int32)
        accumulator = float_spec(self.accumulator)
        assert isinstance(self.format, FloatSpec)
        # a product of float32 is exact in float64, of narrower formats in float32
        wide = np.float64 if self.format.precision > 12 and accumulator.precision < 24 else np.float32
        products: Array = weights.astype(wide, copy=False) * vector.astype(wide, copy=False)
        if accumulator.precision == 24:
            return products
        return accumulator.round_to(products).astype(np.float32, copy=False)

    def _round(self, values: Array) -> Array:
        if self.dtype == np.int32 or self.accumulator == "float32":
            return values
        return values.astype(_NARROW[self.accumulator]).astype(np.float32)


_NARROW: dict[str, np.dtype[Any]] = {"bfloat16": BFLOAT16.dtype, "float16": FLOAT16.dtype}


def _by_column(products: Array) -> Iterator[Array]:
    """The lanes of the first column, then those of the next."""
    for column in range(products.shape[1]):
        yield from products[:, column]


def tree_sum(level: Array, rounding: Callable[[Array], Array] | None = None) -> Array:
    """Sum over the first axis by a balanced binary tree: neighbours first, an odd last entry goes up unchanged.

    Args:
        level: ``[n, ...]``; an empty sum is 0.
        rounding: applied to the result of each addition; none if left out.
    """
    while len(level) > 1:
        pairs = level[: len(level) // 2 * 2 : 2] + level[1::2]
        if rounding is not None:
            pairs = rounding(pairs)
        level = pairs if len(level) % 2 == 0 else np.concatenate([pairs, level[-1:]])
    return np.asarray(level[0]) if len(level) else np.zeros(level.shape[1:], level.dtype)


def mac_arithmetic(name: str, accumulator: Accumulator | None = None, tree: bool = True) -> MacArithmetic:
    """The MAC arithmetic of a format's name; the accumulator is float32, for integer formats int32, unless it is given.

    Raises:
        UnknownName: there is no such format.
        ConfigError: the accumulator cannot add products of the format.
    """
    spec = format_spec(name)
    if accumulator is None:
        accumulator = "float32" if isinstance(spec, FloatSpec) else "int32"
    return MacArithmetic(spec, accumulator, tree)


def dot_bound(
    spec: FormatSpec,
    accumulator: Accumulator,
    n: int,
    max_abs_w: float,
    max_abs_x: float,
    *,
    lanes: int = 16,
    tree: bool = True,
    read: bool = False,
) -> float:
    """A-priori bound of ``|computed - exact|`` for a dot product of ``n`` terms.

    Terms are ``w x`` with ``|w| <= max_abs_w`` and ``|x| <= max_abs_x``.

    Each operand is rounded to the format, and each product passes through k roundings of the accumulator: one for
    itself (none where it is exact), ``ceil(log2(lanes))`` in the tree and one per column; without a tree one per
    term. So

        ``error <= n ((W + dW) (X + dX) + eta / 2) (1 + u)^k - n W X``

    with W, X the largest magnitudes, dW, dX the operand errors, u the unit roundoff and eta the smallest subnormal of
    the accumulator. To first order this is ``n W X (k u + dW / W + dX / X)``, the classic ``gamma_k |w|^T |x|`` with
    ``gamma_k = k u / (1 - k u)`` (N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002,
    lemma 3.1 and section 3.1; section 4.2 for the tree). ``(1 + u)^k - 1`` stays valid where k u >= 1. ``read`` adds
    the rounding of the result to the format. Infinite where the accumulator may overflow. Accumulators are assumed to
    start at 0.
    """
    largest = (max_abs_w + spec.operand_error(max_abs_w)) * (max_abs_x + spec.operand_error(max_abs_x))
    if accumulator == "int32":
        unit = spec.step**2 if isinstance(spec, FixedSpec) else largest / 127.0**2
        error = inf if n * largest > unit * (2**31 - 1) else n * (largest - max_abs_w * max_abs_x)
    else:
        target = float_spec(accumulator)
        exact = isinstance(spec, FloatSpec) and 2 * spec.precision <= target.precision
        depth = (0 if exact else 1) + (ceil(log2(lanes)) + ceil(n / lanes) if tree else n)
        grown = n * (largest + target.smallest_subnormal / 2) * (1.0 + target.unit_roundoff) ** depth
        error = inf if grown > target.largest else grown - n * max_abs_w * max_abs_x
    if read and error < inf:
        error += spec.operand_error(n * max_abs_w * max_abs_x + error)
    return error


def _carrier(values: Array) -> np.dtype[Any]:
    return np.dtype(np.float64 if values.dtype == np.float64 else np.float32)


def _float32_round_to_odd(values: Array) -> Array:
    """float64 to float32, inexact results to the neighbour with an odd last bit: a second rounding is then innocuous.

    Source: S. Boldo and G. Melquiond, "When double rounding is odd", IMACS World Congress 2005.
    """
    nearest = values.astype(np.float32)
    even = (nearest.view(np.uint32) & 1) == 0
    inexact = (nearest != values) & ~np.isnan(values)
    direction = np.where(values > nearest, np.float32(inf), np.float32(-inf))
    return np.where(inexact & even, np.nextafter(nearest, direction), nearest)


@_quiet
def _to_integers(
    values: npt.ArrayLike, unit: npt.ArrayLike | None, low: float, high: float, rounder: np.ufunc
) -> Array:
    """float64 integers round(values / unit) in [low, high]; NaN becomes 0."""
    scaled = np.asarray(values, np.float64)
    if unit is not None:
        scaled = scaled / np.asarray(unit, np.float64)
    return np.where(np.isnan(scaled), 0.0, np.clip(rounder(scaled), low, high))
