"""The same input gives the same bytes: in any process, whatever the seed of Python's string hashes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RUN = ("run", "--arch", "pim_gpt", "--workload", "gpt2_decode", "--quiet", "--format", "json")
SMALL = ("workload.model.layers=1", "workload.generate_tokens=2", "workload.lm_head=true", "workload.embeddings=true")


def run(seed: str, engine: str, trace: Path) -> tuple[dict[str, Any], bytes]:
    """Result (without what the simulator itself needed) and command trace of a process of its own."""
    options = [part for override in SMALL for part in ("--set", override)]
    done = subprocess.run(
        [sys.executable, "-m", "pimsim", *RUN, *options, "--engine", engine, "--trace", str(trace)],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
    )
    result = json.loads(done.stdout)
    for key in ("engine", "simulation", "manifest"):
        del result[key]
    return result, trace.read_bytes()


@pytest.mark.parametrize("seeds", [("0", "1", "4294967295")])
def test_the_seed_of_string_hashes_leaves_no_mark(seeds: tuple[str, ...], tmp_path: Path) -> None:
    runs = [run(seed, "fast", tmp_path / f"{seed}.csv") for seed in seeds]
    assert len(runs[0][1]) > 100_000
    assert all(other == runs[0] for other in runs[1:])


def test_the_engines_write_the_same_bytes_in_processes_of_their_own(tmp_path: Path) -> None:
    fast, reference = (run("7", engine, tmp_path / f"{engine}.csv") for engine in ("fast", "reference"))
    assert fast[1] == reference[1]
    assert list(fast[0]) == list(reference[0])
    assert fast[0] == reference[0]
