"""Products in the banks: vectors in the global buffer meet the rows or the columns of a tensor that lies there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from pimsim.errors import UnsupportedOp
from pimsim.mapper.attention.banks import Orientation, Piece, View
from pimsim.mapper.attention.values import Value, three
from pimsim.mapper.lower.pim import ragged
from pimsim.mapper.rows import DotProduct
from pimsim.program.isa import Item

if TYPE_CHECKING:
    from pimsim.mapper.attention.lowering import AttentionLowering


def multiply(
    b: AttentionLowering,
    vectors: Value,
    view: View,
    out: Value,
    orientation: Orientation,
    load: str = "",
    tokens: Mapping[str, None] | None = None,
    used: Callable[[int], range] | None = None,
    limited: bool = False,
) -> None:
    """Products in the banks of rows ``[heads, rows, inner]`` with a view: ``[heads, rows, dots]``.

    Args:
        vectors: on chip.
        view: rows as keys (scores), or columns as values (weighted sums).
        out: on chip.
        orientation: which of both.
        load: the load that these words count for.
        tokens: of what wrote the banks.
        used: row -> entries of the result (keys) or of the vector (weights) that matter; None: all.
        limited: for weights, ``used`` names entries of the vector.
    """
    lead = view.tensor.lead(orientation, view.rows)
    if lead:
        _multiply_behind(b, vectors, view, out, orientation, load, tokens, lead)
        return
    heads, rows, inner = three(vectors.shape)
    results = out.shape[-1]
    shared = heads // len(view.heads)
    last: dict[int, list[_Job]] = {}
    partial: list[Value] = []
    missing = False
    for h in range(heads):
        pieces = view.tensor.pieces(orientation, view.heads[h // shared], view.rows)
        for number, (piece, chunk) in enumerate((p, c) for p in pieces for c in range(len(p.chunks))):
            add_up = orientation == "columns" or len(piece.chunks) > 1
            turn = number if orientation == "columns" else chunk
            if add_up and turn and len(partial) < turn:
                partial.append(b.scratch(f"partial{turn}", out.shape))
            target = partial[turn - 1] if add_up and turn else out
            first = vectors.at + h * rows * inner
            into = target.at + h * rows * results
            for row in range(rows):
                job = _job(b, piece, chunk, view, orientation, used(row) if used else None, limited=limited)
                if job is None:
                    missing = missing or limited
                    continue
                job.vector = first + row * inner + job.vector
                job.target = into + row * results + job.target
                last.setdefault(turn if add_up else 0, []).append(job)
    jobs = [(last[turn], partial[turn - 1] if turn else None) for turn in sorted(last)]
    if load:
        b.served[b.index] = load
    if missing:  # what a row does not reach must be zero
        for each in (out, *partial):
            b.call("move", each.size, (), each, fill=0.0)
    _emit(b, jobs, vectors, out, tokens or {})
    for each in partial:
        b.call("elementwise.add", out.size, (out, each), out, function="add")
    b.done_with(*partial)


def _multiply_behind(
    b: AttentionLowering,
    vectors: Value,
    view: View,
    out: Value,
    orientation: Orientation,
    load: str,
    tokens: Mapping[str, None] | None,
    lead: int,
) -> None:
    """The same where a view begins ``lead`` rows inside a group of banks (keys) or a column (values).

    The banks compute the whole group, of which the ASIC takes what is asked for; weights get as many zeros in front.
    """
    whole = View(view.tensor, view.heads, range(view.rows.start - lead, view.rows.stop), view.flat)
    used = range(lead, lead + len(view.rows))
    b.skipped["words"] += lead * len(view.heads) * view.tensor.shape[2]
    if orientation == "rows":
        found = b.scratch("group", (*out.shape[:-1], lead + len(view.rows)))
        multiply(b, vectors, whole, found, orientation, load, tokens, lambda _row: used)
        b.call("move", out.size, (found,), out, drop=lead)
        b.done_with(found)
        return
    padded = b.scratch("padded", (*vectors.shape[:-1], lead + len(view.rows)))
    b.call("move", padded.size, (vectors,), padded, lead=lead)
    multiply(b, padded, whole, out, orientation, load, tokens, lambda _row: used, limited=True)
    b.done_with(padded)


def _job(
    b: AttentionLowering,
    piece: Piece,
    chunk: int,
    view: View,
    orientation: Orientation,
    used: range | None,
    *,
    limited: bool,
) -> _Job | None:
    """A vector that meets a chunk of a piece; what ``used`` leaves out at the end is not computed at all."""
    inner = piece.chunks[chunk]
    begin = view.place_of(piece.rows[0])
    if view.place_of(piece.rows[-1]) - begin != len(piece.rows) - 1:
        raise UnsupportedOp(
            f"a product must meet rows of {view.tensor.name} that lie behind each other, which rows {view.rows.start} to "
            f"{view.rows.stop} do not, as some of them are used together"
        )
    if orientation == "rows":
        stop = min(piece.dots, used.stop - begin) if used is not None else piece.dots
        first = max(0, used.start - begin) if used is not None else 0
        if stop <= first:
            return None
        group = first // b.shape.banks
        skipped = first - group * b.shape.banks
        b.skipped["macs"] += skipped * len(inner)
        b.skipped["scores"] += skipped if chunk == 0 else 0
        return _Job(piece, chunk, inner.start, begin, 0, len(inner), group, stop)
    start = begin + inner.start
    low, high = (
        (max(used.start, start), min(used.stop, start + len(inner)))
        if used is not None and limited
        else (start, start + len(inner))
    )
    if used is not None and limited and high <= low:
        return None
    skip = (low - start) // b.shape.lanes  # whole columns of zeros are left out
    b.skipped["macs"] += (low - start - skip * b.shape.lanes) * piece.dots
    offset = skip * b.shape.lanes
    return _Job(piece, chunk, start + offset, 0, skip, high - start - offset, 0, piece.dots)


def _emit(
    b: AttentionLowering,
    jobs: list[tuple[list[_Job], Value | None]],
    vectors: Value,
    out: Value,
    tokens: Mapping[str, None],
) -> None:
    for group, target in jobs:
        into = target if target is not None else out
        items: dict[int, list[Item]] = {}
        for batch in _batches(group, b.shape.buffer // b.shape.lanes, b.shape.lanes):
            for channel, runs in _batch(b, batch).items():
                items.setdefault(channel, []).extend(runs)
        token = b.on_channels(items, (*tokens, *b.waits([vectors], [into])))
        b.mark(token, [vectors], [into])


def _batch(b: AttentionLowering, batch: list[_Job]) -> dict[int, list[Item]]:
    """Vectors that are in the global buffer together and meet the same chunk."""
    piece, chunk = batch[0].piece, batch[0].chunk
    lanes, banks = b.shape.lanes, b.shape.banks
    buffers, place = [], 0
    for job in batch:
        buffers.append(place)
        place += ceil(job.length / lanes)
    loads = tuple(b.pim.load(job.vector, job.length, buffer=at)[0] for job, at in zip(batch, buffers, strict=True))
    products: dict[int, list[DotProduct]] = {}
    for group in range(piece.groups):
        for job, at in zip(batch, buffers, strict=True):
            dots = min(banks, job.stop - group * banks)
            if group < job.group or dots < 1:
                continue
            products.setdefault(piece.owner(group), []).append(
                DotProduct(
                    job.piece.column(group, chunk) + job.skip,
                    ceil(job.length / lanes),
                    job.target + group * banks,
                    at,
                    ragged(dots, banks),
                )
            )
    rows = b.pim.rows(0)
    return {channel: list(rows.segments(mine, loads)[0]) for channel, mine in products.items()}


@dataclass
class _Job:
    """One vector and one chunk of a piece."""

    piece: Piece
    chunk: int
    vector: int
    """SRAM element of the vector's first used element; first relative to the vector, then absolute."""
    target: int
    """Likewise of the result of dot 0."""
    skip: int
    """Columns of each dot that are left out at its beginning."""
    length: int
    """Elements of the vector that are used."""
    group: int
    """First group of dots that is computed."""
    stop: int
    """Dot before which it ends."""


def _batches(jobs: list[_Job], columns: int, lanes: int) -> Iterator[list[_Job]]:
    """Neighbours that meet the same columns, as many as the global buffer holds."""
    batch: list[_Job] = []
    taken = 0
    for job in jobs:
        needs = ceil(job.length / lanes)
        same = batch and job.chunk == batch[0].chunk and job.piece.meets_with(batch[0].piece)
        if batch and (not same or taken + needs > columns):
            yield batch
            batch, taken = [], 0
        batch.append(job)
        taken += needs
    if batch:
        yield batch


__all__ = ["multiply"]
