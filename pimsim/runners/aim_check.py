"""``--check``: the instructions of a decoder on GDDR6-AiM on numbers, against float64.

A channel carries its instructions out strictly in order, and the host waits for what it reads, so the machine has no other
order than that of the program.
"""

from __future__ import annotations

from collections import defaultdict
from math import prod
from typing import Any

from pimsim.arch.aim import AimConfig
from pimsim.errors import CapacityExceeded, ProgramError
from pimsim.functional.aim.host import AimExecutor, Work
from pimsim.functional.aim.judge import AimJudge
from pimsim.functional.numerics import mac_arithmetic
from pimsim.functional.verdict import Verdict
from pimsim.mapper.aim import AimMapping
from pimsim.mapper.aim_host import AimHostData
from pimsim.program.aim_segments import PlacedSegment
from pimsim.runners.decoder_check import DecoderCheck, available_memory
from pimsim.workload.config import WorkloadConfig


def check(arch: AimConfig, workload: WorkloadConfig, mapping: AimMapping, tokens: int) -> dict[str, Any]:
    """The ``functional`` section of a result: up to ``tokens`` forward passes on random weights.

    Raises:
        CapacityExceeded: the images of the memories and the weights do not fit into the memory that is left.
    """
    require_memory(mapping, min(tokens, mapping.passes), available_memory())
    return AimCheck(arch, workload, mapping, tokens).run()


class AimCheck(DecoderCheck):
    """One check; `passes` may be changed before `run`, to see what a wrong program does.

    Attributes:
        executor: weights in place.
        passes: the segments of each pass, those that the machine times.
    """

    def __init__(self, arch: AimConfig, workload: WorkloadConfig, mapping: AimMapping, tokens: int) -> None:
        super().__init__(workload, tokens, arch.pim.format, mapping.graph)
        mac = mac_arithmetic(arch.pim.format, arch.pim.accumulator, arch.pim.adder_tree)
        self.executor = AimExecutor(self.graph, self.weights, mapping.spec, mac, arch.asic, mapping.matrix_row)
        self.judge = AimJudge(self.graph, self.weights, mac, self.executor.host, mapping.lanes)
        self._data = AimHostData(mapping)
        self.passes = [list(mapping.forward_pass(i + 1)) for i in range(len(self.tokens))]

    def run(self) -> dict[str, Any]:
        """Compare op by op, then the ends of passes; what differs first is the message."""
        differences: list[Verdict] = []
        message, done = "", 0
        worst = {"error": 0.0, "relative": 0.0, "tolerance": 0.0}
        for number, token in enumerate(self.tokens):
            try:
                found = self.executor.run(token, number, self._work(number))
            except ProgramError as error:
                message = f"pass {number}: {error}"
                break
            done += 1
            now = self.judge.compare(found, token, number)
            differences += now
            message = "" if now[-1].passed else now[-1].message(self.format)
            message = message or self._compare_end(self._expected(number), now, number, worst)
            if message:
                break
        return self._report(message, worst, differences, done)

    def _work(self, number: int) -> dict[str, Work]:
        """Operation -> its segments in a pass, with what the host sends and takes."""
        segments: dict[str, list[PlacedSegment]] = defaultdict(list)
        for placed in self.passes[number]:
            if placed.segment.instructions:
                segments[placed.name].append(placed)
        return {
            op.name: list(zip(segments[op.name], self._data.transfers(op, number + 1), strict=False))
            for op in self.graph
        }


def require_memory(mapping: AimMapping, tokens: int, available: int) -> None:
    """Raises: CapacityExceeded, if a check needs more than ``available`` bytes."""
    spec, graph = mapping.spec, mapping.graph
    tied = graph.tied()
    sizes = [prod(dims) for name, dims in graph.tensors().items() if name not in tied]
    row = spec.channels * spec.banks_per_channel * spec.columns * spec.burst_bytes
    needed = row * mapping.rows_of(tokens) + 4 * sum(sizes) + 24 * max(sizes)  # images, weights, copies of the largest
    if needed > available:
        raise CapacityExceeded(
            f"--check of {mapping.workload.name} must fit into memory: it needs about {needed / 2**30:.1f} GiB, "
            f"not {available / 2**30:.1f} GiB"
        )


__all__ = ["AimCheck", "check", "require_memory"]
