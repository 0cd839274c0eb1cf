"""The mapped program computes what the float64 reference computes."""

from __future__ import annotations

import numpy as np
import pytest

from pimsim.arch.functions import FUNCTIONS
from pimsim.config import load_arch, load_workload
from pimsim.errors import CapacityExceeded, WorkloadError
from pimsim.functional.executor import Executor
from pimsim.session import Session
from pimsim.workload.reference import Reference, random_weights

TOLERANCE = {"float32": 5e-3, "float16": 3e-2, "bfloat16": 2e-1}
"""Of the largest logit: 1/sqrt with one Newton step is 1.8e-3 off, and bfloat16 has 8 bits."""
GATED = {"norm": "rmsnorm", "gated": "true", "position": "rope", "biases": "[]"}
FAMILIES: dict[str, dict[str, object]] = {
    "llama": GATED | {"kv_heads": 2, "heads": 4, "activation": "silu"},
    "gemma": GATED | {"kv_heads": 1, "heads": 2, "norm_offset": 1.0, "embedding_scale": 8.0},
    "qwen2": GATED | {"kv_heads": 2, "heads": 4, "activation": "silu", "biases": "[attention]", "rope_theta": 1e6},
    "gptj": {
        "parallel_residual": "true",
        "position": "rope",
        "rope_convention": "interleaved",
        "rope_fraction": 0.5,
        "biases": "[feed_forward, lm_head]",
        "tied_embeddings": "false",
    },
    "opt": {"activation": "relu"},
    "erf": {"activation": "gelu_erf"},
    "erf_gate": GATED | {"kv_heads": 2, "heads": 4, "activation": "gelu_erf"},
    "gpt_neo": {"attention_scale": 1.0, "biases": "[projection, feed_forward]"},
}
"""What each family has that GPT-2 has not; heads are 32 wide."""
EXACT = (
    ("asic.functions.rsqrt_newton_steps", "4"),
    ("asic.functions.exp_taylor_terms", "12"),
    ("asic.functions.reciprocal_newton_steps", "5"),
)
"""An ASIC whose functions are exact to float32."""
MACHINES = [(), (("dram.channels", "3"),), (("pim.global_buffer_bytes", "128"),), (("dispatch", "serial"),)]


def sessions(
    number_format: str, machine: tuple[tuple[str, str], ...] = (), family: str = "gpt2", vocabulary: int = 77
) -> tuple[Session, Reference]:
    options = [("pim.format", number_format), *machine]
    arch = load_arch("pim_gpt", options).value
    model: dict[str, object] = {"layers": 2, "heads": 2, "d_model": 64, "d_head": 32, "d_ff": 100, "context": 40}
    model |= {"vocabulary": vocabulary} | FAMILIES.get(family, {})
    fields = {"family": {"erf": "gpt2", "erf_gate": "llama"}.get(family, family)} | {
        f"model.{name}": str(value) for name, value in model.items()
    }
    fields |= {"prompt_tokens": "3", "generate_tokens": "18", "lm_head": "true", "embeddings": "true"}
    workload = load_workload("gpt2_decode", list(fields.items())).value
    session = Session(workload, arch, random_weights(_graph(workload), scale=0.2))
    return session, Reference(session.graph, workload, random_weights(session.graph, scale=0.2))


def _graph(workload):  # type: ignore[no-untyped-def]
    from pimsim.workload.models import build_graph

    return build_graph(workload)


def worst(session: Session, reference: Reference) -> float:
    error = 0.0
    for position in range(session.capacity):
        token = 7 * position % 77
        exact = reference.step(token, position)["final.lm_head"]
        found = session.step(token)
        assert session.argmax == int(np.argmax(found))
        error = max(error, float(np.max(np.abs(found - exact)) / np.max(np.abs(exact))))
    return error


@pytest.mark.parametrize("number_format", TOLERANCE)
@pytest.mark.parametrize("machine", MACHINES)
def test_logits_are_those_of_the_reference(number_format: str, machine: tuple[tuple[str, str], ...]) -> None:
    assert worst(*sessions(number_format, machine)) < TOLERANCE[number_format]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dispatch", ["overlap", "serial"])
def test_with_functions_that_are_exact_the_logits_are(family: str, dispatch: str) -> None:
    assert worst(*sessions("float32", (*EXACT, ("dispatch", dispatch)), family)) < 1e-5


@pytest.mark.parametrize("number_format", TOLERANCE)
@pytest.mark.parametrize("machine", [*MACHINES, (("dram.columns", "4"), ("dram.rows", "65536"))])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_products_that_are_put_off_are_the_same(
    number_format: str, machine: tuple[tuple[str, str], ...], family: str
) -> None:
    """All memories are equal, bit for bit, to those of an executor that goes command by command."""
    if family == "llama" and ("pim.global_buffer_bytes", "128") in machine:
        machine = (("pim.global_buffer_bytes", "256"),)
    (fast, _), (plain, _) = (sessions(number_format, machine, family) for _ in range(2))
    plain.executor.batched = False
    for token in range(20):
        assert fast.step(token).tobytes() == plain.step(token).tobytes()
    for memory in ("rows", "buffers", "accumulators", "sram"):
        assert getattr(fast.executor, memory).tobytes() == getattr(plain.executor, memory).tobytes(), memory


@pytest.mark.parametrize(
    ("family", "sram", "buffer", "chunks"), [("llama", 3600, 512, 1), ("gptj", 4400, 128, 2)], ids=["llama", "gptj"]
)
@pytest.mark.parametrize("dispatch", ["overlap", "serial"])
def test_logits_come_in_pieces_where_the_sram_is_small(
    family: str, sram: int, buffer: int, chunks: int, dispatch: str
) -> None:
    small: tuple[tuple[str, str], ...] = (("dispatch", dispatch),)
    small += (("asic.sram_bytes", str(sram)), ("dram.channels", "1"), ("pim.global_buffer_bytes", str(buffer)))
    session, reference = sessions("float32", (*EXACT, *small), family, vocabulary=700)
    pieces = -(-session.mapping.layouts["lm_head"].slots(0) // session.mapping.head_piece)
    assert (pieces > 2, len(session.mapping.layouts["lm_head"].chunks)) == (True, chunks)
    assert worst(session, reference) < 1e-5


def test_a_wrong_layout_is_noticed() -> None:
    session, reference = sessions("float32")
    session.executor.rows[:] = np.roll(session.executor.rows, 1, axis=1)
    assert worst(session, reference) > 0.1


def test_every_command_and_function_has_a_handler() -> None:
    assert set(Executor.commands) == set(load_arch("pim_gpt").value.dram.commands)
    assert set(Executor.functions) == set(FUNCTIONS)


def test_the_cache_has_an_end() -> None:
    session, _ = sessions("float32")
    session.length = session.capacity
    with pytest.raises(CapacityExceeded, match=r"^prompt_tokens \+ generate_tokens - 1 must be at least 21"):
        session.step(0)


def test_a_token_is_one_of_the_vocabulary() -> None:
    with pytest.raises(WorkloadError, match=r"^a token must be from 0 to 76, not 77"):
        sessions("float32")[0].step(77)
