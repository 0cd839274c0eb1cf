"""The rows of ``pimsim validate`` about aim_simulator: what is shipped, and that a miss is told."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import pytest

from pimsim.validation import aim, table

GOLDEN = Path(__file__).parents[1] / "data" / "aim" / "golden.zip"
CASES = ("gemv_1x16_c1_acc", "mi_mac_abk_64", "mi_r_mem_1")


def test_what_is_shipped_is_what_the_tests_have() -> None:
    with zipfile.ZipFile(GOLDEN) as golden, zipfile.ZipFile(aim.archive_path()) as shipped:
        names = [name for name in golden.namelist() if name == "expected.csv" or name.startswith("traces/")]
        assert sorted(shipped.namelist()) == sorted(name for name in names if not name.endswith("/"))
        assert all(shipped.read(name) == golden.read(name) for name in shipped.namelist())


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three cases, one of them with other cycles in the variant with refresh."""
    with zipfile.ZipFile(GOLDEN) as golden, zipfile.ZipFile(tmp_path / "few.zip", "w") as out:
        rows = [r for r in csv.DictReader(io.StringIO(golden.read("expected.csv").decode())) if r["case"] in CASES]
        for row in rows:
            if (row["case"], row["refresh"]) == ("mi_mac_abk_64", "ref_on"):
                row["cycles"] = "7"
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        out.writestr("expected.csv", text.getvalue())
        for case in CASES:
            out.writestr(f"traces/{case}.trace", golden.read(f"traces/{case}.trace"))
    monkeypatch.setattr(aim, "archive_path", lambda: tmp_path / "few.zip")


@pytest.mark.usefixtures("few")
def test_all_exact_or_failed() -> None:
    good, bad = table.validate(["aim_gddr6"])
    assert (good.name, good.published, good.simulated, good.status) == (
        "aim_gddr6/refresh_off/cases_exact",
        "3",
        3.0,
        "exact",
    )
    assert (bad.name, bad.simulated, bad.status, bad.trust) == (
        "aim_gddr6/refresh_on/cases_exact",
        2.0,
        "failed",
        "code",
    )
    assert bad.note.startswith("mi_mac_abk_64: ")
    assert bad.note.endswith(" commands, not 7, 65")
