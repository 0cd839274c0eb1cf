"""``pimsim run`` on a microcontroller: a plan of buffers, accepted or refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from cli_tools import pimsim

from pimsim.errors import MappingError
from pimsim.run import simulate

RUN = ("run", "--arch", "mcu_stm32f746", "--workload", "mcuformer_vit")
PLAIN = ("--set", "workload.overwrite=false", "--set", "workload.rowwise=false")


def test_the_plan_fits_and_is_written(tmp_path: Path) -> None:
    answer = pimsim(*RUN, "--format", "json", "--out", str(tmp_path / "out"))
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert json.loads((tmp_path / "out" / "plan.json").read_text()) == found
    # 197 tokens of 192 bytes twice, queries, keys and values of one head of 64, and for a linear layer one token and two
    # times the inner width of its factors
    peak = 2 * 197 * 192 + 3 * 197 * 64 + 192 + 2 * 96
    assert (found["sram_bytes"], found["peak_bytes"]) == (320 * 1024, peak)
    assert peak <= found["arena_bytes"] <= found["sram_bytes"]
    assert found["live_bytes"][found["steps"].index(found["peak_step"])] == peak
    for step in range(len(found["steps"])):  # no two buffers that are live lie over each other
        here = sorted((b["offset"], b["size"]) for b in found["buffers"].values() if b["first"] <= step <= b["last"])
        assert sum(size for _, size in here) == found["live_bytes"][step]
        assert all(a + size <= b for (a, size), (b, _) in itertools.pairwise(here))


def test_the_table_says_what_is_needed() -> None:
    answer = pimsim(*RUN)
    assert answer.exit_code == 0
    assert answer.stdout.startswith("mcuformer_vit on mcu_stm32f746  (buffers of one inference; nothing is timed)\n")
    assert "  peak      113,856 bytes   live in 'block 0 head 0 qkv'\n" in answer.stdout


def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    answer = pimsim(
        *RUN, *PLAIN, "--set", "workload.vit.width=216", "--set", "workload.vit.heads=4", "--out", str(tmp_path / "o")
    )
    assert answer.exit_code == 2
    assert answer.stderr.startswith("error: activations must fit into 327680 bytes of mcu_stm32f746, not ")
    assert not (tmp_path / "o").exists()
    smaller = pimsim(*RUN, "--set", "arch.sram_bytes=113855")
    assert (smaller.exit_code, pimsim(*RUN, "--set", "arch.sram_bytes=113856").exit_code) == (2, 0)


@pytest.mark.parametrize("option", [("--strict",), ("--check",), ("--trace", "x.csv"), ("--baseline", "t4")])
def test_options_of_timed_runs_are_refused(option: tuple[str, ...]) -> None:
    answer = pimsim(*RUN, *option)
    assert answer.exit_code == 2
    assert answer.stderr.startswith(
        f"error: {option[0]} must be left out: of mcuformer_vit on mcu_stm32f746 buffers are"
    )


def test_other_pairs_are_refused() -> None:
    decoder = pimsim("run", "--arch", "mcu_stm32f746", "--workload", "gpt2_decode")
    assert decoder.exit_code == 2
    assert "must be of kind classifier or vit, not decoder as gpt2_decode is" in decoder.stderr
    with pytest.raises(MappingError, match=r"^mcuformer_vit on mcu_stm32f746 must be planned, by `pimsim run`"):
        simulate("mcu_stm32f746", "mcuformer_vit")


def test_values_out_of_range_are_named() -> None:
    answer = pimsim(*RUN, "--set", "workload.vit.heads=5")
    assert answer.exit_code == 2
    assert "width must be a multiple of heads, not 192 and 5" in answer.stderr
