"""The fast controller decides as the plain one, command by command, and the oracle finds every command legal."""

from __future__ import annotations

import os
import random
from functools import cache
from typing import Any, NamedTuple

import pytest

from pimsim.analysis.legality import check_trace
from pimsim.arch.controller import ControllerConfig, ControllerRefresh
from pimsim.arch.dram import DramSpec
from pimsim.config import load_dram
from pimsim.machine.controller.fast import FastController
from pimsim.machine.controller.plain import PlainController
from pimsim.machine.controller.policy import make_policy
from pimsim.machine.controller.queues import Queues
from pimsim.trace.csvio import make_command
from pimsim.trace.served import Served
from pimsim.traffic.config import StreamConfig
from pimsim.traffic.stream import requests

STANDARDS = ("ddr4_3200aa", "ddr5_4800b", "gddr6_14000", "gddr7_28000", "hbm2_2000", "hbm3_6400", "pim_gpt_gddr6")
CASES = 2000 if os.environ.get("PIMSIM_LARGE") else 28
LENGTH = 100

Row = tuple[int, str, tuple[int, ...], int, int]


class Case(NamedTuple):
    spec: DramSpec
    controller: ControllerConfig
    stream: StreamConfig


@cache
def spec_of(standard: str) -> DramSpec:
    return load_dram(standard).value.resolve()


def draw(seed: int) -> Case:
    r = random.Random(seed)
    spec = spec_of(r.choice(STANDARDS))
    write_queue = r.choice([2, 4, 16, 32])
    start = r.randint(1, write_queue)
    policies = ["all_bank", "none", *(["per_bank", "per_bank"] if "REFpb" in spec.commands else [])]
    names = ["row", "column", "channel", *spec.levels]
    controller = ControllerConfig(
        scheduler=r.choice(["fr_fcfs", "fr_fcfs", "fr_fcfs", "fcfs"]),
        page=r.choice(["open", "closed"]),
        read_queue=r.choice([1, 2, 8, 32]),
        write_queue=write_queue,
        drain_start=start,
        drain_stop=r.randint(0, start - 1),
        age_limit=r.choice([None, 20, 200]),
        mapping=r.choice([None, r.sample(names, len(names))]),
        refresh=ControllerRefresh(policy=r.choice(policies), postpone=r.choice([0, 0, 3, 8])),
    )
    stream = StreamConfig(
        pattern=r.choice(["sequential", "random", "random", "strided"]),
        reads=r.choice([1.0, 0.5, 0.7, 0.0]),
        interval=r.choice([0.0, 0.0, 2.5, 40.0, 400.0]),
        outstanding=r.choice([None, None, 1, 4]),
        stride_bytes=r.choice([64, 4096, 8192 * 16]),
        span_bytes=r.choice([None, 2**22, 2**15 * 64, 2**18]),
        seed=seed,
    )
    return Case(spec, controller, stream)


def run(kind: type[Queues], case: Case, count: int = LENGTH) -> tuple[Served, list[Row]]:
    policy, rows = make_policy(case.spec, case.controller), []
    source = requests(
        case.stream, count=count, burst_bytes=case.spec.burst_bytes, capacity=policy.addresses.capacity,
        ticks_per_clock=case.spec.ticks_per_clock,
    )  # fmt: skip

    def log(*row: Any) -> None:
        rows.append(row)

    return kind(policy, source, log=log, outstanding=case.stream.outstanding).run(), rows


@pytest.mark.parametrize("block", range(4))
def test_fast_is_plain_and_both_are_legal(block: int) -> None:
    for seed in range(block * CASES // 4, (block + 1) * CASES // 4):
        case = draw(seed)
        plain, fast = run(PlainController, case), run(FastController, case)
        assert fast == plain, seed
        trace = [make_command(case.spec, tick, name, 0, *rest) for tick, name, *rest in plain[1]]
        assert check_trace(case.spec, trace) == [], seed
        assert plain[0].reads + plain[0].writes + plain[0].forwarded == LENGTH, seed


def test_every_request_is_served_once_and_those_of_an_address_in_order() -> None:
    """The trace against the stream: each read and write where its address says, forwarded reads apart."""
    spec = spec_of("ddr4_3200aa")
    stream = StreamConfig(pattern="random", reads=0.5, span_bytes=64 * 40, seed=3)
    policy = make_policy(spec, ControllerConfig())
    served, rows = run(FastController, Case(spec, ControllerConfig(), stream), 2000)
    wanted: dict[tuple[Any, ...], str] = {}
    for request in requests(stream, count=2000, burst_bytes=64, capacity=policy.addresses.capacity):
        _, bank, row, column = policy.addresses.decode(request.address)
        wanted[bank, row, column] = wanted.get((bank, row, column), "") + ("W" if request.write else "R")
    found: dict[tuple[Any, ...], str] = {}
    for _, name, where, row, column in rows:
        if name in ("RD", "WR"):
            found[where, row, column] = found.get((where, row, column), "") + name[0].replace("D", "R")
    assert served.forwarded > 100
    assert sum(map(len, found.values())) == 2000 - served.forwarded
    assert set(found) == set(wanted)
    for place, letters in wanted.items():
        assert is_thinned(found[place], letters), place


def is_thinned(found: str, wanted: str) -> bool:
    """Whether ``found`` is ``wanted`` without some reads that come after a write."""
    position = 0
    for number, letter in enumerate(wanted):
        if position < len(found) and found[position] == letter:
            position += 1
        elif letter == "W" or "W" not in wanted[:number]:
            return False
    return position == len(found)
