"""Numbers on a hybrid machine: the same program that is timed, against float64 and against itself in the machine's order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pimsim.arch.hybrid import PLACEABLE
from pimsim.config import load_arch
from pimsim.errors import ProgramError
from pimsim.functional.numerics import float_spec
from pimsim.functional.stream import StreamMemory, dot
from pimsim.mapper.fpga import kernels
from pimsim.program.isa import Block, Kernel, Placed, Step
from pimsim.runners.pim_check import PimCheck, check
from pimsim.workload.config import DecoderConfig, WorkloadConfig

EVERYWHERE = dict.fromkeys(PLACEABLE, "fpga")
PLACEMENTS: dict[str, dict[str, Any]] = {
    "pim_only": {},
    "stream_attention": {"placement": "stream_attention"},
    "everywhere": {"placement": "fixed", "fixed": EVERYWHERE},
    "products": {"placement": "fixed", "fixed": EVERYWHERE | {"attention": "pim"}},
}
ARCH = load_arch("hybrid_pim_fpga").value


def workload(attention: str = "vanilla", tokens: int = 20, **model: Any) -> WorkloadConfig:
    """Shared heads of a width that fills no whole beats, rotation, a gate and a head."""
    shape = {
        "layers": 2,
        "d_model": 60,
        "heads": 6,
        "kv_heads": 2,
        "d_head": 20,
        "d_ff": 72,
        "vocabulary": 50,
        "context": 64,
    }
    structure = {"norm": "rmsnorm", "activation": "silu", "gated": True, "position": "rope", "biases": ["attention"]}
    return WorkloadConfig(
        name="tiny",
        model=DecoderConfig(**{**shape, **structure, **model}),
        generate_tokens=tokens,
        attention=attention,
        lm_head=True,
        embeddings=True,
    )


def machine(placement: str, number_format: str = "bfloat16") -> Any:
    return ARCH.model_copy(
        update={**PLACEMENTS[placement], "pim": ARCH.pim.model_copy(update={"format": number_format})}
    )


@pytest.mark.parametrize("number_format", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    ("placement", "attention"),
    [
        ("pim_only", "vanilla"),
        ("stream_attention", "vanilla"),
        ("stream_attention", "single_pass"),
        ("everywhere", "single_pass"),
        ("products", "vanilla"),
    ],
)
def test_every_placement_computes_the_model(placement: str, attention: str, number_format: str) -> None:
    found = check(machine(placement, number_format), workload(attention), 17)
    assert found["message"] is None
    assert found["passed"]
    assert found["passes"] == 17
    assert ("attention_scores" in found["by_op"]) == (
        placement in {"pim_only", "products"}
    )  # else they stay on the unit
    assert found["by_op"]["attention_values"]["compared"] == 34


def test_work_that_runs_beside_attention() -> None:
    work = workload("single_pass", parallel_residual=True)
    assert check(machine("stream_attention"), work, 3)["message"] is None
    assert check(machine("everywhere"), work, 3)["message"] is None


def test_two_schedules_give_the_same_but_for_rounding() -> None:
    results = []
    for attention in ("vanilla", "single_pass"):
        one = PimCheck(machine("stream_attention", "float32"), workload(attention), 18)
        one.run()
        results.append(one.judge.found["final.lm_head"])
    assert np.max(np.abs(results[0] - results[1])) < 1e-5 * np.max(np.abs(results[0]))
    assert not np.array_equal(*results)


# ------------------------------------------------------------------------------------------------- what is planted is found


def broken(change: Callable[[str, Step], Step], placement: str = "stream_attention") -> str:
    """The message of a check whose attention steps of further units are changed."""
    one = PimCheck(machine(placement), workload("single_pass"), 3)

    def changed(placed: Placed) -> Placed:
        block = placed.block
        further = tuple((name, tuple(change(name, step) for step in stream)) for name, stream in block.further)
        return replace(placed, block=Block(block.name, block.ops, block.channels, block.asic, further=further))

    one.passes = [[changed(placed) for placed in blocks] for blocks in one.passes]
    return str(one.run()["message"])


def test_nothing_planted_nothing_found() -> None:
    assert broken(lambda _, step: step) == "None"


@pytest.mark.parametrize("unit", ["link_in", "fpga", "link_out"])
def test_a_step_that_does_not_wait_is_found(unit: str) -> None:
    message = broken(lambda name, step: replace(step, waits=()) if name == unit else step)
    assert message.startswith("h0.")
    assert "must be the same in program order and in the machine's order" in message


def test_a_transfer_from_the_wrong_place_is_found() -> None:
    def shifted(name: str, step: Step) -> Step:
        if name != "link_in":
            return step
        return replace(step, items=tuple(replace(item, source=item.source + 1) for item in step.items))  # type: ignore[type-var, arg-type]

    assert broken(shifted).startswith("h0.values (attention_values) must be what the reference computes")


def test_a_token_left_out_of_the_cache_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = StreamMemory._append

    def wrong(self: StreamMemory, kernel: Kernel, layer: int) -> Any:
        queries, keys, values = right(self, kernel, layer)
        return queries, np.roll(keys, 1, axis=0), values

    monkeypatch.setattr(StreamMemory, "_append", wrong)
    assert broken(lambda _, step: step).startswith("h0.values (attention_values) must be what the reference computes")


# ------------------------------------------------------------------------------------------------------------ arithmetic


def test_dot_is_a_tree_over_words_and_a_chain_over_beats() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 40)).astype(np.float32)
    total = np.float32(0)
    for start in range(0, 40, 8):
        p = (a * b)[start : start + 8]
        total += ((p[0] + p[1]) + (p[2] + p[3])) + ((p[4] + p[5]) + (p[6] + p[7]))
    assert dot(a, b, 8) == total


def test_kernels_say_what_is_missing() -> None:
    memory = StreamMemory(float_spec("float32"), 100)
    region = kernels.linear(4, 4, 8, ARCH.fpga.linear)
    with pytest.raises(ProgramError, match=r"^kernel must be one of linear, scores, weighted, attend, not 'conv'$"):
        memory.run(Kernel("conv", region, (4, 4, 8), 0, 0), 0)
    with pytest.raises(ProgramError, match=r"^the streaming unit must have the matrix 'up' of layer 0$"):
        memory.run(Kernel("linear", region, (4, 4, 8), 0, 0, "up"), 0)
    with pytest.raises(ProgramError, match=r"^the cache of layer 1 must hold 2 tokens, not 0$"):
        memory.run(Kernel("attend", region, (2, 1, 4, 2, 8), 0, 50, "kv", 3), 1)
