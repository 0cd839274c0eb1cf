"""Where the attention products find and leave their data, for encoders and for attention alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pimsim.mapper.fpga.attention import PASSES, Pass
from pimsim.mapper.fpga.schedules import Schedule, Shape
from pimsim.program.dataflow import Call, Region, beats
from pimsim.program.works import (
    Checkpoint,
    Parameter,
    QueryKey,
    SideBySide,
    SoftmaxPass,
    StreamingProgram,
    WeightedValues,
    Work,
)


def product_beats(shape: Shape, scores: Region) -> dict[str, int]:
    """Beats of what the first product leaves for the second: scores of all steps and lanes, statistics of all rows."""
    places = next(write for write in scores.writes if write.name == "write_scores")
    return {"scores": beats(places.bursts), "statistics": shape.tokens * shape.sum_beats}


def rows_at_once(shape: Shape, schedule: Schedule) -> int:
    """Rows that meet a key in a step."""
    return shape.lanes if schedule == "reordered" else 1


def keys_side_by_side(shape: Shape, schedule: Schedule) -> SideBySide | None:
    """How keys and values lie that are read several at once; None where one row follows the other."""
    if schedule == "reordered" or shape.lanes == 1:
        return None
    return SideBySide(shape.tokens, shape.beats, shape.lanes)


def product_works(
    shape: Shape, schedule: Schedule, places: Mapping[str, int], head_beats: int
) -> tuple[QueryKey, WeightedValues]:
    """What both products work on; ``places``: beat addresses by stream."""
    rows = rows_at_once(shape, schedule)
    sizes = (shape.tokens, rows, shape.heads, head_beats * shape.words, shape.lanes // rows, shape.before, shape.shared)
    scores = QueryKey(
        {
            "read_query": places["query"],
            "read_key": places["key"],
            "write_scores": places["scores"],
            "write_statistics": places["statistics"],
        },
        *sizes,
    )
    values = WeightedValues(
        {
            "read_value": places["value"],
            "read_scores": places["scores"],
            "read_statistics": places["statistics"],
            "write_rows": places["output"],
        },
        *sizes,
    )
    return scores, values


def pass_work(shape: Shape, schedule: Schedule, places: Mapping[str, int], which: Pass) -> SoftmaxPass:
    """What a pass of the three-pass softmax works on."""
    at = {
        "read_scores": places["scores"],
        "read_statistics": places["statistics"],
        "write_scores": places["scores"],
        "write_statistics": places["statistics"],
    }
    return SoftmaxPass(at, which, shape.tokens, rows_at_once(shape, schedule), shape.heads, shape.before)


def product_checkpoints(
    shape: Shape, schedule: Schedule, places: Mapping[str, int], after: int, prefix: str, *, passes: bool = False
) -> list[Checkpoint]:
    """Scores, complete with call ``after``, and statistics with the same or, where ``passes`` follow, the second of them."""
    n, p = shape.tokens, rows_at_once(shape, schedule)
    return [
        Checkpoint(
            after, f"{prefix}scores", "scores", places["scores"], n, heads=shape.heads, lanes=p, before=shape.before
        ),
        Checkpoint(
            after + 2 if passes else after,
            f"{prefix}statistics",
            "sums" if passes else "statistics",
            places["statistics"],
            n,
            pitch=shape.sum_beats,
            heads=shape.heads,
        ),
    ]


def products_program(
    calls: Sequence[Call], shape: Shape, schedule: Schedule, d_head: int, word_bits: int
) -> StreamingProgram:
    """Attention alone: scores, passes of the softmax if there are, and weighted values."""
    width = shape.beats * shape.words
    sizes = {
        **dict.fromkeys(("query", "key", "value", "output"), shape.tokens * shape.beats),
        **product_beats(shape, calls[0].region),
    }
    program, places = StreamingProgram(), dict[str, int]()
    for name, size in sizes.items():
        places[name] = program.beats
        program.beats += size
    count = shape.tokens * width
    together = keys_side_by_side(shape, schedule)
    program.parameters = [
        Parameter(name, "features", places[name], 0, count, count, word_bits, rows=rows)
        for name, rows in (("query", None), ("key", together), ("value", together))
    ]
    scores, values = product_works(shape, schedule, places, d_head // shape.words)
    passes = [pass_work(shape, schedule, places, which) for which in PASSES[: len(calls) - 2]]
    works: list[Work] = [scores, *passes, values]
    program.calls = [replace(call, work=work) for call, work in zip(calls, works, strict=True)]
    program.checkpoints = [
        *product_checkpoints(shape, schedule, places, 0, "", passes=bool(passes)),
        Checkpoint(len(calls) - 1, "attention", "rows", places["output"], shape.tokens, width, shape.beats),
    ]
    return program


__all__ = [
    "keys_side_by_side", "pass_work", "product_beats", "product_checkpoints", "product_works", "products_program",
    "rows_at_once",
]  # fmt: skip
