"""The closed form against the sum, the shipped baselines and the measurements that they come from."""

from __future__ import annotations

import math

import builders
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pimsim.analysis.baselines import RooflineOverhead, compare, decoder_weights, load_baseline, sum_of_larger, weights
from pimsim.catalog import names
from pimsim.config import load_workload
from pimsim.errors import UnknownName
from pimsim.model import TRUST_WORDS
from pimsim.workload.models import build_graph

SLOPES = st.floats(-1e3, 1e3)


def baseline(**fields: object) -> RooflineOverhead:
    """A round-numbered device: 100 GB/s, 1 TFLOP/s, 10 kernels of 1 us."""
    given_fields = {
        "name": "round",
        "device": "Round",
        "stack": "none",
        "precision_bytes": 2,
        "memory_bandwidth_gb_s": 200.0,
        "bandwidth_fraction": 0.5,
        "peak_tflop_s": 1.0,
        "kernels_per_layer": 10,
        "kernel_overhead_us": 1.0,
        "power_w": 50.0,
        "sources": {"kernel_overhead_us": "assumed: round"},
    }
    return RooflineOverhead.model_validate({**given_fields, **fields})


def test_one_token_by_hand() -> None:
    """GPT-2 small: 84,934,656 weights; keys and values of one token 2 x 12 x 768."""
    work = builders.workload(generate_tokens=1)
    assert decoder_weights(work.model) == weights(work) == 12 * 12 * 768**2 == 84_934_656
    memory = (84_934_656 + 2 * 12 * 768) * 2 / 100e9
    assert baseline().seconds(work) == pytest.approx(12 * 10 * 1e-6 + memory, rel=1e-12)
    assert baseline().joules(work) == pytest.approx(50 * baseline().seconds(work))


def test_arithmetic_binds_where_it_is_slower() -> None:
    work = builders.workload(generate_tokens=1)
    flop = 2 * 84_934_656 + 4 * 12 * 768
    assert baseline(peak_tflop_s=0.01).seconds(work) == pytest.approx(120e-6 + flop / 1e10, rel=1e-12)


def test_the_head_counts_if_it_is_part_of_the_work() -> None:
    assert weights(builders.workload(lm_head=True)) == 84_934_656 + 50257 * 768


@given(
    st.integers(1, 40),
    st.floats(1.0, 1e3),
    st.floats(1e-3, 1e3),
    st.integers(1, 64),
    st.integers(16, 512),
)
def test_seconds_equal_the_sum_over_tokens(
    generated: int, bandwidth: float, peak: float, layers: int, width: int
) -> None:
    work = builders.workload(layers=layers, d_model=width, d_ff=4 * width, generate_tokens=generated)
    device = baseline(memory_bandwidth_gb_s=bandwidth, peak_tflop_s=peak)
    naive = math.fsum(device.pass_seconds(work, context) for context in range(1, generated + 1))
    assert device.seconds(work) == pytest.approx(naive, rel=1e-9)


def test_a_prompt_is_one_pass_and_yields_the_first_token() -> None:
    device = baseline()
    prompt_only = device.seconds(builders.workload(prompt_tokens=100, generate_tokens=1))
    whole = builders.workload(prompt_tokens=100, generate_tokens=8)
    further = math.fsum(device.pass_seconds(whole, context) for context in range(101, 108))
    assert device.seconds(whole) == pytest.approx(prompt_only + further, rel=1e-12)
    weights_once = 84_934_656 * 2 / 100e9
    assert 120e-6 + weights_once < prompt_only < 100 * (120e-6 + weights_once)


@given(st.tuples(SLOPES, SLOPES), st.tuples(SLOPES, SLOPES), st.integers(0, 50), st.integers(-2, 60))
def test_sum_of_larger_equals_the_loop(
    one: tuple[float, float], other: tuple[float, float], first: int, count: int
) -> None:
    steps = range(first, first + count)
    naive = math.fsum(max(one[0] + one[1] * t, other[0] + other[1] * t) for t in steps)
    assert sum_of_larger(one, other, first, first + count - 1) == pytest.approx(naive, rel=1e-9, abs=1e-6)


# Shipped baselines


@pytest.mark.parametrize("name", names("baseline"))
def test_every_number_of_a_shipped_baseline_has_a_source(name: str) -> None:
    shipped = load_baseline(name)
    assert shipped.name == name
    numbers = {key for key, value in shipped.model_dump().items() if isinstance(value, int | float)}
    assert numbers <= set(shipped.sources)
    assert {text.split(":")[0] for text in shipped.sources.values()} <= set(TRUST_WORDS)


def test_the_expected_baselines_are_shipped() -> None:
    assert {"a100", "t4", "xeon_6154"} <= set(names("baseline"))


def test_an_unknown_baseline_names_the_choices() -> None:
    with pytest.raises(
        UnknownName,
        match=r"^baseline must be one of a100, .*, xeon_6154, xeon_6226r, not 'xeon_6145'; did you mean 'xeon_6154'\?",
    ):
        load_baseline("xeon_6145")


@pytest.mark.parametrize(
    ("name", "milliseconds"),
    [("t4", (5.53, 20.76, 32.79)), ("xeon_6154", (29.79, 101.4, 165.1)), ("a100", (3.93, 9.58, 17.62))],
)
def test_mean_time_per_token_of_1024(name: str, milliseconds: tuple[float, float, float]) -> None:
    """Pinned: layers x kernels x overhead + (weights + mean context of 512.5 tokens) x bytes / achieved bandwidth."""
    shipped = load_baseline(name)
    for (layers, width), expected in zip(((12, 768), (24, 2048), (48, 1600)), milliseconds, strict=True):
        work = builders.workload(layers=layers, d_model=width, heads=width // 64, d_ff=4 * width)
        overhead = layers * shipped.kernels_per_layer * shipped.kernel_overhead_us * 1e-6
        moved = (12 * layers * width**2 + 512.5 * 2 * layers * width) * shipped.precision_bytes
        formula = overhead + moved / (shipped.memory_bandwidth_gb_s * shipped.bandwidth_fraction * 1e9)
        assert shipped.seconds(work) / 1024 == pytest.approx(formula, rel=1e-9)
        assert formula * 1e3 == pytest.approx(expected, rel=2e-3)


def test_a100_agrees_with_the_tool_its_constants_come_from() -> None:
    """LLMCompass, run on GPT-2 small at context 1,024: 3.88 ms per token; the bandwidth that it reaches differs."""
    work = builders.workload()
    assert load_baseline("a100").pass_seconds(work, 1024) == pytest.approx(3.88e-3, rel=0.03)


def test_t4_is_near_the_report_that_its_overhead_comes_from() -> None:
    """openai/gpt-2#233: 345M, FP32, a forward pass over 60 tokens in about 15 ms."""
    card = load_baseline("t4").model_copy(update={"precision_bytes": 4, "peak_tflop_s": 8.1})
    work = builders.workload(layers=24, d_model=1024, heads=16, d_ff=4096, prompt_tokens=60, generate_tokens=1)
    assert card.seconds(work) == pytest.approx(15e-3, rel=0.15)


@pytest.mark.parametrize("name", ["gpt2_decode", "gpt3_xl_decode", "llama3_8b_decode", "smollm2_135m_decode"])
def test_weights_and_caches_are_those_of_the_graph(name: str) -> None:
    """Also with shared key heads and gates; the graph of operations counts on its own."""
    work = load_workload(name, [("lm_head", "true")]).value
    graph = build_graph(work)
    assert weights(work) == graph.weights()
    device = baseline(kernel_overhead_us=0.0, peak_tflop_s=1e6)
    moved = graph.weights() + graph.cache_traffic(100)[0]
    assert device.pass_seconds(work, 100) == pytest.approx(moved * 2 / 100e9, rel=1e-9)


def test_compare() -> None:
    work = builders.workload(generate_tokens=4)
    device = baseline()
    seconds = device.seconds(work)
    beside = compare(device, work, seconds / 10, seconds * 50 / 20)
    assert beside.speedup == pytest.approx(10)
    assert beside.energy_ratio == pytest.approx(20)
    assert (beside.kind, beside.method) == ("model", "roofline+overhead")
    assert beside.source == "Round, none; roofline and 1 us per kernel (assumed: round)"
    assert compare(device, work, 0.0, 0.0).speedup is None
