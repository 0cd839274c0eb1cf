"""Whole encoders on a streaming machine: published counts and cycles, both engines, orders, wrong input."""

from __future__ import annotations

import re

import pytest

from pimsim.config import load_arch, load_workload
from pimsim.errors import InputError, ProgramError
from pimsim.machine.fpga.fast import run_region as fast
from pimsim.machine.fpga.ports import PortTiming
from pimsim.machine.fpga.reference import run_region as reference
from pimsim.machine.fpga.schedule import canonical, run_program
from pimsim.mapper.fpga import units
from pimsim.mapper.fpga.attention import Pipelines, query_key, weighted_values
from pimsim.mapper.fpga.encoder import encoder_calls
from pimsim.mapper.fpga.schedules import Shape
from pimsim.mapper.fpga.units import DirectGelu, GateUnit, LinearUnit, PatchShape
from pimsim.program.dataflow import Call, Region, beats, iterations, verify_region
from pimsim.result import Result
from pimsim.run import simulate

IDEAL = dict.fromkeys("abcw", PortTiming(1, 1, 10, 16, 16))
EDGE = dict.fromkeys("abcw", PortTiming(2, 1, 64, 16, 16))
UNIT = LinearUnit()
SMALL = (
    "workload.image.height=32", "workload.image.width=64", "workload.layers=2", "workload.d_model=64", "workload.heads=1",
    "workload.d_ff=128", "workload.moe.experts=4", "workload.moe.d_expert=32", "workload.moe.routing=null",
)  # fmt: skip


def run(*overrides: str, engine: str = "fast") -> Result:
    return simulate("edge_moe_zcu102", "m3vit_cityscapes", overrides=overrides, engine=engine)  # type: ignore[arg-type]


def test_layernorm_takes_what_the_schedule_report_says() -> None:
    # its pipelines at 100 MHz: the sums as in the other report, the scaling about its reciprocal of 49 cycles
    region = units.layernorm(129, 24, ("a", "b"), (8, 50), 2)
    assert fast(region, IDEAL).cycles == pytest.approx(3196, rel=0.01)


def test_patch_embedding_takes_what_the_schedule_report_says() -> None:
    row = units.patch_row(PatchShape(8, 16, 3, 2, 24), 3, 35, ("a", "w", "b"), 2)
    assert iterations(row.stages[0]) == 9216
    assert 8 * fast(row, IDEAL).cycles == pytest.approx(221_469, rel=0.01)


@pytest.mark.parametrize(
    ("tokens", "outputs", "inputs"), [(129, 192, 192), (129, 768, 192), (129, 192, 768), (3, 10, 32)]
)
def test_a_linear_layer_takes_a_tile_per_cycle(tokens: int, outputs: int, inputs: int) -> None:
    region = units.linear(tokens, outputs, inputs, UNIT, ("a", "b"), gelu=False)
    tiles = tokens * -(-outputs // 16) * -(-inputs // 16)
    assert iterations(region.stages[1]) == tiles
    assert tiles < fast(region, IDEAL).cycles < tiles + 120


REGIONS = {
    "linear": units.linear(5, 48, 32, UNIT, ("a", "b"), gelu=True),
    "first layer of an expert": units.expert(7, 48, 32, UNIT, ("a", "b"), gelu=True, gathers=True),
    "second layer of an expert": units.expert(7, 48, 32, UNIT, ("a", "b"), gelu=False, gathers=False),
    "layernorm": units.layernorm(9, 4, ("a", "b"), (8, 85), 2),
    "residual": units.residual(300, ("a", "b", "a"), 2, 2),
    "clear": units.clear(100, "a", 3, 2),
    "copy": units.copy(24, ("a", "b"), 3, 2),
    "load": units.load(300, "w", 5),
    "gating": units.gating(6, 4, 5, 2, GateUnit(), "a"),
    "gating of one token": units.gating(1, 1, 1, 1, GateUnit(), "a"),
    "gating with one expert each": units.gating(4, 1, 2, 1, GateUnit(), "a"),
    "queues": units.fill_queues(9, 2),
    "patch row": units.patch_row(PatchShape(2, 2, 3, 2, 4), 3, 35, ("a", "w", "b"), 2),
    "scores of twelve heads": query_key(
        Shape(9, 3, 4, 12), Pipelines(), dict.fromkeys(("query", "key", "scores", "statistics"), "a")
    ),
    "values of twelve heads": weighted_values(
        Shape(9, 3, 4, 12), Pipelines(), dict.fromkeys(("value", "scores", "statistics", "output"), "b")
    ),
    "values with statistics read far ahead": weighted_values(
        Shape(60, 2, 3), Pipelines(), {"value": "a", "scores": "b", "statistics": "w", "output": "b"}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REGIONS)
@pytest.mark.parametrize("ports", [IDEAL, EDGE], ids=["ideal", "edge"])
def test_engines_agree(name: str, ports: dict[str, PortTiming]) -> None:
    verify_region(REGIONS[name])
    assert fast(REGIONS[name], ports) == reference(REGIONS[name], ports)


@pytest.mark.parametrize(
    "options",
    [
        ("arch.fpga.encoder.weight_prefetch=experts", "workload.classes=10", "workload.final_norm=true"),
        ("arch.fpga.encoder.weight_prefetch=none", "arch.fpga.encoder.order=token_by_token"),
        (
            "arch.fpga.attention.schedule=naive",
            "arch.fpga.attention.softmax=three_pass",
            "arch.fpga.encoder.gelu=direct",
            "arch.fpga.encoder.linear_units=separate",
            "arch.fpga.encoder.order=token_by_token",
        ),
    ],
)
def test_engines_give_the_same_result(options: tuple[str, ...]) -> None:
    one, other = (run(*SMALL, *options, engine=engine) for engine in ("fast", "reference"))
    assert (one.time, one.units, one.ops, one.layers, one.ports) == (
        other.time, other.units, other.ops, other.layers, other.ports,
    )  # fmt: skip


def closed_model(overlapped: bool) -> int:
    """Cycles by sums and maxima of what each part needs alone: 2 cycles a beat, 70 cycles to a port and back."""
    beat, trip, n, d = 2, 70, 129, 192
    queues = [q for q in (0, 6, 0, 32, 0, 27, 15, 24, 22, 19, 0, 22, 11, 33, 32, 15) if q]

    def load(out: int, into: int) -> int:
        return (out * into // 16 + out // 16) * beat + 2 * trip

    def linear(out: int, into: int) -> int:
        return n * (out // 16) * (into // 16) + 160

    product = (33 * n) * 24 * beat + 80
    norm, add = n * 24 * beat + 240, n * 24 * beat + 140
    attention = norm + 4 * (load(d, d) + linear(d, d)) + 2 * product + add + 200
    dense = norm + load(768, d) + linear(768, d) + load(d, 768) + linear(d, 768) + add
    experts = [288 * q + 200 for q in queues for _ in (1, 2)]
    w = load(384, d)
    moe = w + sum(max(c, w) for c in experts[:-1]) + experts[-1] if overlapped else sum(c + w for c in experts)
    gating = n * (32 + 69 + 80 + 5) + 460
    return 12 * attention + 6 * dense + 6 * (norm + gating + add + add + moe) + 8 * (9216 * 3 + 70)


@pytest.mark.parametrize(("prefetch", "overlapped"), [("experts", True), ("none", False)])
def test_the_whole_image_is_near_a_closed_model(prefetch: str, overlapped: bool) -> None:
    cycles = run(f"arch.fpga.encoder.weight_prefetch={prefetch}").time.cycles
    assert cycles == pytest.approx(closed_model(overlapped), rel=0.01)


def test_shares_and_parts_sum_to_the_run() -> None:
    result = run(*SMALL)
    assert sum(op.seconds for op in result.ops.values()) == pytest.approx(result.time.seconds)
    assert sum(layer.seconds for layer in result.layers) == pytest.approx(result.time.seconds)
    assert [layer.name for layer in result.layers] == ["block 0", "block 1", "outside the blocks"]
    for unit in result.units.values():
        assert unit.busy_seconds + sum(unit.stalls.values()) == pytest.approx(result.time.seconds)


def calls(*overrides: tuple[str, str]) -> list[Call]:
    arch = load_arch("edge_moe_zcu102").value.fpga
    return encoder_calls(arch, arch.encoder, load_workload("m3vit_cityscapes", overrides).value)


def test_weights_of_an_expert_are_read_once_a_layer() -> None:
    first = [call for call in calls() if call.layer == 1]
    read = sum(
        beats(r.bursts)
        for call in first
        if call.op.startswith("moe") and "weights" in call.op
        for r in call.region.reads
    )
    assert read == 12 * 2 * 192 * 384 // 16 + 12 * (384 + 192) // 16


def test_experts_without_tokens_are_skipped() -> None:
    assert sum(call.op == "moe_up" for call in calls() if call.layer == 3) == 12


def test_drawn_routing_gives_every_token_its_experts_and_depends_on_the_seed() -> None:
    one, again, other = (
        load_workload("m3vit_cityscapes", [("moe.routing", "null"), ("moe.seed", seed)]).value.queues(1)
        for seed in "778"
    )
    assert one == again != other
    assert sum(one) == 258


def test_a_matrix_beyond_a_weight_buffer_is_applied_in_pieces() -> None:
    small = [("layers", "1"), ("moe", "null"), ("d_ff", "1536")]
    pieces = [call for call in calls(*small) if call.op == "ffn_up" and call.name == "linear"]
    assert [beats(call.region.writes[0].bursts) for call in pieces] == [129 * 768 // 8] * 2


def test_equal_regions_on_other_ports_are_timed_once() -> None:
    seen: list[Region] = []

    def run_region(region: Region, ports: dict[str, PortTiming]) -> object:
        seen.append(region)
        return fast(region, ports)

    one, other = (units.load(9, port, 5) for port in "ab")
    assert canonical(one) == canonical(other)
    times = run_program([Call("1", "load", 0, one), Call("2", "load", 0, other)], PortTiming(), run_region)  # type: ignore[arg-type]
    assert len(seen) == 1
    assert times.starts == [0, 0]


def test_calls_at_once_must_not_share_a_port() -> None:
    pair = [Call(name, "load", 0, units.load(9, "a", 5)) for name in ("one", "other")]
    with pytest.raises(ProgramError, match=r"^other and one must not use a at once$"):
        run_program(pair, PortTiming(), fast)


PLAIN = {
    "order": ("arch.fpga.encoder.order=token_by_token",),
    "softmax": ("arch.fpga.attention.softmax=three_pass",),
    "gelu": ("arch.fpga.encoder.gelu=direct",),
    "linear": ("arch.fpga.encoder.linear_units=separate",),
    "attention": ("arch.fpga.attention.schedule=naive",),
}


@pytest.mark.parametrize("form", PLAIN)
def test_every_plain_form_takes_longer_and_does_the_same_work(form: str) -> None:
    shipped, plain = run(*SMALL), run(*SMALL, *PLAIN[form])
    assert plain.time.cycles > shipped.time.cycles
    for unit in ("layernorm", "residual", "patch_embedding"):
        assert plain.units[unit].busy_seconds == shipped.units[unit].busy_seconds


def test_separate_units_have_names_buffers_and_multipliers_of_their_own() -> None:
    one, eight = run("workload.layers=2"), run("workload.layers=2", "arch.fpga.encoder.linear_units=separate")
    uses = {unit for unit in eight.units if unit.startswith("linear")}
    assert uses == {
        f"linear.{use}"
        for use in ("query", "key", "value", "output_projection", "ffn_up", "ffn_down", "moe_up", "moe_down")
    }
    assert one.resources is not None
    assert eight.resources is not None
    assert eight.resources["dsp"].by_unit["linear"] == 8 * 64 * 2
    assert one.resources["dsp"].by_unit["linear"] == 256 * 2
    weights = 4 * 192 * 192 + 2 * 192 * 768 + 2 * 192 * 384
    assert eight.resources["bram18"].by_unit["weight_buffers"] == -(-456 * weights // 294_912)
    with pytest.raises(InputError, match=r"^the design must fit XCZU9EG, which lacks dsp \(.* most for linear 4096,"):
        run("arch.fpga.encoder.linear_units=separate", "arch.fpga.encoder.separate_tile=16")


def test_a_direct_gelu_takes_its_interval_for_every_output() -> None:
    unit = LinearUnit(direct_gelu=DirectGelu(2, 69, 69))
    cycles = fast(units.linear(20, 64, 32, unit, ("a", "b"), gelu=True), IDEAL).cycles
    assert 69 * 20 * 64 // 2 < cycles < 69 * (20 * 64 // 2 + 4)
    assert units.linear(20, 64, 32, unit, ("a", "b"), gelu=False) == units.linear(
        20, 64, 32, LinearUnit(), ("a", "b"), gelu=False
    )


def test_power_is_static_and_what_works_and_meets_the_published_figure() -> None:
    result = run()
    parts = result.energy.by_component
    assert result.energy.average_watts == pytest.approx(14.54, rel=1e-3)  # what static_w is fitted to
    assert parts["static"] == pytest.approx(12.205 * result.time.seconds)
    # the linear unit by hand: picojoules of its resources for each of its tiles
    needs = result.resources
    assert needs is not None
    prices = {"dsp": 10.0, "bram18": 8.0, "lut": 0.08, "ff": 0.02}
    per_tile = sum(
        price * needs[kind].by_unit[entry]
        for kind, price in prices.items()
        for entry in ("linear", "gelu_tables", "weight_buffers")
    )
    tiles = 12 * 4 * 129 * 144 + 6 * 2 * 129 * 576 + 6 * 2 * 258 * 288
    assert parts["linear"] == pytest.approx(per_tile * 1e-12 * tiles)
    assert parts["memory"] == pytest.approx(
        20e-12 * 8 * sum(port.bytes_read + port.bytes_written for port in (result.ports or {}).values())
    )
    for cut in (result.energy.by_component, result.energy.by_op, result.energy.by_layer):
        assert sum(cut.values()) == pytest.approx(result.energy.joules)
    assert sum(op.joules for op in result.ops.values()) == pytest.approx(result.energy.joules)
    assert [text.partition(":")[0] for text in result.energy.uncosted] == ["gating", "residual", "weight_loader"]


def test_the_baselines_are_those_of_the_paper_and_answer_for_this_model_only() -> None:
    result = simulate("edge_moe_zcu102", "m3vit_cityscapes", baselines=["a6000", "xeon_6226r"])
    gpu, cpu = result.baselines["a6000"], result.baselines["xeon_6226r"]
    assert (gpu.seconds, gpu.joules, cpu.seconds, cpu.joules) == pytest.approx((13.73e-3, 1.129, 169.72e-3, 2.466))
    assert gpu.speedup == pytest.approx(13.73e-3 / result.time.seconds)
    assert cpu.energy_ratio == pytest.approx(2.466 / result.energy.joules)
    with pytest.raises(
        InputError, match=r"^baseline a6000: must have a figure for 2 layers of width 64, 9 tokens and 4"
    ):
        simulate("edge_moe_zcu102", "m3vit_cityscapes", overrides=list(SMALL), baselines=["a6000"])
    with pytest.raises(
        InputError, match=r"^baseline t4: must have times of images, not of generated tokens, for an enc"
    ):
        simulate("edge_moe_zcu102", "m3vit_cityscapes", overrides=list(SMALL), baselines=["t4"])
    with pytest.raises(
        InputError, match=r"^baseline a6000: must be used with an encoder, as its figures are times of an"
    ):
        simulate("pim_gpt", "gpt2_decode", overrides=["workload.generate_tokens=1"], baselines=["a6000"])


def test_resources_grow_with_the_units_and_nobody_checks_without_a_device() -> None:
    small = run(*SMALL).resources
    large = run(*SMALL, "arch.fpga.attention.parallelism=8").resources
    assert small is not None
    assert large is not None
    assert small["dsp"].needed < large["dsp"].needed
    assert large["dsp"].by_unit["query_key"] == 2 * small["dsp"].by_unit["query_key"] == 208
    assert run(*SMALL, "arch.fpga.resources=null").resources is None


def test_the_shipped_machine_needs_what_the_report_says_of_multipliers() -> None:
    needs = run("workload.layers=1").resources
    assert needs is not None
    assert needs["dsp"].by_unit["linear"] + needs["dsp"].by_unit["gelu_tables"] == 544
    assert needs["dsp"].needed == pytest.approx(1452, rel=0.01)  # the report's total, which its units are not read from
    assert needs["bram18"].needed == pytest.approx(902, rel=0.05)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("workload.image.patch=17",), "image: height must be a multiple of patch, which is 17, not 128"),
        (
            ("workload.d_ff=100",),
            "d_ff of m3vit_cityscapes must be a multiple of the tile of the linear unit, which is 16, not",
        ),
        (
            ("arch.fpga.encoder=null",),
            "edge_moe_zcu102 must have a section fpga.encoder for m3vit_cityscapes; it computes",
        ),
        (
            ("workload.heads=48",),
            "a head of m3vit_cityscapes must be a multiple of the words of a beat, which are 8, not 4",
        ),
        (
            ("arch.fpga.attention.parallelism=130",),
            "fpga.attention.parallelism must be at most the tokens of m3vit_cityscapes, which are 129, not 130",
        ),
        (
            ("workload.image.width=240", "workload.moe=null"),
            "image.width of m3vit_cityscapes must be a multiple of the pixels",
        ),
        (
            ("workload.image.patch=64", "workload.moe=null"),
            "image.patch of m3vit_cityscapes must divide the pixels of a beat, which are 32, not 64",
        ),
        (
            ("arch.fpga.attention.parallelism=16",),
            "the design must fit XCZU9EG, which lacks dsp (2915 needed, 2520 there; most for weight_exponentials 1008,",
        ),
        (
            ("arch.fpga.attention.softmax=three_pass", "arch.fpga.attention.three_pass=null"),
            "fpga.attention.three_pass: must be given, as softmax is three_pass",
        ),
        (
            ("arch.fpga.encoder.linear_units=separate", "arch.fpga.encoder.separate_tile=null"),
            "fpga.encoder.separate_tile: must be given, as linear_units is separate",
        ),
        (
            ("arch.fpga.encoder.gelu=direct", "arch.fpga.encoder.direct_gelu=null"),
            "fpga.encoder.direct_gelu: must be given, as gelu is direct",
        ),
        (
            ("arch.fpga.encoder.linear_units=separate", "workload.d_ff=100"),
            "d_ff of m3vit_cityscapes must be a multiple of the tile of the linear unit, which is 8, not 100",
        ),
        (
            ("arch.fpga.encoder.separate_tile=12",),
            "fpga.encoder.separate_tile: must be a multiple of the words of a beat, which are 8, not 12",
        ),
        (
            ("arch.fpga.encoder.tile=12",),
            "fpga.encoder.tile: must be a multiple of the words of a beat, which are 8, not 12",
        ),
        (("arch.fpga.encoder.pixel_bits=7",), "fpga.encoder.pixel_bits: must divide beat_bits, which is 256, not 7"),
        (
            ("arch.fpga.encoder.placement.parameters=inout3",),
            "fpga.encoder.placement.parameters: must be a port without projected, as weights come while an expert computes,",
        ),
        (
            ("arch.fpga.encoder.placement.hidden=inout5",),
            "fpga.encoder.placement.hidden: must be one of inout1, inout2, inout3, inout4, weights, not 'inout5'",
        ),
        (
            ("arch.fpga.encoder.buffer_weights=3000",),
            "a weight buffer must hold a tile of outputs of qkv_projection, which are 3072 weights, not 3000",
        ),
        (
            ("arch.fpga.encoder.buffer_weights=73727",),
            "a weight buffer must hold a layer of an expert, which are 73728 weights, not 73727",
        ),
    ],
)
def test_wrong_input_says_what_must_hold(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        run(*overrides)
    assert message in str(caught.value)
