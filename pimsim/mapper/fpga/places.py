"""Where the attention products find and leave their data, for encoders and for attention alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pimsim.mapper.fpga.schedules import Shape
from pimsim.program.dataflow import Call, Region, beats
from pimsim.program.works import Checkpoint, Parameter, QueryKey, StreamingProgram, WeightedValues


def product_beats(shape: Shape, scores: Region) -> dict[str, int]:
    """Beats of what the first product leaves for the second: scores of all steps and lanes, statistics of all rows."""
    places = next(write for write in scores.writes if write.name == "write_scores")
    return {"scores": beats(places.bursts), "statistics": shape.tokens * shape.sum_beats}


def product_works(shape: Shape, places: Mapping[str, int], head_beats: int) -> tuple[QueryKey, WeightedValues]:
    """What both products work on; ``places``: beat addresses by stream."""
    sizes = (shape.tokens, shape.lanes, shape.heads, head_beats * shape.words)
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


def product_checkpoints(shape: Shape, places: Mapping[str, int], after: int, prefix: str) -> list[Checkpoint]:
    """Scores and statistics, complete with call ``after``."""
    n, p = shape.tokens, shape.lanes
    return [
        Checkpoint(after, f"{prefix}scores", "scores", places["scores"], n, heads=shape.heads, lanes=p),
        Checkpoint(
            after,
            f"{prefix}statistics",
            "statistics",
            places["statistics"],
            n,
            pitch=shape.sum_beats,
            heads=shape.heads,
        ),
    ]


def products_program(calls: Sequence[Call], shape: Shape, d_head: int, word_bits: int) -> StreamingProgram:
    """Attention alone, scores and weighted values in the reordered schedule: queries, keys and values in memory."""
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
    program.parameters = [
        Parameter(name, "features", places[name], 0, count, count, word_bits) for name in ("query", "key", "value")
    ]
    works = product_works(shape, places, d_head // shape.words)
    program.calls = [replace(call, work=work) for call, work in zip(calls, works, strict=True)]
    program.checkpoints = [
        *product_checkpoints(shape, places, 0, ""),
        Checkpoint(1, "attention", "rows", places["output"], shape.tokens, width, shape.beats),
    ]
    return program


__all__ = ["product_beats", "product_checkpoints", "product_works", "products_program"]
