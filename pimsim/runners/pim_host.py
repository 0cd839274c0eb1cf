"""Host requests beside a PIM program: channels that take turns, and what that costs the program."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pimsim.analysis.energy import OUTSIDE
from pimsim.analysis.requests import Interference, Requests, summarise
from pimsim.arch.dram import DramSpec
from pimsim.arch.system import ArchConfig
from pimsim.config import Loaded
from pimsim.machine.controller.policy import make_policy
from pimsim.machine.controller.queues import by_channel
from pimsim.machine.controller.shared import HOST, SharedChannel, Turns
from pimsim.runners.memory import check_stream
from pimsim.trace.totals import RunTotals
from pimsim.traffic.stream import requests

if TYPE_CHECKING:
    from collections.abc import Sequence


def shared_channels(arch: Loaded[ArchConfig], spec: DramSpec) -> list[SharedChannel]:
    """The channels of a machine whose architecture has ``host_traffic``.

    Raises:
        ConfigError: the requests do not lie in the memory.
    """
    host = arch.value.host_traffic
    assert host is not None
    policy = make_policy(spec, host.controller)
    capacity, clock = policy.addresses.capacity, spec.ticks_per_clock
    check_stream(arch, host.stream, spec, capacity, ("host_traffic", "stream"))
    turns = Turns(host.batch, host.patience * clock, host.turn, host.program_clocks * clock)
    channels = []
    for channel in range(spec.channels):
        source = requests(
            host.stream, count=None, burst_bytes=spec.burst_bytes, capacity=capacity, ticks_per_clock=clock
        )
        own = by_channel(policy, source, channel)
        channels.append(SharedChannel(spec, policy, turns, own, host.stream.outstanding))
    return channels


def book(channels: Sequence[SharedChannel], totals: RunTotals) -> None:
    """Add the commands that requests caused to the totals of the run."""
    for channel in channels:
        channel.requests.close(channel.base)
        for name, n in channel.host_commands.items():
            if n:
                totals.commands[HOST, OUTSIDE, name] += n


def figures(channels: Sequence[SharedChannel], spec: DramSpec, totals: RunTotals, alone: RunTotals) -> Requests:
    """What the requests got and what they took from the program; ``alone``: the same program without them."""
    served = [channel.requests.served for channel in channels]
    seconds = spec.tick_seconds
    interference = Interference(
        seconds_alone=alone.ticks * seconds,
        slowdown=totals.ticks / alone.ticks if alone.ticks else 1.0,
        turns=sum(channel.turns for channel in channels),
        host_seconds=sum(channel.host_ticks for channel in channels) * seconds,
    )
    return replace(summarise(spec, served, totals.ticks), interference=interference)


__all__ = ["book", "figures", "shared_channels"]
