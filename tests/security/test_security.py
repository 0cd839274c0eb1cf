"""Input is never executed, nothing is written outside of what was asked for, and no command needs a network."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import fuzz_cases  # noqa: E402

SOURCES = sorted((ROOT / "pimsim").rglob("*.py"))

# ------------------------------------------------------------------------------------------------------- what is used

EXECUTES = {"eval", "exec", "compile", "__import__"}
LOADS_OBJECTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "copyreg"}
NETWORK = {"socket", "socketserver", "http", "urllib", "requests", "httpx", "ftplib", "smtplib", "aiohttp", "ssl"}
UNSAFE_YAML = {"load", "load_all", "full_load", "unsafe_load", "Loader", "FullLoader", "UnsafeLoader"}


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(parsed(path))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names


def calls(path: Path) -> set[str]:
    """``name`` or ``module.name`` of everything that is called by a plain name."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                found.add(node.func.id)
            elif isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                found.add(f"{node.func.value.id}.{node.func.attr}")
    return found


def test_these_tests_see_what_they_look_for(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import pickle\nfrom urllib import request\nimport yaml\neval('1')\nyaml.load('x')\n")
    assert imported(bad) & LOADS_OBJECTS
    assert imported(bad) & NETWORK
    assert {"eval", "yaml.load"} <= calls(bad)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_executes_text_loads_objects_or_opens_connections(path: Path) -> None:
    used = calls(path)
    assert not used & EXECUTES
    assert not imported(path) & (LOADS_OBJECTS | NETWORK)
    assert not used & {f"yaml.{name}" for name in UNSAFE_YAML}
    assert not used & {"os.system", "os.popen", "np.load", "numpy.load", "torch.load", "pd.read_pickle"}


def test_programs_that_are_started_are_named_here() -> None:
    starts = {str(path.relative_to(ROOT)) for path in SOURCES if "subprocess" in imported(path)}
    assert starts == {"pimsim/result.py"}  # git, for the commit in a manifest
    shells = [node for path in SOURCES for node in nodes(path) if isinstance(node, ast.keyword) and node.arg == "shell"]
    assert shells == []


# --------------------------------------------------------------------------------------------------------- the network

NO_NETWORK = """
import sys

def refuse(event, arguments):
    if event == "socket.__new__" or event.startswith(("socket.connect", "socket.bind", "socket.getaddrinfo")):
        sys.stderr.write(f"NETWORK {event}\\n")
        raise PermissionError("no network here")

sys.addaudithook(refuse)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home and working folder with one input of each kind, and Python without sockets, children included."""
    folder = tmp_path_factory.mktemp("place")
    hook = folder / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(NO_NETWORK)
    for name, content in {
        "t.csv": fuzz_cases.COMMANDS,
        "t.trace": fuzz_cases.ISR,
        "m.gguf": fuzz_cases.sound_gguf(),
        "s.yaml": fuzz_cases.SMALL_SWEEP,
    }.items():
        (folder / name).write_bytes(content)
    return folder


def run(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", "pimsim", *arguments],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={
            **kept,
            "HOME": str(place),
            "TMPDIR": str(place),
            "PYTHONPATH": f"{place / 'hook'}{os.pathsep}{ROOT}",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )


def files(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}


TINY = fuzz_cases.TINY
PIM = ("run", "--quiet", "--arch", "pim_gpt", "--workload", "gpt2_decode", *TINY)
COMMANDS: list[tuple[tuple[str, ...], set[str]]] = [
    ((*PIM, "--check", "--check-tokens", "1", "--baseline", "t4"), set()),
    ((*PIM, "--out", "run"), {"run/result.json", "run/activity.json", "run/arch.yaml", "run/workload.yaml"}),
    ((*PIM, "--trace", "run.csv"), {"run.csv"}),
    (("run", "--quiet", "--arch", "aim_gddr6", "--workload", "t.trace"), set()),
    (("run", "--quiet", "--arch", "edge_moe_zcu102", "--workload", "attention_reordered"), set()),
    (("run", "--quiet", "--arch", "pim_gpt", "--workload", "m.gguf", "--set", "workload.generate_tokens=1"), set()),
    (("generate", "--quiet", "--arch", "pim_gpt", "--model", "m.gguf", "--prompt", "ab", "--tokens", "1"), set()),
    (
        ("sweep", "s.yaml", "--out", "sweep", "--workers", "2", "--quiet"),
        {
            f"sweep/{name}"
            for name in (
                *(".lock", "records-1-of-1.log", "sweep.json", "sweep.yaml"),
                *(f"{table}.parquet" for table in ("configs", "pareto", "results", "timings")),
            )
        },
    ),
    (("report", "run", "sweep", "--html", "page.html"), {"page.html"}),
    (("replay", "--dram", "ddr4_3200aa", "--trace", "t.csv", "--out", "issued.csv"), {"issued.csv"}),
    (("verify-trace", "--dram", "ddr4_3200aa", "--trace", "t.csv"), set()),
    (("trace-energy", "--dram", "ddr4_3200aa", "--trace", "t.csv"), set()),
    (("validate", "--quiet", "edge_moe/attention_reordered/steps_129"), set()),
    (("list", "attention"), set()),
    (("schema", "arch"), set()),
    (("show", "--workload", "m.gguf"), set()),
    (("baseline", "measure", "--quiet", "--workload", "gpt2_decode", "--repeats", "1", *TINY), set()),
]


@pytest.mark.parametrize(("arguments", "made"), COMMANDS, ids=[" ".join(arguments) for arguments, _ in COMMANDS])
def test_a_command_needs_no_network_and_writes_what_it_is_asked_for(
    arguments: tuple[str, ...], made: set[str], place: Path
) -> None:
    before = files(place)
    done = run(place, *arguments)
    assert done.returncode == 0, done.stderr
    assert "NETWORK" not in done.stderr
    assert files(place) - before == made


def test_only_a_scheduler_needs_a_network_and_the_hook_is_in_force(place: Path) -> None:
    pytest.importorskip("distributed")
    done = run(place, "sweep", "s.yaml", "--out", "far", "--quiet", "--scheduler", "tcp://127.0.0.1:9")
    assert "NETWORK socket" in done.stderr
    assert done.returncode == 2
