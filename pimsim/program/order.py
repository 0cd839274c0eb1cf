"""Topological order of a block's steps: who can go before whom, and a clear error when nobody can."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pimsim.errors import Deadlock, ProgramError

if TYPE_CHECKING:
    from pimsim.program.isa import Block


def schedule(block: Block) -> tuple[tuple[tuple[int, int], ...], tuple[str, ...]]:
    """Order all steps such that each comes after the steps that signal what it waits for.

    Returns:
        the order as (stream, step) pairs, and the tokens that come from earlier blocks.

    Raises:
        Deadlock: steps wait for each other in a circle; each waiting unit and its tokens are named.
    """
    streams = block.streams
    producers: dict[str, int] = {}
    for stream in streams:
        for step in stream:
            for token in step.signals:
                producers[token] = producers.get(token, 0) + 1
    carried: dict[str, None] = {}
    order: list[tuple[int, int]] = []
    position = [0] * len(streams)
    progress = True
    while progress:
        progress = False
        for s, stream in enumerate(streams):
            while position[s] < len(stream):
                step = stream[position[s]]
                if any(producers.get(token, 0) > 0 for token in step.waits):
                    break
                for token in step.waits:
                    if token not in producers:
                        carried[token] = None
                for token in step.signals:
                    producers[token] -= 1
                order.append((s, position[s]))
                position[s] += 1
                progress = True
    stuck = [s for s, stream in enumerate(streams) if position[s] < len(stream)]
    if stuck:
        raise Deadlock(
            f"block {block.name!r} must be free of circular waits: "
            + "; ".join(_waiting(block, s, position[s], producers) for s in stuck)
        )
    for stream in streams:
        for step in stream:
            for token in step.signals:
                if token in carried:
                    raise ProgramError(f"block {block.name!r}: token {token!r} must not be both carried in and signalled")
    return tuple(order), tuple(carried)


def _waiting(block: Block, stream: int, position: int, producers: dict[str, int]) -> str:
    unit = "asic" if stream == len(block.channels) else f"channel{stream}"
    step = block.streams[stream][position]
    tokens = ", ".join(token for token in step.waits if producers.get(token, 0) > 0)
    return f"{unit} waits for {tokens} at step {position} ({block.ops[step.op].name})"
