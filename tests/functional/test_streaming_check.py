"""Streaming programs on numbers: what runs passes, and programs that were broken on purpose do not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pimsim.config import load_arch, load_workload
from pimsim.errors import CapacityExceeded, ConfigError, WorkloadError
from pimsim.functional.streaming.stages import HANDLERS
from pimsim.mapper.fpga.decoder import DecoderProgram
from pimsim.program.dataflow import Burst, Call, Loop, Run, Stage
from pimsim.program.works import (
    Gate,
    Linear,
    Load,
    Norm,
    PatchRow,
    QueryKey,
    Residual,
    SideBySide,
    SoftmaxPass,
    WeightedValues,
)
from pimsim.result import Result
from pimsim.run import simulate
from pimsim.runners.fpga_check import EncoderNumbers
from pimsim.runners.fpga_decoder import whole_program

SMALL = {
    "image.height": 32, "image.width": 64, "layers": 2, "d_model": 64, "heads": 2, "d_ff": 128, "moe.experts": 4,
    "moe.d_expert": 32, "moe.routing": None,
}  # fmt: skip
"""Two layers of 9 tokens; 4 experts in the second one."""


def overrides(values: dict[str, Any]) -> dict[str, Any]:
    return {f"workload.{name}": value for name, value in values.items()}


def run(workload: str = "m3vit_cityscapes", small: dict[str, Any] | None = None, **fields: Any) -> Result:
    given = overrides(SMALL if small is None else small) | {k.replace("__", "."): v for k, v in fields.items()}
    return simulate("edge_moe_zcu102", workload, overrides=given, check_tokens=1)


FORMS: dict[str, dict[str, Any]] = {
    "as published": {},
    "one lane": {"arch__fpga__attention__parallelism": 1},
    "as many lanes as tokens": {"arch__fpga__attention__parallelism": 9, "workload__heads": 1},
    "lanes that do not divide the tokens": {"arch__fpga__attention__parallelism": 5},
    "a head for each beat, padded to sixteen": {"workload__heads": 8, "workload__d_model": 64},
    "heads whose scale is no power of two": {"workload__heads": 3, "workload__d_model": 144},
    "one token after the other": {"arch__fpga__encoder__order": "token_by_token"},
    "nothing overlaps": {"arch__fpga__encoder__weight_prefetch": "none"},
    "routing by gates": {"workload__moe__routing": "gates"},
    "routing is given": {"workload__moe__routing": [9, 0, 7, 2]},
    "one expert for each token": {"workload__moe__top_k": 1},
    "a norm and a classifier at the end": {"workload__final_norm": True, "workload__classes": 10},
    "matrices in pieces": {"arch__fpga__encoder__buffer_weights": 2048},
    "no class token": {"workload__image__class_token": False, "workload__moe": None},
    "norms behind the sums": {"workload__norm": "post"},
    "GELU from its formula, a linear unit for each use": {
        "arch__fpga__encoder__gelu": "direct", "arch__fpga__encoder__linear_units": "separate", "arch__fpga__resources": None,
    },
    "a softmax in three passes": {
        "arch__fpga__attention__softmax": "three_pass", "arch__fpga__attention__parallelism": 5, "arch__fpga__resources": None,
    },
    "the naive schedule": {"arch__fpga__attention__schedule": "naive"},
    "the naive schedule, one lane": {"arch__fpga__attention__schedule": "naive", "arch__fpga__attention__parallelism": 1},
    "the naive schedule, three passes, lanes that do not divide the tokens, matrices in pieces": {
        "arch__fpga__attention__schedule": "naive", "arch__fpga__attention__softmax": "three_pass",
        "arch__fpga__attention__parallelism": 5, "arch__fpga__resources": None, "arch__fpga__encoder__buffer_weights": 2048,
    },
    "the naive schedule, all keys at once": {
        "arch__fpga__attention__schedule": "naive", "arch__fpga__attention__parallelism": 9, "workload__heads": 1,
    },
    "formats that round and saturate": {
        "arch__fpga__formats__features": "fixed32_10", "arch__fpga__formats__accumulator": "fixed32_10",
        "arch__fpga__formats__linear_weights": "fixed16_2",
    },
    "fewer bits in features": {
        "arch__fpga__formats__features": "fixed24_10_wrap", "arch__fpga__formats__accumulator": "fixed28_10_wrap",
        "arch__fpga__formats__softmax": "fixed28_10_wrap",
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_what_runs_passes(form: str) -> None:
    functional = run(**FORMS[form]).functional
    assert functional is not None
    assert functional["message"] is None
    assert functional["passed"]
    assert 0 < functional["max_rel_error"] <= functional["tolerance"] < 0.2
    assert all(row["used"] <= 1 for row in functional["by_op"].values())


@pytest.mark.parametrize("schedule", ["reordered", "naive"])
@pytest.mark.parametrize("softmax", ["single_pass", "three_pass"])
@pytest.mark.parametrize(
    ("tokens", "heads", "d_head", "lanes"), [(9, 3, 16, 4), (12, 1, 64, 5), (5, 12, 32, 5), (7, 5, 8, 1), (6, 2, 24, 2)]
)
def test_attention_by_itself(tokens: int, heads: int, d_head: int, lanes: int, softmax: str, schedule: str) -> None:
    small = {"tokens": tokens, "heads": heads, "d_head": d_head}
    unit = {"arch__fpga__attention__parallelism": lanes, "arch__fpga__attention__softmax": softmax}
    functional = run(f"attention_{schedule}", small, arch__fpga__resources=None, **unit).functional
    assert functional is not None
    assert (functional["message"], functional["compared"]) == (None, 3)


@pytest.mark.parametrize(
    ("schedule", "softmax", "cycles"),
    [
        ("reordered", "single_pass", (3034, 10121)),
        ("reordered", "three_pass", (13011, 104751)),
        ("naive", "single_pass", (8215, 58049)),
        ("naive", "three_pass", (15848, 138737)),
    ],
)
def test_numbers_cost_no_cycles(schedule: str, softmax: str, cycles: tuple[int, int]) -> None:
    """Cycles as they were before the naive schedule had numbers."""
    sizes = ({"tokens": 9, "heads": 3}, 4), ({"tokens": 30, "heads": 2}, 7)
    for (small, lanes), wanted in zip(sizes, cycles, strict=True):
        unit = {"arch__fpga__attention__parallelism": lanes, "arch__fpga__attention__softmax": softmax}
        assert run(f"attention_{schedule}", small, arch__fpga__resources=None, **unit).time.cycles == wanted


def test_formats_matter() -> None:
    fine, coarse = (
        run(arch__fpga__formats__features=name, arch__fpga__formats__accumulator=name).functional
        for name in ("fixed32_10_wrap", "fixed20_10_wrap")
    )
    assert fine is not None
    assert coarse is not None
    assert coarse["mean_abs_error"] > 3 * fine["mean_abs_error"]
    assert coarse["passed"]


def test_the_seed_makes_the_numbers() -> None:
    one, same, other = (run(workload__seed=seed, workload__moe=None).functional for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_overflow_is_found_and_named() -> None:
    functional = run(
        arch__fpga__formats__features="fixed32_3_wrap", arch__fpga__formats__accumulator="fixed32_3_wrap"
    ).functional
    assert functional is not None
    assert not functional["passed"]
    assert " must be what the reference computes: " in functional["message"]


def test_weights_beyond_their_format_are_refused() -> None:
    with pytest.raises(
        WorkloadError,
        match=r"^h0\.query\.weights must be within -0\.5 and 0\.4999.*, the range of fpga\.formats\.linear_weights",
    ):
        run(arch__fpga__formats__linear_weights="fixed16_0_wrap", workload__d_model=16, workload__heads=1)


# ------------------------------------------------------------------------------------------------------------ programs


def numbers(*machine: tuple[str, str], **changes: Any) -> EncoderNumbers:
    texts = [(name, json.dumps(value)) for name, value in (SMALL | changes).items()]
    work = load_workload("m3vit_cityscapes", texts).value
    return EncoderNumbers(load_arch("edge_moe_zcu102", machine).value.fpga, "edge_moe_zcu102", work)


def test_every_stage_of_a_program_has_numbers() -> None:
    plain = ("fpga.encoder.gelu", "direct"), ("fpga.attention.softmax", "three_pass")
    programs = [numbers(classes=10, final_norm=True).program, numbers(*plain).program]
    sizes = {"model.layers": 1, "model.d_model": 192, "model.heads": 3, "model.kv_heads": 1, "model.d_ff": 64}
    decoder = load_workload("smollm2_135m_decode", [(name, str(size)) for name, size in sizes.items()]).value
    fpga = load_arch("fpga_stream_u280").value.fpga
    programs.append(whole_program(DecoderProgram(fpga, fpga.encoder, decoder), 1)[0])
    calls = [call for program in programs for call in program.calls]
    stages = {(type(call.work), stage.name) for call in calls for stage in call.region.stages}
    assert stages == set(HANDLERS)  # none is missing, and none is never used


@pytest.mark.parametrize("schedule", ["reordered", "naive"])
def test_the_program_with_numbers_is_the_one_that_is_timed(schedule: str) -> None:
    given = overrides(SMALL) | {"arch.fpga.attention.schedule": schedule}
    plain, checked = (
        simulate("edge_moe_zcu102", "m3vit_cityscapes", overrides=given, check_tokens=check) for check in (0, 1)
    )
    assert (plain.time, plain.units, plain.ops, plain.ports) == (
        checked.time,
        checked.units,
        checked.ops,
        checked.ports,
    )
    assert plain.functional is None


Change = Callable[[Call], Call]


def first(kind: type, name: str = "", number: int = 0) -> Callable[[list[Call]], int]:
    """The position of a call by its kind of work and, where given, by its operation."""
    return lambda calls: [at for at, c in enumerate(calls) if isinstance(c.work, kind) and name in {"", c.op}][number]


def moved(stream: str, beats: int) -> Change:
    def change(call: Call) -> Call:
        return replace(call, work=replace(call.work, at={**call.work.at, stream: call.work.at[stream] + beats}))

    return change


def with_work(**fields: Any) -> Change:
    return lambda call: replace(call, work=replace(call.work, **fields))


def shorter_tile(call: Call) -> Call:
    """Every output but a row's first lacks the product with the second tile of inputs, which takes as long as before."""
    gather, multiply, scatter = call.region.stages
    row = multiply.nest[0]
    assert isinstance(row, Loop)
    *start, others = row.body
    assert isinstance(others, Loop)
    less = Loop(others.count, (Run(2, others.body[0].count - 1), Run(3, 1)))  # type: ignore[union-attr]
    changed = replace(multiply, nest=(Loop(row.count, (*start, less)),))
    return replace(call, region=replace(call.region, stages=(gather, changed, scatter)))


def stream_of(read: str, bursts: tuple[Burst, ...]) -> Change:
    def change(call: Call) -> Call:
        reads = tuple(replace(r, bursts=bursts) if r.name == read else r for r in call.region.reads)
        return replace(call, region=replace(call.region, reads=reads))

    return change


def lanes_exchanged(rows: int, beats: int) -> tuple[Burst, ...]:
    """All rows for each row, four at once, the first two of them exchanged."""
    whole = [
        Burst(1, 1, 4 * beat + 32 * group + lane) for group in (0, 1) for beat in range(beats) for lane in (1, 0, 2, 3)
    ]
    return (*whole, Burst(beats, 1, 64)) * rows


MUTATIONS: dict[str, tuple[Callable[[list[Call]], int], Change, str]] = {
    "a tile is dropped": (first(Linear), shorter_tile, "h0.query (linear)"),
    "weights from the next row": (first(Load, "qkv_projection_weights"), moved("read", 4), "h0.query (linear)"),
    "biases from the next beat": (first(Load, "qkv_projection_weights", 1), moved("read", 1), "h0.query (linear)"),
    "the other buffer": (first(Linear, "qkv_projection", 1), with_work(weights="ping"), "h0.key (linear)"),
    "input from the next token": (first(Linear, "output_projection"), moved("read_input", -8), "h0.projection (linear)"),
    "no GELU": (first(Linear, "ffn_up"), with_work(gelu=False), "h0.ffn_up (linear)"),
    "biases in the wrong format": (first(Linear), with_work(attention=False), "h0.query (linear)"),
    "key for query": (first(QueryKey), lambda c: swapped(c, "read_query", "read_key"), "h0.scores (scores)"),
    "one key late": (first(QueryKey), moved("read_key", 8), "layer 0, query x key: read_key must read what was written"),
    "keys of another buffer": (first(QueryKey), moved("read_key", -72), "h0.scores (scores)"),
    "every block reads on": (
        first(QueryKey), stream_of("read_key", (Burst(72, 3, 0, -8),)), "h0.scores (scores)",
    ),
    "half the heads": (first(QueryKey), with_work(head_words=64, heads=1), "layer 0, query x key: store_scores must put 27"),
    "statistics of the next row": (first(WeightedValues), moved("read_statistics", -1), "h0.attention (attention)"),
    "keys for values": (first(WeightedValues), None, "h0.attention (attention)"),  # type: ignore[dict-item]
    "scores one beat on": (first(WeightedValues), moved("read_scores", 1), "h0.attention (attention)"),
    "gain and shift of the other norm": (first(Norm, number=1), with_work(first=0), "h0.norm2 (layernorm)"),
    "a residual of the wrong token": (first(Residual), moved("read_one", 8), "h0.residual1 (residual)"),
    "gates of other experts": (first(Gate), with_work(given=((0, 1),) * 9), "h1.expert0.up (expert_up)"),
    "weights of another expert": (first(Load, "moe_up_weights", 2), moved("read", -132), "h1.expert"),
    "a shorter queue": (first(Linear, "moe_up"), with_work(queue=3), "layer 1, expert: read_input must take no more"),
    "another expert's queue": (first(Linear, "moe_up", 3), with_work(queue=2), "h1.expert"),
    "no score": (first(Linear, "moe_down"), with_work(scored=False), "h1.moe (moe)"),
    "rows in order": (first(Linear, "moe_down"), with_work(indexed=()), "h1.moe (moe)"),
    "pixels of the next row": (first(PatchRow), moved("read_image", 1), "embedding (patch_embedding)"),
    "patches exchanged": (
        first(PatchRow), lambda c: swapped(c, "write_output0", "write_output1"), "embedding (patch_embedding)",
    ),
    "positions exchanged": (
        first(PatchRow), lambda c: swapped(c, "read_positions0", "read_positions1"), "embedding (patch_embedding)",
    ),
}  # fmt: skip
"""Which call is broken, how, and which operation the check names."""


def swapped(call: Call, one: str, other: str) -> Call:
    at = {**call.work.at, one: call.work.at[other], other: call.work.at[one]}
    return replace(call, work=replace(call.work, at=at))


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_program_is_caught(name: str) -> None:
    found = numbers()
    calls = found.program.calls
    where, change, operation = MUTATIONS[name]
    at = where(calls)
    if change is None:
        key = calls[first(QueryKey)(calls)].work.at["read_key"]
        calls[at] = replace(calls[at], work=replace(calls[at].work, at={**calls[at].work.at, "read_value": key}))
    else:
        calls[at] = change(calls[at])
    assert calls[at] != numbers().program.calls[at] or calls[at].work != numbers().program.calls[at].work
    functional = found.check()
    assert not functional["passed"], name
    assert functional["message"].startswith(operation), functional["message"]


def without_waiting(calls: list[Call], at: int, *others: int) -> None:
    calls[at] = replace(calls[at], after=tuple(other for other in calls[at].after if other not in others))


def test_an_expert_that_does_not_wait_for_its_weights_is_caught() -> None:
    found = numbers()
    at = first(Linear, "moe_up", 1)(found.program.calls)
    barrier, loaded = found.program.calls[at].after
    without_waiting(found.program.calls, at, loaded)
    message = found.check()["message"]
    assert message.startswith(f"layer 1, expert (call {at}) must wait for load biases (call {loaded}), as both use ")
    assert barrier < loaded


def test_a_fetch_into_the_buffer_that_is_in_use_is_caught() -> None:
    found = numbers()
    calls = found.program.calls
    at, buffers = first(Load, "moe_down_weights", 0)(calls), ("ping", "ping_biases")
    assert calls[at].work.buffer == "pong"
    for number, buffer in zip(
        (at, at + 1), buffers, strict=True
    ):  # the next layer's weights come while this one computes
        calls[number] = replace(calls[number], work=replace(calls[number].work, buffer=buffer))
    down = first(Linear, "moe_down")(calls)
    calls[down] = replace(calls[down], work=replace(calls[down].work, weights="ping", biases="ping_biases"))
    functional = found.check()
    assert not functional["passed"]  # in the order of the program all would be well
    assert functional["by_op"]["moe"]["used"] <= 1
    assert re.match(
        r"layer 1, load weights \(call \d+\) must wait for expert \(call \d+\), as both use ping and",
        functional["message"],
    )


def test_a_missing_call_is_caught() -> None:
    found = numbers()
    at = first(Linear, "qkv_projection", 2)(found.program.calls)
    del found.program.calls[at]
    found.program.checkpoints[:] = [
        replace(point, after=point.after - (point.after >= at)) for point in found.program.checkpoints
    ]
    message = found.check()["message"]
    assert message.startswith("h0.value (linear) must be what the reference computes")


# ------------------------------------------------------------------------------------------------------ naive schedule


def naive(softmax: str = "single_pass") -> EncoderNumbers:
    """Nine tokens, four keys at once, so that one is left over."""
    return numbers(("fpga.attention.schedule", "naive"), ("fpga.attention.softmax", softmax))


def with_stage(name: str, change: Callable[[Stage], Stage]) -> Change:
    def changed(call: Call) -> Call:
        stages = tuple(change(stage) if stage.name == name else stage for stage in call.region.stages)
        return replace(call, region=replace(call.region, stages=stages))

    return changed


def sums_a_key_early(stage: Stage) -> Stage:
    """Of the nine scores of a row, the last but one sends its statistics."""
    first, other, last = stage.actions
    assert last == replace(first, writes=(("scores", 1), ("sums", 1)))
    early = replace(other, writes=last.writes)
    row = (Run(0, 1), Run(1, 3), Run(0, 1), Run(1, 2), Run(2, 1), Run(0, 1))
    return replace(stage, actions=(first, other, early), nest=(Loop(9, row),))


KEYS = (first(Linear, "qkv_projection", 1), "h0.key (linear)")
NAIVE_MUTATIONS: dict[str, tuple[Callable[[list[Call]], int], Change, str]] = {
    "keys one after the other": (KEYS[0], with_work(written=None), KEYS[1]),
    "two side by side": (KEYS[0], with_work(written=SideBySide(9, 8, 2)), KEYS[1]),
    "keys from the second lane on": (KEYS[0], moved("write_output", 1), KEYS[1]),
    "keys from the second beat on": (KEYS[0], with_work(column=1), KEYS[1]),
    "lanes exchanged": (
        first(QueryKey), stream_of("read_key", lanes_exchanged(9, 8)), "h0.scores (scores)",
    ),
    "the next group of keys": (
        first(QueryKey), stream_of("read_key", (Burst(40, 1, 32), Burst(32), *[Burst(72)] * 8)), "h0.scores (scores)",
    ),
    "values in lanes exchanged": (
        first(WeightedValues), stream_of("read_value", lanes_exchanged(9, 8)), "h0.attention (attention)",
    ),
    "one key at once": (first(QueryKey), with_work(keys=1), "layer 0, query x key: product must take at most 1 beats of key"),
    "four rows at once": (
        first(QueryKey), with_work(lanes=4, keys=1), "layer 0, query x key: product must take at most 1 beats of key",
    ),
    "statistics a key early": (first(QueryKey), with_stage("statistics", sums_a_key_early), "h0.statistics (statistics)"),
    "one value at once": (
        first(WeightedValues), with_work(keys=1), "layer 0, weights x value: pack must send a packet for every 1 scores",
    ),
    "scores one beat on": (first(WeightedValues), moved("read_scores", 1), "h0.attention (attention)"),
    "statistics of the next row": (first(WeightedValues), moved("read_statistics", 1), "h0.attention (attention)"),
}  # fmt: skip


@pytest.mark.parametrize("name", NAIVE_MUTATIONS)
def test_a_broken_naive_schedule_is_caught(name: str) -> None:
    found = naive()
    where, change, operation = NAIVE_MUTATIONS[name]
    at = where(found.program.calls)
    before = found.program.calls[at]
    found.program.calls[at] = change(before)
    assert (found.program.calls[at].region, found.program.calls[at].work) != (before.region, before.work)
    functional = found.check()
    assert not functional["passed"], name
    assert functional["message"].startswith(operation), functional["message"]


@pytest.mark.parametrize("which", ["maximum", "sum", "divide"])
def test_a_naive_pass_of_the_softmax_over_the_wrong_scores_is_caught(which: str) -> None:
    found = naive("three_pass")
    at = next(n for n, c in enumerate(found.program.calls) if isinstance(c.work, SoftmaxPass) and c.work.which == which)
    found.program.calls[at] = moved("read_scores", -1)(found.program.calls[at])
    assert not found.check()["passed"]


OUT_OF_PLACE = {
    "a row too short": (stream_of("read_input", (Burst(71),)), "gather must make a tile of every 2 beats"),
    "behind the memory": (moved("write_output", 10**7), r"write_output must stay in \d+ beats, not reach beat \d+"),
    "no address": (with_work(at={}), "the start of read_input must be given"),
    "nothing loaded": (with_work(weights="nothing"), "nothing must be loaded before it is used"),
    "a larger matrix": (with_work(inputs=640), r"ping must hold 40960 elements, not 4096"),
}


@pytest.mark.parametrize("name", OUT_OF_PLACE)
def test_what_cannot_be_carried_out_fails_the_check(name: str) -> None:
    change, message = OUT_OF_PLACE[name]
    found = numbers()
    at = first(Linear)(found.program.calls)
    found.program.calls[at] = change(found.program.calls[at])
    functional = found.check()
    assert not functional["passed"]
    assert functional["compared"] == 2  # the embedding and the norm before it
    assert re.match(f"layer 0, linear: {message}", functional["message"]), functional["message"]


# ------------------------------------------------------------------------------------------------------------- routing


def test_gates_decide_the_routing_that_is_timed() -> None:
    gates = run(workload__moe__routing="gates")
    assert gates.routing is not None
    assert gates.routing.source == "gates"
    queues = gates.routing.queues["block 1"]
    assert sum(queues) == 9 * 2
    given = run(workload__moe__routing=queues)
    assert given.routing is not None
    assert (given.routing.source, given.routing.queues) == ("given", gates.routing.queues)
    assert given.time.cycles == gates.time.cycles
    drawn = run()
    assert drawn.routing is not None
    assert drawn.routing.source == "drawn"


def test_gates_choose_what_float64_chooses() -> None:
    found = numbers(**{"moe.routing": "gates"})
    assert found.check()["passed"]
    normed = found.numbers.capture.values["h1.norm2"]
    scores = normed @ np.asarray(found.weights["h1.gating.weights"], np.float64).T
    best = np.argsort(-scores, axis=1)[:, :2]
    assert [set(row) for row in best.tolist()] == [set(row) for row in found.routing[1]]


def test_other_weights_route_otherwise() -> None:
    one, other = (numbers(**{"moe.routing": "gates", "seed": seed}).routing for seed in (1, 2))
    assert one != other


def test_what_does_not_fit_into_the_computer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pimsim.runners.fpga_check.available_memory", lambda: 1000)
    with pytest.raises(
        CapacityExceeded, match=r"^numbers must fit into memory: they need about 0\.0 GiB, not 0\.0 GiB$"
    ):
        run()


def test_weights_of_a_package_are_those_of_a_text_encoder() -> None:
    with pytest.raises(
        ConfigError, match=r"weights of a package must be of a text encoder without experts and classes"
    ):
        simulate("edge_moe_zcu102", "minilm_encode", overrides=["workload.classes=2"])
    with pytest.raises(ConfigError, match=r"exactly one of image and text must be given, not neither"):
        simulate("edge_moe_zcu102", "minilm_encode", overrides=["workload.text=null", "workload.weights=null"])
