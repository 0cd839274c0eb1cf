"""A ``config.json`` of every family that is known runs, and computes the right numbers, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_models import CONFIGS
from typer.testing import CliRunner

from pimsim.cli import app


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_of_every_family_runs_and_is_right(name: str, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIGS[name]))
    sizes = ("--set", "workload.prompt_tokens=3", "--set", "workload.generate_tokens=4")
    command = ["run", "--arch", "pim_gpt", "--workload", str(config), *sizes, "--check", "--format", "json", "--quiet"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["tokens"]["generated"] == 4
    assert result["functional"]["passed"] is True
    assert result["functional"]["passes"] == 4
    assert "argmax" in result["functional"]["by_op"]
