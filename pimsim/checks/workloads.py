"""Checks across fields of workloads."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pimsim.errors import WorkloadError
from pimsim.loaded import Loaded

if TYPE_CHECKING:  # a run imports the models of its own kinds only
    from pimsim.workload.attention_only import AttentionConfig
    from pimsim.workload.config import WorkloadConfig

MAX_TOKENS = 10_000_000
"""Prompt and generated tokens."""

MAX_MODEL = {"layers": 10_000, "d_model": 1_000_000, "d_ff": 10_000_000, "vocabulary": 100_000_000, "context": 10**9}
"""Largest shape of a decoder; what is larger is a slip, and would only fail for lack of memory."""

MAX_REPEATED = 1000
"""Blocks or layers that an attention algorithm stacks."""

REPEATED = {"blocks", "layers", "depth", "embed_layers"}

MAX_PARAMETER = 10_000_000
"""Any other whole number among the parameters of an attention algorithm."""

MAX_ELEMENTS = 2**34
"""Of all given tensors of an attention problem: 64 GiB in float32."""


def check_attention(loaded: Loaded[AttentionConfig]) -> None:
    """Check that an attention problem has parameters that its algorithm knows, and sizes that it takes.

    Raises:
        ConfigError: a parameter is unknown or out of range, sizes do not fit each other, the algorithm has no such
            phase or case, or its tensors are far beyond what can be simulated.
    """
    tree, work = loaded.tree, loaded.value
    try:
        method = work.method()
    except WorkloadError as error:
        raise tree.error(str(error), ("parameters", *_named(work.parameters, str(error)))) from None
    try:
        case = work.case()
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise tree.error(message, (message.split()[0],)) from None
    try:
        method.check(case)
    except WorkloadError as error:
        raise tree.error(str(error), ("algorithm" if case.phase in method.phases else "phase",)) from None
    for name, value in method.model_dump().items():
        limit = MAX_REPEATED if name in REPEATED else MAX_PARAMETER
        if isinstance(value, int) and value > limit:
            raise tree.error(f"must be at most {limit:,}, not {value:,}", ("parameters", name))
    sizes = {name: prod(shape) for name, shape in method.inputs(case).items()}
    if sum(sizes.values()) > MAX_ELEMENTS:
        largest = max(sizes, key=lambda name: sizes[name])
        raise tree.error(
            f"must leave attention {work.algorithm} at most {MAX_ELEMENTS:,} elements in its given tensors, not "
            f"{sum(sizes.values()):,}, of which {largest} has {sizes[largest]:,}",
            ("parameters",) if work.parameters else ("algorithm",),
        )


def _named(parameters: Iterable[str], text: str) -> tuple[str, ...]:
    """The parameter that a message is about, if it names one."""
    return next(((key,) for key in parameters if f" {key} of" in text or repr(key) in text), ())


def check_attention_of_decoder(loaded: Loaded[WorkloadConfig]) -> None:
    """Check that a decoder's attention makes sense in it, with its parameters.

    Raises:
        ConfigError: it does not, or a parameter is unknown or out of range.
    """
    work, tree = loaded.value, loaded.tree
    if work.attention == "vanilla":
        if work.attention_parameters:
            given = ", ".join(map(str, work.attention_parameters))
            raise tree.error(f"must be empty for attention vanilla, not {given}", ("attention_parameters",))
        return
    from pimsim.workload.decoder_attention import method_for  # numpy, which vanilla does without

    if work.model.heads % work.model.key_value_heads or not work.model.head_width:
        return  # building the graph says so
    try:
        method_for(work)
    except WorkloadError as error:
        text = str(error)
        of_parameters = text.startswith("parameter")
        path = ("attention_parameters", *_named(work.attention_parameters, text)) if of_parameters else ("attention",)
        raise tree.error(text, path) from None


def check_decoder(loaded: Loaded[WorkloadConfig]) -> None:
    """Refuse a decoder that is far beyond what can be simulated.

    Raises:
        ConfigError: it has too many tokens or its model is too large.
    """
    check_attention_of_decoder(loaded)
    limits: dict[tuple[str, ...], int] = {("prompt_tokens",): MAX_TOKENS, ("generate_tokens",): MAX_TOKENS}
    limits |= {("model", name): limit for name, limit in MAX_MODEL.items()}
    for path, limit in limits.items():
        value = getattr(loaded.value.model if path[0] == "model" else loaded.value, path[-1])
        if value > limit:
            raise loaded.tree.error(f"must be at most {limit:,}, not {value:,}", path)


__all__ = ["check_attention", "check_decoder"]
