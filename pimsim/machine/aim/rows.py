"""Open rows of a channel as aim_simulator keeps them: a set for each bank, to which an all-bank activate adds."""

from __future__ import annotations

from pimsim.arch.dram import Command, DramSpec
from pimsim.errors import SimulationError

Where = tuple[int, ...]


class StackedRows:
    """The same questions as `pimsim.machine.bank.BankState`, with several rows open in a bank."""

    def __init__(self, spec: DramSpec) -> None:
        self._spec = spec
        self._inner = spec.counts[-1]
        self._rows: list[set[int]] = [set() for _ in range(spec.banks_per_channel)]
        self._bank_level = spec.levels[-1]
        self._all = (-1,) * len(spec.address_fields)

    def next_command(self, goal: str, where: Where, row: int = -1) -> tuple[str, Where]:
        """The command that must come next on the way to `goal`, and its address.

        Raises:
            SimulationError: the DRAM has no command that opens or closes what is needed.
        """
        command = self._spec.commands[goal]
        if command.refresh:
            return (self._step("close", "channel"), self._all) if any(self._rows) else (goal, where)
        if command.needs != "open":
            return goal, where
        banks = self._banks(command, where)
        if any(rows and row not in rows for rows in banks):
            return self._step("close", command.scope), where
        if not all(banks):
            return self._step("open", command.scope), where
        return goal, where

    def apply(self, command: str, where: Where, row: int = -1) -> None:
        """Open or close the banks in scope."""
        known = self._spec.commands[command]
        if known.effect == "open":
            for rows in self._banks(known, where):
                rows.add(row)
        elif known.effect == "close":
            for rows in self._banks(known, where):
                rows.clear()

    def state(self) -> tuple[tuple[int, ...], ...]:
        """Open rows of each bank, in ascending order."""
        return tuple(tuple(sorted(rows)) for rows in self._rows)

    def restore(self, state: tuple[tuple[int, ...], ...]) -> None:
        """Bring back a `state`."""
        self._rows[:] = [set(rows) for rows in state]

    def _banks(self, command: Command, where: Where) -> list[set[int]]:
        if command.scope == "channel":
            return self._rows
        if command.scope == self._bank_level:
            number = 0
            for count, index in zip(self._spec.counts, where, strict=False):
                number = number * count + index
            return self._rows[number : number + 1]
        return self._rows[where[0] * self._inner : (where[0] + 1) * self._inner]

    def _step(self, effect: str, scope: str) -> str:
        for command in self._spec.commands.values():
            if command.effect == effect and command.scope == scope and command.data == "none":
                return command.name
        raise SimulationError(f"the DRAM must have a command that can {effect} a row at the level {scope}")


__all__ = ["StackedRows"]
