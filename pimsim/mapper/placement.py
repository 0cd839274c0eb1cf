"""Which side of a hybrid machine does what, by policy."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from math import ceil
from typing import NamedTuple

from pimsim.arch.dram import DramSpec
from pimsim.arch.hybrid import PLACEABLE, HybridConfig, Side
from pimsim.bounds.hybrid import HybridBounds
from pimsim.workload import ops
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.graph import WorkloadGraph

Sides = dict[str, Side]

Times = dict[str, dict[Side, float]]
"""Kind of work -> bound on either side."""

_SIDES: tuple[Side, ...] = ("pim", "fpga")


def work_of(op: ops.OpNode) -> str:
    """The kind of work that an operation is placed with."""
    cached = isinstance(op, ops.CacheWrite | ops.Scores | ops.Softmax | ops.Values)
    return "attention" if cached else op.kind


def place(workload: WorkloadConfig, graph: WorkloadGraph, arch: HybridConfig, spec: DramSpec) -> tuple[Sides, Sides]:
    """Kind of work -> side, for all that can be placed and that the workload has: while tokens are generated, and in prompts.

    The two differ at most in products, and only where prompts are processed as matrices.
    """
    layer = graph.layers()[0]
    work = [name for name in PLACEABLE if name == "attention" or any(op.kind == name for op in layer)]
    if arch.placement == "best_bound":
        generating, prompt = _by_bounds(work, workload, layer, HybridBounds(arch, spec))
    else:
        streamed: Sides = {"attention": "fpga"} if arch.placement == "stream_attention" else {}
        given = {**streamed, **(arch.fixed if arch.placement == "fixed" else {})}
        generating = {name: given.get(name, "pim") for name in work}
        prompt = {name: arch.fixed_prompt.get(name, generating[name]) for name in work}
    if workload.prefill != "matrix":
        return generating, generating
    return (generating if workload.generate_tokens > 1 else prompt), prompt


class _Phase(NamedTuple):
    """Passes of a run that are alike."""

    passes: int
    sequences: int
    queries: int
    """Tokens of each sequence in a pass."""
    context: int
    """Tokens that attention sees on average."""

    @property
    def tokens(self) -> int:
        return self.sequences * self.queries


def _phases(workload: WorkloadConfig) -> tuple[_Phase, _Phase]:
    """Passes that generate (and that take prompts token by token), and those that take prompts as matrices, if any."""
    prompt, generated, batch = workload.prompt_tokens, workload.generate_tokens, workload.batch
    if workload.prefill != "matrix":
        return _Phase(prompt + generated - 1, batch, 1, ceil((prompt + generated) / 2)), _Phase(0, 1, 1, 1)
    queries = min(prompt, workload.prefill_tokens)
    return (
        _Phase(generated - 1, batch, 1, prompt + ceil(generated / 2)),
        _Phase(batch * ceil(prompt / queries), 1, queries, ceil((prompt + 1) / 2)),
    )


def _by_bounds(
    work: list[str], workload: WorkloadConfig, layer: list[ops.OpNode], bounds: HybridBounds
) -> tuple[Sides, Sides]:
    """The sides with the lowest bound, for products in each phase, for attention over the run; equal ones stay on the PIM side.

    Attention in a single pass goes to the streaming unit, which has a schedule for it; other algorithms are the PIM side's.
    """
    products = {op.kind: op for op in layer if isinstance(op, ops.Linear)}
    times = [_times(work, workload, products, bounds, phase) for phase in _phases(workload)]
    choices = {"vanilla": _SIDES, "single_pass": _SIDES[1:]}.get(workload.attention, _SIDES[:1])
    parallel = workload.model.parallel_residual
    found = [[_best(phase, attention, parallel=parallel) for phase in times] for attention in choices]
    (_, generating), (_, prompt) = min(found, key=lambda phases: sum(bound for bound, _ in phases))
    return generating, prompt


def _times(
    work: list[str], workload: WorkloadConfig, products: Mapping[str, ops.Linear], bounds: HybridBounds, phase: _Phase
) -> Times:
    """Of all passes of a phase."""
    model = workload.model
    shape = (model.heads, model.key_value_heads, model.head_width, phase.context)
    found: Times = {}
    for name in work:
        if name == "attention":
            pim = bounds.pim_attention(*shape, phase.tokens)
            fpga = bounds.fpga_attention(*shape, single_pass=False, sequences=phase.sequences, queries=phase.queries)
        else:
            size = products[name].d_in, products[name].d_out, phase.tokens
            pim, fpga = bounds.pim_linear(*size), bounds.fpga_linear(*size)
        found[name] = {"pim": phase.passes * pim, "fpga": phase.passes * fpga}
    return found


def _best(times: Times, attention: Side, *, parallel: bool) -> tuple[float, Sides]:
    """(bound, sides) with attention on a side; of equal ones, the first that has a product on the PIM side."""
    choices = ((attention,) if name == "attention" else _SIDES for name in times)
    every = (dict(zip(times, sides, strict=True)) for sides in itertools.product(*choices))
    bounds = ((*_bound(times, sides, parallel=parallel), sides) for sides in every)
    bound, _, sides = min(bounds, key=lambda each: each[:2])
    return bound, sides


def _bound(times: Times, sides: Sides, *, parallel: bool) -> tuple[float, float]:
    """Time of one piece of work after the other; with a parallel residual, of the feed-forward part beside attention's.

    Then the busiest side, if there is a choice: of equal times, the one that leaves most room for what bounds do not see.
    """
    spent = {name: each[sides[name]] for name, each in times.items()}
    if not parallel:
        return sum(spent.values()), 0.0
    forward = sum(spent[name] for name in ("ffn_up", "ffn_down"))
    busiest = max(sum(time for name, time in spent.items() if sides[name] == side) for side in _SIDES)
    return max(forward, sum(spent.values()) - forward, busiest), busiest


__all__ = ["Sides", "place", "work_of"]
