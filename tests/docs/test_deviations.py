"""Known simplifications, by their number in docs/DEVIATIONS.md. A test that fails here may be good news: say so there."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from pimsim.arch.functions import cost
from pimsim.config import load_arch, load_workload
from pimsim.errors import CapacityExceeded, InputError
from pimsim.functional.attention_check import prepare
from pimsim.functional.fixed_primitives import FixedUnits, constant
from pimsim.functional.streaming.chip import Chip
from pimsim.functional.streaming.fixed import Formats
from pimsim.functional.streaming.stages import HANDLERS
from pimsim.machine.fpga.fast import run_region
from pimsim.machine.fpga.ports import PortTiming
from pimsim.mapper.attention.scattered import overlapped
from pimsim.mapper.fpga import units
from pimsim.mapper.fpga.decoder import DecoderProgram
from pimsim.mapper.fpga.encoder import encoder_calls
from pimsim.mapper.fpga.expansion import lower
from pimsim.mapper.fpga.lengths import masked_lengths
from pimsim.mapper.mapping import Mapping
from pimsim.program.dataflow import Call, beats
from pimsim.program.isa import Run
from pimsim.program.works import Linear, Norm
from pimsim.result import Result
from pimsim.run import simulate
from pimsim.runners import pim_attention
from pimsim.runners.fpga_decoder import whole_program
from pimsim.runners.fpga_primitives import stream_units
from pimsim.workload.attention.base import Case, algorithm
from pimsim.workload.attention.primitives import Elementwise, Exclude, Primitive, Product
from pimsim.workload.models import build_graph
from pimsim.workload.reference import silu

ROOT = Path(__file__).resolve().parents[2]
WIDTH, BANKS, LANES = 768, 16, 16
ONE_ACCUMULATOR = ("arch.pim.accumulators=1", "arch.dram.register_files.accumulator=1")


def small(*overrides: str, tokens: int = 1, trace: list | None = None) -> Result:  # type: ignore[type-arg]
    """One decoder block of GPT-2 small."""
    options = [f"workload.generate_tokens={tokens}", "workload.model.layers=1", *overrides]
    return simulate("pim_gpt", "gpt2_decode", overrides=options, trace=trace)


def test_every_deviation_has_its_number_once() -> None:
    text = (ROOT / "docs" / "DEVIATIONS.md").read_text(encoding="utf-8")
    numbers = [int(number) for number in re.findall(r"^\| (\d+) \|", text, flags=re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_73_algorithms_take_one_token() -> None:
    with pytest.raises(
        InputError, match=r"^--set workload.attention=topk: attention: attention topk must be left to workloads"
    ):
        load_workload("gpt2_decode", [("attention", "topk"), ("prompt_tokens", "8"), ("prefill", "matrix")])


def test_every_test_that_is_named_exists() -> None:
    text = (ROOT / "docs" / "DEVIATIONS.md").read_text(encoding="utf-8")
    here = Path(__file__).read_text(encoding="utf-8")
    for name in re.findall(r"`(test_\w+)`", text):
        assert f"def {name}(" in here, name
    for path in re.findall(r"`(tests/[\w/]+\.py)", text):
        assert (ROOT / path).exists(), path


def test_1_one_command_per_tick_in_order() -> None:
    rows: list[tuple[int, int, str, tuple[int, ...], int, int]] = []
    small(trace=rows)
    assert len({(tick, channel) for tick, channel, *_ in rows}) == len(rows)


def test_2_a_value_is_written_element_by_element() -> None:
    commands = small().dram.commands
    assert commands["WR"] == WIDTH // LANES + WIDTH  # the key in whole columns, the value in masked single elements


def test_3_one_accumulator_costs_time() -> None:
    assert small(*ONE_ACCUMULATOR).time.cycles > small().time.cycles


def test_4_pipelined_function_units_are_faster_than_shared_ones() -> None:
    assert small("arch.asic.function_units=shared").time.cycles > small().time.cycles


def test_5_calls_of_the_asic_overlap() -> None:
    call = cost("softmax", 512, load_arch("pim_gpt").value.asic)
    assert call.busy < call.latency


def test_6_all_channels_are_due_for_their_first_refresh_at_once() -> None:
    rows: list[tuple[int, int, str, tuple[int, ...], int, int]] = []
    small(tokens=2, trace=rows)
    interval = load_arch("pim_gpt").value.dram.resolve().refresh_interval
    first: dict[int, int] = {}
    for tick, channel, command, *_ in rows:
        if command == "REFab":
            first.setdefault(channel, tick)
    assert len(first) == 8
    assert all(interval <= tick < interval + 1000 for tick in first.values())


def test_7_contexts_beyond_the_trained_length_are_allowed() -> None:
    assert small("workload.model.context=2", tokens=4).time.cycles == small(tokens=4).time.cycles


def test_12_a_prompt_costs_what_generating_it_costs() -> None:
    prompt = small("workload.prompt_tokens=3", tokens=1)
    assert prompt.time.cycles == small(tokens=3).time.cycles


def test_13_the_division_of_the_softmax_follows_the_weighted_sum() -> None:
    arch, workload = load_arch("pim_gpt").value, load_workload("gpt2_decode").value
    mapping = Mapping(workload, build_graph(workload), arch, arch.dram.resolve())
    (attention,) = (placed.block for placed in mapping.forward_pass(5)[:3] if placed.block.name == "attention")
    functions = [compute.function for step in attention.asic for compute in step.items]  # type: ignore[union-attr]
    assert functions.index("scale") > max(i for i, name in enumerate(functions) if name == "softmax")


def test_14_the_score_factor_is_not_an_operation() -> None:
    assert set(small().ops) <= {
        "attention_scores", "attention_values", "background", "bias", "ffn_down", "ffn_up", "gelu", "kv_write", "layernorm",
        "output_projection", "partial_sum", "qkv_projection", "refresh", "residual", "softmax",
    }  # fmt: skip


@pytest.mark.parametrize("asked", [False, True])
def test_15_the_head_is_only_there_if_it_is_asked_for(asked: bool) -> None:
    ops = small(f"workload.lm_head={str(asked).lower()}").ops
    assert ("lm_head" in ops, "argmax" in ops) == (asked, asked)


def test_16_a_column_charge_moves_energy_and_no_cycle() -> None:
    one, six = small("arch.energy.all_bank_column_charge=1"), small("arch.energy.all_bank_column_charge=6")
    assert one.time.cycles == six.time.cycles
    ratio = six.energy.by_component["column_mac"] / one.energy.by_component["column_mac"]
    assert ratio == pytest.approx(6)


def test_20_models_begin_behind_the_embedding() -> None:
    assert "embedding" not in small().ops
    assert "embedding" in small("workload.embeddings=true").ops


@pytest.mark.parametrize("workload", ["llama2_7b_decode", "llama3_8b_decode"])
def test_18_llama_exceeds_the_memory(workload: str) -> None:
    with pytest.raises(CapacityExceeded, match=rf"^dram\.rows must hold {workload} with a KV cache of 256 tokens: "):
        simulate("pim_gpt", workload)


# ------------------------------------------------------------------------------------------------- streaming machines

ONE_LAYER = ("workload.layers=1", "workload.moe=null")


def image(*overrides: str) -> Result:
    return simulate("edge_moe_zcu102", "m3vit_cityscapes", overrides=overrides)


def image_calls(order: str = "expert_by_expert", **workload: str) -> list[Call]:
    fpga = load_arch("edge_moe_zcu102", [("fpga.encoder.order", order)]).value.fpga
    return encoder_calls(fpga, fpga.encoder, load_workload("m3vit_cityscapes", list(workload.items())).value)


def beats_read(calls: list[Call], port: str) -> int:
    return sum(beats(read.bursts) for call in calls for read in call.region.reads if read.port == port)


def test_24_fixed_ports_do_not_share_a_memory() -> None:
    ports = dict.fromkeys("abc", PortTiming(2, 1, 64, 16, 16))
    one, two = units.copy(3000, ("a", "c"), 2, 2), units.residual(3000, ("a", "b", "c"), 2, 2)
    assert run_region(one, ports).cycles == run_region(two, ports).cycles
    assert load_arch("edge_moe_zcu102").value.fpga.memory.kind == "fixed"
    shared = simulate(
        "edge_moe_zcu102", "attention_reordered", overrides=["arch.fpga.memory.kind=dram", "workload.tokens=5"]
    )
    assert shared.notes == [
        "with a DRAM behind the ports the fast engine jumps over nothing, as rows and refreshes do not recur; it is slower"
    ]


def test_25_the_plain_forms_are_not_pipelined() -> None:
    unit = load_arch("edge_moe_zcu102").value.fpga
    three, gelu = unit.attention.three_pass, unit.encoder.direct_gelu
    assert (three.sum_interval, three.divide_interval, gelu.interval) == (
        three.sum_depth,
        three.divide_depth,
        gelu.depth,
    )
    assert (gelu.units, unit.encoder.separate_tile) == (2, 8)


def test_26_only_static_power_is_fitted() -> None:
    one, two = image(*ONE_LAYER), image(*ONE_LAYER, "arch.fpga.power.static_w=24.41")
    assert one.time.cycles == two.time.cycles
    assert two.energy.joules - one.energy.joules == pytest.approx(12.205 * one.time.seconds)
    charged = image(*ONE_LAYER, "arch.fpga.power=null")
    assert charged.energy.by_component == {"board": pytest.approx(14.54 * one.time.seconds)}


def test_31_all_layers_route_alike() -> None:
    work = load_workload("m3vit_cityscapes").value
    assert {tuple(work.queues(layer)) for layer in range(12) if work.is_moe(layer)} == {tuple(work.queues(1))}
    assert sum(tokens > 0 for tokens in work.queues(1)) == 12


def test_32_dense_layers_never_overlap_their_weights() -> None:
    one, two = image(*ONE_LAYER), image(*ONE_LAYER, "arch.fpga.encoder.weight_prefetch=none")
    assert one.time.cycles == two.time.cycles


def test_33_patch_weights_are_not_read() -> None:
    calls = [call for call in image_calls(layers="1") if call.op == "patch_embedding"]
    assert beats_read(calls, "weights") == 129 * 192 // 8


def test_34_token_by_token_reads_an_expert_for_every_token() -> None:
    first, second = (
        beats_read([call for call in image_calls(order, layers="2") if call.op.startswith("moe_")], "weights")
        for order in ("expert_by_expert", "token_by_token")
    )
    assert second * 12 == first * 2 * 129


def test_35_gating_costs_no_resources() -> None:
    with_experts, without = image("workload.layers=2"), image("workload.layers=2", "workload.moe=null")
    assert with_experts.resources is not None
    assert with_experts.resources == without.resources


def test_36_pieces_of_a_matrix_read_the_input_again() -> None:
    calls = [c for c in image_calls(layers="1", moe="null", d_ff="1536") if c.op == "ffn_up"]
    assert beats_read(calls, "inout1") == 2 * 129 * 192 // 8


def test_37_inner_widths() -> None:
    formats = load_arch("edge_moe_zcu102").value.fpga.formats
    chip = Chip(Formats.of(formats), 256, 32, 16, 8, 16)
    row = np.array([[30.0, -30.0] * 4])  # its mean square is 900, beyond the 512 of features
    beats = chip.beats((row * 2**22).astype(np.int64))
    norm = Norm({}, "norms", 0, 8, 0.0)
    region = units.layernorm(1, 1, ("a", "b"), (8, 85), 2)
    ready = HANDLERS[Norm, "moments"](chip, norm, region.stages[0], {"input": beats})["ready"]
    assert ready[0, 9] == 2**22 // 30


def test_38_the_plain_forms_save_less_than_the_paper() -> None:
    plain = ("arch.fpga.attention.schedule=naive", "arch.fpga.encoder.linear_units=separate")
    one, two, three = (image(*ONE_LAYER, *plain[:count]) for count in range(3))
    assert one.time.cycles < two.time.cycles < three.time.cycles
    assert (two.time.seconds - one.time.seconds) * 12e3 < 69.7


def test_43_units_for_primitives_cost_no_resources() -> None:
    small = ("workload.algorithm=flash", "workload.tokens=8")
    assert simulate("edge_moe_zcu102", "attention_reordered", overrides=small).resources is None
    assert simulate("edge_moe_zcu102", "attention_reordered", overrides=small[1:]).resources is not None


def test_44_rows_that_data_mask_are_equally_long() -> None:
    kind, case = algorithm("tca"), Case(phase="query", queries=2, keys=11, d_head=8)
    program = lower(kind.expand(case), stream_units(load_arch("edge_moe_zcu102").value))
    masked = [op for op in kind.expand(case) if isinstance(op, Exclude)]
    assert masked
    assert not masked_lengths(op for op in kind.expand(case) if isinstance(op, Primitive))
    assert all(len(stage.nest) <= 2 for call in program.calls if call.op == "softmax" for stage in call.region.stages)


def test_45_primitives_follow_each_other() -> None:
    case = Case(queries=7, keys=7, d_head=8)
    program = lower(
        algorithm("single_pass", {"block": 7}).expand(case), stream_units(load_arch("edge_moe_zcu102").value)
    )
    by_op = {call.op: number for number, call in enumerate(program.calls)}
    assert by_op["scores"] in program.calls[by_op["exponentiate"]].after
    assert not {"k", "v"} & {call.name for call in program.calls if call.op == "load"}


def hybrid(*overrides: str) -> Result:
    """One decoder block of GPT-2 small with attention on the streaming unit."""
    options = ["workload.generate_tokens=1", "workload.model.layers=1", "arch.placement=stream_attention", *overrides]
    return simulate("hybrid_pim_fpga", "gpt2_decode", overrides=options)


def test_46_a_kernel_waits_for_all_of_its_operands() -> None:
    widths = (16, 16 * 3 * WIDTH)  # an element a cycle, or all of them
    narrow, wide = (hybrid(f"arch.link.width_bits={bits}", "arch.dram.refresh.policy=none") for bits in widths)
    sent, back = 3 * WIDTH, WIDTH
    assert narrow.time.cycles - wide.time.cycles == pytest.approx(
        sent + back - 2, abs=10
    )  # edges of the fabric's clock


def test_47_only_the_fullest_lane_is_timed() -> None:
    many, few = (hybrid("workload.prompt_tokens=2", f"arch.fpga.attention.lanes={lanes}") for lanes in (16, 9))
    assert many.units["fpga"].busy_seconds == few.units["fpga"].busy_seconds  # one token in the fullest lane of both


def test_48_the_streaming_unit_is_assumed() -> None:
    loaded = load_arch("hybrid_pim_fpga")
    for path in (("fpga", "busy_power_w"), ("fpga", "attention", "parallelism"), ("link", "latency")):
        assert str(loaded.source_of(path)).startswith("assumed: "), path


def test_49_what_cannot_be_placed() -> None:
    for work in ("softmax", "lm_head"):
        with pytest.raises(InputError, match=rf"fixed.{work}: must be about attention, qkv_projection"):
            load_arch("hybrid_pim_fpga", [("placement", "fixed"), ("fixed", f"{{{work}: fpga}}")])
    products = "{qkv_projection: fpga, output_projection: fpga, ffn_up: fpga, ffn_down: fpga}"
    prompt = ("workload.prefill=matrix", "workload.prompt_tokens=4", "arch.placement=fixed")
    moved = hybrid(*prompt, f"arch.fixed_prompt={products}", "workload.generate_tokens=2").latency
    stayed = hybrid(*prompt, f"arch.fixed={products}", "workload.generate_tokens=2").latency
    assert moved is not None
    assert stayed is not None
    assert moved.ttft_s == pytest.approx(stayed.ttft_s, rel=0.01)  # matrices in both memories cost nothing


def test_50_a_given_routing_is_dealt_out() -> None:
    work = load_workload("m3vit_cityscapes").value
    routes = work.routes(1)
    assert routes == work.routes(3)
    assert [sum(expert in experts for experts in routes) for expert in range(16)] == work.moe.routing


def test_51_scattered_keys_cost_as_much_as_rows() -> None:
    work, encoders = load_workload("vit_base_encode", [("layers", "1")]).value, {}
    for schedule in ("reordered", "naive"):
        fpga = load_arch("edge_moe_zcu102", [("fpga.attention.schedule", schedule)]).value.fpga
        calls = encoder_calls(fpga, fpga.encoder, work)
        encoders[schedule] = [call for call in calls if isinstance(call.work, Linear)]
    scattered = [call for call in encoders["naive"] if call.work.written is not None]
    assert {call.op for call in scattered} == {"qkv_projection"}
    assert [call.region for call in encoders["naive"]] == [call.region for call in encoders["reordered"]]


def test_53_each_token_has_its_own_buffers() -> None:
    assert small("arch.asic.sram_bytes=40960").time.cycles > 0
    with pytest.raises(
        CapacityExceeded, match=r"^asic.sram_bytes must hold the buffers of gpt2_decode, for each of 2 tokens"
    ):
        small("workload.batch=2", "arch.asic.sram_bytes=40960")


def test_54_sequences_of_a_batch_are_alike() -> None:
    result = small("workload.batch=3", tokens=2)
    assert result.ops["attention_scores"].count == 2 * 3
    assert result.tokens is not None
    assert result.tokens.generated == 2 * 3


def test_55_products_on_chip_take_a_lane_each() -> None:
    asic = load_arch("pim_gpt").value.asic
    assert cost("matmul", 1280, asic).busy == 1280 // asic.multipliers


def test_56_chunks_follow_each_other() -> None:
    options = ["arch.dram.refresh.policy=none"]
    one, many = (simulate("pim_gpt", "cmab_stream", overrides=[*options, f"workload.queries={n}"]) for n in (1, 5))
    assert many.time.cycles == 5 * one.time.cycles


def test_58_landmarks_lie_in_rows_of_their_own() -> None:
    arch = load_arch("pim_gpt").value
    case = Case(phase="decode", queries=1, keys=40, d_head=4)
    inputs = prepare(algorithm("landmark", {"block": 3}), case, 0, "bfloat16", None)
    lowering, _ = pim_attention.lower(arch, arch.dram.resolve(), inputs.ops, inputs.indices())
    [keys] = [tensor for tensor in lowering.banks.tensors if tensor.apart]
    first, second, *_ = keys.orientations["rows"]
    assert first.rows == range(3, 36, 4)
    assert first.row0 + first.dram_rows <= second.row0


def test_59_units_of_primitives_keep_inside_what_is_not_published() -> None:
    formats = load_arch("edge_moe_zcu102").value.fpga.formats
    assert formats is not None
    units = FixedUnits(Formats.of(formats), 8, set())
    op = Product("p", "product", ("a", "b"), sources=((1, 8), (8, 1)))
    small, large = np.full((1, 8), 2.0**-22), np.full((8, 1), 0.125)
    assert (
        units.compute(op, [small, large]).item() == 2.0**-22
    )  # eight products of an eighth of a step are added exactly
    assert constant(1 / 3) == (round(2**32 / 3), 32)  # a factor of 31 significant bits, whatever its size
    third = Elementwise("t", "elementwise", ("a",), sources=((1, 1),), function="scale", constants=(1 / 3,))
    assert units.compute(third, [np.full((1, 1), 300.0)]).item() == 100 - 2.0**-22


def test_64_the_order_of_rows_knows_no_refresh() -> None:
    spec = load_arch("pim_gpt").value.dram.resolve()
    runs = [Run("RD", (bank // 4, bank % 4, -1), row=row, column=0) for row in range(200) for bank in (0, 7)]
    plain = overlapped(dataclasses.replace(spec, refresh_policy="none"), runs)
    assert overlapped(spec, runs) == plain
    assert {item.command for item in plain if isinstance(item, Run)} == {"ACT", "RD", "PREpb"}


def test_63_rows_of_aim_count_as_open() -> None:
    small = {"workload.generate_tokens": 1, "workload.model.layers": 1}
    run = simulate("aim_gddr6_proper", "gpt2_decode", overrides=small)
    assert run.dram is not None
    electrical = load_arch("aim_gddr6_proper").value.dram.electrical
    open_all_the_time = electrical.vdd_v * electrical.idd3n_ma * 1e-3 * run.time.seconds * 32
    assert run.energy.by_component["background"] == pytest.approx(open_all_the_time, rel=1e-12)


STREAMED = [
    "workload.model.layers=2", "workload.model.d_model=64", "workload.model.heads=4", "workload.model.d_ff=64",
    "workload.model.vocabulary=97", "workload.generate_tokens=2", "workload.lm_head=true", "arch.fpga.resources=null",
]  # fmt: skip


def test_69_a_part_waits_for_the_one_before() -> None:
    options = [(text.partition("=")[0].removeprefix("workload."), text.partition("=")[2]) for text in STREAMED[:-1]]
    arch, work = load_arch("fpga_stream_u280").value.fpga, load_workload("gpt2_decode", options).value
    program = DecoderProgram(arch, arch.encoder, work)
    calls = whole_program(program, 1)[0].calls
    scores = [number for number, call in enumerate(calls) if call.op == "attention_scores"]
    for number in scores:
        before = set(calls[number].after)
        assert before == {other for other in range(number) if not any(other in c.after for c in calls[:number])}
        assert all("weights" not in call.op for call in calls[number : number + 2])


def test_70_nobody_takes_the_largest_logit() -> None:
    result = simulate("fpga_stream_u280", "gpt2_decode", overrides=STREAMED)
    assert "lm_head" in result.ops
    assert "argmax" not in result.ops
    assert "argmax" in simulate("pim_gpt", "gpt2_decode", overrides=STREAMED[:-1]).ops


def test_71_weights_come_through_one_port() -> None:
    result = simulate("fpga_stream_u280", "gpt2_decode", overrides=STREAMED)
    assert result.ports is not None
    weights = 2 * (2 * (4 * 64 * 64 + 2 * 64 * 64)) + 2 * 112 * 64
    assert result.ports["hbm11"].bytes_read > 2 * weights
    assert sum(not port.bytes_read + port.bytes_written for port in result.ports.values()) >= 20


@pytest.mark.parametrize(("entries", "largest"), [(177, 2.24e-2), (385, 7.37e-5)])
def test_72_silu_needs_a_longer_table(entries: int, largest: float) -> None:
    arch = load_arch("fpga_stream_u280", [("fpga.formats.gelu_entries", str(entries))]).value.fpga
    formats = Formats.of(arch.formats, "silu")
    spec = formats.features
    x = np.arange(-16 * 2**22, 16 * 2**22, 997, dtype=np.int64)
    error = np.abs(formats.gelu.apply(x, spec) * spec.step - silu(x * spec.step)).max()
    assert error == pytest.approx(largest, rel=0.01)


def test_75_units_of_the_llama_family_cost_nothing() -> None:
    sizes = [text for text in STREAMED if "resources" not in text]
    llama, gpt = (simulate("fpga_stream_u280", name, overrides=options) for name, options in (
        ("smollm2_135m_decode", [*sizes, "workload.model.kv_heads=2"]), ("gpt2_decode", sizes),
    ))  # fmt: skip
    assert llama.resources == gpt.resources
    uncosted = {text.partition(":")[0] for text in llama.energy.uncosted}
    assert {"gate", "rotary"} <= uncosted
    assert not {"gate", "rotary"} & set(llama.energy.by_component)
