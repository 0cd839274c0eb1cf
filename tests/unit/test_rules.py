"""Exact arithmetic of timing values."""

from __future__ import annotations

import ast
import contextlib
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pimsim.arch.rules import FUNCTIONS, MAX_DEPTH, MAX_LENGTH, Expression, ExpressionError, Number, evaluate, exact

NAMES: dict[str, Number] = {"nRCD": 12, "nRP": 12, "tck_ps": 1.5, "half": Fraction(1, 2)}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("nRCD + nRP", 24),
        ("nRCD - 2 * nRP", -12),
        ("-nRCD + 1", -11),
        ("+nRCD", 12),
        ("(nRCD + 1) * 2", 26),
        ("7 / 2", Fraction(7, 2)),
        ("7 // 2", 3),
        ("-7 // 2", -4),
        ("7 % 4", 3),
        ("max(1, nRCD, 3)", 12),
        ("min(1, nRCD)", 1),
        ("max(5)", 5),
        ("ceil(nRCD / 5)", 3),
        ("floor(nRCD / 5)", 2),
        ("ceil(-1 / 2)", 0),
        ("0.1 + 0.2", Fraction(3, 10)),
        ("nRCD * half", 6),
        ("1000 / tck_ps", Fraction(2000, 3)),
        ("  nRCD  ", 12),
    ],
)
def test_value(text: str, value: Fraction | int) -> None:
    assert evaluate(text, NAMES) == value


@pytest.mark.parametrize("number", [3, 0.1, Fraction(1, 3)])
def test_a_number_is_its_own_value(number: Number) -> None:
    assert evaluate(number, {}) == (Fraction(1, 10) if number == 0.1 else number)


def test_burst_length_of_the_shipped_memory() -> None:
    names = {"burst_bytes": 32, "pins": 16, "pin_gbps": 16.0, "tck_ps": 1000.0}
    assert evaluate("ceil(8000 * burst_bytes / (pins * pin_gbps * tck_ps))", names) == 1


def test_names_are_those_of_values() -> None:
    assert Expression("max(nRAS + nRP, ceil(nRC / 2))").names == {"nRAS", "nRP", "nRC"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"^an expression must be arithmetic such as 'max\(nRAS \+ nRP, 2 \* nRC\)', not ''$"),
        ("nRCD +", r"^an expression must be arithmetic such as .*, not 'nRCD \+'$"),
        ("12 clocks", r"^an expression must be arithmetic such as"),
        ("\0", r"^an expression must be arithmetic such as"),
        ("(" * 240 + "1" + ")" * 240, r"^an expression must be arithmetic such as"),
        ("2 ** 9", r"^an expression must be made of numbers, names, .* and max, min, ceil, floor, not '2 \*\* 9'$"),
        ("a.b", r"^an expression must be made of .*, not 'a\.b'$"),
        ("[1][0]", r"^an expression must be made of .*, not '\[1\]\[0\]'$"),
        ("1 if a else 2", r"^an expression must be made of"),
        ("1 < 2", r"^an expression must be made of"),
        ("not 1", r"^an expression must be made of"),
        ("'text'", r"^an expression must be made of"),
        ("1j", r"^an expression must be made of"),
        ("lambda: 1", r"^an expression must be made of"),
        ("lambda: " + "-" * 480 + "1", r"^an expression must be made of"),
        ("True", r"^a value must be a number, not True$"),
        ("1e999", r"^a value must be finite, not inf$"),
        ("ceil", r"^ceil must be called, as in ceil\(\.\.\.\)$"),
        ("ciel(1)", r"^a function must be one of max, min, ceil, floor, not 'ciel'; did you mean 'ceil'\?$"),
        ("__import__('os')", r"^a function must be one of max, min, ceil, floor, not '__import__'$"),
        ("a.ceil(1)", r"^a function must be one of max, min, ceil, floor, not 'a\.ceil'"),
        ("ceil(1, 2)", r"^ceil must have one argument, not 2$"),
        ("floor()", r"^floor must have one argument, not 0$"),
        ("max()", r"^max must have at least one argument$"),
        ("max(*a)", r"^max must have plain arguments$"),
        ("max(1, key=2)", r"^max must have plain arguments$"),
        ("1" * (MAX_LENGTH + 1), r"^an expression must have at most 500 characters, not 501$"),
        ("-" * MAX_DEPTH + "1", r"^an expression must be nested at most 100 deep$"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(ExpressionError, match=message):
        Expression(text)


def test_an_unknown_name_asks_for_the_closest() -> None:
    with pytest.raises(ExpressionError, match=r"^a name must be one of half, .*, not 'nRDC'; did you mean 'nRCD'\?$"):
        evaluate("nRDC + 1", NAMES)


@pytest.mark.parametrize("text", ["1 / 0", "1 // 0", "1 % 0", "1 / (nRCD - nRP)"])
def test_division_by_zero(text: str) -> None:
    with pytest.raises(ExpressionError, match=r"^a divisor must not be zero$"):
        evaluate(text, NAMES)


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_a_number_must_be_finite(number: float) -> None:
    with pytest.raises(ExpressionError, match=r"^a value must be finite, not"):
        exact(number)


def test_a_truth_value_is_no_number() -> None:
    with pytest.raises(ExpressionError, match=r"^a value must be a number, not True$"):
        evaluate("flag", {"flag": True})


@given(st.text(alphabet="nRCD0123456789.+-*/%(), ceilmaxfor_'[]", max_size=40) | st.text(max_size=40))
def test_any_text_has_a_value_or_an_expression_error(text: str) -> None:
    with contextlib.suppress(ExpressionError):
        assert isinstance(evaluate(text, NAMES), Fraction)


NUMBERS = st.integers(0, 99).map(str) | st.sampled_from(["nRCD", "nRP"])
TERMS = st.recursive(
    NUMBERS,
    lambda inner: (
        st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda parts: f"({' '.join(parts)})")
        | inner.map(lambda each: f"-{each}")
        | st.tuples(st.sampled_from(["max", "min"]), inner, inner).map(lambda p: f"{p[0]}({p[1]}, {p[2]})")
    ),
    max_leaves=8,
)


@given(TERMS)
def test_whole_arithmetic_equals_python(text: str) -> None:
    names = {"nRCD": 12, "nRP": 7}
    expected = eval(compile(ast.parse(text, mode="eval"), "text", "eval"), {"max": max, "min": min}, names)
    assert evaluate(text, names) == expected


def test_functions_are_named_for_messages() -> None:
    assert FUNCTIONS == ("max", "min", "ceil", "floor")
