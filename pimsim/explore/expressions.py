"""Expressions of sweep files: ``2 * arch.pim.multipliers``, ``arch.dram.channels * arch.dram.rows <= 65536``.

Arithmetic, comparisons and truth values over dotted names; nothing else is let through, and nothing is ever executed
that is not on the lists below.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from functools import cached_property
from typing import Any

from pimsim.arch.rules import ExpressionError, parse
from pimsim.errors import did_you_mean

MAX_LENGTH = 1000
"""Characters in one expression."""

MAX_DEPTH = 50
"""Nesting of operators and functions in one expression."""

_MAX_EXPONENT = 1000
_MAX_VALUE = 10**300
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "ceil": math.ceil,
    "floor": math.floor,
    "log2": math.log2,
    "max": max,
    "min": min,
    "round": round,
    "sqrt": math.sqrt,
}
"""Functions that an expression may call."""

_WANTED = "must be an expression such as '2 * arch.pim.multipliers' or 'arch.dram.channels <= 16'"


class Expression:
    """One expression; what it may contain is checked when it is made.

    >>> Expression("2 * arch.pim.multipliers").evaluate({"arch.pim.multipliers": 16}.__getitem__)
    32
    >>> sorted(Expression("a.b <= 4 and 'x' in c").names)
    ['a.b', 'c']

    Raises:
        ExpressionError: the text is too long, too deep, malformed or uses something that is not allowed.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._body = parse(text, MAX_LENGTH, _WANTED)
        _check(self._body, 1)

    @cached_property
    def names(self) -> frozenset[str]:
        """Dotted names of the values that it reads."""
        return frozenset(_names(self._body))

    def evaluate(self, look_up: Callable[[str], Any]) -> Any:
        """The value; a whole quotient of whole numbers is a whole number.

        Args:
            look_up: from a dotted name to its value.

        Raises:
            ExpressionError: it has no value, such as a division by zero or the sum of a text and a number.
        """
        try:
            return _evaluate(self._body, look_up)
        except (ArithmeticError, TypeError, ValueError) as error:
            raise ExpressionError(f"{self.text!r} must have a value ({error})") from error


def _dotted(node: ast.expr) -> str | None:
    """``a.b.c``, or None for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (head := _dotted(node.value)) is not None:
        return f"{head}.{node.attr}"
    return None


def _names(node: ast.expr) -> list[str]:
    if (name := _dotted(node)) is not None:
        return [name]
    inner = node.args if isinstance(node, ast.Call) else ast.iter_child_nodes(node)
    return [name for child in inner if isinstance(child, ast.expr) for name in _names(child)]


def _check(node: ast.expr, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ExpressionError(f"an expression must be nested at most {MAX_DEPTH} deep")
    match node:
        case ast.Constant(value=bool() | int() | float() | str()) | ast.Name() | ast.Attribute() if (
            isinstance(node, ast.Constant) or _dotted(node) is not None
        ):
            return
        case (
            ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Not()) | ast.BoolOp() | ast.IfExp() | ast.List() | ast.Tuple()
        ):
            pass
        case ast.BinOp(op=op) if type(op) in _ARITHMETIC:
            pass
        case ast.Compare(ops=ops) if all(type(op) in _COMPARISONS for op in ops):
            pass
        case ast.Call(func=ast.Name(id=name), args=[_, *_], keywords=[]) if name in FUNCTIONS:
            pass
        case ast.Call():
            name = _dotted(node.func) or ast.unparse(node.func)
            raise ExpressionError(
                f"a function must be one of {', '.join(FUNCTIONS)} with plain arguments, not {name!r}"
                f"{did_you_mean(name, FUNCTIONS)}"
            )
        case _:
            raise ExpressionError(
                f"an expression must be made of numbers, texts, dotted names, arithmetic, comparisons, and, or, not, "
                f"if, lists and {', '.join(FUNCTIONS)}, not {ast.unparse(node)!r}"
            )
    inner = node.args if isinstance(node, ast.Call) else ast.iter_child_nodes(node)
    for child in inner:
        if isinstance(child, ast.expr):
            _check(child, depth + 1)


def _evaluate(node: ast.expr, look_up: Callable[[str], Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name() | ast.Attribute():
            return look_up(_dotted(node) or "")
        case ast.UnaryOp(op=op, operand=operand):
            value = _evaluate(operand, look_up)
            return not value if isinstance(op, ast.Not) else -value if isinstance(op, ast.USub) else +value
        case ast.BinOp(left=left, op=op, right=right):
            return _apply(op, _evaluate(left, look_up), _evaluate(right, look_up))
        case ast.BoolOp(op=op, values=values):
            results = (bool(_evaluate(value, look_up)) for value in values)
            return all(results) if isinstance(op, ast.And) else any(results)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return _evaluate(body if _evaluate(test, look_up) else orelse, look_up)
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_evaluate(item, look_up) for item in items]
        case ast.Call(func=ast.Name(id=name), args=args):
            return FUNCTIONS[name](*(_evaluate(argument, look_up) for argument in args))
        case ast.Compare():
            return _compare(node, look_up)
    raise ExpressionError(f"an expression cannot hold {ast.unparse(node)!r}")  # pragma: no cover - _check refuses it


def _apply(op: ast.operator, left: Any, right: Any) -> Any:
    if not all(isinstance(side, int | float) for side in (left, right)):
        raise TypeError(f"arithmetic must be on numbers, not {left!r} and {right!r}")
    if isinstance(op, ast.Pow) and abs(right) > _MAX_EXPONENT:
        raise ValueError(f"an exponent must be at most {_MAX_EXPONENT}")
    value = _ARITHMETIC[type(op)](left, right)
    if isinstance(value, complex) or abs(value) > _MAX_VALUE:
        raise ValueError("a value must be real and below 1e300")
    whole = isinstance(op, ast.Div) and isinstance(left, int) and isinstance(right, int) and left % right == 0
    return left // right if whole else value


def _compare(node: ast.Compare, look_up: Callable[[str], Any]) -> bool:
    left = _evaluate(node.left, look_up)
    for op, right_node in zip(node.ops, node.comparators, strict=True):
        right = _evaluate(right_node, look_up)
        if not _COMPARISONS[type(op)](left, right):
            return False
        left = right
    return True


__all__ = ["FUNCTIONS", "Expression", "ExpressionError"]
