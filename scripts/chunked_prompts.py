"""Long prompts a chunk of queries at a time, as servers process them: every chunk meets all keys up to its own last one.

A chunk is a run of its own, command by command or beat by beat; chunks follow each other, so a prompt costs what its chunks add
up to (and has the peak memory of the last one). All chunks of the first 1,024 keys are run, then those that end at powers of two;
between neighbours that were run, time, energy and traffic are taken as growing evenly. `PROBES` are chunks that are run only to
see how far off that is.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from pimsim.analysis.comparison import Row
from pimsim.compare import compare, load_archs, parse_entry

CHUNK = 64
"""Queries."""

ENTRIES = (
    "vanilla@prefill",
    "flash:block_rows=64:block_columns=256@prefill",
    "topk:k=64@prefill",
    "landmark@prefill",
)
EVERY = tuple(range(CHUNK, 1025, CHUNK))
"""Keys at which every chunk is run."""
SAMPLES = (*EVERY, *(1024 << i for i in range(1, 7)))
PROBES = (1600, 12_352)
CONTEXTS = tuple(1024 << i for i in range(7))
SUMMED = ("seconds", "joules", "interface_bytes")


def measure(machine: str, overrides: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """A row for every chunk that is run, the context being the keys that it meets."""
    archs = load_archs([machine], overrides)
    found: list[Row] = []
    for entry in ENTRIES:
        for keys in sorted({*SAMPLES, *PROBES}):
            start = time.process_time()
            sizes = [("heads", "1"), ("causal", "true")]
            found += compare([parse_entry(entry)], archs, [keys], "attention_heads", sizes, queries=CHUNK)
            sys.stderr.write(f"{machine} {entry} {keys}: {time.process_time() - start:.1f} s {found[-1].why or ''}\n")
    return [{name: value for name, value in asdict(row).items() if name != "error"} for row in found]


def prompts(chunks: Sequence[Row]) -> Iterator[Row]:
    """Whole prompts of `CONTEXTS` tokens, for each algorithm as far as its chunks ran."""
    for entry in ENTRIES:
        mine = {row.context: row for row in chunks if row.attention == entry}
        for context in CONTEXTS:
            wanted = [keys for keys in SAMPLES if keys <= context]
            failed = next((mine[keys] for keys in wanted if mine[keys].why), None)
            if failed is not None:
                yield replace(failed, context=context)
                continue
            ends = range(CHUNK, context + 1, CHUNK)
            sums = {figure: sum(at(mine, figure, keys) for keys in ends) for figure in SUMMED}
            yield replace(mine[context], **sums)


def at(chunks: dict[int, Row], figure: str, keys: int) -> float:
    """A figure of the chunk that meets so many keys: as it was run, or between the two around it."""
    if keys in SAMPLES:
        return float(getattr(chunks[keys], figure))
    low, high = max(k for k in SAMPLES if k < keys), min(k for k in SAMPLES if k > keys)
    below, above = (float(getattr(chunks[k], figure)) for k in (low, high))
    return below + (above - below) * (keys - low) / (high - low)


def off(chunks: Sequence[Row]) -> Iterator[tuple[str, int, str, float]]:
    """(algorithm, keys, figure, relative error) of what lies between the samples, at the probes."""
    for entry in ENTRIES:
        mine = {row.context: row for row in chunks if row.attention == entry and row.why is None}
        for keys in PROBES:
            if {keys, *SAMPLES} <= {*mine}:
                for figure in SUMMED:
                    true = float(getattr(mine[keys], figure))
                    yield entry, keys, figure, at(mine, figure, keys) / true - 1


__all__ = ["CHUNK", "CONTEXTS", "ENTRIES", "at", "measure", "off", "prompts"]
