"""A channel on which a PIM program and plain requests of a host take turns.

The program goes on until enough requests wait, or one has waited long enough (`Turns`). Then the rows that it holds
open are closed, requests are served by the controller, and the rows that they leave open are closed again; the program's
rows are opened again when a command needs them, as after a refresh (`ChannelCore`). While the program waits for
operands, requests are served as they come. Program and requests share one calendar, so every distance between their
commands is kept. A turn ends when a refresh is due.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pimsim.arch.dram import DramSpec
from pimsim.errors import SimulationError, Starvation
from pimsim.machine.channel import ChannelCore, Target
from pimsim.machine.controller.fast import FastController
from pimsim.machine.controller.policy import Policy
from pimsim.traffic.stream import Request

HOST = "host"
"""Reason under which a channel books its ticks for requests, and the operation of their commands."""

PER_COMMAND = 20
"""Requests that one command of the program may have to wait for, on average."""
UNPAID = 20_000
"""Requests beyond that after which a channel is taken to starve its program."""


@dataclass(frozen=True, slots=True)
class Turns:
    """Who goes when; see `pimsim.arch.controller.HostTrafficConfig`. Times in ticks."""

    batch: int
    patience: int
    turn: int
    program: int


class SharedChannel(ChannelCore):
    """`ChannelCore` with requests between the commands of the program.

    Attributes:
        host_commands: commands that requests caused, the closing and opening of the program's rows included, less the
            precharges of the program that they made needless.
        turns: how often the channel went over to requests.
        host_ticks: ticks that it spent on them.
    """

    def __init__(
        self, spec: DramSpec, policy: Policy, turns: Turns, source: Iterator[Request], outstanding: int | None
    ) -> None:
        super().__init__(spec)
        self.requests = FastController(
            policy, source, calendar=self.calendar, log=self._take_note, outstanding=outstanding
        )
        self.host_commands: Counter[str] = Counter()
        self.turns = self.host_ticks = 0
        self._turns = turns
        self._closers = self._closing_targets()
        self._program_until = 0
        self._displaced_by_host = False
        self._unpaid = 0
        """Requests that the program waited for, less `PER_COMMAND` for each of its commands."""

    def issue(self, target: Target, row: int = -1, column: int = -1) -> int | None:
        """As `ChannelCore.issue`, after a turn of the requests if it is their turn.

        Raises:
            Starvation: there are always so many requests that the program hardly gets on.
        """
        if self._is_hosts_turn():
            self._serve(self.base + 1)
        self._unpaid = max(0, self._unpaid - PER_COMMAND)
        if not self._displaced_by_host:
            return super().issue(target, row, column)
        before = self.refresh_commands.copy()
        tick = super().issue(target, row, column)
        self._rebook(before)
        return tick

    def wait(self, until: int, reason: str) -> None:
        """As `ChannelCore.wait`; requests that come meanwhile are served.

        Raises:
            Starvation: as in `issue`.
        """
        queues = self.requests
        while self.base < until - 1:
            self._accept()
            if queues.reads or queues.writes:
                before = self.base
                if self.due > before + 1:
                    self._serve(until)
                if self.base == before:  # a refresh is in the way
                    self.refresh(reason)
                continue
            if queues.retry >= until:
                break
            super().wait(max(queues.retry, self.base + 2), reason)
        super().wait(until, reason)

    # -- turns ----------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        if self.base + 1 >= self.requests.retry:
            self.requests.accept(self.base + 1)

    def _is_hosts_turn(self) -> bool:
        self._accept()
        queues, now = self.requests, self.base + 1
        waiting = len(queues.reads) + len(queues.writes)
        if not waiting or now < self._program_until or now + 1 >= self.due:
            return False
        oldest = min(queue[0].entered for queue in (queues.reads, queues.writes) if queue)
        return waiting >= self._turns.batch or now - oldest >= self._turns.patience

    def _serve(self, wanted: int) -> None:
        """A turn of the requests; the program wants the channel from tick ``wanted`` on."""
        start, open_before = self.base, self.requests.served.row_open_ticks
        self.turns += 1
        if self.opened:
            self.displaced += self.opened
            self.opened = []
            self._displaced_by_host = True
            self._close_all()
            self.open_ticks += self.base - start
        served, tick = 0, self.base + 1
        while served < self._turns.turn and tick < self.due:
            now = self.requests.step(tick)
            served += now
            if tick >= wanted:
                self._wait_for(now)
            if not (self.requests.reads or self.requests.writes):
                break
            tick = self.requests.next_tick(tick)
        if self.requests.banks.open_rows:
            self._close_all()
            self.requests.shut(self.base)
        self.open_ticks += self.requests.served.row_open_ticks - open_before
        self.spent[HOST] += self.base - start
        self.host_ticks += self.base - start
        self._program_until = self.base + 1 + self._turns.program

    def _wait_for(self, requests: int) -> None:
        self._unpaid += requests
        if self._unpaid > UNPAID:
            raise Starvation(
                f"a PIM program beside host traffic must issue at least a command for {PER_COMMAND} requests that it waits "
                f"for, but {UNPAID:,} more were served up to tick {self.base}: requests come faster than they are served, and "
                f"host_traffic.turn ({self._turns.turn}) is too long for host_traffic.program_clocks "
                f"({self._turns.program // self.spec.ticks_per_clock}); change one of them or host_traffic.stream.interval"
            )

    def _take_note(self, tick: int, command: str, where: tuple[int, ...], row: int, column: int) -> None:
        self.base = tick
        self.host_commands[command] += 1
        self._note((tick, command, where, row, column))

    def _close_all(self) -> None:
        for target in self._closers:
            tick = max(self.calendar.earliest(target.plan), self.base + 1)
            self.calendar.record(target.plan, tick)
            self._take_note(tick, target.command, target.where, -1, -1)

    def _rebook(self, before: Counter[str]) -> None:
        """What rows cost that requests, and not a refresh, have closed."""
        for command in {*self.refresh_commands, *before}:
            if self.spec.commands[command].refresh:
                continue
            moved = self.refresh_commands[command] - before[command]
            self.refresh_commands[command] -= moved
            self.host_commands[command] += moved
        self._displaced_by_host = bool(self.displaced)

    def _closing_targets(self) -> list[Target]:
        """Precharges of everything, by the command with the widest scope."""
        depth = {"channel": 0} | {level: number for number, level in enumerate(self.spec.levels, start=1)}
        closing = [
            c for c in self.spec.commands.values() if c.effect == "close" and c.needs == "any" and c.data == "none"
        ]
        if not closing:
            raise SimulationError(f"{self.spec.name}: host traffic needs a command that closes rows")
        widest = min(closing, key=lambda command: depth[command.scope])
        used = depth[widest.scope]
        places = itertools.product(*(range(count) for count in self.spec.counts[:used]))
        width = len(self.spec.address_fields)
        return [self.target(widest.name, place + (-1,) * (width - used)) for place in places]


__all__ = ["HOST", "SharedChannel", "Turns"]
