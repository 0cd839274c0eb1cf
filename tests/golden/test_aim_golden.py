"""The GDDR6-AiM machine against aim_simulator: cycles, commands and command logs (tests/data/aim)."""

from __future__ import annotations

import csv
import functools
import io
import itertools
import json
import zipfile
from pathlib import Path

import pytest

from pimsim.analysis.legality import check_trace
from pimsim.arch.dram import DramSpec
from pimsim.config import load_arch, load_dram
from pimsim.errors import TraceError
from pimsim.machine.aim.host import AimRun, run_aim
from pimsim.machine.aim.policy import POLICIES
from pimsim.machine.replay import replay
from pimsim.program.aim_isr import Instruction, Limits, parse_instructions
from pimsim.run import simulate
from pimsim.trace.csvio import make_command, read_trace

GOLDEN = zipfile.ZipFile(Path(__file__).parents[1] / "data" / "aim" / "golden.zip")
ROWS = list(csv.DictReader(io.StringIO(GOLDEN.read("expected.csv").decode())))
QUIRKS = {"ref_off": "aim_simulator", "ref_on": "aim_simulator_refreshed"}
FORWARDED = {("mi_rw_mixed_queue", "RD"): 1}
"""Reads that find their address in the write queue, and so need no command."""

LIMITS = Limits(channels=32, banks=16, rows=16384, columns=64)


@functools.cache
def spec() -> DramSpec:
    return load_dram("aim_gddr6").value.resolve()


def instructions(case: str) -> list[Instruction]:
    return parse_instructions(GOLDEN.read(f"traces/{case}.trace").decode().splitlines(), LIMITS)


def run(case: str, quirks: str, *, log: bool = False) -> AimRun:
    return run_aim(spec(), POLICIES[quirks], instructions(case), log=log)


def log_rows(result: AimRun) -> list[list[str]]:
    return [
        [str(e.cycle), e.command, *map(str, e.where), str(e.row), str(e.column), str(e.source)]
        for e in result.channel_log(0)
    ]


@pytest.mark.parametrize("refresh", QUIRKS)
def test_every_case_is_exact(refresh: str) -> None:
    rows = [row for row in ROWS if row["refresh"] == refresh]
    assert len(rows) == 109
    wrong = []
    for row in rows:
        result = run(row["case"], QUIRKS[refresh], log=refresh == "ref_off")
        expected = {k.removeprefix("ch0_"): int(n) for k, n in row.items() if k.startswith("ch0_") and int(n)}
        total = sum(result.total_counts.values())
        found = (result.cycles, dict(result.channel_counts(0)), total)
        if found != (int(row["cycles"]), expected, int(row["all_channels_total_cmds"])):
            wrong.append((row["case"], found))
        name = f"cmdlogs/ref_off/{row['case']}.csv"
        if refresh == "ref_off" and name in GOLDEN.namelist():
            logged = list(csv.reader(io.StringIO(GOLDEN.read(name).decode())))[1:]
            if log_rows(result) != logged:
                wrong.append((row["case"], "log"))
    assert wrong == []


def test_resolved_rules_are_those_of_the_simulator() -> None:
    own: dict[tuple[str, str, str], int] = {}
    for rule in spec().rules:
        for prev, next_ in itertools.product(rule.prev, rule.next):
            own[rule.level, prev, next_] = max(rule.gap, own.get((rule.level, prev, next_), 0))
    rows = json.loads(GOLDEN.read("configs/timing_ref_on.json"))["rules"]
    golden = {(r["level"], r["prev"], r["next"]): r["min_gap"] for r in rows if r["next"] not in ("SYNC", "EOC")}
    assert own == golden


def test_other_timing_numbers_count() -> None:
    """One row of 64 columns: ACT16 at 1, then 64 MAC16; EOC is answered two cycles after the last."""
    loaded = load_dram("aim_gddr6", [("timing.nRCDRDMAC", "70"), ("timing.nCCDL", "5")])
    result = run_aim(loaded.value.resolve(), POLICIES["aim_simulator"], instructions("mi_mac_abk_64"))
    assert result.cycles == 1 + 70 + 63 * 5 + 2


@pytest.mark.parametrize("case", sorted({row["case"] for row in ROWS if row["case"].startswith("mi_")}))
def test_without_quirks_every_command_is_legal_and_no_access_is_lost(case: str) -> None:
    result = run(case, "none", log=True)
    trace = [
        make_command(spec(), e.cycle, e.command, 0, log_where(e.command, e.where), e.row, e.column)
        for e in result.channel_log(0)
    ]
    assert check_trace(spec(), trace) == []
    plain = [i.form.command for i in instructions(case) if i.form.plain and 0 in i.channels]
    for command in ("RD", "WR"):
        assert result.channel_counts(0)[command] == plain.count(command) - FORWARDED.get((case, command), 0)


def log_where(command: str, where: tuple[int, ...]) -> tuple[int, ...]:
    return where if spec().commands[command].scope == "bank" else (-1, -1)


def test_without_quirks_a_lone_read_is_waited_for() -> None:
    """The simulator ends after three cycles; ACT at 1, RD at 37, data 52 clocks later."""
    assert run("mi_r_mem_1", "aim_simulator").cycles == 3
    assert run("mi_r_mem_1", "none").cycles > 1 + 36 + 52


def test_shipped_machines_differ_in_their_quirks() -> None:
    assert load_arch("aim_gddr6").value.quirks == "aim_simulator"
    assert load_arch("aim_gddr6_proper").value.quirks == "none"


def test_run_takes_a_trace_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.trace"
    file.write_bytes(GOLDEN.read("traces/mi_mac_abk_64_two_rows.trace"))
    result = simulate("aim_gddr6", str(file))
    assert result.time.cycles == 411
    assert result.dram.commands == {"PREA": 1, "ACT16": 2, "MAC16": 128}
    assert result.to_json()["tokens"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("AiM MAC_ABK 1 0x80000000 0\n", "t:1: the last instruction must be AiM EOC"),
        ("AiM EOC\nAiM SYNC\n", "t:2: EOC must be the last instruction; nothing may follow it"),
        ("LD 0\n", "t:1: an instruction must start with AiM, R or W, not 'LD'"),
        ("AiM SYNC\nAiM MAC_ABK 65 0x1 0\nAiM EOC\n", "t:2: size must lie in 1..64, not 65"),
        ("AiM AF 0x0\n", "t:1: mask must lie in 1..4294967295, not 0"),
        ("W MEM 32 0 0\n", "t:1: channel must lie in 0..31, not 32"),
        ("AiM AF -1\n", "t:1: mask must be a number >= 0, decimal or 0x..., not '-1'"),
        ("AiM SYNC 1\n", "t:1: must have 0 operands, AiM SYNC; not 1"),
        ("", "t: the last instruction must be AiM EOC"),
    ],
)
def test_a_bad_line_is_named(text: str, message: str) -> None:
    with pytest.raises(TraceError) as caught:
        parse_instructions(text.splitlines(), LIMITS, "t")
    assert str(caught.value) == message


def test_the_table_in_the_docs_is_what_the_machine_does() -> None:
    text = (Path(__file__).parents[2] / "docs" / "aim.md").read_text(encoding="utf-8")
    cells = [
        [c.strip() for c in line.strip("| ").split("|")]
        for line in text.splitlines()
        if line.startswith(("| mi_", "| gemv"))
    ]
    assert len(cells) == 6
    for case, quirky, proper in cells:
        assert (quirky, proper) == (f"{run(case, 'aim_simulator').cycles:,}", f"{run(case, 'none').cycles:,}")


def test_a_command_log_of_the_simulator_can_be_replayed(tmp_path: Path) -> None:
    """The host does not hold this case back, so each command is logged at its earliest legal cycle."""
    file = tmp_path / "log.csv"
    file.write_bytes(GOLDEN.read("cmdlogs/ref_off/mi_mac_abk_64_two_rows.csv"))
    rows = read_trace(file)
    assert [row.cycle for row in replay(spec(), rows, file)] == [row.cycle for row in rows]
    assert check_trace(spec(), rows, file) == []
