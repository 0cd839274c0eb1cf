#!/usr/bin/env python
"""Tables of docs/numerics.md: errors of the ASIC's functions against float64.

Without arguments, prints them; with ``--write``, puts them into the page between its markers.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pimsim.arch.system import AsicFunctions
from pimsim.functional.functions import ERROR_CASES, PARAMETER_VALUES, errors, measure

PAGE = Path(__file__).resolve().parent.parent / "docs" / "numerics.md"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"

SHIPPED = AsicFunctions(exp_taylor_terms=6, reciprocal_newton_steps=3, rsqrt_newton_steps=1)
CONVERGED = AsicFunctions(exp_taylor_terms=8, reciprocal_newton_steps=4, rsqrt_newton_steps=4)


def tables() -> str:
    """All tables as Markdown: inputs, errors in float32 by parameter, relative errors by format."""
    lines = ["| function | inputs |", "| --- | --- |"]
    lines += [f"| `{name}` | {case.domain.replace('|', chr(92) + '|')} |" for name, case in ERROR_CASES.items()]
    for parameter, values in PARAMETER_VALUES.items():
        shipped = getattr(SHIPPED, parameter)
        heads = [f"**{value}**" if value == shipped else str(value) for value in values]
        lines += ["", f"| `{parameter}` | error | {' | '.join(heads)} |", "| --- | --- |" + " --- |" * len(heads)]
        for name, case in ERROR_CASES.items():
            if case.parameter == parameter:
                rows = errors(name, SHIPPED)
                lines.append(f"| `{name}` | absolute | {' | '.join(f'{row.max_abs:.1e}' for row in rows)} |")
                lines.append(f"| | relative | {' | '.join(f'{row.max_rel:.1e}' for row in rows)} |")
    formats = ("float32", "float16", "bfloat16")
    heads = [f"{name}, {label}" for name in formats for label in ("6/3/1", "8/4/4")]
    lines += ["", f"| relative error | {' | '.join(heads)} |", "| --- |" + " --- |" * len(heads)]
    for name in ERROR_CASES:
        found = [measure(name, functions, spec)[1] for spec in formats for functions in (SHIPPED, CONVERGED)]
        lines.append(f"| `{name}` | {' | '.join(f'{value:.1e}' for value in found)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables or write them into the page."""
    if "--write" not in sys.argv[1:]:
        sys.stdout.write(tables() + "\n")
        return
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
