"""Runs that rows share, and what becomes of a figure that is not met."""

from __future__ import annotations

import itertools

import pytest

from pimsim.config import load_arch, load_workload
from pimsim.run import simulate
from pimsim.validation import pim_gpt
from pimsim.validation import table as module
from pimsim.validation.pim_gpt import Case, measure, runs
from pimsim.validation.table import Figure, validate

SHORT = ("workload.generate_tokens=2", "workload.model.layers=1")


def test_models_of_one_shape_and_machines_that_differ_in_energy_share_a_run() -> None:
    found = runs([f"pim_gpt/{model}/energy_v2_over_v1" for model in ("gpt2_decode", "gpt3_small_decode")])
    assert [run.cases for run in found] == [
        tuple(Case(model, v) for model, v in itertools.product(("gpt2_decode", "gpt3_small_decode"), ("", "v1")))
    ]


def test_other_clocks_and_other_models_do_not() -> None:
    found = runs([f"pim_gpt/{model}/slowdown_asic_100mhz" for model in ("gpt2_decode", "gpt2_medium_decode")])
    assert [run.cases[0] for run in found] == [
        Case(model, v) for model, v in itertools.product(("gpt2_decode", "gpt2_medium_decode"), ("", "100mhz"))
    ]


def test_models_that_share_a_run_give_the_same_result_on_their_own() -> None:
    """Without embeddings the length of the table of positions enters nothing, nor does the name of a model."""
    one, other = (simulate("pim_gpt", model, overrides=SHORT) for model in ("gpt2_decode", "gpt3_small_decode"))
    assert (one.time, one.energy, one.dram, one.ops) == (other.time, other.energy, other.dram, other.ops)


def test_figures_of_a_shared_run_are_those_of_runs_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(name: str) -> object:
        return load_workload(name, [("generate_tokens", "2"), ("model.layers", "1")])

    monkeypatch.setattr(pim_gpt, "load_workload", short)
    monkeypatch.setattr(pim_gpt, "BOUND_CONTEXT", 2)
    (found,) = measure(runs(["pim_gpt/gpt2_decode/energy_v2_over_v1"]))
    for variant, arch in (("", "pim_gpt"), ("v1", "pim_gpt_v1")):
        own = simulate(arch, "gpt2_decode", overrides=SHORT, baselines=("t4", "xeon_6154"))
        figures = found[Case("gpt2_decode", variant)]
        assert (figures["seconds"], figures["joules"]) == (own.time.seconds, own.energy.joules)
        assert figures["energy_t4"] == own.baselines["t4"].energy_ratio
        assert figures["speedup_xeon_6154"] == own.baselines["xeon_6154"].speedup
    assert load_arch("pim_gpt").value.energy != load_arch("pim_gpt_v1").value.energy


def test_what_is_measured_once_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = runs(["pim_gpt/gpt2_decode/row_hit_rate"])
    monkeypatch.setitem(pim_gpt._KNOWN, needed[0].key, {"": {"row_hit_rate": 0.5}, "v1": {}})
    assert list(measure(needed)) == [{Case("gpt2_decode", ""): {"row_hit_rate": 0.5}}]


def test_a_required_figure_that_is_not_met_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module._FOUND, "energy/ddr4_device/read_pj", lambda: 349.0)
    (row,) = validate(["read_pj"])
    assert (row.status, row.published, row.simulated) == ("failed", "348", 349.0)
    assert row.deviation == pytest.approx(1 / 348)


@pytest.mark.parametrize(
    ("value", "status"),
    [(10.0, "exact"), (10.0 * (1 + 1e-15), "exact"), (10.4, "within"), (9.4, "explained"), (11, "explained")],
)
def test_the_status_of_a_figure(value: float, status: str) -> None:
    figure = Figure(low=10, high=10, within=0.05, source="paper: x")
    assert module._status(module._deviation(value, figure), figure, "time_x", {"time": "why"}) == status


def test_a_figure_without_a_note_is_open() -> None:
    figure = Figure(low=-4, high=-2, source="paper: x")
    assert [module._status(module._deviation(value, figure), figure, "a", {}) for value in (-3, -1, -5)] == [
        "within", "open", "open",
    ]  # fmt: skip
