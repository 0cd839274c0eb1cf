"""The tables of docs/validation.md are those of docs/validation_rows.md."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import validation_pages as script  # noqa: E402

PAGE = script.PAGE.read_text(encoding="utf-8")
ROWS = script.ROWS.read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_rows() -> None:
    assert script.written(PAGE, script.lines(ROWS)) == PAGE


def test_a_changed_row_changes_the_page() -> None:
    name = "`edge_moe/m3vit_cityscapes/milliseconds` | 34.64 | "
    changed = re.sub(re.escape(name) + r"\S+", f"{name}99.99", ROWS)
    assert changed != ROWS
    assert "| `m3vit_cityscapes/milliseconds` | 34.64 | 99.99 * |" in script.written(PAGE, script.lines(changed))


def test_every_row_is_counted() -> None:
    found = script.lines(ROWS)
    assert len(found) == ROWS.count("\n| `")
    assert {row.name.split("/")[0] for row in found} == set(script.FAMILIES)
    assert {row.status for row in found} <= set(script.STATUSES)
