"""Orders in which an attention product meets queries and keys: the reordered schedule of Edge-MoE and the naive one.

Reordered: ``p`` lanes hold a query row each and one key passes by all of them in a step. Lane *j* of block *b* starts its
row at key *j* and finishes it in block *b + 1*, so keys are read once for every p rows, and never faster than one in a step.
Naive: one query row is held and p keys are read in a step.

Under a causal mask a row needs no key behind its own, so a block reads only what its last row needs; the unit knows the
numbers of rows and keys and leaves out what a row must not see.

`steps` and `naive_steps` say what every step does, for who computes or checks; `walk` is the same as loops, for programs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pimsim.errors import MappingError
from pimsim.program.dataflow import Loop, Nest, nest

Schedule = Literal["reordered", "naive"]


@dataclass(frozen=True, slots=True)
class Shape:
    """``tokens`` rows of ``beats`` beats each, ``lanes`` pairs at once, ``heads`` scores for each pair, ``words`` in a beat.

    Every row sees as many keys as there are rows or, with ``before`` (0 or more) keys before the first row, under a causal mask
    ``before + 1`` and one more with each row. ``shared`` heads use the same key, which has fewer beats.
    Scores of a lane are padded to a power of two words, and so are the sum and the bias of each head of a row.
    """

    tokens: int
    beats: int
    lanes: int
    heads: int = 3
    words: int = 8
    before: int = -1
    shared: int = 1

    def __post_init__(self) -> None:
        if min(self.tokens, self.beats, self.lanes, self.heads, self.words) < 1:
            raise MappingError("tokens, beats, lanes, heads and words of an attention product must be at least 1")

    @property
    def key_beats(self) -> int:
        """Beats of a key or value."""
        return self.beats // self.shared

    @property
    def causal(self) -> bool:
        """Whether rows see only keys up to their own."""
        return self.before >= 0

    def keys(self, rows: int) -> int:
        """Keys that at least one of the first so many rows sees.

        >>> Shape(tokens=5, beats=1, lanes=2, before=3).keys(2), Shape(tokens=5, beats=1, lanes=2).keys(2)
        (5, 5)
        """
        return self.before + min(rows, self.tokens) if self.causal else self.tokens

    @property
    def lanes_per_beat(self) -> int:
        """Lanes whose scores share a beat."""
        return max(1, self.words // _power_of_two(self.heads))

    @property
    def beats_per_lane(self) -> int:
        """Beats of the scores of one lane where they need more than one."""
        return -(-_power_of_two(self.heads) // self.words)

    @property
    def sum_beats(self) -> int:
        """Beats of the softmax statistics of a row."""
        return -(-_power_of_two(2 * self.heads) // self.words)

    def score_beats(self, lanes: int) -> int:
        """Beats of the scores of so many lanes, one after the other."""
        return -(-lanes // self.lanes_per_beat) * self.beats_per_lane


def _power_of_two(number: int) -> int:
    """The least power of two that is no less.

    >>> [_power_of_two(number) for number in (1, 3, 4, 12)]
    [1, 4, 4, 16]
    """
    return 1 << (number - 1).bit_length()


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the reordered schedule: key ``key`` meets the rows of the lanes; ``loads`` is the row that arrives, or -1."""

    block: int
    key: int
    rows: tuple[int, ...]
    """Row of every lane; -1 where a lane has none."""
    loads: int


def steps(shape: Shape) -> list[Step]:
    """The reordered schedule, step by step: lane *j* takes row ``b p + j`` from key *j* on, and until then the row before.

    >>> [step.rows for step in steps(Shape(tokens=2, beats=1, lanes=2))]
    [(0, -1), (0, 1), (-1, 1)]
    >>> [(step.key, step.rows) for step in steps(Shape(tokens=3, beats=1, lanes=2, before=0))]
    [(0, (0, -1)), (1, (0, 1)), (0, (2, 1)), (1, (2, -1)), (2, (2, -1))]
    """
    n, p = shape.tokens, shape.lanes
    found = []
    for block, keys in blocks(shape):
        for key in range(keys):
            rows = [block * p + lane if key >= lane else (block - 1) * p + lane for lane in range(p)]
            loads = block * p + key if key < p and block * p + key < n else -1
            found.append(Step(block, key, tuple(row if 0 <= row < n else -1 for row in rows), loads))
    return found


@dataclass(frozen=True, slots=True)
class NaiveStep:
    """One step of the naive schedule: row ``row`` meets the keys of the lanes; ``loads`` is the row that arrives, or -1."""

    row: int
    keys: tuple[int, ...]
    loads: int


def naive_steps(shape: Shape) -> list[NaiveStep]:
    """The naive schedule, step by step: p keys at once, and what is left over in the last step of a row.

    >>> [(step.row, step.keys) for step in naive_steps(Shape(tokens=3, beats=1, lanes=2))][:3]
    [(0, (0, 1)), (0, (2,)), (1, (0, 1))]
    """
    _, p = _checked(shape)
    return [
        NaiveStep(row, tuple(range(first, min(first + p, shape.keys(row + 1)))), -1 if first else row)
        for row in range(shape.tokens)
        for first in range(0, shape.keys(row + 1), p)
    ]


def blocks(shape: Shape) -> list[tuple[int, int]]:
    """(block, keys) of every block of the reordered schedule: whole passes over the keys, and what late rows need of one more.

    Raises:
        MappingError: there are more lanes than tokens.
    """
    n, p = _checked(shape)
    whole = -(-n // p)
    late = (n - 1) % p
    keys = ((block, shape.keys((block + 1) * p)) for block in range(whole))
    return [*keys, *([(whole, late)] if late else [])]


def _checked(shape: Shape) -> tuple[int, int]:
    """(rows, lanes); under a causal mask, the naive schedule fills its lanes with keys as they come."""
    if shape.lanes > shape.tokens and not shape.causal:
        raise MappingError(
            f"parallelism must be at most the number of tokens, which is {shape.tokens}, not {shape.lanes}"
        )
    return shape.tokens, shape.lanes


@dataclass(frozen=True, slots=True)
class Kind:
    """What a step is to a pipeline: how many lanes have a score, and in which a row begins or ends (-1: in none)."""

    lanes: int
    begins: int
    ends: int


Body = tuple[tuple[Kind, int], ...]
"""(kind, how many steps of it in a row)."""


def walk(shape: Shape, schedule: Schedule) -> list[tuple[int, Body]]:
    """All steps of a schedule in order: (how often, steps) of every block.

    >>> walk(Shape(tokens=3, beats=1, lanes=2), "naive")
    [(3, ((Kind(lanes=2, begins=0, ends=-1), 1), (Kind(lanes=1, begins=-1, ends=0), 1)))]

    Raises:
        MappingError: there are more lanes than tokens.
    """
    if schedule == "reordered":
        return [(1, _reordered(shape, block, keys)) for block, keys in blocks(shape)]
    n, p = _checked(shape)
    if shape.causal:
        return [(1, _naive(shape.keys(row + 1), p)) for row in range(n)]
    return [(n, _naive(n, p))]


def _naive(keys: int, p: int) -> Body:
    """Steps of a row that meets so many keys."""
    groups, rest = divmod(keys, p)
    sizes = [p] * groups + ([rest] if rest else [])
    if len(sizes) == 1:
        return ((Kind(sizes[0], 0, sizes[0] - 1), 1),)
    body = ((Kind(p, 0, -1), 1), (Kind(p, -1, -1), len(sizes) - 2), (Kind(sizes[-1], -1, sizes[-1] - 1), 1))
    return tuple((kind, count) for kind, count in body if count)


def _reordered(shape: Shape, block: int, keys: int) -> Body:
    """Steps of a block: rows begin in the first p of them and end one step before."""
    n, p = shape.tokens, shape.lanes
    body: list[tuple[Kind, int]] = []
    for key in (*range(min(keys, p)), *({keys - 1} if keys > p else ())):
        if body and key > p:
            body.append((Kind(p, -1, -1), key - p))
        begins = key if key < p and block * p + key < n else -1
        ends = (key + 1) % shape.keys((block + 1) * p)  # the block of late rows ends before that
        row = block * p if ends == 0 else (block - 1) * p + ends
        body.append((Kind(p, begins, ends if ends < p and 0 <= row < n else -1), 1))
    return tuple(body)


def step_count(shape: Shape, schedule: Schedule) -> int:
    """Steps of a schedule.

    >>> step_count(Shape(129, 24, 4), "reordered"), step_count(Shape(129, 24, 4), "naive")
    (4257, 4257)
    """
    return sum(count * sum(many for _, many in body) for count, body in walk(shape, schedule))


def slot_count(shape: Shape, schedule: Schedule) -> int:
    """Places for scores of a lane, in memory too; the reordered schedule leaves some of them empty."""
    return sum(count * sum(kind.lanes * many for kind, many in body) for count, body in walk(shape, schedule))


def nest_of(shape: Shape, schedule: Schedule, of: Callable[[Kind], tuple[Nest, ...]]) -> tuple[Nest, ...]:
    """The nest in which a pipeline does ``of(kind)`` for every step; what is equal becomes a loop."""
    whole: list[tuple[tuple[Nest, ...], int]] = []
    for count, body in walk(shape, schedule):
        parts: list[tuple[tuple[Nest, ...], int]] = []
        for kind, many in body:
            _extend(parts, nest(*of(kind)), many)
        _extend(whole, nest(*(Loop(many, part) for part, many in parts)), count)
    return nest(*(Loop(count, body) for body, count in whole))


def _extend(parts: list[tuple[tuple[Nest, ...], int]], body: tuple[Nest, ...], count: int) -> None:
    if parts and parts[-1][0] == body:
        parts[-1] = (body, parts[-1][1] + count)
    else:
        parts.append((body, count))


__all__ = [
    "Kind", "NaiveStep", "Schedule", "Shape", "Step", "blocks", "naive_steps", "nest_of", "slot_count", "step_count", "steps",
    "walk",
]  # fmt: skip
