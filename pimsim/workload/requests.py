"""Plain requests to a memory as a workload."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from pimsim.errors import ConfigError
from pimsim.model import PositiveInt
from pimsim.traffic.config import StreamConfig
from pimsim.workload.config import AnyWorkload
from pimsim.yamlio import FieldPath, Position, Tree

SUFFIX = ".csv"


class RequestsConfig(AnyWorkload):
    """A number of requests of one stream."""

    kind: Literal["requests"] = "requests"
    count: PositiveInt | None = Field(
        None, description="requests; default: all of a trace. Generated patterns must say how many"
    )
    stream: StreamConfig
    sha256: str | None = Field(None, description="hash of a trace, so that a result says what was run")

    @model_validator(mode="after")
    def _ends(self) -> RequestsConfig:
        if self.count is None and self.stream.pattern != "trace":
            raise ValueError("must have a count where the pattern is not trace")
        return self


def requests_tree(path: Path) -> Tree:
    """The workload that stands for a trace of requests.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"must be a readable file ({error.strerror})", file=path) from error
    stream = {"pattern": "trace", "path": str(path)}
    data = {
        "kind": "requests",
        "name": path.stem,
        "description": f"requests of {path.name}",
        "stream": stream,
        "sha256": digest,
    }
    top = Position(str(path))
    places: dict[FieldPath, Position] = {(): top, **{(key,): top for key in data}}
    places |= {("stream", key): top for key in stream}
    return Tree(data, places, {at: top for at in places if at}, (path,))


__all__ = ["SUFFIX", "RequestsConfig", "requests_tree"]
