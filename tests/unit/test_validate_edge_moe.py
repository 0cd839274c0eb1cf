"""Rows of `pimsim validate` about Edge-MoE."""

from __future__ import annotations

import itertools

import pytest

from pimsim.errors import UnknownName
from pimsim.validation.edge_moe import names, runs
from pimsim.validation.table import figure_names, load_published, validate


def test_every_published_figure_has_a_row_and_every_row_a_figure() -> None:
    assert {name.split("/")[2] for name in names()} == set(load_published("edge_moe").figures)
    assert set(names()) <= set(figure_names())
    assert len(set(figure_names())) == len(figure_names())


def test_counts_are_exact_and_cycles_within_one_percent() -> None:
    rows = {row.name.split("/")[2]: row for row in validate(["edge_moe/attention_reordered"])}
    assert {name: row.status for name, row in rows.items()} == {
        "steps_129": "exact", "iterations_query_key": "exact", "iterations_weighted_values": "exact",
        "iterations_statistics": "exact", "steps_128": "exact", "token_loads_128": "exact",
        "cycles_query_key": "within", "cycles_weighted_values": "within",
    }  # fmt: skip
    assert (rows["steps_128"].simulated, rows["token_loads_128"].simulated) == (4099, 4227)


@pytest.mark.parametrize("figure", ["cycles_layernorm", "cycles_patch_embedding"])
def test_units_are_within_one_percent_of_the_schedule_report(figure: str) -> None:
    (row,) = validate([figure])
    assert row.status == "within"


def test_published_time_and_energy_lie_above_both_assumptions() -> None:
    rows = {row.name.split("/")[2]: row for row in validate(["milliseconds", "m3vit_cityscapes/joules"])}
    assert rows["milliseconds"].simulated < rows["milliseconds_serial"].simulated < 34.64
    assert rows["milliseconds_serial"].status == rows["joules_serial"].status == "within"
    assert rows["joules"].simulated == pytest.approx(14.54e-3 * rows["milliseconds"].simulated, rel=1e-3)


def test_the_ablation_falls_step_by_step_and_every_deviation_is_explained() -> None:
    rows = validate(["ablation", "saving"])
    steps = [row for row in rows if "ablation" in row.name]
    assert [float(row.published) for row in steps] == [650.3, 433.4, 353.4, 212.9, 104.3, 34.6]
    times = [row.simulated for row in steps]
    assert times == sorted(times, reverse=True)
    savings = [row.simulated for row in rows if "saving" in row.name]
    assert savings == pytest.approx([before - after for before, after in itertools.pairwise(times)])
    for row in rows:
        assert row.status in {"within", "explained"}
        assert row.note or row.status == "within"


def test_only_what_is_asked_for_is_run() -> None:
    assert runs(["edge_moe/m3vit_cityscapes/saving_reordering"]) == ["image", "ablation_4_unified_linear"]


def test_a_wrong_name_gets_a_hint() -> None:
    with pytest.raises(UnknownName, match=r"^figure must be one of .*, edge_moe, .*not 'edge_mo_'"):
        validate(["edge_mo_"])
