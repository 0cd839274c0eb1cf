"""Where the joules went: a fold over the counters of a run, never a second run.

A DRAM command costs what its current adds to the standby current of the device, ``VDD x I x t`` (volt, ampere, second),
once for each device that it reaches. The formulas are those of Micron's power notes TN-41-01 (DDR3) and TN-40-07
(DDR4), which DRAMsim3 (``configuration.cc``) and DRAMPower also use:

============  ==============================================================================================
component     joules
============  ==============================================================================================
activate      ``VDD (IDD0 nRC - IDD3N nRAS - IDD2N (nRC - nRAS)) tCK`` for one activate-precharge pair
              (`activate_joules` has the case in which that is negative)
read, write   ``VDD (IDD4R - IDD3N) burst time``, ``VDD (IDD4W - IDD3N) burst time``
column_mac    a read burst that does not reach the pins, times ``energy.all_bank_column_charge``
refresh       ``VDD (IDD5B - IDD3N) nRFC tCK``
background    ``VDD (IDD3N x active time + IDD2N x the rest)``
mac_units     ``energy.mac_units_power_mw x`` the interval at which MACs follow each other
interface     bits over the data pins ``x energy.interface_pj_per_bit``
asic          ``energy.asic_busy_power_mw x`` busy time
asic_idle     ``energy.asic_idle_power_mw x`` the rest of the run
fpga          ``fpga.busy_power_w x`` the time in which a region of the streaming unit runs (hybrid machines)
fpga_idle     ``fpga.idle_power_w x`` the rest of the run
link          bits over the link ``x link.pj_per_bit``
============  ==============================================================================================

Commands are told apart by what they do (`pimsim.arch.dram.Command`), never by name. A precharge is free because the
activate has paid for it. An all-bank activate is charged as ``energy.all_bank_activate_charge`` single ones.

During a refresh the device counts as active, as in DRAMPower: ``IDD5B - IDD3N`` is an increment over active standby,
so a refresh draws ``IDD5B`` in all. (DRAMsim3 leaves the device in precharge standby and so loses
``VDD (IDD3N - IDD2N) nRFC``.)

A coefficient that is missing is listed in `EnergyReport.uncosted`, and the component is left out of the sums; it is
never zero.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar, cast

from pimsim.arch.dram import Command, DramConfig, DramElectrical, DramSpec
from pimsim.arch.formats import format_bytes
from pimsim.arch.system import ArchConfig, AsicConfig, EnergyConfig
from pimsim.errors import UnknownCoefficient
from pimsim.trace.totals import RunTotals

if TYPE_CHECKING:  # most machines are not hybrid
    from pimsim.arch.hybrid import HybridConfig

K = TypeVar("K")

COMPONENTS = (
    "activate",
    "column_mac",
    "read",
    "write",
    "refresh",
    "background",
    "mac_units",
    "interface",
    "asic",
    "asic_idle",
    "fpga",
    "fpga_idle",
    "link",
)
"""Every component that a report may have, in the order in which tables show them."""

BACKGROUND = "background"
"""The operation to which standby of the DRAM and waiting of the ASIC are attributed."""

OUTSIDE = -1
"""The layer of what belongs to no decoder block."""


class DramCoefficients(Protocol):
    """What the DRAM part of the model reads besides currents; None is unknown."""

    @property
    def all_bank_activate_charge(self) -> float | None:
        """Single-bank activates that one all-bank activate costs."""

    @property
    def all_bank_column_charge(self) -> float | None:
        """Column reads that one all-bank MAC costs."""

    @property
    def mac_units_power_mw(self) -> float | None:
        """Power of the MAC units of one channel while they compute."""

    @property
    def interface_pj_per_bit(self) -> float | None:
        """Energy per bit on the data pins."""


class DramMachine(Protocol):
    """What the DRAM part of the model reads of a machine (`pimsim.arch.system.ArchConfig` is one)."""

    @property
    def dram(self) -> DramConfig:
        """The memory, with its currents."""

    @property
    def energy(self) -> DramCoefficients:
        """What its currents do not say."""


class Machine(Protocol):
    """What the model reads of a machine with a controller (`pimsim.arch.system.ArchConfig` is one)."""

    has_streaming_unit: ClassVar[bool]
    """Whether it is a `pimsim.arch.hybrid.HybridConfig`."""

    @property
    def dram(self) -> DramConfig:
        """The memory, with its currents."""

    @property
    def energy(self) -> EnergyConfig:
        """What its currents do not say."""

    @property
    def asic(self) -> AsicConfig:
        """The controller."""


@dataclass(frozen=True)
class UnknownCoefficients:
    """A memory of which nothing but its data sheet is known."""

    all_bank_activate_charge: float | None = None
    all_bank_column_charge: float | None = None
    mac_units_power_mw: float | None = None
    interface_pj_per_bit: float | None = None


@dataclass(frozen=True)
class Memory:
    """A memory alone, without a machine around it."""

    dram: DramConfig
    energy: UnknownCoefficients = UnknownCoefficients()


@dataclass(frozen=True)
class EnergyReport:
    """Energy of a run in joules, cut in three ways that have the same sum."""

    joules: float
    by_component: dict[str, float]
    """Component -> joules; a component none of whose coefficients is known is absent."""
    by_op: dict[str, float]
    """Operation -> joules; also ``"refresh"`` and ``"background"``."""
    by_layer: dict[int, float]
    """Decoder block -> joules; standby, waiting and what lies outside the blocks are under -1."""
    average_watts: float
    uncosted: list[str]
    """What the run did that has no coefficient, as ``"component: what is missing"``."""


def energy(totals: RunTotals, arch: Machine, spec: DramSpec) -> EnergyReport:
    """Cost a run.

    Args:
        totals: the counters of the run.
        arch: the machine; ``arch.dram.electrical`` and ``arch.energy`` are read.
        spec: ``arch.dram`` resolved.

    Raises:
        UnknownCoefficient: the run holds a command that the DRAM does not have.
    """
    parts = [*_dram_cells(totals, arch, spec), _asic_cells(totals, arch, spec)]
    if arch.has_streaming_unit:
        hybrid = cast("HybridConfig", arch)
        parts += [_stream_cells(totals, hybrid, spec), _link_cells(totals, hybrid)]
    return _report(totals, spec, parts)


def dram_energy(totals: RunTotals, machine: DramMachine, spec: DramSpec) -> EnergyReport:
    """Cost the DRAM of a run alone: commands and standby.

    Raises:
        UnknownCoefficient: the run holds a command that the DRAM does not have.
    """
    return _report(totals, spec, _dram_cells(totals, machine, spec))


def _dram_cells(totals: RunTotals, machine: DramMachine, spec: DramSpec) -> list[tuple[list[Cell], list[str]]]:
    return [_command_cells(totals, machine, spec), _background_cells(totals, machine, spec)]


def _report(totals: RunTotals, spec: DramSpec, parts: list[tuple[list[Cell], list[str]]]) -> EnergyReport:
    cells: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    uncosted: dict[str, None] = {}
    for costs, missing in parts:
        for key, joules in costs:
            cells[key].append(joules)
        uncosted.update(dict.fromkeys(missing))
    sums = {key: math.fsum(parts) for key, parts in cells.items()}
    total, seconds = math.fsum(sums.values()), totals.ticks * spec.tick_seconds
    return EnergyReport(
        joules=total,
        by_component=_by_component(sums),
        by_op=_marginal(sums, lambda key: key[1]),
        by_layer=dict(sorted(_marginal(sums, lambda key: key[2]).items())),
        average_watts=total / seconds if seconds else 0.0,
        uncosted=sorted(uncosted, key=lambda text: (COMPONENTS.index(text.split(":")[0]), text)),
    )


def explain_energy_gap(arch: ArchConfig, totals: RunTotals, spec: DramSpec, ratio: float = 2.75) -> float:
    """The column charge at which a run needs ``ratio`` times the energy that it needs with a charge of one.

    The two versions of the PIM-GPT paper (arXiv 2310.09385 v1 and v2) have the same speed-ups and energy gains that
    differ by a factor of 2.71 to 2.83. ``energy.all_bank_column_charge``, how many single-bank IDD4R bursts an all-bank
    MAC is charged as, enters the total linearly: ``E(k) = rest + k c``. From ``E(k) = ratio E(1)`` follows
    ``k = (ratio (rest + c) - rest) / c``.

    Raises:
        UnknownCoefficient: the run holds no in-bank MAC, or its array read has no coefficient.
    """
    report = energy(totals, arch, spec)
    charged = report.by_component.get("column_mac", 0.0)
    if not charged:
        raise UnknownCoefficient("the energy of column_mac must be known and not zero; no column charge explains a gap")
    one = charged / arch.energy.all_bank_column_charge
    rest = report.joules - charged
    return (ratio * (rest + one) - rest) / one


# What a command does


def is_mac(command: Command) -> bool:
    """Whether the command is an in-bank MAC: a column access of open rows that moves no data over the pins."""
    return command.needs == "open" and command.data == "none" and command.effect == "none" and not command.refresh


def is_column_access(command: Command) -> bool:
    """Whether the command accesses a column of open rows: a read, a write or an in-bank MAC."""
    return is_mac(command) or (command.needs == "open" and command.data != "none")


def banks_in_scope(command: Command, spec: DramSpec) -> int:
    """How many banks of one channel the command reaches."""
    if command.scope not in spec.levels:
        return spec.banks_per_channel
    return math.prod(spec.counts[spec.levels.index(command.scope) + 1 :])


# What one command costs


def command_joules(command: Command, arch: DramMachine, spec: DramSpec) -> tuple[dict[str, float], dict[str, str]]:
    """Energy of one command of one channel.

    Returns:
        Component -> joules, and component -> what is missing for those without a coefficient. A command that costs
        nothing of its own (a precharge, a no-operation) has neither.
    """
    costs: dict[str, float] = {}
    missing: dict[str, str] = {}
    for component, applies, price in _PRICES:
        if applies(command):
            try:
                costs[component] = price(command, arch, spec)
            except UnknownCoefficient as unknown:
                missing[component] = f"{component}: {unknown}"
    return costs, missing


def activate_joules(command: Command, arch: DramMachine, spec: DramSpec) -> float:
    """Energy of an activate and of the precharge that ends it.

    IDD0 is the mean current over nRC of a bank that is opened and closed without rest. What it holds beyond standby is
    ``IDD0 nRC - (IDD3N nRAS + IDD2N (nRC - nRAS))`` (TN-41-01, equation 10; DRAMsim3 ``act_energy_inc``). In some data
    sheets IDD3N was measured with all banks open and is larger than IDD0 with one bank open; PIM-GPT's set, taken from
    16 Gb DDR5, is one (IDD0 122 mA, IDD3N 142 mA). The difference is then negative and means nothing. The increment
    over precharge standby, ``(IDD0 - IDD2N) nRC``, is used instead; it counts the open row twice, once here and once
    in the background, and so is an upper bound.
    """
    electrical = _electrical(arch)
    ras = _ticks(spec, "nRAS")
    row_cycle = _ticks(spec, "nRC", optional=True) or ras + _ticks(spec, "nRP")
    standby = electrical.idd3n_ma * ras + electrical.idd2n_ma * (row_cycle - ras)
    charge = electrical.idd0_ma * row_cycle - standby
    if charge < 0:
        charge = (electrical.idd0_ma - electrical.idd2n_ma) * row_cycle
    if charge < 0:
        raise UnknownCoefficient("dram.electrical.idd0_ma must be at least idd2n_ma")
    single = _joules(charge, electrical, spec) * _devices(command, electrical, spec)
    return single * _bank_charge(command, spec, arch.energy.all_bank_activate_charge, "energy.all_bank_activate_charge")


def read_joules(command: Command, arch: DramMachine, spec: DramSpec) -> float:
    """Core energy of a read burst: ``VDD (IDD4R - IDD3N) burst time`` (TN-41-01; DRAMsim3 ``read_energy_inc``)."""
    return _burst_joules(command, _electrical(arch).idd4r_ma, "idd4r_ma", arch, spec)


def write_joules(command: Command, arch: DramMachine, spec: DramSpec) -> float:
    """Core energy of a write burst: ``VDD (IDD4W - IDD3N) burst time`` (TN-41-01; DRAMsim3 ``write_energy_inc``)."""
    return _burst_joules(command, _electrical(arch).idd4w_ma, "idd4w_ma", arch, spec)


def column_mac_joules(command: Command, arch: DramMachine, spec: DramSpec) -> float:
    """Array energy of an in-bank MAC: a read burst without pins, times ``all_bank_column_charge`` if all banks read."""
    charge = _bank_charge(command, spec, arch.energy.all_bank_column_charge, "energy.all_bank_column_charge")
    return read_joules(command, arch, spec) * charge


def refresh_joules(command: Command, arch: DramMachine, spec: DramSpec) -> float:
    """Energy of an all-bank refresh: ``VDD (IDD5B - IDD3N) nRFC`` (TN-41-01; DRAMsim3 ``ref_energy_inc``)."""
    electrical = _electrical(arch)
    if command.scope == spec.levels[-1]:
        raise UnknownCoefficient(f"dram.electrical has no current for the per-bank refresh {command.name}")
    if electrical.idd5b_ma < electrical.idd3n_ma:
        raise UnknownCoefficient("dram.electrical.idd5b_ma must be at least idd3n_ma")
    charge = (electrical.idd5b_ma - electrical.idd3n_ma) * _ticks(spec, "nRFC")
    return _joules(charge, electrical, spec) * _devices(command, electrical, spec)


def mac_units_joules(command: Command, arch: DramMachine, spec: DramSpec) -> float:
    """Energy of the MAC units in one in-bank MAC: their power times the interval at which MACs can follow."""
    milliwatts = _known(arch.energy.mac_units_power_mw, "energy.mac_units_power_mw")
    share = banks_in_scope(command, spec) / spec.banks_per_channel
    return milliwatts * 1e-3 * share * issue_interval(command, spec) * spec.tick_seconds


def interface_joules(_command: Command, arch: DramMachine, spec: DramSpec) -> float:
    """Energy of one burst on the data pins: bits times picojoules per bit."""
    return spec.burst_bytes * 8 * _known(arch.energy.interface_pj_per_bit, "energy.interface_pj_per_bit") * 1e-12


def issue_interval(command: Command, spec: DramSpec) -> int:
    """Ticks between two commands of this kind that follow each other without rest to the same place."""
    gaps = [
        rule.gap
        for rule in spec.rules
        if command.name in rule.prev and command.name in rule.next and rule.window == 1 and not rule.sibling
    ]
    return max(gaps, default=0) or command.ticks


Price = Callable[[Command, DramMachine, DramSpec], float]

_PRICES: tuple[tuple[str, Callable[[Command], bool], Price], ...] = (
    ("activate", lambda command: command.effect == "open", activate_joules),
    ("column_mac", is_mac, column_mac_joules),
    ("mac_units", is_mac, mac_units_joules),
    ("read", lambda command: command.needs == "open" and command.data == "read", read_joules),
    ("write", lambda command: command.needs == "open" and command.data == "write", write_joules),
    ("interface", lambda command: command.data != "none", interface_joules),
    ("refresh", lambda command: command.refresh, refresh_joules),
)
"""Component, which commands have it, and what one of them costs."""


def _burst_joules(command: Command, current: float, name: str, arch: DramMachine, spec: DramSpec) -> float:
    electrical = _electrical(arch)
    if current < electrical.idd3n_ma:
        raise UnknownCoefficient(f"dram.electrical.{name} must be at least idd3n_ma")
    charge = (current - electrical.idd3n_ma) * burst_ticks(arch, spec)
    return _joules(charge, electrical, spec) * _devices(command, electrical, spec)


def burst_ticks(arch: DramMachine, spec: DramSpec) -> float:
    """Length of one burst in ticks: ``nBL``, or else the bytes of a burst at the rate of the pins."""
    ticks = _ticks(spec, "nBL", optional=True)
    if ticks:
        return ticks
    if arch.dram.pins is None or arch.dram.pin_gbps is None:
        raise UnknownCoefficient("dram.timing.nBL, or dram.pins and dram.pin_gbps, must be given")
    return spec.burst_bytes * 8 / (arch.dram.pins * arch.dram.pin_gbps) * 1e3 / spec.tck_ps * spec.ticks_per_clock


def _electrical(arch: DramMachine) -> DramElectrical:
    if arch.dram.electrical is None:
        raise UnknownCoefficient("dram.electrical is not given")
    return arch.dram.electrical


def _known(value: float | None, path: str) -> float:
    if value is None:
        raise UnknownCoefficient(f"{path} is not given")
    return value


def _ticks(spec: DramSpec, name: str, *, optional: bool = False) -> int:
    """A timing value in ticks; zero where an optional one is not given."""
    if name not in spec.timing and not optional:
        raise UnknownCoefficient(f"dram.timing.{name} is not given")
    return spec.timing.get(name, 0)


def _joules(milliampere_ticks: float, electrical: DramElectrical, spec: DramSpec) -> float:
    return electrical.vdd_v * milliampere_ticks * 1e-3 * spec.tick_seconds


def _devices(command: Command, electrical: DramElectrical, spec: DramSpec) -> float:
    """Devices of a channel that a command reaches: those of one rank, unless it addresses the channel."""
    ranks = spec.counts[spec.levels.index("rank")] if "rank" in spec.levels else 1
    return electrical.devices_per_channel / (ranks if command.scope in spec.levels else 1)


def _bank_charge(command: Command, spec: DramSpec, all_banks: float | None, path: str) -> float:
    """Single-bank commands that this one costs, ``all_banks`` being the figure for every bank of the channel."""
    banks = banks_in_scope(command, spec)
    return 1.0 if banks == 1 else _known(all_banks, path) * banks / spec.banks_per_channel


# Folds

Cell = tuple[tuple[str, str, int], float]
"""((component, op, layer), joules)."""


def _command_cells(totals: RunTotals, arch: DramMachine, spec: DramSpec) -> tuple[list[Cell], list[str]]:
    prices = {name: command_joules(command, arch, spec) for name, command in spec.commands.items()}
    cells: list[Cell] = []
    uncosted: list[str] = []
    for (op, layer, name), count in totals.commands.items():
        if name not in prices:
            raise UnknownCoefficient(f"a command must be one of {', '.join(spec.commands)}, not {name!r}")
        costs, missing = prices[name]
        cells += [((component, op, layer), count * joules) for component, joules in costs.items()]
        uncosted += missing.values() if count else ()
    return cells, uncosted


def _background_cells(totals: RunTotals, arch: DramMachine, spec: DramSpec) -> tuple[list[Cell], list[str]]:
    try:
        electrical = _electrical(arch)
    except UnknownCoefficient as unknown:
        return [], [f"background: {unknown}"]
    refreshes = sum(count for (_, _, name), count in totals.commands.items() if spec.commands[name].refresh)
    refreshing = refreshes * _ticks(spec, "nRFC", optional=True)
    total = totals.ticks * spec.channels
    active = min(totals.row_open_ticks + refreshing, total)
    charge = electrical.idd3n_ma * active + electrical.idd2n_ma * (total - active)
    return [
        (("background", BACKGROUND, OUTSIDE), _joules(charge, electrical, spec) * electrical.devices_per_channel)
    ], []


def _asic_cells(totals: RunTotals, arch: Machine, spec: DramSpec) -> tuple[list[Cell], list[str]]:
    busy_mw, idle_mw = arch.energy.asic_busy_power_mw, arch.energy.asic_idle_power_mw
    cycle = 1e-6 / arch.asic.clock_mhz
    busy = sum(totals.asic_cycles.values()) * cycle
    idle = max(0.0, totals.ticks * spec.tick_seconds - busy)
    cells: list[Cell] = []
    uncosted: list[str] = []
    if busy_mw is not None:
        joules_per_cycle = busy_mw * 1e-3 * cycle
        cells += [(("asic", op, layer), n * joules_per_cycle) for (op, layer), n in totals.asic_cycles.items()]
    elif busy:
        uncosted.append("asic: energy.asic_busy_power_mw is not given")
    if idle_mw is not None:
        cells.append((("asic_idle", BACKGROUND, OUTSIDE), idle_mw * 1e-3 * idle))
    elif idle:
        uncosted.append("asic_idle: energy.asic_idle_power_mw is not given")
    return cells, uncosted


def _stream_cells(totals: RunTotals, arch: HybridConfig, spec: DramSpec) -> tuple[list[Cell], list[str]]:
    busy_w, idle_w = arch.fpga.busy_power_w, arch.fpga.idle_power_w
    cycle = 1e-6 / arch.fpga.clock_mhz
    works = {(op, layer): n for (unit, op, layer), n in totals.unit_cycles.items() if unit == "fpga"}
    idle = max(0.0, totals.ticks * spec.tick_seconds - sum(works.values()) * cycle)
    cells: list[Cell] = []
    uncosted: list[str] = []
    if busy_w is not None:
        cells += [(("fpga", op, layer), n * cycle * busy_w) for (op, layer), n in works.items()]
    elif works:
        uncosted.append("fpga: fpga.busy_power_w is not given")
    if idle_w is not None:
        cells.append((("fpga_idle", BACKGROUND, OUTSIDE), idle_w * idle))
    elif idle:
        uncosted.append("fpga_idle: fpga.idle_power_w is not given")
    return cells, uncosted


def _link_cells(totals: RunTotals, arch: HybridConfig) -> tuple[list[Cell], list[str]]:
    if arch.link.pj_per_bit is None:
        return [], ["link: link.pj_per_bit is not given"] if totals.link_elements else []
    element = 8 * format_bytes(arch.pim.format) * arch.link.pj_per_bit * 1e-12
    return [(("link", op, layer), n * element) for (_, op, layer), n in totals.link_elements.items()], []


def _by_component(cells: Mapping[tuple[str, str, int], float]) -> dict[str, float]:
    sums = _marginal(cells, lambda key: key[0])
    return {component: sums[component] for component in COMPONENTS if component in sums}


def _marginal(cells: Mapping[tuple[str, str, int], float], key: Callable[[tuple[str, str, int]], K]) -> dict[K, float]:
    parts: dict[K, list[float]] = defaultdict(list)
    for cell, joules in cells.items():
        parts[key(cell)].append(joules)
    return {name: math.fsum(joules) for name, joules in parts.items()}
