"""The HTML report in a real browser: no error on the console, plots there, tables sort and filter, names escaped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cli_tools import RUN, TINY
from cli_tools import pimsim as run_cli

import pimsim
from pimsim.report.html import RunPage, SweepPage, render_html

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


@pytest.mark.filterwarnings("default")
def test_chromium_shows_it(page):
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
    try:
        browser.get(page.as_uri())
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
        browser.find_elements("css selector", ".filter")[-1].send_keys("0.125")
        assert first_column(table) == ["8"]
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    finally:
        browser.quit()


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
    for drawn in (result.plot_timeline(), roofline):
        drawn.savefig("/dev/null", format="png")


def test_a_wrong_keyword_is_an_input_error():
    with pytest.raises(pimsim.PimsimError, match="chanels"):
        pimsim.simulate("pim_gpt", "gpt2_decode", arch__dram__chanels=4)
