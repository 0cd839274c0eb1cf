"""The fast engine: events until the state repeats itself relative to now, then a jump over all further repetitions.

State machines instead of processes, so that the whole state of a region can be compared: position of every stage and
stream, times of tokens and free places relative to now, what is in flight. If it is the same as at an earlier moment, and
every position differs from that moment by the counter of one loop at most, the same period follows again until one of
these loops ends. Jumping moves an offset between the engine's time and real time, so no stored time has to be touched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

from pimsim.errors import Deadlock
from pimsim.machine.fpga import waits
from pimsim.machine.fpga.books import OUTPUT, RegionTimes
from pimsim.machine.fpga.cursor import Cursor, repeats
from pimsim.machine.fpga.ports import Behind, PortChannel, PortTiming, open_channel, request_nest, stream_addresses
from pimsim.program.dataflow import Fifo, Read, Region, Stage, Write, iterations

NEVER = 1 << 62
LONG_RUN = 48
"""Runs of at least this many iterations are watched iteration by iteration, shorter ones only as parts of loops."""


class _Queue:
    """A FIFO: times at which its tokens become visible and its free places usable."""

    __slots__ = ("consumer", "freed", "latency", "name", "producer", "source", "visible")

    def __init__(self, fifo: Fifo) -> None:
        self.name, self.latency = fifo.name, fifo.latency
        self.visible: deque[int] = deque()
        self.freed: deque[int] = deque([0] * fifo.depth)
        self.consumer = self.producer = -1
        self.source: _Reader | None = None

    def take(self, tokens: int, now: int, engine: FastEngine) -> None:
        for _ in range(tokens):
            self.visible.popleft()
        if self.source is not None:
            self.source.credit(tokens, now, engine)
        else:
            self.freed.extend([now + 1] * tokens)
            engine.wake(self.producer, now + 1)

    def put(self, tokens: int, now: int, engine: FastEngine) -> None:
        for _ in range(tokens):
            self.freed.popleft()
        self.visible.extend([now + self.latency] * tokens)
        engine.wake(self.consumer, now + self.latency)

    def state(self, now: int) -> Any:
        if self.source is not None and self.source.cursor.done and (not self.visible or self.visible[-1] <= now):
            return None  # everything has come: how much is left bounds nothing that the consumer's loops do not
        visible = [time - now for time in self.visible if time > now]
        freed = [time - now for time in self.freed if time > now]
        return len(self.visible), tuple(visible), len(self.freed), tuple(freed)


class _Stage:
    """A pipelined loop: `step` starts iterations, `retire` lets results leave."""

    def __init__(self, stage: Stage, number: int, queues: Mapping[str, _Queue]) -> None:
        self.name, self.number = stage.name, number
        self.interval, self.depth = stage.interval, stage.depth
        self.room = -(-stage.depth // stage.interval)
        self.cursor = Cursor(stage.nest)
        self.reads = [[(queues[name], n) for name, n in action.reads] for action in stage.actions]
        self.writes = [[(queues[name], n) for name, n in action.writes] for action in stage.actions]
        self.next = 0
        self.next_offset = 0
        self.started = 0
        self.latest = -1
        """Cycle of the latest results."""
        self.flight: deque[tuple[int, int, int]] = deque()
        """(iteration, ready, action) of what is in the pipeline and has results."""
        self.stalls: dict[str, int] = {}

    def step(self, now: int, engine: FastEngine) -> None:  # noqa: C901  (the hot path; calls cost time)
        cursor = self.cursor
        if cursor.leaf < 0:
            return
        if now < self.next:
            engine.wake(self.number, self.next)
            return
        action = cursor.actions[cursor.leaf]
        reads = self.reads[action]
        reason = OUTPUT
        for queue, tokens in reversed(reads):
            if len(queue.visible) < tokens:
                return
            visible = queue.visible[tokens - 1]
            if visible > now:
                engine.wake(self.number, visible)
                return
            if visible == now:
                reason = queue.name
        if self.flight and self.started - self.flight[0][0] >= self.room:
            return
        gap = now + engine.offset - self.next - self.next_offset
        if gap > 0:
            self.stalls[reason] = self.stalls.get(reason, 0) + gap
        for queue, tokens in reads:
            queue.take(tokens, now, engine)
        ready = now + self.depth - 1
        if self.writes[action]:
            if not self.flight:
                engine.wake(self.number + 1, ready if ready > self.latest else self.latest + 1)
            self.flight.append((self.started, ready, action))
        engine.reach(ready + 1)
        self.started += 1
        self.next, self.next_offset = now + self.interval, engine.offset
        if self.number == engine.anchor:
            engine.passed(cursor.advance(), cursor)
        else:
            cursor.advance()
        engine.wake(self.number, self.next)

    def retire(self, now: int, engine: FastEngine) -> None:
        if not self.flight:
            return
        _, ready, action = self.flight[0]
        earliest = max(ready, self.latest + 1)
        if now < earliest:
            engine.wake(self.number + 1, earliest)
            return
        writes = self.writes[action]
        for queue, tokens in writes:
            if len(queue.freed) < tokens:
                return
            usable = queue.freed[tokens - 1]
            if usable > now:
                engine.wake(self.number + 1, usable)
                return
        for queue, tokens in writes:
            queue.put(tokens, now, engine)
        self.latest = now
        self.flight.popleft()
        engine.reach(now + 1)
        engine.wake(self.number, now + 1)
        if self.flight:
            engine.wake(self.number + 1, max(self.flight[0][1], now + 1))

    def state(self, now: int) -> Any:
        flight = tuple((self.started - i, max(ready - now, 0), action) for i, ready, action in self.flight)
        return self.cursor.leaf, max(self.next - now, 0), max(self.latest - now, -1), flight

    def waits(self, offset: int) -> Iterator[tuple[str, str]]:
        """Name and reason of each end that waits."""
        if not self.cursor.done:
            at = (self.next + self.next_offset, self.started)
            lacking = ((q, n) for q, n in self.reads[self.cursor.action] if len(q.visible) < n)
            queue, tokens = next(lacking, (None, 0))
            yield (
                self.name,
                waits.for_tokens(queue.name, tokens, len(queue.visible), *at) if queue else waits.for_pipeline(*at),
            )
        if self.flight:
            _, ready, action = self.flight[0]
            since = max(ready, self.latest + 1) + offset
            queue, tokens = next((q, n) for q, n in self.writes[action] if len(q.freed) < n)
            yield f"{self.name} (results)", waits.for_room(queue.name, tokens, len(queue.freed), since)


class _Reader:
    """A read stream: makes requests as long as fewer than ``outstanding`` of them are not yet taken in full."""

    def __init__(self, read: Read, number: int, queue: _Queue, channel: PortChannel, addresses: Iterator[int]) -> None:
        self.addresses = addresses
        self.name, self.number, self.queue, self.channel = read.name, number, queue, channel
        self.cursor = Cursor(request_nest(read.bursts, channel.timing.max_burst))
        self.open: deque[int] = deque()
        """Beats of each request in flight that are not taken yet."""
        self.next = 0

    def step(self, now: int, engine: FastEngine) -> None:
        if self.cursor.leaf < 0 or len(self.open) >= self.channel.timing.outstanding:
            return
        if now < self.next:
            engine.wake(self.number, self.next)
            return
        beats = self.cursor.action
        arrivals = self.channel.read(now, beats, next(self.addresses))
        self.next = self.channel.address + 1
        self.open.append(beats)
        self.queue.visible.extend(arrivals)
        engine.wake(self.queue.consumer, arrivals[0])
        self.cursor.advance()
        engine.wake(self.number, self.next)

    def credit(self, tokens: int, now: int, engine: FastEngine) -> None:
        if self.cursor.done:
            return
        while tokens:
            taken = min(tokens, self.open[0])
            self.open[0] -= taken
            tokens -= taken
            if not self.open[0]:
                self.open.popleft()
                if len(self.open) == self.channel.timing.outstanding - 1:
                    self.next = max(self.next, now + 1)
                engine.wake(self.number, now + 1)

    def state(self, now: int) -> Any:
        if self.cursor.done:
            return None
        return self.cursor.leaf, max(self.next - now, 0), tuple(self.open)

    def waits(self, offset: int) -> Iterator[tuple[str, str]]:
        """Name and reason, if it waits."""
        if not self.cursor.done:
            yield self.name, waits.for_requests(self.channel.timing.outstanding, self.next + offset)


class _Writer:
    """A write stream: collects a burst, one beat per cycle, and sends it."""

    def __init__(
        self, write: Write, number: int, queue: _Queue, channel: PortChannel, addresses: Iterator[int]
    ) -> None:
        self.addresses = addresses
        self.name, self.number, self.queue, self.channel = write.name, number, queue, channel
        self.cursor = Cursor(request_nest(write.bursts, channel.timing.max_burst))
        self.collected = 0
        self.responses: deque[int] = deque()
        self.next = 0

    def step(self, now: int, engine: FastEngine) -> None:
        if self.cursor.leaf < 0 or not self.queue.visible:
            return
        earliest = max(self.next, self.queue.visible[0])
        if not self.collected and len(self.responses) >= self.channel.timing.outstanding:
            earliest = max(earliest, self.responses[0])
        if now < earliest:
            engine.wake(self.number, earliest)
            return
        while self.responses and self.responses[0] <= now:
            self.responses.popleft()
        self.queue.take(1, now, engine)
        self.collected += 1
        if self.collected == self.cursor.action:
            response = self.channel.write(now, self.collected, next(self.addresses))
            self.responses.append(response)
            self.collected = 0
            engine.reach(response)
            self.cursor.advance()
        self.next = now + 1
        engine.wake(self.number, self.next)

    def state(self, now: int) -> Any:
        return (
            self.cursor.leaf,
            max(self.next - now, 0),
            self.collected,
            tuple(r - now for r in self.responses if r > now),
        )

    def waits(self, offset: int) -> Iterator[tuple[str, str]]:
        """Name and reason, if it waits."""
        if not self.cursor.done:
            yield self.name, waits.for_data(self.queue.name, self.next + offset)


class _Snapshot:
    """A moment to compare with, in real time, so that it outlives jumps."""

    def __init__(self, engine: FastEngine, now: int) -> None:
        self.now = now + engine.offset
        self.counters = [list(agent.cursor.counters) for agent in engine.movers]
        self.started = [stage.started for stage in engine.stages]
        self.next = [stage.next + stage.next_offset for stage in engine.stages]
        self.stalls = [dict(stage.stalls) for stage in engine.stages]
        self.held = [len(queue.visible) for queue in engine.queues]


@dataclass(frozen=True)
class Jump:
    """A period that was found to repeat: how often it was jumped over after that, and what one period does.

    ``moved``: (agent, counter, by how much) for each agent that moves; ``waited``: for each stage reason -> cycles.
    """

    times: int
    period: int
    moved: tuple[tuple[int, int, int], ...]
    waited: tuple[dict[str, int], ...]


class FastEngine:
    """Runs one region; `run` may be called once.

    With a DRAM behind the ports, times are those of the whole program, the region begins at ``start``, and nothing is jumped
    over: rows, refreshes and what other regions ask of the memory are no part of the state that is compared.
    """

    def __init__(
        self, region: Region, ports: Mapping[str, PortTiming], behind: Behind | None = None, start: int = 0
    ) -> None:
        self.region, self.start = region, start
        self.offset = 0
        self.end = start
        self._heap: list[tuple[int, int]] = []
        queues = {fifo.name: _Queue(fifo) for fifo in region.fifos}
        self.queues = list(queues.values())
        self._channels = {
            (port, way): open_channel(port, ports[port], behind)
            for port, way in [*((r.port, "read") for r in region.reads), *((w.port, "write") for w in region.writes)]
        }
        self.stages = [_Stage(stage, 2 * i, queues) for i, stage in enumerate(region.stages)]
        first = 2 * len(self.stages)
        self._readers = [
            _Reader(
                read, first + i, queues[read.fifo], self._channels[read.port, "read"],
                stream_addresses(read, ports[read.port], behind),
            )
            for i, read in enumerate(region.reads)
        ]  # fmt: skip
        first += len(self._readers)
        self._writers = [
            _Writer(
                write, first + i, queues[write.fifo], self._channels[write.port, "write"],
                stream_addresses(write, ports[write.port], behind),
            )
            for i, write in enumerate(region.writes)
        ]  # fmt: skip
        self.movers: list[Any] = [*self.stages, *self._readers, *self._writers]
        self._steps: list[Any] = []
        for stage in self.stages:
            self._steps += [stage.step, stage.retire]
        self._steps += [agent.step for agent in self.movers[len(self.stages) :]]
        self._at = [NEVER] * len(self._steps)
        self._connect()
        sizes = [(iterations(s), len(m.cursor.limits)) for s, m in zip(region.stages, self.stages, strict=True)]
        # the longest stage; of equally long ones that with the most loops
        self.anchor = 2 * sizes.index(max(sizes)) if behind is None else -1
        self._level = -1
        self._seen: dict[int, dict[Any, _Snapshot]] = {}
        self.jumps: list[Jump] = []

    def run(self) -> RegionTimes:
        """Run the region to its end.

        Raises:
            Deadlock: stages wait for each other for ever.
        """
        self.begin()
        heap, at, steps = self._heap, self._at, self._steps
        while heap:
            now, agent = heappop(heap)
            if at[agent] == now:
                at[agent] = NEVER
                steps[agent](now, self)
            if self._level >= 0 and (not heap or heap[0][0] > now):
                self._compare(now)
        return self.finish()

    def begin(self) -> None:
        """Let every agent look at the first cycle."""
        for stage in self.stages:
            stage.next = self.start
        for agent in range(len(self._steps)):
            self.wake(agent, self.start)

    @property
    def upcoming(self) -> int:
        """Cycle of the next event; `NEVER` if the region is through."""
        return self._heap[0][0] if self._heap else NEVER

    def run_until(self, cycle: int) -> None:
        """All events up to a cycle, itself included."""
        heap, at, steps = self._heap, self._at, self._steps
        while heap and heap[0][0] <= cycle:
            now, agent = heappop(heap)
            if at[agent] == now:
                at[agent] = NEVER
                steps[agent](now, self)

    def finish(self) -> RegionTimes:
        """Times of the region, which has no more events.

        Raises:
            Deadlock: stages wait for each other for ever.
        """
        stuck = [entry for agent in self.movers for entry in agent.waits(self.offset)]
        if stuck:
            raise Deadlock("; ".join(f"{name} waits {reason}" for name, reason in sorted(stuck)))
        return RegionTimes(
            self.end + self.region.overhead - self.start,
            {stage.name: dict(sorted(stage.stalls.items())) for stage in self.stages},
        )

    def wake(self, agent: int, when: int) -> None:
        """Let an agent look at a cycle whether it can move."""
        if when < self._at[agent]:
            self._at[agent] = when
            heappush(self._heap, (when, agent))

    def reach(self, cycle: int) -> None:
        """Something lasts until a cycle."""
        self.end = max(self.end, cycle + self.offset)

    def passed(self, counter: int, cursor: Cursor) -> None:
        """The anchor has completed an iteration, and with it a pass of the loop or run of this counter."""
        is_run = not cursor.done and counter == cursor._counter[cursor.leaf]  # noqa: SLF001
        if not is_run or cursor.run_length >= LONG_RUN:
            self._level = counter

    # -- inside ---------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        for stage in self.stages:
            for reads in stage.reads:
                for queue, _ in reads:
                    queue.consumer = stage.number
            for writes in stage.writes:
                for queue, _ in writes:
                    queue.producer = stage.number + 1
        for reader in self._readers:
            reader.queue.source = reader
        for writer in self._writers:
            writer.queue.consumer = writer.number

    def _compare(self, now: int) -> None:
        level, self._level = self._level, -1
        for deeper in [other for other in self._seen if other > level]:
            del self._seen[deeper]
        seen = self._seen.setdefault(level, {})
        key = self._state(now)
        before = seen.get(key)
        if before is not None and self._jump(before, now):
            seen.clear()  # moments of loops further out stay: what led here from them is what it would have been
        seen[key] = _Snapshot(self, now)

    def _state(self, now: int) -> Any:
        waking = tuple(max(time - now, 0) if time < NEVER else -1 for time in self._at)
        channels = tuple(
            (max(c.address - now, -1), max(c.free - now * c.timing.denominator, 0)) for c in self._channels.values()
        )
        agents = tuple(agent.state(now) for agent in self.movers)
        return waking, channels, agents, tuple(queue.state(now) for queue in self.queues)

    def _jump(self, before: _Snapshot, now: int) -> bool:
        moves = [repeats(agent.cursor, old) for agent, old in zip(self.movers, before.counters, strict=True)]
        limited = [times for times, _, _ in moves if times >= 0]
        times = min(limited, default=0)
        if times < 1 or not self._books_repeat(before, now):
            return False
        period = now + self.offset - before.now
        self.jumps.append(self._noted(before, times, period, moves))
        for agent, (_, counter, step) in zip(self.movers, moves, strict=True):
            agent.cursor.counters[counter] += times * step
        for queue, held in zip(self.queues, before.held, strict=True):
            for _ in range(times * (held - len(queue.visible))):
                queue.visible.popleft()
        for number, stage in enumerate(self.stages):
            moved = times * (stage.started - before.started[number])
            if not moved:
                continue
            stage.started += moved
            stage.flight = deque((i + moved, ready, action) for i, ready, action in stage.flight)
            stage.next_offset += times * period
            for reason, cycles in stage.stalls.items():
                stage.stalls[reason] = cycles + times * (cycles - before.stalls[number].get(reason, 0))
        self.offset += times * period
        self.end += times * period
        return True

    def _noted(self, before: _Snapshot, times: int, period: int, moves: Sequence[tuple[int, int, int]]) -> Jump:
        moved = tuple((number, counter, step) for number, (limit, counter, step) in enumerate(moves) if limit >= 0)
        waited = tuple(
            {
                reason: cycles - old.get(reason, 0)
                for reason, cycles in stage.stalls.items()
                if cycles > old.get(reason, 0)
            }
            for stage, old in zip(self.stages, before.stalls, strict=True)
        )
        return Jump(times, period, moved, waited)

    def _books_repeat(self, before: _Snapshot, now: int) -> bool:
        """Whether every stage that moved has waited as long as it had then, so that its next stall is booked alike."""
        return all(
            stage.started == started or stage.next + stage.next_offset - self.offset - now == next_ - before.now
            for stage, started, next_ in zip(self.stages, before.started, before.next, strict=True)
        )


def run_region(region: Region, ports: Mapping[str, PortTiming]) -> RegionTimes:
    """A region on an idle machine.

    Raises:
        Deadlock: stages wait for each other for ever.
    """
    return FastEngine(region, ports).run()


__all__ = ["FastEngine", "Jump", "run_region"]
