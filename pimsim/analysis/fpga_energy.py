"""Energy of a streaming machine: static power for the whole run, and every unit for the cycles in which it works.

``static W x length + sum over units (active cycles x energy per cycle) + bits through the ports x energy per bit``, where the
energy of a unit's cycle is that of its DSP, block RAM, LUT and FF. Which coefficients are fitted, and to what, is said in the
machine's file. A machine without coefficients is charged the published power of its board.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pimsim.analysis.energy import EnergyReport
from pimsim.analysis.resources import Resource
from pimsim.arch.fpga import FpgaConfig, FpgaPower

STATIC, MEMORY, BOARD = "static", "memory", "board"
"""Components that are no unit."""


@dataclass(frozen=True)
class CallActivity:
    """What a call did that costs energy."""

    op: str
    layer: int
    moved: int
    """Cycles by which it moved the end of the run; static power is charged by them."""
    busy: Mapping[str, int]
    """Unit -> cycles in which it works."""
    bits: int
    """Through all memory ports, both ways."""


def fpga_energy(
    fpga: FpgaConfig, calls: Sequence[CallActivity], needs: Mapping[str, Resource], instances: int
) -> EnergyReport:
    """Cost a run.

    Args:
        fpga: the machine.
        calls: all calls of the run.
        needs: resources of every unit (`pimsim.analysis.resources.resources`).
        instances: linear units, which share the resources of their entry equally.
    """
    seconds = sum(call.moved for call in calls) / (fpga.clock_mhz * 1e6)
    per_cycle = _unit_joules(fpga, fpga.power, needs, instances) if fpga.power is not None and needs else None
    watts = fpga.power.static_w if per_cycle is not None and fpga.power is not None else fpga.board_power_w
    per_bit = (fpga.power.memory_pj_per_bit if fpga.power else None) if per_cycle is not None else None
    cells: dict[tuple[str, str, int], float] = defaultdict(float)
    for call in calls:
        still = watts * call.moved / (fpga.clock_mhz * 1e6)
        cells[STATIC if per_cycle is not None else BOARD, call.op, call.layer] += still
        if per_cycle is None:
            continue
        for unit, cycles in call.busy.items():
            if entry := _costed_as(unit, per_cycle):
                cells[unit, call.op, call.layer] += cycles * per_cycle[entry]
        if per_bit is not None:
            cells[MEMORY, call.op, call.layer] += call.bits * per_bit * 1e-12
    joules = math.fsum(cells.values())
    uncosted = sorted({unit for call in calls for unit in call.busy if _costed_as(unit, per_cycle or {}) == ""})
    missing = [f"{unit}: fpga.resources.units" for unit in uncosted] if per_cycle is not None else []
    if per_cycle is not None and per_bit is None:
        missing.append("memory: fpga.power.memory_pj_per_bit")
    return EnergyReport(
        joules, _fold(cells, 0), _fold(cells, 1), _fold(cells, 2), joules / seconds if seconds else 0.0, missing
    )


def _unit_joules(fpga: FpgaConfig, power: FpgaPower, needs: Mapping[str, Resource], instances: int) -> dict[str, float]:
    """Unit -> joules of a cycle in which it works."""
    assert fpga.resources is not None  # there would be no needs
    picojoules = {"dsp": power.dsp_pj, "bram18": power.bram18_pj, "lut": power.lut_pj, "ff": power.ff_pj}
    found: dict[str, float] = defaultdict(float)
    for kind, price in picojoules.items():
        for entry, count in needs[kind].by_unit.items():
            found[fpga.resources.units[entry].works_with] += count * price * 1e-12
    if "linear" in found:
        found["linear"] /= instances
    return dict(found)


def _costed_as(unit: str, per_cycle: Mapping[str, float]) -> str:
    """The entry for a unit: of its name or, for one of several alike (``linear.query``), of its kind; '' if none."""
    kind = unit.partition(".")[0]
    return unit if unit in per_cycle else kind if kind in per_cycle else ""


def _fold(cells: Mapping[tuple[str, str, int], float], by: int) -> dict:  # type: ignore[type-arg]
    sums: dict[str | int, list[float]] = defaultdict(list)
    for key, joules in cells.items():
        sums[key[by]].append(joules)
    return {name: math.fsum(parts) for name, parts in sorted(sums.items(), key=lambda entry: -math.fsum(entry[1]))}


__all__ = ["BOARD", "MEMORY", "STATIC", "CallActivity", "fpga_energy"]
