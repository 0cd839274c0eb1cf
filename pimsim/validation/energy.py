"""Figures of DRAM energy for `pimsim validate`: single commands, whole traces and an hour, against DRAMPower and DRAMsim3.

``arch_configs/published/drampower.zip`` holds the traces that DRAMPower was given; the formulas of both are in docs/energy.md.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from pimsim import catalog
from pimsim.analysis.energy import EnergyReport, Memory, command_joules, dram_energy
from pimsim.analysis.trace_energy import trace_energy
from pimsim.config import load_dram
from pimsim.trace.csvio import read_trace
from pimsim.trace.totals import RunTotals

MACHINE = "energy"
TRACES = ("stream_bg_interleave", "random_mix", "conflict_1bank", "refresh_cross")
AFTER = 100
"""Clocks that DRAMPower's runs go on behind the last command."""

HOUR = 5_760_000_000_000
"""Clocks of 0.625 ns in an hour."""
HOUR_READS = 100_000_000_003

_DEVICE = ("electrical.devices_per_channel", "1")
_DRAMSIM3 = ("timing.nRFC", "560")
"""The configuration of DRAMsim3 has a shorter refresh than that of Ramulator."""


def _command(command: str, component: str, *options: tuple[str, str]) -> float:
    """Joules of one command of a DDR4-3200 channel of x8 devices."""
    config = load_dram("ddr4_3200aa", list(options)).value
    spec = config.resolve()
    return command_joules(spec.commands[command], Memory(config), spec)[0][component]


def _increment(command: str, component: str) -> float:
    """What a command adds, in V x mA x clocks for eight devices, as DRAMsim3 prints it."""
    return _command(command, component, _DRAMSIM3) / (load_dram("ddr4_3200aa").value.tck_ps * 1e-15)


def _standby(active: bool) -> float:
    """Standby of a clock, in V x mA for eight devices, with a row open or with none."""
    config = load_dram("ddr4_3200aa").value
    ticks = 1000
    report = dram_energy(RunTotals(ticks=ticks, row_open_ticks=ticks * active), Memory(config), config.resolve())
    return report.by_component["background"] / (ticks * config.tck_ps * 1e-15)


@cache
def _traced(name: str) -> EnergyReport:
    """Energy of a trace on one x8 device."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{name}.csv")
        with zipfile.ZipFile(catalog.folder("arch") / "published" / "drampower.zip") as archive:
            path.write_bytes(archive.read(f"{name}.cmd.csv"))
        rows = read_trace(path)
    return trace_energy(Memory(load_dram("ddr4_3200aa", [_DEVICE]).value), rows, end=rows[-1].cycle + AFTER)


def _hour() -> float:
    """Joules of an hour of one device with 10^11 reads, a row open in all but one clock."""
    config = load_dram("ddr4_3200aa", [_DEVICE]).value
    totals = RunTotals(ticks=HOUR, row_open_ticks=HOUR - 1)
    totals.commands = Counter({("op", 0, "RD"): HOUR_READS})
    return dram_energy(totals, Memory(config), config.resolve()).joules


def _nanojoules(trace: str, component: str) -> float:
    return _traced(trace).by_component[component] * 1e9


def _whole(trace: str) -> float:
    return _traced(trace).joules * 1e9


FIGURES: dict[str, Callable[[], float]] = {
    "ddr4_device/read_pj": lambda: _command("RD", "read", _DEVICE) * 1e12,
    "ddr4_device/write_pj": lambda: _command("WR", "write", _DEVICE) * 1e12,
    "ddr4_device/refresh_nj": lambda: _command("REFab", "refresh", _DEVICE) * 1e9,
    "dramsim3/activate_increment": lambda: _increment("ACT", "activate"),
    "dramsim3/read_increment": lambda: _increment("RD", "read"),
    "dramsim3/write_increment": lambda: _increment("WR", "write"),
    "dramsim3/refresh_increment": lambda: _increment("REFab", "refresh"),
    "dramsim3/active_standby": lambda: _standby(active=True),
    "dramsim3/precharge_standby": lambda: _standby(active=False),
    **{f"{trace}/read_nj": partial(_nanojoules, trace, "read") for trace in TRACES},
    "random_mix/write_nj": partial(_nanojoules, "random_mix", "write"),
    "refresh_cross/write_nj": partial(_nanojoules, "refresh_cross", "write"),
    "refresh_cross/refresh_nj": partial(_nanojoules, "refresh_cross", "refresh"),
    **{f"{trace}/dramsim3_nj": partial(_whole, trace) for trace in TRACES},
    **{f"{trace}/drampower_nj": partial(_whole, trace) for trace in TRACES},
    "ddr4_device/hour_joules": _hour,
}
"""Figure -> how it is found."""

NOTES = {
    "drampower_nj": "DRAMPower charges 799 pJ for an activate and its precharge, where IDD0 gives 525, and less for open rows",
}
"""Why a figure may differ, by the start of its name."""


__all__ = ["FIGURES", "MACHINE", "NOTES"]
