"""Numbers as an engineer writes them: three significant digits and an SI prefix."""

from __future__ import annotations

import math

NONE = "-"
"""How a figure that does not exist is written."""

_PREFIXES = {-15: "f", -12: "p", -9: "n", -6: "u", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P"}


def si(value: float | None, unit: str, digits: int = 3) -> str:
    """``value`` in ``unit`` with the prefix that leaves one to three digits before the point.

    >>> si(7.53e-05, "s"), si(1234.5, "J"), si(0, "W"), si(None, "s")
    ('75.3 us', '1.23 kJ', '0 W', '-')
    >>> si(999.96e-6, "s")
    '1.00 ms'
    """
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return f"0 {unit}".rstrip()
    rounded = float(f"{value:.{digits - 1}e}")
    exponent = min(max(3 * math.floor(math.log10(abs(rounded)) / 3 + 1e-12), min(_PREFIXES)), max(_PREFIXES))
    return f"{significant(rounded / 10.0**exponent, digits)} {_PREFIXES[exponent]}{unit}".rstrip()


def significant(value: float, digits: int = 3) -> str:
    """``value`` with ``digits`` significant digits and no exponent; digits before the point are never dropped.

    >>> significant(75.25), significant(3.14159), significant(12345.6), significant(0.04567)
    ('75.2', '3.14', '12,346', '0.0457')
    """
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)) + 1e-12))
    return f"{value:,.{decimals}f}"


def count(value: float | None) -> str:
    """A whole number with separators.

    >>> count(1234567)
    '1,234,567'
    """
    return NONE if value is None else f"{value:,.0f}"


def percent(fraction: float | None) -> str:
    """A fraction as a percentage with one decimal.

    >>> percent(0.98437), percent(None)
    ('98.4 %', '-')
    """
    return NONE if fraction is None else f"{100 * fraction:.1f} %"


def ratio(value: float | None) -> str:
    """A factor.

    >>> ratio(72.31), ratio(None)
    ('72.3x', '-')
    """
    return NONE if value is None else f"{significant(value)}x"


__all__ = ["NONE", "count", "percent", "ratio", "si", "significant"]
