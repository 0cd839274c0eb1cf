"""Numbers of several tokens in a forward pass: each token against float64, each sequence with a cache of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pimsim.config import load_arch
from pimsim.errors import MappingError, WorkloadError
from pimsim.mapper.group import GroupMapping
from pimsim.mapper.lower import ops as lowering
from pimsim.program.isa import Block
from pimsim.runners.group_check import GroupCheck
from pimsim.runners.pim_check import check
from pimsim.session import Session
from pimsim.workload.config import DecoderConfig, WorkloadConfig

ARCH = load_arch("pim_gpt").value
LLAMA: dict[str, Any] = {
    "layers": 2,
    "d_model": 60,
    "heads": 6,
    "kv_heads": 2,
    "d_head": 20,
    "d_ff": 72,
    "vocabulary": 50,
}
LLAMA |= {
    "norm": "rmsnorm",
    "activation": "silu",
    "gated": True,
    "position": "rope",
    "biases": ["attention"],
    "context": 64,
}
GPT2: dict[str, Any] = {"layers": 2, "d_model": 64, "heads": 4, "d_ff": 1100, "vocabulary": 70, "context": 64}


def workload(model: dict[str, Any], **fields: Any) -> WorkloadConfig:
    given = {"prompt_tokens": 7, "generate_tokens": 2, "lm_head": True, "embeddings": True} | fields
    return WorkloadConfig(name="tiny", model=DecoderConfig(**model), **given)


def machine(sram_bytes: int = ARCH.asic.sram_bytes, number_format: str = "bfloat16") -> Any:
    asic = ARCH.asic.model_copy(update={"sram_bytes": sram_bytes})
    return ARCH.model_copy(update={"asic": asic, "pim": ARCH.pim.model_copy(update={"format": number_format})})


@pytest.mark.parametrize(
    ("model", "fields", "passes"),
    [
        (LLAMA, {"prefill": "matrix", "prefill_tokens": 3}, 4),
        (GPT2, {"batch": 3, "prompt_tokens": 2}, 3),
        (LLAMA, {"batch": 2, "prefill": "matrix", "prefill_tokens": 5}, 5),
        (GPT2 | {"parallel_residual": True}, {"prefill": "matrix"}, 3),
        (GPT2, {"batch": 6, "prompt_tokens": 1, "lm_head": False, "embeddings": False}, 2),  # more than accumulators
    ],
    ids=["matrix", "batch", "both", "parallel", "many"],
)
def test_every_token_is_computed(model: dict[str, Any], fields: dict[str, Any], passes: int) -> None:
    work = workload(model, **fields)
    found = check(machine(), work, 50)
    assert found["message"] is None
    assert found["passes"] == passes
    tokens = work.batch * (work.prompt_tokens + work.generate_tokens - 1)
    assert found["by_op"]["residual"]["compared"] == tokens * 2 * 2


def test_scores_that_do_not_fit_at_once() -> None:
    """Heads take turns in the SRAM, token by token."""
    work = workload(GPT2 | {"d_ff": 128}, batch=2, prompt_tokens=46)
    one = GroupCheck(machine(sram_bytes=2704), work, 18)
    assert one.mapping.heads_per_pass < 4
    assert one.run()["message"] is None


def test_float32() -> None:
    assert check(machine(number_format="float32"), workload(LLAMA, prefill="matrix", batch=2), 5)["passed"]


# ------------------------------------------------------------------------------------------------- what is planted is found


def test_sequences_that_share_a_cache_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GroupMapping, "cache_of", lambda self, _: {n: self.layouts[n] for n in ("keys", "values")})
    message = GroupCheck(machine(), workload(GPT2, batch=2, prompt_tokens=2), 4).run()["message"]
    assert message.startswith(
        "sequence 0: h0.scores (attention_scores) must be what the reference computes: layer 0, pass 1"
    )


def test_a_token_that_sees_later_ones_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = lowering._softmax_pass

    def wrong(b: Any, *arguments: Any) -> Any:
        return right(replace(b, context=b.context + 1) if b.context == 2 else b, *arguments)

    monkeypatch.setattr(lowering, "_softmax_pass", wrong)
    message = GroupCheck(machine(), workload(GPT2, prefill="matrix"), 2).run()["message"]
    assert message.startswith("h0.softmax (softmax) must be what the reference computes: layer 0, pass 1")


def test_a_product_that_does_not_wait_for_all_tokens_is_found() -> None:
    one = GroupCheck(machine(), workload(GPT2, prefill="matrix"), 2)

    def hasty(block: Block) -> Block:
        if block.name != "projection":
            return block
        streams = {
            id(stream): tuple(replace(step, waits=step.waits[:1]) for step in stream) for stream in block.channels
        }
        return Block(block.name, block.ops, tuple(streams[id(stream)] for stream in block.channels), block.asic)

    one.passes = [[replace(placed, block=hasty(placed.block)) for placed in blocks] for blocks in one.passes]
    assert "must be the same in program order and in the machine's order" in one.run()["message"]


# ------------------------------------------------------------------------------------------------------------ bad input


def test_what_cannot_be_checked_or_generated() -> None:
    with pytest.raises(MappingError, match=r"^pim.format must not be int8 for --check of several tokens at once$"):
        check(machine(number_format="int8"), workload(GPT2, batch=2), 1)
    with pytest.raises(
        WorkloadError, match=r"^workload.batch must be 1 and workload.prefill token_by_token to generate text$"
    ):
        Session(workload(GPT2, batch=2), machine(), {})
