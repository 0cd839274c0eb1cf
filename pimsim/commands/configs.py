"""Loading of what the options ``--arch``, ``--workload``, ``--dram`` and ``--set`` name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pimsim.analysis.energy import DramMachine, Memory
from pimsim.arch.dram import DramSpec
from pimsim.arch.system import ArchConfig
from pimsim.checks.dram import check_limits
from pimsim.config import Loaded, load_arch, load_dram, load_workload, split_overrides
from pimsim.errors import InputError


def load_both(arch: str, workload: str, overrides: Sequence[str]) -> tuple[Loaded[Any], Loaded[Any]]:
    """The architecture and the workload of a run.

    Raises:
        InputError: one of them is wrong, or too large to be meant.
    """
    options = split_overrides(overrides)
    return load_arch(arch, options["arch"]), load_workload(workload, options["workload"])


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
        machine = load_arch(arch, split_overrides(overrides, ["arch"])["arch"]).value
        if not hasattr(machine, "dram"):
            raise InputError(
                f"--arch must be a machine with a DRAM, not {machine.name}, which is of kind {machine.kind}"
            )
        return machine if isinstance(machine, ArchConfig) else Memory(machine.dram)
    assert dram is not None
    loaded = load_dram(dram, split_overrides(overrides, ["dram"])["dram"])
    check_limits(loaded.tree, loaded.value)
    return Memory(loaded.value)


__all__ = ["load_both", "load_memory", "load_spec"]
