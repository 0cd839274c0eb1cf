"""The command program: what each unit does, in which order, and what it waits for.

A *stream* is the ordered list of `Step`s of one unit. A step waits for tokens, then carries out its items without
waiting for anybody, then signals tokens when its last item is complete. Items of a channel are `Run`s of DRAM
commands and
`Repeat`s; items of the ASIC are `Compute`s, of a streaming unit `Kernel`s, of a link `Transfer`s. A `Block` holds
one stream per unit; a program is a sequence of
`Placed` blocks. Addresses are per channel: rows relative to the block's placement, SRAM addresses in elements.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pimsim.program.dataflow import Region

Where = tuple[int, ...]
"""One entry per address field of the DRAM (levels below the channel, then register files); -1 is "not addressed"."""


@dataclass(frozen=True, slots=True)
class Run:
    """``count`` DRAM commands of one kind on consecutive columns of a row (or, with ``sweep``, on consecutive banks)."""

    command: str
    where: Where
    row: int = -1
    column: int = -1
    count: int = 1
    sweep: bool = False
    """The k-th command addresses bank k of the channel, on the same row and column."""
    lane: int = -1
    """Element within the column that a masked write changes; -1 writes the whole column."""
    buffer: int = -1
    """Column of the global buffer that the first command writes (WR_GB) or multiplies with (MAC_AB); it advances with each."""
    sram: int = -1
    """ASIC SRAM element that the first command reads (writes to DRAM, buffer) or writes (reads); -1 moves no data."""
    sram_step: int = 0
    """SRAM elements from one command to the next."""
    sram_channel: int = 0
    """SRAM elements from one channel to the next, so that channels can share a stream."""
    elements: int = -1
    """Elements that all commands of the run carry together, where the last command is not full: a write fills the rest
    of its column with zeros, a read leaves the rest out. -1 fills every command. No command takes less time for it."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """``count`` passes over ``body``; each pass moves rows by ``row_step`` and SRAM addresses by ``sram_step``."""

    count: int
    body: tuple[Item, ...]
    row_step: int = 0
    sram_step: int = 0


@dataclass(frozen=True, slots=True)
class Compute:
    """One function of the ASIC over ``length`` elements (`pimsim.arch.functions` says what each function does)."""

    function: str
    length: int
    sources: tuple[int, ...] = ()
    """SRAM elements at which the operands start."""
    target: int = -1
    """SRAM element at which the result starts."""
    parameters: str = ""
    """Name of the constants that it reads (bias, scale), relative to the layer."""
    offset: int = 0
    """First element of the constants that meets the first element of the vector."""
    total: int = -1
    """SRAM element at which a second, scalar result goes (the sum of a softmax)."""
    group: int = 0
    """Elements that share a factor (scale); a softmax fills its last group up with zeros."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """Elements over a link, from the memory at its one end to that at its other."""

    elements: int
    source: int
    """First element, in the memory from which the link reads."""
    target: int
    """First element, in the memory into which the link writes."""
    back: bool = False
    """From the streaming unit into the SRAM of the ASIC; the other way round otherwise."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One call of a streaming unit: the region that it runs and what that computes on the memory of the unit."""

    function: str
    region: Region = field(repr=False)
    shape: tuple[int, ...]
    """Sizes that the function needs (`pimsim.functional.stream` says which)."""
    source: int
    """Element of the unit's buffer at which the operands start."""
    target: int
    """Element of the unit's buffer at which the result starts."""
    parameters: str = ""
    """Name of the matrix or of the cache that it reads, relative to the layer."""
    context: int = 0
    """Tokens that attention sees, the current one included."""


Item = Run | Repeat
Work = Compute | Transfer | Kernel
"""What units beside the channels do."""


@dataclass(frozen=True, slots=True)
class Step:
    """Items that a unit carries out without waiting, once all tokens in ``waits`` are there."""

    op: int
    """Index into `Block.ops`: which operation this step belongs to."""
    items: tuple[Item, ...] | tuple[Compute, ...] | tuple[Work, ...]
    waits: tuple[str, ...] = ()
    signals: tuple[str, ...] = ()


Stream = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Op:
    """An operation of the workload, for attribution: its kind and its name within the layer."""

    kind: str
    name: str


@dataclass(frozen=True, eq=False)
class Block:
    """One stream per unit; a token that nobody signals inside the block comes from an earlier block."""

    name: str
    ops: tuple[Op, ...]
    channels: tuple[Stream, ...]
    """One stream per channel; channels that do the same share one object."""
    asic: Stream
    like: Block | None = field(default=None, repr=False)
    """A block with the same operations, and steps that wait for and signal the same in the same places, if one is known."""
    further: tuple[tuple[str, Stream], ...] = ()
    """Name and stream of units beyond the channels and the ASIC; those of a machine that do nothing are left out."""
    carried: tuple[str, ...] = field(init=False)
    """Tokens that come from earlier blocks."""
    order: tuple[tuple[int, int], ...] = field(init=False)
    """A topological order of all steps as (stream, step); stream ``len(channels)`` is the ASIC's, `further` ones follow."""

    def __post_init__(self) -> None:
        from pimsim.program.order import same_dependencies, schedule

        if self.like is not None:
            same_dependencies(self, self.like)
        order, carried = (self.like.order, self.like.carried) if self.like is not None else schedule(self)
        object.__setattr__(self, "order", order)
        object.__setattr__(self, "carried", carried)

    @property
    def streams(self) -> tuple[Stream, ...]:
        """All streams: the channels', the ASIC's, those of further units."""
        return (*self.channels, self.asic, *(stream for _, stream in self.further))

    @property
    def units(self) -> tuple[tuple[str, Stream], ...]:
        """Name and stream of the units that are no channels, the ASIC first."""
        return (("asic", self.asic), *self.further)

    def unit_name(self, stream: int) -> str:
        """Name of the unit of a stream, as `order` counts them."""
        channels = len(self.channels)
        return f"channel{stream}" if stream < channels else self.units[stream - channels][0]


@dataclass(frozen=True, slots=True)
class Placed:
    """A block at its place in memory: rows of the block are relative to ``row_base``."""

    block: Block
    row_base: int
    layer: int
    """Decoder block that it belongs to, or -1."""


def expand(items: tuple[Item, ...], row_base: int = 0, sram_base: int = 0) -> Iterator[tuple[Run, int, int, int]]:
    """Every single command of ``items`` as (run, index within the run, row, SRAM base), in program order.

    ``row`` is absolute (-1 where the command has none); the command's own address is `command_address`.
    """
    for item in items:
        if isinstance(item, Repeat):
            for i in range(item.count):
                yield from expand(item.body, row_base + i * item.row_step, sram_base + i * item.sram_step)
        else:
            row = item.row + row_base if item.row >= 0 else -1
            for k in range(item.count):
                yield item, k, row, sram_base


def command_column(run: Run, k: int) -> int:
    """Column of the ``k``-th command of a run, or -1."""
    return -1 if run.column < 0 else run.column if run.sweep else run.column + k


def command_where(run: Run, k: int, counts: tuple[int, ...]) -> Where:
    """Address of the ``k``-th command of a run; ``counts`` are the sizes of the levels below the channel."""
    if not run.sweep:
        return run.where
    return bank_where(k, counts) + run.where[len(counts) :]


def bank_where(bank: int, counts: tuple[int, ...]) -> Where:
    """Address of the bank with a flat index within its channel; the innermost level is the fastest.

    >>> bank_where(6, (4, 4))
    (1, 2)
    """
    indices: list[int] = []
    for count in reversed(counts):
        bank, index = divmod(bank, count)
        indices.append(index)
    return tuple(reversed(indices))


def count_commands(items: tuple[Item, ...]) -> dict[str, int]:
    """How many commands of each kind the items hold."""
    totals: dict[str, int] = {}
    for item in items:
        inner = count_commands(item.body) if isinstance(item, Repeat) else {item.command: 1}
        for name, n in inner.items():
            totals[name] = totals.get(name, 0) + n * item.count
    return totals
