"""The reference engine: a SimPy process for each end of a stage and for each stream, one beat at a time.

Shares the arithmetic of port channels with the fast engine and nothing else: nests are expanded, nothing repeats.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from pimsim.machine.fpga import waits
from pimsim.machine.fpga.books import OUTPUT, RegionTimes
from pimsim.machine.fpga.ports import Behind, PortChannel, PortTiming, open_channel, request_nest, stream_addresses
from pimsim.machine.kernel import Gate, Kernel, Process, Turn
from pimsim.program.dataflow import Fifo, Read, Region, Stage, Write, expand

MOST_STREAMS = 1000
"""More streams than any region has."""


class _Channel:
    """A FIFO with (time, value)-style ends: a token is there at its time, a place is free at its time."""

    def __init__(self, kernel: Kernel, fifo: Fifo) -> None:
        self.kernel, self.fifo = kernel, fifo
        self.tokens: deque[int] = deque()
        self.places: deque[int] = deque([0] * fifo.depth)
        self.filled, self.emptied = Gate(kernel), Gate(kernel)
        self.taken: Callable[[int], None] | None = None
        """Called with the number of tokens taken, where a read stream fills this FIFO."""

    def wait_tokens(self, count: int) -> Process:
        while len(self.tokens) < count:
            yield self.filled.wait()
        if self.tokens[count - 1] > self.kernel.now:
            yield self.kernel.until(self.tokens[count - 1])

    def wait_places(self, count: int) -> Process:
        while len(self.places) < count:
            yield self.emptied.wait()
        if self.places[count - 1] > self.kernel.now:
            yield self.kernel.until(self.places[count - 1])

    def take(self, count: int) -> int:
        """Take tokens now; the time at which the last of them became visible."""
        visible = max(self.tokens.popleft() for _ in range(count))
        if self.taken is not None:
            self.taken(count)
        else:
            self.places.extend([self.kernel.now + 1] * count)
            self.emptied.open()
        return visible

    def put(self, count: int) -> None:
        for _ in range(count):
            self.places.popleft()
        self.arrive([self.kernel.now + self.fifo.latency] * count)

    def arrive(self, times: list[int]) -> None:
        self.tokens.extend(times)
        self.filled.open()


class ReferenceEngine:
    """Runs one region; `run` may be called once.

    With a DRAM behind the ports, regions share a kernel and the order of requests (``among``), times are those of the whole
    program, and ``number`` is the position of the call.
    """

    def __init__(
        self,
        region: Region,
        ports: Mapping[str, PortTiming],
        behind: Behind | None = None,
        among: Turn | None = None,
        number: int = 0,
    ) -> None:
        self.region, self._behind, self._number = region, behind, number
        self._alone = among is None
        self._turn = among or Turn(Kernel())
        self.kernel = self._turn.kernel
        self.start = self.end = self.kernel.now
        self._left = 0
        self._done: Callable[[RegionTimes], None] | None = None
        self._fifos = {fifo.name: _Channel(self.kernel, fifo) for fifo in region.fifos}
        self._ports = ports
        self._channels: dict[tuple[str, str], PortChannel] = {}
        self._doing: dict[str, Callable[[], str]] = {}
        """What each unit waits for, should the region get stuck."""
        self._stalls: dict[str, dict[str, int]] = {stage.name: {} for stage in region.stages}

    def run(self) -> RegionTimes:
        """Run the region to its end.

        Raises:
            Deadlock: stages wait for each other for ever.
        """
        self.begin()
        self.kernel.run()
        return self.times()

    def begin(self, done: Callable[[RegionTimes], None] | None = None) -> None:
        """Start all processes now; ``done`` is called when the last one is through."""
        self._done = done
        for stage in self.region.stages:
            self._start_stage(stage)
        for number, read in enumerate(self.region.reads):
            self._start(read.name, self._read(number, read))
        for number, write in enumerate(self.region.writes):
            self._start(write.name, self._write(len(self.region.reads) + number, write))

    def times(self) -> RegionTimes:
        """Times of the region, whose processes are all through."""
        stalls = {name: dict(sorted(reasons.items())) for name, reasons in self._stalls.items()}
        return RegionTimes(self.end + self.region.overhead - self.start, stalls)

    # -- processes ------------------------------------------------------------------------------------------------

    def _start(self, name: str, process: Process) -> None:
        self._left += 1
        unit = name if self._alone else f"call {self._number}: {name}"
        self.kernel.start(unit, self._counted(process), lambda: self._doing[name]())  # noqa: PLW0108 (the entry changes)

    def _counted(self, process: Process) -> Process:
        yield from process
        self._left -= 1
        if not self._left and self._done is not None:
            self._done(self.times())

    def _enter(self, stream: int, ask: Callable[[], None]) -> None:
        """A request at the end of this instant, after those of earlier calls and streams."""
        self._turn.enter(self._number * MOST_STREAMS + stream, ask)

    def _start_stage(self, stage: Stage) -> None:
        flight: deque[tuple[int, int, int]] = deque()
        entered, left = Gate(self.kernel), Gate(self.kernel)
        freed: list[int] = []
        self._start(stage.name, self._issue(stage, flight, entered, left, freed))
        self._start(f"{stage.name} (results)", self._retire(stage, flight, entered, left, freed))

    def _issue(
        self, stage: Stage, flight: deque[tuple[int, int, int]], entered: Gate, left: Gate, freed: list[int]
    ) -> Process:
        kernel, earliest = self.kernel, self.start
        room = -(-stage.depth // stage.interval)
        for number, action in enumerate(expand(stage.nest)):
            if earliest > kernel.now:
                yield kernel.until(earliest)
            reads = stage.actions[action].reads
            for fifo, tokens in reads:
                self._doing[stage.name] = lambda f=self._fifos[fifo], t=tokens, at=(earliest, number): waits.for_tokens(  # type: ignore[misc]
                    f.fifo.name, t, len(f.tokens), *at
                )
                yield from self._fifos[fifo].wait_tokens(tokens)
            while flight and number - flight[0][0] >= room:
                self._doing[stage.name] = lambda at=(earliest, number): waits.for_pipeline(*at)  # type: ignore[misc]
                yield left.wait()
            if freed and number - freed[0] >= room and freed[1] > kernel.now:
                yield kernel.until(freed[1])
            now = kernel.now
            seen = [(fifo, self._fifos[fifo].take(tokens)) for fifo, tokens in reads]
            if now > earliest:
                reason = next((fifo for fifo, visible in seen if visible == now), OUTPUT)
                self._stalls[stage.name][reason] = self._stalls[stage.name].get(reason, 0) + now - earliest
            if stage.actions[action].writes:
                flight.append((number, now + stage.depth - 1, action))
                entered.open()
            self.end = max(self.end, now + stage.depth)
            earliest = now + stage.interval

    def _retire(
        self, stage: Stage, flight: deque[tuple[int, int, int]], entered: Gate, left: Gate, freed: list[int]
    ) -> Process:
        kernel = self.kernel
        left_over = sum(1 for action in expand(stage.nest) if stage.actions[action].writes)
        latest, name = -1, f"{stage.name} (results)"
        for _ in range(left_over):
            self._doing[name] = lambda: ""  # nothing is ready: the stage itself says what it waits for
            while not flight:
                yield entered.wait()
            number, ready, action = flight[0]
            since = max(ready, latest + 1)
            if since > kernel.now:
                yield kernel.until(since)
            for fifo, tokens in stage.actions[action].writes:
                self._doing[name] = lambda f=self._fifos[fifo], t=tokens, since=since: waits.for_room(  # type: ignore[misc]
                    f.fifo.name, t, len(f.places), since
                )
                yield from self._fifos[fifo].wait_places(tokens)
            for fifo, tokens in stage.actions[action].writes:
                self._fifos[fifo].put(tokens)
            latest = kernel.now
            self.end = max(self.end, latest + 1)
            flight.popleft()
            freed[:] = [number, latest + 1]
            left.open()

    def _read(self, number: int, read: Read) -> Process:
        kernel, fifo = self.kernel, self._fifos[read.fifo]
        port = self._channel(read.port, "read")
        open_requests: deque[int] = deque()
        credit, answered = Gate(kernel), Gate(kernel)
        credit_time = [0]

        def taken(tokens: int) -> None:
            while tokens:
                part = min(tokens, open_requests[0])
                open_requests[0] -= part
                tokens -= part
                if not open_requests[0]:
                    open_requests.popleft()
                    if len(open_requests) == port.timing.outstanding - 1:
                        credit_time[0] = kernel.now + 1
                    credit.open()

        fifo.taken = taken
        places = stream_addresses(read, port.timing, self._behind)
        for beats, address in zip(expand(request_nest(read.bursts, port.timing.max_burst)), places, strict=False):
            while len(open_requests) >= port.timing.outstanding:
                self._doing[read.name] = lambda since=kernel.now: waits.for_requests(port.timing.outstanding, since)  # type: ignore[misc]
                yield credit.wait()
            if credit_time[0] > kernel.now:
                yield kernel.until(credit_time[0])
            arrivals: list[int] = []
            asked: list[int] = []

            def ask(
                beats: int = beats, address: int = address, arrivals: list[int] = arrivals, asked: list[int] = asked
            ) -> None:
                arrivals.extend(port.read(kernel.now, beats, address))
                asked.append(port.address)  # before another stream of the port asks at this instant
                open_requests.append(beats)
                answered.open()

            self._enter(number, ask)
            yield answered.wait()
            fifo.arrive(arrivals)
            yield kernel.until(asked[0] + 1)

    def _write(self, number: int, write: Write) -> Process:
        kernel, fifo = self.kernel, self._fifos[write.fifo]
        port = self._channel(write.port, "write")
        responses: deque[int] = deque()
        answered = Gate(kernel)
        places = stream_addresses(write, port.timing, self._behind)
        for beats, address in zip(expand(request_nest(write.bursts, port.timing.max_burst)), places, strict=False):
            if len(responses) >= port.timing.outstanding:
                oldest = responses.popleft()
                if oldest > kernel.now:
                    yield kernel.until(oldest)
            for beat in range(beats):
                self._doing[write.name] = lambda since=kernel.now: waits.for_data(fifo.fifo.name, since)  # type: ignore[misc]
                yield from fifo.wait_tokens(1)
                fifo.take(1)
                if beat == beats - 1:

                    def send(beats: int = beats, address: int = address) -> None:
                        responses.append(port.write(kernel.now, beats, address))
                        self.end = max(self.end, responses[-1])
                        answered.open()

                    self._enter(number, send)
                    yield answered.wait()
                yield kernel.until(kernel.now + 1)

    def _channel(self, port: str, way: str) -> PortChannel:
        if (port, way) not in self._channels:
            self._channels[port, way] = open_channel(port, self._ports[port], self._behind)
        return self._channels[port, way]


def run_region(region: Region, ports: Mapping[str, PortTiming]) -> RegionTimes:
    """A region on an idle machine.

    Raises:
        Deadlock: stages wait for each other for ever.
    """
    return ReferenceEngine(region, ports).run()


__all__ = ["ReferenceEngine", "run_region"]
