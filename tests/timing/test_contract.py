"""What every shipped DRAM standard must keep: replay is legal under the oracle, and tight.

Random lists of commands that the states of the banks allow are replayed. The oracle, which shares no code with the
calendar, accepts what comes out; and of every command that had to wait, one tick earlier breaks a rule that it names.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Iterator

import pytest

from pimsim import catalog
from pimsim.analysis.legality import check_trace
from pimsim.arch.dram import Command, DramSpec
from pimsim.config import load_dram
from pimsim.machine.replay import replay
from pimsim.trace.csvio import TraceCommand, make_command

Bank = tuple[int, ...]
Where = tuple[int, ...]

STANDARDS = catalog.names("dram")
LENGTH = 90
LISTS = 10
MOVED = 16
"""Commands of each list that are moved one tick."""


@functools.cache
def spec_of(standard: str) -> DramSpec:
    return load_dram(standard).value.resolve()


class Rows:
    """The open rows, kept apart from `pimsim.machine.bank`: a set of banks is looked at one bank at a time."""

    def __init__(self, spec: DramSpec) -> None:
        self.spec = spec
        self.open: dict[Bank, int] = {}
        self.begun: dict[Bank, str] = {}
        """Banks that have had the first of two steps."""

    def banks(self, command: Command, where: Where) -> Iterator[Bank]:
        depth = 0 if command.scope == "channel" else self.spec.levels.index(command.scope) + 1
        for number in range(math.prod(self.spec.counts)):
            bank: Bank = ()
            rest = number
            for count in reversed(self.spec.counts):
                bank, rest = (rest % count, *bank), rest // count
            if bank[:depth] == where[:depth]:
                yield bank

    def allow(self, command: Command, where: Where, row: int) -> bool:
        found = [self.open.get(bank) for bank in self.banks(command, where)]
        if command.after is not None and {self.begun.get(bank) for bank in self.banks(command, where)} != {
            command.after
        }:
            return False
        if command.needs == "closed":
            return all(one is None for one in found)
        return command.needs != "open" or (None not in found and (len(found) > 1 or found == [row]))

    def apply(self, command: Command, where: Where, row: int) -> None:
        seconds = [name for name, other in self.spec.commands.items() if other.after == command.name]
        for bank in self.banks(command, where):
            if seconds:
                self.begun[bank] = command.name
            if command.effect == "open":
                self.open[bank] = row
                self.begun.pop(bank, None)
            elif command.effect == "close":
                self.open.pop(bank, None)


def address(spec: DramSpec, command: Command, dice: random.Random) -> Where:
    """Somewhere among the first two nodes of each level, so that commands meet."""
    depth = 0 if command.scope == "channel" else spec.levels.index(command.scope) + 1
    levels = tuple(dice.randrange(min(count, 2)) if n < depth else -1 for n, count in enumerate(spec.counts))
    files = spec.register_files.items()
    return levels + tuple(dice.randrange(count) if command.register_file == name else -1 for name, count in files)


def random_list(spec: DramSpec, seed: int) -> list[TraceCommand]:
    """Commands that the banks allow; each kind as likely as any other, so that the rare ones come too."""
    dice, rows, listed = random.Random(seed), Rows(spec), list[TraceCommand]()
    names = sorted(spec.commands)
    while len(listed) < LENGTH or rows.begun:
        command = spec.commands[dice.choice(names)]
        where, row = address(spec, command, dice), dice.randrange(2)
        if rows.begun:  # the second step comes at once, or it might come too late
            (where, first) = next(iter(rows.begun.items()))
            command = next(other for other in spec.commands.values() if other.after == first)
        if rows.allow(command, where, row):
            rows.apply(command, where, row)
            named = (
                row if command.scope == spec.levels[-1] and (command.effect == "open" or command.data != "none") else -1
            )
            listed.append(make_command(spec, 0, command.name, 0, where, named))
    return listed


@functools.cache
def schedule(standard: str, seed: int) -> tuple[TraceCommand, ...]:
    return tuple(replay(spec_of(standard), random_list(spec_of(standard), seed)))


@pytest.mark.parametrize("standard", STANDARDS)
def test_replay_is_legal(standard: str) -> None:
    for seed in range(LISTS):
        assert check_trace(spec_of(standard), schedule(standard, seed)) == []


@pytest.mark.parametrize("standard", STANDARDS)
def test_replay_is_tight(standard: str) -> None:
    """One tick earlier breaks a timing rule or the occupancy of a bus, and the finding names both commands."""
    spec, tried = spec_of(standard), 0
    for seed in range(LISTS):
        rows = schedule(standard, seed)
        waited = [n for n in range(1, len(rows)) if rows[n].cycle > rows[n - 1].cycle + 1]
        for number in random.Random(seed).sample(waited, min(MOVED, len(waited))):
            moved = [*rows[:number], rows[number]._replace(cycle=rows[number].cycle - 1)]
            found = check_trace(spec, moved)
            assert {one.index for one in found} == {number}
            rules = [one.constraint for one in found if one.kind in ("timing", "bus")]
            earlier = {row.command for row in rows[:number]}
            assert rules
            assert all(any(f"{name}->{rows[number].command} >= " in rule for name in earlier) for rule in rules)
            tried += 1
    assert tried > LISTS * MOVED / 2


@pytest.mark.parametrize("standard", STANDARDS)
def test_every_command_is_tried(standard: str) -> None:
    seen = {row.command for seed in range(LISTS) for row in schedule(standard, seed)}
    assert seen == set(spec_of(standard).commands)
