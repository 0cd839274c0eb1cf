#!/usr/bin/env python
"""What real activations select, on a PIM machine: the table of docs/quality.md.

``python scripts/recorded_selections.py MODEL.gguf`` puts each of `ENTRIES` into the model, records what the last of 128 tokens of
the story selects in some layers, and replays that on ``pim_gpt``: cycles, and the spread over channels, beside drawn ones.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pimsim.compare import parse_entry
from pimsim.quality import TEXT, Recordings, read_text, with_algorithm
from pimsim.run import simulate
from pimsim.workload.attention.base import algorithm
from pimsim.workload.sequence import TextModel

ENTRIES = ("topk:k=32", "kv_drop:budget=64:window=16", "landmark:block=16:retrieved=4")
TOKENS = 128
LAYERS = (0, 10, 20, 29)


def recordings(model: Path) -> dict[str, str]:
    """Name of a file -> what it holds, for all entries and layers."""
    ids, graph, weights = read_text(model, None, TOKENS)
    found = Recordings(f"{model.name} on {TEXT}, {len(ids)} tokens")
    whole = TextModel(graph, weights)
    for number, entry in enumerate(map(parse_entry, ENTRIES)):
        with_algorithm(whole, ids, algorithm(entry.name, entry.parameters), record=found.of(number))
    return found.files


def spread(trace: list[Any], bursts: str = "RD") -> tuple[int, int]:
    """Bursts read in the channels: fewest and most."""
    read = Counter(channel for _, channel, command, *_ in trace if command == bursts)
    counts = [read[channel] for channel in range(8)]
    return min(counts), max(counts)


def measured(text: str, replayed: bool) -> tuple[int, int, int]:
    """Cycles of one token in a layer, fewest and most bursts in a channel; with the selections of the file, or drawn ones."""
    known = json.loads(text)
    case = known["case"]
    overrides = [f"workload.{key}={json.dumps(value)}" for key, value in case.items()]
    overrides += [f"workload.algorithm={known['algorithm']}", f"workload.parameters={json.dumps(known['parameters'])}"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "decisions.json"
        file.write_text(text, encoding="utf-8")
        trace: list[Any] = []
        taken = [f"workload.decisions={file}"] if replayed else []
        result = simulate("pim_gpt", "attention_heads", overrides=[*overrides, *taken], trace=trace)
    return (result.time.cycles, *spread(trace))


def table(files: dict[str, str]) -> Iterator[str]:
    """The rows of the page."""
    yield "| algorithm | selections | cycles | bursts read, fewest and most in a channel |"
    yield "| --- | --- | --- | --- |"
    for number, entry in enumerate(ENTRIES):
        name = entry.partition(":")[0]
        of_layer = {layer: files[f"{number + 1}_{name}_layer_{layer}_decode.json"] for layer in LAYERS}
        cells = [("drawn", measured(of_layer[LAYERS[0]], replayed=False))]
        cells += [(f"layer {layer}", measured(text, replayed=True)) for layer, text in of_layer.items()]
        for selections, (cycles, least, most) in cells:
            yield f"| `{entry}` | {selections} | {cycles:,} | {least:,} to {most:,} |"


if __name__ == "__main__":
    sys.stdout.write("\n".join(table(recordings(Path(sys.argv[1])))) + "\n")
