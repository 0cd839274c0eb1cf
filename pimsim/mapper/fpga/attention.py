"""Attention products as streaming regions: the reordered schedule of Edge-MoE and the naive one.

Reordered: ``p`` lanes hold a query row each and one key beat per cycle passes by all of them. Lane *j* of block *b* starts its
row at key *j* and finishes it in block *b + 1*, so keys are read once for every p rows, and never faster than one beat per
cycle. Naive: one query row is held and p keys are read at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from pimsim.errors import MappingError
from pimsim.program.dataflow import Action, Burst, Fifo, Loop, Nest, Read, Region, Run, Stage, Write, nest


@dataclass(frozen=True, slots=True)
class Shape:
    """``tokens`` rows of ``beats`` beats each, ``lanes`` rows at once, ``heads`` scores for each pair, ``words`` in a beat.

    Scores of a lane are padded to a power of two words, and so are the sum and the bias of each head of a row.
    """

    tokens: int
    beats: int
    lanes: int
    heads: int = 3
    words: int = 8

    def __post_init__(self) -> None:
        if min(self.tokens, self.beats, self.lanes, self.heads, self.words) < 1:
            raise MappingError("tokens, beats, lanes, heads and words of an attention product must be at least 1")

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
class Pipelines:
    """Depth of each pipeline, in cycles, and depth of the FIFOs between them."""

    load: int = 3
    product: int = 15
    statistics: int = 78
    weighted: int = 29
    store: int = 3
    statistics_interval: int = 1
    fifo: int = 2


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
    """
    n, p = shape.tokens, shape.lanes
    found = []
    for block, keys in _blocks(shape):
        for key in range(keys):
            rows = [block * p + lane if key >= lane else (block - 1) * p + lane for lane in range(p)]
            loads = block * p + key if key < p and block * p + key < n else -1
            found.append(Step(block, key, tuple(row if 0 <= row < n else -1 for row in rows), loads))
    return found


def _blocks(shape: Shape) -> list[tuple[int, int]]:
    """(block, keys) of every block: whole passes over the keys, and what late rows need of one more."""
    n, p = shape.tokens, shape.lanes
    if p > n:
        raise MappingError(f"parallelism must be at most the number of tokens, which is {n}, not {p}")
    whole = -(-n // p)
    late = (n - 1) % p
    return [*((block, n) for block in range(whole)), *([(whole, late)] if late else [])]


def _loads(shape: Shape, block: int, keys: int) -> int:
    return max(0, min(shape.lanes, keys, shape.tokens - block * shape.lanes))


def _nest(shape: Shape, with_row: tuple[Nest, ...], without: tuple[Nest, ...]) -> tuple[Nest, ...]:
    """A nest over the steps, equal blocks as loops: ``with_row`` where a lane's row arrives, ``without`` elsewhere."""
    parts: list[tuple[tuple[Nest, ...], int]] = []
    for block, keys in _blocks(shape):
        loads = _loads(shape, block, keys)
        body = nest(Loop(loads, with_row), Loop(keys - loads, without))
        if parts and parts[-1][0] == body:
            parts[-1] = (body, parts[-1][1] + 1)
        else:
            parts.append((body, 1))
    return nest(*(Loop(count, body) for body, count in parts))


def query_key(shape: Shape, pipes: Pipelines, ports: dict[str, str], overhead: int = 2) -> Region:
    """Scores of all rows and their softmax statistics, in the reordered schedule.

    ``ports``: port of ``query``, ``key``, ``scores`` and ``statistics``. Scores leave in skewed order, one packet of all lanes
    per step; the row whose last key a step sees sends its statistics.
    """
    d, p, n = shape.beats, shape.lanes, shape.tokens
    actions = (
        Action((("key", 1), ("query", 1))), Action((("key", 1), ("query", 1)), (("packets", 1),)),
        Action((("key", 1),)), Action((("key", 1),), (("packets", 1),)),
    )  # fmt: skip
    product = Stage(
        "product",
        actions,
        _nest(shape, (Run(0, d - 1), Run(1, 1)), (Run(2, d - 1), Run(3, 1))),
        depth=pipes.product,
        unit="attention.query_key",
    )
    sums = ("sums", shape.sum_beats)
    statistics = Stage(
        "statistics",
        (
            Action((("packets", 1),), (("scores", 1),)), Action((), (("scores", 1),)),
            Action((("packets", 1),), (("scores", 1), sums)), Action((), (("scores", 1), sums)),
        ),
        _statistics_nest(shape),
        pipes.statistics_interval,
        pipes.statistics,
        "softmax",
    )  # fmt: skip
    total = sum(keys for _, keys in _blocks(shape))
    store = _store(shape, total * p, pipes.store)
    blocks = tuple(Burst(keys * d) for _, keys in _blocks(shape))
    return Region(
        (
            _load("load_query", "query_port", "query", n * d, pipes.load),
            _load("load_key", "key_port", "key", total * d, pipes.load),
            product,
            statistics,
            store,
        ),
        (
            Fifo("query_port", 0), Fifo("key_port", 0), Fifo("query", pipes.fifo), Fifo("key", pipes.fifo),
            Fifo("packets", pipes.fifo), Fifo("scores", pipes.fifo), Fifo("sums", max(pipes.fifo, shape.sum_beats)),
            Fifo("score_beats", max(pipes.fifo, shape.beats_per_lane)),
        ),
        (
            Read("read_query", "query_port", ports["query"], (Burst(n * d),)),
            Read("read_key", "key_port", ports["key"], _merge(blocks)),
        ),
        (
            Write("write_scores", "score_beats", ports["scores"], (Burst(shape.score_beats(total * p)),)),
            Write("write_statistics", "sums", ports["statistics"], (Burst(n * shape.sum_beats),)),
        ),
        overhead,
    )  # fmt: skip


def _statistics_nest(shape: Shape) -> tuple[Nest, ...]:
    """One iteration per step and lane; the first of a step takes the packet; lane *j* ends a row at key ``j - 1``."""
    parts: list[tuple[tuple[Nest, ...], int]] = []
    n, p = shape.tokens, shape.lanes
    for block, keys in _blocks(shape):
        items: list[Nest] = []
        plain = 0
        for key in range(keys):
            ends = (key + 1) % n
            row = block * p if ends == 0 else (block - 1) * p + ends
            lane = ends if ends < p and 0 <= row < n else -1
            if lane < 0:
                plain += 1
                continue
            items += [Loop(plain, (Run(0, 1), Run(1, p - 1))), *_ending(lane, p)]
            plain = 0
        body = nest(*items, Loop(plain, (Run(0, 1), Run(1, p - 1))))
        if parts and parts[-1][0] == body:
            parts[-1] = (body, parts[-1][1] + 1)
        else:
            parts.append((body, 1))
    return nest(*(Loop(count, body) for body, count in parts))


def _ending(lane: int, lanes: int) -> tuple[Nest, ...]:
    if lane == 0:
        return (Run(2, 1), Run(1, lanes - 1))
    return (Run(0, 1), Run(1, lane - 1), Run(3, 1), Run(1, lanes - lane - 1))


def _load(name: str, source: str, target: str, count: int, depth: int) -> Stage:
    return Stage(name, (Action(((source, 1),), ((target, 1),)),), nest(Run(0, count)), depth=depth)


def _store(shape: Shape, count: int, depth: int) -> Stage:
    """Scores of several lanes make a beat, or those of a lane several; lanes left over fill the last beat alone."""
    group, took, gave = shape.lanes_per_beat, (("scores", 1),), (("score_beats", shape.beats_per_lane),)
    actions = (Action(took), Action(took, gave))
    body, rest = (Run(0, group - 1), Run(1, 1)), count % group
    last = (Run(0, rest - 1), Run(1, 1)) if rest else ()
    return Stage("store_scores", actions, nest(Loop(count // group, body), *last), depth=depth)


def _merge(bursts: tuple[Burst, ...]) -> tuple[Burst, ...]:
    merged: list[Burst] = []
    for burst in bursts:
        if merged and merged[-1].beats == burst.beats:
            merged[-1] = Burst(burst.beats, merged[-1].count + 1)
        else:
            merged.append(burst)
    return tuple(merged)


def naive_query_key(shape: Shape, pipes: Pipelines, ports: dict[str, str], overhead: int = 2) -> Region:
    """Scores with one query row held and p keys read at once: every row reads all keys, ``p`` beats per iteration."""
    n, d, p = shape.tokens, shape.beats, shape.lanes
    if p > n:
        raise MappingError(f"parallelism must be at most the number of tokens, which is {n}, not {p}")
    groups, rest = divmod(n, p)
    whole, part = ("scores", shape.score_beats(p)), ("scores", shape.score_beats(max(rest, 1)))
    actions = (
        Action((("key", p), ("query", 1))), Action((("key", p), ("query", 1)), (whole,)),
        Action((("key", p),)), Action((("key", p),), (whole,)),
        Action((("key", max(rest, 1)),)), Action((("key", max(rest, 1)),), (part,)),
    )  # fmt: skip
    last: tuple[Nest, ...] = (Run(4, d - 1), Run(5, 1)) if rest else ()
    body = nest(Run(0, d - 1), Run(1, 1), Loop(groups - 1, (Run(2, d - 1), Run(3, 1))), *last)
    written = groups * shape.score_beats(p) + (shape.score_beats(rest) if rest else 0)
    return Region(
        (Stage("product", actions, nest(Loop(n, body)), depth=pipes.product, unit="attention.query_key"),),
        (Fifo("query", 0), Fifo("key", 0), Fifo("scores", max(pipes.fifo, whole[1]))),
        (
            Read("read_query", "query", ports["query"], (Burst(n * d),)),
            Read("read_key", "key", ports["key"], (Burst(n * d, n),)),
        ),
        (Write("write_scores", "scores", ports["scores"], (Burst(n * written),)),),
        overhead,
    )


def weighted_values(shape: Shape, pipes: Pipelines, ports: dict[str, str], overhead: int = 2) -> Region:
    """Weighted sums of the values in the reordered schedule.

    ``ports``: port of ``value``, ``scores``, ``statistics`` and ``output``. A finished row leaves during the step after its last
    key was seen, beat by beat.
    """
    d, p, n = shape.beats, shape.lanes, shape.tokens
    total = sum(keys for _, keys in _blocks(shape))
    # bits of an action: 4 first beat (takes a packet), 2 a row's statistics arrive, 1 a finished row leaves
    actions = tuple(
        Action(
            (
                ("value", 1),
                *((("packets", 1),) if bits & 4 else ()),
                *((("sums", shape.sum_beats),) if bits & 2 else ()),
            ),
            (("rows", 1),) if bits & 1 else (),
        )
        for bits in range(8)
    )
    items: list[tuple[tuple[Nest, ...], int]] = []
    for block, keys in _blocks(shape):
        body = nest(*_value_steps(shape, block, keys))
        if items and items[-1][0] == body:
            items[-1] = (body, items[-1][1] + 1)
        else:
            items.append((body, 1))
    product = Stage(
        "product",
        actions,
        nest(*(Loop(count, body) for body, count in items)),
        depth=pipes.weighted,
        unit="attention.weighted_values",
    )
    group, rest = shape.lanes_per_beat, total * p % shape.lanes_per_beat
    beat = (("score_port", shape.beats_per_lane),)
    unpack = Stage(
        "unpack",
        (Action(beat, (("lane_scores", group),)), Action(beat, (("lane_scores", max(rest, 1)),))),
        nest(Run(0, total * p // group), Run(1, 1 if rest else 0)),
        depth=pipes.load,
    )
    pack = Stage(
        "pack",
        (Action((("lane_scores", 1),)), Action((("lane_scores", 1),), (("packets", 1),))),
        nest(Loop(total, (Run(0, p - 1), Run(1, 1)))),
        depth=pipes.load,
    )
    return Region(
        (_load("load_value", "value_port", "value", total * d, pipes.load), unpack, pack, product),
        (
            Fifo("value_port", 0), Fifo("score_port", 0), Fifo("sums", 0), Fifo("value", pipes.fifo),
            Fifo("lane_scores", max(group, pipes.fifo)), Fifo("packets", pipes.fifo), Fifo("rows", pipes.fifo),
        ),
        (
            Read("read_value", "value_port", ports["value"], _merge(tuple(Burst(keys * d) for _, keys in _blocks(shape)))),
            Read("read_scores", "score_port", ports["scores"], (Burst(shape.score_beats(total * p)),)),
            Read("read_statistics", "sums", ports["statistics"], (Burst(n * shape.sum_beats),)),
        ),
        (Write("write_rows", "rows", ports["output"], (Burst(n * d),)),),
        overhead,
    )  # fmt: skip


def _value_steps(shape: Shape, block: int, keys: int) -> list[Nest]:
    items: list[Nest] = []
    n, p, d = shape.tokens, shape.lanes, shape.beats
    plain = 0
    for key in range(keys):
        arrives = 2 if key < _loads(shape, block, keys) else 0
        ends = (key + 1) % n
        row = block * p if ends == 0 else (block - 1) * p + ends
        leaves = 1 if ends < p and 0 <= row < n else 0
        if not arrives and not leaves:
            plain += 1
            continue
        items += [Loop(plain, (Run(4, 1), Run(0, d - 1))), Run(4 | arrives | leaves, 1), Run(leaves, d - 1)]
        plain = 0
    return [*items, Loop(plain, (Run(4, 1), Run(0, d - 1)))]


__all__ = ["Pipelines", "Shape", "Step", "naive_query_key", "query_key", "steps", "weighted_values"]
