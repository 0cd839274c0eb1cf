"""What an attention algorithm is: parameters, reference, closed-form counts and an expansion into primitives."""

from __future__ import annotations

import importlib
import pkgutil
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, model_validator

from pimsim.errors import WorkloadError, did_you_mean
from pimsim.model import Model, PositiveInt
from pimsim.registry import Registry
from pimsim.workload.attention.primitives import Primitive, Shape
from pimsim.workload.attention_only import Phase
from pimsim.workload.ops import OpNode

Floats = npt.NDArray[np.float64]
Tensors = Mapping[str, Floats]
Decided = Mapping[str, npt.NDArray[np.int64]]

FRAME = {"base", "primitives", "expansion", "interpreter", "decisions", "latent_blocks", "quality", "vision_blocks"}
"""Modules of this package that hold no algorithm of their own."""


class Case(Model):
    """Sizes of one problem: ``queries`` rows attend ``keys`` tokens, heads of ``d_head`` elements.

    Query row i stands at position ``keys - queries + i``. In ``decode`` the one query is that of the newest key. For
    layers that are no attention, ``queries`` are the tokens and ``heads * d_head`` is their width.
    """

    phase: Phase = Field("prefill", description="prefill, decode, update (a state takes up tokens) or query (reads it)")
    queries: PositiveInt = Field(description="rows that ask, or tokens that a state takes up")
    keys: PositiveInt = Field(description="tokens that are attended to")
    d_head: PositiveInt = Field(64, description="elements of a head")
    heads: PositiveInt = Field(1, description="query heads")
    kv_heads: PositiveInt | None = Field(None, description="heads of keys and values; default: heads")
    causal: bool = Field(True, description="a query sees no key after its own position")

    @model_validator(mode="after")
    def _fits(self) -> Case:
        if self.heads % self.groups:
            raise ValueError(f"heads must be a multiple of kv_heads, not {self.heads} and {self.kv_heads}")
        if self.phase == "decode" and self.queries != 1:
            raise ValueError(f"queries must be 1 in phase decode, not {self.queries}")
        if self.causal and self.queries > self.keys:
            raise ValueError(f"queries must be at most keys if causal, not {self.queries} and {self.keys}")
        return self

    @property
    def groups(self) -> int:
        """Heads of keys and values."""
        return self.kv_heads or self.heads

    @property
    def offset(self) -> int:
        """Position of the first query."""
        return self.keys - self.queries

    @property
    def width(self) -> int:
        """Elements of all heads."""
        return self.heads * self.d_head

    @property
    def scale(self) -> float:
        """Factor of the scores."""
        return float(self.d_head**-0.5)

    def pairs(self) -> int:
        """(query, key) pairs of one head that attend."""
        m, n = self.queries, self.keys
        return m * self.offset + m * (m + 1) // 2 if self.causal else m * n


@dataclass(frozen=True)
class Counts:
    """Totals over heads. Words are elements, whatever their format; `primitives` says what is counted."""

    scores: int = 0
    exps: int = 0
    logs: int = 0
    macs: int = 0
    reads: int = 0
    writes: int = 0
    gathered: int = 0
    persistent: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, times: int) -> Counts:
        return Counts(*(getattr(self, f.name) * times for f in fields(self)))

    @property
    def moved(self) -> int:
        """Words between memory and chip."""
        return self.reads + self.writes


def successor(name: str) -> str:
    """Name of the state that takes the place of a given one: ``0.state`` -> ``0.new_state``."""
    before, dot, last = name.rpartition(".")
    return f"{before}{dot}new_{last}"


def count(ops: Iterable[OpNode]) -> Counts:
    """Counts of primitives, added up.

    Raises:
        WorkloadError: an operation is no primitive.
    """
    names = [field.name for field in fields(Counts)]
    totals = dict.fromkeys(names, 0)
    for op in ops:
        if not isinstance(op, Primitive):
            raise WorkloadError(f"operations of an expansion must be primitives, not {type(op).__name__}")
        for name in names:
            totals[name] += op.macs() if name == "macs" else getattr(op, name)()
    return Counts(**totals)


class Algorithm(Model):
    """An attention algorithm with its parameters, which are the fields of the model.

    A subclass states `description`, `source` and `phases`, and registers itself in `ALGORITHMS`.
    """

    description: ClassVar[str] = ""
    source: ClassVar[str] = ""
    phases: ClassVar[tuple[Phase, ...]] = ("prefill", "decode")
    exact: ClassVar[bool] = True
    """Whether the output is that of softmax attention over all keys."""
    decides: ClassVar[bool] = False
    """Whether the expansion itself, not only its data, depends on decisions."""

    @classmethod
    def name(cls) -> str:
        """Name in the registry."""
        return next(name for name, entry in ALGORITHMS.items() if entry is cls)

    def check(self, case: Case) -> None:
        """Raises: WorkloadError, if this algorithm has no such case. Subclasses add conditions of their own."""
        if case.phase not in self.phases:
            choices = ", ".join(self.phases)
            raise WorkloadError(f"phase of attention {self.name()} must be one of {choices}, not {case.phase!r}")

    def keys_in_cache(self, keys: int) -> int:
        """Keys that decode attends to, the new one included, when a sequence has so many: fewer if some are dropped."""
        return keys

    def inputs(self, case: Case) -> dict[str, Shape]:
        """Name -> shape of every tensor that the case needs."""
        return attention_inputs(case)

    def sample(self, case: Case, seed: int = 0) -> dict[str, Floats]:
        """Tensors drawn from the stated distribution: independent standard normal, unless the module says otherwise."""
        rng = np.random.default_rng(seed)
        return {name: rng.standard_normal(shape) for name, shape in self.inputs(case).items()}

    def decide(self, case: Case, tensors: Tensors) -> dict[str, npt.NDArray[np.int64]]:  # noqa: ARG002
        """Decisions that `expand` needs; only where `decides`."""
        return {}

    @abstractmethod
    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """What the algorithm computes, float64, without primitives: ``output``, and states where there are any."""

    @abstractmethod
    def counts(self, case: Case, decided: Decided | None = None) -> Counts:
        """Closed forms; exactly the sums over the expansion."""

    @abstractmethod
    def expand(self, case: Case, decided: Decided | None = None) -> Any:
        """The primitives as a `WorkloadGraph`; operation ``output`` (and states) have the names of `reference`.

        Raises:
            WorkloadError: the case is none of this algorithm, or decisions are missing.
        """

    def need(self, decided: Decided | None) -> Decided:
        """The decisions.

        Raises:
            WorkloadError: there are none.
        """
        if decided is None:
            raise WorkloadError(
                f"attention {self.name()} must be given decisions (from a functional run, a distribution or a file), "
                "as its work depends on data"
            )
        return decided


class AlgorithmRegistry(Registry[type[Algorithm]]):
    """Algorithms by name."""

    def items(self) -> list[tuple[str, type[Algorithm]]]:
        """Names and classes, sorted."""
        return sorted(self._entries.items())


ALGORITHMS = AlgorithmRegistry("attention")


def discover() -> AlgorithmRegistry:
    """Import every module of this package, so that all algorithms are registered."""
    package = importlib.import_module("pimsim.workload.attention")
    for module in pkgutil.iter_modules(package.__path__):
        if module.name not in FRAME:
            importlib.import_module(f"pimsim.workload.attention.{module.name}")
    return ALGORITHMS


def algorithm(name: str, parameters: Mapping[str, Any] | None = None) -> Algorithm:
    """The algorithm of that name with these parameters.

    Raises:
        UnknownName: nothing is registered under the name.
        WorkloadError: a parameter is unknown or out of range.
    """
    kind = discover().get(name)
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in (parameters or {}).items()}
    known = set(kind.model_fields)
    for key in given:
        if key not in known:
            choices = ", ".join(sorted(known)) or "(none)"
            raise WorkloadError(
                f"parameters of attention {name} must be among {choices}, not {key!r}{did_you_mean(str(key), known)}"
            )
    try:
        return kind(**given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        text = first["msg"][:1].lower() + first["msg"][1:].removeprefix("alue error, ")
        text = text.removeprefix("v") if text.startswith("vvalue") else text
        what = f"parameter {where} of attention {name}" if where else f"parameters of attention {name}"
        raise WorkloadError(f"{what}: {text}, not {first['input']!r}") from None


# ---------------------------------------------------------------------------------------- what softmax attention shares


def attention_inputs(case: Case) -> dict[str, Shape]:
    """Shapes: q ``[heads, queries, d]``, k and v ``[kv_heads, keys, d]``; in decode the caches end before k_new and v_new."""
    q = (case.heads, case.queries, case.d_head)
    if case.phase != "decode":
        kv = (case.groups, case.keys, case.d_head)
        return {"q": q, "k": kv, "v": kv}
    cache, new = (case.groups, case.keys - 1, case.d_head), (case.groups, 1, case.d_head)
    return {"q": q, "k": cache, "v": cache, "k_new": new, "v_new": new}


def whole(case: Case, tensors: Tensors, name: str) -> Floats:
    """Keys or values of all tokens, one for each query head: ``[heads, keys, d]``; for references."""
    found = tensors[name]
    if f"{name}_new" in tensors:
        found = np.concatenate([found, tensors[f"{name}_new"]], axis=1)
    return np.repeat(found, case.heads // case.groups, axis=0)


def dense_scores(case: Case, tensors: Tensors) -> Floats:
    """Scaled scores ``[heads, queries, keys]``, minus infinity where the causal mask says so; for references."""
    s: Floats = tensors["q"] @ whole(case, tensors, "k").swapaxes(1, 2) * case.scale
    if case.causal:
        future = np.arange(case.keys)[None, :] > case.offset + np.arange(case.queries)[:, None]
        s = np.where(future, -np.inf, s)
    return s


def dense_softmax(s: Floats) -> Floats:
    """Softmax over the last axis, in one go; 0 in rows without keys; for references."""
    top = np.max(s, axis=-1, keepdims=True)
    e = np.exp(s - np.where(np.isinf(top), 0.0, top))
    total = e.sum(axis=-1, keepdims=True)
    shares: Floats = np.divide(e, total, out=np.zeros_like(e), where=total > 0)
    return shares


def exact_attention(case: Case, tensors: Tensors) -> Floats:
    """Softmax attention over all keys, in one go: ``[heads, queries, d]``; for references."""
    found: Floats = dense_softmax(dense_scores(case, tensors)) @ whole(case, tensors, "v")
    return found
