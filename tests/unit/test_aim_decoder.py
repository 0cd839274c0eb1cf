"""Decoders on GDDR6-AiM: instructions as in published traces, both engines alike, legal, right numbers, no lost time."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_tools import pimsim
from hypothesis import given, settings
from hypothesis import strategies as st

from pimsim.analysis.legality import check_trace
from pimsim.arch.aim import AimConfig
from pimsim.config import load_arch, load_workload
from pimsim.errors import CapacityExceeded, MappingError
from pimsim.machine.aim.host import run_aim
from pimsim.machine.aim.policy import POLICIES
from pimsim.machine.aim.segments import AimProgram
from pimsim.mapper.aim import AimMapping
from pimsim.program.aim_isr import Instruction, Limits, parse_instructions
from pimsim.program.aim_segments import PlacedSegment, Segment
from pimsim.result import Result
from pimsim.run import simulate
from pimsim.trace.csvio import make_command
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.models import build_graph

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = zipfile.ZipFile(ROOT / "tests" / "data" / "aim" / "golden.zip")
SHAPES = sorted(
    name.removeprefix("traces/gemv_").removesuffix("_c32_acc.trace")
    for name in GOLDEN.namelist()
    if name.startswith("traces/gemv_") and name.endswith("_c32_acc.trace")
)
"""Outputs x inputs of the products on 32 channels."""
EOC = Instruction("EOC", 1, (), -1, -1, 0, 0)
SMALL = {"model.layers": 2, "model.d_model": 96, "model.heads": 6, "model.d_ff": 200, "generate_tokens": 3}


def mapping(arch: AimConfig, **overrides: Any) -> AimMapping:
    options = [(path.replace("__", "."), str(value)) for path, value in overrides.items()]
    workload: WorkloadConfig = load_workload("gpt2_decode", options).value
    return AimMapping(workload, build_graph(workload), arch, arch.dram.resolve())


def machine(name: str = "aim_gddr6", **overrides: Any) -> AimConfig:
    arch: AimConfig = load_arch(
        name, [(path.replace("__", "."), str(value)) for path, value in overrides.items()]
    ).value
    return arch


def small(arch: AimConfig, **overrides: Any) -> AimMapping:
    return mapping(arch, **(SMALL | overrides))


def program(mapped: AimMapping, quirks: str, *, remember: bool = True, log: bool = False) -> AimProgram:
    machine = AimProgram(mapped.spec, POLICIES[quirks], mapped.addressed(), remember=remember, log=log)
    machine.run(mapped.forward_pass(context) for context in range(1, mapped.passes + 1))
    return machine


# ------------------------------------------------------------------------------------------------------ published traces


@pytest.mark.parametrize("shape", SHAPES)
def test_a_product_is_cut_as_in_the_traces_of_aim_simulator(shape: str) -> None:
    name = f"traces/gemv_{shape}_c32_acc.trace"
    published = parse_instructions(
        GOLDEN.read(name).decode().splitlines(), Limits(channels=32, banks=16, rows=16384, columns=64)
    )
    outputs, inputs = map(int, shape.split("x"))
    mapped = mapping(machine())
    own = [i for segment, row in mapped._linear(inputs, outputs) for i in segment.at(row)]
    plain = [(i.name, i.size, i.channels, i.bank, i.row) for i in published]
    kept = [(i.name, i.size, i.channels, i.bank, i.row) for i in own]
    if outputs % 512 == 0:
        assert kept == plain[:-1]
    else:  # the traces address channels that have no outputs in the last group, too
        assert [(n, s, b, r) for n, s, _, b, r in kept] == [(n, s, b, r) for n, s, _, b, r in plain[:-1]]
    spec, policy = mapped.spec, POLICIES["aim_simulator"]
    ours, theirs = run_aim(spec, policy, [*own, EOC]), run_aim(spec, policy, published)
    assert ours.cycles == theirs.cycles
    assert ours.channel_counts(0) == theirs.channel_counts(0)


# --------------------------------------------------------------------------------------------------------------- engines


@settings(max_examples=6, deadline=None)
@given(
    quirks=st.sampled_from(list(POLICIES)),
    interval=st.sampled_from([700, 1301, 3900]),
    channels=st.sampled_from([1, 3, 32]),
    heads=st.sampled_from([(6, 6), (6, 2), (4, 1)]),
    width=st.sampled_from([8, 24]),
    prompt=st.sampled_from([1, 15, 40]),
    host=st.booleans(),
)
def test_what_is_looked_up_is_what_is_simulated(
    quirks: str,
    interval: int,
    channels: int,
    heads: tuple[int, int],
    width: int,
    prompt: int,
    host: bool,
) -> None:
    timing = {"dram__timing__nREFI": interval, "dram__timing__nRFC": 150, "dram__channels": channels}
    arch = machine("aim_gddr6_proper" if host else "aim_gddr6", **timing)
    shape = {"model.heads": heads[0], "model.kv_heads": heads[1], "model.d_model": heads[0] * width}
    mapped = small(arch, **shape, prompt_tokens=prompt, generate_tokens=2)
    known, plain = (program(mapped, quirks, remember=remember) for remember in (True, False))
    assert known.totals == plain.totals
    assert known.simulated < plain.simulated


@pytest.mark.parametrize("quirks", ["aim_simulator", "none"])
def test_segments_are_the_trace_that_they_make_together(quirks: str) -> None:
    mapped = small(machine())
    placed = [each for context in range(1, mapped.passes + 1) for each in mapped.forward_pass(context)]
    whole = [i for each in placed for i in each.segment.at(each.base)]
    run = run_aim(mapped.spec, POLICIES[quirks], [*whole, EOC])
    own = program(mapped, quirks).totals
    assert {name: own.count(name) for name in run.total_counts} == run.total_counts
    assert own.ticks == run.cycles - 2  # EOC is decoded, issued and answered behind the last segment


def test_time_of_the_host_passes_and_refreshes_go_on() -> None:
    mapped = small(machine(dram__timing__nREFI=1000, dram__timing__nRFC=100))
    waits = [PlacedSegment(Segment(wait=n), 0, "softmax", 0, True) for n in (10, 5000, 7)]
    own = AimProgram(mapped.spec, POLICIES["none"], mapped.addressed())
    totals = own.run([waits])
    assert totals.ticks == 5017
    assert totals.count("REFab") == 5 * 32
    assert totals.unit_busy["host"] == 5017


# --------------------------------------------------------------------------------------------------------------- legality


def test_without_quirks_no_rule_is_broken() -> None:
    mapped = small(machine("aim_gddr6_proper"), prompt_tokens=20)
    own = program(mapped, "none", log=True)
    spec = mapped.spec
    for group, log in own.logs:
        commands = [make_command(spec, e.cycle, e.command, group[0], e.where, e.row, e.column) for e in log]
        assert check_trace(spec, commands) == []
        assert len(commands) > 1000


def test_a_trace_of_the_command_line_is_verified(tmp_path: Path) -> None:
    file = tmp_path / "run.csv"
    sets = [part for path, value in SMALL.items() for part in ("--set", f"workload.{path}={value}")]
    run = ("run", "--arch", "aim_gddr6_proper", "--workload", "gpt2_decode", "--quiet", *sets)
    done = pimsim(*run, "--format", "json", "--trace", str(file))
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert len(file.read_text().splitlines()) == result["simulation"]["commands"] + 1
    assert pimsim("verify-trace", "--arch", "aim_gddr6_proper", "--trace", str(file)).stdout == "no violations\n"


# ---------------------------------------------------------------------------------------------------------- closed forms


def result(arch: str, **fields: Any) -> Result:
    return simulate(arch, "gpt2_decode", overrides={f"workload.{k}": v for k, v in SMALL.items()} | fields)


@pytest.mark.parametrize("arch", ["aim_gddr6", "aim_gddr6_proper"])
def test_nothing_is_lost(arch: str) -> None:
    run = result(arch)
    cycles = [op.seconds for op in run.ops.values()]
    assert math.isclose(math.fsum(cycles), run.time.seconds, rel_tol=1e-12)
    assert math.isclose(math.fsum(layer.seconds for layer in run.layers), run.time.seconds, rel_tol=1e-12)
    assert math.isclose(math.fsum(run.energy.by_component.values()), run.energy.joules, rel_tol=1e-12)
    assert math.isclose(math.fsum(op.joules for op in run.ops.values()), run.energy.joules, rel_tol=1e-12)
    for unit in run.units.values():
        assert math.isclose(unit.busy_seconds + sum(unit.stalls.values()), run.time.seconds, rel_tol=1e-12)
    assert (run.energy.joules > 0) == (arch == "aim_gddr6_proper")
    assert bool(run.units["host"].busy_seconds) == (arch == "aim_gddr6_proper")
    assert run.pass_seconds[-1] == run.time.seconds
    json.dumps(run.to_json(), allow_nan=False)


def test_columns_are_those_of_the_matrices_and_time_is_not_below_them() -> None:
    """GPT-2 small, one token: a column of each bank holds 16 inputs of an output; outputs fill groups of 512 banks."""
    run = simulate("aim_gddr6", "gpt2_decode", overrides={"workload.generate_tokens": 1})
    columns = 12 * sum(
        math.ceil(d_in / 16) * math.ceil(d_out / 16)
        for d_in, d_out in ((768, 2304), (768, 768), (768, 3072), (3072, 768))
    )
    attention = 12 * (
        12 * 4 + 24 * 2
    )  # 12 heads: a block of keys of 4 columns, two groups of values in each of 2 channels
    assert run.dram is not None
    assert run.dram.commands["MAC16"] == columns + attention
    bandwidth = 32 * 16 * 32 / 2e-9  # bytes of 32 channels with 16 banks in two clocks
    weights = 2 * build_graph(load_workload("gpt2_decode").value).weights()
    assert 1 < run.time.seconds / (weights / bandwidth) < 5


@pytest.mark.parametrize("workload", ["llama2_7b_decode", "llama3_8b_decode"])
def test_llama_fits_and_is_bound_by_its_weights(workload: str) -> None:
    loaded = load_workload(workload).value
    AimMapping(loaded, build_graph(loaded), machine(), machine().dram.resolve())  # all layers fit
    few = {"workload.generate_tokens": 1, "workload.model.layers": 2}
    run = simulate("aim_gddr6", workload, overrides=few)
    loaded = load_workload(workload, [("model.layers", "2")]).value
    seconds = 2 * build_graph(loaded).weights() / (32 * 16 * 32 / 2e-9)
    assert 1 < run.time.seconds / seconds < 4


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(
        CapacityExceeded, match=r"^dram\.rows must hold gpt2_decode with a KV cache of 3 tokens: [\d,]+ rows"
    ):
        small(machine(dram__rows=8))
    with pytest.raises(CapacityExceeded, match=r"^dram\.columns must hold a head: 16, not 8"):
        small(machine(dram__columns=8), **{"model.d_model": 256, "model.heads": 1})
    with pytest.raises(
        MappingError, match=r"^a forward pass on aim_gddr6 must have one token \(batch: 1, .*\), not 2$"
    ):
        small(machine(), batch=2)


# --------------------------------------------------------------------------------------------------------------- numbers


class Banks:
    """GDDR6-AiM on numbers: what an instruction does to buffers, rows and registers. Shares nothing with the machine."""

    def __init__(self, mapped: AimMapping) -> None:
        self.lanes = mapped.lanes
        shape = (mapped.channels, mapped.banks, mapped.rows_used, mapped.spec.columns * mapped.lanes)
        self.rows = np.zeros(shape)
        self.buffer = np.zeros((mapped.channels, shape[-1]))
        self.registers = np.zeros(shape[:2])

    def run(self, segment: Segment, base: int, loads: Iterable[Any], bias: Any = 0.0) -> np.ndarray[Any, Any]:
        """The registers behind a segment; ``loads`` are the vectors of its WR_GB, one for all channels or one for each."""
        given = iter(loads)
        for i in segment.at(base):
            channels = list(i.channels)
            width = i.size * self.lanes
            match i.name:
                case "WR_GB":
                    self.buffer[channels, :width] = np.broadcast_to(next(given), (32, width))[channels]
                case "WR_BIAS":
                    self.registers[channels] = np.broadcast_to(bias, (32, 16))[channels]
                case "MAC_ABK":
                    product = self.rows[channels, :, i.row, :width] * self.buffer[channels, None, :width]
                    self.registers[channels] += product.sum(-1)
                case "COPY_GBBK":
                    self.rows[channels, i.bank, i.row, :width] = self.buffer[channels, :width]
                case "RD_MAC" | "WR_ABK" | "SYNC":
                    pass
                case _:
                    raise AssertionError(i.name)
        return self.registers.copy()


def padded(vector: Any, width: int) -> Any:
    return np.pad(vector, (0, width - len(vector)))


def test_a_product_of_the_instructions_is_the_product() -> None:
    mapped, random = mapping(machine(), **SMALL), np.random.default_rng(7)
    d_in, d_out = 1500, 700
    banks = Banks(mapped)
    banks.rows = np.zeros((32, 16, 4, 1024))
    x, weights, bias = random.normal(size=d_in), random.normal(size=(d_in, d_out)), random.normal(size=1024)
    for output in range(d_out):
        group, rest = divmod(output, 512)
        for tile in range(2):
            part = weights[tile * 1024 : (tile + 1) * 1024, output]
            banks.rows[rest // 16, rest % 16, group * 2 + tile, : len(part)] = part
    tiles = [x[:1024], padded(x[1024:], 480)]
    found = [
        banks.run(segment, row, tiles, bias[g * 512 : (g + 1) * 512].reshape(32, 16)).reshape(-1)
        for g, (segment, row) in enumerate(mapped._linear(d_in, d_out))
    ]
    assert np.allclose(np.concatenate(found)[:d_out], x @ weights + bias[:d_out])


def test_keys_that_were_appended_give_the_scores() -> None:
    """Six heads of 16 elements on 32 channels: five channels a head, tokens in blocks of 16 in turn."""
    mapped, random = small(machine(), generate_tokens=200), np.random.default_rng(8)
    banks, keys, queries = Banks(mapped), random.normal(size=(200, 6, 16)), random.normal(size=(6, 16))
    for token in range(200):
        load = np.zeros((32, 16))
        for head in range(6):
            load[head * 5 : head * 5 + 5] = keys[token, head]
        for segment, row in mapped._appended(token):
            banks.run(segment, row, [load])
    load = np.zeros((32, 16))
    for head in range(6):
        load[head * 5 : head * 5 + 5] = queries[head]
    found = np.zeros((6, 200))
    for slot, (segment, row) in enumerate(mapped._scores(200)):
        registers = banks.run(segment, row, [load])
        for channel in segment.instructions[-1].channels:
            block = slot * 5 + channel % 5
            tokens = slice(block * 16, min(200, block * 16 + 16))
            found[channel // 5, tokens] = registers[channel, : tokens.stop - tokens.start]
    assert np.allclose(found, np.einsum("thd,hd->ht", keys, queries))


def test_values_by_banks_give_the_weighted_sum() -> None:
    """Heads of 48 elements in three groups of 16 banks, over two channels each: 16 heads on 32 channels."""
    shape = {"model.d_model": 768, "model.heads": 16, "generate_tokens": 1100}
    mapped, random = small(machine(), **shape), np.random.default_rng(9)
    banks, values, weights = Banks(mapped), random.normal(size=(1100, 16, 48)), random.normal(size=(16, 1100))
    start = mapped._rows["values"]
    for element in range(48):
        turn, group = divmod(element // 16, 2)
        for head in range(16):
            for tile in range(2):
                part = values[tile * 1024 : (tile + 1) * 1024, head, element]
                banks.rows[head * 2 + turn, element % 16, start + group * 2 + tile, : len(part)] = part
    by_channel = np.repeat(weights, 2, axis=0)
    tiles = [by_channel[:, :1024], np.pad(by_channel[:, 1024:], ((0, 0), (0, 4)))]
    found = np.zeros((16, 4, 16))
    for group, (segment, row) in enumerate(mapped._values(1100)):
        registers = banks.run(segment, row, tiles)
        for channel in segment.instructions[-1].channels:
            found[channel // 2, channel % 2 * 2 + group] = registers[channel]
    assert np.allclose(found.reshape(16, 64)[:, :48], np.einsum("ht,thd->hd", weights, values))
