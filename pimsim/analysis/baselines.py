"""What a GPU or a CPU would need for the same tokens: computed from its data sheet, or taken from measurements.

Four kinds, from bound to fact: ``roofline`` is a lower bound, ``roofline+overhead`` adds a fixed cost for each kernel,
``kernel-table`` sums measured kernels without what lies between them, ``measured`` is the time of a whole forward pass.

For the computed ones a forward pass reads every weight and the keys and values of the context once and computes two
operations for each weight and token, so it takes ``layers x kernels x overhead + max(bytes / bandwidth, FLOP / peak)``.
At batch 1 small models wait for kernel launches and large ones for memory. Nothing here is fitted to a published
speed-up: the numbers of the shipped baselines, with their sources, are in ``arch_configs/baselines/``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from pimsim.catalog import find
from pimsim.errors import InputError, did_you_mean
from pimsim.model import Documented, Model, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
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
    def heads(self) -> int:
        """Attention heads."""

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and values."""

    @property
    def head_width(self) -> int:
        """Elements of a head."""

    @property
    def gated(self) -> bool:
        """Whether the feed-forward layer has a gate, a third matrix."""

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
    def batch(self) -> int:
        """Sequences that are generated together."""

    @property
    def lm_head(self) -> bool:
        """Whether the projection onto the vocabulary is part of the work."""


class AnyBaseline(Documented):
    """A device and software stack that generates tokens; one ``arch_configs/baselines/*.yaml`` file."""

    kind: str
    name: str
    description: str = ""
    device: str
    stack: str = Field(description="software and number format that the figures stand for")

    @abstractmethod
    def seconds(self, workload: Generation) -> float:
        """Time of a whole generation in seconds, batch 1.

        Raises:
            InputError: the baseline says nothing about this workload.
        """

    @abstractmethod
    def joules(self, workload: Generation) -> float | None:
        """Energy of a whole generation in joules; None if it is unknown."""

    @abstractmethod
    def source_of(self, workload: Generation) -> str:
        """One line for tables: device, stack and where the time of this workload comes from."""


class Roofline(AnyBaseline):
    """A lower bound: peak bandwidth and peak arithmetic rate, and nothing in between."""

    kind: Literal["roofline"] = "roofline"
    precision_bytes: PositiveInt = Field(description="bytes of a weight, key or value")
    memory_bandwidth_gb_s: PositiveFloat = Field(description="peak memory bandwidth in 1e9 byte/s")
    peak_tflop_s: PositiveFloat = Field(description="peak arithmetic rate in 1e12 FLOP/s; a multiply-add is two")
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
        return generated * self.pass_overhead(workload) + first + rest

    def pass_seconds(self, workload: Generation, context: int) -> float:
        """Time in seconds of the forward pass of one token that attends to ``context`` tokens, itself included."""
        intercept, slope = self._compute_line(workload)
        work = max(self._memory_seconds(workload, context), intercept + slope * context)
        return self.pass_overhead(workload) + work

    def pass_overhead(self, workload: Generation) -> float:  # noqa: ARG002 (of a pure roofline)
        """Seconds of one forward pass beyond its roofline time."""
        return 0.0

    def joules(self, workload: Generation) -> float:
        """Energy of a whole generation in joules: time times `power_w`."""
        return self.seconds(workload) * self.power_w

    def source_of(self, workload: Generation) -> str:  # noqa: ARG002 (it is the same for all)
        """One line for tables: device, stack and what is computed."""
        return f"{self.device}, {self.stack}; roofline, {self.memory_bandwidth_gb_s:g} GB/s"

    @property
    def _bandwidth(self) -> float:
        """Achieved bandwidth in byte/s."""
        return self.memory_bandwidth_gb_s * 1e9

    @property
    def _peak(self) -> float:
        return self.peak_tflop_s * 1e12

    def _memory_line(self, workload: Generation) -> tuple[float, float]:
        """(seconds at context 0, seconds per token of context) of the memory side."""
        model, bandwidth = workload.model, self._bandwidth
        context_bytes = 2 * model.layers * model.key_value_heads * model.head_width * self.precision_bytes
        return weights(workload) * self.precision_bytes / bandwidth, context_bytes / bandwidth

    def _memory_seconds(self, workload: Generation, context: int) -> float:
        intercept, slope = self._memory_line(workload)
        return intercept + slope * context

    def _compute_line(self, workload: Generation) -> tuple[float, float]:
        """(seconds at context 0, seconds per token of context) of the arithmetic side."""
        model = workload.model
        return 2 * weights(workload) / self._peak, 4 * model.layers * model.heads * model.head_width / self._peak

    def _prompt_flop(self, workload: Generation) -> float:
        """Operations of the prompt pass: every token at its own context, one vector through the head."""
        model, prompt = workload.model, workload.prompt_tokens
        blocks = 2 * prompt * decoder_weights(model) + 2 * (weights(workload) - decoder_weights(model))
        return blocks + 4 * model.layers * model.heads * model.head_width * (prompt * (prompt + 1) // 2)


class RooflineOverhead(Roofline):
    """A roofline of the bandwidth that is achieved, plus a fixed cost for each kernel."""

    kind: Literal["roofline+overhead"] = "roofline+overhead"  # type: ignore[assignment]
    bandwidth_fraction: Annotated[float, Field(gt=0, le=1)] = Field(description="part of the peak that is achieved")
    kernels_per_layer: PositiveInt = Field(description="kernels that one decoder block launches in one forward pass")
    kernel_overhead_us: NonNegativeFloat = Field(description="time of a kernel beyond its roofline time")

    def pass_overhead(self, workload: Generation) -> float:
        """Seconds of one forward pass beyond its roofline time: ``layers x kernels x overhead``."""
        return workload.model.layers * self.kernels_per_layer * self.kernel_overhead_us * 1e-6

    def source_of(self, workload: Generation) -> str:  # noqa: ARG002 (it is the same for all)
        """One line for tables: device, stack and where the kernel overhead comes from."""
        overhead = self.sources.get("kernel_overhead_us", "no source")
        return f"{self.device}, {self.stack}; roofline and {self.kernel_overhead_us:g} us per kernel ({overhead})"

    @property
    def _bandwidth(self) -> float:
        return self.memory_bandwidth_gb_s * 1e9 * self.bandwidth_fraction


class Figure(Model):
    """One published or measured time of a forward pass."""

    model: str = Field(description="what the source calls the model")
    layers: PositiveInt
    d_model: PositiveInt
    tokens: PositiveInt = Field(1, description="tokens of the pass; more than 1 is a prompt")
    context: NonNegativeInt = Field(description="tokens that the pass attends to; 0: attention is not part of the time")
    context_to: PositiveInt | None = Field(None, description="the source gives a range of contexts, up to this one")
    batch: PositiveInt = 1
    ms: PositiveFloat = Field(description="time of the pass in ms; the smallest where the source gives a range")
    ms_to: PositiveFloat | None = Field(None, description="the largest time where the source gives a range")
    joules: PositiveFloat | None = Field(None, description="energy of the pass; null: unknown")
    source: str = Field(description="'<trust>: <origin>'")
    date: str = Field(description="when it was published or measured")


class FigureTable(AnyBaseline):
    """Times that somebody measured; they answer for the models that they are about, and for no other."""

    kind: Literal["kernel-table", "measured"]
    precision: str = Field(description="number format, such as float16")
    figures: list[Figure] = Field(min_length=1)

    def seconds(self, workload: Generation) -> float:
        """Time of a whole generation in seconds.

        Between two contexts the time is a straight line, outside of them it is that of the nearest one. A prompt takes
        the figure of a pass over as many tokens, and as long as one token at that context if there is none, which
        favours the baseline.

        Raises:
            InputError: no figure of batch 1 is about a decoder of this depth and width.
        """
        steps = {figure.context: figure.ms * 1e-3 for figure in self._steps(workload)}
        prompt, last = workload.prompt_tokens, workload.prompt_tokens + workload.generate_tokens - 1
        first = self._prompt(workload)
        whole = sum(_line_through(steps, context) for context in range(prompt + 1, last + 1))
        return whole + (first.ms * 1e-3 if first else _line_through(steps, prompt))

    def joules(self, workload: Generation) -> float | None:
        """Energy of a whole generation, likewise; None unless every figure that is used has one."""
        steps, first = self._steps(workload), self._prompt(workload)
        known = {figure.context: figure.joules for figure in steps if figure.joules is not None}
        if len(known) < len(steps) or (first is not None and first.joules is None):
            return None
        prompt, last = workload.prompt_tokens, workload.prompt_tokens + workload.generate_tokens - 1
        whole = sum(_line_through(known, context) for context in range(prompt + 1, last + 1))
        return whole + (first.joules if first and first.joules else _line_through(known, prompt))

    def source_of(self, workload: Generation) -> str:
        """One line for tables: device, stack, and the contexts and origins of the figures that are used."""
        used = self._steps(workload)
        contexts = ", ".join(
            f"{f.context}-{f.context_to}" if f.context_to else str(f.context) if f.context else "none" for f in used
        )
        origins = "; ".join(dict.fromkeys(f"{figure.source}, {figure.date}" for figure in used))
        return f"{self.device}, {self.stack}; {self.kind} at context {contexts} ({origins})"

    def _steps(self, workload: Generation) -> Sequence[Figure]:
        """Figures of one token, batch 1, of the decoder of the workload, by context."""
        shape = (workload.model.layers, workload.model.d_model)
        single = [figure for figure in self.figures if figure.batch == 1 and figure.tokens == 1]
        found = [figure for figure in single if (figure.layers, figure.d_model) == shape]
        if not found:
            known = dict.fromkeys(f"{f.model} ({f.layers} x {f.d_model})" for f in single)
            has = ", ".join(known) or "none of a single token"
            raise InputError(
                f"baseline {self.name}: must have a figure for {shape[0]} layers of width {shape[1]}; it has {has}"
            )
        return sorted(found, key=lambda figure: figure.context)

    def _prompt(self, workload: Generation) -> Figure | None:
        shape = (workload.model.layers, workload.model.d_model, workload.prompt_tokens, 1)
        prompts = (f for f in self.figures if f.tokens > 1 and (f.layers, f.d_model, f.tokens, f.batch) == shape)
        return next(prompts, None)


class ImageShape(Protocol):
    """What a baseline reads of an image; `pimsim.workload.encoder.ImageConfig` has it."""

    @property
    def tokens(self) -> int:
        """Patches and the class token."""


class ExpertShape(Protocol):
    """What a baseline reads of a mixture of experts; `pimsim.workload.encoder.MoeConfig` has it."""

    @property
    def experts(self) -> int:
        """Experts of a layer."""


class Encoding(Protocol):
    """What a baseline reads of a workload that is one image; `pimsim.workload.encoder.EncoderConfig` has it."""

    @property
    def image(self) -> ImageShape | None:
        """The image; None where it is a text."""

    @property
    def layers(self) -> int:
        """Transformer layers."""

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""

    @property
    def moe(self) -> ExpertShape | None:
        """Mixture of experts of every second layer; None if there is none."""


class ImageFigure(Model):
    """One published time of an image."""

    model: str = Field(description="what the source calls the model")
    layers: PositiveInt
    d_model: PositiveInt
    tokens: PositiveInt
    experts: NonNegativeInt = Field(description="experts of every second layer; 0: none")
    ms: PositiveFloat = Field(description="time of an image in ms")
    joules: PositiveFloat | None = Field(None, description="energy of an image; null: unknown")
    source: str = Field(description="'<trust>: <origin>'")
    date: str = Field(description="when it was published or measured")


class ImageTable(AnyBaseline):
    """Times of whole images that somebody measured; they answer for encoders of the same shape."""

    kind: Literal["measured-image"] = "measured-image"
    figures: list[ImageFigure] = Field(min_length=1)

    def seconds(self, workload: Generation) -> float:  # noqa: ARG002 (it has none)
        """Refuse a workload that generates tokens.

        Raises:
            InputError: always.
        """
        raise InputError(f"baseline {self.name}: must be used with an encoder, as its figures are times of an image")

    def joules(self, workload: Generation) -> float | None:
        """Refuse, likewise."""
        return self.seconds(workload)

    def source_of(self, workload: Generation) -> str:
        """Refuse, likewise."""
        return str(self.seconds(workload))

    def figure(self, workload: Encoding) -> ImageFigure:
        """The figure of an encoder of this shape.

        Raises:
            InputError: there is none.
        """
        experts = workload.moe.experts if workload.moe is not None else 0
        shape = (workload.layers, workload.d_model, workload.image.tokens if workload.image else 0, experts)
        for figure in self.figures:
            if (figure.layers, figure.d_model, figure.tokens, figure.experts) == shape:
                return figure
        known = ", ".join(f"{f.model} ({f.layers} x {f.d_model}, {f.tokens}, {f.experts})" for f in self.figures)
        raise InputError(
            f"baseline {self.name}: must have a figure for {shape[0]} layers of width {shape[1]}, {shape[2]} tokens and "
            f"{shape[3]} experts; it has {known}"
        )


def image_baselines(names: Sequence[str], workload: Encoding) -> dict[str, ImageTable]:
    """Baselines of an encoder by name.

    Raises:
        InputError: one does not exist, is about something else than images, or has no figure of this shape.
    """
    found = {}
    for name in names:
        baseline = load_baseline(name)
        if not isinstance(baseline, ImageTable):
            raise InputError(
                f"baseline {name}: must have times of images, not of generated tokens, for an encoder; those that do are "
                f"{', '.join(IMAGE_BASELINES)}"
            )
        baseline.figure(workload)
        found[name] = baseline
    return found


def compare_image(baseline: ImageTable, workload: Encoding, seconds: float, joules: float) -> Comparison:
    """A baseline on the same image, next to a run that took ``seconds`` and ``joules``."""
    figure = baseline.figure(workload)
    needs = figure.ms * 1e-3
    return Comparison(
        seconds=needs,
        joules=figure.joules,
        speedup=needs / seconds if seconds else None,
        energy_ratio=figure.joules / joules if joules and figure.joules is not None else None,
        kind="measured",
        source=f"{baseline.device}, {baseline.stack}; an image of {figure.model} ({figure.source}, {figure.date})",
        device=baseline.device,
        stack=baseline.stack,
        method=baseline.kind,
    )


IMAGE_BASELINES = ("a6000", "xeon_6226r")
"""Shipped baselines with times of images."""


def default_baselines(kind: str, workload: Any) -> tuple[str, ...]:
    """What a run of a workload of this kind is compared with where nobody says: what is shipped and answers for it."""
    if kind == "decoder":
        return ("t4", "xeon_6154") if workload.batch == 1 else ()
    if kind != "encoder":
        return ()
    try:
        return tuple(image_baselines(IMAGE_BASELINES, workload))
    except InputError:
        return ()


BASELINE_KINDS: dict[str, type[AnyBaseline]] = {
    "roofline": Roofline,
    "roofline+overhead": RooflineOverhead,
    "kernel-table": FigureTable,
    "measured": FigureTable,
    "measured-image": ImageTable,
}
"""Kind -> model, from a lower bound to a fact."""


@dataclass(frozen=True)
class Comparison:
    """A baseline next to a run."""

    seconds: float
    joules: float | None
    """Energy of the baseline; None where it is unknown."""
    speedup: float | None
    """Seconds of the baseline over seconds of the run; None for a run that takes no time."""
    energy_ratio: float | None
    """Joules of the baseline over joules of the run; None for a run without energy."""
    kind: Literal["model", "measured"]
    """Whether the time was computed or taken with a watch."""
    source: str
    device: str
    stack: str
    method: str
    """Which of `BASELINE_KINDS` it is."""


def load_baseline(name: str) -> AnyBaseline:
    """The baseline of a name, or of a path to a YAML file.

    Raises:
        UnknownName: no baseline has this name.
        ConfigError: the file is wrong.
    """
    tree = load_tree(find("baseline", name))
    kind = tree.data.get("kind")
    if not isinstance(kind, str) or kind not in BASELINE_KINDS:
        hint = did_you_mean(kind, BASELINE_KINDS) if isinstance(kind, str) else ""
        raise tree.error(f"must be one of {', '.join(BASELINE_KINDS)}, not {kind!r}{hint}", ("kind",))
    return validate(tree, BASELINE_KINDS[kind])


def check_baselines(names: Sequence[str], workload: Generation) -> None:
    """See that every baseline exists and says something about the workload, before the run.

    Raises:
        InputError: one does not, or there are several sequences at once.
    """
    if names and workload.batch > 1:
        raise InputError(
            f"workload.batch must be 1 for a comparison with {names[0]}, which knows no batches, not {workload.batch}"
        )
    for name in names:
        load_baseline(name).seconds(workload)


def compare(baseline: AnyBaseline, workload: Generation, seconds: float, joules: float) -> Comparison:
    """A baseline on the same workload, next to a run that took ``seconds`` and ``joules``."""
    needs, burns = baseline.seconds(workload), baseline.joules(workload)
    return Comparison(
        seconds=needs,
        joules=burns,
        speedup=needs / seconds if seconds else None,
        energy_ratio=burns / joules if joules and burns is not None else None,
        kind="measured" if isinstance(baseline, FigureTable) else "model",
        source=baseline.source_of(workload),
        device=baseline.device,
        stack=baseline.stack,
        method=baseline.kind,
    )


def decoder_weights(model: DecoderShape) -> int:
    """Matrix weights of all decoder blocks, no biases and norms.

    Queries and the output take ``d_model x heads x d_head`` each, keys and values as many for their heads, and the
    feed-forward layer two matrices of ``d_model x d_ff``, three with a gate: ``4 d_model^2 + 2 d_model d_ff`` in GPT-2.
    """
    attention = 2 * model.d_model * (model.heads + model.key_value_heads) * model.head_width
    return model.layers * (attention + (3 if model.gated else 2) * model.d_model * model.d_ff)


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


def _line_through(points: dict[int, float], at: int) -> float:
    """The value at ``at`` on straight lines between points; that of the nearest point outside of them.

    >>> [_line_through({10: 1.0, 20: 3.0}, at) for at in (1, 10, 15, 99)]
    [1.0, 1.0, 2.0, 3.0]
    """
    keys = sorted(points)
    if at <= keys[0] or at >= keys[-1]:
        return points[keys[0] if at <= keys[0] else keys[-1]]
    right = next(key for key in keys if key >= at)
    left = max(key for key in keys if key < at)
    return points[left] + (points[right] - points[left]) * (at - left) / (right - left)
