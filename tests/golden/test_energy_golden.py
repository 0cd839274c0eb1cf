"""Energy of DDR4 command traces against DRAMPower, component by component, and over a simulated hour."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pimsim.analysis.energy import EnergyReport, Memory, dram_energy
from pimsim.analysis.trace_energy import trace_energy, trace_totals
from pimsim.arch.dram import DramConfig
from pimsim.config import load_dram
from pimsim.trace.csvio import TraceCommand, read_trace
from pimsim.trace.totals import RunTotals

DATA = Path(__file__).parents[1] / "data" / "energy"
RUNS: dict[str, Any] = json.loads((DATA / "drampower_ddr4.json").read_text())["runs"]
VDD, IDD0, IDD2N, IDD3N = 1.2, 57e-3, 37e-3, 52e-3
CLOCK = 0.625e-9
RAS, RP, BANKS, RHO = 52, 22, 16, 0.5
SHARED = RHO * (IDD3N - IDD2N) + IDD2N
"""The part of IDD3N that one open bank is enough for, with DRAMPower's factor rho."""
DEVIATIONS = {"stream_bg_interleave": 0.037, "random_mix": -0.157, "conflict_1bank": 0.001, "refresh_cross": -0.060}
"""Of the whole: an activate and its precharge cost 525 pJ here, and 469 + 330 pJ in DRAMPower, which charges open rows less."""


@cache
def device() -> DramConfig:
    """One of the eight devices."""
    return load_dram("ddr4_3200aa", [("electrical.devices_per_channel", "1")]).value


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[TraceCommand]]:
    folder = tmp_path_factory.mktemp("energy")
    with zipfile.ZipFile(DATA / "traces.zip") as archive:
        archive.extractall(folder)
    return {run: read_trace(folder / f"{run}.cmd.csv") for run in RUNS}


def totals_of(rows: list[TraceCommand]) -> RunTotals:
    return trace_totals(device().resolve(), rows, end=rows[-1].cycle + 100)


def report_of(rows: list[TraceCommand]) -> EnergyReport:
    return trace_energy(Memory(device()), rows, end=rows[-1].cycle + 100)


@pytest.mark.parametrize("run", RUNS)
def test_reads_writes_and_refreshes_are_those_of_drampower(run: str, traces: dict[str, list[TraceCommand]]) -> None:
    golden, own = RUNS[run]["bank_sum"], report_of(traces[run]).by_component
    names = {"RD": "read", "WR": "write", "REF_AB": "refresh"}
    expected = {component: golden[name] for name, component in names.items() if name in golden}
    found = {component: own[component] for component in names.values() if own.get(component)}
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("run", RUNS)
def test_the_counters_carry_the_rest_of_drampower(run: str, traces: dict[str, list[TraceCommand]]) -> None:
    """Its activates and its standby follow from the counters of the trace by its own formulas."""
    golden, totals = RUNS[run]["bank_sum"], totals_of(traces[run])
    active = totals.row_open_ticks + 576 * totals.count("REFab")
    bank = SHARED + (IDD3N - SHARED) / BANKS
    activates = totals.count("ACT") * VDD * (IDD0 - bank) * RAS * CLOCK
    assert activates == pytest.approx(golden["ACT"], rel=1e-9)
    assert VDD * SHARED * active * CLOCK == pytest.approx(RUNS[run]["other"]["E_bg_act_shared"], rel=1e-9)
    assert VDD * IDD2N * (totals.ticks - active) * CLOCK == pytest.approx(golden["BG_PRE"], rel=1e-9)
    if not totals.count("PREab"):
        assert totals.count("PREpb") * VDD * (IDD0 - IDD2N) * RP * CLOCK == pytest.approx(golden.get("PRE", 0.0))


@pytest.mark.parametrize("run", RUNS)
def test_30_the_whole_differs_by_what_an_activate_is_charged(run: str, traces: dict[str, list[TraceCommand]]) -> None:
    golden = sum(RUNS[run]["bank_sum"].values()) + RUNS[run]["other"]["E_bg_act_shared"]
    assert report_of(traces[run]).joules / golden - 1 == pytest.approx(DEVIATIONS[run], abs=6e-4)


@pytest.mark.parametrize("run", RUNS)
def test_the_whole_is_what_the_counters_say_with_the_increments_of_dramsim3(
    run: str, traces: dict[str, list[TraceCommand]]
) -> None:
    """VDD x mA x clocks: activate 700, read 464, write 392, refresh 198 x 576; 52 in active, 37 in precharge standby."""
    totals = totals_of(traces[run])
    active = totals.row_open_ticks + 576 * totals.count("REFab")
    charge = (
        700 * totals.count("ACT")
        + 464 * totals.count("RD")
        + 392 * totals.count("WR")
        + 198 * 576 * totals.count("REFab")
        + 52 * active
        + 37 * (totals.ticks - active)
    )
    report = report_of(traces[run])
    assert report.joules == pytest.approx(VDD * 1e-3 * charge * CLOCK, rel=1e-12)
    assert sum(report.by_component.values()) == pytest.approx(report.joules, rel=1e-12)
    assert report.uncosted == ["interface: energy.interface_pj_per_bit is not given"]


def test_a_simulated_hour_is_as_exact_as_a_microsecond() -> None:
    """5.76e12 clocks with 10^11 reads: the integer sum, and no step of it is rounded away."""
    spec, ticks, reads = device().resolve(), 5_760_000_000_000, 100_000_000_003
    totals = RunTotals(ticks=ticks, row_open_ticks=ticks - 1)
    totals.commands = Counter({("op", 0, "RD"): reads})
    exact = Fraction(12, 10) * (464 * reads + 52 * (ticks - 1) + 37) * Fraction(625, 10**15)
    joules = dram_energy(totals, Memory(device()), spec).joules
    assert abs(Fraction(joules) / exact - 1) < Fraction(1, 10**15)
    totals.commands["op", 0, "RD"] += 1
    more = dram_energy(totals, Memory(device()), spec).by_component["read"]
    assert more - 348e-12 * reads == pytest.approx(348e-12, rel=0.02)


def test_a_memory_alone_knows_no_all_bank_charge() -> None:
    config = load_dram("pim_gpt_gddr6").value
    totals = RunTotals(ticks=100)
    totals.commands = Counter({("op", 0, "ACT_AB"): 1, ("op", 0, "MAC_AB"): 1})
    report = dram_energy(totals, Memory(config), config.resolve())
    assert [text.split(" is not")[0] for text in report.uncosted] == [
        "activate: energy.all_bank_activate_charge",
        "column_mac: energy.all_bank_column_charge",
        "mac_units: energy.mac_units_power_mw",
    ]
