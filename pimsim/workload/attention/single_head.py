"""Single-head attention of SHViT: one head on the first channels, all others pass by.

Source: Yun and Ro 2024, arXiv 2401.16456, and its code. The first ``attended`` of C channels are normalised (one group over
channels and tokens), projected to queries and keys of ``d_qk`` and values of ``attended`` elements, and attend over all
tokens; joined with the other channels they pass ReLU and a 1x1 convolution. C is ``heads * d_head`` of the case.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from pimsim.errors import WorkloadError
from pimsim.model import PositiveInt
from pimsim.workload.attention.base import (
    ALGORITHMS,
    Algorithm,
    Case,
    Counts,
    Decided,
    Floats,
    Tensors,
    dense_softmax,
)
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Arrange, Norm, Primitive, Shape, Softmax
from pimsim.workload.attention_only import Phase
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("single_head")
class SingleHead(Algorithm):
    """One head on some channels."""

    description: ClassVar[str] = "SHViT: a single head on the first channels, the others pass by"
    source: ClassVar[str] = "Yun and Ro 2024, arXiv 2401.16456"
    phases: ClassVar[tuple[Phase, ...]] = ("prefill",)
    exact: ClassVar[bool] = False

    attended: PositiveInt = Field(48, description="channels that attend (pdim)")
    d_qk: PositiveInt = Field(16, description="elements of a query and a key")

    def check(self, case: Case) -> None:
        """Raises: WorkloadError, if the case is causal, or has fewer channels than attend."""
        super().check(case)
        if case.causal or case.queries != case.keys:
            raise WorkloadError("attention single_head must have causal = false and queries equal to keys")
        if self.attended > case.width:
            raise WorkloadError(
                f"parameter attended of attention single_head must be at most the width {case.width}, not {self.attended}"
            )

    def inputs(self, case: Case) -> dict[str, Shape]:
        """Tokens ``[tokens, C]`` and weights."""
        p, c, qk = self.attended, case.width, self.d_qk
        shapes: dict[str, Shape] = {"x": (case.keys, c), "gain": (p,), "shift": (p,)}
        shapes |= {"wq": (p, qk), "wk": (p, qk), "wv": (p, p), "bq": (qk,), "bk": (qk,), "bv": (p,)}
        return shapes | {"proj": (c, c), "proj_bias": (c,)}

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:  # noqa: ARG002
        """As written."""
        t, p = tensors, self.attended
        x, rest = t["x"][:, :p], t["x"][:, p:]
        x = (x - np.mean(x)) / np.sqrt(np.var(x) + 1e-5) * t["gain"] + t["shift"]
        q, k, v = (x @ t[f"w{w}"] + t[f"b{w}"] for w in "qkv")
        found = dense_softmax(q @ k.T / np.sqrt(self.d_qk)) @ v
        return {"output": np.maximum(np.concatenate([found, rest], axis=1), 0) @ t["proj"] + t["proj_bias"]}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """``n p (2 d_qk + p) + n^2 (d_qk + p) + n C^2`` MACs."""
        n, p, c, qk = case.keys, self.attended, case.width, self.d_qk
        macs = n * p * (2 * qk + p) + n * n * (qk + p) + n * c * c
        return Counts(scores=n * n, exps=n * n, macs=macs, reads=n * c, writes=n * c)

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Normalise, attend, project."""
        self.check(case)
        b = Expansion(self.inputs(case))
        b.store(self.mixed(b, case, b.load(b["x"])), name="output")
        return b.graph()

    def mixed(self, b: Expansion, case: Case, whole: Primitive, prefix: str = "") -> Primitive:
        """Attention of tokens ``[tokens, C]`` with the weights whose names begin with ``prefix``."""
        n, p, c = case.keys, self.attended, case.width
        x = b.add(Norm, b.last(whole, 0, p), b[f"{prefix}gain"], b[f"{prefix}shift"], axes=2)
        q, k, v = (b.product(x, b[f"{prefix}w{w}"], b[f"{prefix}b{w}"]) for w in "qkv")
        q, k, v = (b.add(Arrange, y, to=(1, *y.shape)) for y in (q, k, v))
        found = b.product(b.add(Softmax, b.scores(q, k, float(self.d_qk**-0.5))), v)
        joined = b.apply("relu", b.join([b.add(Arrange, found, to=(n, p)), b.last(whole, p, c)], axis=-1))
        return b.product(joined, b[f"{prefix}proj"], b[f"{prefix}proj_bias"])
