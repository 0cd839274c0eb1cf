"""What a configuration says about a stream of requests."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pimsim.model import Documented, NonNegativeFloat, NonNegativeInt, PositiveInt

Pattern = Literal["sequential", "strided", "random", "trace"]


class StreamConfig(Documented):
    """A stream of requests; each one moves one burst."""

    pattern: Pattern = Field(
        description="sequential: burst after burst; strided: stride_bytes apart; random: any multiple of stride_bytes; "
        "trace: as the file says"
    )
    reads: float = Field(1.0, ge=0, le=1, description="share of reads; which requests are reads is random by seed")
    interval: NonNegativeFloat = Field(
        0.0, description="clocks from one arrival to the next; 0: all requests are there from the start"
    )
    outstanding: PositiveInt | None = Field(
        None,
        description="reads of a channel that may be under way; the next one enters when data has come back. Default: any",
    )
    start_address: NonNegativeInt = Field(0, description="first byte")
    span_bytes: PositiveInt | None = Field(
        None, description="bytes from the first one on, around which addresses wrap; default: to the end of the memory"
    )
    stride_bytes: PositiveInt | None = Field(
        None, description="distance of strided addresses, granularity of random ones; default: one burst"
    )
    seed: NonNegativeInt = Field(0, description="of addresses and of the choice between reads and writes")
    path: str | None = Field(None, description="file of a trace: CSV with columns op (R or W), address and arrive")

    @model_validator(mode="after")
    def _has_what_its_pattern_needs(self) -> StreamConfig:
        if (self.path is None) == (self.pattern == "trace"):
            raise ValueError(
                "must have a path where pattern is trace"
                if self.path is None
                else "must have no path unless pattern is trace"
            )
        if self.pattern == "strided" and self.stride_bytes is None:
            raise ValueError("must have stride_bytes where pattern is strided")
        return self


__all__ = ["Pattern", "StreamConfig"]
