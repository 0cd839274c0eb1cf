"""What the functions of the ASIC cost: passes over a vector, counted from their algorithms.

A function is a list of passes. A pass reads each element once, applies ``adds`` additions and ``multiplies``
multiplications to it, and may reduce the vector to a scalar; the next pass needs its result. Two organisations:

* ``shared``: every addition and multiplication of an element occupies one of the adders and multipliers for a cycle,
so a
  pass takes ``max(ceil(n * adds / adders), ceil(n * multiplies / multipliers))`` cycles.
* ``pipelined``: a lane per multiplier (per adder, where a pass only adds) runs through the whole pass, one element
per cycle
  and lane, so a pass takes ``ceil(n / lanes)`` cycles.

Both add the latency of the chain of dependent operations, and of the adder tree where a pass reduces. An independent
call
(the next head of a softmax) may start before this one is complete: its passes fill the slots that this call's
latency leaves.
It may start after the cycles in which this call's passes occupy the busiest resource: ``shared`` passes all compete
for the
same units, so that is their sum; ``pipelined`` passes that only add use adders, the others the lanes, and the two
kinds overlap.
The functional back end evaluates the same algorithms with the same numbers of terms and steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log2

from pimsim.arch.system import AsicConfig, AsicFunctions
from pimsim.arch.tensor_functions import tensor_passes


@dataclass(frozen=True)
class Pass:
    """One pass over a vector: operations per element, and the longest chain of dependent operations."""

    adds: int
    multiplies: int
    chain_adds: int
    chain_multiplies: int
    reduces: bool = False
    scalar: bool = False
    """Works on one element, whatever the length."""


@dataclass(frozen=True)
class FunctionCost:
    """ASIC cycles of one call."""

    busy: int
    """Cycles until the unit can start the next call."""
    latency: int
    """Cycles until the result is complete; at least ``busy``."""
    adds: int
    multiplies: int


def exp_pass(functions: AsicFunctions) -> Pass:
    """exp(x): k = round(x log2 e) by the add-magic trick, r = x - k ln 2, Taylor in r (Horner), exponent += k."""
    terms = functions.exp_taylor_terms
    return Pass(
        adds=2 + (terms - 1), multiplies=2 + (terms - 1), chain_adds=2 + (terms - 1), chain_multiplies=2 + (terms - 1)
    )


def reciprocal_pass(functions: AsicFunctions) -> Pass:
    """1/d: linear seed 48/17 - 32/17 d, then Newton x <- x (2 - d x): two multiplications and an addition per step."""
    steps = functions.reciprocal_newton_steps
    return Pass(adds=1 + steps, multiplies=1 + 2 * steps, chain_adds=1 + steps, chain_multiplies=1 + 2 * steps)


def rsqrt_pass(functions: AsicFunctions) -> Pass:
    """1/sqrt(v): integer seed, then Newton y <- y (1.5 - 0.5 v y y): three multiplications and an addition per step."""
    steps = functions.rsqrt_newton_steps
    return Pass(adds=1 + steps, multiplies=1 + 3 * steps, chain_adds=1 + steps, chain_multiplies=1 + 3 * steps)


def join_passes(*passes: Pass, reduces: bool = False, scalar: bool = False, adds: int = 0, multiplies: int = 0) -> Pass:
    """One pass that does several in a chain, with extra operations at its ends."""
    return Pass(
        adds=sum(p.adds for p in passes) + adds,
        multiplies=sum(p.multiplies for p in passes) + multiplies,
        chain_adds=sum(p.chain_adds for p in passes) + adds,
        chain_multiplies=sum(p.chain_multiplies for p in passes) + multiplies,
        reduces=reduces,
        scalar=scalar,
    )


def passes(function: str, functions: AsicFunctions) -> tuple[Pass, ...]:
    """The passes of a function.

    Raises:
        KeyError: the function is unknown.
    """
    return _PASSES[function](functions)


def _layernorm(f: AsicFunctions) -> tuple[Pass, ...]:
    sums = Pass(adds=2, multiplies=1, chain_adds=1, chain_multiplies=1, reduces=True)  # sum x and sum x^2 together
    statistics = join_passes(rsqrt_pass(f), adds=1, multiplies=3, scalar=True)  # mean, E[x^2] - mean^2, 1/sqrt
    scale = Pass(adds=2, multiplies=2, chain_adds=2, chain_multiplies=2)  # (x - mean) rstd gamma + beta
    return sums, statistics, scale


def _softmax(f: AsicFunctions) -> tuple[Pass, ...]:
    maximum = Pass(adds=1, multiplies=0, chain_adds=1, chain_multiplies=0, reduces=True)
    exponentials = join_passes(exp_pass(f), adds=2, reduces=True)  # subtract the maximum; sum
    return maximum, exponentials  # the division by the sum follows the weighted sum of values: `reciprocal`, `scale`


def _gelu(f: AsicFunctions) -> tuple[Pass, ...]:
    # x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3): the tanh form of GELU through one exp and one reciprocal
    return (join_passes(exp_pass(f), reciprocal_pass(f), adds=2, multiplies=4),)


def _rmsnorm(f: AsicFunctions) -> tuple[Pass, ...]:
    squares = Pass(adds=1, multiplies=1, chain_adds=1, chain_multiplies=1, reduces=True)  # sum x^2
    statistics = join_passes(rsqrt_pass(f), adds=1, multiplies=1, scalar=True)  # E[x^2] + eps, 1/sqrt
    scale = Pass(adds=0, multiplies=2, chain_adds=0, chain_multiplies=2)  # x rrms gamma
    return squares, statistics, scale


def _silu(f: AsicFunctions) -> tuple[Pass, ...]:
    # x / (1 + exp(-x)) through one exp and one reciprocal; the sign of x costs nothing
    return (join_passes(exp_pass(f), reciprocal_pass(f), adds=1, multiplies=1),)


def gelu_erf_pass(f: AsicFunctions) -> Pass:
    """GELU in its erf form, one pass."""
    # max(x, 0) - |x| q, q = poly(t) exp(-x^2 / 2), t = 1 / (1 + p |x|): t with the polynomial of degree 5, and the
    # exponential, do not wait for each other; a comparison is an addition
    polynomial = join_passes(reciprocal_pass(f), adds=1 + 4, multiplies=1 + 5)
    exponential = join_passes(exp_pass(f), multiplies=2)
    longer = max(polynomial, exponential, key=lambda p: p.chain_adds + p.chain_multiplies)
    return Pass(
        adds=polynomial.adds + exponential.adds + 2,
        multiplies=polynomial.multiplies + exponential.multiplies + 2,
        chain_adds=longer.chain_adds + 1,
        chain_multiplies=longer.chain_multiplies + 2,
    )


_ADD = (Pass(adds=1, multiplies=0, chain_adds=1, chain_multiplies=0),)

_PASSES: dict[str, Callable[[AsicFunctions], tuple[Pass, ...]]] = {
    "add": lambda _f: _ADD,  # residual, bias, partial sum
    "reciprocal": lambda f: (reciprocal_pass(f),),
    "scale": lambda _f: (Pass(adds=0, multiplies=1, chain_adds=0, chain_multiplies=1),),
    "layernorm": _layernorm,
    "softmax": _softmax,
    "gelu": _gelu,
    "gelu_erf": lambda f: (gelu_erf_pass(f),),
    "relu": lambda _f: _ADD,  # one comparison with zero
    "argmax": lambda _f: (Pass(adds=1, multiplies=0, chain_adds=1, chain_multiplies=0, reduces=True),),
    "rmsnorm": _rmsnorm,
    "silu": _silu,
    "multiply": lambda _: (Pass(adds=0, multiplies=1, chain_adds=0, chain_multiplies=1),),  # gate of SwiGLU
    # x cos + partner sin, with tables computed beforehand; the sign of the sine costs nothing
    "rope": lambda _: (Pass(adds=1, multiplies=2, chain_adds=1, chain_multiplies=1),),
}

FUNCTIONS = tuple(_PASSES)
"""Names of all functions of the ASIC over vectors."""

_TENSOR_PASSES = tensor_passes()
TENSOR_FUNCTIONS = tuple(_TENSOR_PASSES)
"""Names of all functions of the ASIC over tensors, see `pimsim.arch.tensor_functions`."""

_PASSES |= _TENSOR_PASSES


def cost(function: str, length: int, asic: AsicConfig) -> FunctionCost:
    """ASIC cycles of one call over ``length`` elements (formula in the module docstring)."""
    spans = [_pass_cycles(p, length, asic) for p in passes(function, asic.functions)]
    latency = sum(busy + depth for busy, depth in spans)
    n = [1 if p.scalar else length for p in passes(function, asic.functions)]
    return FunctionCost(
        busy=_occupied(function, spans, asic),
        latency=latency,
        adds=sum(p.adds * k for p, k in zip(passes(function, asic.functions), n, strict=True)),
        multiplies=sum(p.multiplies * k for p, k in zip(passes(function, asic.functions), n, strict=True)),
    )


def _occupied(function: str, spans: list[tuple[int, int]], asic: AsicConfig) -> int:
    """Cycles in which a call occupies the resource that it needs longest."""
    on_lanes = [bool(p.multiplies) for p in passes(function, asic.functions)]
    lanes = sum(busy for (busy, _), on in zip(spans, on_lanes, strict=True) if on)
    adders = sum(busy for (busy, _), on in zip(spans, on_lanes, strict=True) if not on)
    return lanes + adders if asic.function_units == "shared" else max(lanes, adders)


def _pass_cycles(p: Pass, length: int, asic: AsicConfig) -> tuple[int, int]:
    """(cycles in which elements enter, cycles that the last element still needs)."""
    n = 1 if p.scalar else length
    lanes = asic.multipliers if p.multiplies else asic.adders
    if asic.function_units == "shared":
        busy = max(ceil(n * p.adds / asic.adders), ceil(n * p.multiplies / asic.multipliers))
    else:
        busy = ceil(n / lanes)
    depth = asic.adder_latency * p.chain_adds + asic.multiplier_latency * p.chain_multiplies
    if p.reduces:
        depth += asic.adder_latency * ceil(log2(max(2, min(n, lanes))))
    return busy, max(0, depth - 1)
