"""Number formats by name: their bits, and which accumulators add up their products. What they round to is in `functional`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, WithJsonSchema

from pimsim.errors import did_you_mean

FLOAT_BITS = {"bfloat16": 16, "float16": 16, "float32": 32}
"""Floating-point formats of a MAC unit, and their bits."""

FORMAT_CHOICES = (*FLOAT_BITS, "int8", "fixed16_<integer bits>", "fixed8_<integer bits>")
"""What may be written, for messages."""

Accumulator = Literal["float32", "bfloat16", "float16", "int32"]
ACCUMULATORS: tuple[Accumulator, ...] = ("float32", "bfloat16", "float16", "int32")
"""Formats in which a MAC unit can add up."""

_FIXED = re.compile(
    r"(?P<unsigned>u?)fixed(?P<bits>\d{1,3})_(?P<integer>\d{1,3})(?:_(?:(?P<rounding>nearest|truncate)_)?(?P<overflow>saturate|wrap))?"
)


@dataclass(frozen=True)
class FixedName:
    """What the name of a fixed-point format says."""

    bits: int
    integer_bits: int
    rounding: Literal["nearest", "truncate"]
    overflow: Literal["saturate", "wrap"]
    signed: bool = True


def fixed_name(name: str) -> FixedName | None:
    """What ``fixed16_4`` says: 16 bits, 4 of them, the sign included, before the point; None if that is no such name.

    It rounds to nearest and saturates.
    ``_wrap`` truncates and wraps; ``_nearest_wrap`` and ``_truncate_saturate`` are the other two combinations.
    ``ufixed8_0`` is unsigned.

    >>> fixed_name("fixed16_4_wrap")
    FixedName(bits=16, integer_bits=4, rounding='truncate', overflow='wrap', signed=True)
    """
    match = _FIXED.fullmatch(name)
    if match is None:
        return None
    overflow: Literal["saturate", "wrap"] = "wrap" if match["overflow"] == "wrap" else "saturate"
    default = "truncate" if overflow == "wrap" else "nearest"
    rounding: Literal["nearest", "truncate"] = "truncate" if (match["rounding"] or default) == "truncate" else "nearest"
    return FixedName(int(match["bits"]), int(match["integer"]), rounding, overflow, signed=not match["unsigned"])


def format_bytes(name: str) -> int:
    """Bytes of an element of a MAC unit's format (`MacFormat` has checked the name)."""
    if name == "int8":
        return 1
    fixed = fixed_name(name)
    return (FLOAT_BITS[name] if fixed is None else fixed.bits) // 8


def accumulators_of(name: str) -> tuple[Accumulator, ...]:
    """Formats in which products of this format can be added up."""
    return ("float32", "bfloat16", "float16") if name in FLOAT_BITS else ("int32",)


def _check_format(name: str) -> str:
    fixed = fixed_name(name)
    if (fixed is None or not fixed.signed) and name not in (*FLOAT_BITS, "int8"):
        close = did_you_mean(name, (*FLOAT_BITS, "int8", "fixed16_8", "fixed8_4"))
        raise ValueError(f"must be one of {', '.join(FORMAT_CHOICES)}, not {name!r}{close}")
    if fixed is not None and fixed.bits not in (8, 16):
        raise ValueError(f"must have 8 or 16 bits to be multiplied in fixed point, not {fixed.bits}")
    if fixed is not None and not 1 <= fixed.integer_bits <= fixed.bits:
        raise ValueError(
            f"must have 1 (the sign) to {fixed.bits} integer bits in fixed point, not {fixed.integer_bits}"
        )
    return name


_PATTERN = f"^(?:{'|'.join(FLOAT_BITS)}|int8|fixed(?:8|16)_[0-9]+(?:_(?:nearest_|truncate_)?(?:saturate|wrap))?)$"

MacFormat = Annotated[str, AfterValidator(_check_format), WithJsonSchema({"type": "string", "pattern": _PATTERN})]
"""A format that MAC units multiply: floating point, ``int8`` with scales, or fixed point of 8 or 16 bits."""


def _check_fixed(name: str) -> str:
    fixed = fixed_name(name)
    if fixed is None:
        raise ValueError(f"must be a fixed-point format such as fixed32_10_wrap, not {name!r}")
    if not 2 <= fixed.bits <= 32:
        raise ValueError(f"must have 2 to 32 bits, not {fixed.bits}")
    if fixed.integer_bits > fixed.bits:
        raise ValueError(f"must have at most {fixed.bits} bits before the point, not {fixed.integer_bits}")
    return name


_FIXED_PATTERN = "^u?fixed[0-9]+_[0-9]+(?:_(?:nearest_|truncate_)?(?:saturate|wrap))?$"

FixedFormat = Annotated[
    str, AfterValidator(_check_fixed), WithJsonSchema({"type": "string", "pattern": _FIXED_PATTERN})
]
"""A fixed-point format of 2 to 32 bits, signed or not."""

__all__ = [
    "ACCUMULATORS",
    "FLOAT_BITS",
    "FORMAT_CHOICES",
    "Accumulator",
    "FixedFormat",
    "FixedName",
    "MacFormat",
    "accumulators_of",
    "fixed_name",
    "format_bytes",
]
