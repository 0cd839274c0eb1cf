"""The derived figures of ``arch_configs/published/energy.yaml``, worked out here from the traces and the currents alone.

Nothing of `pimsim` takes part but the reader of the YAML file: the traces are read line by line, and the formulas are those of
DRAMPower and DRAMsim3 as their authors give them, in whole numbers.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from pimsim import catalog
from pimsim.validation.table import load_published

DATA = Path(__file__).parents[1] / "data" / "energy"
RUNS: dict[str, Any] = json.loads((DATA / "drampower_ddr4.json").read_text())["runs"]
FIGURES = load_published("energy").figures
VDD = Fraction(12, 10)
IDD0, IDD2N, IDD3N, IDD4R, IDD4W, IDD5B = 57, 37, 52, 168, 150, 250  # mA
RAS, RC, BURST, RFC = 52, 74, 4, 576  # clocks
TCK = Fraction(625, 10**12)
"""Seconds."""
MILLI = Fraction(1, 1000)
ACTIVATE = IDD0 * RC - IDD3N * RAS - IDD2N * (RC - RAS)
READ, WRITE, REFRESH = (IDD4R - IDD3N) * BURST, (IDD4W - IDD3N) * BURST, (IDD5B - IDD3N) * RFC


def figure(name: str) -> float:
    found = FIGURES[name]
    assert found.low == found.high
    return found.low


def joules(charge: int) -> Fraction:
    """Of mA x clocks."""
    return VDD * charge * MILLI * TCK


def rows(run: str) -> list[dict[str, str]]:
    text = zipfile.ZipFile(DATA / "traces.zip").read(f"{run}.cmd.csv").decode()
    return list(csv.DictReader(io.StringIO(text)))


def charge_of_trace(run: str) -> int:
    """MA x clocks of a device: increments of commands, and standby by whether a row is open; a refresh counts as active."""
    increments = {"ACT": ACTIVATE, "RD": READ, "WR": WRITE, "REFab": REFRESH}
    listed = rows(run)
    open_banks: set[tuple[str, str]] = set()
    active = total = 0
    since = 0
    for row in listed:
        clock, command = int(row["clk"]), row["cmd"]
        total += increments.get(command, 0)
        bank = (row["bankgroup"], row["bank"])
        if open_banks:
            active += clock - since
        since = clock
        if command == "ACT":
            open_banks.add(bank)
        elif command == "PREpb":
            open_banks.discard(bank)
        elif command == "PREab":
            open_banks.clear()
        elif command == "REFab":
            active += RFC
    end = int(listed[-1]["clk"]) + 100
    active += end - since if open_banks else 0
    return total + IDD3N * active + IDD2N * (end - active)


@pytest.mark.parametrize(("name", "charge"), [("read_pj", READ), ("write_pj", WRITE)])
def test_core_energy_of_a_command(name: str, charge: int) -> None:
    assert figure(f"ddr4_device/{name}") == pytest.approx(float(joules(charge) * 10**12), rel=1e-12)


def test_the_published_ones_are_348_and_294_picojoules() -> None:
    assert (figure("ddr4_device/read_pj"), figure("ddr4_device/write_pj")) == (348, 294)
    assert figure("ddr4_device/refresh_nj") == pytest.approx(float(joules(REFRESH) * 10**9), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "charge"),
    [("activate_increment", ACTIVATE), ("read_increment", READ), ("write_increment", WRITE),
     ("refresh_increment", (IDD5B - IDD3N) * 560), ("active_standby", IDD3N), ("precharge_standby", IDD2N)],
)  # fmt: skip
def test_increments_of_dramsim3(name: str, charge: int) -> None:
    """V x mA x clocks of eight devices; its configuration has a refresh of 560 clocks."""
    assert figure(f"dramsim3/{name}") == float(VDD * charge * 8)


@pytest.mark.parametrize("run", RUNS)
def test_a_trace_with_the_increments_of_dramsim3(run: str) -> None:
    assert figure(f"{run}/dramsim3_nj") == pytest.approx(float(joules(charge_of_trace(run)) * 10**9), rel=1e-12)


@pytest.mark.parametrize("run", RUNS)
def test_a_trace_as_drampower_has_it(run: str) -> None:
    golden = RUNS[run]["bank_sum"]
    for name, component in (("RD", "read"), ("WR", "write"), ("REF_AB", "refresh")):
        if name in golden:
            assert figure(f"{run}/{component}_nj") == pytest.approx(golden[name] * 1e9, rel=1e-12)
    whole = sum(golden.values()) + RUNS[run]["other"]["E_bg_act_shared"]
    assert figure(f"{run}/drampower_nj") == pytest.approx(whole * 1e9, rel=1e-12)


def test_an_hour() -> None:
    clocks, reads = 3600 * 10**9 * 16 // 10, 100_000_000_003
    exact = joules(READ * reads + IDD3N * (clocks - 1) + IDD2N)
    assert abs(Fraction(figure("ddr4_device/hour_joules")) / exact - 1) < Fraction(1, 10**15)


def test_the_shipped_traces_are_those_of_the_tests() -> None:
    with zipfile.ZipFile(catalog.folder("arch") / "published" / "drampower.zip") as shipped:
        golden = zipfile.ZipFile(DATA / "traces.zip")
        assert sorted(shipped.namelist()) == sorted(golden.namelist())
        assert all(shipped.read(name) == golden.read(name) for name in shipped.namelist())
