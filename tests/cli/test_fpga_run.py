"""``pimsim run`` on a streaming machine: figures, engines, wrong input."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cli_tools import pimsim
from typer.testing import CliRunner

from pimsim.cli import app
from pimsim.config import load_arch
from pimsim.errors import ConfigError, MappingError
from pimsim.result import Result
from pimsim.run import simulate
from pimsim.runners.streaming import port_timing

SMALL = ("workload.tokens=13", "workload.heads=1")


def run(*overrides: str, engine: str = "fast", workload: str = "attention_reordered") -> Result:
    return simulate("edge_moe_zcu102", workload, overrides=overrides, engine=engine)  # type: ignore[arg-type]


@pytest.mark.parametrize("workload", ["attention_reordered", "attention_naive"])
@pytest.mark.parametrize("lanes", [1, 4, 8])
def test_engines_give_the_same_result(workload: str, lanes: int) -> None:
    one, other = (
        run(*SMALL, f"arch.fpga.attention.parallelism={lanes}", engine=engine, workload=workload)
        for engine in ("fast", "reference")
    )
    assert (one.time, one.units, one.ops, one.ports) == (other.time, other.units, other.ops, other.ports)


def test_products_wait_for_the_port_which_gives_a_beat_every_two_cycles() -> None:
    cycles = run().time.cycles
    assert cycles == pytest.approx(2 * 102_168 * 2, rel=0.01)


def test_json_has_null_where_there_is_no_dram() -> None:
    words = ["run", "--arch", "edge_moe_zcu102", "--workload", "attention_reordered", "--format", "json"]
    for option in SMALL:
        words += ["--set", option]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0
    found = json.loads(answer.stdout)
    assert (found["dram"], found["interface"], found["tokens"]) == (None, None, None)
    assert found["ports"]["inout3"]["bytes_read"] == 13 * -(-13 // 4) * 8 * 32


def test_a_port_with_too_little_in_flight_is_refused() -> None:
    ports = ("arch.fpga.ports.outstanding=1", "arch.fpga.ports.max_burst=3")
    with pytest.raises(
        MappingError, match=r"^a port must have at least 4 beats in flight .* takes so many of key_port at once, not 3$"
    ):
        run(*SMALL, *ports, workload="attention_naive")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "arch.fpga.attention.parallelism=14",
            "--set arch.fpga.attention.parallelism=14: fpga.attention.parallelism: must be at most the tokens of "
            "attention_reordered, which are 13, not 14",
        ),
        (
            "arch.fpga.ports.width_bits=16",
            "--set arch.fpga.ports.width_bits=16: fpga.ports.width_bits: must be at least word_bits, which is 32, so that "
            "a port is no narrower than a word, not 16",
        ),
        (
            "workload.d_head=60",
            "--set workload.d_head=60: d_head: must be a multiple of the words of a beat of edge_moe_zcu102, which are 8, "
            "not 60",
        ),
        ("arch.fpga.attention.fifo_depth=0", "--set arch.fpga.attention.fifo_depth=0: fpga.attention.fifo_depth: must"),
    ],
)
def test_wrong_input_says_what_must_hold(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(message)):
        run(*SMALL, override)


def test_a_check_says_what_it_found(tmp_path: Path) -> None:
    words = ["run", "--arch", "edge_moe_zcu102", "--workload", "attention_reordered", "--check", "--out", str(tmp_path)]
    for option in SMALL:
        words += ["--set", option]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0
    assert "pass: 3 results in fixed32_10_wrap" in answer.stdout
    functional = json.loads((tmp_path / "result.json").read_text())["functional"]
    assert functional["passed"]
    assert set(functional["by_op"]) == {"scores", "statistics", "attention"}
    failed = CliRunner().invoke(app, [*words, "--set", "arch.fpga.formats.softmax=fixed32_2_wrap"])
    assert failed.exit_code == 1
    assert failed.stderr.startswith("error: statistics (statistics) must be what the reference computes: element [")
    assert json.loads((tmp_path / "result.json").read_text())["functional"]["passed"] is False


@pytest.mark.parametrize(
    ("override", "kind", "message"),
    [
        ("arch.fpga.formats=null", MappingError, "edge_moe_zcu102 must have a section fpga.formats to be run on numbers"),
        (
            "arch.fpga.formats.features=float32", ConfigError,
            "--set arch.fpga.formats.features=float32: fpga.formats.features: must be a fixed-point format such as "
            "fixed32_10_wrap, not 'float32'",
        ),
        (
            "arch.fpga.formats.biases=fixed8_9", ConfigError,
            "--set arch.fpga.formats.biases=fixed8_9: fpga.formats.biases: must have at most 8 bits before the point, not 9",
        ),
    ],
)  # fmt: skip
def test_formats_that_are_wrong_are_refused(override: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^{re.escape(message)}"):
        simulate("edge_moe_zcu102", "attention_reordered", overrides=(*SMALL, override), check_tokens=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("attention_naive", "arch.fpga.attention.parallelism=130"),
            "--set arch.fpga.attention.parallelism=130: fpga.attention.parallelism: must be at most the tokens of "
            "attention_naive, which are 129, not 130",
        ),
        (
            ("m3vit_cityscapes", "arch.fpga.encoder.input_fifo=0"),
            "--set arch.fpga.encoder.input_fifo=0: fpga.encoder.input_fifo: must be",
        ),
        (
            ("m3vit_cityscapes", "arch.fpga.encoder.result_fifo=0"),
            "--set arch.fpga.encoder.result_fifo=0: fpga.encoder.result_fifo: must be",
        ),
        (
            ("m3vit_cityscapes", "workload.d_ff=760"),
            "d_ff of m3vit_cityscapes must be a multiple of the tile of the linear unit, which is 16, not 760",
        ),
        (
            ("m3vit_cityscapes", "arch.fpga.ports.width_bits=8"),
            "--set arch.fpga.ports.width_bits=8: fpga.ports.width_bits: must be at least word_bits, which is 32, so that a port "
            "is no narrower than a word, not 8",
        ),
        (
            ("m3vit_cityscapes", "arch.fpga.encoder.tile=48"),
            "the design must fit XCZU9EG, which lacks dsp (5611 needed, 2520 there; most for linear 4608, patch_embedding 256)",
        ),
        (
            ("m3vit_cityscapes", "arch.fpga.attention.softmax=two_pass"),
            "--set arch.fpga.attention.softmax=two_pass: fpga.attention.softmax: must be",
        ),
    ],
)
def test_wrong_input_ends_the_run_with_2_and_one_line(options: tuple[str, str], message: str) -> None:
    workload, option = options
    answer = pimsim("run", "--arch", "edge_moe_zcu102", "--workload", workload, "--set", option, "--quiet")
    assert answer.exit_code == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith(f"error: {message}")
    assert "Traceback" not in answer.stderr


def test_the_hbm_machine_has_a_port_for_every_stream_and_no_power_that_nobody_measured() -> None:
    result = simulate("fpga_stream_u280", "m3vit_cityscapes", overrides=["workload.layers=2"])
    arch = load_arch("fpga_stream_u280").value.fpga
    used = {name for name, port in (result.ports or {}).items() if port.bytes_read + port.bytes_written}
    assert len(arch.ports.names) == 32
    assert used == {*arch.attention.placement.values(), *arch.encoder.placement.values()}
    assert len(used) == 12
    timing = port_timing(load_arch("fpga_stream_u280").value)
    assert (timing.numerator, timing.denominator) == (2, 3)  # 256 bits at 450 MHz for beats of 256 bits at 300 MHz
    assert "static: fpga.power.static_w" in result.energy.uncosted
    assert "static" not in result.energy.by_component
    spec = arch.memory.dram.resolve()
    per_port = spec.burst_bytes / (spec.timing["nCCDS"] * spec.tick_seconds)
    assert 32 * per_port == pytest.approx(460e9, rel=0.01)


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_ports_of_the_hbm_machine_have_a_pseudo_channel_each(engine: str) -> None:
    result = simulate(
        "fpga_stream_u280", "attention_reordered", overrides=["arch.fpga.memory.kind=dram", "workload.tokens=17"],
        engine=engine,  # type: ignore[arg-type]
    )  # fmt: skip
    ideal = simulate("fpga_stream_u280", "attention_reordered", overrides=["workload.tokens=17"])
    assert ideal.time.cycles < result.time.cycles < 1.2 * ideal.time.cycles


def test_a_decoder_runs_from_the_command_line_and_is_checked() -> None:
    sizes = ("layers=1", "d_model=64", "heads=4", "d_ff=64", "vocabulary=64")
    words = [word for size in sizes for word in ("--set", f"workload.model.{size}")]
    answer = CliRunner().invoke(
        app,
        ["run", "--quiet", "--format", "json", "--arch", "fpga_stream_u280.yaml", "--workload", "gpt2_decode", "--check",
         "--set", "workload.prompt_tokens=5", "--set", "workload.generate_tokens=2", "--set", "workload.prefill=matrix", *words],
    )  # fmt: skip
    assert answer.exit_code == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found["functional"]["passed"]
    assert found["functional"]["passes"] == 3
    assert found["latency"]["ttft_s"] < found["time"]["seconds"]
    assert found["tokens"]["prompt"] == 5
    assert found["memory"]["memory"]["persistent_bytes"] == 2 * 6 * 64 * 4
