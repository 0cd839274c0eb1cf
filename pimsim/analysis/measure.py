"""Times the forward passes of a decoder on this machine, as a baseline of kind ``measured``.

The weights are random and every block has its own, so that they come from memory as those of a real model do. A pass
does the matrix products, attention over a cache, norms and activations of a GPT-2 shaped decoder in float32.
"""

from __future__ import annotations

import datetime as dt
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pimsim.analysis.baselines import DecoderShape, Figure, FigureTable, Generation, weights
from pimsim.analysis.rapl import Rapl
from pimsim.errors import InputError

STACKS = ("numpy", "torch")
"""What passes can be run with."""

MIN_SECONDS = 0.2
"""Time for which a pass is repeated at least; energy counters tick about every millisecond."""


class MeasuredShape(DecoderShape, Protocol):
    """What a measurement reads of a decoder."""

    @property
    def norm(self) -> str:
        """Kind of norm."""

    @property
    def position(self) -> str:
        """Kind of position embedding."""


@dataclass(frozen=True)
class Stack:
    """The functions of a library that the pass needs; arrays know the rest."""

    label: str
    array: Callable[[np.ndarray[Any, Any]], Any]
    norm: Callable[[Any], Any]
    softmax: Callable[[Any], Any]
    gelu: Callable[[Any], Any]


def numpy_stack() -> Stack:
    """NumPy in float32, with the BLAS that it was built with."""
    return Stack(f"NumPy {np.__version__} FP32, {os.cpu_count()} CPUs", lambda array: array, _norm, _softmax, _gelu)


def torch_stack() -> Stack:
    """PyTorch in float32 on the processor.

    Raises:
        InputError: it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError(
            "--stack torch must have the package torch, which pip installs; numpy needs nothing"
        ) from error
    functional: Any = torch.nn.functional
    return Stack(
        f"eager PyTorch {torch.__version__} FP32, {torch.get_num_threads()} threads",
        torch.from_numpy,
        lambda x: functional.layer_norm(x, x.shape[-1:]),
        lambda x: torch.softmax(x, -1),
        lambda x: functional.gelu(x, approximate="tanh"),
    )


def measure(
    workload: Generation,
    shape: MeasuredShape,
    name: str,
    model: str,
    stack: str = "numpy",
    repeats: int = 5,
    rapl: Rapl | None = None,
) -> FigureTable:
    """Time the first, the middle and the last token of a generation, and its prompt, on this machine.

    Args:
        workload: the generation.
        shape: ``workload.model``, with its heads.
        name: of the baseline.
        model: what the model is called in it.
        stack: one of `STACKS`.
        repeats: passes at each context, at least; the fastest counts, as other load only adds time.
        rapl: energy counters; those of this machine if not given.

    Raises:
        InputError: the decoder is not shaped like GPT-2, does not fit into memory, or the stack is not installed.
    """
    _refuse_others(shape, workload.model.d_model)
    prompt = workload.prompt_tokens
    first = prompt if prompt == 1 else prompt + 1
    last = max(first, prompt + workload.generate_tokens - 1)
    _refuse_large(workload, last)
    library = numpy_stack() if stack == "numpy" else torch_stack()
    decoder = _Decoder(workload, shape.heads, last, library)
    counters = rapl or Rapl()
    passes = [(1, context) for context in sorted({first, (first + last) // 2, last})]
    passes += [(prompt, prompt)] if prompt > 1 else []
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    figures = []
    for tokens, context in passes:
        seconds, joules = _timed(lambda t=tokens, c=context: decoder.run(t, c), repeats, counters)  # type: ignore[misc]
        figures.append(
            Figure(
                model=model,
                layers=workload.model.layers,
                d_model=workload.model.d_model,
                tokens=tokens,
                context=context,
                ms=round(seconds * 1e3, 6),
                joules=joules,
                source="code: fastest pass of pimsim baseline measure, random weights"
                + (", energy of the processor packages (RAPL)" if joules is not None else ", energy unknown"),
                date=today,
            )
        )
    return FigureTable(
        kind="measured",
        name=name,
        description=f"{processor()}, {library.label}, measured",
        device=processor(),
        stack=library.label,
        precision="float32",
        figures=figures,
    )


def processor() -> str:
    """What this machine's processor is called."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name") and ":" in line]
    return next(iter(names), "") or platform.processor() or platform.machine()


class _Decoder:
    """Random weights and caches, and the pass over them; vectors are rows: (tokens, d_model)."""

    def __init__(self, workload: Generation, heads: int, context: int, stack: Stack) -> None:
        model = workload.model
        self._stack, self._heads, self._width = stack, heads, model.d_model // heads
        rng = np.random.default_rng(0)

        def matrix(*shape: int) -> Any:
            return stack.array(rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02))

        d = model.d_model
        self._blocks = [
            (matrix(d, 3 * d), matrix(d, d), matrix(d, model.d_ff), matrix(model.d_ff, d)) for _ in range(model.layers)
        ]
        shape = (heads, context, self._width)
        self._caches = [(matrix(*shape), matrix(*shape)) for _ in range(model.layers)]
        self._head = matrix(d, model.vocabulary) if workload.lm_head else None
        self._matrix = matrix

    def run(self, tokens: int, context: int) -> Any:
        """A pass over ``tokens`` tokens, the last of which attends to ``context`` tokens; returns (tokens, d_model)."""
        stack, heads, width = self._stack, self._heads, self._width
        x = self._matrix(tokens, heads * width)
        later = np.triu(np.full((tokens, context), -1e9, np.float32), context - tokens + 1)
        mask = stack.array(later) if tokens > 1 else None
        for (attention, projection, up, down), (keys, values) in zip(self._blocks, self._caches, strict=True):
            mixed = (stack.norm(x) @ attention).reshape(tokens, 3, heads, width).swapaxes(0, 2)
            keys[:, context - tokens : context] = mixed[:, 1]
            values[:, context - tokens : context] = mixed[:, 2]
            scores = mixed[:, 0] @ keys[:, :context].swapaxes(1, 2) * width**-0.5
            shares = stack.softmax(scores if mask is None else scores + mask)
            seen = (shares @ values[:, :context]).swapaxes(0, 1).reshape(tokens, heads * width)
            x = x + seen @ projection
            x = x + stack.gelu(stack.norm(x) @ up) @ down
        if self._head is not None:
            (stack.norm(x[-1:]) @ self._head).argmax()
        return x


def _timed(work: Callable[[], object], repeats: int, rapl: Rapl) -> tuple[float, float | None]:
    """(fewest seconds, mean joules or None) of a call, after one that is not counted."""
    work()
    spent: list[float] = []
    before = rapl.read()
    while len(spent) < repeats or sum(spent) < MIN_SECONDS:
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    joules = rapl.joules(before, rapl.read())
    return min(spent), joules / len(spent) if joules else None


def _refuse_others(shape: MeasuredShape, d_model: int) -> None:
    """Raises: InputError, if the decoder has what the pass does not compute."""
    wanted = {"norm": "layernorm", "gated": False, "key_value_heads": shape.heads}
    given = {"norm": shape.norm, "gated": shape.gated, "key_value_heads": shape.key_value_heads}
    for name, value in wanted.items():
        if given[name] != value:
            raise InputError(f"workload.model.{name} must be {value} to be measured, not {given[name]}")
    if shape.heads * shape.head_width != d_model:
        raise InputError(
            f"workload.model.d_model must be heads x d_head to be measured, not {d_model} with {shape.heads} heads "
            f"of {shape.head_width}"
        )
    if shape.position == "rope":
        raise InputError("workload.model.position must be learned or none to be measured, not rope")


def _refuse_large(workload: Generation, context: int) -> None:
    """Raises: InputError, if weights and caches in float32 need more than the free memory."""
    model = workload.model
    need = 4 * (weights(workload) + 2 * model.layers * context * model.d_model)
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return
    if need > free:
        raise InputError(f"--workload must fit into {free / 2**30:.1f} GiB of free memory, not {need / 2**30:.1f} GiB")


def _norm(x: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + np.float32(1e-5))


def _softmax(x: Any) -> Any:
    grown = np.exp(x - x.max(-1, keepdims=True))
    return grown / grown.sum(-1, keepdims=True)


def _gelu(x: Any) -> Any:
    return np.float32(0.5) * x * (1 + np.tanh(np.float32(0.7978845608) * (x + np.float32(0.044715) * x * x * x)))


__all__ = ["STACKS", "Stack", "measure", "numpy_stack", "processor", "torch_stack"]
