"""Decoders on streaming machines on numbers: what runs passes, and programs that were broken on purpose do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pimsim.config import load_arch, load_workload
from pimsim.functional.streaming.decoder_judge import visible
from pimsim.functional.streaming.fixed import Formats, GeluForm, gelu_formula
from pimsim.functional.streaming.judge import gelu_error
from pimsim.program.dataflow import Call
from pimsim.program.works import Linear, Load, Norm, Product, QueryKey, Residual, Rotate, SoftmaxPass, WeightedValues
from pimsim.run import simulate
from pimsim.runners.fpga_decoder_check import DecoderCheck
from pimsim.workload.reference import gelu_erf, gelu_tanh

SMALL = {
    "model.layers": 2, "model.d_model": 64, "model.heads": 4, "model.d_ff": 128, "model.vocabulary": 97, "model.context": 64,
    "prompt_tokens": 7, "generate_tokens": 3, "prefill": "matrix", "prefill_tokens": 5, "lm_head": True,
}  # fmt: skip
"""Passes of 5 and 2 tokens of the prompt, then of one each."""


def check(passes: int = 20, model: str = "gpt2_decode", **fields: Any) -> dict[str, Any]:
    given = {f"workload.{name}": value for name, value in SMALL.items()} | {"arch.fpga.resources": None}
    given |= {key.replace("__", "."): value for key, value in fields.items()}
    found = simulate("fpga_stream_u280", model, overrides=given, check_tokens=passes).functional
    assert found is not None
    return found


FORMS: dict[str, tuple[int, dict[str, Any]]] = {
    "as shipped": (4, {}),
    "embeddings": (4, {"workload__embeddings": True}),
    "token by token": (9, {"workload__prefill": "token_by_token"}),
    "a prompt in one": (3, {"workload__prefill_tokens": 7}),
    "a batch": (6, {"workload__batch": 2}),
    "a batch, token by token, embeddings": (
        4,
        {
            "workload__batch": 3, "workload__prefill": "token_by_token", "workload__embeddings": True,
            "workload__prompt_tokens": 2,
        },
    ),
    "two lanes": (4, {"arch__fpga__attention__parallelism": 2}),
    "one lane": (4, {"arch__fpga__attention__parallelism": 1}),
    "naive": (4, {"arch__fpga__attention__schedule": "naive"}),
    "naive, three keys at once, a batch": (
        6, {"arch__fpga__attention__schedule": "naive", "arch__fpga__attention__parallelism": 3, "workload__batch": 2},
    ),
    "three passes": (4, {"arch__fpga__attention__softmax": "three_pass", "arch__fpga__attention__parallelism": 3}),
    "naive, three passes": (
        4,
        {
            "arch__fpga__attention__softmax": "three_pass", "arch__fpga__attention__schedule": "naive",
            "arch__fpga__attention__parallelism": 2,
        },
    ),
    "GELU from its formula, separate units, weights when needed": (
        4,
        {
            "arch__fpga__encoder__gelu": "direct", "arch__fpga__encoder__linear_units": "separate",
            "arch__fpga__encoder__weight_prefetch": "none",
        },
    ),
    "GELU in its erf form": (4, {"workload__model__activation": "gelu_erf"}),
    "no biases, no positions": (
        4, {"workload__model__biases": [], "workload__model__position": "none", "workload__embeddings": True},
    ),
    "a head of its own, with a bias": (
        4, {"workload__model__tied_embeddings": False, "workload__model__biases": ["attention", "lm_head"]},
    ),
    "matrices in pieces": (4, {"arch__fpga__encoder__buffer_weights": 2048}),
    "weights through three ports": (4, {"arch__fpga__encoder__weight_ports": ["hbm12", "hbm13", "hbm14"]}),
    "heads whose scale is no power of two": (4, {"workload__model__d_head": 24, "workload__model__heads": 2}),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_what_runs_passes(form: str) -> None:
    passes, fields = FORMS[form]
    functional = check(**fields)
    assert functional["message"] is None
    assert functional["passes"] == passes
    assert 0 < functional["max_rel_error"] <= functional["tolerance"] < 0.04
    assert all(row["used"] <= 1 for row in functional["by_op"].values())
    assert {"scores", "statistics", "attention", "linear", "layernorm", "residual"} <= functional["by_op"].keys()


LLAMA = {"workload__model__kv_heads": 2}
LLAMA_FORMS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "shared heads": ("smollm2_135m_decode", 4, LLAMA),
    "naive, a batch": (
        "smollm2_135m_decode", 6, LLAMA | {"arch__fpga__attention__schedule": "naive", "workload__batch": 2},
    ),
    "one head of keys, three passes, neighbours rotated": (
        "smollm2_135m_decode",
        4,
        {
            "workload__model__kv_heads": 1, "workload__model__rope_convention": "interleaved",
            "arch__fpga__attention__softmax": "three_pass", "arch__fpga__attention__parallelism": 3,
        },
    ),
    "biases of queries, keys and values": ("qwen2_500m_decode", 4, LLAMA),
    "gated by GELU, no shared heads": (
        "smollm2_135m_decode", 4, {"workload__model__kv_heads": 4, "workload__model__activation": "gelu_tanh"},
    ),
    "SiLU from its formula": ("smollm2_135m_decode", 4, LLAMA | {"arch__fpga__encoder__gelu": "direct"}),
}  # fmt: skip


@pytest.mark.parametrize("form", LLAMA_FORMS)
def test_the_llama_family_passes(form: str) -> None:
    model, passes, fields = LLAMA_FORMS[form]
    functional = check(model=model, **fields)
    assert functional["message"] is None
    assert functional["passes"] == passes
    assert 0 < functional["max_rel_error"] <= functional["tolerance"] < 0.02
    assert all(row["used"] <= 1 for row in functional["by_op"].values())
    assert {"rmsnorm", "rope", "gate", "embedding"} <= functional["by_op"].keys()


def test_only_the_passes_that_are_asked_for_are_compared() -> None:
    assert check(1)["passes"] == 1


@pytest.mark.parametrize("form", ["erf", "tanh"])
def test_a_table_of_each_form_of_gelu_is_within_its_bound(form: GeluForm) -> None:
    formats = Formats.of(load_arch("fpga_stream_u280").value.fpga.formats, form)
    spec = formats.features
    x = np.arange(-8 * 2**22, 8 * 2**22, 1237, dtype=np.int64)
    exact = (gelu_tanh if form == "tanh" else gelu_erf)(x * spec.step)
    bound = gelu_error(formats.gelu, spec)
    assert np.abs(formats.gelu.apply(x, spec) * spec.step - exact).max() < bound
    assert np.abs(gelu_formula(x[::50], spec, form) * spec.step - exact[::50]).max() <= spec.step
    other = (gelu_erf if form == "tanh" else gelu_tanh)(x * spec.step)
    assert np.abs(other - exact).max() > 2 * bound  # the forms are told apart


def test_a_row_sees_keys_up_to_its_own() -> None:
    assert visible(2, 1).tolist() == [[True, True, False], [True, True, True]]


# ------------------------------------------------------------------------------------------------------------ programs

Break = Callable[[list[Call], int], None]
"""Change calls in place; the pass begins with the given one."""


class Broken(DecoderCheck):
    """A check whose program is changed in one pass."""

    how: Break
    at: int

    def change(self, number: int, first: int) -> None:
        if number == self.at:
            self.how(self.program.calls, first)


def broken(how: Break, number: int, *machine: tuple[str, str], model: str = "gpt2_decode", **changes: Any) -> Broken:
    texts = [(name, json.dumps(value)) for name, value in (SMALL | changes).items()]
    work = load_workload(model, texts).value
    found = Broken(load_arch("fpga_stream_u280", machine).value.fpga, "fpga_stream_u280", work, 20)
    found.how, found.at = how, number
    return found


def nth(kind: type, change: Callable[[Call], Call], name: str = "", number: int = 0) -> Break:
    """Change the call with such work, of an operation where one is named."""

    def how(calls: list[Call], first: int) -> None:
        fitting = [n for n in range(first, len(calls)) if isinstance(calls[n].work, kind) and name in {"", calls[n].op}]
        before = calls[fitting[number]]
        calls[fitting[number]] = change(before)
        assert (calls[fitting[number]].work, calls[fitting[number]].region) != (before.work, before.region)

    return how


def moved(stream: str, beats: int) -> Callable[[Call], Call]:
    return lambda call: replace(
        call, work=replace(call.work, at={**call.work.at, stream: call.work.at[stream] + beats})
    )


def with_work(**fields: Any) -> Callable[[Call], Call]:
    return lambda call: replace(call, work=replace(call.work, **fields))


MUTATIONS: dict[str, tuple[int, Break, str]] = {
    "weights from the next row": (0, nth(Load, moved("read", 4), "qkv_projection_weights"), "h0.query (linear)"),
    "the other buffer": (2, nth(Linear, with_work(weights="pong"), "qkv_projection"), "h0.query (linear)"),
    "biases from the next beat": (0, nth(Load, moved("read", 1), "output_projection_weights", 1), "h0.projection (linear)"),
    "no GELU": (2, nth(Linear, with_work(gelu=False), "ffn_up"), "h0.ffn_up (linear)"),
    "a key over the one before": (2, nth(Linear, moved("write_output", -8), "qkv_projection", 1), "h0.key (linear)"),
    "a value behind its place": (2, nth(Linear, moved("write_output", 8), "qkv_projection", 2), "h0.value (linear)"),
    "one key late": (3, nth(QueryKey, moved("read_key", 8)), "h0.scores (scores)"),
    "keys of the values": (1, nth(QueryKey, moved("read_key", 72)), "h0.scores (scores)"),
    "keys for values": (2, nth(WeightedValues, moved("read_value", -72)), "h0.attended (attention)"),
    "no mask": (0, nth(QueryKey, with_work(before=-1)), "h0.statistics (statistics)"),
    "a mask one token late": (1, nth(QueryKey, with_work(before=6)), "layer 0, query x key: product must make 9 steps"),
    "values seen behind the mask": (0, nth(WeightedValues, with_work(before=-1)), "h0.attended (attention)"),
    "statistics of the next row": (0, nth(WeightedValues, moved("read_statistics", 1)), "h0.attended (attention)"),
    "scores one beat on": (2, nth(WeightedValues, moved("read_scores", -1)), "h0.attended (attention)"),
    "gain and shift of the other norm": (1, nth(Load, moved("read", 8), "layernorm_weights"), "h0.norm1 (layernorm)"),
    "a residual of the wrong token": (1, nth(Residual, moved("read_one", 8)), "h0.residual1 (residual)"),
    "rows of the wrong width": (0, nth(Norm, with_work(width=32)), "layer 0, norm: moments must put 5 tokens into ready, not 10"),
    "logits of the token before": (1, nth(Norm, moved("read", -8), "layernorm", 4), "final_norm (layernorm)"),
}  # fmt: skip
"""Pass, what is broken there, and what the check names."""


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_program_is_caught(name: str) -> None:
    number, how, message = MUTATIONS[name]
    functional = broken(how, number).run()
    assert not functional["passed"]
    assert functional["message"].startswith(f"pass {number}: {message}"), functional["message"]


LLAMA_MUTATIONS: dict[str, tuple[int, Break, str]] = {
    "a LayerNorm": (0, nth(Norm, with_work(rms=False)), "layer 0, norm: norms must hold"),
    "angles of the next position": (0, nth(Rotate, moved("read_angles", 2)), "h0.turned_query (rope)"),
    "the other convention": (1, nth(Rotate, with_work(interleaved=True)), "h0.turned_query (rope)"),
    "a key is not turned": (2, nth(Rotate, moved("read", -16), number=1), "h0.turned_key (rope)"),
    "every head has keys of its own": (0, nth(QueryKey, with_work(shared=1)), "h0.scores (scores)"),
    "values of the first head": (1, nth(WeightedValues, with_work(shared=4)), "h0.attended (attention)"),
    "the gate alone": (0, nth(Product, moved("read_other", 16)), "h0.gated (gate)"),
    "no nonlinearity": (0, nth(Linear, with_work(gelu=False), "ffn_up"), "h0.ffn_gate (linear)"),
}  # fmt: skip


@pytest.mark.parametrize("name", LLAMA_MUTATIONS)
def test_a_broken_program_of_the_llama_family_is_caught(name: str) -> None:
    number, how, message = LLAMA_MUTATIONS[name]
    functional = broken(how, number, model="smollm2_135m_decode", **{"model.kv_heads": 2}).run()
    assert not functional["passed"]
    assert functional["message"].startswith(f"pass {number}: {message}"), functional["message"]


@pytest.mark.parametrize("which", ["maximum", "sum"])
def test_a_pass_of_the_softmax_that_sees_too_much_is_caught(which: str) -> None:
    def how(calls: list[Call], first: int) -> None:
        at = next(n for n in range(first, len(calls)) if getattr(calls[n].work, "which", "") == which)
        assert isinstance(calls[at].work, SoftmaxPass)
        calls[at] = replace(calls[at], work=replace(calls[at].work, before=-1))

    functional = broken(how, 0, ("fpga.attention.softmax", "three_pass")).run()
    assert functional["message"].startswith("pass 0: h0.statistics (statistics)"), functional["message"]


def test_a_layer_that_does_not_wait_for_its_weights_is_caught() -> None:
    def how(calls: list[Call], first: int) -> None:
        at = next(n for n in range(first, len(calls)) if calls[n].op == "ffn_up")
        loaded = max(calls[at].after)
        assert calls[loaded].op == "ffn_up_weights"
        calls[at] = replace(calls[at], after=tuple(other for other in calls[at].after if other != loaded))

    message = broken(how, 2).run()["message"]
    assert message.startswith("layer 0, linear (call "), message
    assert ", as both use " in message


def test_a_share_of_the_weights_that_nobody_waits_for_is_caught() -> None:
    def how(calls: list[Call], first: int) -> None:
        at = next(n for n in range(first, len(calls)) if calls[n].name == "load biases")
        assert len(calls[at].after) == 2
        calls[at] = replace(calls[at], after=calls[at].after[:1])

    found = broken(how, 0, ("fpga.encoder.weight_ports", '["hbm12", "hbm13"]'))
    message = found.run()["message"]
    assert "must wait for load weights" in message, message
    assert "as both use ping.1" in message, message


def test_a_sequence_that_reads_the_cache_of_another_is_caught() -> None:
    def how(calls: list[Call], first: int) -> None:
        scores = [n for n in range(first, len(calls)) if isinstance(calls[n].work, QueryKey)][:2]
        one, other = (calls[n].work.at["read_key"] for n in scores)
        assert one != other
        calls[scores[1]] = replace(
            calls[scores[1]], work=replace(calls[scores[1]].work, at={**calls[scores[1]].work.at, "read_key": one})
        )

    message = broken(how, 4, batch=2).run()["message"]
    assert message.startswith("pass 4: h0.sequence1.scores (scores) must be what"), message


def test_a_cache_that_is_overwritten_later_is_caught() -> None:
    """What the program wrote is what later passes must have read."""
    found = broken(lambda _calls, _first: None, number=0)
    run, numbers = found.extend, found.numbers

    def extend(number: int) -> None:
        if number == 3:
            key = found.decoder._caches[0][0]
            numbers.executor.memory[key] = np.roll(numbers.executor.memory[key], 4)
        run(number)

    found.extend = extend  # type: ignore[method-assign]
    assert found.run()["message"].startswith("pass 3: h0.scores (scores) must be what the reference computes")
