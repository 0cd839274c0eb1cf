"""Unified normalisation folded into the linear layer behind it: no reduction, division or root per token.

Source: Yang et al. 2022, arXiv 2208.01313, and its code. At inference the statistic is a constant per channel,
``y = gain x / sqrt(mean_square + eps) + shift`` without removing the mean, so that ``y W + b`` is ``x W' + b'`` with
``W' = diag(gain / sqrt(mean_square + eps)) W`` and ``b' = b + shift W``. Folding takes ``d d_out`` MACs, once; they are
part of the expansion. The training of the statistic is not modelled.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from pimsim.model import PositiveFloat, PositiveInt
from pimsim.workload.attention.base import ALGORITHMS, Algorithm, Case, Counts, Decided, Floats, Tensors
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Arrange, Primitive, Shape
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("unified_norm")
class UnifiedNorm(Algorithm):
    """A normalisation that is part of the next layer."""

    description: ClassVar[str] = "unified normalisation, folded into the weights of the linear layer behind it"
    source: ClassVar[str] = "Yang et al. 2022, arXiv 2208.01313"
    exact: ClassVar[bool] = False

    d_out: PositiveInt = Field(512, description="elements of the linear layer's output")
    folded: bool = Field(True, description="else each token is normalised before the linear layer")
    eps: PositiveFloat = Field(1e-5, description="added to the mean square")

    def inputs(self, case: Case) -> dict[str, Shape]:
        """Tokens, statistic, gain and shift per channel, weights ``[d, d_out]`` and bias."""
        d = case.width
        channels: dict[str, Shape] = dict.fromkeys(("gain", "shift", "mean_square"), (1, d))
        return channels | {"x": (case.queries, d), "w": (d, self.d_out), "b": (self.d_out,)}

    def sample(self, case: Case, seed: int = 0) -> dict[str, Floats]:
        """Standard normal; the statistic is a square of one."""
        found = super().sample(case, seed)
        found["mean_square"] **= 2
        return found

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:  # noqa: ARG002
        """Normalisation, then the linear layer."""
        y = tensors["gain"] * tensors["x"] / np.sqrt(tensors["mean_square"] + self.eps) + tensors["shift"]
        return {"output": y @ tensors["w"] + tensors["b"]}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """The linear layer, and as much as for one more token to fold."""
        m, d, o = case.queries, case.width, self.d_out
        return Counts(macs=(m + self.folded) * d * o, reads=m * d, writes=m * o, persistent=d * o + o)

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Fold, then the linear layer."""
        self.check(case)
        b = Expansion(self.inputs(case))
        factor = b.apply("multiply", b["gain"], b.apply("inverse_root", b["mean_square"], constants=(self.eps,)))
        w: Primitive = b["w"]
        bias: Primitive = b["b"]
        x = b.load(b["x"])
        if self.folded:
            w = b.apply("multiply", w, b.add(Arrange, factor, to=(case.width, 1)))
            folded = b.product(b["shift"], b["w"], bias)
            bias = b.add(Arrange, folded, to=(self.d_out,))
        else:
            x = b.apply("add", b.apply("multiply", x, factor), b["shift"])
        b.store(b.product(x, b.keep(w), b.keep(bias)), name="output")
        return b.graph()
