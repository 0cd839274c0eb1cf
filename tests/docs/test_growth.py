"""docs/growth.md says what its stored rows say, and the stored rows are what runs say."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

from pimsim.analysis.comparison import growth
from pimsim.compare import compare, load_archs, parse_entry
from pimsim.config import load_arch
from pimsim.machine.controller.policy import AddressMap

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import access_cost  # noqa: E402
import chunked_prompts  # noqa: E402
import growth as script  # noqa: E402

STORED = json.loads(script.ROWS.read_text(encoding="utf-8"))
FIGURES = ("seconds", "joules", "peak_bytes", "interface_bytes")


def test_the_page_is_what_the_rows_say() -> None:
    page = script.PAGE.read_text(encoding="utf-8")
    assert script.written(page, STORED) == page
    changed = json.loads(json.dumps(STORED))
    changed["access"][0]["gather"]["seconds"] *= 2
    assert script.written(page, changed) != page


@pytest.mark.parametrize("machine", script.MACHINES)
def test_all_studies_are_stored_at_all_contexts(machine: str) -> None:
    rows = [(row["attention"], row["context"]) for row in STORED[machine]]
    assert rows == [(study.entry, context) for study in script.STUDIES for context in study.contexts]
    for row in STORED[machine]:
        assert (row["seconds"] is None) == bool(row["why"]), row


@pytest.mark.parametrize("machine", script.MACHINES)
@pytest.mark.parametrize("entry", ["vanilla", "topk:k=64", "aaren@update", "linear:chunk=64@prefill"])
def test_a_run_gives_the_stored_row(machine: str, entry: str) -> None:
    study = next(study for study in script.STUDIES if study.entry == entry)
    archs = load_archs([machine], script.MACHINES[machine])
    [row] = compare([parse_entry(entry)], archs, [1024], "attention_heads", study.sizes())
    [stored] = [r for r in STORED[machine] if (r["attention"], r["context"]) == (entry, 1024)]
    for figure in FIGURES:
        assert getattr(row, figure) == pytest.approx(stored[figure], rel=1e-12), figure


@pytest.mark.parametrize("make", [access_cost.topk, access_cost.memory_layer])
def test_reads_give_the_stored_row(make) -> None:  # type: ignore[no-untyped-def]
    found = access_cost.cost(make())
    [stored] = [row for row in STORED["access"] if row["name"] == found["name"]]
    for way in ("load", "neighbours", "gather", "controller_load", "controller_gather"):
        assert found[way] == pytest.approx(stored[way], rel=1e-12), way


def test_every_way_reads_the_same_bytes() -> None:
    for row in STORED["access"]:
        for way in ("load", "neighbours", "gather", "controller_load", "controller_gather"):
            assert row[way]["bytes"] == 2 * row["words"], (row["name"], way)  # bfloat16


@pytest.mark.parametrize("make", access_cost.ACCESSES)
def test_gathers_open_every_dram_row_once(make) -> None:  # type: ignore[no-untyped-def]
    """Rows go to banks, then channels; those that follow in a bank lie in one DRAM row of 64 bursts as long as there is room."""
    access = make()
    bursts = access.width // 16
    opened = {
        (table, row % 16, row // 16 % 8, row // 128 * bursts // 64)
        for table, rows in enumerate(access.chosen)
        for row in rows
    }
    [stored] = [row for row in STORED["access"] if row["name"] == access.name]
    reads = access.words // 16
    expected = 1 - len(opened) / reads  # less a few rows that a refresh closes, which are opened once more
    assert stored["gather"]["row_hit_rate"] == pytest.approx(expected, abs=0.0005)


def test_random_bursts_miss_and_sequential_ones_hit() -> None:
    sequential, random_ones = STORED["streams"]
    columns = load_arch("pim_gpt").value.dram.resolve().columns
    assert sequential["row_hit_rate"] == pytest.approx(1 - 1 / columns, abs=0.002)
    assert random_ones["row_hit_rate"] < 0.01


def test_hits_are_counted_from_one_opening_to_the_next() -> None:
    bank, other, none = (0, 0), (0, 1), (-1, -1)
    trace = [
        (0, 0, "ACT_AB", none, 7, -1),
        (1, 0, "RD", bank, 7, 0),
        (2, 0, "RD", bank, 7, 1),
        (3, 0, "RD", other, 7, 0),
        (4, 1, "RD", bank, 7, 0),
        (5, 0, "PREab", none, -1, -1),
        (6, 1, "RD", bank, 7, 1),
        (7, 0, "RD", bank, 8, 0),
        (8, 1, "PREpb", bank, -1, -1),
        (9, 1, "RD", bank, 9, 0),
    ]
    assert access_cost.hits(trace) == 2


def test_addresses_are_what_the_controller_decodes() -> None:
    spec = load_arch("pim_gpt").value.dram.resolve()
    addresses, draw = AddressMap(spec, access_cost.ORDER), random.Random(5)
    for _ in range(200):
        place = {"row": draw.randrange(spec.rows), "column": draw.randrange(spec.columns)}
        place |= {"channel": draw.randrange(spec.channels)}
        bank = tuple(draw.randrange(count) for count in spec.counts)
        place |= dict(zip(spec.levels, bank, strict=True))
        found = addresses.decode(access_cost.address(spec, place))
        assert found == (place["channel"], bank, place["row"], place["column"])


def test_gathered_rows_of_other_banks_overlap() -> None:
    """In a channel: the next row opens nRRD later in another bank, or nRC later in the same one; one DRAM row opens once."""
    arch = load_arch("pim_gpt")
    timing = arch.value.dram.resolve().timing
    one, other_banks, same_row, same_bank = (
        access_cost.read(arch, access_cost.gather((1, 8192, 64), len(rows)), [rows])[0].seconds
        for rows in ([0], [0, 1, 2, 3], [0, 128, 256, 384, 512], [0, 2048, 4096, 6144])
    )
    assert (other_banks - one) * 1e9 == pytest.approx(3 * timing["nRRD"], abs=0.01)
    assert (same_bank - one) * 1e9 == pytest.approx(3 * timing["nRC"], abs=0.01)
    last_read = timing["nRCD"] + 5 * 4 * timing["nBL"] - 1
    assert (same_row - one) * 1e9 == pytest.approx(last_read + timing["nRTP"] - timing["nRAS"], abs=0.01)


def test_measured_laws_of_the_page_come_from_the_rows() -> None:
    """The law of a cell, recomputed: quadratic attention, and a state that does not grow."""
    for machine in script.MACHINES:
        for entry, law in (("linear", "constant"), ("flash:block_rows=64:block_columns=64@prefill", "quadratic")):
            rows = [r for r in STORED[machine] if r["attention"] == entry and r["seconds"] is not None]
            found = growth([r["context"] for r in rows], [r["seconds"] for r in rows])
            assert found is not None
            assert found.law == law, (machine, entry)


@pytest.mark.parametrize("machine", script.MACHINES)
@pytest.mark.parametrize("entry", chunked_prompts.ENTRIES)
def test_a_chunk_gives_the_stored_row(machine: str, entry: str) -> None:
    archs = load_archs([machine], script.MACHINES[machine])
    sizes = [("heads", "1"), ("causal", "true")]
    [row] = compare([parse_entry(entry)], archs, [320], "attention_heads", sizes, queries=chunked_prompts.CHUNK)
    [stored] = [r for r in STORED["chunks"][machine] if (r["attention"], r["context"]) == (entry, 320)]
    for figure in FIGURES:
        assert getattr(row, figure) == pytest.approx(stored[figure], rel=1e-12), figure


@pytest.mark.parametrize("machine", script.MACHINES)
def test_prompts_in_chunks_are_quadratic_up_to_64k(machine: str) -> None:
    """A prompt of 1,024 is the sum of 16 runs; the law is fitted here without `growth`, by what doubling does."""
    chunks = script.chunks_of(STORED, machine)
    prompts = list(chunked_prompts.prompts(chunks))
    for entry in chunked_prompts.ENTRIES:
        rows = {row.context: row for row in prompts if row.attention == entry}
        assert list(rows) == [1024 << i for i in range(7)]
        ran = [
            row.seconds for row in chunks if row.attention == entry and row.context % 64 == 0 and row.context <= 1024
        ]
        assert len(ran) == 16
        assert rows[1024].seconds == pytest.approx(sum(ran), rel=1e-12)
        last = 32_768 if (machine, entry) == ("edge_moe_zcu102", "vanilla@prefill") else 65_536
        assert (rows[65_536].seconds is None) == (last == 32_768), (
            "scores of 64 queries and 64k keys do not fit that buffer"
        )
        doubled = rows[last].seconds / rows[last // 2].seconds  # type: ignore[operator]
        assert 3.6 < doubled < 4.4, entry
