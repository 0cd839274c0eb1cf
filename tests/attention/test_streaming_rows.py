"""Rows of masked scores on the streaming machine take as long as they are, and both engines say so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pimsim.config import load_arch
from pimsim.machine.fpga.fast import run_region as fast
from pimsim.machine.fpga.ports import PortTiming
from pimsim.machine.fpga.reference import run_region as reference
from pimsim.machine.fpga.schedule import run_program
from pimsim.mapper.fpga.expansion import lower
from pimsim.program.dataflow import Call, Stage, expand
from pimsim.runners.fpga_primitives import stream_units
from pimsim.workload.attention import primitives as p
from pimsim.workload.attention.base import Case, algorithm
from pimsim.workload.attention.expansion import Expansion

PORTS = PortTiming(2, 1, 64, 16, 16)
MACHINE = stream_units(load_arch("edge_moe_zcu102").value)


@st.composite
def bands(draw: st.DrawFn) -> p.Band:
    low = draw(st.none() | st.integers(-4, 3))
    high = draw(st.none() | st.integers(0 if low is None else max(low, 0), 6))
    return p.Band(low, high, draw(st.integers(0, 5)), draw(st.integers(0, 5)))


def calls_of(band: p.Band, rows: int, columns: int, heads: int, groups: int, streamed: bool) -> Sequence[Call]:
    """Attention under a band, keys and values on the chip or streaming past the queries and weights."""
    e = Expansion({"q": (heads, rows, 8), "k": (groups, columns, 8), "v": (groups, columns, 8)})
    q, k, v = (e.load(e[name]) if streamed or name == "q" else e[name] for name in ("q", "k", "v"))
    s = e.scores(q, k, 1.0, band)
    e.store(e.normalise(e.fold(s, v)), name="output")
    return lower(e.graph(), MACHINE).calls


def iterations_by_row(stage: Stage) -> list[int]:
    """Iterations of each row, which ends with the one that hands the row on."""
    found = [0]
    for action in expand(stage.nest):
        found[-1] += 1
        if stage.actions[action].writes:
            found.append(0)
    return found[:-1]


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    band=bands(), rows=st.integers(1, 7), columns=st.integers(1, 9), groups=st.integers(1, 2), share=st.integers(1, 2),
    streamed=st.booleans(),
)  # fmt: skip
def test_rows_are_as_long_as_their_entries_and_engines_agree(
    band: p.Band, rows: int, columns: int, groups: int, share: int, streamed: bool
) -> None:
    heads = groups * share
    calls = calls_of(band, rows, columns, heads, groups, streamed)
    i, j = np.arange(rows)[:, None] + band.row0, np.arange(columns)[None, :] + band.col0
    allowed = np.ones((rows, columns), bool)
    allowed &= (i - j >= band.low) if band.low is not None else True
    allowed &= (i - j <= band.high) if band.high is not None else True
    weights = next(call for call in calls if call.op == "exponentiate")
    per_row = np.tile(allowed.sum(1), heads)
    lanes = MACHINE.units["compare"].lanes
    expected = [max(1, -(-int(entries) // lanes)) for entries in per_row]
    assert iterations_by_row(weights.region.stages[0]) == expected
    exps = weights.region.stages[1]
    assert sum(dict(exps.actions[a].does).get("exps", 0) for a in expand(exps.nest)) == per_row.sum()
    one, other = (run_program(calls, PORTS, engine) for engine in (fast, reference))
    assert (one.starts, one.ends, one.regions) == (other.starts, other.ends, other.regions)


def test_a_streamed_key_meets_the_queries_that_attend_to_it() -> None:
    """Key 0 of seven causal rows meets seven queries of both heads, the last key one: in iterations of four products of 8."""
    calls = calls_of(p.Band(), 7, 7, 2, 1, streamed=True)
    product = next(call for call in calls if call.op == "scores").region.stages[1]
    met = [0]
    for action in expand(product.nest):
        if dict(product.actions[action].reads):
            met.append(0)
        met[-1] += dict(product.actions[action].does).get("macs", 0)
    assert met[1:] == [8 * 2 * (7 - key) for key in range(7)]


def test_causal_rows_are_compared_in_as_many_iterations_as_they_need() -> None:
    """Sixteen rows of 1 to 16 scores and the maximum so far, on eight lanes."""
    program = lower(algorithm("single_pass", {"block": 16}).expand(Case(queries=16, keys=16, d_head=8)), MACHINE)
    weights = next(call for call in program.calls if call.op == "exponentiate")
    assert iterations_by_row(weights.region.stages[0]) == [1] * 7 + [2] * 8 + [3]
