"""Token agreement and logit error of a mapped GGUF model: ``python scripts/generate_agreement.py MODEL.gguf FORMAT``.

The stored continuations of ``tests/data/reference/smollm2_greedy.json`` are fed token by token (so that one other choice
does not change what follows) to the mapped program and to the float64 reference.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from pimsim.config import load_arch, load_workload
from pimsim.session import Session
from pimsim.workload.importers.gguf import load_weights
from pimsim.workload.reference import Reference

DATA = Path(__file__).parents[1] / "tests" / "data" / "reference" / "smollm2_greedy.json"


def main(model: str, number_format: str) -> None:
    """Print one line per disagreement and the sums."""
    machine = load_arch("pim_gpt", [("pim.format", number_format)]).value
    work = load_workload(model, [("prompt_tokens", "8"), ("generate_tokens", "40")]).value
    weights = load_weights(model, work)
    session = Session(work, machine, weights)
    reference = Reference(session.graph, work, weights)
    agreed, errors = 0, []
    for case in json.loads(DATA.read_text())["cases"]:
        session.clear()
        reference.reset()
        ids = [*case["prompt_ids"], *case["token_ids"]]
        for position, token in enumerate(ids[:-1]):
            found, wanted = session.step(token), reference.step(token, position)["final.lm_head"]
            if position < len(case["prompt_ids"]) - 1:
                continue
            errors.append(np.abs(found - wanted).max() / np.abs(wanted).max())
            chosen, best = int(np.argmax(found)), int(np.argmax(wanted))
            agreed += chosen == best
            if chosen != best:
                sys.stdout.write(
                    f"{case['prompt']!r} token {position - len(case['prompt_ids']) + 1}: {chosen} instead of {best}; "
                    f"margin {wanted[best] - wanted[chosen]:.4f}, largest error {np.abs(found - wanted).max():.4f}\n"
                )
    sys.stdout.write(
        f"{number_format}: {agreed} of {len(errors)} tokens agree; error of the largest logit: "
        f"mean {np.mean(errors):.2e}, largest {np.max(errors):.2e}\n"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
