"""Functions of the ASIC over tensors in its SRAM: what the parts of attention algorithms cost there.

`pimsim.arch.functions` explains passes and prices them. The functions here work on rows: a row has a maximum, a sum, a factor of
its own. A comparison, and an element that only moves, take an adder for a cycle. A call is priced over the elements that
it works on; masked scores are left out. Exponentials and logarithms of a function are listed, so that programs can be counted.

=====================  =====================================================================================================
``move``               copy elements: parts, joins, other orders, look-ups on chip
``compare``            look at elements and put constants in some places: masks
``select``             the k largest of a row, by binary insertion into k sorted entries: ``log2(k + 1)`` comparisons each
``matmul``             products of operands that are both in the SRAM; one call per product, priced over its MACs
``row_max``            maximum of each row, and of an older one
``exponentials``       ``exp(x - m)`` of rows, and their sums
``rescale``            ``exp(old - new)`` of a number per row
``softplus``           ``a + log(1 + exp(b - a))`` of two numbers per row
``logarithm``          ``log(x) + m`` of numbers per row
``combine``            ``f x + y`` of elements and a factor per row
``merge_factors``      maximum of two states per row, and both exponentials of the distances to it
``merge``              ``f x + g y`` of elements and two factors per row
``rows_reciprocal``    1 / x of numbers per row, 0 for 0
``scale_rows``         elements times a factor per row
``norm_sums``          sum and sum of squares of rows; with ``norm_statistics`` and ``norm_scale`` layer normalisation
``elementwise.*``      functions of the entries (`pimsim.workload.attention.primitives.FUNCTIONS` has their meanings)
``reduce.*``           functions over an axis
=====================  =====================================================================================================

The logarithm takes the exponent field apart: ``log x = k log 2 + 2 atanh((m - 1) / (m + 1))`` with m in [0.7, 1.4], by a division
and a series of as many terms as ``exp``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pimsim.arch.functions import Pass
    from pimsim.arch.system import AsicFunctions

EXPONENTIALS = {
    "exponentials": 1,
    "rescale": 1,
    "softplus": 1,
    "merge_factors": 2,
    "elementwise.elu_plus_one": 1,
    "elementwise.exp": 1,
    "elementwise.sigmoid": 1,
    "elementwise.sigmoid_of_magnitude": 1,
}
"""Function -> exponentials for each element; that of a GELU is part of the activation and not counted, as in `count`."""

LOGARITHMS = {"logarithm": 1, "softplus": 1}
"""Function -> logarithms for each element."""


def tensor_passes() -> dict[str, Callable[[AsicFunctions], tuple[Pass, ...]]]:
    """Function -> its passes."""
    from pimsim.arch.functions import Pass, exp_pass, gelu_erf_pass, join_passes, reciprocal_pass, rsqrt_pass

    add, multiply = Pass(1, 0, 1, 0), Pass(0, 1, 0, 1)
    fused, reduced = Pass(1, 1, 1, 1), Pass(1, 0, 1, 0, reduces=True)
    sums = Pass(2, 1, 1, 1, reduces=True)
    normalised = Pass(2, 2, 2, 2)

    def log_pass(f: AsicFunctions) -> Pass:
        terms = f.exp_taylor_terms
        series = Pass(2 + terms, 2 + terms, 2 + terms, 2 + terms)  # m - 1, m + 1; z^2, Horner, times z; k log 2
        return join_passes(reciprocal_pass(f), series)

    def exp_of_difference(f: AsicFunctions) -> Pass:
        return join_passes(exp_pass(f), adds=1)

    def sigmoid(f: AsicFunctions) -> Pass:
        return join_passes(exp_pass(f), reciprocal_pass(f), adds=1)

    return {
        "move": lambda _f: (add,),
        "compare": lambda _f: (add,),
        "select": lambda _f: (add,),
        "matmul": lambda _f: (fused,),
        "row_max": lambda _f: (reduced,),
        "exponentials": lambda f: (join_passes(exp_pass(f), adds=2, reduces=True),),
        "rescale": lambda f: (exp_of_difference(f),),
        "softplus": lambda f: (join_passes(exp_of_difference(f), log_pass(f), adds=2),),
        "logarithm": lambda f: (join_passes(log_pass(f), adds=1),),
        "combine": lambda _f: (fused,),
        "merge_factors": lambda f: (add, exp_of_difference(f), exp_of_difference(f)),
        "merge": lambda _f: (Pass(1, 2, 1, 1),),
        "rows_reciprocal": lambda f: (reciprocal_pass(f),),
        "scale_rows": lambda _f: (multiply,),
        "norm_sums": lambda _f: (sums,),
        "norm_statistics": lambda f: (join_passes(rsqrt_pass(f), adds=2, multiplies=3),),
        "norm_scale": lambda _f: (normalised,),
        "elementwise.add": lambda _f: (add,),
        "elementwise.child": lambda _f: (fused,),
        "elementwise.clip": lambda _f: (Pass(3, 1, 3, 1),),
        "elementwise.divide": lambda f: (join_passes(reciprocal_pass(f), multiplies=1),),
        "elementwise.elu_plus_one": lambda f: (join_passes(exp_pass(f), adds=2),),
        "elementwise.exp": lambda f: (exp_pass(f),),
        "elementwise.gelu_gate": lambda f: (join_passes(gelu_erf_pass(f), multiplies=1),),
        "elementwise.inverse_root": lambda f: (join_passes(rsqrt_pass(f), adds=1),),
        "elementwise.magnitude": lambda _f: (add,),
        "elementwise.multiply": lambda _f: (multiply,),
        "elementwise.quantise": lambda f: (join_passes(reciprocal_pass(f), adds=1, multiplies=2),),
        "elementwise.relu": lambda _f: (add,),
        "elementwise.scale": lambda _f: (multiply,),
        "elementwise.shift": lambda _f: (add,),
        "elementwise.sigmoid": lambda f: (sigmoid(f),),
        "elementwise.sigmoid_of_magnitude": lambda f: (join_passes(sigmoid(f), multiplies=1),),
        "elementwise.subtract": lambda _f: (add,),
        "elementwise.unless_at_least": lambda _f: (add,),
        "elementwise.zero_if_masked": lambda _f: (add,),
        "elementwise.zero_where": lambda _f: (add,),
        "reduce.abs_max": lambda _f: (reduced,),
        "reduce.mean": lambda _f: (Pass(1, 1, 1, 1, reduces=True),),
        "reduce.product": lambda _f: (Pass(0, 1, 0, 1, reduces=True),),
        "reduce.sum": lambda _f: (reduced,),
    }


__all__ = ["EXPONENTIALS", "LOGARITHMS", "tensor_passes"]
