"""Operations of a transformer: what must be computed, with counts that do not depend on any machine.

``context`` is the number of tokens that attention sees in this forward pass, the current one included. Lengths are
elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pimsim.workload.attention.base import Algorithm, Case


@dataclass(frozen=True)
class OpNode:
    """An operation on vectors; ``inputs`` names the operations whose results it reads."""

    name: str
    kind: str
    inputs: tuple[str, ...]

    def macs(self, context: int) -> int:  # noqa: ARG002
        """Multiply-accumulates of matrix products."""
        return 0

    def weights(self) -> int:
        """Stored constants in matrices."""
        return 0

    def cache_reads(self, context: int) -> int:  # noqa: ARG002
        """Elements of the KV cache that it reads."""
        return 0

    def cache_writes(self) -> int:
        """Elements of the KV cache that it writes."""
        return 0

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the constants that it reads; names are unique in a graph."""
        return {}


@dataclass(frozen=True)
class Embedding(OpNode):
    """Scaled embedding of a token, plus that of its position if ``positions`` is not 0: ``[width]``.

    Tensors: ``<name>.tokens [vocabulary, width]``, ``<name>.positions [positions, width]``.
    """

    vocabulary: int = 0
    positions: int = 0
    width: int = 0
    scale: float = 1.0

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The table of tokens and, if there is one, of positions."""
        found: dict[str, tuple[int, ...]] = {f"{self.name}.tokens": (self.vocabulary, self.width)}
        if self.positions:
            found[f"{self.name}.positions"] = (self.positions, self.width)
        return found


@dataclass(frozen=True)
class LayerNorm(OpNode):
    """(x - mean) / sqrt(var + eps) * (offset + gamma) + beta over ``[width]``.

    Tensors: ``<name>.gamma [width]``, ``<name>.beta [width]``.
    """

    width: int = 0
    eps: float = 1e-5
    offset: float = 0.0

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Gain and shift."""
        return {f"{self.name}.gamma": (self.width,), f"{self.name}.beta": (self.width,)}


@dataclass(frozen=True)
class RmsNorm(OpNode):
    """x / sqrt(mean(x^2) + eps) * (offset + gamma) over ``[width]``. Tensor: ``<name>.gamma [width]``."""

    width: int = 0
    eps: float = 1e-5
    offset: float = 0.0

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The gain."""
        return {f"{self.name}.gamma": (self.width,)}


@dataclass(frozen=True)
class Linear(OpNode):
    """y = x W + b with W ``[d_in, d_out]`` and b ``[d_out]``.

    Tensors: ``<name>.weight``, ``<name>.bias`` if ``bias``. ``tied`` names the table ``[d_out, d_in]`` whose transpose
    W is; W then counts as no parameter of its own.
    """

    d_in: int = 0
    d_out: int = 0
    bias: bool = True
    tied: str = ""

    @property
    def weight_name(self) -> str:
        """Name of W."""
        return f"{self.name}.weight"

    @property
    def bias_name(self) -> str | None:
        """Name of b, or None if there is none."""
        return f"{self.name}.bias" if self.bias else None

    def macs(self, context: int) -> int:  # noqa: ARG002
        """One per weight."""
        return self.d_in * self.d_out

    def weights(self) -> int:
        """Elements of W."""
        return self.d_in * self.d_out

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """W and, if there is one, b."""
        found: dict[str, tuple[int, ...]] = {self.weight_name: (self.d_in, self.d_out)}
        if self.bias_name:
            found[self.bias_name] = (self.d_out,)
        return found


@dataclass(frozen=True)
class _HeadsOp(OpNode):
    """An operation on heads; query head h belongs to the keys and values of head ``h // (heads / kv_heads)``.

    ``kv_heads`` is as many as ``heads`` if not given.
    """

    heads: int = 0
    d_head: int = 0
    kv_heads: int = 0

    def __post_init__(self) -> None:
        if not self.kv_heads:
            object.__setattr__(self, "kv_heads", self.heads)


@dataclass(frozen=True)
class Rope(_HeadsOp):
    """Rotate queries and keys by their position p; values pass through.

    ``[(heads + 2 kv_heads) * d_head]`` (queries, keys, values) -> the same shape. The first ``rotary`` elements of each
    query and key head turn in pairs: pair i by the angle ``p * theta ** (-2 i / rotary) / factors[i]`` (no factors:
    1), ``(a, b) -> (a cos - b sin, a sin + b cos)``. Pair i is (i, i + rotary / 2) with the convention ``half`` and
    (2i, 2i + 1) with ``interleaved``.
    """

    rotary: int = 0
    theta: float = 10_000.0
    convention: Literal["half", "interleaved"] = "half"
    factors: tuple[float, ...] = ()

    def frequencies(self) -> tuple[float, ...]:
        """Radians per position of each pair, ``rotary / 2`` of them."""
        plain = [self.theta ** (-2 * pair / self.rotary) for pair in range(self.rotary // 2)]
        return tuple(each / factor for each, factor in zip(plain, self.factors or (1.0,) * len(plain), strict=True))


@dataclass(frozen=True)
class CacheWrite(_HeadsOp):
    """Append this token's key and value, ``[2, kv_heads * d_head]`` of the fused projection, to the cache."""

    def cache_writes(self) -> int:
        """Key and value of all heads."""
        return 2 * self.kv_heads * self.d_head


@dataclass(frozen=True)
class Scores(_HeadsOp):
    """q K^T * scale for each head: ``[heads, context]``. The factor is folded into the query projection.

    ``scale`` is 1 / sqrt(d_head) if not given.
    """

    scale: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scale and self.d_head:
            object.__setattr__(self, "scale", self.d_head**-0.5)

    def macs(self, context: int) -> int:
        """One per element of a query and cached key."""
        return self.heads * self.d_head * context

    def cache_reads(self, context: int) -> int:
        """All keys, once for the query heads that share them."""
        return self.kv_heads * self.d_head * context


@dataclass(frozen=True)
class Softmax(OpNode):
    """exp(s - max) over each head's row, and the reciprocal of its sum: ``[heads, context]``."""

    heads: int = 0


@dataclass(frozen=True)
class Values(_HeadsOp):
    """Weighted sum of the cached values, divided by the softmax sum: ``[heads * d_head]``."""

    def macs(self, context: int) -> int:
        """One per weight and element of a cached value."""
        return self.heads * self.d_head * context

    def cache_reads(self, context: int) -> int:
        """All values, once for the query heads that share them."""
        return self.kv_heads * self.d_head * context


@dataclass(frozen=True)
class Attention(_HeadsOp):
    """An attention algorithm of the registry over the tokens so far, caches and states included: ``[heads * d_head]``.

    Reads the fused projection ``[queries | keys | values]`` and, where the algorithm asks for ``x``, the layer's input behind
    its norm. ``scale`` is folded into the query projection; the algorithm has the factor 1 / sqrt(d_head) itself.
    Tensors: ``<name>.<input>`` for what the algorithm asks for beyond that.
    """

    scale: float = 1.0
    method: Algorithm | None = None

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm with its parameters."""
        assert self.method is not None
        return self.method

    def case(self, context: int) -> Case:
        """The sizes of the token that sees ``context`` tokens, itself included."""
        from pimsim.workload.decoder_attention import case_of

        return case_of(self.heads, self.kv_heads, self.d_head, context)

    def macs(self, context: int) -> int:
        """As the closed form of the algorithm has them; not linear in the context."""
        return self.algorithm.counts(self.case(context)).macs

    def cache_reads(self, context: int) -> int:
        """Words that the algorithm moves, without one query and one output of each head: these stay on chip in a decoder."""
        return self.algorithm.counts(self.case(context)).moved - 2 * self.heads * self.d_head

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """What the algorithm must be given beyond queries, keys, values and states."""
        from pimsim.workload.decoder_attention import parameters_of

        found: dict[str, Any] = parameters_of(self.algorithm, self.case(2))
        return {f"{self.name}.{name}": shape for name, shape in found.items()}


@dataclass(frozen=True)
class Gelu(OpNode):
    """GELU (tanh form) over ``[width]``."""

    width: int = 0


@dataclass(frozen=True)
class Activation(OpNode):
    """``function`` (gelu_erf, relu or silu) of each element of ``[width]``; the tanh form of GELU is `Gelu`."""

    width: int = 0
    function: str = "relu"


@dataclass(frozen=True)
class Gate(OpNode):
    """``function(g) * u`` with (g, u) the halves of the input ``[2 * width]``: ``[width]``."""

    width: int = 0
    function: str = "silu"


@dataclass(frozen=True)
class Residual(OpNode):
    """Sum of two vectors ``[width]``; the first input is the stream that goes on."""

    width: int = 0


@dataclass(frozen=True)
class ArgMax(OpNode):
    """Index of the largest logit of ``[width]``; the first one of equals."""

    width: int = 0
