"""``pimsim quality`` on a tiny model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from cli_tools import pimsim
from typer.testing import Result

from pimsim.errors import InputError
from pimsim.run import simulate

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
        "linear",
        "layers",
        "energy",
        "note",
    ]
    assert re.match(r"exact +\d+\.?\d* +100\.0% +0 +\d.* [un]s +\d.* [un]J +\d.* [un]s +\d.* [un]J", exact)
    assert topk.startswith("topk:k=4 ")
    assert [line.split()[0] for line in others] == asked.split(",")[1:]
    assert re.search(r"[un]J$", others[2]), "attention is exact, and linear layers run in int8"
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


RECORDED = "topk:k=4,kv_drop:budget=6:window=2,llm_int8:threshold=1,single_pass"


def test_what_activations_decide_is_recorded_and_replayed_on_machines(model: Path, text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "decisions"
    result = run(model, "--attention", RECORDED, "--text", str(text), "--tokens", "20", "--record", str(folder))
    assert result.exit_code == 0, result.output
    plain = run(model, "--attention", RECORDED, "--text", str(text), "--tokens", "20")
    assert result.stdout == plain.stdout  # recording changes nothing
    files = sorted(file.name for file in folder.iterdir())
    layers = len([name for name in files if name.startswith("2_kv_drop")])
    assert layers > 1
    for layer in range(layers):
        assert {f"1_topk_layer_{layer}_{phase}.json" for phase in ("prefill", "decode")} <= {*files}
        assert f"2_kv_drop_layer_{layer}_decode.json" in files
    assert "3_llm_int8_linear_0_prefill.json" in files
    assert not [name for name in files if name.startswith("4_")]  # data decide nothing there
    for name in ("1_topk_layer_1_prefill.json", "1_topk_layer_1_decode.json", "2_kv_drop_layer_0_decode.json"):
        recorded = json.loads((folder / name).read_text())
        assert recorded["origin"].startswith(f"functional: {model.name} on text.txt, ")
        sizes = [f"{key}={json.dumps(value)}" for key, value in recorded["case"].items()]
        parameters = [f"parameters.{key}={json.dumps(value)}" for key, value in recorded["parameters"].items()]
        words = [f"algorithm={recorded['algorithm']}", *sizes, *parameters, f"decisions={folder / name}"]
        for arch in ("pim_gpt", "edge_moe_zcu102"):
            found = simulate(arch, "attention_heads", overrides=[f"workload.{word}" for word in words], check_tokens=1)
            assert found.functional is not None
            assert found.functional["passed"], found.functional
            assert found.counts is not None
            assert found.counts["equal"]
            assert recorded["origin"] in found.counts["decisions"]


def test_units_that_decide_for_themselves_do_not_replay(model: Path, text: Path, tmp_path: Path) -> None:
    run(
        model,
        "--attention",
        "llm_int8:threshold=1",
        "--text",
        str(text),
        "--tokens",
        "9",
        "--record",
        str(tmp_path / "d"),
    )
    file = tmp_path / "d" / "1_llm_int8_linear_0_prefill.json"
    recorded = json.loads(file.read_text())
    outliers = np.array(recorded["decisions"]["outliers"])
    assert 0 < outliers.sum() < outliers.size
    sizes = [f"workload.{key}={json.dumps(value)}" for key, value in recorded["case"].items()]
    parameters = [f"workload.parameters.{key}={json.dumps(value)}" for key, value in recorded["parameters"].items()]
    words = ["workload.algorithm=llm_int8", *sizes, *parameters, f"workload.decisions={file}"]
    for arch in ("pim_gpt", "edge_moe_zcu102"):
        counts = simulate(arch, "attention_heads", overrides=words).counts
        assert counts is not None
        assert counts["equal"]
    with pytest.raises(
        InputError, match=r"^--check must be left out on edge_moe_zcu102 where decisions of llm_int8 are"
    ):
        simulate("edge_moe_zcu102", "attention_heads", overrides=words, check_tokens=1)


def test_recorded_selections_are_those_of_the_activations(model: Path, text: Path, tmp_path: Path) -> None:
    """The last row of a prefill and the decode of the last token select the same keys, the largest of their scores."""
    run(model, "--attention", "topk:k=3", "--text", str(text), "--tokens", "20", "--record", str(tmp_path / "d"))
    for layer in range(2):
        at_once, last = (
            json.loads((tmp_path / "d" / f"1_topk_layer_{layer}_{phase}.json").read_text())
            for phase in ("prefill", "decode")
        )
        rows = at_once["decisions"]["top_k.1"]
        assert [head[-1:] for head in rows] == last["decisions"]["top_k.1"]
        assert all(sorted(row[: i + 1]) == list(range(i + 1)) for head in rows for i, row in enumerate(head[:3]))
        assert all(max(row) <= i for head in rows for i, row in enumerate(head) if i >= 3)


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


def test_linear_layers_in_integers_cost_what_a_run_in_int8_says(model: Path, text: Path) -> None:
    """Twice a token, all kinds of the blocks' matrices but not the head of the model."""
    options = (
        "--attention",
        "topk:k=2,llm_int8",
        "--text",
        str(text),
        "--arch",
        "pim_gpt,edge_moe_zcu102",
        "--format",
        "json",
    )
    exact, topk, integers = json.loads(run(model, *options).stdout)["rows"]
    assert topk["linear"] == exact["linear"]
    assert integers["costs"] == exact["costs"]
    assert integers["linear"]["edge_moe_zcu102"]["seconds"] is None
    for row, number_format in ((exact, "bfloat16"), (integers, "int8")):
        overrides = ["workload.prompt_tokens=1", "workload.generate_tokens=2", f"arch.pim.format={number_format}"]
        ops = simulate("pim_gpt", str(model), overrides=overrides).ops
        kinds = ("qkv_projection", "output_projection", "ffn_up", "ffn_down")
        assert row["linear"]["pim_gpt"]["seconds"] == pytest.approx(sum(ops[kind].seconds for kind in kinds) / 2)
        assert row["linear"]["pim_gpt"]["joules"] == pytest.approx(sum(ops[kind].joules or 0.0 for kind in kinds) / 2)
