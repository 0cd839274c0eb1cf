"""The legality oracle: does a list of issued commands break a rule of its DRAM?

It reads the rules as they are written and remembers, for each rule and node, the last commands that count. It shares
no code with the calendar and the bank state of the machine, so that the two can be checked against each other.

What it checks on each channel:

* every timing rule (`DramSpec.rules`);
* command buses: a command that takes n ticks keeps its bus for n ticks;
* bank states: a row is opened in a closed bank only, what needs an open row finds it, refresh finds closed banks;
* two steps: a second step follows its first, in time, and nothing that needs a closed bank comes between them;
* data pins, where the timing values ``nCL``, ``nCWL`` and ``nBL`` exist: bursts of plain reads and writes never overlap
  within a pseudo channel, a rank or, where there are none, the channel. Bursts of different ranks are not compared: the
  reference simulators let them collide, which is a known fault of their rank-to-rank rules.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pimsim.arch.dram import Command, DramSpec, Rule
from pimsim.trace.csvio import TraceCommand, bind_trace

Address = tuple[int, ...]
Node = tuple[int, ...]

_LEVEL_NAMES = {"bankgroup": "BankGroup", "pseudochannel": "PseudoChannel"}


@dataclass(frozen=True)
class Violation:
    """One broken rule."""

    index: int
    """Position in the list of commands, from 0."""
    line: int
    """Line in the trace file; 0 if there is none."""
    cycle: int
    """Tick at which the command issued."""
    command: str
    kind: str
    """``timing``, ``bus``, ``state``, ``data`` or ``order``."""
    constraint: str
    """The rule that is broken, for example ``Bank: RD->PREpb >= 12 (nRTP)``."""
    found: str
    """What was found instead, for example ``11``."""

    def __str__(self) -> str:
        place = f"line {self.line}" if self.line else f"command {self.index + 1}"
        return f"{place}: cycle {self.cycle}: {self.command}: {self.constraint}, not {self.found}"


def check_trace(spec: DramSpec, commands: Iterable[TraceCommand], file: Path | str | None = None) -> list[Violation]:
    """Every violation in `commands`, in their order; empty if the trace is legal.

    The cycles of a channel must not decrease; channels are checked apart from each other.

    Raises:
        TraceError: a command or an address is none of the DRAM's.
    """
    rows = list(commands)
    channels: dict[int, ChannelChecker] = {}
    violations: list[Violation] = []
    for index, (row, address) in enumerate(zip(rows, bind_trace(spec, rows, file), strict=True)):
        number = max(row.channel, 0)
        if number not in channels:
            channels[number] = ChannelChecker(spec)
        for kind, constraint, found in channels[number].broken(row, address):
            violations.append(Violation(index, row.line, row.cycle, row.command, kind, constraint, found))
        channels[number].note(row, address)
    return violations


Finding = tuple[str, str, str]
"""(kind, constraint, found)"""


class ChannelChecker:
    """The history of one channel, one checker for each kind of rule."""

    def __init__(self, spec: DramSpec) -> None:
        self._spec = spec
        self._nodes = _Nodes(spec)
        self._histories = [_RuleHistory(rule, spec, self._nodes) for rule in spec.rules]
        self._reads: dict[tuple[str, Address], list[tuple[_RuleHistory, str, deque[int]]]] = {}
        self._notes: dict[tuple[str, Address], list[deque[int]]] = {}
        self._buses: dict[str, tuple[int, str]] = {}
        self._rows: dict[Node, int] = {}
        self._steps = {command.after for command in spec.commands.values() if command.after is not None}
        self._begun: dict[Node, TraceCommand] = {}
        self._data = _DataPins(spec)
        self._cycle = 0

    def broken(self, row: TraceCommand, address: Address) -> Iterator[Finding]:
        """What the command breaks, given all that were noted before it."""
        if row.cycle < self._cycle:
            yield "order", f"cycles of a channel must not decrease, {self._cycle} came before", str(row.cycle)
        for history, prev, cycles in self._read_by(row.command, address):
            rule = history.rule
            if len(cycles) == rule.window and row.cycle - cycles[0] < rule.gap:
                yield "timing", history.spell(prev, row.command), str(row.cycle - cycles[0])
        yield from self._broken_bus(row)
        yield from self._broken_state(row, address)
        if self._steps:
            yield from self._broken_steps(row, address)
        yield from self._data.broken(row, address)

    def note(self, row: TraceCommand, address: Address) -> None:
        """Remember the command."""
        command = self._spec.commands[row.command]
        for cycles in self._noted_by(row.command, address):
            cycles.append(row.cycle)
        self._buses[command.bus] = (row.cycle + command.ticks, row.command)
        self._cycle = max(self._cycle, row.cycle)
        self._data.note(row, address)
        if row.command in self._steps:
            self._begun |= dict.fromkeys(self._banks(command, address), row)
        if command.effect != "none":
            for bank in self._banks(command, address):
                self._begun.pop(bank, None)
                if command.effect == "open":
                    self._rows[bank] = row.row
                else:
                    self._rows.pop(bank, None)

    def _read_by(self, command: str, address: Address) -> list[tuple[_RuleHistory, str, deque[int]]]:
        key = (command, address)
        if key not in self._reads:
            concerned = [history for history in self._histories if command in history.rule.next]
            self._reads[key] = [(h, prev, cycles) for h in concerned for prev, cycles in h.read_by(command, address)]
        return self._reads[key]

    def _noted_by(self, command: str, address: Address) -> list[deque[int]]:
        key = (command, address)
        if key not in self._notes:
            concerned = [history for history in self._histories if command in history.rule.prev]
            self._notes[key] = [cycles for h in concerned for cycles in h.noted_by(command, address)]
        return self._notes[key]

    def _broken_bus(self, row: TraceCommand) -> Iterator[Finding]:
        command = self._spec.commands[row.command]
        if command.bus in self._buses:
            free, before = self._buses[command.bus]
            if row.cycle < free:
                ticks = self._spec.commands[before].ticks
                yield "bus", f"{command.bus} bus: {before}->{row.command} >= {ticks}", str(row.cycle - free + ticks)

    def _broken_state(self, row: TraceCommand, address: Address) -> Iterator[Finding]:
        command = self._spec.commands[row.command]
        if command.effect == "open" or command.refresh or command.needs == "closed":
            for bank in self._banks(command, address):
                if bank in self._rows:
                    found = f"{self._spell(bank)} with row {self._rows[bank]} open"
                    yield "state", f"{row.command} on closed banks only", found
        elif command.needs == "open":
            for bank in self._banks(command, address):
                found_row = self._rows.get(bank)
                if found_row is None:
                    yield "state", f"{row.command} on an open row only", f"{self._spell(bank)} closed"
                elif row.row >= 0 and found_row >= 0 and row.row != found_row:
                    found = f"{self._spell(bank)} with row {found_row} open"
                    yield "state", f"{row.command} on the open row only, row {row.row}", found

    def _broken_steps(self, row: TraceCommand, address: Address) -> Iterator[Finding]:
        command = self._spec.commands[row.command]
        closed = command.effect == "open" or command.refresh or command.needs == "closed"
        for bank in self._banks(command, address):
            first = self._begun.get(bank)
            if command.after is None:
                if first is not None and closed:
                    yield (
                        "state",
                        f"{row.command} on closed banks only",
                        f"{self._spell(bank)} after {first.command} alone",
                    )
            elif first is None or first.command != command.after:
                yield "state", f"{row.command} after {command.after} only", f"{self._spell(bank)} without it"
            elif command.within is not None and row.cycle - first.cycle > command.within:
                rule = f"{self._spec.levels[-1].capitalize()}: {command.after}->{row.command} <= {command.within}"
                yield "timing", rule, str(row.cycle - first.cycle)

    def _banks(self, command: Command, address: Address) -> list[Node]:
        return self._nodes.of(command, address, self._spec.levels[-1])

    def _spell(self, bank: Node) -> str:
        return ", ".join(f"{level} {index}" for level, index in zip(self._spec.levels, bank, strict=True))


class _Nodes:
    """Which nodes of a level a command addresses: its own down to its scope, and all below."""

    def __init__(self, spec: DramSpec) -> None:
        self._spec = spec
        self._counts = dict(zip(spec.levels, spec.counts, strict=True)) | spec.register_files
        self._done: dict[tuple[str, Address, str], list[Node]] = {}

    def path(self, level: str) -> tuple[str, ...]:
        """The levels from the channel down to `level`; a register file hangs on the channel."""
        if level == "channel":
            return ()
        if level in self._spec.register_files:
            return (level,)
        return self._spec.levels[: self._spec.levels.index(level) + 1]

    def of(self, command: Command, address: Address, level: str) -> list[Node]:
        """The nodes at `level` that `command` at `address` addresses; none if it does not use that register file."""
        key = (command.name, address, level)
        if key not in self._done:
            self._done[key] = self._work_out(command, address, level)
        return self._done[key]

    def _work_out(self, command: Command, address: Address, level: str) -> list[Node]:
        if level in self._spec.register_files and command.register_file != level:
            return []
        named = dict(zip(self._spec.address_fields, address, strict=True))
        fixed = (*self.path(command.scope), command.register_file)
        choices = []
        for name in self.path(level):
            one = name in fixed and named[name] >= 0
            choices.append([named[name]] if one else list(range(self._counts[name])))
        return list(itertools.product(*choices))

    def siblings(self, node: Node, level: str) -> list[Node]:
        """The other nodes with the same parent."""
        return [(*node[:-1], other) for other in range(self._counts[level]) if node and other != node[-1]]


class _RuleHistory:
    """One rule and, for each earlier name and node, the last cycles that count (as many as its window)."""

    def __init__(self, rule: Rule, spec: DramSpec, nodes: _Nodes) -> None:
        self.rule = rule
        self._commands = spec.commands
        self._nodes = nodes
        self._last: dict[tuple[str, Node], deque[int]] = {}

    def _cycles(self, prev: str, node: Node) -> deque[int]:
        return self._last.setdefault((prev, node), deque(maxlen=self.rule.window))

    def noted_by(self, command: str, address: Address) -> list[deque[int]]:
        """The histories in which the command is an earlier one."""
        nodes = self._nodes.of(self._commands[command], address, self.rule.level)
        if self.rule.sibling:
            nodes = sorted({other for node in nodes for other in self._nodes.siblings(node, self.rule.level)})
        return [self._cycles(command, node) for node in nodes]

    def read_by(self, command: str, address: Address) -> list[tuple[str, deque[int]]]:
        """The histories that the command must keep its distance from, with the earlier command of each."""
        nodes = self._nodes.of(self._commands[command], address, self.rule.level)
        return [(prev, self._cycles(prev, node)) for node in nodes for prev in self.rule.prev]

    def spell(self, prev: str, next_: str) -> str:
        """The rule for one pair of commands, for example ``Bank: RD->PREpb >= 12 (nRTP)``."""
        rule = self.rule
        extras = [rule.text] if rule.text != str(rule.gap) else []
        extras += [f"window {rule.window}"] if rule.window > 1 else []
        extras += ["sibling"] if rule.sibling else []
        level = _LEVEL_NAMES.get(rule.level, rule.level.capitalize())
        return f"{level}: {prev}->{next_} >= {rule.gap}" + (f" ({', '.join(extras)})" if extras else "")


class _DataPins:
    """The data bursts on each set of pins; at most the last few can still be under way."""

    def __init__(self, spec: DramSpec) -> None:
        self._spec = spec
        timing = spec.timing
        known = all(name in timing for name in ("nCL", "nCWL", "nBL"))
        self._start = {"read": timing["nCL"], "write": timing["nCWL"]} if known else {}
        self._length = timing.get("nBL", 0)
        owner = next((level for level in ("pseudochannel", "rank") if level in spec.levels), None)
        self._depth = spec.levels.index(owner) + 1 if owner else 0
        self._bursts: dict[Node, list[tuple[int, str]]] = {}

    def _burst(self, row: TraceCommand) -> int | None:
        """First tick of the data of a plain read or write."""
        command = self._spec.commands[row.command]
        plain = command.scope == self._spec.levels[-1] and command.needs == "open"
        return row.cycle + self._start[command.data] if plain and command.data in self._start else None

    def broken(self, row: TraceCommand, address: Address) -> Iterator[Finding]:
        start = self._burst(row)
        if start is None:
            return
        for other, before in self._bursts.get(address[: self._depth], ()):
            if abs(start - other) < self._length:
                yield "data", f"data pins: {before}->{row.command} bursts {self._length} apart", str(start - other)

    def note(self, row: TraceCommand, address: Address) -> None:
        start = self._burst(row)
        if start is not None:
            under_way = self._bursts.setdefault(address[: self._depth], [])
            under_way[:] = [burst for burst in under_way if burst[0] + self._length > row.cycle]
            under_way.append((start, row.command))
