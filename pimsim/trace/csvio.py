"""The command trace as CSV: one DRAM command per line.

Header ``cycle,command,channel,pseudochannel,rank,bankgroup,bank,row,column``, then one column for each other level or
register file. Columns of levels that the DRAM does not have may be left out; ``-1`` or nothing means that the command
does not address the level. ``clk``, ``cmd`` and ``col`` are read as ``cycle``, ``command`` and
``column``; ``trace_line``, which says where a command comes from, is kept.
"""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TextIO

from pimsim.errors import TraceError, UnknownName
from pimsim.lines import lines

COLUMNS = ("cycle", "command", "channel", "pseudochannel", "rank", "bankgroup", "bank", "row", "column")
ALIASES = {"clk": "cycle", "cmd": "command", "col": "column"}
ANNOTATIONS = ("trace_line",)
"""Columns that say where a command comes from; they are kept and mean nothing to the DRAM."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_NUMBERS = COLUMNS[2:]


class TraceCommand(NamedTuple):
    """One line of a command trace; an index of -1 means that the command does not address that level."""

    cycle: int
    """Tick at which the command issues (its first command-bus tick)."""
    command: str
    channel: int = -1
    pseudochannel: int = -1
    rank: int = -1
    bankgroup: int = -1
    bank: int = -1
    row: int = -1
    column: int = -1
    extra: tuple[tuple[str, int], ...] = ()
    """Indices of other levels and of register files, by column name."""
    line: int = 0
    """Line of the file that it was read from; 0 if there is none."""

    def where(self, column: str) -> int:
        """The index in a column, -1 if the command has none."""
        if column in _NUMBERS:
            return int(getattr(self, column))
        return dict(self.extra).get(column, -1)


class CommandLike(Protocol):
    """What `bind_trace` reads of a command."""

    @property
    def scope(self) -> str: ...
    @property
    def effect(self) -> str: ...
    @property
    def data(self) -> str: ...
    @property
    def register_file(self) -> str | None: ...


class SpecLike(Protocol):
    """What `bind_trace` reads of a DRAM spec (`pimsim.arch.dram.DramSpec` is one)."""

    @property
    def channels(self) -> int: ...
    @property
    def levels(self) -> tuple[str, ...]: ...
    @property
    def counts(self) -> tuple[int, ...]: ...
    @property
    def register_files(self) -> Mapping[str, int]: ...
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def commands(self) -> Mapping[str, CommandLike]: ...


# --- reading ---


def read_header(path: Path | str) -> tuple[str, ...]:
    """The columns of a trace file, under their own names (not the aliases).

    Raises:
        TraceError: as `read_trace`.
    """
    with _reading(path) as rows:
        return _header(path, rows)


def read_trace(path: Path | str, *, cycles: bool = True) -> list[TraceCommand]:
    """The commands of a trace file, in its order.

    With ``cycles=False`` the cycle column may be missing and is not read (every cycle is 0), as for a replay.

    Raises:
        TraceError: the file cannot be read, is empty or binary, a column is missing or twice there, a line is too
            long or has another number of fields than the header, an entry is not an integer, or a cycle is negative.
    """
    with _reading(path) as rows:
        header = _header(path, rows)
        if cycles and "cycle" not in header:
            raise TraceError("the header must have a column cycle", file=path, line=1)
        parser = _RowParser(path, header, cycles)
        return [parser.parse(line, fields) for line, fields in rows if fields]


@contextlib.contextmanager
def _reading(path: Path | str) -> Iterator[Iterator[tuple[int, list[str]]]]:
    """Opens the file; gives (line number, fields) of each line."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield _lines(path, file)
    except OSError as error:
        raise TraceError(f"must be a readable file ({error.strerror})", file=path) from error
    except UnicodeDecodeError as error:
        raise TraceError("must be a text file in UTF-8", file=path) from error


def _lines(path: Path | str, file: TextIO) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(lines(path, file), strict=True)
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            message = f"a line must be comma-separated values ({error})"
            raise TraceError(message, file=path, line=reader.line_num) from error
        if fields is None:
            return
        yield reader.line_num, fields


def _header(path: Path | str, rows: Iterator[tuple[int, list[str]]]) -> tuple[str, ...]:
    line, fields = next(((line, fields) for line, fields in rows if any(fields)), (None, []))
    if not fields:
        raise TraceError(f"must have a header line such as {','.join(COLUMNS)}; the file is empty", file=path)
    header = tuple(ALIASES.get(field.strip(), field.strip()) for field in fields)
    for name in header:
        if not _NAME.fullmatch(name):
            raise TraceError(f"a column must have a name such as bank, not {name!r}", file=path, line=line)
        if header.count(name) > 1:
            raise TraceError(f"the header must have the column {name} once", file=path, line=line)
    if "command" not in header:
        raise TraceError("the header must have a column command", file=path, line=line)
    return header


class _RowParser:
    """Turns the fields of a line into a `TraceCommand`."""

    def __init__(self, path: Path | str, header: tuple[str, ...], cycles: bool) -> None:
        self.path, self.header = path, header
        place = {name: number for number, name in enumerate(header)}
        self._command = place["command"]
        self._cycle = place["cycle"] if cycles else None
        self._numbers = [place.get(name) for name in _NUMBERS]
        self._extra = [(name, number) for name, number in place.items() if name not in COLUMNS]

    def parse(self, line: int, fields: list[str]) -> TraceCommand:
        if len(fields) != len(self.header):
            raise TraceError(
                f"a line must have {len(self.header)} fields as the header has, not {len(fields)}",
                file=self.path,
                line=line,
            )
        command = fields[self._command].strip()
        if not command:
            raise TraceError("command must be a name, not empty", file=self.path, line=line)
        numbers = [-1 if place is None else self._integer(line, fields, place) for place in self._numbers]
        extra = tuple((name, self._integer(line, fields, place)) for name, place in self._extra)
        channel, pseudochannel, rank, bankgroup, bank, row, column = numbers
        return TraceCommand(
            self._read_cycle(line, fields),
            command,
            channel,
            pseudochannel,
            rank,
            bankgroup,
            bank,
            row,
            column,
            extra,
            line,
        )

    def _read_cycle(self, line: int, fields: list[str]) -> int:
        if self._cycle is None:
            return 0
        cycle = self._integer(line, fields, self._cycle)
        if cycle < 0:
            raise TraceError(f"cycle must be an integer >= 0, not {fields[self._cycle]!r}", file=self.path, line=line)
        return cycle

    def _integer(self, line: int, fields: list[str], place: int) -> int:
        text = fields[place].strip()
        if not text:
            return -1
        if text.isdecimal() and text.isascii() and len(text) < 18:
            return int(text)
        if not _INTEGER.fullmatch(text):
            raise TraceError(
                f"{self.header[place]} must be an integer of at most 18 digits, not {text[:40]!r}",
                file=self.path,
                line=line,
            )
        value = int(text)
        if value < -1:
            raise TraceError(f"{self.header[place]} must be an integer >= -1, not {value}", file=self.path, line=line)
        return value


# --- writing ---


def write_trace(target: Path | str | TextIO, rows: Iterable[TraceCommand], columns: Sequence[str] | None = None) -> int:
    """Write `rows` one by one, so that a generator of any length will do; the number of rows is returned.

    `columns` defaults to `COLUMNS` and the extra columns of the first row.

    Raises:
        TraceError: the file cannot be written.
    """
    if not isinstance(target, str | Path):
        return _write(target, rows, columns)
    try:
        with open(target, "w", encoding="utf-8", newline="") as file:
            return _write(file, rows, columns)
    except OSError as error:
        raise TraceError(f"must be a writable file ({error.strerror})", file=target) from error


def _write(file: TextIO, rows: Iterable[TraceCommand], columns: Sequence[str] | None) -> int:
    written = 0
    header: tuple[str, ...] = tuple(columns) if columns is not None else ()
    for row in rows:
        if not written:
            header = header or COLUMNS + tuple(name for name, _ in row.extra)
            file.write(",".join(header) + "\n")
        file.write(",".join(_cells(row, header)) + "\n")
        written += 1
    if not written:
        file.write(",".join(header or COLUMNS) + "\n")
    return written


def _cells(row: TraceCommand, header: tuple[str, ...]) -> Iterator[str]:
    extra = dict(row.extra) if row.extra else {}
    for name in header:
        yield str(getattr(row, name)) if name in COLUMNS else str(extra.get(name, -1))


# --- binding to a DRAM ---


def make_command(
    spec: SpecLike, cycle: int, command: str, channel: int, where: Sequence[int], row: int = -1, column: int = -1
) -> TraceCommand:
    """The trace line of a command at `where`, which has one entry for each level and register file of `spec`."""
    named = dict(zip((*spec.levels, *spec.register_files), where, strict=True))
    pseudochannel, rank, bankgroup, bank = (
        named.pop(name, -1) for name in ("pseudochannel", "rank", "bankgroup", "bank")
    )
    extra = tuple(named.items())
    return TraceCommand(cycle, command, channel, pseudochannel, rank, bankgroup, bank, row, column, extra)


def bind_trace(spec: SpecLike, rows: Iterable[TraceCommand], file: Path | str | None = None) -> list[tuple[int, ...]]:
    """The address of each row: one entry for each level and register file of `spec`, -1 where not addressed.

    A missing index means 0 where there is only one node. ``rank`` names the pseudo channel of a DRAM that has pseudo
    channels and no ranks. What a command does not use is ignored.

    Raises:
        TraceError: the command is unknown, an address is missing or out of range, or a column is none of the DRAM's.
    """
    binder = _Binder(spec, file)
    return [binder.bind(row) for row in rows]


class _Binder:
    """Checks rows against a spec; the addresses of a trace are few, so each is worked out once."""

    def __init__(self, spec: SpecLike, file: Path | str | None) -> None:
        self.spec, self.file = spec, file
        self.fields = (*spec.levels, *spec.register_files)
        self._counts = dict(zip(spec.levels, spec.counts, strict=True)) | dict(spec.register_files)
        self._done: dict[tuple[object, ...], tuple[int, ...]] = {}

    def bind(self, row: TraceCommand) -> tuple[int, ...]:
        for name, value, limit in (
            ("channel", row.channel, self.spec.channels),
            ("row", row.row, self.spec.rows),
            ("column", row.column, self.spec.columns),
        ):
            if not -1 <= value < limit:
                raise self._out_of_range(row, name, value, limit)
        key = (row.command, row.pseudochannel, row.rank, row.bankgroup, row.bank, row.extra)
        where = self._done.get(key)
        if where is None:
            where = self._done[key] = self._address(row)
        return where

    def _out_of_range(self, row: TraceCommand, name: str, value: int, limit: int) -> TraceError:
        return self._error(row, f"{name} must lie in 0..{limit - 1}, not {value}")

    def _error(self, row: TraceCommand, message: str) -> TraceError:
        return TraceError(message, file=self.file, line=row.line or None)

    def _address(self, row: TraceCommand) -> tuple[int, ...]:
        if row.command not in self.spec.commands:
            raise self._error(row, str(UnknownName("command", row.command, self.spec.commands)))
        self._check_columns(row)
        command = self.spec.commands[row.command]
        depth = 0 if command.scope == "channel" else self.spec.levels.index(command.scope) + 1
        where = [
            self._level(row, command, field) if number < depth or field == command.register_file else -1
            for number, field in enumerate(self.fields)
        ]
        return tuple(where)

    def _check_columns(self, row: TraceCommand) -> None:
        """An index in a column that the DRAM does not have can only be that of the one node there is: 0."""
        given = {name: row.where(name) for name in ("pseudochannel", "rank", "bankgroup", "bank")} | dict(row.extra)
        for name, value in given.items():
            if name in self.fields or name in ANNOTATIONS or (name == "rank" and self._rank_is_pseudochannel(row)):
                continue
            if name in COLUMNS and value > 0:
                raise self._error(row, f"{name} must be -1, 0 or empty, not {value}; the DRAM has no such level")
            if name not in COLUMNS:
                choices = dict.fromkeys((*COLUMNS, *self.fields))
                raise TraceError(str(UnknownName("column", name, choices)), file=self.file, line=1)

    def _rank_is_pseudochannel(self, row: TraceCommand) -> bool:
        return "pseudochannel" in self.fields and "rank" not in self.fields and row.pseudochannel < 0

    def _level(self, row: TraceCommand, command: CommandLike, field: str) -> int:
        count = self._counts[field]
        value = row.where(field)
        if field == "pseudochannel" and self._rank_is_pseudochannel(row):
            value = row.rank
        if not -1 <= value < count:
            raise self._out_of_range(row, field, value, count)
        if value >= 0 or count == 1:
            return max(value, 0)
        # Same-bank commands leave out a level above their scope: they address that bank in each of its nodes.
        if field in (command.scope, command.register_file) or command.data != "none" or command.effect == "open":
            raise self._error(row, f"{field} must lie in 0..{count - 1}, not -1, because {row.command} addresses one")
        return -1


__all__ = [
    "ALIASES",
    "COLUMNS",
    "TraceCommand",
    "bind_trace",
    "make_command",
    "read_header",
    "read_trace",
    "write_trace",
]
