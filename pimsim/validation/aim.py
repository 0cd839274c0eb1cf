"""The GDDR6-AiM machine against aim_simulator: cases whose cycles and commands are met exactly.

``arch_configs/published/aim_simulator.zip`` holds the instruction traces and what the simulator made of each: its cycles
and the number of commands of all channels.
"""

from __future__ import annotations

import csv
import io
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from pimsim import catalog
from pimsim.config import load_arch, load_workload
from pimsim.run import simulate_loaded
from pimsim.runners import RunOptions

SOURCE = "code: aim_simulator (github.com/arkhadem/aim_simulator, 0f28a07), memory cycles and commands of each case"
ARCH = "aim_gddr6"

AIM_ROWS = {
    "aim_gddr6/refresh_off/cases_exact": ("ref_off", "aim_simulator"),
    "aim_gddr6/refresh_on/cases_exact": ("ref_on", "aim_simulator_refreshed"),
}
"""Row -> (variant in the table of the simulator, quirks of the machine)."""


@dataclass(frozen=True)
class Score:
    """How many cases are met."""

    cases: int
    exact: int
    source: str
    wrong: list[str]
    """Cases that are not met, with the cycles found and expected."""


def archive_path() -> Path:
    """The shipped traces and results."""
    return catalog.folder("arch") / "published" / "aim_simulator.zip"


def measure_aim(name: str) -> Score:
    """Run every case of a row of `AIM_ROWS` as a user would."""
    variant, quirks = AIM_ROWS[name]
    arch = load_arch(ARCH, [("quirks", quirks)])
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(archive_path()) as archive:
            archive.extractall(folder)
            table = io.StringIO(archive.read("expected.csv").decode())
        rows = [row for row in csv.DictReader(table) if row["refresh"] == variant]
        for row in rows:
            workload = load_workload(str(Path(folder, "traces", f"{row['case']}.trace")))
            result = simulate_loaded(arch, workload, RunOptions())
            found = (result.time.cycles, sum(result.dram.commands.values()) if result.dram else 0)
            expected = (int(row["cycles"]), int(row["all_channels_total_cmds"]))
            if found != expected:
                wrong.append(f"{row['case']}: {found[0]} cycles, {found[1]} commands, not {expected[0]}, {expected[1]}")
    return Score(len(rows), len(rows) - len(wrong), SOURCE, wrong)


__all__ = ["AIM_ROWS", "Score", "archive_path", "measure_aim"]
