"""Attention algorithms inside a decoder: which make sense there, and where what they ask for comes from.

A decoder takes one token after the other, prompts included, so an algorithm takes part with its phase ``decode``: the
queries, key and value of a token are those of the layer's projection, ``x`` is the layer's input behind its norm. What it keeps
from token to token besides a cache of keys and values (a state ``S``, which comes back as ``new_S``) begins as zeros. Anything
else that it asks for is a tensor of the model, ``h<layer>.attend.<name>``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from pimsim.errors import WorkloadError
from pimsim.workload.attention.base import Algorithm, Case, algorithm, discover
from pimsim.workload.attention.primitives import Decision, Primitive, Shape

if TYPE_CHECKING:
    from pimsim.workload.config import WorkloadConfig

PROJECTED = ("q", "k_new", "v_new")
"""Inputs that are parts of the projection."""

CACHES = ("k", "v")
"""Inputs that are caches of keys and of values."""

HIDDEN = "x"
"""Input that is the hidden state behind the norm."""

REFUSED = {
    "vanilla": "its schedule in a decoder is one of its own, without parameters",
    "kv_drop": "it writes its cache anew in an order that data decide, which the rows of a decoder's keys do not follow",
    "landmark": "it fetches blocks of keys and values, which a decoder's cache does not keep together",
}
"""Algorithms with a phase decode that still have no place in a decoder, and why."""


def refusal(kind: type[Algorithm]) -> str | None:
    """Why an algorithm is not part of any decoder; None if it can be."""
    name = kind.name()
    if "decode" not in kind.phases:
        phases = ", ".join(kind.phases)
        return f"it has no phase decode, only {phases}, and a decoder takes one token after the other"
    if name in REFUSED:
        return REFUSED[name]
    asked = kind().inputs(case_of(2, 2, 4, 2))
    if not set(PROJECTED) <= set(asked):
        return f"it takes the place of a linear layer: it asks for {', '.join(asked)}, not for queries, keys and values"
    return None


def in_decoders() -> dict[str, str | None]:
    """Every algorithm -> why it is not part of a decoder, or None."""
    return {name: None if name == "vanilla" else refusal(kind) for name, kind in discover().items()}


def case_of(heads: int, kv_heads: int, d_head: int, context: int) -> Case:
    """The sizes of a token that sees ``context`` tokens, itself included."""
    return Case(phase="decode", queries=1, keys=context, d_head=d_head, heads=heads, kv_heads=kv_heads)


def method_for(workload: WorkloadConfig) -> Algorithm:
    """The attention algorithm of a decoder, with its parameters.

    Raises:
        WorkloadError: a parameter is unknown or out of range, or the algorithm makes no sense in this decoder; the message
            says why.
    """
    model, name = workload.model, workload.attention
    method = algorithm(name, workload.attention_parameters)
    why = refusal(type(method))
    if why is None and workload.together > 1 and name != "single_pass":  # which a streaming unit may have
        why = f"{workload.together} tokens go through a forward pass together, which only vanilla attention does"
    if why is None and HIDDEN in asked_for(method) and model.heads * model.head_width != model.d_model:
        why = (
            f"each head asks for its part of the layer's input, and {model.heads} heads of {model.head_width} are not the "
            f"{model.d_model} elements of that"
        )
    if why is not None:
        raise WorkloadError(f"attention {name} must be left to workloads of kind attention: in this decoder, {why}")
    method.check(case_of(model.heads, model.key_value_heads, model.head_width, 2))
    return method


def asked_for(method: Algorithm) -> tuple[str, ...]:
    """Names of everything that a token's attention asks for."""
    return tuple(method.inputs(case_of(2, 2, 4, 2)))


def reads_hidden(method: Algorithm) -> bool:
    """Whether it asks for the layer's input."""
    return HIDDEN in asked_for(method)


@lru_cache(maxsize=64)
def states_of(method: Algorithm) -> tuple[str, ...]:
    """Names of the inputs that are left by one token for the next."""
    case = case_of(2, 2, 4, 2)
    results = {op.name for op in method.expand(case)}
    return tuple(name for name in method.inputs(case) if f"new_{name}" in results)


def parameters_of(method: Algorithm, case: Case) -> dict[str, Shape]:
    """Name -> shape of what a model must have for the algorithm."""
    known = {*PROJECTED, *CACHES, HIDDEN, *states_of(method)}
    return {name: shape for name, shape in method.inputs(case).items() if name not in known}


@lru_cache(maxsize=64)
def depends_on_data(method: Algorithm) -> bool:
    """Whether data decide about a token's program."""
    return any(isinstance(op, Decision) for op in method.expand(case_of(2, 2, 4, 2)))


def primitives_of(method: Algorithm, case: Case) -> list[Primitive]:
    """The expansion of one token's attention, in order."""
    return [op for op in method.expand(case) if isinstance(op, Primitive)]


__all__ = [
    "CACHES",
    "HIDDEN",
    "PROJECTED",
    "asked_for",
    "case_of",
    "depends_on_data",
    "in_decoders",
    "method_for",
    "parameters_of",
    "primitives_of",
    "reads_hidden",
    "refusal",
    "states_of",
]
