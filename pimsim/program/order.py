"""Topological order of a block's steps: who can go before whom, and a clear error when nobody can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pimsim.errors import Deadlock, ProgramError

if TYPE_CHECKING:
    from pimsim.program.isa import Block, Stream


def schedule(block: Block) -> tuple[tuple[tuple[int, int], ...], tuple[str, ...]]:
    """Order all steps such that each comes after the steps that signal what it waits for.

    Returns:
        the order as (stream, step) pairs, and the tokens that come from earlier blocks.

    Raises:
        Deadlock: steps wait for each other in a circle; each waiting unit and its tokens are named.
    """
    producers = Counter(token for stream in block.streams for step in stream for token in step.signals)
    signalled = set(producers)
    position = [0] * len(block.streams)
    order: list[tuple[int, int]] = []
    while True:
        before = len(order)
        for s, stream in enumerate(block.streams):
            order += _advance(s, stream, position, producers)
        if len(order) == before:
            break
    stuck = [s for s, stream in enumerate(block.streams) if position[s] < len(stream)]
    if stuck:
        raise Deadlock(
            f"block {block.name!r} must be free of circular waits: "
            + "; ".join(_waiting(block, s, position[s], producers) for s in stuck)
        )
    waits = dict.fromkeys(token for stream in block.streams for step in stream for token in step.waits)
    return tuple(order), tuple(token for token in waits if token not in signalled)


def same_dependencies(block: Block, like: Block) -> None:
    """Check that a block may take over the order of another one.

    Raises:
        ProgramError: operations, or what a step waits for, signals or belongs to, differ.
    """
    if block.ops != like.ops or list(map(len, block.streams)) != list(map(len, like.streams)):
        raise ProgramError(f"block {block.name!r} must have the operations and steps of the block that it is like")
    for own, other in zip(block.streams, like.streams, strict=True):
        for a, b in zip(own, other, strict=True):
            if a is not b and (a.op, a.waits, a.signals) != (b.op, b.waits, b.signals):
                raise ProgramError(f"block {block.name!r} must wait and signal as the block that it is like")


def _advance(s: int, stream: Stream, position: list[int], producers: Counter[str]) -> Iterator[tuple[int, int]]:
    """Steps of a stream that can go now; marks their signals."""
    while position[s] < len(stream):
        step = stream[position[s]]
        for token in step.waits:
            if producers.get(token, 0) > 0:
                return
        for token in step.signals:
            producers[token] -= 1
        yield s, position[s]
        position[s] += 1


def _waiting(block: Block, stream: int, position: int, producers: Counter[str]) -> str:
    unit = block.unit_name(stream)
    step = block.streams[stream][position]
    tokens = ", ".join(token for token in step.waits if producers.get(token, 0) > 0)
    return f"{unit} waits for {tokens} at step {position} ({block.ops[step.op].name})"
