"""A validated configuration, where each of its values is written and what it is based on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from pimsim.model import Documented, Model
from pimsim.yamlio import FieldPath, Tree, dotted

M = TypeVar("M", bound=Model)
COMMAND_LINE = "assumed: --set on the command line"
"""Source of a number that was overridden."""

_NOT_CONTENT = {"sources", "description"}


@dataclass(frozen=True)
class Source:
    """Where a part of a configuration comes from: the part, and ``"<trust>: <origin>"``."""

    path: FieldPath
    text: str
    declared_at: FieldPath
    """The field path of the entry itself."""


@dataclass(frozen=True)
class Loaded(Generic[M]):
    """A validated configuration and where each of its values is written."""

    value: M
    tree: Tree
    path: Path

    @cached_property
    def content(self) -> dict[str, Any]:
        """The resolved configuration as plain data, defaults filled in, without sources and descriptions."""
        return dict(_content(self.value, self.value.model_dump(mode="json")))

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the content in hexadecimal; the same for every way to write the same configuration."""
        return hashlib.sha256(json.dumps(self.content, separators=(",", ":")).encode()).hexdigest()

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """Every entry of every ``sources`` mapping, with its path from the top."""
        return tuple(_sources(self.value, ()))

    @cached_property
    def numbers(self) -> tuple[FieldPath, ...]:
        """Path of every number that is written in a file or on the command line."""
        return tuple(path for path in _numbers(self.tree.data, ()))

    def source_of(self, path: FieldPath) -> str | None:
        """Where the value at ``path`` comes from, or None if nothing says so.

        The entry with the longest matching path counts. An entry of a base file says nothing about a value that the
        file on top of it has replaced.
        """
        if self.tree.position(path).file.startswith("--set "):
            return COMMAND_LINE
        rank = self._rank(path)
        matching = [
            source
            for source in self.sources
            if path[: len(source.path)] == source.path and self._rank(source.declared_at) <= rank
        ]
        return max(matching, key=lambda source: len(source.path)).text if matching else None

    def _rank(self, path: FieldPath) -> int:
        """How deep in the chain of bases a value is written; 0 is the file that was asked for."""
        return self._ranks.get(self.tree.position(path).file, 0)

    @cached_property
    def _ranks(self) -> dict[str, int]:
        return {str(file): rank for rank, file in enumerate(self.tree.files)}


def unsourced(loaded: Loaded[M]) -> list[str]:
    """Dotted path of every number that is written down and that no ``sources`` entry covers."""
    return [dotted(path) for path in loaded.numbers if loaded.source_of(path) is None]


def _sections(value: Any, path: FieldPath) -> Iterator[tuple[FieldPath, Documented]]:
    """Every section with a ``sources`` field, outermost first."""
    if isinstance(value, Documented):
        yield path, value
    for key, inner in below(value):
        yield from _sections(inner, (*path, key))


def below(value: Any) -> Iterator[tuple[str | int, Any]]:
    """Fields, entries or items of a value, one level down."""
    if isinstance(value, Model):
        yield from ((name, getattr(value, name)) for name in type(value).model_fields)
    elif isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list | tuple):
        yield from enumerate(value)


def _sources(value: Model, path: FieldPath) -> Iterator[Source]:
    for at, section in _sections(value, path):
        for key, text in section.sources.items():
            yield Source((*at, *_parts(section, key)), text, (*at, "sources", key))


def _parts(section: Any, key: str) -> FieldPath:
    """The parts of a dotted path; a part is an index where the value around it is a list."""
    parts: list[str | int] = []
    here = section
    for part in key.split("."):
        step = int(part) if isinstance(here, list | tuple) and part.isdecimal() else part
        parts.append(step)
        here = dict(below(here)).get(step)
    return tuple(parts)


def _numbers(data: Any, path: FieldPath) -> Iterator[FieldPath]:
    if isinstance(data, int | float) and not isinstance(data, bool):
        yield path
    elif isinstance(data, dict | list):
        for key, inner in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _numbers(inner, (*path, key))


def _content(value: Any, data: Any) -> Any:
    """Plain data of a model without the fields that are only documentation."""
    if isinstance(value, Model):
        fields = [name for name in type(value).model_fields if name not in _NOT_CONTENT]
        return {name: _content(getattr(value, name), data[name]) for name in fields}
    if isinstance(value, dict):
        return {key: _content(value[key], data[key]) for key in data}
    if isinstance(value, list | tuple):
        return [_content(inner, data[index]) for index, inner in enumerate(value)]
    return data


__all__ = ["COMMAND_LINE", "Loaded", "M", "Source", "below", "unsourced"]
