"""Constant Memory Attentive Neural Process: stacked CMAB blocks read a stream of points, targets read their outputs.

Source: Feng et al. 2023, arXiv 2305.14567, and the code BorealisAI/constant-memory-anp. A point (x, y) is embedded by an
MLP and taken up into the state of every block (phase ``update``; `cmab` has the mathematics). The outputs of all blocks
are kept; decoder layer k lets the targets attend to the output of block k (phase ``query``). A target is a point whose
y the caller leaves 0.

Refreshing the outputs from the states costs about a thousand times as much as taking up a point, whatever the context.
``refresh_interval`` says when: after every so many points of the stream, counted from its beginning. Between refreshes
targets read outputs that lag behind by less than the interval; states never do.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pimsim.errors import WorkloadError
from pimsim.model import PositiveInt
from pimsim.workload.attention.base import ALGORITHMS, Algorithm, Case, Counts, Decided, Floats, Tensors
from pimsim.workload.attention.cmab import Cmab, refresh, refreshed, rest_shapes, take_up, updated
from pimsim.workload.attention.expansion import Expansion
from pimsim.workload.attention.latent_blocks import mlp, mlp_macs, mlp_shapes, perceptron
from pimsim.workload.attention.lbanp import decode, decoded, decoder_counts, decoder_shapes
from pimsim.workload.attention.primitives import Primitive, Shape
from pimsim.workload.attention_only import Phase
from pimsim.workload.graph import WorkloadGraph


@ALGORITHMS.register("cmanp")
class Cmanp(Algorithm):
    """The model around cmab, with a policy of refreshes."""

    description: ClassVar[str] = (
        "neural process of stacked cmab blocks, whose outputs are refreshed every so many points"
    )
    source: ClassVar[str] = "Feng et al. 2023, arXiv 2305.14567"
    phases: ClassVar[tuple[Phase, ...]] = ("update", "query")
    exact: ClassVar[bool] = False

    latents: PositiveInt = Field(128, description="learned constants of a block (n_B)")
    outputs: PositiveInt = Field(128, description="latents of a block's output (n_I)")
    d_ff: PositiveInt = Field(128, description="width of feed-forward parts (F)")
    blocks: PositiveInt = Field(6, description="stacked blocks (K)")
    dim_x: PositiveInt = Field(1, description="values of a position")
    dim_y: PositiveInt = Field(1, description="values of a point")
    embed_layers: PositiveInt = Field(4, description="linear layers of the embedding")
    refresh_interval: PositiveInt = Field(1, description="points from one refresh of the outputs to the next")

    def check(self, case: Case) -> None:
        """Raises: WorkloadError, if heads share keys, or more points are taken up than there are."""
        super().check(case)
        if case.groups != case.heads:
            raise WorkloadError(f"attention cmanp must have as many kv_heads as heads, not {case.kv_heads}")
        if case.phase == "update" and case.queries > case.keys:
            raise WorkloadError(
                f"attention cmanp must have queries at most keys in update, not {case.queries} and {case.keys}"
            )

    def chunks(self, case: Case) -> list[tuple[range, bool]]:
        """Points that are taken up together, and whether a refresh follows.

        >>> Cmanp(refresh_interval=4).chunks(Case(phase="update", queries=6, keys=9))
        [(range(0, 1), True), (range(1, 5), True), (range(5, 6), False)]
        """
        found, at, every = [], case.offset, self.refresh_interval
        while at < case.keys:
            stop = min(case.keys, (at // every + 1) * every)
            found.append((range(at - case.offset, stop - case.offset), stop % every == 0))
            at = stop
        return found

    def embedding(self, d: int) -> list[int]:
        """Widths of the embedding."""
        return [self.dim_x + self.dim_y, *([d] * self.embed_layers)]

    def block(self) -> Cmab:
        """One block."""
        return Cmab(latents=self.latents, outputs=self.outputs, d_ff=self.d_ff)

    def inputs(self, case: Case) -> dict[str, Shape]:
        """Points, states, first latents and weights; or targets, outputs of the blocks and weights."""
        d = case.width
        shapes: dict[str, Shape] = dict(mlp_shapes("embed", self.embedding(d)))
        shapes["points"] = (case.queries, self.dim_x + self.dim_y)
        if case.phase == "query":
            shapes |= {f"{k}.outputs": (self.outputs, d) for k in range(self.blocks)}
            return shapes | decoder_shapes(self.blocks, d, self.d_ff, self.dim_y)
        shapes["inputs"] = (self.outputs, d)
        for k in range(self.blocks):
            shapes |= {
                f"{k}.state": (case.heads, self.latents, 1 + case.d_head),
                f"{k}.queries": (case.heads, self.latents, case.d_head),
                f"{k}.latents": (self.latents, d),
                f"{k}.outputs": (self.outputs, d),
            }
            shapes |= {f"{k}.{w}": (d, d) for w in ("wk", "wv", "wo")}
            shapes |= {f"{k}.{w}": (d,) for w in ("gain", "shift", "bo")}
            shapes |= rest_shapes(f"{k}", d, self.d_ff)
        return shapes

    def reference(self, case: Case, tensors: Tensors) -> dict[str, Floats]:
        """All points at once into the states; the outputs are those of the last refresh."""
        points = perceptron(tensors, "embed", tensors["points"], self.embed_layers)
        each = range(self.blocks)
        if case.phase == "query":
            return {"output": decoded(case, tensors, points, [tensors[f"{k}.outputs"] for k in each])}
        found = {f"{k}.new_state": updated(case, tensors, k, points, tensors[f"{k}.state"]) for k in each}
        last = case.keys // self.refresh_interval * self.refresh_interval - case.offset
        x = tensors["inputs"]
        for k in each:
            if last > 0:
                x = refreshed(case, tensors, k, updated(case, tensors, k, points[:last], tensors[f"{k}.state"]), x)
            found[f"{k}.new_outputs"] = x if last > 0 else tensors[f"{k}.outputs"]
        return found

    def counts(self, case: Case, decided: Decided | None = None) -> Counts:  # noqa: ARG002
        """Chunks of the stream and refreshes of `cmab`, each times the blocks, and the embedding."""
        d, h, b, i, u = case.width, case.heads, self.latents, self.outputs, case.queries
        embedding = Counts(macs=mlp_macs(u, self.embedding(d)))
        if case.phase == "query":
            return embedding + decoder_counts(case, [i] * self.blocks, self.d_ff, self.dim_y)
        every = self.refresh_interval
        refreshes = case.keys // every - case.offset // every
        chunks = -(-case.keys // every) - case.offset // every
        pairs = refreshes * h * (b * b + b * i + i * i)
        one = Counts(
            scores=u * b * h + pairs,
            exps=2 * u * b * h + 2 * b * h * chunks + pairs,
            logs=2 * b * h * chunks,
            macs=2 * u * d * d + 2 * u * b * d + refreshes * self.block().refresh_macs(d),
            persistent=b * (d + h) + i * d,
        )
        return embedding + one * self.blocks

    def expand(self, case: Case, decided: Decided | None = None) -> WorkloadGraph:  # noqa: ARG002
        """Chunk by chunk, block by block."""
        self.check(case)
        e = Expansion(self.inputs(case))
        points = mlp(e, "embed", e["points"], self.embed_layers)
        each = range(self.blocks)
        if case.phase == "query":
            decode(e, case, points, [e[f"{k}.outputs"] for k in each])
            return e.graph()
        states: list[Primitive] = [e[f"{k}.state"] for k in each]
        outputs: list[Primitive] = [e[f"{k}.outputs"] for k in each]
        for rows, refreshing in self.chunks(case):
            chunk = e.rows(points, rows.start, rows.stop)
            states = [take_up(e, case, k, chunk, states[k]) for k in each]
            if refreshing:
                x = e["inputs"]
                outputs = []
                for k in each:
                    x = refresh(e, case, k, states[k], x)
                    outputs.append(x)
        for k in each:
            e.keep(states[k], name=f"{k}.new_state")
            e.keep(outputs[k], name=f"{k}.new_outputs")
        return e.graph()
