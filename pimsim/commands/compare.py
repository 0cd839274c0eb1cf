"""``pimsim compare``: attention algorithms on machines over contexts, as a table, CSV, JSON and a figure."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from pimsim.analysis.comparison import Row
from pimsim.commands.output import check_picture, choose, columns, json_text, whole_bytes, whole_file, write_out
from pimsim.commands.progress import progress
from pimsim.compare import compare as run_rows
from pimsim.compare import load_archs, parse_contexts, parse_entry
from pimsim.config import split_overrides
from pimsim.errors import FunctionalMismatch, InputError
from pimsim.report.comparison import growth_table, plot_comparison, table, without

FORMATS = ("table", "csv", "json")


def compare(
    attention: str,
    arch: str,
    context: str,
    *,
    phase: str,
    workload: str,
    overrides: Sequence[str],
    check: bool,
    output: str,
    out: Path | None,
    plot: Path | None,
    quiet: bool,
) -> None:
    """Run every pair at every context and print what each costs.

    Raises:
        InputError: an option is wrong, or no pair runs at all; no file has been written.
        FunctionalMismatch: a check was asked for and failed; files have been written.
    """
    choose("format", output, FORMATS)
    check_picture(plot)
    options = split_overrides(overrides)
    entries = [parse_entry(text.strip(), phase) for text in attention.split(",")]
    machines = load_archs([name.strip() for name in arch.split(",")], options["arch"])
    contexts = parse_contexts(context)
    with contextlib.ExitStack() as stack:
        csv_file = stack.enter_context(whole_file(out)) if out is not None else None
        picture = stack.enter_context(whole_bytes(plot)) if plot is not None else None
        with progress("rows", quiet=quiet) as report:
            rows = run_rows(entries, machines, contexts, workload, options["workload"], check=check, progress=report)
        if all(row.seconds is None for row in rows):
            raise InputError(f"at least one pair must run, but the first does not: {rows[0].why}")
        if csv_file is not None:
            csv_file.write(csv_text(rows))
        if picture is not None and plot is not None:
            plot_comparison(rows).savefig(picture, format=plot.suffix[1:].lower(), dpi=110)
    write_out({"table": _tables, "csv": csv_text, "json": _json}[output](rows))
    failed = next((row for row in rows if row.checked is False), None)
    if failed is not None:
        raise FunctionalMismatch(f"{failed.attention} on {failed.arch} at context {failed.context}: {failed.why}")


def _tables(rows: Sequence[Row]) -> str:
    text, laws = columns(table(rows)) + without(rows), growth_table(rows)
    if laws:
        text += "\ngrowth with the context: law (exponent at its end)\n" + columns(laws)
    return text


def csv_text(rows: Sequence[Row]) -> str:
    """The rows as CSV with a head; a figure that does not exist is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def _json(rows: Sequence[Row]) -> str:
    return json_text([asdict(row) for row in rows])


__all__ = ["compare", "csv_text"]
