"""What every stage of a streaming program computes: one handler for each kind of work and name of a stage.

A handler gets all tokens that its stage takes in a call and gives all that it puts. Which iteration takes or puts what is
read from the actions of the stage, so a nest that leaves something out leaves it out of the numbers, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from pimsim.errors import ProgramError
from pimsim.functional.streaming.chip import Chip, Tokens, elements, latest, moves, tokens
from pimsim.functional.streaming.fixed import (
    Ints,
    accumulate,
    exponential,
    gelu_formula,
    inverse_root,
    narrow,
    reciprocal,
)
from pimsim.functional.streaming.softmax import running_sums
from pimsim.program import works as work
from pimsim.program.dataflow import Stage

Handler = Callable[[Chip, Any, Stage, Tokens], Tokens]

_CHUNK = 1 << 22
"""Products that are in memory at once."""


# ------------------------------------------------------------------------------------------------------- loads and moves


def _forward(_chip: Chip, _work: work.Work, stage: Stage, taken: Tokens) -> Tokens:
    """Tokens of the only FIFO that is read into the only one that is written."""
    (source,) = taken.values()
    (target,) = {name for action in stage.actions for name, _ in action.writes}
    return {target: source}


def _load(chip: Chip, load: work.Load, _stage: Stage, taken: Tokens) -> Tokens:
    chip.buffers[load.buffer] = taken["beats"]
    return {}


def _zeros(chip: Chip, _work: work.Clear, stage: Stage, _taken: Tokens) -> Tokens:
    return {"zeros": np.zeros((tokens(stage, "zeros", writes=True), chip.beat_bits // 8), np.uint8)}


def _times(chip: Chip, _work: work.Product, _stage: Stage, taken: Tokens) -> Tokens:
    one, other = (chip.features(taken[name]) for name in ("one", "other"))
    spec = chip.formats.features
    return {"product": chip.beats(narrow(one * other, 2 * spec.fraction_bits, spec))}


def _add(chip: Chip, _work: work.Residual, _stage: Stage, taken: Tokens) -> Tokens:
    one, other = (chip.features(taken[name]) for name in ("one", "other"))
    spec = chip.formats.features
    return {"sum": chip.beats(narrow(one + other, spec.fraction_bits, spec))}


# ------------------------------------------------------------------------------------------------------------- LayerNorm


def _moments(chip: Chip, norm: work.Norm, _stage: Stage, taken: Tokens) -> Tokens:
    """Mean and inverse deviation of rows in a single pass: ``E[x]`` and ``E[x^2]``, squares cut to the steps of features.

    The mean squares have all the integer bits that they need. With the root of the mean square, the mean is taken for zero.
    """
    spec = chip.formats.features
    rows = chip.features(taken["input"]).reshape(-1, norm.width)
    mean = np.zeros(len(rows), np.int64) if norm.rms else rows.sum(axis=1) // norm.width
    squares = (rows * rows >> spec.fraction_bits).sum(axis=1) // norm.width
    variance = squares - (mean * mean >> spec.fraction_bits)
    root = inverse_root(variance + int(norm.eps / spec.step), spec)
    return {"ready": np.column_stack([rows, mean, root])}


def _normalize(chip: Chip, norm: work.Norm, _stage: Stage, taken: Tokens) -> Tokens:
    form, bits = chip.formats, chip.weight_bits
    spec, width = form.features, norm.width
    beats = -(-width * bits // chip.beat_bits)
    gain = chip.buffer(norm.buffer, width, bits, norm.first)
    shift = np.zeros(width, np.int64) if norm.rms else chip.buffer(norm.buffer, width, bits, norm.first + beats)
    rows, mean, root = taken["ready"][:, :width], taken["ready"][:, width, None], taken["ready"][:, width + 1, None]
    unit = narrow((rows - mean) * root, 2 * spec.fraction_bits, spec)
    scaled = narrow(unit * gain, spec.fraction_bits + form.norm_gain.fraction_bits, spec)
    shifted = scaled + narrow(shift, form.biases.fraction_bits, spec)
    return {"output": chip.beats(narrow(shifted, spec.fraction_bits, spec))}


# -------------------------------------------------------------------------------------------------------------- rotation


def _collect(chip: Chip, rotation: work.Rotate, stage: Stage, taken: Tokens) -> Tokens:
    """Whole heads ``[heads of all rows, words]``."""
    words = chip.features(taken["input"]).ravel()
    count = tokens(stage, "heads", writes=True)
    if words.size != count * rotation.words:
        raise ProgramError(f"{stage.name} must make a head of every {rotation.words} words")
    return {"heads": words.reshape(count, -1)}


def _turn(chip: Chip, rotation: work.Rotate, stage: Stage, taken: Tokens) -> Tokens:
    """``(a, b) -> (a cos - b sin, a sin + b cos)``, exact but for one rounding; angles arrive with the first head of a row."""
    spec, half = chip.formats.features, rotation.words // 2
    starts = moves(stage, "heads") > 0
    row = latest(moves(stage, "angles")[starts] > 0)
    angles = chip.features(taken["angles"]).reshape(-1, 2 * half)[row]
    cos, sin = angles[:, :half], angles[:, half:]
    heads: Ints = taken["heads"]
    first, second = (slice(0, None, 2), slice(1, None, 2)) if rotation.interleaved else (slice(half), slice(half, None))
    a, b = heads[:, first], heads[:, second]
    found: Ints = np.empty(heads.shape, np.int64)
    found[:, first] = narrow(a * cos - b * sin, 2 * spec.fraction_bits, spec)
    found[:, second] = narrow(a * sin + b * cos, 2 * spec.fraction_bits, spec)
    return {"output": chip.beats(found)}


# ---------------------------------------------------------------------------------------------------------- linear layers


def _gather(chip: Chip, _work: work.Linear, stage: Stage, taken: Tokens) -> Tokens:
    words = chip.features(taken["beats"])
    size = chip.tile // chip.words
    if len(words) != tokens(stage, "tiles", writes=True) * size:
        raise ProgramError(f"{stage.name} must make a tile of every {size} beats")
    return {"tiles": words.reshape(-1, chip.tile)}


def _tile_steps(stage: Stage) -> tuple[npt.NDArray[Any], ...]:
    """(row, output tile, input tile) of every iteration, and the tile that it multiplies, by the order of arrival.

    A tile of outputs is done with the iteration that sends it; a row begins with one that takes a tile right after that. An
    iteration that takes no tile uses the one at its place in the buffer.
    """
    takes, sends = moves(stage, "tiles") > 0, moves(stage, "results", writes=True) > 0
    starts = np.concatenate([[True], sends[:-1]])
    at = np.arange(len(takes))
    first = np.maximum.accumulate(np.where(starts, at, 0))
    column = at - first
    row = np.cumsum(starts & takes) - 1
    segment = np.cumsum(starts) - 1
    row_starts = np.maximum.accumulate(np.where(starts & takes, segment, 0))
    arrived = np.full((row.max() + 1, column.max() + 1), -1)
    arrived[row[takes], column[takes]] = (np.cumsum(takes) - 1)[takes]
    used = arrived[row, column]
    if (used < 0).any():
        raise ProgramError(f"{stage.name} must read every tile of a row before it is used again")
    return row, segment - row_starts, column, used, sends


def _multiply(chip: Chip, linear: work.Linear, stage: Stage, taken: Tokens) -> Tokens:
    """Exact sums of a tile's products, narrowed as they are added; a result starts from its bias."""
    form, tile = chip.formats, chip.tile
    row, output, column, used, sends = _tile_steps(stage)
    columns, outputs = -(-linear.inputs // tile), -(-linear.outputs // tile)
    if column.max() >= columns or output.max() >= outputs:
        raise ProgramError(f"{stage.name} must stay within {outputs} x {columns} tiles of weights")
    rows, spec, extra = int(row.max()) + 1, form.accumulator, form.linear_weights.fraction_bits
    weights = chip.shares(linear.buffers, outputs * tile * linear.inputs, chip.weight_bits).reshape(-1, linear.inputs)
    form_of_biases = form.attention_biases if linear.attention else form.biases
    size = outputs * tile
    biases = chip.buffer(linear.biases, size, chip.weight_bits) if linear.biases else np.zeros(size, np.int64)
    total = np.tile(narrow(biases, form_of_biases.fraction_bits, spec), (rows, 1))
    done = np.zeros((columns, rows, outputs), bool)
    done[column, row, output] = True
    place = np.zeros((columns, rows), np.int64)
    place[column, row] = used
    fraction = form.features.fraction_bits + extra
    for number in range(columns):
        part = slice(number * tile, (number + 1) * tile)
        found = exact_product(taken["tiles"][place[number]], weights[:, part])
        if not done[number].all():
            found *= np.repeat(done[number], tile, axis=1)
        total = accumulate(total, found, fraction, spec)
    total = narrow(total, spec.fraction_bits, form.features)
    if linear.gelu:
        total = form.gelu.apply(total, form.features)
    if linear.scored:
        _, scores = _entries(chip, linear, rows)
        total = narrow(total * scores[:, None], form.features.fraction_bits + form.softmax.fraction_bits, form.features)
    return {"results": total.reshape(rows, outputs, tile)[row[sends], output[sends]]}


def exact_product(rows: Ints, weights: Ints) -> Ints:
    """``rows [n, k] @ weights[m, k].T``, exactly: in float64 where nothing can be lost, else in integers."""
    most = int(np.abs(rows).max(initial=0)) * int(np.abs(weights).max(initial=0)) * rows.shape[1]
    if most < 1 << 53:
        return (rows.astype(np.float64) @ weights.T.astype(np.float64)).astype(np.int64)
    product: Ints = rows @ weights.T
    return product


def _entries(chip: Chip, linear: work.Linear, rows: int) -> tuple[Ints, Ints]:
    """(tokens, scores) of the entries of a queue that a call works on."""
    numbers, scores = chip.queues[linear.queue]
    entries = slice(linear.first, linear.first + rows)
    if len(numbers[entries]) != rows:
        raise ProgramError(
            f"queue {linear.queue} must have {rows} entries from {linear.first} on, not {len(numbers)} in all"
        )
    return numbers[entries], scores[entries]


def _gelu(chip: Chip, _work: work.Linear, _stage: Stage, taken: Tokens) -> Tokens:
    """GELU from its formula, exact but for the last rounding."""
    return {"activated": gelu_formula(taken["results"], chip.formats.features, chip.formats.gelu.form)}


def _scatter(chip: Chip, _work: work.Linear, _stage: Stage, taken: Tokens) -> Tokens:
    words = taken["activated" if "activated" in taken else "results"].reshape(-1, chip.words)
    if "old" in taken:
        words = words + chip.features(taken["old"])
    spec = chip.formats.features
    return {"rows": chip.beats(narrow(words, spec.fraction_bits, spec))}


# -------------------------------------------------------------------------------------------------------------- attention


def _query_key(chip: Chip, sizes: work.QueryKey, stage: Stage, taken: Tokens) -> Tokens:
    """Scores at each step: the query rows of all lanes, which arrive beat by beat, times all keys of the step."""
    queries = chip.features(taken["query"])
    beats = sizes.heads * sizes.head_words // chip.words
    keys = _of_all_heads(chip, sizes, _at_once(chip, stage, "key", taken, sizes.keys))
    count = len(keys)
    arrives = moves(stage, "query") > 0
    number = np.where(arrives, np.cumsum(arrives) - 1, -1).reshape(count, beats)
    lane = _walk(sizes, stage, count, sizes.keys).key
    held = np.stack(
        [np.maximum.accumulate(np.where((lane == each)[:, None], number, -1), axis=0) for each in range(sizes.lanes)],
        axis=1,
    )
    scores = np.empty((count, sizes.lanes * sizes.keys, sizes.heads), np.int64)
    step = max(1, _CHUNK // (sizes.lanes * sizes.keys * beats * chip.words))
    for first in range(0, count, step):
        part = slice(first, first + step)
        rows = np.where(held[part][..., None] < 0, 0, queries[held[part]])
        found = np.einsum("spbw,sbkw->spkb", rows, keys[part])
        scores[part] = _sum_scores(chip, sizes, found.reshape(len(rows), scores.shape[1], sizes.heads, -1))
    sent = moves(stage, "packets", writes=True) > 0
    return {"packets": scores[np.flatnonzero(sent) // beats]}


def _at_once(chip: Chip, stage: Stage, fifo: str, taken: Tokens, most: int) -> Ints:
    """Words of the beats that each iteration takes at once: ``[iterations, most, words]``, zeros where it takes fewer.

    Raises:
        ProgramError: an iteration takes more.
    """
    count = moves(stage, fifo)
    if int(count.max(initial=0)) > most:
        raise ProgramError(f"{stage.name} must take at most {most} beats of {fifo} at once, not {count.max()}")
    place = np.arange(most)
    at = np.where(place < count[:, None], (np.cumsum(count) - count)[:, None] + place, -1)
    found = chip.features(taken[fifo])
    return np.concatenate([found, np.zeros_like(found[:1])])[at]


def _slots(stage: Stage, packets: Ints) -> Ints:
    """Scores one after the other ``[slots, heads]``: each iteration has the next one of the packet that came last.

    Raises:
        ProgramError: there is none before the first packet, or more than a packet has.
    """
    comes = moves(stage, "packets") > 0
    packet, at = latest(comes), np.arange(len(comes))
    place = at - np.maximum.accumulate(np.where(comes, at, 0))
    if not comes[:1].all() or int(place.max(initial=0)) >= packets.shape[1]:
        raise ProgramError(f"{stage.name} must take a packet for every {packets.shape[1]} scores, or fewer")
    found: Ints = packets[packet, place]
    return found


def _sum_scores(chip: Chip, sizes: work.QueryKey, found: Ints) -> Ints:
    """Products of beats ``[..., beats of a head]``, scaled by ``1 / sqrt(d_head)`` and added up one after the other."""
    spec, fraction = chip.formats.accumulator, 2 * chip.formats.features.fraction_bits
    root = isqrt(sizes.head_words)
    if root * root == sizes.head_words and root & (root - 1) == 0:
        parts = narrow(found, fraction + root.bit_length() - 1, spec)
    else:
        scale = np.int64(sizes.head_words**-0.5 / spec.step)
        parts = narrow(narrow(found, fraction, spec) * scale, 2 * spec.fraction_bits, spec)
    total = parts[..., 0]
    for beat in range(1, parts.shape[-1]):
        total = narrow(total + parts[..., beat], spec.fraction_bits, spec)
    return narrow(total, spec.fraction_bits, chip.formats.features)


def _of_all_heads(chip: Chip, sizes: work.QueryKey | work.WeightedValues, met: Ints) -> Ints:
    """Keys or values of each step ``[steps, beats, keys, words]``: heads that share them use what the first of them took."""
    beats = sizes.head_words // chip.words
    apart = met.reshape(-1, sizes.heads // sizes.shared, sizes.shared, beats, sizes.keys, chip.words)
    return np.repeat(apart[:, :, :1], sizes.shared, axis=2).reshape(-1, sizes.heads * beats, sizes.keys, chip.words)


@dataclass(frozen=True)
class _Walk:
    """The steps of all blocks: number in the block (of the key, or of keys at once), block, and whether a block ends with it."""

    key: Ints
    block: Ints
    last: npt.NDArray[np.bool_]

    def seen(self, sizes: _Rows, step: Ints, lane: Ints) -> tuple[Ints, npt.NDArray[np.bool_], Ints]:
        """Steps ``[rows, steps]`` that a row has been through when it leaves its lane at a step, in order; which there are; rows.

        A lane starts a row at the step of a block with its own number.
        """
        begins = np.zeros(len(step), np.int64)
        for each in np.unique(lane):
            latest_start = np.maximum.accumulate(np.where(self.key == each, np.arange(len(self.key)), 0))
            begins[lane == each] = latest_start[step[lane == each]]
        back = np.arange(int((step - begins).max(initial=-1)) + 1)
        there = back <= (step - begins)[:, None]
        return (
            np.where(there, begins[:, None] + back, 0),
            there,
            self.block[begins] * sizes.lanes + lane,
        )

    def leaving(self) -> Ints:
        """The lane whose row has met all of its keys at each step: the first at the end of a block, then one after the other."""
        return np.where(self.last, 0, self.key + 1)


_Rows = work.QueryKey | work.WeightedValues | work.SoftmaxPass


def _walk(sizes: _Rows, stage: Stage, count: int, keys: int = 1) -> _Walk:
    """What happens in each of ``count`` steps with so many keys at once.

    Raises:
        ProgramError: under a causal mask, there are more or fewer steps.
    """
    at = np.arange(count)
    if sizes.before < 0:
        period = -(-sizes.tokens // keys)
        return _Walk(at % period, at // period, at % period == period - 1)
    lengths = np.array([-(-n // keys) for n in work.keys_of_blocks(sizes.tokens, sizes.lanes, sizes.before)])
    if lengths.sum() != count:
        raise ProgramError(f"{stage.name} must make {lengths.sum()} steps, not {count}")
    ends = np.cumsum(lengths)
    block = np.repeat(np.arange(len(lengths)), lengths)
    whole = -(-sizes.tokens // sizes.lanes)
    return _Walk(at - (ends - lengths)[block], block, (at == ends[block] - 1) & (block < whole))


def _visible(sizes: _Rows, key: Ints, row: Ints) -> npt.NDArray[np.bool_]:
    """Whether rows see keys: all of them, or under a causal mask those up to their own."""
    if sizes.before < 0:
        return np.ones(np.broadcast_shapes(key.shape, row.shape), bool)
    found: npt.NDArray[np.bool_] = key <= row + sizes.before
    return found


def _statistics(chip: Chip, sizes: work.QueryKey, stage: Stage, taken: Tokens) -> Tokens:
    """Running sum and bias of every row; with its last score, the reciprocal of the sum and the bias leave."""
    slots = _slots(stage, taken["packets"])
    packets = slots.reshape(-1, sizes.lanes, sizes.heads)
    spec = chip.formats.softmax
    at = np.flatnonzero(moves(stage, "sums", writes=True))
    step, lane = at // sizes.lanes, at % sizes.lanes
    walk = _walk(sizes, stage, len(packets))
    steps, there, row_number = walk.seen(sizes, step, lane)
    seen = there & _visible(sizes, walk.key[steps], row_number[:, None])
    scores = narrow(packets[steps, lane[:, None]], chip.formats.features.fraction_bits, spec)
    total, bias = running_sums(scores, seen, spec)
    row = np.concatenate([reciprocal(total, spec), bias], axis=1)
    return {"scores": slots, "sums": _padded(chip, row)}


def _softmax_pass(chip: Chip, sizes: work.SoftmaxPass, stage: Stage, taken: Tokens) -> Tokens:
    """One of three passes: maximum of each row, sum of exponentials, weights."""
    form, p, heads = chip.formats, sizes.lanes, sizes.heads
    spec = form.softmax
    scores = narrow(taken["lane_scores"].reshape(-1, p, heads), form.features.fraction_bits, spec)
    own, rows = _rows_of_lanes(chip, sizes, stage, taken)
    walk = _walk(sizes, stage, len(scores))
    if sizes.which == "divide":
        total, bias = rows[own, :heads], rows[own, heads : 2 * heads]
        found = (
            exponential(narrow(scores - bias, spec.fraction_bits, spec), spec) << spec.fraction_bits
        ) // np.maximum(total, 1)
        shares = np.where((own >= 0)[..., None], narrow(found, spec.fraction_bits, spec), 0)
        return {"scores": shares.reshape(-1, heads)}
    at = np.flatnonzero(moves(stage, "sums", writes=True))
    step, lane = at // p, at % p
    steps, there, row = walk.seen(sizes, step, lane)
    met, known = scores[steps, lane[:, None]], (there & _visible(sizes, walk.key[steps], row[:, None]))[..., None]
    if sizes.which == "maximum":
        largest = np.where(known, met, spec.limits[0]).max(axis=1)
        return {"sums": _padded(chip, np.concatenate([np.zeros_like(largest), largest], axis=1))}
    bias = rows[own[step, lane], heads : 2 * heads]
    parts = np.where(known, exponential(narrow(met - bias[:, None], spec.fraction_bits, spec), spec), 0)
    total = narrow(parts.sum(axis=1), spec.fraction_bits, spec)
    return {"sums": _padded(chip, np.concatenate([total, bias], axis=1))}


def _rows_of_lanes(chip: Chip, sizes: work.SoftmaxPass, stage: Stage, taken: Tokens) -> tuple[Ints, Ints]:
    """What earlier passes know of rows: the row in each lane at each step ``[steps, lanes]`` (-1: none), and the rows' words."""
    arrives = moves(stage, "old_sums").reshape(-1, sizes.lanes) > 0
    if "old_sums" not in taken:
        return np.full(arrives.shape, -1), np.zeros((0, 2 * sizes.heads), np.int64)
    number = np.where(arrives, np.cumsum(arrives).reshape(arrives.shape) - 1, -1)
    rows = chip.features(taken["old_sums"]).reshape(int(arrives.sum()), -1)
    return np.maximum.accumulate(number, axis=0), rows


def _padded(chip: Chip, rows: Ints) -> npt.NDArray[np.uint8]:
    """Rows filled up to a power of two words, at least a beat."""
    width = max(chip.words, 1 << (rows.shape[1] - 1).bit_length())
    return chip.beats(np.pad(rows, ((0, 0), (0, width - rows.shape[1]))))


def _spread(_chip: Chip, _sizes: work.QueryKey, stage: Stage, taken: Tokens) -> Tokens:
    return {"scores": _slots(stage, taken["packets"])}


def _store_scores(chip: Chip, sizes: work.QueryKey | work.SoftmaxPass, _stage: Stage, taken: Tokens) -> Tokens:
    """Scores of a lane filled up to a power of two; several lanes in a beat, or a lane in several."""
    scores = taken["scores"]
    padded = np.pad(scores, ((0, 0), (0, (1 << (sizes.heads - 1).bit_length()) - sizes.heads))).ravel()
    whole = -(-padded.size // chip.words) * chip.words
    return {"score_beats": chip.beats(np.pad(padded, (0, whole - padded.size)))}


def _unpack(chip: Chip, sizes: work.WeightedValues | work.SoftmaxPass, stage: Stage, taken: Tokens) -> Tokens:
    width = 1 << (sizes.heads - 1).bit_length()
    words = chip.features(taken["score_port"]).ravel()
    lanes = words[: words.size // width * width].reshape(-1, width)[:, : sizes.heads]
    return {"lane_scores": lanes[: tokens(stage, "lane_scores", writes=True)]}


def _pack(_chip: Chip, sizes: work.WeightedValues, stage: Stage, taken: Tokens) -> Tokens:
    """The scores of each step ``[steps, scores at once, heads]``, zeros where it has fewer."""
    sent = moves(stage, "packets", writes=True) > 0
    at = np.arange(len(sent))
    place = at - np.maximum.accumulate(np.where(np.concatenate([[True], sent[:-1]]), at, 0))
    most = sizes.lanes * sizes.keys
    if int(place.max(initial=0)) >= most or not sent[-1:].all():
        raise ProgramError(f"{stage.name} must send a packet for every {most} scores, or fewer")
    packets = np.zeros((int(sent.sum()), most, sizes.heads), np.int64)
    packets[np.cumsum(sent) - sent, place] = taken["lane_scores"]
    return {"packets": packets}


def _weighted_values(chip: Chip, sizes: work.WeightedValues, stage: Stage, taken: Tokens) -> Tokens:
    """Sums of values over the steps of a row, weighted by ``exp(score - bias) (1 / sum)``; a row leaves with its last key."""
    form, heads = chip.formats, sizes.heads
    beats = heads * sizes.head_words // chip.words
    values = _of_all_heads(chip, sizes, _at_once(chip, stage, "value", taken, sizes.keys))
    count, values = len(values), values.swapaxes(1, 2)
    walk = _walk(sizes, stage, count, sizes.keys)
    packet = latest((moves(stage, "packets") > 0).reshape(count, beats).max(axis=1))
    arrives = moves(stage, "sums").reshape(count, beats).any(axis=1)
    number = np.where(arrives, np.cumsum(arrives) - 1, -1)
    held = np.stack(
        [np.maximum.accumulate(np.where(walk.key == each, number, -1)) for each in range(sizes.lanes)], axis=1
    )
    leaves = moves(stage, "rows", writes=True).reshape(count, beats) > 0
    step = np.flatnonzero(leaves.any(axis=1))
    lane = walk.leaving()[step]
    if (lane >= sizes.lanes).any():
        raise ProgramError(f"{stage.name} must send a row of one of {sizes.lanes} lanes at every step that sends one")
    steps, there, row = walk.seen(sizes, step, lane)
    own = held[steps, lane[:, None]]
    packets = taken["packets"].reshape(-1, sizes.lanes, sizes.keys, heads)
    shares = packets[packet[steps], lane[:, None]]  # where a step has fewer keys, their values are zero
    if "sums" in taken:  # else the scores are weights by now
        rows = chip.features(taken["sums"]).reshape(int(arrives.sum()), -1)
        scores = narrow(shares, form.features.fraction_bits, form.softmax)
        root, bias = rows[own, None, :heads], rows[own, None, heads : 2 * heads]
        difference = narrow(scores - bias, form.softmax.fraction_bits, form.softmax)
        shares = narrow(exponential(difference, form.softmax) * root, 2 * form.softmax.fraction_bits, form.softmax)
        shares = np.where((own >= 0)[..., None, None], shares, 0)
    seen = _visible(sizes, walk.key[steps][..., None] * sizes.keys + np.arange(sizes.keys), row[:, None, None])
    shares = np.where((there[..., None] & seen)[..., None], shares, 0)
    found = np.empty((len(step), beats, chip.words), np.int64)
    fraction = form.features.fraction_bits + form.softmax.fraction_bits
    chunk = max(1, _CHUNK // (sizes.row_steps * sizes.keys * beats * chip.words))
    for first in range(0, len(step), chunk):
        part = slice(first, first + chunk)
        met = values[steps[part]].reshape(*shares[part].shape, -1)
        products = narrow(met * shares[part][..., None], fraction, form.accumulator)
        total = products.sum(axis=(1, 2))
        found[part] = narrow(total, form.accumulator.fraction_bits, form.features).reshape(-1, beats, chip.words)
    return {"rows": chip.beats(found[leaves[step]])}


# ----------------------------------------------------------------------------------------------------------------- gating


def _score(chip: Chip, gate: work.Gate, _stage: Stage, taken: Tokens) -> Tokens:
    """Scores of all experts, added up beat by beat."""
    form, words = chip.formats, chip.words
    beats = chip.features(taken["beats"])
    spec, extra = form.accumulator, form.linear_weights.fraction_bits
    width = chip.buffers[gate.buffer].size * 8 // chip.word_bits // gate.experts
    weights = chip.buffer(gate.buffer, gate.experts * width, chip.word_bits).reshape(gate.experts, width)
    rows = beats.reshape(-1, width)
    total = np.zeros((len(rows), gate.experts), np.int64)
    fraction = form.features.fraction_bits + extra
    for first in range(0, width, words):
        found = exact_product(rows[:, first : first + words], weights[:, first : first + words])
        total = accumulate(total, found, fraction, spec)
    scores = narrow(total, spec.fraction_bits, form.softmax)
    return {"to_statistics": scores, "to_select": scores}


def _gate_statistics(chip: Chip, _work: work.Gate, _stage: Stage, taken: Tokens) -> Tokens:
    scores = taken["to_statistics"][..., None]
    total, bias = running_sums(scores, np.ones(scores.shape[:2], bool), chip.formats.softmax)
    return {"from_statistics": np.concatenate([total, bias], axis=1)}


def _select(chip: Chip, gate: work.Gate, _stage: Stage, taken: Tokens) -> Tokens:
    """The best experts of each token, the first of equals; those that are given go on in their place."""
    scores = taken["to_select"]
    best = np.argsort(-scores, axis=1, kind="stable")[:, : gate.top_k]
    chip.selected = best, np.take_along_axis(scores, best, axis=1)
    if gate.given is not None:
        best = np.array(gate.given, np.int64)
    return {"from_select": np.concatenate([best, np.take_along_axis(scores, best, axis=1)], axis=1)}


def _gate_normalize(chip: Chip, gate: work.Gate, stage: Stage, taken: Tokens) -> Tokens:
    """``exp(score - bias) / sum`` of the chosen experts only."""
    spec, k = chip.formats.softmax, gate.top_k
    total, bias = taken["from_statistics"][:, :1], taken["from_statistics"][:, 1:]
    chosen, scores = taken["from_select"][:, :k], taken["from_select"][:, k:]
    share = (exponential(scores - bias, spec) << spec.fraction_bits) // np.maximum(total, 1)
    chip.gates = chosen, narrow(share, spec.fraction_bits, spec)
    return {"done": np.zeros(tokens(stage, "done", writes=True), np.int64)}


def _fill_queues(chip: Chip, fill: work.FillQueues, _stage: Stage, _taken: Tokens) -> Tokens:
    assert chip.gates is not None
    chosen, scores = chip.gates
    token = np.repeat(np.arange(len(chosen)), chosen.shape[1])
    chip.queues = [
        (token[chosen.ravel() == expert], scores.ravel()[chosen.ravel() == expert]) for expert in range(fill.experts)
    ]
    return {}


# -------------------------------------------------------------------------------------------------------- patch embedding


def _embed(chip: Chip, row: work.PatchRow, stage: Stage, taken: Tokens) -> Tokens:
    """A row of patches: every line of pixels times its weights, narrowed as it is added; positions with the last line."""
    form, spec = chip.formats, chip.formats.accumulator
    if len(moves(stage, "pixels")) != len(taken["pixels"]) * row.outputs // chip.words:
        raise ProgramError(f"{stage.name} must meet every beat of pixels with all {row.outputs} outputs")
    pixels = elements(taken["pixels"], chip.pixel_bits, signed=form.pixels.signed)
    lines = pixels.reshape(row.lines, row.columns * row.patches, row.patch)
    size = row.lines * row.patch
    weights = chip.buffer(row.weights, row.outputs * size, chip.weight_bits).reshape(row.outputs, size)
    biases = chip.buffer(row.biases, row.outputs, chip.weight_bits)
    total = np.tile(narrow(biases, form.biases.fraction_bits, spec), (row.columns * row.patches, 1))
    fraction = form.pixels.fraction_bits + form.patch_weights.fraction_bits
    for number, line in enumerate(lines):
        found = exact_product(line, weights[:, number * row.patch : (number + 1) * row.patch])
        total = narrow(total + narrow(found, fraction, spec), spec.fraction_bits, spec)
    sums = narrow(total, spec.fraction_bits, form.features)
    given: Tokens = {}
    for number in range(row.patches):
        position = chip.features(taken[f"positions{number}"]).reshape(row.columns, -1)
        placed = narrow(sums[number :: row.patches] + position, form.features.fraction_bits, form.features)
        given[f"output{number}"] = chip.beats(placed)
    return given


HANDLERS: dict[tuple[type[work.Work], str], Handler] = {
    (work.Load, "load"): _load,
    (work.Clear, "zeros"): _zeros,
    (work.Copy, "copy"): _forward,
    (work.Residual, "add"): _add,
    (work.Product, "times"): _times,
    (work.Rotate, "collect"): _collect,
    (work.Rotate, "turn"): _turn,
    (work.Norm, "moments"): _moments,
    (work.Norm, "normalize"): _normalize,
    (work.Linear, "gather"): _gather,
    (work.Linear, "multiply"): _multiply,
    (work.Linear, "gelu"): _gelu,
    (work.Linear, "scatter"): _scatter,
    (work.QueryKey, "load_query"): _forward,
    (work.QueryKey, "load_key"): _forward,
    (work.QueryKey, "product"): _query_key,
    (work.QueryKey, "statistics"): _statistics,
    (work.QueryKey, "store_scores"): _store_scores,
    (work.QueryKey, "spread"): _spread,
    (work.SoftmaxPass, "unpack"): _unpack,
    (work.SoftmaxPass, "load_sums"): _forward,
    (work.SoftmaxPass, "pass"): _softmax_pass,
    (work.SoftmaxPass, "store_scores"): _store_scores,
    (work.WeightedValues, "load_value"): _forward,
    (work.WeightedValues, "unpack"): _unpack,
    (work.WeightedValues, "pack"): _pack,
    (work.WeightedValues, "product"): _weighted_values,
    (work.Gate, "score"): _score,
    (work.Gate, "statistics"): _gate_statistics,
    (work.Gate, "select"): _select,
    (work.Gate, "normalize"): _gate_normalize,
    (work.FillQueues, "queues"): _fill_queues,
    (work.PatchRow, "embed"): _embed,
}
"""(kind of work, name of a stage) -> what it computes."""


__all__ = ["HANDLERS", "Handler", "exact_product"]
