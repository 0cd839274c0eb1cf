"""One token on a streaming unit: attention of its query over a cache, and matrix-vector products, as dataflow regions.

Tokens of the cache are dealt to lanes, each with a port for keys and one for values, so a lane works on every L-th token
and a tree merges the lanes at the end (a decode partition as in FlashDecoding and LeanAttention, arXiv 2405.10480).
Lanes run alike, so a region holds the lane with most to do. Two schedules:

* ``two_pass``: keys go by, scores stay on the chip with their maximum and sum; then values go by.
* ``single_pass``: keys and values go by together; each score rescales a running (maximum, sum, values).

The newest key and value come from the chip, and are written to the memory on the way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

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

    def passes(self, parallelism: int) -> int:
        """Times that a beat is used, ``parallelism`` query heads each time."""
        return ceil(self.heads // self.kv_heads / parallelism)


def lane_tokens(context: int, lanes: int) -> tuple[int, bool]:
    """(tokens that the fullest lane reads from memory, whether it has the newest one from the chip, too).

    >>> lane_tokens(1, 4), lane_tokens(4, 4), lane_tokens(5, 4), lane_tokens(6, 4)
    ((0, True), (1, False), (1, True), (2, False))
    """
    old = context - 1
    return ceil(old / lanes), old % lanes == 0


def scores(heads: Heads, context: int, unit: StreamAttention) -> Region:
    """First pass of ``two_pass``: keys in, scores and their statistics on the chip; the new key and value go to memory."""
    b = _Lane(heads, context, unit)
    b.keys("packets")
    last = (("packets", 1),), (("done", 1),)
    per_token = Run(0, b.packets)
    b.stage(
        "statistics",
        (Action((("packets", 1),)), Action(*last)),
        (Loop(b.tokens - 1, (per_token,)), Run(0, b.packets - 1), Run(1, 1)),
        unit.statistics_interval,
        unit.statistics_depth,
        "fpga.softmax",
    )
    b.fifo("done")
    b.merge(heads.heads)
    b.append()
    return b.region()


def weighted(heads: Heads, context: int, unit: StreamAttention) -> Region:
    """Second pass of ``two_pass``: exponentials of the scores on the chip, values in, the result on the chip."""
    b = _Lane(heads, context, unit)
    b.stage(
        "exponentials",
        (Action((), (("weights", 1),)),),
        (Run(0, b.tokens * b.packets),),
        unit.statistics_interval,
        unit.statistics_depth,
        "fpga.softmax",
    )
    b.values("weights")
    b.merge(heads.heads * heads.beats)
    return b.region()


def attend(heads: Heads, context: int, unit: StreamAttention) -> Region:
    """``single_pass``: keys and values in, the result on the chip; the new key and value go to memory."""
    b = _Lane(heads, context, unit)
    b.keys("packets")
    b.stage(
        "fold",
        (Action((("packets", 1),), (("weights", 1),)),),
        (Run(0, b.tokens * b.packets),),
        unit.statistics_interval,
        unit.statistics_depth,
        "fpga.softmax",
    )
    b.values("weights")
    b.merge(heads.heads * heads.beats)
    b.append()
    return b.region()


def linear(d_in: int, d_out: int, words: int, unit: StreamLinear) -> Region:
    """Y = x W: outputs are dealt to lanes, each reads its columns of W from its port; x and y lie on the chip."""
    outputs, beats = ceil(d_out / unit.lanes), ceil(d_in / words)
    total = outputs * beats
    take = (("weights", 1),)
    return Region(
        (
            Stage("load", (Action((("port", 1),), take),), nest(Run(0, total)), depth=unit.load_depth),
            Stage(
                "product",
                (Action(take), Action(take, (("results", 1),))),
                nest(Loop(outputs, (Run(0, beats - 1), Run(1, 1)))),
                depth=unit.product_depth,
                unit="fpga.linear",
            ),
            Stage("store", (Action((("results", 1),)),), nest(Run(0, outputs)), depth=unit.store_depth),
        ),
        (Fifo("port", 0), Fifo("weights", unit.fifo_depth), Fifo("results", unit.fifo_depth)),
        (Read("read_weights", "port", "weights", (Burst(total),)),),
    )


class _Lane:
    """Puts the region of the fullest lane together."""

    def __init__(self, heads: Heads, context: int, unit: StreamAttention) -> None:
        self.heads, self.unit = heads, unit
        self.read, self.newest = lane_tokens(context, unit.lanes)
        self.tokens = self.read + self.newest
        self.passes = heads.passes(unit.parallelism)
        self.packets = heads.kv_heads * self.passes
        """Packets of scores of a token: one for each head of keys and pass of query heads."""
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
        fresh, put = (self.heads.token_beats if self.newest else 0), ((what, 1),)
        actions = (Action((), put), *((Action(((port, 1),), put),) if beats else ()))
        self.stage(f"load_{what}", actions, (Run(1, beats), Run(0, fresh)), depth=self.unit.load_depth)
        self.fifo(what)
        if beats:
            self._fifos.append(Fifo(port, 0))
            self._reads.append(Read(f"read_{what}", port, what, (Burst(beats),)))

    def keys(self, packets: str) -> None:
        """Keys meet the queries: ``passes`` uses of a beat, a packet for each use of the last beat of a head."""
        self._load("key")
        take, put = (("key", 1),), ((packets, 1),)
        actions = (Action(take), Action(), Action(take, put), Action((), put))
        again = self.passes - 1
        head = (Loop(self.heads.beats - 1, (Run(0, 1), Run(1, again))), Run(2, 1), Run(3, again))
        loops = (Loop(self.tokens * self.heads.kv_heads, head),)
        self.stage("query_key", actions, loops, depth=self.unit.product_depth, unit="fpga.query_key")
        self.fifo(packets)

    def values(self, weights: str) -> None:
        """Values meet the weights, which a head's first beat takes; after the last beat of all, the lane is done."""
        self._load("value")
        take, first = (("value", 1),), (("value", 1), (weights, self.passes))
        done = (("done", 1),)
        actions = (Action(take), Action(), Action(first), Action(take, done), Action((), done), Action(first, done))
        beats, again = self.heads.beats, self.passes - 1
        head: tuple[Nest, ...] = (Run(2, 1), Run(1, again), Loop(beats - 1, (Run(0, 1), Run(1, again))))
        count = self.tokens * self.heads.kv_heads
        loops = (Loop(count - 1, head), *self._last_head(beats, again))
        self.stage("weighted_values", actions, loops, depth=self.unit.weighted_depth, unit="fpga.weighted_values")
        self.fifo(weights, self.passes)
        self.fifo("done")

    @staticmethod
    def _last_head(beats: int, again: int) -> tuple[Nest, ...]:
        """As any head, but its last iteration says that the lane is done."""
        if beats == 1:
            return (Run(2, 1), Run(1, again - 1), Run(4, 1)) if again else (Run(5, 1),)
        body = (Run(2, 1), Run(1, again), Loop(beats - 2, (Run(0, 1), Run(1, again))))
        return (*body, Run(0, 1), Run(1, again - 1), Run(4, 1)) if again else (*body, Run(3, 1))

    def merge(self, beats: int) -> None:
        """The tree over lanes, level after level a pipeline, and the result of ``beats`` beats into the buffer."""
        levels = (self.unit.lanes - 1).bit_length()
        actions = (Action((("done", 1),), (("merged", 1),)), Action((), (("merged", 1),)))
        self.stage("merge", actions, (Run(0, 1), Run(1, beats - 1)), depth=max(1, self.unit.merge_depth * levels))
        self.fifo("merged")
        self.stage("store", (Action((("merged", 1),)),), (Run(0, beats),), depth=self.unit.store_depth)

    def append(self) -> None:
        """The newest key and value, from the chip to the memory."""
        beats = self.heads.token_beats
        for what in ("key", "value"):
            queue = f"new_{what}"
            self.stage(f"append_{what}", (Action((), ((queue, 1),)),), (Run(0, beats),), depth=self.unit.store_depth)
            self.fifo(queue)
            self._writes.append(Write(f"write_{what}", queue, what, (Burst(beats),)))


__all__ = ["Heads", "attend", "lane_tokens", "linear", "scores", "weighted"]
