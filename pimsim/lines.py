"""Lines of text files that come from anyone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from pimsim.errors import TraceError

MAX_LINE = 10_000
"""Characters in one line of a trace."""


def lines(path: Path | str, file: TextIO) -> Iterator[str]:
    """The lines of a file; none is longer than memory allows, none is binary.

    Raises:
        TraceError: a line has more than `MAX_LINE` characters, or there is a zero byte.
    """
    number = 0
    while text := file.readline(MAX_LINE + 1):
        number += 1
        if len(text) > MAX_LINE:
            raise TraceError(f"a line must have at most {MAX_LINE} characters", file=path, line=number)
        if "\0" in text:
            raise TraceError("must be a text file, not a binary file", file=path, line=number)
        yield text


__all__ = ["MAX_LINE", "lines"]
