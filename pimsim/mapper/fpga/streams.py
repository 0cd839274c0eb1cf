"""Streaming regions of attention primitives: passes on units with lanes, and rows of words through ports in beats.

A row in memory begins with a beat of its own; the words that fill up its last beat move, but are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from pimsim.mapper.fpga.passes import Pass
from pimsim.program.dataflow import Action, Burst, Fifo, Loop, Nest, Read, Region, Run, Stage, Write, nest

OVERHEAD = 2
"""Cycles of a call's controller: start and finish."""

Does = tuple[tuple[str, int], ...]
Tokens = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Lanes:
    """Elements per cycle and depth in cycles of a unit."""

    lanes: int
    depth: int


@dataclass(frozen=True, slots=True)
class Rows:
    """``count`` rows of ``words`` words in memory, as bursts of whole beats; ``events``: what is counted for each word."""

    count: int
    words: int
    per_beat: int
    """Words of a beat."""
    bursts: tuple[Burst, ...]
    events: tuple[str, ...]

    @property
    def beats(self) -> int:
        """Beats of a row."""
        return -(-self.words // self.per_beat)


@dataclass
class _Actions:
    """The actions of a stage under construction, each once."""

    index: dict[Action, int] = field(default_factory=dict)

    def run(self, action: Action, count: int) -> Run:
        return Run(self.index.setdefault(action, len(self.index)), count)

    def row(self, parts: Sequence[tuple[Does, int]], each: Tokens, first: Tokens, last: Tokens) -> tuple[Nest, ...]:
        """A row's iterations: ``each`` takes tokens, the first one more, and the last one puts some."""
        total = sum(count for _, count in parts)
        runs: list[Nest] = []
        at = 0
        for does, count in parts:
            begin, end = int(at == 0), int(at + count == total)
            if begin and end and count == 1:
                runs.append(self.run(Action((*each, *first), last, does), 1))
            else:
                runs += [
                    self.run(Action((*each, *first), (), does), begin),
                    self.run(Action(each, (), does), count - begin - end),
                    self.run(Action(each, last, does), end),
                ]
            at += count
        return nest(*(run for run in runs if isinstance(run, Run) and run.count))


def _lane_parts(work: Pass, outputs: int, lanes: int) -> list[tuple[Does, int]]:
    """(what an iteration does, iterations) of a row with so many results; one idle iteration if there are none."""

    def does(elements: int, results: int) -> Does:
        counted = ((work.element, elements), (work.output, results))
        return tuple((what, times) for what, times in counted if what and times)

    if not outputs:
        return [((), 1)]
    if work.inner > lanes:
        whole, rest = divmod(work.inner - 1, lanes)
        return [(does(lanes, 0), whole * outputs), (does(rest + 1, 1), outputs)]
    group = lanes // work.inner
    whole, rest = divmod(outputs, group)
    parts = [(does(group * work.inner, group), whole), (does(rest * work.inner, rest), 1 if rest else 0)]
    return [part for part in parts if part[1]]


def _stage(number: int, work: Pass, unit: Lanes, took: Tokens, gave: Tokens) -> Stage:
    """All rows of a pass; where results are spread evenly, longer rows come first."""
    actions = _Actions()
    least, longer = divmod(work.outputs, work.rows)
    body = [
        Loop(count, actions.row(_lane_parts(work, outputs, unit.lanes), (), took, gave))
        for count, outputs in work.lengths or ((longer, least + 1), (work.rows - longer, least))
        if count
    ]
    loops = nest(*body)
    return Stage(f"pass {number}: {work.unit}", tuple(actions.index), loops, 1, unit.depth, work.unit)


def split(passes: Sequence[Pass]) -> list[tuple[Pass, ...]]:
    """Passes that can be in one region: as long as they have equally many rows and each unit occurs once."""
    groups: list[list[Pass]] = []
    for work in passes:
        last = groups[-1] if groups else []
        if last and last[0].rows == work.rows and work.unit not in {other.unit for other in last}:
            last.append(work)
        else:
            groups.append([work])
    return [tuple(group) for group in groups]


@cache
def compute(passes: tuple[Pass, ...], units: tuple[Lanes, ...], stream: Rows | None, port: str, depth: int) -> Region:
    """Passes over what lies on the chip; with ``stream``, the first pass takes a row from memory for each of its rows.

    ``depth`` is that of the stage behind a port.
    """
    stages: list[Stage] = []
    fifos: list[Fifo] = []
    reads: tuple[Read, ...] = ()
    took: Tokens = ()
    if stream is not None:
        took = (("rows", 1),)
        stages.append(_loader(stream, took, depth))
        fifos += [Fifo("beats", 0), Fifo("rows", 2)]
        reads = (Read("read", "beats", port, stream.bursts),)
    for number, (work, unit) in enumerate(zip(passes, units, strict=True)):
        gave: Tokens = ((f"row {number}", 1),) if number + 1 < len(passes) else ()
        stages.append(_stage(number, work, unit, took, gave))
        fifos += [Fifo(name, 2) for name, _ in gave]
        took = gave
    return Region(tuple(stages), tuple(fifos), reads, (), OVERHEAD)


def _row_beats(rows: Rows) -> list[tuple[Does, int]]:
    """(what a beat counts, beats) of a row; its last beat may hold fewer words."""
    full, last = rows.beats - 1, rows.words - rows.per_beat * (rows.beats - 1)
    parts = [
        (tuple((event, rows.per_beat) for event in rows.events), full),
        (tuple((event, last) for event in rows.events), 1),
    ]
    return [part for part in parts if part[1]]


def _loader(rows: Rows, gave: Tokens, depth: int) -> Stage:
    actions = _Actions()
    loops = nest(Loop(rows.count, actions.row(_row_beats(rows), (("beats", 1),), (), gave)))
    return Stage("load", tuple(actions.index), loops, 1, depth)


@cache
def load(rows: Rows, port: str, depth: int) -> Region:
    """Rows into the buffer on the chip, a beat per cycle."""
    stage = _loader(rows, (), depth)
    return Region((stage,), (Fifo("beats", 0),), (Read("read", "beats", port, rows.bursts),), (), OVERHEAD)


@cache
def store(rows: Rows, port: str, depth: int, fifo: int) -> Region:
    """Rows from the buffer on the chip to memory, a beat per cycle."""
    actions = _Actions()
    pieces = [actions.run(Action((), (("beats", 1),), does), count) for does, count in _row_beats(rows)]
    stage = Stage("store", tuple(actions.index), nest(Loop(rows.count, tuple(pieces))), 1, depth)
    return Region((stage,), (Fifo("beats", fifo),), (), (Write("write", "beats", port, rows.bursts),), OVERHEAD)


def lanes_of(passes: Sequence[Pass], units: Mapping[str, Lanes]) -> tuple[Lanes, ...]:
    """The units of passes."""
    return tuple(units[work.unit] for work in passes)


__all__ = ["OVERHEAD", "Lanes", "Rows", "compute", "lanes_of", "load", "split", "store"]
