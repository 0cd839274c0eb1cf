"""Every rule of every shipped DRAM standard: blocked one tick before its gap has passed, open when it has.

Each test issues commands that only the rule under test can tie together, then asks the calendar; gaps are written
with timing names, so the tests serve any speed grade.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest

from pimsim.arch.dram import DramSpec
from pimsim.arch.rules import evaluate
from pimsim.config import load_dram
from pimsim.errors import SimulationError, UnknownName
from pimsim.machine.calendar import Calendar

STANDARDS = ("ddr4_3200aa", "gddr6_14000", "hbm2_2000")
START = 100_000


@functools.cache
def spec_of(standard: str) -> DramSpec:
    return load_dram(standard).value.resolve()


class Bench:
    """A calendar driven by level names; levels that are not given are 0, those below the scope are not addressed."""

    def __init__(self, spec: DramSpec) -> None:
        self.spec, self.calendar = spec, Calendar(spec)

    def where(self, command: str, **levels: int) -> tuple[int, ...]:
        scope = self.spec.commands[command].scope
        depth = 0 if scope == "channel" else self.spec.levels.index(scope) + 1
        named = [levels.get(level, 0) if d < depth else -1 for d, level in enumerate(self.spec.levels)]
        return (*named, *(-1 for _ in self.spec.register_files))

    def probe(self, command: str, **levels: int) -> int:
        return self.calendar.earliest(self.calendar.plan(command, self.where(command, **levels)))

    def binding(self, command: str, **levels: int) -> tuple[int, str]:
        return self.calendar.binding(self.calendar.plan(command, self.where(command, **levels)))

    def issue(self, command: str, tick: int, **levels: int) -> None:
        assert tick >= self.probe(command, **levels), f"{command} at {tick} is too early"
        self.calendar.record(self.calendar.plan(command, self.where(command, **levels)), tick)

    def assert_earliest(self, command: str, tick: int, **levels: int) -> None:
        """Blocked at ``tick - 1``, open at `tick`."""
        assert self.probe(command, **levels) == tick
        assert self.binding(command, **levels)[0] == tick

    def gap(self, expression: str, prev: str = "", next_: str = "") -> int:
        """An expression in timing names, corrected for bus ticks as JEDEC counts (HBM)."""
        extra = {name: command.ticks - 1 for name, command in self.spec.commands.items()} | {"": 0}
        return int(evaluate(expression, self.spec.timing)) + extra[prev] - extra[next_]


@pytest.fixture(params=STANDARDS)
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(spec_of(request.param))


def rules() -> list[tuple[str, int, str, str]]:
    return [
        (standard, number, prev, next_)
        for standard in STANDARDS
        for number, rule in enumerate(spec_of(standard).rules)
        for prev in rule.prev
        for next_ in rule.next
        if rule.gap and not (rule.sibling and spec_of(standard).counts[spec_of(standard).levels.index(rule.level)] < 2)
    ]


@pytest.mark.parametrize(("standard", "number", "prev", "next_"), rules())
def test_each_rule_is_kept_and_tight(standard: str, number: int, prev: str, next_: str) -> None:
    """With this rule alone, the gap is exactly that of the rule; with all rules, at least that."""
    spec = spec_of(standard)
    rule = spec.rules[number]
    alone, together = Bench(replace(spec, rules=(rule,))), Bench(spec)
    for bench in (alone, together):
        tick = START
        for _ in range(rule.window):
            bench.issue(prev, max(tick, bench.probe(prev)))
            tick = bench.probe(next_) if prev == next_ else tick + spec.commands[prev].ticks
    first = {id(bench): bench.probe(next_) for bench in (alone, together)}
    busy = [c.ticks for c in spec.commands.values() if c.name == prev and c.bus == spec.commands[next_].bus]
    expected = START + max(rule.gap, rule.window * max(busy, default=0))
    assert first[id(alone)] == expected
    assert first[id(together)] >= START + rule.gap


def test_nothing_issued_blocks_nothing(bench: Bench) -> None:
    for command in bench.spec.commands:
        assert bench.binding(command) == (0, "")


def test_precharge_after_activate_waits_nras(bench: Bench) -> None:
    bench.issue("ACT", START)
    bench.assert_earliest("PREpb", START + bench.gap("nRAS", "ACT"))
    assert bench.binding("PREpb")[1] == "nRAS"


def test_all_bank_precharge_after_activate_waits_nras(bench: Bench) -> None:
    bench.issue("ACT", START, bankgroup=3, bank=2)
    bench.assert_earliest("PREab", START + bench.gap("nRAS", "ACT"))


def test_activate_after_precharge_waits_nrp(bench: Bench) -> None:
    bench.issue("PREpb", START)
    bench.assert_earliest("ACT", START + bench.gap("nRP", "PREpb", "ACT"))
    assert bench.probe("ACT", bank=1) <= START + 1


def test_activate_after_all_bank_precharge_waits_nrp_in_every_bank(bench: Bench) -> None:
    bench.issue("PREab", START)
    for bank in range(4):
        bench.assert_earliest("ACT", START + bench.gap("nRP", "PREab", "ACT"), bank=bank)


def test_read_and_write_wait_for_their_row(bench: Bench) -> None:
    bench.issue("ACT", START)
    read, write = ("nRCDRD", "nRCDWR") if "nRCDRD" in bench.spec.timing else ("nRCD", "nRCD")
    bench.assert_earliest("RD", START + bench.gap(read, "ACT"))
    bench.assert_earliest("WR", START + bench.gap(write, "ACT"))
    assert bench.binding("RD")[1] == read


def test_activate_in_the_same_bank_waits_nrc(bench: Bench) -> None:
    bench.issue("ACT", START)
    bench.assert_earliest("ACT", START + bench.gap("max(nRC, nRRDL)"))


def test_activates_of_other_banks_wait_nrrd(bench: Bench) -> None:
    bench.issue("ACT", START)
    bench.assert_earliest("ACT", START + bench.gap("nRRDL"), bank=1)
    bench.assert_earliest("ACT", START + bench.gap("nRRDS"), bankgroup=1)


def test_fifth_activate_waits_nfaw(bench: Bench) -> None:
    tick = START
    for bankgroup in range(4):
        bench.issue("ACT", tick := max(tick, bench.probe("ACT", bankgroup=bankgroup)), bankgroup=bankgroup)
    latest = tick + bench.gap("nRRDL")
    bench.assert_earliest("ACT", max(latest, START + bench.gap("nFAW")), bankgroup=0, bank=1)


def test_column_commands_of_one_and_of_two_bank_groups(bench: Bench) -> None:
    for command in ("RD", "WR"):
        fresh = Bench(bench.spec)
        fresh.issue(command, START)
        fresh.assert_earliest(command, START + fresh.gap("nCCDL"), bank=1)
        fresh.assert_earliest(command, START + fresh.gap("max(nCCDS, nBL)"), bankgroup=1)


def test_read_after_write_turns_the_bus(bench: Bench) -> None:
    bench.issue("WR", START)
    bench.assert_earliest("RD", START + bench.gap("nCWL + nBL + nWTRL"), bank=1)
    bench.assert_earliest("RD", START + bench.gap("nCWL + nBL + nWTRS"), bankgroup=1)


def test_precharge_after_write_waits_for_recovery(bench: Bench) -> None:
    bench.issue("WR", START)
    bench.assert_earliest("PREpb", START + bench.gap("nCWL + nBL + nWR"))
    bench.assert_earliest("PREab", START + bench.gap("nCWL + nBL + nWR"))


def test_auto_precharge_delays_the_next_activate(bench: Bench) -> None:
    bench.issue("WRA", START)
    bench.assert_earliest("ACT", START + bench.gap("nCWL + nBL + nWR + nRP", "WRA", "ACT"))


def test_nothing_activates_during_refresh(bench: Bench) -> None:
    refresh = "nRFCab" if "nRFCab" in bench.spec.timing else "nRFC"
    bench.issue("REFab", START)
    bench.assert_earliest("ACT", START + bench.gap(refresh, "REFab", "ACT"), bankgroup=2, bank=3)


def test_pseudo_channels_share_only_the_command_buses() -> None:
    bench = Bench(spec_of("hbm2_2000"))
    bench.issue("ACT", START, pseudochannel=0)
    assert bench.binding("ACT", pseudochannel=1) == (START + 2, "bus")
    assert bench.binding("RD", pseudochannel=1) == (0, "")
    bench.issue("RD", START + 20, pseudochannel=0)
    assert bench.binding("RD", pseudochannel=1) == (START + 21, "bus")
    assert bench.binding("PREpb", pseudochannel=1) == (START + 2, "bus")


@pytest.mark.parametrize("standard", STANDARDS)
def test_horizon_is_the_longest_gap(standard: str) -> None:
    spec = spec_of(standard)
    assert Calendar(spec).horizon == max(rule.gap for rule in spec.rules)


def test_same_bank_command_addresses_the_bank_in_every_group() -> None:
    """An address of -1 above the scope stands for every node there."""
    spec = spec_of("gddr6_14000")
    calendar = Calendar(spec)
    calendar.record(calendar.plan("REFpb", (-1, 2)), START)
    for bankgroup in range(4):
        assert calendar.earliest(calendar.plan("ACT", (bankgroup, 2))) == START + spec.timing["nRFCpb"]
        assert calendar.earliest(calendar.plan("ACT", (bankgroup, 1))) == START + spec.timing["nRREFD"]
    fresh = Calendar(spec)
    fresh.record(fresh.plan("ACT", (3, 2)), START)
    assert fresh.earliest(fresh.plan("REFpb", (-1, 2))) == START + spec.timing["nRC"]


def test_plan_refuses_bad_addresses() -> None:
    calendar = Calendar(spec_of("gddr6_14000"))
    with pytest.raises(UnknownName, match=r"^DRAM command must be one of ACT, .*, not 'ACTT'; did you mean 'ACT'\?$"):
        calendar.plan("ACTT", (0, 0))
    with pytest.raises(SimulationError, match=r"^address of ACT must have 2 entries \(bankgroup, bank\), not \(0,\)$"):
        calendar.plan("ACT", (0,))
    with pytest.raises(SimulationError, match=r"^bank of ACT must be -1 or lie in 0\.\.3, not 4$"):
        calendar.plan("ACT", (0, 4))
