"""What each kind of attention primitive asks of the units of a streaming machine: passes over rows. None knows an algorithm.

A pass is work of one unit on rows of elements; the passes of a primitive follow each other row by row, so that one row is in
the second while the next is in the first. Counted events (``macs``, ``scores``, ``exps``, ``logs``) hang on the elements and
results that a pass computes, so that a program counts what it does, lane by lane.

=====================  =====================================================================================================
kind                   passes
=====================  =====================================================================================================
scores, product        dot products: multiply-accumulate
weighted_sum           multiply-accumulate of weights and rows of values; an old state is rescaled: elementwise
exponentiate (mla)     maximum: compare; weights and the factor of an old state: exponential
exponentiate (log)     maximum: compare; sum: exponential; its logarithm, with an old state a softplus; weights: exponential
softmax                maximum: compare; exponential; divide
merge                  maximum: compare; two factors: exponential; both states rescaled: elementwise
normalise              divide; a logarithm where the logarithm of the sum is asked for
top_k, boundary, ...   one comparison per candidate: compare (a sorted list of k beside the stream takes one at a time)
norm                   moments: reduce; scale and shift: elementwise
others                 a pass of exponential, divide, elementwise, reduce or move over all elements
=====================  =====================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from pimsim.errors import UnsupportedOp
from pimsim.workload.attention import primitives as p
from pimsim.workload.attention.primitives import Primitive


@dataclass(frozen=True, slots=True)
class Pass:
    """``outputs`` results of ``inner`` elements each, spread evenly over ``rows`` rows, on one unit."""

    unit: str
    rows: int
    outputs: int
    inner: int = 1
    element: str = ""
    """What is counted for each element."""
    output: str = ""
    """What is counted for each result."""


def _rows(op: Primitive) -> int:
    return max(1, prod(op.shape[:-1]))


def _scores(op: Primitive) -> list[Pass]:
    bias = [Pass("elementwise", _rows(op), op.live)] if len(op.sources) > 2 else []
    return [Pass("multiply_accumulate", _rows(op), op.live, op.sources[0][-1], "macs", "scores"), *bias]


def _entries(op: Primitive) -> int:
    """Entries of the first factor that meet a row of the second one."""
    return prod(op.sources[0]) if op.pairs < 0 else op.pairs


def _product(op: Primitive) -> list[Pass]:
    bias = [Pass("elementwise", _rows(op), op.size)] if len(op.sources) > 2 else []
    return [Pass("multiply_accumulate", _rows(op), _entries(op), op.sources[1][-1], "macs"), *bias]


def _weighted_sum(op: Primitive) -> list[Pass]:
    width = op.sources[1][-1]
    rescale = [Pass("elementwise", _rows(op), _rows(op) * width)] if len(op.sources) > 2 else []
    return [Pass("multiply_accumulate", _rows(op), _entries(op), width, "macs"), *rescale]


def _exponentiate(op: Primitive) -> list[Pass]:
    assert isinstance(op, p.Exponentiate)
    rows, live, carried = op.rows, op.live, op.rows if len(op.sources) > 1 else 0
    first = Pass("compare", rows, live + carried)
    if op.layout == "mla":
        return [first, Pass("exponential", rows, live + carried, element="exps")]
    return [
        first,
        Pass("exponential", rows, live, element="exps"),
        Pass("logarithm", rows, rows + carried, element="logs"),
        Pass("exponential", rows, live + 2 * carried, element="exps"),  # of an old state: softplus and factor
    ]


def _softmax(op: Primitive) -> list[Pass]:
    rows, live = _rows(op), op.live
    return [Pass("compare", rows, live), Pass("exponential", rows, live, element="exps"), Pass("divide", rows, live)]


def _merge(op: Primitive) -> list[Pass]:
    rows = _rows(op)
    return [
        Pass("compare", rows, rows),
        Pass("exponential", rows, 2 * rows, element="exps"),
        Pass("elementwise", rows, 2 * op.size),
    ]


def _normalise(op: Primitive) -> list[Pass]:
    assert isinstance(op, p.Normalise)
    rows, values = _rows(op), prod(op.sources[0][:-1]) * (op.sources[0][-1] - p.HEAD[op.layout])
    if op.layout == "log":
        return [Pass("move", rows, values)]  # the values of this layout are normalised already
    logarithm = [Pass("logarithm", rows, rows, element="logs")] if op.also == "lse" else []
    return [Pass("divide", rows, values), *logarithm]


def _candidates(op: Primitive) -> list[Pass]:
    return [Pass("compare", max(1, prod(op.sources[0][:-1])), prod(op.sources[0]))]


def _boundary(op: Primitive) -> list[Pass]:
    """The two pointers move over the columns and the rows once."""
    assert isinstance(op, p.Boundary)
    heads, n = op.sources[0]
    return [Pass("compare", heads, heads * (-(-n // op.block_columns) + op.shape[1]))]


def _clusters(op: Primitive) -> list[Pass]:
    assert isinstance(op, p.Clusters)
    heads, rows, d = op.sources[0]
    distances = heads * rows * op.clusters * op.iterations
    return [
        Pass("multiply_accumulate", heads * rows, distances, d, "macs"),
        Pass("compare", heads * rows, distances),
    ]


def _norm(op: Primitive) -> list[Pass]:
    return [Pass("reduce", _rows(op), op.size), Pass("elementwise", _rows(op), op.size)]


def _pool(op: Primitive) -> list[Pass]:
    assert isinstance(op, p.Pool)
    if len(op.sources) > 1:
        return [Pass("multiply_accumulate", _rows(op), op.size, op.cell, "macs")]
    return [Pass("reduce", _rows(op), prod(op.sources[0]))]


def _depthwise(op: Primitive) -> list[Pass]:
    return [Pass("multiply_accumulate", _rows(op), op.size, op.sources[1][-1] ** 2, "macs")]


def _elementwise(op: Primitive) -> list[Pass]:
    assert isinstance(op, p.Elementwise)
    if op.function in p.EXPONENTIAL:
        return [Pass("exponential", _rows(op), op.live, element="exps")]
    unit = "divide" if op.function in {"divide", "quantise", "inverse_root"} else "elementwise"
    return [Pass(unit, _rows(op), op.size)]


def _reduce(op: Primitive) -> list[Pass]:
    return [Pass("reduce", max(1, prod(op.sources[0][:-1])), prod(op.sources[0]))]


def _each(unit: str) -> Callable[[Primitive], list[Pass]]:
    return lambda op: [Pass(unit, _rows(op), op.size)]


PASSES: dict[str, Callable[[Primitive], list[Pass]]] = {
    "scores": _scores,
    "product": _product,
    "weighted_sum": _weighted_sum,
    "exponentiate": _exponentiate,
    "softmax": _softmax,
    "merge": _merge,
    "normalise": _normalise,
    "denormalise": _each("elementwise"),
    "top_k": _candidates,
    "sign_hash": _candidates,
    "outlier_columns": _candidates,
    "boundary": _boundary,
    "clusters": _clusters,
    "norm": _norm,
    "pool": _pool,
    "depthwise": _depthwise,
    "elementwise": _elementwise,
    "reduce": _reduce,
    "group_mean": _reduce,
    "outer": _each("elementwise"),
    "exclude": _each("elementwise"),
    "mask_beyond": _each("elementwise"),
    "children": _each("elementwise"),
    "gather": _each("move"),
    "pick": _each("move"),
    "select": _each("move"),
    "join": _each("move"),
    "patches": _each("move"),
    "arrange": _each("move"),
    "constant": _each("move"),
    "empty_state": _each("move"),
}
"""Kind of primitive -> its passes. What moves words between memory and chip is in `pimsim.mapper.fpga.streams`."""


def passes(op: Primitive) -> list[Pass]:
    """The passes of a primitive.

    Raises:
        UnsupportedOp: there are none for its kind.
    """
    if op.KIND not in PASSES:
        raise UnsupportedOp(
            f"operations must be of a kind that has passes on a streaming machine ({', '.join(PASSES)}), "
            f"not {op.KIND} as {op.name} is"
        )
    return PASSES[op.KIND](op)


__all__ = ["PASSES", "Pass", "passes"]
