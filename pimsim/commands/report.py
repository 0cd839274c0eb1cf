"""``pimsim report``: one HTML page about the folders of runs and sweeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from pimsim.commands.output import whole_file
from pimsim.errors import InputError
from pimsim.jsonio import Document, read_as, read_json
from pimsim.model import PositiveFloat, PositiveInt
from pimsim.report.documents import read_result
from pimsim.report.frames import read_table
from pimsim.report.html import RunPage, SweepPage, render_html
from pimsim.yamlio import load_tree

MAX_TEXT = 10_000_000
"""Bytes of a configuration beside a result."""


class _Axis(Document):
    path: str


class _Objective(Document):
    name: str
    value: str = ""
    goal: Literal["minimize", "maximize"] = "minimize"


class _Version(Document):
    version: str = ""


class _Sweep(Document):
    schema_: Literal["pimsim.sweep/1"] = Field(alias="schema")
    axes: tuple[_Axis, ...] = ()
    description: str = ""
    arch: str = ""
    workload: str = ""
    points: int | None = None
    objectives: tuple[_Objective, ...] = ()
    manifest: _Version = _Version()


class _Group(Document):
    units: PositiveInt
    shares: dict[str, tuple[float, ...]] = Field(min_length=1)

    @field_validator("shares")
    @classmethod
    def _equally_long(cls, shares: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
        if len({len(row) for row in shares.values()}) != 1 or not next(iter(shares.values())):
            raise ValueError("must be lists of one length, at least one value each")
        return shares


class _Activity(Document):
    schema_: Literal["pimsim.activity/1"] = Field(alias="schema")
    bin_seconds: PositiveFloat
    groups: dict[str, _Group]
    pass_seconds: tuple[float, ...] = ()


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
    result = read_result(read_json(path), path)
    activity = folder / "activity.json"
    return RunPage(
        _name(folder),
        result,
        {name: _text(folder / name) for name in names},
        {key: value for name in names for key, value in _settings(folder / name).items()},
        read_as(_Activity, read_json(activity), activity).model_dump() if activity.is_file() else None,
    )


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
    file = folder / "sweep.json"
    manifest = read_as(_Sweep, read_json(file), file)
    path = folder / "results.parquet"
    if not path.is_file():
        raise InputError(f"{folder}: must hold finished points; results.parquet is not there yet")
    columns, rows = read_table(path)
    return SweepPage(_name(folder), columns, rows, [axis.path for axis in manifest.axes], manifest.model_dump())


def _name(folder: Path) -> str:
    return folder.resolve().name or str(folder)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TEXT + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: must be a readable text file ({error})") from error
    if len(data) > MAX_TEXT:
        raise InputError(f"{path}: must have at most {MAX_TEXT:,} bytes")
    return text


__all__ = ["report"]
