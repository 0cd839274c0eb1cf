"""``pimsim compare``: rows, forms, growth, reasons of pairs that do not run, wrong input."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from pimsim.analysis.comparison import LAWS, growth
from pimsim.workload.attention.base import Case, algorithm
from pimsim.workload.attention.quality import error_against_exact
from tests.cli.cli_tools import pimsim

BOTH = ("--arch", "pim_gpt,edge_moe_zcu102")
EDGE = ("--arch", "edge_moe_zcu102")


def rows(*arguments: str) -> list[dict[str, Any]]:
    answer = pimsim("compare", *arguments, "--format", "json", "--quiet")
    assert answer.exit_code == 0, answer.stderr
    found: list[dict[str, Any]] = json.loads(answer.stdout)
    return found


def test_every_pair_has_a_row_for_every_context(tmp_path: Path) -> None:
    picture, table = tmp_path / "c.svg", tmp_path / "c.csv"
    files = ("--plot", str(picture), "--out", str(table))
    found = rows("--attention", "vanilla,topk:k=4,cmab", *BOTH, "--context", "16,32", *files)
    assert [(row["arch"], row["attention"], row["context"]) for row in found] == [
        (arch, name, context)
        for arch in ("pim_gpt", "edge_moe_zcu102")
        for name in ("vanilla", "topk:k=4", "cmab")
        for context in (16, 32)
    ]
    for row in found:
        assert min(row["seconds"], row["joules"], row["peak_bytes"], row["persistent_bytes"]) > 0
        assert row["why"] is None
    assert {row["phase"] for row in found if row["attention"] == "cmab"} == {"update"}
    assert {row["error"] for row in found if row["attention"] == "vanilla"} == {0.0}
    assert picture.read_text(encoding="utf-8").count("<svg") == 1
    written = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [float(row["seconds"]) for row in written] == [row["seconds"] for row in found]


def test_constant_memory_is_constant_and_a_cache_is_not() -> None:
    contexts = "64,256,1024"
    found = rows("--attention", "cmab,single_pass:block=64", *BOTH, "--context", contexts)
    for arch in ("pim_gpt", "edge_moe_zcu102"):
        flat, grown = (
            [row for row in found if row["arch"] == arch and row["attention"] == name]
            for name in ("cmab", "single_pass:block=64")
        )
        for figure in ("seconds", "joules", "peak_bytes", "interface_bytes"):
            assert len({row[figure] for row in flat}) == 1
            law = growth([row["context"] for row in grown], [row[figure] for row in grown])
            assert law is not None
            assert 0.7 < law.exponent < 1.15


@pytest.mark.parametrize(
    ("attention", "low", "high"),
    [
        ("flash:block_rows=16:block_columns=16@prefill", 1.7, 2.05),
        ("longformer:side=16:global_tokens=0:block=16@prefill", 0.9, 1.1),
        ("linear:chunk=16@prefill", 0.9, 1.1),
        ("tca@query", 0.0, 0.3),
        ("aaren@update", 0.0, 0.0),
    ],
)
def test_time_and_energy_grow_as_the_algorithm_claims(attention: str, low: float, high: float) -> None:
    found = rows("--attention", attention, *EDGE, "--context", "64,128,256", "--set", "workload.heads=1")
    for figure in ("seconds", "joules"):
        law = growth([row["context"] for row in found], [row[figure] for row in found])
        assert law is not None
        assert low <= law.exponent <= high


def test_errors_are_those_of_references() -> None:
    (row,) = rows("--attention", "topk:k=4", *EDGE, "--context", "32")
    case = Case(phase="decode", queries=1, keys=32, d_head=16, heads=4)
    assert row["error"] == error_against_exact(algorithm("topk", {"k": 4}), case, 0) > 0
    assert error_against_exact(algorithm("topk", {"k": 32}), case) == pytest.approx(0, abs=1e-12)
    assert error_against_exact(algorithm("cmab"), Case(phase="update", queries=1, keys=32, d_head=16, heads=4)) is None


def test_a_pair_that_does_not_run_says_why() -> None:
    small = ("--set", "arch.fpga.primitives.buffer_words=1000")
    one, other = rows("--attention", "single_pass,cmab", *EDGE, "--context", "8", *small)
    assert one["why"] is None
    assert other["seconds"] is None
    assert other["why"].startswith(
        "--set arch.fpga.primitives.buffer_words=1000: fpga.primitives.buffer_words: must be at"
    )


def test_the_table_has_growth_where_contexts_are_enough() -> None:
    answer = pimsim("compare", "--attention", "flash", *EDGE, "--context", "32,64,128", "--quiet")
    assert answer.exit_code == 0
    assert answer.stdout.startswith("attention  arch")
    assert "\ngrowth with the context: law (exponent at its end)\n" in answer.stdout
    answer = pimsim("compare", "--attention", "flash", *EDGE, "--context", "32,64", "--quiet")
    assert "growth" not in answer.stdout


def test_energy_that_is_not_known_is_no_number() -> None:
    unknown, partly = rows("--attention", "linear", "--arch", "fpga_stream_u280,pim_gpt", "--context", "8")
    assert unknown["joules"] is None
    assert unknown["uncosted"]
    assert partly["joules"] > 0
    answer = pimsim("compare", "--attention", "linear", "--arch", "pim_gpt", "--context", "8", "--quiet")
    assert answer.stdout.splitlines()[-1] == f"+ energy without pim_gpt: {partly['uncosted']}"


def test_check_compares_numbers_too() -> None:
    (row,) = rows("--attention", "flash@prefill", *EDGE, "--context", "24", "--check")
    assert (row["phase"], row["checked"], row["why"]) == ("prefill", True, None)


@pytest.mark.parametrize("law", LAWS)
def test_growth_finds_the_law_that_made_the_points(law: str) -> None:
    contexts = [128, 512, 2048, 8192]
    found = growth(contexts, [7.0 + 0.3 * LAWS[law](n) for n in contexts])
    assert found is not None
    assert found.law == law
    assert found.worst < 1e-9


def test_growth_names_no_law_where_none_fits() -> None:
    found = growth([8, 16, 32, 64], [1.0, 50.0, 2.0, 70.0])
    assert found is not None
    assert found.law == "none"
    assert growth([8, 16], [1.0, 2.0]) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--attention", "flesh"), "error: attention must be one of "),
        (
            ("--attention", "topk:kk=3"),
            "error: parameters of attention topk must be among chunk, k, not 'kk'; did you mean",
        ),
        (("--attention", "topk:k"), "error: --attention topk:k: a parameter must be NAME=VALUE, not 'k'"),
        (("--attention", "topk:k=0"), "error: parameter k of attention topk: "),
        (
            ("--attention", "topk@decoding"),
            "error: phase must be one of decode, prefill, query, update, not 'decoding'; did",
        ),
        (
            ("--context", "12,x"),
            "error: --context must be whole numbers from 1 to 10,000,000, such as 128,1024, not 'x'",
        ),
        (("--context", "0"), "error: --context must be whole numbers from 1 to 10,000,000, such as 128,1024, not '0'"),
        (("--arch", "pim_gtp"), "error: "),
        (("--arch", "pim_gpt,pim_gpt"), "error: --arch must name each architecture once, not pim_gpt, pim_gpt"),
        (("--workload", "gpt2_decode"), "error: --workload must be of kind attention, not decoder as gpt2_decode is"),
        (("--plot", "x.jpg"), "error: --plot must name a file that ends in .png, .svg, .pdf, not 'x.jpg'"),
        (("--format", "yaml"), "error: format must be one of csv, json, table, not 'yaml'"),
        (("--set", "workload.heds=2"), "error: --set workload.heds=2: "),
        (("--phase", "update"), "error: at least one pair must run, but the first does not: "),
    ],
)
def test_wrong_input_is_told_and_nothing_is_written(arguments: tuple[str, str], message: str, tmp_path: Path) -> None:
    given = {"--attention": "flash", "--arch": "edge_moe_zcu102", "--context": "8", "--out": str(tmp_path / "x.csv")}
    given |= {arguments[0]: arguments[1]}
    answer = pimsim("compare", *(word for pair in given.items() for word in pair))
    assert answer.exit_code == 2
    assert answer.stderr.startswith(message)
    assert answer.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
