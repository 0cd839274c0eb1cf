"""The plain controller: at every tick, every request is asked for its next command. Slow, short, and the measure."""

from __future__ import annotations

from pimsim.machine.controller.policy import Where
from pimsim.machine.controller.queues import Entry, Queues


class PlainController(Queues):
    """One channel of a controller, tick by tick."""

    def next_tick(self, tick: int) -> int:
        """Every tick is looked at."""
        return tick + 1

    def select(self, tick: int) -> tuple[str, Where, Entry | None] | None:
        """Refresh, then column commands, then row commands, the oldest first; then rows that nobody needs."""
        policy = self.policy
        for node in sorted(self.latched, key=policy.nodes.index):
            command = self.maintenance(node)
            if self.legal_from(node, command) <= tick:
                return command, node.where, None
        first = self.exclusive(tick)
        wanted = [first] if first is not None else self.active()
        free = [(entry, self.needed(entry)) for entry in wanted if not self.is_latched(entry.bank)]
        columns = [(entry, command) for entry, command in free if command in policy.column]
        rows = [
            (entry, command)
            for entry, command in free
            if command == policy.activate
            or (command == policy.precharge and (first is not None or not self._is_hit(entry.bank, self.active())))
        ]
        for entry, command in columns + rows:
            where = policy.where(entry.bank)
            if self._is_legal(command, where, tick):
                return command, where, entry
        for bank in sorted(self.banks.open_rows) if policy.closed_page else ():
            where = policy.where(bank)
            if (
                not self.is_latched(bank)
                and not self._is_hit(bank, self.reads + self.writes)
                and self._is_legal(policy.precharge, where, tick)
            ):
                return policy.precharge, where, None
        return None

    def _is_hit(self, bank: tuple[int, ...], entries: list[Entry]) -> bool:
        """Whether one of the requests needs the open row of a bank."""
        return any(entry.bank == bank and entry.row == self.banks.open_rows[bank] for entry in entries)

    def _is_legal(self, command: str, where: Where, tick: int) -> bool:
        return self.calendar.earliest(self.plan(command, where)) <= tick


__all__ = ["PlainController"]
