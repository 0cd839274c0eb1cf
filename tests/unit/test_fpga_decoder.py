"""Decoders on a streaming machine: traffic and cycles by closed forms, both engines, latency, refusals."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pimsim.config import load_arch, load_workload
from pimsim.errors import ConfigError, InputError
from pimsim.machine.fpga.fast import run_region as fast
from pimsim.machine.fpga.ports import PortTiming
from pimsim.mapper.fpga.decoder import DecoderProgram
from pimsim.program.dataflow import iterations
from pimsim.result import Result
from pimsim.run import simulate

SMALL = {
    "workload.model.layers": 2, "workload.model.d_model": 64, "workload.model.heads": 4, "workload.model.d_ff": 128,
    "workload.model.vocabulary": 97, "workload.model.context": 64, "arch.fpga.attention.parallelism": 4,
    "arch.fpga.resources": None,
}  # fmt: skip
D, FF, LAYERS, VOCABULARY = 64, 128, 2, 97
BEAT = 32
"""Bytes; 8 words of features or 16 weights."""


def run(engine: str = "fast", arch: str = "fpga_stream_u280", **fields: Any) -> Result:
    given = SMALL | {key.replace("__", "."): value for key, value in fields.items()}
    return simulate(arch, "gpt2_decode", overrides=given, engine=engine)  # type: ignore[arg-type]


def matrix(**fields: Any) -> dict[str, Any]:
    return {"workload__prefill": "matrix", "workload__prefill_tokens": 6, "workload__prompt_tokens": 14} | fields


def weight_beats() -> int:
    """Matrices, biases, gains and shifts of the layers, once: 16 to a beat."""
    weights = 4 * D * D + 2 * D * FF
    biases = 4 * D + FF + D
    return LAYERS * (weights + biases + 4 * D) // 16


def head_beats() -> int:
    """Whole tiles of the vocabulary, without biases, and the last norm."""
    return -(-VOCABULARY // 16) * 16 * D // 16 + 2 * D // 16


@pytest.mark.parametrize("batch", [1, 3])
def test_weights_stream_once_for_a_group_and_again_for_each_token(batch: int) -> None:
    decode = run(workload__generate_tokens=5, workload__batch=batch, workload__lm_head=True)
    assert decode.ports is not None
    assert decode.ports["hbm11"].bytes_read == 5 * (weight_beats() + head_beats()) * BEAT
    prompt = run(**matrix(workload__generate_tokens=1, workload__batch=batch, workload__lm_head=True))
    assert prompt.ports is not None
    assert prompt.ports["hbm11"].bytes_read == batch * (3 * weight_beats() + head_beats()) * BEAT
    assert prompt.ports["hbm11"].bytes_written == 0


@pytest.mark.parametrize("batch", [1, 3])
def test_keys_and_values_are_read_up_to_the_token_and_written_once(batch: int) -> None:
    result = run(workload__prompt_tokens=2, workload__generate_tokens=6, workload__batch=batch)
    passes, row = 7, D * 4
    assert result.ports is not None
    for port in ("hbm01", "hbm02"):
        # of the values' port, queries and what is attended have others
        assert result.ports[port].bytes_read == batch * LAYERS * row * sum(range(1, passes + 1))
        assert result.ports[port].bytes_written == batch * LAYERS * row * passes
    assert result.memory is not None
    assert result.memory["memory"]["persistent_bytes"] == 2 * batch * LAYERS * row * passes


def rows_read(rows: int, before: int, lanes: int) -> int:
    """Keys that pass by: for every block of rows those up to its last row, and what late rows need of one more pass."""
    lanes = min(lanes, rows)
    blocks = range(0, rows, lanes)
    return sum(before + min(rows, first + lanes) for first in blocks) + (rows - 1) % lanes


@pytest.mark.parametrize("lanes", [1, 3, 4, 16])
def test_a_prompt_reads_keys_once_for_a_block_of_rows(lanes: int) -> None:
    result = run(**matrix(workload__generate_tokens=1, arch__fpga__attention__parallelism=lanes))
    expected = sum(rows_read(rows, before, lanes) for rows, before in ((6, 0), (6, 6), (2, 12)))
    assert result.ports is not None
    assert result.ports["hbm01"].bytes_read == LAYERS * D * 4 * expected


def test_the_naive_schedule_reads_keys_for_every_row() -> None:
    result = run(**matrix(workload__generate_tokens=1, arch__fpga__attention__schedule="naive"))
    assert result.ports is not None
    assert result.ports["hbm01"].bytes_read == LAYERS * D * 4 * sum(range(1, 15))


def test_the_linear_unit_takes_a_tile_per_cycle_whatever_streams() -> None:
    result = run(**matrix(workload__generate_tokens=4))
    tiles = LAYERS * (14 + 3) * (4 * D * D + 2 * D * FF) // 256
    assert result.units["linear"].busy_seconds * result.time.clock_hz == pytest.approx(tiles)


def test_decoding_is_bound_by_the_weights() -> None:
    """GPT-2 small: a token takes as long as its weights, but for 15 %; a prompt of 128 as long as its tiles."""
    fields: dict[str, Any] = {
        "workload.prompt_tokens": 128,
        "workload.prefill": "matrix",
        "workload.prefill_tokens": 128,
    }
    result = simulate("fpga_stream_u280", "gpt2_decode", overrides=fields | {"workload.generate_tokens": 2})
    weights = 12 * (4 * 768 * 768 + 2 * 768 * 3072)
    assert result.latency is not None
    assert result.latency.tpot_s is not None
    assert weights / 16 < result.latency.tpot_s * 300e6 < 1.15 * weights / 16
    assert 128 * weights / 256 < result.latency.ttft_s * 300e6 < 1.25 * 128 * weights / 256


def test_several_ports_bring_a_matrix_together() -> None:
    """Shares of whole tiles: of 64 outputs, four tiles, three ports bring 2, 2 and none."""
    fields = matrix(workload__generate_tokens=3, arch__fpga__encoder__weight_prefetch="none")
    one = run(**fields)
    several = run(**fields, arch__fpga__encoder__weight_ports=["hbm12", "hbm13", "hbm14"])
    assert one.ports is not None
    assert several.ports is not None
    passes, tile = 3 + 2, 16 * 2 // BEAT
    per_tile = {D: D * tile * BEAT, FF: FF * tile * BEAT}
    both = (
        passes * LAYERS * (4 * 2 * per_tile[D] + 2 * per_tile[FF])
    )  # attention and the way down: four tiles of outputs each
    wide = passes * LAYERS * per_tile[D]  # the way up has eight: 3, 3 and 2
    assert several.ports["hbm12"].bytes_read == several.ports["hbm13"].bytes_read == both + 3 * wide
    assert several.ports["hbm14"].bytes_read == 2 * wide
    assert sum(port.bytes_read for port in several.ports.values()) == sum(
        port.bytes_read for port in one.ports.values()
    )
    assert several.time.cycles < one.time.cycles
    assert {unit for unit in several.units if unit.startswith("weight_loader")} == {
        "weight_loader", "weight_loader.0", "weight_loader.1", "weight_loader.2",
    }  # fmt: skip


def test_weights_that_come_while_a_layer_computes_save_what_computing_takes() -> None:
    early, late = (
        run(**matrix(arch__fpga__encoder__weight_prefetch=kind, workload__generate_tokens=2))
        for kind in ("layers", "experts")
    )
    assert early.time.cycles < late.time.cycles
    assert (early.ports or {})["hbm11"].bytes_read == (late.ports or {})["hbm11"].bytes_read
    none = run(**matrix(arch__fpga__encoder__weight_prefetch="none", workload__generate_tokens=2))
    assert none.time == late.time


def test_heads_that_share_keys_read_them_once() -> None:
    """Queries of 4 heads, keys of 2: half the beats, and a gate's second matrix."""
    fields = SMALL | {"workload.model.kv_heads": 2, "workload.generate_tokens": 6, "workload.lm_head": False}
    result = simulate("fpga_stream_u280", "smollm2_135m_decode", overrides=fields)
    assert result.ports is not None
    row, weights = D * 4 // 2, LAYERS * (2 * D * D + 2 * D * D // 2 + 3 * D * FF + 2 * D) // 16
    angles, tokens = LAYERS * 2 * 2 * 6, 6 * D // 8
    assert result.ports["hbm01"].bytes_read == LAYERS * row * sum(range(1, 7))
    assert result.ports["hbm01"].bytes_written == LAYERS * row * 6
    assert result.ports["hbm11"].bytes_read == (6 * weights + angles + tokens) * BEAT
    assert result.units["gate"].busy_seconds * result.time.clock_hz == pytest.approx(LAYERS * 6 * FF / 8)
    assert result.units["rotary"].busy_seconds * result.time.clock_hz == pytest.approx(LAYERS * 6 * (D + D / 2) / 8)


LLAMA_FORMS: dict[str, dict[str, Any]] = {
    "token by token": {"workload__prompt_tokens": 2, "workload__generate_tokens": 3},
    "a prompt in groups, a batch": matrix(workload__generate_tokens=3, workload__batch=2),
    "naive": matrix(workload__generate_tokens=2, arch__fpga__attention__schedule="naive"),
}


@pytest.mark.parametrize("form", LLAMA_FORMS)
def test_engines_give_the_same_result_for_the_llama_family(form: str) -> None:
    given = SMALL | {"workload.model.kv_heads": 2}
    given |= {key.replace("__", "."): value for key, value in LLAMA_FORMS[form].items()}
    one, other = (
        simulate("fpga_stream_u280", "smollm2_135m_decode", overrides=given, engine=engine)  # type: ignore[arg-type]
        for engine in ("fast", "reference")
    )
    assert (one.time, one.latency, one.units, one.ops, one.layers, one.ports, one.pass_seconds) == (
        other.time, other.latency, other.units, other.ops, other.layers, other.ports, other.pass_seconds,
    )  # fmt: skip


FORMS: dict[str, dict[str, Any]] = {
    "token by token": {"workload__prompt_tokens": 3, "workload__generate_tokens": 3},
    "a prompt in groups, logits, embeddings": matrix(
        workload__generate_tokens=3, workload__lm_head=True, workload__embeddings=True
    ),
    "a batch": matrix(workload__generate_tokens=3, workload__batch=2),
    "several weight ports": matrix(workload__generate_tokens=2, arch__fpga__encoder__weight_ports=None),
    "naive": matrix(workload__generate_tokens=3, arch__fpga__attention__schedule="naive"),
    "three passes, separate units": matrix(
        workload__generate_tokens=2, arch__fpga__attention__softmax="three_pass", arch__fpga__encoder__linear_units="separate"
    ),
    "a DRAM": {
        "workload__prompt_tokens": 2, "workload__generate_tokens": 2, "workload__model__layers": 1, "workload__embeddings": True,
        "arch__fpga__memory__kind": "dram",
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("arch", ["fpga_stream_u280", "edge_moe_zcu102"])
def test_engines_give_the_same_result(form: str, arch: str) -> None:
    fields = dict(FORMS[form])
    if "arch__fpga__encoder__weight_ports" in fields:
        fields["arch__fpga__encoder__weight_ports"] = ["hbm12", "hbm13"] if "u280" in arch else ["weights"]
    one, other = (run(engine, arch, **fields) for engine in ("fast", "reference"))
    assert (one.time, one.latency, one.units, one.ops, one.layers, one.ports, one.pass_seconds, one.dram) == (
        other.time, other.latency, other.units, other.ops, other.layers, other.ports, other.pass_seconds, other.dram,
    )  # fmt: skip


def test_parts_sum_to_the_run() -> None:
    result = run(**matrix(workload__generate_tokens=3, workload__lm_head=True))
    assert sum(op.seconds for op in result.ops.values()) == pytest.approx(result.time.seconds)
    assert sum(op.joules for op in result.ops.values()) == pytest.approx(result.energy.joules)
    assert [layer.name for layer in result.layers] == ["block 0", "block 1", "outside the blocks"]
    assert sum(layer.seconds for layer in result.layers) == pytest.approx(result.time.seconds)
    for unit in result.units.values():
        assert unit.busy_seconds + sum(unit.stalls.values()) == pytest.approx(result.time.seconds)


def test_latency_is_read_from_the_ends_of_passes() -> None:
    result = run(**matrix(workload__generate_tokens=4, workload__batch=2))
    ends = result.pass_seconds
    assert result.latency is not None
    assert result.tokens is not None
    assert len(ends) == 2 * 3 + 3
    assert list(ends) == sorted(ends)
    assert ends[-1] == result.time.seconds
    assert result.latency.ttft_s == ends[5]
    assert result.latency.tpot_s == pytest.approx((ends[-1] - ends[5]) / 3)
    assert (result.tokens.prompt, result.tokens.generated) == (28, 8)


def test_a_head_is_only_computed_where_a_token_follows() -> None:
    result = run(**matrix(workload__generate_tokens=3, workload__lm_head=True))
    assert result.ops["lm_head"].count == 3
    assert "lm_head" not in run(**matrix(workload__generate_tokens=3)).ops


def test_a_longer_context_costs_time_in_attention_only() -> None:
    arch = load_arch("fpga_stream_u280").value.fpga
    program = DecoderProgram(arch, arch.encoder, load_workload("gpt2_decode", [("model.layers", "1")]).value)
    near, far = (program.shape(1, before) for before in (10, 500))
    ports = dict.fromkeys(arch.ports.names, PortTiming(2, 3, 64, 16, 16))
    for one, other in zip(
        (program.attention(near).scores, program.attention(near).values),
        (program.attention(far).scores, program.attention(far).values),
        strict=True,
    ):
        assert 96 * 490 <= fast(other, ports).cycles - fast(one, ports).cycles < 1.01 * 96 * 490
        assert sum(map(iterations, other.stages)) > sum(map(iterations, one.stages))


@pytest.mark.parametrize(
    ("workload", "fields", "message"),
    [
        (
            "gpt2_decode",
            {"workload.model.activation": "relu"},
            "model.activation: must be gelu_tanh or gelu_erf or silu on fpga_stream_u280, which has tables of what ReLU is more,",
        ),
        (
            "gpt2_decode",
            {"workload.model.attention_scale": 1.0},
            "model.attention_scale: must be 0.125 on fpga_stream_u280, which scales scores by 1 / sqrt(d_head), not 1",
        ),
        (
            "gpt2_decode",
            {"workload.attention": "single_pass", "arch.fpga.attention.softmax": "three_pass"},
            "attention: must be vanilla on fpga_stream_u280, whose fpga.attention.softmax is three_pass, not single_pass",
        ),
        (
            "gpt2_decode",
            {"workload.embeddings": True, "workload.prompt_tokens": 2},
            "generate_tokens: must be at most model.context - prompt_tokens + 1 = 1023 with embeddings, as there is no position",
        ),
        (
            "gpt2_decode",
            {"workload.model.d_ff": 100},
            "d_ff of gpt2_decode must be a multiple of the tile of the linear unit,",
        ),
        (
            "gpt2_decode",
            {"arch.fpga.encoder.placement.parameters": "hbm05"},
            "fpga.encoder.placement.parameters must be without the port of output for gpt2_decode, as weights come while",
        ),
        (
            "gpt2_decode",
            {"arch.fpga.encoder.weight_ports": ["hbm12", "hbm01"]},
            "fpga.encoder.weight_ports must be without the port of key for gpt2_decode, as weights come while a layer",
        ),
        (
            "gpt2_decode",
            {"arch.fpga.encoder.weight_ports": ["hbm12", "hbm12"]},
            "fpga.encoder.weight_ports: must name each port once, not hbm12, hbm12",
        ),
        (
            "gpt2_decode",
            {"arch.fpga.encoder.weight_ports": ["hbm99"]},
            "fpga.encoder.weight_ports.0: must be one of hbm00,",
        ),
        (
            "gpt2_decode",
            {"arch.fpga.encoder.buffer_weights": 16 * 3072 - 1},
            "a weight buffer must hold a tile of outputs of gpt2_decode, which are 49152 weights, not 49151",
        ),
        (
            "gpt2_decode",
            {"arch.fpga.encoder": None},
            "fpga_stream_u280 must have a section fpga.encoder for gpt2_decode; it",
        ),
        (
            "gpt2_decode",
            {"arch.fpga.attention.parallelism": 64},
            "the design must fit XCU280, which lacks dsp (",
        ),
    ],
)
def test_what_the_machine_does_not_have_is_refused(workload: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        simulate("fpga_stream_u280", workload, overrides=fields)


def test_other_algorithms_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"attention: must be vanilla or single_pass on fpga_stream_u280, which has"):
        run(workload__attention="topk")


def test_commands_are_only_checked_with_a_dram() -> None:
    small = {**SMALL, "workload.generate_tokens": 2, "workload.model.layers": 1}
    with pytest.raises(InputError, match=r"^--strict must be left out: gpt2_decode on fpga_stream_u280 issues no DRAM"):
        simulate("fpga_stream_u280", "gpt2_decode", overrides=small, strict=True)
    result = simulate(
        "fpga_stream_u280", "gpt2_decode", overrides=small | {"arch.fpga.memory.kind": "dram"}, strict=True
    )
    assert result.legality is not None
    assert result.dram is not None
    assert result.legality["checked"] == sum(result.dram.commands.values())
    assert result.ports is not None
    assert result.dram.bytes_read == sum(port.bytes_read for port in result.ports.values())
