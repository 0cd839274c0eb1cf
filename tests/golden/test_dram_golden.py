"""Resolved rules, replay, the in-order driver and the oracle against traces of Ramulator 2.1 (tests/data/dram)."""

from __future__ import annotations

import csv
import functools
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from inorder import read_requests, run

from pimsim.analysis.legality import check_trace
from pimsim.arch.dram import DramSpec
from pimsim.config import load_dram
from pimsim.machine.replay import replay
from pimsim.trace.csvio import TraceCommand, bind_trace, read_trace

DATA = Path(__file__).parents[1] / "data" / "dram"
STANDARDS = ("ddr4_3200aa", "gddr6_14000", "hbm2_2000")
SEQUENCES = sorted(DATA.glob("*/*.cmdseq.csv"))
INORDER = sorted(DATA.glob("*/*.inorder.cmd.csv"))

Row = tuple[str, str, str, int, bool]


def file_id(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


@functools.cache
def spec_of(standard: str) -> DramSpec:
    return load_dram(standard).value.resolve()


@functools.cache
def config_of(standard: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DATA / standard / "config.json").read_text())
    return content


def largest(rows: Iterable[tuple[Row, int]]) -> dict[Row, int]:
    table: dict[Row, int] = {}
    for row, gap in rows:
        table[row] = max(gap, table.get(row, 0))
    return table


def golden_rules(standard: str) -> dict[Row, int]:
    return largest(
        ((row["level"].lower(), prev, next_, row["window"], row["sibling"]), row["min_cycles"])
        for row in config_of(standard)["constraints_resolved_ticks"]
        for prev, next_ in itertools.product(row["prev"], row["next"])
    )


def own_rules(spec: DramSpec) -> dict[Row, int]:
    """The rules of the spec, and what a bus that is busy for several ticks means for the commands that share it."""
    timing = [
        ((rule.level, prev, next_, rule.window, rule.sibling), rule.gap)
        for rule in spec.rules
        for prev, next_ in itertools.product(rule.prev, rule.next)
    ]
    commands = spec.commands.values()
    bus = [
        (("channel", prev.name, next_.name, 1, False), prev.ticks)
        for prev, next_ in itertools.product(commands, commands)
        if prev.bus == next_.bus and prev.ticks > 1
    ]
    return largest(timing + bus)


@pytest.mark.parametrize("standard", STANDARDS)
def test_resolved_rules_are_those_of_the_reference(standard: str) -> None:
    assert own_rules(spec_of(standard)) == golden_rules(standard)


@pytest.mark.parametrize("standard", STANDARDS)
def test_timing_values_are_those_of_the_reference(standard: str) -> None:
    golden = {name: value for name, value in config_of(standard)["timing_in_ck"].items() if name.startswith("n")}
    assert spec_of(standard).timing == golden


@pytest.mark.parametrize("path", SEQUENCES, ids=file_id)
def test_replay_gives_every_clock(path: Path) -> None:
    rows = read_trace(path)
    assert replay(spec_of(path.parent.name), rows) == [row._replace(cycle=row.cycle) for row in rows]


@pytest.mark.parametrize("path", INORDER, ids=file_id)
def test_in_order_driver_gives_every_command_and_clock(path: Path) -> None:
    spec = spec_of(path.parent.name)
    requests = read_requests(path.with_name(path.name.replace(".inorder.cmd.", ".req.")), spec)
    rows = read_trace(path)
    golden = [(row.cycle, row.command, where) for row, where in zip(rows, bind_trace(spec, rows), strict=True)]
    assert run(spec, requests, refresh=path.name.startswith("refresh_cross")) == golden


@pytest.mark.parametrize("path", SEQUENCES + INORDER, ids=file_id)
def test_oracle_accepts(path: Path) -> None:
    assert check_trace(spec_of(path.parent.name), read_trace(path)) == []


def negative_cases() -> list[dict[str, str]]:
    with (DATA / "negative_cases.csv").open() as file:
        return list(csv.DictReader(file))


@functools.cache
def golden_trace(standard: str, file: str) -> tuple[TraceCommand, ...]:
    return tuple(read_trace(DATA / standard / file))


@pytest.mark.parametrize(
    "case", negative_cases(), ids=lambda case: f"{case['set']}-{case['file']}-{case['line_number']}"
)
def test_oracle_rejects_and_names_the_constraint(case: dict[str, str]) -> None:
    rows = golden_trace(case["set"], case["file"])
    moved = next(number for number, row in enumerate(rows) if row.line == int(case["line_number"]))
    assert rows[moved].cycle == int(case["legal_clk"])
    mutated = [*rows[:moved], rows[moved]._replace(cycle=int(case["illegal_clk"])), *rows[moved + 1 :]]
    constraint = config_of(case["set"])["constraints_resolved_ticks"][int(case["constraint_index"])]
    found = [v for v in check_trace(spec_of(case["set"]), mutated) if v.index == moved]
    named = {
        f"{constraint['level']}: {prev}->{case['cmd']} >= {constraint['min_cycles']}" for prev in constraint["prev"]
    }
    assert {v.constraint.split(" (")[0] for v in found} <= named
    assert [v.found for v in found] == [str(constraint["min_cycles"] - 1)] * len(found) != []
