"""``pimsim run`` on a streaming machine: figures, engines, wrong input."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from pimsim.cli import app
from pimsim.errors import ConfigError, MappingError
from pimsim.result import Result
from pimsim.run import simulate

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
