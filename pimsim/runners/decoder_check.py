"""What every ``--check`` of a decoder does: random weights, the float64 reference beside the program, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pimsim.functional.check import Judge
from pimsim.functional.verdict import Verdict, relative_error, summary
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.graph import WorkloadGraph
from pimsim.workload.reference import Reference, random_weights


class DecoderCheck:
    """A check of one sequence.

    Attributes:
        weights: all that are not tied to others.
        tokens: one per pass.
        judge: set by those who know the machine.
    """

    judge: Judge

    def __init__(self, workload: WorkloadConfig, tokens: int, number_format: str, graph: WorkloadGraph) -> None:
        self.workload, self.graph, self.format = workload, graph, number_format
        tied, random = self.graph.tied(), random_weights(self.graph)
        self.weights = {name: random[name] for name in random if name not in tied}
        passes = workload.prompt_tokens + workload.generate_tokens - 1
        self.tokens = [(7919 * i + 17) % workload.model.vocabulary for i in range(min(tokens, passes))]
        kept = {"cache_bytes": 0} if len(self.tokens) == 1 else {}  # copies pay from the second pass on
        self._reference = Reference(self.graph, workload, self.weights, **kept)
        self._exact: list[dict[str, Any]] = []

    def _report(
        self, message: str, worst: dict[str, float], differences: Sequence[Verdict], passes: int
    ) -> dict[str, Any]:
        return {
            "passed": not message,
            "format": self.format,
            "max_abs_error": worst["error"],
            "max_rel_error": worst["relative"],
            "tolerance": worst["tolerance"],
            "compared": len(differences),
            "passes": passes,
            "by_op": summary(differences),
            "message": message or None,
        }

    def _expected(self, number: int) -> dict[str, Any]:
        """Results of the reference in a pass; passes are asked for in order."""
        if number == len(self._exact):
            self._exact.append(self._reference.step(self.tokens[number], number))
        return self._exact[number]

    def _compare_end(
        self, exact: dict[str, Any], differences: Sequence[Verdict], number: int, worst: dict[str, float]
    ) -> str:
        name = [each.op.name for each in differences if each.op.kind != "argmax"][-1]
        found = self.judge.found[name]
        worst["tolerance"] = max(worst["tolerance"], sum(each.relative for each in differences))
        worst["error"] = max(worst["error"], float(abs(found - exact[name]).max()))
        relative = relative_error(found, exact[name])
        worst["relative"] = max(worst["relative"], relative)
        if relative <= worst["tolerance"]:
            return ""
        return (
            f"{name} must be within {worst['tolerance']:.3g} of the reference at the end of pass {number}, the sum of "
            f"the errors of all operations, not {relative:.3g} off"
        )


def available_memory() -> int:
    """Bytes that programs can still take; without /proc, no limit is known and a huge number comes back."""
    path = Path("/proc/meminfo")
    if path.exists():
        for line in path.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 1 << 62


__all__ = ["DecoderCheck", "available_memory"]
