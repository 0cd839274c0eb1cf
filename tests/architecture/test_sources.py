"""Every number of every shipped configuration says where it comes from."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from pimsim import catalog
from pimsim.config import Loaded, load_arch, load_dram, load_workload, unsourced
from pimsim.model import TRUST_WORDS

LOAD: dict[str, Callable[[str], Loaded[Any]]] = {"arch": load_arch, "workload": load_workload, "dram": load_dram}
SHIPPED = [(kind, name) for kind in LOAD for name in catalog.names(kind)]


def test_something_is_shipped_of_every_kind() -> None:
    assert {kind for kind, _ in SHIPPED} == set(LOAD)


@pytest.mark.parametrize(("kind", "name"), SHIPPED)
def test_every_number_has_a_source(kind: str, name: str) -> None:
    assert unsourced(LOAD[kind](name)) == []


@pytest.mark.parametrize(("kind", "name"), SHIPPED)
def test_there_are_numbers(kind: str, name: str) -> None:
    assert LOAD[kind](name).numbers


@pytest.mark.parametrize(("kind", "name"), SHIPPED)
def test_every_source_is_a_trust_word_and_says_something(kind: str, name: str) -> None:
    for source in LOAD[kind](name).sources:
        match = re.match(r"(\w+): \S", source.text)
        assert match, source
        assert match[1] in TRUST_WORDS, source


@pytest.mark.parametrize(("kind", "name"), SHIPPED)
def test_name_and_description_are_there(kind: str, name: str) -> None:
    assert LOAD[kind](name).value.name == name
    assert catalog.describe(kind, name)
