"""Reading, writing and binding command traces; messages are matched from their first character."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from pimsim.arch.dram import DramSpec
from pimsim.config import load_dram
from pimsim.errors import TraceError
from pimsim.lines import MAX_LINE
from pimsim.trace.csvio import (
    COLUMNS,
    TraceCommand,
    bind_trace,
    make_command,
    read_header,
    read_trace,
    write_trace,
)

HEADER = ",".join(COLUMNS)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "trace.csv"


@pytest.fixture(scope="module")
def ddr4() -> DramSpec:
    return load_dram("ddr4_3200aa").value.resolve()


@pytest.fixture(scope="module")
def hbm2() -> DramSpec:
    return load_dram("hbm2_2000").value.resolve()


@pytest.fixture(scope="module")
def gddr6() -> DramSpec:
    return load_dram("gddr6_14000").value.resolve()


def test_write_and_read_back(trace: Path) -> None:
    rows = [
        TraceCommand(1, "ACT", 0, -1, 0, 1, 2, 7, -1, (("accumulator", -1),), 2),
        TraceCommand(23, "MAC", 0, -1, 0, -1, -1, -1, 5, (("accumulator", 3),), 3),
    ]
    assert write_trace(trace, iter(rows)) == 2
    assert trace.read_text().splitlines() == [
        f"{HEADER},accumulator",
        "1,ACT,0,-1,0,1,2,7,-1,-1",
        "23,MAC,0,-1,0,-1,-1,-1,5,3",
    ]
    assert read_trace(trace) == rows
    assert read_header(trace) == (*COLUMNS, "accumulator")


def test_write_keeps_the_given_columns() -> None:
    out = io.StringIO()
    write_trace(out, [TraceCommand(4, "RD", bank=2, row=9)], columns=("cycle", "command", "bank", "row"))
    assert out.getvalue() == "cycle,command,bank,row\n4,RD,2,9\n"


def test_write_of_nothing_is_a_header() -> None:
    out = io.StringIO()
    assert write_trace(out, []) == 0
    assert out.getvalue() == HEADER + "\n"


def test_aliases_blank_lines_spaces_and_empty_fields(trace: Path) -> None:
    trace.write_text("\ufeffclk,cmd,bank,row\r\n\r\n 5 , RD ,3,\r\n")
    assert read_trace(trace) == [TraceCommand(5, "RD", bank=3, line=3)]


def test_cycles_are_not_read_for_a_replay(trace: Path) -> None:
    trace.write_text("command,bank\nRD,3\n")
    assert read_trace(trace, cycles=False) == [TraceCommand(0, "RD", bank=3, line=2)]
    trace.write_text("cycle,command,bank\nsoon,RD,3\n")
    assert read_trace(trace, cycles=False) == [TraceCommand(0, "RD", bank=3, line=2)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ": must have a header line such as cycle,command,"),
        ("\n\n", ": must have a header line such as cycle,command,"),
        ("command,bank\nRD,0\n", ":1: the header must have a column cycle"),
        ("cycle,bank\n1,0\n", ":1: the header must have a column command"),
        ("cycle,clk,command\n1,1,RD\n", ":1: the header must have the column cycle once"),
        ("cycle,command,\n1,RD,0\n", ":1: a column must have a name such as bank, not ''"),
        ("cycle,command,bank\n1,RD\n", ":2: a line must have 3 fields as the header has, not 2"),
        ("cycle,command\n1,RD,4\n", ":2: a line must have 2 fields as the header has, not 3"),
        ("cycle,command\n1,\n", ":2: command must be a name, not empty"),
        ("cycle,command\n1,RD\nx,RD\n", ":3: cycle must be an integer of at most 18 digits, not 'x'"),
        ("cycle,command\n1.5,RD\n", ":2: cycle must be an integer of at most 18 digits, not '1.5'"),
        ("cycle,command\n1_0,RD\n", ":2: cycle must be an integer of at most 18 digits, not '1_0'"),
        (f"cycle,command\n{'9' * 19},RD\n", ":2: cycle must be an integer of at most 18 digits, not '999"),
        ("cycle,command\n-1,RD\n", ":2: cycle must be an integer >= 0, not '-1'"),
        ("cycle,command\n,RD\n", ":2: cycle must be an integer >= 0, not ''"),
        ("cycle,command,bank\n1,RD,-2\n", ":2: bank must be an integer >= -1, not -2"),
        ('cycle,command\n1,"RD\n', ":2: a line must be comma-separated values ("),
        ("cycle,command\n1,R\0D\n", ":2: must be a text file, not a binary file"),
        ("cycle,command\n1," + "R" * MAX_LINE, f":2: a line must have at most {MAX_LINE} characters"),
    ],
)
def test_malformed(trace: Path, content: str, message: str) -> None:
    trace.write_text(content)
    with pytest.raises(TraceError, match="^" + re.escape(f"{trace}{message}")):
        read_trace(trace)


def test_binary_file(trace: Path) -> None:
    trace.write_bytes(b"cycle,command\n\xff\xfe\x00\x01")
    with pytest.raises(TraceError, match=f"^{trace}: must be a text file in UTF-8$"):
        read_trace(trace)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"^.*none\.csv: must be a readable file \(No such file or directory\)$"):
        read_trace(tmp_path / "none.csv")
    with pytest.raises(TraceError, match=r"^.*: must be a readable file \(Is a directory\)$"):
        read_trace(tmp_path)
    with pytest.raises(TraceError, match=r"^.*: must be a writable file \(Is a directory\)$"):
        write_trace(tmp_path, [])


def test_bind_gives_the_address_down_to_the_scope(ddr4: DramSpec) -> None:
    rows = [
        TraceCommand(1, "ACT", rank=0, bankgroup=3, bank=1, row=5),
        TraceCommand(2, "RD", rank=-1, bankgroup=3, bank=1, row=5, column=127),
        TraceCommand(3, "PREab", rank=0, bankgroup=2, bank=2),
    ]
    assert bind_trace(ddr4, rows) == [(0, 3, 1), (0, 3, 1), (0, -1, -1)]


def test_rank_stands_for_the_pseudo_channel(hbm2: DramSpec) -> None:
    rows = [TraceCommand(1, "PREab", rank=1), TraceCommand(2, "PREab", pseudochannel=1)]
    assert bind_trace(hbm2, rows) == [(1, -1, -1), (1, -1, -1)]


def test_same_bank_commands_may_leave_out_the_bank_group(gddr6: DramSpec) -> None:
    assert bind_trace(gddr6, [TraceCommand(1, "REFpb", bank=2)]) == [(-1, 2)]
    with pytest.raises(TraceError, match=r"^bankgroup must lie in 0\.\.3, not -1, because ACT addresses one$"):
        bind_trace(gddr6, [TraceCommand(1, "ACT", bank=2)])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            TraceCommand(1, "ATC", line=7),
            "t.csv:7: command must be one of ACT, PREab, PREpb, RD, RDA, REFab, WR, WRA, not 'ATC'",
        ),
        (TraceCommand(1, "RD", bankgroup=4, bank=0, line=7), "t.csv:7: bankgroup must lie in 0..3, not 4"),
        (
            TraceCommand(1, "RD", bankgroup=0, line=7),
            "t.csv:7: bank must lie in 0..3, not -1, because RD addresses one",
        ),
        (TraceCommand(1, "RD", 1, line=7), "t.csv:7: channel must lie in 0..0, not 1"),
        (TraceCommand(1, "RD", row=65536, line=7), "t.csv:7: row must lie in 0..65535, not 65536"),
        (TraceCommand(1, "RD", column=128, line=7), "t.csv:7: column must lie in 0..127, not 128"),
        (TraceCommand(1, "RD", rank=1, line=7), "t.csv:7: rank must lie in 0..0, not 1"),
        (
            TraceCommand(1, "RD", pseudochannel=1, line=7),
            "t.csv:7: pseudochannel must be -1, 0 or empty, not 1; the DRAM has no such level",
        ),
        (TraceCommand(1, "RD", extra=(("bnak", 1),), line=7), "t.csv:1: column must be one of bank, bankgroup, "),
    ],
)
def test_bind_names_file_and_line(ddr4: DramSpec, row: TraceCommand, message: str) -> None:
    with pytest.raises(TraceError, match="^" + re.escape(message)):
        bind_trace(ddr4, [row], "t.csv")


def test_make_command_is_the_inverse_of_bind(hbm2: DramSpec) -> None:
    row = make_command(hbm2, 9, "ACT", 0, (1, 2, 3), row=8)
    assert row == TraceCommand(9, "ACT", 0, pseudochannel=1, bankgroup=2, bank=3, row=8)
    assert bind_trace(hbm2, [row]) == [(1, 2, 3)]
