"""``pimsim validate``: published and golden figures against this simulator."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pimsim.commands.output import TABLE_FORMATS, choose, columns, write_json, write_out
from pimsim.commands.progress import progress

HEADER = ("name", "published", "simulated", "deviation", "trust", "status", "source", "note")


def validate(names: Sequence[str], output: str, *, quiet: bool) -> bool:
    """Print the comparison; whether no figure failed.

    Raises:
        UnknownName: there is no figure of that name.
    """
    from pimsim.validate import validate as compared

    choose("format", output, TABLE_FORMATS)
    with progress("figures", quiet=quiet) as report:
        rows = compared(list(names), report)
    if output == "json":
        write_json([dataclasses.asdict(row) for row in rows])
    else:
        cells = [[_cell(getattr(row, name)) for name in HEADER] for row in rows]
        write_out(columns([HEADER, *cells]))
    return all(row.status != "failed" for row in rows)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


__all__ = ["validate"]
