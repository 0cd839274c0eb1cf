"""The tables of docs/vision.md are what is counted, planned and simulated."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pimsim.config import load_workload
from pimsim.run import simulate

PAGE = (Path(__file__).parents[2] / "docs" / "vision.md").read_text(encoding="utf-8")
SRAM = 320 * 1024


def section(title: str) -> dict[str, list[str]]:
    """Network -> cells of its row in the table below a headline."""
    text = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (found,) = [part for part in text if part.startswith(title)]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in found.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in rows[1:]}


def workload(title: str) -> str:
    family, size = title.split(" ", maxsplit=1)[0].rsplit("-", 1)
    return f"{family.lower()}_{size.lower()}"


def test_sizes() -> None:
    rows = section("Sizes")
    assert len(rows) == 10
    for title, (macs, _, parameters, _, folded) in rows.items():
        work = load_workload(workload(title)).value
        method, case = work.method(), work.case()
        counted = (method.counts(case).macs, method.published_parameters(case), method.parameters(case))
        assert (macs, parameters, folded) == tuple(f"{each / 1e6:.2f}" for each in counted), title


@pytest.mark.parametrize("title", section("On a microcontroller"))
def test_plans(title: str) -> None:
    patchwise, whole, verdict = section("On a microcontroller")[title]
    name = workload(title.split(" ", maxsplit=1)[0].rstrip(","))
    plans = [load_workload(name, (("patchwise", value),)).value.plan() for value in ("true", "false")]
    assert patchwise == f"{plans[0].peak:,} (arena {plans[0].arena:,})"
    assert whole == f"{plans[1].peak:,}"
    words = {(True, True): "fits both ways", (True, False): "fits patch by patch", (False, False): "refused"}
    assert verdict == words[plans[0].arena <= SRAM, plans[1].arena <= SRAM]


def test_times_of_the_smallest_network() -> None:
    whole, stem, busy, *_ = section("On machines")["EfficientViT-M0"]
    result = simulate("edge_moe_zcu102", "efficientvit_m0")
    assert result.counts is not None
    assert whole == f"{result.time.seconds * 1e3:.2f} ms, {result.energy.joules * 1e3:,.0f} mJ"
    assert stem == f"{result.layers[0].seconds * 1e3:.2f} ms"
    assert busy == f"{100 * result.counts['macs'] / 32 / result.time.cycles:.1f} %"
