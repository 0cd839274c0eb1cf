"""``pimsim run``: simulate, print the figures, and write results and command traces."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from pimsim.analysis.baselines import default_baselines, load_baseline
from pimsim.arch.dram import DramConfig, DramSpec
from pimsim.arch.fpga import FpgaArchConfig
from pimsim.commands.configs import load_both
from pimsim.commands.output import TABLE_FORMATS, choose, json_text, whole_bytes, whole_file, whole_folder, write_out
from pimsim.commands.progress import progress
from pimsim.config import Loaded
from pimsim.errors import FunctionalMismatch, InputError
from pimsim.program.isa import Where
from pimsim.result import Result
from pimsim.run import simulate_loaded
from pimsim.runners import PLANNED, Engine, RunOptions, TraceRow, find_runner
from pimsim.show import show
from pimsim.trace.csvio import COLUMNS, TraceCommand, make_command

if TYPE_CHECKING:
    from pimsim.commands.timeline import TimelineRequest

ENGINES = ("fast", "reference")


def run(
    arch: str,
    workload: str,
    *,
    overrides: Sequence[str],
    engine: str,
    out: Path | None,
    output: str,
    trace: Path | None,
    trace_limit: int,
    timeline: Path | None,
    timeline_detail: str,
    timeline_window: str,
    baselines: Sequence[str],
    quiet: bool,
    command_line: Sequence[str],
    check_tokens: int = 0,
    strict: bool = False,
) -> None:
    """Simulate and report; the arguments are the options of ``pimsim run``.

    Raises:
        InputError: an option or a configuration is wrong; no file has been written.
        FunctionalMismatch: a check was asked for and failed; results have been written.
        TimingViolation: the run was strict and a command broke a rule of the DRAM; no file has been written.
        SimulationError: the simulation cannot go on.
    """
    choose("engine", engine, ENGINES)
    choose("format", output, TABLE_FORMATS)
    names = list(dict.fromkeys(baselines))
    for name in names:
        load_baseline(name)
    machine, work = load_both(arch, workload, overrides)
    if (machine.value.kind, work.value.kind) in PLANNED:
        run_plan(machine, work, output, out, (trace, timeline, names, check_tokens, strict))
        return
    names = names or list(default_baselines(work.value.kind, work.value))
    if trace is not None:
        check_trace_length(machine, work, trace_limit)
    drawing = timeline_request(timeline, machine, work, timeline_detail, timeline_window)
    rows: list[TraceRow] | None = None if trace is None else []
    if drawing is not None and drawing.rows is not None:
        if rows is not None:
            raise InputError("--trace must be left out where --timeline-detail is command; run twice for both")
        rows = drawing.rows
    with contextlib.ExitStack() as stack:
        files = stack.enter_context(whole_folder(out)) if out is not None else {}
        trace_file = stack.enter_context(whole_file(trace)) if trace is not None else None
        recorder = None
        if timeline is not None and drawing is not None:
            recorder = drawing.open(stack.enter_context(whole_bytes(timeline)))
        options = RunOptions(
            cast(Engine, engine), names, rows, None, command_line, check_tokens=check_tokens, strict=strict
        )
        options = replace(options, activity=out is not None)
        if drawing is not None:
            options = replace(options, trace_window=drawing.trace_window, recorder=recorder)
        with progress("forward passes", quiet=quiet) as report:
            result = simulate_loaded(machine, work, replace(options, progress=report))
        if recorder is not None and drawing is not None:
            drawing.finish(recorder, result)
        text = json_text(result.to_json())
        files |= {"result.json": text, "arch.yaml": show(machine), "workload.yaml": show(work), **activity_file(result)}
        if trace_file is not None and rows is not None:
            write_rows(trace_file, traced_memory(machine.value).resolve(), rows)
    write_out(as_table(result) if output == "table" else text)
    if result.functional is not None and not result.functional["passed"]:
        raise FunctionalMismatch(result.functional["message"])


def as_table(result: Result) -> str:
    """The figures for a terminal."""
    from pimsim.report.terminal import render

    return render(result)


TIMED = ("--trace", "--timeline", "--baseline", "--check", "--strict")
"""Options that need a run that is timed."""


def run_plan(
    arch: Loaded[Any], workload: Loaded[Any], output: str, out: Path | None, timed: tuple[object, ...]
) -> None:
    """Print a plan of buffers, and write it to ``plan.json`` of the folder ``out``.

    Raises:
        InputError: one of ``timed`` was given, the values of the options `TIMED`.
        CapacityExceeded: the buffers do not fit; no file has been written.
    """
    for option in (option for option, value in zip(TIMED, timed, strict=True) if value):
        raise InputError(
            f"{option} must be left out: of {workload.value.name} on {arch.value.name} buffers are planned, nothing is timed"
        )
    from pimsim.plan import plan

    found = plan(arch, workload)
    text = json_text(found.to_json())
    if out is not None:
        with whole_folder(out) as files:
            files |= {"plan.json": text, "arch.yaml": show(arch), "workload.yaml": show(workload)}
    write_out(found.text() if output == "table" else text)


def activity_file(result: Result) -> dict[str, str]:
    """``activity.json`` of a result that has an activity, which the report draws over time; else nothing."""
    if result.activity is None:
        return {}
    plain = {"schema": "pimsim.activity/1", **asdict(result.activity), "pass_seconds": list(result.pass_seconds)}
    return {"activity.json": json.dumps(plain, separators=(",", ":"), allow_nan=False) + "\n"}


def timeline_request(
    path: Path | None, arch: Loaded[Any], workload: Loaded[Any], detail: str, window: str
) -> TimelineRequest | None:
    """The timeline that the options ask for, or None.

    Raises:
        InputError: an option is wrong, or says how to draw what nobody asked for.
    """
    if path is None:
        if window or detail != "op":
            raise InputError("--timeline must name a file where --timeline-window or --timeline-detail is given")
        return None
    from pimsim.commands.timeline import TimelineRequest

    return TimelineRequest(path, arch, workload, detail, window)


def check_trace_length(arch: Loaded[Any], workload: Loaded[Any], limit: int) -> None:
    """Refuse a trace that would be empty or would not fit into memory.

    Raises:
        InputError: the run issues none, or more than ``limit`` commands.
    """
    commands = find_runner(arch, workload).estimate_commands(arch, workload)
    if commands is None:
        raise InputError(
            f"--trace must be left out: {workload.value.name} on {arch.value.name} issues no DRAM commands"
        )
    if commands > limit:
        raise InputError(
            f"--trace must write at most {limit:,} commands, not about {commands:,}; generate fewer tokens, or allow "
            "more with --trace-limit"
        )


def traced_memory(machine: Any) -> DramConfig:
    """The memory whose commands a trace of the machine holds."""
    if isinstance(machine, FpgaArchConfig):
        assert machine.fpga.memory is not None  # a trace without a DRAM has been refused
        assert machine.fpga.memory.dram is not None
        return machine.fpga.memory.dram
    found: DramConfig = machine.dram
    return found


def write_rows(file: TextIO, spec: DramSpec, rows: Iterable[TraceRow]) -> None:
    """Write the commands of a run as a command trace: the columns of the format, then other levels and registers.

    The same as `pimsim.trace.csvio.write_trace` of each row's `make_command`, but the few addresses are put into
    text once: runs have millions of commands.
    """
    extra = [name for name in spec.address_fields if name not in COLUMNS]
    file.write(",".join((*COLUMNS, *extra)) + "\n")
    texts: dict[tuple[int, str, Where], tuple[str, str]] = {}
    for tick, channel, command, where, row, column in rows:
        text = texts.get((channel, command, where))
        if text is None:
            text = texts[channel, command, where] = _address_text(make_command(spec, 0, command, channel, where))
        file.write(f"{tick},{text[0]},{row},{column}{text[1]}\n")


def _address_text(command: TraceCommand) -> tuple[str, str]:
    """The cells of a trace line between the cycle and the row, and those after the column."""
    between = [command.command, *(str(command.where(name)) for name in COLUMNS[2:-2])]
    return ",".join(between), "".join(f",{index}" for _, index in command.extra)


__all__ = ["ENGINES", "check_trace_length", "run", "write_rows"]
