"""The HTML report in a real browser: no error on the console, plots there, tables sort and filter, names escaped."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from cli_tools import RUN, TINY
from cli_tools import pimsim as run_cli

import pimsim
from pimsim.report.html import RunPage, SweepPage, render_html
from pimsim.report.sweep_html import Table, front, mean_range

EVIL = "<script>document.title='pwned'</script>\"'&"


@pytest.fixture(scope="module")
def result() -> dict[str, object]:
    done = run_cli(*RUN, *TINY, "--format", "json", "--quiet")
    assert done.exit_code == 0
    loaded: dict[str, object] = json.loads(done.stdout)
    return loaded


@pytest.fixture(scope="module")
def page(result, tmp_path_factory) -> Path:
    sweep = SweepPage(
        EVIL, ["point", EVIL, "seconds", "joules"], [[n, 8 - n, 0.1 * n, 1.0 / n] for n in range(1, 9)], [EVIL]
    )
    path = tmp_path_factory.mktemp("html") / "page.html"
    path.write_text(render_html([RunPage(EVIL, result, {EVIL: EVIL}), RunPage("two", result)], [sweep]), "utf-8")
    return path


def test_nothing_is_loaded_from_elsewhere_and_names_are_escaped(page):
    text = page.read_text("utf-8")
    assert EVIL not in text
    assert "http:" not in text
    assert "https:" not in text
    assert text.count("<script>") == 1


@pytest.fixture
def browse() -> Iterator[Callable[..., Any]]:
    """Opens a page in Chromium, light or dark; at the end nothing may have gone wrong on any page."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in ("--headless", "--no-sandbox", "--disable-gpu"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))

    def open_page(page: Path, scheme: str = "light") -> Any:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        browser.get(page.as_uri())
        return browser

    try:
        yield open_page
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    finally:
        browser.quit()


@pytest.mark.filterwarnings("default")
def test_chromium_shows_it(page, browse):
    browser = browse(page)
    assert "pwned" not in browser.title.replace(EVIL, "")
    bars = browser.find_elements("css selector", ".bar i")
    assert len(bars) > 20
    assert max(bar.size["width"] for bar in bars) > 100
    assert len(browser.find_elements("css selector", "circle.front")) == 8
    assert len(browser.find_elements("css selector", ".roofline circle")) == 2 * 6
    table = browser.find_elements("css selector", "table")[-1]
    assert first_column(table) == [str(n) for n in range(1, 9)]
    table.find_elements("css selector", "th")[1].click()
    assert first_column(table) == [str(n) for n in range(8, 0, -1)]
    box = browser.find_elements("css selector", ".filter")[-1]
    box.send_keys("0.125")
    assert first_column(table) == ["8"]


@pytest.fixture(scope="module")
def sensitivity(tmp_path_factory) -> Path:
    """A page about a sweep of 216 points, made from two lists that the test can work out by itself."""
    path = tmp_path_factory.mktemp("sensitivity") / "page.html"
    axes = ["workload", "arch.dram.channels", "arch.pim.multipliers", "arch.dram.burst_bytes", "arch.asic.clock_mhz"]
    every = list(product(("small", "large"), (4, 8, 16, 32), (8, 16, 32), range(100, 1000, 100)))
    rows = [
        [n, "ok", None, work, channels, m, 2 * m, clock, *figures(work, channels, m, clock), False, 7]
        for n, (work, channels, m, clock) in enumerate(every)
    ]
    columns = ["point", "status", "error", *axes, "latency", "energy", "pareto", "refreshes"]
    goals = [{"name": "latency", "value": "seconds"}, {"name": "energy", "value": "joules", "goal": "minimize"}]
    manifest = {"description": "by hand", "points": 217, "objectives": goals}
    failed = [216, "failed", "CapacityExceeded: no room", "small", 1, 8, 16, 100, None, None, None, None]
    path.write_text(render_html([], [SweepPage("sens", columns, [*rows, failed], axes, manifest)]), "utf-8")
    return path


def figures(work: str, channels: int, multipliers: int, clock: int) -> tuple[float, float]:
    size = 1.0 if work == "small" else 10.0
    return size / channels / multipliers**0.5 + 1e-3 * size / clock, size * (1 + 0.01 * channels)


@pytest.mark.filterwarnings("default")
def test_a_sweep_of_216_points_opens_in_time_and_can_be_asked(sensitivity, browse):
    start = time.perf_counter()
    browser = browse(sensitivity)
    assert browser.execute_script("return document.readyState") == "complete"
    assert browser.execute_script("return document.querySelectorAll('svg').length") == 2 * 4 + 1
    assert time.perf_counter() - start < 3
    captions = [caption.text for caption in browser.find_elements("css selector", "figcaption")]
    assert captions[:4] == [
        "workload",
        "arch.dram.channels",
        "arch.pim.multipliers (with burst_bytes)",
        "arch.asic.clock_mhz",
    ]
    table, box = (
        browser.find_elements("css selector", "table")[-1],
        browser.find_elements("css selector", ".filter")[-1],
    )
    shown = [head.text for head in table.find_elements("css selector", "th") if head.is_displayed()]
    assert "refreshes" not in shown
    assert "error" in shown
    browser.find_element("css selector", ".toggle").click()
    assert table.find_elements("css selector", "th")[-1].is_displayed()
    for words, rows in {
        "channels=8 small": 27,
        "clock_mhz>=800 arch.dram.channels<8": 12,
        "energy<1.05": 27,
        "status=failed": 1,
        "capacity": 1,
        "no such thing": 0,
    }.items():
        box.clear()
        box.send_keys(words)
        assert (
            browser.execute_script("return [...arguments[0].tBodies[0].rows].filter(r => !r.hidden).length", table)
            == rows
        )
        told = browser.find_element("css selector", ".told").text
        assert told == f"{rows} of 217 rows"
    ends = []
    for _ in range(2):  # what has no value stays at the end, up or down
        table.find_elements("css selector", "th")[8].click()
        ends.append(browser.execute_script("return arguments[0].tBodies[0].rows[216].cells[1].textContent", table))
    assert ends == ["failed", "failed"]


@pytest.mark.filterwarnings("default")
def test_light_and_dark_differ_and_text_can_be_read_on_both(sensitivity, browse):
    for scheme in ("light", "dark"):
        browser = browse(sensitivity, scheme)
        look = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        background, text = (brightness(color) for color in browser.execute_script(look))
        assert abs(background - text) > 150
        assert (background > 128) == (scheme == "light")
        label = browser.execute_script("return getComputedStyle(document.querySelector('svg text')).fill")
        assert abs(brightness(label) - background) > 80


def brightness(color: str) -> float:
    return sum(int(part) for part in color[color.index("(") + 1 : -1].split(",")[:3]) / 3


def test_sensitivities_are_those_of_the_formula(sensitivity):
    columns = ["status", "a", "b", "c", "seconds"]
    rows = [["ok", a, b, 2 * b, a * b**2] for a in (1.0, 3.0) for b in (1, 2, 4)]
    table = Table(SweepPage("t", columns, rows, ["a", "b", "c"]))
    assert [(d.path, d.companions) for d in table.dimensions] == [("a", ()), ("b", ("c",))]
    first, second = (table.matched(d, table.goals[0]) for d in table.dimensions)
    assert sorted(map(sorted, (group.items() for group in first))) == [
        [(1.0, float(b * b)), (3.0, 3.0 * b * b)] for b in (1, 2, 4)
    ]
    assert math.isclose(mean_range(first), 3.0)
    assert math.isclose(mean_range(second), 16.0)
    assert "16.0x" in render_html([], [SweepPage("t", columns, rows, ["a", "b", "c"])])


def test_the_front_holds_what_nothing_beats():
    points = [(float(x), float((7 * x) % 11)) for x in range(1, 11)]
    best = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    assert front(points) == best
    large = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)}
    assert front(points, 1, -1) == large


@pytest.mark.filterwarnings("default")
def test_machines_of_different_kinds_are_compared(tmp_path, browse):
    names = []
    for name, arguments in {
        "pim": [*RUN, *TINY, "--baseline", "a100_roofline", "--baseline", "a100"],
        "wide": [*RUN, *TINY, "--set", "arch.dram.channels=16"],
        "fpga": ["run", "--arch", "edge_moe_zcu102", "--workload", "attention_reordered"],
    }.items():
        done = run_cli(*arguments, "--quiet", "--out", str(tmp_path / name))
        assert done.exit_code == 0, done.stderr
        names.append(str(tmp_path / name))
    done = run_cli("report", *names, "--html", str(tmp_path / "page.html"))
    assert done.exit_code == 0, done.stderr
    browser = browse(tmp_path / "page.html")
    text = browser.find_element("css selector", "body").text
    assert "Utilisation and stalls over time" in text
    assert "NVIDIA A100-SXM4-40GB" in text  # a band, from roofline to eager
    assert "data sheet, FP16 (roofline) .. PyTorch FP16, batch 1" in text
    areas = browser.find_elements("css selector", "path.area")
    assert len(areas) > 8
    assert max(area.size["width"] for area in areas) > 200
    done = run_cli("report", *names[:2], "--html", str(tmp_path / "two.html"))
    assert done.exit_code == 0, done.stderr
    differ = browse(tmp_path / "two.html").find_elements("css selector", "table")[1].text.splitlines()
    assert differ == ["setting pim wide", "arch.dram.channels 8 16"]


def first_column(table) -> list[str]:
    rows = table.find_elements("css selector", "tbody tr")
    return [row.find_elements("css selector", "td")[0].text for row in rows if row.is_displayed()]


def test_the_command_writes_a_page(tmp_path):
    assert run_cli(*RUN, *TINY, "--quiet", "--out", str(tmp_path / "one")).exit_code == 0
    done = run_cli("report", str(tmp_path / "one"), "--html", str(tmp_path / "one.html"))
    assert done.exit_code == 0, done.stderr
    text = (tmp_path / "one.html").read_text("utf-8")
    assert "gpt2_decode on pim_gpt" in text
    assert "paper: 8 channels" in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("other.txt", "", "must be a folder that run --out or sweep --out has written; it has no result.json"),
        ("result.json", "{", "must be JSON"),
        ("result.json", "{}", "schema must be pimsim.result/1"),
        ("sweep.json", '{"schema": "pimsim.sweep/1"}', "must hold finished points; results.parquet is not there yet"),
    ],
)
def test_bad_folders(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    done = run_cli("report", str(tmp_path), "--html", str(tmp_path / "out.html"))
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "out.html").exists()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"schema": "pimsim.activity/1", "groups": {"asic": {}}}'])
def test_a_damaged_activity_is_refused(tmp_path, content):
    assert run_cli(*RUN, *TINY, "--quiet", "--out", str(tmp_path / "one")).exit_code == 0
    (tmp_path / "one" / "activity.json").write_text(content, encoding="utf-8")
    done = run_cli("report", str(tmp_path / "one"), "--html", str(tmp_path / "out.html"))
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'one' / 'activity.json'}: ")
    assert not (tmp_path / "out.html").exists()


def test_python_has_overrides_tables_and_figures():
    settings = {"workload.generate_tokens": 1, "workload.model.layers": 1}
    result = pimsim.simulate("pim_gpt", "gpt2_decode", overrides=settings, arch__dram__channels=4)
    assert sum(name.startswith("channel") for name in result.units) == 4
    assert result.to_frame()["seconds"].sum() == pytest.approx(result.time.seconds)
    assert "<script" not in result._repr_html_()
    assert "gpt2_decode on pim_gpt" in result._repr_html_()
    figure = result.plot_timeline()
    for bar in range(5):  # the pieces of a bar are all of the run
        assert sum(container[bar].get_width() for container in figure.axes[0].containers) == pytest.approx(100)
    assert len(result.plot_breakdown().axes) == len(result.plot_energy().axes) == 2
    roofline = result.plot_roofline()
    labels = [text.get_text() for text in roofline.legends[0].get_texts()]
    assert labels[:2] == ["banks, 2.05 TB/s", "data pins, 128 GB/s"]
    assert len(labels) == 2 + len(result.roofline.ops)
    again = pimsim.simulate("pim_gpt", "gpt2_decode", overrides=settings, activity=True)
    over_time = again.plot_timeline()
    assert [axes.get_ylabel() for axes in over_time.axes] == ["8 x channel (%)", "asic (%)"]
    for axes in over_time.axes:
        assert axes.get_ylim() == (0, 100)
        assert len(axes.patches) > 5  # a step for each thing that units did
    for drawn in (result.plot_timeline(), roofline, over_time):
        drawn.savefig("/dev/null", format="png")


def test_a_wrong_keyword_is_an_input_error():
    with pytest.raises(pimsim.PimsimError, match="chanels"):
        pimsim.simulate("pim_gpt", "gpt2_decode", arch__dram__chanels=4)
