"""LLM.int8(): a linear layer on 8-bit integers, scaled by row and column, with outlier columns beside it.

Source: Dettmers et al. 2022, arXiv 2208.07339, and the code of bitsandbytes. Columns of X with an entry of magnitude
``threshold`` or more take part unquantised, with weights that went through 8 bits. A row's scale is the largest magnitude
among the entries below the threshold (those in outlier columns included, as in the code), a column's scale that of its
weights; rounding is to the nearest, half to even. A row or column of zeros stays zero. MACs of both paths count alike.

`sample` draws standard normal entries, and ``sampled_outliers`` columns of X that are 10 times as large.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pimsim.model import PositiveFloat, PositiveInt
from pimsim.workload.attention.base import ALGORITHMS, Algorithm, Case, Counts, Decided, Floats, Tensors
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import OutlierColumns, Primitive, Select, Shape
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("llm_int8")
class LlmInt8(Algorithm):
    """Integers for most columns."""

    description: ClassVar[str] = "LLM.int8(): linear layer on scaled 8-bit integers, outlier columns unquantised"
    source: ClassVar[str] = "Dettmers et al. 2022, arXiv 2208.07339"
    exact: ClassVar[bool] = False
    decides: ClassVar[bool] = True

    d_out: PositiveInt = Field(512, description="elements of the output")
    threshold: PositiveFloat = Field(6.0, description="magnitude from which an entry makes its column an outlier")
    sampled_outliers: int = Field(1, ge=0, description="large columns of the distribution from which `sample` draws")

    def inputs(self, case: Case) -> dict[str, Shape]:
        """Tokens ``[tokens, d]`` and weights ``[d, d_out]``."""
        return {"x": (case.queries, case.width), "w": (case.width, self.d_out)}

    def sample(self, case: Case, seed: int = 0) -> dict[str, Floats]:
        """See the module."""
        found = super().sample(case, seed)
        found["x"][:, : self.sampled_outliers] *= 10
        return found

    def decide(self, case: Case, tensors: Tensors) -> dict[str, npt.NDArray[np.int64]]:  # noqa: ARG002
        """1 for each column with an outlier, else 0: ``[1, d]``."""
        return {"outliers": np.any(np.abs(tensors["x"]) >= self.threshold, axis=0)[None].astype(np.int64)}

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """Entry by entry of the scales, on Python integers."""
        x, w = tensors["x"], tensors["w"]
        outliers = [c for c in range(case.width) if self.decide(case, tensors)["outliers"][0, c]]
        rows = [max((abs(v) for v in row if abs(v) < self.threshold), default=0.0) or 1.0 for row in x.tolist()]
        columns = [max(abs(v) for v in column) or 1.0 for column in w.T.tolist()]
        xq = [
            [0 if c in outliers else round(127 * v / r) for c, v in enumerate(row)]
            for row, r in zip(x.tolist(), rows, strict=True)
        ]
        wq = [[round(127 * v / columns[j]) for j, v in enumerate(row)] for row in w.tolist()]
        y = np.array(xq) @ np.array(wq) * np.outer(rows, columns) / 127**2
        return {"output": y + x[:, outliers] @ (np.array(wq) * columns / 127)[outliers]}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:
        """The integer product in full, and one of the outlier columns."""
        m, d, o = case.queries, case.width, self.d_out
        columns = int(self.need(decided)["outliers"].sum())
        return Counts(macs=m * o * (d + columns), reads=m * d, writes=m * o, persistent=d * o + o)

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:
        """Quantise, two products, scale, add."""
        self.check(case)
        columns = tuple(np.flatnonzero(self.need(decided)["outliers"][0]).tolist())
        b = Expansion(self.inputs(case))
        x, limit = b.load(b["x"]), (self.threshold,)
        outliers = b.add(OutlierColumns, x, name="outliers", threshold=self.threshold)
        top_of_columns = b.keep(b.reduce("abs_max", b["w"], axis=-2))
        wq = b.keep(b.apply("quantise", b["w"], top_of_columns))
        top_of_rows = b.reduce("abs_max", b.apply("unless_at_least", x, constants=limit))
        xq = b.apply("zero_where", b.apply("quantise", x, top_of_rows), outliers)
        y: Primitive = b.apply(
            "scale", b.product(xq, wq), constants=(127.0**-2,)
        )  # first, so that fixed point can hold it
        y = b.apply("multiply", b.apply("multiply", y, top_of_rows), top_of_columns)
        if columns:
            w = b.apply("scale", b.add(Select, wq, axis=-2, index=columns), constants=(1 / 127,))
            far = b.product(b.add(Select, x, axis=-1, index=columns), b.apply("multiply", w, top_of_columns))
            y = b.apply("add", y, far)
        b.store(y, name="output")
        return b.graph()
