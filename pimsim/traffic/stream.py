"""Requests one after the other: generated, or read from a trace file.

The random numbers are SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014), a
counter and a hash of it, so that a stream is the same in every version of Python and any request can be made alone.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, TextIO

from pimsim.errors import TraceError
from pimsim.lines import lines
from pimsim.traffic.config import StreamConfig

MASK = (1 << 64) - 1
MAX_ARRIVE = 10**15
COLUMNS = ("op", "address", "arrive")
IGNORED = ("id", "rank", "pseudochannel", "channel", "bankgroup", "bank", "row", "column")
"""Columns that say again what the address says; an address is decoded as the controller decodes it."""

OPS = {"R": False, "READ": False, "RD": False, "LD": False, "W": True, "WRITE": True, "WR": True, "ST": True}
"""Spelling of an operation -> whether it writes."""


class Request(NamedTuple):
    """One burst."""

    arrive: int
    """Tick after which a controller may see it."""
    address: int
    """First byte."""
    write: bool


def mix(seed: int, number: int) -> int:
    """The random 64 bits with this number.

    >>> hex(mix(0, 0))
    '0xe220a8397b1dcdaf'
    """
    z = (seed + (number + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def requests(
    config: StreamConfig, *, count: int | None, burst_bytes: int, capacity: int, ticks_per_clock: int = 1
) -> Iterator[Request]:
    """The requests of a stream, in the order of their arrival.

    Args:
        config: the stream.
        count: how many; None: without end (generated ones) or as many as the file has (a trace).
        burst_bytes: bytes of a request.
        capacity: bytes of the memory.
        ticks_per_clock: ticks in which arrivals are counted, for each clock.

    Raises:
        TraceError: the trace file cannot be read or one of its lines is wrong; raised when that line is reached.
    """
    if config.pattern == "trace":
        assert config.path is not None
        found = read_requests(Path(config.path), burst_bytes, capacity, ticks_per_clock)
        yield from found if count is None else itertools.islice(found, count)
        return
    interval = Fraction(repr(config.interval)) * ticks_per_clock
    span = config.span_bytes or capacity - config.start_address
    stride = config.stride_bytes or burst_bytes
    places = max(1, span // stride)
    threshold = int(config.reads * (1 << 64))
    random_places = config.pattern == "random"
    for number in itertools.count() if count is None else range(count):
        place = mix(config.seed, 2 * number) % places if random_places else number % places
        write = mix(config.seed, 2 * number + 1) >= threshold
        yield Request(int(number * interval), config.start_address + place * stride, write)


# --- trace files ---


def read_requests(path: Path, burst_bytes: int, capacity: int, ticks_per_clock: int = 1) -> Iterator[Request]:
    """The requests of a CSV file with the columns ``op``, ``address`` and, if they do not all come at once, ``arrive``.

    ``op`` is R or W, ``address`` a byte address (decimal, or hexadecimal with 0x), ``arrive`` the clock after which a
    controller may see the request; arrivals must not decrease.

    Raises:
        TraceError: the file cannot be read, a column is missing or unknown, or a line is wrong.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _parse(path, file, burst_bytes, capacity, ticks_per_clock)
    except OSError as error:
        raise TraceError(f"must be a readable file ({error.strerror})", file=path) from error
    except UnicodeDecodeError as error:
        raise TraceError("must be a text file in UTF-8", file=path) from error
    except csv.Error as error:
        raise TraceError(f"a line must be comma-separated values ({error})", file=path) from error


def _parse(path: Path, file: TextIO, burst_bytes: int, capacity: int, ticks_per_clock: int) -> Iterator[Request]:
    reader = csv.reader(lines(path, file), strict=True)
    header = [name.strip() for name in next(reader, [])]
    _check_header(path, header)
    latest = 0
    for fields in reader:
        line = reader.line_num
        if not fields:
            continue
        if len(fields) != len(header):
            raise TraceError(
                f"a line must have {len(header)} fields as the header has, not {len(fields)}", file=path, line=line
            )
        row = dict(zip(header, (field.strip() for field in fields), strict=True))
        write = OPS.get(row["op"].upper())
        if write is None:
            raise TraceError(f"op must be R or W, not {row['op']!r}", file=path, line=line)
        address = _integer(path, line, "address", row["address"])
        if not 0 <= address <= capacity - burst_bytes:
            raise TraceError(
                f"address must lie in 0..{capacity - burst_bytes:#x}, the last burst of the memory, not {address:#x}",
                file=path,
                line=line,
            )
        arrive = _integer(path, line, "arrive", row.get("arrive", "0"))
        if not latest <= arrive <= MAX_ARRIVE:
            raise TraceError(f"arrive must lie in {latest}..{MAX_ARRIVE}, as arrivals must not decrease, not {arrive}",
                             file=path, line=line)  # fmt: skip
        latest = arrive
        yield Request(arrive * ticks_per_clock, address, write)


def _check_header(path: Path, header: list[str]) -> None:
    for name in ("op", "address"):
        if name not in header:
            given = ",".join(header) or "an empty line"
            raise TraceError(
                f"the header must have a column {name}, such as op,address,arrive, not {given}", file=path, line=1
            )
    for name in header:
        if name not in COLUMNS + IGNORED:
            raise TraceError(f"a column must be one of {', '.join(COLUMNS + IGNORED)}, not {name!r}", file=path, line=1)
        if header.count(name) > 1:
            raise TraceError(f"the header must have the column {name} once", file=path, line=1)


def _integer(path: Path, line: int, name: str, text: str) -> int:
    try:
        if len(text) > 20 or "_" in text:
            raise ValueError
        return int(text, 16) if text[:2].lower() == "0x" else int(text)
    except ValueError:
        raise TraceError(f"{name} must be an integer, not {text[:40]!r}", file=path, line=line) from None


__all__ = ["Request", "mix", "read_requests", "requests"]
