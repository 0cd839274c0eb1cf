"""The composition root: from an architecture and a workload to a result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pimsim.config import Loaded, load_arch, load_workload, split_overrides
from pimsim.result import Result
from pimsim.runners import Engine, Progress, RunOptions, TraceRow, find_runner


def simulate(
    arch: str,
    workload: str,
    *,
    overrides: Sequence[str] = (),
    engine: Engine = "fast",
    baselines: Sequence[str] = (),
    trace: list[TraceRow] | None = None,
    progress: Progress | None = None,
    command_line: Sequence[str] = (),
) -> Result:
    """Simulate a workload on an architecture.

    Args:
        arch: name of a shipped architecture, or path of a YAML file.
        workload: likewise.
        overrides: ``"arch.dram.channels=16"`` and the like.
        engine: ``"fast"`` or ``"reference"``; both give the same cycles.
        baselines: names of baselines to compare with.
        trace: filled with every DRAM command, sorted by tick and channel (only for short runs).
        progress: called after every step of the run, such as a forward pass.

    Raises:
        InputError: something in the input is wrong; the message says what and where. Baselines are looked up before the run.
    """
    options = split_overrides(overrides)
    return simulate_loaded(
        load_arch(arch, options["arch"]),
        load_workload(workload, options["workload"]),
        RunOptions(engine, baselines, trace, progress, command_line),
    )


def simulate_loaded(arch: Loaded[Any], workload: Loaded[Any], options: RunOptions | None = None) -> Result:
    """`simulate` for configurations that are loaded already.

    Raises:
        MappingError: workloads of this kind do not run on architectures of this kind.
    """
    return find_runner(arch, workload).simulate(arch, workload, options or RunOptions())


__all__ = ["simulate", "simulate_loaded"]
