"""Operations of a transformer: what must be computed, with counts that do not depend on any machine.

``context`` is the number of tokens that attention sees in this forward pass, the current one included. Lengths are elements.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OpNode:
    """An operation on vectors; ``inputs`` names the operations whose results it reads."""

    name: str
    kind: str
    inputs: tuple[str, ...]

    def macs(self, context: int) -> int:
        """Multiply-accumulates of matrix products."""
        return 0

    def weights(self) -> int:
        """Stored constants in matrices."""
        return 0

    def cache_reads(self, context: int) -> int:
        """Elements of the KV cache that it reads."""
        return 0

    def cache_writes(self) -> int:
        """Elements of the KV cache that it writes."""
        return 0


@dataclass(frozen=True)
class Embedding(OpNode):
    """Sum of a token's and a position's embedding: ``[width]``."""

    vocabulary: int = 0
    positions: int = 0
    width: int = 0


@dataclass(frozen=True)
class LayerNorm(OpNode):
    """(x - mean) / sqrt(var + eps) * gamma + beta over ``[width]``."""

    width: int = 0


@dataclass(frozen=True)
class Linear(OpNode):
    """y = x W + b with W ``[d_in, d_out]``."""

    d_in: int = 0
    d_out: int = 0

    def macs(self, context: int) -> int:
        """One per weight."""
        return self.d_in * self.d_out

    def weights(self) -> int:
        """Elements of W."""
        return self.d_in * self.d_out


@dataclass(frozen=True)
class CacheWrite(OpNode):
    """Append the key and the value of this token (``[2, heads * d_head]``, from the fused projection) to the cache."""

    heads: int = 0
    d_head: int = 0

    def cache_writes(self) -> int:
        """Key and value of all heads."""
        return 2 * self.heads * self.d_head


@dataclass(frozen=True)
class Scores(OpNode):
    """q K^T / sqrt(d_head) for each head: ``[heads, context]``. The factor is folded into the query projection."""

    heads: int = 0
    d_head: int = 0

    def macs(self, context: int) -> int:
        """One per cached key element."""
        return self.heads * self.d_head * context

    def cache_reads(self, context: int) -> int:
        """All keys."""
        return self.heads * self.d_head * context


@dataclass(frozen=True)
class Softmax(OpNode):
    """exp(s - max) over each head's row, and the reciprocal of its sum: ``[heads, context]``."""

    heads: int = 0


@dataclass(frozen=True)
class Values(OpNode):
    """Weighted sum of the cached values, divided by the softmax sum: ``[heads * d_head]``."""

    heads: int = 0
    d_head: int = 0

    def macs(self, context: int) -> int:
        """One per cached value element."""
        return self.heads * self.d_head * context

    def cache_reads(self, context: int) -> int:
        """All values."""
        return self.heads * self.d_head * context


@dataclass(frozen=True)
class Gelu(OpNode):
    """GELU (tanh form) over ``[width]``."""

    width: int = 0


@dataclass(frozen=True)
class Residual(OpNode):
    """Sum of two vectors ``[width]``; the first input is the stream that goes on."""

    width: int = 0


@dataclass(frozen=True)
class ArgMax(OpNode):
    """Index of the largest logit of ``[width]``."""

    width: int = 0
