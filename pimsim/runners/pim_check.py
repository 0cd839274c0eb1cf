"""``--check``: the mapped program of a decoder on numbers, against float64 and in two orders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

from pimsim.arch.dram import DramSpec
from pimsim.arch.formats import format_bytes
from pimsim.arch.hybrid import HybridConfig
from pimsim.arch.system import ArchConfig
from pimsim.errors import CapacityExceeded
from pimsim.functional.check import Capture, Judge, Places, first_unequal
from pimsim.functional.decoder_attention import (
    AttentionRule,
    DecoderExecutor,
    Primitives,
    content,
    primitive_judge,
)
from pimsim.functional.order import Timed, run_in_issue_order
from pimsim.functional.verdict import Verdict, relative_error, summary
from pimsim.machine.fast import FastEngine
from pimsim.machine.fpga.fast import run_region
from pimsim.machine.hybrid import further_units
from pimsim.machine.units import Unit
from pimsim.mapper.choice import graph_for, mapping_for
from pimsim.mapper.hybrid import HybridMapping
from pimsim.mapper.mapping import Mapping
from pimsim.program.isa import Item, Placed, Repeat
from pimsim.session import Session, cache_scales
from pimsim.trace.spans import SpanList
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.graph import layer_of
from pimsim.workload.reference import Reference, random_weights


def check(arch: ArchConfig, workload: WorkloadConfig, tokens: int, timed: Mapping | None = None) -> dict[str, Any]:
    """The ``functional`` section of a result: up to ``tokens`` forward passes on random weights.

    What data decide in these passes is told to ``timed``, the mapping of the run.

    Raises:
        MappingError: as for `Session`.
        CapacityExceeded: the images of the memories and the weights do not fit into the memory that is left.
    """
    require_memory(arch, workload, available_memory())
    if workload.together > 1:
        from pimsim.runners.group_check import GroupCheck

        return GroupCheck(arch, workload, tokens).run()
    checked = PimCheck(arch, workload, tokens)
    if checked.decisions and timed is not None and timed.attention is not None:
        timed.attention.take(checked.decisions)
    return checked.run()


class PimCheck:
    """One check; `passes` may be changed before `run`, to see what a wrong program does.

    Attributes:
        session: weights in place.
        tokens: one per pass.
        passes: the blocks of each pass.
        decisions: what data decide in each pass, by layer, where attention is an algorithm whose program depends on that.
    """

    _primitives: Primitives | None = None
    """Comparison of the primitives of attention; None where it is the decoder's own softmax."""

    def __init__(self, arch: ArchConfig, workload: WorkloadConfig, tokens: int) -> None:
        self.arch, self.workload, self.graph = arch, workload, graph_for(workload, arch)
        tied, random = self.graph.tied(), random_weights(self.graph)
        self.weights = {name: random[name] for name in random if name not in tied}
        passes = workload.prompt_tokens + workload.generate_tokens - 1
        self.tokens = [(7919 * i + 17) % workload.model.vocabulary for i in range(min(tokens, passes))]
        kept = {"cache_bytes": 0} if len(self.tokens) == 1 else {}  # copies pay from the second pass on
        self._reference = Reference(self.graph, workload, self.weights, **kept)
        self._exact: list[dict[str, Any]] = []
        scales = None
        if arch.pim.format == "int8":
            every = [self._expected(number) for number in range(len(self.tokens))]
            scales = cache_scales(self.graph, every)
        self.session = session = Session(workload, arch, self.weights, whole=False, cache_scales=scales)
        mapping = session.mapping
        self.decisions: list[dict[int, Any]] = []
        if mapping.attention is not None and mapping.attention.depends_on_data:
            self.decisions = [self._decided(number) for number in range(len(self.tokens))]
            mapping.attention.take(self.decisions)
        self.passes = [mapping.forward_pass(i + 1, token, head=workload.lm_head) for i, token in enumerate(self.tokens)]
        self.judge = Judge(self.graph, self.weights, session.executor.mac, arch.asic, places_of(mapping), scales)
        self._primitives = self._watched_attention()

    def _decided(self, number: int) -> dict[int, Any]:
        """What data decide in each layer in a pass of the reference; passes are asked for in order."""
        self._expected(number)
        return {layer_of(name): found for name, found in self._reference.decided.items()}

    def _watched_attention(self) -> Primitives | None:
        """Comparison of every primitive of attention, where it is an algorithm's."""
        mapping, executor = self.session.mapping, self.session.executor
        attention = mapping.attention
        if attention is None:
            return None
        assert isinstance(executor, DecoderExecutor)
        for blocks in self.passes:
            self.session.learn(blocks)
        decided = {
            (placed.layer, number): attention.programs[placed.block].decided
            for number, blocks in enumerate(self.passes, start=1)
            for placed in blocks
            if placed.block in attention.programs
        }
        self.judge.attention = AttentionRule(
            self.arch,
            lambda layer, name: content(executor, attention.held[name], layer * mapping.layer_rows),
            lambda layer, context: decided[layer, context],
        )
        return Primitives(executor, primitive_judge(self.arch), lambda placed: attention.programs[placed.block])

    def run(self) -> dict[str, Any]:
        """Compare op by op, then the ends of passes, then both orders; what differs first is the message."""
        executor = self.session.executor
        capture = executor.observer = Capture(self.graph, executor.sram.size)
        differences: list[Verdict] = []
        written, message = [], ""
        worst = {"error": 0.0, "relative": 0.0, "tolerance": 0.0}
        if self._primitives is not None:
            self._primitives.executor.after_step = self._primitives.after_step
        for number, token in enumerate(self.tokens):
            self._enter(number)
            executor.run(self.passes[number])
            if self._primitives is not None and self._primitives.message:
                message = f"{self._primitives.message} (pass {number})"
                break
            written.append(capture.take())
            now = self.judge.compare(written[-1], token, number, self.session.logits if self.workload.lm_head else None)
            differences += now
            if not now[-1].passed:
                message = now[-1].message(self.arch.pim.format)
                break
            message = self._compare_end(self._expected(number), now, number, worst)
            if message:
                break
        executor.observer = None
        if self._primitives is not None:
            self._primitives.executor.after_step = None
        message = message or self._compare_orders(written)
        return self._report(message, worst, differences, len(written))

    def _report(
        self, message: str, worst: dict[str, float], differences: Sequence[Verdict], passes: int
    ) -> dict[str, Any]:
        return {
            "passed": not message,
            "format": self.arch.pim.format,
            "max_abs_error": worst["error"],
            "max_rel_error": worst["relative"],
            "tolerance": worst["tolerance"],
            "compared": len(differences),
            "passes": passes,
            "by_op": summary(differences) | (self._primitives.by_kind if self._primitives is not None else {}),
            "message": message or None,
        }

    def _expected(self, number: int) -> dict[str, Any]:
        """Results of the reference in a pass; passes are asked for in order."""
        if number == len(self._exact):
            self._exact.append(self._reference.step(self.tokens[number], number))
        return self._exact[number]

    def _enter(self, number: int) -> None:
        """Begin a pass; without embeddings, the stream is put where they would put it."""
        self.session.enter(number)
        if not self.workload.embeddings:
            stream = self.judge.stream(self.tokens[number], number)
            start = self.session.mapping.sram["x"]
            self.session.executor.sram[start : start + stream.size] = stream

    def _compare_end(
        self, exact: dict[str, Any], differences: Sequence[Verdict], number: int, worst: dict[str, float]
    ) -> str:
        name = [each.op.name for each in differences if each.op.kind != "argmax"][-1]
        found = self.judge.found[name]
        worst["tolerance"] = max(worst["tolerance"], sum(each.relative for each in differences))
        worst["error"] = max(worst["error"], float(abs(found - exact[name]).max()))
        relative = relative_error(found, exact[name])
        worst["relative"] = max(worst["relative"], relative)
        if relative <= worst["tolerance"]:
            return ""
        return (
            f"{name} must be within {worst['tolerance']:.3g} of the reference at the end of pass {number}, the sum of "
            f"the errors of all operations, not {relative:.3g} off"
        )

    # -- the machine's order --------------------------------------------------------------------------------------

    def _compare_orders(self, program: Sequence[dict[str, Any]]) -> str:
        executor = self.session.executor
        self.session.clear()
        captures = [Capture(self.graph, executor.sram.size) for _ in program]
        run_in_issue_order(executor, self._timed(), captures, self._enter)
        for number, (one, capture) in enumerate(zip(program, captures, strict=True)):
            unequal = first_unequal(one, capture.written)
            if unequal is not None:
                name, element, expected, found = unequal
                return (
                    f"{name} must be the same in program order and in the machine's order: pass {number}, SRAM element "
                    f"{element} must be {expected:.6g}, not {found:.6g}; a step does not wait for what it reads"
                )
        return ""

    def _timed(self) -> Iterator[Timed]:
        """Every step with its ticks, from the fast engine."""
        return timed_steps(self.arch, self.session.mapping.spec, self.passes)


def timed_steps(arch: ArchConfig, spec: DramSpec, passes: Sequence[Sequence[Placed]]) -> Iterator[Timed]:
    """Every step of a program with its ticks, from the fast engine."""
    spans = SpanList()
    engine = FastEngine(arch, spec, recorder=spans, further=units_of(arch))
    engine.run(iter(passes))
    units = {unit.name: unit for unit in engine.units}
    recorded, free = iter(spans.blocks), dict.fromkeys(units, 0)
    for number, blocks in enumerate(passes):
        for placed in blocks:
            block = next(recorded)
            done: dict[str, int] = {}
            for span in block.spans:
                at = done.get(span.units[0], 0)
                done |= dict.fromkeys(span.units, at + 1)
                begin, end = block.origin + span.begin, block.origin + span.end
                if span.units[0] in units:
                    unit = units[span.units[0]]
                    step = dict(placed.block.units)[unit.name][at]
                    busy, latency = unit.costs.step(step.items)
                    # the edge itself, which the tick of its beginning does not tell where clocks do not meet
                    ready = 0 if span.ready is None else unit.clock.edge(block.origin + span.ready)
                    start = max(free[unit.name], ready)
                    free[unit.name] = start + busy
                    signal = unit.clock.tick(start + latency)
                    yield Timed(begin, signal, number, placed, step, ())
                    continue
                channels = [int(unit.removeprefix("channel")) for unit in span.units]
                step = placed.block.channels[channels[0]][at]
                signal = end - 1 + spec.commands[_last_command(step.items)].latency
                yield Timed(begin, signal, number, placed, step, channels)


def units_of(arch: ArchConfig) -> tuple[Unit, ...]:
    """Units of a machine beyond its channels and its ASIC."""
    return further_units(arch, run_region) if isinstance(arch, HybridConfig) else ()


def places_of(mapping: Mapping) -> Places:
    """Where a mapping puts results."""
    sram = mapping.sram
    return Places(
        mapping.places,
        sram["scores"],
        mapping.score_pitch,
        mapping.heads_per_pass,
        sram["sums"],
        mapping.shape.buffer,
        mapping.shape.lanes,
        streamed_of(mapping),
        mapping.weight_shape.buffer,
    )


def streamed_of(mapping: Mapping) -> frozenset[str]:
    """Work that a streaming unit carries out."""
    sides = mapping.sides if isinstance(mapping, HybridMapping) else {}
    return frozenset(work for work, side in sides.items() if side == "fpga")


def _last_command(items: Sequence[Any]) -> str:
    last: Item = items[-1]
    return _last_command(last.body) if isinstance(last, Repeat) else last.command


def require_memory(arch: ArchConfig, workload: WorkloadConfig, available: int) -> None:
    """Raises: CapacityExceeded, if a check needs more than ``available`` bytes."""
    graph = graph_for(workload, arch)
    mapping = mapping_for(workload, graph, arch, arch.dram.resolve())
    shape = mapping.shape
    rows = (
        mapping.rows_used * shape.columns * shape.lanes * shape.banks * shape.channels * format_bytes(arch.pim.format)
    )
    tied = graph.tied()
    sizes = [prod(dims) for name, dims in graph.tensors().items() if name not in tied]
    needed = rows + 4 * sum(sizes) + 24 * max(sizes)  # the images, the weights, and copies of the largest in float64
    if needed > available:
        raise CapacityExceeded(
            f"--check of {workload.name} must fit into memory: it needs about {needed / 2**30:.1f} GiB, "
            f"not {available / 2**30:.1f} GiB"
        )


def available_memory() -> int:
    """Bytes that programs can still take; without /proc, no limit is known and a huge number comes back."""
    path = Path("/proc/meminfo")
    if path.exists():
        for line in path.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 1 << 62


__all__ = ["PimCheck", "available_memory", "check", "require_memory", "timed_steps"]
