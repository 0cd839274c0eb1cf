"""Numbers of several tokens at once on a hybrid machine: every token against float64, in both orders, whoever does what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pimsim.arch.hybrid import PLACEABLE, PLACEABLE_PRODUCTS
from pimsim.config import load_arch
from pimsim.errors import CapacityExceeded
from pimsim.functional.stream import StreamMemory
from pimsim.mapper.group import Token, groups
from pimsim.mapper.hybrid_group import HybridGroupMapping
from pimsim.program.isa import Block, Kernel, Placed, Step
from pimsim.runners.group_check import GroupCheck, require_memory_for_captures
from pimsim.runners.pim_check import PimCheck, check
from pimsim.workload.config import DecoderConfig, WorkloadConfig

EVERYWHERE = dict.fromkeys(PLACEABLE, "fpga")
PLACEMENTS: dict[str, dict[str, Any]] = {
    "pim_only": {"placement": "pim_only"},
    "stream_attention": {"placement": "stream_attention"},
    "everywhere": {"placement": "fixed", "fixed": EVERYWHERE},
    "products": {"placement": "fixed", "fixed": EVERYWHERE | {"attention": "pim"}},
    "prompt": {"placement": "fixed", "fixed": {}, "fixed_prompt": dict.fromkeys(PLACEABLE_PRODUCTS, "fpga")},
    "up": {"placement": "fixed", "fixed": {"attention": "fpga"}, "fixed_prompt": {"ffn_up": "fpga"}},
    "down": {"placement": "fixed", "fixed": {"ffn_down": "fpga"}},
}
ARCH = load_arch("hybrid_pim_fpga").value
WIDE, TIGHT = 131072, 4096
"""Bytes of an SRAM that holds all tokens, and of one where they take turns."""


def workload(attention: str = "vanilla", **changes: Any) -> WorkloadConfig:
    """Shared heads of a width that fills no whole beats, rotation, a gate and a head; five tokens at once, then one."""
    shape = {"layers": 2, "d_model": 60, "heads": 6, "kv_heads": 2, "d_head": 20, "d_ff": 72, "vocabulary": 50}
    structure = {"norm": "rmsnorm", "activation": "silu", "gated": True, "position": "rope", "biases": ["attention"]}
    parallel = {"parallel_residual": changes.pop("parallel_residual", False)}
    model: dict[str, Any] = {**shape, **structure, **parallel, "context": 64}
    run = {"prompt_tokens": 9, "generate_tokens": 3, "prefill": "matrix", "prefill_tokens": 5, **changes}
    run = {"lm_head": True, "embeddings": True, **run}
    return WorkloadConfig(name="tiny", model=DecoderConfig(**model), attention=attention, **run)


def machine(placement: str, sram: int = WIDE, number_format: str = "bfloat16") -> Any:
    pim, asic = (getattr(ARCH, part) for part in ("pim", "asic"))
    return ARCH.model_copy(
        update={
            **PLACEMENTS[placement],
            "pim": pim.model_copy(update={"format": number_format}),
            "asic": asic.model_copy(update={"sram_bytes": sram}),
        }
    )


CASES = [
    (placement, "vanilla" if placement in {"pim_only", "products", "prompt", "down"} else attention, sram)
    for placement in PLACEMENTS
    for attention in ("vanilla", "single_pass")
    for sram in (WIDE, TIGHT)
    if placement != "pim_only" or sram == WIDE
]


@pytest.mark.parametrize(("placement", "attention", "sram"), list(dict.fromkeys(CASES)))
def test_every_placement_computes_the_model(placement: str, attention: str, sram: int) -> None:
    one = GroupCheck(machine(placement, sram), workload(attention), 4)
    assert isinstance(one.mapping, HybridGroupMapping)
    assert one.mapping.slots == (2 if sram == TIGHT else 5)
    found = one.run()
    assert found["message"] is None
    assert found["passes"] == 4
    assert found["by_op"]["attention_values"]["compared"] == 2 * 11  # nine tokens of the prompt, two more


@pytest.mark.parametrize("sram", [WIDE, TIGHT])
@pytest.mark.parametrize("placement", ["stream_attention", "everywhere", "down"])
def test_batches_and_work_that_runs_beside_attention(placement: str, sram: int) -> None:
    for changes in (
        {"batch": 5, "prefill_tokens": 2},
        {"parallel_residual": True, "lm_head": False, "embeddings": False},
    ):
        assert check(machine(placement, sram), workload(**changes), 5)["message"] is None


@pytest.mark.parametrize("attention", ["vanilla", "single_pass"])
def test_a_group_computes_bit_for_bit_what_single_tokens_do(attention: str) -> None:
    """The order of the hardware is that of a single token, so nothing may differ, however tokens are grouped."""
    alone = PimCheck(machine("everywhere"), workload(attention, prefill="token_by_token"), 11)
    alone.tokens[:] = [GroupCheck.token(alone, at) for at in _places(11)]  # type: ignore[arg-type]
    alone.passes = [alone.session.mapping.forward_pass(i + 1, token, head=True) for i, token in enumerate(alone.tokens)]
    logits = []
    for number, blocks in enumerate(alone.passes):
        alone.session.enter(number)
        alone.session.executor.run(blocks)
        logits.append(alone.session.logits)
    for sram in (WIDE, TIGHT):
        group = GroupCheck(machine("everywhere", sram), workload(attention), 4)
        found = []
        for number, blocks in enumerate(group.passes):
            group._enter(number)
            group.session.executor.run(blocks)
            found += [group.session.logits_of(slot) for slot in range(len(group.groups[number]))]
        assert np.array_equal(np.array(found), np.array(logits))


def _places(tokens: int) -> list[Any]:
    return [Token(0, position) for position in range(tokens)]


@pytest.mark.parametrize("clock_mhz", [333.3, 700.0, 1750.0])
def test_clocks_that_do_not_meet_the_memorys(clock_mhz: float) -> None:
    """The order of steps is that of their edges: slower and faster ASICs and links."""
    arch = machine("down", TIGHT)
    parts = {name: getattr(arch, name).model_copy(update={"clock_mhz": clock_mhz}) for name in ("asic", "link")}
    assert check(arch.model_copy(update=parts), workload(), 2)["message"] is None
    alone = load_arch("pim_gpt", [("asic.clock_mhz", str(clock_mhz))]).value
    assert check(alone, workload(prefill="token_by_token"), 2)["message"] is None


# ------------------------------------------------------------------------------------------------- what is planted is found


def broken(change: Callable[[str, Step], Step], placement: str = "up") -> str:
    """The message of a check whose steps of further units are changed; tokens take turns in the SRAM."""
    one = GroupCheck(machine(placement, TIGHT), workload("single_pass"), 3)

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
    assert message.startswith("h0.")  # already in program order, which follows what steps wait for


def test_a_token_that_comes_before_its_place_is_free_is_found() -> None:
    """What a later wave fetches waits for what the wave before it has sent."""

    def early(name: str, step: Step) -> Step:
        if name != "link_out":
            return step
        return replace(
            step, waits=tuple(token for token in step.waits if ".in@" not in token and ".sent@" not in token)
        )

    assert broken(early).startswith("h0.")


def test_a_token_that_sees_a_later_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from pimsim.functional import stream

    monkeypatch.setattr(stream, "_contexts", lambda kernel: [kernel.context] * stream._tokens(kernel, 5))
    assert broken(lambda _, step: step).startswith("h0.values (attention_values) must be what the reference computes")


def test_a_vector_at_the_place_of_another_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = StreamMemory._linear

    def wrong(self: StreamMemory, kernel: Kernel, layer: int) -> Any:
        return np.roll(right(self, kernel, layer), 1, axis=0)

    monkeypatch.setattr(StreamMemory, "kernels", {**StreamMemory.kernels, "linear": wrong})
    assert broken(lambda _, step: step).startswith("h0.gate_up (ffn_up) must be what the reference computes")


def test_what_a_check_keeps_must_fit_into_memory() -> None:
    """An image of the SRAM for every operation, in each of three waves, in both orders."""
    arch, work = machine("everywhere", TIGHT), workload(prompt_tokens=5)
    passes = [next(groups(work))]
    operations = 2 * 14 + 4  # of two layers, and embedding, norm, head and arg-max
    needed = 2 * (4 * (TIGHT // 2)) * 3 * operations
    require_memory_for_captures(arch, work, passes, needed)
    with pytest.raises(
        CapacityExceeded, match=r"^--check of 1 passes of tiny must fit into memory: what its operations w"
    ):
        require_memory_for_captures(arch, work, passes, needed - 1)
