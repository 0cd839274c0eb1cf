"""Expansions rewritten so that less is on chip at once: results that are stored in parts, and heads one after another.

Both leave every count as it is. `stored_in_parts` writes what is only put side by side and stored as soon as a part of it is
there. `by_heads` carries an algorithm out for some of its heads after the others, where it treats them alike and apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pimsim.errors import WorkloadError
from pimsim.workload.attention import primitives as prim
from pimsim.workload.attention.primitives import Primitive, Shape


@dataclass(frozen=True)
class Window:
    """Where in a stored tensor ``[heads, rows, width]`` a part of it lies."""

    whole: str
    shape: Shape
    """Of the whole."""
    heads: range
    rows: range


@dataclass(frozen=True)
class Rewritten:
    """The operations, and what became of those that there were."""

    ops: Sequence[Primitive]
    windows: Mapping[str, Window] = field(default_factory=dict)
    """Store of a part -> its place in the whole, which a `Join` of the parts stands for."""
    shares: Mapping[str, tuple[str, range]] = field(default_factory=dict)
    """Operation for some heads -> the operation for all of them, and which entries of its first axis it has."""

    def shared(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """Results of operations for all heads, and of those for some of them."""
        some = {
            name: results[whole][entries.start : entries.stop]
            for name, (whole, entries) in self.shares.items()
            if whole in results
        }
        return {**results, **some}


# ------------------------------------------------------------------------------------------------------ stored in parts


def stored_in_parts(before: Rewritten) -> Rewritten:
    """Store the parts of joins one by one, where nobody else reads these and what is stored is only kept."""
    by_name = {op.name: op for op in before.ops}
    readers = _readers(before.ops)
    windows: dict[str, Window] = {}
    stores: dict[str, list[Primitive]] = {}
    """Part -> its stores, which follow it."""
    instead: dict[str, list[Primitive]] = {}
    """Operation -> what stands in its place."""

    def cut(join: Primitive, store: Primitive, head: int, row: int) -> list[Primitive]:
        """Stores of the parts, where a part that is a join is cut itself."""
        found: list[Primitive] = []
        for name in join.inputs:
            part = by_name[name]
            if _is_cut(part, readers):
                inner = cut(part, store, head, row)
                instead[name] = [_joined(name, inner, part)]
                found += instead[name]
            else:
                number = sum(window.whole == store.name for window in windows.values())
                one = prim.Store(
                    f"{store.name}/{number}", prim.Store.KIND, (name,), sources=(part.shape,), pairs=part.pairs
                )
                heads, rows = range(head, head + part.shape[0]), range(row, row + part.shape[1])
                windows[one.name] = Window(store.name, store.shape, heads, rows)
                stores.setdefault(name, []).append(one)
                found.append(one)
            head, row = (head + part.shape[0], row) if _axis(join) == 0 else (head, row + part.shape[1])
        return found

    for op in before.ops:
        if isinstance(op, prim.Store) and all(isinstance(reader, prim.Keep) for reader in readers[op.name]):
            join = by_name[op.inputs[0]]
            if _is_cut(join, readers):
                instead[op.name] = [_joined(op.name, cut(join, op, 0, 0), join)]
                instead[join.name] = []
    ops = [after for op in before.ops for after in (*instead.get(op.name, [op]), *stores.get(op.name, ()))]
    return Rewritten(ops, {**before.windows, **windows}, before.shares)


def _readers(ops: Sequence[Primitive]) -> dict[str, list[Primitive]]:
    found: dict[str, list[Primitive]] = {op.name: [] for op in ops}
    for op in ops:
        for name in op.inputs:
            found[name].append(op)
    return found


def _is_cut(op: Primitive, readers: Mapping[str, Sequence[Primitive]]) -> bool:
    """Whether an operation puts heads or rows behind each other, for one reader."""
    return isinstance(op, prim.Join) and len(op.shape) == 3 and _axis(op) < 2 and len(readers[op.name]) == 1


def _axis(op: Primitive) -> int:
    assert isinstance(op, prim.Join)
    return op.axis % len(op.shape)


def _joined(name: str, parts: Sequence[Primitive], like: Primitive) -> Primitive:
    return replace(
        like, name=name, inputs=tuple(part.name for part in parts), sources=tuple(part.shape for part in parts)
    )


# ------------------------------------------------------------------------------------------------------------ by heads

HEAD_WISE = (
    prim.Keep, prim.Load, prim.Gather, prim.Pick, prim.Part, prim.Join, prim.Arrange, prim.Scores, prim.Product,
    prim.Exponentiate, prim.WeightedSum, prim.Merge, prim.Normalise, prim.Softmax, prim.TopK, prim.Elementwise, prim.Reduce,
    prim.Constant,
)  # fmt: skip
"""Kinds that do the same for every entry of the first axis, if they do not work along it."""

WHOLE = (prim.Source, prim.Append, prim.Store)
"""Kinds that stay as they are."""


def by_heads(ops: Sequence[Primitive], parts: int) -> Rewritten | None:
    """One share of the heads after the other, of so many equal ones; None where heads do not go apart so."""
    if parts == 1:
        return Rewritten(ops)
    by_name = {op.name: op for op in ops}
    cut = [op for op in ops if not _stays_whole(op, by_name)]
    names = {op.name for op in cut}
    after = _after(ops, names)
    if any(name in after for op in cut for name in op.inputs):
        return None  # something is put together and then used again
    shares: dict[str, tuple[str, range]] = {}
    found: list[Primitive] = []
    of_all: dict[str, list[Primitive]] = {}
    for number in range(parts):
        mine: dict[str, Primitive] = {}
        for op in cut:
            sources: list[Primitive] = []
            for name in op.inputs:
                if name not in mine:
                    mine[name] = _of_whole(by_name[name], number, parts)
                    if mine[name] is not by_name[name]:
                        found.append(mine[name])
                sources.append(mine[name])
            one = _for_some(op, sources, number, parts)
            if one is None:
                return None
            first = op.shape[0] // parts
            shares[one.name] = (op.name, range(number * first, (number + 1) * first))
            mine[op.name] = one
            of_all.setdefault(op.name, []).append(one)
            found.append(one)
    prefix = [op for op in ops if op.name not in names | after]
    suffix = [op for op in ops if op.name in after]
    read_here = {name for op in cut for name in op.inputs}
    read_later = {name for op in suffix for name in op.inputs}
    joins = [_whole_again(op, of_all[op.name]) for op in cut if op.name in read_later or op.name not in read_here]
    return Rewritten([*prefix, *found, *joins, *suffix], {}, shares)


def _stays_whole(op: Primitive, by_name: Mapping[str, Primitive]) -> bool:
    """Whether an operation is carried out for all heads at once: of what is kept, what lies in memory."""
    if isinstance(op, prim.Keep):
        return _stays_whole(by_name[op.inputs[0]], by_name)
    return isinstance(op, WHOLE)


def _after(ops: Sequence[Primitive], first: set[str]) -> set[str]:
    """Whole operations that depend on some of the others."""
    found: set[str] = set()
    for op in ops:
        if op.name not in first and any(name in first or name in found for name in op.inputs):
            found.add(op.name)
    return found


def _of_whole(op: Primitive, number: int, parts: int) -> Primitive:
    """What a share of the heads has of an operand: its own heads, one that several share, or all of what has no heads."""
    heads = op.shape[0]
    if len(op.shape) < 3 or heads == 1:
        return op
    if heads % parts == 0:
        start, stop = number * heads // parts, (number + 1) * heads // parts
    elif parts % heads == 0:
        start = number * heads // parts
        stop = start + 1
    else:
        return op
    return prim.Part(
        f"{op.name}/share{number}", prim.Part.KIND, (op.name,), sources=(op.shape,), axis=0, start=start, stop=stop
    )


def _for_some(op: Primitive, sources: Sequence[Primitive], number: int, parts: int) -> Primitive | None:
    """An operation for a share of the heads; None where it does not treat heads apart."""
    if not isinstance(op, HEAD_WISE) or op.shape[0] % parts or (op.pairs >= 0 and op.pairs % parts):
        return None
    changes: dict[str, Any] = {}
    axis = getattr(op, "axis", -1)
    if axis in (0, -len(op.shape)):
        return None
    if isinstance(op, prim.Arrange):
        if (op.order and op.order[0] != 0) or (op.split and op.split[0] % parts):
            return None
        changes["to"] = (op.to[0] // parts, *op.to[1:])
        changes["split"] = (op.split[0] // parts, *op.split[1:]) if op.split else ()
    if isinstance(op, prim.Constant):
        changes["to"] = (op.to[0] // parts, *op.to[1:])
    try:
        one = replace(
            op,
            name=f"{op.name}/share{number}",
            inputs=tuple(each.name for each in sources),
            sources=tuple(each.shape for each in sources),
            shape=(),
            pairs=op.pairs // parts if op.pairs >= 0 and not isinstance(op, prim.Scores) else -1,
            **changes,
        )
    except WorkloadError:
        return None
    expected = (op.shape[0] // parts, *op.shape[1:])
    return one if one.shape == expected and one.live * parts == op.live else None


def _whole_again(op: Primitive, shares: Sequence[Primitive]) -> Primitive:
    return prim.Join(
        op.name,
        prim.Join.KIND,
        tuple(each.name for each in shares),
        sources=tuple(each.shape for each in shares),
        pairs=op.pairs,
        axis=0,
    )


__all__ = ["Rewritten", "Window", "by_heads", "stored_in_parts"]
