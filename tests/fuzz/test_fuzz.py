"""Damaged input of every kind gives a result or a clean error; `scripts/fuzz.py` does the same at length."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import fuzz_cases  # noqa: E402
from fuzz_cases import Case, run_case  # noqa: E402

CASES = 1500
RUNS = ("run", "--quiet", "--arch", "pim_gpt", "--workload", "gpt2_decode", *fuzz_cases.TINY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ready = tmp_path_factory.mktemp("ready")
    fuzz_cases.prepare(ready)
    return tmp_path_factory.mktemp("cases") / "case"


SOUND = [
    *(
        Case((command, "--dram", dram, "--trace", "t.csv"), {"t.csv": trace})
        for dram, trace in fuzz_cases.SOUND_TRACES.items()
        for command in ("replay", "verify-trace", "trace-energy")
    ),
    Case(("show", "--workload", "m.gguf"), {"m.gguf": fuzz_cases.sound_gguf()}),
    Case(("show", "--workload", "config.json"), {"config.json": json.dumps(fuzz_cases.HF).encode()}),
    Case(
        ("generate", "--quiet", "--arch", "pim_gpt", "--model", "m.gguf", "--prompt", "ab", "--tokens", "1"),
        {"m.gguf": fuzz_cases.sound_gguf()},
    ),
    Case(("run", "--quiet", "--arch", "aim_gddr6", "--workload", "t.trace"), {"t.trace": fuzz_cases.ISR}),
    Case(("sweep", "s.yaml", "--dry-run"), {"s.yaml": fuzz_cases.SWEEP}),
    Case(("load-decisions", "d.json"), {"d.json": json.dumps(fuzz_cases.DECISIONS).encode()}),
    Case((*RUNS, "--baseline", "b.yaml"), {"b.yaml": fuzz_cases.shipped("baseline")["t4"]}),
    Case(("report", "run", "--html", "page.html"), copies="run"),
    Case(("report", "store", "--html", "page.html"), copies="store"),
]


@pytest.mark.parametrize("case", SOUND, ids=lambda case: " ".join(case.arguments[:3]))
def test_what_is_damaged_is_sound_at_first(case: Case, folder: Path) -> None:
    outcome = run_case(case, folder)
    assert (outcome.code, outcome.fault) == (0, ""), outcome.stderr


@pytest.mark.parametrize("kind", fuzz_cases.MAKERS)
def test_every_kind_of_damage_is_noticed_sometimes(kind: str, folder: Path) -> None:
    """A maker whose cases all succeed would test nothing."""
    maker = fuzz_cases.MAKERS[kind][1]
    outcomes = [run_case(maker(random.Random(n)), folder) for n in range(30 if kind != "store" else 60)]
    assert [outcome.fault for outcome in outcomes if outcome.fault] == []
    assert {outcome.code for outcome in outcomes} & {1, 2}


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
def test_drawn_cases(folder: Path, random: random.Random) -> None:
    kind, case = fuzz_cases.make(random)
    outcome = run_case(case, folder)
    assert not outcome.fault, (kind, case, outcome)


def test_numbered_cases_in_a_gigabyte() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "fuzz.py"), "--cases", str(CASES), "--seed", "11"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^{CASES:,} cases in \d+ s, 0 faults; ", done.stdout, re.MULTILINE), done.stdout


# ------------------------------------------------------------------------------------- what the judge itself notices


@pytest.mark.parametrize(
    ("code", "stdout", "stderr", "fault"),
    [
        (0, "cycles 7\n", "", ""),
        (1, "", "error: units wait for each other\n", ""),
        (2, "", "error: a.yaml: must hold a mapping\n", ""),
        (2, "", "warning: odd\nerror: a.yaml: must hold a mapping\n", ""),
        (2, "half", "error: a.yaml: must hold a mapping\n", "exit code 2 with "),
        (2, "", "error: two\nlines\n", "exit code 2 with "),
        (2, "", "", "exit code 2 with "),
        (3, "", "", "exit code 3"),
        (1, "", "Traceback\nKeyError: 'x'\nerror: this is a fault of pimsim\n", "traceback: KeyError: 'x'"),
        (1, "", "error: the run must fit into the memory of this machine\n", "memory"),
    ],
)
def test_the_judge(code: int, stdout: str, stderr: str, fault: str) -> None:
    found = fuzz_cases.Outcome(code, stdout, stderr).fault
    assert found.startswith(fault)
    assert bool(found) == bool(fault)


def test_the_judge_sees_files_written_elsewhere(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "issued.csv"
    case = Case(
        ("replay", "--dram", "ddr4_3200aa", "--trace", "t.csv", "--out", str(out)), {"t.csv": fuzz_cases.COMMANDS}
    )
    assert run_case(case, folder).fault.startswith("must leave the rest of the computer alone: open ")


def test_the_judge_ends_what_takes_too_long(folder: Path) -> None:
    with pytest.raises(fuzz_cases.TooLateError):
        run_case(Case(("validate", "pim_gpt/gpt3_xl_decode/row_hit_rate", "--quiet")), folder, seconds=0.05)


# ----------------------------------------------------------------------------------- what fuzzing found, and was fixed


def damaged_run(change: str, value: object) -> Case:
    """A report of a run whose result has another value at a dotted path."""
    result = json.loads((fuzz_cases.PREPARED["run"] / "result.json").read_text())
    *path, last = change.split(".")
    inner = result
    for key in path:
        inner = inner[key]
    inner[last] = value
    return Case(("report", "run", "--html", "page.html"), {"run/result.json": json.dumps(result).encode()}, "run")


@pytest.mark.parametrize(
    ("change", "value", "message"),
    [
        ("ops.qkv_projection.seconds", [1], r"ops\.qkv_projection\.seconds: input should be a valid number, not \[1\]"),
        (
            "ops.qkv_projection.seconds",
            -1.0,
            r"ops\.qkv_projection\.seconds: input should be greater than or equal to 0, not -1\.0",
        ),
        ("time.seconds", float("nan"), r"time\.seconds: input should be a finite number, not nan"),
        ("ops", 7, r"ops: input should be a valid dictionary, not 7"),
        ("arch.name", [], r"arch\.name: input should be a valid string, not \[\]"),
        (
            "energy.by_component",
            {"mac": "<b>"},
            r"energy\.by_component\.mac: input should be a valid number, not '<b>'",
        ),
        ("roofline.peak_flop_s", 0, r"roofline\.peak_flop_s: input should be greater than 0, not 0"),
    ],
)
def test_reports_of_damaged_results(change: str, value: object, message: str, folder: Path) -> None:
    outcome = run_case(damaged_run(change, value), folder)
    assert re.match(rf"error: run/result\.json: {message}\n", outcome.stderr), outcome.stderr
    assert not (folder / "page.html").exists()


def test_rooflines_that_no_machine_has_are_left_out(folder: Path) -> None:
    outcome = run_case(damaged_run("roofline.pin_bytes_s", 1e60), folder)
    assert (outcome.code, outcome.fault) == (0, "")
    assert "<h3>Roofline</h3>" not in (folder / "page.html").read_text()


@pytest.mark.parametrize("name", ["run/result.json", "store/sweep.json"])
def test_json_that_is_nested_without_end(name: str, folder: Path) -> None:
    top = name.partition("/")[0]
    case = Case(("report", top, "--html", "page.html"), {name: b"[" * 100_000}, top)
    assert run_case(case, folder).stderr == f"error: {name}: must be JSON; it is nested too deeply\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"timing":', '"timings":'),
        ('"status":"ok"', '"status":"fine"'),
        ('"objectives":{"latency":', '"objectives":{"latencies":'),
        ('"arch":"pim_gpt"', '"arch":1.5'),
        ('"point":0', '"point":-1'),
    ],
)
def test_records_with_a_right_checksum_and_wrong_content_are_run_again(old: str, new: str, folder: Path) -> None:
    log = (fuzz_cases.PREPARED["store"] / "records-1-of-1.log").read_bytes()
    first, _, rest = log.partition(b"\n")
    assert old.encode() in first
    changed = fuzz_cases._checksummed(first.replace(old.encode(), new.encode())) + b"\n" + rest
    words = ("sweep", "s.yaml", "--out", "store", "--workers", "1", "--resume", "--quiet")
    case = Case(words, {"s.yaml": fuzz_cases.SMALL_SWEEP, "store/records-1-of-1.log": changed}, "store")
    outcome = run_case(case, folder)
    assert (outcome.code, outcome.stdout) == (0, "2 of 2 points in store, 0 failed\n"), outcome.stderr
    assert (folder / "store" / "records-1-of-1.log").read_bytes().count(b"\n") == log.count(b"\n") + 1


@pytest.mark.parametrize("name", ["../outside", "/outside", "..", ".hidden", "a\\b", "", "x" * 101, "a\x00b"])
def test_a_sweep_lies_in_no_folder_but_its_own(name: str, folder: Path) -> None:
    text = fuzz_cases.SMALL_SWEEP.replace(b"name: tiny", f"name: {json.dumps(name)}".encode())
    outcome = run_case(Case(("sweep", "s.yaml", "--quiet", "--workers", "1"), {"s.yaml": text}), folder)
    start = (
        r"error: s\.yaml:1:7: name: must be a name that a folder may have, at most 100 printable characters without / "
    )
    assert re.match(start, outcome.stderr), outcome.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["s.yaml"]


@pytest.mark.parametrize("decisions", [7, "x", [1], None])
def test_decisions_that_are_no_mapping(decisions: object, folder: Path) -> None:
    data = json.dumps({**fuzz_cases.DECISIONS, "decisions": decisions}).encode()
    outcome = run_case(Case(("load-decisions", "d.json"), {"d.json": data}), folder)
    assert outcome.stderr == "error: d.json: decisions: must be a mapping from names to decisions\n"


def test_more_samples_than_can_be_drawn(folder: Path) -> None:
    text = fuzz_cases.SWEEP.replace(b"samples: 2,", b"samples: 18446744073709551616,")
    outcome = run_case(Case(("sweep", "s.yaml", "--dry-run"), {"s.yaml": text}), folder)
    start = r"error: s\.yaml:\d+:\d+: random\.samples: must be at most 1,000,000, not 18,446,744,073,709,551,616\n"
    assert re.match(start, outcome.stderr), outcome.stderr


def test_figures_beyond_64_bits(folder: Path) -> None:
    first, _, rest = (fuzz_cases.PREPARED["store"] / "records-1-of-1.log").read_bytes().partition(b"\n")
    changed = fuzz_cases._checksummed(re.sub(rb'"cycles":\d+', b'"cycles":1' + b"0" * 30, first)) + b"\n" + rest
    words = ("sweep", "s.yaml", "--out", "store", "--workers", "1", "--resume", "--quiet")
    case = Case(words, {"s.yaml": fuzz_cases.SMALL_SWEEP, "store/records-1-of-1.log": changed}, "store")
    outcome = run_case(case, folder)
    assert (outcome.code, outcome.fault) == (0, ""), outcome.stderr


@pytest.mark.parametrize("head", [-(10**30), -1, 1, 10**30])
def test_heads_without_pairs_to_rotate(head: int, folder: Path) -> None:
    data = json.dumps({**fuzz_cases.HF, "head_dim": head}).encode()
    outcome = run_case(Case(("show", "--workload", "config.json"), {"config.json": data}), folder)
    start = r"error: config\.json:1:\d+: head_dim: must leave 1 to at most 65,536 pairs of a head's elements, not "
    assert re.match(start, outcome.stderr), outcome.stderr


@pytest.mark.parametrize("depth", [1001, 2**63])
@pytest.mark.parametrize("stage", ["shvit_s1_stage3", "efficientvit_m0_stage1"])
def test_blocks_without_end(stage: str, depth: int, folder: Path) -> None:
    given = ("--workload", stage, "--set", f"workload.parameters.depth={depth}")
    outcome = run_case(Case(("run", "--quiet", "--arch", "edge_moe_zcu102", *given)), folder)
    assert outcome.stderr.endswith(f"parameters.depth: must be at most 1,000, not {depth:,}\n"), outcome.stderr


def test_a_trace_that_is_a_device(folder: Path) -> None:
    link = folder.parent / "endless.trace"
    link.symlink_to("/dev/zero")
    outcome = run_case(Case(("run", "--arch", "aim_gddr6", "--workload", str(link))), folder)
    assert outcome.stderr == f"error: {link}: must be a file\n"
