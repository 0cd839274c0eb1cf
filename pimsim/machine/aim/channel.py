"""One channel: queues of requests, prerequisites, the mode switch, refresh and completion.

Time goes in clocks from 1. In a clock the channel first retires at most one answer, then takes a due refresh, then
issues at most one command. `AimChannel.tick` does that for one clock; `AimChannel.wake` says at which clock the next
one is that can make a difference, so that the clocks between are skipped and not counted through.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from pimsim.arch.dram import DramSpec
from pimsim.errors import SimulationError
from pimsim.machine.aim.policy import Policy
from pimsim.machine.aim.rows import StackedRows
from pimsim.machine.bank import BankState
from pimsim.machine.calendar import Calendar, Plan, Snapshot

QUEUE = 32
"""Nominal entries of a request queue; it takes one more, as the simulator compares before it adds."""
WRITES_HIGH, WRITES_LOW = 0.8, 0.2
"""Fill of the write queue at which writes start, and at which reads may go on."""
NEVER = math.inf


State = tuple[Snapshot, tuple[bool, bool], int, int]
"""Calendar, (write mode, register mode), clocks until the last write is done, refreshes that wait."""


class Request(NamedTuple):
    """One request of an instruction to one channel."""

    command: str
    """The DRAM command that fulfils it; empty for SYNC and EOC."""
    where: tuple[int, ...]
    row: int
    column: int
    source: int
    """Number of its instruction; -1 for a refresh."""
    register_mode: bool = False
    blocks: bool = False
    plain: bool = False

    @property
    def is_barrier(self) -> bool:
        """Whether it is SYNC or EOC."""
        return not self.command


class Issued(NamedTuple):
    """One command of the log."""

    cycle: int
    command: str
    where: tuple[int, ...]
    row: int
    column: int
    source: int


class _Choice(NamedTuple):
    queue: str
    place: int
    """Its position in the queue."""
    request: Request
    command: str
    where: tuple[int, ...]
    plan: Plan | None


@dataclass
class _Queued:
    """A plain request and the clock at which it arrived."""

    request: Request
    arrived: int


@dataclass
class _Queues:
    active: list[_Queued] = field(default_factory=list)
    """Plain requests whose row has been opened for them."""
    refreshes: deque[Request] = field(default_factory=deque)
    aim: deque[Request] = field(default_factory=deque)
    reads: list[_Queued] = field(default_factory=list)
    writes: list[_Queued] = field(default_factory=list)


class AimChannel:
    """A channel of a DRAM with AiM commands, under a policy about the quirks of aim_simulator."""

    def __init__(
        self, spec: DramSpec, policy: Policy, *, log: bool = False, sink: Callable[[Issued], object] | None = None
    ) -> None:
        """With ``log``, commands are kept; a ``sink`` is told each as it issues, and none is kept."""
        self.spec, self._policy = spec, policy
        self.counts: Counter[str] = Counter()
        self.log: list[Issued] | None = [] if log and sink is None else None
        self._note = sink if self.log is None else self.log.append
        self.since = 0
        """Clock of the last command or answer, or at which something was sent to a channel that held nothing."""
        self.wake: float = NEVER
        self.answers = 0
        """Blocking requests that were answered in the clock that was simulated last."""
        self._calendar = Calendar(spec)
        self._rows = StackedRows(spec) if policy.stacks_rows else BankState(spec)
        self._queues = _Queues()
        self._finished: deque[tuple[int, Request]] = deque()
        self._writes_done = 0
        self._write_mode = self._register_mode = False
        self._interval = spec.refresh_interval if policy.refreshes else 0
        self._due = self._interval or NEVER
        self._mode_switch = next((c for c in spec.commands if c == "TMOD"), "")
        self._anywhere = (-1,) * len(spec.address_fields)
        self._refresh = Request(
            next((c.name for c in spec.commands.values() if c.refresh), ""), self._anywhere, -1, -1, -1
        )
        self._later: float = NEVER
        self._paths = tuple(itertools.product(*(range(count) for count in spec.counts)))
        """Banks, from the channel."""
        self.wake = self._due

    # --- the host's side ---

    def send(self, request: Request, clock: int) -> bool:
        """Take a request that comes before the channel's clock ``clock``; False if there is no room."""
        queues = self._queues
        if not request.plain:
            if queues.reads or queues.writes or len(queues.aim) > QUEUE:
                return False
            if not queues.aim:
                self.since = clock
            queues.aim.append(request)
        else:
            if queues.aim:
                return False
            if request.command == "RD" and self._is_forwarded(request):
                self._finished.append((clock, request))
            else:
                queue = queues.reads if request.command == "RD" else queues.writes
                if len(queue) > QUEUE:
                    return False
                if not (queues.reads or queues.writes or queues.active):
                    self.since = clock
                queue.append(_Queued(request, clock))
        self.wake = clock
        return True

    def _is_forwarded(self, read: Request) -> bool:
        if self._policy.forwards_any_read:
            return bool(self._queues.writes)
        return any(w.request.where == read.where and w.request[2:4] == read[2:4] for w in self._queues.writes)

    # --- one clock ---

    def tick(self, clock: int) -> None:
        """Simulate one clock; clocks before `wake` in which nothing was sent may be left out."""
        self.answers = 0
        self._later = NEVER
        self._retire(clock)
        if clock >= self._due:
            self._queues.refreshes.append(self._refresh)
            self._due += self._interval
        choice = self._choose(clock)
        if choice is not None and not self._would_close_active(choice):
            self._issue(choice, clock)
            self._later = clock + 1
        self.wake = min(self._later, self._due, self._next_answer(clock))

    def _retire(self, clock: int) -> None:
        """Answer the oldest finished request, at most one in a clock; SYNC and EOC wait for unfinished writes."""
        if not self._finished:
            return
        done, request = self._finished[0]
        if done <= clock and (not request.is_barrier or self._writes_done < clock):
            self._finished.popleft()
            self.answers += request.blocks
            self.since = clock

    def _next_answer(self, clock: int) -> float:
        if self.answers:
            return clock + 1
        if not self._finished:
            return NEVER
        done, request = self._finished[0]
        if request.is_barrier:
            done = max(done, self._writes_done + 1)
        return max(done, clock + 1)

    def _choose(self, clock: int) -> _Choice | None:
        """The command of this clock, or None; `_later` is then the next clock at which there may be one."""
        queues = self._queues
        best = self._best("active", clock)
        if best is not None:
            return best
        if queues.refreshes and not (self._policy.drains and queues.active):
            return self._ready("refreshes", 0, queues.refreshes[0], clock)
        if queues.aim:
            request = queues.aim[0]
            if self._policy.drains and queues.active:
                return None
            if request.is_barrier:
                return _Choice("aim", 0, request, "", request.where, None)
            return self._ready("aim", 0, request, clock)
        self._set_write_mode()
        return self._best("writes" if self._write_mode else "reads", clock)

    def _ready(self, queue: str, index: int, request: Request, clock: int) -> _Choice | None:
        command, where = self._rows.next_command(request.command, request.where, request.row)
        plan = self._calendar.plan(command, where)
        earliest = self._calendar.earliest(plan)
        if earliest <= clock:
            return _Choice(queue, index, request, command, where, plan)
        self._later = min(self._later, earliest)
        return None

    def _best(self, queue: str, clock: int) -> _Choice | None:
        """The oldest request of a plain queue whose next command is ready."""
        best, oldest = None, NEVER
        for index, queued in enumerate(getattr(self._queues, queue)):
            choice = self._ready(queue, index, queued.request, clock)
            if choice is not None and queued.arrived < oldest:
                best, oldest = choice, queued.arrived
        return best

    def _set_write_mode(self) -> None:
        reads, writes = len(self._queues.reads), len(self._queues.writes)
        if not self._write_mode:
            self._write_mode = writes > WRITES_HIGH * QUEUE or not reads
        elif writes < WRITES_LOW * QUEUE and reads:
            self._write_mode = False

    def _would_close_active(self, choice: _Choice) -> bool:
        """Whether the command closes a row that was just opened for another request."""
        if not choice.command or self.spec.commands[choice.command].effect != "close":
            return False
        active = self._queues.active
        return any(queued.request.where == choice.request.where for queued in active)

    def _issue(self, choice: _Choice, clock: int) -> None:
        request = choice.request
        if choice.plan is None:
            self._finished.append((clock, request))
            self._remove(choice)
            return
        command, plan = choice.command, choice.plan
        if request.register_mode != self._register_mode:
            self._register_mode = request.register_mode
            command, plan = self._mode_switch, self._calendar.plan(self._mode_switch, self._anywhere)
        self._calendar.record(plan, clock)
        self.since = clock
        self._rows.apply(command, choice.where, request.row)
        self.counts[command] += 1
        if self._note is not None:
            self._note(Issued(clock, command, request.where, request.row, request.column, request.source))
        if command == request.command:
            self._finish(request, clock)
            self._remove(choice)
        elif request.plain and self.spec.commands[command].effect == "open":
            queued = self._remove(choice)
            assert isinstance(queued, _Queued)
            self._queues.active.append(queued)

    def _finish(self, request: Request, clock: int) -> None:
        command = self.spec.commands[request.command]
        if request.blocks or (request.plain and command.data == "read"):
            self._finished.append((clock + command.latency, request))
        else:
            latency = 0 if command.refresh else command.latency
            self._writes_done = max(self._writes_done, clock + max(latency, 1))

    def _remove(self, choice: _Choice) -> _Queued | Request:
        queue = getattr(self._queues, choice.queue)
        taken: _Queued | Request = queue[choice.place]
        del queue[choice.place]
        return taken

    # --- what a channel is between two segments of a program ---

    def state(self, now: int) -> State:
        """The state relative to clock ``now``, in which no request is under way; open rows are had from `rows`.

        Raises:
            SimulationError: a request is under way.
        """
        queues = self._queues
        if queues.active or queues.aim or queues.reads or queues.writes or self._finished:
            raise SimulationError(
                f"a segment must end with an instruction that waits for all others: {self.waits_for()}"
            )
        modes = (self._write_mode, self._register_mode)
        return self._calendar.snapshot(now), modes, max(self._writes_done - now, 0), len(queues.refreshes)

    def restore(self, state: State, rows: tuple[tuple[int, ...], ...], now: int, due: float) -> None:
        """Bring back a `state` with the open rows, ``now`` as its origin and ``due`` as the clock of the next refresh."""
        calendar, modes, writes, refreshes = state
        self._calendar.restore(calendar, now)
        self._write_mode, self._register_mode = modes
        self._writes_done = now + writes
        self._queues.refreshes = deque([self._refresh] * refreshes)
        self._due = due
        self.wake = now + 1 if refreshes else due
        if isinstance(self._rows, StackedRows):
            self._rows.restore(rows)
        else:
            self._rows.open_rows = {bank: row[0] for bank, row in zip(self._paths, rows, strict=True) if row}

    @property
    def rows(self) -> tuple[tuple[int, ...], ...]:
        """Open rows of each bank."""
        if isinstance(self._rows, StackedRows):
            return self._rows.state()
        opened = self._rows.open_rows
        return tuple((opened[path],) if path in opened else () for path in self._paths)

    @property
    def due(self) -> float:
        """Clock of the next refresh."""
        return self._due

    def waits_for(self) -> str:
        """What the channel wants to issue and for what, since when, and what else it holds; empty if it holds nothing."""
        queues = self._queues
        plain = [*queues.active, *queues.reads, *queues.writes]
        first = next((each.request for each in queues.active), None) or next(
            iter([*queues.refreshes, *queues.aim]), None
        )
        request = first or next((each.request for each in plain), None)
        if request is None:
            return ""
        held = len(plain) + len(queues.refreshes) + len(queues.aim) - 1
        behind = f", with {held} requests behind it" if held else ""
        if request.is_barrier:
            return f"writes to be done{behind}, since cycle {self.since}"
        command, _ = self._rows.next_command(request.command, request.where, request.row)
        wanted = command if command == request.command else f"{command} for {request.command}"
        return f"a turn to issue {wanted}{behind}, since cycle {self.since}"


__all__ = ["AimChannel", "Issued", "Request", "State"]
