"""Bandwidth and latency of the controller against what the timing values say by hand."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pimsim.arch.controller import ControllerConfig, ControllerRefresh
from pimsim.arch.dram import DramSpec
from pimsim.config import load_dram
from pimsim.machine.controller.fast import FastController
from pimsim.machine.controller.policy import make_policy
from pimsim.trace.served import Served
from pimsim.traffic.config import StreamConfig
from pimsim.traffic.stream import Request, read_requests, requests

DATA = Path(__file__).parents[1] / "data" / "dram"
STILL = ControllerRefresh(policy="none")
INTERLEAVED = ["row", "bank", "rank", "column", "bankgroup", "channel"]
ROW_STRIDE = 64 * 128 * 16
"""Bytes from one row of a bank of `ddr4_3200aa` to the next, with the row in the upper bits."""

Row = tuple[int, str, tuple[int, ...], int, int]


@cache
def ddr4() -> DramSpec:
    return load_dram("ddr4_3200aa").value.resolve()


def serve(
    source: StreamConfig | list[Request], count: int | None = None, spec: DramSpec | None = None, **fields: Any
) -> tuple[Served, list[Row]]:
    spec = spec or ddr4()
    policy, rows = make_policy(spec, ControllerConfig(**fields)), []
    outstanding = None
    if isinstance(source, StreamConfig):
        outstanding = source.outstanding
        source = list(requests(source, count=count, burst_bytes=spec.burst_bytes, capacity=policy.addresses.capacity))

    def log(*row: Any) -> None:
        rows.append(row)

    return FastController(policy, iter(source), log=log, outstanding=outstanding).run(), rows


def test_a_stream_of_reads_fills_the_data_pins() -> None:
    """The first read comes after nRCD, then a burst every nBL = 4, row changes included, then nCL + nBL."""
    served, _ = serve(StreamConfig(pattern="sequential"), 5000, mapping=INTERLEAVED, refresh=STILL)
    assert served.end == 1 + 22 + 4999 * 4 + 22 + 4
    assert served.commands["ACT"] == 40  # 5000 bursts over rows of 128


def test_a_stream_of_writes_fills_the_data_pins() -> None:
    served, _ = serve(StreamConfig(pattern="sequential", reads=0.0), 5000, mapping=INTERLEAVED, refresh=STILL)
    assert served.end == 1 + 22 + 4999 * 4 + 16 + 4
    assert served.writes == 5000


def test_within_a_bank_group_a_stream_is_bound_by_ccd_long() -> None:
    served, _ = serve(StreamConfig(pattern="sequential"), 128, refresh=STILL)
    assert served.end == 1 + 22 + 127 * 8 + 22 + 4


@pytest.mark.parametrize("postpone", [0, 4])
def test_a_stream_loses_what_refresh_takes(postpone: int) -> None:
    """Peak less nRFC for each refresh, and at most closing, opening and an empty pipe around each."""
    refresh = ControllerRefresh(postpone=postpone)
    served, _ = serve(StreamConfig(pattern="sequential"), 40_000, mapping=INTERLEAVED, refresh=refresh)
    refreshes = served.commands["REFab"]
    assert refreshes == served.end // 12480 - postpone
    lost = served.end - (1 + 22 + 39_999 * 4 + 22 + 4)
    assert refreshes * 576 <= lost <= refreshes * (576 + 12 + 22 + 22 + 3 * 4)
    assert lost / served.end == pytest.approx(576 / 12480, rel=0.5 if postpone else 0.1)


def test_new_rows_in_one_bank_come_every_row_cycle() -> None:
    stream = StreamConfig(pattern="strided", stride_bytes=ROW_STRIDE)
    served, rows = serve(stream, 200, refresh=STILL)
    assert {row[2] for row in rows} == {(0, 0, 0)}
    assert served.end == 1 + 199 * 74 + 22 + 22 + 4
    assert served.met == {"miss": 1, "conflict": 199}


def test_random_rows_in_one_bank_come_every_row_cycle() -> None:
    stream = StreamConfig(pattern="random", stride_bytes=ROW_STRIDE, seed=5)
    served, _ = serve(stream, 300, refresh=STILL)
    activates = served.commands["ACT"]
    assert activates > 290
    assert served.end == 1 + (activates - 1) * 74 + 22 + 22 + 4


def test_an_idle_memory_answers_after_rcd_cl_and_a_burst() -> None:
    stream = StreamConfig(pattern="random", interval=1000.0, seed=2)
    served, _ = serve(stream, 300, page="closed", refresh=STILL)
    assert served.read_latency == {22 + 22 + 4: 300}
    assert served.met == {"miss": 300}
    assert served.waited == 0


def test_an_idle_memory_with_an_open_row_answers_after_cl_or_a_precharge_more() -> None:
    same = StreamConfig(pattern="strided", stride_bytes=64, span_bytes=64 * 128, interval=500.0)
    served, _ = serve(same, 100, refresh=STILL)
    assert served.read_latency == {48: 1, 26: 99}
    other = StreamConfig(pattern="strided", stride_bytes=ROW_STRIDE, interval=500.0)
    served, _ = serve(other, 100, refresh=STILL)
    assert served.read_latency == {48: 1, 22 + 48: 99}


def test_dependent_reads_follow_each_other_at_their_latency() -> None:
    """A pointer chase over other banks: one read at a time, each as slow as on an idle memory."""
    stream = StreamConfig(pattern="strided", stride_bytes=64 * 128 * 5, outstanding=1)
    served, _ = serve(stream, 60, page="closed", refresh=STILL)
    assert served.read_latency == {48: 60}
    assert served.end == 1 + 60 * 48


def test_first_come_first_served_is_the_in_order_schedule_of_the_reference_simulators() -> None:
    """Read-only patterns of Ramulator 2.1 and DRAMsim3, command for command."""
    compared = 0
    for standard in ("ddr4_3200aa", "gddr6_14000"):
        spec = load_dram(standard).value.resolve()
        for pattern in ("stream_hit_1bank", "stream_bg_interleave", "conflict_1bank", "allbank_rr", "samebg_rr"):
            capacity = make_policy(spec, ControllerConfig()).addresses.capacity
            # their mapping has ranks and bank groups below banks
            order = ["row", "bank", "bankgroup", *(["rank"] if "rank" in spec.levels else []), "column", "channel"]
            path = DATA / standard / f"{pattern}.req.csv"
            source = list(read_requests(path, spec.burst_bytes, capacity))
            if any(request.write for request in source):
                continue
            _, rows = serve(source, spec=spec, scheduler="fcfs", mapping=order, refresh=STILL)
            lines = (DATA / standard / f"{pattern}.inorder.cmd.csv").read_text().splitlines()[1:]
            golden = [(int(cells[0]), cells[1]) for cells in (line.split(",") for line in lines)]
            assert [(tick, name) for tick, name, *_ in rows] == golden, (standard, pattern)
            compared += len(golden)
    assert compared > 5000


def ticks_of(rows: list[Row], name: str, where: tuple[int, ...]) -> list[int]:
    return [row[0] for row in rows if row[1] == name and row[2] == where]


def test_banks_are_refreshed_in_turn_each_once_in_an_interval() -> None:
    spec = load_dram("hbm2_2000").value.resolve()
    stream = StreamConfig(pattern="random", interval=20.0, seed=1)
    _, rows = serve(stream, 1500, spec=spec, refresh=ControllerRefresh(policy="per_bank"))
    banks = sorted({row[2] for row in rows if row[1] == "REFpb"})
    assert len(banks) == 32
    assert "REFab" not in {row[1] for row in rows}
    for number, bank in enumerate(banks):
        for count, tick in enumerate(ticks_of(rows, "REFpb", bank)):
            due = spec.refresh_interval * (number + 1) // 32 + count * spec.refresh_interval
            assert due <= tick <= due + 400, bank


def test_a_stream_gets_more_with_a_refresh_of_one_bank_at_a_time() -> None:
    spec = load_dram("hbm2_2000").value.resolve()
    order = ["row", "bank", "column", "bankgroup", "pseudochannel", "channel"]
    lengths = {
        policy: serve(
            StreamConfig(pattern="sequential"),
            12_000,
            spec=spec,
            mapping=order,
            refresh=ControllerRefresh(policy=policy),
        )[0].end
        for policy in ("none", "per_bank", "all_bank")
    }
    assert lengths["none"] < lengths["per_bank"] < lengths["all_bank"]


def test_refreshes_are_put_off_while_requests_wait_and_made_up_for_afterwards() -> None:
    """Four intervals of saturation, then a pause: none at first, four in the pause, back to back."""
    busy = [Request(0, 64 * n, write=False) for n in range(12_480)]  # 4 clocks each
    late = Request(4 * 12_480 + 6000, 0, write=False)
    refresh = ControllerRefresh(postpone=8)
    _, rows = serve([*busy, late], mapping=INTERLEAVED, refresh=refresh)
    ticks = [row[0] for row in rows if row[1] == "REFab"]
    ended = max(row[0] for row in rows if row[1] == "RD" and row[0] < late.arrive)
    assert ended > 4 * 12_480 - 1200
    assert all(tick > ended for tick in ticks)
    assert [b - a for a, b in itertools.pairwise(ticks)][:2] == [576, 576]
    assert len(ticks) == late.arrive // 12_480


def test_an_old_request_is_not_held_up_by_hits_for_ever() -> None:
    hits = [Request(4 * n, 64 * (n % 128), write=False) for n in range(3000)]
    conflict = Request(0, ROW_STRIDE, write=False)
    waits = {}
    for limit in (None, 500):
        _, rows = serve([hits[0], conflict, *hits[1:]], refresh=STILL, read_queue=64, age_limit=limit)
        waits[limit] = next(row[0] for row in rows if row[1] == "RD" and row[3] == 1)
    assert waits[500] <= 1 + 500 + 8 + 12 + 22 + 22
    assert waits[None] > 5000


def test_writes_wait_for_the_mark_and_are_drained_to_the_other() -> None:
    """Reads always wait, so writes go out in runs of drain_start - drain_stop at least."""
    source = [Request(0, 64 * (7 * n % 4096), write=bool(n % 2)) for n in range(2000)]
    _, rows = serve(source, mapping=INTERLEAVED, refresh=STILL, drain_start=24, drain_stop=8)
    letters = "".join(row[1][0] for row in rows if row[1] in ("RD", "WR"))
    runs = [len(run) for run in letters.split("R") if run]
    assert letters.count("W") == letters.count("R") == 1000
    assert min(runs[:-1]) >= 16


def test_a_closed_page_leaves_no_row_open() -> None:
    served, _ = serve(StreamConfig(pattern="random", interval=200.0), 50, page="closed", refresh=STILL)
    assert served.commands["PREpb"] >= 49
    assert served.row_open_ticks <= 50 * (52 + 1)


def test_a_read_of_what_is_about_to_be_written_needs_no_memory() -> None:
    source = [Request(0, 64, write=True), Request(0, 64, write=False), Request(0, 128, write=False)]
    served, rows = serve(source, refresh=STILL)
    assert served.forwarded == 1
    assert [row[1] for row in rows] == ["ACT", "RD", "WR"]


def test_a_write_does_not_overtake_a_read_of_its_address() -> None:
    source = [Request(0, 64, write=False), Request(0, 64, write=True)]
    _, rows = serve(source, refresh=STILL)
    assert [row[1] for row in rows] == ["ACT", "RD", "WR"]
