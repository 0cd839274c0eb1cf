"""Random small decoders, batches and prompts: every token is what float64 says, in both orders, and both engines agree."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pimsim.config import load_arch
from pimsim.machine.fast import FastEngine
from pimsim.machine.reference import ReferenceEngine
from pimsim.mapper.choice import mapping_for
from pimsim.runners.pim_check import check
from pimsim.workload.config import DecoderConfig, WorkloadConfig
from pimsim.workload.models import build_graph


def draw(c: random.Random) -> WorkloadConfig:
    """Widths that fill no columns, shared heads, gates, rotation, parallel residuals; up to five tokens at once."""
    kv_heads, d_head = c.randint(1, 3), 2 * c.randint(2, 12)
    heads = kv_heads * c.randint(1, 3)
    rope, gated = c.random() < 0.5, c.random() < 0.5
    model: dict[str, Any] = {
        "layers": c.randint(1, 2),
        "d_model": c.randint(20, 90),
        "heads": heads,
        "kv_heads": kv_heads,
        "d_head": d_head,
        "d_ff": c.randint(20, 1300),
        "vocabulary": c.randint(20, 300),
        "context": 64,
        "gated": gated,
        "activation": "silu" if gated else "gelu_tanh",
        "norm": c.choice(["layernorm", "rmsnorm"]),
        "position": "rope" if rope else "learned",
        "parallel_residual": c.random() < 0.3,
    }
    whole = c.random() < 0.7
    return WorkloadConfig(
        name="drawn",
        model=DecoderConfig(**model),
        prompt_tokens=c.randint(1, 9),
        generate_tokens=c.randint(1, 3),
        batch=c.randint(1, 5),
        prefill=c.choice(["token_by_token", "matrix"]),
        prefill_tokens=c.randint(2, 5),
        lm_head=whole,
        embeddings=whole,
    )


@pytest.mark.parametrize("seed", range(8))
def test_every_token_of_drawn_runs(seed: int) -> None:
    workload = draw(random.Random(seed))
    arch = load_arch("pim_gpt").value
    assert check(arch, workload, 4)["message"] is None
    found = []
    for engine in (FastEngine, ReferenceEngine):
        mapping = mapping_for(workload, build_graph(workload), arch, arch.dram.resolve())
        machine = engine(arch, mapping.spec, trace=True)
        totals = machine.run(mapping.program())
        found.append((sorted(machine.trace or []), totals.ticks, totals.op_ticks, totals.unit_busy, totals.token_ticks))
    same = found[0] == found[1]
    assert same
