"""Safe, exact arithmetic for timing values: ``"nRCD + ceil(tWTR_ns * 1000 / tck_ps)"``.

Every number is a `fractions.Fraction`, so nothing is rounded before ``ceil`` or ``floor`` says so.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from pimsim.errors import did_you_mean

Number = int | float | Fraction

MAX_LENGTH = 500
"""Characters in one expression."""

MAX_DEPTH = 100
"""Nesting of operators, functions and signs in one expression."""

_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction | int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_ROUNDERS: dict[str, Callable[[Fraction], int]] = {"ceil": math.ceil, "floor": math.floor}
_CHOOSERS: dict[str, Callable[[list[Fraction]], Fraction]] = {"max": max, "min": min}

FUNCTIONS = (*_CHOOSERS, *_ROUNDERS)
"""Names that stand for a function and so cannot be names of values."""


class ExpressionError(ValueError):
    """An expression is malformed, uses an unknown name or has no value."""


@dataclass(frozen=True)
class Expression:
    """One expression in named values; what it may contain is checked when it is made.

    Allowed are ``+ - * / // %``, parentheses, signs, numbers, names and the functions `FUNCTIONS`.

    >>> Expression("ceil(nRCD / 2) + 1").evaluate({"nRCD": 25})
    Fraction(14, 1)

    Raises:
        ExpressionError: the text is empty, too long, too deep, malformed or uses something else.
    """

    text: str

    def __post_init__(self) -> None:
        _check(self._body, depth=1)

    @cached_property
    def _body(self) -> ast.expr:
        return parse(self.text, MAX_LENGTH, "an expression must be arithmetic such as 'max(nRAS + nRP, 2 * nRC)'")

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of values that the expression reads."""
        found = {node.id for node in ast.walk(self._body) if isinstance(node, ast.Name)}
        return frozenset(found.difference(FUNCTIONS))

    def evaluate(self, names: Mapping[str, Number]) -> Fraction:
        """The exact value, with each name replaced by its entry in ``names``.

        Raises:
            ExpressionError: a name is unknown, a divisor is zero, or a named value is not finite.
        """
        return _evaluate(self._body, names)


def evaluate(value: Number | str, names: Mapping[str, Number]) -> Fraction:
    """The exact value of a number or of the text of an `Expression`.

    >>> evaluate("max(a, 2 * b)", {"a": 3, "b": 0.1})
    Fraction(3, 1)
    >>> evaluate(0.1, {})
    Fraction(1, 10)

    Raises:
        ExpressionError: the text is malformed, a name is unknown, a divisor is zero, or a number is not finite.
    """
    return Expression(value).evaluate(names) if isinstance(value, str) else exact(value)


def exact(number: Number) -> Fraction:
    """The fraction that a number is written as: ``0.1`` is one tenth, not the nearest binary fraction.

    Raises:
        ExpressionError: the number is a truth value, infinite or not a number.
    """
    if isinstance(number, bool):
        raise ExpressionError(f"a value must be a number, not {number}")
    if isinstance(number, float):
        if not math.isfinite(number):
            raise ExpressionError(f"a value must be finite, not {number}")
        return Fraction(repr(float(number)))
    return Fraction(number)


def parse(text: str, most: int, wanted: str) -> ast.expr:
    """The syntax tree of an expression, of which nothing is checked or executed yet.

    Raises:
        ExpressionError: it has more than ``most`` characters, or is no expression; ``wanted`` says what it must be.
    """
    if len(text) > most:
        raise ExpressionError(f"an expression must have at most {most} characters, not {len(text)}")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ExpressionError(f"{wanted}, not {text!r}") from error


def _check(node: ast.expr, depth: int) -> None:
    """Refuse whatever is not on the white list."""
    if depth > MAX_DEPTH:
        raise ExpressionError(f"an expression must be nested at most {MAX_DEPTH} deep")
    match node:
        case ast.Constant(value=value) if isinstance(value, int | float):
            exact(value)
        case ast.Name(id=name) if name not in FUNCTIONS:
            pass
        case ast.Name(id=name):
            raise ExpressionError(f"{name} must be called, as in {name}(...)")
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            _check(operand, depth + 1)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            _check(left, depth + 1)
            _check(right, depth + 1)
        case ast.Call():
            _check_call(node, depth)
        case _:
            raise ExpressionError(
                "an expression must be made of numbers, names, parentheses, + - * / // % and "
                f"{', '.join(FUNCTIONS)}, not {_written(node)!r}"
            )


def _check_call(node: ast.Call, depth: int) -> None:
    name = node.func.id if isinstance(node.func, ast.Name) else _written(node.func)
    if name not in FUNCTIONS:
        raise ExpressionError(
            f"a function must be one of {', '.join(FUNCTIONS)}, not {name!r}{did_you_mean(name, FUNCTIONS)}"
        )
    if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
        raise ExpressionError(f"{name} must have plain arguments")
    if name in _ROUNDERS and len(node.args) != 1:
        raise ExpressionError(f"{name} must have one argument, not {len(node.args)}")
    if not node.args:
        raise ExpressionError(f"{name} must have at least one argument")
    for argument in node.args:
        _check(argument, depth + 1)


def _written(node: ast.expr) -> str:
    try:
        return ast.unparse(node)
    except RecursionError:
        return type(node).__name__


def _evaluate(node: ast.expr, names: Mapping[str, Number]) -> Fraction:
    """The value of a node that `_check` has passed."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return exact(value)
        case ast.Name(id=name):
            return _look_up(name, names)
        case ast.UnaryOp(op=op, operand=operand):
            operated = _evaluate(operand, names)
            return -operated if isinstance(op, ast.USub) else operated
        case ast.BinOp(left=left, op=op, right=right):
            return _apply(op, _evaluate(left, names), _evaluate(right, names))
        case ast.Call(func=ast.Name(id=name), args=args):
            values = [_evaluate(argument, names) for argument in args]
            return _CHOOSERS[name](values) if name in _CHOOSERS else Fraction(_ROUNDERS[name](values[0]))
        case _:  # pragma: no cover - _check has refused it
            raise ExpressionError(f"an expression cannot hold {_written(node)!r}")


def _look_up(name: str, names: Mapping[str, Number]) -> Fraction:
    if name not in names:
        known = ", ".join(sorted(names)) or "(none)"
        raise ExpressionError(f"a name must be one of {known}, not {name!r}{did_you_mean(name, names)}")
    return exact(names[name])


def _apply(op: ast.operator, left: Fraction, right: Fraction) -> Fraction:
    try:
        return Fraction(_OPERATORS[type(op)](left, right))
    except ZeroDivisionError as error:
        raise ExpressionError("a divisor must not be zero") from error
