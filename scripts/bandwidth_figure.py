#!/usr/bin/env python
"""Draw docs/img/edge_moe_bandwidth.png and print the table of docs/fpga.md: ``python scripts/bandwidth_figure.py``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from pimsim.explore.api import sweep
from pimsim.report.plots import BandwidthPoint, plot_bandwidth

LANES = "arch.fpga.attention.parallelism"

with tempfile.TemporaryDirectory() as folder:
    frame = sweep("edge_moe_bandwidth", out=folder).to_frame()
points = [
    BandwidthPoint(
        row["workload"].removeprefix("attention_"), row[LANES], row["attention_tokens_per_step"], row["cycles"]
    )
    for row in frame.to_dict("records")
]
plot_bandwidth(points).savefig(Path(__file__).parent.parent / "docs" / "img" / "edge_moe_bandwidth.png", dpi=110)
for p in points:
    sys.stdout.write(f"| {p.schedule} | {p.parallelism} | {p.tokens_per_step:.3f} | {p.cycles:,} |\n")
