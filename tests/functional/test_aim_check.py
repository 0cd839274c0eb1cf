"""Decoders on GDDR6-AiM on numbers: right programs pass, and a wrong one is named by the operation that it computes wrongly."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cli_tools import pimsim

from pimsim.arch.aim import AimConfig
from pimsim.config import load_arch, load_workload
from pimsim.errors import CapacityExceeded, ProgramError
from pimsim.functional.aim.device import AimDevice
from pimsim.functional.numerics import mac_arithmetic
from pimsim.mapper.aim import AimMapping
from pimsim.program.aim_isr import Instruction
from pimsim.program.aim_segments import PlacedSegment, Segment, Transfer
from pimsim.runners.aim_check import AimCheck, require_memory
from pimsim.workload.models import build_graph

GPT = {"layers": 2, "heads": 6, "d_model": 96, "d_ff": 200, "vocabulary": 700, "context": 200}
LLAMA = {"layers": 2, "heads": 4, "kv_heads": 2, "d_model": 64, "d_ff": 96, "vocabulary": 600, "context": 200}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt": ("gpt2_decode", GPT),
    "llama": ("llama2_7b_decode", LLAMA),
    "many heads": ("gpt2_decode", {**GPT, "heads": 12}),
    "wide heads": ("gpt2_decode", {**GPT, "heads": 2}),
    "relu": ("gpt2_decode", {**GPT, "activation": "relu"}),
    "gptj": (
        "gpt2_decode",
        {
            **GPT,
            "position": "rope",
            "rope_convention": "interleaved",
            "rope_fraction": 0.5,
            "parallel_residual": "true",
        },
    ),
}
NARROW = (("dram.channels", "8"), ("dram.columns", "4"))
"""Rows of 64 numbers: inputs in several tiles, and heads that share channels if there are more than eight."""


def checked(
    name: str = "gpt",
    machine: tuple[tuple[str, str], ...] = (),
    passes: int = 3,
    arch: str = "aim_gddr6",
    **more: int,
) -> AimCheck:
    workload, model = MODELS[name]
    fields = {f"model.{key}": str(value) for key, value in (model | more).items()}
    fields |= {"prompt_tokens": "1", "generate_tokens": "90", "lm_head": "true", "embeddings": "true"}
    config: AimConfig = load_arch(arch, machine).value
    work = load_workload(workload, list(fields.items())).value
    return AimCheck(config, work, AimMapping(work, build_graph(work), config, config.dram.resolve()), passes)


@pytest.mark.parametrize("number_format", ["float16", "bfloat16"])
@pytest.mark.parametrize("arch", ["aim_gddr6", "aim_gddr6_proper"])
@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_a_right_program_passes(name: str, arch: str, number_format: str) -> None:
    result = checked(name, (("pim.format", number_format),), passes=17, arch=arch).run()
    assert result["message"] is None
    assert result["passed"]
    assert result["format"] == number_format
    assert 0 < result["max_rel_error"] < result["tolerance"] < 0.1
    assert all(0 <= row["used"] <= 1 for row in result["by_op"].values())
    assert all(row["used"] > 0.1 for kind, row in result["by_op"].items() if kind != "argmax")


@pytest.mark.parametrize(("name", "passes"), [("llama", 67), *((name, 18) for name in MODELS)])
def test_every_layout_and_family_passes(name: str, passes: int) -> None:
    """67 tokens: rows of values are full after 64, keys have taken turns over all channels."""
    result = checked(name, NARROW, passes=passes, layers=1, vocabulary=300).run()
    assert result["message"] is None
    assert result["passes"] == passes


@pytest.mark.parametrize("accumulator", ["float16", "bfloat16"])
@pytest.mark.parametrize("tree", ["true", "false"])
def test_bounds_follow_accumulator_and_adder_tree(accumulator: str, tree: str) -> None:
    narrow = checked(machine=(("pim.accumulator", accumulator), ("pim.adder_tree", tree))).run()
    wide = checked().run()
    assert narrow["message"] is None
    assert narrow["by_op"]["qkv_projection"]["max_abs_error"] > wide["by_op"]["qkv_projection"]["max_abs_error"]


# ---------------------------------------------------------------------------------------------------------- wrong ones


def changed(check: AimCheck, kind: str, change: Callable[[Instruction], Instruction | None]) -> AimCheck:
    """The program with the instructions of an operation changed, or left out."""
    for passes in check.passes:
        for n, placed in enumerate(passes):
            if placed.op == kind:
                kept = [change(i) for i in placed.segment.instructions]
                passes[n] = placed._replace(segment=Segment(tuple(i for i in kept if i is not None)))
    return check


def without(name: str) -> Callable[[Instruction], Instruction | None]:
    return lambda i: None if i.name == name else i


def with_fields(name: str, **fields: Callable[[int], int]) -> Callable[[Instruction], Instruction]:
    def change(i: Instruction) -> Instruction:
        return i._replace(**{key: of(getattr(i, key)) for key, of in fields.items()}) if i.name == name else i

    return change


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("qkv_projection", without("WR_BIAS"), "h0.qkv (qkv_projection) must be what the reference computes: layer 0, pass 0"),
        ("output_projection", without("WR_GB"), "h0.proj (output_projection) must be"),
        ("ffn_down", with_fields("MAC_ABK", row=lambda row: row ^ 1), "h0.down (ffn_down) must be"),
        ("ffn_up", with_fields("MAC_ABK", size=lambda size: size - 1), "h0.up (ffn_up) must be"),
        ("kv_write", with_fields("COPY_GBBK", bank=lambda bank: bank ^ 1), "h0.scores (attention_scores) must be"),
        ("kv_write", without("COPY_GBBK"), "h0.scores (attention_scores) must be"),
        ("kv_write", with_fields("WR_ABK", row=lambda row: row + 1), "h0.values (attention_values) must be"),
        ("attention_scores", without("WR_GB"), "h0.scores (attention_scores) must be"),
        ("attention_scores", without("RD_MAC"), "h0.scores (attention_scores) must be"),
        ("attention_values", with_fields("MAC_ABK", size=lambda _: 1), "h0.values (attention_values) must be"),
        ("attention_values", without("MAC_ABK"), "h0.values (attention_values) must be"),
    ],
)  # fmt: skip
def test_a_wrong_instruction_is_found(kind: str, change: Callable[..., Any], message: str) -> None:
    result = changed(checked(machine=NARROW, passes=17), kind, change).run()
    assert not result["passed"]
    assert result["message"].startswith(message)


def test_values_of_all_columns_in_the_first_one_are_found() -> None:
    """The instruction has no column in text; what is timed must have one all the same."""
    check = checked(passes=17)
    check.passes = [[placed._replace(column=0) for placed in placed_in_pass] for placed_in_pass in check.passes]
    message = check.run()["message"]
    assert message.startswith("h0.values (attention_values) must be what the reference computes: layer 0, pass 16, ")


def test_a_segment_in_the_place_of_another_is_found() -> None:
    check = checked(passes=1)
    for n, placed in enumerate(check.passes[0]):
        if placed.name == "h1.up":
            check.passes[0][n] = placed._replace(base=placed.base + 1)
    assert check.run()["message"].startswith("h1.up (ffn_up) must be what the reference computes: layer 1, pass 0, ")


def test_an_instruction_without_data_of_the_host_is_found() -> None:
    twice = changed(checked(passes=1), "ffn_up", lambda i: i)
    for n, placed in enumerate(twice.passes[0]):
        if placed.op == "ffn_up":
            twice.passes[0][n] = placed._replace(segment=Segment((*placed.segment.instructions,) * 2))
    assert twice.run()["message"].startswith("pass 0: WR_BIAS must have data of the host: there is one too many in ")


def test_weights_that_changed_after_they_were_placed_are_found() -> None:
    check = checked(passes=1)
    check.weights["h1.down.weight"][5, 7] += 1.0
    assert check.run()["message"].startswith(
        "h1.down (ffn_down) must be what the reference computes: layer 1, pass 0, "
    )


# -------------------------------------------------------------------------------------------------------------- device


def device(number_format: str = "float16") -> AimDevice:
    return AimDevice(load_arch("aim_gddr6").value.dram.resolve(), mac_arithmetic(number_format, "float32"))


def placed(*instructions: tuple[str, int, int, int]) -> PlacedSegment:
    """(name, size, bank, row) on channels 3 and 5."""
    made = tuple(Instruction(name, size, (3, 5), bank, row, 0, 0) for name, size, bank, row in instructions)
    return PlacedSegment(Segment(made), 0, "test", 0, True)


def test_one_bank_multiplies_what_came_from_another() -> None:
    """A row goes from a bank into the buffer and on to another bank, and the first one multiplies it with itself."""
    machine = device()
    x = np.arange(32) / 8
    machine.place(7, np.repeat(x[:, None], 512, axis=1))
    out: dict[str, Any] = {"bias": np.arange(16, dtype=np.float32), "output": np.full(32, np.nan, np.float32)}
    transfers = (
        Transfer("WR_BIAS", "bias", (tuple(range(16)),)),
        Transfer("RD_MAC", "output", tuple(tuple(range(16)) if c == 3 else (-1,) * 16 for c in range(32))),
    )
    program = placed(
        ("COPY_BKGB", 2, 4, 7), ("COPY_GBBK", 2, 9, 8), ("WR_BIAS", 1, -1, -1), ("MAC_SBK", 2, 9, 8), ("RD_MAC", 1, -1, -1)
    )  # fmt: skip
    machine.run(program, transfers, out)
    expected = np.arange(16, dtype=np.float64)
    expected[9] += float(x @ x)
    assert np.array_equal(out["output"][:16], expected.astype(np.float16).astype(np.float32))
    assert np.isnan(out["output"][16:]).all()
    assert np.isnan(machine.registers[4]).all()


def test_what_was_never_written_is_no_number() -> None:
    machine = device("bfloat16")
    machine.buffers[...] = 0
    machine.registers[...] = 0
    machine.run(placed(("MAC_ABK", 1, -1, 3)), (), {})
    assert np.isnan(machine.registers[[3, 5]]).all()
    assert (machine.registers[4] == 0).all()


def test_instructions_that_mean_nothing_in_numbers_are_refused() -> None:
    with pytest.raises(ProgramError, match=r"^an instruction on numbers must be one of WR_GB, WR_BIAS, .*, not EWMUL$"):
        device().run(placed(("EWMUL", 1, -1, 3)), (), {})


# -------------------------------------------------------------------------------------------------------- command line


def test_the_command_line_checks_and_takes_a_format() -> None:
    sets = [part for key, value in GPT.items() for part in ("--set", f"workload.model.{key}={value}")]
    run = ("run", "--arch", "aim_gddr6_proper", "--workload", "gpt2_decode", "--quiet", *sets)
    more = ("--set", "workload.generate_tokens=4", "--set", "arch.pim.format=bfloat16", "--check", "--format", "json")
    done = pimsim(*run, *more)
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["functional"]["passed"]
    assert result["functional"]["format"] == "bfloat16"
    assert result["functional"]["passes"] == 4
    alone = json.loads(pimsim(*run, "--set", "workload.generate_tokens=4", "--format", "json").stdout)
    assert alone["time"] == result["time"]
    assert alone["functional"] is None


def test_a_check_that_does_not_fit_is_refused() -> None:
    arch = load_arch("aim_gddr6").value
    work = load_workload("gpt2_decode").value
    mapping = AimMapping(work, build_graph(work), arch, arch.dram.resolve())
    require_memory(mapping, 4, 8 << 30)
    with pytest.raises(
        CapacityExceeded, match=r"^--check of gpt2_decode must fit into memory: it needs about [\d.]+ GiB"
    ):
        require_memory(mapping, 4, 1 << 28)
