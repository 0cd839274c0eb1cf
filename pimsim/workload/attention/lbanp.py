"""Latent Bottlenecked Attentive Neural Process: latents read the data layer by layer, targets read the latents.

Source: Feng et al. 2022, arXiv 2211.08458, and the code BorealisAI/latent-bottlenecked-anp. Layer k is
``X_k = SA(CA(X_{k-1}, data))``, each attention followed by a feed-forward part; all X_k are kept, and decoder layer k lets
the targets attend to X_k. Queries of layers behind the first depend on the data: taking up a token (phase ``update``)
conditions on all ``keys`` tokens again. Phase ``query`` costs the same for a target whatever the data. Data and targets
are embedded; the output is mean and standard deviation of each of ``dim_y`` values.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from pimsim.errors import WorkloadError
from pimsim.model import PositiveInt
from pimsim.workload.attention.base import ALGORITHMS, Algorithm, Case, Counts, Decided, Floats, Tensors
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.latent_blocks import (
    attend,
    attend_macs,
    attended,
    attention_shapes,
    fed_forward,
    feed_forward,
    feed_forward_shapes,
    layer_norm,
    mlp,
    mlp_macs,
    mlp_shapes,
    perceptron,
)
from pimsim.workload.attention.primitives import Primitive, Shape
from pimsim.workload.attention_only import Phase
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("lbanp")
class Lbanp(Algorithm):
    """Latents between data and targets."""

    description: ClassVar[str] = "latents read all data in every layer, targets read the latents; the data must be kept"
    source: ClassVar[str] = "Feng et al. 2022, arXiv 2211.08458"
    phases: ClassVar[tuple[Phase, ...]] = ("update", "query")
    exact: ClassVar[bool] = False

    latents: PositiveInt = Field(128, description="latents (L)")
    layers: PositiveInt = Field(6, description="layers (K)")
    d_ff: PositiveInt = Field(128, description="width of feed-forward parts (F)")
    dim_y: PositiveInt = Field(1, description="values that are predicted for a target")

    def check(self, case: Case) -> None:
        """Raises: WorkloadError, if heads share keys."""
        super().check(case)
        if case.groups != case.heads:
            raise WorkloadError(f"attention lbanp must have as many kv_heads as heads, not {case.kv_heads}")

    def inputs(self, case: Case) -> dict[str, Shape]:
        """Update: all data and the first latents. Query: targets and the latents of each layer."""
        d = case.width
        if case.phase == "query":
            shapes: dict[str, Shape] = {"targets": (case.queries, d)}
            shapes |= {f"{k}.latents": (self.latents, d) for k in range(self.layers)}
            return shapes | decoder_shapes(self.layers, d, self.d_ff, self.dim_y)
        shapes = {"data": (case.keys, d), "latents": (self.latents, d)}
        for k in range(self.layers):
            shapes |= attention_shapes(f"{k}.ca", d, cross=True) | attention_shapes(f"{k}.sa", d)
            shapes |= feed_forward_shapes(f"{k}.ff1", d, self.d_ff) | feed_forward_shapes(f"{k}.ff2", d, self.d_ff)
        return shapes

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """Layer by layer."""
        if case.phase == "query":
            latents = [tensors[f"{k}.latents"] for k in range(self.layers)]
            return {"output": decoded(case, tensors, tensors["targets"], latents)}
        x, found = tensors["latents"], {}
        for k in range(self.layers):
            x = fed_forward(tensors, f"{k}.ff1", attended(case, tensors, f"{k}.ca", x, tensors["data"]))
            x = fed_forward(tensors, f"{k}.ff2", attended(case, tensors, f"{k}.sa", x))
            found[f"{k}.new_latents"] = x
        return found

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """``K (N L + L^2)`` scores of a head to condition, ``K L`` for a target."""
        d, ld, n = case.width, self.latents, case.keys
        if case.phase == "query":
            return decoder_counts(case, [ld] * self.layers, self.d_ff, self.dim_y)
        pairs = case.heads * ld * (n + ld)
        one = Counts(
            scores=pairs,
            exps=pairs,
            macs=attend_macs(ld, n, d) + attend_macs(ld, ld, d) + 6 * ld * d * self.d_ff,
            persistent=ld * d,
        )
        return one * self.layers + Counts(persistent=n * d)

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Layer by layer."""
        self.check(case)
        e = Expansion(self.inputs(case))
        if case.phase == "query":
            decode(e, case, e["targets"], [e[f"{k}.latents"] for k in range(self.layers)])
            return e.graph()
        x, data = e["latents"], e.keep(e["data"])
        for k in range(self.layers):
            x = feed_forward(e, f"{k}.ff1", attend(e, case, f"{k}.ca", x, data))
            x = e.keep(feed_forward(e, f"{k}.ff2", attend(e, case, f"{k}.sa", x)), name=f"{k}.new_latents")
        return e.graph()


# ------------------------------------------------------------------- the decoder, which the models of this family share


def decoder_shapes(layers: int, d: int, d_ff: int, dim_y: int) -> dict[str, Shape]:
    """Weights of the decoder layers and the predictor."""
    shapes = mlp_shapes("predictor", [d, d_ff, 2 * dim_y]) | {"predictor.gain": (d,), "predictor.shift": (d,)}
    for k in range(layers):
        shapes |= attention_shapes(f"decoder.{k}.ca", d, cross=True)
        shapes |= feed_forward_shapes(f"decoder.{k}.ff", d, d_ff)
    return shapes


def decoder_counts(case: Case, latents: list[int], d_ff: int, dim_y: int) -> Counts:
    """Targets attend to the latents of each layer; one exponential per standard deviation."""
    m, d = case.queries, case.width
    pairs = case.heads * m * sum(latents)
    macs = sum(attend_macs(m, n, d) + 3 * m * d * d_ff for n in latents) + mlp_macs(m, [d, d_ff, 2 * dim_y])
    return Counts(scores=pairs, exps=pairs + m * dim_y, macs=macs)


def decode(e: Expansion, case: Case, x: Primitive, latents: list[Primitive]) -> None:
    """Cross-attention of the targets to each layer's latents, then mean and standard deviation as ``output``."""
    for k, each in enumerate(latents):
        x = feed_forward(e, f"decoder.{k}.ff", attend(e, case, f"decoder.{k}.ca", x, each))
    x = mlp(e, "predictor", e.norm(x, e["predictor.gain"], e["predictor.shift"]), 2)
    half = x.shape[-1] // 2
    e.join([e.last(x, 0, half), e.apply("exp", e.last(x, half, 2 * half))], axis=-1, name="output")


def decoded(case: Case, t: Tensors, x: Floats, latents: list[Floats]) -> Floats:
    """What `decode` computes; for references."""
    for k, each in enumerate(latents):
        x = fed_forward(t, f"decoder.{k}.ff", attended(case, t, f"decoder.{k}.ca", x, each))
    x = perceptron(t, "predictor", layer_norm(x, t["predictor.gain"], t["predictor.shift"]), 2)
    mean, log_deviation = np.split(x, 2, axis=1)
    return np.concatenate([mean, np.exp(log_deviation)], axis=1)
