"""`--check` passes for right programs, and names the operation that a wrong one computes wrongly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pimsim.cli import app
from pimsim.config import load_arch, load_workload
from pimsim.errors import CapacityExceeded, InputError, WorkloadError
from pimsim.mapper.lower.pim import PimLowering
from pimsim.program.isa import Block, Compute, Step
from pimsim.run import simulate_loaded
from pimsim.runners import RunOptions
from pimsim.runners.pim_check import PimCheck, require_memory
from pimsim.session import Session

FORMATS = ("float32", "float16", "bfloat16")
MODEL = {"layers": 2, "heads": 2, "d_model": 64, "d_ff": 100, "vocabulary": 77, "context": 40}
PER_LAYER = 12
"""Results: two norms, qkv, scores, softmax, values, projection, up, gelu, down, two residuals."""
RUN = ["run", "--arch", "pim_gpt", "--workload", "gpt2_decode", "--quiet"]
RUN += [word for name, value in MODEL.items() for word in ("--set", f"workload.model.{name}={value}")]
RUN += ["--set", "workload.generate_tokens=3"]
SMALL_BUFFER = ("pim.global_buffer_bytes", "128")


def checked(
    *machine: tuple[str, str], number_format: str = "float32", whole: bool = True, passes: int = 3, **model: int
) -> PimCheck:
    arch = load_arch("pim_gpt", [("pim.format", number_format), *machine]).value
    fields = {f"model.{name}": str(value) for name, value in (MODEL | model).items()}
    fields |= {"prompt_tokens": "3", "generate_tokens": "18"}
    fields |= {"lm_head": str(whole).lower(), "embeddings": str(whole).lower()}
    return PimCheck(arch, load_workload("gpt2_decode", list(fields.items())).value, passes)


def with_steps(block: Block, change: Any) -> Block:
    """The block with every step changed; channels keep sharing streams."""
    streams = {id(stream): tuple(change(block, step) for step in stream) for stream in block.channels}
    channels = tuple(streams[id(stream)] for stream in block.channels)
    return Block(block.name, block.ops, channels, tuple(change(block, step) for step in block.asic))


def broken(check: PimCheck, change: Any) -> PimCheck:
    check.passes = [
        [replace(placed, block=with_steps(placed.block, change)) for placed in blocks] for blocks in check.passes
    ]
    return check


@pytest.mark.parametrize("number_format", FORMATS)
@pytest.mark.parametrize("machine", [(), (SMALL_BUFFER,), (("dispatch", "serial"),), (("dram.channels", "3"),)])
def test_a_right_program_passes(number_format: str, machine: tuple[tuple[str, str], ...]) -> None:
    result = checked(*machine, number_format=number_format).run()
    assert result["message"] is None
    assert result["passed"]
    assert result["max_rel_error"] < result["tolerance"]
    assert all(0 <= row["used"] <= 1 for row in result["by_op"].values())
    assert result["compared"] == 3 * (2 * PER_LAYER + 4)


@pytest.mark.parametrize("machine", [(), (("pim.global_buffer_bytes", "64"),), (("dram.channels", "3"),)])
def test_a_right_program_passes_in_int8(machine: tuple[tuple[str, str], ...]) -> None:
    result = checked(*machine, number_format="int8", d_ff=128, passes=4).run()
    assert result["message"] is None
    assert 0.05 < result["by_op"]["qkv_projection"]["used"] <= 1
    assert 0 < result["max_rel_error"] < result["tolerance"]


@pytest.mark.parametrize("number_format", ["fixed16_8", "fixed16_6_wrap", "fixed8_3", "fixed16_7_truncate_saturate"])
@pytest.mark.parametrize("machine", [(), (("pim.global_buffer_bytes", "64"),), (("dram.channels", "3"),)])
def test_a_right_program_passes_in_fixed_point(number_format: str, machine: tuple[tuple[str, str], ...]) -> None:
    result = checked(*machine, number_format=number_format, passes=4).run()
    assert result["message"] is None
    assert 0.05 < result["by_op"]["qkv_projection"]["used"] <= 1
    assert 0.05 < result["by_op"]["attention_scores"]["used"] <= 1
    assert 0 < result["max_rel_error"] < result["tolerance"]


def test_what_overflows_a_fixed_point_format_is_wrong() -> None:
    """Layer norms make values beyond 1, which ``fixed16_1`` cannot hold."""
    assert checked(number_format="fixed16_1").run()["message"].startswith("h0.qkv (qkv_projection) must be")


@pytest.mark.parametrize(
    ("number_format", "accumulator"),
    [("bfloat16", "bfloat16"), ("bfloat16", "float16"), ("float16", "float16"), ("float32", "bfloat16")],
)
@pytest.mark.parametrize("tree", ["true", "false"])
def test_bounds_follow_accumulator_and_adder_tree(number_format: str, accumulator: str, tree: str) -> None:
    machine = ("pim.accumulator", accumulator), ("pim.adder_tree", tree)
    narrow, wide = checked(*machine, number_format=number_format), checked(number_format=number_format)
    found, other = narrow.run(), wide.run()
    assert (found["message"], other["message"]) == (None, None)
    assert found["by_op"]["qkv_projection"]["tolerance"] > other["by_op"]["qkv_projection"]["tolerance"]
    assert not np.array_equal(narrow.session.executor.sram, wide.session.executor.sram)


def test_the_order_of_additions_is_that_of_the_adder_tree() -> None:
    """The same machine with and without a tree rounds differently, and both are right."""
    one, other = (checked(("pim.adder_tree", tree), number_format="bfloat16") for tree in ("true", "false"))
    assert one.run()["passed"], other.run()["passed"]
    assert not np.array_equal(one.session.executor.sram, other.session.executor.sram)


@pytest.mark.parametrize("number_format", [*FORMATS, "int8", "fixed16_8"])
@pytest.mark.parametrize("sram", ["12288", "131072"])
def test_a_llama_passes(number_format: str, sram: str) -> None:
    """With the smaller SRAM, narrow formats hold the logits a piece at a time."""
    arch = load_arch("pim_gpt", [("pim.format", number_format), ("asic.sram_bytes", sram)]).value
    model = {"layers": 2, "d_model": 256, "heads": 4, "kv_heads": 2, "d_ff": 384, "vocabulary": 5000, "context": 64}
    fields = {f"model.{name}": str(value) for name, value in model.items()}
    fields |= {"prompt_tokens": "2", "generate_tokens": "8", "lm_head": "true", "embeddings": "true"}
    result = PimCheck(arch, load_workload("smollm2_135m_decode", list(fields.items())).value, 3).run()
    assert result["message"] is None
    assert all(0 <= row["used"] <= 1 for row in result["by_op"].values())
    assert {"rope", "gate", "rmsnorm", "argmax"} <= set(result["by_op"])


def test_a_wrong_scale_is_caught() -> None:
    check = checked(number_format="int8", d_ff=128)
    executor = check.session.executor
    assert executor.scales is not None
    layout = check.session.mapping.layouts["up"]
    executor.scales[:, 3, layout.row0] *= 1.5
    assert check.run()["message"].startswith("h0.up (ffn_up) must be")


def test_swapped_keys_and_values_are_caught_in_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    key_write = PimLowering.key_write
    monkeypatch.setattr(PimLowering, "key_write", lambda *args: key_write(*args[:-1], args[-1] + 64))
    message = checked(number_format="int8", d_ff=128).run()["message"]
    assert message.startswith("h0.scores (attention_scores) must be")


def test_int8_needs_the_scales_of_the_cache() -> None:
    check = checked(number_format="int8", d_ff=128)
    with pytest.raises(
        WorkloadError, match=r"^arch.pim.format must be a floating-point one where the scales of the KV"
    ):
        Session(check.workload, check.arch, check.weights)


def test_what_lies_behind_a_vector_takes_no_part_in_its_scale() -> None:
    """The last column of 100 elements has 28 more, filled with zeros, in int8 as in the other formats."""
    assert checked(number_format="int8", d_ff=100).run()["message"] is None


@pytest.mark.parametrize("number_format", FORMATS)
def test_a_program_without_embeddings_and_head_passes(number_format: str) -> None:
    result = checked(number_format=number_format, whole=False).run()
    assert result["message"] is None
    assert result["compared"] == 3 * 2 * PER_LAYER


def test_bounds_are_sharp_enough_to_see_half_of_the_precision() -> None:
    """bfloat16 weights under the bounds of float16: the first product is off."""
    check = checked(number_format="float16")
    executor = check.session.executor
    executor.rows[:] = executor.rows.astype("float32").view(np.uint32).__and__(0xFFFF0000).view(np.float32)
    assert check.run()["message"].startswith(("embed ", "h0.qkv "))


def test_a_wrong_layout_is_caught() -> None:
    check = checked(whole=False)
    check.session.executor.rows[:] = np.roll(check.session.executor.rows, 1, axis=1)
    message = check.run()["message"]
    assert message.startswith("h0.qkv (qkv_projection) must be what the reference computes: layer 0, pass 0, element ")


def test_swapped_rows_of_one_matrix_are_caught_where_they_are() -> None:
    check = checked(whole=False)
    layout = check.session.mapping.layouts["up"]
    rows = check.session.executor.rows
    row = check.session.mapping.layer_rows + layout.row0
    rows[0, [2, 3], row] = rows[0, [3, 2], row]
    assert check.run()["message"].startswith("h1.up (ffn_up) must be")


def test_swapped_keys_and_values_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    key_write, width = PimLowering.key_write, MODEL["d_model"]
    monkeypatch.setattr(
        PimLowering, "key_write", lambda self, layout, token, sram: key_write(self, layout, token, sram + width)
    )
    assert checked().run()["message"].startswith("h0.scores (attention_scores) must be")


def test_values_from_elsewhere_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    value_write, width = PimLowering.value_write, MODEL["d_model"]
    monkeypatch.setattr(
        PimLowering,
        "value_write",
        lambda self, layout, channel, token, sram: value_write(self, layout, channel, token, sram - width),
    )
    assert checked().run()["message"].startswith("h0.values (attention_values) must be")


def test_a_dropped_partial_sum_is_caught() -> None:
    def drop(block: Block, step: Step) -> Step:
        add = step.items[0]
        if block.ops[step.op].kind != "partial_sum" or not isinstance(add, Compute):
            return step
        return replace(step, items=(replace(add, sources=add.sources[:1]),))

    assert broken(checked(SMALL_BUFFER), drop).run()["message"].startswith("h0.qkv ")
    bare = broken(checked(SMALL_BUFFER, number_format="bfloat16"), drop).run()  # 64 inputs in one chunk, 100 in two
    assert bare["message"].startswith("h0.down ")
    assert bare["by_op"]["ffn_down"]["used"] > 1


def test_a_wrong_length_of_the_softmax_is_caught() -> None:
    def shorten(_block: Block, step: Step) -> Step:
        first = step.items[0]
        if not isinstance(first, Compute) or first.function != "softmax" or first.length == 1:
            return step
        return replace(step, items=(replace(first, length=first.length - 1),))

    message = broken(checked(), shorten).run()["message"]
    assert message.startswith("h0.softmax (softmax) must be what the reference computes: layer 0, pass 1")


ON_CHANNELS = (
    "qkv_projection",
    "kv_write",
    "attention_values",
    "output_projection",
    "ffn_up",
    "ffn_down",
    "lm_head",
)
ON_THE_ASIC = ("bias", "softmax", "residual")
"""Kinds that wait for channels; what waits for the ASIC only finds it done, because it runs in order."""


def without_waits(check: PimCheck, kind: str) -> dict[str, Any]:
    """Result of a check whose program does not wait in steps of a kind; in program order it is still right."""

    def forget(block: Block, step: Step) -> Step:
        return replace(step, waits=()) if block.ops[step.op].kind == kind else step

    orders = [[placed.block.order for placed in blocks] for blocks in check.passes]
    broken(check, forget)
    for blocks, known in zip(check.passes, orders, strict=True):
        for placed, order in zip(blocks, known, strict=True):
            object.__setattr__(placed.block, "order", order)
    return check.run()


@pytest.mark.parametrize("kind", [*ON_CHANNELS, *ON_THE_ASIC])
def test_a_missing_token_is_caught(kind: str) -> None:
    result = without_waits(checked(), kind)
    assert "must be the same in program order and in the machine's order: pass 0" in result["message"]
    assert all(row["used"] <= 1 for row in result["by_op"].values())


def test_scores_that_do_not_wait_are_caught_once_two_channels_hold_keys() -> None:
    """The channel that takes the new key has waited for all of the projection anyway."""
    message = without_waits(checked(passes=18), "attention_scores")["message"]
    assert message.startswith("h0.scores.0 must be the same in program order and in the machine's order: pass 16")


def test_memory_is_asked_for_before_it_is_taken() -> None:
    arch, workload = load_arch("pim_gpt").value, load_workload("gpt2_xl_decode").value
    with pytest.raises(CapacityExceeded, match=r"^--check of gpt2_xl_decode must fit into memory: it needs about "):
        require_memory(arch, workload, 1 << 30)


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_the_command_line_reports_the_check(engine: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [*RUN, "--engine", engine, "--check", "--check-tokens", "2", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "Numbers    pass: " in done.output
    functional = json.loads((tmp_path / "result.json").read_text())["functional"]
    assert functional["passed"] is True
    assert (functional["format"], functional["passes"]) == ("bfloat16", 2)
    assert set(functional["by_op"]["ffn_up"]) == {"compared", "max_abs_error", "max_rel_error", "tolerance", "used"}


def test_a_failed_check_leaves_with_1_and_names_the_operation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key_write = PimLowering.key_write
    monkeypatch.setattr(PimLowering, "key_write", lambda *args: key_write(*args[:-1], args[-1] + 64))
    done = CliRunner().invoke(app, [*RUN, "--check", "--out", str(tmp_path)])
    assert done.exit_code == 1
    assert done.stderr.startswith("error: h0.scores (attention_scores) must be what the reference computes: layer 0")
    assert json.loads((tmp_path / "result.json").read_text())["functional"]["passed"] is False


def test_pairs_without_a_check_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pimsim.run.CHECKED", (("pim", "decoder"),))
    arch, workload = load_arch("edge_moe_zcu102"), load_workload("attention_reordered")
    with pytest.raises(InputError, match=r"^--check must be left out: a workload of kind attention on an architecture"):
        simulate_loaded(arch, workload, RunOptions(check_tokens=1))
