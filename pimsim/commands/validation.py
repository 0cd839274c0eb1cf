"""``pimsim validate``: published and golden figures against this simulator."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pimsim.commands.output import TABLE_FORMATS, choose, columns, write_json, write_out
from pimsim.commands.progress import progress

if TYPE_CHECKING:
    from pimsim.validation.table import Row

HEADER = ("name", "published", "simulated", "deviation", "trust", "status", "note")


def validate(names: Sequence[str], output: str, *, quiet: bool) -> bool:
    """Print the comparison; whether no figure failed.

    Raises:
        UnknownName: there is no figure of that name.
    """
    choose("format", output, (*TABLE_FORMATS, "markdown"))
    from pimsim.validation.table import summary
    from pimsim.validation.table import validate as compare

    with progress("simulations", quiet=quiet) as report:
        rows = compare(list(names), report)
    if output == "json":
        write_json([_finite(dataclasses.asdict(row)) for row in rows])
    elif output == "markdown":
        write_out(markdown(rows))
    else:
        cells = [
            (row.name, row.published, _simulated(row), f"{row.deviation:+.1%}", row.trust, row.status, row.note)
            for row in rows
        ]
        counts = ", ".join(f"{number} {status}" for status, number in summary(rows).items())
        write_out(f"{columns([HEADER, *cells])}\n{counts}\n")
    return all(row.status != "failed" for row in rows)


def markdown(rows: Sequence[Row]) -> str:
    """The comparison as a table of a page, with sources, and the number of rows of each status."""
    from pimsim.validation.table import summary

    lines = [
        "| figure | published | simulated | deviation | status | source |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        note = f" ({row.note})" if row.note and row.status in {"explained", "open", "failed"} else ""
        cells = (f"`{row.name}`", row.published, _simulated(row), f"{row.deviation:+.1%}", f"{row.status}{note}")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in (*cells, row.source)) + " |")
    counts = ", ".join(f"{number} {status}" for status, number in summary(rows).items())
    return "\n".join([*lines, "", f"{len(rows)} rows: {counts}.", ""])


def _simulated(row: Row) -> str:
    """As published, if it is the same number."""
    return row.published if row.status == "exact" else _figure(row.simulated)


def _figure(value: float) -> str:
    """Four digits, but whole numbers in full."""
    return f"{value:.0f}" if math.isfinite(value) and value == round(value) else f"{value:.4g}"


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}


__all__ = ["HEADER", "markdown", "validate"]
