"""Standard output, files that appear whole or not at all, and choices of options."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from pimsim.errors import InputError, UnknownName
from pimsim.extras import require

TABLE_FORMATS = ("table", "json")
"""Choices of ``--format`` where a command prints a table."""


def choose(option: str, given: str, choices: Iterable[str]) -> str:
    """`given`, if it is one of the choices.

    Raises:
        UnknownName: it is not; the message lists the choices.
    """
    known = tuple(choices)
    if given not in known:
        raise UnknownName(option, given, known)
    return given


PICTURES = (".png", ".svg", ".pdf")


def check_picture(plot: Path | None) -> None:
    """Refuse what ``--plot`` cannot draw, before anything runs.

    Raises:
        InputError: the file is no picture, or the package that draws is not installed.
    """
    if plot is None:
        return
    if plot.suffix.lower() not in PICTURES:
        raise InputError(f"--plot must name a file that ends in {', '.join(PICTURES)}, not {plot.name!r}")
    require("report", "--plot", "matplotlib")


def write_out(text: str) -> None:
    """Write results to standard output; characters that it cannot show are escaped.

    Raises:
        BrokenPipeError: nobody reads it any more.
        InputError: it cannot be written, for example because the disk is full.
    """
    try:
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"standard output must be writable ({error.strerror})") from error


def write_json(data: Any) -> None:
    """Write plain data to standard output as JSON, indented by two."""
    write_out(json_text(data))


def json_text(data: Any) -> str:
    """Plain data as strict JSON (no NaN), indented by two, with a line end."""
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as aligned text; the last column is not padded.

    >>> print(columns([["name", "cycles"], ["a", "1"]]), end="")
    name  cycles
    a     1
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "".join(line.rstrip() + "\n" for line in lines)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A text file that appears whole or not at all; see `whole_bytes`.

    Raises:
        InputError: the file cannot be written.
    """
    with whole_bytes(path) as raw:
        text = io.TextIOWrapper(raw, "utf-8", newline="")
        try:
            yield text
            text.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _unwritable(path, error) from error
        finally:
            text.detach()


@contextlib.contextmanager
def whole_bytes(path: Path) -> Iterator[BinaryIO]:
    """A file of bytes that takes its place when the block ends without an error, and leaves no trace otherwise.

    It is made beside ``path`` at once, so that a place that cannot be written is found before the work is done. A
    device or a pipe is written as it is.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        target = Path(os.path.realpath(path))
        if path.is_dir():
            raise InputError(f"{path}: must be a file, not a folder")
        if _is_special(path):
            with path.open("wb") as stream:
                yield stream
            return
        draft = target.with_name(f".{target.name}.{os.getpid()}.part")
        stream = draft.open("xb")
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error
    try:
        with stream:
            yield stream
        draft.replace(target)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        draft.unlink(missing_ok=True)


def _is_special(path: Path) -> bool:
    """Whether it is a device, a pipe or a stream of this process, which must not be replaced by a file."""
    return str(path).startswith(("/dev/", "/proc/")) or (path.exists() and not path.is_file())


def _unwritable(path: Path, error: OSError | ValueError) -> InputError:
    return InputError(f"{path}: must be writable ({getattr(error, 'strerror', None) or error})")


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[dict[str, str]]:
    """A mapping to fill with file name -> text; the files are written to ``path`` when the block ends without an error.

    The folder is made and tried out at once. Each file takes its place when all are complete; after an error, a
    folder that was made for them is removed again.

    Raises:
        InputError: ``path`` is not a folder, or cannot be made or written.
    """
    made = _make_folder(path)
    texts: dict[str, str] = {}
    try:
        yield texts
        _write_all(path, texts)
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _make_folder(path: Path) -> list[Path]:
    """Makes the folder, and gives those that were made, innermost first."""
    try:
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: must be a folder, not a file")
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        trial = path / f".{os.getpid()}.part"
        trial.touch(exist_ok=False)
        trial.unlink()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: must be a folder that can be written ({getattr(error, 'strerror', None) or error})"
        ) from error
    return made


def _write_all(path: Path, texts: Mapping[str, str]) -> None:
    with contextlib.ExitStack() as stack:
        for name, text in texts.items():
            stack.enter_context(whole_file(path / name)).write(text)


__all__ = [
    "TABLE_FORMATS",
    "choose",
    "columns",
    "json_text",
    "whole_bytes",
    "whole_file",
    "whole_folder",
    "write_json",
    "write_out",
]
