"""Loading of what the options ``--arch``, ``--workload``, ``--dram`` and ``--set`` name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pimsim.analysis.energy import DramMachine, Memory
from pimsim.arch.dram import DramSpec
from pimsim.arch.system import ArchConfig
from pimsim.config import Loaded, check_limits, load_arch, load_dram, load_workload
from pimsim.errors import ConfigError, InputError, did_you_mean
from pimsim.workload.config import WorkloadConfig

MAX_TOKENS = 10_000_000
"""Prompt and generated tokens."""

MAX_MODEL = {"layers": 10_000, "d_model": 1_000_000, "d_ff": 10_000_000, "vocabulary": 100_000_000, "context": 10**9}
"""Largest shape of a decoder; what is larger is a slip, and would only fail for lack of memory."""


def split(options: Sequence[str], *prefixes: str) -> dict[str, list[tuple[str, str]]]:
    """Texts such as ``arch.dram.channels=16`` by their first part, each as (path, value).

    >>> split(["arch.dram.channels=16"], "arch", "workload")
    {'arch': [('dram.channels', '16')], 'workload': []}

    Raises:
        ConfigError: there is no ``=``, no field, or the first part is none of ``prefixes``.
    """
    found: dict[str, list[tuple[str, str]]] = {prefix: [] for prefix in prefixes}
    for option in options:
        path, equals, value = option.partition("=")
        prefix, _, rest = path.strip().partition(".")
        at = f"--set {option}"
        if not equals:
            raise ConfigError(f"must be path=value, such as {_example(prefixes[0])}", file=at)
        if prefix not in found:
            starts = " or ".join(f"{each}." for each in prefixes)
            raise ConfigError(
                f"the path must start with {starts}, not {prefix!r}{did_you_mean(prefix, prefixes)}", file=at
            )
        if not rest:
            raise ConfigError(f"the path must name a field, such as {_example(prefix)}", file=at)
        found[prefix].append((rest, value))
    return found


def _example(prefix: str) -> str:
    return {"arch": "arch.dram.channels=16", "workload": "workload.generate_tokens=64"}.get(prefix, "dram.channels=2")


def load_both(arch: str, workload: str, overrides: Sequence[str]) -> tuple[Loaded[Any], Loaded[Any]]:
    """The architecture and the workload of a run.

    Raises:
        InputError: one of them is wrong, or too large to be meant.
    """
    options = split(overrides, "arch", "workload")
    machine, work = load_arch(arch, options["arch"]), load_workload(workload, options["workload"])
    check_size(work)
    return machine, work


def check_size(workload: Loaded[Any]) -> None:
    """Refuse a workload that is far beyond what can be simulated.

    Raises:
        ConfigError: it has too many tokens or its model is too large.
    """
    if not isinstance(workload.value, WorkloadConfig):
        return
    limits: dict[tuple[str, ...], int] = {("prompt_tokens",): MAX_TOKENS, ("generate_tokens",): MAX_TOKENS}
    limits |= {("model", name): limit for name, limit in MAX_MODEL.items()}
    for path, limit in limits.items():
        value = getattr(workload.value.model if path[0] == "model" else workload.value, path[-1])
        if value > limit:
            raise workload.tree.error(f"must be at most {limit:,}, not {value:,}", path)


def load_spec(dram: str | None, arch: str | None, overrides: Sequence[str]) -> DramSpec:
    """The DRAM that is named by itself or as part of an architecture, resolved.

    Raises:
        InputError: both or none of them are given, or the configuration is wrong.
    """
    return load_memory(dram, arch, overrides).dram.resolve()


def load_memory(dram: str | None, arch: str | None, overrides: Sequence[str]) -> DramMachine:
    """The DRAM that is named by itself or as part of an architecture, with the energy coefficients of the latter.

    Raises:
        InputError: both or none of them are given, or the configuration is wrong.
    """
    if (dram is None) == (arch is None):
        given = "both" if dram is not None else "neither"
        raise InputError(f"exactly one of --dram and --arch must be given, not {given}")
    if arch is not None:
        machine = load_arch(arch, split(overrides, "arch")["arch"]).value
        if not hasattr(machine, "dram"):
            raise InputError(
                f"--arch must be a machine with a DRAM, not {machine.name}, which is of kind {machine.kind}"
            )
        return machine if isinstance(machine, ArchConfig) else Memory(machine.dram)
    assert dram is not None
    loaded = load_dram(dram, split(overrides, "dram")["dram"])
    check_limits(loaded.tree, loaded.value)
    return Memory(loaded.value)


__all__ = ["MAX_MODEL", "MAX_TOKENS", "check_size", "load_both", "load_memory", "load_spec", "split"]
