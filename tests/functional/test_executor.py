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
MACHINES = [(), (("dram.channels", "3"),), (("pim.global_buffer_bytes", "128"),), (("dispatch", "serial"),)]


def sessions(number_format: str, machine: tuple[tuple[str, str], ...] = ()) -> tuple[Session, Reference]:
    options = [("pim.format", number_format), *machine]
    arch = load_arch("pim_gpt", options).value
    model = {"layers": 2, "heads": 2, "d_model": 64, "d_ff": 100, "vocabulary": 77, "context": 40}
    fields = {f"model.{name}": str(value) for name, value in model.items()}
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
