"""The documents keep their word: doctests pass, links lead somewhere, command lines of the README run."""

import doctest
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pimsim.cli import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = ["--set", "workload.generate_tokens=1", "--set", "workload.model.layers=1"]


def lines() -> list[str]:
    found = []
    for block in re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL):
        parts = [part.strip() for line in block.splitlines() for part in line.split("&&")]
        found += [part for part in parts if part.startswith("pimsim ")]
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_doctests_pass(path):
    failed, _ = doctest.testfile(str(path), module_relative=False, encoding="utf-8")
    assert failed == 0


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
        if "://" not in link:
            assert (path.parent / link).exists(), link


def test_readme_has_command_lines():
    assert any(line.startswith("pimsim run --arch pim_gpt.yaml --workload gpt2_decode") for line in lines())


@pytest.mark.parametrize("line", lines())
def test_command_lines_of_the_readme_run(line):
    words = shlex.split(line)[1:]
    if words[0] == "run":
        words += SMALL
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
