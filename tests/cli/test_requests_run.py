"""``pimsim run`` on memories behind a controller, with host traffic, and with ``--strict``: figures and wrong input."""

from __future__ import annotations

import json
import math
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_tools import RUN, TINY, pimsim

from pimsim.arch.dram import DramSpec
from pimsim.machine.calendar import Calendar
from pimsim.run import simulate

MEMORY = ("run", "--arch", "ddr4_memory", "--workload", "requests_random", "--quiet")
SHORT = ("--set", "workload.count=400")
HOST = ("run", "--arch", "pim_gpt_host", "--workload", "gpt2_decode", "--quiet", *TINY)


def as_json(*words: str) -> dict[str, Any]:
    answer = pimsim(*words, "--format", "json")
    assert answer.exit_code == 0, answer.output
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def figures(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key not in ("engine", "simulation", "manifest")}


# --- memories behind a controller ---


@pytest.mark.parametrize("arch", ["ddr4_memory", "hbm2_memory"])
def test_engines_give_the_same_result_and_trace(arch: str, tmp_path: Path) -> None:
    words = ["run", "--arch", arch, "--workload", "requests_random", "--quiet", *SHORT, "--set", "arch.dram.channels=2"]
    runs = [
        as_json(*words, "--engine", engine, "--strict", "--trace", str(tmp_path / engine))
        for engine in ("fast", "reference")
    ]
    assert figures(runs[0]) == figures(runs[1])
    assert (tmp_path / "fast").read_bytes() == (tmp_path / "reference").read_bytes()
    assert runs[0]["legality"] == {"checked": runs[0]["simulation"]["commands"]}
    dram = "ddr4_3200aa" if arch == "ddr4_memory" else "hbm2_2000"
    verdict = pimsim("verify-trace", "--dram", dram, "--trace", str(tmp_path / "fast"), "--set", "dram.channels=2")
    assert (verdict.exit_code, verdict.stdout) == (0, "no violations\n")


def test_the_books_of_requests_add_up() -> None:
    found = as_json(*MEMORY, *SHORT)
    requests, dram, energy = found["requests"], found["dram"], found["energy"]
    assert requests["reads"] + requests["writes"] + requests["forwarded"] == 400
    assert requests["hits"] + requests["misses"] + requests["conflicts"] == requests["reads"] + requests["writes"]
    assert dram["bytes_read"] == 64 * requests["reads"] == 64 * dram["commands"]["RD"]
    assert dram["bytes_written"] == 64 * requests["writes"] == 64 * dram["commands"]["WR"]
    assert requests["bandwidth"] == pytest.approx(requests["bytes"] / found["time"]["seconds"])
    assert requests["peak_bandwidth"] == pytest.approx(25.6e9)
    assert math.fsum(energy["by_component"].values()) == pytest.approx(energy["joules"], rel=1e-12)
    unit = found["units"]["channel0.data"]
    assert unit["busy_seconds"] + sum(unit["stalls"].values()) == pytest.approx(found["time"]["seconds"], rel=1e-12)
    latency = requests["read_latency"]
    assert 48 * 0.625e-9 <= latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"]


def test_a_refresh_of_one_bank_has_no_known_current() -> None:
    electrical = "{vdd_v: 1.2, idd0_ma: 60, idd2n_ma: 30, idd3n_ma: 40, idd4r_ma: 200, idd4w_ma: 200, idd5b_ma: 200}"
    sets = ("--set", f"arch.dram.electrical={electrical}", "--set", "workload.count=3000")
    found = as_json("run", "--arch", "hbm2_memory", "--workload", "requests_random", "--quiet", *sets)
    assert found["dram"]["refreshes"] == found["dram"]["commands"]["REFpb"] > 0
    assert any(text.startswith("refresh: dram.electrical has no current") for text in found["energy"]["uncosted"])


def test_the_table_shows_bandwidth_and_latency() -> None:
    answer = pimsim(*MEMORY, *SHORT, "--strict")
    assert answer.exit_code == 0
    for word in ("Bandwidth", "Read latency", "Write latency", "conflicts", "commands break no rule of the DRAM"):
        assert word in answer.stdout


def test_a_trace_of_requests_runs(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("op,address,arrive\nR,0x40,0\nW,128,5\nR,0x40,900\n")
    stream = f"{{pattern: trace, path: {tmp_path / 't.csv'}}}"
    sets = ("--set", "workload.count=null", "--set", f"workload.stream={stream}")
    found = as_json(*MEMORY[:-1], "--quiet", *sets)
    assert (found["requests"]["reads"], found["requests"]["writes"]) == (2, 1)
    assert found["time"]["cycles"] == 901 + 22 + 4  # the row is still open
    assert found["requests"]["read_latency"]["max"] == pytest.approx(48 * 0.625e-9)
    alone = as_json("run", "--arch", "ddr4_memory", "--workload", str(tmp_path / "t.csv"), "--quiet")
    assert (alone["workload"]["name"], alone["requests"]) == ("t", found["requests"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1: the header must have a column op, such as op,address,arrive, not an empty line"),
        ("op,arrive\n", ":1: the header must have a column address, such as op,address,arrive, not op,arrive"),
        ("op,address,size\n", ":1: a column must be one of op, address, arrive, id, "),
        ("op,op,address\n", ":1: the header must have the column op once"),
        ("op,address\nX,0\n", ":2: op must be R or W, not 'X'"),
        ("op,address\nR,zero\n", ":2: address must be an integer, not 'zero'"),
        ("op,address\nR,-64\n", ":2: address must lie in 0..0x1ffffffc0, the last burst of the memory, not -0x40"),
        ("op,address\nR,0x200000000\n", ":2: address must lie in 0..0x1ffffffc0, "),
        ("op,address,arrive\nR,0,5\nR,0,4\n", ":3: arrive must lie in 5..1000000000000000, "),
        ("op,address\nR\n", ":2: a line must have 2 fields as the header has, not 1"),
        ("op,address\nR,\0\n", ":2: must be a text file, not a binary file"),
        ("op,address\n", ": must hold at least one request that the memory has to answer"),
    ],
)
def test_a_wrong_trace_is_named_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    sets = ("--set", "workload.count=null", "--set", f"workload.stream={{pattern: trace, path: {path}}}")
    answer = pimsim(*MEMORY, *sets)
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert answer.stderr.startswith(f"error: {path}{message}")


CONTROLLER = "arch.controller."
PLACED = r"\S+\.yaml:\d+:\d+: "
WRONG = [
    (CONTROLLER + "page=shut", "", "must be one of open, closed, not 'shut'"),
    (
        CONTROLLER + "drain_start=33",
        "",
        "must be more than drain_stop, which is 8, and at most write_queue, which is 32, not 33",
    ),
    (
        CONTROLLER + "drain_start=8",
        "",
        "must be more than drain_stop, which is 8, and at most write_queue, which is 32, not 8",
    ),
    (
        CONTROLLER + "mapping=[row, bank]",
        "",
        "must hold each of row, bank, bankgroup, rank, column, channel once, not row, bank",
    ),
    (
        CONTROLLER + "commands.read=RDA",
        "",
        "must be a command with scope: bank, effect: none, needs: open and data: read, which ",
    ),
    (
        CONTROLLER + "commands.write=WX",
        "",
        "command must be one of ACT, PREab, PREpb, RD, RDA, REFab, WR, WRA, not 'WX'",
    ),
    (
        CONTROLLER + "refresh.policy=per_bank",
        "controller.refresh.per_bank_command",
        "command must be one of ACT, PREab, ",
    ),
    (CONTROLLER + "refresh.postpone=9", "", "must be at most 8, not 9"),
    (
        "arch.dram.refresh.policy=none",
        "controller.refresh.policy",
        "must be none where dram.refresh.policy is none, not all_bank",
    ),
    ("workload.count=0", "", "must be greater than 0, not 0"),
    ("workload.count=null", "-", "must have a count where the pattern is not trace"),
    ("workload.stream.reads=1.5", "", "must be at most 1, not 1.5"),
    (
        "workload.stream.start_address=7",
        "",
        "must be a multiple of 64, the bytes of a burst, and at most 8,589,934,528, ",
    ),
    (
        "workload.stream.span_bytes=100",
        "",
        "must be a multiple of 64, the bytes of a burst, and at most 8,589,934,592, ",
    ),
    ("workload.stream.stride_bytes=8589934656", "", "must be a multiple of 64, the bytes of a burst, and at most "),
    ("workload.stream.path=x.csv", "stream", "must have no path unless pattern is trace"),
    ("workload.stream.pattern=strided", "stream", "must have stride_bytes where pattern is strided"),
]
"""Override, the field that is wrong if it is another one (or - for none), and what must hold."""


@pytest.mark.parametrize(("option", "field", "message"), WRONG)
def test_wrong_values_are_named_with_their_place(option: str, field: str, message: str) -> None:
    answer = pimsim(*MEMORY, "--set", option)
    assert (answer.exit_code, answer.stdout) == (2, "")
    own = option.partition("=")[0].partition(".")[2]
    place = PLACED if field else re.escape(f"--set {option}: ")
    path = "" if field == "-" else re.escape(f"{field or own}: ")
    assert re.match(f"error: {place}{path}{re.escape(message)}", answer.stderr), answer.stderr


def test_requests_need_a_memory_and_a_memory_needs_requests() -> None:
    answer = pimsim("run", "--arch", "pim_gpt", "--workload", "requests_random")
    assert answer.exit_code == 2
    assert answer.stderr.startswith("error: a workload for pim_gpt, an architecture of kind pim, must be of kind ")
    answer = pimsim("run", "--arch", "ddr4_memory", "--workload", "gpt2_decode")
    assert answer.stderr.startswith(
        "error: a workload for ddr4_memory, an architecture of kind memory, must be of kind requests"
    )


# --- host traffic ---


def test_interference_grows_with_the_traffic_and_alone_is_the_run_without_it() -> None:
    alone = as_json("run", "--arch", "pim_gpt", "--workload", "gpt2_decode", "--quiet", *TINY)
    assert alone["requests"] is None
    slowdowns = []
    for interval in (1000, 20, 2):
        found = as_json(*HOST, "--strict", "--set", f"arch.host_traffic.stream.interval={interval}")
        cost = found["requests"]["interference"]
        assert found["engine"] == "reference"
        assert cost["seconds_alone"] == pytest.approx(alone["time"]["seconds"], rel=1e-12)
        assert cost["slowdown"] == pytest.approx(found["time"]["seconds"] / alone["time"]["seconds"])
        assert found["legality"]["checked"] == found["simulation"]["commands"]
        slowdowns.append(cost["slowdown"])
    assert 1 <= slowdowns[0] < slowdowns[1] < slowdowns[2]


def test_the_program_is_the_same_with_host_traffic_and_its_commands_are_told_apart() -> None:
    alone = as_json("run", "--arch", "pim_gpt", "--workload", "gpt2_decode", "--quiet", *TINY)
    found = as_json(*HOST)
    for command in ("MAC_AB", "WR_GB", "RD_MAC"):
        assert found["dram"]["commands"][command] == alone["dram"]["commands"][command]
    requests, burst = found["requests"], 32
    assert found["dram"]["commands"]["RD"] == requests["reads"] + alone["dram"]["commands"].get("RD", 0)
    assert found["dram"]["commands"]["WR"] == requests["writes"] + alone["dram"]["commands"]["WR"]
    assert found["interface"]["bytes"] == alone["interface"]["bytes"] + burst * (requests["reads"] + requests["writes"])
    assert found["ops"]["host"]["joules"] > 0
    for unit in found["units"].values():
        spent = unit["busy_seconds"] + sum(unit["stalls"].values())
        assert spent == pytest.approx(found["time"]["seconds"], rel=1e-9)
    assert math.fsum(op["seconds"] for op in found["ops"].values()) == pytest.approx(found["time"]["seconds"])


def test_what_requests_close_is_opened_again_on_their_account() -> None:
    """Without refresh, whatever the program did not ask for is booked on the host."""
    quiet = ("--set", "arch.dram.refresh.policy=none")
    found = as_json(*HOST, *quiet, "--set", "arch.host_traffic.stream.interval=5")
    assert "refresh" not in found["ops"]
    assert found["requests"]["interference"]["turns"] > 0


def test_wrong_host_traffic_is_refused() -> None:
    answer = pimsim(*HOST, "--set", "arch.host_traffic.controller.drain_start=40")
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert "host_traffic.controller.drain_start: must be more than drain_stop" in answer.stderr
    answer = pimsim(*HOST, "--set", "arch.host_traffic.stream.start_address=1")
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert "host_traffic.stream.start_address: must be a multiple of 32" in answer.stderr


def test_text_is_generated_without_a_host() -> None:
    words = ("--model", "none.gguf", "--prompt", "a", "--tokens", "1")
    answer = pimsim("generate", "--arch", "pim_gpt_host", *words)
    assert answer.exit_code == 2
    assert re.match(rf"error: {PLACED}host_traffic: must be null to generate text$", answer.stderr), answer.stderr


# --- strict runs ---


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_a_strict_run_checks_every_command_and_changes_nothing(engine: str) -> None:
    plain, strict = as_json(*RUN, *TINY, "--engine", engine), as_json(*RUN, *TINY, "--engine", engine, "--strict")
    assert plain["legality"] is None
    assert strict["legality"] == {"checked": plain["simulation"]["commands"]}
    plain.pop("legality"), strict.pop("legality")
    assert figures(plain) == figures(strict)


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_a_calendar_with_a_fault_ends_a_strict_run(
    engine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A calendar that forgets nRCD: the oracle names the rule, both commands and their ticks."""

    def forgetful(self: Calendar, spec: DramSpec) -> None:
        rules = tuple(rule for rule in spec.rules if rule.text != "nRCD")
        original(self, replace(spec, rules=rules))

    original = Calendar.__init__
    monkeypatch.setattr(Calendar, "__init__", forgetful)
    out = tmp_path / "out"
    answer = pimsim(*RUN, *TINY, "--engine", engine, "--strict", "--out", str(out), "--quiet")
    assert (answer.exit_code, answer.stdout) == (1, "")
    assert answer.stderr == (
        "error: channel 0: WR at tick 82 must keep Bank: ACT->WR >= 12 (nRCD), not come 1 after ACT at tick 81\n"
    )
    assert not out.exists()


def test_hybrid_machines_can_be_strict_and_have_a_host() -> None:
    words = ("run", "--arch", "hybrid_pim_fpga", "--workload", "gpt2_decode", "--quiet", *TINY)
    alone = as_json(*words, "--strict")
    assert alone["legality"] == {"checked": alone["simulation"]["commands"]}
    host = "arch.host_traffic={stream: {pattern: random, interval: 9}}"
    found = as_json(*words, "--strict", "--set", host)
    cost = found["requests"]["interference"]
    assert cost["seconds_alone"] == pytest.approx(alone["time"]["seconds"], rel=1e-12)
    assert cost["slowdown"] > 1


def test_attention_by_itself_can_be_strict() -> None:
    words = ("run", "--arch", "pim_gpt", "--workload", "attention_reordered", "--quiet", "--set", "workload.tokens=5")
    found = as_json(*words, "--strict")
    assert found["legality"] == {"checked": found["simulation"]["commands"]}


def test_a_strict_run_finds_the_quirk_of_aim_simulator_and_nothing_in_the_proper_machine(tmp_path: Path) -> None:
    """ACT16 with a row open is a documented quirk; the machine without quirks closes rows first."""
    name = "traces/mi_mac_abk_over_open_single_bank.trace"
    with zipfile.ZipFile(Path(__file__).parents[1] / "data" / "aim" / "golden.zip") as archive:
        archive.extract(name, tmp_path)
    words = ("--workload", str(tmp_path / name), "--strict", "--quiet")
    answer = pimsim("run", "--arch", "aim_gddr6", *words)
    assert (answer.exit_code, answer.stdout) == (1, "")
    assert answer.stderr == (
        "error: channel 0: ACT16 at tick 90 must keep ACT16 on closed banks only, not bankgroup 0, bank 0 with row 4 open\n"
    )
    found = as_json("run", "--arch", "aim_gddr6_proper", *words)
    assert found["legality"] == {"checked": found["simulation"]["commands"]}


def test_a_machine_without_commands_cannot_be_strict() -> None:
    answer = pimsim("run", "--arch", "edge_moe_zcu102", "--workload", "attention_reordered", "--strict")
    assert answer.exit_code == 2
    assert answer.stderr.startswith(
        "error: --strict must be left out: attention_reordered on edge_moe_zcu102 issues no "
    )


def test_figures_of_requests_are_columns_of_a_sweep() -> None:
    result = simulate("ddr4_memory", "requests_random", workload__count=50)
    assert result.requests is not None
    assert result.requests.read_latency is not None
    figures = result.figures()
    assert figures["request_bandwidth"] == result.requests.bandwidth
    assert figures["read_latency"] == result.requests.read_latency.mean
    assert figures["slowdown"] is None


def test_the_library_has_strict_runs_too() -> None:
    result = simulate("ddr4_memory", "requests_sequential", workload__count=50, strict=True)
    assert result.legality == {"checked": result.simulation.commands}
