"""The part of a run that a timeline shows, as a user writes it: ``1000:2000`` cycles or ``10us:20us``."""

from __future__ import annotations

import re
from fractions import Fraction

from pimsim.errors import InputError

_UNITS_PS = {"ps": 1, "ns": 10**3, "us": 10**6, "ms": 10**9, "s": 10**12}
_EDGE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,12})?)(ps|ns|us|ms|s)?")


def parse_window(text: str, clock_ps: Fraction, ticks_per_clock: int) -> tuple[int, int | None]:
    """First tick and the tick after the last one (None: to the end of the run).

    Args:
        text: ``"a:b"``; each side is a number of clock cycles, a time with a unit, or empty.
        clock_ps: length of a clock cycle in picoseconds.
        ticks_per_clock: scheduling ticks in a clock cycle.

    Raises:
        InputError: the text is none of these, or the window is empty.

    >>> parse_window("100:200", Fraction(1000), 1), parse_window("1.5us:", Fraction(500), 2)
    ((100, 200), (6000, None))
    """
    parts = text.split(":")
    matches = [_EDGE.fullmatch(part.strip()) if part.strip() else None for part in parts]
    if len(parts) != 2 or any(part.strip() and not match for part, match in zip(parts, matches, strict=True)):
        raise InputError(
            f"--timeline-window must be FIRST:LAST in clock cycles or with a unit ({', '.join(_UNITS_PS)}), such as "
            f"0:20000 or 10us:20us, not {text!r}"
        )
    first, last = (None if match is None else _tick(match[1], match[2], clock_ps, ticks_per_clock) for match in matches)
    if last is not None and last <= (first or 0):
        raise InputError(f"--timeline-window must end after it begins, not {text!r}")
    return first or 0, last


def _tick(number: str, unit: str | None, clock_ps: Fraction, ticks_per_clock: int) -> int:
    clocks = Fraction(number) * _UNITS_PS[unit] / clock_ps if unit else Fraction(number)
    return int(clocks * ticks_per_clock)


__all__ = ["parse_window"]
