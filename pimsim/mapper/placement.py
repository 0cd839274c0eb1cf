"""Which side of a hybrid machine does what, by policy."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from pimsim.arch.dram import DramSpec
from pimsim.arch.hybrid import PLACEABLE, HybridConfig, Side
from pimsim.bounds.hybrid import HybridBounds
from pimsim.workload import ops
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.graph import WorkloadGraph

Sides = dict[str, Side]


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


def _phases(workload: WorkloadConfig) -> tuple[_Phase, _Phase | None]:
    """Passes that generate (and that take prompts token by token), and those that take prompts as matrices."""
    prompt, generated, batch = workload.prompt_tokens, workload.generate_tokens, workload.batch
    if workload.prefill != "matrix":
        return _Phase(prompt + generated - 1, batch, 1, ceil((prompt + generated) / 2)), None
    queries = min(prompt, workload.prefill_tokens)
    return (
        _Phase(generated - 1, batch, 1, prompt + ceil(generated / 2)),
        _Phase(batch * ceil(prompt / queries), 1, queries, ceil((prompt + 1) / 2)),
    )


def _by_bounds(
    work: list[str], workload: WorkloadConfig, layer: list[ops.OpNode], bounds: HybridBounds
) -> tuple[Sides, Sides]:
    """The side with the lower bound, for products in each phase, for attention over the run; equal ones stay on the PIM side.

    Attention in a single pass goes to the streaming unit, which has a schedule for it; other algorithms are the PIM side's.
    """
    phases = _phases(workload)
    products = {op.kind: op for op in layer if isinstance(op, ops.Linear)}
    sides: list[Sides] = []
    for phase in phases:
        if phase is None:
            sides.append({})
            continue
        sides.append(
            {
                name: _lower(
                    bounds.pim_linear(op.d_in, op.d_out, phase.tokens),
                    bounds.fpga_linear(op.d_in, op.d_out, phase.tokens),
                )
                for name, op in products.items()
                if name in work
            }
        )
    attention: Side = "fpga" if workload.attention == "single_pass" else "pim"
    if workload.attention == "vanilla":
        both = [_attention(workload, bounds, products, phase) for phase in phases if phase is not None]
        attention = _lower(sum(pim for pim, _ in both), sum(fpga for _, fpga in both))
    generating, prompt = ({name: found.get(name, attention) for name in work} for found in sides)
    return generating, prompt


def _lower(pim: float, fpga: float) -> Side:
    return "fpga" if fpga < pim else "pim"


def _attention(
    workload: WorkloadConfig, bounds: HybridBounds, products: dict[str, ops.Linear], phase: _Phase
) -> tuple[float, float]:
    """Bounds of attention of all passes of a phase, on either side."""
    model = workload.model
    shape = (model.heads, model.key_value_heads, model.head_width, phase.context)
    pim = bounds.pim_attention(*shape, phase.tokens)
    fpga = bounds.fpga_attention(*shape, single_pass=False, sequences=phase.sequences, queries=phase.queries)
    if model.parallel_residual:  # the feed-forward products do not wait for it
        hidden = [op for kind, op in products.items() if kind in {"ffn_up", "ffn_down"}]
        fpga = max(0.0, fpga - sum(bounds.pim_linear(op.d_in, op.d_out, phase.tokens) for op in hidden))
    return phase.passes * pim, phase.passes * fpga


__all__ = ["Sides", "place", "work_of"]
