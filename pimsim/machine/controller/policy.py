"""What a controller goes by, compiled from its configuration and the DRAM: commands, refreshes, addresses."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pimsim.arch.controller import (
    ControllerConfig,
    SchedulerConfig,
    check_controller,
    closing_command,
    default_order,
    refresh_command,
)
from pimsim.arch.dram import Command, DramSpec

Where = tuple[int, ...]
Bank = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class RefreshNode:
    """What one refresh command refreshes."""

    node: Bank
    """Indices of the levels down to the scope of the command."""
    where: Where
    close: str
    """Command that closes all rows of the node."""
    refresh: str
    first: int
    """Tick at which its first refresh is due."""


class AddressMap:
    """From byte addresses to channel, bank, row and column: mixed radix, the last name of the order is the fastest.

    >>> from pimsim.config import load_dram
    >>> spec = load_dram("ddr4_3200aa").value.resolve()
    >>> AddressMap(spec, None).decode(64 * (128 * (1 + 4 * 2) + 5))
    (0, (0, 1, 2), 0, 5)
    """

    def __init__(self, spec: DramSpec, order: Sequence[str] | None) -> None:
        sizes = dict(zip(spec.levels, spec.counts, strict=True))
        sizes |= {"row": spec.rows, "column": spec.columns, "channel": spec.channels}
        self._steps = tuple((name, sizes[name]) for name in reversed(order or default_order(spec)))
        self._levels = spec.levels
        self._burst = spec.burst_bytes
        self.capacity = spec.burst_bytes
        for size in sizes.values():
            self.capacity *= size

    def decode(self, address: int) -> tuple[int, Bank, int, int]:
        """(channel, bank, row, column) of a byte address."""
        rest, found = address // self._burst, {}
        for name, size in self._steps:
            rest, found[name] = divmod(rest, size)
        return found["channel"], tuple(found[level] for level in self._levels), found["row"], found["column"]


@dataclass(frozen=True)
class Policy:
    """A controller's configuration in ticks, with the commands of its DRAM."""

    spec: DramSpec
    oldest_only: bool
    closed_page: bool
    read_queue: int
    write_queue: int
    drain_start: int
    drain_stop: int
    age_limit: int | None
    activate: str
    precharge: str
    column: tuple[str, str]
    """Command of a read, command of a write."""
    nodes: tuple[RefreshNode, ...]
    interval: int
    postpone: int
    addresses: AddressMap

    def where(self, bank: Bank) -> Where:
        """The address of a bank as commands have it."""
        return bank + (-1,) * len(self.spec.register_files)


def make_policy(spec: DramSpec, config: SchedulerConfig) -> Policy:
    """Compile a controller for a DRAM; one without a ``refresh`` section leaves refresh to somebody else.

    Raises:
        ConfigError: as `check_controller`.
    """
    check_controller(spec, config)
    clock = spec.ticks_per_clock
    refresh = refresh_command(spec, config)
    if refresh is not None:
        spec = replace(spec, commands={**spec.commands, refresh.name: replace(refresh, refresh=True)})
    return Policy(
        spec=spec,
        oldest_only=config.scheduler == "fcfs",
        closed_page=config.page == "closed",
        read_queue=config.read_queue,
        write_queue=config.write_queue,
        drain_start=config.drain_start,
        drain_stop=config.drain_stop,
        age_limit=None if config.age_limit is None else config.age_limit * clock,
        activate=config.commands.activate,
        precharge=config.commands.precharge,
        column=(config.commands.read, config.commands.write),
        nodes=tuple(_nodes(spec, config, refresh)) if refresh and isinstance(config, ControllerConfig) else (),
        interval=spec.refresh_interval,
        postpone=config.refresh.postpone if isinstance(config, ControllerConfig) else 0,
        addresses=AddressMap(spec, config.mapping),
    )


def _nodes(spec: DramSpec, config: ControllerConfig, refresh: Command) -> list[RefreshNode]:
    """The nodes in the order in which they fall due; banks take turns, ranks fall due together."""
    per_bank = config.refresh.policy == "per_bank"
    close = config.commands.precharge if per_bank else closing_command(spec, refresh)
    depth = 0 if refresh.scope == "channel" else spec.levels.index(refresh.scope) + 1
    places = list(itertools.product(*(range(count) for count in spec.counts[:depth])))
    width = len(spec.address_fields)
    return [
        RefreshNode(
            node,
            node + (-1,) * (width - depth),
            close,
            refresh.name,
            spec.refresh_interval * (number + 1) // len(places) if per_bank else spec.refresh_interval,
        )
        for number, node in enumerate(places)
    ]


__all__ = ["AddressMap", "Policy", "RefreshNode", "make_policy"]
