"""Memory layer of MemoryFormer: hashed look-ups in tables in place of a linear layer.

Source: Ding et al. 2024, arXiv 2411.12992, and its code. A token of d elements is cut into ``K = d / tau`` pieces; the signs of a
piece, first element most significant, are the row of its table ``[2^tau, d_out]``. The row weighs
``p_k = prod_i 1 / (1 + exp(-2 |z_ki|))``, its share of a softmax over all corners; the released code scales p_k by the sum
of the magnitudes (``scaled``). No row is used twice unless data say so: K random rows for each token.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from pimsim.errors import WorkloadError
from pimsim.model import PositiveInt
from pimsim.workload.attention.base import ALGORITHMS, Algorithm, Case, Counts, Decided, Floats, Tensors
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Arrange, Gather, Shape, SignHash
from pimsim.workload.attention_only import Phase
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("memory_layer")
class MemoryLayer(Algorithm):
    """Tables in place of weights."""

    description: ClassVar[str] = "MemoryFormer: hashed table rows in place of a linear layer, d d_out / tau MACs"
    source: ClassVar[str] = "Ding et al. 2024, arXiv 2411.12992"
    phases: ClassVar[tuple[Phase, ...]] = ("prefill", "decode")
    exact: ClassVar[bool] = False

    bits: int = Field(8, ge=1, le=20, description="elements of a piece (tau)")
    d_out: PositiveInt = Field(512, description="elements of the output")
    scaled: bool = Field(False, description="weights times the sum of magnitudes, as in the released code")

    def check(self, case: Case) -> None:
        """Raises: WorkloadError, if the width is not whole pieces."""
        super().check(case)
        if case.width % self.bits:
            raise WorkloadError(
                f"attention memory_layer must have heads * d_head a multiple of bits {self.bits}, not {case.width}"
            )

    def inputs(self, case: Case) -> dict[str, Shape]:
        """Tokens, tables ``[K, 2^tau, d_out]`` and the bias."""
        tables = (case.width // self.bits, 1 << self.bits, self.d_out)
        return {"x": (case.queries, case.width), "tables": tables, "bias": (self.d_out,)}

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """Piece by piece."""
        out = np.tile(tensors["bias"], (case.queries, 1))
        for t, x in enumerate(tensors["x"]):
            for k in range(case.width // self.bits):
                z = x[k * self.bits : (k + 1) * self.bits]
                row = int("".join("1" if each >= 0 else "0" for each in z), 2)
                corners = np.array([[1 if c >> i & 1 else -1 for i in range(self.bits)] for c in range(1 << self.bits)])
                p = np.exp(abs(z).sum()) / np.exp(corners @ z).sum()
                out[t] += p * (abs(z).sum() if self.scaled else 1) * tensors["tables"][k, row]
        return {"output": out}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """``d d_out / tau`` MACs, d exponentials and K rows at random for each token."""
        m, d, pieces = case.queries, case.width, case.width // self.bits
        rows = m * pieces * self.d_out
        return Counts(
            exps=m * d,
            macs=rows,
            reads=m * d + rows,
            gathered=rows,
            writes=m * self.d_out,
            persistent=(pieces << self.bits) * self.d_out,
        )

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Hash, weights, rows, sum."""
        self.check(case)
        b = Expansion(self.inputs(case))
        m, pieces = case.queries, case.width // self.bits
        z = b.add(Arrange, b.load(b["x"]), split=(m, pieces, self.bits), order=(1, 0, 2), to=(pieces, m, self.bits))
        rows = b.add(Gather, b.keep(b["tables"]), b.add(SignHash, z))
        p = b.reduce("product", b.apply("sigmoid_of_magnitude", z))
        if self.scaled:
            p = b.apply("multiply", p, b.reduce("sum", b.apply("magnitude", z)))
        weights = b.add(Arrange, p, order=(1, 2, 0), to=(m, 1, pieces))
        rows_of_token = b.add(Arrange, rows, split=(pieces, m, self.d_out), order=(1, 0, 2), to=(m, pieces, self.d_out))
        y = b.product(weights, rows_of_token, b["bias"])
        b.store(b.add(Arrange, y, to=(m, self.d_out)), name="output")
        return b.graph()
