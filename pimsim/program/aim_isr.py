"""The instructions of GDDR6-AiM (ISR) and their text form, a trace with one instruction per line.

::

    AiM WR_GB 64 0 0x80000000      size, register, channel mask
    AiM MAC_ABK 64 0x80000000 7    size, channel mask, row
    W MEM 0 3 1                    channel, bank, row
    AiM EOC

Numbers are decimal or hexadecimal (``0x``); empty lines and what follows ``#`` are ignored. Bit *i* of a channel mask
selects channel 31 - *i*.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pimsim.errors import TraceError, UnknownName, did_you_mean

MASK_BITS = 32
MAX_BYTES = 100_000_000
MAX_LINES = 2_000_000
MAX_LINE = 1000
"""Characters in one line."""

_NUMBER = re.compile(r"[0-9]{1,18}|0[xX][0-9a-fA-F]{1,15}")
_ACTIVATION_FUNCTION = 2
"""Number of the configuration register that chooses the activation function."""


@dataclass(frozen=True)
class Form:
    """What an instruction is made of and what it does to the machine."""

    operands: tuple[str, ...]
    command: str | None
    """The DRAM command that each of its requests ends with; None where it sends none."""
    register_mode: bool = False
    blocks: bool = False
    """Whether the host waits until it is answered."""
    plain: bool = False
    """Whether its requests go to the queues of plain reads and writes."""


FORMS: dict[str, Form] = {
    "WR_GB": Form(("size", "gpr", "mask"), "WRGB", register_mode=True),
    "WR_BIAS": Form(("gpr", "mask"), "WRMAC16", register_mode=True),
    "RD_MAC": Form(("gpr", "mask"), "RDMAC16", register_mode=True, blocks=True),
    "RD_AF": Form(("gpr", "mask"), "RDAF16", register_mode=True, blocks=True),
    "MAC_ABK": Form(("size", "mask", "row"), "MAC16"),
    "EWMUL": Form(("size", "mask", "row"), "EWMUL16"),
    "AF": Form(("mask",), "AF16"),
    "WR_ABK": Form(("gpr", "mask", "row"), "WRA16"),
    "MAC_SBK": Form(("size", "mask", "bank", "row"), "MAC"),
    "COPY_BKGB": Form(("size", "mask", "bank", "row"), "RDCP"),
    "COPY_GBBK": Form(("size", "mask", "bank", "row"), "WRCP"),
    "RD_SBK": Form(("gpr", "mask", "bank", "row"), "RD", plain=True),
    "WR_SBK": Form(("gpr", "mask", "bank", "row"), "WR", plain=True),
    "EWADD": Form(("size", "gpr", "gpr"), None),
    "SYNC": Form((), None, blocks=True),
    "EOC": Form((), None, blocks=True),
    "R MEM": Form(("channel", "bank", "row"), "RD", plain=True),
    "W MEM": Form(("channel", "bank", "row"), "WR", plain=True),
    "R GPR": Form(("gpr",), None),
    "W GPR": Form(("gpr",), None),
    "R CFR": Form(("register",), None),
    "W CFR": Form(("register", "data"), None),
}
"""Name of an instruction -> its form."""


class Instruction(NamedTuple):
    """One instruction; what it does not have is -1."""

    name: str
    size: int
    """Requests for each channel."""
    channels: tuple[int, ...]
    """Channels that it addresses; empty for SYNC and EOC, which address all, and for what sends no request."""
    bank: int
    row: int
    mode: int
    """Activation function that is chosen when it is decoded."""
    line: int
    column: int = 0
    """First column; text has no operand for it."""

    @property
    def form(self) -> Form:
        """Its row of `FORMS`."""
        return FORMS[self.name]


@dataclass(frozen=True)
class Limits:
    """What the operands of a machine may be."""

    channels: int
    banks: int
    rows: int
    columns: int


def read_instructions(path: Path | str, limits: Limits) -> list[Instruction]:
    """The instructions of a trace file, with EOC as the last.

    Raises:
        TraceError: the file cannot be read, an instruction is unknown or malformed, an operand is out of range, or EOC
            is missing or not the last. The error names the file and the line.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise TraceError(f"must be a readable file ({error.strerror})", file=path) from error
    except UnicodeDecodeError as error:
        raise TraceError("must be a text file in UTF-8", file=path) from error
    if len(data) > MAX_BYTES:
        raise TraceError(f"must have at most {MAX_BYTES:,} bytes", file=path)
    return parse_instructions(text.splitlines(), limits, path)


def parse_instructions(lines: Iterable[str], limits: Limits, file: Path | str | None = None) -> list[Instruction]:
    """The instructions of a trace, as `read_instructions`."""
    found: list[Instruction] = []
    mode = number = 0
    for number, text in enumerate(lines, start=1):
        if number > MAX_LINES or len(text) > MAX_LINE:
            what = f"a trace must have at most {MAX_LINES:,} lines of at most {MAX_LINE} characters"
            raise TraceError(what, file=file, line=number)
        words = text.partition("#")[0].split()
        if not words:
            continue
        if found and found[-1].name == "EOC":
            raise TraceError("EOC must be the last instruction; nothing may follow it", file=file, line=number)
        try:
            name, values = _operands(words)
            if name == "W CFR" and values["register"] == _ACTIVATION_FUNCTION:
                mode = values["data"]
            found.append(_instruction(name, values, limits, mode, number))
        except ValueError as error:
            raise TraceError(str(error), file=file, line=number) from error
    if not found or found[-1].name != "EOC":
        raise TraceError("the last instruction must be AiM EOC", file=file, line=number or None)
    return found


def _operands(words: list[str]) -> tuple[str, dict[str, int]]:
    """Name and operands of one line."""
    if words[0] not in ("AiM", "R", "W"):
        raise ValueError(f"an instruction must start with AiM, R or W, not {words[0][:40]!r}")
    name = words[1] if words[0] == "AiM" and len(words) > 1 else " ".join(words[:2])
    choices = [form for form in FORMS if (" " in form) == (words[0] != "AiM")]
    if name not in choices:
        given = name[:40]
        raise ValueError(f"{UnknownName('instruction', given, choices)}" if given else did_you_mean(given, choices))
    form, rest = FORMS[name], words[2:]
    if len(rest) != len(form.operands):
        usage = " ".join([*words[:2], *(f"<{operand}>" for operand in form.operands)])
        raise ValueError(f"must have {len(form.operands)} operands, {usage}; not {len(rest)}")
    return name, {operand: _number(operand, text) for operand, text in zip(form.operands, rest, strict=True)}


def _number(operand: str, text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{operand} must be a number >= 0, decimal or 0x..., not {text[:40]!r}")
    return int(text, 0) if text[:2] in ("0x", "0X") else int(text)


def _instruction(name: str, values: dict[str, int], limits: Limits, mode: int, line: int) -> Instruction:
    for operand, low, high in (
        ("size", 1, limits.columns),
        ("bank", 0, limits.banks - 1),
        ("row", 0, limits.rows - 1),
        ("channel", 0, limits.channels - 1),
        ("mask", 1, 2**MASK_BITS - 1),
        ("data", 0, 2**16 - 1),
    ):
        if operand in values and not low <= values[operand] <= high:
            raise ValueError(f"{operand} must lie in {low}..{high}, not {values[operand]}")
    size = values.get("size", 1)
    return Instruction(name, size, _channels(values, limits), values.get("bank", -1), values.get("row", -1), mode, line)


def _channels(values: dict[str, int], limits: Limits) -> tuple[int, ...]:
    if "channel" in values:
        return (values["channel"],)
    if "mask" not in values:
        return ()
    mask = values["mask"]
    channels = tuple(c for c in range(MASK_BITS) if mask >> (MASK_BITS - 1 - c) & 1)
    if channels[-1] >= limits.channels:
        raise ValueError(
            f"mask must select channels 0..{limits.channels - 1} only (bit i is channel 31 - i), not {channels[-1]}"
        )
    return channels


__all__ = ["FORMS", "Form", "Instruction", "Limits", "parse_instructions", "read_instructions"]
