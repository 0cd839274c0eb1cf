"""A stage of SHViT: blocks of mixing, single-head attention and feed-forward, each with a residual.

Source: Yun and Ro 2024, arXiv 2401.16456, and its code. Attention is that of `single_head`, over all tokens. The stem, the layers
between stages, the first stage (which has no attention) and the classifier are not part of it.

`sample` draws small weights (`vision_blocks.weights_in_range`), so that activations stay in range from block to block.
"""

from __future__ import annotations

from math import isqrt
from typing import ClassVar

import numpy as np
from pydantic import Field

from pimsim.errors import WorkloadError
from pimsim.model import PositiveInt
from pimsim.workload.attention.base import ALGORITHMS, Algorithm, Case, Counts, Decided, Floats, Tensors
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Primitive, Shape
from pimsim.workload.attention.single_head import SingleHead
from pimsim.workload.attention.vision_blocks import (
    around,
    fed_forward_reference,
    feed_forward,
    feed_forward_inputs,
    mixed_reference,
    mixing,
    mixing_inputs,
    weights_in_range,
)
from pimsim.workload.attention_only import Phase
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("shvit")
class ShvitStage(Algorithm):
    """Blocks with one head on some channels."""

    description: ClassVar[str] = "SHViT: the blocks of a stage, with single-head attention on some channels"
    source: ClassVar[str] = "Yun and Ro 2024, arXiv 2401.16456"
    phases: ClassVar[tuple[Phase, ...]] = ("prefill",)
    exact: ClassVar[bool] = False

    depth: PositiveInt = Field(1, description="blocks")
    attended: PositiveInt = Field(48, description="channels that attend (pdim)")
    d_qk: PositiveInt = Field(16, description="elements of a query and a key")

    @property
    def attention(self) -> SingleHead:
        """Attention of a block."""
        return SingleHead(attended=self.attended, d_qk=self.d_qk)

    def check(self, case: Case) -> None:
        """Raises: WorkloadError, if the tokens are no square image, or fewer channels than attend."""
        super().check(case)
        if case.causal or case.queries != case.keys or isqrt(case.keys) ** 2 != case.keys:
            raise WorkloadError(
                "attention shvit must have causal = false and queries equal to keys, the tokens of a square image, not "
                f"{case.queries} and {case.keys}"
            )
        self.attention.check(case)

    def inputs(self, case: Case) -> dict[str, Shape]:
        """Tokens ``[tokens, C]``, and the weights of each block."""
        c, attention = case.width, self.attention.inputs(case)
        shapes: dict[str, Shape] = {"x": (case.keys, c)}
        for at in (f"block{number}" for number in range(self.depth)):
            shapes |= mixing_inputs(f"{at}.mix", c) | feed_forward_inputs(f"{at}.ff", c)
            shapes |= {f"{at}.attention.{name}": shape for name, shape in attention.items() if name != "x"}
        return shapes

    def sample(self, case: Case, seed: int = 0) -> dict[str, Floats]:
        """See the module."""
        return weights_in_range(super().sample(case, seed))

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """Block by block, with the reference of the attention."""
        x = np.array(tensors["x"])
        for at in (f"block{number}" for number in range(self.depth)):
            x = mixed_reference(x, tensors, f"{at}.mix")
            prefix = f"{at}.attention."
            weights = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            x = x + self.attention.reference(case, {**weights, "x": x})["output"]
            x = fed_forward_reference(x, tensors, f"{at}.ff")
        return {"output": x}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """`single_head`, a mixing and a feed-forward layer in each block."""
        n, c, found = case.keys, case.width, self.attention.counts(case) * self.depth
        macs = found.macs + self.depth * around(n, c, 1, 1).macs
        return Counts(scores=found.scores, exps=found.exps, macs=macs, reads=n * c, writes=n * c)

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Block by block."""
        self.check(case)
        b = Expansion(self.inputs(case))
        b.store(self.blocks(b, case, b.load(b["x"])), name="output")
        return b.graph()

    def blocks(self, b: Expansion, case: Case, x: Primitive, prefix: str = "") -> Primitive:
        """All blocks on tokens ``[tokens, C]``, with the weights whose names begin with ``prefix``."""
        for at in (f"{prefix}block{number}" for number in range(self.depth)):
            x = mixing(b, x, f"{at}.mix")
            x = b.apply("add", x, self.attention.mixed(b, case, x, f"{at}.attention."))
            x = feed_forward(b, x, f"{at}.ff")
        return x
