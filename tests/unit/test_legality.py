"""The legality oracle on short traces; every message is spelled out."""

from __future__ import annotations

import pytest

from pimsim.analysis.legality import check_trace
from pimsim.arch.dram import DramSpec
from pimsim.config import load_dram
from pimsim.trace.csvio import TraceCommand


@pytest.fixture(scope="module")
def ddr4() -> DramSpec:
    return load_dram("ddr4_3200aa").value.resolve()


@pytest.fixture(scope="module")
def hbm2() -> DramSpec:
    return load_dram("hbm2_2000").value.resolve()


@pytest.fixture(scope="module")
def two_ranks() -> DramSpec:
    config = load_dram("ddr4_3200aa").value
    return config.model_copy(update={"levels": config.levels | {"rank": 2}}).resolve()


def at(cycle: int, command: str, bankgroup: int = 0, bank: int = 0, row: int = -1, rank: int = 0) -> TraceCommand:
    return TraceCommand(cycle, command, 0, rank=rank, bankgroup=bankgroup, bank=bank, row=row)


def found(spec: DramSpec, *rows: TraceCommand) -> list[str]:
    return [str(violation) for violation in check_trace(spec, rows)]


def test_timing(ddr4: DramSpec) -> None:
    assert found(ddr4, at(1, "ACT", row=3), at(23, "RD", row=3), at(53, "PREpb")) == []
    assert found(ddr4, at(1, "ACT", row=3), at(22, "RD", row=3)) == [
        "command 2: cycle 22: RD: Bank: ACT->RD >= 22 (nRCD), not 21"
    ]
    assert found(ddr4, at(1, "ACT", row=3)._replace(line=2), at(52, "PREpb")._replace(line=3)) == [
        "line 3: cycle 52: PREpb: Bank: ACT->PREpb >= 52 (nRAS), not 51"
    ]


def test_window(ddr4: DramSpec) -> None:
    activates = [at(1 + 4 * n, "ACT", bankgroup=n, row=0) for n in range(4)]
    assert found(ddr4, *activates, at(35, "ACT", bank=1, row=0)) == []
    assert found(ddr4, *activates, at(34, "ACT", bank=1, row=0)) == [
        "command 5: cycle 34: ACT: Rank: ACT->ACT >= 34 (nFAW, window 4), not 33"
    ]


def test_sibling(two_ranks: DramSpec) -> None:
    opened = [at(1, "ACT", row=0), at(2, "ACT", row=0, rank=1)]
    assert found(two_ranks, *opened, at(24, "RD"), at(30, "RD", rank=1)) == []
    assert found(two_ranks, *opened, at(24, "RD"), at(29, "RD", rank=1)) == [
        "command 4: cycle 29: RD: Rank: RD->RD >= 6 (nBL + nCS, sibling), not 5"
    ]


def test_bus(hbm2: DramSpec) -> None:
    rows = [TraceCommand(cycle, "ACT", 0, pc, bankgroup=0, bank=0, row=1) for pc, cycle in ((0, 1), (1, 2))]
    assert found(hbm2, *rows) == ["command 2: cycle 2: ACT: row bus: ACT->ACT >= 2, not 1"]
    assert found(hbm2, rows[0], rows[1]._replace(cycle=3)) == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([at(1, "RD")], "command 1: cycle 1: RD: RD on an open row only, not rank 0, bankgroup 0, bank 0 closed"),
        (
            [at(1, "ACT", row=3), at(99, "ACT", row=4)],
            "command 2: cycle 99: ACT: ACT on closed banks only, not rank 0, bankgroup 0, bank 0 with row 3 open",
        ),
        (
            [at(1, "ACT", row=3), at(99, "WR", row=4)],
            "command 2: cycle 99: WR: WR on the open row only, row 4, not rank 0, bankgroup 0, bank 0 with row 3 open",
        ),
        (
            [at(1, "ACT", bank=2, row=3), at(99, "REFab")],
            "command 2: cycle 99: REFab: REFab on closed banks only, not rank 0, bankgroup 0, bank 2 with row 3 open",
        ),
        (
            [at(1, "ACT", row=3), at(99, "RDA", row=3), at(199, "RD", row=3)],
            "command 3: cycle 199: RD: RD on an open row only, not rank 0, bankgroup 0, bank 0 closed",
        ),
    ],
)
def test_state(ddr4: DramSpec, rows: list[TraceCommand], message: str) -> None:
    assert found(ddr4, *rows) == [message]


def test_all_bank_precharge_makes_refresh_legal(ddr4: DramSpec) -> None:
    rows = [at(1, "ACT", bank=2, row=3), at(99, "PREab"), at(199, "REFab"), at(775, "ACT", row=1)]
    assert found(ddr4, *rows) == []


def test_data_pins(ddr4: DramSpec) -> None:
    """A write 6 ticks after a read puts its data on the pins together with the read's (nCL 22, nCWL 16, nBL 4)."""
    bare = DramSpec(**{**vars(ddr4), "rules": ()})
    opened = [at(1, "ACT", row=0), at(2, "ACT", bankgroup=1, row=0)]
    assert found(bare, *opened, at(30, "RD"), at(36, "WR", bankgroup=1)) == [
        "command 4: cycle 36: WR: data pins: RD->WR bursts 4 apart, not 0"
    ]
    assert found(bare, *opened, at(30, "RD"), at(40, "WR", bankgroup=1)) == []


def test_cycles_must_not_decrease_on_a_channel(ddr4: DramSpec) -> None:
    rows = [at(9, "PREpb"), at(8, "PREpb", bank=1)]
    assert found(ddr4, *rows)[0] == (
        "command 2: cycle 8: PREpb: cycles of a channel must not decrease, 9 came before, not 8"
    )


def test_channels_are_apart() -> None:
    config = load_dram("ddr4_3200aa").value.model_copy(update={"channels": 2})
    assert found(config.resolve(), at(9, "ACT", row=1), at(1, "ACT", row=1)._replace(channel=1)) == []
