"""Greedy continuation of a prompt by anything that computes logits token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from pimsim.errors import InputError
from pimsim.workload.importers.vocabulary import Vocabulary

Show = Callable[[str], None]
"""Called with every piece of text as it comes."""


class Session(Protocol):
    """One forward pass per step; the KV cache is kept between steps."""

    @property
    def capacity(self) -> int:
        """Forward passes that the KV cache has room for."""

    def step(self, token_id: int, *, head: bool = True) -> npt.NDArray[Any]:
        """Logits ``[vocabulary]`` behind one more token; without ``head`` nobody will look at them."""


@dataclass(frozen=True)
class Continuation:
    """What followed a prompt."""

    prompt_ids: list[int]
    token_ids: list[int]
    """The token that ended the text included, if one did."""
    text: str
    """Without the token that ended it."""
    stop: Literal["eos", "length"]
    logit_margins: list[float]
    """Distance of the two largest logits at each generated token."""


def encode_prompt(vocabulary: Vocabulary, prompt: str) -> list[int]:
    """Token ids of a prompt.

    Raises:
        InputError: the prompt is empty or cannot be encoded.
    """
    ids = vocabulary.encode(prompt) if prompt else []
    if not ids:
        raise InputError("the prompt must have at least one token, not none")
    return ids


def continue_prompt(
    session: Session,
    vocabulary: Vocabulary,
    prompt_ids: Sequence[int],
    tokens: int,
    *,
    ignore_eos: bool = False,
    show: Show = lambda _: None,
) -> Continuation:
    """The likeliest continuation, one token after the other, of at most ``tokens`` tokens.

    Raises:
        InputError: there is no prompt, nothing is to be generated, or the KV cache is too small.
    """
    if not prompt_ids:
        raise InputError("the prompt must have at least one token, not none")
    if tokens < 1:
        raise InputError(f"tokens must be at least 1, not {tokens}")
    passes = len(prompt_ids) + tokens - 1
    if passes > session.capacity:
        raise InputError(
            f"the prompt must fit the KV cache together with what follows: {len(prompt_ids):,} + {tokens:,} - 1 = "
            f"{passes:,} tokens, not more than {session.capacity:,}"
        )
    for token in prompt_ids[:-1]:
        session.step(token, head=False)
    logits = session.step(prompt_ids[-1])
    stream = vocabulary.stream()
    ids: list[int] = []
    texts: list[str] = []
    margins: list[float] = []
    stop: Literal["eos", "length"] = "length"
    while True:
        ids.append(int(np.argmax(logits)))
        margins.append(_margin(logits))
        if ids[-1] in vocabulary.stops and not ignore_eos:
            stop = "eos"
            break
        texts.append(stream.write(ids[-1]))
        show(texts[-1])
        if len(ids) == tokens:
            break
        logits = session.step(ids[-1])
    texts.append(stream.close())
    show(texts[-1])
    return Continuation(list(prompt_ids), ids, "".join(texts), stop, margins)


def _margin(logits: npt.NDArray[Any]) -> float:
    if len(logits) < 2:
        return 0.0
    runner_up, best = np.partition(logits, -2)[-2:]
    return float(best - runner_up)


__all__ = ["Continuation", "Session", "Show", "continue_prompt", "encode_prompt"]
