"""Runners: how a workload of one kind runs on an architecture of one kind.

A runner is a module with two functions:

* ``simulate(arch, workload, options) -> Result``
* ``estimate_commands(arch, workload) -> int | None``: DRAM commands of the run, about; None if it records no command trace
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from pimsim.errors import MappingError
from pimsim.trace.spans import Recorder

if TYPE_CHECKING:
    from pimsim.config import Loaded
    from pimsim.result import Result

Engine = Literal["fast", "reference"]
Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""

TraceRow = tuple[int, int, str, tuple[int, ...], int, int]
"""(tick, channel, command, address, row, column)."""


@dataclass(frozen=True)
class RunOptions:
    """How to run, apart from what."""

    engine: Engine = "fast"
    baselines: Sequence[str] = ()
    """Names of baselines to compare with."""
    trace: list[TraceRow] | None = None
    """Filled with every DRAM command, sorted by tick and channel."""
    progress: Progress | None = None
    command_line: Sequence[str] = ()
    """What the user typed, for the manifest."""
    trace_window: tuple[int, int] | None = None
    """Ticks from which and before which commands are traced; None traces all of the run."""
    recorder: Recorder | None = None
    """Told every step of every unit."""
    strict: bool = False
    """Whether the legality oracle checks every command as it issues; the first illegal one ends the run."""
    check_tokens: int = 0
    """Forward passes whose results are compared with the reference; 0 compares none."""
    activity: bool = False
    """Whether utilisation and stalls over time are recorded, on machines that can."""


def attention_machines() -> dict[str, list[str]]:
    """Attention algorithm -> kinds of architecture that run it by itself, by what their runners say."""
    found: dict[str, list[str]] = {}
    for (machine, work), module in RUNNERS.items():
        if work == "attention":
            for name in import_module(module).attention_algorithms():
                found.setdefault(name, []).append(machine)
    return found


class Runner(Protocol):
    """What a module of this package offers."""

    def simulate(self, arch: Loaded[Any], workload: Loaded[Any], options: RunOptions) -> Result:
        """Run the workload on the machine."""

    def estimate_commands(self, arch: Loaded[Any], workload: Loaded[Any]) -> int | None:
        """DRAM commands of the run, about; None if the run records no command trace."""


RUNNERS: dict[tuple[str, str], str] = {
    ("pim", "decoder"): "pimsim.runners.pim_decoder",
    ("hybrid", "decoder"): "pimsim.runners.hybrid_decoder",
    ("aim", "trace"): "pimsim.runners.aim_trace",
    ("aim", "decoder"): "pimsim.runners.aim_decoder",
    ("pim", "attention"): "pimsim.runners.pim_attention",
    ("hybrid", "attention"): "pimsim.runners.hybrid_attention",
    ("fpga", "attention"): "pimsim.runners.fpga",
    ("fpga", "encoder"): "pimsim.runners.fpga_encoder",
    ("fpga", "decoder"): "pimsim.runners.fpga_decoder",
    ("memory", "requests"): "pimsim.runners.memory",
    ("fpga", "classifier"): "pimsim.runners.fpga_classifier",
    ("pim", "classifier"): "pimsim.runners.pim_classifier",
}
"""(kind of architecture, kind of workload) -> module."""

PLANNED = {("mcu", "vit"), ("mcu", "classifier")}
"""Pairs of which nothing is timed, so that a run is a plan of buffers: see `pimsim.plan`."""

COMMANDED = {
    ("pim", "decoder"),
    ("hybrid", "decoder"),
    ("pim", "attention"),
    ("hybrid", "attention"),
    ("aim", "trace"),
    ("aim", "decoder"),
    ("memory", "requests"),
    ("fpga", "attention"),
    ("fpga", "encoder"),
    ("fpga", "classifier"),
    ("pim", "classifier"),
    ("fpga", "decoder"),
}
"""Pairs whose runs issue DRAM commands, a streaming machine if it has a DRAM, which the legality oracle can check."""

CHECKED = {
    ("pim", "decoder"),
    ("hybrid", "decoder"),
    ("pim", "attention"),
    ("hybrid", "attention"),
    ("fpga", "attention"),
    ("fpga", "encoder"),
    ("fpga", "classifier"),
    ("pim", "classifier"),
    ("fpga", "decoder"),
}
"""Pairs whose programs can be checked on numbers."""


def find_runner(arch: Loaded[Any], workload: Loaded[Any]) -> Runner:
    """The runner of a pair.

    Raises:
        MappingError: workloads of this kind do not run on architectures of this kind; the error says which do. Or a run is
            a plan of buffers.
    """
    pair = (arch.value.kind, workload.value.kind)
    if pair in PLANNED:
        raise MappingError(
            f"{workload.value.name} on {arch.value.name} must be planned, by `pimsim run` without other options or "
            "`pimsim.plan.plan`: nothing of it is timed"
        )
    if pair not in RUNNERS:
        fitting = sorted(work for machine, work in [*RUNNERS, *PLANNED] if machine == pair[0])
        raise MappingError(
            f"a workload for {arch.value.name}, an architecture of kind {pair[0]}, must be of kind "
            f"{' or '.join(fitting) or '(none)'}, not {pair[1]} as {workload.value.name} is"
        )
    return cast(Runner, import_module(RUNNERS[pair]))


__all__ = [
    "CHECKED",
    "COMMANDED",
    "PLANNED",
    "RUNNERS",
    "Engine",
    "Progress",
    "RunOptions",
    "Runner",
    "TraceRow",
    "attention_machines",
    "find_runner",
]
