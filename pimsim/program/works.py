"""What the calls of a streaming program work on: where their streams lie in memory, and what the units are set to.

A region says how many beats move and when; a `Work` says from which beat addresses its bursts count, which buffer on the chip
is meant, and the sizes that the unit was told. It names no tensor: a wrong address is a wrong result.

Memory is an array of beats. Addresses are beats; elements of `bits` bits lie in a beat without gaps, the first one lowest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pimsim.program.dataflow import Call

Routes = tuple[tuple[int, ...], ...]
"""Experts of each token."""


@dataclass(frozen=True, slots=True)
class Work:
    """``at``: stream of the region -> beat address from which its bursts count."""

    at: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Rows that lie in memory ``lanes`` side by side: beat 0 of each of them, then beat 1 of each, and so on; then the next.

    So whoever reads memory from its beginning meets the same beat of ``lanes`` rows at once, or of those that are left over.
    """

    rows: int
    beats: int
    """Of a row."""
    lanes: int

    def place(self, row: int, beat: int) -> int:
        """Where a beat lies, counted from the first one.

        >>> at = SideBySide(rows=3, beats=2, lanes=2)
        >>> [(at.place(row, 0), at.place(row, 1)) for row in range(3)]
        [(0, 2), (1, 3), (4, 5)]
        """
        lane = row % self.lanes
        before = row - lane
        return before * self.beats + beat * min(self.lanes, self.rows - before) + lane


@dataclass(frozen=True, slots=True)
class Load(Work):
    """Beats into a buffer on the chip, from its beginning."""

    buffer: str


@dataclass(frozen=True, slots=True)
class Clear(Work):
    """Zeros."""


@dataclass(frozen=True, slots=True)
class Copy(Work):
    """Beats from one place to another."""


@dataclass(frozen=True, slots=True)
class Residual(Work):
    """Sum of two features."""


@dataclass(frozen=True, slots=True)
class Norm(Work):
    """LayerNorm over rows of ``width`` words; gain and shift follow each other in ``buffer`` from beat ``first`` on.

    ``rms``: by the root of the mean square instead, with a gain only.
    """

    buffer: str
    first: int
    width: int
    eps: float
    rms: bool = False


@dataclass(frozen=True, slots=True)
class Product(Work):
    """Product of two features, element by element."""


@dataclass(frozen=True, slots=True)
class Rotate(Work):
    """Every head of ``words`` words turned in pairs by a row of cosines, then sines, of half as many each.

    Pairs are an element of the first half and one of the second, or neighbours (``interleaved``). As for `Linear`, rows may be
    ``written`` side by side, from beat ``column`` on.
    """

    words: int
    interleaved: bool
    written: SideBySide | None = None
    column: int = 0


@dataclass(frozen=True, slots=True)
class Linear(Work):
    """Rows of ``inputs`` words times ``outputs`` rows of the weights in a buffer, plus biases, if their buffer has a name.

    ``indexed`` streams do not move rows in order but the rows whose numbers stand in queue ``queue`` from entry ``first`` on;
    a row of such a stream is as long as the region's row is. With ``scored``, results are multiplied by the score of the entry.
    Rows that are ``written`` side by side begin at their beat ``column``.
    """

    weights: str
    biases: str
    inputs: int
    outputs: int
    attention: bool = False
    """Biases have the format of attention's."""
    gelu: bool = False
    queue: int = -1
    first: int = 0
    indexed: tuple[str, ...] = ()
    scored: bool = False
    written: SideBySide | None = None
    column: int = 0
    shares: int = 1
    """Buffers that hold the weights, one share of the outputs after the other: ``weights.0`` and so on if several."""

    @property
    def buffers(self) -> tuple[str, ...]:
        """The buffers of the weights."""
        return (self.weights,) if self.shares == 1 else tuple(f"{self.weights}.{n}" for n in range(self.shares))


def keys_of_blocks(rows: int, lanes: int, before: int) -> list[int]:
    """Keys that pass by each block of ``lanes`` rows; the last block is what late rows need of one more pass.

    With a causal mask (``before`` at least 0), these are the keys up to the last row of the block.

    >>> keys_of_blocks(5, 2, -1), keys_of_blocks(5, 2, 3), keys_of_blocks(4, 2, 0)
    ([5, 5, 5], [5, 7, 8], [2, 4, 1])
    """
    blocks, late = -(-rows // lanes), (rows - 1) % lanes
    keys = [before + min(rows, (block + 1) * lanes) if before >= 0 else rows for block in range(blocks)]
    return [*keys, *([late] if late else [])]


@dataclass(frozen=True, slots=True)
class _OfRows(Work):
    """Work on ``tokens`` rows; a head has ``head_words`` words. Rows see as many keys as there are rows.

    In a step, ``lanes`` rows meet the same key, or one row meets ``keys`` keys that lie side by side. Under a causal mask
    (``before`` keys before the first row, at least 0) row r sees the first ``before + r + 1`` keys.
    """

    tokens: int
    lanes: int
    heads: int
    head_words: int
    keys: int = 1
    before: int = -1
    shared: int = 1
    """Heads that use the same key and value."""

    @property
    def row_steps(self) -> int:
        """Steps in which a row meets all keys, at most."""
        return -(-(max(self.before, 0) + self.tokens) // self.keys)


@dataclass(frozen=True, slots=True)
class QueryKey(_OfRows):
    """Scores and statistics of rows."""


@dataclass(frozen=True, slots=True)
class WeightedValues(_OfRows):
    """Sums of values, weighted by what scores and statistics give."""


@dataclass(frozen=True, slots=True)
class SoftmaxPass(Work):
    """A pass of the three-pass softmax over the scores of all steps; sizes as in `QueryKey`.

    ``maximum`` leaves the maximum of each row, ``sum`` the sum of exponentials before it, ``divide`` the weights over the scores.
    """

    which: Literal["maximum", "sum", "divide"]
    tokens: int
    lanes: int
    heads: int
    before: int = -1


@dataclass(frozen=True, slots=True)
class Gate(Work):
    """Scores of all experts for each token, and its ``top_k`` best, or those that are ``given``."""

    buffer: str
    experts: int
    top_k: int
    given: Routes | None = None


@dataclass(frozen=True, slots=True)
class FillQueues(Work):
    """Every token's number and scores into the queues of its experts."""

    experts: int


@dataclass(frozen=True, slots=True)
class PatchRow(Work):
    """A row of patches, ``patch`` pixels wide each, ``patches`` of them in a beat of pixels and ``columns`` beats in a line."""

    columns: int
    lines: int
    patches: int
    patch: int
    outputs: int
    """Words of a token."""
    weights: str
    biases: str


# ---------------------------------------------------------------------------------------------------------- whole program


@dataclass(frozen=True, slots=True)
class Parameter:
    """Elements ``first`` to ``first + count`` of a flattened tensor, and zeros up to ``size`` elements of ``bits`` bits each.

    They lie in memory from beat ``base`` on, or, where ``buffer`` is set, on the chip before the program starts.
    """

    tensor: str
    format: str
    """Field of the machine's formats."""
    base: int
    first: int
    count: int
    size: int
    bits: int
    buffer: str = ""
    rows: SideBySide | None = None
    """How rows lie, where one does not follow the other."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The result of an operation and where it is once call ``after`` is complete.

    ``rows``: ``rows`` rows of ``width`` words, ``pitch`` beats apart, from beat ``base`` on, or as many beats each and
    ``lanes`` side by side. ``scores`` and ``statistics``: as the attention unit writes them, for ``heads`` heads, ``lanes``
    rows at once; ``sums`` are statistics with a sum in place of its reciprocal.
    ``gates``: on the chip.
    """

    after: int
    name: str
    kind: Literal["rows", "scores", "statistics", "sums", "gates"]
    base: int = 0
    rows: int = 0
    width: int = 0
    pitch: int = 0
    heads: int = 0
    lanes: int = 0
    queue: tuple[int, ...] = ()
    """Tokens that the rows belong to, where it is not all of them."""
    before: int = -1
    """Of scores under a causal mask: keys before the first row."""
    first: int = 0
    """Of rows in ``among``: number of the first one, and from one to the next (``step``)."""
    step: int = 1
    among: SideBySide | None = None
    """How the rows lie, where they are some of many side by side."""


@dataclass
class StreamingProgram:
    """Calls, what must lie in memory before them, and where results are."""

    calls: list[Call] = field(default_factory=list)
    parameters: list[Parameter] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    beats: int = 0
    """Size of the memory."""


__all__ = [
    "Checkpoint", "Clear", "Copy", "FillQueues", "Gate", "Linear", "Load", "Norm", "Parameter", "PatchRow", "Product",
    "QueryKey", "Residual", "Rotate", "Routes", "SideBySide", "SoftmaxPass", "StreamingProgram", "WeightedValues", "Work",
    "keys_of_blocks",
]  # fmt: skip
