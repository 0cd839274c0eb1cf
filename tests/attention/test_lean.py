"""Lean decode on PIM channels: the busiest channel has ceil(tiles / workers) tiles, whatever the heads and the context."""

from __future__ import annotations

import os
import runpy
from collections import Counter
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pimsim.bounds.lean import makespan, tile_commands, tiles_of_channels
from pimsim.run import simulate

ROOT = Path(__file__).resolve().parents[2]
BANKS = LANES = 16
NO_REFRESH = "arch.dram.refresh.policy=none"
FAST = "arch.asic.clock_mhz=100000"


def run(
    keys: int, heads: int, shares: int, channels: int, block: int, d: int, *more: str
) -> tuple[int, list[Counter[str]]]:
    """(cycles, commands of each channel) of one token, checked on numbers unless the ASIC is as fast as if it were not there."""
    options = ["algorithm=lean", f"keys={keys}", f"heads={heads}", f"d_head={d}", f"shares={shares}",
               f"parameters.workers={shares}", f"parameters.block={block}"]  # fmt: skip
    trace: list[Any] = []
    overrides = [*(f"workload.{option}" for option in options), f"arch.dram.channels={channels}", NO_REFRESH, *more]
    result = simulate(
        "pim_gpt", "attention_decode", overrides=overrides, trace=trace, check_tokens=int(FAST not in more)
    )
    assert FAST in more or (result.functional or {})["passed"], result.functional
    assert result.counts is not None
    assert result.counts["equal"]
    commands: list[Counter[str]] = [Counter() for _ in range(channels)]
    for _, channel, name, *_ in trace:
        commands[channel][name] += 1
    return int(result.time.cycles), commands


def dealt(keys: int, heads: int, shares: int, channels: int, block: int) -> list[list[int]]:
    """Keys of every tile of each channel: whole tiles of all heads one after the other, cut by hand."""
    tiles = [min(block, keys - first) for _ in range(heads) for first in range(0, keys, block)]
    found: list[list[int]] = [[] for _ in range(channels)]
    most = ceil(len(tiles) / shares)
    large = len(tiles) - shares * (most - 1)
    for number in range(shares):
        size = most if number < large else most - 1
        found[number % channels] += tiles[:size]
        tiles = tiles[size:]
    assert not tiles
    return found


@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    heads=st.integers(1, 5), keys=st.integers(1, 150), channels=st.integers(1, 6), times=st.integers(1, 3),
    block=st.sampled_from((16, 32, 48)), d=st.sampled_from((16, 40)),
)  # fmt: skip
def test_channels_do_their_tiles_and_nothing_else(
    heads: int, keys: int, channels: int, times: int, block: int, d: int
) -> None:
    shares = channels * times
    cycles, commands = run(keys, heads, shares, channels, block, d)
    expected = [Counter[str]() for _ in range(channels)]
    for channel, tiles in enumerate(dealt(keys, heads, shares, channels, block)):
        for length in tiles:
            expected[channel] += Counter(tile_commands(length, d, BANKS, LANES))
    assert [each["MAC_AB"] for each in commands] == [each["MAC_AB"] for each in expected]
    assert [each["RD_MAC"] for each in commands] == [each["RD_MAC"] for each in expected]
    tiles = heads * ceil(keys / block)
    counted = [len(each) for each in dealt(keys, heads, shares, channels, block)]
    assert counted == tiles_of_channels(tiles, shares, channels)
    if times == 1:
        assert max(counted) == makespan(tiles, shares, channels) == ceil(tiles / channels)
    assert cycles >= max(sum(each.values()) for each in expected)  # a command takes a slot of its channel


def test_a_worker_takes_the_same_time_for_every_further_tile() -> None:
    """The busiest channel's tiles, one after the other, and what comes before the first and after the last."""
    times = {tiles: run(256 * tiles, 1, 1, 1, 256, 64, FAST)[0] for tiles in (1, 2, 3, 7, 12)}
    step = times[2] - times[1]
    assert times == {tiles: times[1] + (tiles - 1) * step for tiles in times}
    slots = sum(tile_commands(256, 64, BANKS, LANES).values())
    assert slots == 168
    assert slots < step < 1.3 * slots  # and rows that open, and waits for the weights


@pytest.mark.parametrize(("heads", "tiles", "workers"), [(3, 8, 8), (5, 6, 4), (8, 3, 8), (1, 24, 8), (2, 9, 3)])
def test_the_makespan_is_that_of_the_busiest_worker_and_the_merges(heads: int, tiles: int, workers: int) -> None:
    """Beside a worker by itself that has as many tiles of one head: only starts of segments and merges come on top."""
    alone, _ = run(256 * ceil(heads * tiles / workers), 1, 1, 1, 256, 64, FAST)
    together, commands = run(256 * tiles, heads, workers, workers, 256, 64, FAST)
    assert max(each["MAC_AB"] for each in commands) == 128 * ceil(heads * tiles / workers)
    merge = (
        700  # ticks: a state of 66 elements to the banks and back, and its row opened twice, and the chain of merges
    )
    segments = 3  # at most, of a worker
    assert 0.9 * alone <= together <= alone + segments * merge


def test_equal_shares_beat_whole_heads_and_a_fixed_split() -> None:
    shares = {"lean": 4, "per head": 6, "fixed split": 12}
    found = {name: run(64, 6, number, 4, 16, 16)[0] for name, number in shares.items()}
    assert found["lean"] < min(found["per head"], found["fixed split"])
    assert [makespan(24, number, 4) for number in shares.values()] == [6, 8, 6]


@pytest.mark.skipif("PIMSIM_LARGE" not in os.environ, reason="takes minutes; PIMSIM_LARGE=1 runs it")
def test_the_table_of_the_documentation_is_what_runs() -> None:
    page = (ROOT / "docs" / "attention.md").read_text()
    for row in runpy.run_path(str(ROOT / "scripts" / "lean_makespan.py"))["rows"]([8_192, 32_768, 131_072]):
        assert row in page


def test_the_tiles_of_the_table_are_those_of_the_formula() -> None:
    page = (ROOT / "docs" / "attention.md").read_text().splitlines()
    for keys in (8_192, 32_768, 131_072):
        row = next(line for line in page if line.startswith(f"| {keys:,} | "))
        found = [int(cell.split(" tiles")[0].replace(",", "")) for cell in row.split(" | ")[1:4]]
        assert found == [makespan(12 * keys // 256, shares, 8) for shares in (8, 12, 24)]
