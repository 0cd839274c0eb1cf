"""What value: a command program carried out on numbers, one handler for each command and each function of the ASIC.

Bank rows, global buffers, accumulators and the ASIC's SRAM are arrays that are addressed as the commands address them;
a handler knows no tensor. Runs are carried out whole, on all banks and on all channels that share a stream at once, and dot
products are put off to the end of their step, where those that lie side by side are worked out together.
``RD_MAC`` moves the accumulators out and clears them.

In formats of integers (int8, fixed point) memory and global buffers hold integers, and the ASIC computes in float32, which is
then the format of the SRAM. In int8 every column of a bank has a scale, which the controller keeps: weights have one per
output and table entries one each, set where they are placed; keys and values have one per layer, calibrated beforehand,
and saturate beyond it. A vector gets its scale (largest magnitude / 127) with each load of a global buffer. Products add up
exactly in 32 bits; ``RD_MAC`` hands out the sum times both scales. Neither scales nor float32 results cost the machine
anything: it counts an element as long as the format is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pimsim.arch.dram import DramSpec
from pimsim.arch.system import AsicConfig, PimConfig
from pimsim.errors import ProgramError
from pimsim.functional.functions import Arithmetic, AsicMath
from pimsim.functional.numerics import FLOAT32, INT8, FloatSpec, mac_arithmetic
from pimsim.program.isa import Block, Compute, Op, Placed, Repeat, Run, Step

Array = npt.NDArray[Any]
Constants = Mapping[tuple[int, str], Mapping[str, Any]]
"""(layer, name within the layer) -> the constants of the ASIC: arrays, and numbers such as ``eps``."""


BATCH = 1 << 16
"""Weights that are multiplied at once: their products stay in the cache of a processor core."""


class _Part(NamedTuple):
    """Columns of a dot product that lie side by side, in the rows and in the buffer."""

    first: int
    """Column of the first one, counted from the first row."""
    columns: int
    buffer: int


class _Sums(NamedTuple):
    """Accumulators ``[..., channels, banks]``, and the value of one unit in each where the format has scales."""

    values: Array
    units: Array | None


class _Product(NamedTuple):
    """A dot product per bank, and where its results go."""

    parts: list[_Part]
    start: _Sums | None
    """Accumulators before the first part; None for zero."""
    at: Array
    """SRAM elements ``[channels, banks]``."""


class _Scales:
    """The value of one unit in each column of the banks and of the global buffers: int8.

    Attributes:
        cells: ``[rows, columns, channels, banks]``.
        buffers: ``[buffer columns, channels, 1]``.
        units: ``[channels, accumulators, banks]`` of what stands in the accumulators; 0 where nothing does.
    """

    def __init__(self, cells: tuple[int, ...], buffers: tuple[int, ...], accumulators: tuple[int, ...]) -> None:
        self.cells, self.buffers = np.ones(cells, np.float32), np.ones(buffers, np.float32)
        self.units = np.zeros(accumulators, np.float32)
        self.columns = self.cells.reshape(-1, *cells[2:])


class Observer(Protocol):
    """Told what the program writes into the SRAM, and for which operation."""

    def begin(self, op: Op, layer: int) -> None:
        """A step of this operation begins."""

    def store(self, at: Array | slice, values: Array) -> None:
        """The step is about to write ``values`` to the elements ``at``."""


class Executor:
    """State of a machine's memories, and the only way to change it.

    Attributes:
        format: of the memory and of what the MAC units multiply.
        sram_format: of the SRAM, and so of every result of the ASIC.
        rows: ``[channels, banks, rows, columns, lanes]``, storage of the format.
        scales: ``[channels, banks, rows, columns]``, value of one unit in each column of `rows`; None but for int8.
        buffers: ``[channels, buffer columns, lanes]``, values of the format (storage, if it is one of integers).
        accumulators: ``[channels, accumulators, banks]``.
        sram: ``[elements]``, values of its format; an index that `argmax` writes stands in it as a whole number.
        observer: told every step and everything that it writes into the SRAM.
    """

    def __init__(
        self,
        spec: DramSpec,
        asic: AsicConfig,
        pim: PimConfig,
        rows: int,
        buffer_columns: int,
        constants: Constants,
    ) -> None:
        """Memories full of zeros; ``rows`` of each bank and ``buffer_columns`` of each global buffer."""
        self.spec, self.mac = spec, mac_arithmetic(pim.format, pim.accumulator, pim.adder_tree)
        self.format = self.mac.format
        self.sram_format = self.format if isinstance(self.format, FloatSpec) else FLOAT32
        self.math, self.constants = AsicMath(asic.functions, Arithmetic.of(asic)), constants
        element = self.format.bits // 8
        self.lanes = spec.burst_bytes // element
        banks, channels = spec.banks_per_channel, spec.channels
        # what a MAC command adds up lies far apart, what it does at once side by side
        self._cells = np.zeros((rows, spec.columns, self.lanes, channels, banks), self.format.dtype)
        self.rows = self._cells.transpose(3, 4, 0, 1, 2)
        of_buffers = np.dtype(np.float32) if isinstance(self.format, FloatSpec) else self.format.dtype
        self._vectors = np.zeros((buffer_columns, self.lanes, channels, 1), of_buffers)
        self.buffers = self._vectors[..., 0].transpose(2, 0, 1)
        self._columns = self._cells.reshape(rows * spec.columns, self.lanes, channels, banks)
        registers = spec.register_files.get("accumulator", 1)
        self.accumulators = self.mac.zeros((channels, registers, banks))
        self._scales: _Scales | None = None
        self.scales: Array | None = None
        if self.format is INT8:
            shape = (rows, spec.columns, channels, banks)
            self._scales = _Scales(shape, (buffer_columns, channels, 1), self.accumulators.shape)
            self.scales = self._scales.cells.transpose(2, 3, 0, 1)
        self.sram = np.zeros(asic.sram_bytes // element, np.float32)
        self.observer: Observer | None = None
        self.batched = True
        """Put products off to the end of a step, where many are worked out at once; the numbers are the same."""
        self._sums: dict[int, list[_Part]] = {}
        """Register -> what MAC commands of this step have added to it and nobody has read."""
        self._products: list[_Product] = []
        self._open = np.full((channels, banks), -1)
        self._field = spec.address_fields.index("accumulator") if "accumulator" in spec.address_fields else None
        self.listener: Callable[[Compute], None] | None = None
        """Called before each function of the ASIC."""

    # -- order ----------------------------------------------------------------------------------------------------

    def run(self, program: Iterable[Placed]) -> None:
        """Carry out blocks in program order; channels that share a stream go together."""
        for placed in program:
            sharing = _sharing(placed.block)
            for stream, position in placed.block.order:
                if stream >= len(sharing) or sharing[stream][0] == stream:
                    step = placed.block.streams[stream][position]
                    self.step(step, placed, sharing[stream] if stream < len(sharing) else ())

    def step(self, step: Step, placed: Placed, channels: Sequence[int]) -> None:
        """Carry out one step, of the ASIC if there are no ``channels``."""
        if self.observer is not None:
            self.observer.begin(placed.block.ops[step.op], placed.layer)
        if channels:
            self._items(step.items, np.asarray(channels), placed.row_base, 0)
            self._settle(np.asarray(channels))
            return
        for compute in step.items:
            assert isinstance(compute, Compute)
            self.compute(compute, placed.layer)

    def _items(self, items: Sequence[Any], channels: Array, rows: int, sram: int) -> None:
        for item in items:
            if isinstance(item, Repeat):
                for i in range(item.count):
                    self._items(item.body, channels, rows + i * item.row_step, sram + i * item.sram_step)
            else:
                handler = self.commands.get(item.command)
                if handler is None:
                    raise ProgramError(f"command must be one of {', '.join(self.commands)}, not {item.command!r}")
                handler(self, item, channels, item.row + rows, item.sram + sram)

    # -- commands -------------------------------------------------------------------------------------------------

    def _bank(self, run: Run) -> int:
        bank = 0
        for index, count in zip(run.where, self.spec.counts, strict=False):
            bank = bank * count + index
        return bank

    def _activate(self, run: Run, channels: Array, row: int, _sram: int) -> None:
        self._open[channels, self._bank(run)] = row

    def _activate_all(self, _run: Run, channels: Array, row: int, _sram: int) -> None:
        self._open[channels] = row

    def _precharge(self, run: Run, channels: Array, _row: int, _sram: int) -> None:
        self._open[channels, self._bank(run)] = -1

    def _precharge_all(self, _run: Run, channels: Array, _row: int, _sram: int) -> None:
        self._open[channels] = -1

    def _refresh(self, _run: Run, _channels: Array, _row: int, _sram: int) -> None:
        """Keeps what is there."""

    def _row(self, channel: int, bank: int) -> int:
        row = int(self._open[channel, bank])
        if row < 0:
            raise ProgramError(f"channel {channel}, bank {bank} must have an open row")
        return row

    def _read(self, run: Run, channels: Array, _row: int, sram: int) -> None:
        self._settle(channels)
        bank = self._bank(run)
        for channel in channels:
            at = channel, bank, self._row(channel, bank), slice(run.column, run.column + run.count)
            scale = None if self.scales is None else self.scales[at][:, None]
            for k, column in enumerate(self.format.decode(self.rows[at], scale)):
                start, given = sram + k * run.sram_step + channel * run.sram_channel, carried(run, k, self.lanes)
                self._store(slice(start, start + given), column[:given])

    def _write(self, run: Run, channels: Array, _row: int, sram: int) -> None:
        self._settle(channels)
        for channel in channels:
            for k in range(run.count):
                bank = k if run.sweep else self._bank(run)
                column = run.column if run.sweep else run.column + k
                at = channel, bank, self._row(channel, bank), column
                target, scale = self.rows[at], None if self.scales is None else self.scales[at]
                start = sram + k * run.sram_step + channel * run.sram_channel
                if run.lane >= 0:
                    target[run.lane] = self.format.encode(self.sram[start], scale)
                else:
                    given = carried(run, k, self.lanes)
                    target[:given] = self.format.encode(self.sram[start : start + given], scale)
                    target[given:] = 0

    def _write_buffer(self, run: Run, channels: Array, _row: int, sram: int) -> None:
        self._settle(channels)
        at = np.arange(run.count)[:, None] * run.sram_step + np.arange(self.lanes)
        loaded, filled = slice(run.buffer, run.buffer + run.count), carried(run, run.count - 1, self.lanes)
        for channel in channels:
            vector = self.sram[at + sram + channel * run.sram_channel]
            vector[-1, filled:] = 0  # no part of a scale
            if self._scales is not None:
                scale = self.format.scale(vector)
                self._scales.buffers[loaded, channel] = scale
                self.buffers[channel, loaded] = self.format.encode(vector, scale)
            else:
                self.buffers[channel, loaded] = (
                    vector if self.format is self.sram_format else self.format.encode(vector)
                )

    def _register(self, run: Run) -> int:
        return 0 if self._field is None else run.where[self._field]

    def _multiply(self, run: Run, channels: Array, _row: int, _sram: int) -> None:
        row = self._row(channels[0], 0)
        if not np.all(self._open[channels] == row):
            raise ProgramError(f"{run.command} must find the same row open in all banks")
        first, parts = row * self.spec.columns + run.column, self._sums.setdefault(self._register(run), [])
        last = parts[-1] if parts else _Part(-1, 0, -1)
        if (last.first + last.columns, last.buffer + last.columns) == (first, run.buffer):
            parts[-1] = last._replace(columns=last.columns + run.count)
        else:
            parts.append(_Part(first, run.count, run.buffer))
        if not self.batched:
            self._settle(channels)

    def _results(self, run: Run, channels: Array, sram: int) -> Array:
        """SRAM elements ``[channels, results]`` of the results of a read."""
        results = carried(run, 0, self.spec.banks_per_channel)
        return sram + channels[:, None] * run.sram_channel + np.arange(results)

    def _read_accumulators(self, run: Run, channels: Array, _row: int, sram: int) -> None:
        register = self._register(run)
        start = self._accumulated(register, channels)
        self.accumulators[channels, register] = 0
        at = self._results(run, channels, sram)
        self._products.append(_Product(self._sums.pop(register, []), start, at))
        if not self.batched:
            self._settle(channels)

    # -- products -------------------------------------------------------------------------------------------------

    def _settle(self, channels: Array) -> None:
        """Work out what was put off: before anything that products read changes, and at the end of a step."""
        products, self._products = self._products, []
        for alike in _runs_of(products):
            at = np.stack([product.at for product in alike])
            found = self._alike(alike, channels) if len(alike) > 1 else self._one(alike[0], channels)
            self._store(at, self.mac.read(*found).reshape(*at.shape[:-1], -1)[..., : at.shape[-1]])
        for register, parts in self._sums.items():
            found = self._one(_Product(parts, self._accumulated(register, channels), channels), channels)
            self.accumulators[channels, register] = found.values
            if self._scales is not None:
                self._scales.units[channels, register] = found.units
        self._sums.clear()

    def _accumulated(self, register: int, channels: Array) -> _Sums | None:
        """What accumulators hold; None if that is nothing."""
        values = self.accumulators[channels, register]
        if not values.any():
            return None
        return _Sums(values, None if self._scales is None else self._scales.units[channels, register])

    def _one(self, product: _Product, channels: Array) -> _Sums:
        """Accumulators ``[channels, banks]`` after a product."""
        shape = (channels.size, self.spec.banks_per_channel)
        sums, units = product.start or _Sums(self.mac.zeros(shape), None)
        for part in product.parts:
            now = self._units(part, 1, channels)
            if now is not None and units is not None and np.any(units != now):
                raise ProgramError("RD_MAC must read products of one scale")
            units = now
            weights = _pick(self._columns[part.first : part.first + part.columns], channels).swapaxes(0, 1)
            sums = self.mac.mac_first(sums, weights, self._vector_of(part, channels))
        return _Sums(sums, units if units is None else units.reshape(shape))

    def _alike(self, products: Sequence[_Product], channels: Array) -> _Sums:
        """The same for products of one part each whose columns follow each other, as many at once as fit the cache."""
        part, banks = products[0].parts[0], self.spec.banks_per_channel
        vector = self._vector_of(part, channels)[:, :, None]
        step = max(1, BATCH // (part.columns * self.lanes * channels.size * banks))
        found: list[Array] = []
        for k in range(0, len(products), step):
            n, first = min(step, len(products) - k), part.first + k * part.columns
            weights = _pick(self._columns[first : first + n * part.columns], channels)
            weights = weights.reshape(n, part.columns, self.lanes, channels.size, banks).transpose(2, 1, 0, 3, 4)
            found.append(self.mac.mac_first(self.mac.zeros((n, channels.size, banks)), weights, vector))
        return _Sums(np.concatenate(found), self._units(part, len(products), channels))

    def _units(self, part: _Part, products: int, channels: Array) -> Array | None:
        """Value of one unit in the sums of ``products`` like this one, ``[products, channels, banks]``; None without scales.

        Raises:
            ProgramError: the columns of a product have different scales.
        """
        if self._scales is None:
            return None
        cells = _pick(self._scales.columns[part.first : part.first + products * part.columns], channels)
        loaded = _pick(self._scales.buffers[part.buffer : part.buffer + part.columns], channels)
        units = cells.reshape(products, part.columns, *cells.shape[1:]) * loaded
        if np.any(units != units[:, :1]):
            raise ProgramError("MAC_AB must add up products of one scale")
        return units[:, 0]

    def _vector_of(self, part: _Part, channels: Array) -> Array:
        """Elements of the buffer that meet a part: ``[lanes, columns, channels, 1]``."""
        return _pick(self._vectors[part.buffer : part.buffer + part.columns], channels).swapaxes(0, 1)

    commands: ClassVar[dict[str, Callable[[Executor, Run, Array, int, int], None]]] = {
        "ACT": _activate,
        "ACT_AB": _activate_all,
        "PREpb": _precharge,
        "PREab": _precharge_all,
        "REFab": _refresh,
        "RD": _read,
        "WR": _write,
        "WR_GB": _write_buffer,
        "MAC_AB": _multiply,
        "RD_MAC": _read_accumulators,
    }
    """Command -> what it does."""

    # -- the ASIC -------------------------------------------------------------------------------------------------

    def compute(self, compute: Compute, layer: int) -> None:
        """One function of the ASIC; results are rounded to the format of the SRAM."""
        handler = self.functions.get(compute.function)
        if handler is None:
            raise ProgramError(f"function must be one of {', '.join(self.functions)}, not {compute.function!r}")
        if self.listener is not None:
            self.listener(compute)
        handler(self, compute, self.constants.get((layer, compute.parameters), {}))

    def _put(self, start: int, values: Array) -> None:
        self._store(slice(start, start + values.size), self.sram_format.round_to(values))

    def _store(self, at: Array | slice, values: Array) -> None:
        if self.observer is not None:
            self.observer.store(at, values)
        self.sram[at] = values

    def _vector(self, compute: Compute, source: int = 0) -> Array:
        start = compute.sources[source]
        return self.sram[start : start + compute.length].copy()

    def _add(self, compute: Compute, constants: Mapping[str, Any]) -> None:
        operands = [self._vector(compute, i) for i in range(len(compute.sources))]
        if "bias" in constants:
            operands.append(constants["bias"][compute.offset : compute.offset + compute.length])
        self._put(compute.target, self.math.add(*operands))

    def _norm(self, compute: Compute, constants: Mapping[str, Any]) -> None:
        function = getattr(self.math, compute.function)
        self._put(compute.target, function(self._vector(compute), **constants))

    def _elementwise(self, compute: Compute, _constants: Mapping[str, Any]) -> None:
        self._put(compute.target, getattr(self.math, compute.function)(self._vector(compute)))

    def _product(self, compute: Compute, _constants: Mapping[str, Any]) -> None:
        self._put(compute.target, self.math.multiply(self._vector(compute), self._vector(compute, 1)))

    def _scale(self, compute: Compute, _constants: Mapping[str, Any]) -> None:
        group = compute.group or compute.length
        factors = self.sram[compute.sources[1] : compute.sources[1] + compute.length // group]
        vector = self._vector(compute).reshape(-1, group)
        self._put(compute.target, self.math.scale(vector, factors[:, None]).ravel())

    def _softmax(self, compute: Compute, _constants: Mapping[str, Any]) -> None:
        exponentials, total = self.math.softmax(self._vector(compute))
        filled = -compute.length % (compute.group or 1)  # products read whole columns
        self._put(compute.target, np.concatenate([exponentials, np.zeros(filled, np.float32)]))
        self._put(compute.total, total)

    def _rope(self, compute: Compute, constants: Mapping[str, Any]) -> None:
        heads = self._vector(compute).reshape(-1, compute.group or compute.length)
        self._put(compute.target, self.math.rope(heads, **constants).ravel())

    def _argmax(self, compute: Compute, _constants: Mapping[str, Any]) -> None:
        """With ``total``, the largest so far: of equals the first; a piece at ``offset`` 0 begins anew."""
        vector = self._vector(compute)
        index = int(self.math.argmax(vector))
        if compute.total >= 0:
            if compute.offset and not vector[index] > self.sram[compute.total]:
                return
            self._store(slice(compute.total, compute.total + 1), vector[index])
        self._store(slice(compute.target, compute.target + 1), np.asarray(compute.offset + index, np.float32))

    functions: ClassVar[dict[str, Callable[[Executor, Compute, Mapping[str, Any]], None]]] = {
        "add": _add,
        "argmax": _argmax,
        "gelu": _elementwise,
        "gelu_erf": _elementwise,
        "layernorm": _norm,
        "multiply": _product,
        "reciprocal": _elementwise,
        "relu": _elementwise,
        "rmsnorm": _norm,
        "rope": _rope,
        "scale": _scale,
        "silu": _elementwise,
        "softmax": _softmax,
    }
    """Function of the ASIC -> what it does."""


def _runs_of(products: Sequence[_Product]) -> Iterator[Sequence[_Product]]:
    """Products one after the other, those together that differ only in where their columns lie, without a gap."""
    start = 0
    for i in range(1, len(products) + 1):
        if i == len(products) or not _follows(products[i - 1], products[i]):
            yield products[start:i]
            start = i


def _follows(one: _Product, other: _Product) -> bool:
    if one.start is not None or other.start is not None or len(one.parts) != 1 or len(other.parts) != 1:
        return False
    a, b = one.parts[0], other.parts[0]
    return one.at.shape == other.at.shape and b == _Part(a.first + a.columns, a.columns, a.buffer)


def _pick(array: Array, channels: Array) -> Array:
    """The channels of ``[..., channels, banks]``; a view where they are neighbours."""
    first, last = int(channels[0]), int(channels[-1])
    if last - first + 1 == channels.size:
        return array[..., first : last + 1, :]
    return array[..., channels, :]


def carried(run: Run, k: int, full: int) -> int:
    """Elements that the ``k``-th command of a run carries, of a full command's ``full``."""
    return full if run.elements < 0 else max(0, min(full, run.elements - k * full))


def _sharing(block: Block) -> list[list[int]]:
    """For each channel, all channels that have the same stream."""
    found: dict[int, list[int]] = {}
    for channel, stream in enumerate(block.channels):
        found.setdefault(id(stream), []).append(channel)
    return [found[id(stream)] for stream in block.channels]


__all__ = ["Constants", "Executor", "Observer", "carried"]
