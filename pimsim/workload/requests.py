"""Plain requests to a memory as a workload."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pimsim.model import PositiveInt
from pimsim.traffic.config import StreamConfig
from pimsim.workload.config import AnyWorkload


class RequestsConfig(AnyWorkload):
    """A number of requests of one stream."""

    kind: Literal["requests"] = "requests"
    count: PositiveInt | None = Field(
        None, description="requests; default: all of a trace. Generated patterns must say how many"
    )
    stream: StreamConfig

    @model_validator(mode="after")
    def _ends(self) -> RequestsConfig:
        if self.count is None and self.stream.pattern != "trace":
            raise ValueError("must have a count where the pattern is not trace")
        return self


__all__ = ["RequestsConfig"]
