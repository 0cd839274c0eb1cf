"""The composition root: from an architecture and a workload to a result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pimsim.config import Loaded, load_arch, load_workload, split_overrides
from pimsim.errors import InputError
from pimsim.result import Result
from pimsim.runners import CHECKED, COMMANDED, Engine, Progress, RunOptions, TraceRow, find_runner


def simulate(
    arch: str,
    workload: str,
    *,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    engine: Engine = "fast",
    baselines: Sequence[str] = (),
    trace: list[TraceRow] | None = None,
    progress: Progress | None = None,
    command_line: Sequence[str] = (),
    check_tokens: int = 0,
    strict: bool = False,
    activity: bool = False,
    **fields: Any,
) -> Result:
    """Simulate a workload on an architecture.

    Args:
        arch: name of a shipped architecture, or path of a YAML file.
        workload: likewise.
        overrides: ``["arch.dram.channels=16"]`` and the like, or ``{"arch.dram.channels": 16}``.
        engine: ``"fast"`` or ``"reference"``; both give the same cycles.
        baselines: names of baselines to compare with.
        trace: filled with every DRAM command, sorted by tick and channel (only for short runs).
        progress: called after every step of the run, such as a forward pass.
        command_line: what the user typed, for the manifest.
        check_tokens: forward passes whose numbers are compared with the reference, see ``functional`` of the result.
        strict: let the legality oracle check every command as it issues.
        activity: record utilisation and stalls over time, on machines that can (`Result.activity`).
        fields: more overrides, with two underscores for a dot: ``arch__dram__channels=16``.

    Raises:
        InputError: something in the input is wrong; the message says what and where. Baselines are looked up before the run.
        TimingViolation: ``strict``, and a command broke a rule of the DRAM.
    """
    options = split_overrides(override_texts(overrides, fields))
    return simulate_loaded(
        load_arch(arch, options["arch"]),
        load_workload(workload, options["workload"]),
        RunOptions(
            engine,
            baselines,
            trace,
            progress,
            command_line,
            check_tokens=check_tokens,
            strict=strict,
            activity=activity,
        ),
    )


def override_texts(overrides: Sequence[str] | Mapping[str, Any], fields: Mapping[str, Any]) -> list[str]:
    """Overrides as ``--set`` takes them.

    >>> override_texts({"arch.dram.channels": 16}, {"workload__attention": "vanilla"})
    ['arch.dram.channels=16', 'workload.attention=vanilla']
    """
    given = dict(overrides) if isinstance(overrides, Mapping) else {}
    given |= {name.replace("__", "."): value for name, value in fields.items()}
    texts = [] if isinstance(overrides, Mapping) else list(overrides)
    return [
        *texts,
        *(f"{path}={value if isinstance(value, str) else json.dumps(value)}" for path, value in given.items()),
    ]


def simulate_loaded(arch: Loaded[Any], workload: Loaded[Any], options: RunOptions | None = None) -> Result:
    """`simulate` for configurations that are loaded already.

    Raises:
        MappingError: workloads of this kind do not run on architectures of this kind.
        InputError: a check is asked for that this pair does not have.
        TimingViolation: a strict run issued a command against a rule of the DRAM.
    """
    runner = find_runner(arch, workload)
    if getattr(arch.value, "host_traffic", None) is not None and workload.value.kind != "decoder":
        raise arch.tree.error(
            f"must be null for a workload of kind {workload.value.kind}; only decoders run beside requests",
            ("host_traffic",),
        )
    if options is not None and options.strict and (arch.value.kind, workload.value.kind) not in COMMANDED:
        raise InputError(
            f"--strict must be left out: {workload.value.name} on {arch.value.name} issues no DRAM commands that could be checked"
        )
    if options is not None and options.check_tokens and (arch.value.kind, workload.value.kind) not in CHECKED:
        pairs = ", ".join(f"{work} on {machine}" for machine, work in sorted(CHECKED))
        raise InputError(
            f"--check must be left out: a workload of kind {workload.value.kind} on an architecture of kind "
            f"{arch.value.kind} has no check of its numbers (kinds that have one: {pairs})"
        )
    return runner.simulate(arch, workload, options or RunOptions())


__all__ = ["simulate", "simulate_loaded"]
