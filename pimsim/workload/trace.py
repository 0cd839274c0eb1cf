"""A trace of instructions as a workload."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import Field

from pimsim.errors import ConfigError
from pimsim.workload.config import AnyWorkload
from pimsim.yamlio import FieldPath, Position, Tree

SUFFIX = ".trace"


class TraceWorkload(AnyWorkload):
    """A file of instructions, which are those of the machine that it runs on."""

    kind: Literal["trace"] = "trace"
    path: str = Field(description="the file; a path relative to the working folder")
    sha256: str | None = Field(None, description="hash of the file, so that a result says what was run")


def trace_tree(path: Path) -> Tree:
    """The workload that stands for a trace file.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        if not path.is_file():
            raise ConfigError("must be a file", file=path)
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"must be a readable file ({error.strerror})", file=path) from error
    data = {
        "kind": "trace",
        "name": path.stem,
        "description": f"instructions of {path.name}",
        "path": str(path),
        "sha256": digest,
    }
    top = Position(str(path))
    places: dict[FieldPath, Position] = {(): top, **{(key,): top for key in data}}
    return Tree(data, places, {at: top for at in places if at}, (path,))


__all__ = ["SUFFIX", "TraceWorkload", "trace_tree"]
