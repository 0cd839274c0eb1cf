"""The table of counts in docs/validation.md is what `pimsim validate --format markdown` prints."""

from __future__ import annotations

from pathlib import Path

from pimsim.commands.validation import markdown
from pimsim.validate import validate

PAGE = Path(__file__).parents[2] / "docs" / "validation.md"


def test_the_counts_are_fresh() -> None:
    rows = validate(["dram/", "attention/"])
    assert {row.status for row in rows} == {"exact"}
    page = PAGE.read_text(encoding="utf-8")
    assert page.partition("<!-- counts: begin -->\n")[2].partition("<!-- counts: end -->")[0] == markdown(rows)
