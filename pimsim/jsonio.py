"""The reader of JSON files that may come from anyone: bounded in size and depth, and checked against a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pimsim.errors import ConfigError

MAX_BYTES = 100_000_000
"""Of one file; the result of a run with 10,000 units has a twentieth of it."""

SHOWN = 80
"""Characters of a wrong value that a message repeats."""


class Document(BaseModel):
    """What is read from a file that pimsim has written; keys that are not read may be there, too."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


M = TypeVar("M", bound=BaseModel)


def read_json(file: Path, limit: int = MAX_BYTES) -> Any:
    """The content of a JSON file.

    Raises:
        ConfigError: it cannot be read, is larger than ``limit`` bytes, no JSON, or nested too deeply.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise ConfigError(f"must be a readable JSON file ({error.strerror or error})", file=file) from None
    if len(data) > limit:
        raise ConfigError(f"must have at most {limit:,} bytes", file=file)
    return parse_json(data, file)


def parse_json(data: bytes, file: Path) -> Any:
    """The value of a JSON text of ``file``.

    Raises:
        ConfigError: it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ConfigError("must be JSON; it is nested too deeply", file=file) from None
    except ValueError as error:
        raise ConfigError(f"must be JSON ({error})", file=file) from None


def read_as(model: type[M], data: Any, file: Path, path: str = "") -> M:
    """Plain data of ``file`` as a model; ``path`` is where in the file the data stands.

    Raises:
        ConfigError: a value is missing or wrong; the error names the first one.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    where = ".".join([*([path] if path else []), *(str(part) for part in first["loc"])])
    message = first["msg"][:1].lower() + first["msg"][1:]
    given = repr(first["input"])
    given = given if len(given) <= SHOWN else f"{given[:SHOWN]}..."
    said = "must be given" if first["type"] == "missing" else f"{message}, not {given}"
    raise ConfigError(said, file=file, path=where)


__all__ = ["MAX_BYTES", "Document", "parse_json", "read_as", "read_json"]
