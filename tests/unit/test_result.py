"""The shape of result.json, key by key, and the figures in it."""

from __future__ import annotations

import json
import math
import subprocess
from collections import Counter
from typing import Any

import builders
import pytest

import pimsim
from pimsim.result import SCHEMA, _commit

NUMBER, TEXT = "number", "text"

SHAPE: dict[str, Any] = {
    "schema": TEXT,
    "arch": {"name": TEXT, "hash": TEXT},
    "workload": {"name": TEXT, "hash": TEXT},
    "engine": TEXT,
    "time": {"seconds": NUMBER, "cycles": NUMBER, "clock_hz": NUMBER},
    "tokens": {"prompt": NUMBER, "generated": NUMBER, "seconds_per_token": NUMBER, "per_second": NUMBER},
    "latency": None,
    "energy": {"joules": NUMBER, "by_component": {"*": NUMBER}, "average_watts": NUMBER, "uncosted": [TEXT]},
    "dram": {
        "commands": {"*": NUMBER},
        "row_hit_rate": NUMBER,
        "refreshes": NUMBER,
        "bytes_read": NUMBER,
        "bytes_written": NUMBER,
    },
    "interface": {"bytes": NUMBER, "bytes_without_pim": NUMBER, "reduction": NUMBER},
    "units": {"*": {"busy_seconds": NUMBER, "busy_fraction": NUMBER, "stalls": {"*": NUMBER}}},
    "ops": {"*": {"count": NUMBER, "seconds": NUMBER, "share": NUMBER, "joules": NUMBER, "unit": None}},
    "layers": [{"name": TEXT, "seconds": NUMBER, "joules": NUMBER}],
    "ports": None,
    "demand": None,
    "notes": [],
    "roofline": None,
    "resources": None,
    "routing": None,
    "requests": None,
    "placement": None,
    "prompt_placement": None,
    "links": None,
    "baselines": {
        "*": {
            "seconds": NUMBER,
            "joules": NUMBER,
            "speedup": NUMBER,
            "energy_ratio": NUMBER,
            "kind": TEXT,
            "method": TEXT,
            "source": TEXT,
            "device": TEXT,
            "stack": TEXT,
        }
    },
    "functional": None,
    "legality": None,
    "counts": None,
    "memory": None,
    "simulation": {"wall_seconds": NUMBER, "commands": NUMBER, "peak_memory_bytes": NUMBER},
    "manifest": {
        "version": TEXT,
        "commit": "any",
        "python": TEXT,
        "packages": {"*": TEXT},
        "command_line": [TEXT],
        "hashes": {"arch": TEXT, "workload": TEXT},
    },
}


def shape_of(value: Any, like: Any) -> Any:
    """``value`` reduced to the vocabulary of `SHAPE`."""
    if like == "any":
        return like
    if isinstance(value, dict):
        if isinstance(like, dict) and "*" in like:
            shapes = [shape_of(entry, like["*"]) for entry in value.values()]
            return {"*": like["*"]} if all(shape == like["*"] for shape in shapes) else value
        return {key: shape_of(entry, (like or {}).get(key)) for key, entry in value.items()}
    if isinstance(value, list):
        shapes = [shape_of(entry, like[0]) for entry in value]
        return like if all(shape == like[0] for shape in shapes) else shapes
    if isinstance(value, str):
        return TEXT
    return value if value is None or isinstance(value, bool) else NUMBER


def test_json_has_exactly_the_shape_of_the_contract() -> None:
    plain = builders.result(baselines=["t4", "xeon_6154"]).to_json()
    assert shape_of(plain, SHAPE) == SHAPE
    assert list(plain) == list(SHAPE)


def test_json_is_strict_json() -> None:
    plain = builders.result(baselines=["t4"]).to_json()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["schema"] == SCHEMA == "pimsim.result/1"


def test_time_is_exact() -> None:
    machine = builders.arch(dram=builders.dram(tck_ps=625.0))
    figures = builders.result(arch=machine, spec=machine.dram.resolve())
    assert figures.time.seconds == 8000 * 625e-12 == 5e-6
    assert figures.time.cycles == 8000
    assert isinstance(figures.time.cycles, int)
    assert figures.time.clock_hz == 1.6e9


def test_half_clocks_make_half_cycles() -> None:
    machine = builders.arch(dram=builders.dram(ticks_per_clock=2))
    spec = machine.dram.resolve()
    assert builders.result(arch=machine, spec=spec).time.cycles == 4000
    odd = builders.result(arch=machine, spec=spec, totals=builders.totals(ticks=9))
    assert (odd.time.cycles, odd.time.seconds) == (4.5, 4.5e-9)


def test_tokens() -> None:
    tokens = builders.result().tokens
    assert (tokens.prompt, tokens.generated) == (1, 2)
    assert tokens.seconds_per_token == 4e-6
    assert tokens.per_second == pytest.approx(250_000)


def test_row_hits_count_each_bank_once() -> None:
    """(18 + 24) all-bank activates and 13 single ones; 2,688 all-bank columns and 16 single ones; 16 banks."""
    misses, accesses = 42 * 16 + 13, 2688 * 16 + 16
    assert builders.result().dram.row_hit_rate == pytest.approx(1 - misses / accesses)


def test_one_activate_per_row_of_columns_gives_the_textbook_rate() -> None:
    totals = builders.totals({("ffn_up", 0, "ACT_AB"): 10, ("ffn_up", 0, "MAC_AB"): 640})
    assert builders.result(totals=totals).dram.row_hit_rate == pytest.approx(63 / 64)


def test_row_hit_rate_is_null_without_column_accesses_and_never_negative() -> None:
    assert builders.result(totals=builders.totals()).dram.row_hit_rate is None
    misses_only = builders.totals({("kv_write", 0, "ACT"): 3, ("kv_write", 0, "WR"): 1})
    assert builders.result(totals=misses_only).dram.row_hit_rate == 0.0


def test_dram_counts() -> None:
    dram = builders.result().dram
    assert dram.commands["MAC_AB"] == 2688
    assert dram.refreshes == 2
    assert dram.bytes_read == (42 + 4) * 32
    assert dram.bytes_written == (96 + 12) * 32
    assert builders.result().simulation.commands == sum(dram.commands.values()) == 2929


def test_interface() -> None:
    interface = builders.result().interface
    assert (interface.bytes, interface.bytes_without_pim) == (5312, 1_000_000)
    assert interface.reduction == pytest.approx(1_000_000 / 5312)
    assert builders.result(traffic={"bytes": 0, "bytes_without_pim": 8}).interface.reduction is None


def test_units_in_natural_order_with_the_longest_stall_first() -> None:
    totals = builders.busy_totals()
    totals.unit_busy["channel10.mac"] = 800
    units = builders.result(totals=totals).units
    assert list(units) == ["channel0.bus", "channel0.mac", "channel1.bus", "channel1.mac", "channel10.mac", "asic"]
    mac = units["channel0.mac"]
    assert mac.busy_seconds == pytest.approx(1.344e-6)
    assert mac.busy_fraction == pytest.approx(0.168)
    assert list(mac.stalls) == ["nRCD", "wait softmax", "refresh"]
    assert mac.stalls["nRCD"] == pytest.approx(4e-6)
    assert units["channel10.mac"].stalls == {}


def test_ops_in_order_of_time_and_complete() -> None:
    figures = builders.result()
    names = list(figures.ops)
    assert names[:5] == ["ffn_up", "qkv_projection", "kv_write", "softmax", "gather"]
    assert set(names[5:]) == {"refresh", "background"}
    assert math.fsum(op.share for op in figures.ops.values()) == pytest.approx(1)
    assert math.fsum(op.seconds for op in figures.ops.values()) == pytest.approx(figures.time.seconds)
    assert math.fsum(op.joules for op in figures.ops.values()) == pytest.approx(figures.energy.joules, rel=1e-12)


def test_layers_in_order_and_complete() -> None:
    figures = builders.result()
    assert [layer.name for layer in figures.layers] == ["block 0", "block 1", "outside the blocks"]
    assert math.fsum(layer.seconds for layer in figures.layers) == pytest.approx(figures.time.seconds)
    assert math.fsum(layer.joules for layer in figures.layers) == pytest.approx(figures.energy.joules, rel=1e-12)


def test_baselines_are_compared_with_the_run() -> None:
    figures = builders.result(baselines=["t4"])
    card = figures.baselines["t4"]
    assert (card.kind, card.method) == ("model", "roofline+overhead")
    assert card.speedup == pytest.approx(card.seconds / figures.time.seconds)
    assert card.energy_ratio == pytest.approx(card.joules / figures.energy.joules)


def test_an_empty_run_has_nulls_and_no_nan() -> None:
    plain = builders.result(totals=builders.totals(ticks=0), baselines=["t4"]).to_json()
    assert plain["tokens"]["per_second"] is None
    assert plain["baselines"]["t4"]["speedup"] is None
    json.dumps(plain, allow_nan=False)


def test_a_number_that_is_not_finite_becomes_null() -> None:
    plain = builders.result(functional={"passed": False, "max_rel_error": math.inf, "list": [math.nan]}).to_json()
    assert plain["functional"] == {"passed": False, "max_rel_error": None, "list": [None]}


def test_to_json_does_not_share_with_the_result() -> None:
    figures = builders.result()
    figures.to_json()["energy"]["by_component"].clear()
    assert figures.energy.by_component


def test_figures_are_flat_numbers() -> None:
    figures = builders.result().figures()
    needed = {"cycles", "seconds", "joules", "tokens_per_second", "average_watts", "row_hit_rate"}
    assert needed | {"interface_bytes", "interface_reduction"} <= set(figures)
    assert all(value is None or isinstance(value, int | float) for value in figures.values())
    assert figures["interface_bytes"] == 5312


def test_manifest_says_how_the_result_came_about() -> None:
    manifest = builders.result().manifest
    assert manifest.version == pimsim.__version__
    assert manifest.command_line == ["pimsim", "run"]
    assert manifest.hashes == {"arch": "a" * 64, "workload": "b" * 64}
    assert {"numpy", "simpy", "pydantic"} <= set(manifest.packages)


@pytest.mark.parametrize("failure", [OSError("no git"), subprocess.TimeoutExpired("git", 2)])
def test_the_manifest_never_fails_for_want_of_git(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(subprocess, "run", fail)
    _commit.cache_clear()  # asked once in a process
    try:
        assert builders.result().manifest.commit is None
    finally:
        _commit.cache_clear()


def test_counters_are_not_changed() -> None:
    totals = builders.busy_totals()
    builders.result(totals=totals)
    assert totals == builders.busy_totals()
    assert isinstance(totals.commands, Counter)
