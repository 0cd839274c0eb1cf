"""What a comparison of one operation's result with float64 says, and the figures of many."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class Operation(Protocol):
    """What is compared, as messages and figures name it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def kind(self) -> str:
        """What is computed."""


@dataclass(frozen=True)
class Verdict:
    """The result of one operation against float64."""

    op: Operation
    error: float
    """Largest absolute error."""
    size: float
    """Largest magnitude of the exact result."""
    bound: float
    """Largest allowed error."""
    excess: float
    """Largest error over what is allowed there; above 1 it is wrong."""
    relative: float
    """2-norm of the error over that of the exact result."""
    where: tuple[int, ...]
    """Element at which `excess` lies."""
    found: float
    exact: float
    place: str = ""
    """Layer and pass, for messages, with a comma behind each."""

    @property
    def passed(self) -> bool:
        """Whether every element is within its bound."""
        return self.excess <= 1.0

    def message(self, number_format: str) -> str:
        """Where, and by how much."""
        element = self.where[0] if len(self.where) == 1 else list(self.where)
        return (
            f"{self.op.name} ({self.op.kind}) must be what the reference computes: {self.place}element {element} must be "
            f"{self.exact:.6g} in {number_format}, not {self.found:.6g} ({self.excess:.3g} times the allowed error)"
        )


def compare(op: Operation, found: Any, exact: Any, bound: npt.ArrayLike, place: str = "") -> Verdict:
    """Element by element; what was never computed (NaN), or has another shape, is infinitely wrong.

    A bound of zero allows nothing, and says nothing about a result that meets it: that is a fault of the bound.
    """
    if np.shape(found) != np.shape(exact):
        found = np.full_like(exact, np.nan)
    error = np.where(np.isnan(found), inf, np.abs(found - exact))
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.where(error == 0, np.where(np.asarray(bound) > 0, 0.0, inf), error / bound)
    where = np.unravel_index(int(np.argmax(excess)), excess.shape)
    size = float(np.linalg.norm(exact))
    return Verdict(
        op,
        error=float(error.max()),
        size=float(np.abs(exact).max()),
        bound=float(np.max(bound)),
        excess=float(excess[where]),
        relative=float(np.linalg.norm(error)) / size if size else 0.0,
        where=tuple(int(number) for number in where),
        found=float(found[where]),
        exact=float(exact[where]),
        place=place,
    )


def compare_whole(op: Operation, found: Any, exact: Any, allowed: float, place: str = "") -> Verdict:
    """As a whole: 2-norm of the error against ``allowed`` times that of what is exact; the element is the one furthest off."""
    each = compare(op, found, exact, 1.0, place)
    size = float(np.linalg.norm(exact))
    error = each.relative * size if size else each.error
    excess = error / (allowed * size) if size and allowed else float(error > 0) and inf
    return replace(each, error=error, size=size, bound=allowed * size, excess=excess)


def relative_error(found: Any, exact: Any) -> float:
    """2-norm of the error over that of what is exact, or alone if that is zero; equal infinities are no error."""
    with np.errstate(invalid="ignore"):
        error = np.where(found == exact, 0.0, np.subtract(found, exact))
    size = float(np.linalg.norm(np.where(np.isfinite(exact), exact, 0.0)))
    off = float(np.linalg.norm(error))
    return off / size if size else off


def summary(verdicts: Iterable[Verdict]) -> dict[str, Any]:
    """Figures of all comparisons, by kind of operation."""
    found: dict[str, Any] = {}
    for each in verdicts:
        row = found.setdefault(
            each.op.kind, {"compared": 0, "max_abs_error": 0.0, "max_rel_error": 0.0, "tolerance": 0.0, "used": 0.0}
        )
        row["compared"] += 1
        row["max_abs_error"] = max(row["max_abs_error"], each.error)
        row["max_rel_error"] = max(row["max_rel_error"], each.error / each.size if each.size else 0.0)
        row["tolerance"] = max(row["tolerance"], each.bound)
        row["used"] = max(row["used"], each.excess)
    return found


__all__ = ["Operation", "Verdict", "compare", "compare_whole", "relative_error", "summary"]
