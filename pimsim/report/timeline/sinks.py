"""Timeline formats: Perfetto protobuf, Chrome JSON, and VCD for waveform viewers.

A sink takes tracks, slices and counter values; ticks of a track never go back. Names come from configuration files, so each
format escapes them in its own way.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Protocol

from pimsim.errors import UnknownName
from pimsim.extras import require

FORMATS = {".pftrace": "Perfetto protobuf", ".json": "Chrome JSON", ".vcd": "value change dump"}
"""Ending of a file -> format."""

Args = Mapping[str, int | str]
"""Facts about a slice."""


class Sink(Protocol):
    """Where a timeline goes."""

    def group(self, name: str) -> int:
        """A new heading, and its number."""

    def track(self, name: str, group: int) -> int:
        """A new row of slices under a heading."""

    def counter(self, name: str, group: int, unit: str) -> int:
        """A new curve under a heading."""

    def slice(self, track: int, begin: int, end: int, name: str, args: Args | None = None) -> None:
        """Something that lasts from tick ``begin`` to ``end``, no earlier than the slice before on this track."""

    def value(self, counter: int, tick: int, value: float) -> None:
        """The value of a curve from a tick on."""

    def close(self) -> None:
        """Nothing more comes."""


def sink_format(path: Path) -> str:
    """The ending that says which format a file gets.

    Raises:
        UnknownName: it says none.
    """
    if path.suffix not in FORMATS:
        raise UnknownName("ending of the timeline file", path.suffix or path.name, FORMATS)
    return path.suffix


def open_sink(ending: str, file: BinaryIO, tick_ps: Fraction) -> Sink:
    """A sink that writes into a file.

    Args:
        ending: one of `FORMATS`.
        file: takes the bytes.
        tick_ps: length of a tick in picoseconds.

    Raises:
        InputError: the format needs a package that is not installed.
    """
    if ending == ".vcd":
        return VcdSink(file, tick_ps)
    return PerfettoSink(file, tick_ps) if ending == ".pftrace" else ChromeSink(file, tick_ps)


# Perfetto: the wire format of protobuf, written directly; field numbers are those of perfetto_trace.proto

_VARINT, _DOUBLE, _BYTES = 0, 1, 2
_SEQUENCE = 1
_CHUNK = 1 << 19
"""Bytes of packets that are compressed together (TracePacket.compressed_packets)."""


_SHORT = [bytes([value]) for value in range(0x80)]


def varint(value: int) -> bytes:
    """A non-negative integer, seven bits a byte, the least significant first.

    >>> varint(300).hex()
    'ac02'
    """
    if value < 0x80:
        return _SHORT[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return varint(field << 3 | _VARINT) + varint(value & (1 << 64) - 1)


def _data(field: int, value: bytes | str) -> bytes:
    raw = value.encode("utf-8", "replace") if isinstance(value, str) else value
    return varint(field << 3 | _BYTES) + varint(len(raw)) + raw


def _double(field: int, value: float) -> bytes:
    import struct

    return varint(field << 3 | _DOUBLE) + struct.pack("<d", value)


class PerfettoSink:
    """``Trace`` of perfetto_trace.proto: a track descriptor for each track, begin and end events, counter values.

    Perfetto counts whole nanoseconds; where ticks are shorter, times are rounded down and slices carry the exact cycle.
    """

    def __init__(self, file: BinaryIO, tick_ps: Fraction) -> None:
        self._file = file
        self._ticks, self._per = (tick_ps / 1000).numerator, (tick_ps / 1000).denominator
        self._tracks = 0
        self._begins: dict[tuple[int, str], bytes] = {}
        self._tail = _number(10, _SEQUENCE)
        self._ends: dict[int, bytes] = {}
        self._pending = bytearray()
        self._packet(_number(10, _SEQUENCE) + _number(13, 1))  # SEQ_INCREMENTAL_STATE_CLEARED

    def group(self, name: str) -> int:
        """A track that only has children, in the order in which they were made."""
        return self._describe(_data(2, name) + _number(11, 3), rank=self._tracks)

    def track(self, name: str, group: int) -> int:
        """A track of slices."""
        return self._describe(_data(2, name) + _number(5, group), rank=self._tracks)

    def counter(self, name: str, group: int, unit: str) -> int:
        """A counter track."""
        return self._describe(_data(2, name) + _number(5, group) + _data(8, _data(6, unit)), rank=self._tracks)

    def slice(self, track: int, begin: int, end: int, name: str, args: Args | None = None) -> None:
        """A begin event and an end event."""
        if args:
            notes = b"".join(_data(4, self._annotation(key, value)) for key, value in args.items())
            self._event(begin, self._tail + _data(11, self._begin(track, name) + notes))
        else:
            event = self._begins.get((track, name))
            if event is None:
                event = self._begins[track, name] = self._tail + _data(11, self._begin(track, name))
            self._event(begin, event)
        self._event(end, self._ends[track])

    def value(self, counter: int, tick: int, value: float) -> None:
        """A counter event."""
        self._event(tick, self._tail + _data(11, _number(9, 4) + _number(11, counter) + _double(44, value)))

    def close(self) -> None:
        """Write what is left."""
        self._flush()

    def _describe(self, facts: bytes, rank: int) -> int:
        self._tracks += 1
        number = self._tracks
        self._ends[number] = self._tail + _data(11, _number(9, 2) + _number(11, number))
        self._packet(self._tail + _data(60, _number(1, number) + facts + _number(12, rank)))
        return number

    @staticmethod
    def _annotation(key: str, value: int | str) -> bytes:
        return _data(10, key) + (_data(6, value) if isinstance(value, str) else _number(4, value))

    @staticmethod
    def _begin(track: int, name: str) -> bytes:
        return _number(9, 1) + _number(11, track) + _data(23, name)

    def _event(self, tick: int, event: bytes) -> None:
        """A packet of the time and of what is the same whenever it happens."""
        self._packet(b"\x40" + varint(tick * self._ticks // self._per) + event)

    def _packet(self, packet: bytes) -> None:
        self._pending += b"\x0a" + varint(len(packet)) + packet
        if len(self._pending) > _CHUNK:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._file.write(_data(1, _data(50, zlib.compress(bytes(self._pending), 6))))
            self._pending.clear()


class ChromeSink:
    """The JSON of Chrome's trace viewer: complete events with times in microseconds. For small timelines."""

    def __init__(self, file: BinaryIO, tick_ps: Fraction) -> None:
        self._file = file
        self._us = tick_ps / 10**6
        self._names: list[str] = []
        self._groups: list[int] = []
        self._separator = b'{"displayTimeUnit":"ns","traceEvents":[\n'

    def group(self, name: str) -> int:
        """A process."""
        number = self._add(name, len(self._names))
        self._name("process", number, 0, name)
        return number

    def track(self, name: str, group: int) -> int:
        """A thread."""
        number = self._add(name, group)
        self._name("thread", group, number, name)
        return number

    def counter(self, name: str, group: int, unit: str) -> int:
        """A counter, with the unit in its name."""
        return self._add(f"{name} ({unit})", group)

    def slice(self, track: int, begin: int, end: int, name: str, args: Args | None = None) -> None:
        """A complete event."""
        event = {
            "ph": "X",
            "pid": self._groups[track],
            "tid": track,
            "ts": float(begin * self._us),
            "dur": float((end - begin) * self._us),
            "name": name,
        }
        self._write(event | ({"args": dict(args)} if args else {}))

    def value(self, counter: int, tick: int, value: float) -> None:
        """A counter event."""
        name, group = self._names[counter], self._groups[counter]
        self._write({"ph": "C", "pid": group, "ts": float(tick * self._us), "name": name, "args": {"value": value}})

    def close(self) -> None:
        """The closing brackets."""
        self._file.write((self._separator if self._separator != b",\n" else b"") + b"\n]}\n")

    def _add(self, name: str, group: int) -> int:
        self._names.append(name)
        self._groups.append(group)
        return len(self._names) - 1

    def _name(self, what: str, process: int, thread: int, name: str) -> None:
        self._write({"ph": "M", "pid": process, "tid": thread, "name": f"{what}_name", "args": {"name": name}})
        self._write(
            {
                "ph": "M",
                "pid": process,
                "tid": thread,
                "name": f"{what}_sort_index",
                "args": {"sort_index": len(self._names)},
            }
        )

    def _write(self, event: Mapping[str, object]) -> None:
        self._file.write(self._separator + json.dumps(event, separators=(",", ":"), allow_nan=False).encode())
        self._separator = b",\n"


class VcdSink:
    """A value change dump: a text variable for each track (empty: nothing), a real one for each curve."""

    def __init__(self, file: BinaryIO, tick_ps: Fraction) -> None:
        require("report", "a timeline in a .vcd file", "vcd")
        import vcd

        self._vcd, self._file, self._tick_ps = vcd, file, tick_ps
        self._scopes: list[str] = []
        self._variables: list[tuple[str, str, str]] = []
        """(scope, name, kind)."""
        self._changes: list[tuple[int, int, int, str | float]] = []
        """(tick, 0 for what ends and 1 for what begins, variable, value)."""
        self._taken: set[tuple[str, str]] = set()

    def group(self, name: str) -> int:
        """A scope."""
        self._scopes.append(_identifier(name))
        return len(self._scopes) - 1

    def track(self, name: str, group: int) -> int:
        """A variable that holds text."""
        return self._add(name, group, "string")

    def counter(self, name: str, group: int, unit: str) -> int:
        """A variable that holds a number."""
        return self._add(f"{name} {unit}", group, "real")

    def slice(self, track: int, begin: int, end: int, name: str, args: Args | None = None) -> None:
        """The text from ``begin`` to ``end``."""
        del args  # a waveform has no room for them
        self._changes += [(begin, 1, track, _word(name)), (end, 0, track, "")]

    def value(self, counter: int, tick: int, value: float) -> None:
        """A change of a curve."""
        self._changes.append((tick, 1, counter, value))

    def close(self) -> None:
        """Write everything, in the order of time."""
        import io

        text = io.TextIOWrapper(self._file, "ascii", "backslashreplace", newline="\n", write_through=True)
        with self._vcd.VCDWriter(text, timescale="1 ps", comment="pimsim timeline", date="") as writer:
            variables = [
                writer.register_var(scope, name, kind, init="" if kind == "string" else 0.0)
                for scope, name, kind in self._variables
            ]
            self._changes.sort(key=lambda change: change[:3])
            for tick, _, variable, value in self._changes:
                writer.change(variables[variable], int(tick * self._tick_ps), value)
        text.detach()

    def _add(self, name: str, group: int, kind: str) -> int:
        scope, base = self._scopes[group], _identifier(name)
        unique, number = base, 2
        while (scope, unique) in self._taken:
            unique, number = f"{base}_{number}", number + 1
        self._taken.add((scope, unique))
        self._variables.append((scope, unique, kind))
        return len(self._variables) - 1


def _identifier(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_") or "unnamed"


def _word(name: str) -> str:
    """Text without white space and control characters, as a value of a VCD must be."""
    return re.sub(r"[^!-~]+", "_", name)


__all__ = ["FORMATS", "Args", "ChromeSink", "PerfettoSink", "Sink", "VcdSink", "open_sink", "sink_format", "varint"]
