"""Attention by name in decoders on PIM channels: numbers, counts, memory, both engines, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pimsim.cli import app
from pimsim.config import load_arch, load_workload
from pimsim.errors import ConfigError, InputError, MappingError, UnsupportedOp, WorkloadError
from pimsim.functional.decoder_attention import DecoderExecutor
from pimsim.mapper.attention.decoder import DecoderAttention, at_home
from pimsim.program.isa import Block, Compute, Placed, Run, Step
from pimsim.result import Result
from pimsim.run import simulate
from pimsim.runners.pim_check import PimCheck
from pimsim.session import Session
from pimsim.workload.attention.base import Case, Counts, algorithm
from pimsim.workload.decoder_attention import case_of, primitives_of
from pimsim.workload.models import build_graph
from pimsim.workload.reference import Reference, random_weights

SMALL = {
    "model.layers": "2",
    "model.d_model": "32",
    "model.heads": "4",
    "model.d_ff": "48",
    "model.vocabulary": "50",
    "model.context": "64",
    "prompt_tokens": "2",
    "lm_head": "true",
    "embeddings": "true",
}
SHARED = {"model.kv_heads": "2", "model.norm": "rmsnorm", "model.gated": "true", "model.position": "rope"}
"""Two query heads for each head of keys, and what goes with it in a Llama."""

CASES: list[tuple[str, dict[str, Any]]] = [
    ("single_pass", {"block": 3}),
    ("flash", {"version": 1, "block_columns": 4}),
    ("flash", {"version": 2, "block_columns": 4}),
    ("lean", {"block": 4, "workers": 3}),
    ("reordered", {}),
    ("longformer", {"side": 2}),
    ("longformer", {"side": 3, "global_tokens": 2}),
    ("clipped_softmax", {"gamma": -0.01}),
    ("gated", {}),
    ("linear", {}),
    ("topk", {"k": 3}),
]
"""Every algorithm that decoders take, with sizes that cut a few tokens."""

EXACT = ("single_pass", "flash", "lean", "reordered")
TOKENS = 7
"""Forward passes."""


def named(attention: str, parameters: dict[str, Any], **fields: str) -> list[tuple[str, str]]:
    """Overrides of gpt2_decode: a small decoder with this attention."""
    given = [("attention", attention), ("generate_tokens", str(TOKENS - 1)), *SMALL.items()]
    given += [(f"attention_parameters.{name}", json.dumps(value)) for name, value in parameters.items()]
    return [*given, *((name.replace("__", "."), value) for name, value in fields.items())]


def run(attention: str, parameters: dict[str, Any], *machine: str, arch: str = "pim_gpt", **options: Any) -> Result:
    fields = options.pop("fields", {})
    work = [f"workload.{path}={value}" for path, value in [*named(attention, parameters), *fields.items()]]
    return simulate(arch, "gpt2_decode", overrides=[*work, *machine], **options)


def closed_form(attention: str, parameters: dict[str, Any], layers: int, kv_heads: int) -> Counts:
    """Sum over layers and tokens, each token seeing all before it."""
    method, found = algorithm(attention, parameters), Counts()
    for context in range(1, TOKENS + 1):
        case = Case(phase="decode", queries=1, keys=context, d_head=8, heads=4, kv_heads=kv_heads)
        found = found + method.counts(case)
        last = method.counts(case)
    return replace(found * layers, persistent=last.persistent * layers)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize(("attention", "parameters"), CASES)
def test_numbers_counts_memory_and_engines(attention: str, parameters: dict[str, Any], kv_heads: int) -> None:
    if attention == "lean" and kv_heads == 2:
        pytest.skip("query heads that share keys are refused, as a test below shows")
    fields = SHARED if kv_heads == 2 else {}
    result = run(attention, parameters, fields=fields, check_tokens=TOKENS)
    assert result.functional is not None
    assert result.functional["passed"], result.functional["message"]
    compared = result.functional["by_op"]
    assert compared["attention"]["compared"] == 2 * TOKENS
    primitives = {op.KIND for op in at_home(primitives_of(algorithm(attention, parameters), case_of(4, 4, 8, 6))).ops}
    assert primitives & {"scores", "product"} <= set(compared)  # every primitive, not the output alone

    assert result.counts is not None
    assert result.counts["equal"], result.counts
    assert result.counts["closed_form"] == vars(closed_form(attention, parameters, 2, kv_heads))

    assert result.memory is not None
    caches = 2 * 2 * kv_heads * 8 * TOKENS * 2  # layers, keys and values, heads, elements, tokens, bytes
    if attention == "linear":  # a state of each head, by rows and by columns
        assert result.memory["dram"]["persistent_bytes"] == 2 * kv_heads * 8 * 9 * 2 * 2
    elif "global_tokens" in parameters:  # values by rows, too
        assert result.memory["dram"]["persistent_bytes"] == caches * 3 // 2
    else:
        assert result.memory["dram"]["persistent_bytes"] == caches
    assert result.memory["dram"]["over_time"][-1][1] == result.memory["dram"]["peak_bytes"]
    slow = run(
        attention, parameters, fields=fields, check_tokens=TOKENS if attention == "topk" else 0, engine="reference"
    )
    assert slow.time.cycles == result.time.cycles
    assert slow.dram == result.dram
    assert slow.energy == result.energy


@pytest.mark.parametrize(
    ("attention", "parameters"),
    [
        ("longformer", {"side": 4, "global_tokens": 2}),
        ("longformer", {"side": 21}),
        ("topk", {"k": 5}),
    ],
)
def test_rows_that_begin_inside_banks_and_columns(attention: str, parameters: dict[str, Any]) -> None:
    """Caches over the banks of two channels and back to the first, and windows that begin anywhere."""
    fields = {"generate_tokens": "38", "model.layers": "1", "model.heads": "2", "model.d_model": "40"}
    result = run(attention, parameters, "arch.dram.channels=2", fields=fields, check_tokens=39)
    assert result.functional is not None
    assert result.functional["passed"], result.functional["message"]
    assert result.counts is not None
    assert result.counts["equal"]


@pytest.mark.parametrize("machine", [("arch.dispatch=serial",), ("arch.pim.global_buffer_bytes=64",)])
def test_other_machines(machine: tuple[str, ...]) -> None:
    for attention, parameters in (("single_pass", {"block": 3}), ("linear", {}), ("gated", {})):
        result = run(attention, parameters, *machine, check_tokens=4)
        assert result.functional is not None
        assert result.functional["passed"], result.functional["message"]
        assert result.counts is not None
        assert result.counts["equal"]


def test_gptj_reads_the_norm_twice_and_its_scale_is_folded() -> None:
    parallel = {"family": "gptj", "model.position": "rope", "model.parallel_residual": "true"}
    for fields in (parallel, {"model.attention_scale": "1.0"}):
        result = run("gated", {}, fields=fields, check_tokens=4)
        assert result.functional is not None
        assert result.functional["passed"], result.functional["message"]


def reference_of(attention: str, parameters: dict[str, Any], steps: int = TOKENS) -> np.ndarray:
    work = load_workload("gpt2_decode", named(attention, parameters)).value
    graph = build_graph(work)
    # weights so large that attention is not nearly uniform
    reference = Reference(graph, work, random_weights(graph, scale=0.5))
    return np.array([reference.step((7 * i + 3) % 50, i)["final.lm_head"] for i in range(steps)])


@pytest.mark.parametrize(("attention", "parameters"), CASES)
def test_the_reference_of_the_model_has_the_algorithm_in_it(attention: str, parameters: dict[str, Any]) -> None:
    exact, found = reference_of("vanilla", {}), reference_of(attention, parameters)
    if attention in EXACT:
        assert found == pytest.approx(exact, rel=1e-9, abs=1e-9)
    else:
        assert np.abs(found[-1] - exact[-1]).max() > 1e-3 * np.abs(exact[-1]).max()
    if attention in ("longformer", "topk"):  # as long as nothing is left out
        first = parameters.get("k", parameters.get("side", 0) + 1)
        assert found[:first] == pytest.approx(exact[:first], rel=1e-9, abs=1e-9)


def test_text_is_generated_with_the_algorithm() -> None:
    work = load_workload("gpt2_decode", named("longformer", {"side": 2})).value
    graph, arch = build_graph(work), load_arch("pim_gpt", [("pim.format", "float32")]).value
    weights = random_weights(graph, scale=0.3)
    session, reference = Session(work, arch, weights), Reference(graph, work, weights)
    for _ in range(2):  # a second sequence finds nothing of the first
        for i in range(TOKENS):
            logits, exact = session.step(3 * i + 1), reference.step(3 * i + 1, i)["final.lm_head"]
            assert np.abs(logits - exact).max() <= 5e-3 * np.abs(exact).max()
        session.clear()
        reference.reset()


def test_a_state_begins_anew_with_a_sequence() -> None:
    work = load_workload("gpt2_decode", named("linear", {})).value
    graph, arch = build_graph(work), load_arch("pim_gpt", [("pim.format", "float32")]).value
    weights = random_weights(graph, scale=0.3)
    session = Session(work, arch, weights)
    first = [session.step(token) for token in (1, 5, 9)]
    session.clear()
    assert np.array_equal(first, [session.step(token) for token in (1, 5, 9)])
    reference = Reference(graph, work, weights)
    reference.step(1, 0)
    reference.step(5, 1)
    with pytest.raises(WorkloadError, match=r"^the position must be 0 or 2, as attention has a state, not 1$"):
        reference.step(9, 1)


# ------------------------------------------------------------------------------------------- what data decide


def test_the_result_says_what_decided() -> None:
    drawn = run("topk", {"k": 3})
    some, every = (run("topk", {"k": 3}, check_tokens=tokens) for tokens in (3, TOKENS))
    origins = [result.counts["decisions"] for result in (drawn, some, every) if result.counts]
    distribution = "distribution: topk.sample, seed 0, one outcome for all layers of a token"
    assert origins == [
        distribution,
        f"functional: float64 run of the check, 3 of 7 tokens; then {distribution}",
        "functional: float64 run of the check, 7 of 7 tokens",
    ]
    assert run("longformer", {"side": 2}).counts["decisions"] is None  # type: ignore[index]


def test_text_needs_a_program_that_is_known_before() -> None:
    work = load_workload("gpt2_decode", named("topk", {"k": 3})).value
    with pytest.raises(WorkloadError, match=r"^workload\.attention must be one whose program does not depend on data"):
        Session(work, load_arch("pim_gpt").value, random_weights(build_graph(work)))


# ------------------------------------------------------------------------------------------- wrong programs


Change = Callable[[Block, Step], Step]


def broken(attention: str, parameters: dict[str, Any], change: Change) -> dict[str, Any]:
    """The check of a program whose attention steps are changed."""
    work = load_workload("gpt2_decode", named(attention, parameters)).value
    check = PimCheck(load_arch("pim_gpt").value, work, 4)
    attention_of = check.session.mapping.attention
    assert attention_of is not None

    def changed(placed: Placed) -> Placed:
        block = placed.block
        if block not in attention_of.programs:
            return placed
        streams = {id(stream): tuple(change(block, step) for step in stream) for stream in block.channels}
        channels = tuple(streams[id(stream)] for stream in block.channels)
        other = Block(block.name, block.ops, channels, tuple(change(block, step) for step in block.asic))
        attention_of.programs[other] = attention_of.programs[block]
        return replace(placed, block=other)

    check.passes = [[changed(placed) for placed in blocks] for blocks in check.passes]
    return check.run()


def another_column(block: Block, step: Step) -> Step:
    """Keys and values go to the column behind theirs."""
    if block.ops[step.op].kind != "kv_write":
        return step
    items = tuple(
        replace(item, column=item.column + 1) if isinstance(item, Run) and item.command == "WR" else item
        for item in step.items
    )
    return replace(step, items=items)


def too_short(block: Block, step: Step) -> Step:
    """The output comes from elsewhere."""
    item = step.items[0]
    if isinstance(item, Compute) and item.parameters.endswith("attended0"):
        return replace(step, items=(replace(item, sources=(item.sources[0] + 1,)),))
    return step


def without_waits(block: Block, step: Step) -> Step:
    """The ASIC does not wait for the scores."""
    return replace(step, waits=()) if block.ops[step.op].kind == "softmax" else step


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (another_column, r"^attention of layer 0: scores\.\d+ \(scores\) must be what its operands give, within"),
        (too_short, r"^h0\.attend \(attention\) must be what the reference computes: layer 0, pass 0, element"),
        (
            without_waits,
            r"^attention of layer 0: elementwise\.1 \(elementwise\) must be what its operands give, within",
        ),
    ],
)
def test_a_wrong_program_is_caught(change: Change, message: str) -> None:
    found = broken("clipped_softmax", {"gamma": -0.01}, change)
    assert not found["passed"]
    assert re.search(message, found["message"]), found["message"]


def test_an_unchanged_program_passes_the_same_way() -> None:
    assert broken("clipped_softmax", {"gamma": -0.01}, lambda _block, step: step)["passed"]


@pytest.mark.parametrize("wrong", ["a tenth too large", "noise of a tenth"])
def test_a_wide_output_that_is_a_tenth_off_is_caught(wrong: str) -> None:
    """What is allowed is of the whole output: spread over 768 elements, a tenth of each is far beyond it."""
    small = {"attention": "gated", "prompt_tokens": 2, "generate_tokens": 3, "model.layers": 1, "model.vocabulary": 64}
    work = load_workload("gpt2_decode", [(name, str(value)) for name, value in small.items()]).value
    check = PimCheck(load_arch("pim_gpt").value, work, 1)
    executor = check.session.executor
    assert isinstance(executor, DecoderExecutor)
    inner = executor.tensor_call

    def tensor_call(compute: Compute, known: Any) -> None:
        inner(compute, known)
        if compute.parameters.endswith("attended0"):
            output = executor.sram[compute.target : compute.target + compute.length].copy()
            noise = np.random.default_rng(0).standard_normal(output.size) * np.sqrt(np.mean(output**2))
            executor._store_whole(compute.target, output + 0.1 * (output if wrong == "a tenth too large" else noise))

    executor.tensor_call = tensor_call  # type: ignore[method-assign]
    found = check.run()
    assert not found["passed"]
    assert found["message"].startswith(
        "h0.attend (attention) must be what the reference computes: layer 0, pass 0, element"
    )


# ------------------------------------------------------------------------------------------- what is refused


LEFT = "attention: attention {} must be left to workloads of kind attention: in this decoder, "


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([("attention", "fox")], LEFT.format("fox") + "it has no phase decode, only prefill, and a decoder takes"),
        ([("attention", "aaren")], LEFT.format("aaren") + "it has no phase decode, only prefill, update, and"),
        ([("attention", "kv_drop")], LEFT.format("kv_drop") + "it writes its cache anew in an order that data decide"),
        (
            [("attention", "llm_int8")],
            LEFT.format("llm_int8") + "it takes the place of a linear layer: it asks for x, w",
        ),
        (
            [("attention", "flash"), ("batch", "2")],
            LEFT.format("flash") + "2 tokens go through a forward pass together",
        ),
        (
            [("attention", "gated"), ("model.d_head", "80")],
            LEFT.format("gated")
            + "each head asks for its part of the layer's input, and 12 heads of 80 are not the 768",
        ),
        (
            [("attention", "lean"), ("model.kv_heads", "4")],
            "attention: attention lean must have as many kv_heads as heads, not 4 and 12",
        ),
        (
            [("attention", "topk"), ("attention_parameters.kk", "3")],
            "attention_parameters.kk: parameters of attention topk must be among chunk, k, not 'kk'; did you mean 'k'?",
        ),
        (
            [("attention", "topk"), ("attention_parameters.k", "0")],
            "attention_parameters.k: parameter k of attention topk: input should be greater than 0, not 0",
        ),
        ([("attention_parameters.k", "3")], "attention_parameters: must be empty for attention vanilla, not k"),
    ],
)
def test_what_makes_no_sense_is_refused_at_load(overrides: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--set workload\.\S+: {re.escape(message)}"):
        load_workload("gpt2_decode", overrides)


def test_the_command_line_says_so() -> None:
    found = CliRunner().invoke(
        app, ["run", "--arch", "pim_gpt", "--workload", "gpt2_decode", "--set", "workload.attention=tca"]
    )
    assert found.exit_code == 2
    assert not found.stdout
    begins = "error: --set workload.attention=tca: attention: attention tca must be left to workloads of kind attention"
    assert found.stderr.startswith(begins)


def test_machines_refuse_what_they_do_not_have() -> None:
    with pytest.raises(
        UnsupportedOp,
        match=r"^attention must be vanilla or single_pass on the streaming unit, which has no other, not 'topk'",
    ):
        run("topk", {"k": 3}, "arch.placement=stream_attention", arch="hybrid_pim_fpga")
    with pytest.raises(MappingError, match=r"^attention on aim_gddr6 must be vanilla, not 'topk'$"):
        run("topk", {"k": 3}, arch="aim_gddr6")
    with pytest.raises(
        InputError, match=r"^pim\.format must be one of floating point to carry out attention topk, whose"
    ):
        run("topk", {"k": 3}, "arch.pim.format=int8", check_tokens=1)


def test_a_hybrid_machine_has_it_on_its_pim_side() -> None:
    for attention, parameters in (("topk", {"k": 3}), ("single_pass", {"block": 3})):
        result = run(attention, parameters, "arch.placement=pim_only", arch="hybrid_pim_fpga", check_tokens=3)
        assert result.functional is not None
        assert result.functional["passed"], result.functional["message"]
        assert result.placement is not None
        assert result.placement["attention"] == "pim"
        assert result.counts is not None
        assert result.counts["equal"]


def test_the_list_says_who_is_in_decoders() -> None:
    listed = {
        entry["name"]: entry
        for entry in json.loads(CliRunner().invoke(app, ["list", "attention", "--format", "json"]).stdout)
    }
    inside = {name for name, entry in listed.items() if entry["decoders"]}
    assert inside == {name for name, _ in CASES} | {"vanilla"}
    assert all((entry["not_in_decoders"] is None) == entry["decoders"] for entry in listed.values())
    lines = dict(line.split("  ", 1) for line in CliRunner().invoke(app, ["list", "attention"]).stdout.splitlines())
    assert {name for name, text in lines.items() if text.endswith("; in decoders]")} == inside


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize(
    ("attention", "parameters"),
    [("linear", {}), ("gated", {}), ("flash", {"block_columns": 4}), ("longformer", {"side": 2})],
)
def test_heads_take_turns_where_the_sram_is_small(
    attention: str, parameters: dict[str, Any], kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = DecoderAttention._attempts
    monkeypatch.setattr(DecoderAttention, "_attempts", lambda *given: attempts(*given)[-1:])
    result = run(attention, parameters, fields=SHARED if kv_heads == 2 else {}, check_tokens=5)
    assert result.functional is not None
    assert result.functional["passed"], result.functional["message"]
    assert result.counts is not None
    assert result.counts["equal"], result.counts
    assert result.counts["closed_form"] == vars(closed_form(attention, parameters, 2, kv_heads))


def test_a_state_that_fills_the_sram_is_taken_head_by_head() -> None:
    whole = run("linear", {}, fields={"model.d_model": "128"})
    small = run("linear", {}, "arch.asic.sram_bytes=12288", fields={"model.d_model": "128"}, check_tokens=3)
    assert small.functional is not None
    assert small.functional["passed"], small.functional["message"]
    assert small.counts is not None
    assert whole.counts is not None
    assert small.counts["closed_form"] == whole.counts["closed_form"]
    assert small.time.cycles != whole.time.cycles
