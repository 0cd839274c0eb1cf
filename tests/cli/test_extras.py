"""Without the packages of an extra, a command says what to install before it has done or written anything."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cli_tools import pimsim

TOKEN = ("--arch", "pim_gpt", "--workload", "gpt2_decode", "--set", "workload.generate_tokens=1")
COMPARE = ("compare", "--attention", "vanilla", "--arch", "pim_gpt", "--context", "8")
SWEEP = ("sweep", "pim_gpt_design_space", "--out", "out")


@pytest.mark.parametrize(
    ("arguments", "module", "message"),
    [
        (SWEEP, "pyarrow", "a sweep must have the package pyarrow: pip install 'pimsim[sweep]'"),
        (
            (*SWEEP, "--scheduler", "tcp://127.0.0.1:1"),
            "distributed",
            "--scheduler must have the package distributed: pip install 'pimsim[cluster]'",
        ),
        (
            ("search", "pim_gpt_design_space", "--out", "out", "--trials", "1"),
            "pyarrow",
            "search must have the package pyarrow: pip install 'pimsim[search]'",
        ),
        (
            (*COMPARE, "--plot", "out.png"),
            "matplotlib",
            "--plot must have the package matplotlib: pip install 'pimsim[report]'",
        ),
        (
            ("run", *TOKEN, "--timeline", "out.vcd"),
            "vcd",
            "a timeline in a .vcd file must have the package pyvcd: pip install 'pimsim[report]'",
        ),
    ],
)
def test_what_is_missing_is_said_first(
    arguments: tuple[str, ...], module: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    result = pimsim(*arguments)
    assert (result.exit_code, result.stdout, result.stderr.splitlines()[-1]) == (2, "", f"error: {message}")
    assert list(tmp_path.iterdir()) == []
