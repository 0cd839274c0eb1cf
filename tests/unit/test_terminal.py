"""The table of a run, its numbers and its figures."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import builders
import pytest

from pimsim.report import plots, si
from pimsim.report.terminal import render

SHIPPED_UNKNOWN = {"interface_pj_per_bit": None, "asic_idle_power_mw": None}


def test_the_headline_says_how_fast_and_how_much() -> None:
    lines = render(builders.result(), 100).splitlines()
    assert lines[0] == "gpt2_small on test_machine  (fast engine)"
    assert lines[1].split("  ")[1:] == ["latency", " 8.000 us", " 8,000 cycles at 1.00 GHz"]
    assert "4.00 us" in lines[2]
    assert "250,000 tokens/s; 1 prompt, 2 generated" in lines[2]
    assert "J/token" in lines[3]


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_it_fits(width: int) -> None:
    text = render(builders.result(baselines=["t4", "xeon_6154"]), width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= 70
    assert "\x1b" not in text
    assert "\n\n\n" not in text


def test_every_section_is_there() -> None:
    figures = builders.result(baselines=["t4"])
    text = render(figures, 100)
    for word in (*figures.ops, *figures.energy.by_component, *figures.dram.commands, "Interface", "Row hits", "t4"):
        assert word in text
    assert "98.4 % of column accesses; 2 refreshes" in text
    assert "188x less traffic" in text
    assert "model: roofline+overhead, eager" in next(line for line in text.splitlines() if line.startswith("t4"))
    assert "2,929 DRAM commands in 500 ms, 5,858 commands/s" in text


def test_channels_that_are_alike_share_a_row() -> None:
    text = render(builders.result(), 100)
    assert "2 x channel.mac" in text
    assert "channel1" not in text
    assert "nRCD 50.0 %, wait softmax 21.8 %, refresh 11.4 %" in text


def test_further_stalls_are_summed() -> None:
    totals = builders.busy_totals()
    totals.unit_stalls["asic"] = Counter({"a": 4000, "b": 2000, "c": 800, "d": 400, "e": 400})
    assert "a 50.0 %, b 25.0 %, c 10.0 %, other 10.0 %" in render(builders.result(totals=totals), 100)


def test_what_has_no_coefficient_is_said_three_times() -> None:
    text = render(builders.result(arch=builders.arch(energy=SHIPPED_UNKNOWN)), 100)
    assert "on average + uncosted" in text
    assert text.count("uncosted") == 3
    assert "interface: energy.interface_pj_per_bit is not given" in text
    assert "uncosted" not in render(builders.result(), 100).lower()


def test_many_ops_are_summed() -> None:
    ticks = Counter({f"op{number:02}": 200 for number in range(40)})
    lines = render(builders.result(totals=builders.totals(ticks=8000, op_ticks=ticks)), 80).splitlines()
    assert any(line.startswith("23 more") for line in lines)
    assert len(lines) <= 70


def test_the_functional_check_is_shown() -> None:
    check = {
        "passed": True,
        "format": "bfloat16",
        "max_abs_error": 0.01,
        "max_rel_error": 0.012,
        "tolerance": 0.27,
        "compared": 144,
        "failure": "h0.qkv must be",
    }
    assert "Numbers    pass: 144 results in bfloat16" in render(builders.result(functional=check), 100)
    assert "Numbers    FAIL" in render(builders.result(functional=check | {"passed": False}), 100)


def test_an_empty_run_renders() -> None:
    text = render(builders.result(totals=builders.totals(ticks=0)), 100)
    assert "nan" not in text
    assert "inf" not in text.replace("interface", "")


def test_colour_only_if_asked_for() -> None:
    assert "\x1b[" in render(builders.result(), 100, color=True)
    assert "\x1b[" not in render(builders.result(), 100)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (75.34e-6, "s", "75.3 us"),
        (999.9e-6, "s", "1.00 ms"),
        (1.0, "J", "1.00 J"),
        (1e-3, "s", "1.00 ms"),
        (1e3, "B", "1.00 kB"),
        (256e9, "B", "256 GB"),
        (-2.5e-3, "J", "-2.50 mJ"),
        (3e20, "J", "300,000 PJ"),
        (float("inf"), "s", "-"),
        (None, "s", "-"),
        (0.0, "s", "0 s"),
    ],
)
def test_si(value: float | None, unit: str, text: str) -> None:
    assert si.si(value, unit) == text


@pytest.mark.parametrize("plot", [plots.plot_breakdown, plots.plot_energy])
def test_figures_hold_every_large_bar(plot: object) -> None:
    figures = builders.result(arch=builders.arch(energy=SHIPPED_UNKNOWN))
    drawn = plot(figures)  # type: ignore[operator]
    drawn.canvas.draw()
    left, right = drawn.axes
    labels = {label.get_text() for axes in (left, right) for label in axes.get_yticklabels()}
    assert {"background", "qkv projection"} <= labels
    assert "without interface, asic idle" in (left.get_title(loc="left") + right.get_title(loc="left")).replace(
        "_", " "
    )


def test_heavy_libraries_are_loaded_only_when_needed() -> None:
    code = (
        "import sys, pimsim.result, pimsim.report.plots, pimsim.report.si; "
        "print([name for name in ('matplotlib', 'pandas', 'rich') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
