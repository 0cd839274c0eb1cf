#!/usr/bin/env python
"""Draw docs/img/growth_MACHINE.png and print the tables of docs/growth.md: ``python scripts/growth_figure.py``.

One token at contexts of 1k to 64k, and whole prompts of 256 to 1k, on both machines; a few minutes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pimsim.compare import compare, load_archs, parse_entry
from pimsim.report.comparison import growth_table, plot_comparison

TOKEN = (
    "vanilla", "single_pass:block=256", "topk:k=64", "longformer:side=128:global_tokens=8", "linear",
    "aaren@update", "cmab@update", "tca@query",
)  # fmt: skip
PROMPT = (
    "flash:block_rows=64:block_columns=64@prefill", "fma@prefill", "longformer:side=64:global_tokens=0:block=64@prefill",
    "linear:chunk=64@prefill",
)  # fmt: skip
CONTEXTS = [1024 << 2 * i for i in range(4)]
PROMPTS = [256 << i for i in range(3)]
MACHINES = {"edge_moe_zcu102": [], "pim_gpt": [("asic.sram_bytes", "2097152")]}
"""Machine -> overrides: on chip, both have the same 2 MiB, or few prompts would fit the ASIC."""

for machine, overrides in MACHINES.items():
    archs = load_archs([machine], overrides)
    rows = compare([parse_entry(text) for text in TOKEN], archs, CONTEXTS, "attention_heads", [])
    one_head = [("heads", "1")]
    rows += compare([parse_entry(text) for text in PROMPT], archs, PROMPTS, "attention_heads", one_head)
    plot_comparison(rows).savefig(Path(__file__).parent.parent / "docs" / "img" / f"growth_{machine}.png", dpi=110)
    for cells in growth_table(rows):
        sys.stdout.write(f"| {' | '.join(cells)} |\n")
    for row in rows:
        if row.why:
            sys.stdout.write(f"{row.attention} {row.context}: {row.why}\n")
    sys.stdout.flush()
