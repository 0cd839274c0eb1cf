"""How far an algorithm that approximates is from exact softmax attention, on tensors of its stated distribution."""

from __future__ import annotations

import numpy as np

from pimsim.workload.attention.base import Algorithm, Case, exact_attention

MOST_PAIRS = 1 << 25
"""Scores beyond which nobody waits for a comparison."""


def error_against_exact(kind: Algorithm, case: Case, seed: int = 0) -> float | None:
    """2-norm of the difference over that of exact attention; 0 where the algorithm is exact.

    None where there is nothing to compare with: the algorithm has no queries, keys and values (or its output another
    shape), is not in phase prefill or decode, or the case is too large to be compared.
    """
    if kind.exact:
        return 0.0
    if not {"q", "k", "v"} <= set(kind.inputs(case)) or case.phase not in {"prefill", "decode"}:
        return None
    if case.heads * case.queries * case.keys > MOST_PAIRS:
        return None
    tensors = kind.sample(case, seed)
    exact, found = exact_attention(case, tensors), kind.reference(case, tensors)["output"]
    if found.shape != exact.shape:
        return None
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


__all__ = ["error_against_exact"]
