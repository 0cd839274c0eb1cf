"""``pimsim quality`` on a tiny model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cli_tools import pimsim
from typer.testing import Result

pytest.importorskip("tokenizers", reason="text needs the package tokenizers")


def run(model: Path, *options: str) -> Result:
    return pimsim("quality", "--model", str(model), "--quiet", *options)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("to be, or not to be!! that is ...")
    return file


def test_a_table_with_costs_and_a_figure(model: Path, text: Path, tmp_path: Path) -> None:
    picture = tmp_path / "pareto.png"
    asked = "topk:k=4,longformer:side=2,kv_drop:budget=6:window=2,llm_int8,landmark:block=4"
    options = ("--attention", asked, "--text", str(text), "--arch", "pim_gpt", "--plot", str(picture))
    result = run(model, *options)
    assert result.exit_code == 0, result.output
    head, exact, topk, *others = result.stdout.splitlines()
    assert head.split() == [
        "attention",
        "perplexity",
        "same",
        "token",
        "divergence",
        "time",
        "on",
        "pim_gpt",
        "energy",
        "note",
    ]
    assert re.match(r"exact +\d+\.?\d* +100\.0% +0 +\d.* [un]s +\d.* [un]J", exact)
    assert topk.startswith("topk:k=4 ")
    assert [line.split()[0] for line in others] == asked.split(",")[1:]
    assert others[2].endswith("takes the place of linear layers")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_figures_as_json(model: Path, text: Path) -> None:
    options = ("--attention", "single_pass,topk:k=2", "--text", str(text), "--tokens", "20", "--format", "json")
    made = json.loads(run(model, *options).stdout)
    exact, same, other = made["rows"]
    assert made["tokens"] == 20
    assert exact["agreement"] == same["agreement"] == 1
    assert same["perplexity"] == pytest.approx(exact["perplexity"], rel=1e-5)
    assert other["divergence"] > same["divergence"]
    assert exact["costs"] == {}


def test_the_text_that_comes_with_pimsim(model: Path) -> None:
    made = json.loads(run(model, "--attention", "vanilla", "--format", "json").stdout)
    assert made["tokens"] == 32  # the context of the model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--attention", "topkk"), "error: attention must be one of "),
        (("--attention", "topk:k=0"), "error: parameter k of attention topk: "),
        (
            ("--attention", "cmab"),
            "error: attention cmab must take queries, keys and values, or a linear layer, to be part",
        ),
        (("--attention", "topk", "--text", "no.txt"), "error: no.txt: must be a readable text in UTF-8 ("),
        (("--attention", "topk", "--plot", "a.png"), "error: --plot must come with --arch: it draws what is saved"),
        (
            ("--attention", "topk", "--arch", "pim_gpt", "--plot", "a.gif"),
            "error: --plot must name a file that ends in",
        ),
        (("--attention", "topk", "--format", "csv"), "error: format must be one of json, table, not 'csv'"),
        (("--attention", "topk", "--arch", "pimgpt"), "error: "),
    ],
)
def test_wrong_input_is_told(options: tuple[str, ...], message: str, model: Path, tmp_path: Path) -> None:
    result = run(model, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(message)
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []
