"""Hybrid machines: placement, what crosses the link, both engines, bounds, bad input."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from math import ceil
from typing import Any

import pytest

from pimsim.arch.hybrid import PLACEABLE, HybridConfig
from pimsim.config import load_arch, load_workload, unsourced
from pimsim.errors import CapacityExceeded, ConfigError, UnsupportedOp
from pimsim.machine.fast import FastEngine
from pimsim.machine.fpga.fast import run_region
from pimsim.machine.hybrid import further_units, port_timing
from pimsim.mapper.choice import graph_for, mapping_for
from pimsim.mapper.fpga import kernels
from pimsim.mapper.hybrid import HybridMapping
from pimsim.program.text import from_text, to_text
from pimsim.program.verify import verify
from pimsim.result import Result
from pimsim.run import simulate, simulate_loaded
from pimsim.runners import RunOptions
from pimsim.trace.spans import SpanList

TINY = """
name: tiny
model: {layers: 2, d_model: 64, heads: 4, d_ff: 128, vocabulary: 100, context: 64}
prompt_tokens: 1
generate_tokens: 3
sources: {model: "assumed: test", prompt_tokens: "assumed: test", generate_tokens: "assumed: test"}
"""
EVERYWHERE = "{attention: fpga, qkv_projection: fpga, output_projection: fpga, ffn_up: fpga, ffn_down: fpga}"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("workload") / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return str(path)


def hybrid(workload: str, *overrides: str, **options: Any) -> Result:
    return simulate("hybrid_pim_fpga", workload, overrides=overrides, **options)


def fixed(sides: Iterable[str]) -> tuple[str, str]:
    text = ", ".join(f"{work}: {side}" for work, side in zip(PLACEABLE, sides, strict=True))
    return "arch.placement=fixed", f"arch.fixed={{{text}}}"


def mapped(workload: str, arch: dict[str, str], **changes: str) -> tuple[HybridConfig, HybridMapping]:
    machine = load_arch("hybrid_pim_fpga", arch.items()).value
    work = load_workload(workload, changes.items()).value
    mapping = mapping_for(work, graph_for(work, machine), machine, machine.dram.resolve())
    assert isinstance(mapping, HybridMapping)
    return machine, mapping


# ------------------------------------------------------------------------------------------------------------- equality


def test_every_number_of_the_machine_has_a_source() -> None:
    assert unsourced(load_arch("hybrid_pim_fpga")) == []


def test_pim_only_is_the_pure_machine_command_by_command(tiny: str) -> None:
    traces: list[list[Any]] = [[], []]
    pure = simulate("pim_gpt", tiny, trace=traces[0])
    both = hybrid(tiny, trace=traces[1])
    assert traces[0] == traces[1]
    assert len(traces[0]) > 1000
    assert both.time == pure.time
    assert both.dram == pure.dram
    assert [(kind, op.count, op.seconds) for kind, op in both.ops.items()] == [
        (kind, op.count, op.seconds) for kind, op in pure.ops.items()
    ]
    assert {name: unit for name, unit in both.units.items() if name in pure.units} == pure.units
    assert both.units["fpga"].busy_seconds == both.units["link_in"].busy_seconds == 0


def test_pim_only_is_the_pure_machine_on_a_model_of_its_size() -> None:
    options = ["workload.generate_tokens=3", "workload.prompt_tokens=130"]
    assert hybrid("gpt2_decode", *options).time == simulate("pim_gpt", "gpt2_decode", overrides=options).time


@pytest.mark.parametrize(
    "options",
    [
        ("arch.placement=stream_attention",),
        ("arch.placement=stream_attention", "workload.attention=single_pass"),
        ("arch.placement=fixed", f"arch.fixed={EVERYWHERE}", "arch.fpga.clock_mhz=333.3"),
        ("arch.placement=fixed", "arch.fixed={ffn_up: fpga}", "arch.link.clock_mhz=700"),
    ],
)
def test_both_engines_agree_on_every_command_and_stall(tiny: str, options: tuple[str, ...]) -> None:
    found = []
    for engine in ("fast", "reference"):
        trace: list[Any] = []
        result = hybrid(tiny, *options, engine=engine, trace=trace)
        found.append((trace, result.time, result.units, result.ops, result.links, result.pass_seconds))
    same = found[0] == found[1]
    assert same


def test_a_strict_run_finds_no_broken_rule(tiny: str) -> None:
    loaded = load_arch("hybrid_pim_fpga", [("placement", "stream_attention")])
    result = simulate_loaded(loaded, load_workload(tiny), RunOptions(strict=True))
    assert result.legality == {"checked": result.simulation.commands}


# ------------------------------------------------------------------------------------------------- what crosses the link


@pytest.mark.parametrize("attention", ["vanilla", "single_pass"])
def test_attention_sends_queries_keys_and_values_and_gets_the_result_back(attention: str) -> None:
    result = hybrid(
        "qwen2_500m_decode",
        "arch.placement=stream_attention",
        f"workload.attention={attention}",
        "workload.generate_tokens=5",
    )
    layers, passes, heads, kv_heads, d_head, element = 24, 5, 14, 2, 64, 2
    assert result.links is not None
    sent, back = (result.links[name] for name in ("link_in", "link_out"))
    assert sent.bytes == layers * passes * (heads + 2 * kv_heads) * d_head * element
    assert back.bytes == layers * passes * heads * d_head * element
    assert sent.joules == pytest.approx(sent.bytes * 8 * 0.5e-12)
    assert result.energy.by_component["link"] == pytest.approx((sent.bytes + back.bytes) * 8 * 0.5e-12)
    assert result.dram is not None
    assert "WR" not in result.dram.commands  # no cache in the DRAM
    kinds = {"attention"} if attention == "single_pass" else {"attention_scores", "attention_values"}
    assert {kind for kind, op in result.ops.items() if op.unit == "fpga"} == kinds
    assert {result.ops[kind].unit for kind in ("qkv_projection", "ffn_up")} == {"channels"}
    assert (result.ops["link"].unit, result.ops["rope"].unit, result.ops["background"].unit) == ("link", "asic", None)


def test_the_cache_is_counted_where_it_lies() -> None:
    options = ("workload.generate_tokens=5", "arch.placement=fixed", "arch.fixed={attention: fpga, ffn_up: fpga}")
    memory = hybrid("qwen2_500m_decode", *options).memory
    assert memory is not None
    cache, up = 24 * 5 * 2 * 2 * 64 * 2, 24 * 896 * 2 * 4864 * 2
    found = memory["fpga.memory"]
    assert (found["persistent_bytes"], found["peak_bytes"]) == (cache, up + cache)
    assert [n for _, n in found["over_time"]] == [up + cache // 5 * k for k in range(6)]
    assert memory["dram"]["persistent_bytes"] == 0
    assert memory["fpga.buffer"]["peak_bytes"] == 4 * (896 + 2 * 4864 + 18 * 64 + 14 * 5 + 14 * 64)


def test_power_of_the_streaming_unit(tiny: str) -> None:
    result = hybrid(tiny, "arch.placement=stream_attention")
    busy = result.units["fpga"].busy_seconds
    assert 0 < busy < result.time.seconds
    assert result.energy.by_component["fpga"] == pytest.approx(60 * busy, rel=1e-4)
    assert result.energy.by_component["fpga_idle"] == pytest.approx(
        25 * (result.time.seconds - busy), rel=1e-3
    )  # busy in whole ticks
    unknown = hybrid(
        tiny, "arch.placement=stream_attention", "arch.fpga.busy_power_w=null", "arch.link.pj_per_bit=null"
    )
    assert "fpga: fpga.busy_power_w is not given" in unknown.energy.uncosted
    assert "link: link.pj_per_bit is not given" in unknown.energy.uncosted
    assert unknown.links is not None
    assert unknown.links["link_in"].joules is None


def test_a_step_over_the_link_takes_its_bits_and_its_latency(tiny: str) -> None:
    """Spans of the units: the transfer, the kernel and the way back follow each other without a gap of their own."""
    spans = SpanList()
    machine, mapping = mapped(tiny, {"placement": "fixed", "fixed": "{ffn_up: fpga}", "link.width_bits": "64"})
    FastEngine(machine, machine.dram.resolve(), recorder=spans, further=further_units(machine, run_region)).run(
        [mapping.forward_pass(1)]
    )
    block = next(block for block in spans.blocks if block.name == "feed_forward")
    sent, ran, back = (
        next(span for span in block.spans if span.units == (unit,)) for unit in ("link_in", "fpga", "link_out")
    )
    assert sent.end - sent.begin == ceil(64 * 16 / 64)  # d_model elements, a cycle of 1 ns for each 64 bits
    assert ran.ready == sent.end + 20
    region = mapping.linear_region(64, 128)
    cycles = run_region(region, {"weights": port_timing(machine.fpga)}).cycles
    assert cycles * 1000 / 300 - 1 <= ran.end - ran.begin <= cycles * 1000 / 300 + 1
    assert back.ready == ran.end
    assert back.end - back.begin == ceil(128 * 16 / 64)


# ------------------------------------------------------------------------------------------------------------ placement


def test_policies(tiny: str) -> None:
    pim = dict.fromkeys(PLACEABLE, "pim")
    assert hybrid(tiny).placement == pim
    assert hybrid(tiny, "arch.placement=stream_attention").placement == {**pim, "attention": "fpga"}
    assert hybrid(tiny, "arch.placement=fixed", "arch.fixed={ffn_down: fpga}").placement == {**pim, "ffn_down": "fpga"}
    # an algorithm that PIM channels do not have leaves no choice
    bound = hybrid(tiny, "arch.placement=best_bound", "workload.attention=single_pass")
    assert bound.placement == {**pim, "attention": "fpga"}


FEW_CHANNELS = ("arch.dram.channels=1", "arch.fpga.clock_mhz=400", "arch.fpga.ports.clock_mhz=400")


@pytest.mark.parametrize("machine", [(), FEW_CHANNELS])
def test_best_bound_is_within_a_tenth_of_the_best_of_all_placements(machine: tuple[str, ...]) -> None:
    options = (
        "workload.model.layers=1",
        "workload.generate_tokens=1",
        "workload.model.d_model=512",
        "workload.model.heads=8",
    )
    cycles = {
        sides: hybrid("gpt2_decode", *fixed(sides), *options, *machine).time.cycles
        for sides in itertools.product(("pim", "fpga"), repeat=len(PLACEABLE))
    }
    chosen = hybrid("gpt2_decode", "arch.placement=best_bound", *options, *machine)
    assert chosen.placement is not None
    assert chosen.time.cycles == cycles[tuple(chosen.placement.values())]
    assert chosen.time.cycles <= 1.1 * min(cycles.values())
    if machine is FEW_CHANNELS:  # where the choice is not the trivial one
        assert set(chosen.placement.values()) == {"pim", "fpga"}


def ticks_at(context: int, arch: dict[str, str], **changes: str) -> int:
    """Length of the pass that sees so many tokens, two decoder blocks."""
    machine, mapping = mapped(
        "qwen2_500m_decode",
        arch,
        **{"prompt_tokens": str(context), "generate_tokens": "1", "model.layers": "2"} | changes,
    )
    engine = FastEngine(machine, machine.dram.resolve(), further=further_units(machine, run_region))
    return engine.run([mapping.forward_pass(context)]).ticks


def test_units_overlap_where_the_model_lets_them() -> None:
    """Parallel residual: channels take the feed-forward products while the streaming unit attends, and the hybrid wins."""
    parallel = {"model.parallel_residual": "true", "model.layers": "2", "prompt_tokens": "128", "generate_tokens": "1"}
    ticks, spans = {}, SpanList()
    for placement, attention in (("pim_only", "vanilla"), ("stream_attention", "single_pass")):
        work = load_workload("gpt2_decode", [*parallel.items(), ("attention", attention)]).value
        machine = load_arch("hybrid_pim_fpga", [("placement", placement)]).value
        mapping = mapping_for(work, graph_for(work, machine), machine, machine.dram.resolve())
        engine = FastEngine(machine, mapping.spec, further=further_units(machine, run_region), recorder=spans)
        ticks[placement] = engine.run([mapping.forward_pass(128)]).ticks
    assert ticks["stream_attention"] < 0.9 * ticks["pim_only"]
    placed = [(block.origin, span) for block in spans.blocks for span in block.spans]
    kernels = [(at + span.begin, at + span.end) for at, span in placed if span.units == ("fpga",)]
    worked = [(at + span.begin, at + span.end) for at, span in placed if "channel0" in span.units]
    assert len(kernels) == 2
    for begin, end in kernels:  # most of the time that a kernel runs, a channel multiplies
        assert sum(max(0, min(end, stop) - max(begin, start)) for start, stop in worked) > 0.9 * (end - begin)


def test_hybrid_beats_both_pure_machines_at_a_long_context() -> None:
    """Seven query heads share the keys: channels multiply each key seven times, the streaming unit reads it once."""
    pim = ticks_at(16384, {"placement": "pim_only"})
    stream = {"placement": "fixed", "fixed": EVERYWHERE}
    fpga = ticks_at(16384, stream, attention="single_pass")
    both = ticks_at(16384, {"placement": "stream_attention"}, attention="single_pass")
    assert both < 0.75 * min(pim, fpga)
    # and at a short one it does not: attention on the channels is faster than crossing the link
    assert ticks_at(128, {"placement": "stream_attention"}, attention="single_pass") > ticks_at(128, {})


# -------------------------------------------------------------------------------------------------------------- regions


def test_a_long_region_takes_a_cycle_for_every_use_of_a_beat() -> None:
    """The difference of two contexts: tokens of a lane x beats x uses, for keys and values together or one after the other."""
    unit = load_arch("hybrid_pim_fpga").value.fpga
    for heads in (kernels.Heads(12, 12, 64, 16), kernels.Heads(40, 2, 64, 16)):
        per_token = heads.token_beats * heads.passes(unit.attention.parallelism)
        for build in (kernels.scores, kernels.weighted, kernels.attend):
            cycles = []
            for context in (1600, 3200):
                region = build(heads, kernels.share(heads, context, unit.attention), unit.attention)
                ports = {stream.port: port_timing(unit) for stream in (*region.reads, *region.writes)}
                cycles.append(run_region(region, ports).cycles)
            assert cycles[1] - cycles[0] == 1600 // unit.attention.lanes * per_token, build.__name__


def test_lanes_share_the_tokens() -> None:
    """The busiest lane of all, lane by lane: queries that see a token, ``parallelism`` at once, for each of its tokens."""
    unit, heads = load_arch("hybrid_pim_fpga").value.fpga.attention, kernels.Heads(6, 2, 64, 16)
    for lanes, queries, context in itertools.product((1, 3, 16), (1, 2, 5, 20), range(1, 60)):
        if queries > context:
            continue
        machine = unit.model_copy(update={"lanes": lanes, "parallelism": 4})
        found = kernels.share(heads, context, machine, queries)
        uses = [ceil(min(queries, context - token) * 3 / 4) for token in range(context)]
        assert found.read * ceil(queries * 3 / 4) + sum(found.fresh) == max(
            sum(uses[lane::lanes]) for lane in range(lanes)
        )
        assert (found.read, len(found.fresh)) in {
            (
                len(range(lane, context - queries, lanes)),
                len(range(lane, context, lanes)) - len(range(lane, context - queries, lanes)),
            )
            for lane in range(lanes)
        }


# ------------------------------------------------------------------------------------------------------ verify and text


def test_programs_are_legal_and_have_a_text_form(tiny: str) -> None:
    for attention in ("vanilla", "single_pass"):
        machine, mapping = mapped(tiny, {"placement": "fixed", "fixed": EVERYWHERE}, attention=attention)
        placed = mapping.forward_pass(3)
        verify(placed, mapping.spec, machine.asic.sram_bytes // 2, mapping.shape.buffer // mapping.shape.lanes)
        for block in {id(each.block): each.block for each in placed}.values():
            again = from_text(to_text(block))
            assert (again.name, again.ops, again.streams) == (block.name, block.ops, block.streams)
            assert again.further == block.further


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("fpga.attention.lanes=20", r"^--set .*: fpga.attention.lanes: must be at most 16, as each lane .*, of 32, not 20$"),
        ("fpga.linear.lanes=33", r"^--set .*: fpga.linear.lanes: must be at most 32, as each lane has a port, of 32, not 33$"),
        ("fixed={atention: fpga}", r"^--set .*: fixed.atention: must be about attention, qkv_.*; did you mean 'attention'\?$"),
        ("fixed={attention: fpga}", r"^--set .*: fixed: must be left out unless placement is fixed, not best_bound$"),
        ("placement=somewhere", r"^--set .*: placement: must be one of pim_only, stream_attention, best_bound, fixed, not 'some"),
        ("pim.format=int8", r"^--set .*: pim.format: must be bfloat16, float16, float32 on a hybrid machine, not 'int8'$"),
        ("dispatch=serial", r"^--set .*: dispatch: must be overlap on a hybrid machine, not 'serial'$"),
        ("fpga.beat_bits=40", r"^--set .*: fpga.beat_bits: must be a multiple of the 16 bits of a bfloat16, not 40$"),
    ],
)  # fmt: skip
def test_bad_machines(options: str, message: str) -> None:
    path, _, value = options.partition("=")
    with pytest.raises(ConfigError, match=message):
        load_arch("hybrid_pim_fpga", [(path, value)])


def test_memories_of_the_streaming_unit_have_a_size() -> None:
    with pytest.raises(
        CapacityExceeded, match=r"^fpga.memory_bytes must hold what is placed there of qwen2_500m_decode: 786432 "
    ):
        hybrid("qwen2_500m_decode", "arch.placement=stream_attention", "arch.fpga.memory_bytes=786431")
    with pytest.raises(
        CapacityExceeded, match=r"^fpga.buffer_bytes must hold operands, scores and results of qwen2_500m_"
    ):
        hybrid("qwen2_500m_decode", "arch.placement=stream_attention", "arch.fpga.buffer_bytes=1000")
    both = hybrid(
        "qwen2_500m_decode",
        "arch.placement=stream_attention",
        "arch.fpga.memory_bytes=786432",
        "workload.model.layers=24",
    )
    assert both.placement is not None


def test_single_pass_goes_to_the_unit_that_has_a_schedule_for_it(tiny: str) -> None:
    placed = hybrid(tiny, "workload.attention=single_pass").placement
    assert placed is not None
    assert placed["attention"] == "fpga"
    alone = hybrid(tiny, "workload.attention=single_pass", "arch.placement=pim_only")
    pure = simulate("pim_gpt", tiny, overrides=["workload.attention=single_pass"])
    assert alone.time.cycles == pure.time.cycles
    with pytest.raises(
        UnsupportedOp,
        match=r"^attention must be vanilla or single_pass on the streaming unit, which has no other, not 'topk'",
    ):
        hybrid(tiny, "workload.attention=topk", "arch.placement=stream_attention")
