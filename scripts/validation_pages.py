#!/usr/bin/env python
"""Tables of docs/validation_rows.md and docs/validation.md.

``python scripts/validation_pages.py`` prints the tables of validation.md as the rows of validation_rows.md give them;
``--write`` puts them into the page. ``--measure`` computes every row again first, and stores it in validation_rows.md (a
minute or two).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pimsim.commands.validation import markdown
from pimsim.validation.table import validate

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, ROWS = DOCS / "validation.md", DOCS / "validation_rows.md"

MODELS = {
    "gpt2_decode": "GPT-2",
    "gpt2_medium_decode": "medium",
    "gpt2_large_decode": "large",
    "gpt2_xl_decode": "XL",
    "gpt3_small_decode": "GPT-3 small",
    "gpt3_medium_decode": "medium",
    "gpt3_large_decode": "large",
    "gpt3_xl_decode": "XL",
}
FAMILIES = {
    "pim_gpt": "PIM-GPT: published figures of eight models",
    "edge_moe": "Edge-MoE: schedule, time, energy, ablation, errors of numbers",
    "aim_gddr6": "GDDR6-AiM: cases of aim_simulator",
    "dram": "memories: commands of Ramulator 2.1, closed forms of timing values",
    "energy": "DRAM energy: DRAMPower and DRAMsim3",
    "attention": "attention: counts and growth laws",
}
STATUSES = ("exact", "within", "explained", "open", "failed")

_LINE = re.compile(r"^\| `(.+?)` \| (.*?) \| (.*?) \| (.*?) \| (\w+)(?: .*?)? \| (.*) \|$", re.MULTILINE)


class Line(NamedTuple):
    """A row of the table of all rows."""

    name: str
    published: str
    simulated: str
    deviation: str
    status: str
    source: str

    @property
    def marked(self) -> str:
        """The simulated figure, with a star where it differs for a reason."""
        return self.simulated + (" *" if self.status == "explained" else "")


def lines(page: str) -> list[Line]:
    """The rows of validation_rows.md."""
    return [Line(*found.groups()) for found in _LINE.finditer(page)]


def family_table(rows: Iterable[Line]) -> Iterator[str]:
    """How many rows of each kind have which status."""
    yield f"| rows | {' | '.join(STATUSES)} |"
    yield "| --- |" + " ---: |" * len(STATUSES)
    known = list(rows)
    for machine, what in FAMILIES.items():
        found = [row.status for row in known if row.name.startswith(f"{machine}/")]
        cells = (str(found.count(status) or "") for status in STATUSES)
        yield f"| `{machine}`: {what} | {' | '.join(cells)} |"
    cells = (str([row.status for row in known].count(status) or "") for status in STATUSES)
    yield f"| all {len(known)} | {' | '.join(cells)} |"


def model_table(rows: Iterable[Line]) -> Iterator[str]:
    """Figures of PIM-GPT by model."""
    found: dict[str, dict[str, Line]] = {}
    for row in rows:
        machine, model, figure = row.name.split("/")
        if machine == "pim_gpt":
            found.setdefault(figure, {})[model] = row
    yield f"| figure | published | {' | '.join(MODELS.values())} |"
    yield "| --- | --- |" + " --- |" * len(MODELS)
    for figure, by_model in found.items():
        if len(by_model) == len(MODELS):
            cells = (by_model[model].marked for model in MODELS)
            yield f"| `{figure}` | {by_model['gpt2_decode'].published} | {' | '.join(cells)} |"
    yield from ("", "| figure | published | simulated |", "| --- | --- | --- |")
    for by_model in found.values():
        if len(by_model) < len(MODELS):
            yield from (f"| `{row.name}` | {row.published} | {row.marked} |" for row in by_model.values())


def plain_table(rows: Iterable[Line], *machines: str) -> Iterator[str]:
    """Published and simulated figures of machines."""
    yield from ("| figure | published | simulated |", "| --- | --- | --- |")
    for row in rows:
        machine, _, name = row.name.partition("/")
        if machine in machines:
            yield f"| `{name if len(machines) == 1 else row.name}` | {row.published} | {row.marked} |"


def tables(rows: list[Line]) -> dict[str, str]:
    """Marker in validation.md -> what stands there."""
    return {
        "families": "\n".join(family_table(rows)),
        "pim_gpt": "\n".join(model_table(rows)),
        "edge_moe": "\n".join(plain_table(rows, "edge_moe")),
        "cases": "\n".join(plain_table(rows, "aim_gddr6")),
    }


def between(page: str, marker: str, text: str) -> str:
    """The page with other text between the markers of a name."""
    begin, end = f"<!-- {marker}: begin -->\n", f"<!-- {marker}: end -->"
    before, found, rest = page.partition(begin)
    assert found, begin
    return f"{before}{begin}{text}{end}{rest.partition(end)[2]}"


def written(page: str, rows: list[Line]) -> str:
    """validation.md with its tables."""
    for marker, text in tables(rows).items():
        page = between(page, marker, f"{text}\n")
    return page


def main() -> None:
    """See the module."""
    if "--measure" in sys.argv[1:]:
        ROWS.write_text(between(ROWS.read_text(encoding="utf-8"), "rows", markdown(validate())), encoding="utf-8")
    found = lines(ROWS.read_text(encoding="utf-8"))
    if "--write" in sys.argv[1:]:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
    else:
        sys.stdout.write("\n\n".join(tables(found).values()) + "\n")


if __name__ == "__main__":
    main()
