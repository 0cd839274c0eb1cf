"""Evaluates an expansion on NumPy arrays: the meaning of the primitives, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pimsim.errors import WorkloadError
from pimsim.workload.attention.primitives import Decision, Primitive, Source
from pimsim.workload.graph import WorkloadGraph

Array = npt.NDArray[Any]


def evaluate(
    graph: WorkloadGraph,
    tensors: Mapping[str, Array],
    replay: Mapping[str, Array] | None = None,
    record: dict[str, Array] | None = None,
) -> dict[str, Any]:
    """The result of every operation by name.

    Args:
        graph: An expansion.
        tensors: The sources by name.
        replay: Decisions by name that are taken instead of what the data say; others follow from the data.
        record: Filled with every decision that was taken.

    Raises:
        WorkloadError: a tensor is missing or has another shape, or a decision does not fit.
    """
    results: dict[str, Any] = {}
    for op in graph:
        assert isinstance(op, Primitive)
        if isinstance(op, Source):
            results[op.name] = _given(op, tensors)
            continue
        if isinstance(op, Decision) and replay is not None and op.name in replay:
            found: Any = np.asarray(replay[op.name])
        else:
            found = op.meaning(*(results[name] for name in op.inputs))
        if isinstance(found, np.ndarray) and found.shape != op.shape:
            raise WorkloadError(f"result of {op.name} must have shape {op.shape}, not {found.shape}")
        if record is not None and isinstance(op, Decision):
            record[op.name] = found
        results[op.name] = found
    return results


def _given(op: Source, tensors: Mapping[str, Array]) -> Array:
    if op.name not in tensors:
        raise WorkloadError(f"tensors must have {op.name!r} of shape {op.shape}; given: {', '.join(sorted(tensors))}")
    found = np.asarray(tensors[op.name])
    if found.shape != op.shape:
        raise WorkloadError(f"tensor {op.name!r} must have shape {op.shape}, not {found.shape}")
    return found
