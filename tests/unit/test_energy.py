"""Joules per command against hand-computed and published figures, and the sums that must agree."""

from __future__ import annotations

import math
from collections import Counter

import builders
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pimsim.analysis.energy import (
    COMPONENTS,
    activate_joules,
    banks_in_scope,
    command_joules,
    energy,
    explain_energy_gap,
    is_column_access,
    is_mac,
    issue_interval,
)
from pimsim.arch.dram import DramSpec
from pimsim.arch.system import ArchConfig
from pimsim.errors import UnknownCoefficient

DRAMSIM3_UNIT = 0.63e-9 * 1e-3
"""Joules in one V x mA x cycle at tCK 0.63 ns."""


def machine(**fields: object) -> tuple[ArchConfig, DramSpec]:
    """A machine with its DRAM resolved."""
    arch = builders.arch(**fields)  # type: ignore[arg-type]
    return arch, arch.dram.resolve()


def cost(command: str, component: str, arch: ArchConfig, spec: DramSpec) -> float:
    """Joules of one component of one command."""
    return command_joules(spec.commands[command], arch, spec)[0][component]


# One command


@pytest.mark.parametrize(
    ("command", "component", "increment"),
    [("ACT", "activate", 6720.0), ("RD", "read", 4454.4), ("WR", "write", 3763.2), ("REFab", "refresh", 1064448.0)],
)
def test_command_joules_are_the_increments_of_dramsim3(command: str, component: str, increment: float) -> None:
    """DRAMsim3 prints these (V mA cycles, 8 devices) for its DDR4-3200 file."""
    arch, spec = machine(dram=builders.ddr4())
    assert cost(command, component, arch, spec) == pytest.approx(increment * DRAMSIM3_UNIT, rel=1e-12)


@pytest.mark.parametrize(("command", "component", "joules"), [("RD", "read", 348e-12), ("WR", "write", 294e-12)])
def test_core_energy_of_one_device_is_that_of_drampower(command: str, component: str, joules: float) -> None:
    """DRAMPower reports 348 pJ and 294 pJ for one x8 device at tCK 0.625 ns."""
    currents = builders.DDR4_ELECTRICAL | {"devices_per_channel": 1}
    arch, spec = machine(dram=builders.ddr4(tck_ps=625.0, electrical=currents))
    assert cost(command, component, arch, spec) == pytest.approx(joules, rel=1e-12)


def test_refresh_is_that_of_drampower() -> None:
    """DRAMPower: 427.68 nJ for five refreshes of one device, nRFC 576."""
    currents = builders.DDR4_ELECTRICAL | {"devices_per_channel": 1}
    timing = builders.ddr4().timing | {"nRFC": 576}
    arch, spec = machine(dram=builders.ddr4(tck_ps=625.0, electrical=currents, timing=timing))
    assert 5 * cost("REFab", "refresh", arch, spec) == pytest.approx(427.68e-9, rel=1e-12)


def test_activate_falls_back_to_precharge_standby_where_idd3n_exceeds_idd0() -> None:
    """122 nRC - 142 nRAS - 92 nRP is negative; (122 - 92) mA x 1.25 V x 40 ns is used."""
    arch, spec = machine()
    assert 122 * 40 - 142 * 28 - 92 * 12 < 0
    assert cost("ACT", "activate", arch, spec) == pytest.approx(1500e-12, rel=1e-12)


@given(st.floats(0, 500), st.floats(0, 500), st.floats(0, 500))
def test_activate_is_never_negative(idd0: float, idd2n: float, idd3n: float) -> None:
    """Whatever the currents are: a figure that means something, or an error."""
    currents = builders.PIM_ELECTRICAL | {"idd0_ma": idd0, "idd2n_ma": idd2n, "idd3n_ma": idd3n}
    arch, spec = machine(dram=builders.dram(electrical=currents))
    if idd0 < idd2n and idd0 * 40 < idd3n * 28 + idd2n * 12:
        with pytest.raises(UnknownCoefficient, match=r"^dram.electrical.idd0_ma must be at least idd2n_ma$"):
            activate_joules(spec.commands["ACT"], arch, spec)
    else:
        assert activate_joules(spec.commands["ACT"], arch, spec) >= 0


def test_row_cycle_is_ras_and_rp_where_it_is_not_given() -> None:
    arch, spec = machine(dram=builders.dram(timing={"nBL": 1, "nRAS": 28, "nRP": 12, "nREFI": 6825, "nCCD": 1}))
    assert cost("ACT", "activate", arch, spec) == pytest.approx(1500e-12, rel=1e-12)


def test_all_bank_commands_scale_with_their_charges() -> None:
    arch, spec = machine(energy={"all_bank_activate_charge": 12.0, "all_bank_column_charge": 3.0})
    assert cost("ACT_AB", "activate", arch, spec) == pytest.approx(12 * cost("ACT", "activate", arch, spec))
    assert cost("MAC_AB", "column_mac", arch, spec) == pytest.approx(3 * cost("RD", "read", arch, spec))
    assert cost("RD", "read", arch, spec) == pytest.approx(1.25 * (530 - 142) * 1e-3 * 1e-9)


def test_a_command_of_four_banks_pays_a_quarter_of_sixteen() -> None:
    commands = builders.DRAM_COMMANDS | {"ACT4": {"scope": "bankgroup", "effect": "open", "needs": "closed"}}
    arch, spec = machine(dram=builders.dram(commands=commands, rules=[]))
    assert cost("ACT4", "activate", arch, spec) == pytest.approx(4 * cost("ACT", "activate", arch, spec))


def test_a_command_of_one_rank_reaches_the_devices_of_that_rank() -> None:
    arch, spec = machine(dram=builders.ddr4(levels={"rank": 2, "bankgroup": 4, "bank": 4}))
    assert cost("RD", "read", arch, spec) == pytest.approx(4454.4 / 2 * DRAMSIM3_UNIT)


def test_transfers_pay_for_pins_and_not_for_the_array() -> None:
    arch, spec = machine(energy={"interface_pj_per_bit": 5.5})
    for name in ("WR_GB", "RD_MAC"):
        costs, missing = command_joules(spec.commands[name], arch, spec)
        assert costs == pytest.approx({"interface": 32 * 8 * 5.5e-12})
        assert not missing
    assert set(command_joules(spec.commands["RD"], arch, spec)[0]) == {"read", "interface"}
    assert set(command_joules(spec.commands["WR"], arch, spec)[0]) == {"write", "interface"}


def test_mac_units_compute_for_the_interval_between_macs() -> None:
    arch, spec = machine()
    assert cost("MAC_AB", "mac_units", arch, spec) == pytest.approx(149.29e-3 * 1e-9)
    slow, slow_spec = machine(dram=builders.dram(timing=builders.dram().timing | {"nCCD": 2}))
    assert issue_interval(slow_spec.commands["MAC_AB"], slow_spec) == 2
    assert cost("MAC_AB", "mac_units", slow, slow_spec) == pytest.approx(2 * 149.29e-3 * 1e-9)


def test_a_precharge_is_free() -> None:
    arch, spec = machine()
    assert command_joules(spec.commands["PREab"], arch, spec) == ({}, {})


def test_half_clock_scheduling_changes_no_joule() -> None:
    arch, spec = machine()
    half, half_spec = machine(dram=builders.dram(ticks_per_clock=2))
    for name in spec.commands:
        fine, coarse = (
            command_joules(half_spec.commands[name], half, half_spec),
            command_joules(spec.commands[name], arch, spec),
        )
        assert fine[0] == pytest.approx(coarse[0])


def test_pins_give_the_burst_time_where_nbl_is_not_given() -> None:
    timing = {name: value for name, value in builders.dram().timing.items() if name != "nBL"}
    arch, spec = machine(dram=builders.dram(timing=timing, pin_gbps=8.0))
    assert cost("RD", "read", arch, spec) == pytest.approx(1.25 * (530 - 142) * 1e-3 * 2e-9)


def test_commands_are_told_apart_by_what_they_do() -> None:
    _, spec = machine()
    assert [name for name, command in spec.commands.items() if is_mac(command)] == ["MAC_AB"]
    assert [name for name, command in spec.commands.items() if is_column_access(command)] == ["RD", "WR", "MAC_AB"]
    assert banks_in_scope(spec.commands["MAC_AB"], spec) == 16
    assert banks_in_scope(spec.commands["RD"], spec) == 1


# A run


def test_background_is_active_standby_while_a_row_is_open() -> None:
    arch, spec = machine()
    report = energy(builders.totals(ticks=1000, row_open_ticks=600), arch, spec)
    assert report.by_component["background"] == pytest.approx(1.25 * (142 * 600 + 92 * 1400) * 1e-3 * 1e-9)


def test_a_refresh_draws_idd5b_in_all() -> None:
    """IDD5B - IDD3N for the refresh and IDD3N for the background add up to IDD5B."""
    arch, spec = machine(dram=builders.dram(channels=1), energy={"asic_idle_power_mw": 0.0})
    report = energy(builders.totals({("refresh", -1, "REFab"): 1}, ticks=455), arch, spec)
    assert report.joules == pytest.approx(1.25 * 277e-3 * 455e-9, rel=1e-12)


def test_asic_is_busy_or_idle() -> None:
    arch, spec = machine(asic=builders.arch().asic.model_copy(update={"clock_mhz": 500.0}).model_dump())
    report = energy(builders.totals(ticks=1000, asic_cycles=Counter({("softmax", 3): 200})), arch, spec)
    assert report.by_component["asic"] == pytest.approx(304.59e-3 * 400e-9)
    assert report.by_component["asic_idle"] == pytest.approx(30e-3 * 600e-9)
    assert report.by_layer[3] == report.by_op["softmax"] == report.by_component["asic"]


def test_command_energy_belongs_to_the_op_and_layer_that_issued_it() -> None:
    arch, spec = machine()
    report = energy(builders.totals({("ffn_up", 5, "WR_GB"): 3, ("ffn_up", 6, "WR_GB"): 1}), arch, spec)
    one = cost("WR_GB", "interface", arch, spec)
    assert report.by_op["ffn_up"] == pytest.approx(4 * one)
    assert report.by_layer[5] == pytest.approx(3 * one)
    assert report.by_layer[6] == pytest.approx(one)


def test_sums_agree() -> None:
    arch, spec = machine()
    report = energy(builders.busy_totals(), arch, spec)
    of_hybrid_machines = {"fpga", "fpga_idle", "link"}
    assert set(report.by_component) == set(COMPONENTS) - of_hybrid_machines
    for cut in (report.by_component, report.by_op, report.by_layer):
        assert math.fsum(cut.values()) == pytest.approx(report.joules, rel=1e-12)
    assert report.average_watts == pytest.approx(report.joules / 8e-6)
    assert report.uncosted == []


@given(
    st.dictionaries(
        st.tuples(
            st.sampled_from(["qkv_projection", "softmax", "refresh"]),
            st.integers(-1, 3),
            st.sampled_from(sorted({**builders.DRAM_COMMANDS, **builders.PIM_COMMANDS})),
        ),
        st.integers(0, 10**9),
    ),
    st.integers(1, 10**10),
)
def test_sums_agree_for_any_counters(commands: dict[tuple[str, int, str], int], ticks: int) -> None:
    arch, spec = machine()
    report = energy(builders.totals(commands, ticks=ticks), arch, spec)
    for cut in (report.by_component, report.by_op, report.by_layer):
        assert math.fsum(cut.values()) == pytest.approx(report.joules, rel=1e-12)


def test_energy_is_linear_in_counts() -> None:
    arch, spec = machine(energy={"asic_idle_power_mw": 0.0})
    once = builders.totals({("ffn_up", 0, "MAC_AB"): 7, ("ffn_up", 0, "RD_MAC"): 2}, ticks=100, row_open_ticks=50)
    twice = builders.totals({("ffn_up", 0, "MAC_AB"): 14, ("ffn_up", 0, "RD_MAC"): 4}, ticks=200, row_open_ticks=100)
    assert energy(twice, arch, spec).joules == pytest.approx(2 * energy(once, arch, spec).joules, rel=1e-12)


# What is not known


def test_a_missing_coefficient_is_listed_and_not_zero() -> None:
    unknown = dict.fromkeys(("interface_pj_per_bit", "mac_units_power_mw", "asic_busy_power_mw", "asic_idle_power_mw"))
    arch, spec = machine(energy=unknown)
    report = energy(builders.busy_totals(), arch, spec)
    assert report.uncosted == [
        "mac_units: energy.mac_units_power_mw is not given",
        "interface: energy.interface_pj_per_bit is not given",
        "asic: energy.asic_busy_power_mw is not given",
        "asic_idle: energy.asic_idle_power_mw is not given",
    ]
    assert not {"mac_units", "interface", "asic", "asic_idle"} & set(report.by_component)


def test_without_currents_the_whole_dram_is_uncosted() -> None:
    arch, spec = machine(dram=builders.dram(electrical=None))
    report = energy(builders.busy_totals(), arch, spec)
    array = ("activate", "column_mac", "read", "write", "refresh", "background")
    assert report.uncosted == [f"{component}: dram.electrical is not given" for component in array]
    assert set(report.by_component) == {"mac_units", "interface", "asic", "asic_idle"}


def test_what_did_not_happen_is_not_uncosted() -> None:
    arch, spec = machine(energy={"interface_pj_per_bit": None, "asic_busy_power_mw": None})
    assert energy(builders.totals({("ffn_up", 0, "MAC_AB"): 1}), arch, spec).uncosted == []


@pytest.mark.parametrize(
    ("current", "command", "text"),
    [
        ("idd4r_ma", "RD", "read: dram.electrical.idd4r_ma must be at least idd3n_ma"),
        ("idd4w_ma", "WR", "write: dram.electrical.idd4w_ma must be at least idd3n_ma"),
        ("idd5b_ma", "REFab", "refresh: dram.electrical.idd5b_ma must be at least idd3n_ma"),
    ],
)
def test_an_increment_below_standby_is_uncosted(current: str, command: str, text: str) -> None:
    arch, spec = machine(dram=builders.dram(electrical=builders.PIM_ELECTRICAL | {current: 100.0}))
    assert energy(builders.totals({("op", 0, command): 1}), arch, spec).uncosted == [text]


def test_a_per_bank_refresh_is_uncosted() -> None:
    commands = builders.DRAM_COMMANDS | {"REFpb": {"scope": "bank", "needs": "closed", "refresh": True}}
    arch, spec = machine(dram=builders.dram(commands=commands, rules=[]))
    report = energy(builders.totals({("refresh", -1, "REFpb"): 1}), arch, spec)
    assert report.uncosted == ["refresh: dram.electrical has no current for the per-bank refresh REFpb"]


def test_an_unknown_command_is_an_error() -> None:
    arch, spec = machine()
    with pytest.raises(UnknownCoefficient, match=r"^a command must be one of ACT, PREpb, .*, not 'NOP'$"):
        energy(builders.totals({("op", 0, "NOP"): 1}), arch, spec)


# The gap between the two versions of the PIM-GPT paper


def test_the_charge_that_explains_the_gap_gives_that_energy() -> None:
    """Doing it: with the charge, the run needs 2.75 times what it needs with a charge of one."""
    arch, spec = machine(energy={"all_bank_column_charge": 5.0})
    charge = explain_energy_gap(arch, builders.busy_totals(), spec)
    low, _ = machine(energy={"all_bank_column_charge": 1.0})
    high, _ = machine(energy={"all_bank_column_charge": charge})
    totals = builders.busy_totals()
    assert energy(totals, high, spec).joules == pytest.approx(2.75 * energy(totals, low, spec).joules, rel=1e-12)


def test_no_charge_explains_a_gap_without_macs() -> None:
    arch, spec = machine()
    with pytest.raises(UnknownCoefficient, match=r"^the energy of column_mac must be known and not zero"):
        explain_energy_gap(arch, builders.totals(), spec)
