"""How long the rows of masked scores are: of what a band excludes nothing is computed, and rows take as long as they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from pimsim.workload.attention import primitives as p
from pimsim.workload.attention.primitives import Primitive

Lengths = tuple[tuple[int, int], ...]
"""(rows, entries of each) of rows that follow each other."""

CARRIED = (p.Exponentiate, p.Softmax, p.Elementwise, p.Load, p.Store)
"""Kinds whose results have the rows of their first operand, if they have its shape and as many entries that count."""


@dataclass(frozen=True)
class Masked:
    """Entries that count in every row of all heads, and of every column of all heads of keys, in order."""

    rows: Lengths
    columns: Lengths
    total: int


def masked_lengths(ops: Iterable[Primitive]) -> dict[str, Masked]:
    """Operation -> lengths, for scores under a band and what is computed on them; other operations are not there.

    Products of weights and values have those of their weights: a column is the entries that meet a row of values.
    """
    found: dict[str, Masked] = {}
    for op in ops:
        if isinstance(op, p.Scores) and op.band is not None and len(op.sources[1]) == 3:
            found[op.name] = _of_band(op, op.band)
            continue
        known = found.get(op.inputs[0]) if op.inputs else None
        if known is None:
            continue
        entries = isinstance(op, p.Product | p.WeightedSum) and op.pairs == known.total
        same = isinstance(op, CARRIED) and op.shape == op.sources[0] and op.live in {known.total, op.size}
        if entries or same:
            found[op.name] = known
    return found


def _of_band(op: p.Scores, band: p.Band) -> Masked:
    heads, rows, columns = op.shape
    of_keys = heads // op.sources[1][0]
    per_row, per_column = band.lengths(rows, columns)
    met = [of_keys * entries for entries in per_column]
    return Masked(_runs(per_row * heads), _runs(met * (heads // of_keys)), heads * sum(per_row))


def _runs(entries: Sequence[int]) -> Lengths:
    return tuple((len(list(rows)), length) for length, rows in groupby(entries))


__all__ = ["Lengths", "Masked", "masked_lengths"]
