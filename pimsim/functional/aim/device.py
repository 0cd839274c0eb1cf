"""GDDR6-AiM on numbers: rows of banks, global buffers and MAC registers, one handler for each instruction.

Memories are arrays that are addressed as the instructions address them; a handler knows no tensor. What nothing has
written is NaN, so that a program that uses it is found out. Numbers lie in 16 bits; a MAC unit multiplies the lanes of a
column, adds the products up (`MacArithmetic`) and keeps its sum in a register, which ``WR_BIAS`` sets and ``RD_MAC`` reads,
rounded to the format, without clearing it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pimsim.arch.dram import DramSpec
from pimsim.errors import ProgramError
from pimsim.functional.numerics import MacArithmetic
from pimsim.program.aim_isr import Instruction
from pimsim.program.aim_segments import NOTHING, PlacedSegment, Transfer

Array = npt.NDArray[Any]


class AimDevice:
    """All channels; their memories change by instructions and by `place` only.

    Attributes:
        rows: row -> ``[columns, lanes, channels, banks]``, storage of the format; rows that were never written are missing.
        buffers: ``[columns, lanes, channels]``, values of the format.
        registers: ``[channels, banks]``, sums of the MAC units.
    """

    def __init__(self, spec: DramSpec, mac: MacArithmetic) -> None:
        self.mac, self.format = mac, mac.format
        self.lanes = spec.burst_bytes * 8 // mac.format.bits
        self.columns, self.channels, self.banks = spec.columns, spec.channels, spec.banks_per_channel
        self.rows: dict[int, Array] = {}
        self.buffers = np.full((self.columns, self.lanes, self.channels), np.nan, np.float32)
        self.registers = np.full((self.channels, self.banks), np.nan, np.float32)

    def place(self, row: int, tile: Array) -> None:
        """Put a tile of a matrix, ``[inputs, outputs]``, into a row: outputs over banks, then channels; whole columns."""
        inputs, outputs = tile.shape
        padded = np.zeros((-(-inputs // self.lanes) * self.lanes, outputs), self.format.dtype)
        padded[:inputs] = self.format.encode(tile)
        channel, bank = np.divmod(np.arange(outputs), self.banks)
        cells = self._row(row)
        used = len(padded) // self.lanes
        cells[:used, :, channel, bank] = padded.reshape(used, self.lanes, outputs)

    def run(self, placed: PlacedSegment, transfers: Sequence[Transfer], vectors: MutableMapping[str, Array]) -> None:
        """Carry out the instructions of a segment; the host's ``vectors`` are read and written as ``transfers`` say.

        Raises:
            ProgramError: an instruction has no meaning in numbers, or no data of the host where it needs them.
        """
        waiting: dict[str, deque[Transfer]] = {}
        for transfer in transfers:
            waiting.setdefault(transfer.instruction, deque()).append(transfer)
        for instruction in placed.segment.at(placed.base, placed.column):
            handler = self.instructions.get(instruction.name)
            if handler is None:
                raise ProgramError(
                    f"an instruction on numbers must be one of {', '.join(self.instructions)}, not {instruction.name}"
                )
            handler(self, instruction, waiting.get(instruction.name, deque()), vectors)

    def _row(self, row: int) -> Array:
        if row not in self.rows:
            shape = (self.columns, self.lanes, self.channels, self.banks)
            self.rows[row] = np.full(shape, np.nan, np.float32).astype(self.format.dtype)
        return self.rows[row]

    def _given(self, instruction: Instruction, waiting: deque[Transfer]) -> Transfer:
        if not waiting:
            raise ProgramError(f"{instruction.name} must have data of the host: there is one too many in {instruction}")
        return waiting.popleft()

    def _sent(
        self, instruction: Instruction, waiting: deque[Transfer], vectors: Mapping[str, Array], size: int
    ) -> Array:
        """What the host sends to the addressed channels, ``[channels, size]``; NaN where it sends too little."""
        transfer = self._given(instruction, waiting)
        every = _elements(transfer, self.channels)[list(instruction.channels)]
        vector = np.append(vectors[transfer.vector], np.float32(0.0))  # `NOTHING` is its last element
        sent = np.full((len(every), size), np.nan, np.float32)
        sent[:, : every.shape[1]] = vector[every[:, :size]]
        return sent

    # -- instructions ---------------------------------------------------------------------------------------------

    def _write_buffer(self, i: Instruction, waiting: deque[Transfer], vectors: MutableMapping[str, Array]) -> None:
        sent = self._sent(i, waiting, vectors, i.size * self.lanes).reshape(-1, i.size, self.lanes)
        self.buffers[: i.size, :, list(i.channels)] = self.format.round_to(sent).transpose(1, 2, 0)

    def _write_registers(self, i: Instruction, waiting: deque[Transfer], vectors: MutableMapping[str, Array]) -> None:
        self.registers[list(i.channels)] = self.format.round_to(self._sent(i, waiting, vectors, self.banks))

    def _write_column(self, i: Instruction, waiting: deque[Transfer], vectors: MutableMapping[str, Array]) -> None:
        sent = self._sent(i, waiting, vectors, self.banks * self.lanes).reshape(-1, self.banks, self.lanes)
        self._row(i.row)[i.column, :, list(i.channels)] = self.format.encode(sent).transpose(0, 2, 1)

    def _read_registers(self, i: Instruction, waiting: deque[Transfer], vectors: MutableMapping[str, Array]) -> None:
        transfer = self._given(i, waiting)
        taken, found = _elements(transfer, self.channels)[list(i.channels)], self.mac.read(self.registers)
        vectors[transfer.vector][taken[taken != NOTHING]] = found[list(i.channels)][taken != NOTHING]

    def _multiply(self, i: Instruction, _waiting: deque[Transfer], _vectors: MutableMapping[str, Array]) -> None:
        banks = slice(None) if i.bank < 0 else slice(i.bank, i.bank + 1)
        channels = list(i.channels)
        weights = self._row(i.row)[: i.size, :, channels, banks].swapaxes(0, 1)
        vector = self.buffers[: i.size, :, channels].swapaxes(0, 1)[..., np.newaxis]
        self.registers[channels, banks] = self.mac.mac_first(self.registers[channels, banks], weights, vector)

    def _to_bank(self, i: Instruction, _waiting: deque[Transfer], _vectors: MutableMapping[str, Array]) -> None:
        cells = self.format.encode(self.buffers[: i.size, :, list(i.channels)])
        self._row(i.row)[: i.size, :, list(i.channels), i.bank] = cells

    def _to_buffer(self, i: Instruction, _waiting: deque[Transfer], _vectors: MutableMapping[str, Array]) -> None:
        cells = self._row(i.row)[: i.size, :, list(i.channels), i.bank]
        self.buffers[: i.size, :, list(i.channels)] = self.format.decode(cells)

    def _wait(self, _i: Instruction, _waiting: deque[Transfer], _vectors: MutableMapping[str, Array]) -> None:
        """Changes no number."""

    instructions: ClassVar[
        dict[str, Callable[[AimDevice, Instruction, deque[Transfer], MutableMapping[str, Array]], None]]
    ] = {
        "WR_GB": _write_buffer,
        "WR_BIAS": _write_registers,
        "WR_ABK": _write_column,
        "RD_MAC": _read_registers,
        "MAC_ABK": _multiply,
        "MAC_SBK": _multiply,
        "COPY_GBBK": _to_bank,
        "COPY_BKGB": _to_buffer,
        "SYNC": _wait,
        "EOC": _wait,
    }
    """Instruction -> what it does. Those that no decoder has and nothing public defines on numbers are missing."""


def _elements(transfer: Transfer, channels: int) -> Array:
    """``[channels, n]``; where channels have none at all, `NOTHING`."""
    longest = max(map(len, transfer.elements))
    rows = [row + (NOTHING,) * (longest - len(row)) for row in transfer.elements]
    return np.broadcast_to(np.array(rows, np.int64).reshape(len(rows), longest), (channels, longest))


__all__ = ["AimDevice"]
