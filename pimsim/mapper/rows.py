"""Row passes: dot products over consecutive columns, row by row, as compact command runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pimsim.program.isa import Item, Repeat, Run, Where


class DotProduct(NamedTuple):
    """One result per bank: ``columns`` columns from ``start`` (row * columns per row + column) times the buffer."""

    start: int
    columns: int
    sram: int
    buffer: int = 0
    """Column of the global buffer that meets the first column."""
    results: int = -1
    """Results that are read, from bank 0 on, where it is not those of all banks."""
    further: tuple[tuple[int, int], ...] = ()
    """(SRAM, buffer) of further vectors that meet the same columns while their row is open, each in its accumulator."""


@dataclass(frozen=True)
class RowPass:
    """How a channel computes dot products.

    Results rest in an accumulator until ``delay`` further MACs have issued (the MAC pipeline is then empty), so that
    reading
    them costs one command slot and no wait; at the end of a row they are read while the next row opens.
    """

    columns: int
    accumulators: int
    delay: int
    none: Where
    """Address of a command that addresses the whole channel."""
    accumulator_field: int | None
    sram_channel: int
    """SRAM elements between the results of neighbouring channels."""

    def segments(
        self, products: Sequence[DotProduct], load: Sequence[Run] = (), splits: Iterable[int] = ()
    ) -> list[tuple[Item, ...]]:
        """The commands for all products; ``load`` goes after the first activate.

        ``splits`` are indices of products after whose result the list is cut, so that a step can end there. Rows that
        differ only by a constant distance become `Repeat`s.
        """
        runs = _Emitter(self, load, frozenset(splits)).emit(products)
        return [compress(part) for part in runs if part]

    def at(self, accumulator: int) -> Where:
        """Address of a command that uses an accumulator."""
        if self.accumulator_field is None:
            return self.none
        field = self.accumulator_field
        return (*self.none[:field], accumulator, *self.none[field + 1 :])


class _Pending(NamedTuple):
    product: int
    accumulator: int
    sram: int
    age: int
    results: int


class _Emitter:
    """Writes the flat command list of a row pass."""

    def __init__(self, plan: RowPass, load: Sequence[Run], splits: frozenset[int]) -> None:
        self.plan, self.load, self.splits = plan, list(load), splits
        self.parts: list[list[Run]] = [[]]
        self.row = -1
        self.pending: list[_Pending] = []

    def emit(self, products: Sequence[DotProduct]) -> list[list[Run]]:
        used = 0
        for index, product in enumerate(products):
            vectors = ((product.sram, product.buffer), *product.further)
            accumulators = [(used + v) % self.plan.accumulators for v in range(len(vectors))]
            used += len(vectors)
            self._free(accumulators[0])
            done = take = 0
            while done < product.columns:
                row, offset = divmod(product.start + done, self.plan.columns)
                take = min(product.columns - done, self.plan.columns - offset)
                self._open(row)
                for accumulator, (_, buffer) in zip(accumulators, vectors, strict=True):
                    self._free(accumulator)
                    self._mac(row, offset, take, accumulator, buffer + done)
                done += take
            self.pending += [  # those of the first vectors have rested while the others were multiplied
                _Pending(index, accumulator, sram, (len(vectors) - 1 - v) * take, product.results)
                for v, (accumulator, (sram, _)) in enumerate(zip(accumulators, vectors, strict=True))
            ]
        self._close()
        return self.parts

    def _free(self, accumulator: int) -> None:
        """Read results until an accumulator holds none."""
        while any(p.accumulator == accumulator for p in self.pending):
            self._read()

    def _put(self, run: Run) -> None:
        self.parts[-1].append(run)

    def _open(self, row: int) -> None:
        if row == self.row:
            return
        if self.row >= 0:
            self._close()
        self.row = row
        self._put(Run("ACT_AB", self.plan.none, row=row))
        for run in self.load:
            self._put(run)
        self.load = []

    def _close(self) -> None:
        self._put(Run("PREab", self.plan.none))
        while self.pending:
            self._read()

    def _mac(self, row: int, column: int, count: int, accumulator: int, buffer: int) -> None:
        while count:
            while self.pending and self.pending[0].age >= self.plan.delay:
                self._read()
            take = min(count, self.plan.delay - self.pending[0].age) if self.pending else count
            self._put(Run("MAC_AB", self.plan.at(accumulator), row=row, column=column, count=take, buffer=buffer))
            self.pending = [p._replace(age=p.age + take) for p in self.pending]
            column, count, buffer = column + take, count - take, buffer + take

    def _read(self) -> None:
        done = self.pending.pop(0)
        where, across = self.plan.at(done.accumulator), self.plan.sram_channel
        self._put(Run("RD_MAC", where, sram=done.sram, sram_channel=across, elements=done.results))
        if done.product in self.splits:
            self.parts.append([])


def compress(runs: Sequence[Run], longest: int = 48) -> tuple[Item, ...]:
    """Fold repeated groups of rows into `Repeat`s; expanding the result gives back exactly ``runs``."""
    chunks = [_Chunk(part) for part in _rows(runs)]
    items: list[Item] = []
    i = 0
    while i < len(chunks):
        period, count = _repetition(chunks, i, longest)
        body = tuple(run for chunk in chunks[i : i + period] for run in chunk.runs)
        if count > 1:
            row_step, sram_step = _distance(chunks[i], chunks[i + period]) or (0, 0)
            items.append(Repeat(count, body, row_step, sram_step))
        else:
            items += body
        i += period * count
    return tuple(items)


def _rows(runs: Sequence[Run]) -> list[list[Run]]:
    parts: list[list[Run]] = []
    for run in runs:
        if run.command == "ACT_AB" or not parts:
            parts.append([])
        parts[-1].append(run)
    return parts


class _Chunk:
    """The commands of one row, with a signature that leaves out where the row and its results lie."""

    def __init__(self, runs: list[Run]) -> None:
        self.runs = runs
        self.row = next((run.row for run in runs if run.row >= 0), -1)
        self.sram = next((run.sram for run in runs if run.sram >= 0), -1)
        self.signature = [self._relative(run) for run in runs]

    def _relative(self, run: Run) -> tuple[object, ...]:
        row = run.row - self.row if run.row >= 0 else None
        sram = run.sram - self.sram if run.sram >= 0 else None
        return (
            run.command, run.where, row, run.column, run.count, run.sweep, run.lane, run.buffer, sram, run.sram_step,
            run.sram_channel, run.elements,
        )  # fmt: skip


def _distance(a: _Chunk, b: _Chunk) -> tuple[int, int] | None:
    if a.signature != b.signature:
        return None
    return b.row - a.row, b.sram - a.sram


def _repetition(chunks: Sequence[_Chunk], start: int, longest: int) -> tuple[int, int]:
    """(rows in the shortest group that repeats from ``start`` on, how often it stands there)."""
    for period in range(1, min(longest, (len(chunks) - start) // 2) + 1):
        step = _common_step(chunks, start, start + period, period)
        if step is None:
            continue
        count = 2
        while (
            start + (count + 1) * period <= len(chunks)
            and _common_step(chunks, start + (count - 1) * period, start + count * period, period) == step
        ):
            count += 1
        return period, count
    return 1, 1


def _common_step(chunks: Sequence[_Chunk], a: int, b: int, period: int) -> tuple[int, int] | None:
    """The distance between two groups of rows, if it is the same for each row of the group (rows without results fit any)."""
    steps = [_distance(chunks[a + k], chunks[b + k]) for k in range(period)]
    if any(step is None for step in steps):
        return None
    rows = {step[0] for step in steps if step}
    srams = {step[1] for k, step in enumerate(steps) if step and chunks[a + k].sram >= 0}
    if len(rows) != 1 or len(srams) > 1:
        return None
    if chunks[a].sram < 0 and srams:  # the step is read off the first row; it must show the SRAM distance
        return None
    return rows.pop(), srams.pop() if srams else 0
