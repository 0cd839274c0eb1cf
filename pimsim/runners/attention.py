"""What results of attention algorithms have in common, whatever the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pimsim.config import Loaded
from pimsim.workload.attention.base import Counts
from pimsim.workload.attention_only import AttentionConfig
from pimsim.workload.classifier import ClassifierConfig

Expanded = Loaded[AttentionConfig] | Loaded[ClassifierConfig]
"""Workloads that expand into primitives: an attention algorithm by itself, or a whole vision network."""


def counts_section(simulated: Mapping[str, int], closed: Counts, origin: str | None) -> dict[str, Any]:
    """The ``counts`` section of a result: what the program does beside what the closed forms say.

    Words that loads name and that masks exclude for all rows are not read by the machine; they stand under ``unread``. Words
    that a decoder has on chip, or keeps there, stand under ``resident_reads`` and ``resident_writes``.
    ``origin`` says where decisions come from; None if the program depends on none.
    """
    wanted = asdict(closed)
    as_named = {
        **simulated,
        "reads": simulated["reads"] + simulated.get("unread", 0) + simulated.get("resident_reads", 0),
        "writes": simulated["writes"] + simulated.get("resident_writes", 0),
    }
    return {
        **simulated,
        "closed_form": wanted,
        "equal": all(as_named[name] == n for name, n in wanted.items()),
        "decisions": origin,
    }


__all__ = ["Expanded", "counts_section"]
