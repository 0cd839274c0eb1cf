"""What both controllers share: the queues, who enters them, read and write turns, refreshes that fall due, the books.

A tick goes like this: requests that have arrived before it enter their queue while there is room; reads or writes are
chosen to be served; refreshes that must not wait any longer take their banks; then commands issue, the most urgent
legal one first, until none is legal at this tick (one on each command bus).

Writes are posted: they are served when `Policy.drain_start` of them wait or no read does, until `Policy.drain_stop` are
left and a read waits. A read of an address that a queued write is going to write is answered from the queue; a write to
an address that a queued read is going to read waits outside. So requests to one address keep their order.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator

from pimsim.errors import Deadlock
from pimsim.machine.bank import BankState
from pimsim.machine.calendar import Calendar, Plan
from pimsim.machine.controller.policy import Bank, Policy, RefreshNode, Where
from pimsim.trace.served import CONFLICT, HIT, MISS, Served
from pimsim.traffic.stream import Request

NEVER = 1 << 62

Log = Callable[[int, str, Where, int, int], object]
"""Called with (tick, command, address, row, column) of every command, in the order of issue."""


class Entry:
    """A request in a queue."""

    __slots__ = ("address", "bank", "column", "entered", "met", "number", "row", "write")

    def __init__(self, number: int, entered: int, request: Request, bank: Bank, row: int, column: int) -> None:
        self.number, self.entered = number, entered
        self.address, self.write = request.address, request.write
        self.bank, self.row, self.column = bank, row, column
        self.met = HIT
        """What it met: its row open, its bank closed, or another row open."""


class Queues(ABC):
    """One channel of a controller; `select` is left to those who decide.

    Args:
        policy: what it goes by.
        source: requests of this channel, in the order of their arrival.
        calendar: the timing state of the channel; a new one by default.
        log: told every command.
        outstanding: reads that may be under way; None: any.
    """

    def __init__(
        self,
        policy: Policy,
        source: Iterator[Request],
        *,
        calendar: Calendar | None = None,
        log: Log | None = None,
        outstanding: int | None = None,
    ) -> None:
        self.policy, self.spec = policy, policy.spec
        self.calendar = calendar or Calendar(policy.spec)
        self.banks = BankState(policy.spec)
        self.log = log
        self.outstanding = outstanding
        self.reads: list[Entry] = []
        self.writes: list[Entry] = []
        self.writing = False
        """Whether writes are being served."""
        self.latched: list[RefreshNode] = []
        """Nodes whose refresh comes next."""
        self.served = Served()
        self.retry = 0
        """Tick at which somebody may enter a queue again, as far as is known."""
        self._source = source
        self._head: Request | None = next(source, None)
        self._number = 0
        self._back: list[int] = []
        """Ticks at which reads that have left the queue get their data."""
        self._queued: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
        """Addresses in the read queue and in the write queue."""
        self._opened = 0
        self._due = [node.first for node in policy.nodes]
        """Tick at which the next refresh of each node is due."""
        self._soonest = min(self._due, default=NEVER)
        """The first of them, of nodes that are not latched."""
        self._late = policy.postpone * policy.interval
        self._node_at = {node.node: node for node in policy.nodes}
        self._depth = len(policy.nodes[0].node) if policy.nodes else 0
        self._settled = dict.fromkeys(policy.nodes, 0)
        """Tick at which the precharges and refreshes of a node have taken effect."""

    @property
    def done(self) -> bool:
        """Whether every request has been served."""
        return self._head is None and not self.reads and not self.writes

    def run(self) -> Served:
        """Serve all requests.

        Raises:
            Deadlock: requests wait and nothing can happen any more.
        """
        tick = 1
        while not self.done:
            self.step(tick)
            after, tick = tick, self.next_tick(tick)
            if tick >= NEVER and not self.done:
                raise Deadlock(f"{self._waiting()} wait, but nothing can issue after tick {after}")
        return self.close(self.served.end)

    def _waiting(self) -> str:
        queues = (("reads", self.reads), ("writes", self.writes))
        since = [f"{len(q)} {name}" + (f", the oldest since tick {q[0].entered}," if q else "") for name, q in queues]
        return " and ".join(since)

    def step(self, tick: int) -> int:
        """One tick; how many requests were served."""
        self.accept(tick)
        self._turn()
        self._latch(tick)
        before = self.served.reads + self.served.writes
        while (found := self.select(tick)) is not None:
            self._issue(tick, *found)
        return self.served.reads + self.served.writes - before

    @abstractmethod
    def select(self, tick: int) -> tuple[str, Where, Entry | None] | None:
        """The command that issues now, its address, and the request that it is for; None if none is legal."""

    @abstractmethod
    def next_tick(self, tick: int) -> int:
        """The next tick at which something may happen."""

    def close(self, end: int) -> Served:
        """The counters of a run that ends at a tick."""
        if self.banks.open_rows and end > self._opened:
            self.served.row_open_ticks += end - self._opened
            self._opened = end
        return self.served

    def shut(self, tick: int) -> None:
        """Somebody else has closed every row, at a tick."""
        open_banks = list(self.banks.open_rows)
        if open_banks:
            self.served.row_open_ticks += tick - self._opened
            self.banks.open_rows.clear()
        for bank in open_banks:
            self.changed(bank)

    def changed(self, bank: Bank) -> None:  # noqa: B027 (a hook; looking at every tick needs none)
        """The row of a bank was opened or closed."""

    # -- requests come in -----------------------------------------------------------------------------------------

    def accept(self, tick: int) -> None:
        """Let requests that arrived before this tick enter; they come in order, so one that cannot holds up the rest."""
        while self._back and self._back[0] <= tick:
            heapq.heappop(self._back)
        while (head := self._head) is not None:
            if head.arrive >= tick:
                self.retry = head.arrive + 1
                return
            if not head.write and self._queued[True][head.address]:
                self.served.forwarded += 1
                self._advance(tick)
                self.retry = tick + 1
                return  # one answer a tick
            if not self._has_room(head):
                return
            self._push(head, tick)
        self.retry = NEVER

    def _has_room(self, head: Request) -> bool:
        self.retry = NEVER  # until a command issues
        if head.write:
            return len(self.writes) < self.policy.write_queue and not self._queued[False][head.address]
        if self.outstanding is not None and len(self.reads) + len(self._back) >= self.outstanding:
            self.retry = self._back[0] if self._back else NEVER
            return False
        return len(self.reads) < self.policy.read_queue

    def _push(self, head: Request, tick: int) -> None:
        _, bank, row, column = self.policy.addresses.decode(head.address)
        entry = Entry(self._number, tick, head, bank, row, column)
        self._number += 1
        (self.writes if head.write else self.reads).append(entry)
        self._queued[head.write][head.address] += 1
        self.entered(entry)
        self._advance(tick)

    def entered(self, entry: Entry) -> None:  # noqa: B027 (a hook; looking at every tick needs none)
        """An entry is new in its queue."""

    def _advance(self, tick: int) -> None:
        assert self._head is not None
        self.served.waited += tick - self._head.arrive - 1
        self._head = next(self._source, None)

    # -- what is served -------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        if self.writing:
            if not self.writes or (self.reads and len(self.writes) <= self.policy.drain_stop):
                self.writing = False
        elif len(self.writes) >= self.policy.drain_start or (self.writes and not self.reads):
            self.writing = True

    def active(self) -> list[Entry]:
        """The queue that is being served, oldest first."""
        return self.writes if self.writing else self.reads

    def exclusive(self, tick: int) -> Entry | None:
        """The request before which no other one of the active queue goes, if there is one."""
        queue, limit = self.active(), self.policy.age_limit
        if not queue:
            return None
        if self.policy.oldest_only or (limit is not None and tick - queue[0].entered >= limit):
            return queue[0]
        return None

    def needed(self, entry: Entry) -> str:
        """The next command on the way to serve a request."""
        row = self.banks.open_rows.get(entry.bank)
        if row is None:
            return self.policy.activate
        return self.policy.column[entry.write] if row == entry.row else self.policy.precharge

    def plan(self, command: str, where: Where) -> Plan:
        """The compiled form of a command."""
        return self.calendar.plan(command, where)

    # -- refresh --------------------------------------------------------------------------------------------------

    def latch_at(self) -> int:
        """Tick from which some node must be refreshed before anything else: later while requests wait."""
        return self._soonest + (self._late if self.reads or self.writes else 0)

    def _latch(self, tick: int) -> None:
        if tick < self.latch_at():
            return
        late = self._late if self.reads or self.writes else 0
        for number, node in enumerate(self.policy.nodes):
            if tick >= self._due[number] + late and node not in self.latched:
                self.latched.append(node)
        self._find_soonest()

    def _refreshed(self, node: RefreshNode) -> None:
        self._due[self.policy.nodes.index(node)] += self.policy.interval
        self.latched.remove(node)
        self._find_soonest()

    def _find_soonest(self) -> None:
        free = [due for due, node in zip(self._due, self.policy.nodes, strict=True) if node not in self.latched]
        self._soonest = min(free, default=NEVER)

    def is_latched(self, bank: Bank) -> bool:
        """Whether a bank belongs to a node that is to be refreshed."""
        return any(bank[: len(node.node)] == node.node for node in self.latched)

    def maintenance(self, node: RefreshNode) -> str:
        """The next command on the way to refresh a node."""
        depth = len(node.node)
        is_open = any(bank[:depth] == node.node for bank in self.banks.open_rows)
        return node.close if is_open else node.refresh

    def legal_from(self, node: RefreshNode, command: str) -> int:
        """Earliest tick of a command of `maintenance`.

        A refresh also waits until the precharges and the refresh before it have taken effect (their ``latency``): tables
        of reference simulators lack the distance from a refresh to the next one, or from single precharges to a refresh.
        """
        earliest = self.calendar.earliest(self.plan(command, node.where))
        return max(earliest, self._settled[node]) if command == node.refresh else earliest

    # -- commands go out ------------------------------------------------------------------------------------------

    def _issue(self, tick: int, command: str, where: Where, entry: Entry | None) -> None:
        policy = self.policy
        is_column = entry is not None and command in policy.column
        row = entry.row if entry is not None and (is_column or command == policy.activate) else -1
        column = entry.column if entry is not None and is_column else -1
        self.calendar.record(self.plan(command, where), tick)
        was_open = bool(self.banks.open_rows)
        self.banks.apply(command, where, row)
        if was_open != bool(self.banks.open_rows):
            self.served.row_open_ticks += tick - self._opened if was_open else 0
            self._opened = tick
        self.served.commands[command] += 1
        if self.log is not None:
            self.log(tick, command, where, row, column)
        if is_column:
            assert entry is not None
            self._serve(entry, tick + self.spec.commands[command].latency)
        elif entry is not None:
            entry.met = CONFLICT if command == policy.precharge or entry.met == CONFLICT else MISS
        facts = self.spec.commands[command]
        if self._node_at and (facts.effect == "close" or facts.refresh):
            for place in {bank[: self._depth] for bank in self.banks.banks(command, where)}:
                node = self._node_at[place]
                self._settled[node] = max(self._settled[node], tick + facts.latency)
        for node in [node for node in self.latched if node.refresh == command and node.where == where]:
            self._refreshed(node)
        self.retry = min(self.retry, tick + 1)
        if self.spec.commands[command].effect != "none":
            for bank in self.banks.banks(command, where):
                self.changed(bank)

    def _serve(self, entry: Entry, done: int) -> None:
        served = self.served
        (self.writes if entry.write else self.reads).remove(entry)
        self._queued[entry.write][entry.address] -= 1
        if not self._queued[entry.write][entry.address]:
            del self._queued[entry.write][entry.address]
        if entry.write:
            served.writes += 1
            served.write_latency[done - entry.entered] += 1
        else:
            served.reads += 1
            served.read_latency[done - entry.entered] += 1
            if self.outstanding is not None:
                heapq.heappush(self._back, done)
        served.met[entry.met] += 1
        served.end = max(served.end, done)
        self.left(entry)

    def left(self, entry: Entry) -> None:  # noqa: B027 (a hook; looking at every tick needs none)
        """An entry has left its queue."""


def by_channel(policy: Policy, source: Iterator[Request], channel: int) -> Iterator[Request]:
    """The requests of one channel."""
    decode = policy.addresses.decode
    return (request for request in source if decode(request.address)[0] == channel)


__all__ = ["NEVER", "Entry", "Log", "Queues", "by_channel"]
