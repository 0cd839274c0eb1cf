"""Files of recorded decisions, which may come from anyone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pimsim.errors import ConfigError
from pimsim.run import simulate
from pimsim.workload.attention.base import Case, algorithm
from pimsim.workload.attention.decisions import check_range, draw, load


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ([99, 1], r": decisions\.top_k\.1: must be from 0 to 7, not 99$"),
        ([0, -1], r": decisions\.top_k\.1: must be from 0 to 7, not -1$"),
        ([[0, 1]], r": decisions\.top_k\.1: "),
        ([0], r": decisions\.top_k\.1: "),
    ],
)
def test_what_no_run_can_have_decided_is_refused(first: Any, message: str, tmp_path: Path) -> None:
    """Decisions become addresses."""
    file = tmp_path / "taken.json"
    draw(algorithm("topk", {"k": 2}), Case(phase="decode", queries=1, keys=8, d_head=4, heads=2)).save(file)
    written = json.loads(file.read_text())
    written["decisions"]["top_k.1"][0][0] = first
    file.write_text(json.dumps(written))
    with pytest.raises(ConfigError, match="^" + re.escape(str(file)) + message):
        check_range(file, load(file))


@pytest.mark.parametrize("machine", ["pim_gpt", "edge_moe_zcu102"])
@pytest.mark.parametrize(("index", "said"), [(20_005, "20005"), (-7, "-7")])
def test_decisions_of_a_large_case_are_held_against_it_too(machine: str, index: int, said: str, tmp_path: Path) -> None:
    """240,000 pairs: what is out of range must not become an address, or end in a traceback."""
    file = tmp_path / "taken.json"
    sizes = {"phase": "decode", "queries": 1, "keys": 20_000, "d_head": 4, "heads": 12}
    draw(algorithm("topk", {"k": 2}), Case(**sizes)).save(file)
    written = json.loads(file.read_text())
    written["decisions"]["top_k.1"][0][0][0] = index
    file.write_text(json.dumps(written))
    overrides = {f"workload.{name}": value for name, value in sizes.items() if name != "queries"}
    overrides |= {"workload.algorithm": "topk", "workload.parameters": "{k: 2}", "workload.decisions": str(file)}
    with pytest.raises(ConfigError, match=rf": decisions\.top_k\.1: must be from 0 to 19999, not {said}$"):
        simulate(machine, "attention_decode", overrides=[f"{name}={value}" for name, value in overrides.items()])


@pytest.mark.parametrize("name", ["topk", "fox", "memory_layer", "llm_int8", "clustered", "landmark", "kv_drop"])
def test_what_a_run_has_decided_is_taken(name: str, tmp_path: Path) -> None:
    file = tmp_path / "taken.json"
    phase = "decode" if name in {"topk", "landmark", "kv_drop", "memory_layer"} else "prefill"
    small: dict[str, Any] = {"queries": 1 if phase == "decode" else 12, "keys": 12, "d_head": 8, "heads": 2}
    parameters = {"topk": {"k": 3}, "fox": {"block_rows": 4, "block_columns": 4}, "clustered": {"clusters": 3}}
    parameters |= {"landmark": {"block": 3, "retrieved": 2}, "kv_drop": {"budget": 6, "window": 2}}
    causal = name != "clustered"
    recorded = draw(algorithm(name, parameters.get(name)), Case(phase=phase, causal=causal, **small), seed=5)
    recorded.save(file)
    again = load(file)
    check_range(file, again)
    assert {name: values.tolist() for name, values in again.decisions.items()} == {
        name: values.tolist() for name, values in recorded.decisions.items()
    }
