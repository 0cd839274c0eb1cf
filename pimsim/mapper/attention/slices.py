"""Cutting attention into heads and rows where its scores would not fit the SRAM.

A chain from `Scores` to the product with the values works on each row of each head by itself. Where its scores take more than
``limit`` elements, every operation of the chain is replaced by one for each head, and for parts of the rows if one head is
still too large; operands are parts, the results are joined. Nothing is computed twice, so counts stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pimsim.workload.attention import primitives as prim
from pimsim.workload.attention.primitives import Primitive

ROW_WISE = (prim.Softmax, prim.Exponentiate, prim.Elementwise, prim.Store, prim.Load)
"""Kinds that may stand between scores and their product with the values."""

ENDS = (prim.Product, prim.WeightedSum)


def sliced(ops: Sequence[Primitive], limit: int) -> list[Primitive]:
    """The same operations, chains of too large scores cut into heads and rows."""
    readers: dict[str, list[tuple[Primitive, int]]] = {op.name: [] for op in ops}
    for op in ops:
        for position, name in enumerate(op.inputs):
            readers[name].append((op, position))
    found: list[Primitive] = []
    done: set[str] = set()
    for op in ops:
        if op.name in done:
            continue
        chain = _chain(op, readers) if isinstance(op, prim.Scores) and op.size > limit else None
        if chain is None:
            found.append(op)
            continue
        done |= {each.name for each in chain}
        others = {name for each in chain for name in each.inputs} - {each.name for each in chain}
        later = [each for each in ops[ops.index(op) :] if each.name in others and each.name not in done]
        for each in later:  # values that are loaded between scores and product
            found += [needed for needed in _with_sources(each, ops) if needed.name not in {x.name for x in found}]
            done |= {x.name for x in found}
        found += _cut(chain, limit)
    return found


def _with_sources(op: Primitive, ops: Sequence[Primitive]) -> list[Primitive]:
    """An operation and everything that it needs, in order."""
    by_name = {each.name: each for each in ops}
    needed: dict[str, None] = {}

    def walk(each: Primitive) -> None:
        for name in each.inputs:
            walk(by_name[name])
        needed[each.name] = None

    walk(op)
    return [by_name[name] for name in needed]


def _chain(scores: Primitive, readers: dict[str, list[tuple[Primitive, int]]]) -> list[Primitive] | None:
    if len(scores.sources[1]) != 3:
        return None
    chain = [scores]
    while not isinstance(chain[-1], ENDS):
        after = readers[chain[-1].name]
        if len(after) != 1 or after[0][1] != 0:
            return None
        op = after[0][0]
        whole = not isinstance(op, prim.Load) or op.shape == op.sources[0]
        alone = not isinstance(op, prim.Elementwise) or len(op.inputs) == 1
        if not (isinstance(op, (*ROW_WISE, *ENDS)) and whole and alone) or len(op.sources[0]) != 3:
            return None
        if isinstance(op, prim.Product) and (op.transpose or len(op.sources[1]) != 3 or len(op.inputs) > 2):
            return None
        chain.append(op)
    return chain


def _cut(chain: Sequence[Primitive], limit: int) -> Iterator[Primitive]:
    """The operations of all slices, and the joins."""
    heads, rows, columns = chain[0].shape
    step = max(1, min(rows, limit // columns))
    of_heads: list[Primitive] = []
    for h in range(heads):
        of_rows: list[Primitive] = []
        for start in range(0, rows, step):
            stop = min(rows, start + step)
            for op in _slice(chain, h, start, stop):
                yield op
            of_rows.append(op)
        if len(of_rows) > 1:
            joined = _join(f"{chain[-1].name}/h{h}", of_rows, -2)
            yield joined
            of_rows = [joined]
        of_heads += of_rows
    yield _join(chain[-1].name, of_heads, 0)


def _join(name: str, parts: Sequence[Primitive], axis: int) -> Primitive:
    return prim.Join(
        name, prim.Join.KIND, tuple(p.name for p in parts), sources=tuple(p.shape for p in parts), axis=axis
    )


def _slice(chain: Sequence[Primitive], h: int, start: int, stop: int) -> Iterator[Primitive]:
    heads, rows, _ = chain[0].shape
    mark = f"/h{h}" if (start, stop) == (0, rows) else f"/h{h}r{start}"
    before: Primitive | None = None
    live = -1
    for op in chain:
        parts: list[Primitive] = []
        for position, name in enumerate(op.inputs):
            if before is not None and position == 0:
                parts.append(before)
                continue
            shape = op.sources[position]
            of_rows = position != 1 or not isinstance(op, (prim.Scores, *ENDS))
            head = h * shape[0] // heads
            for part in _parts(
                name, shape, head, (start, stop) if of_rows else (0, shape[1]), f"{op.name}.{position}{mark}"
            ):
                yield part
            parts.append(part)
        cut = replace(
            op,
            name=op.name + mark,
            inputs=tuple(part.name for part in parts),
            sources=tuple(part.shape for part in parts),
            shape=(),
            pairs=live if op.pairs >= 0 and not isinstance(op, prim.Scores) else -1,
            **_moved_band(op, start),  # type: ignore[arg-type]
        )
        if isinstance(cut, prim.Scores):
            live = cut.live
        yield cut
        before = cut


def _moved_band(op: Primitive, start: int) -> dict[str, prim.Band | None]:
    if not isinstance(op, prim.Scores) or op.band is None:
        return {}
    return {"band": replace(op.band, row0=op.band.row0 + start)}


def _parts(name: str, shape: tuple[int, ...], head: int, rows: tuple[int, int], mark: str) -> Iterator[Primitive]:
    """One head of a tensor, then some of its rows."""
    one = prim.Part(f"{name}/{mark}", "part", (name,), sources=(shape,), axis=0, start=head, stop=head + 1)
    yield one
    if rows != (0, shape[1]):
        yield prim.Part(
            f"{one.name}.rows", "part", (one.name,), sources=(one.shape,), axis=-2, start=rows[0], stop=rows[1]
        )


def in_turn(ops: Sequence[Primitive]) -> list[Primitive]:
    """The same operations, each as late as the longest chain behind it allows: independent chains take turns."""
    behind = dict.fromkeys((op.name for op in ops), 0)
    for op in reversed(ops):
        for name in op.inputs:
            behind[name] = max(behind[name], behind[op.name] + 1)
    return sorted(ops, key=lambda op: -behind[op.name])


__all__ = ["in_turn", "sliced"]
