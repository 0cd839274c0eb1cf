"""One layer's attention products by themselves: every token attends to every token."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pimsim.model import NonNegativeInt, PositiveInt
from pimsim.workload.config import AnyWorkload


class AttentionConfig(AnyWorkload):
    """Scores, softmax statistics and weighted sums of ``tokens`` rows of ``heads`` heads."""

    kind: Literal["attention"] = "attention"
    tokens: PositiveInt = Field(le=100_000, description="rows, each a query, a key and a value")
    heads: PositiveInt = Field(le=1024)
    d_head: PositiveInt = Field(le=65_536)
    schedule: Literal["reordered", "naive"] = Field(
        description="reordered: p rows in skewed lanes share one stream of keys; naive: one row meets p keys at once"
    )
    seed: NonNegativeInt = Field(0, description="for queries, keys and values that a check draws")


__all__ = ["AttentionConfig"]
