"""Attention products as streaming regions, in the reordered schedule or the naive one, and the softmax in one or three passes.

The single-pass softmax keeps a running sum and bias of every row beside the scores (``statistics``), and the product with the
values divides. The three-pass form reads all scores three times between the products: for the maximum of every row, for the
sum of the exponentials, and to divide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pimsim.mapper.fpga.schedules import Kind, Schedule, Shape, blocks, nest_of, slot_count
from pimsim.program.dataflow import Action, Burst, Fifo, Loop, Nest, Read, Region, Run, Stage, Write, nest

Softmax = Literal["single_pass", "three_pass"]
Pass = Literal["maximum", "sum", "divide"]
PASSES: tuple[Pass, ...] = ("maximum", "sum", "divide")
"""The passes of the three-pass softmax, in order."""


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
    passes: Mapping[Pass, tuple[int, int]] = field(default_factory=lambda: dict.fromkeys(PASSES, (1, 1)))
    """(interval, depth) of each pass of the three-pass softmax."""


Moves = tuple[tuple[str, int], ...]
"""(FIFO, tokens)."""


class _Actions:
    """The actions of a stage, numbered as they are met."""

    def __init__(self) -> None:
        self._numbers: dict[Action, int] = {}

    def run(self, count: int, reads: tuple[tuple[str, int], ...], writes: tuple[tuple[str, int], ...] = ()) -> Run:
        """``count`` iterations that move these tokens."""
        return Run(self._numbers.setdefault(Action(reads, writes), len(self._numbers)), count)

    @property
    def all(self) -> tuple[Action, ...]:
        """The actions, by number."""
        return tuple(self._numbers)


def query_key(
    shape: Shape,
    pipes: Pipelines,
    ports: Mapping[str, str],
    overhead: int = 2,
    *,
    schedule: Schedule = "reordered",
    softmax: Softmax = "single_pass",
) -> Region:
    """Scores of all rows and, with the single-pass softmax, their statistics.

    ``ports``: port of ``query``, ``key``, ``scores`` and ``statistics``. Scores leave in the order of the schedule, one packet of
    all lanes per step; the row whose last key a step sees sends its statistics.
    """
    d, n, fifo = shape.beats, shape.tokens, pipes.fifo
    width = _width(shape, schedule)
    actions = _Actions()

    def step(kind: Kind) -> tuple[Nest, ...]:
        query = (("query", 1),) if kind.begins >= 0 else ()
        return _step(shape, actions, ("key", _beats(kind, schedule)), always=query, last=(("packets", 1),))

    walked = nest_of(shape, schedule, step)
    product = Stage("product", actions.all, walked, depth=pipes.product, unit="attention.query_key")
    single = softmax == "single_pass"
    return Region(
        (
            _load("load_query", "query_port", "query", n * d, pipes.load),
            _load_lanes(shape, schedule, "key", pipes.load),
            product,
            _statistics(shape, schedule, pipes) if single else _spread(shape, schedule, pipes.store),
            _store(shape, slot_count(shape, schedule), pipes.store),
        ),
        (
            Fifo("query_port", 0), Fifo("key_port", 0), Fifo("query", fifo), Fifo("key", width * fifo),
            Fifo("packets", fifo), Fifo("scores", fifo),
            *((Fifo("sums", max(fifo, shape.sum_beats)),) if single else ()),
            Fifo("score_beats", max(fifo, shape.beats_per_lane)),
        ),
        (
            Read("read_query", "query_port", ports["query"], (Burst(n * d),)),
            Read("read_key", "key_port", ports["key"], _passes_over(shape, schedule)),
        ),
        (
            _write_scores(shape, schedule, ports),
            *((_write_sums(shape, ports),) if single else ()),
        ),
        overhead,
    )  # fmt: skip


def weighted_values(
    shape: Shape,
    pipes: Pipelines,
    ports: Mapping[str, str],
    overhead: int = 2,
    *,
    schedule: Schedule = "reordered",
    softmax: Softmax = "single_pass",
) -> Region:
    """Weighted sums of the values.

    ``ports``: port of ``value``, ``scores``, ``statistics`` and ``output``. A row's statistics, if the softmax left the division
    to this product, arrive with its first step; a finished row leaves during the step that sees its last key, beat by beat.
    """
    d, n, fifo = shape.beats, shape.tokens, pipes.fifo
    single = softmax == "single_pass"
    actions = _Actions()

    def step(kind: Kind) -> tuple[Nest, ...]:
        first = (("packets", 1), *((("sums", shape.sum_beats),) if single and kind.begins >= 0 else ()))
        row = (("rows", 1),) if kind.ends >= 0 else ()
        return _step(shape, actions, ("value", _beats(kind, schedule)), first=first, row=row)

    walked = nest_of(shape, schedule, step)
    product = Stage("product", actions.all, walked, depth=pipes.weighted, unit="attention.weighted_values")
    return Region(
        (
            _load_lanes(shape, schedule, "value", pipes.load),
            _unpack(shape, schedule, pipes.load),
            _pack(shape, schedule, pipes.load),
            product,
        ),
        (
            Fifo("value_port", 0), Fifo("score_port", 0), *((Fifo("sums", 0),) if single else ()),
            Fifo("value", _width(shape, schedule) * fifo), Fifo("lane_scores", max(shape.lanes_per_beat, fifo)),
            Fifo("packets", fifo), Fifo("rows", fifo),
        ),
        (
            Read("read_value", "value_port", ports["value"], _passes_over(shape, schedule)),
            _read_scores(shape, schedule, ports),
            *((_read_sums(shape, ports),) if single else ()),
        ),
        (Write("write_rows", "rows", ports["output"], (Burst(n * d),)),),
        overhead,
    )  # fmt: skip


def softmax_pass(
    which: Pass, shape: Shape, pipes: Pipelines, ports: Mapping[str, str], overhead: int = 2, *, schedule: Schedule
) -> Region:
    """A pass of the three-pass softmax over all scores, in the order in which they lie in memory.

    ``maximum`` writes the maximum of every row; ``sum`` reads it with the row's first score and writes it back with the sum of
    the exponentials; ``divide`` reads both and writes the weights over the scores. All heads of a pair at once.
    """
    fifo, actions = pipes.fifo, _Actions()

    def lane(kind: Kind, number: int) -> Run:
        begins = which != "maximum" and number == kind.begins
        ends = which != "divide" and number == kind.ends
        reads = (("lane_scores", 1), *((("old_sums", shape.sum_beats),) if begins else ()))
        writes = (("sums", shape.sum_beats),) if ends else ()
        return actions.run(1, reads, (("scores", 1),) if which == "divide" else writes)

    walked = nest_of(shape, schedule, lambda kind: tuple(lane(kind, number) for number in range(kind.lanes)))
    interval, depth = pipes.passes[which]
    stage = Stage("pass", actions.all, walked, interval, depth, "softmax")
    group = shape.lanes_per_beat
    fifos = [Fifo("score_port", 0), Fifo("lane_scores", max(group, fifo))]
    reads = [_read_scores(shape, schedule, ports)]
    if which != "maximum":
        fifos.append(Fifo("sum_port", 0))
        fifos.append(Fifo("old_sums", max(fifo, shape.sum_beats)))
        reads.append(_read_sums(shape, ports, "sum_port"))
    stages = [_unpack(shape, schedule, pipes.load), stage]
    if which != "maximum":
        stages.append(_load("load_sums", "sum_port", "old_sums", shape.tokens * shape.sum_beats, pipes.load))
    if which != "divide":
        return Region(
            tuple(stages),
            (*fifos, Fifo("sums", max(fifo, shape.sum_beats))),
            tuple(reads),
            (_write_sums(shape, ports),),
            overhead,
        )
    return Region(
        (*stages, _store(shape, slot_count(shape, schedule), pipes.store)),
        (*fifos, Fifo("scores", fifo), Fifo("score_beats", max(fifo, shape.beats_per_lane))),
        tuple(reads),
        (_write_scores(shape, schedule, ports),),
        overhead,
    )


# -- stages and streams that several regions have ------------------------------------------------------------------------


def _width(shape: Shape, schedule: Schedule) -> int:
    """Key or value beats at once."""
    return shape.lanes if schedule == "naive" else 1


def _beats(kind: Kind, schedule: Schedule) -> int:
    return kind.lanes if schedule == "naive" else 1


def _step(
    shape: Shape,
    actions: _Actions,
    beat: tuple[str, int],
    *,
    always: Moves = (),
    first: Moves = (),
    row: Moves = (),
    last: Moves = (),
) -> tuple[Nest, ...]:
    """An iteration for each beat of a row. The first of heads that share a key takes the key's beats, the others use them again.

    Args:
        shape: sizes.
        actions: of the stage.
        beat: FIFO of keys or values, and how many beats at once.
        always: what every iteration takes besides, and ``first`` the first one.
        row: what every iteration puts, and ``last`` the last one.
    """
    parts = [(shape.beats, True)]
    if shape.shared > 1:
        size = shape.beats // shape.heads
        parts = [(size, True), (size * (shape.shared - 1), False)] * (shape.heads // shape.shared)
    runs: list[Nest] = []
    for number, (count, fresh) in enumerate(parts):
        takes = (*((beat,) if fresh else ()), *always)
        begins, ends = number == 0, number == len(parts) - 1
        if begins and ends and count == 1:
            runs.append(actions.run(1, (*takes, *first), (*row, *last)))
            continue
        runs.append(actions.run(int(begins), (*takes, *first), row))
        runs.append(actions.run(count - begins - ends, takes, row))
        runs.append(actions.run(int(ends), takes, (*row, *last)))
    return nest(*runs)


def _passes_over(shape: Shape, schedule: Schedule) -> tuple[Burst, ...]:
    """How keys or values are requested: all that are needed again for every block of rows, or for every row."""
    d, n = shape.key_beats, shape.tokens
    if schedule == "naive" and shape.causal:
        return tuple(burst for row in range(n) for burst in _groups(shape.keys(row + 1), shape))
    if schedule == "naive":
        return (Burst(n * d, n),)
    bursts: list[Burst] = []
    for _, keys in blocks(shape):
        if bursts and bursts[-1].beats == keys * d:
            bursts[-1] = Burst(keys * d, bursts[-1].count + 1)
        else:
            bursts.append(Burst(keys * d))
    return tuple(bursts)


def _groups(keys: int, shape: Shape) -> tuple[Burst, ...]:
    """Keys that lie side by side, as many at once as there are lanes; of the last group, only those that are there."""
    whole, rest = divmod(keys, shape.lanes)
    full, size = whole * shape.lanes * shape.key_beats, shape.lanes
    return (
        *((Burst(full),) if whole else ()),
        *((Burst(rest, shape.key_beats, full, size),) if rest else ()),
    )


def _load(name: str, source: str, target: str, count: int, depth: int) -> Stage:
    return Stage(name, (Action(((source, 1),), ((target, 1),)),), nest(Run(0, count)), depth=depth)


def _load_lanes(shape: Shape, schedule: Schedule, what: str, depth: int) -> Stage:
    """Keys or values from the port, as many beats at once as the product takes."""
    actions = _Actions()

    def step(kind: Kind) -> tuple[Nest, ...]:
        beats = _beats(kind, schedule)
        return (actions.run(shape.key_beats, ((f"{what}_port", beats),), ((what, beats),)),)

    walked = nest_of(shape, schedule, step)
    return Stage(f"load_{what}", actions.all, walked, depth=depth)


def _statistics(shape: Shape, schedule: Schedule, pipes: Pipelines) -> Stage:
    """One iteration per step and lane; the first of a step takes the packet, the last score of a row sends its statistics."""
    actions = _Actions()

    def lane(kind: Kind, number: int) -> Run:
        sums = (("sums", shape.sum_beats),) if number == kind.ends else ()
        return actions.run(1, (("packets", 1),) if number == 0 else (), (("scores", 1), *sums))

    walked = nest_of(shape, schedule, lambda kind: tuple(lane(kind, number) for number in range(kind.lanes)))
    return Stage("statistics", actions.all, walked, pipes.statistics_interval, pipes.statistics, "softmax")


def _spread(shape: Shape, schedule: Schedule, depth: int) -> Stage:
    """Packets to scores of single lanes, where nothing else looks at them."""
    actions, score = _Actions(), (("scores", 1),)
    walked = nest_of(
        shape,
        schedule,
        lambda kind: (actions.run(1, (("packets", 1),), score), actions.run(kind.lanes - 1, (), score)),
    )
    return Stage("spread", actions.all, walked, depth=depth)


def _store(shape: Shape, count: int, depth: int) -> Stage:
    """Scores of several lanes make a beat, or those of a lane several; lanes left over fill the last beat alone."""
    group, took, gave = shape.lanes_per_beat, (("scores", 1),), (("score_beats", shape.beats_per_lane),)
    actions = (Action(took), Action(took, gave))
    body, rest = (Run(0, group - 1), Run(1, 1)), count % group
    last = (Run(0, rest - 1), Run(1, 1)) if rest else ()
    return Stage("store_scores", actions, nest(Loop(count // group, body), *last), depth=depth)


def _unpack(shape: Shape, schedule: Schedule, depth: int) -> Stage:
    """Beats of scores to scores of single lanes."""
    count, group = slot_count(shape, schedule), shape.lanes_per_beat
    rest, beat = count % group, (("score_port", shape.beats_per_lane),)
    return Stage(
        "unpack",
        (Action(beat, (("lane_scores", group),)), Action(beat, (("lane_scores", max(rest, 1)),))),
        nest(Run(0, count // group), Run(1, 1 if rest else 0)),
        depth=depth,
    )


def _pack(shape: Shape, schedule: Schedule, depth: int) -> Stage:
    """Scores of single lanes to one packet per step."""
    actions, lane = _Actions(), (("lane_scores", 1),)
    walked = nest_of(
        shape,
        schedule,
        lambda kind: (actions.run(kind.lanes - 1, lane), actions.run(1, lane, (("packets", 1),))),
    )
    return Stage("pack", actions.all, walked, depth=depth)


def _read_scores(shape: Shape, schedule: Schedule, ports: Mapping[str, str]) -> Read:
    burst = Burst(shape.score_beats(slot_count(shape, schedule)))
    return Read("read_scores", "score_port", ports["scores"], (burst,))


def _write_scores(shape: Shape, schedule: Schedule, ports: Mapping[str, str]) -> Write:
    burst = Burst(shape.score_beats(slot_count(shape, schedule)))
    return Write("write_scores", "score_beats", ports["scores"], (burst,))


def _read_sums(shape: Shape, ports: Mapping[str, str], fifo: str = "sums") -> Read:
    return Read("read_statistics", fifo, ports["statistics"], (Burst(shape.tokens * shape.sum_beats),))


def _write_sums(shape: Shape, ports: Mapping[str, str]) -> Write:
    return Write("write_statistics", "sums", ports["statistics"], (Burst(shape.tokens * shape.sum_beats),))


__all__ = ["PASSES", "Pass", "Pipelines", "Softmax", "query_key", "softmax_pass", "weighted_values"]
