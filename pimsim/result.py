"""What a run hands back: figures, attributed, with the manifest that says how they came about.

`Result.to_json` has the shape that scripts read (schema ``pimsim.result/1``): keys are added, never renamed.
"""

from __future__ import annotations

import math
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import pimsim
from pimsim.analysis.baselines import Comparison, compare, load_baseline
from pimsim.analysis.energy import OUTSIDE, EnergyReport, banks_in_scope, energy, is_column_access
from pimsim.analysis.requests import Requests
from pimsim.analysis.resources import Resource
from pimsim.analysis.roofline import Roofs
from pimsim.arch.dram import DramSpec
from pimsim.arch.system import ArchConfig
from pimsim.trace.activity import Activity
from pimsim.trace.totals import RunTotals
from pimsim.workload.config import AnyWorkload, WorkloadConfig

SCHEMA = "pimsim.result/1"
"""Name and version of the JSON shape."""

PACKAGES = ("networkx", "numpy", "pydantic", "pyyaml", "simpy")
"""Packages whose versions a manifest records."""


@dataclass(frozen=True)
class Identity:
    """A configuration: its name and the hash of its resolved content."""

    name: str
    hash: str


@dataclass(frozen=True)
class Time:
    """Length of the run."""

    seconds: float
    cycles: int | float
    """Memory-clock cycles; whole unless commands take half clocks and the run ends on one."""
    clock_hz: float


@dataclass(frozen=True)
class Tokens:
    """What was generated, and how fast on average."""

    prompt: int
    generated: int
    seconds_per_token: float
    """Seconds of the whole run, the prompt included, over generated tokens."""
    per_second: float | None
    """Generated tokens per second; None for a run that takes no time."""


@dataclass(frozen=True)
class Latency:
    """What a user waits for."""

    ttft_s: float
    """Time to first token: until the last pass of the prompts is complete."""
    tpot_s: float | None
    """Time per output token after the first one, of each sequence; None where only one is generated."""


@dataclass(frozen=True)
class Dram:
    """What the memory did, summed over channels."""

    commands: dict[str, int]
    row_hit_rate: float | None
    """Column accesses that needed no activate over column accesses; None without column accesses."""
    refreshes: int
    bytes_read: int
    """Bytes that left over the data pins."""
    bytes_written: int
    """Bytes that came in over the data pins."""


@dataclass(frozen=True)
class Interface:
    """Bytes over the data pins, and what the same workload would move if nothing were computed in memory."""

    bytes: int
    bytes_without_pim: int
    reduction: float | None
    """``bytes_without_pim / bytes``; None where nothing was moved."""


@dataclass(frozen=True)
class Unit:
    """How one unit spent the run."""

    busy_seconds: float
    busy_fraction: float
    stalls: dict[str, float]
    """Reason -> seconds, longest first."""


@dataclass(frozen=True)
class Op:
    """What one kind of operation cost."""

    count: int
    seconds: float
    """Time by which it moved the end of the program; sums to the length of the run."""
    share: float
    """`seconds` over the length of the run."""
    joules: float
    unit: str | None = None
    """On a machine with several units that could do it: which one does."""


@dataclass(frozen=True)
class Link:
    """Traffic of one direction of a link."""

    bytes: int
    joules: float | None
    """None where the energy of a bit is not known."""


@dataclass(frozen=True)
class Layer:
    """What one decoder block cost."""

    name: str
    seconds: float
    joules: float


@dataclass(frozen=True)
class Port:
    """Traffic of one memory port, in whole beats of the fabric."""

    bytes_read: int
    bytes_written: int
    read_share: float
    """Part of the run in which the read channel moves data; likewise `write_share`."""
    write_share: float


@dataclass(frozen=True)
class Simulation:
    """What the simulator itself needed."""

    wall_seconds: float
    commands: int
    """DRAM commands of the run."""
    peak_memory_bytes: int


@dataclass(frozen=True)
class Routing:
    """How tokens of a mixture of experts were routed."""

    source: Literal["given", "drawn", "gates"]
    """given: by the workload; drawn: at random; gates: by what gates computed from weights and input."""
    queues: dict[str, list[int]]
    """Layer -> tokens of each expert."""


@dataclass(frozen=True)
class Manifest:
    """How a result came about."""

    version: str
    commit: str | None
    """Commit of pimsim, if it runs from a checkout."""
    python: str
    packages: dict[str, str]
    command_line: list[str]
    hashes: dict[str, str]


@dataclass(frozen=True)
class Result:
    """Figures of one run; times in seconds, energies in joules."""

    arch: Identity
    workload: Identity
    engine: str
    time: Time
    tokens: Tokens | None
    """None for a run that generates nothing, such as a trace of instructions."""
    energy: EnergyReport
    dram: Dram | None
    """None on a machine without a DRAM model, as is `interface`."""
    interface: Interface | None
    units: dict[str, Unit]
    ops: dict[str, Op]
    """Kinds in order of falling time."""
    layers: list[Layer]
    baselines: dict[str, Comparison]
    simulation: Simulation
    manifest: Manifest
    functional: dict[str, Any] | None = field(default=None)
    ports: dict[str, Port] | None = None
    """Memory ports of a streaming machine."""
    roofline: Roofs | None = None
    """Roofs of the machine and the operations under them; None where none is known."""
    resources: dict[str, Resource] | None = None
    """What a streaming machine needs of its device, by kind; None where no device is named."""
    routing: Routing | None = None
    """Which experts got how many tokens; None without a mixture of experts."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the figures should know about this run."""
    placement: dict[str, str] | None = None
    """On a hybrid machine: kind of work -> ``"pim"`` or ``"fpga"``."""
    prompt_placement: dict[str, str] | None = None
    """The same while prompts are processed as matrices; None where they are not."""
    links: dict[str, Link] | None = None
    """On a hybrid machine: direction of the link -> traffic; ``link_in`` is towards the streaming unit."""
    demand: dict[str, float] | None = None
    """Attention product of a streaming machine -> rows of queries, keys and values that it reads per step of its schedule."""
    latency: Latency | None = None
    """None for a run that generates nothing."""
    requests: Requests | None = None
    """Plain requests to the memory; None where there are none."""
    legality: dict[str, int] | None = None
    """``checked``: commands that the oracle of a strict run found legal; None for a run without it."""
    counts: dict[str, Any] | None = None
    """What an attention algorithm took, counted in its program, beside the closed forms; None elsewhere."""
    memory: dict[str, Any] | None = None
    """Bytes that lie in each unit: peak, what must stay, and the course of both; None where it is not known."""
    pass_seconds: tuple[float, ...] = ()
    """Time at which each forward pass was complete, from the start of the run."""
    activity: Activity | None = None
    """Utilisation and stalls over time; None where none was recorded."""

    def to_json(self) -> dict[str, Any]:
        """Plain values in the shape ``pimsim.result/1``; figures that do not exist are None, never NaN or infinite."""
        plain = asdict(self)
        for cut in ("by_op", "by_layer"):
            del plain["energy"][cut]
        energy_figures = {key: plain["energy"][key] for key in ("joules", "by_component", "average_watts", "uncosted")}
        ordered = {key: plain[key] for key in _ORDER}
        finite: dict[str, Any] = _finite({"schema": SCHEMA, **ordered, "energy": energy_figures})
        return finite

    def to_frame(self) -> Any:
        """Operations as a pandas table: count, seconds, share, joules, one row for each kind.

        Raises:
            InputError: pandas is not installed.
        """
        from pimsim.report.frames import ops_frame

        return ops_frame(self)

    def plot_breakdown(self) -> Any:
        """Time by operation and energy by component, as a ``matplotlib.figure.Figure``."""
        from pimsim.report.plots import plot_breakdown

        return plot_breakdown(self)

    def plot_energy(self) -> Any:
        """Energy by component and by operation, as a ``matplotlib.figure.Figure``."""
        from pimsim.report.plots import plot_energy

        return plot_energy(self)

    def plot_timeline(self) -> Any:
        """What the units did over time if that was recorded, else in all: busy, and what they waited for.

        Returns:
            A ``matplotlib.figure.Figure``.
        """
        from pimsim.report.plots import plot_timeline

        return plot_timeline(self)

    def plot_roofline(self) -> Any:
        """Operations under the roofs of the machine's banks and data pins, as a ``matplotlib.figure.Figure``.

        Raises:
            InputError: no roofline is known of this machine.
        """
        from pimsim.report.plots import plot_roofline

        return plot_roofline(self)

    def _repr_html_(self) -> str:
        """The headline figures for a notebook."""
        from pimsim.report.frames import summary_html

        return summary_html(self)

    def figures(self) -> dict[str, int | float | None]:
        """The headline figures as flat columns, as a sweep stores them."""
        requests = self.requests
        latency, cost = (requests.read_latency, requests.interference) if requests else (None, None)
        return {
            "cycles": self.time.cycles,
            "seconds": self.time.seconds,
            "seconds_per_token": self.tokens.seconds_per_token if self.tokens else None,
            "tokens_per_second": self.tokens.per_second if self.tokens else None,
            "joules": self.energy.joules,
            "joules_per_token": self.energy.joules / self.tokens.generated if self.tokens else None,
            "average_watts": self.energy.average_watts,
            "row_hit_rate": self.dram.row_hit_rate if self.dram else None,
            "refreshes": self.dram.refreshes if self.dram else None,
            "commands": self.simulation.commands,
            "interface_bytes": self.interface.bytes if self.interface else None,
            "interface_reduction": self.interface.reduction if self.interface else None,
            "attention_tokens_per_step": (self.demand or {}).get("attention_scores"),
            "request_bandwidth": requests.bandwidth if requests else None,
            "read_latency": latency.mean if latency else None,
            "slowdown": cost.slowdown if cost else None,
            "wall_seconds": self.simulation.wall_seconds,
        }


_ORDER = (
    "arch",
    "workload",
    "engine",
    "time",
    "tokens",
    "latency",
    "energy",
    "dram",
    "interface",
    "units",
    "ops",
    "layers",
    "ports",
    "demand",
    "notes",
    "roofline",
    "resources",
    "routing",
    "requests",
    "placement",
    "prompt_placement",
    "links",
    "baselines",
    "functional",
    "legality",
    "counts",
    "memory",
    "simulation",
    "manifest",
)
"""Order of the keys of the JSON form after ``schema``."""


def build_result(
    arch: ArchConfig,
    arch_hash: str,
    workload: AnyWorkload,
    workload_hash: str,
    spec: DramSpec,
    totals: RunTotals,
    engine: str,
    traffic: Mapping[str, int],
    wall_seconds: float,
    peak_memory_bytes: int,
    baselines: Sequence[str],
    command_line: Sequence[str],
    functional: dict[str, Any] | None = None,
) -> Result:
    """Fold the counters of a run into a `Result`.

    Args:
        arch: the machine, and ``arch_hash`` the hash of its resolved configuration.
        workload: the workload, and ``workload_hash`` likewise.
        spec: ``arch.dram`` resolved.
        totals: the counters.
        engine: name of the engine that ran.
        traffic: ``bytes`` that crossed the data pins and ``bytes_without_pim`` that it would be without PIM.
        wall_seconds: time that the simulator took.
        peak_memory_bytes: memory that the simulator took.
        baselines: names of the baselines to compare with.
        command_line: what the user typed.
        functional: the report of the functional check, if one was made.

    Raises:
        UnknownName: a baseline is not known.
    """
    joules = energy(totals, arch, spec)
    time = _time(totals, spec)
    return Result(
        arch=Identity(arch.name, arch_hash),
        workload=Identity(workload.name, workload_hash),
        engine=engine,
        time=time,
        tokens=_tokens(workload, time.seconds),
        energy=joules,
        dram=_dram(totals, spec),
        interface=_interface(traffic),
        units=_units(totals, spec),
        ops=_ops(totals, joules, spec),
        layers=_layers(totals, joules, spec),
        baselines=_baselines(workload, baselines, time, joules),
        simulation=Simulation(wall_seconds, sum(totals.commands.values()), peak_memory_bytes),
        manifest=manifest(command_line, {"arch": arch_hash, "workload": workload_hash}),
        functional=functional,
        pass_seconds=tuple(spec.seconds(ticks) for ticks in totals.token_ticks),
    )


def manifest(command_line: Sequence[str], hashes: Mapping[str, str]) -> Manifest:
    """The versions that made a result, with what was typed and the hashes of what went in."""
    return Manifest(
        version=pimsim.__version__,
        commit=_commit(),
        python=platform.python_version(),
        packages={name: version for name in PACKAGES if (version := _version(name))},
        command_line=list(command_line),
        hashes=dict(hashes),
    )


def _time(totals: RunTotals, spec: DramSpec) -> Time:
    cycles, half = divmod(totals.ticks, spec.ticks_per_clock)
    return Time(
        seconds=spec.seconds(totals.ticks),
        cycles=totals.ticks / spec.ticks_per_clock if half else cycles,
        clock_hz=float(10**12 / Fraction(repr(spec.tck_ps))),
    )


def _baselines(workload: AnyWorkload, names: Sequence[str], time: Time, joules: EnergyReport) -> dict[str, Comparison]:
    """Comparisons; baselines are about decoders."""
    if not isinstance(workload, WorkloadConfig):
        return {}
    return {name: compare(load_baseline(name), workload, time.seconds, joules.joules) for name in names}


def _tokens(workload: AnyWorkload, seconds: float) -> Tokens | None:
    if not isinstance(workload, WorkloadConfig):
        return None
    prompt, generated = workload.batch * workload.prompt_tokens, workload.batch * workload.generate_tokens
    return Tokens(prompt, generated, seconds / generated, generated / seconds if seconds else None)


def _dram(totals: RunTotals, spec: DramSpec) -> Dram:
    counts: Counter[str] = Counter()
    for (_, _, name), count in totals.commands.items():
        counts[name] += count
    return dram_figures(counts, spec)


def dram_figures(counts: Mapping[str, int], spec: DramSpec) -> Dram:
    """What a memory did, from the number of its commands by name."""
    moved = {way: sum(n for name, n in counts.items() if spec.commands[name].data == way) for way in ("read", "write")}
    return Dram(
        commands={name: counts[name] for name in spec.commands if counts.get(name)},
        row_hit_rate=_row_hit_rate(counts, spec),
        refreshes=sum(n for name, n in counts.items() if spec.commands[name].refresh),
        bytes_read=moved["read"] * spec.burst_bytes,
        bytes_written=moved["write"] * spec.burst_bytes,
    )


def _row_hit_rate(counts: Mapping[str, int], spec: DramSpec) -> float | None:
    """``1 - activates / column accesses``; a command counts once for each bank that it reaches."""
    accesses = misses = 0
    for name, count in counts.items():
        command = spec.commands[name]
        banks = count * banks_in_scope(command, spec)
        accesses += banks if is_column_access(command) else 0
        misses += banks if command.effect == "open" else 0
    return max(0.0, 1 - misses / accesses) if accesses else None


def _interface(traffic: Mapping[str, int]) -> Interface:
    moved, without = traffic["bytes"], traffic["bytes_without_pim"]
    return Interface(moved, without, without / moved if moved else None)


def _units(totals: RunTotals, spec: DramSpec) -> dict[str, Unit]:
    units = {}
    for name in sorted({*totals.unit_busy, *totals.unit_stalls}, key=_natural):
        busy, stalls = totals.unit_busy[name], totals.unit_stalls.get(name, Counter())
        units[name] = Unit(
            busy_seconds=spec.seconds(busy),
            busy_fraction=busy / totals.ticks if totals.ticks else 0.0,
            stalls={reason: spec.seconds(ticks) for reason, ticks in stalls.most_common()},
        )
    return units


def _natural(name: str) -> tuple[int, int, str]:
    """Sort key: ``channel2.mac`` before ``channel10.mac``, channels before the rest."""
    head, _, tail = name.partition(".")
    number = head.removeprefix("channel")
    return (0, int(number), tail) if number.isdecimal() else (1, 0, name)


def _ops(totals: RunTotals, joules: EnergyReport, spec: DramSpec) -> dict[str, Op]:
    kinds = dict.fromkeys((*(op for op, _ in totals.op_ticks.most_common()), *totals.op_count, *joules.by_op))
    return {
        kind: Op(
            count=totals.op_count[kind],
            seconds=spec.seconds(totals.op_ticks[kind]),
            share=totals.op_ticks[kind] / totals.ticks if totals.ticks else 0.0,
            joules=joules.by_op.get(kind, 0.0),
        )
        for kind in kinds
    }


def _layers(totals: RunTotals, joules: EnergyReport, spec: DramSpec) -> list[Layer]:
    numbers = sorted({*totals.layer_ticks, *joules.by_layer}, key=lambda number: (number == OUTSIDE, number))
    return [
        Layer(
            name="outside the blocks" if number == OUTSIDE else f"block {number}",
            seconds=spec.seconds(totals.layer_ticks[number]),
            joules=joules.by_layer.get(number, 0.0),
        )
        for number in numbers
    ]


@cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@cache
def _commit() -> str | None:
    """The commit of the checkout that this package lies in; None if it is installed or git does not answer."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=2,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def _finite(value: Any) -> Any:
    """``value`` with every NaN and infinity replaced by None."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


__all__ = ["SCHEMA", "Result", "build_result", "manifest"]
