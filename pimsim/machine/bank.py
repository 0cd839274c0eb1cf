"""Which row is open in each bank of one channel: what may come next by state, apart from when it may come.

A bank between the two steps of a command that takes two (`Command.after`) is neither open nor closed.

Commands are known by their properties (`Command.effect`, `Command.needs`, `Command.scope`), never by name.
"""

from __future__ import annotations

import itertools

from pimsim.arch.dram import Command, DramSpec
from pimsim.errors import SimulationError, TimingViolation

Where = tuple[int, ...]
Bank = tuple[int, ...]
"""A bank as its path of level indices from the channel."""


class BankState:
    """The open rows of one channel.

    An address (`where`) has one entry for each of `DramSpec.address_fields`. A command acts on every bank that its
    entries down to its scope leave open; -1 stands for every node. A row of -1 is not known and matches every row.
    """

    def __init__(self, spec: DramSpec) -> None:
        self.spec = spec
        self.open_rows: dict[Bank, int] = {}
        """Bank -> open row; a closed bank has no entry."""
        self.begun: dict[Bank, tuple[str, int]] = {}
        """Bank between two steps -> the first of them, and its tick."""
        self._firsts = {command.after for command in spec.commands.values() if command.after}
        self._depth = {"channel": 0} | {level: depth for depth, level in enumerate(spec.levels, start=1)}
        self._in_scope: dict[tuple[str, Where], tuple[Bank, ...]] = {}

    def banks(self, command: str, where: Where) -> tuple[Bank, ...]:
        """The banks that `command` at `where` acts on, in ascending order."""
        scope = self.spec.commands[command].scope
        key = (scope, where)
        if key not in self._in_scope:
            depth = self._depth[scope]
            self._in_scope[key] = tuple(
                itertools.product(
                    *(
                        (where[level],) if level < depth and where[level] >= 0 else range(count)
                        for level, count in enumerate(self.spec.counts)
                    )
                )
            )
        return self._in_scope[key]

    def check(self, command: str, where: Where, row: int = -1, tick: int | None = None) -> None:
        """Whether the banks are in the state that `command` needs; `row` is the row that it opens, reads or writes.

        Raises:
            TimingViolation: it opens or refreshes a bank with an open row or one that has begun to open, needs a row that
                is closed, another row is open, or it is a second step without the first or, at ``tick``, too late.
        """
        known = self.spec.commands[command]
        if self._firsts:
            self._check_steps(known, self.banks(command, where), tick)
        if _needs_closed(known):
            self._check_closed(command, self.banks(command, where))
        elif known.needs == "open":
            self._check_open(command, self.banks(command, where), row)

    def _check_steps(self, known: Command, banks: tuple[Bank, ...], tick: int | None) -> None:
        """Second steps follow their first in time, and a bank between the two takes nothing that needs a closed one."""
        for bank in banks:
            first, begun = self.begun.get(bank, (None, 0))
            if known.after is not None and first != known.after:
                raise TimingViolation(f"{known.name} must follow {known.after}, which {self._name(bank)} has not had")
            if known.after is None and first is not None and _needs_closed(known):
                raise TimingViolation(
                    f"{known.name} must find a closed bank, not {self._name(bank)} after {first} alone"
                )
            if tick is not None and known.within is not None and tick - begun > known.within:
                raise TimingViolation(
                    f"{known.name} must come at most {known.within} ticks after {first} of {self._name(bank)}, not "
                    f"{tick - begun}"
                )

    def _check_closed(self, command: str, banks: tuple[Bank, ...]) -> None:
        for bank in banks if self.open_rows else ():
            if bank in self.open_rows:
                raise TimingViolation(
                    f"{command} must find a closed bank, not {self._name(bank)} with row {self.open_rows[bank]} open"
                )

    def _check_open(self, command: str, banks: tuple[Bank, ...], row: int) -> None:
        for bank in banks:
            found = self.open_rows.get(bank)
            if found is None:
                raise TimingViolation(f"{command} must find an open row, not {self._name(bank)} closed")
            if row not in (-1, found) and found != -1:
                raise TimingViolation(
                    f"{command} must find row {row} open, not {self._name(bank)} with row {found} open"
                )

    def apply(self, command: str, where: Where, row: int = -1, tick: int = 0) -> None:
        """Open or close the banks in scope, as `command` does at ``tick``; whether it may is what `check` says."""
        effect = self.spec.commands[command].effect
        if self._firsts:
            self._apply_steps(command, where, tick)
        if effect == "open":
            for bank in self.banks(command, where):
                self.open_rows[bank] = row
        elif effect == "close" and self.open_rows:
            for bank in self.banks(command, where):
                self.open_rows.pop(bank, None)

    def _apply_steps(self, command: str, where: Where, tick: int) -> None:
        for bank in self.banks(command, where):
            if command in self._firsts:
                self.begun[bank] = command, tick
            elif self.spec.commands[command].effect != "none":
                self.begun.pop(bank, None)

    def next_command(self, goal: str, where: Where, row: int = -1) -> tuple[str, Where]:
        """The command, and its address, that must come next on the way to `goal`; `goal` itself if it can issue now.

        A row in the way is closed, then a closed bank is opened, by a command of the scope of `goal` if the DRAM has
        one, else by one of a smaller scope, bank by bank; if that is a second step, the first one comes before it.

        Raises:
            SimulationError: the DRAM has no command that opens or closes what is needed.
        """
        known = self.spec.commands[goal]
        if not _needs_closed(known) and known.needs != "open":
            return goal, where
        banks = self.banks(goal, where)
        in_way = [bank for bank in banks if self._is_in_way(known, bank, row)]
        closed = [] if _needs_closed(known) else [bank for bank in banks if bank not in self.open_rows]
        if in_way:
            return self._step(known, "close", where, in_way[0])
        if not closed:
            return goal, where
        step, place = self._step(known, "open", where, closed[0])
        if any(bank in self.open_rows for bank in self.banks(step, place)):
            return self._step(known, "close", where, next(b for b in banks if b in self.open_rows))
        first = self.spec.commands[step].after
        if first is not None and any(bank not in self.begun for bank in self.banks(step, place)):
            return first, place
        return step, place

    def _is_in_way(self, goal: Command, bank: Bank, row: int) -> bool:
        found = self.open_rows.get(bank)
        return found is not None and (_needs_closed(goal) or (row not in (-1, found) and found != -1))

    def _step(self, goal: Command, effect: str, where: Where, bank: Bank) -> tuple[str, Where]:
        """The plain command with this effect and the widest scope that stays inside that of `goal`, and its address."""
        depth = self._depth[goal.scope]
        fit = [
            command
            for command in self.spec.commands.values()
            if command.effect == effect and command.data == "none" and self._depth[command.scope] >= depth
        ]
        if not fit:
            raise SimulationError(
                f"{goal.name} must be preceded by a command that can {effect} a bank; the DRAM has none"
            )
        best = min(fit, key=lambda command: self._depth[command.scope])
        used = self._depth[best.scope]
        path = where[:depth] + bank[depth:used]
        return best.name, path + (-1,) * (len(where) - len(path))

    def _name(self, bank: Bank) -> str:
        return ", ".join(f"{level} {index}" for level, index in zip(self.spec.levels, bank, strict=True))


def _needs_closed(command: Command) -> bool:
    """A row can be opened, and a bank refreshed, only while no row is open."""
    return command.needs == "closed" or command.effect == "open" or command.refresh
