"""What a streaming machine holds apart from its memory, and how beats hold numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pimsim.errors import ProgramError
from pimsim.functional.streaming.fixed import Formats, Ints
from pimsim.program.dataflow import Nest, Run, Stage, action_counts

Beats = npt.NDArray[np.uint8]
"""``[beats, bytes of a beat]``."""

Tokens = dict[str, npt.NDArray[Any]]
"""FIFO -> its tokens, all that pass in a call, along the first axis."""

WIDTHS: dict[int, np.dtype[Any]] = {8: np.dtype(np.int8), 16: np.dtype(np.int16), 32: np.dtype(np.int32)}
"""Bits of an element in memory -> its type."""


@dataclass
class Chip:
    """Buffers, queues and sizes of the units."""

    formats: Formats
    beat_bits: int
    word_bits: int
    weight_bits: int
    pixel_bits: int
    tile: int
    buffers: dict[str, Beats] = field(default_factory=dict)
    selected: tuple[Ints, Ints] | None = None
    """Best experts ``[tokens, k]`` of each token and their scores, as the selection unit found them."""
    gates: tuple[Ints, Ints] | None = None
    """Experts ``[tokens, k]`` of each token, and how much each counts."""
    queues: list[tuple[Ints, Ints]] = field(default_factory=list)
    """For each expert: its tokens, and how much it counts for each."""

    @property
    def words(self) -> int:
        """Features in a beat."""
        return self.beat_bits // self.word_bits

    def features(self, beats: Beats) -> Ints:
        """``[beats, words]`` of beats."""
        return elements(beats, self.word_bits).reshape(len(beats), -1)

    def beats(self, features: Ints) -> Beats:
        """Beats ``[n, bytes]`` of features ``[..., words]``."""
        stored = features.reshape(-1, self.words).astype(WIDTHS[self.word_bits])
        return stored.view(np.uint8).reshape(len(stored), -1)

    def shares(self, names: Sequence[str], count: int, bits: int) -> Ints:
        """``count`` elements of buffers that hold them together, one behind the other.

        Raises:
            ProgramError: nothing was loaded into one of them, or too little.
        """
        missing = [name for name in names if name not in self.buffers]
        if missing:
            raise ProgramError(f"{missing[0]} must be loaded before it is used")
        found = np.concatenate([elements(self.buffers[name], bits) for name in names])
        if found.size < count:
            raise ProgramError(f"{', '.join(names)} must hold {count} elements, not {found.size}")
        return found[:count]

    def buffer(self, name: str, count: int, bits: int, first: int = 0) -> Ints:
        """``count`` elements of a buffer from beat ``first`` on.

        Raises:
            ProgramError: nothing was loaded, or too little.
        """
        if name not in self.buffers:
            raise ProgramError(f"{name} must be loaded before it is used")
        found = elements(self.buffers[name][first:], bits)
        if found.size < count:
            raise ProgramError(f"{name} must hold {count} elements, not {found.size}")
        return found[:count]


def elements(beats: Beats, bits: int, *, signed: bool = True) -> Ints:
    """All elements of beats, one after the other."""
    kind = WIDTHS[bits] if signed else np.dtype(f"uint{bits}")
    return np.ascontiguousarray(beats).view(kind).ravel().astype(np.int64)


# ------------------------------------------------------------------------------------------------------------ actions


@lru_cache(512)
def _expanded(nest: tuple[Nest, ...]) -> npt.NDArray[np.int64]:
    parts = [
        np.full(item.count, item.action) if isinstance(item, Run) else np.tile(_expanded(item.body), item.count)
        for item in nest
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def sequence(stage: Stage) -> npt.NDArray[np.int64]:
    """The action of every iteration."""
    return _expanded(stage.nest)


def moves(stage: Stage, fifo: str, *, writes: bool = False) -> npt.NDArray[np.int64]:
    """Tokens that every iteration takes from a FIFO, or puts into it."""
    each = [
        sum(count for name, count in (action.writes if writes else action.reads) if name == fifo)
        for action in stage.actions
    ]
    return np.array(each, np.int64)[sequence(stage)]


def tokens(stage: Stage, fifo: str, *, writes: bool = False) -> int:
    """Tokens of a FIFO that a stage takes or puts in all."""
    return sum(
        moved * count
        for number, count in action_counts(stage.nest).items()
        for name, moved in (stage.actions[number].writes if writes else stage.actions[number].reads)
        if name == fifo
    )


def latest(put: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Of arrivals along the first axis, the number of the latest one up to each moment; -1 before the first."""
    numbers = np.where(put, np.cumsum(put) - 1, -1)
    found: npt.NDArray[np.int64] = np.maximum.accumulate(numbers)
    return found


__all__ = ["WIDTHS", "Beats", "Chip", "Tokens", "elements", "latest", "moves", "sequence", "tokens"]
