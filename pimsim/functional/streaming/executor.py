"""Carries out streaming programs: memory as beats at their addresses, one call after the other, one stage after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pimsim.errors import MappingError, ProgramError, WorkloadError
from pimsim.functional.numerics import FixedSpec
from pimsim.functional.streaming.chip import WIDTHS, Beats, Chip, Tokens, tokens
from pimsim.functional.streaming.hazards import Footprint, footprint
from pimsim.functional.streaming.stages import HANDLERS
from pimsim.program.dataflow import Burst, Call, Read, Region, Stage, Write
from pimsim.program.works import Linear, Parameter, Rotate, SideBySide, Work

Array = npt.NDArray[Any]


class Executor:
    """A memory of so many beats and a chip.

    Attributes:
        memory: ``[beats, bytes]``; what was never written may not be read.
        done: calls that were carried out.
        touched: what each of them read and wrote.
    """

    def __init__(self, chip: Chip, beats: int = 0) -> None:
        self.chip = chip
        self.memory: Beats = np.zeros((0, chip.beat_bits // 8), np.uint8)
        self.written = np.zeros(0, bool)
        self.done = 0
        self.touched: list[Footprint] = []
        self._addresses: dict[tuple[Burst, ...], npt.NDArray[np.int64]] = {}
        self.grow(beats)

    def grow(self, beats: int) -> None:
        """Make the memory at least so large."""
        more = beats - len(self.memory)
        if more > 0:
            self.memory = np.concatenate([self.memory, np.zeros((more, self.chip.beat_bits // 8), np.uint8)])
            self.written = np.concatenate([self.written, np.zeros(more, bool)])

    def place(self, parameter: Parameter, values: Array, spec: FixedSpec) -> None:
        """Write the elements of a tensor where the program expects them.

        Raises:
            WorkloadError: values are beyond the range of their format, or fewer than the program expects.
        """
        flat = np.ravel(values)
        flat = flat[parameter.first : parameter.first + parameter.count] if parameter.count else flat
        wanted = parameter.count or parameter.size
        if flat.size != wanted:
            raise WorkloadError(
                f"{parameter.tensor} must have {wanted} elements from {parameter.first} on, not {flat.size}"
            )
        check_range(parameter, flat, spec)
        stored = np.zeros(parameter.size, WIDTHS[parameter.bits])
        stored[:wanted] = spec.encode(flat).astype(np.int64)
        raw = stored.view(np.uint8)
        width = self.chip.beat_bits // 8
        beats = np.pad(raw, (0, -raw.size % width)).reshape(-1, width)
        if parameter.buffer:
            self.chip.buffers[parameter.buffer] = beats
            return
        at = parameter.base + np.arange(len(beats))
        if parameter.rows is not None:
            at = parameter.base + _places(parameter.rows, np.arange(len(beats)))
        self.memory[at] = beats
        self.written[at] = True

    def run(self, calls: Sequence[Call], after: Callable[[int], None] | None = None) -> None:
        """Carry out the calls that were not yet; ``after`` is called with the number of each that is complete.

        Raises:
            ProgramError: an address is outside the memory or was never written, or a stage moves other counts than it says.
            MappingError: a stage has no numbers.
        """
        while self.done < len(calls):
            call = calls[self.done]
            try:
                self.step(call)
            except ProgramError as error:
                layer = f"layer {call.layer}, " if call.layer >= 0 else ""
                raise ProgramError(f"{layer}{call.name}: {error}") from error
            self.done += 1
            if after is not None:
                after(self.done - 1)

    def step(self, call: Call) -> None:
        """Carry out one call."""
        work: Work = call.work
        self.touched.append(footprint(work))
        held: Tokens = {read.fifo: self._read(call, read) for read in call.region.reads}
        for stage in _in_order(call.region):
            handler = HANDLERS.get((type(work), stage.name))
            if handler is None:
                raise MappingError(f"{call.name} must be of stages that have numbers, not {stage.name}")
            given = handler(self.chip, work, stage, self._take(stage, held))
            for name in _fifos(stage, writes=True):
                expected = tokens(stage, name, writes=True)
                if name not in given or len(given[name]) != expected:
                    found = len(given[name]) if name in given else 0
                    raise ProgramError(f"{stage.name} must put {expected} tokens into {name}, not {found}")
            held |= given
        for write in call.region.writes:
            self._write(call, write, held[write.fifo])

    def _take(self, stage: Stage, held: Mapping[str, Array]) -> Tokens:
        """All that a stage takes; what comes from a later stage says only that something is done."""
        return {name: held[name] for name in _fifos(stage, writes=False) if name in held}

    def _read(self, call: Call, read: Read) -> Beats:
        at = self._at(call, read)
        if not self.written[at].all():
            raise ProgramError(f"{read.name} must read what was written, not beat {at[~self.written[at]][0]}")
        self.touched[-1].reads.append((int(at.min()), int(at.max())))
        return self.memory[at]

    def _write(self, call: Call, write: Write, beats: Beats) -> None:
        at = self._at(call, write)
        self.touched[-1].writes.append((int(at.min()), int(at.max())))
        self.memory[at] = beats
        self.written[at] = True

    def _at(self, call: Call, stream: Read | Write) -> npt.NDArray[np.int64]:
        """Beat address of every beat of a stream."""
        if stream.bursts not in self._addresses:
            self._addresses[stream.bursts] = np.concatenate([_expand(burst) for burst in stream.bursts])
        at, work = self._addresses[stream.bursts], call.work
        if stream.name not in work.at:
            raise ProgramError(f"the start of {stream.name} must be given")
        if isinstance(work, Linear) and stream.name in work.indexed:
            width = work.inputs if stream.name == "read_input" else -(-work.outputs // self.chip.tile) * self.chip.tile
            beats = width // self.chip.words
            numbers = self.chip.queues[work.queue][0][work.first :]
            if at.max() // beats >= len(numbers):
                raise ProgramError(f"{stream.name} must take no more entries than queue {work.queue} has")
            at = numbers[at // beats] * beats + at % beats
        if isinstance(work, Linear | Rotate) and work.written is not None and stream.name.startswith("write"):
            at = _places(work.written, at + work.column)
        at = at + work.at[stream.name]
        if at.min() < 0 or at.max() >= len(self.memory):
            raise ProgramError(f"{stream.name} must stay in {len(self.memory)} beats, not reach beat {at.max()}")
        found: npt.NDArray[np.int64] = at
        return found


def check_range(parameter: Parameter, values: Array, spec: FixedSpec) -> None:
    """Raises: WorkloadError, if a value does not fit a format."""
    low, high = (limit * spec.step for limit in spec.limits)
    if values.size and (values.min() < low or values.max() >= high + spec.step):
        raise WorkloadError(
            f"{parameter.tensor} must be within {low:g} and {high:g}, the range of fpga.formats.{parameter.format} "
            f"({spec.name}), not {float(values.min()):.4g} to {float(values.max()):.4g}; more integer bits help"
        )


def _expand(burst: Burst) -> npt.NDArray[np.int64]:
    starts = burst.start + np.arange(burst.count) * burst.stride
    return (starts[:, None] + np.arange(burst.beats)).ravel()


def _places(rows: SideBySide, at: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where the beats of rows lie that are numbered as if one row followed the other."""
    return np.array([rows.place(*divmod(beat, rows.beats)) for beat in at.tolist()], np.int64)


def _in_order(region: Region) -> list[Stage]:
    """Stages such that each comes after those that feed it; where they feed each other, as they are listed."""
    waiting, ready = list(region.stages), {read.fifo for read in region.reads}
    found: list[Stage] = []
    while waiting:
        free = [stage for stage in waiting if set(_fifos(stage, writes=False)) <= ready]
        stage = free[0] if free else waiting[0]
        waiting.remove(stage)
        ready |= set(_fifos(stage, writes=True))
        found.append(stage)
    return found


def _fifos(stage: Stage, *, writes: bool) -> list[str]:
    """FIFOs that a stage takes from or puts into, if its nest gets there."""
    moved = (name for action in stage.actions for name, _ in (action.writes if writes else action.reads))
    return [name for name in dict.fromkeys(moved) if tokens(stage, name, writes=writes)]


__all__ = ["Executor", "check_range"]
