"""The memory planner against a count of what is live, step by step, and against a memory that is written to."""

from __future__ import annotations

import itertools

import pytest

from pimsim.errors import CapacityExceeded
from pimsim.workload.vit_memory import STM32F746, MemoryPlan, Step, Vit, schedule

TRICKS = list(itertools.product((True, False), repeat=3))
SIZES = [
    {},
    {"patch": 32, "width": 168},
    {"width": 216, "heads": 4, "mlp": 3.5, "rank_ratio": 0.95},
    {"element_bytes": 4},
]


def brute_force(steps: list[Step]) -> list[int]:
    """Live bytes of each step: of all buffers, those that exist and that this step or one behind it touches."""
    found = []
    for at in range(len(steps)):
        made = {name: n * s.element_bytes for s in steps[: at + 1] for name, n in s.makes.items()}
        touched = {name for s in steps[at:] for name in (*s.uses, *s.makes)}
        found.append(sum(size for name, size in made.items() if name in touched))
    return found


@pytest.mark.parametrize("tricks", TRICKS)
@pytest.mark.parametrize("sizes", SIZES)
def test_the_peak_is_that_of_a_brute_force_count(tricks, sizes) -> None:
    steps = schedule(Vit(depth=2, **sizes), *tricks)
    plan = MemoryPlan.of(steps)
    expected = brute_force(steps)
    assert list(plan.live) == expected
    assert plan.peak == max(expected) == expected[plan.steps.index(plan.peak_step)]
    assert plan.arena >= plan.peak


@pytest.mark.parametrize("patch", [16, 20, 24, 28, 32])
@pytest.mark.parametrize("width", [168, 192, 216])
def test_peaks_of_whole_networks_of_the_search_space(patch, width) -> None:
    """Without attention row by row, tokens, queries, keys, values, scores of all heads and the output decide what is refused."""
    for heads, tricks in itertools.product((3, 4), TRICKS):
        steps = schedule(Vit(patch=patch, width=width, heads=heads), *tricks)
        plan = MemoryPlan.of(steps)
        assert list(plan.live) == brute_force(steps)
        n = (224 // patch) ** 2 + 1
        assert STM32F746.accepts(plan) == (tricks[2] or 5 * n * width + heads * n**2 <= 320 * 1024)


@pytest.mark.parametrize("tricks", TRICKS)
def test_no_buffer_is_overwritten_while_it_is_needed(tricks) -> None:
    steps = schedule(Vit(image=32, patch=8, width=12, heads=3, depth=2), *tricks)
    plan = MemoryPlan.of(steps)
    memory: list[str] = [""] * plan.arena
    for step in steps:
        for name in step.makes:
            buffer = plan.buffers[name]
            memory[buffer.offset : buffer.offset + buffer.size] = [name] * buffer.size
        for name in (*step.uses, *step.makes):
            buffer = plan.buffers[name]
            assert set(memory[buffer.offset : buffer.offset + buffer.size]) == {name}


def test_attention_row_by_row_needs_what_the_rule_says() -> None:
    vit = Vit()
    n, d, d_head = 197, 192, 64
    assert vit.tokens == n
    plan = MemoryPlan.of(schedule(vit))
    # tokens, one head's queries, keys and values, the output, and scratch: a row of scores, or a token and its factors
    assert plan.live[plan.steps.index("block 0 head 0 row")] == n * d + 3 * n * d_head + n + n * d
    assert plan.live[plan.steps.index("block 0 mlp")] == n * d + d + 4 * d + 2 * 96


def test_each_trick_saves_memory_where_it_applies() -> None:
    peaks = {tricks: MemoryPlan.of(schedule(Vit(), *tricks)).peak for tricks in TRICKS}
    assert peaks[True, True, True] == min(peaks.values())
    assert peaks[False, False, False] == max(peaks.values())
    assert peaks[True, True, True] < peaks[True, True, False]
    assert peaks[True, True, True] < peaks[True, False, True]
    assert peaks[True, True, True] < peaks[False, True, True]


def test_the_device_accepts_and_rejects() -> None:
    wide = Vit(width=216, heads=4)
    STM32F746.check(MemoryPlan.of(schedule(wide)))
    plan = MemoryPlan.of(schedule(wide, overwrite=False, rowwise=False))
    with pytest.raises(
        CapacityExceeded,
        match=rf"^activations must fit into 327680 bytes of STM32F746, not {plan.arena}: {plan.peak} are live",
    ):
        STM32F746.check(plan)


def test_a_buffer_that_was_never_made_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^step 'a' must use only buffers that were made before it, not 'x'$"):
        MemoryPlan.of([Step("a", ("x",), {})])
    with pytest.raises(ValueError, match=r"^step 'b' must make new buffers, not 'x' again$"):
        MemoryPlan.of([Step("a", (), {"x": 1}), Step("b", (), {"x": 1})])
