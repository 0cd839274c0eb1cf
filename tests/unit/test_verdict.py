"""One comparison serves every kind of machine."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from pimsim.config import load_arch, load_workload
from pimsim.functional.verdict import compare, relative_error, summary
from pimsim.program.isa import Op
from pimsim.run import simulate_loaded
from pimsim.runners import RunOptions

OP = Op("softmax", "h1.softmax")


def test_the_worst_element_is_named() -> None:
    exact = np.array([[1.0, 2.0], [4.0, 8.0]])
    verdict = compare(OP, exact + np.array([[0.0, 0.1], [0.3, 0.2]]), exact, 0.2, "layer 1, ")
    assert not verdict.passed
    assert (verdict.error, verdict.size, verdict.excess) == pytest.approx((0.3, 8.0, 1.5))
    assert verdict.where == (1, 0)
    assert verdict.message("bfloat16") == (
        "h1.softmax (softmax) must be what the reference computes: layer 1, element [1, 0] must be 4 in bfloat16, not 4.3 "
        "(1.5 times the allowed error)"
    )
    assert (
        compare(OP, np.ones(3), np.ones(3), 1e-9)
        .message("x")
        .startswith("h1.softmax (softmax) must be what the reference computes: element 0 ")
    )


def test_what_was_never_computed_is_infinitely_wrong() -> None:
    assert compare(OP, np.array([1.0, np.nan]), np.ones(2), 1.0).excess == inf
    assert compare(OP, np.ones(3), np.ones(2), 1.0).excess == inf
    assert compare(OP, np.ones(2), np.ones(2), 0.0).excess == inf  # a bound of zero says nothing
    assert compare(OP, np.ones(2), np.ones(2), 1e-30).passed


def test_figures_are_the_largest_of_a_kind() -> None:
    verdicts = [compare(OP, np.array([1.0 + off]), np.ones(1), 0.5) for off in (0.1, 0.4, 0.2)]
    assert summary(verdicts) == {
        "softmax": pytest.approx(
            {"compared": 3, "max_abs_error": 0.4, "max_rel_error": 0.4, "tolerance": 0.5, "used": 0.8}
        )
    }


def test_relative_errors() -> None:
    assert relative_error(np.array([3.0, 4.5]), np.array([3.0, 4.0])) == pytest.approx(0.1)
    assert relative_error(np.array([-inf, 1.0]), np.array([-inf, 1.0])) == 0
    assert relative_error(np.array([0.0, 1.0]), np.array([-inf, 1.0])) == inf
    assert relative_error(np.array([0.5]), np.zeros(1)) == 0.5


def test_attention_by_itself_reports_relative_errors_that_were_measured() -> None:
    found = simulate_loaded(
        load_arch("pim_gpt"), load_workload("attention_decode"), RunOptions(check_tokens=1)
    ).functional
    assert found is not None
    row = found["by_op"]["scores"]
    assert 0 < row["max_rel_error"] < 2.0**-7
    assert 0 < row["max_abs_error"] < row["tolerance"]
