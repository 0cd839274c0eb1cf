"""Ports with a DRAM behind them: both engines agree, its commands are legal, and what ports share they share."""

from __future__ import annotations

import json
import random
from fractions import Fraction
from pathlib import Path

import pytest
from cli_tools import pimsim

from pimsim import catalog
from pimsim.analysis.legality import check_trace
from pimsim.config import load_arch, load_dram, load_workload
from pimsim.errors import ConfigError
from pimsim.machine.fpga.fast import run_region
from pimsim.machine.fpga.memory import MemoryChannel, MemoryTiming
from pimsim.machine.fpga.ports import PortTiming
from pimsim.machine.fpga.schedule import ProgramTimes, run_program
from pimsim.machine.fpga.shared import Machine, run_fast, run_reference
from pimsim.mapper.fpga import units
from pimsim.mapper.fpga.encoder import encoder_calls
from pimsim.program.dataflow import Call, Region
from pimsim.run import simulate
from pimsim.trace.csvio import make_command

SMALL = (
    "workload.image.height=32", "workload.image.width=64", "workload.layers=2", "workload.d_model=64", "workload.heads=1",
    "workload.d_ff=128", "workload.moe.experts=4", "workload.moe.d_expert=32", "workload.moe.routing=null",
)  # fmt: skip
EDGE = PortTiming(2, 1, 64, 16, 16)
FULL = PortTiming(1, 1, 64, 16, 16)


def memory(name: str = "ddr4_2133p", path: int = 27) -> MemoryChannel:
    spec = load_dram(name).value.resolve()
    tick_ps = Fraction(repr(spec.tck_ps)) / spec.ticks_per_clock
    return MemoryChannel(MemoryTiming(spec, path, 32, Fraction(10**6, 300) / tick_ps))


def machine(calls: list[Call], timing: PortTiming, name: str, channels: int, apart: int) -> Machine:
    """Ports in turn on so many channels; streams ``apart`` beats from each other."""
    ports = sorted({stream.port for call in calls for stream in (*call.region.reads, *call.region.writes)})
    parts = [memory(name) for _ in range(channels)]
    for part in parts:
        part.core.log = []
    places = [
        {stream.name: n * apart for n, stream in enumerate((*call.region.reads, *call.region.writes))} for call in calls
    ]
    return Machine(timing, {port: parts[n % channels] for n, port in enumerate(ports)}, places)


def both(
    calls: list[Call], timing: PortTiming, name: str = "ddr4_2133p", channels: int = 1, apart: int = (1 << 20) + 1024
) -> ProgramTimes:
    """The times on which both engines agree; the memory's commands agree, too, and break no rule."""
    one, other = (machine(calls, timing, name, channels, apart) for _ in range(2))
    times = run_fast(calls, one)
    assert times == run_reference(calls, other)
    for port, channel in one.memory.items():
        assert channel.core.log == other.memory[port].core.log
        spec = channel.spec
        rows = [
            make_command(spec, tick, command, 0, where, row, column)
            for tick, command, where, row, column in channel.core.log or []
        ]
        assert check_trace(spec, rows) == []
    return times


def pair(one: Region, other: Region) -> list[Call]:
    return [Call("one", "load", 0, one), Call("other", "load", 0, other)]


@pytest.mark.parametrize("seed", range(12))
def test_engines_agree_on_calls_that_compete(seed: int) -> None:
    r = random.Random(seed)
    timing = PortTiming(r.choice([1, 2, 3]), r.choice([1, 2]), 64, r.choice([1, 4, 16]), r.choice([1, 3, 16]))
    builds = (
        lambda: units.load(r.randint(1, 300), "w", 5),
        lambda: units.copy(r.randint(1, 200), ("a", "b"), 3, 2),
        lambda: units.layernorm(r.randint(1, 9), r.randint(1, 6), ("a", "b"), (3, 9), 2),
        lambda: units.residual(r.randint(1, 200), ("a", "b", "a"), 3, 2),
        lambda: units.expert(
            r.randint(1, 6), 32, 32, units.LinearUnit(), ("a", "b"), gelu=False, gathers=r.choice([True, False])
        ),
    )
    calls: list[Call] = []
    for number in range(6):
        region = builds[0 if number % 2 else r.randint(1, 4)]()
        # a load beside a call on other ports, then both before the next pair
        calls.append(Call(f"call {number}", "op", 0, region, tuple(range(number - number % 2))))
    apart = r.choice([70_000, (1 << 20) + 1024, 100])  # the first: other rows of one bank
    both(calls, timing, r.choice(["ddr4_2133p", "hbm2_2000", "gddr6_14000"]), r.choice([1, 2]), apart)


@pytest.mark.parametrize("prefetch", ["experts", "none"])
def test_engines_give_the_same_result_for_an_encoder(prefetch: str) -> None:
    options = [*SMALL, "arch.fpga.memory.kind=dram", f"arch.fpga.encoder.weight_prefetch={prefetch}"]
    one, other = (
        simulate("edge_moe_zcu102", "m3vit_cityscapes", overrides=options, engine=engine)  # type: ignore[arg-type]
        for engine in ("fast", "reference")
    )
    assert (one.time, one.units, one.ops, one.layers, one.ports, one.dram) == (
        other.time, other.units, other.ops, other.layers, other.ports, other.dram,
    )  # fmt: skip
    assert one.dram is not None
    assert one.ports is not None
    # two beats of 32 bytes in a burst of 64: single beats at scattered addresses read a burst each
    assert one.dram.bytes_read >= sum(port.bytes_read for port in one.ports.values())
    assert one.dram.refreshes > 0
    assert one.notes
    assert not other.notes
    fixed = simulate("edge_moe_zcu102", "m3vit_cityscapes", overrides=options[:-2])
    assert fixed.dram is None
    assert not fixed.notes


def test_the_whole_program_of_an_encoder_is_legal() -> None:
    arch = load_arch("edge_moe_zcu102").value.fpga
    options = [tuple(text.removeprefix("workload.").split("=", 1)) for text in SMALL]
    calls = encoder_calls(arch, arch.encoder, load_workload("m3vit_cityscapes", options).value)  # type: ignore[arg-type]
    times = both(calls, EDGE)
    ideal = run_program(calls, EDGE, run_region)
    assert ideal.cycles < times.cycles < 1.3 * ideal.cycles


def test_an_idle_read_takes_the_way_there_and_back_an_activate_and_a_read() -> None:
    channel, spec = memory(), load_dram("ddr4_2133p").value.resolve()
    (ready,) = channel.access(27, 0, 1, write=False)
    ticks = spec.timing["nRCD"] + spec.timing["nCL"] + spec.timing["nBL"]
    assert ready == pytest.approx(27 + ticks * 0.9375 * 0.3, abs=1.5)
    assert 27 + ready == pytest.approx(64, abs=1.5)  # the latency that the ports have without a DRAM


def test_beats_of_one_burst_are_read_once_and_consecutive_bursts_go_to_other_bank_groups() -> None:
    channel = memory()
    channel.core.log = []
    channel.access(0, 1, 8, write=False)  # beats 1 to 8: the second half of burst 0 to the first half of burst 4
    reads = [where for _, command, where, _, _ in channel.core.log if command == "RD"]
    assert [where[1] for where in reads] == [0, 1, 2, 3, 0]
    assert channel.counts == {"ACT": 4, "RD": 5}


def test_ports_share_a_channel_and_not_two() -> None:
    # a port of a beat per cycle asks for 9.6 GB/s; the DRAM has 17.1 GB/s for all
    calls = pair(units.residual(4000, ("a", "b", "c"), 2, 2), units.load(4000, "d", 5))
    alone = both(calls[:1], FULL).cycles
    shared, apart = both(calls, FULL), both(calls, FULL, channels=4)
    assert shared.cycles > 1.2 * alone > apart.cycles
    assert apart.cycles == pytest.approx(run_program(calls, FULL, run_region).cycles, rel=0.1)
    # no more than the pins can carry: 4 x 4000 beats of 32 bytes
    assert shared.cycles / 300e6 > 4 * 4000 * 32 / 17.064e9


def test_naive_attention_waits_for_the_dram_where_the_port_is_wide() -> None:
    options = ["workload.tokens=24", "arch.fpga.ports.width_bits=2048", "arch.fpga.attention.parallelism=8"]
    options += ["arch.fpga.resources.device=null", "arch.fpga.attention.statistics_interval=1"]
    cycles = {
        (schedule, kind): simulate(
            "edge_moe_zcu102", f"attention_{schedule}", overrides=[*options, f"arch.fpga.memory.kind={kind}"]
        ).time.cycles
        for schedule in ("naive", "reordered")
        for kind in ("fixed", "dram")
    }
    assert cycles["naive", "dram"] > 1.5 * cycles["naive", "fixed"]
    assert cycles["reordered", "dram"] < 1.2 * cycles["reordered", "fixed"]


def test_a_strict_run_checks_every_command_and_a_trace_holds_them(tmp_path: Path) -> None:
    run = ("run", "--arch", "edge_moe_zcu102", "--workload", "attention_naive", "--set", "workload.tokens=5", "--quiet")
    dram, trace = ("--set", "arch.fpga.memory.kind=dram"), tmp_path / "commands.csv"
    done = pimsim(*run, *dram, "--strict", "--trace", str(trace), "--format", "json")
    assert (done.exit_code, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["legality"] == {"checked": sum(found["dram"]["commands"].values())}
    assert len(trace.read_text(encoding="utf-8").splitlines()) == 1 + found["legality"]["checked"]
    assert pimsim("verify-trace", "--dram", "ddr4_2133p", "--trace", str(trace)).stdout == "no violations\n"
    refused = pimsim(*run, "--strict")
    assert refused.exit_code == 2
    assert refused.stderr.startswith(
        "error: --strict must be left out: attention_naive on edge_moe_zcu102 issues no DRAM commands that "
        "could be checked; it does with arch.fpga.memory.kind=dram"
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("dram=null", "--set arch.fpga.memory.dram=null: fpga.memory.dram: must be given, as kind is dram"),
        (
            "dram={base: dram/lpddr5_6400}",
            "{lpddr5}: fpga.memory.dram.commands: must open, read and write a bank with one command each behind memory ports; "
            "lpddr5_6400 needs ACT1, CAS_RD, CAS_WR before",
        ),
        ("path_cycles=0", "--set arch.fpga.memory.path_cycles=0: fpga.memory.path_cycles: must be"),
    ],
)
def test_wrong_input_says_what_must_hold(option: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_arch("edge_moe_zcu102", [("fpga.memory.kind", "dram"), tuple(f"fpga.memory.{option}".split("=", 1))])  # type: ignore[list-item]
    place = f"{catalog.find('dram', 'lpddr5_6400')}:44:1"
    assert str(caught.value).startswith(message.replace("{lpddr5}", place))
