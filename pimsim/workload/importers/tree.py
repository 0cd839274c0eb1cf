"""The configuration tree of an imported workload, with the place in the model file that each value comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pimsim.yamlio import FieldPath, Position, Tree

GENERATE_TOKENS = 256
"""Tokens that an imported workload generates, or fewer if its context is shorter."""


def imported_tree(
    file: Path, name: str, family: str, model: Mapping[str, Any], places: Mapping[str, Position], origin: str
) -> Tree:
    """A workload that generates from a prompt of one token, embeddings and vocabulary included.

    ``model`` are fields of `DecoderConfig`, ``places`` where those stand that the file has, ``origin`` what to say
    about them.
    """
    longest = [each for each in (model["context"], model.get("window")) if isinstance(each, int)]
    data: dict[str, Any] = {
        "name": name,
        "description": f"{name}, imported from {file.name}",
        "family": family,
        "model": dict(model),
        "prompt_tokens": 1,
        "generate_tokens": max(1, min([GENERATE_TOKENS, *longest])),
        "lm_head": True,
        "embeddings": True,
        "sources": {
            "model": f"code: {origin}",
            "prompt_tokens": "assumed: what an imported workload has; a model file says nothing about runs",
            "generate_tokens": "assumed: what an imported workload has; a model file says nothing about runs",
        },
    }
    top = Position(str(file))
    positions: dict[FieldPath, Position] = {}
    _place(data, (), top, positions)
    for field, place in places.items():
        for path in positions:
            if path[:2] == ("model", field):
                positions[path] = place
    return Tree(data, positions, {path: at for path, at in positions.items() if path}, (file,))


def _place(data: Any, path: FieldPath, at: Position, positions: dict[FieldPath, Position]) -> None:
    positions[path] = at
    if isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            _place(value, (*path, key), at, positions)


def llama3_factors(
    pairs: int, rotary: int, theta: float, factor: float, low: float, high: float, original: int
) -> list[float]:
    """Divisors of the rotation frequencies that Llama 3.1 stretches its context with.

    Wavelengths beyond ``original / low`` tokens are stretched by ``factor``, those below ``original / high`` are kept,
    and between them the frequency is a mean of both.

    >>> llama3_factors(2, 4, 1e12, 8.0, 1.0, 4.0, 8192)
    [1.0, 8.0]
    """
    found = []
    for pair in range(pairs):
        turns = original * theta ** (-2 * pair / rotary) / (2 * 3.141592653589793)
        share = min(1.0, max(0.0, (turns - low) / (high - low)))
        found.append(1.0 / ((1 - share) / factor + share))
    return found
