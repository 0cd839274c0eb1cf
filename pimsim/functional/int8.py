"""The executor for int8: memory and global buffers hold integers with scales, the ASIC computes in float32.

Every column of a bank has a scale, which the controller keeps. Weights have one scale per output and table entries one
each, set where they are placed; keys and values have one per layer, calibrated beforehand, and saturate beyond it. A vector
gets its scale (largest magnitude / 127) with each load of a global buffer. Products add up exactly in 32 bits;
``RD_MAC`` hands out the sum times both scales, in float32. Neither scales nor the float32 results cost the machine
anything: it counts one byte per element.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from pimsim.arch.dram import DramSpec
from pimsim.arch.system import AsicConfig
from pimsim.errors import ProgramError
from pimsim.functional.executor import Constants, Executor, carried
from pimsim.functional.numerics import INT8, Array, mac_arithmetic
from pimsim.program.isa import Run


class Int8Executor(Executor):
    """As `Executor`, with ``scales [channels, banks, rows, columns]`` for what lies in `rows`, which are int8.

    Attributes:
        scales: value of one unit in each column.
        buffer_scales: ``[channels, buffer columns]``.
        units: ``[channels, accumulators, banks]``, value of one unit in each accumulator.
    """

    def __init__(self, spec: DramSpec, asic: AsicConfig, rows: int, buffer_columns: int, constants: Constants) -> None:
        super().__init__(spec, asic, "float32", 0, 0, constants)  # float32 is the format of the SRAM here
        self.lanes = spec.burst_bytes
        self.mac = mac_arithmetic("int8")
        channels, banks = spec.channels, spec.banks_per_channel
        self.rows = np.zeros((channels, banks, rows, spec.columns, self.lanes), np.int8)
        self.scales = np.ones((channels, banks, rows, spec.columns), np.float32)
        self.buffers = np.zeros((channels, buffer_columns, self.lanes), np.int8)
        self.buffer_scales = np.ones((channels, buffer_columns), np.float32)
        self.units = np.zeros(self.accumulators.shape, np.float32)
        self.accumulators = np.zeros(self.accumulators.shape, np.int32)
        self.sram = np.zeros(asic.sram_bytes, np.float32)

    def _read_scaled(self, run: Run, channels: Array, _row: int, sram: int) -> None:
        bank = self._bank(run)
        for channel in channels:
            at = channel, bank, self._row(channel, bank), slice(run.column, run.column + run.count)
            for k, column in enumerate(INT8.decode(self.rows[at], self.scales[at][:, None])):
                start, given = sram + k * run.sram_step + channel * run.sram_channel, carried(run, k, self.lanes)
                self._store(slice(start, start + given), column[:given])

    def _write_scaled(self, run: Run, channels: Array, _row: int, sram: int) -> None:
        for channel in channels:
            for k in range(run.count):
                bank = k if run.sweep else self._bank(run)
                column = run.column if run.sweep else run.column + k
                at = channel, bank, self._row(channel, bank), column
                start = sram + k * run.sram_step + channel * run.sram_channel
                if run.lane >= 0:
                    self.rows[at][run.lane] = INT8.encode(self.sram[start], self.scales[at])
                else:
                    given = carried(run, k, self.lanes)
                    self.rows[at][:given] = INT8.encode(self.sram[start : start + given], self.scales[at])
                    self.rows[at][given:] = 0

    def _load_scaled(self, run: Run, channels: Array, _row: int, sram: int) -> None:
        at = np.arange(run.count)[:, None] * run.sram_step + np.arange(self.lanes)
        target = slice(run.buffer, run.buffer + run.count)
        for channel in channels:
            vector = self.sram[at + sram + channel * run.sram_channel]
            vector[-1, carried(run, run.count - 1, self.lanes) :] = 0  # no part of the scale
            self.buffers[channel, target], scale = INT8.quantize(vector)
            self.buffer_scales[channel, target] = scale.item()

    def _multiply_scaled(self, run: Run, channels: Array, _row: int, _sram: int) -> None:
        row, register = self._row(channels[0], 0), self._register(run)
        if not np.all(self._open[channels] == row):
            raise ProgramError(f"{run.command} must find the same row open in all banks")
        columns, loaded = slice(run.column, run.column + run.count), slice(run.buffer, run.buffer + run.count)
        scales = self.scales[channels, :, row, columns] * self.buffer_scales[channels, None, loaded]
        units = scales[..., 0]
        known = self.units[channels, register]
        if np.any(scales != units[..., None]) or np.any((known != 0) & (known != units)):
            raise ProgramError(f"{run.command} must add up products of one scale")
        self.units[channels, register] = units
        self.accumulators[channels, register] = self.mac.mac(
            self.accumulators[channels, register],
            self.rows[channels, :, row, columns],
            self.buffers[channels, None, loaded],
        )

    def _read_sums(self, run: Run, channels: Array, _row: int, sram: int) -> None:
        register = self._register(run)
        at = self._results(run, channels, sram)
        results = self.mac.read(self.accumulators[channels, register], self.units[channels, register])
        self._store(at, results[:, : at.shape[1]])
        self.accumulators[channels, register] = 0
        self.units[channels, register] = 0

    commands: ClassVar[dict[str, Callable[[Any, Run, Array, int, int], None]]] = {
        **Executor.commands,
        "RD": _read_scaled,
        "WR": _write_scaled,
        "WR_GB": _load_scaled,
        "MAC_AB": _multiply_scaled,
        "RD_MAC": _read_sums,
    }
    """Command -> what it does."""


__all__ = ["Int8Executor"]
