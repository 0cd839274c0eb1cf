"""Timelines are read back by parsers that share no code with the writers: Perfetto's own descriptors, json, wellen."""

from __future__ import annotations

import itertools
import json
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from cli_tools import pimsim as run_cli

ARGS = [
    "run", "--arch", "pim_gpt", "--workload", "gpt2_decode", "--set", "workload.generate_tokens=2", "--set",
    "workload.model.layers=2", "--quiet", "--format", "json",
]  # fmt: skip


def draw(path: Path, *more: str) -> dict[str, Any]:
    done = run_cli(*ARGS, "--timeline", str(path), *more)
    assert done.exit_code == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def perfetto(path: Path) -> tuple[dict[str, list[tuple[int, int, str]]], dict[str, list[tuple[int, float]]]]:
    """(slices of each track, values of each counter); every begin must have its end."""
    pb = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2")
    outer, trace = pb.Trace(), pb.Trace()
    outer.ParseFromString(path.read_bytes())
    for packet in outer.packet:
        trace.MergeFromString(zlib.decompress(packet.compressed_packets))
    names, slices, values = {}, defaultdict(list), defaultdict(list)
    open_: dict[int, tuple[int, str]] = {}
    for packet in trace.packet:
        if packet.HasField("track_descriptor"):
            names[packet.track_descriptor.uuid] = packet.track_descriptor.name
        elif packet.HasField("track_event"):
            event = packet.track_event
            if event.type == pb.TrackEvent.TYPE_SLICE_BEGIN:
                assert event.track_uuid not in open_
                open_[event.track_uuid] = (packet.timestamp, event.name)
            elif event.type == pb.TrackEvent.TYPE_SLICE_END:
                begin, name = open_.pop(event.track_uuid)
                slices[names[event.track_uuid]].append((begin, packet.timestamp, name))
            else:
                values[names[event.track_uuid]].append((packet.timestamp, event.double_counter_value))
    assert not open_
    return slices, values


def area(points: list[tuple[int, float]], end: float) -> float:
    ends = [at for at, _ in points[1:]] + [end]
    return sum(value * (stop - start) for (start, value), stop in zip(points, ends, strict=True))


def test_perfetto_has_every_unit_and_the_energy_of_the_run(tmp_path):
    result = draw(tmp_path / "t.pftrace")
    slices, values = perfetto(tmp_path / "t.pftrace")
    nanoseconds = result["time"]["seconds"] * 1e9
    assert {"asic", *(f"channel{c}" for c in range(8))} <= set(slices)
    for track in slices.values():
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(track))
    assert sum(end - begin for begin, end, _ in slices["passes"]) == pytest.approx(nanoseconds)
    ops = slices["operations (what the end waits for)"]
    assert sum(end - begin for begin, end, _ in ops) == pytest.approx(nanoseconds)
    assert area(values["power"], nanoseconds) * 1e-9 == pytest.approx(result["energy"]["joules"], rel=1e-6)
    assert area(values["data pins"], nanoseconds) == pytest.approx(result["interface"]["bytes"], rel=1e-6)
    assert max(value for _, value in values["queue depth asic"]) > 0


def test_perfetto_shows_commands_and_banks_of_a_window(tmp_path):
    trace = tmp_path / "run.csv"
    draw(tmp_path / "t.pftrace", "--timeline-detail", "command", "--timeline-window", "5000:9000")
    assert run_cli(*ARGS, "--trace", str(trace)).exit_code == 0
    rows = [line.split(",") for line in trace.read_text().splitlines()[1:]]
    expected = sorted((int(r[0]), r[1]) for r in rows if 5000 <= int(r[0]) < 9000)
    slices, _ = perfetto(tmp_path / "t.pftrace")
    assert sorted((begin, name) for begin, _, name in slices["commands"]) == expected
    assert any(name.startswith("row ") for _, _, name in slices["bank15"])
    assert all(5000 <= begin < end <= 9000 for track in slices.values() for begin, end, _ in track)


def test_chrome_json_has_the_same_slices_as_perfetto(tmp_path):
    draw(tmp_path / "t.json", "--timeline-detail", "step")
    draw(tmp_path / "t.pftrace", "--timeline-detail", "step")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    threads = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    found = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            begin = round(event["ts"] * 1000)
            found[threads[event["tid"]]].append((begin, begin + round(event["dur"] * 1000), event["name"]))
    assert found == perfetto(tmp_path / "t.pftrace")[0]
    assert any(e["name"].startswith("wait ") for e in events)
    curves = defaultdict(list)
    for event in events:
        if event["ph"] == "C":
            curves[event["name"]].append((round(event["ts"] * 1000), next(iter(event["args"].values()))))
    told = perfetto(tmp_path / "t.pftrace")[1]
    assert curves["power (W)"] == told["power"]
    assert curves["data pins (GB/s)"] == told["data pins"]
    assert curves["queue depth asic (steps)"] == told["queue depth asic"]


def test_vcd_is_read_by_a_waveform_library(tmp_path):
    pywellen = pytest.importorskip("pywellen")
    pytest.importorskip("vcd")
    draw(tmp_path / "t.vcd", "--timeline-window", ":20us")
    draw(tmp_path / "t.pftrace", "--timeline-window", ":20us")
    wave = pywellen.Waveform(str(tmp_path / "t.vcd"))
    asic = next(variable.signal for variable in wave.all_vars() if variable.full_name == "units.asic")
    slices = perfetto(tmp_path / "t.pftrace")[0]["asic"]
    assert len(slices) > 5
    for begin, end, name in slices:
        assert [asic.value_at(1000 * at) for at in (begin, end - 1)] == [name.replace(" ", "_")] * 2
    power = next(variable.signal for variable in wave.all_vars() if variable.full_name == "curves.power_W")
    told = perfetto(tmp_path / "t.pftrace")[1]["power"]
    assert [power.value_at(1000 * at) for at, _ in told[:50]] == pytest.approx([value for _, value in told[:50]])


def test_a_run_of_1024_tokens_stays_small(tmp_path):
    """Steps of GPT-2 small: what a token adds, times 1,024 (whole: 19 MB)."""
    sizes = []
    for tokens in (8, 16):
        path = tmp_path / f"{tokens}.pftrace"
        arguments = [*ARGS[:5], "--set", f"workload.generate_tokens={tokens}", "--quiet", "--timeline", str(path)]
        assert run_cli(*arguments, "--timeline-detail", "step").exit_code == 0
        sizes.append(path.stat().st_size)
    assert 5_000 < (sizes[1] - sizes[0]) / 8 * 1024 < 50e6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--timeline", "x.txt"],
            "error: ending of the timeline file must be one of .json, .pftrace, .vcd, not '.txt'",
        ),
        (["--timeline", "x.json", "--timeline-window", "9:3"], "error: --timeline-window must end after it begins"),
        (["--timeline", "x.json", "--timeline-window", "a:3"], "error: --timeline-window must be FIRST:LAST"),
        (
            ["--timeline", "x.json", "--timeline-detail", "all"],
            "error: timeline detail must be one of command, op, step",
        ),
        (["--timeline-detail", "step"], "error: --timeline must name a file"),
        (
            ["--timeline", "x.json", "--timeline-detail", "command", "--set", "workload.generate_tokens=99"],
            "error: --timeline-detail command must show at most 2,000,000 DRAM commands",
        ),
    ],
)
def test_bad_options_leave_nothing_behind(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    done = run_cli(*ARGS, *options)
    assert done.exit_code == 2
    assert done.stderr.startswith(message)
    assert list(tmp_path.iterdir()) == []
