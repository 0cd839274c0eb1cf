"""Checks across fields of a DRAM standard, and limits far beyond any real part."""

from __future__ import annotations

import math
import re

from pimsim.arch.dram import Command, DramConfig, DramSpec
from pimsim.errors import ConfigError
from pimsim.yamlio import FieldPath, Tree

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_TRACE_COLUMNS = ("cycle", "command", "row", "column")
"""Columns of a command trace that are not the index of a level."""

_SIZES = {
    "tck_ps": (10, 1_000_000),
    "ticks_per_clock": (1, 64),
    "channels": (1, 1024),
    "rows": (1, 2**32),
    "columns": (1, 2**20),
    "burst_bytes": (1, 2**16),
}
_MAX_BANKS = 1024
_MAX_REGISTERS = 1024
_MAX_WINDOW = 1024
_MAX_TICKS = 1_000_000
"""Largest gap, latency and bus occupancy; a wait goes through its refreshes one by one."""

_MAX_INTERVAL = 10**12


def check_dram(tree: Tree, dram: DramConfig, at: FieldPath) -> None:
    """Resolve once; errors, whose paths start with ``dram``, get their place in the file."""
    try:
        dram.resolve()
    except ConfigError as error:
        if error.file is not None:
            raise
        raise tree.error(error.message, (*at, *_path_in(tree, error.path, at))) from None


def _path_in(tree: Tree, text: str, at: FieldPath) -> FieldPath:
    parts: list[str | int] = []
    for part in text.removeprefix("dram").strip(".").split("."):
        index = (*at, *parts, int(part)) if part.isdecimal() else None
        parts.append(int(part) if index is not None and index in tree.positions else part)
    return tuple(parts)


def check_limits(tree: Tree, dram: DramConfig, at: FieldPath = ()) -> None:
    """Refuse a DRAM that no simulation could get through: far too large, or always busy refreshing.

    Raises:
        ConfigError: a value lies outside what is meant to be possible; the limits are far beyond any real part.
    """
    _check_names(tree, dram, at)
    _check_sizes(tree, dram, at)
    spec = dram.resolve()
    _check_times(tree, spec, at)
    _check_refresh(tree, dram, spec, at)


def _check_names(tree: Tree, dram: DramConfig, at: FieldPath) -> None:
    """Levels, register files and commands stand in the columns of traces."""
    for field, names in (("levels", dram.levels), ("register_files", dram.register_files), ("commands", dram.commands)):
        for name in names:
            path = (*at, field, name)
            if not _NAME.fullmatch(name):
                raise tree.error(f"must have a name of letters, digits and _ . - such as bank, not {name!r}", path)
            if field != "commands" and name in _TRACE_COLUMNS:
                raise tree.error(f"must not be called {name!r}, which is a column of command traces", path)


def _check_sizes(tree: Tree, dram: DramConfig, at: FieldPath) -> None:
    for field, bounds in _SIZES.items():
        check_range(tree, getattr(dram, field), bounds, (*at, field))
    check_range(tree, math.prod(dram.levels.values()), (1, _MAX_BANKS), (*at, "levels"), "banks of a channel")
    for name, count in dram.register_files.items():
        check_range(tree, count, (1, _MAX_REGISTERS), (*at, "register_files", name))
    for number, rule in enumerate(dram.rules):
        check_range(tree, rule.window, (1, _MAX_WINDOW), (*at, "rules", number, "window"))


def _check_times(tree: Tree, spec: DramSpec, at: FieldPath) -> None:
    for name, command in spec.commands.items():
        path = (*at, "commands", name)
        check_range(tree, command.latency, (0, _MAX_TICKS), (*path, "latency"), "ticks")
        check_range(tree, command.ticks, (1, _MAX_TICKS), (*path, "ticks"))
    for rule in spec.rules:
        if rule.gap > _MAX_TICKS:
            pair = f"{rule.prev[0]} -> {rule.next[0]} ({rule.text})"
            check_range(tree, rule.gap, (0, _MAX_TICKS), (*at, "rules"), f"ticks of the rule {pair}")


def _check_refresh(tree: Tree, dram: DramConfig, spec: DramSpec, at: FieldPath) -> None:
    """Between two refreshes, the rows that they closed must be opened again and at least one command must issue."""
    if dram.refresh.policy == "none":
        return
    path = (*at, "refresh", "interval")
    refresh = next(command for command in spec.commands.values() if command.refresh)
    precharges = [c for c in spec.commands.values() if _closes(c) and c.scope == refresh.scope]
    if not precharges:
        raise tree.error(
            f"must be none, or the DRAM must have a command with effect: close, needs: any and scope: {refresh.scope}, "
            f"which goes before {refresh.name}",
            (*at, "refresh", "policy"),
        )
    needed = _refresh_cycle(spec, refresh, precharges[0])
    if spec.refresh_interval <= needed:
        raise tree.error(
            f"must be longer than {needed:,} ticks, which {precharges[0].name}, {refresh.name} and an activate may "
            f"take, so that commands get through; not {spec.refresh_interval:,} ({dram.refresh.interval})",
            path,
        )
    check_range(tree, spec.refresh_interval, (1, _MAX_INTERVAL), path, "ticks")


def _closes(command: Command) -> bool:
    return command.effect == "close" and command.needs != "open"


def _refresh_cycle(spec: DramSpec, refresh: Command, precharge: Command) -> int:
    """At most so many ticks pass from a due time to the first command that needs the rows again."""
    opens = {name for name, command in spec.commands.items() if command.effect == "open"}
    uses = {name for name, command in spec.commands.items() if command.needs == "open"}
    others = set(spec.commands) - {refresh.name}
    depth = 0 if refresh.scope == "channel" else spec.levels.index(refresh.scope) + 1
    nodes = math.prod(spec.counts[:depth])
    closing = _gap(spec, others, {precharge.name}) + _gap(spec, others, {refresh.name})
    between = _gap(spec, {refresh.name}, {precharge.name, refresh.name}) if nodes > 1 else 0
    opening = _gap(spec, {refresh.name, precharge.name}, opens) + _gap(spec, opens, opens | uses)
    return nodes * (closing + between) + opening


def _gap(spec: DramSpec, prev: set[str], next_: set[str]) -> int:
    """Largest gap from one of ``prev`` to one of ``next_``, the command bus included."""
    gaps = [rule.gap for rule in spec.rules if prev.intersection(rule.prev) and next_.intersection(rule.next)]
    return max([*gaps, *(spec.commands[name].ticks for name in prev)], default=1)


def check_range(tree: Tree, value: float, bounds: tuple[int, int], path: FieldPath, what: str = "") -> None:
    """Refuse a value outside of bounds, which belong to it.

    Raises:
        ConfigError: it lies outside.
    """
    low, high = bounds
    if not low <= value <= high:
        subject = f"{what} must" if what else "must"
        raise tree.error(f"{subject} lie in {low:,}..{high:,}, not {_number(value)}", path)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) and abs(value) < 10**15 else f"{float(value):g}"


__all__ = ["check_dram", "check_limits", "check_range"]
