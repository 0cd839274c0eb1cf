#!/usr/bin/env python
"""The table of docs/attention.md: decode attention in equal shares, a share per head, and a fixed split, on pim_gpt.

python scripts/lean_makespan.py [KEYS ...]
"""

from __future__ import annotations

import sys

from pimsim.bounds.lean import makespan
from pimsim.run import simulate

HEADS, CHANNELS, BLOCK = 12, 8, 256
SHARES = {"lean": CHANNELS, "per head": HEADS, "fixed split": 2 * HEADS}


def cycles(keys: int, shares: int) -> int:
    """Cycles of one token."""
    options = [f"keys={keys}", f"heads={HEADS}", "algorithm=lean", f"parameters.workers={shares}", f"shares={shares}"]
    run = simulate("pim_gpt", "attention_decode", overrides=[f"workload.{option}" for option in options])
    assert run.counts is not None
    assert run.counts["equal"]
    return int(run.time.cycles)


def rows(contexts: list[int]) -> list[str]:
    """Rows of the table: tiles of the busiest channel, and cycles."""
    found = []
    for keys in contexts:
        tiles = HEADS * (keys // BLOCK)
        entries = [f"{makespan(tiles, n, CHANNELS):,} tiles, {cycles(keys, n):,}" for n in SHARES.values()]
        found.append(f"| {keys:,} | {' | '.join(entries)} |")
    return found


if __name__ == "__main__":
    contexts = [int(text) for text in sys.argv[1:]] or [8_192, 32_768, 131_072]
    sys.stdout.write("".join(f"{row}\n" for row in rows(contexts)))
