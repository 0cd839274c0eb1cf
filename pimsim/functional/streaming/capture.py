"""Results of a streaming program, read from its memory by where the checkpoints say they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pimsim.functional.streaming.chip import elements
from pimsim.functional.streaming.executor import Executor
from pimsim.program.works import Checkpoint, keys_of_blocks

Floats = npt.NDArray[np.float64]


class Capture:
    """Notes the results of calls as they complete; `after` is what the executor calls.

    Attributes:
        values: operation -> ``[rows, width]``; scores ``[tokens, tokens, heads]``; gates (experts, what they count).
        selected: gating -> the experts that the unit found best.
    """

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.values: dict[str, Any] = {}
        self.selected: dict[str, Any] = {}
        self._seen = 0

    def take(self, checkpoints: Sequence[Checkpoint], done: int) -> None:
        """Read the results that call ``done`` completes; checkpoints are in the order of calls."""
        while self._seen < len(checkpoints) and checkpoints[self._seen].after <= done:
            self._take(checkpoints[self._seen])
            self._seen += 1

    def _take(self, point: Checkpoint) -> None:
        chip = self.executor.chip
        if point.kind == "gates":
            assert chip.gates is not None
            assert chip.selected is not None
            self.values[point.name] = chip.gates[0], chip.gates[1] * chip.formats.softmax.step
            self.selected[point.name] = chip.selected[0]
        elif point.kind == "scores":
            self.values[point.name] = self._scores(point)
        elif point.kind in {"statistics", "sums"}:
            words = self._words(point.base, point.rows * point.pitch).reshape(point.rows, -1)
            found = words[:, : 2 * point.heads] * chip.formats.softmax.step
            if point.kind == "sums":
                found[:, : point.heads] = 1 / np.maximum(found[:, : point.heads], chip.formats.softmax.step)
            self.values[point.name] = found
        else:
            width = -(-point.width // chip.words)
            at = point.base + _beat_places(point, width)
            rows = chip.features(self.executor.memory[at.ravel()]).reshape(point.rows, -1)[:, : point.width]
            self._keep(point, rows.astype(np.float64) * chip.formats.features.step)

    def _keep(self, point: Checkpoint, rows: Floats) -> None:
        """Rows of a queue that is worked on in parts follow each other."""
        if point.queue and point.name in self.values:
            rows = np.concatenate([self.values[point.name], rows])
        self.values[point.name] = rows

    def _words(self, base: int, beats: int) -> npt.NDArray[np.int64]:
        return elements(self.executor.memory[base : base + beats], self.executor.chip.word_bits)

    def _scores(self, point: Checkpoint) -> Floats:
        """Row q is in lane q mod p and meets key k in block q // p, or in the next one where k is less than its lane.

        Scores that a causal mask hides are zero.
        """
        n, p, chip = point.rows, point.lanes, self.executor.chip
        passes = keys_of_blocks(n, p, point.before)
        keys = passes[-(-n // p) - 1]
        row, key = np.arange(n)[:, None], np.arange(keys)[None, :]
        seen = key <= row + point.before if point.before >= 0 else np.ones((n, keys), bool)
        first = np.concatenate([[0], np.cumsum(passes)])
        at = np.where(seen, (first[row // p + (key < row % p)] + key) * p + row % p, 0)
        width = 1 << (point.heads - 1).bit_length()
        last = int(at.max()) + 1
        words = self._words(point.base, -(-last * width // chip.words))
        lanes = words[: last * width].reshape(last, width)[:, : point.heads]
        found: Floats = lanes[at].astype(np.float64) * chip.formats.features.step
        return np.where(seen[..., None], found, 0.0)


def _beat_places(point: Checkpoint, width: int) -> npt.NDArray[np.int64]:
    """Beats of all rows ``[rows, width]``, counted from the first one."""
    if point.among is None:
        return _row_places(point)[:, None] + _beat_distances(point)[:, None] * np.arange(width)
    numbers = range(point.first, point.first + point.rows * point.step, point.step)
    return np.array([[point.among.place(row, beat) for beat in range(width)] for row in numbers])


def _row_places(point: Checkpoint) -> npt.NDArray[np.int64]:
    """First beat of each row; of rows side by side, the lane after all rows of the groups before."""
    lane = np.arange(point.rows) % max(point.lanes, 1)
    return (np.arange(point.rows) - lane) * point.pitch + lane


def _beat_distances(point: Checkpoint) -> npt.NDArray[np.int64]:
    """From one beat of a row to the next: as many as there are rows in its group."""
    lanes = max(point.lanes, 1)
    whole = point.rows // lanes * lanes
    return np.where(np.arange(point.rows) < whole, lanes, point.rows - whole)


__all__ = ["Capture"]
