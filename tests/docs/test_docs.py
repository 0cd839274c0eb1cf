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


def test_command_lines_of_the_readme_run_as_they_stand(tmp_path, monkeypatch):
    """In their order and in one folder, as a reader would type them; nothing is added or shortened."""
    monkeypatch.chdir(tmp_path)
    for line in lines():
        result = CliRunner().invoke(app, shlex.split(line)[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}"
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert {"two.html", "space.html", "run.pftrace", "mine.yaml", "runs/pim/activity.json"} <= written
    assert {"sweep", "report", "baseline"} <= {shlex.split(line)[1] for line in lines()}
