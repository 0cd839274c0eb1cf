"""Builds an expansion: primitives are added one after the other, shapes and mask counts follow from the inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeVar

from pimsim.errors import WorkloadError
from pimsim.workload.attention.base import Case
from pimsim.workload.attention.primitives import (
    Append,
    Arrange,
    Band,
    Elementwise,
    Exponentiate,
    Join,
    Keep,
    Layout,
    Load,
    Norm,
    Normalise,
    Outer,
    Part,
    Pick,
    Primitive,
    Product,
    Reduce,
    Scores,
    Shape,
    Source,
    Store,
    WeightedSum,
)
from pimsim.workload.graph import WorkloadGraph
from pimsim.workload.ops import OpNode

P = TypeVar("P", bound=Primitive)

MOST_PRIMITIVES = 1_000_000
"""Primitives of an expansion; more would fill the memory of a common computer before anything is simulated."""


class Expansion:
    """A graph under construction; an operation is its own handle."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        """``shapes`` of the tensors that are given."""
        self._ops: list[OpNode] = []
        self._numbers: Counter[str] = Counter()
        self._sources = {name: self._enter(Source(name, Source.KIND, (), shape=s)) for name, s in shapes.items()}

    def __getitem__(self, name: str) -> Primitive:
        return self._sources[name]

    def _enter(self, op: P) -> P:
        if len(self._ops) >= MOST_PRIMITIVES:
            raise WorkloadError(
                f"an expansion must have at most {MOST_PRIMITIVES:,} primitives, which {op.name} exceeds; make the case smaller, "
                "or blocks and tiles of the algorithm larger"
            )
        self._ops.append(op)
        return op

    def add(self, kind: type[P], *inputs: Primitive, name: str = "", **values: Any) -> P:
        """An operation on results; its name is that of its kind and a number unless one is given."""
        if not name:
            self._numbers[kind.KIND] += 1
            name = f"{kind.KIND}.{self._numbers[kind.KIND]}"
        sources = tuple(each.shape for each in inputs)
        return self._enter(kind(name, kind.KIND, tuple(each.name for each in inputs), sources=sources, **values))

    def graph(self) -> WorkloadGraph:
        """The finished graph."""
        return WorkloadGraph(self._ops)

    # -- short forms

    def load(self, x: Primitive, start: int = 0, stop: int = -1) -> Primitive:
        """Rows of a tensor in memory."""
        return self.add(Load, x, start=start, stop=stop, pairs=x.pairs if (start, stop) == (0, -1) else -1)

    def store(self, x: Primitive, name: str = "") -> Primitive:
        """Write to memory."""
        return self.add(Store, x, name=name, pairs=x.pairs)

    def keep(self, x: Primitive, name: str = "") -> Primitive:
        """Mark as persistent."""
        return self.add(Keep, x, name=name)

    def rows(self, x: Primitive, start: int, stop: int) -> Primitive:
        """Rows of a tensor on chip; all of them cost no operation."""
        return x if (start, stop) == (0, x.shape[-2]) else self.add(Part, x, axis=-2, start=start, stop=stop)

    def last(self, x: Primitive, start: int, stop: int, name: str = "") -> Primitive:
        """Entries along the last axis."""
        return self.add(Part, x, axis=-1, start=start, stop=stop, name=name)

    def join(self, parts: list[Primitive], axis: int = -2, name: str = "") -> Primitive:
        """Tensors behind each other."""
        pairs = sum(each.live for each in parts) if any(each.pairs >= 0 for each in parts) else -1
        return self.add(Join, *parts, axis=axis, name=name, pairs=pairs)

    def scores(
        self, q: Primitive, k: Primitive, scale: float, band: Band | None = None, bias: Primitive | None = None
    ) -> Primitive:
        """Scaled scores."""
        return self.add(Scores, q, k, *([bias] if bias else []), scale=scale, band=band)

    def pick(self, x: Primitive, index: Primitive) -> Primitive:
        """Entries of rows."""
        return self.add(Pick, x, index)

    def fold(self, s: Primitive, v: Primitive, state: Primitive | None = None, layout: Layout = "mla") -> Primitive:
        """Scores and values taken up by a state."""
        old = [state] if state else []
        weights = self.add(Exponentiate, s, *old, layout=layout, pairs=s.pairs)
        return self.add(WeightedSum, weights, v, *old, layout=layout, pairs=s.pairs)

    def normalise(self, state: Primitive, layout: Layout = "mla", name: str = "") -> Primitive:
        """Values of a state."""
        return self.add(Normalise, state, layout=layout, name=name)

    def product(
        self, a: Primitive, b: Primitive, *bias: Primitive, name: str = "", transpose: bool = False
    ) -> Primitive:
        """Matrix product."""
        return self.add(Product, a, b, *bias, name=name, transpose=transpose)

    def apply(self, function: str, *inputs: Primitive, name: str = "", constants: tuple[float, ...] = ()) -> Primitive:
        """A function of the entries."""
        return self.add(Elementwise, *inputs, function=function, constants=constants, name=name)

    def reduce(self, function: str, x: Primitive, axis: int = -1) -> Primitive:
        """A function over one axis."""
        return self.add(Reduce, x, function=function, axis=axis)

    def norm(self, x: Primitive, gain: Primitive, shift: Primitive) -> Primitive:
        """Layer normalisation."""
        return self.add(Norm, x, gain, shift)

    def split_heads(self, x: Primitive, heads: int) -> Primitive:
        """``[n, heads * d]`` -> ``[heads, n, d]``."""
        n, width = x.shape[-2:]
        d = width // heads
        return self.add(Arrange, x, split=(n, heads, d), order=(1, 0, 2), to=(heads, n, d))

    def join_heads(self, x: Primitive) -> Primitive:
        """``[heads, n, d]`` -> ``[n, heads * d]``."""
        heads, n, d = x.shape
        return self.add(Arrange, x, order=(1, 0, 2), to=(n, heads * d))

    def head(self, x: Primitive, h: int) -> Primitive:
        """One head of a tensor, which keeps its place in memory."""
        return self.add(Part, x, axis=0, start=h, stop=h + 1)

    def decay(self, total: Primitive, row: int, row_end: int, column: int, column_end: int) -> Primitive:
        """``total[rows] - total[columns]`` of ``[1, n]``: ``[1, rows, columns]``."""
        rows, columns = row_end - row, column_end - column
        left = self.add(Arrange, self.last(total, row, row_end), to=(1, rows, 1))
        right = self.add(Arrange, self.last(total, column, column_end), to=(1, 1, columns))
        return self.add(Outer, left, right)

    def keys_and_values(self, case: Case) -> tuple[Primitive, Primitive]:
        """K and V of all tokens in memory, appended to where a token is new, and kept."""
        found: list[Primitive] = []
        for name in ("k", "v"):
            x = self[name]
            if case.phase == "decode":
                x = self.add(Append, x, self[f"{name}_new"])
            found.append(self.keep(x))
        return found[0], found[1]
