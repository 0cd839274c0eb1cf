"""Plain requests on a memory behind a controller."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from pimsim.analysis.energy import OUTSIDE, Memory, UnknownCoefficients, dram_energy
from pimsim.analysis.requests import summarise
from pimsim.analysis.strict import StrictOracle
from pimsim.arch.dram import DramSpec
from pimsim.arch.memory import MemoryConfig
from pimsim.config import Loaded
from pimsim.errors import TraceError
from pimsim.machine.controller.fast import FastController
from pimsim.machine.controller.plain import PlainController
from pimsim.machine.controller.policy import Policy, make_policy
from pimsim.machine.controller.queues import Log, Queues, by_channel
from pimsim.result import Dram, Identity, Interface, Op, Result, Simulation, Time, Unit, manifest
from pimsim.runners import RunOptions, TraceRow
from pimsim.runners.pim_decoder import peak_memory_bytes, strict_sink
from pimsim.trace.served import Served
from pimsim.trace.totals import RunTotals
from pimsim.traffic.config import StreamConfig
from pimsim.traffic.stream import Request, requests
from pimsim.workload.requests import RequestsConfig

OP = "requests"
"""The operation that everything but refresh is booked on."""


def simulate(arch: Loaded[MemoryConfig], workload: Loaded[RequestsConfig], options: RunOptions) -> Result:
    """Serve the requests, channel by channel; the reference engine looks at every tick."""
    start = time.perf_counter()
    policy = make_policy(arch.value.dram.resolve(), arch.value.controller)
    spec = policy.spec
    check_stream(workload, workload.value.stream, spec, policy.addresses.capacity, ("stream",))
    oracle = StrictOracle(spec) if options.strict else None
    sink = strict_sink(oracle, options) if oracle else options.trace.append if options.trace is not None else None
    served = [_run_channel(policy, workload, channel, options, sink) for channel in range(spec.channels)]
    if options.trace is not None:
        options.trace.sort(key=lambda row: (row[0], row[1]))
    if not any(one.end for one in served):
        raise TraceError(
            "must hold at least one request that the memory has to answer", file=workload.value.stream.path
        )
    totals = _totals(spec, served)
    coefficients = UnknownCoefficients(interface_pj_per_bit=arch.value.energy.interface_pj_per_bit)
    joules = dram_energy(totals, Memory(arch.value.dram, coefficients), spec)
    figures = summarise(spec, served, totals.ticks)
    seconds = totals.ticks * spec.tick_seconds
    commands = {name: totals.count(name) for name in spec.commands if totals.count(name)}
    return Result(
        arch=Identity(arch.value.name, arch.hash),
        workload=Identity(workload.value.name, workload.hash),
        engine=options.engine,
        time=Time(seconds, _cycles(totals.ticks, spec), 1e12 / spec.tck_ps),
        tokens=None,
        energy=joules,
        dram=Dram(
            commands=commands,
            row_hit_rate=figures.hits / (figures.reads + figures.writes),
            refreshes=sum(n for name, n in commands.items() if spec.commands[name].refresh),
            bytes_read=figures.reads * spec.burst_bytes,
            bytes_written=figures.writes * spec.burst_bytes,
        ),
        interface=Interface(figures.bytes, figures.bytes, 1.0),
        units=_units(spec, served, totals.ticks),
        ops={
            OP: Op(figures.reads + figures.writes, seconds, 1.0, joules.by_op.get(OP, 0.0)),
            **{kind: Op(0, 0.0, 0.0, cost) for kind, cost in joules.by_op.items() if kind != OP},
        },
        layers=[],
        baselines={},
        simulation=Simulation(time.perf_counter() - start, sum(commands.values()), peak_memory_bytes()),
        manifest=manifest(options.command_line, {"arch": arch.hash, "workload": workload.hash}),
        requests=figures,
        legality=None if oracle is None else {"checked": oracle.checked},
    )


def estimate_commands(arch: Loaded[MemoryConfig], workload: Loaded[RequestsConfig]) -> int:
    """At most three commands for each request, without refresh."""
    spec = arch.value.dram.resolve()
    capacity = make_policy(spec, arch.value.controller).addresses.capacity
    check_stream(workload, workload.value.stream, spec, capacity, ("stream",))
    if workload.value.count is not None:
        return 3 * workload.value.count
    return 3 * sum(
        1 for _ in requests(workload.value.stream, count=None, burst_bytes=spec.burst_bytes, capacity=capacity)
    )


def check_stream(loaded: Loaded[Any], stream: StreamConfig, spec: DramSpec, capacity: int, at: tuple[str, ...]) -> None:
    """Check that the addresses of a stream lie in the memory.

    Raises:
        ConfigError: they do not, or they are no bursts.
    """
    burst, room = spec.burst_bytes, capacity - stream.start_address
    span = stream.span_bytes or room
    for field, value, most, what in (
        ("start_address", stream.start_address, capacity - burst, "the last burst of the memory"),
        ("span_bytes", stream.span_bytes, room, "what lies behind start_address"),
        ("stride_bytes", stream.stride_bytes, span, "the span"),
    ):
        if value is not None and (value % burst or value > most):
            raise loaded.tree.error(
                f"must be a multiple of {burst}, the bytes of a burst, and at most {most:,}, {what}, not {value:,}",
                (*at, field),
            )


def _run_channel(
    policy: Policy,
    workload: Loaded[RequestsConfig],
    channel: int,
    options: RunOptions,
    sink: Callable[[TraceRow], object] | None,
) -> Served:
    spec, stream = policy.spec, workload.value.stream
    source = requests(
        stream,
        count=workload.value.count,
        burst_bytes=spec.burst_bytes,
        capacity=policy.addresses.capacity,
        ticks_per_clock=spec.ticks_per_clock,
    )
    kind: type[Queues] = FastController if options.engine == "fast" else PlainController
    own = source if spec.channels == 1 else by_channel(policy, source, channel)
    if options.progress and workload.value.count:
        own = _watched(own, channel, spec.channels, workload.value.count, options)
    log: Log | None = None
    if sink is not None:

        def log(tick: int, command: str, where: tuple[int, ...], row: int, column: int) -> None:
            sink((tick, channel, command, where, row, column))

    return kind(policy, own, log=log, outstanding=stream.outstanding).run()


def _watched(
    source: Iterator[Request], channel: int, channels: int, count: int, options: RunOptions
) -> Iterator[Request]:
    """Tell how far the channels are, about."""
    assert options.progress is not None
    for number, request in enumerate(source):
        if not number % 4096:
            options.progress(min(count, channel * (count // channels) + number), count)
        yield request


def _totals(spec: DramSpec, served: list[Served]) -> RunTotals:
    totals = RunTotals(ticks=max(one.end for one in served))
    for one in served:
        totals.row_open_ticks += one.row_open_ticks
        for name, n in one.commands.items():
            totals.commands["refresh" if spec.commands[name].refresh else OP, OUTSIDE, name] += n
    return totals


def _units(spec: DramSpec, served: list[Served], ticks: int) -> dict[str, Unit]:
    """How long the data pins of each channel moved data."""
    sets = spec.counts[spec.levels.index("pseudochannel")] if "pseudochannel" in spec.levels else 1
    units = {}
    for channel, one in enumerate(served):
        busy = (one.reads + one.writes) * spec.timing["nBL"] / sets
        units[f"channel{channel}.data"] = Unit(
            busy * spec.tick_seconds, busy / ticks, {"no data": (ticks - busy) * spec.tick_seconds}
        )
    return units


def _cycles(ticks: int, spec: DramSpec) -> int | float:
    whole, rest = divmod(ticks, spec.ticks_per_clock)
    return ticks / spec.ticks_per_clock if rest else whole


__all__ = ["check_stream", "estimate_commands", "simulate"]
