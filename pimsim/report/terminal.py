"""The table of a run: what an architect reads first."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pimsim.report.si import NONE, count, percent, ratio, si, significant
from pimsim.result import Result, Unit

DEFAULT_WIDTH = 100
"""Columns where the terminal does not say how many it has."""

SIDE_BY_SIDE = 96
"""From this width on, operations and energy stand next to each other, if both fit."""

GAP = 4
"""Columns between them."""

MAX_OPS = 18
"""Operation rows; the rest is summed up in one row."""

MAX_STALLS = 3
"""Stall reasons that are named for each unit."""


def render(result: Result, width: int | None = None, *, color: bool | None = None) -> str:
    """The figures of a run as text, about 50 lines.

    Args:
        result: the run.
        width: columns; default is the terminal, or `DEFAULT_WIDTH` where there is none.
        color: default is colour on a terminal unless ``NO_COLOR`` is set.
    """
    if color is None:
        color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    console = Console(
        file=io.StringIO(),
        width=width or shutil.get_terminal_size((DEFAULT_WIDTH, 24)).columns,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        emoji=False,
        markup=False,
        legacy_windows=False,
    )
    with console.capture() as capture:
        for part in _parts(result, console):
            console.print(part)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def _parts(result: Result, console: Console) -> Iterable[RenderableType]:
    yield _headline(result)
    yield ""
    ops, joules = _ops(result), _energy(result)
    both = sum(console.measure(table).maximum for table in (ops, joules))
    if console.width >= max(SIDE_BY_SIDE, both + GAP):
        pair = Table.grid(padding=(0, GAP, 0, 0))
        pair.add_row(ops, joules)
        yield pair
    else:
        yield from (ops, "", joules)
    if result.units:
        yield from ("", _units(result))
    if result.dram is not None:
        yield from ("", _memory(result))
    if result.requests is not None:
        yield from ("", _requests(result))
    if result.links is not None:
        yield from ("", _placement(result))
    if result.ports is not None:
        yield from ("", _ports(result))
    if result.resources is not None:
        yield from ("", _resources(result))
    if result.baselines:
        yield from ("", _baselines(result))
    yield from ("", _footer(result))


def _headline(result: Result) -> RenderableType:
    title = Text.assemble((f"{result.workload.name} on {result.arch.name}", "bold"), f"  ({result.engine} engine)")
    time, tokens, energy = result.time, result.tokens, result.energy
    per_token = f"{si(energy.joules / tokens.generated, 'J')}/token, " if tokens else ""
    incomplete = " + uncosted" if energy.uncosted else ""
    facts = Table.grid(padding=(0, 3, 0, 0))
    facts.add_row(
        "latency", Text(si(time.seconds, "s", 4), "bold"), f"{count(time.cycles)} cycles at {si(time.clock_hz, 'Hz')}"
    )
    if tokens:
        facts.add_row(
            "token",
            Text(si(tokens.seconds_per_token, "s"), "bold"),
            f"{_rate(tokens.per_second)} tokens/s; {tokens.prompt} prompt, {count(tokens.generated)} generated",
        )
    if result.latency:
        each = result.latency.tpot_s
        rest = "" if each is None else f", then {si(each, 's')} for each token of a sequence"
        facts.add_row("first", Text(si(result.latency.ttft_s, "s"), "bold"), f"to the first token{rest}")
    facts.add_row(
        "energy",
        Text(si(energy.joules, "J"), "bold"),
        f"{per_token}{si(energy.average_watts, 'W')} on average{incomplete}",
    )
    return Group(title, Padding(facts, (0, 0, 0, 2)))


def _placement(result: Result) -> RenderableType:
    """Which side does what on a hybrid machine, and what crosses its link."""
    facts = Table.grid(padding=(0, 3, 0, 0))
    for title, placement in (("Placement", result.placement), ("of prompts", result.prompt_placement)):
        if placement is not None:
            facts.add_row(title, ", ".join(f"{work} {side}" for work, side in placement.items()))
    for name, link in (result.links or {}).items():
        joules = "uncosted" if link.joules is None else si(link.joules, "J")
        facts.add_row(name, f"{si(link.bytes, 'B')}, {joules}")
    return facts


def _table(title: str, *columns: str) -> Table:
    """A table without lines; the first column holds names, the others numbers unless they start with ``<``."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column(Text(title, "bold"), no_wrap=True)
    for column in columns:
        left = column.startswith("<")
        table.add_column(column.removeprefix("<"), justify="left" if left else "right", no_wrap=not left)
    return table


def _ops(result: Result) -> Table:
    table = _table("Operation", "count", "time", "share", "energy")
    rows = list(result.ops.items())
    for name, op in rows[:MAX_OPS]:
        table.add_row(
            name,
            count(op.count) if op.count else NONE,
            si(op.seconds, "s") if op.seconds else NONE,
            percent(op.share) if op.seconds else NONE,
            si(op.joules, "J") if op.joules else NONE,
        )
    rest = [op for _, op in rows[MAX_OPS:]]
    if rest:
        table.add_row(
            f"{len(rest)} more",
            count(sum(op.count for op in rest)),
            si(sum(op.seconds for op in rest), "s"),
            percent(sum(op.share for op in rest)),
            si(sum(op.joules for op in rest), "J"),
        )
    return table


def _energy(result: Result) -> Table:
    table = _table("Energy", "", "share")
    total = result.energy.joules
    for name, joules in sorted(result.energy.by_component.items(), key=lambda item: -item[1]):
        table.add_row(name, si(joules, "J"), percent(joules / total if total else 0.0))
    for name in dict.fromkeys(text.split(":")[0] for text in result.energy.uncosted):
        if name not in result.energy.by_component:
            table.add_row(name, "uncosted", NONE, style="yellow")
    return table


def _units(result: Result) -> Table:
    table = _table("Unit", "busy", "", "<waits for (share of the run)")
    for name, units in _alike(result.units).items():
        stalls: dict[str, float] = defaultdict(float)
        for unit in units:
            for reason, seconds in unit.stalls.items():
                stalls[reason] += seconds / len(units)
        busiest = sorted(stalls.items(), key=lambda item: (-item[1], item[0]))
        named = [f"{reason} {percent(_share(seconds, result))}" for reason, seconds in busiest[:MAX_STALLS]]
        if busiest[MAX_STALLS:]:
            named.append(f"other {percent(_share(sum(seconds for _, seconds in busiest[MAX_STALLS:]), result))}")
        table.add_row(
            name,
            percent(_mean([unit.busy_fraction for unit in units])),
            si(_mean([unit.busy_seconds for unit in units]), "s"),
            ", ".join(named) or NONE,
        )
    return table


def _alike(units: dict[str, Unit]) -> dict[str, list[Unit]]:
    """Units of the channels by kind (``"8 x channel.mac"``), then every other unit by itself."""
    kinds: dict[str, list[Unit]] = defaultdict(list)
    for name, unit in units.items():
        kinds[re.sub(r"^channel\d+", "channel", name)].append(unit)
    return {f"{len(members)} x {kind}" if len(members) > 1 else kind: members for kind, members in kinds.items()}


def _share(seconds: float, result: Result) -> float:
    return seconds / result.time.seconds if result.time.seconds else 0.0


def _rate(value: float | None) -> str:
    return NONE if value is None else significant(value)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _memory(result: Result) -> Table:
    dram, interface = result.dram, result.interface
    assert dram is not None
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    commands = sorted(dram.commands.items(), key=lambda item: -item[1])
    table.add_row("Commands", ", ".join(f"{name} {count(number)}" for name, number in commands) or NONE)
    table.add_row("Row hits", f"{percent(dram.row_hit_rate)} of column accesses; {count(dram.refreshes)} refreshes")
    if interface is None:
        table.add_row("Pins", f"read {si(dram.bytes_read, 'B')}, written {si(dram.bytes_written, 'B')}")
        return table
    table.add_row(
        "Interface",
        f"{si(interface.bytes, 'B')} (read {si(dram.bytes_read, 'B')}, written {si(dram.bytes_written, 'B')}); "
        f"without PIM {si(interface.bytes_without_pim, 'B')}, {ratio(interface.reduction)} less traffic",
    )
    return table


def _requests(result: Result) -> Table:
    found = result.requests
    assert found is not None
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    share = found.bandwidth / found.peak_bandwidth
    table.add_row(
        "Requests",
        f"{count(found.reads)} reads, {count(found.writes)} writes, {count(found.forwarded)} answered by the write queue; "
        f"{count(found.hits)} hits, {count(found.misses)} misses, {count(found.conflicts)} conflicts",
    )
    table.add_row(
        "Bandwidth",
        f"{si(found.bandwidth, 'B/s')}, {percent(share)} of the {si(found.peak_bandwidth, 'B/s')} of the pins",
    )
    for name, latency in (("Read latency", found.read_latency), ("Write latency", found.write_latency)):
        if latency is not None:
            parts = {"mean": latency.mean, "median": latency.p50, "99 %": latency.p99, "most": latency.max}
            table.add_row(name, ", ".join(f"{part} {si(seconds, 's')}" for part, seconds in parts.items()))
    if found.interference is not None:
        cost = found.interference
        table.add_row(
            "Program",
            f"{ratio(cost.slowdown)} the time without requests, {si(cost.seconds_alone, 's')}; channels went over to "
            f"requests {count(cost.turns)} times, for {si(cost.host_seconds, 's')} in all",
        )
    return table


def _ports(result: Result) -> Table:
    table = _table("Port", "read", "of the run", "written", "of the run")
    for name, port in (result.ports or {}).items():
        table.add_row(
            name,
            si(port.bytes_read, "B"),
            percent(port.read_share),
            si(port.bytes_written, "B"),
            percent(port.write_share),
        )
    return table


def _resources(result: Result) -> Table:
    table = _table("Resource", "needed", "of the device", "<most for")
    for kind, resource in (result.resources or {}).items():
        largest = sorted(resource.by_unit.items(), key=lambda entry: -entry[1])[:3]
        table.add_row(
            kind,
            count(resource.needed),
            percent(resource.needed / resource.available) if resource.available else NONE,
            ", ".join(f"{unit} {count(number)}" for unit, number in largest if number) or NONE,
        )
    return table


def _baselines(result: Result) -> Table:
    table = _table("Baseline", "latency", "per token", "energy", "speed-up", "energy ratio", "<basis")
    for name, baseline in result.baselines.items():
        table.add_row(
            name,
            si(baseline.seconds, "s"),
            si(baseline.seconds / result.tokens.generated, "s") if result.tokens else NONE,
            si(baseline.joules, "J"),
            ratio(baseline.speedup),
            ratio(baseline.energy_ratio),
            f"{baseline.kind}: {baseline.method}, {baseline.stack}",
        )
    return table


def _numbers(check: Mapping[str, Any]) -> str:
    """What the functional check found, in a line."""
    if not check["passed"]:
        return "FAIL"
    return (
        f"pass: {check['compared']} results in {check['format']} within the errors of their arithmetic; the last one "
        f"{check['max_rel_error']:.2g} off float64, {check['tolerance']:.2g} allowed"
    )


def _footer(result: Result) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    if result.energy.uncosted:
        table.add_row("Uncosted", Text("\n".join(result.energy.uncosted), "yellow"))
    for note in result.notes:
        table.add_row("Note", note)
    if result.functional is not None:
        passed = result.functional.get("passed")
        table.add_row("Numbers", Text(_numbers(result.functional), "green" if passed else "bold red"))
    if result.legality is not None:
        table.add_row(
            "Legality", Text(f"{count(result.legality['checked'])} commands break no rule of the DRAM", "green")
        )
    run = result.simulation
    what = "iterations" if result.ports else "DRAM commands" if result.dram else "commands"
    speed = _rate(run.commands / run.wall_seconds if run.wall_seconds else None)
    table.add_row(
        "Simulator",
        f"{count(run.commands)} {what} in {si(run.wall_seconds, 's')}, {speed} {what.removeprefix('DRAM ')}/s, "
        f"peak memory {si(run.peak_memory_bytes, 'B')}",
    )
    return table


__all__ = ["render"]
