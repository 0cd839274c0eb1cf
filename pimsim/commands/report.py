"""``pimsim report``: one HTML page about the folders of runs and sweeps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pimsim.commands.output import whole_file
from pimsim.errors import InputError
from pimsim.report.frames import read_table
from pimsim.report.html import RunPage, SweepPage, render_html

RESULT, SWEEP = "pimsim.result/1", "pimsim.sweep/1"


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
    return RunPage(_name(folder), _json(path, RESULT), {name: _text(folder / name) for name in names})


def _sweep(folder: Path) -> SweepPage:
    manifest = _json(folder / "sweep.json", SWEEP)
    path = folder / "results.parquet"
    if not path.is_file():
        raise InputError(f"{folder}: must hold finished points; results.parquet is not there yet")
    columns, rows = read_table(path)
    return SweepPage(_name(folder), columns, rows, [axis["path"] for axis in manifest.get("axes", [])])


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
