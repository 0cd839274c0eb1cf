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

from math import erf, sqrt
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
    Phase,
    Tensors,
    dense_softmax,
)
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.primitives import Primitive, Shape, Softmax
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
            for part in ("sa1", "ca2", "sa2"):
                shapes |= {f"{k}.{part}.{w}": (d, d) for w in ("wq", "wk", "wv", "wo")}
                shapes |= {f"{k}.{part}.{w}": (d,) for w in ("bo", "gain", "shift")}
            shapes |= {f"{k}.ca2.{w}": (d,) for w in ("context_gain", "context_shift")}
            for part in ("ff1", "ff2", "ff3", "ff4"):
                shapes |= {f"{k}.{part}.{w}": (d, self.d_ff) for w in ("wx", "wg")}
                shapes |= {f"{k}.{part}.{w}": (self.d_ff,) for w in ("bx", "bg")}
                shapes |= {f"{k}.{part}.w2": (self.d_ff, d)}
                shapes |= {f"{k}.{part}.{w}": (d,) for w in ("b2", "gain", "shift")}
        return shapes

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """Update: softmax over the new tokens and one more key, the old state. Query: the rest of the blocks."""
        if case.phase == "update":
            return {f"{k}.new_state": _updated(case, tensors, f"{k}.") for k in range(self.blocks)}
        x = tensors["inputs"]
        for k in range(self.blocks):
            x = _rest(case, {n.removeprefix(f"{k}."): t for n, t in tensors.items() if n.startswith(f"{k}.")}, x)
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
                x = e.norm(e["data"], e[f"{k}.gain"], e[f"{k}.shift"])
                keys, values = (e.split_heads(e.product(x, e[f"{k}.{w}"]), case.heads) for w in ("wk", "wv"))
                s = e.scores(e[f"{k}.queries"], keys, case.scale)
                e.keep(e.fold(s, values, e[f"{k}.state"], layout="log"), name=f"{k}.new_state")
            return e.graph()
        x = e["inputs"]
        for k in range(self.blocks):
            z = e.join_heads(e.normalise(e[f"{k}.state"], layout="log"))
            z = e.apply("add", e.product(z, e[f"{k}.wo"], e[f"{k}.bo"]), e[f"{k}.latents"])
            z = _feed_forward(e, f"{k}.ff1", z)
            z = _feed_forward(e, f"{k}.ff2", _attend(e, case, f"{k}.sa1", z))
            z = _feed_forward(e, f"{k}.ff3", _attend(e, case, f"{k}.ca2", x, z))
            last = "output" if k == self.blocks - 1 else ""
            x = _feed_forward(e, f"{k}.ff4", _attend(e, case, f"{k}.sa2", z), last)
        return e.graph()


def _feed_forward(e: Expansion, at: str, x: Primitive, name: str = "") -> Primitive:
    x = e.norm(x, e[f"{at}.gain"], e[f"{at}.shift"])
    up, gate = (e.product(x, e[f"{at}.w{w}"], e[f"{at}.b{w}"]) for w in "xg")
    return e.apply("add", e.product(e.apply("gelu_gate", up, gate), e[f"{at}.w2"], e[f"{at}.b2"]), x, name=name)


def _attend(e: Expansion, case: Case, at: str, x: Primitive, context: Primitive | None = None) -> Primitive:
    x = e.norm(x, e[f"{at}.gain"], e[f"{at}.shift"])
    c = e.norm(context, e[f"{at}.context_gain"], e[f"{at}.context_shift"]) if context else x
    q, k, v = (e.split_heads(e.product(y, e[f"{at}.{w}"]), case.heads) for y, w in ((x, "wq"), (c, "wk"), (c, "wv")))
    found = e.product(e.add(Softmax, e.scores(q, k, case.scale)), v)
    return e.apply("add", e.product(e.join_heads(found), e[f"{at}.wo"], e[f"{at}.bo"]), x)


# ------------------------------------------------------------------------------------------ reference, no primitives


def _layer_norm(x: Floats, gain: Floats, shift: Floats) -> Floats:
    normed: Floats = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * gain + shift
    return normed


def _updated(case: Case, t: Tensors, at: str) -> Floats:
    x = _layer_norm(t["data"], t[f"{at}gain"], t[f"{at}shift"])
    new = np.zeros_like(t[f"{at}state"])
    for head in range(case.heads):
        own = slice(head * case.d_head, (head + 1) * case.d_head)
        k, v = x @ t[f"{at}wk"][:, own], x @ t[f"{at}wv"][:, own]
        old = t[f"{at}state"][head]
        s = np.concatenate([old[:, :1], t[f"{at}queries"][head] @ k.T * case.scale], axis=1)
        top = s.max(1, keepdims=True)
        w = dense_softmax(s)
        new[head] = np.concatenate(
            [top + np.log(np.exp(s - top).sum(1, keepdims=True)), w[:, :1] * old[:, 1:] + w[:, 1:] @ v], 1
        )
    return new


def _rest(case: Case, t: Tensors, inputs: Floats) -> Floats:
    def attend(at: str, x: Floats, context: Floats | None = None) -> Floats:
        x = _layer_norm(x, t[f"{at}.gain"], t[f"{at}.shift"])
        c = x if context is None else _layer_norm(context, t[f"{at}.context_gain"], t[f"{at}.context_shift"])
        heads = []
        for head in range(case.heads):
            own = slice(head * case.d_head, (head + 1) * case.d_head)
            q, k, v = x @ t[f"{at}.wq"][:, own], c @ t[f"{at}.wk"][:, own], c @ t[f"{at}.wv"][:, own]
            heads.append(dense_softmax(q @ k.T * case.scale) @ v)
        found: Floats = np.concatenate(heads, axis=1) @ t[f"{at}.wo"] + t[f"{at}.bo"] + x
        return found

    def feed_forward(at: str, x: Floats) -> Floats:
        x = _layer_norm(x, t[f"{at}.gain"], t[f"{at}.shift"])
        g = x @ t[f"{at}.wg"] + t[f"{at}.bg"]
        phi = np.array([0.5 * (1 + erf(each / sqrt(2))) for each in g.ravel()]).reshape(g.shape)
        found: Floats = ((x @ t[f"{at}.wx"] + t[f"{at}.bx"]) * g * phi) @ t[f"{at}.w2"] + t[f"{at}.b2"] + x
        return found

    z = np.concatenate(list(t["state"][:, :, 1:]), axis=1) @ t["wo"] + t["bo"] + t["latents"]
    z = feed_forward("ff2", attend("sa1", feed_forward("ff1", z)))
    z = feed_forward("ff3", attend("ca2", inputs, z))
    return feed_forward("ff4", attend("sa2", z))
