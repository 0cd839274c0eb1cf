"""The same input gives the same bytes on every kind of machine: any seed of string hashes, any order, any process."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pimsim.config import load_arch, load_workload
from pimsim.machine.fast import FastEngine
from pimsim.machine.reference import ReferenceEngine
from pimsim.mapper.mapping import Mapping
from pimsim.run import simulate
from pimsim.runners import RUNNERS
from pimsim.workload.models import build_graph

TRACE = """\
W MEM 0 5 3
AiM WR_GB 2 0 0xff
AiM MAC_ABK 40 0xff 7
AiM RD_MAC 0 0xff
AiM EOC
"""
CASES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "pim": (
        "pim_gpt",
        "gpt2_decode",
        ("workload.model.layers=1", "workload.generate_tokens=2", "workload.lm_head=true", "workload.model.vocabulary=999"),
    ),
    "host": (
        "pim_gpt_host",
        "gpt2_decode",
        ("workload.model.layers=1", "workload.generate_tokens=1", "workload.model.d_model=96"),
    ),
    "memory": ("hbm2_memory", "requests_random", ("workload.count=300",)),
    "fpga": ("edge_moe_zcu102", "attention_reordered", ("workload.tokens=20",)),
    "encoder": ("edge_moe_zcu102", "m3vit_cityscapes", ("workload.layers=2",)),
    "hybrid": (
        "hybrid_pim_fpga",
        "gpt2_decode",
        ("workload.model.layers=1", "workload.generate_tokens=2", "workload.model.d_model=96", "workload.model.heads=4"),
    ),
    "attention": ("pim_gpt", "attention_heads", ("workload.algorithm=flash", "workload.tokens=64")),
    "aim decoder": (
        "aim_gddr6_proper",
        "gpt2_decode",
        ("workload.model.layers=1", "workload.generate_tokens=2", "workload.model.d_model=96", "workload.model.heads=4"),
    ),
    "fpga dram": ("fpga_stream_u280", "attention_heads", ("workload.algorithm=topk", "workload.tokens=20")),
}  # fmt: skip
PROGRAM = """
import json, sys
from pimsim.run import simulate
cases = json.loads(sys.stdin.read())
for name, (arch, workload, overrides) in cases:
    traced = name not in ("fpga", "encoder")
    rows = [] if traced else None
    result = simulate(arch, workload, overrides=overrides, trace=rows).to_json()
    for key in ("simulation", "manifest"):
        del result[key]
    print(json.dumps([name, result, rows]))
"""


def process(cases: list[tuple[str, Any]], seed: str) -> dict[str, str]:
    """One line for each case, from a process of its own that runs them in this order."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
    )
    return {name: line for (name, _), line in zip(cases, done.stdout.splitlines(), strict=True)}


def test_neither_hash_seed_nor_order_leaves_a_mark(tmp_path: Path) -> None:
    trace = tmp_path / "t.trace"
    trace.write_text(TRACE)
    cases: dict[str, Any] = {**CASES, "aim": ("aim_gddr6", str(trace), ())}
    assert {load_arch(arch).value.kind for arch, _, _ in cases.values()} == {machine for machine, _ in RUNNERS}
    straight = process(list(cases.items()), "0")
    assert set(straight) == set(cases)
    assert all(len(line) > 1000 for line in straight.values())
    for seed, shuffle in (("1", 1), ("4294967295", 2)):
        order = list(cases.items())
        random.Random(shuffle).shuffle(order)
        assert process(order, seed) == straight


@pytest.mark.parametrize("name", ["pim", "host", "fpga", "memory"])
def test_a_second_run_in_the_same_process_is_the_same(name: str) -> None:
    arch, workload, overrides = CASES[name]
    results = [simulate(arch, workload, overrides=overrides).to_json() for _ in range(2)]
    for result in results:
        result.pop("simulation")
    assert results[0] == results[1]


def test_the_order_in_which_processes_start_leaves_no_mark() -> None:
    """Any permutation of channels and ASIC, trace included, and the fast engine's."""
    arch = load_arch("pim_gpt", [("dram.channels", "3")]).value
    work = load_workload(
        "gpt2_decode", [("model.layers", "1"), ("generate_tokens", "2"), ("model.d_model", "96")]
    ).value
    spec = arch.dram.resolve()
    found = []
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        engine = ReferenceEngine(arch, spec, trace=True, start_order=order)
        totals = engine.run(Mapping(work, build_graph(work), arch, spec).program())
        assert engine.trace is not None
        found.append((totals, sorted(engine.trace)))
    fast = FastEngine(arch, spec, trace=True)
    totals = fast.run(Mapping(work, build_graph(work), arch, spec).program())
    assert fast.trace is not None
    assert found[0] == found[1] == found[2] == (totals, sorted(fast.trace))
