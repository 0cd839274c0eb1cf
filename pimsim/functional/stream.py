"""What value: kernels of a streaming unit and transfers over its link, carried out on numbers.

The unit keeps weights and the KV cache in the format of the machine and computes in float32, in the order of its hardware:
the words of a beat in a tree, beats one after the other, the tokens of a lane one after the other, lanes in a tree. Its
exponential is float32's own.

Shapes of kernels: ``linear (d_in, d_out, words, tokens)``; ``scores``, ``weighted`` and ``attend`` ``(heads, kv_heads,
d_head, lanes, words, tokens)``, ``words`` being the elements of a beat and ``tokens`` 1 where it is left out. Vectors of
several tokens lie one behind the other. ``scores`` and ``attend`` find queries, key and value of the newest tokens side by
side and append to the cache; ``scores`` leaves ``[tokens, heads, context]``, which ``weighted`` reads. A token sees those
that came before it, and itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from pimsim.errors import ProgramError
from pimsim.functional.executor import Array, Executor
from pimsim.functional.numerics import FloatSpec
from pimsim.program.isa import Compute, Kernel, Placed, Step, Transfer


class StreamMemory:
    """Memory and buffer of a streaming unit.

    Attributes:
        buffer: ``[elements]``, float32.
        matrices: (layer, name) -> W ``[d_in, d_out]``, values of the format in float32.
    """

    def __init__(self, number_format: FloatSpec, elements: int) -> None:
        self.format = number_format
        self.buffer = np.zeros(elements, np.float32)
        self.matrices: dict[tuple[int, str], Array] = {}
        self._cache: dict[tuple[int, str], list[Array]] = {}

    def place(self, layer: int, name: str, matrix: Array) -> None:
        """Store a matrix, rounded to the format."""
        self.matrices[layer, name] = self.format.round_to(np.asarray(matrix, np.float32)).astype(np.float32)

    def clear(self) -> None:
        """Forget the cache and what is in the buffer."""
        self._cache.clear()
        self.buffer[...] = 0

    def run(self, kernel: Kernel, layer: int) -> None:
        """Carry out a kernel of a decoder block."""
        handler = self.kernels.get(kernel.function)
        if handler is None:
            raise ProgramError(f"kernel must be one of {', '.join(self.kernels)}, not {kernel.function!r}")
        result = handler(self, kernel, layer).ravel()
        self.buffer[kernel.target : kernel.target + result.size] = result

    # -- kernels --------------------------------------------------------------------------------------------------

    def _linear(self, kernel: Kernel, layer: int) -> Array:
        d_in, _, words = kernel.shape[:3]
        matrix = self.matrices.get((layer, kernel.parameters))
        if matrix is None:
            raise ProgramError(f"the streaming unit must have the matrix {kernel.parameters!r} of layer {layer}")
        vectors = self._rows(kernel.source, _tokens(kernel, 3), d_in)
        return np.stack([dot(vector[:, None], matrix, words) for vector in vectors])

    def _rows(self, start: int, count: int, width: int) -> Array:
        """Vectors that lie one behind the other, ``[count, width]``."""
        rows: Array = self.buffer[start : start + count * width].reshape(count, width)
        return rows

    def _append(self, kernel: Kernel, layer: int) -> tuple[Array, Array, Array]:
        """Queries ``[tokens, kv_heads, group, d_head]``, keys and values ``[context, kv_heads, d_head]`` with the newest ones."""
        heads, kv_heads, d_head = kernel.shape[:3]
        tokens = _tokens(kernel, 5)
        parts = self._rows(kernel.source, tokens, (heads + 2 * kv_heads) * d_head).reshape(tokens, -1, d_head)
        cache, old = self._cache.setdefault((layer, kernel.parameters), []), kernel.context - tokens
        if old > len(cache):
            raise ProgramError(f"the cache of layer {layer} must hold {old} tokens, not {len(cache)}")
        cache[old:] = list(self.format.round_to(parts[:, heads:]).astype(np.float32))
        stored = np.stack(cache)
        queries = parts[:, :heads].reshape(tokens, kv_heads, -1, d_head).copy()
        return queries, stored[:, :kv_heads], stored[:, kv_heads:]

    def _scores(self, kernel: Kernel, layer: int) -> Array:
        queries, keys, _ = self._append(kernel, layer)
        scores = np.full((len(queries), kernel.shape[0], kernel.context), -np.inf, np.float32)
        for number, seen in enumerate(_contexts(kernel)):
            scores[number, :, :seen] = _scores_of(queries[number], keys[:seen], kernel.shape[4]).T
        return scores

    def _weighted(self, kernel: Kernel, layer: int) -> Array:
        heads, kv_heads = kernel.shape[:2]
        tokens = _tokens(kernel, 5)
        scores = self._rows(kernel.source, tokens, heads * kernel.context).reshape(tokens, heads, -1)
        values = np.stack(self._cache[layer, kernel.parameters])[:, kv_heads:]
        return np.stack(
            [
                self._weighted_of(kernel, scores[number, :, :seen], values[:seen])
                for number, seen in enumerate(_contexts(kernel))
            ]
        )

    @staticmethod
    def _weighted_of(kernel: Kernel, scores: Array, values: Array) -> Array:
        """Weighted values of one token, ``[heads, d_head]``."""
        heads, _, d_head, lanes = kernel.shape[:4]
        weights = np.exp(scores - np.max(scores, axis=1, keepdims=True))
        sums = np.zeros((lanes, heads), np.float32)
        weighted = np.zeros((lanes, heads, d_head), np.float32)
        for tokens in _steps(len(values), lanes):
            part = weights[:, tokens].T
            sums[: part.shape[0]] += part
            weighted[: part.shape[0]] += part[..., None] * _for_queries(values[tokens], heads)
        result: Array = _tree(weighted) / _tree(sums)[:, None]
        return result

    def _attend(self, kernel: Kernel, layer: int) -> Array:
        queries, keys, values = self._append(kernel, layer)
        heads, _, d_head, lanes, words = kernel.shape[:5]
        results = []
        for query, seen in zip(queries, _contexts(kernel), strict=True):
            scores = _scores_of(query, keys[:seen], words)
            state = _Softmax(lanes, heads, d_head)
            for tokens in _steps(seen, lanes):
                state.fold(scores[tokens], _for_queries(values[tokens], heads))
            results.append(state.merged())
        return np.stack(results)

    kernels: ClassVar[dict[str, Callable[[StreamMemory, Kernel, int], Array]]] = {
        "linear": _linear,
        "scores": _scores,
        "weighted": _weighted,
        "attend": _attend,
    }
    """Kernel -> what it leaves in the buffer."""


class _Softmax:
    """Running maximum and sum ``[lanes, heads]`` and weighted values ``[lanes, heads, d_head]`` of every lane."""

    def __init__(self, lanes: int, heads: int, d_head: int) -> None:
        self.top = np.full((lanes, heads), -np.inf, np.float32)
        self.sum = np.zeros((lanes, heads), np.float32)
        self.values = np.zeros((lanes, heads, d_head), np.float32)

    def fold(self, scores: Array, values: Array) -> None:
        """One more token for each of the first lanes."""
        n = len(scores)
        top = np.maximum(self.top[:n], scores)
        keep, weight = np.exp(self.top[:n] - top), np.exp(scores - top)
        self.top[:n] = top
        self.sum[:n] = self.sum[:n] * keep + weight
        self.values[:n] = self.values[:n] * keep[..., None] + weight[..., None] * values

    def merged(self) -> Array:
        """Values over sum of all lanes that saw a token, rescaled to the common maximum and added in a tree."""
        scale = np.exp(self.top - np.max(self.top, axis=0))
        result: Array = _tree(self.values * scale[..., None]) / _tree(self.sum * scale)[:, None]
        return result


def dot(a: Array, b: Array, words: int) -> Array:
    """Sum of ``a * b`` over the first axis in float32: ``words`` products in a tree, their sums one after the other."""
    total: Array = np.zeros(np.broadcast_shapes(a.shape, b.shape)[1:], np.float32)
    for start in range(0, max(len(a), len(b)), words):
        total = total + _tree(a[start : start + words] * b[start : start + words])
    return total


def _tree(terms: Array) -> Array:
    """Sum over the first axis, neighbours first."""
    while len(terms) > 1:
        if len(terms) % 2:
            terms = np.concatenate([terms, np.zeros_like(terms[:1])])
        terms = terms[0::2] + terms[1::2]
    total: Array = terms[0]
    return total


def _scores_of(queries: Array, keys: Array, words: int) -> Array:
    """Scores ``[context, heads]``."""
    found = dot(queries.transpose(2, 0, 1)[:, None], keys.transpose(2, 0, 1)[..., None], words)
    scores: Array = found.reshape(len(keys), -1)
    return scores


def _for_queries(values: Array, heads: int) -> Array:
    """Values ``[tokens, kv_heads, d_head]`` for every query head."""
    return np.repeat(values, heads // values.shape[1], axis=1)


def _tokens(kernel: Kernel, at: int) -> int:
    """Tokens of a kernel, whose shape has them behind ``at`` other numbers."""
    return kernel.shape[at] if len(kernel.shape) > at else 1


def _contexts(kernel: Kernel) -> range:
    """Tokens that each of those of a kernel of attention sees."""
    return range(kernel.context - _tokens(kernel, 5) + 1, kernel.context + 1)


def _steps(context: int, lanes: int) -> list[slice]:
    """The tokens that lanes take together, one each."""
    return [slice(start, min(start + lanes, context)) for start in range(0, context, lanes)]


class HybridExecutor(Executor):
    """An executor with a streaming unit beside its channels."""

    stream: StreamMemory

    def step(self, step: Step, placed: Placed, channels: Sequence[int]) -> None:
        """Carry out one step of any unit."""
        if channels or not step.items or isinstance(step.items[0], Compute):
            super().step(step, placed, channels)
            return
        if self.observer is not None:
            self.observer.begin(placed.block.ops[step.op], placed.layer)
        for item in step.items:
            if isinstance(item, Kernel):
                self.stream.run(item, placed.layer)
            else:
                self._transfer(item)

    def _transfer(self, item: Any) -> None:
        if not isinstance(item, Transfer):
            raise ProgramError(f"a step of a link must hold a Transfer, not {type(item).__name__}")
        source = slice(item.source, item.source + item.elements)
        target = slice(item.target, item.target + item.elements)
        if item.back:
            self._put(item.target, self.stream.buffer[source].copy())
        else:
            self.stream.buffer[target] = self.sram[source]


__all__ = ["HybridExecutor", "StreamMemory", "dot"]
