"""Running the command line: in this process for speed, or as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from pimsim.cli import app

ROOT = Path(__file__).resolve().parents[2]
RUN = ("run", "--arch", "pim_gpt", "--workload", "gpt2_decode")
TINY = (
    *("--set", "workload.generate_tokens=1", "--set", "workload.model.layers=1", "--set", "workload.model.d_model=128"),
    *("--set", "workload.model.heads=4", "--set", "workload.model.d_ff=256"),
)
"""The smallest decoder that uses every kind of command."""


def pimsim(*arguments: str) -> Result:
    """Run a command line in this process."""
    return CliRunner().invoke(app, list(arguments))


def process(*arguments: str, timeout: float = 120, **options: str) -> subprocess.CompletedProcess[str]:
    """Run a command line as a process of its own; options are environment variables."""
    return subprocess.run(
        [sys.executable, "-m", "pimsim", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **options},
    )
