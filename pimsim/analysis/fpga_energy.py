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
    hertz = fpga.clock_mhz * 1e6
    seconds = sum(call.moved for call in calls) / hertz
    power = fpga.power if needs else None
    if power is None:
        missing = [] if fpga.board_power_w is not None else [f"{BOARD}: fpga.board_power_w"]
        return _report(_still(calls, BOARD, fpga.board_power_w, hertz), seconds, missing)
    per_cycle = _unit_joules(fpga, power, needs, instances)
    cells = _still(calls, STATIC, power.static_w, hertz)
    for call in calls:
        for unit, cycles in call.busy.items():
            if entry := _costed_as(unit, per_cycle):
                cells[unit, call.op, call.layer] += cycles * per_cycle[entry]
        if power.memory_pj_per_bit is not None:
            cells[MEMORY, call.op, call.layer] += call.bits * power.memory_pj_per_bit * 1e-12
    used = sorted({unit for call in calls for unit in call.busy})
    missing = [f"{unit}: fpga.resources.units" for unit in used if not _costed_as(unit, per_cycle)]
    if power.static_w is None:
        missing.append(f"{STATIC}: fpga.power.static_w")
    if power.memory_pj_per_bit is None:
        missing.append(f"{MEMORY}: fpga.power.memory_pj_per_bit")
    return _report(cells, seconds, missing)


Cells = dict[tuple[str, str, int], float]
"""(component, operation, layer) -> joules."""


def _still(calls: Sequence[CallActivity], component: str, watts: float | None, hertz: float) -> Cells:
    """Power that does not depend on what works; nothing where it is unknown."""
    cells: Cells = defaultdict(float)
    for call in calls:
        if watts is not None:
            cells[component, call.op, call.layer] += watts * call.moved / hertz
    return cells


def _report(cells: Cells, seconds: float, missing: list[str]) -> EnergyReport:
    joules = math.fsum(cells.values())
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
