"""One attention problem by itself: an algorithm by name, its parameters, and the sizes of the case."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from pimsim.errors import did_you_mean
from pimsim.model import NonNegativeInt, PositiveInt
from pimsim.workload.config import AnyWorkload

if TYPE_CHECKING:
    from pimsim.workload.attention.base import Algorithm, Case

Phase = Literal["prefill", "decode", "update", "query"]


class AttentionConfig(AnyWorkload):
    """An attention algorithm on ``queries`` rows and ``keys`` tokens of ``heads`` heads; see `Case` for the sizes."""

    kind: Literal["attention"] = "attention"
    algorithm: str = Field(description="a name that `pimsim list attention` lists")
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="of the algorithm; what is left out has defaults"
    )
    phase: Phase = Field("prefill", description="prefill, decode, update (a state takes up tokens) or query (reads it)")
    tokens: PositiveInt | None = Field(
        None, le=100_000, description="rows, each a query, a key and a value: what queries and keys are if left out"
    )
    queries: PositiveInt | None = Field(
        None,
        le=10_000_000,
        description="rows that ask, or tokens that a state takes up; default: 1 in decode, else tokens",
    )
    keys: PositiveInt | None = Field(None, le=10_000_000, description="tokens that are attended to; default: tokens")
    d_head: PositiveInt = Field(64, le=65_536, description="elements of a head")
    heads: PositiveInt = Field(1, le=1024, description="query heads")
    kv_heads: PositiveInt | None = Field(None, le=1024, description="heads of keys and values; default: heads")
    causal: bool = Field(True, description="a query sees no key after its own position")
    chunk: PositiveInt | None = Field(
        None,
        description="tokens that a state takes up together, chunk after chunk (phase update); default: all queries",
    )
    shares: PositiveInt | None = Field(
        None,
        le=65_536,
        description="of a PIM machine: tiles in memory lie in so many equal shares, dealt to the channels in turn; default: "
        "every tile lies in all channels",
    )
    seed: NonNegativeInt = Field(
        0, description="of the tensors that are drawn from the algorithm's stated distribution"
    )
    decisions: str | None = Field(
        None,
        description="file of recorded decisions to replay (a path relative to the working folder); default: from the run",
    )

    @field_validator("algorithm")
    @classmethod
    def _is_registered(cls, name: str) -> str:
        from pimsim.workload.attention.base import discover

        names = discover().names()
        if name not in names:
            raise ValueError(f"must be one of {', '.join(names)}, not {name!r}{did_you_mean(name, names)}")
        return name

    @model_validator(mode="after")
    def _has_sizes(self) -> AttentionConfig:
        if self.tokens is None and (self.keys is None or (self.queries is None and self.phase != "decode")):
            raise ValueError("tokens must be given, or keys and queries (which is 1 in phase decode)")
        queries = self.queries or self.tokens or 1
        if self.chunk is not None and (self.phase != "update" or queries % self.chunk):
            raise ValueError(
                f"chunk must divide the {queries} queries of a workload of phase update, not {self.chunk} in phase {self.phase}"
            )
        return self

    def case(self) -> Case:
        """The sizes.

        Raises:
            ValidationError: they do not fit each other.
        """
        from pimsim.workload.attention.base import Case

        queries = self.queries or (1 if self.phase == "decode" else self.tokens)
        return Case(
            phase=self.phase,
            queries=queries or 0,
            keys=self.keys or self.tokens or 0,
            d_head=self.d_head,
            heads=self.heads,
            kv_heads=self.kv_heads,
            causal=self.causal,
        )

    def chunk_case(self) -> Case:
        """The sizes of one chunk; those of `case` where there are none."""
        case = self.case()
        return case if self.chunk is None else case.model_copy(update={"queries": self.chunk})

    @property
    def chunks(self) -> int:
        """Chunks of the queries."""
        return self.case().queries // self.chunk if self.chunk is not None else 1

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"attention {self.algorithm}"

    def method(self) -> Algorithm:
        """The algorithm with its parameters.

        Raises:
            WorkloadError: a parameter is unknown or out of range.
        """
        from pimsim.workload.attention.base import algorithm

        return algorithm(self.algorithm, self.parameters)


__all__ = ["AttentionConfig", "Phase"]
