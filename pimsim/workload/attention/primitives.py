"""The closed set of primitive operations that attention algorithms expand into.

A primitive knows the shape of its result (`Primitive.rule`), its counts and its meaning on NumPy arrays. Arrays have
the axes ``[heads, rows, elements]``; where keys and values have fewer heads than queries, consecutive query heads share
one. Softmax states are packed along the last axis (``layout``):

=======  =================  ==============================================================================
``mla``  ``[m, l, a...]``   maximum, sum of exponentials after it, weighted values; merges are associative
``log``  ``[log c, e...]``  logarithm of the sum of exponentials, normalised values
=======  =================  ==============================================================================

Counts are totals over heads. Only `Load`, `Store`, `Gather` and `Append` move words between memory
and chip; only `Keep` makes words persistent. Masked scores are minus infinity and are not counted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import erf, prod, sqrt
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pimsim.errors import WorkloadError
from pimsim.workload.ops import OpNode

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
Layout = Literal["mla", "log"]

HEAD = {"mla": 2, "log": 1}
"""Elements of a state before its values."""


@dataclass(frozen=True)
class Band:
    """Which (row, column) pairs attend: those with ``low <= (row0 + i) - (col0 + j) <= high`` (None: no limit)."""

    low: int | None = 0
    high: int | None = None
    row0: int = 0
    col0: int = 0

    def array(self, rows: int, columns: int) -> Array:
        """``[rows, columns]``, true where the pair attends."""
        distance = (self.row0 + np.arange(rows))[:, None] - (self.col0 + np.arange(columns))[None, :]
        allowed = np.ones((rows, columns), bool)
        if self.low is not None:
            allowed &= distance >= self.low
        if self.high is not None:
            allowed &= distance <= self.high
        return allowed

    def lengths(self, rows: int, columns: int) -> tuple[list[int], list[int]]:
        """Pairs that attend in each row, and in each column."""
        allowed = self.array(rows, columns)
        return allowed.sum(1).tolist(), allowed.sum(0).tolist()

    def count(self, rows: int, columns: int) -> int:
        """Number of pairs that attend, row by row without the matrix."""
        here = self.row0 - self.col0 + np.arange(rows)
        last = np.full(rows, columns - 1) if self.low is None else np.minimum(columns - 1, here - self.low)
        first = np.zeros(rows, int) if self.high is None else np.maximum(0, here - self.high)
        return int(np.maximum(0, last - first + 1).sum())


@dataclass(frozen=True)
class Primitive(OpNode, ABC):
    """An operation with a shape rule, counts and a meaning; ``sources`` are the shapes of its inputs."""

    KIND: ClassVar[str] = ""
    sources: tuple[Shape, ...] = ()
    shape: Shape = ()
    pairs: int = -1
    """Entries of the result that are not masked; -1: all."""

    def __post_init__(self) -> None:
        if not self.shape:
            object.__setattr__(self, "shape", self.rule())

    @property
    def size(self) -> int:
        """Elements of the result."""
        return prod(self.shape)

    @property
    def live(self) -> int:
        """Entries of the result that are not masked."""
        return self.size if self.pairs < 0 else self.pairs

    def rule(self) -> Shape:
        """Shape of the result; that of the first input unless a primitive says otherwise."""
        return self.sources[0]

    @abstractmethod
    def meaning(self, *inputs: Any) -> Any:
        """The result for these inputs."""

    def macs(self, context: int = 0) -> int:  # noqa: ARG002
        """Multiply-accumulates of products."""
        return 0

    def scores(self) -> int:
        """Elements of score matrices that are computed."""
        return 0

    def exps(self) -> int:
        """Exponentials, those in a softplus or sigmoid included."""
        return 0

    def logs(self) -> int:
        """Logarithms."""
        return 0

    def reads(self) -> int:
        """Words that move from memory to the chip."""
        return 0

    def writes(self) -> int:
        """Words that move from the chip to memory."""
        return 0

    def gathered(self) -> int:
        """Words among `reads` whose addresses depend on data."""
        return 0

    def persistent(self) -> int:
        """Words that must be there for the next step."""
        return 0


class Weights(NamedTuple):
    """Result of `Exponentiate`: the state's new head, the factor of the old values (None: there are none), weights."""

    head: Array
    factor: Array | None
    weights: Array


def shared(x: Array, heads: int) -> Array:
    """Repeat each of the first axis so that there are ``heads``."""
    return x if x.shape[0] == heads else np.repeat(x, heads // x.shape[0], axis=0)


def _need(holds: bool, op: Primitive, what: str) -> None:
    if not holds:
        raise WorkloadError(f"inputs of {op.name} ({op.KIND}) must have {what}, not shapes {op.sources}")


# ------------------------------------------------------------------------------------------------- memory and layout


@dataclass(frozen=True)
class Source(Primitive):
    """A tensor that is given: activations, constants, a cache or a state; resident where it is used."""

    KIND: ClassVar[str] = "source"

    def __post_init__(self) -> None:
        """The shape is given, and may be empty."""

    def meaning(self, *inputs: Any) -> Any:  # noqa: ARG002
        """Raises: WorkloadError, as nothing computes it."""
        raise WorkloadError(f"tensor {self.name} must be given")


@dataclass(frozen=True)
class Load(Primitive):
    """Rows ``start`` to ``stop``, every ``step``-th, of a tensor in memory, brought on chip."""

    KIND: ClassVar[str] = "load"
    start: int = 0
    stop: int = -1
    step: int = 1

    @property
    def rows(self) -> range:
        """The rows that are loaded."""
        return range(self.start, self.sources[0][-2] if self.stop < 0 else self.stop, self.step)

    def rule(self) -> Shape:
        *outer, rows, width = self.sources[0]
        _need(0 <= self.start <= self.rows.stop <= rows, self, f"rows {self.start} to {self.stop}")
        return (*outer, len(self.rows), width)

    def meaning(self, *inputs: Any) -> Any:
        if isinstance(inputs[0], Weights):
            return inputs[0]
        return inputs[0][..., self.start : self.rows.stop : self.step, :]

    def reads(self) -> int:
        return self.size


@dataclass(frozen=True)
class Store(Primitive):
    """Write a tensor to memory; the result is the tensor there."""

    KIND: ClassVar[str] = "store"

    def meaning(self, *inputs: Any) -> Any:
        return inputs[0]

    def writes(self) -> int:
        return self.size


@dataclass(frozen=True)
class Keep(Primitive):
    """Marks what must be there for the next step; moves nothing."""

    KIND: ClassVar[str] = "keep"

    def meaning(self, *inputs: Any) -> Any:
        return inputs[0]

    def persistent(self) -> int:
        return self.size


@dataclass(frozen=True)
class Append(Primitive):
    """Add rows behind those of a cache in memory."""

    KIND: ClassVar[str] = "append"

    def rule(self) -> Shape:
        cache, new = self.sources
        _need(cache[:-2] == new[:-2] and cache[-1] == new[-1], self, "equal heads and widths")
        return (*cache[:-2], cache[-2] + new[-2], cache[-1])

    def meaning(self, *inputs: Any) -> Any:
        return np.concatenate(inputs, axis=-2)

    def writes(self) -> int:
        return prod(self.sources[1])


@dataclass(frozen=True)
class Gather(Primitive):
    """Rows ``index [heads, rows, k]`` of ``[heads, n, width]``: ``[heads, rows, k, width]``.

    ``on_chip``: the tensor is on chip already, so that no word moves. With ``block``, an index i stands for so many
    neighbouring rows, from row ``i * stride`` on, which follow each other in the result: ``[heads, rows, k * block, width]``.
    """

    KIND: ClassVar[str] = "gather"
    on_chip: bool = False
    block: int = 1
    stride: int = 1

    def rule(self) -> Shape:
        source, index = self.sources
        _need(index[0] % source[0] == 0 and len(source) == 3, self, "heads that share rows evenly")
        return (*index[:-1], index[-1] * self.block, source[-1])

    def rows_of(self, index: int) -> range:
        """The rows that an index stands for."""
        return range(index * self.stride, index * self.stride + self.block)

    def meaning(self, *inputs: Any) -> Any:
        source, index = shared(inputs[0], len(inputs[1])), inputs[1]
        rows = (index[..., None] * self.stride + np.arange(self.block)).reshape(*index.shape[:-1], -1)
        return source[np.arange(len(index)).reshape(-1, *([1] * (index.ndim - 1))), rows]

    def reads(self) -> int:
        return 0 if self.on_chip else self.size

    def gathered(self) -> int:
        return self.reads()


@dataclass(frozen=True)
class Pick(Primitive):
    """Entries ``index`` of each row: ``[..., n]``, ``[..., k]`` -> ``[..., k]``."""

    KIND: ClassVar[str] = "pick"

    def rule(self) -> Shape:
        return self.sources[1]

    def meaning(self, *inputs: Any) -> Any:
        return np.take_along_axis(inputs[0], inputs[1], axis=-1)


@dataclass(frozen=True)
class Part(Primitive):
    """Entries ``start`` to ``stop`` along ``axis``; on chip."""

    KIND: ClassVar[str] = "part"
    axis: int = -2
    start: int = 0
    stop: int = 0

    def rule(self) -> Shape:
        shape = list(self.sources[0])
        _need(0 <= self.start <= self.stop <= shape[self.axis], self, f"entries {self.start} to {self.stop}")
        shape[self.axis] = self.stop - self.start
        return tuple(shape)

    def meaning(self, *inputs: Any) -> Any:
        window = [slice(None)] * inputs[0].ndim
        window[self.axis] = slice(self.start, self.stop)
        return inputs[0][tuple(window)]


@dataclass(frozen=True)
class Join(Primitive):
    """Tensors behind each other along ``axis``; on chip."""

    KIND: ClassVar[str] = "join"
    axis: int = -2

    def rule(self) -> Shape:
        shape = list(self.sources[0])
        shape[self.axis] = sum(each[self.axis] for each in self.sources)
        return tuple(shape)

    def meaning(self, *inputs: Any) -> Any:
        return np.concatenate(inputs, axis=self.axis)


@dataclass(frozen=True)
class Arrange(Primitive):
    """A view with other axes: reshape to ``split``, permute by ``order``, reshape to ``to``; on chip."""

    KIND: ClassVar[str] = "arrange"
    split: Shape = ()
    order: Shape = ()
    to: Shape = ()

    def rule(self) -> Shape:
        _need(prod(self.sources[0]) == prod(self.to), self, f"as many elements as {self.to}")
        return self.to

    def meaning(self, *inputs: Any) -> Any:
        x = inputs[0].reshape(self.split) if self.split else inputs[0]
        return (x.transpose(self.order) if self.order else x).reshape(self.to)


# ----------------------------------------------------------------------------------------------------------- products


@dataclass(frozen=True)
class Scores(Primitive):
    """``scale * Q K^T`` where ``band`` allows it, minus infinity elsewhere: ``[heads, rows, columns]``.

    Q ``[heads, rows, d]``; K ``[heads, columns, d]``, or ``[heads, rows, columns, d]`` if each row has keys of its own.
    A third input is added to the scores (a bias, or minus infinity where data mask them).
    """

    KIND: ClassVar[str] = "scores"
    scale: float = 1.0
    band: Band | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairs < 0 and self.band is not None:
            object.__setattr__(self, "pairs", self.shape[0] * self.band.count(*self.shape[1:]))

    def rule(self) -> Shape:
        q, k = self.sources[:2]
        _need(q[-1] == k[-1] and q[0] % k[0] == 0, self, "equal widths and heads that share keys evenly")
        return (*q[:2], k[-2])

    def meaning(self, *inputs: Any) -> Any:
        q, k = inputs[0], shared(inputs[1], len(inputs[0]))
        found = np.einsum("hrd,hrcd->hrc", q, k) if k.ndim == 4 else np.einsum("hrd,hcd->hrc", q, k)
        found = found * self.scale
        if len(inputs) > 2:
            found = found + inputs[2]
        return found if self.band is None else np.where(self.band.array(*self.shape[1:]), found, -np.inf)

    def macs(self, context: int = 0) -> int:  # noqa: ARG002
        return self.live * self.sources[0][-1]

    def scores(self) -> int:
        return self.live


@dataclass(frozen=True)
class Product(Primitive):
    """``A B`` over the last two axes; ``transpose`` takes A transposed. A weight without heads serves all of them.

    A third input is a bias ``[columns]``. ``pairs`` may say how many entries of A are not zero; only these count.
    """

    KIND: ClassVar[str] = "product"
    transpose: bool = False

    def rule(self) -> Shape:
        a, b = self.sources[:2]
        rows, inner = (a[-1], a[-2]) if self.transpose else (a[-2], a[-1])
        _need(inner == b[-2], self, "equal inner widths")
        return (*a[:-2], rows, b[-1])

    def meaning(self, *inputs: Any) -> Any:
        a, b = inputs[:2]
        if b.ndim > 2:
            b = shared(b, len(a))
        found = (np.swapaxes(a, -1, -2) if self.transpose else a) @ b
        return found + inputs[2] if len(inputs) > 2 else found

    def macs(self, context: int = 0) -> int:  # noqa: ARG002
        return (prod(self.sources[0]) if self.pairs < 0 else self.pairs) * self.sources[1][-1]


# ------------------------------------------------------------------------------------------------------ softmax states


@dataclass(frozen=True)
class EmptyState(Primitive):
    """The identity of `Merge`: maximum minus infinity, sums 0."""

    KIND: ClassVar[str] = "empty_state"
    to: Shape = ()

    def rule(self) -> Shape:
        return self.to

    def meaning(self, *inputs: Any) -> Any:  # noqa: ARG002
        state = np.zeros(self.shape)
        state[..., 0] = -np.inf
        return state


def _exp(x: Array, by: Array) -> Array:
    """``exp(x - by)``, 0 where x is minus infinity."""
    with np.errstate(invalid="ignore"):
        found: Array = np.where(np.isneginf(x), 0.0, np.exp(x - by))
    return found


@dataclass(frozen=True)
class Exponentiate(Primitive):
    """Scores ``[heads, rows, n]`` and an old state, if there is one, to weights and a state without values (`Weights`).

    ``mla`` takes n exponentials and one to rescale; ``log`` n for the logarithm of the sum, n for the weights, one to
    rescale and one in the softplus, and two logarithms. Without an old state ``mla`` takes n and ``log`` 2 n and one
    logarithm.
    """

    KIND: ClassVar[str] = "exponentiate"
    layout: Layout = "mla"

    def meaning(self, *inputs: Any) -> Any:
        old = inputs[1] if len(inputs) > 1 else None
        return self._log(inputs[0], old) if self.layout == "log" else self._mla(inputs[0], old)

    def _mla(self, s: Array, old: Array | None) -> Weights:
        m = s.max(axis=-1, keepdims=True, initial=-np.inf)
        if old is None:
            weights = _exp(s, m)
            return Weights(np.concatenate([m, weights.sum(-1, keepdims=True)], -1), None, weights)
        m = np.maximum(m, old[..., :1])
        factor, weights = _exp(old[..., :1], m), _exp(s, m)
        total = factor * old[..., 1:2] + weights.sum(-1, keepdims=True)
        return Weights(np.concatenate([m, total], -1), factor, weights)

    def _log(self, s: Array, old: Array | None) -> Weights:
        m = s.max(axis=-1, keepdims=True, initial=-np.inf)
        with np.errstate(divide="ignore"):
            chunk = np.log(_exp(s, m).sum(-1, keepdims=True)) + np.where(np.isneginf(m), 0.0, m)
        if old is None:
            return Weights(chunk, None, _exp(s, chunk))
        log_c = old[..., :1]
        with np.errstate(invalid="ignore"):
            grown = log_c + np.logaddexp(0.0, chunk - log_c)
        new = np.where(np.isneginf(log_c), chunk, grown)
        return Weights(new, _exp(log_c, new), _exp(s, new))

    @property
    def rows(self) -> int:
        """Rows of all heads."""
        return prod(self.sources[0][:-1])

    def exps(self) -> int:
        carried = len(self.sources) > 1
        if self.layout == "mla":
            return self.live + self.rows * carried
        return 2 * self.live + 2 * self.rows * carried

    def logs(self) -> int:
        return self.rows * len(self.sources) if self.layout == "log" else 0


@dataclass(frozen=True)
class WeightedSum(Primitive):
    """Weights of `Exponentiate`, values and the old state, if there is one, to the new state.

    Values ``[heads, n, width]``, or ``[heads, rows, n, width]`` if each row has values of its own.
    """

    KIND: ClassVar[str] = "weighted_sum"
    layout: Layout = "mla"

    def rule(self) -> Shape:
        weights, values = self.sources[:2]
        _need(weights[-1] == values[-2] and weights[0] % values[0] == 0, self, "as many weights as values")
        return (*weights[:-1], HEAD[self.layout] + values[-1])

    def meaning(self, *inputs: Any) -> Any:
        found, values = inputs[0], shared(inputs[1], len(inputs[0].weights))
        a = np.einsum("hrn,hrnd->hrd" if values.ndim == 4 else "hrn,hnd->hrd", found.weights, values)
        if len(inputs) > 2:
            a = a + found.factor * inputs[2][..., HEAD[self.layout] :]
        return np.concatenate([found.head, a], -1)

    def macs(self, context: int = 0) -> int:  # noqa: ARG002
        entries = prod(self.sources[0]) if self.pairs < 0 else self.pairs
        return entries * self.sources[1][-1]


@dataclass(frozen=True)
class Merge(Primitive):
    """Two ``mla`` states of the same rows to the state of both key sets; two exponentials per row."""

    KIND: ClassVar[str] = "merge"

    def meaning(self, *inputs: Any) -> Any:
        a, b = inputs
        m = np.maximum(a[..., :1], b[..., :1])
        return np.concatenate([m, _exp(a[..., :1], m) * a[..., 1:] + _exp(b[..., :1], m) * b[..., 1:]], -1)

    def exps(self) -> int:
        return 2 * prod(self.shape[:-1])


@dataclass(frozen=True)
class Normalise(Primitive):
    """The values of a state, divided by the sum of an ``mla`` one: ``[heads, rows, width]``; 0 where no key attends.

    ``also`` says what stays in front of them: the whole head (``state``, so that the values are divided in place) or
    the logarithm of the sum of exponentials (``lse``, one logarithm per row).
    """

    KIND: ClassVar[str] = "normalise"
    layout: Layout = "mla"
    also: Literal["", "state", "lse"] = ""

    def rule(self) -> Shape:
        *outer, width = self.sources[0]
        return (*outer, width - HEAD[self.layout] + {"": 0, "state": HEAD[self.layout], "lse": 1}[self.also])

    def meaning(self, *inputs: Any) -> Any:
        state = inputs[0]
        values = state[..., HEAD[self.layout] :]
        if self.layout == "mla":
            total = state[..., 1:2]
            values = np.where(total > 0, values / np.where(total > 0, total, 1.0), 0.0)
        if not self.also:
            return values
        if self.also == "state":
            return np.concatenate([state[..., : HEAD[self.layout]], values], -1)
        with np.errstate(divide="ignore"):
            lse = state[..., :1] + np.log(state[..., 1:2])
        return np.concatenate([lse, values], -1)

    def logs(self) -> int:
        return prod(self.shape[:-1]) if self.also == "lse" else 0


@dataclass(frozen=True)
class Denormalise(Primitive):
    """The inverse of `Normalise` with ``also="state"``: values times the sum."""

    KIND: ClassVar[str] = "denormalise"

    def meaning(self, *inputs: Any) -> Any:
        state = inputs[0]
        return np.concatenate([state[..., :2], state[..., 2:] * state[..., 1:2]], -1)


@dataclass(frozen=True)
class Softmax(Primitive):
    """Probabilities of whole rows, 0 where no key attends; exponentials are those of entries that are not masked."""

    KIND: ClassVar[str] = "softmax"

    def meaning(self, *inputs: Any) -> Any:
        s = inputs[0]
        weights = _exp(s, s.max(axis=-1, keepdims=True, initial=-np.inf))
        total = weights.sum(-1, keepdims=True)
        return weights / np.where(total > 0, total, 1.0)

    def exps(self) -> int:
        return self.live


# ------------------------------------------------------------------------------------------------------------ decisions


@dataclass(frozen=True)
class Decision(Primitive):
    """A primitive whose result is integers that the data decide; `decisions` records and replays it."""

    @property
    @abstractmethod
    def limit(self) -> int:
        """Every entry of the result is from 0 to below this."""


@dataclass(frozen=True)
class TopK(Decision):
    """Indices of the k largest entries of each row, largest first; the lower index first among equals."""

    KIND: ClassVar[str] = "top_k"
    k: int = 1

    @property
    def limit(self) -> int:
        return self.sources[0][-1]

    def rule(self) -> Shape:
        _need(self.k <= self.sources[0][-1], self, f"at least {self.k} columns")
        return (*self.sources[0][:-1], self.k)

    def meaning(self, *inputs: Any) -> Any:
        return np.argsort(-inputs[0], axis=-1, kind="stable")[..., : self.k]


@dataclass(frozen=True)
class Boundary(Decision):
    """First key of each tile row that adaptive pruning keeps, by the two-pointer search over ``cumulative [heads, n]``.

    The tile from row r0 and column c0 is dropped iff ``cumulative[offset + r0] - cumulative[last column] < delta``; the
    second input is delta, one per head.
    """

    KIND: ClassVar[str] = "boundary"
    rows: int = 1
    block_rows: int = 1
    block_columns: int = 1

    @property
    def limit(self) -> int:
        return self.sources[0][1]

    def rule(self) -> Shape:
        return (self.sources[0][0], -(-self.rows // self.block_rows))

    def meaning(self, *inputs: Any) -> Any:
        cumulative, delta = inputs
        n = cumulative.shape[1]
        found = np.zeros(self.shape, int)
        for head in range(self.shape[0]):
            c = 0
            for block in range(self.shape[1]):
                here = cumulative[head, n - self.rows + block * self.block_rows]
                while here - cumulative[head, min(c + self.block_columns, n) - 1] < delta[head]:
                    c += self.block_columns
                found[head, block] = c
        return found


# --------------------------------------------------------------------------------------------- element-wise and look-ups


@dataclass(frozen=True)
class Norm(Primitive):
    """Layer normalisation over the last ``axes`` axes together: gain and shift are the second and third input."""

    KIND: ClassVar[str] = "norm"
    eps: float = 1e-5
    axes: int = 1

    def meaning(self, *inputs: Any) -> Any:
        x, gain, shift = inputs
        over = tuple(range(-self.axes, 0))
        centred = x - x.mean(over, keepdims=True)
        return centred / np.sqrt((centred**2).mean(over, keepdims=True) + self.eps) * gain + shift


@dataclass(frozen=True)
class Pool(Primitive):
    """Summaries of cells of ``cell`` rows: ``[heads, n, d]`` -> ``[heads, n / cell * per_cell, d]``.

    The mean of each ``cell / per_cell`` consecutive rows, which is no product; or, with filters ``[d, per_cell, cell]``
    as second input, per channel a product with each filter.
    """

    KIND: ClassVar[str] = "pool"
    cell: int = 1
    per_cell: int = 1

    def rule(self) -> Shape:
        heads, n, d = self.sources[0]
        _need(n % self.cell == 0, self, f"a multiple of {self.cell} rows")
        return (heads, n // self.cell * self.per_cell, d)

    def meaning(self, *inputs: Any) -> Any:
        heads, n, d = inputs[0].shape
        if len(inputs) == 1:
            return inputs[0].reshape(heads, self.shape[1], self.cell // self.per_cell, d).mean(2)
        cells = inputs[0].reshape(heads, n // self.cell, self.cell, d)
        return np.einsum("hcwd,dpw->hcpd", cells, inputs[1]).reshape(self.shape)

    def macs(self, context: int = 0) -> int:  # noqa: ARG002
        return self.size * self.cell if len(self.sources) > 1 else 0


@dataclass(frozen=True)
class Elementwise(Primitive):
    """A function of the entries; see `FUNCTIONS`. Inputs broadcast against each other, the first has the shape."""

    KIND: ClassVar[str] = "elementwise"
    function: str = "add"
    constants: tuple[float, ...] = ()

    def meaning(self, *inputs: Any) -> Any:
        return FUNCTIONS[self.function](*inputs, *self.constants)

    def exps(self) -> int:
        return self.live if self.function in EXPONENTIAL else 0


def _gelu(x: Array) -> Array:
    found: Array = 0.5 * x * (1 + np.vectorize(erf, otypes=[float])(x / sqrt(2)))
    return found


@dataclass(frozen=True)
class Outer(Primitive):
    """Differences of each of a column and each of a row: ``[.., rows, 1] - [.., 1, columns]``."""

    KIND: ClassVar[str] = "outer"

    def rule(self) -> Shape:
        return (*self.sources[0][:-1], self.sources[1][-1])

    def meaning(self, *inputs: Any) -> Any:
        return inputs[0] - inputs[1]


def _sigmoid(x: Array) -> Array:
    found: Array = 0.5 * (1 + np.tanh(0.5 * x))
    return found


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "child": lambda parent, choice, branching: parent * int(branching) + choice,
    "clip": lambda x, factor, shift: np.clip(factor * x + shift, 0.0, 1.0),
    "divide": np.divide,
    "elu_plus_one": lambda x: np.where(x > 0, x + 1, np.exp(np.minimum(x, 0.0))),
    "exp": np.exp,
    "gelu_gate": lambda x, gate: x * _gelu(gate),
    "inverse_root": lambda x, eps: 1 / np.sqrt(x + eps),
    "magnitude": np.abs,
    "multiply": np.multiply,
    "quantise": lambda x, top: np.round(127 * x / np.where(top > 0, top, 1.0)),
    "relu": lambda x: np.maximum(x, 0.0),
    "scale": lambda x, by: x * by,
    "shift": lambda x, by: x + by,
    "sigmoid": _sigmoid,
    "sigmoid_of_magnitude": lambda x: _sigmoid(2 * np.abs(x)),
    "unless_at_least": lambda x, limit: np.where(np.abs(x) >= limit, 0.0, x),
    "zero_where": lambda x, where: np.where(where > 0, 0.0, x),
    "zero_if_masked": lambda x: np.where(np.isneginf(x), 0.0, x),
}
"""Function -> its meaning."""

EXPONENTIAL = {"elu_plus_one", "exp", "sigmoid", "sigmoid_of_magnitude"}
"""Functions with one exponential per entry."""

REDUCTIONS: dict[str, Callable[..., Any]] = {
    "abs_max": lambda x, **where: np.abs(x).max(**where),
    "mean": np.mean,
    "product": np.prod,
    "sum": np.sum,
}
"""Function of an axis -> its meaning."""


@dataclass(frozen=True)
class Reduce(Primitive):
    """A function over one axis, which stays with one entry; see `REDUCTIONS`."""

    KIND: ClassVar[str] = "reduce"
    function: str = "sum"
    axis: int = -1

    def rule(self) -> Shape:
        shape = list(self.sources[0])
        shape[self.axis] = 1
        return tuple(shape)

    def meaning(self, *inputs: Any) -> Any:
        return REDUCTIONS[self.function](inputs[0], axis=self.axis, keepdims=True)


@dataclass(frozen=True)
class Select(Primitive):
    """Entries along ``axis`` whose ``index`` is known before the run; on chip."""

    KIND: ClassVar[str] = "select"
    axis: int = -1
    index: tuple[int, ...] = ()

    def rule(self) -> Shape:
        shape = list(self.sources[0])
        _need(all(0 <= i < shape[self.axis] for i in self.index), self, f"entries {self.index}")
        shape[self.axis] = len(self.index)
        return tuple(shape)

    def meaning(self, *inputs: Any) -> Any:
        return np.take(inputs[0], np.array(self.index, int), axis=self.axis)


@dataclass(frozen=True)
class Exclude(Primitive):
    """Scores ``[heads, rows, n]`` with minus infinity at the entry ``index [1, rows, 1]`` of each row."""

    KIND: ClassVar[str] = "exclude"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairs < 0:
            object.__setattr__(self, "pairs", self.size // self.shape[-1] * (self.shape[-1] - 1))

    def meaning(self, *inputs: Any) -> Any:
        return np.where(np.arange(self.shape[-1]) == inputs[1], -np.inf, inputs[0])


@dataclass(frozen=True)
class MaskBeyond(Primitive):
    """Scores ``[heads, rows, n]`` of the n children of nodes ``[1, rows, 1]``, minus infinity from child ``limit`` on.

    All of them are computed, and count.
    """

    KIND: ClassVar[str] = "mask_beyond"
    limit: int = 0

    def meaning(self, *inputs: Any) -> Any:
        n = self.shape[-1]
        return np.where(inputs[1] * n + np.arange(n) >= self.limit, -np.inf, inputs[0])


@dataclass(frozen=True)
class Constant(Primitive):
    """An array of zeros, as indices."""

    KIND: ClassVar[str] = "constant"
    to: Shape = ()

    def rule(self) -> Shape:
        return self.to

    def meaning(self, *inputs: Any) -> Any:  # noqa: ARG002
        return np.zeros(self.shape, int)


@dataclass(frozen=True)
class Children(Primitive):
    """Indices of the children of nodes ``[1, rows, 1]``: ``[1, rows, branching]``, none beyond the last that exists."""

    KIND: ClassVar[str] = "children"
    branching: int = 2
    limit: int = 1

    def rule(self) -> Shape:
        return (*self.sources[0][:-1], self.branching)

    def meaning(self, *inputs: Any) -> Any:
        return np.minimum(inputs[0] * self.branching + np.arange(self.branching), self.limit - 1)


@dataclass(frozen=True)
class SignHash(Decision):
    """Signs of each row as a number, the first entry most significant: ``[.., bits]`` -> ``[.., 1]``."""

    KIND: ClassVar[str] = "sign_hash"

    @property
    def limit(self) -> int:
        return 1 << self.sources[0][-1]

    def rule(self) -> Shape:
        return (*self.sources[0][:-1], 1)

    def meaning(self, *inputs: Any) -> Any:
        powers = 1 << np.arange(self.sources[0][-1])[::-1]
        return ((inputs[0] >= 0) * powers).sum(-1, keepdims=True)


@dataclass(frozen=True)
class OutlierColumns(Decision):
    """1 for each column with an entry of magnitude ``threshold`` or more, else 0: ``[rows, n]`` -> ``[1, n]``."""

    KIND: ClassVar[str] = "outlier_columns"
    threshold: float = 6.0

    @property
    def limit(self) -> int:
        return 2

    def rule(self) -> Shape:
        return (1, self.sources[0][-1])

    def meaning(self, *inputs: Any) -> Any:
        return (np.abs(inputs[0]) >= self.threshold).any(axis=0, keepdims=True).astype(int)


@dataclass(frozen=True)
class Clusters(Decision):
    """Group of each row by Lloyd's algorithm: ``[heads, rows, d]`` -> ``[heads, rows]``.

    The first rows are the first centres; each of the ``iterations`` assigns all rows, between them centres move to the
    means. Distances take one product per row, centre and element.
    """

    KIND: ClassVar[str] = "clusters"
    clusters: int = 1
    iterations: int = 1

    @property
    def limit(self) -> int:
        return self.clusters

    def rule(self) -> Shape:
        _need(self.clusters <= self.sources[0][1], self, f"at least {self.clusters} rows")
        return self.sources[0][:2]

    def meaning(self, *inputs: Any) -> Any:
        rows = inputs[0]
        centres = rows[:, : self.clusters].copy()
        found = np.zeros(self.shape, int)
        for turn in range(self.iterations):
            if turn:
                member = found[:, None] == np.arange(self.clusters)[:, None]
                size = member.sum(-1, keepdims=True)
                centres = np.where(size > 0, member @ rows / np.maximum(size, 1), centres)
            found = ((rows[:, :, None] - centres[:, None]) ** 2).sum(-1).argmin(-1)
        return found

    def macs(self, context: int = 0) -> int:  # noqa: ARG002
        return self.iterations * prod(self.sources[0]) * self.clusters


@dataclass(frozen=True)
class GroupMean(Primitive):
    """Mean of the rows of each group, 0 if there are none: ``[heads, rows, d]``, ``[heads, rows]`` -> ``[heads, groups, d]``."""

    KIND: ClassVar[str] = "group_mean"
    groups: int = 1

    def rule(self) -> Shape:
        heads, _, d = self.sources[0]
        return (heads, self.groups, d)

    def meaning(self, *inputs: Any) -> Any:
        member = inputs[1][:, None] == np.arange(self.groups)[:, None]
        return member @ inputs[0] / np.maximum(member.sum(-1, keepdims=True), 1)


@dataclass(frozen=True)
class Depthwise(Primitive):
    """A convolution of each channel by itself, padded with zeros, over ``side * side`` tokens ``[tokens, channels]``.

    Filters ``[channels, kernel, kernel]`` and a bias ``[channels]`` are the second and third input. With a ``stride`` only every
    so manieth line and column is computed.
    """

    KIND: ClassVar[str] = "depthwise"
    side: int = 1
    stride: int = 1

    def rule(self) -> Shape:
        x, filters = self.sources[:2]
        _need(x[0] == self.side**2 and x[1] == filters[0], self, f"{self.side**2} tokens and a filter per channel")
        return (((self.side - 1) // self.stride + 1) ** 2, x[1])

    def meaning(self, *inputs: Any) -> Any:
        x, filters, bias = inputs
        kernel = filters.shape[-1]
        image = np.pad(x.reshape(self.side, self.side, -1), ((kernel // 2,) * 2, (kernel // 2,) * 2, (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(image, (kernel, kernel), (0, 1))
        windows = windows[:: self.stride, :: self.stride]
        return np.einsum("yxcij,cij->yxc", windows, filters).reshape(self.shape) + bias

    def macs(self, context: int = 0) -> int:  # noqa: ARG002
        return self.size * self.sources[1][-1] ** 2


@dataclass(frozen=True)
class Patches(Primitive):
    """Neighbourhoods of pixels, so that a convolution is a product (im2col); on chip.

    Lines of ``width`` pixels, ``[lines * width, channels]``, to ``[results, kernel^2 * channels]``: line by line of the
    neighbourhood, pixel by pixel, the channels fastest. Beyond the left and right border stand zeros, and so many lines of
    zeros stand ``above`` the first line.
    """

    KIND: ClassVar[str] = "patches"
    width: int = 1
    kernel: int = 3
    stride: int = 1
    above: int = 0

    def rule(self) -> Shape:
        pixels, channels = self.sources[0]
        lines = pixels // self.width + self.above
        _need(
            pixels % self.width == 0 and lines >= self.kernel,
            self,
            f"whole lines of {self.width} pixels, enough for a kernel",
        )
        across = (self.width + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1
        return (((lines - self.kernel) // self.stride + 1) * across, self.kernel**2 * channels)

    def meaning(self, *inputs: Any) -> Any:
        middle = self.kernel // 2
        image = inputs[0].reshape(-1, self.width, self.sources[0][1])
        image = np.pad(image, ((self.above, 0), (middle, middle), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(image, (self.kernel, self.kernel), (0, 1))
        return windows[:: self.stride, :: self.stride].transpose(0, 1, 3, 4, 2).reshape(self.shape)
