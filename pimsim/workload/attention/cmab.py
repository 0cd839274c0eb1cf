"""Constant Memory Attention Block: latents attend to the data in a stream, the data are never kept.

Source: Feng et al. 2023, arXiv 2306.12599 and 2305.14567, and the code BorealisAI/constant-memory-anp. A block is
``SA(CA(L_I, SA(CA(L_B, data))))``, each attention followed by a gated feed-forward part; only ``CA(L_B, data)`` touches
data, with constant queries. Every attention and feed-forward is pre-norm with the residual of the *normalised* input:
``y = f(LN(x)) + LN(x)``.

Phase ``update`` takes up ``queries`` tokens into the state of every block, ``[log c, e]`` for each head and latent:
``latents * (width + heads)`` words per block. Phase ``query`` refreshes the output from the states, at a cost that does
not depend on the context. Blocks are stacked: all read the same data, the inputs of one are the output of the one
before. The constant queries ``Wq LN(L_B)`` and the residual ``LN(L_B)`` are given, as they are computed once.
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
from pimsim.workload.attention.latent_blocks import (
    attend,
    attended,
    attention_shapes,
    fed_forward,
    feed_forward,
    feed_forward_shapes,
    layer_norm,
)
from pimsim.workload.attention.primitives import Primitive, Shape
from pimsim.workload.attention_only import Phase
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("cmab")
class Cmab(Algorithm):
    """Blocks of latents with streaming updates."""

    description: ClassVar[str] = "Constant Memory Attention Block: latents take up tokens in a stream, constant state"
    source: ClassVar[str] = "Feng et al. 2023, arXiv 2306.12599, 2305.14567"
    phases: ClassVar[tuple[Phase, ...]] = ("update", "query")
    exact: ClassVar[bool] = False

    latents: PositiveInt = Field(128, description="learned constants of a block that attend to the data (n_B)")
    outputs: PositiveInt = Field(128, description="latents that a block maps to its output (n_I)")
    d_ff: PositiveInt = Field(128, description="width of the gated feed-forward part (F)")
    blocks: PositiveInt = Field(1, description="stacked blocks (K)")

    def check(self, case: Case) -> None:
        """Raises: WorkloadError, if heads share keys."""
        super().check(case)
        if case.groups != case.heads:
            raise WorkloadError(f"attention cmab must have as many kv_heads as heads, not {case.kv_heads}")

    def inputs(self, case: Case) -> dict[str, Shape]:
        """Data or inputs, and for each block its state and weights."""
        d, update = case.width, case.phase == "update"
        shapes: dict[str, Shape] = {"data": (case.queries, d)} if update else {"inputs": (self.outputs, d)}
        for k in range(self.blocks):
            shapes[f"{k}.state"] = (case.heads, self.latents, 1 + case.d_head)
            if update:
                shapes |= {
                    f"{k}.queries": (case.heads, self.latents, case.d_head),
                    f"{k}.wk": (d, d),
                    f"{k}.wv": (d, d),
                }
                shapes |= {f"{k}.gain": (d,), f"{k}.shift": (d,)}
                continue
            shapes |= {f"{k}.latents": (self.latents, d), f"{k}.wo": (d, d), f"{k}.bo": (d,)}
            shapes |= rest_shapes(f"{k}", d, self.d_ff)
        return shapes

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """Update: softmax over the new tokens and one more key, the old state. Query: the rest of the blocks."""
        if case.phase == "update":
            data = tensors["data"]
            return {
                f"{k}.new_state": updated(case, tensors, k, data, tensors[f"{k}.state"]) for k in range(self.blocks)
            }
        x = tensors["inputs"]
        for k in range(self.blocks):
            x = refreshed(case, tensors, k, tensors[f"{k}.state"], x)
        return {"output": x}

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """Section 1.2 and the structure of the code; see `refresh_macs`."""
        d, h, b, i, u = case.width, case.heads, self.latents, self.outputs, case.queries
        if case.phase == "query":
            pairs = h * (b * b + b * i + i * i)
            return Counts(scores=pairs, exps=pairs, macs=self.refresh_macs(d)) * self.blocks
        one = Counts(
            scores=u * b * h,
            exps=2 * u * b * h + 2 * b * h,
            logs=2 * b * h,
            macs=2 * u * d * d + 2 * u * b * d,
            persistent=b * (d + h),
        )
        return one * self.blocks

    def refresh_macs(self, d: int) -> int:
        """Products of one output refresh of a block, whatever the context."""
        b, i, f = self.latents, self.outputs, self.d_ff
        feed_forward = 2 * 3 * (b + i) * d * f
        attention = sum(4 * n * d * d + 2 * n * n * d for n in (b, i))
        return b * d * d + feed_forward + attention + 2 * (b + i) * d * d + 2 * b * i * d

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Blocks beside each other (update) or one after the other (query)."""
        self.check(case)
        e = Expansion(self.inputs(case))
        if case.phase == "update":
            for k in range(self.blocks):
                e.keep(take_up(e, case, k, e["data"], e[f"{k}.state"]), name=f"{k}.new_state")
            return e.graph()
        x = e["inputs"]
        for k in range(self.blocks):
            last = "output" if k == self.blocks - 1 else ""
            x = refresh(e, case, k, e[f"{k}.state"], x, last)
        return e.graph()


def rest_shapes(k: str, d: int, d_ff: int) -> dict[str, Shape]:
    """Weights of a block behind its state."""
    shapes: dict[str, Shape] = {}
    for part in ("sa1", "ca2", "sa2"):
        shapes |= attention_shapes(f"{k}.{part}", d, cross=part == "ca2")
    for part in ("ff1", "ff2", "ff3", "ff4"):
        shapes |= feed_forward_shapes(f"{k}.{part}", d, d_ff)
    return shapes


def take_up(e: Expansion, case: Case, k: int, data: Primitive, state: Primitive) -> Primitive:
    """The state of block k after these data."""
    x = e.norm(data, e[f"{k}.gain"], e[f"{k}.shift"])
    keys, values = (e.split_heads(e.product(x, e[f"{k}.{w}"]), case.heads) for w in ("wk", "wv"))
    s = e.scores(e[f"{k}.queries"], keys, case.scale)
    return e.fold(s, values, state, layout="log")


def refresh(e: Expansion, case: Case, k: int, state: Primitive, x: Primitive, name: str = "") -> Primitive:
    """The output of block k for inputs x."""
    z = e.join_heads(e.normalise(state, layout="log"))
    z = e.apply("add", e.product(z, e[f"{k}.wo"], e[f"{k}.bo"]), e[f"{k}.latents"])
    z = feed_forward(e, f"{k}.ff1", z)
    z = feed_forward(e, f"{k}.ff2", attend(e, case, f"{k}.sa1", z))
    z = feed_forward(e, f"{k}.ff3", attend(e, case, f"{k}.ca2", x, z))
    return feed_forward(e, f"{k}.ff4", attend(e, case, f"{k}.sa2", z), name)


# ------------------------------------------------------------------------------------------ reference, no primitives


def updated(case: Case, t: Tensors, k: int, data: Floats, state: Floats) -> Floats:
    """The state of block k after these data; for references."""
    x = layer_norm(data, t[f"{k}.gain"], t[f"{k}.shift"])
    new = np.zeros_like(state)
    for head in range(case.heads):
        own = slice(head * case.d_head, (head + 1) * case.d_head)
        keys, values = x @ t[f"{k}.wk"][:, own], x @ t[f"{k}.wv"][:, own]
        old = state[head]
        s = np.concatenate([old[:, :1], t[f"{k}.queries"][head] @ keys.T * case.scale], axis=1)
        top = s.max(1, keepdims=True)
        w = dense_softmax(s)
        new[head] = np.concatenate(
            [top + np.log(np.exp(s - top).sum(1, keepdims=True)), w[:, :1] * old[:, 1:] + w[:, 1:] @ values], 1
        )
    return new


def refreshed(case: Case, t: Tensors, k: int, state: Floats, inputs: Floats) -> Floats:
    """The output of block k; for references."""
    z = np.concatenate(list(state[:, :, 1:]), axis=1) @ t[f"{k}.wo"] + t[f"{k}.bo"] + t[f"{k}.latents"]
    z = fed_forward(t, f"{k}.ff1", z)
    z = fed_forward(t, f"{k}.ff2", attended(case, t, f"{k}.sa1", z))
    z = fed_forward(t, f"{k}.ff3", attended(case, t, f"{k}.ca2", inputs, z))
    return fed_forward(t, f"{k}.ff4", attended(case, t, f"{k}.sa2", z))
