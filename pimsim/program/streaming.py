"""A streaming program with what lies where: calls, given tensors, results, and who uses which words of the buffer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pimsim.program.dataflow import Call
from pimsim.program.places import Place


@dataclass(frozen=True)
class Held:
    """Words of the buffer and the calls that use them, the first of which writes them (-1: they are there from the start)."""

    what: str
    start: int
    size: int
    calls: list[int]
    stays: bool
    """Whether they must be there when the program ends."""


@dataclass(frozen=True)
class Kept:
    """What must be there for the next step."""

    name: str
    words: int
    space: str


@dataclass
class StreamProgram:
    """Calls, and what lies where before, during and after them."""

    calls: list[Call] = field(default_factory=list)
    inputs: dict[str, list[Place]] = field(default_factory=dict)
    """Given tensor -> places that hold it from the start; a cache is followed by room for what is appended."""
    presets: list[tuple[Any, Place]] = field(default_factory=list)
    """Constants that lie in memory from the start."""
    results: dict[str, tuple[Place, ...]] = field(default_factory=dict)
    """Operation -> where its value lies when the program has ended."""
    assembled: list[Any] = field(default_factory=list)
    """Operations that only put stored results side by side, which nobody computes with; they take no time."""
    kept: list[Kept] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    memory_words: int = 0
    buffer_words: int = 0
    """Words of the buffer that were ever in use."""
    tensor_words: dict[str, int] = field(default_factory=dict)
    """Tensor in memory -> its words, padding included."""


__all__ = ["Held", "Kept", "StreamProgram"]
