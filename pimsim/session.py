"""A model that runs on numbers through its mapped program: placed by the mapper, carried out by the executor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Mapping as Named
from typing import Any

import numpy as np
import numpy.typing as npt

from pimsim.arch.system import ArchConfig
from pimsim.errors import CapacityExceeded, MappingError, WorkloadError
from pimsim.functional.decoder_attention import DecoderExecutor, HybridDecoderExecutor, learn
from pimsim.functional.executor import Executor
from pimsim.functional.functions import rope_tables
from pimsim.functional.numerics import FloatSpec, float_spec
from pimsim.functional.stream import HybridExecutor, StreamMemory
from pimsim.mapper.choice import graph_for, mapping_for
from pimsim.mapper.hybrid import HybridMapping
from pimsim.mapper.mapping import Mapping
from pimsim.program.isa import Compute, Placed
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.graph import WorkloadGraph, layer_of
from pimsim.workload.ops import Attention, CacheWrite, LayerNorm, Linear, RmsNorm, Rope, Scores
from pimsim.workload.reference import Reference

Array = npt.NDArray[Any]


class Session:
    """One sequence of tokens; the KV cache is kept between steps.

    `step` makes one forward pass of the program that the machine times, so ``length`` tokens are in the cache after
    ``length`` steps, and ``prompt_tokens + generate_tokens - 1`` fit.
    """

    def __init__(
        self,
        workload: WorkloadConfig,
        arch: ArchConfig,
        weights: Named[str, Array],
        *,
        whole: bool = True,
        cache_scales: Named[int, tuple[float, float]] | None = None,
    ) -> None:
        """Place ``weights`` (names and shapes of ``WorkloadGraph.tensors``; a tied matrix may be left out).

        Without ``whole``, the workload need not have embeddings and a head, and `step` is not to be called.
        In int8, ``cache_scales`` are the values of one unit of the keys and of the values of each layer.

        Raises:
            MappingError: the machine cannot run the workload, or its memories are too small.
            WorkloadError: the workload has no embeddings or no head, or a tensor is missing or has another shape.
        """
        if whole and not (workload.embeddings and workload.lm_head):
            raise WorkloadError("workload.embeddings and workload.lm_head must be true to run on numbers, not false")
        if whole and workload.together > 1:
            raise WorkloadError("workload.batch must be 1 and workload.prefill token_by_token to generate text")
        self.graph = graph_for(workload, arch)
        self.mapping = mapping = mapping_for(workload, self.graph, arch, arch.dram.resolve())
        if whole and mapping.attention is not None and mapping.attention.depends_on_data:
            raise WorkloadError(
                f"workload.attention must be one whose program does not depend on data to generate text, not "
                f"{workload.attention!r}"
            )
        self.workload, self._weights = workload, weights
        shape = mapping.shape
        self._logits = np.zeros((workload.together, workload.model.vocabulary), np.float32)
        self._rotations: list[dict[str, Any]] = [{} for _ in range(workload.together)]
        rows, columns = mapping.rows_used, shape.buffer // shape.lanes
        self.executor = _executor_kind(mapping)(mapping.spec, arch.asic, arch.pim, rows, columns, self._constants())
        if isinstance(self.executor, HybridExecutor):
            assert isinstance(mapping, HybridMapping)
            self.executor.stream = StreamMemory(float_spec(arch.pim.format), mapping.stream.used)
        self._set_cache_scales(cache_scales)
        if mapping.attention is not None:
            self._place_parameters()
        for op in self.graph:
            if isinstance(op, Linear) and op.name.partition(".")[2] in mapping.layouts:
                self._place_matrix(op)
            if isinstance(op, Linear) and isinstance(mapping, HybridMapping) and mapping.streamed_tokens(op.kind):
                assert isinstance(self.executor, HybridExecutor)
                self.executor.stream.place(layer_of(op.name), op.name.partition(".")[2], self._matrix(op))
        if "token_table" in mapping.layouts:
            self._place_table("token_table", "embed.tokens", workload.model.embedding_scale)
        if "position_table" in mapping.layouts:
            self._place_table("position_table", "embed.positions")
        self.executor.listener = self._listen
        self.length = 0
        self.watch: Callable[[Sequence[Placed]], None] | None = None
        """Called with the blocks of each forward pass that `step` has made."""

    @property
    def capacity(self) -> int:
        """Tokens that the KV cache has space for."""
        return self.mapping.passes

    @property
    def argmax(self) -> int:
        """Token that the ASIC's arg-max found in the last step."""
        return int(self.executor.sram[self.mapping.sram["token"]])

    def clear(self) -> None:
        """Begin a new sequence, with nothing of the old one left in the cache, the buffers and the SRAM."""
        self.length = 0
        mapping, executor = self.mapping, self.executor
        for layer in range(self.workload.model.layers):
            for name in ("keys", "values"):
                for first, stop in mapping.cache_rows(layer, name):
                    executor.rows[:, :, first:stop] = 0
        if isinstance(executor, HybridExecutor):
            executor.stream.clear()
        for memory in (executor.buffers, executor.accumulators, executor.sram):
            memory[...] = 0

    def step(self, token_id: int, *, head: bool = True) -> Array:
        """One forward pass with the next token: logits ``[vocabulary]``, float32; NaN for a token of the prompt without ``head``.

        Raises:
            CapacityExceeded: the reserved KV space is full.
            WorkloadError: the token is outside the vocabulary.
        """
        vocabulary = self.workload.model.vocabulary
        if not 0 <= token_id < vocabulary:
            raise WorkloadError(f"a token must be from 0 to {vocabulary - 1}, not {token_id}")
        if self.length == self.capacity:
            raise CapacityExceeded(f"prompt_tokens + generate_tokens - 1 must be at least {self.length + 1} tokens")
        self.enter(self.length)
        self.length += 1
        blocks = self.mapping.forward_pass(self.length, token_id, head=head)
        self.learn(blocks)
        self.executor.run(blocks)
        if self.watch is not None:
            self.watch(blocks)
        return self.logits

    def _listen(self, compute: Compute) -> None:
        """Note the logits, of which the SRAM may hold a piece at a time, when the arg-max reads them."""
        if compute.function == "argmax":
            start = compute.sources[0]
            logits = self.executor.sram[start : start + compute.length]
            self._logits[
                int(compute.parameters.partition("@")[2] or 0), compute.offset : compute.offset + compute.length
            ] = logits

    @property
    def logits(self) -> Array:
        """What the arg-max has read since `enter`, ``[vocabulary]``; NaN where it has read nothing."""
        return self.logits_of(0)

    def logits_of(self, slot: int) -> Array:
        """`logits` of a token of the group that a pass processes."""
        found: Array = self._logits[slot].copy()
        return found

    def enter(self, *positions: int) -> None:
        """Prepare the pass of a position, or of those of a group.

        There are no logits yet, and layers share the tables of the rotary embedding.
        """
        self._logits.fill(np.nan)
        rope = next((op for op in self.graph if isinstance(op, Rope)), None)
        if rope is not None:
            for tables, position in zip(self._rotations, positions, strict=False):
                cos, sin = rope_tables(position, rope.rotary, rope.theta, rope.factors or None)
                tables |= {"cos": cos, "sin": sin, "interleaved": rope.convention == "interleaved"}

    def learn(self, blocks: Iterable[Placed]) -> None:
        """Tell the executor what calls of an attention algorithm must know, if blocks of a pass have any."""
        if self.mapping.attention is None:
            return
        assert isinstance(self.executor, DecoderExecutor)
        for block in {placed.block for placed in blocks}:
            if block in self.mapping.attention.programs:
                learn(self.executor, self.mapping.attention.programs[block])

    # -- int8 -----------------------------------------------------------------------------------------------------

    def _set_cache_scales(self, scales: Named[int, tuple[float, float]] | None) -> None:
        if self.executor.scales is None:
            return
        if scales is None:
            raise WorkloadError(
                "arch.pim.format must be a floating-point one where the scales of the KV cache are not known, not 'int8'"
            )
        mapping = self.mapping
        for layer, pair in scales.items():
            for name, scale in zip(("keys", "values"), pair, strict=True):
                for first, stop in mapping.cache_rows(layer, name):
                    self.executor.scales[:, :, first:stop] = scale

    def _encode(self, tensor: Array, axis: int) -> tuple[Array, Array | None]:
        """(storage, scales along the other axis, or None in formats without)."""
        number_format = self.executor.format
        if self.executor.scales is None:
            return number_format.encode(tensor), None
        storage, scale = number_format.quantize(tensor, axis)
        return storage, scale.ravel()

    def _set_scales(self, place: tuple[Array, ...], scales: Array | None) -> None:
        """Scales of columns; ``place`` is (channel, bank, row, column)."""
        if self.executor.scales is not None and scales is not None:
            self.executor.scales[place] = scales

    # -- placement ------------------------------------------------------------------------------------------------

    def _tensor(self, name: str, shape: tuple[int, ...]) -> Array:
        if name not in self._weights:
            raise WorkloadError(f"weights must have {name!r}, of shape {list(shape)}")
        tensor = self._weights[name]
        if tensor.shape != shape:
            raise WorkloadError(f"tensor {name!r} must have the shape {list(shape)}, not {list(tensor.shape)}")
        return np.asarray(tensor, np.float32)

    def _place_parameters(self) -> None:
        """What an attention algorithm asks for besides the decoder's own tensors, in the banks of every layer.

        Raises:
            MappingError: the format has scales, which programs of algorithms do not.
        """
        mapping, executor = self.mapping, self.executor
        assert mapping.attention is not None
        assert isinstance(executor, DecoderExecutor)
        if not isinstance(executor.format, FloatSpec):
            raise MappingError(
                f"pim.format must be one of floating point to carry out attention {self.workload.attention}, whose programs "
                f"have no scales, not {executor.format.name}"
            )
        for op in (op for op in self.graph if isinstance(op, Attention)):
            shapes = op.tensors()
            for name, tensor in mapping.attention.parameters().items():
                full = f"{op.name}.{name}"
                values = self._tensor(full, shapes[full]).reshape(tensor.shape)
                for pieces in tensor.orientations.values():
                    for piece in pieces:
                        rows = values[piece.head, list(piece.rows)]
                        executor.fill(piece, rows, layer_of(op.name) * mapping.layer_rows)

    def _factors(self, op: Linear) -> Array:
        """The score factor for queries, 1 for all other outputs."""
        factors = np.ones(op.d_out, np.float32)
        if op.kind == "qkv_projection":
            scores = next(s for s in self.graph if isinstance(s, Scores | Attention))
            factors[: scores.heads * scores.d_head] = scores.scale
        return factors

    def _matrix(self, op: Linear) -> Array:
        """W ``[d_in, d_out]`` with the score factor in it."""
        if op.tied and op.tied in self._weights:
            return self._tensor(op.tied, (op.d_out, op.d_in)).T * self._factors(op)
        return self._tensor(op.weight_name, (op.d_in, op.d_out)) * self._factors(op)

    def _constants(self) -> dict[tuple[int, str], dict[str, Any]]:
        found: dict[tuple[int, str], dict[str, Any]] = {}
        for op in self.graph:
            layer, short = max(layer_of(op.name), -1), op.name.partition(".")[2]
            if isinstance(op, Linear) and op.bias_name:
                bias = self._tensor(op.bias_name, (op.d_out,)) * self._factors(op)
                found[layer, f"{short}.bias"] = {"bias": bias}
            elif isinstance(op, LayerNorm):
                gamma, beta = (self._tensor(name, shape) for name, shape in op.tensors().items())
                found[layer, short] = {"gamma": gamma + np.float32(op.offset), "beta": beta, "eps": op.eps}
            elif isinstance(op, RmsNorm):
                gamma = self._tensor(f"{op.name}.gamma", (op.width,))
                found[layer, short] = {"gamma": gamma + np.float32(op.offset), "eps": op.eps}
            elif isinstance(op, Rope):
                for slot, tables in enumerate(self._rotations):
                    found[layer, f"{short}@{slot}" if slot else short] = tables
        return found

    def _place_matrix(self, op: Linear) -> None:
        layout = self.mapping.layouts[op.name.partition(".")[2]]
        base = max(layer_of(op.name), 0) * self.mapping.layer_rows
        encoded, scales = self._encode(self._matrix(op), 0)
        outputs, lanes = np.arange(op.d_out), layout.shape.lanes
        for start in range(0, op.d_in, layout.shape.buffer):  # a chunk of an output fills consecutive columns
            part = encoded[start : start + layout.shape.buffer].T
            columns = -(-part.shape[1] // lanes)
            padded = np.zeros((op.d_out, columns * lanes), encoded.dtype)
            padded[:, : part.shape[1]] = part
            channel, bank, row, column, _ = layout.place(start, outputs)
            first = (base + row) * layout.shape.columns + column
            at, within = np.divmod(first[:, None] + np.arange(columns), layout.shape.columns)
            place = channel[:, None], bank[:, None], at, within
            self.executor.rows[place] = padded.reshape(op.d_out, columns, lanes)
            self._set_scales(place, None if scales is None else scales[:, None])

    def _place_table(self, layout_name: str, tensor: str, scale: float = 1.0) -> None:
        layout = self.mapping.layouts[layout_name]
        given = self._tensor(tensor, (layout.entries, layout.width)) * np.float32(scale)
        table, scales = self._encode(given, 1)
        entries = np.arange(layout.entries)
        for j in range(0, layout.width, layout.shape.lanes):
            part = table[:, j : j + layout.shape.lanes]
            channel, bank, row, column, _ = layout.place(entries, j)
            self.executor.rows[channel, bank, row, column, : part.shape[1]] = part
            self._set_scales((channel, bank, row, column), scales)


def _executor_kind(mapping: Mapping) -> type[Executor]:
    """What carries a mapping's programs out."""
    hybrid, algorithm = isinstance(mapping, HybridMapping), mapping.attention is not None
    if algorithm:
        return HybridDecoderExecutor if hybrid else DecoderExecutor
    return HybridExecutor if hybrid else Executor


def calibrated(
    graph: WorkloadGraph, workload: WorkloadConfig, weights: Named[str, Array], tokens: Sequence[int]
) -> dict[int, tuple[float, float]]:
    """`cache_scales` of these tokens, which the float64 reference reads."""
    reference = Reference(graph, workload, weights, cache_bytes=0)
    return cache_scales(graph, (reference.step(token, position) for position, token in enumerate(tokens)))


HEADROOM = 1.25
"""Largest magnitude that int8 keys and values can have, over the largest one that calibration has seen."""


def cache_scales(graph: WorkloadGraph, passes: Iterable[Named[str, Any]]) -> dict[int, tuple[float, float]]:
    """The values of one unit of int8 keys and of values, by layer, from the results of unrounded passes."""
    largest = dict[int, list[float]]()
    for results in passes:
        for op in graph:
            if isinstance(op, CacheWrite):
                now = [float(np.max(np.abs(part))) for part in results[op.name]]
                known = largest.setdefault(layer_of(op.name), now)
                largest[layer_of(op.name)] = [max(pair) for pair in zip(known, now, strict=True)]
    return {layer: (HEADROOM * k / 127, HEADROOM * v / 127) for layer, (k, v) in largest.items()}


__all__ = ["HEADROOM", "Session", "cache_scales", "calibrated"]
