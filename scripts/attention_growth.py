#!/usr/bin/env python
"""The figure of docs/attention.md: one more token on pim_gpt, with attention over a cache and with a constant memory.

python scripts/attention_growth.py [FILE.png]
"""

from __future__ import annotations

import sys
from pathlib import Path

from pimsim.report.growth import persistent_bytes, plot_growth
from pimsim.result import Result
from pimsim.run import simulate

SIZES = ("workload.heads=4", "workload.d_head=16", "arch.dram.refresh.policy=none")
CURVES = {
    "vanilla": ((100, 1_000, 10_000), ("workload.algorithm=vanilla", "workload.parameters.materialise=false")),
    "single_pass": (
        (100, 1_000, 10_000, 100_000),
        ("workload.algorithm=single_pass", "workload.parameters.block=1024"),
    ),
    "cmab": (
        (100, 1_000, 10_000, 100_000, 1_000_000),
        ("workload.algorithm=cmab", "workload.phase=update", "workload.queries=1"),
    ),
}
"""Label -> (contexts, workload); vanilla ends where a row of scores fills the SRAM."""


def runs(label: str) -> list[tuple[int, Result]]:
    """One token with each context."""
    contexts, options = CURVES[label]
    return [
        (keys, simulate("pim_gpt", "attention_decode", overrides=[*SIZES, *options, f"workload.keys={keys}"]))
        for keys in contexts
    ]


def main() -> None:
    """Run everything, write the figure, print its points."""
    file = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/img/attention_growth.png")
    curves = {label: runs(label) for label in CURVES}
    for label, points in curves.items():
        for keys, run in points:
            kept = persistent_bytes(run)
            sys.stdout.write(f"{label} {keys} {run.time.cycles} cycles {run.energy.joules * 1e6:.4g} uJ {kept} B\n")
    plot_growth(curves).savefig(file, dpi=110)


if __name__ == "__main__":
    main()
