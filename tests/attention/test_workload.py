"""Attention workloads: an algorithm by name, its parameters, the sizes of a case, wrong input."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from pimsim.cli import app
from pimsim.config import load_workload
from pimsim.errors import CapacityExceeded, ConfigError, InputError
from pimsim.run import simulate
from pimsim.workload.attention.base import discover


def naive(*options: tuple[str, str]) -> object:
    return load_workload("attention_naive", options).value


def test_tokens_are_queries_and_keys_unless_these_are_given() -> None:
    case = naive(("tokens", "9")).case()  # type: ignore[attr-defined]
    assert (case.queries, case.keys) == (9, 9)
    case = naive(("queries", "5")).case()  # type: ignore[attr-defined]
    assert (case.queries, case.keys) == (5, 129)
    case = naive(("phase", "decode")).case()  # type: ignore[attr-defined]
    assert (case.queries, case.keys) == (1, 129)


def test_parameters_reach_the_algorithm() -> None:
    work = naive(
        ("tokens", "9"), ("algorithm", "cascaded_group"), ("parameters.kernels", "[3, 1]"), ("parameters.d_qk", "2")
    )
    assert work.method().model_dump() == {"kernels": (3, 1), "d_qk": 2}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("algorithm", "topp"), "--set workload.algorithm=topp: algorithm: must be one of aaren, bigbird, "),
        (
            ("parameters.kk", "4"),
            "--set workload.parameters.kk=4: parameters.kk: parameters of attention topk must be among chunk, k, not 'kk'; "
            "did you mean 'k'?",
        ),
        (("parameters.k", "0"), "--set workload.parameters.k=0: parameters.k: parameter k of attention topk: "),
        (
            ("phase", "update"),
            "--set workload.phase=update: phase: phase of attention topk must be one of prefill, decode, not 'update'",
        ),
    ],
)
def test_wrong_input_says_what_must_hold(option: tuple[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(message)):
        naive(("algorithm", "topk"), option)


def test_sizes_must_fit_each_other() -> None:
    with pytest.raises(
        ConfigError, match=r"attention_naive.yaml:\d+:\d+: heads: heads must be a multiple of kv_heads, not"
    ):
        naive(("kv_heads", "2"))


def test_sizes_must_be_given() -> None:
    with pytest.raises(ConfigError, match=r"attention_naive.yaml:\d+:\d+: tokens must be given, or keys and queries"):
        naive(("tokens", "null"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["algorithm=flash"], "--set workload.algorithm=flash: algorithm: must be one of reordered, vanilla on"),
        (["causal=true"], "--set workload.causal=true: causal: must be false on edge_moe_zcu102"),
        (["queries=5"], "--set workload.queries=5: queries: must be the keys, 129, on edge_moe_zcu102, not 5"),
        (["phase=decode"], "--set workload.phase=decode: phase: must be prefill on edge_moe_zcu102, not decode"),
        (["kv_heads=1"], "--set workload.kv_heads=1: kv_heads: must be the heads, 3, on edge_moe_zcu102, not 1"),
        (
            ["algorithm=reordered", "parameters.lanes=3"],
            "--set workload.parameters.lanes=3: parameters.lanes: must be fpga.attention.parallelism of edge_moe_zcu102",
        ),
    ],
)
def test_a_streaming_unit_has_two_schedules_of_one_problem(options: list[str], message: str) -> None:
    given = ["arch.fpga.primitives=null", *(f"workload.{option}" for option in options)]
    with pytest.raises(ConfigError, match="^" + re.escape(message)):
        simulate("edge_moe_zcu102", "attention_naive", overrides=given)


def test_without_reordering_the_schedule_is_the_naive_one() -> None:
    small = ["workload.tokens=9", "workload.algorithm=reordered", "workload.parameters.reorder=false"]
    assert simulate("edge_moe_zcu102", "attention_reordered", overrides=small).ops == (
        simulate("edge_moe_zcu102", "attention_naive", overrides=small[:1]).ops
    )


def test_list_says_phases_parameters_and_machines() -> None:
    answer = CliRunner().invoke(app, ["list", "attention", "--format", "json"])
    rows = {row["name"]: row for row in json.loads(answer.stdout)}
    assert set(rows) == set(discover().names())
    assert rows["topk"]["phases"] == ["prefill", "decode"]
    assert rows["topk"]["parameters"] == {"k": 128, "chunk": 1024}
    assert "fpga" in rows["reordered"]["machines"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            ("parameters.latents", "1000000000000000"),
            "--set workload.parameters.latents=1000000000000000: parameters.latents: must be at most 10,000,000, not "
            "1,000,000,000,000,000",
        ),
        (
            ("parameters.blocks", "1000000000"),
            "--set workload.parameters.blocks=1000000000: parameters.blocks: must be at most 1,000, not 1,000,000,000",
        ),
        (
            ("heads", "1024"),
            r"algorithm: must leave attention cmab at most 17,179,869,184 elements in its given tensors, not ",
        ),
    ],
)
def test_what_no_machine_holds_is_bad_input(option: tuple[str, str], message: str) -> None:
    wide = [("d_head", "65536")] if option[0] == "heads" else []
    result = CliRunner().invoke(
        app,
        ["run", "--arch", "pim_gpt", "--workload", "attention_decode", "--set", "workload.algorithm=cmab",
         "--set", "workload.phase=update", "--set", "workload.queries=1",
         *(text for path, value in [option, *wide] for text in ("--set", f"workload.{path}={value}"))],
    )  # fmt: skip
    assert result.exit_code == 2
    assert message in result.stderr


def test_tensors_that_memories_do_not_hold_are_refused_before_they_are_drawn() -> None:
    with pytest.raises(
        CapacityExceeded,
        match=r"^tensors of attention vanilla must fit into 4,294,967,296 bytes of banks and 131,072 of SRAM, not take "
        r"15,360,001,536$",
    ):
        simulate("pim_gpt", "attention_decode", overrides=["workload.keys=5000000"])


@pytest.mark.parametrize(
    ("number_format", "why"), [("int8", "programs of attention by"), ("fixed16_8", "the errors that")]
)
def test_integers_have_no_check_and_the_message_says_why(number_format: str, why: str) -> None:
    with pytest.raises(InputError, match=rf"^--check must be left out where pim\.format is {number_format}: {why} "):
        simulate("pim_gpt", "attention_decode", overrides=[f"arch.pim.format={number_format}"], check_tokens=1)
