"""Several tokens at once on a hybrid machine: placement, what is read and sent, waves, bounds, bad input."""

from __future__ import annotations

import itertools
import json
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from pimsim.arch.hybrid import PLACEABLE, PLACEABLE_PRODUCTS
from pimsim.config import load_arch, load_workload
from pimsim.errors import CapacityExceeded, ConfigError
from pimsim.mapper.choice import graph_for, mapping_for
from pimsim.mapper.group import groups
from pimsim.mapper.hybrid_group import HybridGroupMapping
from pimsim.program.isa import Block, Kernel, Transfer
from pimsim.program.text import from_text, to_text
from pimsim.result import Result
from pimsim.run import simulate, simulate_loaded
from pimsim.runners import RunOptions

EVERYWHERE = "{attention: fpga, qkv_projection: fpga, output_projection: fpga, ffn_up: fpga, ffn_down: fpga}"
ALL_FPGA = ("arch.placement=fixed", f"arch.fixed={EVERYWHERE}")
LAYERS, WIDTH, HEADS, FF, ELEMENT = 2, 128, 4, 256, 2
SMALL = (
    *(f"workload.model.layers={LAYERS}", f"workload.model.d_model={WIDTH}", f"workload.model.heads={HEADS}"),
    f"workload.model.d_ff={FF}",
)


def prompt(tokens: int, together: int, generated: int = 1) -> tuple[str, ...]:
    return (
        *("workload.prefill=matrix", f"workload.prefill_tokens={together}"),
        *(f"workload.prompt_tokens={tokens}", f"workload.generate_tokens={generated}"),
    )


def hybrid(*overrides: str, **options: Any) -> Result:
    return simulate("hybrid_pim_fpga", "gpt2_decode", overrides=overrides, **options)


def mapped(*overrides: str) -> HybridGroupMapping:
    given = [each.split("=", 1) for each in overrides]
    split = {
        side: [(path.partition(".")[2], value) for path, value in given if path.startswith(side)]
        for side in ("arch", "workload")
    }
    arch = load_arch("hybrid_pim_fpga", split["arch"]).value
    work = load_workload("gpt2_decode", split["workload"]).value
    mapping = mapping_for(work, graph_for(work, arch), arch, arch.dram.resolve())
    assert isinstance(mapping, HybridGroupMapping)
    return mapping


def items_of(block: Block, unit: str) -> list[Any]:
    return [item for step in dict(block.further).get(unit, ()) for item in step.items]


# ------------------------------------------------------------------------------------------------------------ placement


def test_pim_only_is_the_pure_machine_command_by_command() -> None:
    for options in (prompt(7, 3, 2), ("workload.batch=2", "workload.generate_tokens=3")):
        traces: list[list[Any]] = [[], []]
        pure = simulate("pim_gpt", "gpt2_decode", overrides=[*SMALL, *options], trace=traces[0])
        both = hybrid(*SMALL, *options, "arch.placement=pim_only", trace=traces[1])
        same = traces[0] == traces[1]
        assert same
        assert len(traces[0]) > 1000
        assert (both.time, both.dram, both.latency) == (pure.time, pure.dram, pure.latency)


def test_products_of_prompts_have_sides_of_their_own() -> None:
    pim = dict.fromkeys(PLACEABLE, "pim")
    options = (*SMALL, *prompt(6, 6, 3), "arch.placement=fixed", "arch.fixed={attention: fpga}")
    found = hybrid(*options, "arch.fixed_prompt={ffn_up: fpga}")
    assert found.placement == {**pim, "attention": "fpga"}
    assert found.prompt_placement == {**pim, "attention": "fpga", "ffn_up": "fpga"}
    assert found.to_json()["prompt_placement"] == found.prompt_placement
    assert found.memory is not None
    matrix, cache = LAYERS * WIDTH * FF * ELEMENT, LAYERS * 8 * 2 * WIDTH * ELEMENT
    assert found.memory["fpga.memory"]["peak_bytes"] == matrix + cache
    alone = hybrid(*options)
    assert alone.memory is not None
    # the matrix of the prompt is a second one; that of the other tokens stays where it was
    assert alone.memory["dram"]["peak_bytes"] == found.memory["dram"]["peak_bytes"]
    # without tokens that are taken one at a time, the second one is the only one
    only = hybrid(*SMALL, *prompt(6, 6), "arch.placement=fixed", "arch.fixed_prompt={ffn_up: fpga}")
    assert only.placement == only.prompt_placement == {**pim, "ffn_up": "fpga"}
    assert only.memory is not None
    assert only.memory["dram"]["peak_bytes"] < alone.memory["dram"]["peak_bytes"]
    assert hybrid(*SMALL, "workload.batch=2", "workload.generate_tokens=2").prompt_placement is None


FEW_CHANNELS = ("arch.dram.channels=1", "arch.fpga.clock_mhz=400", "arch.fpga.ports.clock_mhz=400")
GROUPED = ("workload.model.kv_heads=2", *prompt(16, 16))
PARALLEL = ("workload.model.parallel_residual=true", "arch.fpga.linear.parallelism=16", *prompt(16, 16))
ONE_LANE = (
    *("workload.model.parallel_residual=true", "arch.fpga.linear.parallelism=32"),
    *("arch.fpga.attention.lanes=1", "arch.fpga.attention.parallelism=2", *prompt(16, 16)),
)
"""Products of the feed-forward part on the unit, which then has no time for attention."""
BATCH = ("workload.batch=4", "workload.generate_tokens=1", *FEW_CHANNELS)


@pytest.mark.parametrize(
    "options",
    [prompt(8, 8), GROUPED, PARALLEL, ONE_LANE, BATCH],
    ids=["plain", "grouped", "parallel", "one lane", "batch"],
)
def test_best_bound_is_within_a_tenth_of_the_best_of_all_placements(options: tuple[str, ...]) -> None:
    small = (
        *("workload.model.layers=1", "workload.model.d_model=256", "workload.model.heads=4", "workload.model.d_ff=512"),
        *options,
    )
    cycles = {}
    for sides in itertools.product(("pim", "fpga"), repeat=len(PLACEABLE)):
        text = ", ".join(f"{work}: {side}" for work, side in zip(PLACEABLE, sides, strict=True))
        cycles[sides] = hybrid(*small, "arch.placement=fixed", f"arch.fixed={{{text}}}").time.cycles
    chosen = hybrid(*small, "arch.placement=best_bound")
    assert chosen.placement is not None
    assert chosen.time.cycles == cycles[tuple(chosen.placement.values())]
    assert chosen.time.cycles <= 1.1 * min(cycles.values())
    assert max(cycles.values()) > 1.2 * min(cycles.values())  # it matters


def test_best_bound_tells_prompts_from_single_tokens() -> None:
    """A unit with multipliers enough takes the prompt's products; those of single tokens stay with the bandwidth."""
    many = "arch.fpga.linear.parallelism=32"
    found = hybrid("workload.model.layers=1", *prompt(32, 32, 2), many, "arch.placement=best_bound")
    assert found.placement is not None
    assert found.prompt_placement is not None
    assert {found.placement[name] for name in PLACEABLE_PRODUCTS} == {"pim"}
    assert {found.prompt_placement[name] for name in PLACEABLE_PRODUCTS} == {"fpga"}


# ------------------------------------------------------------------------------------------------- what is read and sent


@pytest.mark.parametrize("together", [1, 4, 8, 24])
def test_weights_are_read_once_for_a_group(together: int) -> None:
    mapping = mapped(*SMALL, *prompt(24, together, 2), "workload.batch=2", *ALL_FPGA)
    passes = list(zip(groups(mapping.workload), mapping.program(), strict=True))
    for group, blocks in passes:
        kernels = [item for placed in blocks for item in items_of(placed.block, "fpga")]
        products = [kernel for kernel in kernels if kernel.function == "linear"]
        assert len(products) == 4 * LAYERS
        for kernel in products:
            d_in, d_out, words, tokens = kernel.shape
            assert tokens == len(group)
            beats = sum(burst.beats * burst.count for read in kernel.region.reads for burst in read.bursts)
            assert beats == ceil(d_out / mapping.unit.linear.lanes) * ceil(d_in / words)
    assert len(passes) == 2 * ceil(24 / together) + 1


@pytest.mark.parametrize("attention", ["vanilla", "single_pass"])
def test_what_crosses_the_link(attention: str) -> None:
    tokens = 12
    found = hybrid(*SMALL, *prompt(tokens, 6), *ALL_FPGA, f"workload.attention={attention}")
    assert found.links is not None
    inputs, outputs = 3 * WIDTH + WIDTH + WIDTH + WIDTH + FF, 3 * WIDTH + WIDTH + WIDTH + FF + WIDTH
    assert found.links["link_in"].bytes == LAYERS * tokens * inputs * ELEMENT
    assert found.links["link_out"].bytes == LAYERS * tokens * outputs * ELEMENT
    kinds = {"qkv_projection", "output_projection", "ffn_up", "ffn_down"}
    kinds |= {"attention"} if attention == "single_pass" else {"attention_scores", "attention_values"}
    assert {kind for kind, op in found.ops.items() if op.unit == "fpga"} == kinds
    assert found.dram is not None
    assert "MAC_AB" not in found.dram.commands


def test_keys_are_read_once_for_the_queries_of_a_prompt() -> None:
    """Fewer cycles than queries one after the other, and no fewer than queries x keys that they see / lanes / parallelism."""
    options = ("workload.model.layers=1", "arch.placement=stream_attention", "workload.attention=single_pass")
    alone = hybrid(*options, "workload.prompt_tokens=64", "workload.generate_tokens=1")
    many = hybrid(*options, *prompt(64, 64))
    busy = [run.ops["attention"].seconds for run in (alone, many)]
    heads, beats, lanes, parallelism = 12, 4, 16, 8
    pairs = 64 * 65 / 2
    assert pairs * heads * beats / lanes / parallelism / 300e6 < many.units["fpga"].busy_seconds
    assert busy[1] < 0.15 * busy[0]


# ------------------------------------------------------------------------------------------------------- tokens in waves

TIGHT = "arch.asic.sram_bytes=14336"


def test_tokens_take_turns_where_the_sram_is_small() -> None:
    options = (*SMALL, *prompt(12, 12, 2), "arch.placement=stream_attention")
    wide, tight = mapped(*options), mapped(*options, TIGHT)
    assert (wide.slots, tight.slots) == (12, 4)
    every = [placed for blocks in tight.program() for placed in blocks]
    first = next(placed.block for placed in every if placed.block.name == "projection")
    # three waves; queries, keys and values go to the unit, which attends, and nothing else is parked
    assert len(items_of(first, "link_in")) == 12
    sources = [item.source for item in items_of(first, "link_in")]
    assert sources == [sources[token % 4] for token in range(12)]
    assert max(sources[:4]) < tight.sram.capacity * tight.slots
    runs = [hybrid(*options), hybrid(*options, TIGHT)]
    assert runs[0].links is not None
    assert runs[1].links is not None
    parked = 12 * LAYERS * WIDTH * ELEMENT  # the residual stream, behind each layer
    assert runs[1].links["link_in"].bytes - runs[0].links["link_in"].bytes == parked
    assert runs[1].time.cycles > runs[0].time.cycles
    assert runs[1].memory is not None
    assert runs[1].memory["asic.sram"]["peak_bytes"] <= 14336


def test_a_long_prompt_is_cut_into_parts_of_as_many_queries_as_the_buffer_holds() -> None:
    options = (*SMALL, *prompt(32, 32), *ALL_FPGA)
    whole, parts = mapped(*options), mapped(*options, "arch.fpga.buffer_bytes=300000")
    assert (whole.queries, parts.queries) == (32, 4)
    kernels = [
        [item for placed in next(iter(mapping.program())) for item in items_of(placed.block, "fpga")]
        for mapping in (whole, parts)
    ]
    contexts = [[each.context for each in found if each.function == "scores"] for found in kernels]
    assert contexts == [[32] * LAYERS, list(range(4, 33, 4)) * LAYERS]
    assert all(isinstance(each, Kernel) for each in kernels[1])


def test_programs_have_a_text_form() -> None:
    mapping = mapped(*SMALL, *prompt(6, 6, 2), TIGHT, "arch.placement=fixed", "arch.fixed_prompt={ffn_up: fpga}")
    for block in {id(each.block): each.block for blocks in mapping.program() for each in blocks}.values():
        again = from_text(to_text(block))
        assert (again.name, again.ops, again.streams) == (block.name, block.ops, block.streams)
        assert again.further == block.further
        assert all(isinstance(item, Transfer) for item in items_of(block, "link_in"))


# ----------------------------------------------------------------------------------------------------------------- runs


def test_a_strict_run_finds_no_broken_rule() -> None:
    arch = load_arch("hybrid_pim_fpga", [("placement", "fixed"), ("fixed_prompt", "{ffn_up: fpga}")])
    changes = [tuple(each.removeprefix("workload.").split("=", 1)) for each in (*SMALL, *prompt(6, 3, 3), "batch=2")]
    result = simulate_loaded(arch, load_workload("gpt2_decode", changes), RunOptions(strict=True))  # type: ignore[arg-type]
    assert result.legality == {"checked": result.simulation.commands}


def test_latency_and_memory_of_a_batch() -> None:
    options = (*SMALL, *prompt(6, 6, 3), "workload.batch=2", "arch.placement=stream_attention")
    found = hybrid(*options)
    assert len(found.pass_seconds) == 2 + 2
    assert found.latency is not None
    assert found.latency.ttft_s == found.pass_seconds[1]
    assert found.latency.tpot_s == pytest.approx((found.time.seconds - found.pass_seconds[1]) / 2)
    assert found.memory is not None
    cache = LAYERS * 2 * WIDTH * ELEMENT
    assert [n for _, n in found.memory["fpga.memory"]["over_time"]] == [cache * n for n in (0, 6, 12, 14, 16)]
    assert found.memory["dram"]["persistent_bytes"] == 0
    assert found.energy.by_component["fpga"] == pytest.approx(60 * found.units["fpga"].busy_seconds, rel=1e-4)


def test_the_timeline_shows_channels_unit_and_link(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from pimsim.cli import app

    path = tmp_path / "run.json"
    sets = (*SMALL, *prompt(6, 6), "arch.placement=stream_attention")
    arguments = ["run", "--arch", "hybrid_pim_fpga", "--workload", "gpt2_decode", "--timeline", str(path)]
    found = CliRunner().invoke(app, [*arguments, *itertools.chain(*(("--set", each) for each in sets))])
    assert found.exit_code == 0, found.output
    text = json.dumps(json.loads(path.read_text(encoding="utf-8")))
    for name in ("fpga", "link_in", "link_out", "attention_scores", "qkv_projection"):
        assert name in text


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fixed_prompt": "{attention: fpga}"}, r"^--set .*: fixed_prompt.attention: must be about qkv_projection, output_"),
        ({"fixed_prompt": "{ffn_upp: fpga}"}, r"^--set .*: fixed_prompt.ffn_upp: must .*; did you mean 'ffn_up'\?$"),
        ({"fixed_prompt": "{ffn_up: fpga}"}, r"^--set .*: fixed_prompt: must be left out unless placement is fixed, not best_"),
        ({"fpga.linear.parallelism": "0"}, r"^--set .*: fpga.linear.parallelism: must be greater than 0, not 0$"),
    ],
)  # fmt: skip
def test_bad_machines(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_arch("hybrid_pim_fpga", options.items())


def test_what_does_not_fit() -> None:
    with pytest.raises(CapacityExceeded, match=r"^fpga.buffer_bytes must hold operands, scores and results of gpt2_"):
        hybrid(*prompt(256, 256), *ALL_FPGA)
    with pytest.raises(
        CapacityExceeded, match=r"^asic.sram_bytes must hold the buffers of gpt2_decode, for each of 64 t"
    ):
        hybrid(*prompt(64, 64), "arch.placement=pim_only")
    with pytest.raises(CapacityExceeded, match=r"^asic.sram_bytes must hold the buffers of gpt2_decode: "):
        hybrid(*prompt(64, 64), *ALL_FPGA, "arch.asic.sram_bytes=8192")
    with pytest.raises(CapacityExceeded, match=r"^fpga.memory_bytes must hold what is placed there of gpt2_decode: "):
        hybrid(
            *SMALL,
            *prompt(4, 4, 2),
            "arch.placement=fixed",
            "arch.fixed_prompt={ffn_up: fpga}",
            "arch.fpga.memory_bytes=99",
        )
