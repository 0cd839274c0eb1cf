"""Activates in two steps: the order of the steps, the window between them, and what may come in between."""

from __future__ import annotations

import random

import pytest

from pimsim.analysis.legality import check_trace
from pimsim.arch.dram import DramSpec
from pimsim.config import load_arch, load_dram
from pimsim.errors import ConfigError, TimingViolation
from pimsim.machine.bank import BankState
from pimsim.machine.replay import replay
from pimsim.trace.csvio import TraceCommand, make_command

STANDARDS = ("lpddr5_6400", "lpddr5_6400_pim")
BANK, OTHER = (0, 0, 0), (0, 1, 0)
ANY = -1
Step = tuple[str, tuple[int, ...], int]
"""(command, address, tick)."""


def spec_of(standard: str = "lpddr5_6400", *options: tuple[str, str]) -> DramSpec:
    return load_dram(standard, list(options)).value.resolve()


def rows_of(spec: DramSpec, steps: list[Step]) -> list[TraceCommand]:
    places = {"rank": lambda where: (where[0], ANY, ANY), "channel": lambda where: (ANY, ANY, ANY)}
    return [
        make_command(spec, tick, name, 0, places.get(spec.commands[name].scope, tuple)(where), -1)
        for name, where, tick in steps
    ]


def found(spec: DramSpec, *steps: Step) -> list[str]:
    """What the oracle says, without the place."""
    return [
        f"{one.command}: {one.constraint}, not {one.found}" for one in check_trace(spec, rows_of(spec, list(steps)))
    ]


@pytest.mark.parametrize("standard", STANDARDS)
def test_the_second_step_may_come_at_once_or_up_to_eight_clocks_later(standard: str) -> None:
    """JEDEC's tAAD is 8 clocks, as Ramulator 2.1 and gem5 have it."""
    spec = spec_of(standard)
    assert [found(spec, ("ACT1", BANK, 1), ("ACT2", BANK, 1 + gap)) for gap in (1, 2, 8)] == [[], [], []]
    assert found(spec, ("ACT1", BANK, 1), ("ACT2", BANK, 1 + 9)) == ["ACT2: Bank: ACT1->ACT2 <= 8, not 9"]


@pytest.mark.parametrize("clocks", [7, 9])
def test_one_clock_in_the_window_is_noticed(clocks: int) -> None:
    spec = spec_of("lpddr5_6400", ("timing.nAAD", str(clocks)))
    late = [found(spec, ("ACT1", BANK, 1), ("ACT2", BANK, 1 + gap)) for gap in (8, 9)]
    assert [bool(each) for each in late] == [clocks < 8, clocks < 9]


def test_a_second_step_needs_a_first_of_its_own() -> None:
    spec = spec_of()
    assert found(spec, ("ACT2", BANK, 1)) == ["ACT2: ACT2 after ACT1 only, not rank 0, bankgroup 0, bank 0 without it"]
    assert found(spec, ("ACT1", OTHER, 1), ("ACT2", BANK, 2)) == [
        "ACT2: ACT2 after ACT1 only, not rank 0, bankgroup 0, bank 0 without it"
    ]
    twice = found(spec, ("ACT1", BANK, 1), ("ACT2", BANK, 2), ("PREab", BANK, 40), ("ACT2", BANK, 60))
    assert twice == ["ACT2: ACT2 after ACT1 only, not rank 0, bankgroup 0, bank 0 without it"]


@pytest.mark.parametrize("between", ["REFpb", "REFab", "ACT1"])
def test_a_bank_that_has_begun_to_open_is_not_closed(between: str) -> None:
    where = (0, ANY, ANY) if between == "REFab" else BANK
    said = found(spec_of(), ("ACT1", BANK, 1), (between, where, 100))
    assert f"{between}: {between} on closed banks only, not rank 0, bankgroup 0, bank 0 after ACT1 alone" in said


def test_commands_of_other_banks_may_pass_between_the_steps() -> None:
    spec = spec_of()
    steps: list[Step] = [
        ("ACT1", OTHER, 1), ("ACT2", OTHER, 2), ("RD", OTHER, 1 + 15), ("ACT1", BANK, 17), ("RD", OTHER, 16 + 4),
        ("ACT2", BANK, 21), ("RD", BANK, 17 + 15),
    ]  # fmt: skip
    assert found(spec, *steps) == []
    assert [row.cycle for row in replay(spec, rows_of(spec, steps))] == [tick for _, _, tick in steps]


def test_replay_says_that_a_step_is_missing_or_late() -> None:
    spec = spec_of()
    with pytest.raises(TimingViolation) as missing:
        replay(spec, rows_of(spec, [("ACT2", BANK, 0)]))
    assert str(missing.value) == "command 1: ACT2 must follow ACT1, which rank 0, bankgroup 0, bank 0 has not had"
    held_up: list[Step] = [
        ("ACT1", OTHER, 0),
        ("ACT2", OTHER, 0),
        ("ACT1", BANK, 0),
        ("RD", OTHER, 0),
        ("ACT2", BANK, 0),
    ]
    with pytest.raises(TimingViolation) as late:
        replay(spec, rows_of(spec, held_up))
    assert str(late.value) == (
        "command 5: ACT2 must come at most 8 ticks after ACT1 of rank 0, bankgroup 0, bank 0, not 12"
    )
    with pytest.raises(TimingViolation) as begun:
        replay(spec, rows_of(spec, [("ACT1", BANK, 0), ("REFpb", BANK, 0)]))
    assert str(begun.value) == (
        "command 2: REFpb must find a closed bank, not rank 0, bankgroup 0, bank 0 after ACT1 alone"
    )


def test_the_way_to_an_open_row_has_both_steps() -> None:
    spec = spec_of()
    banks, way = BankState(spec), []
    while (step := banks.next_command("RD", BANK, 7))[0] != "RD":
        banks.check(*step, 7)
        banks.apply(*step, 7)
        way.append(step)
    assert way == [("ACT1", BANK), ("ACT2", BANK)]
    assert banks.next_command("RD", BANK, 8) == ("PREpb", BANK)


@pytest.mark.parametrize("seed", range(40))
def test_states_of_the_machine_and_of_the_oracle_agree(seed: int) -> None:
    """Random commands far apart, so that only states and the window count; what is refused is left out of the history."""
    dice, spec = random.Random(seed), spec_of()
    banks, kept, tick = BankState(spec), list[TraceCommand](), 1
    verdicts = set()
    for _ in range(60):
        name = dice.choice(["ACT1", "ACT1", "ACT2", "ACT2", "ACT2", "PREpb", "PREab", "RD", "REFpb", "REFab"])
        (row,) = rows_of(spec, [(name, dice.choice([BANK, OTHER]), tick)])
        where = (row.rank, row.bankgroup, row.bank)
        said = [one for one in check_trace(spec, [*kept, row]) if one.index == len(kept)]
        wrong = [one for one in said if one.kind == "state" or "<=" in one.constraint]
        try:
            banks.check(name, where, -1, tick)
        except TimingViolation:
            assert wrong, (name, where)
            verdicts.add(False)
        else:
            assert not wrong, wrong
            banks.apply(name, where, -1, tick)
            kept.append(row)
            verdicts.add(True)
        tick += dice.choice([1, 4, 300])
    assert verdicts == {True, False}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("commands.ACT2.after", "ACT3"), "commands.ACT2.after: command must be one of ACT1, ACT2,"),
        (("commands.ACT2.after", "PREab"), "must be another command with scope: bank, no effect and no after, which PREab is"),
        (("commands.ACT2.after", "ACT2"), "must be another command with scope: bank, no effect and no after, which ACT2 is"),
        (("commands.ACT2.after", "null"), "must be left out where after is"),
        (("commands.ACT2.within", "0"), "must be a time > 0, not 0 (0)"),
        (("commands.ACT2.within", "nAADD"), "commands.ACT2.within: a name must be one of"),
    ],
)  # fmt: skip
def test_wrong_steps_are_refused(option: tuple[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_dram("lpddr5_6400", [option])
    assert message in str(caught.value)
    assert "commands.ACT2." in str(caught.value)


def test_a_controller_wants_an_activate_of_one_step() -> None:
    options = [("dram", "{base: dram/lpddr5_6400}"), ("controller.commands.activate", "ACT2")]
    with pytest.raises(ConfigError) as caught:
        load_arch("ddr4_memory", options)
    said = (
        "controller.commands.activate: must be a command without a first step, which ACT2 is not: ACT1 goes before it"
    )
    assert said in str(caught.value)
