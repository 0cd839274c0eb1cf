"""The command line end to end: what each command prints, writes and exits with."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cli_tools import ROOT, RUN, TINY, pimsim, process
from typer.testing import CliRunner

from pimsim import __version__, catalog, runners
from pimsim.arch.functions import FUNCTIONS
from pimsim.cli import app, guarded
from pimsim.commands import configs
from pimsim.commands import run as run_command
from pimsim.commands.inspect import KINDS, commands
from pimsim.commands.output import columns, whole_file, whole_folder
from pimsim.config import load_arch, load_workload
from pimsim.errors import InputError, SimulationError
from pimsim.run import simulate
from pimsim.runners import RunOptions, pim_decoder
from pimsim.schema import schema
from pimsim.show import show_json
from pimsim.trace.csvio import COLUMNS, make_command, read_trace, write_trace

SMALL = ("--set", "workload.generate_tokens=2", "--set", "workload.model.layers=2")

CONTRACT = {
    "schema": None,
    "arch": {"name", "hash"},
    "workload": {"name", "hash"},
    "engine": None,
    "time": {"seconds", "cycles", "clock_hz"},
    "tokens": {"prompt", "generated", "seconds_per_token", "per_second"},
    "latency": {"ttft_s", "tpot_s"},
    "energy": {"joules", "by_component", "average_watts", "uncosted"},
    "dram": {"commands", "row_hit_rate", "refreshes", "bytes_read", "bytes_written"},
    "interface": {"bytes", "bytes_without_pim", "reduction"},
    "units": None,
    "ops": None,
    "layers": None,
    "ports": None,
    "demand": None,
    "notes": None,
    "roofline": {"peak_flop_s", "bank_bytes_s", "pin_bytes_s", "ops"},
    "resources": None,
    "routing": None,
    "requests": None,
    "placement": None,
    "prompt_placement": None,
    "links": None,
    "baselines": None,
    "functional": None,
    "legality": None,
    "counts": None,
    "memory": None,
    "simulation": {"wall_seconds", "commands", "peak_memory_bytes"},
    "manifest": {"version", "commit", "python", "packages", "command_line", "hashes"},
}
"""Keys of result.json that scripts read; there may be more."""


def figures(*arguments: str) -> dict[str, Any]:
    result = pimsim(*RUN, *TINY, *arguments, "--format", "json")
    assert (result.exit_code, result.stderr) == (0, "")
    return dict(json.loads(result.stdout))


# -------------------------------------------------------------------------------------------------------------- help


def test_help_answers_at_once() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        assert process("--help").returncode == 0
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < (1.0 if os.environ.get("CI") else 0.5)


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, pimsim.cli; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"numpy", "pydantic", "networkx", "simpy", "yaml", "matplotlib", "rich"} & set(loaded.stdout.split())


def test_a_decoder_is_timed_without_numpy() -> None:
    """It is a sixth of the start-up, and only a check needs it."""
    code = "import sys, pimsim.run, pimsim.runners.pim_decoder; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"numpy", "simpy", "matplotlib", "rich"} & set(loaded.stdout.split())


def test_a_decoder_builds_the_models_of_its_own_machine_only() -> None:
    """Each of the others takes as long to import as a token to simulate."""
    run = "simulate('pim_gpt', 'gpt2_decode', overrides=['workload.generate_tokens=1'])"
    code = f"import sys; from pimsim.run import simulate; {run}; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    others = {"pimsim.arch.fpga", "pimsim.arch.hybrid", "pimsim.arch.aim", "pimsim.workload.attention_only"}
    assert not others & set(loaded.stdout.split())


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_lists_the_commands(arguments: tuple[str, ...]) -> None:
    result = pimsim(*arguments)
    assert result.exit_code == 0
    for name in ("run", "replay", "verify-trace", "validate", "list", "schema", "show"):
        assert f"\n  {name}" in result.stdout
    assert "..." not in result.stdout.partition("Commands:")[2]


@pytest.mark.parametrize("name", ["run", "replay", "verify-trace", "validate", "list", "schema", "show"])
def test_every_command_has_an_example_and_says_its_defaults(name: str) -> None:
    text = pimsim(name, "--help").stdout
    assert "Example" in text
    assert f"\n    pimsim {name}" in text
    options = text.partition("Options:")[2].split("\n  -")
    for option in options[1:]:
        if not option.startswith("h, --help"):
            assert "[default:" in option or "[required]" in option, option


def test_version() -> None:
    assert pimsim("--version").stdout == f"pimsim {__version__}\n"


# --------------------------------------------------------------------------------------------------------------- run


def test_run_prints_a_table() -> None:
    result = pimsim(*RUN, *TINY)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("gpt2_decode on pim_gpt  (fast engine)\n  latency ")
    assert "\nt4 " in result.stdout
    assert "\nxeon_6154 " in result.stdout


def test_run_prints_what_the_contract_says() -> None:
    plain = figures("--baseline", "a100", "--baseline", "t4")
    assert list(plain) == list(CONTRACT)
    for key, inside in CONTRACT.items():
        assert inside is None or inside <= set(plain[key]), key
    assert plain["schema"] == "pimsim.result/1"
    assert list(plain["baselines"]) == ["a100", "t4"]
    for baseline in plain["baselines"].values():
        assert set(baseline) >= {"seconds", "joules", "speedup", "energy_ratio", "kind", "source"}
    for op in plain["ops"].values():
        assert set(op) >= {"count", "seconds", "share", "joules"}
    for layer in plain["layers"]:
        assert set(layer) >= {"name", "seconds", "joules"}
    for unit in plain["units"].values():
        assert set(unit) >= {"busy_seconds", "busy_fraction", "stalls"}
    command_line = plain["manifest"]["command_line"]
    assert command_line[:2] == ["pimsim", "run"]
    assert command_line[-2:] == ["--format", "json"]


def test_run_is_simulate() -> None:
    printed = figures()
    overrides = [option for option in TINY if option != "--set"]
    direct = simulate("pim_gpt", "gpt2_decode", overrides=overrides).to_json()
    for key in ("arch", "workload", "time", "tokens", "energy", "dram", "interface", "units", "ops", "layers"):
        assert printed[key] == direct[key], key


def test_both_engines_agree() -> None:
    fast, reference = figures("--engine", "fast"), figures("--engine", "reference")
    assert (fast["engine"], reference["engine"]) == ("fast", "reference")
    for key in ("time", "tokens", "dram", "energy", "units", "ops", "layers", "ports", "interface"):
        assert fast[key] == reference[key], key


def test_the_architecture_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: pim_gpt\nname: mine\ndram: {channels: 4}\n")
    result = pimsim("run", "--arch", str(file), "--workload", "gpt2_decode.yaml", *TINY, "--format", "json")
    assert json.loads(result.stdout)["arch"]["name"] == "mine"


def test_out_writes_a_folder_that_gives_the_same_run_again(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    result = pimsim(*RUN, *TINY, "--format", "json", "--out", str(out))
    names = ["activity.json", "arch.yaml", "result.json", "workload.yaml"]
    assert sorted(path.name for path in out.iterdir()) == names
    written = (out / "result.json").read_text()
    assert written == result.stdout
    first = json.loads(written)
    assert load_arch(out / "arch.yaml").hash == first["arch"]["hash"]
    assert load_workload(out / "workload.yaml").hash == first["workload"]["hash"]
    again = pimsim(
        "run", "--arch", str(out / "arch.yaml"), "--workload", str(out / "workload.yaml"), "--format", "json"
    )
    assert json.loads(again.stdout)["time"] == first["time"]


def test_out_replaces_the_files_of_an_earlier_run(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("old")
    (tmp_path / "notes.txt").write_text("keep")
    assert pimsim(*RUN, *TINY, "--out", str(tmp_path)).exit_code == 0
    assert json.loads((tmp_path / "result.json").read_text())["schema"] == "pimsim.result/1"
    assert (tmp_path / "notes.txt").read_text() == "keep"


def test_a_run_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any, **options: Any) -> None:
        raise SimulationError("it must go on")

    monkeypatch.setattr(run_command, "simulate_loaded", fails)
    result = pimsim(*RUN, *TINY, "--out", str(tmp_path / "a" / "b"), "--trace", str(tmp_path / "t.csv"))
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "error: it must go on\n")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------ traces


def test_traces_are_the_same_for_both_engines_and_legal(tmp_path: Path) -> None:
    files = {engine: tmp_path / f"{engine}.csv" for engine in ("fast", "reference")}
    for engine, file in files.items():
        assert pimsim(*RUN, *SMALL, "--engine", engine, "--trace", str(file)).exit_code == 0
    assert files["fast"].read_bytes() == files["reference"].read_bytes()
    header = files["fast"].read_text().partition("\n")[0]
    assert header == ",".join((*COLUMNS, "accumulator"))
    for option in (("--arch", "pim_gpt"), ("--dram", "pim_gpt_gddr6", "--set", "dram.channels=8")):
        result = pimsim("verify-trace", *option, "--trace", str(files["fast"]))
        assert (result.exit_code, result.stdout) == (0, "no violations\n")


@pytest.mark.parametrize(
    "overrides",
    [
        ("arch.dispatch=serial",),
        ("arch.dram.channels=3",),
        ("arch.dram.timing.nREFI=900",),
        ("arch.dram.refresh.policy=none",),
        ("arch.dram.register_files.accumulator=1", "arch.pim.accumulators=1"),
        ("arch.asic.clock_mhz=333.3", "workload.lm_head=true", "workload.embeddings=true"),
        ("workload.model.d_model=96", "workload.model.heads=3", "workload.generate_tokens=3"),
    ],
)
def test_every_trace_is_legal(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    options = [part for override in overrides for part in ("--set", override)]
    arch = [part for override in overrides if override.startswith("arch") for part in ("--set", override)]
    file = tmp_path / "t.csv"
    run = pimsim(*RUN, *TINY, *options, "--format", "json", "--trace", str(file))
    assert run.exit_code == 0, run.stderr
    assert len(read_trace(file)) == json.loads(run.stdout)["simulation"]["commands"]
    assert pimsim("verify-trace", "--arch", "pim_gpt", *arch, "--trace", str(file)).stdout == "no violations\n"


def test_the_trace_is_what_the_trace_writer_writes(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    assert pimsim(*RUN, *TINY, "--trace", str(file)).exit_code == 0
    machine, work = configs.load_both("pim_gpt", "gpt2_decode", [option for option in TINY if option != "--set"])
    rows: list[Any] = []
    run_command.simulate_loaded(machine, work, RunOptions(trace=rows))
    spec = machine.value.dram.resolve()
    text = io.StringIO()
    write_trace(text, (make_command(spec, tick, name, channel, *rest) for tick, channel, name, *rest in rows))
    assert file.read_text() == text.getvalue()


def test_a_trace_that_is_too_long_is_refused(tmp_path: Path) -> None:
    result = pimsim(*RUN, "--trace", str(tmp_path / "t.csv"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: --trace must write at most 20,000,000 commands, not about 4")
    assert list(tmp_path.iterdir()) == []
    result = pimsim(*RUN, *TINY, "--trace", str(tmp_path / "t.csv"), "--trace-limit", "10")
    assert result.stderr.startswith("error: --trace must write at most 10 commands, not about ")


@pytest.mark.parametrize(("tokens", "tolerance"), [(1, 0.0), (3, 0.0), (40, 0.01), (300, 0.01)])
def test_the_estimate_of_the_length_of_a_trace(tokens: int, tolerance: float) -> None:
    overrides = [option for option in TINY if option != "--set"]
    overrides += [f"workload.generate_tokens={tokens}", "arch.dram.refresh.policy=none"]
    machine, work = configs.load_both("pim_gpt", "gpt2_decode", overrides)
    commands = simulate("pim_gpt", "gpt2_decode", overrides=overrides).simulation.commands
    assert pim_decoder.estimate_commands(machine, work) == pytest.approx(commands, rel=tolerance, abs=0)


def test_a_pair_that_does_not_run_says_what_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(runners.RUNNERS, ("pim", "decoder"))
    result = pimsim(*RUN, *TINY)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(
        "error: a workload for pim_gpt, an architecture of kind pim, must be of kind attention or classifier, not decoder as "
        "gpt2_decode is"
    )


def test_replay_issues_at_the_earliest_cycles(tmp_path: Path) -> None:
    # nRCD 12, nRAS 28, nRP 12 of the shipped standard; ticks start at 1
    file = tmp_path / "t.csv"
    file.write_text("clk,cmd,channel,bankgroup,bank,row,column\n0,ACT,0,1,2,5,\n0,RD,0,1,2,5,3\n0,PREpb,0,1,2,,\n")
    result = pimsim("replay", "--dram", "pim_gpt_gddr6", "--trace", str(file))
    assert result.exit_code == 0
    assert result.stdout == (
        "cycle,command,channel,bankgroup,bank,row,column\n1,ACT,0,1,2,5,-1\n13,RD,0,1,2,5,3\n29,PREpb,0,1,2,-1,-1\n"
    )
    out = tmp_path / "issued.csv"
    assert pimsim("replay", "--dram", "pim_gpt_gddr6", "--trace", str(file), "--out", str(out)).stdout == ""
    assert out.read_text() == result.stdout
    assert pimsim("verify-trace", "--dram", "pim_gpt_gddr6", "--trace", str(out)).exit_code == 0
    slower = pimsim("replay", "--dram", "pim_gpt_gddr6", "--set", "dram.timing.nRCD=20", "--trace", str(file)).stdout
    assert "\n21,RD," in slower


def test_replay_of_a_trace_of_a_run_is_legal_and_not_later(tmp_path: Path) -> None:
    emitted, issued = tmp_path / "t.csv", tmp_path / "u.csv"
    pimsim(*RUN, *TINY, "--trace", str(emitted))
    assert pimsim("replay", "--arch", "pim_gpt", "--trace", str(emitted), "--out", str(issued)).exit_code == 0
    assert pimsim("verify-trace", "--arch", "pim_gpt", "--trace", str(issued)).stdout == "no violations\n"
    before, after = read_trace(emitted), read_trace(issued)
    assert all(new.cycle <= old.cycle for old, new in zip(before, after, strict=True))


def test_a_column_without_cycles_gets_one(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("command,bankgroup,bank,row\nACT,0,0,1\n")
    result = pimsim("replay", "--dram", "pim_gpt_gddr6", "--trace", str(file))
    assert result.stdout == "cycle,command,bankgroup,bank,row\n1,ACT,0,0,1\n"


def test_violations_are_listed(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("cycle,command,bankgroup,bank,row,column\n1,ACT,0,0,5,\n12,RD,0,0,5,3\n13,RD,0,1,5,3\n")
    result = pimsim("verify-trace", "--dram", "pim_gpt_gddr6", "--trace", str(file))
    assert (result.exit_code, result.stderr) == (1, "")
    assert result.stdout.splitlines() == [
        "line 3: cycle 12: RD: Bank: ACT->RD >= 12 (nRCD), not 11",
        "line 4: cycle 13: RD: RD on an open row only, not bankgroup 0, bank 1 closed",
    ]


def test_a_trace_in_the_wrong_state_cannot_be_replayed(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("command,bankgroup,bank,row,column\nRD,0,0,5,3\n")
    result = pimsim("replay", "--dram", "pim_gpt_gddr6", "--trace", str(file), "--out", str(tmp_path / "u.csv"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("t.csv: line 2: RD must find an open row, not bankgroup 0, bank 0 closed\n")
    assert not (tmp_path / "u.csv").exists()


# ------------------------------------------------------------------------------------------------- list, show, schema


@pytest.mark.parametrize("kind", list(KINDS))
def test_list_gives_a_name_and_a_description_per_line(kind: str) -> None:
    lines = pimsim("list", kind).stdout.splitlines()
    plain = json.loads(pimsim("list", kind, "--format", "json").stdout)
    assert [tuple(line.split("  ", 1)) for line in lines] == [(each["name"], each["description"]) for each in plain]
    assert all(each["description"] for each in plain)


@pytest.mark.parametrize(
    ("kind", "folder"), [("archs", "arch"), ("workloads", "workload"), ("dram", "dram"), ("baselines", "baseline")]
)
def test_list_knows_what_is_shipped(kind: str, folder: str) -> None:
    assert [each["name"] for each in json.loads(pimsim("list", kind, "--format", "json").stdout)] == catalog.names(
        folder
    )


def test_every_command_of_a_program_is_listed() -> None:
    assert list(commands()) == [*load_arch("pim_gpt").value.dram.commands, *FUNCTIONS]


@pytest.mark.parametrize("name", catalog.names("arch"))
def test_show_an_architecture(name: str, tmp_path: Path) -> None:
    result = pimsim("show", "--arch", name)
    file = tmp_path / "a.yaml"
    file.write_text(result.stdout)
    assert load_arch(file).hash == load_arch(name).hash
    assert json.loads(pimsim("show", "--arch", name, "--format", "json").stdout) == json.loads(
        json.dumps(show_json(load_arch(name)))
    )


@pytest.mark.parametrize("name", catalog.names("workload"))
def test_show_a_workload(name: str) -> None:
    fields = {"decoder": "generate_tokens", "attention": "seed", "encoder": "layers", "requests": "count"}
    fields |= {"vit": "vit.patch", "classifier": "seed"}
    field = fields[load_workload(name).value.kind]
    result = pimsim("show", "--workload", name, "--set", f"workload.{field}=7")
    assert f"{field.removeprefix('vit.')}: 7  # assumed: --set on the command line\n" in result.stdout


@pytest.mark.parametrize("kind", ["arch", "workload", "dram"])
def test_schema(kind: str) -> None:
    assert json.loads(pimsim("schema", kind).stdout) == schema(kind)


# ---------------------------------------------------------------------------------------------------------- the edges


def test_the_module_is_the_program() -> None:
    result = process(*RUN, *TINY, "--format", "json")
    assert (result.returncode, result.stderr) == (0, "")
    plain = json.loads(result.stdout)
    assert plain["time"] == figures()["time"]
    assert plain["manifest"]["command_line"] == ["pimsim", *RUN, *TINY, "--format", "json"]


def test_an_error_is_one_line() -> None:
    result = process("rnu")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: command must be one of ")
    assert result.stderr.endswith("not 'rnu'; did you mean 'run'?\n")


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("command,bankgroup,bank,row\n" + "ACT,0,0,1\nPREpb,0,0,1\n" * 20_000)
    arguments = [sys.executable, "-m", "pimsim", "replay", "--dram", "pim_gpt_gddr6", "--trace", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode == 141


def test_an_interrupt_is_one_line() -> None:
    arguments = [sys.executable, "-m", "pimsim", *RUN, "--engine", "reference"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 (background shells start without it)
    with subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        preexec_fn=heard,  # noqa: PLW1509
    ) as child:
        time.sleep(2.5)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (130, b"", b"error: interrupted\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
def test_a_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "pimsim", "list", "archs"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert (result.returncode, result.stderr) == (
        2,
        "error: standard output must be writable (No space left on device)\n",
    )


def test_a_trace_may_go_to_a_device() -> None:
    assert pimsim(*RUN, *TINY, "--trace", os.devnull).exit_code == 0
    assert not Path(os.devnull).is_file()


def test_output_that_the_terminal_cannot_show_is_escaped() -> None:
    result = process("show", "--arch", "pim_gpt", "--set", "arch.description=µs", PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stderr) == (0, "")
    assert "\\xb5s" in result.stdout


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("a must be b"), 2, "error: a must be b\n"),
        (InputError("a\nb\x1b[31m"), 2, "error: a\\nb\\x1b[31m\n"),
        (SimulationError("stuck"), 1, "error: stuck\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (MemoryError(), 1, "error: the run must fit into the memory of this machine; make it smaller\n"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_errors_become_messages(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> None:
        raise error

    monkeypatch.setattr(os, "dup2", lambda *files: None)
    assert guarded(work) == code
    assert capsys.readouterr() == ("", message)


def test_a_fault_of_ours_shows_where_it_is_and_asks_to_report(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise ZeroDivisionError

    assert guarded(work) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith(
        f"error: this is a fault of pimsim {__version__}, not of what you gave it; please report"
    )


def test_quiet_and_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pimsim.commands.progress.LINE_EVERY", 0.0)
    noisy, quiet = pimsim(*RUN, *TINY), pimsim(*RUN, *TINY, "--quiet")
    assert noisy.stderr.startswith("0 of 1 forward passes, 0 s\n")
    assert quiet.stderr == ""


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from pimsim.commands import progress

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(progress, "REFRESH", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    with progress.progress("forward passes", quiet=False) as report:
        assert report is not None
        report(1, 2)
    assert "forward passes" in terminal.getvalue()


def test_files_are_whole_or_not_there(tmp_path: Path) -> None:
    def half_a_file() -> None:
        with whole_file(tmp_path / "a") as file:
            file.write("half")
            raise ZeroDivisionError

    def half_a_folder() -> None:
        with whole_folder(tmp_path / "b" / "c") as files:
            files["x"] = "half"
            raise ZeroDivisionError

    for fails in (half_a_file, half_a_folder):
        with pytest.raises(ZeroDivisionError):
            fails()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").write_text("old")
    (tmp_path / "link").symlink_to("old")
    with whole_file(tmp_path / "link") as file:
        file.write("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "old").read_text() == "new"


def test_columns_of_no_rows() -> None:
    assert columns([]) == ""


def test_the_return_value_without_leaving() -> None:
    from typer.main import get_command

    assert get_command(app).main(["list", "attention"], standalone_mode=False) == 0
    assert CliRunner().invoke(app, ["list", "nothing"]).exit_code == 2


# ---------------------------------------------------------------------------------------------------------- validate


@pytest.mark.parametrize(
    ("status", "code"), [("exact", 0), ("within", 0), ("explained", 0), ("open", 0), ("failed", 1)]
)
def test_validate_prints_rows_and_fails_with_one(status: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from pimsim.validation import table

    published = "4.5" if status == "exact" else "2 - 3"
    row = table.Row("a/b/c", published, "paper: page 5", "paper", 4.5, 0.5, status, "why")  # type: ignore[arg-type]
    asked: list[Any] = []

    def compare(names: list[str], progress: Any) -> list[Any]:
        asked.append(names)
        return [row]

    monkeypatch.setattr(table, "validate", compare)
    shown, plain = pimsim("validate", "x", "y"), pimsim("validate", "--format", "json")
    assert (shown.exit_code, plain.exit_code) == (code, code)
    assert asked == [["x", "y"], []]
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["name", "published", "simulated", "deviation", "trust", "status", "note"]
    assert lines[1].split("  ")[0] == "a/b/c"
    assert lines[1].split()[-5:] == ["4.5", "+50.0%", "paper", status, "why"]
    assert lines[2:] == ["", f"1 {status}"]
    assert json.loads(plain.stdout)[0]["source"] == "paper: page 5"


def test_validate_an_unknown_figure() -> None:
    result = pimsim("validate", "nothing_like_it")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: figure must be one of ")
