"""Static rules of a command program: what can be known to be wrong before anything runs.

Every item of every step is checked once for each situation in which it is met: a block that is placed again and finds
the same rows open (relative to its own) is not walked again, and channels that share a stream and a state are walked
together. Of a `pimsim.program.isa.Repeat` the first two passes and the last are walked: addresses move by the same
distance from pass to pass, so the ones in between follow if the open rows move likewise; if not, all passes are walked.

Commands are told apart by what they do (`pimsim.arch.dram.Command`), never by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import NoReturn
from weakref import WeakKeyDictionary

from pimsim.arch.dram import Command, DramSpec
from pimsim.arch.functions import FUNCTIONS, TENSOR_FUNCTIONS
from pimsim.errors import ProgramError, did_you_mean
from pimsim.program.dataflow import verify_region
from pimsim.program.isa import (
    Block,
    Compute,
    Item,
    Kernel,
    Placed,
    Repeat,
    Run,
    Step,
    Stream,
    Transfer,
    Where,
    Work,
    bank_where,
)

Banks = frozenset[int]
"""Flat indices of banks within their channel."""

Rows = tuple[tuple[Banks, int], ...]
"""Open rows of a channel: the banks that one command opened, and the row."""


def verify(
    placed: Iterable[Placed], spec: DramSpec, sram_elements: int, buffer_columns: int, *, lanes: int = 1
) -> None:
    """Check a program, blocks in program order; the rows that a block leaves open are open for the next one.

    Args:
        placed: blocks with their places.
        spec: the DRAM.
        sram_elements: elements that the ASIC's SRAM holds.
        buffer_columns: columns that the global buffer of a channel holds.
        lanes: elements in one column.

    Raises:
        ProgramError: a rule is broken; block, unit, step and item are named.
    """
    checker = _Checker(_Machine(spec, sram_elements, buffer_columns, lanes))
    for each in placed:
        checker.block(each)


class _Machine:
    """What the rules need to know, looked up once."""

    def __init__(self, spec: DramSpec, sram_elements: int, buffer_columns: int, lanes: int) -> None:
        self.spec, self.sram_elements, self.buffer_columns, self.lanes = spec, sram_elements, buffer_columns, lanes
        self.depth = {"channel": 0} | {level: i for i, level in enumerate(spec.levels, start=1)}
        self.flat = {path: i for i, path in enumerate(product(*map(range, spec.counts)))}
        self._banks: dict[tuple[int, Where], Banks] = {}

    def banks(self, command: Command, where: Where) -> Banks:
        """The banks that a command at an address acts on."""
        depth = self.depth[command.scope]
        key = depth, where[:depth]
        if key not in self._banks:
            self._banks[key] = frozenset(i for path, i in self.flat.items() if path[:depth] == key[1])
        return self._banks[key]

    def elements(self, command: Command, run: Run) -> int:
        """SRAM elements that one command moves: a column, one element of it, or one result of each bank."""
        if command.register_file is not None or (command.data == "read" and command.needs != "open"):
            return self.spec.banks_per_channel
        return 1 if run.lane >= 0 else self.lanes

    @cached_property
    def column_bytes(self) -> int:
        """Largest number of elements in a column, whatever the format."""
        return self.spec.burst_bytes if self.lanes == 1 else self.lanes


@dataclass
class _Seen:
    """What a walk over a block has found."""

    rows: tuple[int, int]
    """Smallest and largest row, relative to the block's place."""
    leaves: tuple[Rows, ...]
    """Rows that are open afterwards, channel by channel, relative to the block's place."""


class _Checker:
    """Carries the open rows from block to block."""

    def __init__(self, machine: _Machine) -> None:
        self.machine = machine
        self.open: tuple[Rows, ...] = ((),) * machine.spec.channels
        self.seen: WeakKeyDictionary[Block, dict[tuple[Rows, ...], _Seen]] = WeakKeyDictionary()

    def block(self, placed: Placed) -> None:
        """Check one block."""
        block, base = placed.block, placed.row_base
        known = self.seen.setdefault(block, {})
        finds = tuple(_moved(rows, -base) for rows in self.open)
        seen = known.get(finds)
        if seen is None or seen.rows[0] + base < 0 or seen.rows[1] + base >= self.machine.spec.rows:
            if not known:
                self._asic(block)
                self._further(block)
            seen = known[finds] = self._channels(block, base)
        self.open = tuple(_moved(rows, base) for rows in seen.leaves)

    def _channels(self, block: Block, base: int) -> _Seen:
        channels = self.machine.spec.channels
        if len(block.channels) != channels:
            raise ProgramError(f"block {block.name!r}: channels must be {channels}, not {len(block.channels)}")
        groups: dict[tuple[int, Rows], list[int]] = {}
        for channel, stream in enumerate(block.channels):
            groups.setdefault((id(stream), self.open[channel]), []).append(channel)
        leaves: list[Rows] = [()] * channels
        low, high = self.machine.spec.rows, -1
        for (_, rows), members in groups.items():
            walk = _Walk(self.machine, block, members, base, dict(rows))
            walk.stream(block.channels[members[0]])
            low, high = min(low, walk.lowest), max(high, walk.highest)
            for channel in members:
                leaves[channel] = _moved(tuple(walk.open.items()), -base)
        return _Seen((low - base, high - base) if high >= 0 else (-base, -base), tuple(leaves))

    def _asic(self, block: Block) -> None:
        for number, step in enumerate(block.asic):
            place = _place(block, "asic", number, step)
            for index, item in enumerate(step.items):
                if not isinstance(item, Compute):
                    raise ProgramError(f"{place}, item {index}: must be a Compute, not {type(item).__name__}")
                problem = _compute_problem(item, self.machine.sram_elements)
                if problem:
                    raise ProgramError(f"{place}, item {index} ({item.function}): {problem}")

    def _further(self, block: Block) -> None:
        """Streams of further units: whole regions, and transfers of something from somewhere."""
        for name, stream in block.further:
            for number, step in enumerate(stream):
                place = _place(block, name, number, step)
                for index, item in enumerate(step.items):
                    if isinstance(item, Kernel):
                        verify_region(item.region, f"{place}, item {index} ({item.function})")
                    elif isinstance(item, Transfer):
                        problem = _transfer_problem(item)
                        if problem:
                            raise ProgramError(f"{place}, item {index} (transfer): {problem}")
                    else:
                        raise ProgramError(
                            f"{place}, item {index}: must be a Kernel or a Transfer, not {type(item).__name__}"
                        )


@dataclass
class _Walk:
    """One walk over a stream, on behalf of all channels that share it and its open rows."""

    machine: _Machine
    block: Block
    channels: list[int]
    base: int
    open: dict[Banks, int]
    """Banks that one command opened -> row."""
    lowest: int = 1 << 62
    highest: int = -1
    _step: tuple[int, Step] = field(init=False)
    _path: list[str] = field(init=False, default_factory=list)

    def stream(self, stream: Stream) -> None:
        """Walk all steps."""
        for number, step in enumerate(stream):
            self._step = number, step
            _place(self.block, self._unit, number, step)
            self._items(step.items, self.base, 0)

    def _items(self, items: Sequence[Item | Work], rows: int, sram: int) -> None:
        for index, item in enumerate(items):
            self._path.append(str(index))
            if isinstance(item, Run):
                self._run(item, rows, sram)
            elif isinstance(item, Repeat):
                self._repeat(item, rows, sram)
            else:
                self._fail(f"must be a Run or a Repeat, not {type(item).__name__}", "")
            self._path.pop()

    # -- loops ----------------------------------------------------------------------------------------------------

    def _repeat(self, loop: Repeat, rows: int, sram: int) -> None:
        if loop.count < 1:
            self._fail(f"count must be at least 1, not {loop.count}", "repeat")
        first: dict[Banks, int] = {}
        number = 0
        while number < loop.count:
            self._pass(loop, number, rows, sram)
            if number == 0:
                first = dict(self.open)
            elif number == 1 and loop.count > 3 and self._recurs(first, loop.row_step):  # go on with the last pass
                skipped = loop.count - 3
                self.open = {banks: row + skipped * (row - first[banks]) for banks, row in self.open.items()}
                number = loop.count - 2
            number += 1

    def _pass(self, loop: Repeat, number: int, rows: int, sram: int) -> None:
        self._path[-1] += f"[{number}]"
        self._items(loop.body, rows + number * loop.row_step, sram + number * loop.sram_step)
        self._path[-1] = self._path[-1].rpartition("[")[0]

    def _recurs(self, before: dict[Banks, int], step: int) -> bool:
        """Whether the open rows have stayed where they were or moved with the loop."""
        return before.keys() == self.open.keys() and all(
            row - before[banks] in {0, step} for banks, row in self.open.items()
        )

    # -- one run --------------------------------------------------------------------------------------------------

    def _run(self, run: Run, rows: int, sram: int) -> None:
        command = self.machine.spec.commands.get(run.command)
        if command is None:
            known = sorted(self.machine.spec.commands)
            close = did_you_mean(run.command, known)
            self._fail(f"command must be one of {', '.join(known)}, not {run.command!r}{close}", run.command)
        row = run.row + rows if run.row >= 0 else run.row
        problem = (
            _count_problem(command, run, self.machine)
            or _where_problem(command, run, self.machine)
            or _row_problem(command, run, row, self.machine)
            or _column_problem(command, run, self.machine)
            or _buffer_problem(command, run, self.machine)
            or _elements_problem(command, run, self.machine)
            or self._sram_problem(command, run, sram)
            or self._state_problem(command, run, row)
        )
        if problem:
            self._fail(problem, run.command)
        if row >= 0:
            self.lowest, self.highest = min(self.lowest, row), max(self.highest, row)

    def _sram_problem(self, command: Command, run: Run, base: int) -> str:
        if run.sram < 0:
            return "" if run.sram == -1 else f"sram must be at least -1, not {run.sram}"
        if command.data == "none":
            return f"sram must be -1, because {command.name} moves no data, not {run.sram}"
        each = self.machine.elements(command, run)
        rest = run.elements - (run.count - 1) * each if run.elements != -1 else each
        along = (run.count - 1) * run.sram_step
        across = [channel * run.sram_channel for channel in (self.channels[0], self.channels[-1])]
        before = [along - run.sram_step, 0] if run.count > 1 else []  # the commands before the last one are full
        first = run.sram + base + min(0, along) + min(across)
        last = run.sram + base + max(along + rest, *(start + each for start in before), 0) + max(across) - 1
        if first < 0 or last >= self.machine.sram_elements:
            return f"SRAM elements must be within 0 to {self.machine.sram_elements - 1}, not {first} to {last}"
        return ""

    # -- rows -----------------------------------------------------------------------------------------------------

    def _state_problem(self, command: Command, run: Run, row: int) -> str:
        """Check the rows that must be open or closed, and open or close what the command does."""
        machine = self.machine
        each = [frozenset((k,)) for k in range(run.count)] if run.sweep else [machine.banks(command, run.where)]
        for banks in each:
            if _needs_closed(command):
                problem = self._closed_problem(command, banks)
            elif command.needs == "open":
                problem = self._open_problem(command, banks, row)
            else:
                problem = ""
            if not problem and command.effect == "close":
                problem = self._close(command, banks)
            if problem:
                return problem
            if command.effect == "open":
                self.open[banks] = row
        return ""

    def _closed_problem(self, command: Command, banks: Banks) -> str:
        for other, row in self.open.items():
            if other & banks:
                at = self._bank(min(other & banks))
                return f"{command.name} must find closed banks, not {at} with row {row} open"
        return ""

    def _open_problem(self, command: Command, banks: Banks, row: int) -> str:
        if self.open.get(banks) == row:
            return ""
        left = banks
        for other, found in self.open.items():
            if other & banks:
                if row not in (-1, found):
                    at = self._bank(min(other & banks))
                    return f"{command.name} must find row {row} open, not {at} with row {found} open"
                left -= other
        return f"{command.name} must find an open row, not {self._bank(min(left))} closed" if left else ""

    def _close(self, command: Command, banks: Banks) -> str:
        for other in [other for other in self.open if other & banks]:
            if not other <= banks:
                part = f"{len(other & banks)} of {len(other)}"
                return f"{command.name} must close all banks that were opened together, not {part}"
            del self.open[other]
        return ""

    def _bank(self, bank: int) -> str:
        spec = self.machine.spec
        return ", ".join(f"{name} {i}" for name, i in zip(spec.levels, bank_where(bank, spec.counts), strict=True))

    # -- messages -------------------------------------------------------------------------------------------------

    @property
    def _unit(self) -> str:
        return f"channel{self.channels[0]}"

    def _fail(self, problem: str, what: str) -> NoReturn:
        place = _place(self.block, self._unit, *self._step)
        raise ProgramError(f"{place}, item {'.'.join(self._path)}{f' ({what})' if what else ''}: {problem}")


# ------------------------------------------------------------------------------------------------------------- rules


def _count_problem(command: Command, run: Run, machine: _Machine) -> str:
    if run.count < 1:
        return f"count must be at least 1, not {run.count}"
    banks = machine.spec.banks_per_channel
    if run.sweep and run.count > banks:
        return f"count of a sweep must be at most {banks}, the banks of a channel, not {run.count}"
    if run.sweep and machine.depth[command.scope] < len(machine.spec.levels):
        return f"sweep must be false, because {command.name} does not address a single bank"
    if run.count > 1 and not run.sweep and (command.effect != "none" or command.refresh):
        return f"count must be 1, because {command.name} changes rows, not {run.count}"
    return ""


def _where_problem(command: Command, run: Run, machine: _Machine) -> str:
    spec, where = machine.spec, run.where
    fields = spec.address_fields
    if len(where) != len(fields):
        return f"address must have {len(fields)} entries ({', '.join(fields)}), not {len(where)}"
    depth = 0 if run.sweep else machine.depth[command.scope]
    for i, (name, count) in enumerate(zip(spec.levels, spec.counts, strict=True)):
        if i < depth and not 0 <= where[i] < count:
            return f"{name} must be 0 to {count - 1}, not {where[i]}"
        if i >= depth and where[i] != -1:
            return f"{name} must be -1, because {command.name} does not address it, not {where[i]}"
    for (name, count), index in zip(spec.register_files.items(), where[len(spec.levels) :], strict=True):
        if name == command.register_file and not 0 <= index < count:
            return f"{name} must be 0 to {count - 1}, not {index}"
        if name != command.register_file and index != -1:
            return f"{name} must be -1, because {command.name} does not address it, not {index}"
    return ""


def _row_problem(command: Command, run: Run, row: int, machine: _Machine) -> str:
    if command.effect == "open" or _accesses_column(command):
        rows = machine.spec.rows
        return "" if run.row >= 0 and 0 <= row < rows else f"row must be 0 to {rows - 1}, not {row}"
    return _none_problem("row", run.row, command)


def _column_problem(command: Command, run: Run, machine: _Machine) -> str:
    if run.lane != -1:
        if not (_accesses_column(command) and command.data == "write"):
            return f"lane must be -1, because {command.name} does not write a column, not {run.lane}"
        if not 0 <= run.lane < machine.column_bytes:
            return f"lane must be 0 to {machine.column_bytes - 1}, not {run.lane}"
    if not _accesses_column(command):
        return _none_problem("column", run.column, command)
    return _range_problem("column", run.column, 1 if run.sweep else run.count, machine.spec.columns)


def _buffer_problem(command: Command, run: Run, machine: _Machine) -> str:
    if not _uses_buffer(command):
        return _none_problem("buffer", run.buffer, command)
    return _range_problem("buffer column", run.buffer, run.count, machine.buffer_columns)


def _elements_problem(command: Command, run: Run, machine: _Machine) -> str:
    if run.elements == -1:
        return ""
    if command.data == "none" or run.lane != -1:
        why = "moves no data" if command.data == "none" else "writes one element of a column"
        return f"elements must be -1, because {command.name} {why}, not {run.elements}"
    each = machine.elements(command, run)
    low, high = (run.count - 1) * each + 1, run.count * each
    return "" if low <= run.elements <= high else f"elements must be {low} to {high}, not {run.elements}"


def _none_problem(what: str, value: int, command: Command) -> str:
    return "" if value == -1 else f"{what} must be -1, because {command.name} has none, not {value}"


def _range_problem(what: str, first: int, count: int, size: int) -> str:
    if first >= 0 and first + count <= size:
        return ""
    found = f"{first}" if count == 1 else f"{first} to {first + count - 1}"
    return f"{what} must be within 0 to {size - 1}, not {found}"


def _compute_problem(compute: Compute, sram_elements: int) -> str:
    if compute.function in TENSOR_FUNCTIONS:
        return _tensor_problem(compute, sram_elements)
    if compute.function not in FUNCTIONS:
        close = did_you_mean(compute.function, FUNCTIONS)
        return f"function must be one of {', '.join(sorted(FUNCTIONS))}, not {compute.function!r}{close}"
    if compute.length < 1:
        return f"length must be at least 1, not {compute.length}"
    ranges = [("target", compute.target, 1 if compute.function in _SCALAR_RESULT else compute.length)]
    vectors = len(compute.sources) if compute.function in _ALL_VECTORS else 1
    for i, source in enumerate(compute.sources):
        ranges.append((f"source {i}", source, compute.length if i < vectors else 1))
    for what, first, length in ranges:
        if first < 0 or first + length > sram_elements:
            return f"{what} must be within SRAM elements 0 to {sram_elements - 1}, not {first} to {first + length - 1}"
    return ""


def _tensor_problem(compute: Compute, sram_elements: int) -> str:
    """How much a function over tensors reads and writes stands with its constants; here only where."""
    if compute.length < 1:
        return f"length must be at least 1, not {compute.length}"
    for what, first in [("target", compute.target), *[("source", at) for at in compute.sources]]:
        if not 0 <= first < sram_elements:
            return f"{what} must be within SRAM elements 0 to {sram_elements - 1}, not {first}"
    return ""


def _transfer_problem(item: Transfer) -> str:
    if item.elements < 1:
        return f"elements must be at least 1, not {item.elements}"
    if min(item.source, item.target) < 0:
        return f"source and target must be at least 0, not {item.source} and {item.target}"
    return ""


_ALL_VECTORS = {"add", "multiply"}
"""Functions all of whose operands are vectors of the same length; of the others only the first is."""

_SCALAR_RESULT = {"argmax"}


def _needs_closed(command: Command) -> bool:
    return command.needs == "closed" or command.effect == "open" or command.refresh


def _accesses_column(command: Command) -> bool:
    """Reads, writes or multiplies a column of an open row."""
    return command.needs == "open" and command.effect == "none" and not command.refresh


def _uses_buffer(command: Command) -> bool:
    """Multiplies with the global buffer, or writes it: a write that needs no row."""
    if command.data == "none":
        return _accesses_column(command)
    return command.data == "write" and command.needs == "any"


def _moved(rows: Rows, distance: int) -> Rows:
    return tuple((banks, row + distance) for banks, row in rows)


def _place(block: Block, unit: str, number: int, step: Step) -> str:
    """``block 'scores', channel0, step 3 (layer0.qk)``.

    Raises:
        ProgramError: the step belongs to no operation of the block.
    """
    place = f"block {block.name!r}, {unit}, step {number}"
    if not 0 <= step.op < len(block.ops):
        raise ProgramError(f"{place}: op must be 0 to {len(block.ops) - 1}, not {step.op}")
    return f"{place} ({block.ops[step.op].name})"
