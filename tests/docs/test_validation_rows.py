"""docs/validation_rows.md is what `pimsim validate --format markdown` prints: rows are computed again and compared."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pimsim.cli import app
from pimsim.commands.validation import markdown
from pimsim.validation import pim_gpt
from pimsim.validation.table import figure_names, load_published, validate

PAGE = Path(__file__).parents[2] / "docs" / "validation_rows.md"
BEGIN = "<!-- rows: begin -->\n"
MACHINES = ("pim_gpt", "edge_moe", "dram", "energy", "attention")
LATER = [
    *(
        f"pim_gpt/{model}_decode/{figure}"
        for model in ("gpt2_large", "gpt2_xl", "gpt3_large", "gpt3_xl")
        for figure in ("slowdown_asic_100mhz", "speedup_16_channels")
    ),
    "aim_gddr6/refresh_off/cases_exact",
    "aim_gddr6/refresh_on/cases_exact",
]
"""Rows that eight long runs are needed for, and nothing else is read from; and cases that tests/golden runs one by one."""


def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def table() -> str:
    return page().partition(BEGIN)[2].partition("<!-- rows: end -->")[0]


def lines(text: str) -> dict[str, str]:
    return {match[1]: match[0] for match in re.finditer(r"^\| `(.+?)` \|.*$", text, re.MULTILINE)}


def test_every_row_is_there_once() -> None:
    assert list(lines(table())) == figure_names()
    assert table().count("\n| `") == len(set(figure_names()))


@pytest.mark.parametrize("machine", MACHINES)
def test_every_published_figure_has_a_row(machine: str) -> None:
    keys = {name.removeprefix(f"{machine}/") for name in figure_names() if name.startswith(f"{machine}/")}
    keys |= {key.rpartition("/")[2] for key in keys}
    assert set(load_published(machine).figures) <= keys


def test_published_values_and_sources_are_those_of_the_files() -> None:
    for machine in MACHINES:
        figures = load_published(machine).figures
        for name, line in lines(table()).items():
            if name.startswith(f"{machine}/"):
                path = name.removeprefix(f"{machine}/")
                figure = figures.get(path) or figures[path.rpartition("/")[2]]
                assert line.endswith(f"| {figure.source.replace('|', chr(92) + '|')} |"), name


@pytest.mark.slow
def test_all_rows_but_ten_are_as_they_were() -> None:
    left_out = [] if os.environ.get("PIMSIM_LARGE") else LATER
    fresh, stored = lines(markdown(validate([name for name in figure_names() if name not in left_out]))), lines(table())
    assert fresh == {name: line for name, line in stored.items() if name not in left_out}
    assert not [name for name, line in fresh.items() if "| failed" in line]


def test_the_page_says_which_rows_are_computed_later() -> None:
    assert len(set(LATER) & set(figure_names())) == 10
    said = " ".join(page().split())
    assert (
        "Those of `slowdown_asic_100mhz` and `speedup_16_channels` for the large and XL models need eight runs" in said
    )
    assert "those of `aim_gddr6` are what `tests/golden/test_aim_golden.py` finds case by case" in said
    needed = {run.key for run in pim_gpt.runs([n for n in figure_names() if n not in LATER])}
    assert len([run for run in pim_gpt.runs(figure_names()) if run.key not in needed]) == 8


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
def test_the_command_prints_the_page() -> None:
    done = CliRunner().invoke(app, ["validate", "--format", "markdown", "--quiet"])
    assert done.exit_code == 0, done.output
    assert done.stdout == table()
