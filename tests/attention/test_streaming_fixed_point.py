"""Primitives on the streaming machine in fixed point: all algorithms, any formats, named overflows, caught mutants."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pimsim.config import load_arch
from pimsim.errors import ConfigError
from pimsim.functional import fixed_primitives
from pimsim.functional.fixed_primitive_bounds import FixedBounds
from pimsim.functional.fixed_primitives import FixedUnits, whole_numbers
from pimsim.functional.primitive_check import EXACT, FixedPoint, check
from pimsim.functional.streaming.fixed import Formats, logarithm
from pimsim.machine.fpga.fast import run_region as fast
from pimsim.machine.fpga.schedule import run_program
from pimsim.mapper.fpga.passes import PASSES
from pimsim.program.streaming import StreamProgram
from pimsim.run import simulate
from pimsim.runners.fpga_primitives import fixed_point
from pimsim.workload.attention import primitives as p
from pimsim.workload.attention.base import Case, algorithm
from tests.attention.test_streaming import MUTANTS, PAIRS, PORTS, lowered, mutated

NAMES = load_arch("edge_moe_zcu102").value.fpga.formats
assert NAMES is not None
WIDER = dict.fromkeys(("features", "accumulator", "softmax"), "fixed32_16_wrap")


def formats(**names: str) -> FixedPoint:
    assert NAMES is not None
    return FixedPoint(Formats.of(NAMES.model_copy(update=names)), 8)


def checked(
    name: str, number: int, phase: str, fixed: FixedPoint | None = None, program: StreamProgram | None = None
) -> dict[str, Any]:
    kind, case, decided, own = lowered(name, number, phase)
    calls = (program or own).calls
    times = run_program(calls, PORTS, fast)
    spans = list(zip(times.starts, times.ends, strict=True))
    return check(program or own, spans, kind, case, 1, decided, fixed or formats())


def test_the_machine_has_the_formats_that_are_tested() -> None:
    assert fixed_point(load_arch("edge_moe_zcu102").value.fpga) == formats()


BEYOND = ("cascaded_group", 0, "prefill")
"""Scores of weights as they are drawn, in the thousands."""


@pytest.mark.parametrize(("name", "number", "phase"), [pair for pair in PAIRS if pair != BEYOND])
def test_programs_compute_their_algorithm_in_the_formats_of_the_machine(name: str, number: int, phase: str) -> None:
    found = checked(name, number, phase)
    assert found["message"] is None
    assert (found["format"], found["overflows"]) == ("fixed32_10_wrap", {})
    assert found["compared"] > 0
    assert found["max_rel_error"] <= found["tolerance"] < 1e-3


@pytest.mark.parametrize("features", ["fixed32_10_wrap", "fixed32_10"])
def test_an_overflow_is_a_failed_check_that_names_the_operation(features: str) -> None:
    found = checked(*BEYOND, formats(features=features, accumulator=features))
    assert not found["passed"]
    assert re.match(
        rf"^scores\.3 \(scores\) must fit {features}; 59 of its numbers do not, the largest of which has the magnitude 3824\.",
        found["message"],
    )
    assert found["overflows"]["scores.3"] == 59
    assert checked(*BEYOND, formats(**WIDER))["message"] is None


def test_a_given_tensor_that_does_not_fit_is_named() -> None:
    units = FixedUnits(formats().formats, 8, set())
    words = units.given({"fits": np.array([511.9, -512.0]), "too large": np.array([512.0, 3.0])})
    assert list(units.overflows) == ["too large"]
    assert words["too large"].tolist() == [-512.0, 3.0]


def test_sums_beyond_64_bits_are_seen() -> None:
    """Eight products of 500 by 500 are 2,000,000, which with 44 bits behind the point does not fit 64."""
    op = p.Product("product", "product", ("a", "b"), sources=((1, 8), (8, 1)))
    units = FixedUnits(formats().formats, 8, set())
    units.compute(op, [np.full((1, 8), 512 - 2.0**-22), np.full((8, 1), 512 - 2.0**-22)])
    assert units.overflows["product"].count == 1
    assert units.overflows["product"].largest == pytest.approx(8 * 512**2)


SOME = [("flash", 2, "prefill"), ("lbanp", 0, "query"), ("landmark", 1, "prefill"), ("topk_ffn", 0, "prefill"),
        ("memory_layer", 1, "decode"), ("llm_int8", 1, "prefill"), ("clipped_softmax", 0, "prefill"), ("fma", 4, "prefill"),
        ("shvit", 0, "prefill"), ("linear", 1, "prefill"), ("aaren", 0, "update"), ("unified_norm", 1, "decode"),
        ("gated", 0, "prefill"), ("cmab", 0, "update")]  # fmt: skip


@st.composite
def names_of_formats(draw: st.DrawFn) -> dict[str, str]:
    def one(least: int) -> str:
        bits = draw(st.integers(least + 8, 32))
        mode = draw(st.sampled_from(("", "_wrap", "_nearest_wrap", "_truncate_saturate")))
        return f"fixed{bits}_{draw(st.integers(least, bits - 7))}{mode}"

    return {"features": one(5), "accumulator": one(6), "softmax": one(4)}


@settings(deadline=None, max_examples=40, derandomize=True)
@given(pair=st.sampled_from(SOME), names=names_of_formats())
def test_in_any_formats_a_run_stays_within_its_bounds_or_overflows(pair: Any, names: dict[str, str]) -> None:
    found = checked(*pair, formats(**names))
    assert found["passed"] == (not found["overflows"]), (names, found)
    if found["overflows"]:
        assert next(iter(found["overflows"])) in found["message"]


def test_every_kind_is_computed_and_bounded() -> None:
    computed = set(FixedUnits.kinds)
    assert set(PASSES) <= computed | EXACT
    assert not computed & EXACT
    assert set(FixedBounds.kinds) == computed - {"outer"}  # of which nothing is lost
    assert set(FixedUnits.functions) | set(FixedBounds.functions) <= set(p.FUNCTIONS)


def test_the_running_maximum_starts_at_the_smallest_number() -> None:
    units = FixedUnits(formats().formats, 8, set())
    state = units.compute(p.EmptyState("empty", "empty_state", (), to=(1, 2, 3)), [])
    assert state.tolist() == [[[-512.0, 0.0, 0.0]] * 2]
    scores = np.array([[[-512.0, -512.0], [-512.0, -500.0]]])  # a row of masked scores, and one that has a score
    op = p.Exponentiate("exp", "exponentiate", ("s", "empty"), sources=((1, 2, 2), (1, 2, 3)), shape=(1, 2, 2))
    found = units.compute(op, [scores, state])
    assert found.head.tolist() == [[[-512.0, 0.0], [-500.0, 1.0]]]
    assert found.weights.tolist() == [[[0.0, 0.0], [0.0, 1.0]]]
    assert found.factor.ravel().tolist() == [0.0, 0.0]
    assert units.overflows == {}


def test_the_softmax_of_primitives_has_the_published_errors() -> None:
    """As `softmax_errors` of the attention unit: 129 keys, 387 rows, standard normal scores."""
    units = FixedUnits(formats().formats, 8, set())
    scores = units.given({"s": np.random.default_rng(0).standard_normal((3, 129, 129))})["s"]
    op = p.Softmax("softmax", "softmax", ("s",), sources=((3, 129, 129),))
    found = units.compute(op, [scores])
    error = found - op.meaning(scores)
    assert float(np.sqrt((error * error).mean())) == pytest.approx(1.6e-7, rel=0.1)
    assert float(np.abs(found.sum(-1) - 1).max()) == pytest.approx(2.2e-5, rel=0.2)
    assert float(np.abs(error).max()) < 3.2e-6


def test_integers_stay_integers_until_they_are_scaled() -> None:
    kind, case = algorithm("llm_int8", {"d_out": 3, "sampled_outliers": 1}), Case(queries=5, keys=11, d_head=5, heads=4)
    graph = kind.expand(case, kind.decide(case, kind.sample(case, 1)))
    ops = {op.name: op for op in graph if isinstance(op, p.Primitive)}
    whole = whole_numbers(ops.values())
    integers = {op.function for name in whole if isinstance(op := ops[name], p.Elementwise)}
    assert integers == {"quantise", "zero_where"}
    assert [name for name in whole if isinstance(ops[name], p.Product)] == ["product.1"]


def test_logarithms_are_exact_up_to_the_last_step() -> None:
    soft = formats().formats.softmax
    x = np.array([1, 1 << 21, 1 << 22, 129 << 22])
    exact = np.log(x * soft.step)
    error = exact - logarithm(x, soft) * soft.step
    assert (error >= 0).all()
    assert (error < soft.step).all()


# ------------------------------------------------------------------------------------------------------------ mutants


@pytest.mark.parametrize("mutant", [name for name, (*_, error) in MUTANTS.items() if error is None])
def test_a_changed_program_is_caught(mutant: str) -> None:
    name, kind, change, _ = MUTANTS[mutant]
    assert checked(name, 0, "prefill", program=mutated(name, kind, change))["message"] is not None


@pytest.mark.parametrize("function", ["exponential", "reciprocal", "rounded", "inverse_root", "logarithm"])
def test_a_unit_that_is_off_by_a_few_steps_is_caught(function: str, monkeypatch: Any) -> None:
    right = getattr(fixed_primitives, function)

    def wrong(values: Any, *rest: Any) -> Any:
        return right(values, *rest) - 40

    monkeypatch.setattr(fixed_primitives, function, wrong)
    user = {"inverse_root": ("unified_norm", "prefill"), "logarithm": ("cmab", "update")}
    name, phase = user.get(function, ("flash", "prefill"))
    assert checked(name, 0, phase)["message"] is not None


def test_bounds_are_those_of_the_formats() -> None:
    fixed = formats(features="fixed32_10", accumulator="fixed32_12_wrap")
    bounds = FixedBounds(fixed.formats, 8, frozenset())
    op = p.Scores("s", "scores", ("q", "k"), sources=((1, 1, 16), (1, 3, 16)), scale=0.25)
    found = bounds(op, [np.ones((1, 1, 16)), np.ones((1, 3, 16))], np.full((1, 1, 3), 4.0))
    assert found == pytest.approx(np.full((1, 1, 3), 2 * 2.0**-20 + 2.0**-23), rel=1e-12)


# --------------------------------------------------------------------------------------------------------------- runs

FLASH = ("workload.algorithm=flash", "workload.tokens=40", "workload.causal=true", "workload.heads=1")


def functional(*overrides: str) -> dict[str, Any]:
    found = simulate(
        "edge_moe_zcu102", "attention_reordered", overrides=[*FLASH, *overrides], check_tokens=1
    ).functional
    assert found is not None
    return found


def test_the_formats_are_the_default_and_float32_is_a_choice() -> None:
    assert (functional()["format"], functional()["passed"]) == ("fixed32_10_wrap", True)
    other = functional("arch.fpga.primitives.arithmetic=float32")
    assert (other["format"], other["passed"], other.get("overflows")) == ("float32", True, None)
    assert functional("arch.fpga.formats=null")["format"] == "float32"


def test_fixed_point_without_formats_is_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=r"^--set arch\.fpga\.primitives\.arithmetic=fixed: fpga\.primitives\.arithmetic: must be float32, as the machine "
        r"has no fpga\.formats, not 'fixed'$",
    ):
        functional("arch.fpga.formats=null", "arch.fpga.primitives.arithmetic=fixed")
