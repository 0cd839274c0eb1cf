"""Every distance of every shipped standard is stated a second time, and one clock more or less is noticed."""

from __future__ import annotations

import importlib.util
import random
import re
from pathlib import Path
from types import ModuleType

import pytest

from pimsim import catalog
from pimsim.config import load_dram

ROOT = Path(__file__).resolve().parents[2]
STANDARDS = catalog.names("dram")
SAMPLE = 6


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutate_rules", ROOT / "scripts" / "mutate_rules.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("standard", STANDARDS)
def test_distances_are_those_of_the_source(script: ModuleType, standard: str) -> None:
    assert script.own_table(load_dram(standard).value.resolve()) == script.expected_table(standard)


@pytest.mark.parametrize("standard", STANDARDS)
def test_one_clock_in_a_rule_is_noticed(script: ModuleType, standard: str) -> None:
    """A sample; `scripts/mutate_rules.py` tries every rule."""
    config = load_dram(standard).value
    sample = random.Random(standard).sample(range(len(config.rules)), SAMPLE)
    tried = list(script.mutants(config, sample))
    assert len(tried) > SAMPLE
    assert all(script.own_table(mutant.spec) != script.expected_table(standard) for mutant in tried)


@pytest.mark.parametrize("standard", ["ddr4_3200aa", "gddr6_14000", "hbm2_2000"])
def test_one_clock_before_a_read_is_noticed_by_recorded_traces(script: ModuleType, standard: str) -> None:
    config = load_dram(standard).value
    assert not script.noticed_by_traces(standard, config.resolve())
    row = next(
        n for n, rule in enumerate(config.rules) if (rule.level, rule.prev) == ("bank", ["ACT"]) and "RD" in rule.next
    )
    tried = list(script.mutants(config, [row]))
    assert [mutant.clocks for mutant in tried] == [1, -1]
    assert all(script.noticed_by_traces(standard, mutant.spec) for mutant in tried)


def test_one_clock_before_a_mac_is_noticed_by_the_cases_of_aim_simulator(script: ModuleType) -> None:
    config = load_dram("aim_gddr6").value
    assert not script.noticed_by_traces("aim_gddr6", config.resolve())
    row = next(n for n, rule in enumerate(config.rules) if (rule.next, rule.min) == (["MAC16"], "nRCDRDMAC"))
    assert all(script.noticed_by_traces("aim_gddr6", mutant.spec) for mutant in script.mutants(config, [row]))


def test_the_page_has_the_score_of_every_standard(script: ModuleType) -> None:
    page = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
    written = page.partition(script.BEGIN)[2].partition(script.END)[0]
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \| (\d+) \|", written, flags=re.MULTILINE)
    rules = {name: int(count) for name, count, _, _ in rows}
    assert rules == {name: len(load_dram(name).value.rules) for name in STANDARDS}, (
        "run scripts/mutate_rules.py --write"
    )
    assert [tried for _, _, tried, _ in rows] == [noticed for _, _, _, noticed in rows]
    assert f"All {sum(int(tried) for _, _, tried, _ in rows):,} mutants are noticed." in page
