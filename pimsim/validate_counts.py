"""Rows of `pimsim validate` that need no simulation of a machine: commands of memories, and counts of attention algorithms.

``arch_configs/published/ramulator.zip`` holds command lists with the clock at which a reference simulator issued each.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pimsim import catalog
from pimsim.config import load_dram
from pimsim.machine.replay import replay
from pimsim.trace.csvio import read_trace
from pimsim.workload.attention.base import Case, algorithm

RAMULATOR = (
    "code: Ramulator 2.1 (github.com/CMU-SAFARI/ramulator2, c5b1c3a), earliest clock of each command of a random list"
)


@dataclass(frozen=True)
class Count:
    """What is published, and how it is counted here."""

    published: int
    source: str
    count: Callable[[], int]
    note: str = ""


def _replayed(standard: str, every: bool) -> int:
    """Commands of the lists of a standard: all of them, or those that replay issues at the recorded clock."""
    spec = load_dram(standard).value.resolve()
    found = 0
    with tempfile.TemporaryDirectory() as folder:
        for number, text in enumerate(_lists(standard)):
            path = Path(folder, f"{number}.csv")
            path.write_bytes(text)
            rows = read_trace(path)
            found += (
                len(rows) if every else sum(a.cycle == b.cycle for a, b in zip(replay(spec, rows), rows, strict=True))
            )
    return found


def _lists(standard: str) -> list[bytes]:
    with zipfile.ZipFile(catalog.folder("arch") / "published" / "ramulator.zip") as archive:
        return [archive.read(name) for name in sorted(archive.namelist()) if name.startswith(f"{standard}/")]


def _dram(standard: str) -> Count:
    return Count(_replayed(standard, every=True), RAMULATOR, lambda: _replayed(standard, every=False))


def _nodes(tokens: int, published: int) -> Count:
    case = Case(phase="query", queries=1, keys=tokens, d_head=4)
    source = "derived: 6.3, 3.5 and 2.0 % of 256, 512 and 1,024 tokens in the paper on tree cross attention"
    return Count(published, source, lambda: algorithm("tca", {}).counts(case).scores)


def _multilevel(causal: bool, published: int) -> Count:
    case = Case(queries=4096, keys=4096, d_head=4, causal=causal)
    source = "derived: near and far field of fast multipole attention, 4,096 tokens, cells of 64, 4 summaries, 5 levels"
    return Count(published, source, lambda: algorithm("fma", {}).counts(case).scores)


COUNTS: dict[str, Callable[[], Count]] = {
    "dram/ddr4_3200aa/commands_exact": lambda: _dram("ddr4_3200aa"),
    "dram/gddr6_14000/commands_exact": lambda: _dram("gddr6_14000"),
    "dram/hbm2_2000/commands_exact": lambda: _dram("hbm2_2000"),
    "attention/tca/nodes_256": lambda: _nodes(256, 16),
    "attention/tca/nodes_512": lambda: _nodes(512, 18),
    "attention/tca/nodes_1024": lambda: _nodes(1024, 20),
    "attention/fma/scores_causal": lambda: _multilevel(True, 490_240),
    "attention/fma/scores_both_ways": lambda: _multilevel(False, 976_384),
}
"""Row -> what it compares."""


__all__ = ["COUNTS", "Count"]
