"""JSON Schemas for editors."""

from __future__ import annotations

from typing import Any

import jsonschema  # type: ignore[import-untyped,unused-ignore]
import pytest

from pimsim import catalog
from pimsim.errors import UnknownName
from pimsim.schema import DIALECT, schema
from pimsim.yamlio import load_tree

KINDS = ("arch", "dram", "workload")


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_schema(kind: str) -> None:
    made = schema(kind)
    jsonschema.Draft202012Validator.check_schema(made)
    assert (made["$schema"], made["title"]) == (DIALECT, f"pimsim {kind}")


@pytest.mark.parametrize("kind", KINDS)
def test_shipped_files_are_valid_before_their_bases_are_resolved(kind: str) -> None:
    validator = jsonschema.Draft202012Validator(schema(kind))
    for name in catalog.names(kind):
        validator.validate(load_tree(catalog.find(kind, name), inherit=False).data)


@pytest.mark.parametrize(
    "data",
    [
        {"base": "pim_gpt"},
        {"dram": {"base": "dram/x", "levels": {"base": None, "bank": 4}}},
        {"dram": {"commands": {"ACT": {"base": "x"}}, "rules": [{"base": "y"}]}},
        {"dram": {"commands": {}}},
    ],
)
def test_any_mapping_may_have_a_base_and_nothing_is_required(data: dict[str, Any]) -> None:
    jsonschema.validate(data, schema("arch"))


@pytest.mark.parametrize(
    "data",
    [{"nam": "x"}, {"dram": {"chanels": 3}}, {"dram": {"channels": 0}}, {"pim": {"format": "float"}}, {"base": 3}],
)
def test_mistakes_are_seen(data: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, schema("arch"))


def test_an_unknown_kind() -> None:
    with pytest.raises(UnknownName, match=r"^schema must be one of arch, dram, sweep, workload, not 'sweeps'"):
        schema("sweeps")
