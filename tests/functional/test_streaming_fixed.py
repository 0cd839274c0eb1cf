"""Fixed-point arithmetic of streaming machines against exact arithmetic, and the published errors of its approximations."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pimsim.config import load_arch
from pimsim.errors import ConfigError
from pimsim.functional.numerics import FixedSpec, fixed_spec
from pimsim.functional.streaming.errors import gelu_errors, softmax_errors
from pimsim.functional.streaming.fixed import Formats, accumulate, exponential, inverse_root, narrow, reciprocal
from pimsim.functional.streaming.softmax import running_sums

FEATURES = fixed_spec("fixed32_10_wrap")
NAMES = load_arch("edge_moe_zcu102").value.fpga.formats


def exact_narrow(value: Fraction, spec: FixedSpec) -> int:
    """The definition, in rationals."""
    scaled = value / Fraction(spec.step)
    units = math.floor(scaled) if spec.rounding == "truncate" else round(scaled)  # to even
    low, high = spec.limits
    if spec.overflow == "saturate":
        return min(max(units, low), high)
    return (units - low) % (1 << spec.bits) + low


@given(
    st.integers(-(1 << 50), 1 << 50),
    st.integers(0, 40),
    st.sampled_from(["fixed32_10_wrap", "fixed16_4", "fixed16_0_wrap", "ufixed8_0", "fixed12_3_nearest_wrap"]),
)
@settings(deadline=None, max_examples=200)
def test_narrowing_is_what_the_format_says(value: int, fraction: int, name: str) -> None:
    spec = fixed_spec(name)
    if spec.fraction_bits - fraction > 12:
        return  # the integer would leave 64 bits
    found = narrow(np.array([value]), fraction, spec)
    assert int(found[0]) == exact_narrow(Fraction(value, 1 << fraction), spec)


@given(st.integers(-(1 << 20), 1 << 20), st.integers(-(1 << 30), 1 << 30), st.integers(0, 30))
@settings(deadline=None, max_examples=50)
def test_a_product_is_narrowed_once(total: int, product: int, fraction: int) -> None:
    found = accumulate(np.array([total]), np.array([product]), fraction, FEATURES)
    exact = Fraction(total, 1 << 22) + Fraction(product, 1 << fraction)
    assert int(found[0]) == exact_narrow(exact, FEATURES)


def test_functions_drop_what_is_behind_the_last_step() -> None:
    x = np.array([0, -1, -(1 << 22), -15 << 22, -16 << 22])
    for value, found in zip(x, exponential(x, FEATURES), strict=True):
        exact = math.exp(int(value) / 2**22)
        assert 0 <= exact - found / 2**22 < 2**-22
    assert exponential(x, FEATURES)[-1] == 0  # beyond -15.25 nothing is left
    assert reciprocal(np.array([3 << 22, 0]), FEATURES).tolist() == [(1 << 22) // 3, 0]
    assert inverse_root(np.array([4 << 22, -5]), FEATURES).tolist() == [1 << 21, 2**33]


def sums_one_by_one(row: list[int]) -> tuple[int, int]:
    """The algorithm of the statistics unit on whole steps of 2^-22."""
    total, bias = 0, -(1 << 31)
    for x in row:
        if x > bias:
            e = math.floor(math.exp((bias - x) / 2**22) * 2**22) if total else 0
            total, bias = (total * e >> 22) + (1 << 22), x
        else:
            total += math.floor(math.exp((x - bias) / 2**22) * 2**22)
    return total, bias


def test_running_sums_are_those_of_the_algorithm() -> None:
    scores = (np.random.default_rng(1).standard_normal((5, 17)) * 2**23).astype(np.int64)
    total, bias = running_sums(scores[..., None], np.ones(scores.shape, bool), FEATURES)
    assert [(int(t), int(b)) for t, b in zip(total[:, 0], bias[:, 0], strict=True)] == [
        sums_one_by_one(row) for row in scores.tolist()
    ]


def test_gelu_has_the_published_errors() -> None:
    found = gelu_errors(NAMES)
    assert found.largest == pytest.approx(9.74e-5, rel=0.01)
    assert abs(found.at) == pytest.approx(0.016, rel=0.05)
    assert found.mean == pytest.approx(7.7e-6, rel=0.01)
    assert found.without_interpolation == pytest.approx(1.5e-2, rel=0.05)
    assert (found.largest_entry, found.largest_entry_at) == (pytest.approx(0.16997, abs=5e-6), 0.75)


def test_the_gelu_table_is_the_published_one() -> None:
    table = Formats.of(NAMES).gelu
    assert (len(table.table), table.step_bits, (len(table.table) - 1) / 32) == (177, 5, 5.5)
    exact = [a / 32 * math.erfc(a / 32 / math.sqrt(2)) / 2 for a in range(177)]
    assert np.abs(table.table * 2.0**-22 - exact).max() == pytest.approx(1.2e-7, rel=0.02)
    beyond = np.array([6 << 22, -6 << 22])
    assert table.apply(beyond, FEATURES).tolist() == [6 << 22, 0]


def test_the_softmax_has_the_published_errors() -> None:
    found = softmax_errors(NAMES)
    assert found.rms == pytest.approx(1.6e-7, rel=0.1)
    assert found.row_sum == pytest.approx(2.2e-5, rel=0.1)
    assert found.largest < 3.2e-6  # published for other scores, with larger weights
    assert softmax_errors(NAMES, deviation=1.5).largest > found.largest


def test_an_impossible_table_is_refused() -> None:
    wrong = NAMES.model_copy(update={"features": "fixed16_14_wrap"})
    with pytest.raises(
        ConfigError, match=r"^fpga.formats.gelu_step_bits must be at most the bits of features .* 2, not 5"
    ):
        Formats.of(wrong)
