"""A result as a pandas table and as a few lines of HTML for a notebook."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from pimsim.errors import InputError
from pimsim.extras import require
from pimsim.report.si import ratio, si
from pimsim.result import Result

MAX_CELLS = 30_000_000
"""Of a table of a sweep."""


def ops_frame(result: Result) -> Any:
    """Operations as a ``pandas.DataFrame``, indexed by kind.

    Raises:
        InputError: pandas is not installed.
    """
    require("report", "a table", "pandas")
    import pandas as pd

    columns = ("count", "seconds", "share", "joules")
    rows = [[op.count, op.seconds, op.share, op.joules] for op in result.ops.values()]
    return pd.DataFrame(rows, columns=list(columns), index=pd.Index(list(result.ops), name="op"))


def summary_html(result: Result) -> str:
    """Latency, energy and baselines of a run as an HTML table; names are escaped."""
    tokens = result.tokens
    rows = [
        ("latency", si(result.time.seconds, "s", 4)),
        *([("per token", si(tokens.seconds_per_token, "s"))] if tokens else []),
        ("energy", si(result.energy.joules, "J") + (" + uncosted" if result.energy.uncosted else "")),
        ("power", si(result.energy.average_watts, "W")),
    ]
    rows += [
        (
            f"against {name} ({baseline.kind}: {baseline.method}; {baseline.stack})",
            f"{ratio(baseline.speedup)} faster, {ratio(baseline.energy_ratio)} energy",
        )
        for name, baseline in result.baselines.items()
    ]
    body = "".join(f"<tr><th>{escape(label)}</th><td>{escape(text)}</td></tr>" for label, text in rows)
    title = escape(f"{result.workload.name} on {result.arch.name}")
    return f"<table><caption>{title}</caption>{body}</table>"


def read_table(path: Path) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of a Parquet file as plain values; what is missing is None.

    Raises:
        InputError: pandas or pyarrow is not installed, or the file is damaged.
    """
    require("report", "the report of a sweep", "pandas", "pyarrow")
    import pandas as pd
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            cells = file.metadata.num_rows * file.metadata.num_columns
            if cells > MAX_CELLS:
                raise InputError(f"{path}: must have at most {MAX_CELLS:,} cells, not {cells:,}")
        frame = pd.read_parquet(path)
    except (OSError, ValueError, NotImplementedError, TypeError) as error:  # what pyarrow says of damaged files
        raise InputError(f"{path}: must be a Parquet file ({error})") from error
    rows = [[_plain(value) for value in row] for row in frame.astype(object).to_numpy().tolist()]
    return [str(name) for name in frame.columns], rows


def _plain(value: Any) -> str | float | int | bool | None:
    """A number or a text as it is, anything else as text; NaN and what is missing as None."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    return value if isinstance(value, str | float | int) else str(value)


__all__ = ["ops_frame", "read_table", "summary_html"]
