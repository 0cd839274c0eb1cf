"""Hand examples and figures of the rest of the family."""

from __future__ import annotations

import numpy as np
import pytest

from pimsim.workload.attention.base import Case, algorithm, count
from pimsim.workload.attention.reordered import Reordered


def test_lanes_of_the_reordered_stream_need_one_token_per_step() -> None:
    case = Case(queries=128, keys=128, d_head=1, causal=False)
    assert Reordered(lanes=4).stream(case)[:2] == (4_099, 4_227)
    naive = Reordered(lanes=4, reorder=False).stream(case)
    assert (naive.steps, naive.tokens) == (128**2 // 4, 128**2 + 128)
    odd = Case(queries=129, keys=129, d_head=1, causal=False)
    assert [Reordered(lanes=p).stream(odd).steps for p in (1, 4, 8)] == [16_641, 4_257, 2_193]
    for lanes in (1, 2, 4, 8, 16, 32, 64):
        assert Reordered(lanes=lanes).stream(case).bandwidth < 2
        assert Reordered(lanes=lanes, reorder=False).stream(case).bandwidth == pytest.approx(lanes, rel=0.01)


def test_each_pair_passes_once_and_rows_finish_in_order() -> None:
    case = Case(queries=7, keys=5, d_head=1, causal=False)
    pairs = [pair for step in Reordered(lanes=3).steps(case) for pair in step]
    assert sorted(pairs) == [(i, j) for i in range(7) for j in range(5)]
    last = {i: at for at, (i, _) in enumerate(pairs)}
    assert sorted(last, key=last.__getitem__) == list(range(7))
    assert [j for i, j in pairs if i == 1] == [1, 2, 3, 4, 0]
