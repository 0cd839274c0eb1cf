"""Attention algorithms on a PIM machine: the program computes the reference, counts as the closed forms, engines agree."""

from __future__ import annotations

import json
from dataclasses import fields
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
from pimsim.mapper.attention.lowering import LOWERINGS
from pimsim.program.isa import Placed
from pimsim.program.verify import verify
from pimsim.result import Result
from pimsim.run import simulate
from pimsim.runners.pim_attention import lower
from pimsim.runners.pim_check import timed_steps
from pimsim.workload.attention import primitives
from pimsim.workload.attention.base import Case, Counts, algorithm, discover
from pimsim.workload.attention.decisions import draw

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
EXACT_IN_SHORT = {"vanilla", "single_pass", "flash", "lean", "reordered", "topk", "longformer", "linear"}
"""Checked in bfloat16; the others in float32, as their normalisations of a few elements make much of little errors."""

REFUSED = {("landmark", "decode")}
"""(algorithm, phase) that the machine does not run, see docs/attention.md."""


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
    if (name, case.phase) in REFUSED:
        pytest.skip("refused, see test_what_is_refused")
    number_format = "bfloat16" if name in EXACT_IN_SHORT else "float32"
    arch = load_arch("pim_gpt", [("pim.format", number_format)]).value
    spec = arch.dram.resolve()
    inputs = prepare(algorithm(name, parameters), case, 0, number_format, None)
    lowering, block = lower(arch, spec, inputs.ops, inputs.indices())
    program = [Placed(block, 0, -1)]
    sram, buffer = arch.asic.sram_bytes // 4, arch.pim.global_buffer_bytes // spec.burst_bytes
    verify(program, spec, sram, buffer, lanes=lowering.shape.lanes)
    check = AttentionCheck(arch, spec, inputs, lowering.values, lowering.constants, lowering.banks.used)
    found = check.run(program, timed_steps(arch, spec, [program]))
    assert found["message"] is None
    assert found["max_rel_error"] <= found["tolerance"] < 0.5
    from pimsim.mapper.attention.count import count_program

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
    check = AttentionCheck(arch, spec, inputs, lowering.values, lowering.constants, lowering.banks.used)
    found = check.run([Placed(block, 0, -1)], timed_steps(arch, spec, [[Placed(block, 0, -1)]]))
    assert found["message"].startswith("output of attention single_pass must be within ")


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
    with pytest.raises(UnsupportedOp, match=r"^load\.\d+ must load rows of a tensor as they lie in memory"):
        run("landmark", "keys=40", "heads=1", "d_head=4", parameters={"block": 3})
    with pytest.raises(CapacityExceeded, match=r"^asic\.sram_bytes must hold the results of the attention algorithm: "):
        run("vanilla", "keys=100000", "heads=1", "d_head=8")
    with pytest.raises(InputError, match=r"^--check must be left out where pim.format is int8"):
        run("vanilla", "keys=40", machine=["arch.pim.format=int8"], check_tokens=1)
