"""Checks across fields of a machine with PIM channels."""

from __future__ import annotations

from typing import Any

from pimsim.arch.dram import DramConfig
from pimsim.arch.formats import accumulators_of, format_bytes
from pimsim.arch.system import ArchConfig, AsicConfig
from pimsim.checks.dram import check_dram, check_limits, check_range
from pimsim.checks.sources import check_sources
from pimsim.loaded import Loaded
from pimsim.yamlio import Tree

_ASIC_SIZES = {
    "clock_mhz": (1, 100_000),
    "adder_latency": (1, 1000),
    "multiplier_latency": (1, 1000),
    "functions.exp_taylor_terms": (1, 1000),
    "functions.reciprocal_newton_steps": (1, 1000),
    "functions.rsqrt_newton_steps": (1, 1000),
}
_PROGRAM = {
    "ACT": {"scope": "bank", "effect": "open", "data": "none"},
    "PREpb": {"scope": "bank", "effect": "close", "data": "none"},
    "RD": {"scope": "bank", "effect": "none", "needs": "open", "data": "read"},
    "WR": {"scope": "bank", "effect": "none", "needs": "open", "data": "write"},
    "PREab": {"scope": "channel", "effect": "close", "data": "none"},
    "ACT_AB": {"scope": "channel", "effect": "open", "data": "none"},
    "MAC_AB": {"scope": "channel", "effect": "none", "needs": "open", "data": "none"},
    "WR_GB": {"scope": "channel", "effect": "none", "data": "write"},
    "RD_MAC": {"scope": "channel", "effect": "none", "data": "read"},
}
"""The commands that programs are made of, and what the mapper relies on; a bank is the innermost level."""


def check_arch(loaded: Loaded[ArchConfig]) -> None:
    """Check what must hold between fields of an architecture.

    Raises:
        ConfigError: a timing rule, command or expression names something that does not exist, a row of weights does
            not fit the MAC units, a value is far beyond any machine, the DRAM lacks a command that programs are made
            of, refreshes leave no time for commands, or an entry of ``sources`` is malformed.
    """
    check_sources(loaded)
    check_dram(loaded.tree, loaded.value.dram, ("dram",))
    check_limits(loaded.tree, loaded.value.dram, ("dram",))
    check_commands(loaded.tree, loaded.value.dram)
    check_units(loaded.tree, loaded.value)
    check_asic(loaded.tree, loaded.value.asic)
    if loaded.value.host_traffic is not None:
        from pimsim.checks.controller import check_controller_of  # most machines have no other traffic

        spec, controller = loaded.value.dram.resolve(), loaded.value.host_traffic.controller
        check_controller_of(loaded, spec, controller, ("host_traffic", "controller"))


def check_units(tree: Tree, arch: ArchConfig) -> None:
    pim, dram = arch.pim, arch.dram
    weight_bytes = format_bytes(pim.format)
    if dram.burst_bytes % weight_bytes:
        raise tree.error(
            f"must be a multiple of the {weight_bytes} bytes of a {pim.format}, not {dram.burst_bytes}",
            ("dram", "burst_bytes"),
        )
    if pim.multipliers is not None and pim.multipliers * weight_bytes != dram.burst_bytes:
        fitting = dram.burst_bytes / weight_bytes
        raise tree.error(
            f"must be dram.burst_bytes / bytes of a {pim.format} = {dram.burst_bytes} / {weight_bytes} = {fitting:g}, "
            f"so that one column access feeds every multiplier, not {pim.multipliers}",
            ("pim", "multipliers"),
        )
    fitting_accumulators = accumulators_of(pim.format)
    if pim.accumulator is not None and pim.accumulator not in fitting_accumulators:
        raise tree.error(
            f"must be one of {', '.join(fitting_accumulators)} to add up products of {pim.format}, not {pim.accumulator!r}",
            ("pim", "accumulator"),
        )
    if pim.global_buffer_bytes % dram.burst_bytes:
        raise tree.error(
            f"must be a multiple of dram.burst_bytes, which is {dram.burst_bytes}, not {pim.global_buffer_bytes}",
            ("pim", "global_buffer_bytes"),
        )
    registers = dram.register_files.get("accumulator", pim.accumulators)
    if pim.accumulators != registers:
        raise tree.error(
            f"must be dram.register_files.accumulator, which is {registers}, not {pim.accumulators}",
            ("pim", "accumulators"),
        )


def check_asic(tree: Tree, asic: AsicConfig) -> None:
    for name, bounds in _ASIC_SIZES.items():
        value: Any = asic
        for part in name.split("."):
            value = getattr(value, part)
        check_range(tree, value, bounds, ("asic", *name.split(".")))


def check_commands(tree: Tree, dram: DramConfig) -> None:
    innermost = tuple(dram.levels)[-1]
    missing = [name for name in _PROGRAM if name not in dram.commands]
    if missing:
        raise tree.error(
            f"must have the commands of a program, {', '.join(_PROGRAM)}; missing: {', '.join(missing)}",
            ("dram", "commands"),
        )
    for name, facts in _PROGRAM.items():
        for field, wanted in facts.items():
            value = innermost if wanted == "bank" else wanted
            given = getattr(dram.commands[name], field)
            if given != value:
                raise tree.error(f"must be {value}, not {given!r}", ("dram", "commands", name, field))
        if dram.commands[name].after is not None:
            raise tree.error("must be left out for a command of a program", ("dram", "commands", name, "after"))


__all__ = ["check_arch"]
