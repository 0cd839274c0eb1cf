"""docs/validation_rows.md is what `pimsim validate --format markdown` prints; all of it with PIMSIM_LARGE set."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pimsim.cli import app
from pimsim.commands.validation import markdown
from pimsim.validate import figure_names, load_published, validate

PAGE = Path(__file__).parents[2] / "docs" / "validation_rows.md"
BEGIN = "<!-- rows: begin -->\n"
QUICK = ("dram/", "attention/", "decoder_weights", "operations_per_weight", "edge_moe/attention_reordered")


def table() -> str:
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition("<!-- rows: end -->")[0]


def lines(text: str) -> dict[str, str]:
    return {match[1]: match[0] for match in re.finditer(r"^\| `(.+?)` \|.*$", text, re.MULTILINE)}


def test_every_row_is_there_once() -> None:
    assert sorted(lines(table())) == sorted(figure_names())


def test_published_values_and_sources_are_those_of_the_files() -> None:
    for machine in ("pim_gpt", "edge_moe"):
        figures = load_published(machine).figures
        for name, line in lines(table()).items():
            if name.startswith(f"{machine}/") and name.split("/")[-1] in figures:
                assert line.endswith(f"| {figures[name.split('/')[-1]].source.replace('|', chr(92) + '|')} |"), name


def test_rows_that_are_quick_are_as_they_were() -> None:
    fresh, page = lines(markdown(validate(list(QUICK)))), lines(table())
    assert len(fresh) > 15
    assert {name: page[name] for name in fresh} == fresh
    for name, line in fresh.items():
        if name.startswith(("dram/", "attention/")):
            assert "| exact |" in line


def test_one_simulated_row_is_as_it_was() -> None:
    name = "pim_gpt/gpt2_decode/row_hit_rate"
    assert lines(markdown(validate([name]))) == {name: lines(table())[name]}


def test_the_sum_counts_the_rows_and_none_failed() -> None:
    rows = lines(table())
    total, counts = re.search(r"^(\d+) rows: (.+)\.$", table(), re.MULTILINE).groups()  # type: ignore[union-attr]
    found = {status: int(number) for number, status in (part.split(" ") for part in counts.split(", "))}
    assert sum(found.values()) == len(rows) == int(total)
    assert "failed" not in found
    for status, number in found.items():
        assert sum(f"| {status} " in line for line in rows.values()) == number


@pytest.mark.large
@pytest.mark.skipif(not os.environ.get("PIMSIM_LARGE"), reason="some minutes; set PIMSIM_LARGE=1")
def test_the_page_is_fresh() -> None:
    done = CliRunner().invoke(app, ["validate", "--format", "markdown", "--quiet"])
    assert done.exit_code == 0, done.output
    assert done.stdout == table()
