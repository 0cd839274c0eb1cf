"""What calls of a streaming machine did, added up: time, units, ports and what costs energy.

`Books.of` reads a stretch of calls that has been timed; `Books.add` adds a stretch as often as it ran, so a long decode costs as
much as the different stretches in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pimsim.analysis.energy import OUTSIDE, EnergyReport
from pimsim.analysis.fpga_energy import CallActivity
from pimsim.arch.fpga import FpgaConfig
from pimsim.machine.fpga.ports import PortTiming
from pimsim.machine.fpga.schedule import ProgramTimes
from pimsim.program.dataflow import Call, beats, iterations
from pimsim.result import Layer, Op, Port, Unit

_PRODUCTS = ("attention.query_key", "attention.weighted_values")
_TOKENS = ("read_query", "read_key", "read_value")
"""Streams of the attention products that bring rows, not scores."""

Cell = tuple[str, int]
"""(operation, layer)."""


@dataclass
class Books:
    """Sums over calls; all times are cycles."""

    cycles: int = 0
    iterations: int = 0
    """Of all stages."""
    counts: Counter[Cell] = field(default_factory=Counter)
    """Calls."""
    moved: Counter[Cell] = field(default_factory=Counter)
    """By how much the calls moved the end of the run; sums to `cycles`."""
    working: dict[Cell, Counter[str]] = field(default_factory=dict)
    """Unit -> cycles in which it works."""
    beats: Counter[Cell] = field(default_factory=Counter)
    """Through all ports, both ways."""
    used: Counter[str] = field(default_factory=Counter)
    """Unit -> length of the calls that use it, once for each of its stages."""
    stalls: dict[str, Counter[str]] = field(default_factory=dict)
    read: Counter[str] = field(default_factory=Counter)
    """Port -> beats; likewise `written`."""
    written: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    """Attention product -> beats of queries, keys and values that it reads, and `steps`, its iterations."""
    steps: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, calls: Sequence[Call], times: ProgramTimes) -> Books:
        """Of calls that ran from cycle 0 on."""
        books = cls(cycles=times.cycles)
        latest = 0
        order = sorted(zip(times.ends, range(len(calls)), strict=True))
        for end, number in order:
            cell = calls[number].op, calls[number].layer
            books.moved[cell] += end - latest
            latest = end
        for call, part in zip(calls, times.regions, strict=True):
            books._note_streams(call)
            for stage in call.region.stages:
                turns = iterations(stage)
                books.iterations += turns
                if stage.unit in _PRODUCTS:
                    books.steps[call.op] += turns
                    books.rows[call.op] += sum(beats(r.bursts) for r in call.region.reads if r.name in _TOKENS)
                if stage.unit:
                    waits = Counter({f"wait {reason}": n for reason, n in part.stalls[stage.name].items()})
                    works = turns * stage.interval
                    books.working.setdefault((call.op, call.layer), Counter())[stage.unit] += works
                    books.used[stage.unit] += part.cycles
                    stalls = books.stalls.setdefault(stage.unit, Counter())
                    stalls.update(waits)
                    stalls["fill and drain"] += part.cycles - works - waits.total()
        return books

    def _note_streams(self, call: Call) -> None:
        cell = call.op, call.layer
        self.counts[cell] += 1
        for read in call.region.reads:
            self.read[read.port] += beats(read.bursts)
            self.beats[cell] += beats(read.bursts)
        for write in call.region.writes:
            self.written[write.port] += beats(write.bursts)
            self.beats[cell] += beats(write.bursts)

    def add(self, other: Books, times: int = 1, layer: int | None = None) -> None:
        """Add what ran ``times`` times, one after the other, in ``layer`` if that is another one than its calls say."""
        self.cycles += times * other.cycles
        self.iterations += times * other.iterations
        for mine, more in (
            (self.used, other.used), (self.read, other.read), (self.written, other.written), (self.rows, other.rows),
            (self.steps, other.steps),
        ):  # fmt: skip
            _scaled(mine, more, times)
        for unit, stalls in other.stalls.items():
            _scaled(self.stalls.setdefault(unit, Counter()), stalls, times)
        for cells, more_cells in ((self.counts, other.counts), (self.moved, other.moved), (self.beats, other.beats)):
            for cell, number in more_cells.items():
                cells[_at(cell, layer)] += times * number
        for cell, working in other.working.items():
            _scaled(self.working.setdefault(_at(cell, layer), Counter()), working, times)

    # -- sections of a result -------------------------------------------------------------------------------------

    def activity(self, beat_bits: int) -> list[CallActivity]:
        """What costs energy, by operation and layer."""
        return [
            CallActivity(*cell, moved, self.working.get(cell, Counter()), self.beats[cell] * beat_bits)
            for cell, moved in self.moved.items()
        ]

    def ops(self, hertz: float, energy: EnergyReport) -> dict[str, Op]:
        """Operations in order of falling time."""
        counts, cycles = Counter[str](), Counter[str]()
        for (op, layer), moved in self.moved.items():
            cycles[op] += moved
            counts[op] += self.counts[op, layer]
        return {
            op: Op(counts[op], moved / hertz, moved / self.cycles, energy.by_op.get(op, 0.0))
            for op, moved in cycles.most_common()
        }

    def layers(self, hertz: float, energy: EnergyReport) -> list[Layer]:
        """Layers in order, what belongs to none at the end."""
        cycles = Counter[int]()
        for (_, layer), moved in self.moved.items():
            cycles[layer] += moved
        return [
            Layer(
                "outside the blocks" if layer == OUTSIDE else f"block {layer}",
                cycles[layer] / hertz,
                energy.by_layer.get(layer, 0.0),
            )
            for layer in sorted(cycles, key=lambda layer: (layer == OUTSIDE, layer))
        ]

    def units(self, hertz: float) -> dict[str, Unit]:
        """Units in order of falling work; what is not stalled or working is filling, draining or idle."""
        busy = Counter[str]()
        for working in self.working.values():
            busy.update(working)
        stalls = {
            unit: stalls + Counter({"idle": self.cycles - self.used[unit]}) for unit, stalls in self.stalls.items()
        }
        return {
            unit: Unit(
                works / hertz,
                works / self.cycles,
                {reason: n / hertz for reason, n in stalls[unit].most_common()},
            )
            for unit, works in busy.most_common()
        }

    def demand(self) -> dict[str, float]:
        """Beats that each attention product reads per iteration; rows and steps have equally many beats and iterations."""
        return {op: self.rows[op] / self.steps[op] for op in self.steps}

    def traffic(self, fpga: FpgaConfig, timing: PortTiming) -> dict[str, Port]:
        """Traffic of every port."""
        size, share = fpga.beat_bits // 8, timing.numerator / timing.denominator / self.cycles
        return {
            name: Port(
                self.read[name] * size, self.written[name] * size, self.read[name] * share, self.written[name] * share
            )
            for name in fpga.ports.names
        }


def _scaled(mine: Counter[str], more: Counter[str], times: int) -> None:
    for name, number in more.items():
        mine[name] += times * number


def _at(cell: Cell, layer: int | None) -> Cell:
    return cell if layer is None else (cell[0], layer)


__all__ = ["Books"]
