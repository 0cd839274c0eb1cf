"""Attention algorithms on a PIM machine: the program computes the reference, counts as the closed forms, engines agree."""

from __future__ import annotations

import json
import os
import re
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from test_witnesses import CASES

from pimsim.arch.functions import TENSOR_FUNCTIONS
from pimsim.arch.tensor_functions import EXPONENTIALS, LOGARITHMS
from pimsim.config import load_arch
from pimsim.errors import CapacityExceeded, InputError, UnsupportedOp, WorkloadError
from pimsim.functional.attention import AttentionExecutor
from pimsim.functional.attention_check import AttentionCheck, prepare
from pimsim.functional.executor import Executor
from pimsim.mapper.attention.count import count_program
from pimsim.mapper.attention.handlers import LOWERINGS
from pimsim.program.isa import Placed
from pimsim.program.verify import verify
from pimsim.report.growth import persistent_bytes, plot_growth
from pimsim.result import Result
from pimsim.run import simulate
from pimsim.runners.pim_attention import lower, times
from pimsim.runners.pim_check import timed_steps
from pimsim.workload.attention import primitives
from pimsim.workload.attention.base import Case, Counts, algorithm, discover
from pimsim.workload.attention.decisions import draw
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Arrange

SHAPES = ((9, 9, 2, 1, True), (4, 20, 2, 2, True), (9, 9, 2, 2, False), (8, 8, 2, 2, True), (1, 40, 1, 1, True))
"""Queries, keys, heads, heads of keys, causal; a case is the first of these that the algorithm takes."""


def run(name: str, *options: str, parameters: dict[str, Any] | None = None, **more: Any) -> Result:
    texts = [f"workload.algorithm={name}", *(f"workload.{option}" for option in options)]
    texts += [f"workload.parameters.{key}={json.dumps(value)}" for key, value in (parameters or {}).items()]
    return simulate("pim_gpt", "attention_decode", overrides=[*texts, *more.pop("machine", [])], **more)


def cases(name: str) -> list[tuple[dict[str, Any], Case]]:
    """A case of each phase for the first and the last parameters of an algorithm."""
    found: list[tuple[dict[str, Any], Case]] = []
    for parameters in (CASES[name][0], CASES[name][-1]):
        kind = algorithm(name, parameters)
        for phase in kind.phases:
            for m, n, heads, groups, causal in SHAPES:
                try:
                    case = Case(phase=phase, queries=m, keys=n, d_head=4, heads=heads, kv_heads=groups, causal=causal)
                    kind.check(case)
                except (ValueError, WorkloadError):
                    continue
                if (parameters, case) not in found:
                    found.append((parameters, case))
                    break
    return found


EVERY = [(name, *each) for name in discover().names() for each in cases(name)]
EXACT_IN_SHORT = {"vanilla", "single_pass", "flash", "lean", "reordered", "topk", "topk_ffn", "longformer", "linear"}
"""Checked in bfloat16; the others in float32, as their normalisations of a few elements make much of little errors."""


def test_every_algorithm_and_every_primitive_has_its_case() -> None:
    assert {name for name, _, _ in EVERY} == set(discover().names())
    kinds = {
        kind for kind in vars(primitives).values() if isinstance(kind, type) and issubclass(kind, primitives.Primitive)
    }
    assert set(LOWERINGS) == {kind for kind in kinds if kind.KIND}
    assert set(AttentionExecutor.functions) == {*Executor.functions, *TENSOR_FUNCTIONS}
    assert {*EXPONENTIALS, *LOGARITHMS} <= {*TENSOR_FUNCTIONS}


@pytest.mark.parametrize(("name", "parameters", "case"), EVERY)
def test_program_computes_the_reference_and_counts_as_the_closed_forms(
    name: str, parameters: dict[str, Any], case: Case
) -> None:
    number_format = "bfloat16" if name in EXACT_IN_SHORT else "float32"
    arch = load_arch("pim_gpt", [("pim.format", number_format)]).value
    spec = arch.dram.resolve()
    inputs = prepare(algorithm(name, parameters), case, 0, number_format, None)
    lowering, block = lower(arch, spec, inputs.ops, inputs.indices())
    program = [Placed(block, 0, -1)]
    sram, buffer = arch.asic.sram_bytes // 4, arch.pim.global_buffer_bytes // spec.burst_bytes
    verify(program, spec, sram, buffer, lanes=lowering.shape.lanes)
    check = AttentionCheck(arch, spec, inputs, lowering.values, lowering.constants, lowering.banks.used, lowering.ops)
    found = check.run(program, timed_steps(arch, spec, [program]))
    assert found["message"] is None
    assert sum(row["compared"] for row in found["by_op"].values()) >= 2
    assert found["max_rel_error"] <= found["tolerance"] < 0.5
    counts, closed = count_program(block, lowering), inputs.method.counts(case, inputs.decided or None)
    counts.reads += counts.unread
    assert {f.name: getattr(counts, f.name) for f in fields(Counts)} == {
        f.name: getattr(closed, f.name) for f in fields(Counts)
    }


@pytest.mark.parametrize("name", ["vanilla", "lean", "cmab", "topk"])
def test_engines_give_the_same_cycles(name: str) -> None:
    small = ["keys=40", "d_head=8", "heads=2"]
    small += ["phase=update", "queries=3"] if name == "cmab" else []
    parameters = {"cmab": {"latents": 4}, "lean": {"block": 8, "workers": 3}, "topk": {"k": 3}}.get(name)
    one, other = (run(name, *small, parameters=parameters, engine=engine) for engine in ("fast", "reference"))
    assert (one.time, one.units, one.ops, one.counts, one.memory) == (
        other.time, other.units, other.ops, other.counts, other.memory,
    )  # fmt: skip


def test_a_wrong_program_is_found_out() -> None:
    arch = load_arch("pim_gpt").value
    spec = arch.dram.resolve()
    case = Case(phase="decode", queries=1, keys=20, d_head=8, heads=2)
    inputs = prepare(algorithm("single_pass", {"block": 10}), case, 0, "bfloat16", None)
    lowering, block = lower(arch, spec, inputs.ops, inputs.indices())
    lowering.constants[next(name for name in lowering.constants if name.startswith("scores"))]["numbers"] = (1.0,)
    check = AttentionCheck(arch, spec, inputs, lowering.values, lowering.constants, lowering.banks.used, lowering.ops)
    found = check.run([Placed(block, 0, -1)], timed_steps(arch, spec, [[Placed(block, 0, -1)]]))
    assert re.match(r"scores\.\d+ \(scores\) must be what its operands give, within ", found["message"])


def test_serial_machines_take_longer() -> None:
    small = ["keys=40", "heads=2"]
    assert run("vanilla", *small, machine=["arch.dispatch=serial"]).time.cycles > run("vanilla", *small).time.cycles


def test_decisions_come_from_a_distribution_or_a_file(tmp_path: Path) -> None:
    small = ["keys=20", "d_head=8", "heads=1"]
    drawn = run("topk", *small, parameters={"k": 2})
    assert drawn.counts is not None
    assert drawn.counts["decisions"] == "distribution: topk.sample, seed 0"
    recorded = draw(algorithm("topk", {"k": 2}), Case(phase="decode", queries=1, keys=20, d_head=8), seed=3)
    recorded.save(tmp_path / "taken.json")
    file = f"decisions={tmp_path / 'taken.json'}"
    replayed = run("topk", *small, file, parameters={"k": 2})
    assert replayed.counts is not None
    assert replayed.counts["decisions"] == f"file {tmp_path / 'taken.json'}: distribution: topk.sample, seed 3"
    assert replayed.counts["gathered"] == drawn.counts["gathered"] == 2 * 8
    with pytest.raises(
        InputError, match=r".*must hold decisions of topk with the parameters and the case of the workload"
    ):
        run("topk", *small, file, parameters={"k": 3})
    assert run("vanilla", *small).counts["decisions"] is None  # type: ignore[index]


def test_what_is_refused() -> None:
    arch = load_arch("pim_gpt").value
    b = Expansion({"table": (2, 6, 4)})
    b.store(b.load(b.add(Arrange, b["table"], to=(4, 3, 4))))
    with pytest.raises(
        UnsupportedOp, match=r"^load\.1 must load rows of a tensor as they lie in memory, not of arrange\.1"
    ):
        lower(arch, arch.dram.resolve(), [op for op in b.graph() if isinstance(op, primitives.Primitive)], {})
    with pytest.raises(CapacityExceeded, match=r"^asic\.sram_bytes must be at least 200016, as product\.1/h0 "):
        run("vanilla", "keys=100000", "heads=1", "d_head=8")
    with pytest.raises(
        InputError,
        match=r"^--check must be left out where pim.format is int8: programs of attention by itself have no scales",
    ):
        run("vanilla", "keys=40", machine=["arch.pim.format=int8"], check_tokens=1)


NO_REFRESH = "arch.dram.refresh.policy=none"
REFERENCE = ["phase=update", "queries=1", "heads=4", "d_head=16"]
"""One token of the published configuration; its other sizes are the defaults of the algorithm."""


def stream(*options: str, **more: Any) -> Result:
    return simulate(
        "pim_gpt",
        "cmab_stream",
        overrides=[f"workload.{option}" for option in options] + more.pop("machine", []),
        **more,
    )


def test_a_token_of_a_stream_costs_the_same_whatever_came_before() -> None:
    near, far = (
        run("cmab", *REFERENCE, f"keys={keys}", machine=[NO_REFRESH, "arch.pim.format=float32"], check_tokens=1)
        for keys in (100, 1_000_000)
    )
    assert (near.time, near.energy, near.memory, near.counts) == (far.time, far.energy, far.memory, far.counts)
    assert near.counts is not None
    assert near.functional is not None
    assert (near.counts["macs"], near.counts["exps"]) == (24_576, 2_048)
    assert persistent_bytes(near) == 34_816
    assert near.functional["passed"]


def test_every_token_of_a_stream_takes_the_same_cycles_and_the_end_is_the_one_shot_attention() -> None:
    result = stream("queries=64", machine=[NO_REFRESH], check_tokens=1)
    gaps = {round((b - a) * 1e9) for a, b in zip((0.0, *result.pass_seconds), result.pass_seconds, strict=False)}
    assert gaps == {result.time.cycles // 64}
    assert result.functional is not None
    assert result.functional["passes"] == 64
    assert result.counts is not None
    assert result.counts["macs"] == 64 * 24_576
    assert result.counts["equal"]


def test_states_of_six_blocks_that_the_sram_does_not_hold_are_written_back_to_the_banks() -> None:
    machine = [NO_REFRESH, "arch.pim.format=float32", "workload.parameters.blocks=6"]
    result = stream("queries=5", machine=machine, check_tokens=1, strict=True)
    assert result.counts is not None
    assert result.functional is not None
    assert (result.counts["macs"], result.counts["equal"]) == (5 * 147_456, True)
    assert result.functional["passed"]
    assert persistent_bytes(result) == 6 * 34_816
    assert {round((b - a) * 1e9) for a, b in pairwise((0.0, *result.pass_seconds))} == {8_159}
    reference = stream("queries=5", machine=machine, engine="reference")
    assert reference.time.cycles == result.time.cycles


def test_vanilla_grows() -> None:
    one, other = (
        run("vanilla", f"keys={keys}", "heads=4", "d_head=16", parameters={"materialise": False})
        for keys in (100, 1_000)
    )
    assert persistent_bytes(other) == 10 * persistent_bytes(one) > 0
    assert other.time.cycles > one.time.cycles


def test_the_refresh_of_the_output_costs_what_the_closed_form_says() -> None:
    result = run("cmab", "phase=query", "queries=1", "keys=100", "heads=4", "d_head=16")
    assert result.counts is not None
    assert result.counts["macs"] == 25_690_112
    assert result.counts["equal"]


@pytest.mark.parametrize("name", ["vanilla", "clipped_softmax"])
def test_scores_beyond_the_sram_are_cut_and_counts_stay(name: str) -> None:
    small = ["phase=prefill", "keys=48", "queries=48", "heads=3", "d_head=8"]
    whole, cut = (
        run(name, *small, machine=[f"arch.asic.sram_bytes={size}"], check_tokens=1) for size in (131_072, 12_288)
    )
    assert whole.counts is not None
    assert whole.counts == cut.counts
    assert cut.functional is not None
    assert cut.functional["passed"]


def test_flash_moves_what_its_paper_says() -> None:
    case = ["phase=prefill", "queries=64", "keys=64", "heads=1", "d_head=8", "causal=false"]
    flash = run("flash", *case, parameters={"version": 1, "on_chip_words": 512})
    vanilla = run("vanilla", *case)
    assert flash.counts is not None
    assert vanilla.counts is not None
    assert flash.counts["equal"]
    assert flash.counts["reads"] + flash.counts["writes"] < vanilla.counts["reads"] + vanilla.counts["writes"]


def test_chunks_must_divide_the_stream_and_states_must_stay_in_place() -> None:
    with pytest.raises(InputError, match=r".*cmab_stream.yaml:\d+:\d+: chunk must divide the 16 queries"):
        stream("chunk=3")
    with pytest.raises(
        InputError, match=r".*chunk: must be left out for attention lbanp: .* is not a state that is updated"
    ):
        simulate(
            "pim_gpt",
            "cmab_stream",
            overrides=["workload.parameters={latents: 4, layers: 1}", "workload.algorithm=lbanp", "workload.keys=50"],
        )


def test_counts_of_several_runs() -> None:
    assert times(Counts(macs=2, persistent=3), 4) == Counts(macs=8, persistent=3)


def test_growth_is_drawn_over_the_context() -> None:
    token = run("cmab", *REFERENCE, "keys=100")
    figure = plot_growth({"cmab": [(100, token), (1000, token)]})
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "time of a token (s)", "energy of a token (J)", "persistent memory (B)",
    ]  # fmt: skip
    assert list(figure.axes[0].lines[0].get_ydata()) == [token.time.seconds] * 2


def test_a_decoder_keeps_its_cache() -> None:
    options = ["workload.model.layers=2", "workload.generate_tokens=5", "workload.prompt_tokens=3"]
    result = simulate("pim_gpt", "gpt2_decode", overrides=options)
    assert result.memory is not None
    dram = result.memory["dram"]
    cache, weights = 7 * 2 * 2 * 768 * 2, 2 * 12 * 768 * 768 * 2
    assert dram["persistent_bytes"] == cache
    assert dram["peak_bytes"] == weights + cache
    assert [n for _, n in dram["over_time"]] == [weights + passes * cache // 7 for passes in range(8)]
    assert 0 < result.memory["asic.sram"]["peak_bytes"] <= result.memory["asic.sram"]["capacity_bytes"]


def makespan(workers: int, shares: int | None) -> int:
    """Six heads of four tiles on four channels."""
    small = ["keys=64", "heads=6", "d_head=16", *([f"shares={shares}"] if shares else [])]
    machine = ["arch.dram.channels=4", NO_REFRESH]
    result = run("lean", *small, parameters={"workers": workers, "block": 16}, machine=machine, check_tokens=1)
    assert result.functional is not None
    assert result.functional["passed"]
    return int(result.time.cycles)


def test_equal_shares_are_done_sooner_than_whole_heads() -> None:
    lean, per_head = makespan(4, 4), makespan(6, 6)
    assert lean < per_head  # six tiles in each channel, against eight in two of them


def test_reordering_saves_no_traffic_where_keys_stay_in_the_banks() -> None:
    small = ("queries=8", "keys=8", "heads=1", "kv_heads=1", "d_head=16", "phase=prefill", "causal=false")
    found = {
        (lanes, reorder): run("reordered", *small, parameters={"lanes": lanes, "reorder": reorder})
        for lanes, reorder in ((1, True), (4, False), (4, True), (8, True))
    }
    assert len({each.figures()["interface_bytes"] for each in found.values()}) == 1
    assert len({each.to_json()["dram"]["commands"]["MAC_AB"] for each in found.values()}) == 1
    reads = {key: each.to_json()["counts"]["reads"] for key, each in found.items()}
    assert reads[1, True] == reads[4, False] > reads[4, True] > reads[8, True]
    blocks = run("vanilla", *small).figures()
    assert 2 * blocks["cycles"] < min(each.figures()["cycles"] for each in found.values())


@pytest.mark.skipif("PIMSIM_LARGE" not in os.environ, reason="takes a minute; PIMSIM_LARGE=1 runs it")
def test_flash_and_vanilla_move_the_published_words() -> None:
    sizes = ["phase=prefill", "queries=1024", "keys=1024", "heads=1", "d_head=64", "causal=false"]
    moved = []
    for name, parameters in (("flash", {"version": 1, "on_chip_words": 51_200}), ("vanilla", {})):
        counts = run(name, *sizes, parameters=parameters, machine=["arch.asic.sram_bytes=1048576"]).counts
        assert counts is not None
        assert counts["equal"]
        moved.append(counts["reads"] + counts["writes"])
    assert moved == [1_335_296, 4_456_448]


def test_strict_runs_break_no_rule() -> None:
    result = run("flash", "keys=40", "heads=2", "d_head=8", strict=True)
    assert result.legality is not None
    assert result.legality["checked"] == result.simulation.commands
