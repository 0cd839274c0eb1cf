"""``pimsim report``: one HTML page about the folders of runs and sweeps."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pimsim.commands.output import whole_file
from pimsim.errors import InputError
from pimsim.report.frames import read_table
from pimsim.report.html import RunPage, SweepPage, render_html
from pimsim.yamlio import load_tree

RESULT, SWEEP, ACTIVITY = "pimsim.result/1", "pimsim.sweep/1", "pimsim.activity/1"


def report(folders: Sequence[Path], html: Path) -> None:
    """Write the page.

    Raises:
        InputError: a folder holds neither a run nor a sweep, or a file is damaged or cannot be written.
    """
    runs, sweeps = [], []
    for folder in folders:
        if (folder / "sweep.json").is_file():
            sweeps.append(_sweep(folder))
        else:
            runs.append(_run(folder))
    page = render_html(runs, sweeps)
    with whole_file(html) as file:
        file.write(page)


def _run(folder: Path) -> RunPage:
    path = folder / "result.json"
    if not path.is_file():
        raise InputError(f"{folder}: must be a folder that run --out or sweep --out has written; it has no result.json")
    names = [name for name in ("arch.yaml", "workload.yaml") if (folder / name).is_file()]
    activity = folder / "activity.json"
    return RunPage(
        _name(folder),
        _json(path, RESULT),
        {name: _text(folder / name) for name in names},
        {key: value for name in names for key, value in _settings(folder / name).items()},
        _activity(activity) if activity.is_file() else None,
    )


def _activity(path: Path) -> dict[str, Any]:
    data = _json(path, ACTIVITY)
    groups = data.get("groups")
    if (
        not isinstance(groups, dict)
        or not _numbers([data.get("bin_seconds")])
        or not _numbers(data.get("pass_seconds"))
    ):
        raise InputError(f"{path}: must be an activity as run --out writes it")
    for group in groups.values():
        shares = group.get("shares") if isinstance(group, dict) else None
        rows = list(shares.values()) if isinstance(shares, dict) else []
        if (
            not rows
            or not all(_numbers(row) and len(row) == len(rows[0]) for row in rows)
            or not _numbers([group.get("units")])
        ):
            raise InputError(f"{path}: groups must have units and shares of equal length, as run --out writes them")
    return data


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) in (int, float) and math.isfinite(v) for v in values)


def _settings(path: Path) -> dict[str, str]:
    """Path -> value of every field of a configuration."""

    def walk(at: str, value: Any) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(f"{at}.{key}", inner)
        else:
            yield at, str(value)

    return dict(walk(path.stem, load_tree(path).data))


def _sweep(folder: Path) -> SweepPage:
    manifest = _json(folder / "sweep.json", SWEEP)
    path = folder / "results.parquet"
    if not path.is_file():
        raise InputError(f"{folder}: must hold finished points; results.parquet is not there yet")
    columns, rows = read_table(path)
    return SweepPage(_name(folder), columns, rows, [axis["path"] for axis in manifest.get("axes", [])], manifest)


def _name(folder: Path) -> str:
    return folder.resolve().name or str(folder)


def _json(path: Path, schema: str) -> dict[str, Any]:
    try:
        data = json.loads(_text(path))
    except ValueError as error:
        raise InputError(f"{path}: must be JSON ({error})") from error
    if not isinstance(data, dict) or data.get("schema") != schema:
        raise InputError(f"{path}: schema must be {schema}")
    return data


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: must be a readable text file ({error})") from error


__all__ = ["report"]
