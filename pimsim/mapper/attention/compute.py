"""Lowerings of primitives that compute: in the banks where an operand lies there, by functions of the ASIC otherwise."""

from __future__ import annotations

from math import ceil, log2, prod
from typing import TYPE_CHECKING

from pimsim.mapper.attention.products import multiply
from pimsim.mapper.attention.values import Value, WeightsValue
from pimsim.workload.attention import primitives as prim
from pimsim.workload.attention.primitives import Band, Primitive

if TYPE_CHECKING:
    from pimsim.mapper.attention.lowering import AttentionLowering


# ----------------------------------------------------------------------------------------------------------- products


def scores(b: AttentionLowering, op: prim.Scores) -> None:
    """Queries meet keys, in the banks where those lie there; the scale is applied to the queries."""
    q, k = b.on_chip(op.inputs[0]), b.values[op.inputs[1]]
    scaled = q
    if op.scale != 1.0:
        scaled = b.scratch("scaled", q.shape)
        b.call("elementwise.scale", q.size, (q,), scaled, function="scale", numbers=(op.scale,))
    out = b.new(op.name, op.shape)
    rows, columns = op.shape[-2:]
    if k.view is not None and len(op.sources[1]) == 3:
        used = (lambda row: _allowed(op.band, row, columns)) if op.band is not None else None
        multiply(b, scaled, k.view, out, "rows", k.load, k.tokens, used)
    else:
        b.call("matmul", op.macs(), (scaled, b.on_chip(op.inputs[1])), out, product="scores")
    if len(op.inputs) > 2:
        b.call("elementwise.add", op.live, (out, b.on_chip(op.inputs[2])), out, function="add")
    masked = op.size - (op.shape[0] * op.band.count(rows, columns) if op.band is not None else op.size)
    if masked:
        b.call("compare", masked, (out,), out, band=op.band)
    if scaled is not q:
        b.done_with(scaled)
    out.band = op.band
    b.values[op.name] = out


def _allowed(band: Band | None, row: int, columns: int) -> range:
    """Columns that a row meets."""
    assert band is not None
    here = band.row0 - band.col0 + row
    stop = columns if band.low is None else min(columns, here - band.low + 1)
    return range(max(0, here - band.high) if band.high is not None else 0, max(0, stop))


def product(b: AttentionLowering, op: prim.Product) -> None:
    """A matrix product, in the banks where the second operand lies there."""
    a, matrix = b.on_chip(op.inputs[0]), b.values[op.inputs[1]]
    out = b.new(op.name, op.shape)
    if matrix.view is not None and len(op.sources[1]) < 4:
        turned = a
        if op.transpose:
            outer, rows, inner = op.sources[0][:-2], *op.sources[0][-2:]
            turned = b.scratch("transposed", (*outer, inner, rows))
            b.call("move", a.size, (a,), turned, transpose=True)
        band = None if op.transpose else a.band
        used = (lambda row: _allowed(band, row, a.shape[-1])) if band is not None else None
        multiply(b, turned, matrix.view, out, "columns", matrix.load, matrix.tokens, used, limited=used is not None)
        if turned is not a:
            b.done_with(turned)
        if used is None and op.pairs >= 0:  # zeros at places that only the algorithm knows
            b.skipped["macs"] += a.size * op.shape[-1] - op.macs()
    else:
        b.call(
            "matmul", op.macs(), (a, b.on_chip(op.inputs[1])), out, product="transposed" if op.transpose else "plain"
        )
    if len(op.inputs) > 2:
        b.call("elementwise.add", op.size, (out, b.on_chip(op.inputs[2])), out, function="add")
    b.values[op.name] = out


# ------------------------------------------------------------------------------------------------------ softmax states


def filled(b: AttentionLowering, op: prim.EmptyState | prim.Constant) -> None:
    """Constants, in memory from the beginning or written on chip."""
    view = b.views.get(op.name)
    if view is not None:  # in memory from the beginning, as a source is
        b.values[op.name] = Value(op.shape, view=view)
        if all(b.reads_memory(reader, position) for reader, position in b.readers[op.name]):
            return
    target = b.new(op.name, op.shape)
    target.view = view
    b.call("move", op.size, (), target, op=op)
    b.values[op.name] = target


def exponentiate(b: AttentionLowering, op: prim.Exponentiate) -> None:
    """Weights of a row against its maximum, and the head of its softmax state."""
    s = b.on_chip(op.inputs[0])
    old = [b.on_chip(name) for name in op.inputs[1:]]
    rows = s.shape[:-1]
    column, n = (*rows, 1), prod(rows)
    weights = b.new(f"{op.name}.weights", s.shape)
    head = b.new(f"{op.name}.head", (*rows, prim.HEAD[op.layout]))
    factor = b.new(f"{op.name}.factor", column) if old else None
    top, sums = b.scratch("top", column), b.scratch("sums", column)
    carried = old if op.layout == "mla" else []
    b.call("row_max", op.live, (s, *carried), top)
    b.call("exponentials", op.live, (s, top), weights, sums)
    if op.layout == "mla":
        if factor is not None:
            b.call("rescale", n, (old[0], top), factor)
        b.call("combine", n, (top, sums, *([factor, old[0]] if factor is not None else [])), head, state="head")
    else:
        b.call("logarithm", n, (sums, top), sums)
        if factor is not None:
            b.call("softplus", n, (old[0], sums), head)
            b.call("rescale", n, (old[0], head), factor)
        else:
            b.call("move", n, (sums,), head)
        b.call("exponentials", op.live, (s, head), weights, sums)
    b.done_with(top, sums)
    value = WeightsValue(s.shape, weights.buffer, band=s.band, head=head, factor=factor)
    b.values[op.name] = value


def weighted_sum(b: AttentionLowering, op: prim.WeightedSum) -> None:
    """Weights meet values; an old state is rescaled and added."""
    found, v = b.values[op.inputs[0]], b.values[op.inputs[1]]
    assert isinstance(found, WeightsValue)
    assert found.head is not None
    width = op.sources[1][-1]
    sums = b.scratch("sums", (*op.shape[:-1], width))
    weights = Value(found.shape, found.buffer)
    if v.view is not None and len(op.sources[1]) == 3:
        band, columns = found.band, found.shape[-1]
        used = (lambda row: _allowed(band, row, columns)) if band is not None else None
        multiply(b, weights, v.view, sums, "columns", v.load, v.tokens, used, limited=used is not None)
    else:
        b.call("matmul", op.macs(), (weights, b.on_chip(op.inputs[1])), sums, product="weighted")
    old = [b.on_chip(name) for name in op.inputs[2:]]
    state = b.in_place_of(op.inputs[2], op.shape) if old else b.new(op.name, op.shape)
    factor = [found.factor] if old and found.factor is not None else []
    b.call("combine" if old else "move", sums.size, (found.head, sums, *factor, *old), state, state="values")
    b.done_with(sums)
    b.values[op.name] = state


def merge(b: AttentionLowering, op: prim.Merge) -> None:
    """Two softmax states become one."""
    one, other = (b.on_chip(name) for name in op.inputs)
    rows = op.shape[:-1]
    factors = b.scratch("factors", (*rows, 3))
    b.call("merge_factors", prod(rows), (one, other), factors)
    target = b.new(op.name, op.shape)
    b.call("merge", op.size, (one, other, factors), target)
    b.done_with(factors)
    b.values[op.name] = target


def normalise(b: AttentionLowering, op: prim.Normalise) -> None:
    """The output of a softmax state: its sums divided by its denominator."""
    state = b.on_chip(op.inputs[0])
    if op.layout == "log":
        width = prim.HEAD["log"]
        target = b.new(op.name, op.shape)
        b.call("move", op.size, (state,), target, drop=width)
        b.values[op.name] = target
        return
    column = (*state.shape[:-1], 1)
    factors = b.scratch("factors", column)
    b.call("rows_reciprocal", prod(column), (state,), factors, column=1)
    target = b.new(op.name, op.shape)
    heads: list[Value] = []
    if op.also == "lse":
        heads = [b.scratch("lse", column)]
        b.call("logarithm", prod(column), (state,), heads[0], state=True)
    values = prod(column) * (state.shape[-1] - prim.HEAD["mla"])
    b.call("scale_rows", values, (state, factors, *heads), target, also=op.also, state=True)
    b.done_with(factors, *heads)
    b.values[op.name] = target


def denormalise(b: AttentionLowering, op: prim.Denormalise) -> None:
    """A softmax state whose sums are multiplied by its denominator again."""
    state = b.on_chip(op.inputs[0])
    target = b.new(op.name, op.shape)
    b.call("scale_rows", op.size, (state,), target, also="sum", state=True)
    b.values[op.name] = target


def softmax(b: AttentionLowering, op: prim.Softmax) -> None:
    """A softmax of rows in three passes: maximum, exponentials, division."""
    s = b.on_chip(op.inputs[0])
    column = (*s.shape[:-1], 1)
    top, sums = b.scratch("top", column), b.scratch("sums", column)
    target = b.in_place_of(op.inputs[0], op.shape)
    b.call("row_max", op.live, (s,), top)
    b.call("exponentials", op.live, (s, top), target, sums)
    b.call("rows_reciprocal", prod(column), (sums,), sums, column=0)
    b.call("scale_rows", op.live, (target, sums), target)
    b.done_with(top, sums)
    target.band = s.band
    b.values[op.name] = target


# --------------------------------------------------------------------------------------------- element-wise and others


def elementwise(b: AttentionLowering, op: prim.Elementwise) -> None:
    """A function of each element, where the first operand lies if nobody reads that again."""
    sources = [b.on_chip(name) for name in op.inputs]
    target = b.in_place_of(op.inputs[0], op.shape)
    b.call(f"elementwise.{op.function}", op.live, sources, target, function=op.function, numbers=op.constants)
    if op.function in ("scale", "multiply") or (op.function == "clip" and op.constants[1] <= 0):  # zero stays zero
        target.band = sources[0].band
    b.values[op.name] = target


def outer(b: AttentionLowering, op: prim.Outer) -> None:
    """Differences of a column and a row."""
    sources = [b.on_chip(name) for name in op.inputs]
    target = b.new(op.name, op.shape)
    b.call("elementwise.subtract", op.size, sources, target, function="subtract")
    b.values[op.name] = target


def reduce(b: AttentionLowering, op: prim.Reduce) -> None:
    """Sums, means or maxima along an axis."""
    source, target = b.on_chip(op.inputs[0]), b.new(op.name, op.shape)
    b.call(f"reduce.{op.function}", source.size, (source,), target, function=op.function, axis=op.axis)
    b.values[op.name] = target


def norm(b: AttentionLowering, op: prim.Norm) -> None:
    """LayerNorm or RMSNorm: sums, statistics, scaling."""
    x, gain, shift = (b.on_chip(name) for name in op.inputs)
    width = prod(op.shape[-op.axes :])
    rows = op.size // width
    sums = b.scratch("sums", (rows, 2))
    target = b.in_place_of(op.inputs[0], op.shape)
    b.call("norm_sums", op.size, (x,), sums, rows=rows)
    b.call("norm_statistics", rows, (sums,), sums, width=width, eps=op.eps)
    b.call("norm_scale", op.size, (x, sums, gain, shift), target, rows=rows)
    b.done_with(sums)
    b.values[op.name] = target


def compared(b: AttentionLowering, op: Primitive) -> None:
    """Entries that are looked at, some of which become constants."""
    sources = [b.on_chip(name) for name in op.inputs]
    target = b.new(op.name, op.shape)
    b.call("compare", op.size, sources, target, op=op)
    b.values[op.name] = target


def selected(b: AttentionLowering, op: prim.TopK) -> None:
    """The largest entries of each row, by binary insertion."""
    source, target = b.on_chip(op.inputs[0]), b.new(op.name, op.shape)
    b.call("select", source.size * ceil(log2(op.k + 1)), (source,), target, op=op)
    b.values[op.name] = target


def computed(b: AttentionLowering, op: Primitive) -> None:
    """What is mostly products on chip: pooling filters, convolutions, distances to centres."""
    sources = [b.on_chip(name) for name in op.inputs]
    target = b.new(op.name, op.shape)
    b.call(
        "matmul" if op.macs() else "reduce.mean",
        op.macs() or sum(each.size for each in sources),
        sources,
        target,
        op=op,
    )
    b.values[op.name] = target


__all__ = [
    "compared",
    "computed",
    "denormalise",
    "elementwise",
    "exponentiate",
    "filled",
    "merge",
    "norm",
    "normalise",
    "outer",
    "product",
    "reduce",
    "scores",
    "selected",
    "softmax",
    "weighted_sum",
]
