"""Attention algorithms on machines over contexts, side by side: the composition root of ``pimsim compare``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pimsim.analysis.comparison import Row
from pimsim.config import Loaded, load_arch, load_workload
from pimsim.errors import InputError, UnknownName
from pimsim.result import Result
from pimsim.run import simulate_loaded
from pimsim.runners import RunOptions

PHASES = ("prefill", "decode", "update", "query")
ONE_TOKEN = ("decode", "update", "query")
"""Phases that say what one token costs, the first that an algorithm has is taken where none is named."""


@dataclass(frozen=True)
class Entry:
    """An algorithm as it was asked for, such as ``topk:k=16@prefill``."""

    text: str
    name: str
    parameters: Mapping[str, Any]
    phase: str


def parse_entry(text: str, phase: str = "") -> Entry:
    """``NAME[:PARAMETER=VALUE...][@PHASE]``; ``phase`` is that of entries without one, or empty for one token.

    Raises:
        InputError: the algorithm, a parameter, its value or the phase is not known.
    """
    from pimsim.workload.attention.base import algorithm

    head, at, own = text.partition("@")
    name, *settings = head.split(":")
    parameters: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"--attention {text}: a parameter must be NAME=VALUE, not {setting!r}")
        parameters[key] = _value(value)
    kind = algorithm(name, parameters)
    phase = own if at else phase
    if phase and phase not in PHASES:
        raise UnknownName("phase", phase, PHASES)
    return Entry(text, name, parameters, phase or next((p for p in ONE_TOKEN if p in kind.phases), "decode"))


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def parse_contexts(text: str) -> list[int]:
    """Numbers of keys, such as ``128,1024``.

    Raises:
        InputError: one is not a whole number from 1 to 10,000,000.
    """
    found = []
    for part in text.split(","):
        if not part.strip().isdecimal() or not 1 <= int(part) <= 10_000_000:
            raise InputError(
                f"--context must be whole numbers from 1 to 10,000,000, such as 128,1024, not {part.strip()!r}"
            )
        found.append(int(part))
    return found


def compare(
    attention: Sequence[Entry],
    archs: Mapping[str, Loaded[Any]],
    contexts: Sequence[int],
    workload: str,
    overrides: Sequence[tuple[str, str]],
    *,
    check: bool = False,
    queries: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """A row for every algorithm, machine and context; a pair that does not run says why.

    Args:
        attention: the algorithms.
        archs: the machines by the names under which they were asked for.
        contexts: numbers of keys.
        workload: a workload of kind attention, whose other sizes are used.
        overrides: of the workload, as (path, value).
        check: whether numbers are compared, too.
        queries: of a prefill, where it is for the last ones only; all by default.
        progress: called with (rows done, rows in all).

    Raises:
        ConfigError: the workload or an override is wrong.
        InputError: the workload is of another kind.
    """
    base = load_workload(workload, overrides)
    if base.value.kind != "attention":
        raise InputError(f"--workload must be of kind attention, not {base.value.kind} as {base.value.name} is")
    points = [(entry, name, context) for name in archs for entry in attention for context in contexts]
    rows = []
    for done, (entry, name, context) in enumerate(points):
        if progress:
            progress(done, len(points))
        wanted = (context if queries is None else queries) if entry.phase == "prefill" else 1
        rows.append(_row(entry, name, archs[name], (context, wanted), (workload, overrides), check))
    if progress:
        progress(len(points), len(points))
    return rows


def _row(
    entry: Entry,
    name: str,
    arch: Loaded[Any],
    size: tuple[int, int],
    base: tuple[str, Sequence[tuple[str, str]]],
    check: bool,
) -> Row:
    """``size``: keys and queries."""
    from pimsim.workload.attention.quality import error_against_exact

    row = Row(entry.text, name, size[0], entry.phase)
    sizes = {
        "algorithm": entry.name,
        "parameters": entry.parameters,
        "phase": entry.phase,
        "tokens": None,
        "keys": size[0],
        "queries": size[1],
    }
    try:
        work = load_workload(base[0], [*base[1], *((path, json.dumps(value)) for path, value in sizes.items())])
        result = simulate_loaded(arch, work, RunOptions(check_tokens=int(check)))
    except InputError as error:
        return replace(row, why=str(error))
    off = error_against_exact(work.value.method(), work.value.case(), work.value.seed)
    return replace(row, error=off, **_figures(result))


def _figures(result: Result) -> dict[str, Any]:
    units = (result.memory or {}).values()
    ports = result.ports.values() if result.ports is not None else None
    interface = result.interface.bytes if result.interface is not None else None
    if ports is not None:
        interface = sum(port.bytes_read + port.bytes_written for port in ports)
    return {
        "seconds": result.time.seconds,
        "joules": result.energy.joules or None,
        "uncosted": ", ".join(dict.fromkeys(text.partition(":")[0] for text in result.energy.uncosted)),
        "peak_bytes": sum(unit["peak_bytes"] for unit in units) if result.memory else None,
        "persistent_bytes": sum(unit["persistent_bytes"] for unit in units) if result.memory else None,
        "interface_bytes": interface,
        "checked": result.functional["passed"] if result.functional is not None else None,
        "why": result.functional["message"] if result.functional is not None else None,
    }


def load_archs(names: Sequence[str], overrides: Sequence[tuple[str, str]]) -> dict[str, Loaded[Any]]:
    """Machines by name.

    Raises:
        InputError: one is not known, wrong, or named twice.
    """
    if len(set(names)) < len(names):
        raise InputError(f"--arch must name each architecture once, not {', '.join(names)}")
    return {name: load_arch(name, overrides) for name in names}


__all__ = ["Entry", "Row", "compare", "load_archs", "parse_contexts", "parse_entry"]
