"""What a GPU or a CPU would need for the same tokens: a roofline plus a fixed cost for each kernel.

A forward pass reads every weight and the keys and values of the context once and computes two operations for each
weight and token, so it takes ``layers x kernels x overhead + max(bytes / bandwidth, FLOP / peak)``. At batch 1 small
models wait for kernel launches and large ones for memory. Nothing here is fitted to a published speed-up: the numbers
of the shipped baselines, with their sources, are in ``arch_configs/baselines/``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from pydantic import Field

from pimsim.catalog import find
from pimsim.model import Documented, NonNegativeFloat, PositiveFloat, PositiveInt
from pimsim.yamlio import load_tree, validate


class DecoderShape(Protocol):
    """What a baseline reads of a decoder; `pimsim.workload.config.DecoderConfig` has it."""

    @property
    def layers(self) -> int:
        """Decoder blocks."""

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""

    @property
    def d_ff(self) -> int:
        """Width of the feed-forward layer."""

    @property
    def vocabulary(self) -> int:
        """Rows of the language-model head."""


class Generation(Protocol):
    """What a baseline reads of a workload; `pimsim.workload.config.WorkloadConfig` has it."""

    @property
    def model(self) -> DecoderShape:
        """Shape of the decoder."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens that the first forward pass takes."""

    @property
    def generate_tokens(self) -> int:
        """Tokens that are generated."""

    @property
    def lm_head(self) -> bool:
        """Whether the projection onto the vocabulary is part of the work."""


class Baseline(Documented):
    """A device and software stack that generates tokens, batch 1; one ``arch_configs/baselines/*.yaml`` file."""

    name: str
    description: str = ""
    kind: Literal["model"] = Field("model", description="model: computed by the formula of this module, not measured")
    device: str
    stack: str = Field(description="software and number format that the figures stand for")
    precision_bytes: PositiveInt = Field(description="bytes of a weight, key or value")
    memory_bandwidth_gb_s: PositiveFloat = Field(description="peak memory bandwidth in 1e9 byte/s")
    bandwidth_fraction: Annotated[float, Field(gt=0, le=1)] = Field(description="part of the peak that is achieved")
    peak_tflop_s: PositiveFloat = Field(description="peak arithmetic rate in 1e12 FLOP/s; a multiply-add is two")
    kernels_per_layer: PositiveInt = Field(description="kernels that one decoder block launches in one forward pass")
    kernel_overhead_us: NonNegativeFloat = Field(description="time of a kernel beyond its roofline time")
    power_w: PositiveFloat = Field(description="power while busy")

    def seconds(self, workload: Generation) -> float:
        """Time of a whole generation in seconds.

        The prompt is one pass over all its tokens and yields the first token; every further token is a pass of its own
        at a context one longer. The sum over contexts is closed (`sum_of_larger`), as both sides of the roofline are
        linear in the context.
        """
        prompt, generated = workload.prompt_tokens, workload.generate_tokens
        first = max(self._memory_seconds(workload, prompt), self._prompt_flop(workload) / self._peak)
        memory, compute = self._memory_line(workload), self._compute_line(workload)
        rest = sum_of_larger(memory, compute, prompt + 1, prompt + generated - 1)
        overhead = workload.model.layers * self.kernels_per_layer * self.kernel_overhead_us * 1e-6
        return generated * overhead + first + rest

    def pass_seconds(self, workload: Generation, context: int) -> float:
        """Time in seconds of the forward pass of one token that attends to ``context`` tokens, itself included."""
        overhead = workload.model.layers * self.kernels_per_layer * self.kernel_overhead_us * 1e-6
        intercept, slope = self._compute_line(workload)
        return overhead + max(self._memory_seconds(workload, context), intercept + slope * context)

    def joules(self, workload: Generation) -> float:
        """Energy of a whole generation in joules: time times `power_w`."""
        return self.seconds(workload) * self.power_w

    @property
    def source(self) -> str:
        """One line for tables: device, stack and where the kernel overhead comes from."""
        overhead = self.sources.get("kernel_overhead_us", "no source")
        return f"{self.device}, {self.stack}; roofline and {self.kernel_overhead_us:g} us per kernel ({overhead})"

    @property
    def _peak(self) -> float:
        return self.peak_tflop_s * 1e12

    def _memory_line(self, workload: Generation) -> tuple[float, float]:
        """(seconds at context 0, seconds per token of context) of the memory side."""
        model, bandwidth = workload.model, self.memory_bandwidth_gb_s * 1e9 * self.bandwidth_fraction
        context_bytes = 2 * model.layers * model.d_model * self.precision_bytes
        return weights(workload) * self.precision_bytes / bandwidth, context_bytes / bandwidth

    def _memory_seconds(self, workload: Generation, context: int) -> float:
        intercept, slope = self._memory_line(workload)
        return intercept + slope * context

    def _compute_line(self, workload: Generation) -> tuple[float, float]:
        """(seconds at context 0, seconds per token of context) of the arithmetic side."""
        model = workload.model
        return 2 * weights(workload) / self._peak, 4 * model.layers * model.d_model / self._peak

    def _prompt_flop(self, workload: Generation) -> float:
        """Operations of the prompt pass: every token at its own context, one vector through the head."""
        model, prompt = workload.model, workload.prompt_tokens
        blocks = 2 * prompt * decoder_weights(model) + 2 * (weights(workload) - decoder_weights(model))
        return blocks + 4 * model.layers * model.d_model * (prompt * (prompt + 1) // 2)


@dataclass(frozen=True)
class Comparison:
    """A baseline next to a run."""

    seconds: float
    joules: float
    speedup: float | None
    """Seconds of the baseline over seconds of the run; None for a run that takes no time."""
    energy_ratio: float | None
    """Joules of the baseline over joules of the run; None for a run without energy."""
    kind: str
    source: str


def load_baseline(name: str) -> Baseline:
    """The baseline of a name, or of a path to a YAML file.

    Raises:
        UnknownName: no baseline has this name.
        ConfigError: the file is wrong.
    """
    return validate(load_tree(find("baseline", name)), Baseline)


def compare(baseline: Baseline, workload: Generation, seconds: float, joules: float) -> Comparison:
    """A baseline on the same workload, next to a run that took ``seconds`` and ``joules``."""
    needs, burns = baseline.seconds(workload), baseline.joules(workload)
    return Comparison(
        seconds=needs,
        joules=burns,
        speedup=needs / seconds if seconds else None,
        energy_ratio=burns / joules if joules else None,
        kind=baseline.kind,
        source=baseline.source,
    )


def decoder_weights(model: DecoderShape) -> int:
    """Matrix weights of all decoder blocks: ``layers (4 d_model^2 + 2 d_model d_ff)``; no biases and norms."""
    return model.layers * (4 * model.d_model**2 + 2 * model.d_model * model.d_ff)


def weights(workload: Generation) -> int:
    """Matrix weights that a forward pass reads: the decoder blocks and, if it is part of the work, the head."""
    model = workload.model
    return decoder_weights(model) + (model.vocabulary * model.d_model if workload.lm_head else 0)


def sum_of_larger(one: tuple[float, float], other: tuple[float, float], first: int, last: int) -> float:
    """``sum(max(a + b t, c + d t) for t in range(first, last + 1))`` in constant time.

    Two lines cross once, so the range splits into a part where one is larger and a part where the other is; each part
    is an arithmetic series.

    >>> sum_of_larger((0.0, 1.0), (3.0, 0.0), 1, 5)
    18.0
    """
    if last < first:
        return 0.0
    (a, b), (c, d) = one, other
    if b < d:
        return sum_of_larger(other, one, first, last)
    # a + b t grows at least as fast: it is the larger one from the crossing on
    crossing = (c - a) / (b - d) if b > d else (first if a >= c else last + 1)
    split = math.ceil(min(max(crossing, first), last + 1))
    return _series(c, d, first, split - 1) + _series(a, b, split, last)


def _series(intercept: float, slope: float, first: int, last: int) -> float:
    count = last - first + 1
    return count * (intercept + slope * (first + last) / 2) if count > 0 else 0.0
