"""``--check`` where a forward pass processes several tokens: each of them against float64, with a judge for each sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from pimsim.arch.system import ArchConfig
from pimsim.errors import CapacityExceeded, MappingError
from pimsim.functional.check import Capture, Judge, Places
from pimsim.functional.stream import HybridExecutor
from pimsim.functional.verdict import Verdict
from pimsim.mapper.choice import graph_for, mapping_for
from pimsim.mapper.group import Group, GroupMapping, Token, groups
from pimsim.mapper.hybrid_group import HybridGroupMapping
from pimsim.runners.pim_check import PimCheck, available_memory, places_of
from pimsim.session import Session
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.reference import Reference, random_weights


class GroupCheck(PimCheck):
    """One check; `passes` may be changed before `run`.

    Attributes:
        groups: the tokens of each pass.
    """

    def __init__(self, arch: ArchConfig, workload: WorkloadConfig, tokens: int) -> None:
        """The first ``tokens`` passes.

        Raises:
            MappingError: the format has scales of the cache, which are calibrated for one sequence only.
        """
        if arch.pim.format == "int8":
            raise MappingError("pim.format must not be int8 for --check of several tokens at once")
        self.arch, self.workload, self.graph = arch, workload, graph_for(workload, arch)
        tied, random = self.graph.tied(), random_weights(self.graph)
        self.weights = {name: random[name] for name in random if name not in tied}
        self.groups = list(islice(groups(workload), tokens))
        require_memory_for_captures(arch, workload, self.groups, available_memory())
        self.session = session = Session(workload, arch, self.weights, whole=False)
        assert isinstance(session.mapping, GroupMapping)
        self.mapping = session.mapping
        self.passes = [
            self.mapping.group_pass(group, [self.token(each) for each in group], head=workload.lm_head)
            for group in self.groups
        ]
        self._places = places_of(self.mapping)
        sequences = range(workload.batch)
        self.judges = [
            Judge(self.graph, self.weights, session.executor.mac, arch.asic, self._places) for _ in sequences
        ]
        self._references = [Reference(self.graph, workload, self.weights) for _ in sequences]

    def token(self, at: Token) -> int:
        """The token at a place; sequences differ."""
        return (7919 * at.position + 104729 * at.sequence + 17) % self.workload.model.vocabulary

    def run(self) -> dict[str, Any]:
        """Compare token by token as `PimCheck` does, then both orders; what differs first is the message."""
        executor = self.session.executor
        capture = executor.observer = Capture(self.graph, executor.sram.size)
        differences: list[Verdict] = []
        written: list[dict[str, Any]] = []
        worst, message = {"error": 0.0, "relative": 0.0, "tolerance": 0.0}, ""
        for number in range(len(self.groups)):
            self._enter(number)
            executor.run(self.passes[number])
            written.append(capture.take())
            message = self._compare_group(number, written[-1], differences, worst)
            if message:
                break
        executor.observer = None
        message = message or self._compare_orders(written)
        return self._report(message, worst, differences, len(written))

    def _compare_group(
        self, number: int, written: dict[str, Any], differences: list[Verdict], worst: dict[str, float]
    ) -> str:
        for slot, at in enumerate(self.groups[number]):
            self.judge = judge = self.judges[at.sequence]
            judge.places = self._places_of(number, slot)
            logits = self.session.logits_of(slot) if self.workload.lm_head else None
            now = judge.compare(_of_wave(written, self.mapping.suffix(slot)), self.token(at), at.position, logits)
            differences += now
            where = f"sequence {at.sequence}: " if self.workload.batch > 1 else ""
            if not now[-1].passed:
                return where + now[-1].message(self.arch.pim.format)
            exact = self._references[at.sequence].step(self.token(at), at.position)
            message = self._compare_end(exact, now, number, worst)
            if message:
                return where + message
        return ""

    def _places_of(self, number: int, slot: int) -> Places:
        """Where the results of a token of a pass are, and who makes them."""
        places = self._places.shifted(self.mapping.shift(slot))
        if isinstance(self.mapping, HybridGroupMapping):
            sides = self.mapping.sides_of(self.groups[number])
            places = replace(places, streamed=frozenset(work for work, side in sides.items() if side == "fpga"))
        return places

    def _enter(self, number: int) -> None:
        """Begin a pass; without embeddings, the streams are put where they would put them."""
        group = self.groups[number]
        self.session.enter(*(at.position for at in group))
        if self.workload.embeddings:
            return
        memory, start, step = self.session.executor.sram, self.mapping.sram["x"], self.mapping.stride
        if isinstance(self.mapping, HybridGroupMapping) and self.mapping.parks(group):
            assert isinstance(self.session.executor, HybridExecutor)
            memory, start, step = (
                self.session.executor.stream.buffer,
                self.mapping.stream["park.x"],
                self.workload.model.d_model,
            )
        for slot, at in enumerate(group):
            stream = self.judges[at.sequence].stream(self.token(at), at.position)
            memory[start + slot * step : start + slot * step + stream.size] = stream


def require_memory_for_captures(
    arch: ArchConfig, workload: WorkloadConfig, passes: Sequence[Group], available: int
) -> None:
    """What the operations of all passes write is kept to compare orders: twice an image of the SRAM for each, in each wave.

    Raises:
        CapacityExceeded: that is more than ``available`` bytes.
    """
    graph = graph_for(workload, arch)
    mapping = mapping_for(workload, graph, arch, arch.dram.resolve())
    assert isinstance(mapping, GroupMapping)
    image = 4 * mapping.sram.capacity * mapping.copies
    waves = sum(len({mapping.suffix(slot) for slot in range(len(group))}) for group in passes)
    needed = 2 * image * waves * sum(1 for _ in graph)
    if needed > available:
        raise CapacityExceeded(
            f"--check of {len(passes)} passes of {workload.name} must fit into memory: what its operations write takes about "
            f"{needed / 2**30:.1f} GiB, not {available / 2**30:.1f} GiB"
        )


def _of_wave(written: dict[str, Any], wave: str) -> dict[str, Any]:
    """What the operations of a wave have written, by the names that they have in the first one."""
    if not wave:
        return {name: values for name, values in written.items() if "#" not in name}
    return {name.removesuffix(wave): values for name, values in written.items() if name.endswith(wave)}


__all__ = ["GroupCheck"]
