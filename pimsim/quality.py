"""What an attention algorithm does to a real model: the same text, exact attention against the algorithm in every layer.

Weights are as they are: a model that was not trained for an algorithm is judged as it stands. An algorithm with a phase
``prefill`` sees the whole text at once; with only ``decode``, without a causal mask, or where its cache changes on the way
(`CACHED`), it goes token by token. What it asks for besides queries, keys and values is given neutrally (`_neutral`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pimsim import catalog
from pimsim.compare import Entry, compare
from pimsim.config import Loaded, load_arch, load_workload
from pimsim.errors import InputError, WorkloadError
from pimsim.run import simulate_loaded
from pimsim.workload.attention.base import Algorithm, Case, algorithm
from pimsim.workload.attention.decisions import Recording, run
from pimsim.workload.attention.interpreter import evaluate
from pimsim.workload.graph import WorkloadGraph
from pimsim.workload.importers.gguf import load_weights, read_gguf
from pimsim.workload.importers.vocabulary import Vocabulary
from pimsim.workload.models import build_graph
from pimsim.workload.ops import Linear, Scores
from pimsim.workload.sequence import Attend, Multiply, TextModel

Array = npt.NDArray[Any]

CACHED = ("kv_drop", "landmark")
"""Algorithms of which the decode phase approximates, and the prefill does not."""

SHAPED = ("q", "k", "v")
"""Inputs that a decoder has for every algorithm."""

OPEN_GATE = 6.0
"""Bias of gates that nobody has trained: they let 99.75 % through."""


Record = Callable[[str, Algorithm, Case, Mapping[str, Array]], None]
"""Told what data decided: where (``layer 3, decode``), by which algorithm, on which case."""


@dataclass(frozen=True)
class Quality:
    """How far a text's predictions are from those of exact attention."""

    perplexity: float
    """``exp`` of the mean negative log-likelihood of each next token."""
    agreement: float
    """Share of positions at which the likeliest next token is the same."""
    divergence: float
    """Mean Kullback-Leibler divergence from the exact predictions, nats."""


def log_shares(logits: Array) -> Array:
    """Logarithms of the softmax ``[tokens, vocabulary]``, float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    found: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


def judge(tokens: Sequence[int], logits: Array, exact: Array) -> Quality:
    """Predictions ``[tokens, vocabulary]`` of a text against exact ones."""
    found, wanted = log_shares(logits), log_shares(exact)
    following = np.asarray(tokens)[1:]
    likelihood = found[np.arange(len(following)), following]
    return Quality(
        float(np.exp(-likelihood.mean())),
        float(np.mean(found.argmax(axis=-1) == wanted.argmax(axis=-1))),
        float(np.sum(np.exp(wanted) * (wanted - found), axis=-1).mean()),
    )


def with_algorithm(
    model: TextModel,
    tokens: Sequence[int],
    method: Algorithm,
    progress: Callable[[int, int], None] = lambda _d, _n: None,
    record: Record | None = None,
) -> Array:
    """Logits ``[tokens, vocabulary]`` with the algorithm in every layer.

    ``record`` is told what the activations decide: in each layer all at once (prefill) where the algorithm goes so, and for
    the last token (decode); in each linear layer where the algorithm takes its place.

    Raises:
        InputError: the algorithm takes the place of nothing in a decoder.
    """
    shapes = method.inputs(_case(method, "prefill" if "prefill" in method.phases else "decode", 2, 1, 1, 1))
    if set(shapes) >= {"x", "w"}:
        return model.logits(tokens, multiply=_multiplier(method, record))
    if not set(shapes) >= set(SHAPED):
        raise InputError(
            f"attention {method.name()} must take queries, keys and values, or a linear layer, to be part of a decoder; it "
            f"takes {', '.join(shapes)}"
        )
    attend = _at_once(method, record) if _sees_all_at_once(method) else _by_step(method, record)
    layers = 1 + max((int(op.name[1:].partition(".")[0]) for op in model.graph if op.name.startswith("h")), default=0)

    def watched(layer: int, q: Array, k: Array, v: Array) -> Array:
        progress(layer, layers)
        return attend(layer, q, k, v)

    return model.logits(tokens, attend=watched)


def _case(method: Algorithm, phase: str, keys: int, heads: int, groups: int, d: int) -> Case:
    """The sizes; where heads cannot share keys, every head has its own."""
    queries = 1 if phase == "decode" else keys
    case = Case(phase=phase, queries=queries, keys=keys, d_head=d, heads=heads, kv_heads=groups)  # type: ignore[arg-type]
    try:
        method.check(case)
    except WorkloadError:
        return case.model_copy(update={"kv_heads": heads})
    return case


def _sees_all_at_once(method: Algorithm) -> bool:
    """Whether a causal prefill gives what token by token does."""
    if method.name() in CACHED:
        return False
    try:
        method.check(Case(phase="prefill", queries=2, keys=2, d_head=64))
    except WorkloadError:
        return False
    return True


def _neutral(name: str, shape: tuple[int, ...]) -> Array:
    """What an algorithm asks for beyond queries, keys and values: zeros, gates that are open and filters that average."""
    if name == "bias":
        return np.full(shape, OPEN_GATE)
    if "_filters." in name:
        per_cell, cell = shape[1:]
        return np.broadcast_to(np.repeat(np.eye(per_cell), cell // per_cell, axis=1) * per_cell / cell, shape)
    return np.zeros(shape)


def _at_once(method: Algorithm, record: Record | None) -> Attend:
    def attend(layer: int, q: Array, k: Array, v: Array) -> Array:
        case = _case(method, "prefill", q.shape[1], len(q), len(k), q.shape[2])
        k, v = (np.repeat(x, case.groups // len(x), axis=0) for x in (k, v))
        found = _carried_out(method, case, {"q": q, "k": k, "v": v}, record, f"layer {layer}, prefill")
        if record is not None and "decode" in method.phases:
            last = _case(method, "decode", q.shape[1], len(q), len(k), q.shape[2])
            new = {"q": q[:, -1:], "k": k[:, :-1], "v": v[:, :-1], "k_new": k[:, -1:], "v_new": v[:, -1:]}
            decided = run(method, last, _given(method, last, new)).decisions
            if decided:
                record(f"layer {layer}, decode", method, last, decided)
        return np.asarray(found["output"])

    return attend


def _carried_out(
    method: Algorithm, case: Case, tensors: dict[str, Array], record: Record | None, where: str
) -> dict[str, Any]:
    """Results of all operations; decisions are recorded if there are any and somebody asks for them."""
    given = _given(method, case, tensors)
    decided = dict(method.decide(case, given))
    taken: dict[str, Array] = dict(decided)
    found = evaluate(method.expand(case, decided or None), given, record=taken)
    if record is not None and taken:
        record(where, method, case, taken)
    return found


def _by_step(method: Algorithm, record: Record | None) -> Attend:
    """Token by token; results named ``new_X`` are the X of the next step."""

    def attend(layer: int, q: Array, k: Array, v: Array) -> Array:
        heads, n, d = q.shape
        groups = _case(method, "decode", 2, heads, len(k), d).groups
        k, v = (np.repeat(x, groups // len(x), axis=0).astype(np.float64) for x in (k, v))
        state: dict[str, Array] = {"k": k[:, :1], "v": v[:, :1]}
        rows = [np.repeat(v[:, :1], heads // groups, axis=0)]  # the first token sees itself
        for i in range(1, n):
            case = _case(method, "decode", state["k"].shape[1] + 1, heads, groups, d)
            new = {"q": q[:, i : i + 1], "k_new": k[:, i : i + 1], "v_new": v[:, i : i + 1]}
            last = record if i == n - 1 else None
            found = _carried_out(method, case, state | new, last, f"layer {layer}, decode")
            rows.append(np.asarray(found["output"]))
            state = {name.removeprefix("new_"): x for name, x in found.items() if name.startswith("new_")}
            if not state:
                state = {"k": k[:, : i + 1], "v": v[:, : i + 1]}
        return np.concatenate(rows, axis=1)

    return attend


def _given(method: Algorithm, case: Case, tensors: dict[str, Array]) -> dict[str, Array]:
    """The tensors, and what else the algorithm asks for."""
    return {name: tensors.get(name, _neutral(name, shape)) for name, shape in method.inputs(case).items()} | {
        name: tensors[name] for name in tensors if name in method.inputs(case)
    }


def _multiplier(method: Algorithm, record: Record | None) -> Multiply:
    numbers = itertools.count()

    def multiply(x: Array, weights: Array) -> Array:
        sized = method.model_copy(update={"d_out": weights.shape[1]})
        case = Case(queries=len(x), keys=len(x), d_head=x.shape[1])
        tensors = {"x": x.astype(np.float64), "w": weights.astype(np.float64)}
        try:
            where = f"linear {next(numbers)}, prefill"
            return np.asarray(_carried_out(sized, case, tensors, record, where)["output"])
        except WorkloadError as error:
            raise InputError(f"attention {method.name()}: {error}") from None

    return multiply


# ------------------------------------------------------------------------------------------------- on text and machines


@dataclass(frozen=True)
class Cost:
    """Attention of one more token over the whole text, all heads of all layers, one after the other."""

    seconds: float | None = None
    joules: float | None = None
    why: str | None = None
    """Why there are no figures."""


@dataclass(frozen=True)
class Judged(Quality):
    """An algorithm on a text and on machines."""

    attention: str
    costs: Mapping[str, Cost]
    linear: Mapping[str, Cost] = field(default_factory=dict)
    """The linear layers of all blocks for one token, where some algorithm takes their place: for this one in 8-bit integers."""


def read_text(model: Path, text: Path | None, limit: int) -> tuple[list[int], WorkloadGraph, Mapping[str, Array]]:
    """Tokens of a text by a model's own vocabulary, at most ``limit``, with the model's graph and weights.

    Raises:
        InputError: the text cannot be read or has fewer than two tokens, or the model cannot be used.
    """
    file = text or catalog.folder("workload") / "texts" / TEXT
    try:
        words = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: must be a readable text in UTF-8 ({error})") from None
    work = load_workload(model)
    ids = Vocabulary(read_gguf(model)).encode(words)[: min(limit, work.value.model.context)]
    if len(ids) < 2:
        raise InputError(f"{file}: must have at least two tokens, not {len(ids)}")
    sized = work.value.model_copy(update={"prompt_tokens": len(ids), "generate_tokens": 1})
    return ids, build_graph(sized), load_weights(model, sized)


def with_linear_layers(
    rows: Sequence[Judged], model: Path, entries: Sequence[Entry], machines: Mapping[str, Loaded[Any]]
) -> list[Judged]:
    """The rows of `judge_all` with what linear layers cost, if one of the entries takes their place; as they are if none does.

    A run of two tokens of the whole model says what its linear layers take, all blocks together, in the format of the machine,
    or in ``int8`` for an algorithm that takes their place. Their outlier columns are integers there, too.
    """
    replaced = [False, *(_replaces_linear_layers(algorithm(entry.name, entry.parameters)) for entry in entries)]
    if not any(replaced):
        return list(rows)
    work = load_workload(model, [("prompt_tokens", "1"), ("generate_tokens", "2")])
    plain = {name: _linear_layers(machine, work) for name, machine in machines.items()}
    whole = {name: _linear_layers(_in_integers(name, machine), work) for name, machine in machines.items()}
    return [
        replace(row, costs=rows[0].costs if instead else row.costs, linear=whole if instead else plain)
        for row, instead in zip(rows, replaced, strict=True)
    ]


def _replaces_linear_layers(method: Algorithm) -> bool:
    phase = "decode" if "decode" in method.phases else "prefill"
    return not set(method.inputs(_case(method, phase, 2, 1, 1, 64))) >= set(SHAPED)


def _in_integers(name: str, machine: Loaded[Any]) -> Loaded[Any] | None:
    try:
        return load_arch(name, [("pim.format", "int8")]) if machine.value.kind == "pim" else None
    except InputError:
        return None


def _linear_layers(machine: Loaded[Any] | None, work: Loaded[Any]) -> Cost:
    """Of one token: half of a run of two. Streaming machines book the weights of a matrix apart."""
    if machine is None:
        return Cost(why="has no int8 format")
    try:
        result = simulate_loaded(machine, work)
    except InputError as error:
        return Cost(why=str(error))
    kinds = {op.kind for op in build_graph(work.value) if isinstance(op, Linear) and op.name.startswith("h")}
    ops = [result.ops[name] for kind in kinds for name in (kind, f"{kind}_weights") if name in result.ops]
    joules = [op.joules for op in ops if op.joules is not None]
    return Cost(sum(op.seconds for op in ops) / 2, sum(joules) / 2 if len(joules) == len(ops) else None)


@dataclass
class Recordings:
    """Decisions of real activations, as files that ``workload.decisions`` replays on machines."""

    origin: str
    """Model and text, such as ``smollm2.gguf on story.txt, 512 tokens``."""
    files: dict[str, str] = field(default_factory=dict)
    """Name -> text; names are ``NUMBER_ALGORITHM_layer_3_decode.json``, with the number of the entry from 1."""

    def of(self, number: int) -> Record:
        """What takes up the decisions of the ``number``-th entry, from 0."""

        def record(where: str, method: Algorithm, case: Case, decided: Mapping[str, Array]) -> None:
            name = f"{number + 1}_{method.name()}_{where.replace(', ', '_').replace(' ', '_')}.json"
            decisions = {key: np.asarray(found, np.int64) for key, found in decided.items()}
            self.files[name] = Recording(method, case, f"functional: {self.origin}, {where}", decisions).text()

        return record


def judge_all(
    graph: WorkloadGraph,
    weights: Mapping[str, Array],
    ids: Sequence[int],
    entries: Sequence[Entry],
    machines: Mapping[str, Loaded[Any]],
    progress: Callable[[int, int], None] | None = None,
    recordings: Recordings | None = None,
) -> list[Judged]:
    """Exact attention first, then every algorithm; costs by machine.

    ``recordings`` is filled with what activations decide.

    Raises:
        InputError: an algorithm has no place in a decoder.
    """
    model = TextModel(graph, weights)
    methods = [algorithm(entry.name, entry.parameters) for entry in entries]
    exact = model.logits(ids)
    rows = [
        Judged(**asdict(judge(ids, exact, exact)), attention="exact", costs=_costs(graph, EXACT, len(ids), machines))
    ]
    for number, (entry, method) in enumerate(zip(entries, methods, strict=True)):

        def watched(done: int, layers: int, number: int = number) -> None:
            if progress is not None:
                progress(number * layers + done, len(entries) * layers)

        record = None if recordings is None else recordings.of(number)
        found = judge(ids, with_algorithm(model, ids, method, watched, record), exact)
        rows.append(Judged(**asdict(found), attention=entry.text, costs=_costs(graph, entry, len(ids), machines)))
    return rows


EXACT = Entry("exact", "vanilla", {}, "decode")
TEXT = "two_gardens.txt"
"""The text that comes with pimsim, written for it: about 750 tokens."""


def _costs(graph: WorkloadGraph, entry: Entry, keys: int, machines: Mapping[str, Loaded[Any]]) -> dict[str, Cost]:
    scores = [op for op in graph if isinstance(op, Scores)]
    heads, groups, d_head = scores[0].heads, scores[0].kv_heads, scores[0].d_head
    method = algorithm(entry.name, entry.parameters)
    if _replaces_linear_layers(method):
        return dict.fromkeys(machines, Cost(why="takes the place of linear layers"))
    keys = method.keys_in_cache(keys)
    case = _case(method, "decode", keys, heads, groups, d_head)
    try:
        method.check(case)
    except WorkloadError as error:
        return dict.fromkeys(machines, Cost(why=str(error)))
    sizes = [("heads", str(heads)), ("kv_heads", str(case.groups)), ("d_head", str(d_head))]
    found = {}
    for name, machine in machines.items():
        (row,) = compare([replace(entry, phase="decode")], {name: machine}, [keys], "attention_heads", sizes)
        ran = row.seconds is not None
        found[name] = Cost(_times(len(scores), row.seconds), _times(len(scores), row.joules), None if ran else row.why)
    return found


def _times(layers: int, value: float | None) -> float | None:
    return None if value is None else layers * value


__all__ = [
    "Cost",
    "Judged",
    "Quality",
    "Record",
    "Recordings",
    "judge",
    "judge_all",
    "log_shares",
    "read_text",
    "with_algorithm",
    "with_linear_layers",
]
