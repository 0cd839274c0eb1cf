"""Checks of what ``sources`` say."""

from __future__ import annotations

from typing import Any

from pimsim.errors import did_you_mean
from pimsim.loaded import Loaded, M, Source, below
from pimsim.model import TRUST_WORDS
from pimsim.yamlio import Tree, dotted


def check_sources(loaded: Loaded[M]) -> None:
    """Check that every ``sources`` entry has a trust word and is about a field that exists.

    Raises:
        ConfigError: an entry is malformed or names no field.
    """
    data = loaded.value.model_dump(mode="json")
    for source in loaded.sources:
        _check_path(loaded.tree, data, source)
        trust, colon, origin = source.text.partition(":")
        if trust not in TRUST_WORDS or not colon or not origin.strip():
            raise loaded.tree.error(
                f"must be '<trust>: <origin>' with a trust word of {', '.join(TRUST_WORDS)}, not {source.text!r}"
                f"{did_you_mean(trust, TRUST_WORDS)}",
                source.declared_at,
            )


def _check_path(tree: Tree, data: Any, source: Source) -> None:
    """Walk the path of an entry through the resolved configuration."""
    for depth, part in enumerate(source.path):
        inner = dict(below(data))
        if part not in inner:
            fields = [str(key) for key in inner if isinstance(data, dict) and key != "sources"]
            known = f"one of {', '.join(fields)}" if fields else "a field"
            message = f"must be about {known}, not {dotted(source.path[depth:])!r}{did_you_mean(str(part), fields)}"
            raise tree.error(message, source.declared_at)
        data = inner[part]


__all__ = ["check_sources"]
