"""Which lowering a kind of primitive has on a PIM machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pimsim.mapper.attention import compute, memory
from pimsim.workload.attention import primitives as prim
from pimsim.workload.attention.primitives import Primitive

if TYPE_CHECKING:
    from pimsim.mapper.attention.lowering import AttentionLowering

LOWERINGS: dict[type[Primitive], Callable[[AttentionLowering, Any], None]] = {
    prim.Source: memory.source,
    prim.Load: memory.load,
    prim.Store: memory.store,
    prim.Keep: memory.keep,
    prim.Append: memory.append,
    prim.Gather: memory.gather,
    prim.Pick: memory.moved,
    prim.Part: memory.part,
    prim.Join: memory.moved,
    prim.Arrange: memory.arrange,
    prim.Scores: compute.scores,
    prim.Product: compute.product,
    prim.EmptyState: compute.filled,
    prim.Exponentiate: compute.exponentiate,
    prim.WeightedSum: compute.weighted_sum,
    prim.Merge: compute.merge,
    prim.Normalise: compute.normalise,
    prim.Denormalise: compute.denormalise,
    prim.Softmax: compute.softmax,
    prim.TopK: compute.selected,
    prim.Boundary: compute.compared,
    prim.Norm: compute.norm,
    prim.Pool: compute.computed,
    prim.Elementwise: compute.elementwise,
    prim.Outer: compute.outer,
    prim.Reduce: compute.reduce,
    prim.Select: memory.moved,
    prim.Exclude: compute.compared,
    prim.MaskBeyond: compute.compared,
    prim.Constant: compute.filled,
    prim.Children: memory.moved,
    prim.SignHash: compute.compared,
    prim.OutlierColumns: compute.compared,
    prim.Clusters: compute.computed,
    prim.GroupMean: compute.computed,
    prim.Depthwise: compute.computed,
    prim.Patches: memory.moved,
}
"""Kind of primitive -> its lowering. A kind without an entry is not supported by this machine."""

__all__ = ["LOWERINGS"]
