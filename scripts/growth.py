#!/usr/bin/env python
"""Tables and figures of docs/growth.md.

``python scripts/growth.py`` prints the tables of the rows in docs/growth_rows.json; with ``--write`` puts them into the page, and
draws the figures. ``--measure`` runs everything again and stores the rows (a few minutes), ``--measure pim_gpt`` one machine,
``--measure access`` what irregular access costs, ``--measure chunks`` long prompts in chunks.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import access_cost
import chunked_prompts

from pimsim.analysis.comparison import FIGURES, Row, growth
from pimsim.compare import compare, load_archs, parse_entry
from pimsim.report.comparison import TITLES, plot_comparison
from pimsim.report.si import si, significant

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, ROWS = DOCS / "growth.md", DOCS / "growth_rows.json"

MACHINES = {
    "edge_moe_zcu102": [("fpga.primitives.buffer_words", "8388608")],
    "pim_gpt": [("asic.sram_bytes", "33554432")],
}
"""Machine -> overrides: both have 32 MiB on chip, or few prompts would fit."""

TOKEN_CONTEXTS = [1024 << 2 * i for i in range(4)]
PROMPT_CONTEXTS = [128 << i for i in range(10)]
PATIENCE = 60.0
"""Processor seconds: an algorithm whose run takes longer is not run at larger contexts."""


@dataclass(frozen=True)
class Study:
    """An algorithm, and how time and peak memory grow by its closed forms or its publication."""

    entry: str
    time: str
    memory: str
    heads: int = 4
    causal: bool = True
    first: int = 512
    """Smallest prompt; smaller where the machines do not hold three larger ones."""

    @property
    def phase(self) -> str:
        """Of the entry."""
        return parse_entry(self.entry).phase

    @property
    def contexts(self) -> list[int]:
        """That are tried."""
        if self.phase != "prefill":
            return TOKEN_CONTEXTS
        return [context for context in PROMPT_CONTEXTS if context >= self.first]

    def sizes(self) -> list[tuple[str, str]]:
        """Overrides of the workload."""
        return [("heads", str(self.heads)), ("causal", str(self.causal).lower())]


STUDIES = (
    Study("vanilla", "linear", "linear"),
    Study("single_pass:block=256", "linear", "linear"),
    Study("topk:k=64", "linear", "linear"),
    Study("landmark", "linear", "linear"),
    Study("longformer:side=128:global_tokens=8", "constant", "linear"),
    Study("linear", "constant", "constant"),
    Study("aaren@update", "constant", "constant"),
    Study("cmab@update", "constant", "constant"),
    Study("tca@query", "log n", "linear"),
    Study("vanilla@prefill", "quadratic", "quadratic", 1, first=128),
    Study("flash:block_rows=64:block_columns=64@prefill", "quadratic", "linear", 1),
    Study("topk:k=64@prefill", "quadratic", "linear", 1),
    Study("landmark@prefill", "quadratic", "linear", 1),
    Study("memory_caching@prefill", "quadratic", "linear", 1, first=256),
    Study("fma@prefill", "n log n", "linear", 1),
    Study("longformer:side=64:global_tokens=0:block=64@prefill", "linear", "linear", 1),
    Study("bigbird@prefill", "linear", "linear", 1),
    Study("clustered:clusters=16@prefill", "linear", "linear", 1, causal=False),
    Study("linear:chunk=64@prefill", "linear", "linear", 1),
)

PIM = "pim_gpt"
REASONS: dict[tuple[str, str], str] = {
    ("vanilla", PIM): "keys and values are multiplied where they lie; the other brings all of them through its ports",
    ("single_pass:block=256", PIM): "as `vanilla`, but a block of 256 keys over all channels is little work for each",
    ("landmark", PIM): "landmarks are multiplied in the banks; gathering four blocks is two thirds of it",
    ("topk:k=64", PIM): "scores in the banks, and the selection on the ASIC; 64 gathered values hardly matter",
    (
        "longformer:side=128:global_tokens=8",
        PIM,
    ): "136 keys in the banks; the other machine brings them and joins the scores",
    ("linear", PIM): "little to do: writing the state, through the pins or a port, is the largest part on both",
    ("aaren@update", PIM): "little to do, all on chip: what is left are latencies of small operations and the clock",
    ("cmab@update", PIM): "on chip on both machines: more lanes and a faster clock, no matter of memory",
    ("tca@query", PIM): "dependent gathers of a few rows, the largest part on both: no use for many banks",
    ("vanilla@prefill", PIM): "products in the banks, row by row; scores go through pins and ports on both",
    ("flash:block_rows=64:block_columns=64@prefill", PIM): "products in the banks, against one busy unit",
    (
        "topk:k=64@prefill",
        PIM,
    ): "the selection, on the ASIC, is half of it, scores in the banks a fifth, gathers a sixth",
    ("landmark@prefill", PIM): "the ASIC is the busiest unit, against the multiply-accumulate unit",
    ("memory_caching@prefill", PIM): "states are products on chip, which use neither banks nor ports",
    ("fma@prefill", PIM): "keys and values are on chip: it is the ASIC against the multiply-accumulate unit",
    ("longformer:side=64:global_tokens=0:block=64@prefill", PIM): "blocks in the banks, against one busy unit",
    (
        "bigbird@prefill",
        PIM,
    ): "blocks that are put together on chip: it is the ASIC against the multiply-accumulate unit",
    (
        "clustered:clusters=16@prefill",
        PIM,
    ): "clustering is most of it, on chip on both machines: the ASIC against one unit",
    ("linear:chunk=64@prefill", PIM): "products of chunks on chip: it is the ASIC against the multiply-accumulate unit",
}
"""(entry, the machine that is faster) -> why, from where their time goes; an outcome without a reason is an error."""

WHOLE_RUNS = {
    "`topk`, 64 of 4,096 keys": ("algorithm=topk", "parameters.k=64", "keys=4096"),
    "`landmark`, 4 of 80 blocks of 4,096 keys": ("algorithm=landmark", "keys=4096"),
    "`vanilla`, 4,096 keys": ("algorithm=vanilla", "keys=4096"),
    "`kv_drop`, compaction to 1,024 keys": ("algorithm=kv_drop", "parameters.budget=1024", "keys=1025"),
    "`vanilla`, 1,025 keys": ("algorithm=vanilla", "keys=1025"),
    "`memory_layer`, 768 to 512": ("algorithm=memory_layer", "keys=1"),
    "linear layer (`unified_norm`), 768 to 512": ("algorithm=unified_norm", "keys=1"),
}
"""Label -> a workload; each irregular one is followed by its regular counterpart."""


# -------------------------------------------------------------------------------------------------------------- measure


def measure_laws(machine: str, studies: Sequence[Study] = STUDIES) -> list[dict[str, Any]]:
    """Rows of one machine."""
    archs = load_archs([machine], MACHINES[machine])
    found = []
    for study in studies:
        slow = ""
        for context in study.contexts:
            if slow:
                found.append(Row(study.entry, machine, context, study.phase, why=slow))
                continue
            start = time.process_time()
            found += compare([parse_entry(study.entry)], archs, [context], "attention_heads", study.sizes())
            spent = time.process_time() - start
            sys.stderr.write(f"{machine} {study.entry} {context}: {spent:.1f} s\n")
            if found[-1].why:
                slow = found[-1].why
            elif spent > PATIENCE:
                slow = f"not run: simulating {context:,} keys took {spent:.0f} s"
    return [{name: value for name, value in asdict(row).items() if name != "error"} for row in found]


def measure_access() -> dict[str, Any]:
    """Reads by themselves, single bursts, and whole runs."""
    return {
        "access": [access_cost.cost(make()) for make in access_cost.ACCESSES],
        "streams": [access_cost.stream(pattern) for pattern in ("sequential", "random")],
        "whole_runs": [access_cost.whole_run(name, options) for name, options in WHOLE_RUNS.items()],
    }


# ---------------------------------------------------------------------------------------------------------------- write


def law_table(rows: Sequence[Row], machine: str) -> Iterator[str]:
    """Claimed and measured laws of one machine; measured ones that differ are bold."""
    yield f"| algorithm | contexts | claimed time, memory | {' | '.join(TITLES.values())} |"
    yield "| --- | --- | --- |" + " --- |" * len(TITLES)
    for study in STUDIES:
        drawn = [r for r in rows if (r.attention, r.arch) == (study.entry, machine) and r.seconds is not None]
        claims = {"seconds": study.time, "joules": study.time, "peak_bytes": study.memory}
        cells = [_law(drawn, figure, claims.get(figure)) for figure in FIGURES]
        contexts = f"{short(drawn[0].context)} to {short(drawn[-1].context)}" if drawn else "none"
        yield f"| {label(study)} | {contexts} | {study.time}, {study.memory} | {' | '.join(cells)} |"


def short(context: int) -> str:
    """512, 1k, 64k."""
    return f"{context // 1024}k" if context >= 1024 else str(context)


def label(study: Study) -> str:
    """The algorithm with its phase."""
    return f"`{study.entry}`" if "@" in study.entry else f"`{study.entry}@{study.phase}`"


def _law(drawn: Sequence[Row], figure: str, claim: str | None) -> str:
    values = [getattr(row, figure) for row in drawn]
    if values and not any(values):
        return "zero"
    law = growth([row.context for row in drawn], values) if len(drawn) > 2 else None
    if law is None:
        return "-"
    text = f"{law.law} ({significant(law.exponent, 2)})"
    return text if claim in (None, law.law) else f"**{text}**"


def stops(rows: Sequence[Row], machine: str) -> Iterator[str]:
    """Why an algorithm was not run at larger contexts."""
    for study in STUDIES:
        missing = next((r for r in rows if (r.attention, r.arch) == (study.entry, machine) and r.why), None)
        if missing is not None:
            yield f"* {label(study)} at {short(missing.context)}: {_short(missing.why or '')}."


def _short(why: str) -> str:
    """Without the place in a file, which differs from one installation to another."""
    for start in ("not run", ": fpga.primitives.", "asic.sram_bytes", "attention ", "dram.rows"):
        if start in why:
            return why[why.index(start) :].lstrip(": ").rstrip(".")
    return why.rstrip(".")


def machine_table(rows: Sequence[Row]) -> Iterator[str]:
    """Which machine is faster at the largest context that both ran, and why."""
    one, other = MACHINES
    yield f"| algorithm | keys | on `{one}` | on `{other}` | faster | energy | because |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for study in STUDIES:
        ran = {(r.arch, r.context): r for r in rows if r.attention == study.entry and r.seconds is not None}
        both = [n for n in study.contexts if (one, n) in ran and (other, n) in ran]
        slow, fast = sorted((ran[name, both[-1]] for name in MACHINES), key=lambda row: -(row.seconds or 0.0))
        times = [si(ran[name, both[-1]].seconds, "s") for name in MACHINES]
        ratio, energy = (_ratio(slow, fast, figure) for figure in ("seconds", "joules"))
        yield (
            f"| {label(study)} | {short(both[-1])} | {' | '.join(times)} | `{fast.arch}` {ratio}x | {energy}x less | "
            f"{REASONS[study.entry, fast.arch]} |"
        )


def _ratio(slow: Row, fast: Row, figure: str) -> str:
    return significant(getattr(slow, figure) / getattr(fast, figure), 2)


def access_tables(found: dict[str, Any]) -> Iterator[str]:
    """Reads by themselves, then single bursts, then whole runs."""
    ways = ("load", "neighbours", "gather", "controller_load", "controller_gather")
    yield "| what is read | bytes | load | gather, first rows | gather | load, FR-FCFS | gather, FR-FCFS | gather / load, time |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in found["access"]:
        costs = [access_cost.Cost(**row[way]) for way in ways]
        cells = [f"{cost.bandwidth / 1e9:.1f} GB/s, {100 * cost.row_hit_rate:.1f} %" for cost in costs]
        ratio = costs[2].seconds / costs[0].seconds
        yield f"| {row['name']} | {costs[0].bytes:,} | {' | '.join(cells)} | {ratio:.2f} |"
    yield ""
    yield "| single bursts through the controller | bandwidth | row-hit rate |"
    yield "| --- | --- | --- |"
    for row in found["streams"]:
        cost = access_cost.Cost(row["seconds"], row["bytes"], row["row_hit_rate"])
        yield f"| {row['name']} | {cost.bandwidth / 1e9:.1f} GB/s | {100 * cost.row_hit_rate:.1f} % |"
    yield ""
    yield "| whole run | time | row-hit rate | read over the pins | in gathers | in stores |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in found["whole_runs"]:
        shares = [f"{100 * row[op]:.0f} %" for op in ("gather", "store")]
        yield (
            f"| {row['name']} | {si(row['seconds'], 's')} | {100 * row['row_hit_rate']:.1f} % | "
            f"{row['bytes_read']:,} B | {' | '.join(shares)} |"
        )


def parts(stored: dict[str, Any]) -> dict[str, str]:
    """Part of the page -> what the rows say."""
    rows = laws(stored)
    found = {machine: "\n".join(law_table(rows, machine)) for machine in MACHINES}
    found |= {f"{machine} stops": "\n".join(stops(rows, machine)) for machine in MACHINES}
    found["machines"] = "\n".join(machine_table(rows))
    found["access"] = "\n".join(access_tables(stored))
    for machine in MACHINES:
        found[f"{machine} chunks"] = "\n".join(chunk_table(chunks_of(stored, machine)))
    found["chunks off"] = "\n".join(chunks_off(stored))
    return found


def chunks_of(stored: dict[str, Any], machine: str) -> list[Row]:
    """Chunks of long prompts that were run."""
    return [Row(**row) for row in stored["chunks"][machine]]


CHUNK_CLAIMS = {"seconds": "quadratic", "joules": "quadratic", "interface_bytes": "quadratic", "peak_bytes": "linear"}
"""All chunks meet all keys before them, and have the scores of a chunk at once."""


def chunk_table(chunks: Sequence[Row]) -> Iterator[str]:
    """Laws of long prompts in chunks; those that differ from the claim are bold."""
    yield f"| algorithm | contexts | {' | '.join(TITLES.values())} | time of 64k |"
    yield "| --- | --- |" + " --- |" * (len(TITLES) + 1)
    for entry in chunked_prompts.ENTRIES:
        drawn = [r for r in chunked_prompts.prompts(chunks) if r.attention == entry and r.seconds is not None]
        cells = [_law(drawn, figure, CHUNK_CLAIMS[figure]) for figure in FIGURES]
        last = si(drawn[-1].seconds, "s") if drawn[-1].context == 65_536 else ""
        yield f"| `{entry}` | {short(drawn[0].context)} to {short(drawn[-1].context)} | {' | '.join(cells)} | {last} |"


def chunks_off(stored: dict[str, Any]) -> Iterator[str]:
    """How far chunks that were run lie from the line between their neighbours: the largest, of each figure."""
    worst: dict[str, tuple[float, str]] = {}
    for machine in MACHINES:
        for entry, keys, figure, error in chunked_prompts.off(chunks_of(stored, machine)):
            where = f"`{entry}` on `{machine}`, {keys:,} keys"
            worst[figure] = max(worst.get(figure, (0.0, where)), (abs(error), where))
    for figure, (error, where) in worst.items():
        yield f"* {TITLES[figure]}: {100 * error:.2g} % ({where})."


def laws(stored: dict[str, Any]) -> list[Row]:
    """Rows of all machines."""
    return [Row(**row) for machine in MACHINES for row in stored[machine]]


def _named(row: Row) -> Row:
    """Without parameters, which are in the table."""
    name = row.attention.partition("@")[0].partition(":")[0]
    return replace(row, attention=f"{name}@{row.phase}")


def written(page: str, stored: dict[str, Any]) -> str:
    """The page with what the rows say between its markers."""
    for name, text in parts(stored).items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, found, rest = page.partition(begin)
        assert found, begin
        page = f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}"
    return page


def main() -> None:
    """See the module."""
    stored = json.loads(ROWS.read_text(encoding="utf-8")) if ROWS.exists() else {}
    if "--measure" in sys.argv:
        ways = {
            "access": measure_access,
            "chunks": lambda: {"chunks": {name: chunked_prompts.measure(name, MACHINES[name]) for name in MACHINES}},
            **{name: lambda name=name: {name: measure_laws(name)} for name in MACHINES},
        }
        for name in [arg for arg in sys.argv[1:] if not arg.startswith("-")] or ways:
            stored |= ways[name]()
            ROWS.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    if "--write" in sys.argv:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), stored), encoding="utf-8")
        for machine in MACHINES:
            figure = plot_comparison([_named(row) for row in laws(stored) if row.arch == machine])
            figure.savefig(DOCS / "img" / f"growth_{machine}.png", dpi=110)
            figure = plot_comparison([_named(row) for row in chunked_prompts.prompts(chunks_of(stored, machine))])
            figure.savefig(DOCS / "img" / f"growth_chunks_{machine}.png", dpi=110)
    elif "--measure" not in sys.argv:
        for name, text in parts(stored).items():
            sys.stdout.write(f"{name}\n\n{text}\n\n")


if __name__ == "__main__":
    main()
