"""Baselines that hold figures, the measuring of this machine, and its energy counters."""

from __future__ import annotations

import json
from pathlib import Path

import builders
import numpy as np
import pytest
import yaml
from cli_tools import pimsim

from pimsim.analysis.baselines import (
    BASELINE_KINDS,
    Figure,
    FigureTable,
    Roofline,
    RooflineOverhead,
    compare,
    load_baseline,
)
from pimsim.analysis.measure import _Decoder, measure, numpy_stack
from pimsim.analysis.rapl import Rapl
from pimsim.catalog import names
from pimsim.errors import ConfigError, InputError
from pimsim.model import TRUST_WORDS

TINY = ["workload.model.layers=1", "workload.model.d_model=64", "workload.model.heads=4", "workload.model.d_ff=96"]


def table(*figures: dict[str, object]) -> FigureTable:
    common = {"model": "m", "layers": 12, "d_model": 768, "source": "code: by hand", "date": "2026"}
    return FigureTable(
        kind="measured",
        name="hand",
        device="D",
        stack="S",
        precision="float32",
        figures=[Figure.model_validate({**common, **figure}) for figure in figures],
    )


def test_time_between_contexts_is_a_line() -> None:
    work = builders.workload(generate_tokens=4)  # contexts 1, 2, 3, 4
    given = table({"context": 1, "ms": 1.0, "joules": 1.0}, {"context": 3, "ms": 2.0, "joules": 3.0})
    assert given.seconds(work) == pytest.approx((1.0 + 1.5 + 2.0 + 2.0) * 1e-3)
    assert given.joules(work) == pytest.approx(1.0 + 2.0 + 3.0 + 3.0)


def test_a_prompt_takes_the_figure_of_its_length() -> None:
    work = builders.workload(prompt_tokens=10, generate_tokens=3)
    single = {"context": 11, "ms": 2.0}
    assert table(single).seconds(work) == pytest.approx(6e-3)
    assert table(single, {"context": 10, "tokens": 10, "ms": 7.0}).seconds(work) == pytest.approx(11e-3)
    assert table(single, {"context": 10, "tokens": 9, "ms": 7.0}).seconds(work) == pytest.approx(6e-3)


def test_other_batches_do_not_count() -> None:
    work = builders.workload(generate_tokens=1)
    assert table({"context": 1, "ms": 2.0}, {"context": 1, "ms": 9.0, "batch": 8}).seconds(work) == pytest.approx(2e-3)


def test_unknown_energy_stays_unknown() -> None:
    work = builders.workload(generate_tokens=2)
    beside = compare(table({"context": 1, "ms": 1.0, "joules": 1.0}, {"context": 2, "ms": 1.0}), work, 1e-3, 1.0)
    assert (beside.joules, beside.energy_ratio) == (None, None)
    assert beside.speedup == pytest.approx(2.0)
    assert (beside.kind, beside.device, beside.stack) == ("measured", "D", "S")
    assert beside.source == "D, S; measured at context 1, 2 (code: by hand, 2026)"


def test_another_model_is_refused() -> None:
    message = r"^baseline hand: must have a figure for 24 layers of width 1024; it has m \(12 x 768\)$"
    with pytest.raises(InputError, match=message):
        table({"context": 1, "ms": 1.0}).seconds(builders.workload(layers=24, d_model=1024, d_ff=4096))


def test_every_kind_is_shipped_and_says_where_it_comes_from() -> None:
    shipped = [load_baseline(name) for name in names("baseline")]
    assert {each.kind for each in shipped} == set(BASELINE_KINDS)
    for each in shipped:
        if isinstance(each, FigureTable):
            assert each.sources == {}
            for figure in each.figures:
                assert figure.source.split(":")[0] in TRUST_WORDS
                assert figure.date
                assert figure.ms_to is None or figure.ms_to > figure.ms


@pytest.mark.parametrize("card", ["t4", "a100"])
def test_the_roofline_is_a_lower_bound(card: str) -> None:
    bound, model = load_baseline(f"{card}_roofline"), load_baseline(card)
    assert type(bound) is Roofline
    assert isinstance(model, RooflineOverhead)
    for shape in ({}, {"layers": 48, "d_model": 1600, "d_ff": 6400}):
        work = builders.workload(**shape)
        assert bound.seconds(work) < model.seconds(work)


def test_the_roofline_agrees_with_another_tool() -> None:
    """GenZ, GPT-2 small at context 1,024 on an A100-40: 0.166 ms; it is not known whether the head is in it."""
    bound = load_baseline("a100_roofline")
    assert isinstance(bound, Roofline)
    without, whole = (bound.pass_seconds(builders.workload(lm_head=head), 1024) for head in (False, True))
    assert without < 0.166e-3 < whole


def test_kernels_lie_between_the_roofline_and_the_framework() -> None:
    work = builders.workload()
    seconds = [load_baseline(name).seconds(work) for name in ("a100_roofline", "a100_kernels", "a100")]
    assert seconds == sorted(seconds)


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    path.write_text("kind: mesured\nname: b\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"must be one of roofline, .*, not 'mesured'; did you mean 'measured'\?"):
        load_baseline(str(path))


# Measuring


@pytest.mark.parametrize(("tokens", "context"), [(1, 7), (5, 5), (3, 9)])
def test_the_pass_computes_a_decoder(tokens: int, context: int) -> None:
    """Against a decoder written with loops in float64."""
    work = builders.workload(layers=2, d_model=32, d_ff=48)
    decoder = _Decoder(work, 4, context, numpy_stack())
    inputs: list[np.ndarray] = []
    matrix = decoder._matrix
    decoder._matrix = lambda *shape: inputs.append(matrix(*shape)) or inputs[-1]
    caches = [(keys.copy(), values.copy()) for keys, values in decoder._caches]
    got = decoder.run(tokens, context)

    def norm(v: np.ndarray) -> np.ndarray:
        return (v - v.mean()) / np.sqrt(v.var() + 1e-5)

    x = inputs[0].astype(float)
    for (attention, projection, up, down), (keys, values) in zip(decoder._blocks, caches, strict=True):
        for row in range(tokens):
            mixed = norm(x[row]) @ attention
            keys[:, context - tokens + row] = mixed[32:64].reshape(4, 8)
            values[:, context - tokens + row] = mixed[64:].reshape(4, 8)
        rows = []
        for row in range(tokens):
            query = (norm(x[row]) @ attention)[:32].reshape(4, 8)
            upto = context - tokens + row + 1
            seen = []
            for head in range(4):
                scores = keys[head, :upto] @ query[head] / np.sqrt(8)
                shares = np.exp(scores) / np.exp(scores).sum()
                seen.append(shares @ values[head, :upto])
            y = x[row] + np.concatenate(seen) @ projection
            h = norm(y) @ up
            rows.append(y + (0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))) @ down)
        x = np.array(rows)
    np.testing.assert_allclose(got, x, rtol=2e-3, atol=2e-5)


def test_measured_contexts_cover_the_generation() -> None:
    work = builders.workload(layers=1, d_model=48, d_ff=64, prompt_tokens=6, generate_tokens=9, lm_head=True)
    given = measure(work, work.model, "mine", "m", repeats=1, rapl=Rapl(Path("/nonexistent")))
    assert [(f.tokens, f.context) for f in given.figures] == [(1, 7), (1, 10), (1, 14), (6, 6)]
    assert given.seconds(work) > 0
    assert given.joules(work) is None


def test_torch_is_measured_if_it_is_there() -> None:
    pytest.importorskip("torch")
    work = builders.workload(layers=1, d_model=48, d_ff=64, prompt_tokens=3, generate_tokens=2, lm_head=True)
    assert measure(work, work.model, "mine", "m", stack="torch", repeats=1).stack.startswith("eager PyTorch ")


def test_a_measured_file_is_a_baseline(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    small = [word for option in (*TINY, "workload.generate_tokens=2") for word in ("--set", option)]
    made = pimsim("baseline", "measure", "--workload", "gpt2_decode", *small, "--repeats", "1", "--out", str(path))
    assert made.exit_code == 0, made.stderr
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    run = pimsim(
        "run", "--arch", "pim_gpt", "--workload", "gpt2_decode", *small, "--baseline", str(path), "--format", "json"
    )
    beside = json.loads(run.stdout)["baselines"][str(path)]
    assert beside["kind"] == "measured"
    assert beside["seconds"] == pytest.approx(sum(figure["ms"] for figure in data["figures"]) * 1e-3)
    assert (beside["joules"] is None) == any(figure["joules"] is None for figure in data["figures"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stack", "jax"], "error: stack must be one of numpy, torch, not 'jax'"),
        (["--set", "workload.model.gated=true"], "error: workload.model.gated must be False to be measured, not True"),
        (["--set", "workload.model.d_ff=9999999"], "error: --workload must fit into "),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = pimsim("baseline", "measure", "--workload", "gpt2_decode", "--out", str(tmp_path / "b"), *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(message)
    assert not (tmp_path / "b").exists()


# RAPL


def zone(root: Path, number: str, name: str, counter: int | str) -> None:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir()
    for file, text in (("name", name), ("energy_uj", counter), ("max_energy_range_uj", 1000)):
        (folder / file).write_text(f"{text}\n", encoding="ascii")


def test_packages_are_summed_and_wraps_are_seen(tmp_path: Path) -> None:
    zone(tmp_path, "0", "package-0", 990)
    zone(tmp_path, "0:0", "core", 5)  # part of package-0
    zone(tmp_path, "1", "package-1", 100)
    rapl = Rapl(tmp_path)
    before = rapl.read()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("20\n", encoding="ascii")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("150\n", encoding="ascii")
    assert rapl.joules(before, rapl.read()) == pytest.approx((30 + 50) * 1e-6)


def test_a_counter_that_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    zone(tmp_path, "0", "package-0", 990)
    zone(tmp_path, "1", "package-1", "")
    assert Rapl(tmp_path).read() is None
    assert Rapl(tmp_path / "none").read() is None
    assert Rapl(tmp_path).joules(None, [1, 2]) is None


def test_torch_computes_what_numpy_does() -> None:
    """The pass of one stack against that of the other, on the same weights: a prompt, then a token."""
    pytest.importorskip(
        "torch", reason="--stack torch is timed where torch is installed, which is too large to require"
    )
    from pimsim.analysis.measure import torch_stack

    work = builders.workload(layers=2, d_model=64, d_ff=96, heads=4, prompt_tokens=5, generate_tokens=2)
    ours, theirs = _Decoder(work, 4, 6, numpy_stack()), _Decoder(work, 4, 6, torch_stack())
    for tokens, context in ((5, 5), (1, 6)):
        assert np.allclose(ours.run(tokens, context), theirs.run(tokens, context).numpy(), atol=1e-4)
