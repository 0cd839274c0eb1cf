"""Fixed-point arithmetic on integers: what the units of a streaming machine compute, bit for bit.

A value in a format with f fraction bits is an int64 that counts steps of ``2^-f``. Products and sums are exact in 64 bits and are
then narrowed to a format; what is beyond 64 bits wraps, which formats that wrap cannot tell from what the hardware does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pimsim.errors import ConfigError
from pimsim.functional.numerics import FixedSpec, fixed_spec

Ints = npt.NDArray[np.int64]
GeluForm = Literal["erf", "tanh", "silu"]
"""``x Phi(x)``, its approximation by a hyperbolic tangent, or ``x / (1 + exp(-x))``, which the same unit computes."""


def narrow(values: Ints, fraction: int, spec: FixedSpec) -> Ints:
    """Integers with ``fraction`` bits behind the point, rounded and brought into the range of a format.

    >>> narrow(np.array([-3, 3, 300]), 1, FixedSpec(8, 8, "truncate", "wrap"))
    array([  -2,    1, -106])
    """
    return fit(rounded(values, fraction, spec), spec)


def rounded(values: Ints, fraction: int, spec: FixedSpec) -> Ints:
    """Integers with ``fraction`` bits behind the point in steps of a format, whatever its range."""
    shift = fraction - spec.fraction_bits
    if shift <= 0:
        return values << -shift
    if spec.rounding == "truncate":
        return values >> shift
    half = np.int64(1) << (shift - 1)
    return (values + half - 1 + ((values >> shift) & 1)) >> shift


def fit(values: Ints, spec: FixedSpec) -> Ints:
    """Steps of a format brought into its range."""
    low, high = spec.limits
    if spec.overflow == "saturate":
        clipped: Ints = np.clip(values, low, high)
        return clipped
    wrapped: Ints = ((values - low) & ((1 << spec.bits) - 1)) + low
    return wrapped


def accumulate(total: Ints, product: Ints, fraction: int, spec: FixedSpec) -> Ints:
    """A sum in a format plus an exact product with ``fraction`` bits behind the point, narrowed once."""
    more = fraction - spec.fraction_bits
    if more < 0:
        return narrow(total + (product << -more), spec.fraction_bits, spec)
    return narrow((total << more) + product, fraction, spec)


def exponential(x: Ints, spec: FixedSpec) -> Ints:
    """``exp(x)`` for arguments and results in one format, exact up to the last step, which is dropped.

    Arguments above zero are an overflow of the units that ask; they get 1, which those units multiply by zero.
    """
    exact = np.exp(np.minimum(x, 0) * spec.step)
    return np.floor(exact / spec.step).astype(np.int64)


def reciprocal(x: Ints, spec: FixedSpec) -> Ints:
    """``1 / x`` in one format, rounded down; zero has none and gives zero."""
    one = np.int64(1) << (2 * spec.fraction_bits)
    found: Ints = np.where(x == 0, 0, one // np.where(x == 0, 1, x))
    return found


def logarithm(x: Ints, spec: FixedSpec) -> Ints:
    """``ln(x)`` in one format, exact up to the last step, which is dropped; what is not positive is taken for one step."""
    return np.floor(np.log(np.maximum(x, 1) * spec.step) / spec.step).astype(np.int64)


def inverse_root(x: Ints, spec: FixedSpec) -> Ints:
    """``1 / sqrt(x)`` in one format, rounded down; what is not positive is taken for one step."""
    values = np.maximum(x, 1) * spec.step
    return np.floor(1 / np.sqrt(values) / spec.step).astype(np.int64)


def below_relu(form: GeluForm, size: float) -> float:
    """How much GELU of ``size`` (at least 0) is less than that: ``a Phi(-a)``, or the same of its tanh form or of SiLU.

    For all forms ``GELU(x) = max(x, 0) - below_relu(|x|)``, and their second derivatives are at most 0.798.
    """
    if form == "erf":
        return size * math.erfc(size / math.sqrt(2)) / 2
    if form == "silu":
        return size * math.exp(-size) / (1 + math.exp(-size))
    if size > 16:
        return 0.0  # below 1e-126
    return size / (1 + math.exp(math.sqrt(8 / math.pi) * (size + 0.044715 * size**3)))


def gelu_formula(x: Ints, spec: FixedSpec, form: GeluForm = "erf") -> Ints:
    """GELU in one format: ``x erfc(-x / sqrt(2)) / 2``, or its tanh form."""
    values = (x.ravel() * spec.step).tolist()
    if form == "erf":
        exact = [value * math.erfc(-value / math.sqrt(2)) / 2 for value in values]
    else:
        exact = [max(value, 0.0) - below_relu(form, abs(value)) for value in values]
    return spec.encode(np.array(exact)).astype(np.int64).reshape(x.shape)


@dataclass(frozen=True)
class GeluTable:
    """GELU as ReLU minus a table of the difference, which is even: ``GELU(x) = max(x, 0) - d(|x|)`` (`below_relu`).

    ``entries`` entries ``2^-step_bits`` apart from 0 on; from the last one on the difference is taken for zero.
    """

    spec: FixedSpec
    entries: int
    step_bits: int
    interpolates: bool
    form: GeluForm = "erf"

    @cached_property
    def table(self) -> Ints:
        """The entries in steps of their format."""
        at = [n * 2.0**-self.step_bits for n in range(self.entries)]
        exact = np.array([below_relu(self.form, a) for a in at])
        return self.spec.encode(exact).astype(np.int64)

    def apply(self, x: Ints, features: FixedSpec) -> Ints:
        """GELU of values in the format of features."""
        size = np.abs(x)
        below = features.fraction_bits - self.step_bits
        index = size >> below
        inside = index < self.entries - 1
        index = np.where(inside, index, 0)
        difference = self.table[index]
        if self.interpolates:
            rest = size & ((1 << below) - 1)
            difference = difference + (((self.table[index + 1] - difference) * rest) >> below)
        shift = features.fraction_bits - self.spec.fraction_bits
        difference = difference << shift if shift >= 0 else difference >> -shift
        return np.maximum(x, 0) - np.where(inside, difference, 0)


@dataclass(frozen=True)
class Formats:
    """The formats of a machine, resolved."""

    features: FixedSpec
    accumulator: FixedSpec
    softmax: FixedSpec
    linear_weights: FixedSpec
    patch_weights: FixedSpec
    attention_biases: FixedSpec
    biases: FixedSpec
    norm_gain: FixedSpec
    pixels: FixedSpec
    gelu: GeluTable

    @classmethod
    def of(cls, names: Any, gelu: GeluForm = "erf") -> Formats:
        """From the configuration (`FpgaFormats`); ``gelu``: what the table is filled with.

        Raises:
            ConfigError, UnknownName: a format is impossible.
        """
        if fixed_spec(names.features).fraction_bits < names.gelu_step_bits:
            raise ConfigError(
                f"fpga.formats.gelu_step_bits must be at most the bits of features behind the point, "
                f"{fixed_spec(names.features).fraction_bits}, not {names.gelu_step_bits}"
            )
        plain = [name for name in cls.__dataclass_fields__ if name != "gelu"]
        table = GeluTable(
            fixed_spec(names.gelu_table), names.gelu_entries, names.gelu_step_bits, names.gelu_interpolates, gelu
        )
        return cls(**{name: fixed_spec(getattr(names, name)) for name in plain}, gelu=table)


__all__ = [
    "Formats",
    "GeluForm",
    "GeluTable",
    "Ints",
    "accumulate",
    "below_relu",
    "exponential",
    "fit",
    "gelu_formula",
    "inverse_root",
    "logarithm",
    "narrow",
    "reciprocal",
    "rounded",
]
