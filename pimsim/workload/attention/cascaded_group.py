"""Cascaded group attention of EfficientViT: each head sees its own channels plus the output of the head before it.

Source: Liu et al. 2023, arXiv 2305.07027, and the implementation in timm. One window of ``side * side`` tokens; C channels in
``heads`` groups of ``d_head``. Of head i, ``X_i' = X_i + out_{i-1}`` gives queries and keys of ``d_qk`` elements and values of
``d_head`` by 1x1 convolutions; queries pass a depthwise convolution (normalisations are folded). Scores get a bias by
vertical and horizontal distance. The heads' outputs, joined, pass ReLU and a 1x1 convolution.
"""

from __future__ import annotations

from math import isqrt
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
from pimsim.workload.attention.primitives import Arrange, Depthwise, Primitive, Select, Shape, Softmax
from pimsim.workload.attention_only import Phase
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("cascaded_group")
class CascadedGroup(Algorithm):
    """Heads one after the other."""

    description: ClassVar[str] = "EfficientViT: heads in a cascade, each on its own channels and the output before it"
    source: ClassVar[str] = "Liu et al. 2023, arXiv 2305.07027"
    phases: ClassVar[tuple[Phase, ...]] = ("prefill",)
    exact: ClassVar[bool] = False

    d_qk: PositiveInt = Field(16, description="elements of a query and a key")
    kernels: tuple[PositiveInt, ...] = Field(
        (5,), strict=False, description="side of each head's depthwise kernel, odd; last repeats"
    )

    def check(self, case: Case) -> None:
        """Raises: WorkloadError, if the tokens are no square window of queries and keys, or a kernel is even."""
        super().check(case)
        if case.causal or case.queries != case.keys or isqrt(case.keys) ** 2 != case.keys:
            raise WorkloadError(
                "attention cascaded_group must have causal = false and queries equal to keys, the tokens of a square window, "
                f"not {case.queries} and {case.keys}"
            )
        if not self.kernels or any(kernel % 2 == 0 for kernel in self.kernels):
            raise WorkloadError(f"parameter kernels of attention cascaded_group must be odd, not {self.kernels}")

    def kernel(self, head: int) -> int:
        """Side of a head's kernel."""
        return self.kernels[min(head, len(self.kernels) - 1)]

    def inputs(self, case: Case) -> dict[str, Shape]:
        """Tokens ``[tokens, C]``, and for each head weights, depthwise filters and bias by distance."""
        d, c, qk = case.d_head, case.width, self.d_qk
        shapes: dict[str, Shape] = {"x": (case.keys, c), "proj": (c, c), "proj_bias": (c,)}
        for i in range(case.heads):
            shapes |= {f"{i}.wq": (d, qk), f"{i}.wk": (d, qk), f"{i}.wv": (d, d)}
            shapes |= {f"{i}.bq": (qk,), f"{i}.bk": (qk,), f"{i}.bv": (d,), f"{i}.distance": (1, case.keys)}
            shapes |= {f"{i}.filters": (qk, self.kernel(i), self.kernel(i)), f"{i}.filter_bias": (qk,)}
        return shapes

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """Head by head, convolution and bias token by token."""
        side, d, t = isqrt(case.keys), case.d_head, tensors
        before, outs = np.zeros((case.keys, d)), []
        at = [(n // side, n % side) for n in range(case.keys)]
        for i in range(case.heads):
            x = t["x"][:, i * d : (i + 1) * d] + before
            q, k, v = (x @ t[f"{i}.w{w}"] + t[f"{i}.b{w}"] for w in "qkv")
            mixed = np.tile(t[f"{i}.filter_bias"], (case.keys, 1))
            middle = self.kernel(i) // 2
            for n, (y, z) in enumerate(at):
                for m, (y2, z2) in enumerate(at):
                    if max(abs(y2 - y), abs(z2 - z)) <= middle:
                        mixed[n] += q[m] * t[f"{i}.filters"][:, y2 - y + middle, z2 - z + middle]
            s = mixed @ k.T / np.sqrt(self.d_qk)
            for n, (y, z) in enumerate(at):
                s[n] += [t[f"{i}.distance"][0, abs(y - y2) * side + abs(z - z2)] for y2, z2 in at]
            before = dense_softmax(s) @ v
            outs.append(before)
        return {"output": np.maximum(np.concatenate(outs, axis=1), 0) @ t["proj"] + t["proj_bias"]}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """Of a head ``t d (2 d_qk + d) + d_qk t k^2 + t^2 (d_qk + d)`` MACs, and ``t C^2`` at the end."""
        n, d, c, qk, h = case.keys, case.d_head, case.width, self.d_qk, case.heads
        depthwise = sum(qk * n * self.kernel(i) ** 2 for i in range(h))
        macs = h * (n * d * (2 * qk + d) + n * n * (qk + d)) + depthwise + n * c * c
        return Counts(scores=h * n * n, exps=h * n * n, macs=macs, reads=n * c, writes=n * c)

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Head by head."""
        self.check(case)
        b = Expansion(self.inputs(case))
        b.store(self.window(b, case, b.load(b["x"])), name="output")
        return b.graph()

    def window(self, b: Expansion, case: Case, x: Primitive, prefix: str = "") -> Primitive:
        """Attention of one window ``[tokens, C]`` with the weights whose names begin with ``prefix``."""
        n, d, side = case.keys, case.d_head, isqrt(case.keys)
        distances = tuple(
            abs(i // side - j // side) * side + abs(i % side - j % side) for i in range(n) for j in range(n)
        )
        outs: list[Primitive] = []
        for i in range(case.heads):
            at = f"{prefix}{i}"
            mine = b.last(x, i * d, (i + 1) * d)
            if outs:
                mine = b.apply("add", mine, outs[-1])
            q, k, v = (b.product(mine, b[f"{at}.w{w}"], b[f"{at}.b{w}"]) for w in "qkv")
            q = b.add(Depthwise, q, b[f"{at}.filters"], b[f"{at}.filter_bias"], side=side)
            bias = b.add(Arrange, b.add(Select, b[f"{at}.distance"], axis=-1, index=distances), to=(1, n, n))
            q, k = (b.add(Arrange, y, to=(1, n, self.d_qk)) for y in (q, k))
            shares = b.add(Softmax, b.scores(q, k, float(self.d_qk**-0.5), bias=bias))
            outs.append(b.add(Arrange, b.product(shares, b.add(Arrange, v, to=(1, n, d))), to=(n, d)))
        joined = b.apply("relu", b.join(outs, axis=-1))
        return b.product(joined, b[f"{prefix}proj"], b[f"{prefix}proj_bias"])
