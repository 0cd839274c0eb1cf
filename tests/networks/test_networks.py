"""Vision networks: sizes as published, graph against reference and closed forms, layers against hand examples."""

from __future__ import annotations

import re

import numpy as np
import pytest
from small_networks import CASES, EFFICIENT, SINGLE

from pimsim.config import load_workload
from pimsim.errors import ConfigError, WorkloadError
from pimsim.workload.attention.base import count
from pimsim.workload.attention.interpreter import evaluate
from pimsim.workload.attention.primitives import Depthwise, Patches
from pimsim.workload.classifier import ClassifierConfig
from pimsim.workload.networks import parts
from pimsim.workload.networks.reference import embedded

PUBLISHED = {
    "efficientvit_m0": (79, 2.3),
    "efficientvit_m1": (167, 3.0),
    "efficientvit_m2": (201, 4.2),
    "efficientvit_m3": (263, 6.9),
    "efficientvit_m4": (299, 8.8),
    "efficientvit_m5": (522, 12.4),
    "shvit_s1": (241, 6.3),
    "shvit_s2": (366, 11.4),
    "shvit_s3": (601, 14.2),
    "shvit_s4": (986, 16.5),
}
"""Millions of MACs ("FLOPs") and of parameters: arXiv 2305.07027, table 2 (M0, M1 and M3 as recalled); 2401.16456, table 2."""


def network(name: str) -> ClassifierConfig:
    found = load_workload(name).value
    assert isinstance(found, ClassifierConfig)
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_macs_and_parameters_are_the_published_ones(name: str) -> None:
    """Publications round, and some cut off: MACs within 0.7 million, parameters less than 0.1 million above what is printed."""
    work = network(name)
    method, case = work.method(), work.case()
    macs, parameters = PUBLISHED[name]
    assert method.counts(case).macs / 1e6 == pytest.approx(macs, abs=0.7)
    assert -0.05 <= method.published_parameters(case) / 1e6 - parameters < 0.1


def test_macs_at_a_higher_resolution_are_the_published_ones() -> None:
    """1,486 million for EfficientViT-M5 at 384 x 384 (arXiv 2401.16456, table 2): windows of 12 tokens tile all three stages.

    Windows of 7 are padded, and pay for it.
    """
    macs = []
    for window in ("12", "7"):
        work = load_workload("efficientvit_m5", (("image", "384"), ("model.window", window))).value
        macs.append(work.method().counts(work.case()).macs)
    assert macs[0] / 1e6 == pytest.approx(1486, abs=0.5)
    assert macs[1] > macs[0]


def test_parameters_of_a_network_by_hand() -> None:
    """SINGLE: stem of widths 1, 2, 4, 8; two blocks without attention; downsampling; one block with it; classifier."""
    stem = sum(9 * a * b + b for a, b in ((3, 1), (1, 2), (2, 4), (4, 8)))

    def mix_and_feed(c: int) -> int:
        return 9 * c + c + c * 2 * c + 2 * c + 2 * c * c + c

    merging = (8 * 32 + 32) + (9 * 32 + 32) + (32 * 8 + 8) + (8 * 32 + 32) + (32 * 16 + 16)
    attention = 2 * 6 + 6 * (4 + 4 + 6) + 14 + 16 * 16 + 16
    by_hand = stem + 2 * mix_and_feed(8) + mix_and_feed(8) + merging + 2 * mix_and_feed(16) + attention + 16 * 10 + 10
    assert SINGLE.parameters(SINGLE.case(32)) == by_hand
    # unfolded: a channel more behind each convolution but those of squeeze-and-excitation, two per input of the classifier
    channels = 15 + 3 * 4 * 8 + (32 + 32 + 16) + 2 * 4 * 16 + (14 + 16)
    assert SINGLE.published_parameters(SINGLE.case(32)) == by_hand + channels + 2 * 16


@pytest.mark.parametrize("name", CASES)
def test_the_graph_is_the_reference_and_counts_are_the_closed_forms(name: str) -> None:
    method, image = CASES[name]
    case = method.case(image)
    graph, tensors = method.expand(case), method.sample(case, 3)
    found, want = evaluate(graph, tensors)["output"], method.reference(case, tensors)["output"]
    assert found.shape == want.shape == (1, method.classes)
    np.testing.assert_allclose(found, want, rtol=1e-10, atol=1e-12)
    assert count(graph) == method.counts(case)


@pytest.mark.parametrize("name", ["efficientvit_m1", "efficientvit_m5", "shvit_s4"])
def test_counts_of_whole_networks_are_the_closed_forms(name: str) -> None:
    work = network(name)
    method, case = work.method(), work.case()
    assert count(method.expand(case)) == method.counts(case)


@pytest.mark.parametrize("name", ["efficientvit", "shvit"])
def test_how_a_network_is_tiled_changes_no_number(name: str) -> None:
    method, image = CASES[name]
    case = method.case(image)
    other = method.model_copy(update={"tile_words": 10**6})
    tensors = method.sample(case)
    merged = dict(tensors)
    for stage in method.stages(case)[1:]:  # one group of channels instead of several
        at = f"{stage.name}.down"
        groups = parts.groups(
            method.stages(case)[stage.number - 1].side, method.widths[stage.number - 1], method.tile_words
        )
        assert groups > 1
        for layer in ("widen{}.w", "widen{}.b", "reduce{}.filters", "reduce{}.bias"):
            pieces = [merged.pop(f"{at}.{layer.format(group)}") for group in range(groups)]
            merged[f"{at}.{layer.format(0)}"] = np.concatenate(pieces, axis=-1)
    one, two = (evaluate(m.expand(case), t)["output"] for m, t in ((method, tensors), (other, merged)))
    np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["efficientvit", "four tokens"])
def test_every_tensor_matters(name: str) -> None:
    """A comparison at 1e-10 says nothing about a tensor that the logits do not depend on."""
    method, image = CASES[name]
    case = method.case(image)
    graph, tensors = method.expand(case), method.sample(case)
    before = evaluate(graph, tensors)["output"]
    for tensor in tensors:
        if ".bk" in tensor or re.search(r"(widen|reduce)[2-9]|after", tensor):
            continue  # softmax does not see what all keys have in common; the others are as the ones before them
        changed = {**tensors, tensor: tensors[tensor] * 1.5 + 0.1}
        off = np.abs(evaluate(graph, changed)["output"] - before).max()
        assert off > 1e-7 * np.abs(before).max(), tensor


def test_a_single_pixel_meets_the_taps_of_the_kernel() -> None:
    """The pixel at (2, 2) lies under tap (1, 1) of the result at (1, 1), and at (3, 3) under four taps of four results."""
    w = np.zeros((27, 1))
    w[:, 0] = np.arange(27)
    weights = {"stem0.w": w, "stem0.b": np.array([100.0])}
    for at, taps in (
        ((2, 2), {(1, 1): (1, 1)}),
        ((3, 3), {(1, 1): (2, 2), (1, 2): (2, 0), (2, 1): (0, 2), (2, 2): (0, 0)}),
    ):
        image = np.zeros((8, 8, 3))
        image[at] = 1, 0, 0
        want = np.full((4, 4), 100.0)
        for place, (dy, dx) in taps.items():
            want[place] += 3 * (3 * dy + dx)
        np.testing.assert_array_equal(embedded(image, weights)[:, 0].reshape(4, 4), want)


def test_patches_by_hand() -> None:
    """Four lines of four pixels of one channel, a stride of 2, a line of zeros above."""
    op = Patches("p", "patches", ("x",), sources=((16, 1),), width=4, kernel=3, stride=2, above=1)
    found = op.meaning(np.arange(1, 17)[:, None])
    assert op.shape == found.shape == (4, 9)
    assert found.tolist() == [
        [0, 0, 0, 0, 1, 2, 0, 5, 6],
        [0, 0, 0, 2, 3, 4, 6, 7, 8],
        [0, 5, 6, 0, 9, 10, 0, 13, 14],
        [6, 7, 8, 10, 11, 12, 14, 15, 16],
    ]
    two = Patches("q", "patches", ("x",), sources=((9, 2),), width=3, kernel=3)
    assert two.meaning(np.arange(18).reshape(9, 2)).tolist() == [
        [0, 0, 0, 1, 2, 3, 0, 0, 6, 7, 8, 9, 0, 0, 12, 13, 14, 15],
        list(range(18)),
        [2, 3, 4, 5, 0, 0, 8, 9, 10, 11, 0, 0, 14, 15, 16, 17, 0, 0],
    ]


def test_depthwise_with_a_stride_takes_every_second_result() -> None:
    x, filters = np.random.default_rng(0).standard_normal((25, 3)), np.random.default_rng(1).standard_normal((3, 3, 3))
    shapes = ((25, 3), (3, 3, 3), (3,))
    dense = Depthwise("a", "depthwise", (), sources=shapes, side=5).meaning(x, filters, np.ones(3))
    found = Depthwise("b", "depthwise", (), sources=shapes, side=5, stride=2)
    assert found.shape == (9, 3)
    np.testing.assert_allclose(found.meaning(x, filters, np.ones(3)), dense.reshape(5, 5, 3)[::2, ::2].reshape(9, 3))
    assert found.macs() == 9 * 27


@pytest.mark.parametrize(("quarter", "want"), [(64, 64), (308, 312), (3, 8), (12, 16), (11, 8)])
def test_squeezed_widths_are_multiples_of_eight(quarter: int, want: int) -> None:
    assert parts.squeezed(4 * quarter) == want


def test_strips_and_groups() -> None:
    assert parts.strips(side=10, channels=1, words=3 * 90) == [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert parts.strips(side=2, channels=100, words=1) == [(0, 1), (1, 2)]
    assert [parts.groups(14, 64, words) for words in (10**6, 50_175, 16_384, 1)] == [1, 2, 4, 256]


# ---------------------------------------------------------------------------------------------------------- wrong input

BAD = [
    ("image=200", "image must be a multiple of 16, as the stem halves it four times, not 200"),
    ("model.depths=[1,2]", "model: depths must have a number for each of the 3 widths, not 2"),
    (
        "model.widths=[60,128,192]",
        "model: widths must begin with a multiple of 8, as the stem begins with an eighth, not 60",
    ),
    ("model.heads=[3,4,4]", "model: widths must be multiples of heads, not 64 of 3"),
    ("model.kernels=[4]", "model: kernels must be odd, not [4]"),
    ("model.kernels=null", "model must have kernels for family efficientvit"),
    ("model.attended=[0,48,68]", "model must leave out attended for family efficientvit"),
    ("family=mobilenet", "family: must be one of efficientvit, shvit, not 'mobilenet'"),
]


@pytest.mark.parametrize(("option", "message"), BAD)
def test_wrong_sizes_are_refused(option: str, message: str) -> None:
    path, value = option.split("=", 1)
    with pytest.raises(ConfigError) as error:
        load_workload("efficientvit_m0", ((path, value),))
    text = re.sub(r"^(--set workload\.\S+|\S+efficientvit_m0\.yaml(:\d+)*): ", "", str(error.value))
    assert text.startswith(message), str(error.value)


def test_an_image_of_another_shape_is_none() -> None:
    with pytest.raises(WorkloadError, match=r"^a vision network must have an image of 3 colours"):
        EFFICIENT.check(EFFICIENT.case(64).model_copy(update={"d_head": 4}))
    with pytest.raises(WorkloadError, match=r"^a vision network must have an image of 3 colours"):
        EFFICIENT.check(EFFICIENT.case(40))
