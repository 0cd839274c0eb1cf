"""``pimsim trace-energy``: what it prints and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_tools import pimsim

TRACE = "cycle,command,rank,bankgroup,bank,row,column\n1,ACT,0,0,0,5,-1\n23,RD,0,0,0,5,0\n"
PIM = "cycle,command,row,accumulator\n1,ACT_AB,5,\n13,MAC_AB,5,0\n"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    file = tmp_path / "t.csv"
    file.write_text(TRACE)
    return file


def test_components_and_total(trace: Path) -> None:
    """Eight devices: an activate 525 pJ, a read 348 pJ, 22 + 26 clocks less one at 52 mA and one at 37 mA."""
    background = 8 * 1.2e-3 * (52 * 48 + 37) * 0.625e-9
    result = pimsim("trace-energy", "--dram", "ddr4_3200aa", "--trace", str(trace))
    printed = dict(line.rsplit(maxsplit=2)[:2] for line in result.stdout.splitlines() if "uncosted" not in line)
    assert printed == {
        "activate": "4.200",
        "read": "2.784",
        "background": f"{background * 1e9:.2f}",
        "total": f"{4.2 + 2.784 + background * 1e9:.2f}",
        "mean power": printed["mean power"],
    }


def test_a_machine_knows_its_all_bank_charges(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(PIM)
    alone = pimsim("trace-energy", "--dram", "pim_gpt_gddr6", "--trace", str(file)).stdout
    whole = pimsim("trace-energy", "--arch", "pim_gpt", "--trace", str(file)).stdout
    assert "uncosted: column_mac: energy.all_bank_column_charge is not given" in alone
    assert "column_mac  " in whole
    assert "all_bank" not in whole


def test_cycles_must_not_decrease(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(TRACE.replace("23,", "0,"))
    result = pimsim("trace-energy", "--dram", "ddr4_3200aa", "--trace", str(file))
    assert result.exit_code == 2
    assert result.stderr == f"error: {file}:3: the cycles of a channel must not decrease, 1 came before 0\n"
