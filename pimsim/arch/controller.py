"""A memory controller for plain requests."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pimsim.arch.dram import Command, DramSpec
from pimsim.errors import ConfigError, UnknownName
from pimsim.model import Documented, Model, PositiveInt
from pimsim.traffic.config import StreamConfig


class ControllerRefresh(Model):
    """Which rows the controller refreshes, and when."""

    policy: Literal["all_bank", "per_bank", "none"] = Field(
        "all_bank",
        description="all_bank: a rank (pseudo channel, channel) at a time, every dram.refresh.interval; per_bank: every "
        "bank once in that time, the banks in turn; none",
    )
    per_bank_command: str = Field("REFpb", description="command of the DRAM that refreshes one bank")
    postpone: Annotated[int, Field(ge=0, le=8)] = Field(
        0,
        description="refreshes that may be put off while requests wait; they are made up for when none waits, or when "
        "one more is due (JEDEC allows 8)",
    )


class ControllerCommands(Model):
    """The commands of the DRAM that the controller issues."""

    activate: str = "ACT"
    precharge: str = "PREpb"
    read: str = "RD"
    write: str = "WR"


class SchedulerConfig(Documented):
    """Queues of a channel, and which of the requests in them goes first."""

    scheduler: Literal["fr_fcfs", "fcfs"] = Field(
        "fr_fcfs",
        description="fr_fcfs: of what may issue now, column commands first, then the oldest; fcfs: the oldest request only",
    )
    page: Literal["open", "closed"] = Field(
        "open", description="closed: a row is closed as soon as no request in a queue needs it"
    )
    read_queue: PositiveInt = Field(32, description="reads that a channel holds")
    write_queue: PositiveInt = Field(32, description="writes that a channel holds")
    drain_start: PositiveInt = Field(
        24, description="writes in the queue at which they are served; they also are while no read waits"
    )
    drain_stop: Annotated[int, Field(ge=0)] = Field(
        8, description="writes in the queue at which waiting reads are served again"
    )
    age_limit: PositiveInt | None = Field(
        None, description="clocks after which the oldest request goes before all others of its queue; null: never"
    )
    mapping: list[str] | None = Field(
        None,
        description="what the bits of an address mean, most significant first: row, column, channel and each level once. "
        "Default: row, levels from the innermost out, column, channel",
    )
    commands: ControllerCommands = ControllerCommands()


class ControllerConfig(SchedulerConfig):
    """A controller with a read queue and a write queue for each channel."""

    refresh: ControllerRefresh = ControllerRefresh()


class HostTrafficConfig(Documented):
    """Plain requests of a host to the channels on which a PIM program runs; the two take turns."""

    stream: StreamConfig = Field(description="the requests; they go on as long as the program runs")
    controller: SchedulerConfig = SchedulerConfig()
    batch: PositiveInt = Field(16, description="waiting requests of a channel that interrupt its program")
    patience: PositiveInt = Field(1000, description="clocks after which even one waiting request interrupts it")
    turn: PositiveInt = Field(32, description="requests that are served at most before the program goes on")
    program_clocks: PositiveInt = Field(500, description="clocks that the program has to itself after an interruption")


def check_controller(spec: DramSpec, config: SchedulerConfig) -> None:
    """Check that a controller fits its DRAM.

    Raises:
        ConfigError: a command is missing or does something else than its role, the refresh policy has no command, the
            marks of the write queue do not fit it, or the mapping does not name every part of an address once. The
            path begins with ``controller``.
    """
    _check_commands(spec, config)
    _check_queue(config)
    order = config.mapping
    if order is not None and sorted(order) != sorted(default_order(spec)):
        raise ConfigError(
            f"must hold each of {', '.join(default_order(spec))} once, not {', '.join(order) or 'nothing'}",
            path="controller.mapping",
        )
    refresh = refresh_command(spec, config)
    if refresh is not None and isinstance(config, ControllerConfig) and config.refresh.policy == "all_bank":
        closing_command(spec, refresh)


def default_order(spec: DramSpec) -> tuple[str, ...]:
    """Rows slowest; consecutive bursts go to all channels, then along a row."""
    return ("row", *reversed(spec.levels), "column", "channel")


def refresh_command(spec: DramSpec, config: SchedulerConfig) -> Command | None:
    """The command that refreshes under the configured policy; None if the controller does not refresh.

    Raises:
        ConfigError: the DRAM has no such command, or no refresh interval.
    """
    if not isinstance(config, ControllerConfig) or config.refresh.policy == "none":
        return None
    policy = config.refresh.policy
    if not spec.refresh_interval:
        raise ConfigError(
            f"must be none where dram.refresh.policy is none, not {policy}", path="controller.refresh.policy"
        )
    if policy == "all_bank":
        return next(command for command in spec.commands.values() if command.refresh)
    name = config.refresh.per_bank_command
    path = "controller.refresh.per_bank_command"
    if name not in spec.commands:
        raise ConfigError(str(UnknownName("command", name, spec.commands)), path=path)
    command = spec.commands[name]
    if (command.scope, command.effect, command.needs, command.data) != (spec.levels[-1], "none", "closed", "none"):
        raise ConfigError(
            f"must be a command with scope: {spec.levels[-1]}, needs: closed and no other effect, which {name} is not",
            path=path,
        )
    return command


def closing_command(spec: DramSpec, refresh: Command) -> str:
    """The command that closes all rows that one refresh command refreshes.

    Raises:
        ConfigError: the DRAM has none.
    """
    for command in spec.commands.values():
        if (
            command.effect == "close"
            and command.needs == "any"
            and command.data == "none"
            and command.scope == refresh.scope
        ):
            return command.name
    raise ConfigError(
        f"must be per_bank or none, or the DRAM must have a command that closes all rows of a {refresh.scope}",
        path="controller.refresh.policy",
    )


_ROLES = {
    "activate": ("open", "closed", "none"),
    "precharge": ("close", "any", "none"),
    "read": ("none", "open", "read"),
    "write": ("none", "open", "write"),
}
"""Role -> effect, needs and data of the command."""


def _check_commands(spec: DramSpec, config: SchedulerConfig) -> None:
    for role, (effect, needs, data) in _ROLES.items():
        name, path = getattr(config.commands, role), f"controller.commands.{role}"
        if name not in spec.commands:
            raise ConfigError(str(UnknownName("command", name, spec.commands)), path=path)
        command = spec.commands[name]
        if (command.scope, command.effect, command.needs, command.data) != (spec.levels[-1], effect, needs, data):
            raise ConfigError(
                f"must be a command with scope: {spec.levels[-1]}, effect: {effect}, needs: {needs} and data: {data}, "
                f"which {name} is not",
                path=path,
            )
        if command.after is not None:
            raise ConfigError(
                f"must be a command without a first step, which {name} is not: {command.after} goes before it",
                path=path,
            )


def _check_queue(config: SchedulerConfig) -> None:
    if not config.drain_stop < config.drain_start <= config.write_queue:
        raise ConfigError(
            f"must be more than drain_stop, which is {config.drain_stop}, and at most write_queue, which is "
            f"{config.write_queue}, not {config.drain_start}",
            path="controller.drain_start",
        )


__all__ = [
    "ControllerCommands",
    "ControllerConfig",
    "ControllerRefresh",
    "HostTrafficConfig",
    "SchedulerConfig",
    "check_controller",
    "closing_command",
    "default_order",
    "refresh_command",
]
