"""A stage of EfficientViT-M: blocks of mixing, feed-forward, cascaded group attention, mixing, feed-forward.

Source: Liu et al. 2023, arXiv 2305.07027, and the implementation in timm. All five have residuals. Attention is that of
`cascaded_group` in windows of ``window * window`` tokens, or in one if the image is smaller. Where windows do not tile the image,
it is padded with tokens of zeros at its right and lower border, which attend and are attended to as all others.
Embedding of patches, the layers between stages and the classifier are not part of it.

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
from pimsim.workload.attention.cascaded_group import CascadedGroup
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Primitive, Select, Shape
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


@ALGORITHMS.register("efficientvit")
class EfficientVitStage(Algorithm):
    """Blocks with attention in windows."""

    description: ClassVar[str] = "EfficientViT-M: the blocks of a stage, with cascaded group attention in windows"
    source: ClassVar[str] = "Liu et al. 2023, arXiv 2305.07027"
    phases: ClassVar[tuple[Phase, ...]] = ("prefill",)
    exact: ClassVar[bool] = False

    depth: PositiveInt = Field(1, description="blocks")
    window: PositiveInt = Field(7, description="side of a window in tokens, or that of the image if it is smaller")
    d_qk: PositiveInt = Field(16, description="elements of a query and a key")
    kernels: tuple[PositiveInt, ...] = Field(
        (5,), strict=False, description="side of each head's depthwise kernel, odd; last repeats"
    )

    @property
    def attention(self) -> CascadedGroup:
        """Attention of a window."""
        return CascadedGroup(d_qk=self.d_qk, kernels=self.kernels)

    def in_window(self, case: Case) -> Case:
        """Sizes of a window."""
        tokens = min(self.window, isqrt(case.keys)) ** 2
        return case.model_copy(update={"queries": tokens, "keys": tokens})

    def check(self, case: Case) -> None:
        """Raises: WorkloadError, if the tokens are no square image, or a kernel is even."""
        super().check(case)
        if case.causal or case.queries != case.keys or isqrt(case.keys) ** 2 != case.keys:
            raise WorkloadError(
                "attention efficientvit must have causal = false and queries equal to keys, the tokens of a square image, not "
                f"{case.queries} and {case.keys}"
            )
        self.attention.check(self.in_window(case))

    def inputs(self, case: Case) -> dict[str, Shape]:
        """Tokens ``[tokens, C]``, and the weights of each block."""
        c, window = case.width, self.attention.inputs(self.in_window(case))
        shapes: dict[str, Shape] = {"x": (case.keys, c)}
        for at in (f"block{number}" for number in range(self.depth)):
            for half in ("before", "after"):
                shapes |= mixing_inputs(f"{at}.{half}.mix", c) | feed_forward_inputs(f"{at}.{half}.ff", c)
            shapes |= {f"{at}.attention.{name}": shape for name, shape in window.items() if name != "x"}
        return shapes

    def sample(self, case: Case, seed: int = 0) -> dict[str, Floats]:
        """See the module."""
        return weights_in_range(super().sample(case, seed))

    def windows(self, case: Case) -> list[tuple[int, ...]]:
        """Tokens of each window; those of padding have the number behind the last token."""
        side, width = isqrt(case.keys), min(self.window, isqrt(case.keys))
        return [
            tuple(
                (y + i) * side + z + j if max(y + i, z + j) < side else case.keys
                for i in range(width)
                for j in range(width)
            )
            for y in range(0, side, width)
            for z in range(0, side, width)
        ]

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """Block by block, window by window, with the reference of the attention."""
        x = np.array(tensors["x"])
        for at in (f"block{number}" for number in range(self.depth)):
            x = fed_forward_reference(mixed_reference(x, tensors, f"{at}.before.mix"), tensors, f"{at}.before.ff")
            prefix = f"{at}.attention."
            weights = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            padded, attended = np.vstack([x, np.zeros(case.width)]), np.zeros((case.keys + 1, case.width))
            for tokens in (list(each) for each in self.windows(case)):
                found = self.attention.reference(self.in_window(case), {**weights, "x": padded[tokens]})
                attended[tokens] = found["output"]
            x = mixed_reference(x + attended[:-1], tensors, f"{at}.after.mix")
            x = fed_forward_reference(x, tensors, f"{at}.after.ff")
        return {"output": x}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """Windows of `cascaded_group`, and two mixings and two feed-forward layers in each block."""
        n, c = case.keys, case.width
        window = self.attention.counts(self.in_window(case)) * (self.depth * len(self.windows(case)))
        macs = window.macs + self.depth * around(n, c, 2, 2).macs
        return Counts(scores=window.scores, exps=window.exps, macs=macs, reads=n * c, writes=n * c)

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Block by block."""
        self.check(case)
        b = Expansion(self.inputs(case))
        b.store(self.blocks(b, case, b.load(b["x"])), name="output")
        return b.graph()

    def blocks(self, b: Expansion, case: Case, x: Primitive, prefix: str = "") -> Primitive:
        """All blocks on tokens ``[tokens, C]``, with the weights whose names begin with ``prefix``."""
        for at in (f"{prefix}block{number}" for number in range(self.depth)):
            x = feed_forward(b, mixing(b, x, f"{at}.before.mix"), f"{at}.before.ff")
            x = b.apply("add", x, self._attended(b, case, x, f"{at}.attention."))
            x = feed_forward(b, mixing(b, x, f"{at}.after.mix"), f"{at}.after.ff")
        return x

    def _attended(self, b: Expansion, case: Case, x: Primitive, prefix: str) -> Primitive:
        """Attention of all windows, with the tokens in their order again."""
        windows, small = self.windows(case), self.in_window(case)
        if len(windows) == 1:
            return self.attention.window(b, small, x, prefix)
        order = [token for tokens in windows for token in tokens]
        if case.keys in order:
            x = b.join([x, b.apply("scale", b.rows(x, 0, 1), constants=(0.0,))])
        found = [self.attention.window(b, small, b.add(Select, x, axis=-2, index=tokens), prefix) for tokens in windows]
        place = {token: number for number, token in enumerate(order)}
        back = tuple(place[token] for token in range(case.keys))
        return b.add(Select, b.join(found), axis=-2, index=back)
