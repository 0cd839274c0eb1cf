"""A standard that nobody ships, written down as data: it needs no code.

It has all at once that sets standards apart: commands of several ticks, ticks of half a clock, activates in two steps with
a window between them, pseudo channels that share a row bus and a column bus, bank groups, a window of activates, and rules
about siblings.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pimsim
from pimsim.analysis.legality import check_trace
from pimsim.arch.dram import DramSpec
from pimsim.cli import app
from pimsim.config import load_dram
from pimsim.machine.replay import replay
from pimsim.trace.csvio import make_command
from tests.timing.test_contract import MOVED, random_list

STANDARD = """
name: invented
description: a standard for a test
standard: Invented
tck_ps: 1000
ticks_per_clock: 2
counts_from: last_tick
levels: {pseudochannel: 2, bankgroup: 2, bank: 2}
rows: 64
columns: 16
burst_bytes: 32
timing: {nBL: 2, nCL: 7, nCWL: 4, nRCD: 6, nRP: 5, nRAS: 11, nRC: 16, nRRDS: 2, nRRDL: 3, nFAW: 14, nCCDS: 2, nCCDL: 3, nRTP: 3,
  nWR: 6, nWTR: 4, nAAD: 3, nRFC: 30, nREFI: 500}
commands:
  OPEN1: {scope: bank, needs: closed, bus: row, ticks: 3}
  OPEN2: {scope: bank, needs: closed, effect: open, bus: row, ticks: 2, after: OPEN1, within: nAAD}
  SHUT: {scope: bank, effect: close, bus: row}
  SHUTALL: {scope: pseudochannel, effect: close, bus: row}
  GET: {scope: bank, needs: open, data: read, bus: column, ticks: 2, latency: nCL + nBL}
  PUT: {scope: bank, needs: open, data: write, bus: column, ticks: 2, latency: nCWL + nBL}
  RENEW: {scope: pseudochannel, needs: closed, refresh: true, bus: row, latency: nRFC}
rules:
  - {level: pseudochannel, prev: [GET], next: [GET], min: nCCDS}
  - {level: pseudochannel, prev: [PUT], next: [PUT], min: nCCDS}
  - {level: pseudochannel, prev: [GET], next: [PUT], min: nCL + nBL + 1 - nCWL}
  - {level: pseudochannel, prev: [PUT], next: [GET], min: nCWL + nBL + nWTR}
  - {level: bankgroup, prev: [GET], next: [GET], min: nCCDL}
  - {level: bankgroup, prev: [PUT], next: [PUT], min: nCCDL}
  - {level: pseudochannel, prev: [OPEN1], next: [OPEN1], min: nRRDS}
  - {level: pseudochannel, prev: [OPEN1], next: [OPEN1], min: nFAW, window: 4}
  - {level: bankgroup, prev: [OPEN1], next: [OPEN1], min: nRRDL}
  - {level: bank, prev: [OPEN1], next: [OPEN1], min: nRC}
  - {level: bank, prev: [OPEN2], next: [GET, PUT], min: nRCD}
  - {level: bank, prev: [OPEN1], next: [SHUT], min: nRAS}
  - {level: pseudochannel, prev: [OPEN1], next: [SHUTALL], min: nRAS}
  - {level: bank, prev: [SHUT], next: [OPEN1], min: nRP}
  - {level: bank, prev: [SHUT], next: [OPEN1], min: 1, sibling: true}
  - {level: pseudochannel, prev: [SHUTALL], next: [OPEN1, RENEW], min: nRP}
  - {level: bank, prev: [GET], next: [SHUT], min: nRTP}
  - {level: pseudochannel, prev: [GET], next: [SHUTALL], min: nRTP}
  - {level: bank, prev: [PUT], next: [SHUT], min: nCWL + nBL + nWR}
  - {level: pseudochannel, prev: [PUT], next: [SHUTALL], min: nCWL + nBL + nWR}
  - {level: pseudochannel, prev: [SHUT], next: [RENEW], min: nRP}
  - {level: pseudochannel, prev: [OPEN1], next: [RENEW], min: nRC}
  - {level: pseudochannel, prev: [RENEW], next: [OPEN1, RENEW], min: nRFC}
refresh: {policy: all_bank, interval: nREFI}
sources: {tck_ps: "assumed: a test"}
"""

ANY = -1
SCHEDULE: list[tuple[str, tuple[int, ...], int, int]] = [  # half clocks; gaps count from the last tick of a command
    ("OPEN1", (0, 0, 0), 5, 1),
    ("OPEN1", (1, 0, 0), 6, 1 + 3),  # the other pseudo channel: the row bus alone, three half clocks
    ("OPEN2", (0, 0, 0), 5, 4 + 3),  # six half clocks after its first step, as many as nAAD allows
    ("OPEN2", (1, 0, 0), 6, 7 + 2),
    ("OPEN1", (0, 1, 0), 7, 9 + 2),  # nRRDS has long passed
    ("OPEN2", (0, 1, 0), 7, 11 + 3),
    ("GET", (0, 0, 0), 5, 7 + 12),  # nRCD between two commands of two half clocks
    ("GET", (1, 0, 0), 6, 9 + 12),  # the column bus is free again
    ("GET", (0, 1, 0), 7, 14 + 12),
    ("GET", (0, 1, 0), 7, 26 + 6),  # nCCDL
    ("PUT", (0, 0, 0), 5, 32 + 2 * (7 + 2 + 1 - 4)),
    ("SHUT", (0, 1, 0), ANY, 45),  # nRTP has passed; the row bus takes half a clock
    ("SHUT", (0, 0, 0), ANY, 44 + 2 * (4 + 2 + 6) + 1),  # one half clock more for the longer write
    ("SHUTALL", (1, ANY, ANY), ANY, 70),
    ("RENEW", (1, ANY, ANY), ANY, 70 + 10),  # nRP between commands of half a clock
    ("OPEN1", (0, 0, 1), 1, 81),
    ("OPEN2", (0, 0, 1), 1, 84),
    ("OPEN1", (1, 1, 1), 2, 80 + 60 - 2),  # nRFC, two half clocks less for the longer activate
]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dram") / "invented.yaml"
    path.write_text(STANDARD, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def spec(file: Path) -> DramSpec:
    return load_dram(str(file)).value.resolve()


def test_schedule_by_hand(spec: DramSpec) -> None:
    issued = replay(spec, [make_command(spec, 0, name, 0, where, row) for name, where, row, _ in SCHEDULE])
    assert [(row.command, row.cycle) for row in issued] == [(name, tick) for name, _, _, tick in SCHEDULE]
    assert check_trace(spec, issued) == []


def test_random_commands_are_legal_and_tight(spec: DramSpec) -> None:
    tried = 0
    for seed in range(20):
        rows = replay(spec, random_list(spec, seed))
        assert check_trace(spec, rows) == []
        waited = [n for n in range(1, len(rows)) if rows[n].cycle > rows[n - 1].cycle + 1]
        for number in random.Random(seed).sample(waited, min(MOVED, len(waited))):
            moved = [*rows[:number], rows[number]._replace(cycle=rows[number].cycle - 1)]
            found = check_trace(spec, moved)
            assert found
            assert {one.kind for one in found} <= {"timing", "bus"}
            tried += 1
    assert tried > 100


def test_the_window_between_two_steps_counts_half_clocks(spec: DramSpec) -> None:
    for gap, legal in ((3, True), (6, True), (7, False)):
        steps = [("OPEN1", 1), ("OPEN2", 1 + gap)]
        rows = [make_command(spec, tick, name, 0, (0, 0, 0), 1) for name, tick in steps]
        assert (check_trace(spec, rows) == []) is legal


def test_the_command_line_takes_it(file: Path, tmp_path: Path) -> None:
    trace = tmp_path / "commands.csv"
    lines = [f"0,{name},0,{where[0]},0,{where[1]},{where[2]},{row},-1" for name, where, row, _ in SCHEDULE]
    trace.write_text("\n".join(["cycle,command,channel,pseudochannel,rank,bankgroup,bank,row,column", *lines, ""]))
    out = tmp_path / "issued.csv"
    done = CliRunner().invoke(app, ["replay", "--dram", str(file), "--trace", str(trace), "--out", str(out)])
    assert done.exit_code == 0, done.output
    ticks = [int(line.split(",")[0]) for line in out.read_text().splitlines()[1:]]
    assert ticks == [tick for *_, tick in SCHEDULE]
    verified = CliRunner().invoke(app, ["verify-trace", "--dram", str(file), "--trace", str(out)])
    assert verified.exit_code == 0
    assert "no violations" in verified.output


@pytest.mark.parametrize("folder", ["arch", "machine", "analysis", "trace"])
def test_no_code_knows_a_standard_by_name(folder: str) -> None:
    """Nor the two steps of an activate; the machine of GDDR6-AiM is one device with a host, and has a folder of its own."""
    names = re.compile(r"\b(lpddr|hbm|gddr|ddr)[0-9]+_|[\"']ACT[12][\"']", re.IGNORECASE)
    for path in sorted((Path(pimsim.__file__).parent / folder).rglob("*.py")):
        if "aim" not in path.parts:
            code = re.sub(r'"""(?:.|\n)*?"""|#.*', "", path.read_text(encoding="utf-8"))
            assert not names.search(code), path
