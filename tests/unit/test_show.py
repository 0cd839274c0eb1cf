"""The resolved configuration with its sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pimsim import catalog
from pimsim.config import Loaded, load_arch, load_dram, load_workload
from pimsim.show import show, show_json

WORKLOAD = """\
name: tiny
model: {layers: 2, d_model: 64, heads: 4, d_ff: 256, vocabulary: 100, context: 64}
generate_tokens: 4
sources: {model.layers: "paper: two\\nlines"}
"""


@pytest.fixture
def workload(tmp_path: Path) -> Loaded[Any]:
    path = tmp_path / "w.yaml"
    path.write_text(WORKLOAD)
    return load_workload(path, [("model.heads", "8")])


def test_every_number_is_followed_by_its_source(workload: Loaded[Any]) -> None:
    lines = show(workload).splitlines()
    assert lines[:7] == [
        "kind: decoder",
        "name: tiny",
        'description: ""',
        "family: gpt2",
        "model:",
        "  layers: 2  # paper: two lines",
        "  d_model: 64  # no source",
    ]
    assert "  heads: 8  # assumed: --set on the command line" in lines
    assert "prompt_tokens: 1  # default" in lines
    assert "lm_head: false" in lines


def test_plain_data(workload: Loaded[Any]) -> None:
    data = show_json(workload)
    assert json.loads(json.dumps(data)) == data
    assert sorted(data) == ["config", "hash", "sources", "unsourced"]
    assert data["config"]["model"]["heads"] == 8
    assert "sources" not in data["config"]
    assert data["sources"] == {"model.layers": "paper: two\nlines", "model.heads": "assumed: --set on the command line"}
    assert data["unsourced"] == [
        "model.d_model",
        "model.d_ff",
        "model.vocabulary",
        "model.context",
        "generate_tokens",
    ]
    assert data["hash"] == workload.hash


@pytest.mark.parametrize(("kind", "load"), [("arch", load_arch), ("dram", load_dram), ("workload", load_workload)])
def test_what_is_shown_is_the_same_configuration(kind: str, load: Any, tmp_path: Path) -> None:
    for name in catalog.names(kind):
        loaded = load(name)
        text = show(loaded)
        assert "# no source" not in text
        (tmp_path / "shown.yaml").write_text(text)
        assert load(tmp_path / "shown.yaml").hash == loaded.hash
