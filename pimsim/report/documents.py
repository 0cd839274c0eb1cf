"""What a page takes from a result.json, which may come from anyone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from pimsim.errors import ConfigError
from pimsim.jsonio import Document, read_as

SCHEMA = "pimsim.result/1"

Amount = Annotated[float, Field(ge=0, le=1e100, strict=True)]
"""A time, an energy or a count; a page divides by it and draws it."""
Number = Annotated[float, Field(ge=-1e100, le=1e100, strict=True)]
Text = Annotated[str, Field(max_length=10_000)]


class _Identity(Document):
    name: Text


class _Time(Document):
    seconds: Amount
    cycles: Amount


class _Tokens(Document):
    seconds_per_token: Amount | None = None


class _Energy(Document):
    joules: Amount
    by_component: dict[str, Number]
    average_watts: Amount
    uncosted: list[Text]


class _Dram(Document):
    commands: dict[str, Amount] = Field(default_factory=dict)
    row_hit_rate: Amount | None = None


class _Interface(Document):
    reduction: Amount | None = None


class _Unit(Document):
    busy_seconds: Amount
    stalls: dict[str, Amount]


class _Op(Document):
    count: Amount
    seconds: Amount
    share: Amount
    joules: Number


class _RoofOp(Document):
    flop: Amount
    bytes: Amount
    seconds: Amount


class _Roofline(Document):
    peak_flop_s: Annotated[Amount, Field(gt=0)]
    bank_bytes_s: Annotated[Amount, Field(gt=0)]
    pin_bytes_s: Annotated[Amount, Field(gt=0)]
    ops: dict[str, _RoofOp] = Field(default_factory=dict)


class _Baseline(Document):
    seconds: Amount | None = None
    joules: Amount | None = None
    speedup: Amount | None = None
    energy_ratio: Amount | None = None
    kind: Text | None = None
    method: Text | None = None
    device: Text | None = None
    stack: Text | None = None
    source: Text | None = None


class _Resource(Document):
    needed: Amount
    available: Amount


class _Manifest(Document):
    version: Text | None = None


class _Result(Document):
    arch: _Identity
    workload: _Identity
    time: _Time
    tokens: _Tokens | None
    energy: _Energy
    dram: _Dram | None
    interface: _Interface | None
    units: dict[str, _Unit] | None
    ops: dict[str, _Op]
    roofline: _Roofline | None = None
    baselines: dict[str, _Baseline] | None = None
    resources: dict[str, _Resource] | None = None
    engine: Text | None = None
    manifest: _Manifest | None = None


def read_result(data: Any, file: Path) -> dict[str, Any]:
    """The part of a ``pimsim.result/1`` that a page shows.

    Raises:
        ConfigError: a value is missing or is not what it must be; the error names file and field.
    """
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ConfigError(f"schema must be {SCHEMA}", file=file)
    return read_as(_Result, data, file).model_dump()


__all__ = ["read_result"]
