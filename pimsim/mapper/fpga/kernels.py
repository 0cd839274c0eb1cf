"""One token on a streaming unit: attention of its query over a cache, and matrix-vector products, as dataflow regions.

Tokens of the cache are dealt to lanes, each with a port for keys and one for values, so a lane works on every L-th token
and a tree merges the lanes at the end (a decode partition as in FlashDecoding and LeanAttention, arXiv 2405.10480).
Lanes run alike, so a region holds the lane with most to do. Two schedules:

* ``two_pass``: keys go by, scores stay on the chip with their maximum and sum; then values go by.
* ``single_pass``: keys and values go by together; each score rescales a running (maximum, sum, values).

The newest key and value come from the chip, and are written to the memory on the way.

Several tokens of a sequence may attend at once (a prompt): keys and values are read once for all of them, a beat meets
``parallelism`` queries at once, be they of heads or of tokens, and a token's key meets no query that must not see it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from math import ceil
from typing import NamedTuple

from pimsim.arch.hybrid import StreamAttention, StreamLinear
from pimsim.program.dataflow import Action, Burst, Fifo, Loop, Nest, Read, Region, Run, Stage, Write, nest


@dataclass(frozen=True, slots=True)
class Heads:
    """Heads of a query and of the cache; ``words`` elements in a beat."""

    heads: int
    kv_heads: int
    d_head: int
    words: int

    @property
    def beats(self) -> int:
        """Beats of a head."""
        return ceil(self.d_head / self.words)

    @property
    def token_beats(self) -> int:
        """Beats of the keys of a token."""
        return self.kv_heads * self.beats

    def passes(self, parallelism: int, queries: int = 1) -> int:
        """Times that a beat is used by ``queries`` tokens, ``parallelism`` query heads each time."""
        return ceil(queries * (self.heads // self.kv_heads) / parallelism)


class Share(NamedTuple):
    """What the busiest lane has to do."""

    read: int
    """Tokens that it reads from the memory; all queries meet them."""
    fresh: tuple[int, ...] = ()
    """Uses of each beat of the tokens that it has from the chip: only later queries see them."""


def share(heads: Heads, context: int, unit: StreamAttention, queries: int = 1) -> Share:
    """The busiest lane where the last ``queries`` of ``context`` tokens attend.

    >>> unit = StreamAttention.model_construct(lanes=4, parallelism=1)
    >>> [share(Heads(1, 1, 16, 16), context, unit) for context in (1, 4, 5, 6)]
    [Share(read=0, fresh=(1,)), Share(read=1, fresh=()), Share(read=1, fresh=(1,)), Share(read=2, fresh=())]
    >>> share(Heads(1, 1, 16, 16), 8, unit, queries=5)  # lane 0 has token 0, old, and token 4, which 4 queries see
    Share(read=1, fresh=(4,))
    """
    old, every = context - queries, heads.passes(unit.parallelism, queries)
    shares = [
        Share(
            len(range(lane, old, unit.lanes)),
            tuple(
                heads.passes(unit.parallelism, context - token)
                for token in range(old + (lane - old) % unit.lanes, context, unit.lanes)
            ),
        )
        for lane in range(min(unit.lanes, context))
    ]
    return max(shares, key=lambda each: (each.read * every + sum(each.fresh), each.read))


def scores(heads: Heads, lane: Share, unit: StreamAttention, queries: int = 1) -> Region:
    """First pass of ``two_pass``: keys in, scores and their statistics on the chip; the new keys and values go to memory."""
    b = _Lane(heads, lane, unit, queries)
    b.keys("packets")
    last = (("packets", 1),), (("done", 1),)
    b.stage(
        "statistics",
        (Action((("packets", 1),)), Action(*last)),
        (Run(0, b.packets - 1), Run(1, 1)),
        unit.statistics_interval,
        unit.statistics_depth,
        "fpga.softmax",
    )
    b.fifo("done")
    b.merge(queries * heads.heads)
    b.append()
    return b.region()


def weighted(heads: Heads, lane: Share, unit: StreamAttention, queries: int = 1) -> Region:
    """Second pass of ``two_pass``: exponentials of the scores on the chip, values in, the result on the chip."""
    b = _Lane(heads, lane, unit, queries)
    b.stage(
        "exponentials",
        (Action((), (("weights", 1),)),),
        (Run(0, b.packets),),
        unit.statistics_interval,
        unit.statistics_depth,
        "fpga.softmax",
    )
    b.values("weights")
    b.merge(queries * heads.heads * heads.beats)
    return b.region()


def attend(heads: Heads, lane: Share, unit: StreamAttention, queries: int = 1) -> Region:
    """``single_pass``: keys and values in, the result on the chip; the new keys and values go to memory."""
    b = _Lane(heads, lane, unit, queries)
    b.keys("packets")
    b.stage(
        "fold",
        (Action((("packets", 1),), (("weights", 1),)),),
        (Run(0, b.packets),),
        unit.statistics_interval,
        unit.statistics_depth,
        "fpga.softmax",
    )
    b.values("weights")
    b.merge(queries * heads.heads * heads.beats)
    b.append()
    return b.region()


def linear(d_in: int, d_out: int, words: int, unit: StreamLinear, tokens: int = 1) -> Region:
    """Y = X W: outputs are dealt to lanes, each reads its columns of W from its port; X and Y lie on the chip.

    A beat of weights is read once and meets ``parallelism`` tokens at once, until it has met all.
    """
    outputs, beats, again = ceil(d_out / unit.lanes), ceil(d_in / words), ceil(tokens / unit.parallelism) - 1
    total = outputs * beats
    take, put = (("weights", 1),), (("results", 1),)
    beat, last = (Run(0, 1), Run(2, again)), (Run(1, 1), Run(3, again))
    return Region(
        (
            Stage("load", (Action((("port", 1),), take),), nest(Run(0, total)), depth=unit.load_depth),
            Stage(
                "product",
                (Action(take), Action(take, put), *((Action(), Action((), put)) if again else ())),
                nest(Loop(outputs, (Loop(beats - 1, beat), *last))),
                depth=unit.product_depth,
                unit="fpga.linear",
            ),
            Stage("store", (Action((("results", 1),)),), nest(Run(0, outputs * (again + 1))), depth=unit.store_depth),
        ),
        (Fifo("port", 0), Fifo("weights", unit.fifo_depth), Fifo("results", unit.fifo_depth)),
        (Read("read_weights", "port", "weights", (Burst(total),)),),
    )


class _Lane:
    """Puts the region of the fullest lane together."""

    def __init__(self, heads: Heads, lane: Share, unit: StreamAttention, queries: int) -> None:
        self.heads, self.unit, self.read = heads, unit, lane.read
        uses = [(heads.passes(unit.parallelism, queries), lane.read), *((passes, 1) for passes in lane.fresh)]
        self.uses = [(passes, sum(n for _, n in each)) for passes, each in groupby(uses, lambda pair: pair[0])]
        """(uses of each beat, tokens for which that holds), in the order of the tokens; the fresh ones come last."""
        self.uses = [(passes, tokens) for passes, tokens in self.uses if tokens]
        self.queries, self.fresh = queries, len(lane.fresh)
        self.packets = heads.kv_heads * sum(passes * tokens for passes, tokens in self.uses)
        """Packets of scores: one for each token, head of keys and use of its beats."""
        self._stages: list[Stage] = []
        self._fifos: list[Fifo] = []
        self._reads: list[Read] = []
        self._writes: list[Write] = []

    def region(self) -> Region:
        return Region(tuple(self._stages), tuple(self._fifos), tuple(self._reads), tuple(self._writes))

    def stage(
        self,
        name: str,
        actions: tuple[Action, ...],
        loops: Iterable[Nest],
        interval: int = 1,
        depth: int = 1,
        unit: str = "",
    ) -> None:
        self._stages.append(Stage(name, actions, nest(*loops), interval, depth, unit))

    def fifo(self, name: str, least: int = 1) -> None:
        self._fifos.append(Fifo(name, max(least, self.unit.fifo_depth)))

    def _load(self, what: str) -> None:
        """Beats of all tokens of the lane: from the port, and those of the newest token from the chip."""
        beats, port = self.read * self.heads.token_beats, f"{what}_port"
        fresh, put = self.fresh * self.heads.token_beats, ((what, 1),)
        actions = (Action((), put), *((Action(((port, 1),), put),) if beats else ()))
        self.stage(f"load_{what}", actions, (Run(1, beats), Run(0, fresh)), depth=self.unit.load_depth)
        self.fifo(what)
        if beats:
            self._fifos.append(Fifo(port, 0))
            self._reads.append(Read(f"read_{what}", port, what, (Burst(beats),)))

    def keys(self, packets: str) -> None:
        """Keys meet the queries: some uses of a beat, a packet for each use of the last beat of a head."""
        self._load("key")
        take, put = (("key", 1),), ((packets, 1),)
        actions = (Action(take), Action(), Action(take, put), Action((), put))
        loops = []
        for passes, tokens in self.uses:
            again = passes - 1
            head = (Loop(self.heads.beats - 1, (Run(0, 1), Run(1, again))), Run(2, 1), Run(3, again))
            loops.append(Loop(tokens * self.heads.kv_heads, head))
        self.stage("query_key", actions, loops, depth=self.unit.product_depth, unit="fpga.query_key")
        self.fifo(packets)

    def values(self, weights: str) -> None:
        """Values meet the weights, which a head's first beat takes; after the last beat of all, the lane is done."""
        self._load("value")
        take, done = (("value", 1),), (("done", 1),)
        counts = list(dict.fromkeys(passes for passes, _ in self.uses))
        first = [(("value", 1), (weights, passes)) for passes in counts]
        actions = (Action(take), Action(), Action(take, done), Action((), done), Action(first[-1], done))
        loops: list[Nest] = []
        for number, (passes, tokens) in enumerate(self.uses):
            last = number == len(self.uses) - 1
            head = self._head(5 + counts.index(passes), passes - 1)
            loops.append(Loop(tokens * self.heads.kv_heads - last, head))
            if last:
                loops += self._last_head(5 + counts.index(passes), passes - 1)
        self.stage(
            "weighted_values",
            (*actions, *map(Action, first)),
            loops,
            depth=self.unit.weighted_depth,
            unit="fpga.weighted_values",
        )
        self.fifo(weights, max(counts))
        self.fifo("done")

    def _head(self, first: int, again: int) -> tuple[Nest, ...]:
        """Beats of the values of a head; ``first`` takes the weights with the first of them."""
        return (Run(first, 1), Run(1, again), Loop(self.heads.beats - 1, (Run(0, 1), Run(1, again))))

    def _last_head(self, first: int, again: int) -> tuple[Nest, ...]:
        """As any head, but its last iteration says that the lane is done."""
        if self.heads.beats == 1:
            return (Run(first, 1), Run(1, again - 1), Run(3, 1)) if again else (Run(4, 1),)
        body = (Run(first, 1), Run(1, again), Loop(self.heads.beats - 2, (Run(0, 1), Run(1, again))))
        return (*body, Run(0, 1), Run(1, again - 1), Run(3, 1)) if again else (*body, Run(2, 1))

    def merge(self, beats: int) -> None:
        """The tree over lanes, level after level a pipeline, and the result of ``beats`` beats into the buffer."""
        levels = (self.unit.lanes - 1).bit_length()
        actions = (Action((("done", 1),), (("merged", 1),)), Action((), (("merged", 1),)))
        self.stage("merge", actions, (Run(0, 1), Run(1, beats - 1)), depth=max(1, self.unit.merge_depth * levels))
        self.fifo("merged")
        self.stage("store", (Action((("merged", 1),)),), (Run(0, beats),), depth=self.unit.store_depth)

    def append(self) -> None:
        """The newest keys and values of a lane, from the chip to the memory."""
        beats = ceil(self.queries / self.unit.lanes) * self.heads.token_beats
        for what in ("key", "value"):
            queue = f"new_{what}"
            self.stage(f"append_{what}", (Action((), ((queue, 1),)),), (Run(0, beats),), depth=self.unit.store_depth)
            self.fifo(queue)
            self._writes.append(Write(f"write_{what}", queue, what, (Burst(beats),)))


__all__ = ["Heads", "Share", "attend", "linear", "scores", "share", "weighted"]
