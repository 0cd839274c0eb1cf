"""The host: takes one instruction in a clock, hands its requests to the channels, and waits for those that block.

Channels that every instruction addresses alike are in the same state at all times; one of them is simulated for all.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pimsim.arch.dram import DramSpec
from pimsim.errors import Deadlock
from pimsim.machine.aim.channel import NEVER, AimChannel, Issued, Request
from pimsim.machine.aim.policy import LOOKUP_TABLES, Policy
from pimsim.program.aim_isr import Instruction

Sink = Callable[[tuple[int, int, str, tuple[int, ...], int, int]], object]
"""Told every command of every channel, as (cycle, channel, command, address, row, column), in the order of cycles."""


@dataclass(frozen=True)
class AimRun:
    """What a run was."""

    cycles: int
    """Memory clocks until EOC was answered."""
    groups: tuple[tuple[int, ...], ...]
    """Channels that behaved alike."""
    counts: tuple[Counter[str], ...]
    """Commands of one channel of each group."""
    logs: tuple[list[Issued], ...]
    """The commands of one channel of each group; empty lists if none was asked for."""

    def channel_counts(self, channel: int) -> Counter[str]:
        """Commands of one channel."""
        return next(c for group, c in zip(self.groups, self.counts, strict=True) if channel in group)

    def channel_log(self, channel: int) -> list[Issued]:
        """Commands of one channel, in the order in which they were issued."""
        return next(log for group, log in zip(self.groups, self.logs, strict=True) if channel in group)

    @property
    def total_counts(self) -> Counter[str]:
        """Commands, summed over channels."""
        total: Counter[str] = Counter()
        for group, counts in zip(self.groups, self.counts, strict=True):
            for name, count in counts.items():
                total[name] += count * len(group)
        return total


def run_aim(
    spec: DramSpec,
    policy: Policy,
    instructions: Sequence[Instruction],
    *,
    log: bool = False,
    sink: Sink | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AimRun:
    """Run a list of instructions that ends with EOC; ``log`` keeps the commands, a ``sink`` is told them instead.

    Raises:
        Deadlock: the machine can never answer; the message says what each channel waits for.
    """
    host = Host(spec, policy, [i.channels for i in instructions], log=log, sink=sink)
    host.run(instructions, progress=progress)
    channels = host.channels
    return AimRun(
        cycles=host.end,
        groups=host.groups,
        counts=tuple(channel.counts for channel in channels),
        logs=tuple(channel.log or [] for channel in channels),
    )


def _for_each(group: Sequence[int], sink: Sink) -> Callable[[Issued], None]:
    """Tell the sink what one channel issues, for each channel that does the same."""

    def tell(issued: Issued) -> None:
        for channel in group:
            sink((issued.cycle, channel, issued.command, issued.where, issued.row, issued.column))

    return tell


def alike(channels: int, sets: Iterable[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """The channels in groups that every instruction addresses as a whole or not at all, from the sets that are addressed."""
    groups = [tuple(range(channels))]
    for addressed in {frozenset(each) for each in sets if each}:
        parts = [(tuple(c for c in g if c in addressed), tuple(c for c in g if c not in addressed)) for g in groups]
        groups = [part for pair in parts for part in pair if part]
    return tuple(sorted(groups))


class Host:
    """Decodes instructions and hands their requests to the channels, of which it simulates one of each group."""

    def __init__(
        self,
        spec: DramSpec,
        policy: Policy,
        sets: Iterable[Sequence[int]],
        *,
        log: bool = False,
        sink: Sink | None = None,
    ) -> None:
        self._spec, self._policy = spec, policy
        self._instructions: Sequence[Instruction] = ()
        self.groups = alike(spec.channels, sets)
        self.channels = [
            AimChannel(spec, policy, log=log, sink=_for_each(group, sink) if sink else None) for group in self.groups
        ]
        self._number = {channel: n for n, group in enumerate(self.groups) for channel in group}
        self._left_over: list[deque[Request]] = [deque() for _ in self.groups]
        self._outstanding = 0
        self._head = self._since = 0
        """Number of the next instruction, and the clock at which the last one was decoded."""
        self._inner = spec.counts[-1]
        waits = [rule.gap for rule in spec.rules] + [command.latency for command in spec.commands.values()]
        self._patience = max(waits) + 3 * spec.refresh_interval
        """Clocks in which something must happen but refreshes falling due: nothing is held back for longer."""
        self._look = 0
        """Clock at which to look whether anything has happened."""
        self._nowhere = (-1,) * len(spec.address_fields)
        self.end = 0
        """Clock in which the last instruction was retired."""

    def idle(self, clocks: int) -> None:
        """Let time pass without sending anything; refreshes go on."""
        until = self.end + clocks
        while (clock := min(channel.wake for channel in self.channels)) <= until:
            for channel in self.channels:
                if channel.wake <= clock:
                    channel.tick(int(clock))
        self.end = until

    def run(self, instructions: Sequence[Instruction], *, progress: Callable[[int, int], None] | None = None) -> None:
        """Step from one clock that matters to the next, until the last instruction is retired; go on at the next clock.

        Raises:
            Deadlock: the machine can never answer; the message says what each channel waits for.
        """
        self._instructions, self._head = instructions, 0
        clock, total = self.end + 1, len(instructions)
        while True:
            retired = self._hand_over(clock)
            answers = 0
            for channel in self.channels:
                if channel.wake <= clock:
                    channel.tick(clock)
                    answers += channel.answers
            if answers:
                self._outstanding -= answers
                if not self._outstanding:
                    self._head += 1
                    retired = True
            if self._head == total and not any(self._left_over):
                self.end = clock
                return
            if progress and retired and not self._head % 1000:
                progress(self._head, total)
            clock = self._next_clock(clock)

    def _next_clock(self, clock: int) -> int:
        """The next clock at which the host or a channel may do something."""
        if not self._outstanding and not any(self._left_over):
            return clock + 1
        wake = min(channel.wake for channel in self.channels)
        if wake == NEVER or wake > self._look:
            self._look = max(self._since, *(channel.since for channel in self.channels)) + self._patience
            if wake > self._look:
                raise Deadlock(self._complaint(clock))
        return int(max(wake, clock + 1))

    def _complaint(self, clock: int) -> str:
        """Who waits, for what and since when: the host, then the channels, those alike together."""
        head = self._instructions[self._head]
        what = f"{head.name} ({f'line {head.line}' if head.line else f'instruction {self._head}'})"
        refused = sum(map(len, self._left_over))
        wants = f"{what} to be answered" if self._outstanding else f"{refused} places in queues for {what}"
        waiting = [f"host waits for {wants}, since cycle {self._since}"]
        for group, channel in zip(self.groups, self.channels, strict=True):
            if text := channel.waits_for():
                alike = f" and {len(group) - 1} like it wait" if len(group) > 1 else " waits"
                waiting.append(f"channel {group[0]}{alike} for {text}")
        return f"{'; '.join(waiting)}; nothing can happen after cycle {clock}"

    def _hand_over(self, clock: int) -> bool:
        """Left-overs first, then at most one new instruction; whether an instruction was retired."""
        had = any(self._left_over)
        if had:
            for channel, queue in zip(self.channels, self._left_over, strict=True):
                while queue and channel.send(queue[0], clock):
                    queue.popleft()
        if self._outstanding:
            return False
        if had:
            if any(self._left_over):
                return False
        elif self._head >= min(clock, len(self._instructions)) or not self._decode(clock):
            return False
        self._head += 1
        return True

    def _decode(self, clock: int) -> bool:
        """Send the requests of the next instruction; whether it is done with."""
        self._since = clock
        instruction = self._instructions[self._head]
        form = instruction.form
        if instruction.name in ("SYNC", "EOC"):
            numbers = list(range(len(self.groups)))
        else:
            numbers = sorted({self._number[channel] for channel in instruction.channels})
        if not numbers:
            return True
        for column in range(instruction.size):
            request = self._request(instruction, column)
            for number in numbers:
                if self._left_over[number] or not self.channels[number].send(request, clock):
                    self._left_over[number].append(request)
                self._outstanding += form.blocks
        return not self._outstanding and not any(self._left_over)

    def _request(self, instruction: Instruction, column: int) -> Request:
        form = instruction.form
        where, row = self._nowhere, instruction.row
        if instruction.bank >= 0:
            where = (instruction.bank // self._inner, instruction.bank % self._inner, *self._nowhere[2:])
        if instruction.name == "AF":
            base = self._policy.lookup_row
            row = instruction.mode + (self._spec.rows - LOOKUP_TABLES if base is None else base)
        column = -1 if instruction.name in ("R MEM", "W MEM") else instruction.column + column
        return Request(form.command or "", where, row, column, self._head, form.register_mode, form.blocks, form.plain)


__all__ = ["AimRun", "Host", "Sink", "alike", "run_aim"]
