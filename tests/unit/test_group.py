"""Several tokens in a forward pass: prompts as matrix-matrix work and batches, in time."""

from __future__ import annotations

from collections import Counter
from math import ceil
from typing import Any

import pytest

from pimsim.analysis.legality import check_trace
from pimsim.config import load_arch, load_workload
from pimsim.errors import CapacityExceeded, ConfigError, InputError, MappingError
from pimsim.mapper.choice import mapping_for
from pimsim.mapper.group import GroupMapping, Token, groups, prompt_groups
from pimsim.mapper.mapping import Mapping
from pimsim.mapper.rows import DotProduct, RowPass
from pimsim.program.isa import Run, count_commands, expand
from pimsim.program.verify import verify
from pimsim.result import Result
from pimsim.run import simulate
from pimsim.trace.csvio import make_command
from pimsim.workload.models import build_graph
from pimsim.workload.ops import Linear

SMALL = (
    *("workload.model.layers=2", "workload.model.d_model=128", "workload.model.heads=4", "workload.model.d_ff=256"),
    *("workload.prompt_tokens=7", "workload.generate_tokens=3"),
)


def gpt2(*overrides: str, **options: Any) -> Result:
    return simulate("pim_gpt", "gpt2_decode", overrides=overrides, **options)


def mapped(*changes: tuple[str, str]) -> GroupMapping:
    arch, work = load_arch("pim_gpt").value, load_workload("gpt2_decode", [("generate_tokens", "4"), *changes]).value
    mapping = mapping_for(work, build_graph(work), arch, arch.dram.resolve())
    assert isinstance(mapping, GroupMapping)
    return mapping


# --------------------------------------------------------------------------------------------------------------- groups


def test_groups_of_a_run() -> None:
    work = load_workload("gpt2_decode", [("prompt_tokens", "5"), ("generate_tokens", "3"), ("batch", "2")]).value
    assert list(groups(work)) == [(Token(0, p), Token(1, p)) for p in range(7)]
    assert prompt_groups(work) == 5
    matrix = work.model_copy(update={"prefill": "matrix", "prefill_tokens": 3})
    assert [tuple(map(tuple, group)) for group in groups(matrix)] == [
        ((0, 0), (0, 1), (0, 2)),
        ((0, 3), (0, 4)),
        ((1, 0), (1, 1), (1, 2)),
        ((1, 3), (1, 4)),
        ((0, 5), (1, 5)),
        ((0, 6), (1, 6)),
    ]
    assert prompt_groups(matrix) == 4
    assert matrix.together == 3


def test_one_token_at_a_time_is_mapped_as_ever() -> None:
    arch = load_arch("pim_gpt").value
    for changes in (
        [],
        [("prefill", "matrix")],
        [("prefill", "matrix"), ("prompt_tokens", "9"), ("prefill_tokens", "1")],
    ):
        work = load_workload("gpt2_decode", changes).value
        assert type(mapping_for(work, build_graph(work), arch, arch.dram.resolve())) is Mapping


# ---------------------------------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("together", [2, 3, 4])
def test_commands_of_products_are_those_of_the_closed_form(together: int) -> None:
    """A row is opened once for all tokens; MACs, loads and reads are those of each."""
    mapping = mapped(("prompt_tokens", "8"), ("prefill", "matrix"), ("prefill_tokens", str(together)))
    counts: dict[str, Counter[str]] = {}
    for placed in mapping.group_pass(tuple(Token(0, p) for p in range(together)))[:3]:
        for stream in placed.block.channels:
            for step in stream:
                counts.setdefault(placed.block.ops[step.op].kind, Counter()).update(count_commands(step.items))  # type: ignore[arg-type]
    chunk = 64 // together * 16
    for op in mapping.graph:
        if not isinstance(op, Linear) or not op.name.startswith("h0."):
            continue
        pieces = [min(chunk, op.d_in - start) for start in range(0, op.d_in, chunk)]
        slots = [len(range(channel, ceil(op.d_out / 16), 8)) for channel in range(8)]
        rows = sum(ceil(own * ceil(piece / 16) / 64) for piece in pieces for own in slots)
        found = counts[op.kind]
        assert found["ACT_AB"] == found["PREab"] == rows
        assert found["MAC_AB"] == together * sum(own * ceil(piece / 16) for piece in pieces for own in slots)
        assert found["WR_GB"] == together * 8 * sum(ceil(piece / 16) for piece in pieces)
        assert found["RD_MAC"] == together * len(pieces) * sum(slots)


def test_products_of_several_vectors_in_a_row_pass() -> None:
    """Two outputs of 48 columns, the second one across a row border: each vector has its accumulator until it is read."""
    products = [DotProduct(48 * i, 48, 100 * i, further=((100 * i + 50, 48),)) for i in range(2)]
    items = RowPass(64, 4, 9, (-1, -1, -1), 2, 16).segments(products)[0]
    macs: dict[tuple[int, int], list[tuple[int, int]]] = {}
    reads, opened = [], 0
    for run, k, row, _ in expand(items):
        opened += run.command == "ACT_AB"
        if run.command == "MAC_AB":
            macs.setdefault((run.where[2], run.buffer // 48), []).append(
                (row * 64 + run.column + k, run.buffer % 48 + k)
            )
        if run.command == "RD_MAC":
            reads.append((run.where[2], run.sram))
    assert opened == 2
    assert reads == [(0, 0), (1, 50), (2, 100), (3, 150)]
    for accumulator in range(4):  # every column meets its element of the vector
        output, vector = divmod(accumulator, 2)
        assert macs[accumulator, vector] == [(48 * output + i, i) for i in range(48)]


def test_a_read_of_a_result_waits_for_its_macs() -> None:
    """As many vectors as accumulators: one is read before its next product begins, and no sooner than it must be."""
    products = [
        DotProduct(16 * i, 16, 100 * i, further=tuple((100 * i + 10 * v, 16 * v) for v in (1, 2, 3))) for i in range(4)
    ]
    items = RowPass(64, 4, 9, (-1, -1, -1), 2, 16).segments(products)[0]
    held: set[int] = set()
    for run, _, _, _ in expand(items):
        assert isinstance(run, Run)
        if run.command == "MAC_AB":
            held.add(run.where[2])
        if run.command == "RD_MAC":
            held.remove(run.where[2])
            assert held or run.sram == 330  # another one is being multiplied meanwhile, but at the end
    assert not held


# ----------------------------------------------------------------------------------------------------------------- time


PREFILL = ("workload.prefill=matrix", "workload.prefill_tokens=3")


@pytest.mark.parametrize("options", [PREFILL, ("workload.batch=3",), (*PREFILL, "workload.batch=2")])
def test_both_engines_agree_and_no_rule_is_broken(options: tuple[str, ...]) -> None:
    found = []
    for engine in ("fast", "reference"):
        trace: list[Any] = []
        result = gpt2(*SMALL, *options, engine=engine, trace=trace)
        found.append((trace, result.time, result.units, result.ops, result.latency, result.pass_seconds))
    same = found[0] == found[1]
    assert same
    spec = load_arch("pim_gpt").value.dram.resolve()
    rows = [make_command(spec, t, name, ch, where, row, column) for t, ch, name, where, row, column in found[0][0]]
    assert [str(violation) for violation in check_trace(spec, rows)] == []


def test_programs_are_legal() -> None:
    mapping = mapped(("prompt_tokens", "6"), ("batch", "2"), ("prefill", "matrix"), ("model.layers", "1"))
    for placed in mapping.program():
        verify(placed, mapping.spec, mapping.arch.asic.sram_bytes // 2, mapping.shape.buffer // mapping.shape.lanes)


def test_latency_is_told_apart() -> None:
    result = gpt2(*SMALL, *PREFILL)
    assert len(result.pass_seconds) == 3 + 2  # 7 tokens, 3 at once; the first token comes with the prompt
    assert result.latency is not None
    assert result.latency.ttft_s == result.pass_seconds[2]
    assert result.latency.tpot_s == pytest.approx((result.time.seconds - result.pass_seconds[2]) / 2)
    assert result.to_json()["latency"] == {"ttft_s": result.latency.ttft_s, "tpot_s": result.latency.tpot_s}
    one = gpt2(*SMALL, "workload.generate_tokens=1").latency
    assert one is not None
    assert one.tpot_s is None
    assert one.ttft_s == gpt2(*SMALL, "workload.generate_tokens=1").time.seconds


def test_what_rows_that_are_opened_once_are_worth() -> None:
    """One decoder block of GPT-2 small: fewer activates, less time, but never less than the MACs take."""
    options = ("workload.model.layers=1", "workload.prompt_tokens=16", "workload.generate_tokens=1")
    alone, four = gpt2(*options), gpt2(*options, "workload.prefill=matrix")
    assert alone.dram is not None
    assert four.dram is not None
    assert alone.interface is not None
    assert four.interface is not None
    assert four.dram.commands["ACT_AB"] < 0.5 * alone.dram.commands["ACT_AB"]
    assert four.dram.commands["WR"] == alone.dram.commands["WR"]
    macs = 16 * (768 * 2304 + 768 * 768 + 2 * 768 * 3072) / 2048  # in-bank MACs of products, one ns each
    assert macs * 1e-9 < four.time.seconds < 0.9 * alone.time.seconds
    # a processor would read the weights once for four tokens: what PIM saves on the interface shrinks
    assert four.interface.reduction < 0.35 * alone.interface.reduction  # type: ignore[operator]


def test_a_batch_shares_rows_and_nothing_else() -> None:
    options = ("workload.model.layers=1", "workload.generate_tokens=3")
    one, two = gpt2(*options), gpt2(*options, "workload.batch=2")
    assert two.tokens is not None
    assert one.tokens is not None
    assert (two.tokens.prompt, two.tokens.generated) == (2, 6)
    assert two.dram is not None
    assert one.dram is not None
    assert two.dram.commands["WR"] == 2 * one.dram.commands["WR"]
    assert two.tokens.per_second > one.tokens.per_second  # type: ignore[operator]
    assert two.ops["attention_scores"].count == 2 * one.ops["attention_scores"].count
    assert one.memory is not None
    assert two.memory is not None
    assert two.memory["dram"]["persistent_bytes"] == 2 * one.memory["dram"]["persistent_bytes"] > 0
    assert two.memory["asic.sram"]["peak_bytes"] <= two.memory["asic.sram"]["capacity_bytes"] == 131072
    assert two.latency is not None
    assert one.latency is not None
    assert two.latency.tpot_s > one.latency.tpot_s  # type: ignore[operator]


# ------------------------------------------------------------------------------------------------------------ bad input


def test_what_does_not_fit() -> None:
    with pytest.raises(
        CapacityExceeded, match=r"^asic.sram_bytes must hold the buffers of gpt2_decode, for each of 9 tokens at"
    ):
        gpt2("workload.batch=9")
    with pytest.raises(
        CapacityExceeded, match=r"^pim.global_buffer_bytes must hold a column of each of 4 tokens, not 64 bytes$"
    ):
        gpt2(*SMALL, "workload.batch=4", "arch.pim.global_buffer_bytes=64", "workload.model.heads=8")
    with pytest.raises(CapacityExceeded, match=r"^dram.rows must hold gpt2_xl_decode with a KV cache of 1024 tokens: "):
        simulate("pim_gpt", "gpt2_xl_decode", overrides=["workload.batch=16", "arch.asic.sram_bytes=33554432"])


def test_what_is_not_together() -> None:
    with pytest.raises(
        MappingError, match=r"^dispatch must be overlap where several tokens are processed at once, not 'serial'$"
    ):
        gpt2(*SMALL, "workload.batch=2", "arch.dispatch=serial")
    with pytest.raises(
        InputError, match=r"^workload.batch must be 1 for a comparison with t4, which knows no batches, not 2$"
    ):
        gpt2(*SMALL, "workload.batch=2", baselines=["t4"])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("batch", "0", r"^--set .*: batch: must be greater than 0, not 0$"),
        ("prefill_tokens", "-1", r"^--set .*: prefill_tokens: must be greater than 0, not -1$"),
        (
            "prefill",
            "matrx",
            r"^--set .*: prefill: must be one of token_by_token, matrix, not 'matrx'; did you mean 'matrix'\?$",
        ),
    ],
)
def test_bad_fields(field: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_workload("gpt2_decode", [(field, value)])
