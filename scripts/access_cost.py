"""What irregular access costs on PIM-GPT's DRAM: the rows that algorithms choose, against as many words that lie together.

Rows come from functional runs on each algorithm's stated distribution. They are read in five ways:

* ``load``: a PIM program that loads a tensor of as many words, which lie together;
* ``neighbours``: one that gathers the first rows of each table instead of those that were chosen;
* ``gather``: one that gathers the chosen rows, in the order in which they were chosen;
* ``controller_load``, ``controller_gather``: the reads of the first and the third, at the same places, as plain requests to an
  FR-FCFS controller in front of the same DRAM.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pimsim.analysis.energy import is_column_access
from pimsim.arch.dram import DramSpec
from pimsim.config import Loaded, load_arch
from pimsim.machine.fast import FastEngine
from pimsim.program.isa import Placed
from pimsim.run import simulate
from pimsim.runners import TraceRow
from pimsim.runners.pim_attention import lower
from pimsim.workload.attention.base import Case, algorithm
from pimsim.workload.attention.decisions import draw
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Gather, Load, Primitive

ON_CHIP = ("asic.sram_bytes", "16777216")
"""Room for all that is read: the size of the SRAM has no influence on the time of a read."""
ORDER = ("row", "bank", "bankgroup", "column", "channel")
"""Of an address, the last the fastest: what follows each other lies in other channels, then in other columns of a row."""
MEMORY = ("arch.dram={base: dram/pim_gpt_gddr6, channels: 8}", f"arch.controller.mapping=[{', '.join(ORDER)}]")
"""The DRAM of PIM-GPT behind the controller of ``ddr4_memory``."""


@dataclass(frozen=True)
class Access:
    """Rows of tables, all of a width in elements: ``chosen[i]`` are those of table i, ``rows`` what a table has."""

    name: str
    chosen: Sequence[Sequence[int]]
    rows: int
    width: int

    @property
    def words(self) -> int:
        """Elements that are read."""
        return sum(len(each) for each in self.chosen) * self.width


@dataclass(frozen=True)
class Cost:
    """What a way to read took."""

    seconds: float
    bytes: int
    row_hit_rate: float
    """Column accesses that found their row open already, over all of them."""

    @property
    def bandwidth(self) -> float:
        """Bytes per second."""
        return self.bytes / self.seconds


def topk(keys: int = 4096, k: int = 64) -> Access:
    """The value rows that one token of GPT-2 small picks."""
    case = Case(phase="decode", queries=1, keys=keys, d_head=64, heads=12)
    found = draw(algorithm("topk", {"k": k}), case).decisions["top_k.1"]
    return Access(f"`topk`: {k} of {keys:,} values, 12 heads of 64", found[:, 0].tolist(), keys, 64)


def landmark(keys: int = 4096, block: int = 50, retrieved: int = 4) -> Access:
    """The tokens of the blocks that one token retrieves, block by block; of the keys, or of the values."""
    case = Case(phase="decode", queries=1, keys=keys, d_head=64, heads=12)
    found = draw(algorithm("landmark", {"block": block, "retrieved": retrieved}), case).decisions["top_k.1"]
    rows = [[b * (block + 1) + at for b in blocks for at in range(block)] for blocks in found[:, 0].tolist()]
    return Access(f"`landmark`: {retrieved} blocks of {block} keys of {keys:,}, 12 heads of 64", rows, keys, 64)


def memory_layer(d_out: int = 512) -> Access:
    """The table rows of one token of width 768, a row of each of 96 tables."""
    case = Case(phase="decode", queries=1, keys=1, d_head=64, heads=12)
    found = draw(algorithm("memory_layer", {"d_out": d_out}), case).decisions["sign_hash.1"]
    rows = found.reshape(len(found), -1).tolist()
    return Access(f"`memory_layer`: a row of {d_out} of 256 in each of {len(rows)} tables", rows, 256, d_out)


def kv_drop(budget: int = 1024) -> Access:
    """The cached keys (or values) that a compaction keeps by their score, in its order."""
    case = Case(phase="decode", queries=1, keys=budget + 1, d_head=64, heads=12)
    found = draw(algorithm("kv_drop", {"budget": budget}), case).decisions["top_k.1"]
    rows = found.reshape(12, -1).tolist()
    return Access(f"`kv_drop`: {len(rows[0])} of {budget + 1:,} keys are kept, 12 heads of 64", rows, budget + 1, 64)


ACCESSES: tuple[Callable[[], Access], ...] = (topk, landmark, memory_layer, kv_drop)


def cost(access: Access) -> dict[str, Any]:
    """Every way to read these rows; a row of the table."""
    arch = load_arch("pim_gpt", [ON_CHIP])
    tables, each = len(access.chosen), len(access.chosen[0])
    together = (1, tables, access.width) if each == 1 else (tables, each, access.width)
    chosen = [list(rows) for rows in access.chosen]
    first = [list(range(each)) for _ in chosen]
    ways: dict[str, Cost] = {}
    ways["load"], load_trace = read(arch, load(together), None)
    shape = (tables, access.rows, access.width)
    ways["neighbours"], _ = read(arch, gather(shape, each), first)
    ways["gather"], gather_trace = read(arch, gather(shape, each), chosen)
    spec = arch.value.dram.resolve()
    ways["controller_load"], ways["controller_gather"] = _controller(spec, load_trace), _controller(spec, gather_trace)
    return {"name": access.name, "words": access.words, **{way: asdict(found) for way, found in ways.items()}}


def stream(pattern: str, count: int = 20_000) -> dict[str, Any]:
    """Reads of single bursts through the controller: ``sequential``, or anywhere in the memory (``random``)."""
    options = [f"workload.count={count}"] + (["workload.stream.reads=1"] if pattern == "random" else [])
    return {"name": pattern, **asdict(_requested(f"requests_{pattern}", options))}


def whole_run(name: str, options: Sequence[str]) -> dict[str, Any]:
    """A whole run on PIM-GPT: time, row-hit rate, bytes read over the pins, and shares of the time."""
    sizes = [f"arch.{ON_CHIP[0]}={ON_CHIP[1]}", *(f"workload.{option}" for option in options)]
    result = simulate("pim_gpt", "attention_decode", overrides=sizes)
    assert result.dram is not None
    shares = {op: result.ops[op].share if op in result.ops else 0.0 for op in ("gather", "store")}
    found = {
        "seconds": result.time.seconds,
        "row_hit_rate": result.dram.row_hit_rate,
        "bytes_read": result.dram.bytes_read,
    }
    return {"name": name, **found, **shares}


def load(shape: tuple[int, int, int]) -> list[Primitive]:
    """All rows of all tables."""
    b = Expansion({"table": shape})
    b.add(Load, b["table"])
    return [op for op in b.graph() if isinstance(op, Primitive)]


def gather(shape: tuple[int, int, int], each: int) -> list[Primitive]:
    """So many rows of every table."""
    b = Expansion({"table": shape, "index": (shape[0], 1, each)})
    b.add(Gather, b["table"], b["index"])
    return [op for op in b.graph() if isinstance(op, Primitive)]


def read(arch: Loaded[Any], ops: list[Primitive], chosen: list[list[int]] | None) -> tuple[Cost, list[TraceRow]]:
    """Run a program of one read on PIM-GPT; ``chosen``: rows of each table that it gathers."""
    spec = arch.value.dram.resolve()
    indices = {} if chosen is None else {"index": [[rows] for rows in chosen]}
    _, block = lower(arch.value, spec, ops, indices)
    engine = FastEngine(arch.value, spec, trace=True)
    totals = engine.run(iter([[Placed(block, 0, -1)]]))
    trace = sorted(engine.trace or (), key=lambda row: (row[0], row[1]))
    reads = sum(is_column_access(spec.commands[row[2]]) for row in trace)
    seconds = totals.ticks * spec.tick_seconds
    return Cost(seconds, reads * spec.burst_bytes, hits(trace) / reads), trace


def hits(trace: Sequence[TraceRow]) -> int:
    """Reads that are not the first in their bank since a row was opened there."""
    opened: set[tuple[int, ...]] = set()
    found = 0
    for _, channel, command, where, _, _ in trace:
        bank = (channel, *where)
        if command == "RD":
            found += bank in opened
            opened.add(bank)
        elif command == "PREpb":
            opened.discard(bank)
        elif command == "PREab":
            opened = {each for each in opened if each[0] != channel}
    return found


def _controller(spec: DramSpec, trace: Sequence[TraceRow]) -> Cost:
    """The reads of a trace as plain requests, all at once, in their order."""
    lines = ["op,address"]
    for _, channel, command, where, row, column in trace:
        if command == "RD":
            place = dict(zip(spec.levels, where, strict=False)) | {"row": row, "column": column, "channel": channel}
            lines.append(f"R,{address(spec, place)}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "reads.csv"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return _requested(str(file), [])


def _requested(workload: str, overrides: list[str]) -> Cost:
    result = simulate("ddr4_memory", workload, overrides=[*MEMORY, *overrides])
    assert result.dram is not None
    return Cost(result.time.seconds, result.dram.bytes_read, result.dram.row_hit_rate or 0.0)


def address(spec: DramSpec, place: Mapping[str, int]) -> int:
    """The byte address of a burst where addresses are in `ORDER`."""
    sizes = dict(zip(spec.levels, spec.counts, strict=True))
    sizes |= {"row": spec.rows, "column": spec.columns, "channel": spec.channels}
    number = 0
    for name in ORDER:
        number = number * sizes[name] + place[name]
    return number * spec.burst_bytes


__all__ = [
    "ACCESSES",
    "ORDER",
    "Access",
    "Cost",
    "address",
    "cost",
    "gather",
    "hits",
    "load",
    "read",
    "stream",
    "whole_run",
]
