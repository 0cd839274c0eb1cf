"""The program of a streaming machine: calls of dataflow regions, each a graph of pipelined stages joined by FIFOs.

A stage is a loop nest of *actions*; an action takes tokens from FIFOs and puts tokens into FIFOs. Memory is reached through
port streams: a `Read` fills a FIFO with the beats of its bursts, a `Write` empties one. A `Call` runs when the calls that it
waits for are complete. Nothing here has a time but the initiation interval and depth of a stage; stalls are what the
machine makes of it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pimsim.errors import ProgramError


@dataclass(frozen=True, slots=True)
class Action:
    """What one iteration of a stage does: (FIFO, tokens) taken when it starts and put when it leaves the pipeline."""

    reads: tuple[tuple[str, int], ...] = ()
    writes: tuple[tuple[str, int], ...] = ()
    does: tuple[tuple[str, int], ...] = ()
    """(what is counted, how many of it) in the lanes of this iteration; has no time."""


@dataclass(frozen=True, slots=True)
class Run:
    """The same action ``count`` times; ``action`` is an index into the stage's actions."""

    action: int
    count: int


@dataclass(frozen=True, slots=True)
class Loop:
    """A body ``count`` times."""

    count: int
    body: tuple[Nest, ...]


Nest = Run | Loop


@dataclass(frozen=True, slots=True)
class Burst:
    """``count`` requests in a row of ``beats`` beats each; the first starts at beat address ``start``, the next ``stride`` on."""

    beats: int
    count: int = 1
    start: int = 0
    stride: int = 0


@dataclass(frozen=True, slots=True)
class Fifo:
    """A queue of tokens between two ends: ``depth`` tokens, each visible ``latency`` cycles after it was put."""

    name: str
    depth: int
    latency: int = 1


@dataclass(frozen=True, slots=True)
class Stage:
    """A pipelined loop: an iteration every ``interval`` cycles at best, its results ``depth`` cycles after its start.

    ``unit`` names the hardware that it occupies, or is empty for wiring that nobody asks about.
    """

    name: str
    actions: tuple[Action, ...]
    nest: tuple[Nest, ...]
    interval: int = 1
    depth: int = 1
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Read:
    """A stream of read requests on a port; their beats come out of ``fifo`` in order."""

    name: str
    fifo: str
    port: str
    bursts: tuple[Burst, ...]


@dataclass(frozen=True, slots=True)
class Write:
    """A stream of write requests on a port, fed with the tokens of ``fifo``, one beat each."""

    name: str
    fifo: str
    port: str
    bursts: tuple[Burst, ...]


@dataclass(frozen=True, slots=True)
class Region:
    """A dataflow graph: what a call runs. Equal regions take equal time on an idle machine."""

    stages: tuple[Stage, ...]
    fifos: tuple[Fifo, ...]
    reads: tuple[Read, ...] = ()
    writes: tuple[Write, ...] = ()
    overhead: int = 0
    """Cycles of the controller around the region: start and finish."""


@dataclass(frozen=True, slots=True)
class Call:
    """One use of a region. ``after`` are the positions of the calls that must be complete, all earlier in the program."""

    name: str
    op: str
    layer: int
    region: Region
    after: tuple[int, ...] = ()
    work: Any = field(default=None, compare=False)
    """What the call computes, for the functional back end."""


def expand(nest: Sequence[Nest]) -> Iterator[int]:
    """The actions of a nest, one by one.

    >>> list(expand((Loop(2, (Run(0, 2), Run(1, 1))),)))
    [0, 0, 1, 0, 0, 1]
    """
    for item in nest:
        if isinstance(item, Run):
            for _ in range(item.count):
                yield item.action
        else:
            for _ in range(item.count):
                yield from expand(item.body)


def action_counts(nest: Sequence[Nest]) -> Counter[int]:
    """How often each action of a nest happens, without expanding it.

    >>> dict(action_counts((Loop(2, (Run(0, 2), Run(1, 1))),)))
    {0: 4, 1: 2}
    """
    counts: Counter[int] = Counter()
    for item in nest:
        if isinstance(item, Run):
            counts[item.action] += item.count
        else:
            for action, count in action_counts(item.body).items():
                counts[action] += item.count * count
    return counts


def iterations(stage: Stage) -> int:
    """Iterations of a stage in all."""
    return sum(action_counts(stage.nest).values())


def done(calls: Sequence[Call]) -> Counter[str]:
    """How often the iterations of a program do what is counted, from the actions of its stages."""
    known: dict[int, Counter[str]] = {}
    totals: Counter[str] = Counter()
    for call in calls:
        if id(call.region) not in known:
            known[id(call.region)] = _done(call.region)
        totals.update(known[id(call.region)])
    return totals


def _done(region: Region) -> Counter[str]:
    found: Counter[str] = Counter()
    for stage in region.stages:
        for action, count in action_counts(stage.nest).items():
            for what, times in stage.actions[action].does:
                found[what] += times * count
    return found


def beats(bursts: Sequence[Burst]) -> int:
    """Beats of a stream in all."""
    return sum(burst.beats * burst.count for burst in bursts)


def requests(bursts: Sequence[Burst]) -> Iterator[tuple[int, int]]:
    """(first beat address, beats) of every request, in order."""
    for burst in bursts:
        for number in range(burst.count):
            yield burst.start + number * burst.stride, burst.beats


def nest(*items: Nest) -> tuple[Nest, ...]:
    """A tidy nest: empty parts left out, loops of one pass opened, neighbouring runs of one action joined.

    >>> nest(Run(0, 3), Run(0, 1), Loop(1, (Run(1, 2),)), Loop(0, (Run(0, 1),)))
    (Run(action=0, count=4), Run(action=1, count=2))
    """
    flat: list[Nest] = []
    for item in items:
        parts = (item,) if isinstance(item, Run) else _tidy(item)
        for part in parts:
            last = flat[-1] if flat else None
            if isinstance(part, Run) and part.count == 0:
                continue
            if isinstance(part, Run) and isinstance(last, Run) and last.action == part.action:
                flat[-1] = Run(part.action, last.count + part.count)
            else:
                flat.append(part)
    return tuple(flat)


def _tidy(loop: Loop) -> tuple[Nest, ...]:
    body = nest(*loop.body)
    if loop.count == 0 or not body:
        return ()
    if loop.count == 1:
        return body
    if len(body) == 1 and isinstance(body[0], Run):
        return (Run(body[0].action, loop.count * body[0].count),)
    return (Loop(loop.count, body),)


def region_to_json(region: Region) -> str:
    """A region as JSON on one line; `region_from_json` gives it back."""
    return json.dumps(asdict(region), separators=(",", ":"))


def region_from_json(text: str) -> Region:
    """The region that a text describes.

    Raises:
        ProgramError: it is not what `region_to_json` writes.
    """
    try:
        data = json.loads(text)
        return Region(
            tuple(_stage(stage) for stage in data["stages"]),
            tuple(Fifo(**fifo) for fifo in data["fifos"]),
            tuple(Read(**{**read, "bursts": _bursts(read)}) for read in data["reads"]),
            tuple(Write(**{**write, "bursts": _bursts(write)}) for write in data["writes"]),
            data["overhead"],
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ProgramError(f"a region must be the JSON of its stages and FIFOs: {error}") from error


def _stage(data: dict[str, Any]) -> Stage:
    actions = tuple(
        Action(*(tuple((fifo, tokens) for fifo, tokens in action[side]) for side in ("reads", "writes")))
        for action in data["actions"]
    )
    return Stage(**{**data, "actions": actions, "nest": tuple(map(_nest, data["nest"]))})


def _nest(data: dict[str, Any]) -> Nest:
    if "body" in data:
        return Loop(data["count"], tuple(map(_nest, data["body"])))
    return Run(**data)


def _bursts(stream: dict[str, Any]) -> tuple[Burst, ...]:
    return tuple(Burst(**burst) for burst in stream["bursts"])


def verify_region(region: Region, name: str = "region") -> None:
    """Check what must hold of a region whatever the machine does.

    Raises:
        ProgramError: a FIFO has not exactly one end each, is unknown, is too shallow for a single action, or more tokens are
            put into it than are taken out, or fewer; a count or depth is not positive.
    """
    fifos = {fifo.name: fifo for fifo in region.fifos}
    if len(fifos) != len(region.fifos):
        raise ProgramError(f"{name}: FIFO names must differ")
    put: dict[str, dict[str, int]] = {fifo: {} for fifo in fifos}
    taken: dict[str, dict[str, int]] = {fifo: {} for fifo in fifos}

    def note(side: dict[str, dict[str, int]], fifo: str, who: str, count: int) -> None:
        if fifo not in side:
            raise ProgramError(f"{name}: {who} must name one of the FIFOs {', '.join(fifos)}, not {fifo!r}")
        side[fifo][who] = side[fifo].get(who, 0) + count

    for stage in region.stages:
        _verify_stage(stage, name, fifos)
        for action, count in action_counts(stage.nest).items():
            for fifo, tokens in stage.actions[action].reads:
                note(taken, fifo, stage.name, tokens * count)
            for fifo, tokens in stage.actions[action].writes:
                note(put, fifo, stage.name, tokens * count)
    for read in region.reads:
        note(put, read.fifo, read.name, beats(read.bursts))
    for write in region.writes:
        note(taken, write.fifo, write.name, beats(write.bursts))
    for queue in region.fifos:
        _verify_fifo(queue, put[queue.name], taken[queue.name], name)


def _verify_stage(stage: Stage, name: str, fifos: dict[str, Fifo]) -> None:
    if stage.interval < 1 or stage.depth < 1:
        raise ProgramError(f"{name}: {stage.name} must have an interval and a depth of at least 1")
    for action in stage.actions:
        for fifo, tokens in (*action.reads, *action.writes):
            if fifo in fifos and tokens > fifos[fifo].depth and not _unbounded(fifos[fifo]):
                raise ProgramError(
                    f"{name}: {fifo} must be at least {tokens} deep, as {stage.name} moves {tokens} tokens at once, "
                    f"not {fifos[fifo].depth}"
                )


def _unbounded(fifo: Fifo) -> bool:
    """Whether a FIFO is the buffer of a read stream, which credits keep from overflowing."""
    return fifo.depth == 0


def _verify_fifo(fifo: Fifo, put: dict[str, int], taken: dict[str, int], name: str) -> None:
    if fifo.depth < 0 or fifo.latency < 1:
        raise ProgramError(f"{name}: {fifo.name} must have a depth of at least 0 and a latency of at least 1")
    if len(put) != 1 or len(taken) != 1:
        raise ProgramError(
            f"{name}: {fifo.name} must have one end that puts and one that takes, not {len(put)} and {len(taken)}"
        )
    (producer, given), (consumer, used) = next(iter(put.items())), next(iter(taken.items()))
    if given != used:
        raise ProgramError(
            f"{name}: {consumer} must take from {fifo.name} all {given} tokens of {producer}, not {used}"
        )


def verify_calls(calls: Sequence[Call]) -> None:
    """Check a program: `verify_region` of every region, and that calls wait for earlier calls only.

    Raises:
        ProgramError: something does not hold.
    """
    seen: set[int] = set()
    for position, call in enumerate(calls):
        if id(call.region) not in seen:
            verify_region(call.region, call.name)
            seen.add(id(call.region))
        if any(not 0 <= other < position for other in call.after):
            raise ProgramError(f"{call.name} must wait for earlier calls only")


__all__ = [
    "Action", "Burst", "Call", "Fifo", "Loop", "Nest", "Read", "Region", "Run", "Stage", "Write", "action_counts", "beats",
    "done", "expand", "iterations", "nest", "region_from_json", "region_to_json", "requests", "verify_calls",
    "verify_region",
]  # fmt: skip
