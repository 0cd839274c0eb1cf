"""DDR5, LPDDR5, HBM3 and GDDR7, which are data alone: schedules worked out by hand from their timing values.

What they need beyond DDR4 and HBM2: commands of several clocks, half-clock ticks, two-step activates, pseudo channels
with a bus each for rows and columns, and all-bank commands on top. Sums are spelled out as the standards count: from the
last tick of a command on its bus.
"""

from __future__ import annotations

import pytest

from pimsim.analysis.legality import check_trace
from pimsim.config import load_dram
from pimsim.machine.replay import replay
from pimsim.trace.csvio import make_command

Step = tuple[str, tuple[int, ...], int, int]
"""(command, address, row, tick)"""

ANY = -1

DDR5: list[Step] = [
    ("ACT", (0, 0, 0), 5, 1),
    ("RD", (0, 0, 0), 5, 1 + 36),  # nRCD, between two commands of two clocks
    ("RD", (0, 0, 0), 5, 37 + 12),  # nCCDL
    ("WR", (0, 0, 0), 5, 49 + 36 + 8 + 4 - 34),  # the data pins turn
    ("PREpb", (0, 0, 0), ANY, 63 + 34 + 8 + 72 + 1),  # nWR behind the burst; one clock more for the longer write
    ("ACT", (0, 0, 0), 6, 178 + 36 - 1),  # nRP; one clock less for the longer activate
]
DDR5_ROWS: list[Step] = [
    ("ACT", (0, 0, 0), 5, 1),
    ("ACT", (0, 1, 0), 5, 1 + 8),  # nRRDS
    ("ACT", (0, 2, 0), 5, 9 + 8),
    ("ACT", (0, 3, 0), 5, 17 + 8),
    ("ACT", (0, 4, 0), 5, 1 + 48),  # nFAW
    ("WR", (0, 0, 0), 5, 49 + 2),  # the bus, for two clocks
    ("WR", (0, 0, 0), 5, 51 + 48),  # nCCDL_WR
    ("WR", (0, 1, 0), 5, 99 + 8),  # nCCDS_WR
    ("RD", (0, 2, 0), 5, 107 + 34 + 8 + 6),  # nWTRS behind the burst
    ("PREpb", (0, 3, 0), ANY, 155 + 2),
    ("PREpb", (0, 4, 0), ANY, 157 + 2),  # nPPD
]
LPDDR5: list[Step] = [
    ("ACT1", (0, 0, 0), 5, 1),
    ("ACT1", (0, 1, 0), 6, 1 + 4),  # nRRD, while the first bank waits for its second step
    ("ACT2", (0, 0, 0), 5, 6),
    ("ACT2", (0, 1, 0), 6, 7),
    ("CAS_RD", (0, 0, 0), ANY, 8),
    ("RD", (0, 0, 0), 5, 1 + 15),  # nRCD from the first step
    ("RD", (0, 1, 0), 6, 5 + 15),
    ("RD", (0, 1, 0), 6, 20 + 4),  # nCCDL
    ("WR", (0, 0, 0), 5, 24 + 17 + 2 + 2 - 9),
    ("PREab", (0, ANY, ANY), ANY, 36 + 9 + 2 + 28),
    ("REFab", (0, ANY, ANY), ANY, 75 + 17),  # nRPab
    ("ACT1", (0, 0, 0), 1, 92 + 224),  # nRFC
]
HBM3: list[Step] = [  # half clocks; an activate takes three, a column command two, a precharge one
    ("ACT", (0, 0, 0), 5, 1),
    ("ACT", (1, 0, 0), 6, 1 + 3),  # the other pseudo channel: the row bus alone
    ("ACT", (0, 1, 0), 6, 1 + 2 * 4),  # nRRDS
    ("ACT", (0, 1, 1), 6, 9 + 2 * 5),  # nRRDL
    ("RD", (0, 0, 0), 5, 1 + 2 * 31 + 2 - 1),  # nRCDRD, two half clocks more for the activate, one less for the read
    ("RD", (1, 0, 0), 6, 4 + 2 * 31 + 2 - 1),
    ("RD", (0, 1, 0), 6, 9 + 2 * 31 + 2 - 1),
    ("RD", (0, 1, 0), 6, 72 + 2 * 4),  # nCCDL
    ("PREpb", (0, 0, 0), ANY, 1 + 2 * 45 + 2),  # nRAS
    ("PREpb", (0, 1, 0), ANY, 9 + 2 * 45 + 2),
    ("ACT", (0, 0, 0), 1, 1 + 2 * 72),  # nRC, which is longer here than nRP
]
HBM3_MAC: list[Step] = [
    ("WR_GB", (0, ANY, ANY), ANY, 1),
    ("ACT_AB", (0, ANY, ANY), 5, 2),  # the row bus is free
    ("MAC_AB", (0, ANY, ANY), 5, 2 + 2 * 31 + 2 - 1),  # nRCDRD
    ("MAC_AB", (0, ANY, ANY), 5, 65 + 2 * 4),  # nCCDL
    ("RD_MAC", (0, ANY, ANY), ANY, 73 + 2 * 6),  # nMAC
    ("PREab", (0, ANY, ANY), ANY, 2 + 2 * 45 + 2),  # nRAS
    ("ACT_AB", (0, ANY, ANY), 6, 2 + 2 * 72),  # nRC
]
LPDDR5_MAC: list[Step] = [
    ("WR_GB", (0, ANY, ANY), ANY, 1),
    ("ACT_AB", (0, ANY, ANY), 5, 2),
    ("MAC_AB", (0, ANY, ANY), 5, 2 + 15),
    ("MAC_AB", (0, ANY, ANY), 5, 17 + 4),
    ("RD_MAC", (0, ANY, ANY), ANY, 21 + 6),
    ("PREab", (0, ANY, ANY), ANY, 2 + 34),
    ("ACT_AB", (0, ANY, ANY), 6, 36 + 17),
]
GDDR7: list[Step] = [
    ("ACT", (0,), 5, 1),
    ("ACT", (1,), 5, 1 + 4),  # nRRD
    ("RD", (0,), 5, 1 + 30),  # nRCDRD
    ("RD", (1,), 5, 5 + 30),
    ("RD", (1,), 5, 35 + 4),  # nCCDSB
    ("WR", (0,), 5, 39 + 24 + 2 + 3 - 6 + 1),  # nRTW
    ("RD", (1,), 5, 63 + 6 + 2 + 9),  # nWTR behind the burst
    ("PREpb", (1,), ANY, 80 + 4 + 1),  # nRTP
    ("ACT", (2,), 1, 86),
    ("PREab", (ANY,), ANY, 86 + 60 + 1),  # nRAS
    ("REFab", (ANY,), ANY, 147 + 30),  # nRP
]
SCHEDULES = [
    ("ddr5_4800b", DDR5),
    ("ddr5_4800b", DDR5_ROWS),
    ("lpddr5_6400", LPDDR5),
    ("hbm3_6400", HBM3),
    ("hbm3_6400_pim", HBM3_MAC),
    ("lpddr5_6400_pim", LPDDR5_MAC),
    ("gddr7_28000", GDDR7),
]


@pytest.mark.parametrize(("standard", "steps"), SCHEDULES)
def test_schedule_by_hand(standard: str, steps: list[Step]) -> None:
    spec = load_dram(standard).value.resolve()
    issued = replay(spec, [make_command(spec, 0, command, 0, where, row) for command, where, row, _ in steps])
    assert [(row.command, row.cycle) for row in issued] == [(command, tick) for command, _, _, tick in steps]


@pytest.mark.parametrize(
    ("standard", "gigabytes_per_second"),
    [("ddr5_4800b", 19.2), ("lpddr5_6400", 12.8), ("hbm3_6400", 51.2), ("gddr7_28000", 28.0)],
)
def test_bursts_without_a_gap_fill_the_pins(standard: str, gigabytes_per_second: float) -> None:
    """A burst takes as long on the pins as nBL says, up to the clock period being a rounded one."""
    config = load_dram(standard).value
    spec = config.resolve()
    pseudochannels = dict(zip(spec.levels, spec.counts, strict=True)).get("pseudochannel", 1)
    peak = pseudochannels * spec.burst_bytes / (spec.timing["nBL"] * spec.tick_seconds) / 1e9
    assert config.pins is not None
    assert config.pin_gbps is not None
    assert config.pins * config.pin_gbps / 8 == pytest.approx(gigabytes_per_second)
    assert peak == pytest.approx(gigabytes_per_second, rel=2e-3)


def test_27_another_activate_may_begin_between_two_steps() -> None:
    """And reads need no command that starts the data clock."""
    spec = load_dram("lpddr5_6400").value.resolve()
    steps = [("ACT1", (0, 0, 0), 1), ("ACT1", (0, 1, 0), 5), ("ACT2", (0, 0, 0), 6), ("ACT2", (0, 1, 0), 7)]
    steps += [("RD", (0, 0, 0), 16)]
    assert check_trace(spec, [make_command(spec, tick, name, 0, where, 5) for name, where, tick in steps]) == []


def test_28_gddr7_has_no_refresh_management_and_no_read_clock() -> None:
    commands = load_dram("gddr7_28000").value.commands
    assert not [name for name in commands if name.startswith(("RFM", "RCK"))]


@pytest.mark.parametrize("standard", ["hbm3_6400_pim", "lpddr5_6400_pim"])
def test_29_the_window_of_activates_does_not_know_all_bank_ones(standard: str) -> None:
    rules = load_dram(standard).value.rules
    assert not [rule for rule in rules if rule.window > 1 and "ACT_AB" in rule.prev + rule.next]
