"""What the data decided (selections, boundaries, evictions, hashes): taken from a run, recorded and replayed.

A `Recording` says where its decisions come from: ``functional: ...`` (real tensors) or ``distribution: ...``. Its file
is JSON::

    {"schema": "pimsim.decisions/1", "algorithm": "topk", "parameters": {"k": 2}, "case": {"queries": 1, ...},
     "origin": "functional: given tensors", "decisions": {"top_k.1": [[[1, 2]]]}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from pimsim.errors import ConfigError, InputError
from pimsim.jsonio import read_json
from pimsim.workload.attention.base import Algorithm, Case, algorithm
from pimsim.workload.attention.interpreter import evaluate
from pimsim.workload.attention.primitives import Decision

SCHEMA = "pimsim.decisions/1"


@dataclass(frozen=True)
class Recording:
    """Decisions of one algorithm on one case, by operation name, and where they come from."""

    algorithm: Algorithm
    case: Case
    origin: str
    decisions: Mapping[str, npt.NDArray[np.int64]]

    def text(self) -> str:
        """What a file holds."""
        found = {
            "schema": SCHEMA,
            "algorithm": self.algorithm.name(),
            "parameters": self.algorithm.model_dump(),
            "case": self.case.model_dump(),
            "origin": self.origin,
            "decisions": {name: found.tolist() for name, found in self.decisions.items()},
        }
        return json.dumps(found) + "\n"

    def save(self, file: Path) -> None:
        """Write the file."""
        file.write_text(self.text(), encoding="utf-8")


def run(
    kind: Algorithm, case: Case, tensors: Mapping[str, Any], origin: str = "functional: given tensors"
) -> Recording:
    """Decisions of a functional run on these tensors."""
    recorded = dict(kind.decide(case, tensors))
    decided = dict(recorded)
    evaluate(kind.expand(case, decided), tensors, record=recorded)
    return Recording(kind, case, origin, recorded)


def draw(kind: Algorithm, case: Case, seed: int = 0) -> Recording:
    """Decisions of a run on tensors drawn from the algorithm's stated distribution (`Algorithm.sample`)."""
    return run(kind, case, kind.sample(case, seed), f"distribution: {kind.name()}.sample, seed {seed}")


def load(file: Path) -> Recording:
    """Read a file, which may name any case; `check_range` holds its decisions against one that is to be run.

    Raises:
        ConfigError: it is no recording; the message names the file and the field.
    """
    found = read_json(file)
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        given = found.get("schema") if isinstance(found, dict) else type(found).__name__
        raise ConfigError(f"must be {SCHEMA!r}, not {given!r}", file=file, path="schema")
    for key in ("algorithm", "parameters", "case", "origin", "decisions"):
        if key not in found:
            raise ConfigError("must be given", file=file, path=key)
    for key, what in (("parameters", "values"), ("case", "sizes"), ("decisions", "decisions")):
        if not isinstance(found[key], dict):
            raise ConfigError(f"must be a mapping from names to {what}", file=file, path=key)
    kind = _parsed(file, "algorithm", lambda: algorithm(found["algorithm"], found["parameters"]))
    case = _parsed(file, "case", lambda: Case(**found["case"]))
    decisions = {
        name: _parsed(file, f"decisions.{name}", lambda values=values: _whole_numbers(values))
        for name, values in found["decisions"].items()
    }
    return Recording(kind, case, str(found["origin"]), decisions)


def check_range(file: Path, recording: Recording) -> None:
    """Decisions become addresses, so what no run can have decided is refused; the case must be one that can be expanded.

    Raises:
        ConfigError: a decision has another shape than its operation, or names what there is not.
    """
    decisions = recording.decisions
    graph = _parsed(file, "decisions", lambda: recording.algorithm.expand(recording.case, decisions))
    for op in graph:
        values = decisions.get(op.name)
        if values is None or not isinstance(op, Decision):
            continue
        if values.shape != op.shape:
            shape = list(op.shape)
            raise ConfigError(
                f"must have the shape {shape}, not {list(values.shape)}", file=file, path=f"decisions.{op.name}"
            )
        low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
        if low < 0 or high >= op.limit:
            given = low if low < 0 else high
            raise ConfigError(f"must be from 0 to {op.limit - 1}, not {given}", file=file, path=f"decisions.{op.name}")


def _whole_numbers(values: Any) -> npt.NDArray[np.int64]:
    array = np.array(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError("must be whole numbers")
    return array.astype(np.int64)


def _parsed(file: Path, path: str, make: Any) -> Any:
    try:
        return make()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([path, *(str(part) for part in first["loc"])])
        raise ConfigError(f"{first['msg']}, not {first['input']!r}", file=file, path=where) from None
    except (InputError, ValueError, TypeError, IndexError, OverflowError) as error:
        raise ConfigError(str(error), file=file, path=path) from None
