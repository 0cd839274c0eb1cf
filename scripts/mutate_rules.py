#!/usr/bin/env python
"""Mutation testing of timing rules: is one clock more or less in any rule of a shipped standard noticed?

A mutant is a standard with one row of ``rules``, or the window between two steps of a command, changed by one clock. Its
witnesses share nothing with the YAML file:

``table``
    the smallest distance of each pair of commands, in ticks: from the reference simulators (``config.json``,
    ``timing_ref_on.json``), or written by hand from the source (``tests/data/dram/pairs``);
``traces``
    recorded traces, which the oracle must accept; single moved commands, which it must reject; random command lists,
    which replay must give clock by clock; for GDDR6-AiM, the cycles of the small cases of aim_simulator.

A mutant that changes no largest distance (another row asks for more) behaves like the original and is not counted.
Without arguments, every standard is tried and the table of docs/trust.md is printed; ``--write`` puts it there.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import sys
import zipfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pimsim import catalog
from pimsim.analysis.legality import check_trace
from pimsim.arch.dram import DramConfig, DramSpec
from pimsim.config import load_dram
from pimsim.machine.aim.host import run_aim
from pimsim.machine.aim.policy import POLICIES
from pimsim.machine.replay import replay
from pimsim.program.aim_isr import Instruction, Limits, parse_instructions
from pimsim.trace.csvio import TraceCommand, read_trace

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
PAGE = ROOT / "docs" / "trust.md"
BEGIN, END = "<!-- mutants: begin -->", "<!-- mutants: end -->"

RECORDED = ("ddr4_3200aa", "gddr6_14000", "hbm2_2000")
AIM = "aim_gddr6"
AIM_COMMANDS = 500
"""Cases of aim_simulator with fewer commands are tried."""
BASES = {"hbm3_6400_pim": "hbm3_6400", "lpddr5_6400_pim": "lpddr5_6400"}
"""Standards whose table adds to that of another."""

Pair = tuple[str, str, str, int, bool]
"""(level, earlier command, later command, window, sibling); a window of 0 stands for a largest distance."""
Table = dict[Pair, int]


class Mutant(NamedTuple):
    """A standard with one row changed."""

    row: int
    """Of the rules; behind them, the windows of second steps."""
    clocks: int
    spec: DramSpec


def largest(rows: Iterable[tuple[Pair, int]]) -> Table:
    """The largest distance of each pair."""
    table: Table = {}
    for pair, ticks in rows:
        table[pair] = max(ticks, table.get(pair, 0))
    return table


def own_table(spec: DramSpec) -> Table:
    """The distances that a standard asks for, with what a bus that is busy for several ticks means."""
    timing = [
        ((rule.level, prev, next_, rule.window, rule.sibling), rule.gap)
        for rule in spec.rules
        for prev, next_ in itertools.product(rule.prev, rule.next)
    ]
    bus = [
        (("channel", prev.name, next_.name, 1, False), prev.ticks)
        for prev, next_ in itertools.product(spec.commands.values(), repeat=2)
        if prev.bus == next_.bus and prev.ticks > 1
    ]
    steps = [
        ((spec.levels[-1], second.after, name, 0, False), second.within)
        for name, second in spec.commands.items()
        if second.after is not None and second.within is not None
    ]
    return largest(timing + bus + steps)


@cache
def expected_table(standard: str) -> Table:
    """The distances as the source of the standard has them."""
    if standard in RECORDED:
        config = json.loads((DATA / "dram" / standard / "config.json").read_text())
        return largest(
            ((row["level"].lower(), prev, next_, row["window"], row["sibling"]), row["min_cycles"])
            for row in config["constraints_resolved_ticks"]
            for prev, next_ in itertools.product(row["prev"], row["next"])
        )
    if standard == AIM:
        content = zipfile.ZipFile(DATA / "aim" / "golden.zip").read("configs/timing_ref_on.json")
        rows = [row for row in json.loads(content)["rules"] if row["next"] not in ("SYNC", "EOC")]
        return largest(((row["level"], row["prev"], row["next"], 1, False), row["min_gap"]) for row in rows)
    written = largest(_written(standard))
    return expected_table(BASES[standard]) | written if standard in BASES else written


def _written(standard: str) -> Iterator[tuple[Pair, int]]:
    text = (DATA / "dram" / "pairs" / f"{standard}.csv").read_text()
    for row in csv.DictReader(io.StringIO(text)):
        for prev, next_ in itertools.product(row["prev"].split(), row["next"].split()):
            yield (row["level"], prev, next_, int(row["window"]), row["sibling"] == "true"), int(row["ticks"])


def mutants(config: DramConfig, numbers: Iterable[int] | None = None) -> Iterator[Mutant]:
    """Each row (or those with these numbers) with one clock more and with one less, where that changes a distance."""
    original = own_table(config.resolve())
    for number in range(len(config.rules)) if numbers is None else numbers:
        row = config.rules[number]
        for clocks in (1, -1):
            changed = row.model_copy(update={"min": f"{row.min} + {clocks}"})
            rules = [*config.rules[:number], changed, *config.rules[number + 1 :]]
            spec = config.model_copy(update={"rules": rules}).resolve()
            if own_table(spec) != original:
                yield Mutant(number, clocks, spec)
    seconds = [name for name, command in config.commands.items() if command.within is not None]
    for number, name in enumerate(seconds if numbers is None else (), start=len(config.rules)):
        for clocks in (1, -1):
            command = config.commands[name].model_copy(update={"within": f"{config.commands[name].within} + {clocks}"})
            commands = config.commands | {name: command}
            yield Mutant(number, clocks, config.model_copy(update={"commands": commands}).resolve())


@cache
def _traces(standard: str) -> tuple[dict[str, list[TraceCommand]], list[dict[str, str]]]:
    """The recorded traces of a standard by file name, and the moves of single commands."""
    folder = DATA / "dram" / standard
    with (DATA / "dram" / "negative_cases.csv").open() as file:
        moves = [row for row in csv.DictReader(file) if row["set"] == standard]
    return {path.name: read_trace(path) for path in sorted(folder.glob("*.cmd*.csv"))}, moves


@cache
def _aim_cases() -> list[tuple[list[Instruction], int]]:
    """The small instruction traces of aim_simulator without refresh, each with its cycles; short ones first."""
    archive = zipfile.ZipFile(DATA / "aim" / "golden.zip")
    limits = Limits(channels=32, banks=16, rows=16384, columns=64)
    rows = csv.DictReader(io.StringIO(archive.read("expected.csv").decode()))
    small = [row for row in rows if row["refresh"] == "ref_off" and int(row["all_channels_total_cmds"]) < AIM_COMMANDS]
    small.sort(key=lambda row: int(row["all_channels_total_cmds"]))
    texts = [archive.read(f"traces/{row['case']}.trace").decode() for row in small]
    return [
        (parse_instructions(text.splitlines(), limits), int(row["cycles"]))
        for text, row in zip(texts, small, strict=True)
    ]


def noticed_by_aim(spec: DramSpec) -> bool:
    """Whether the cycles of a case of aim_simulator say that the rules are not those of GDDR6-AiM."""
    policy = POLICIES["aim_simulator"]
    return any(run_aim(spec, policy, instructions).cycles != cycles for instructions, cycles in _aim_cases())


def noticed_by_traces(standard: str, spec: DramSpec) -> bool:
    """Whether a recorded trace says that the rules are not those of the standard."""
    if standard == AIM:
        return noticed_by_aim(spec)
    traces, moves = _traces(standard)
    for name, rows in traces.items():
        if ".cmdseq." in name and [row.cycle for row in replay(spec, rows)] != [row.cycle for row in rows]:
            return True
    if any(check_trace(spec, rows) for rows in traces.values()):
        return True
    return any(not _rejects(spec, traces[move["file"]], move) for move in moves)


def _rejects(spec: DramSpec, rows: list[TraceCommand], move: dict[str, str]) -> bool:
    number = next(n for n, row in enumerate(rows) if row.line == int(move["line_number"]))
    moved = [*rows[:number], rows[number]._replace(cycle=int(move["illegal_clk"]))]
    return any(violation.index == number for violation in check_trace(spec, moved))


def score(standard: str) -> tuple[int, int, int, int | None]:
    """(rows, mutants, noticed by the table, noticed by traces or None where there are none)."""
    config = load_dram(standard).value
    tried = list(mutants(config))
    table = sum(own_table(mutant.spec) != expected_table(standard) for mutant in tried)
    recorded = standard in (*RECORDED, AIM)
    traces = sum(noticed_by_traces(standard, mutant.spec) for mutant in tried) if recorded else None
    return len(config.rules), len(tried), table, traces


def report() -> str:
    """The scores of all shipped standards as a Markdown table."""
    lines = ["| standard | rules | mutants | noticed by the table | noticed by recorded traces |"]
    lines += ["| --- | ---: | ---: | ---: | ---: |"]
    for standard in catalog.names("dram"):
        rules, tried, table, traces = score(standard)
        lines.append(f"| `{standard}` | {rules} | {tried} | {table} | {'' if traces is None else traces} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, or write it into the page."""
    text = report()
    if sys.argv[1:] != ["--write"]:
        sys.stdout.write(text + "\n")
        return
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
