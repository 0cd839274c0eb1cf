"""Costs of the ASIC's functions, computed by hand."""

from __future__ import annotations

from typing import Literal

import pytest
from builders import arch
from hypothesis import given
from hypothesis import strategies as st

from pimsim.arch.functions import FUNCTIONS, FunctionCost, cost
from pimsim.arch.system import AsicConfig

Units = Literal["pipelined", "shared"]


def asic(units: Units, **fields: int) -> AsicConfig:
    """256 adders and 128 multipliers of two cycles each, 6 Taylor terms, 3 and 1 Newton steps."""
    return arch().asic.model_copy(update={"function_units": units, **fields})


# exp is 7 additions and 7 multiplications, a reciprocal 4 and 7, 1/sqrt 2 and 4; a chain of a and m of them is 2 (a + m) - 1
# cycles deep, and a tree over n lanes adds 2 log2 n
BY_HAND: dict[tuple[str, int, Units], FunctionCost] = {
    # 768 / 256 cycles
    ("add", 768, "pipelined"): FunctionCost(busy=3, latency=4, adds=768, multiplies=0),
    ("add", 768, "shared"): FunctionCost(busy=3, latency=4, adds=768, multiplies=0),
    ("scale", 768, "pipelined"): FunctionCost(busy=6, latency=7, adds=0, multiplies=768),
    ("reciprocal", 12, "pipelined"): FunctionCost(busy=1, latency=1 + 21, adds=48, multiplies=84),
    # 13 additions and 18 multiplications per element
    ("gelu", 1024, "pipelined"): FunctionCost(busy=8, latency=8 + 61, adds=13312, multiplies=18432),
    ("gelu", 1024, "shared"): FunctionCost(busy=144, latency=144 + 61, adds=13312, multiplies=18432),
    # exp, reciprocal, polynomial, ends: 7 + 4 + 5 + 2 additions and 7 + 7 + 6 + 4 multiplications; the longest chain, of
    # 4 + 5 + 1 and 7 + 6 + 2, goes through the reciprocal and the polynomial
    ("gelu_erf", 1024, "pipelined"): FunctionCost(busy=8, latency=8 + 49, adds=18432, multiplies=24576),
    ("relu", 1024, "shared"): FunctionCost(busy=4, latency=4 + 1, adds=1024, multiplies=0),
    # maximum: 1024/256 cycles and 1 + 16; exponentials: 1024/128 cycles and 31 + 14; the two use different units
    ("softmax", 1024, "pipelined"): FunctionCost(busy=8, latency=4 + 17 + 8 + 45, adds=10240, multiplies=7168),
    ("softmax", 1024, "shared"): FunctionCost(busy=4 + 56, latency=4 + 17 + 56 + 45, adds=10240, multiplies=7168),
    # 256 adders take 768 elements in three cycles
    ("layernorm", 768, "pipelined"): FunctionCost(busy=13, latency=6 + 17 + 1 + 19 + 6 + 7, adds=3075, multiplies=2311),
    ("argmax", 1, "pipelined"): FunctionCost(busy=1, latency=1 + 2 + 2 - 1, adds=1, multiplies=0),
}


@pytest.mark.parametrize(("function", "length", "units"), BY_HAND)
def test_cost_by_hand(function: str, length: int, units: Units) -> None:
    assert cost(function, length, asic(units)) == BY_HAND[function, length, units]


@given(st.sampled_from(FUNCTIONS), st.integers(1, 10_000), st.integers(1, 300), st.integers(1, 300))
def test_a_lane_per_multiplier_is_never_slower(function: str, length: int, adders: int, multipliers: int) -> None:
    pipelined = cost(function, length, asic("pipelined", adders=adders, multipliers=multipliers))
    shared = cost(function, length, asic("shared", adders=adders, multipliers=multipliers))
    assert pipelined.busy <= shared.busy
    assert pipelined.latency <= shared.latency
    assert (pipelined.adds, pipelined.multiplies) == (shared.adds, shared.multiplies)


@given(st.sampled_from(FUNCTIONS), st.integers(1, 10_000), st.sampled_from(["pipelined", "shared"]))
def test_cost_grows_with_the_length(function: str, length: int, units: Units) -> None:
    short, long = cost(function, length, asic(units)), cost(function, length + 1, asic(units))
    assert 1 <= short.busy <= short.latency
    assert short.busy <= long.busy
    assert short.latency <= long.latency


def test_an_unknown_function_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="tanh"):
        cost("tanh", 1, asic("shared"))
