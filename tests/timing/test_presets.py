"""Timing values and organisations of shipped standards are those of the presets of Ramulator 2.1 that their sources name."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pimsim.config import load_dram

FILE = Path(__file__).parents[1] / "data" / "dram" / "presets.csv"
PRESETS = list(csv.DictReader(FILE.read_text(encoding="utf-8").splitlines()))
SPELT = {
    "nRCD": ("nRCD", "nRCDRD"), "nCCDS": ("nCCDS", "nCCD"), "nCCDL": ("nCCDL", "nCCDSB"), "nRRDS": ("nRRDS", "nRRD"),
    "nWTRS": ("nWTRS", "nWTR"), "nWTRL": ("nWTRL", "nWTRSB"), "nRFC": ("nRFC", "nRFCab"), "nRTP": ("nRTP", "nRTPL"),
}  # fmt: skip
"""A value -> how standards spell it; GDDR7 has no bank groups, and tells banks apart."""

CASES = [(row["standard"], row) for row in PRESETS]
CASES += [(f"{row['standard']}_pim", row) for row in PRESETS if row["standard"] in ("hbm3_6400", "lpddr5_6400")]
OWN = {
    "nCS", "nCCDS_WR", "nCCDL_WR", "nRPab", "nCAS", "nAAD", "nMAC", "nRREFD", "nRPD", "nRTW", "nRDREFab", "nBTR",
}  # fmt: skip
"""Values that only some standards have, which the presets do not list."""


@pytest.mark.parametrize(("standard", "preset"), CASES)
def test_values_are_those_of_the_preset(standard: str, preset: dict[str, str]) -> None:
    timing = load_dram(standard).value.timing
    listed = {name: int(text) for name, text in preset.items() if name.startswith("n") and text}
    found = {name: next((timing[s] for s in SPELT.get(name, (name,)) if s in timing), None) for name in listed}
    assert {name: value for name, value in found.items() if value is not None} == {
        name: value for name, value in listed.items() if found[name] is not None
    }
    assert {name for name, value in found.items() if value is None} <= {"nREFIpb", "nRFCpb", "nPPD", "nRRDL"}
    spelt = {spelling for name in listed for spelling in SPELT.get(name, (name,))}
    assert set(timing) - spelt <= OWN


@pytest.mark.parametrize(("standard", "preset"), CASES)
def test_the_organisation_is_that_of_the_preset(standard: str, preset: dict[str, str]) -> None:
    config = load_dram(standard).value
    assert (config.rows, config.columns, config.burst_bytes) == tuple(
        int(preset[name]) for name in ("rows", "columns", "burst_bytes")
    )
    assert (config.levels.get("bankgroup", 1), config.levels["bank"]) == (
        int(preset["bankgroups"]),
        int(preset["banks"]),
    )
    assert config.tck_ps == float(preset["tck_ns"]) * 1000


@pytest.mark.parametrize("standard", [name for name, _ in CASES])
def test_the_source_names_the_preset(standard: str) -> None:
    source = load_dram(standard).source_of(("timing", "nCL"))
    assert source is not None
    row = next(row for row in PRESETS if standard.startswith(row["standard"]))
    assert source.startswith("code: Ramulator 2.1 (c5b1c3a)")
    assert row["preset"].split("/")[1].removesuffix("N") in source
