"""``pimsim generate``: text from a GGUF model, computed by its mapped program and timed by the machine."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pimsim.checks.workloads import check_decoder
from pimsim.commands.output import choose, write_json
from pimsim.commands.stream import Silent, display
from pimsim.config import Loaded, load_arch, load_workload, split_overrides
from pimsim.errors import InputError

if TYPE_CHECKING:
    from pimsim.meter import Meter
    from pimsim.workload.importers.gguf import GgufFile
    from pimsim.workload.importers.vocabulary import Vocabulary

FORMATS = ("text", "json")
"""Choices of ``--format``."""

RESERVED = ("prompt_tokens", "generate_tokens")
"""Fields of a workload that follow from the prompt and ``--tokens``."""


def generate(
    arch: str,
    model: Path,
    *,
    prompt: str,
    tokens: int,
    overrides: Sequence[str],
    output: str,
    ignore_eos: bool,
    quiet: bool,
) -> None:
    """Continue a prompt; the arguments are the options of ``pimsim generate``.

    Raises:
        InputError: an option, the model file or a configuration is wrong.
    """
    choose("format", output, FORMATS)
    from pimsim.generate import continue_prompt, encode_prompt
    from pimsim.meter import Meter
    from pimsim.runners import find_runner
    from pimsim.session import Session
    from pimsim.workload.importers.gguf import load_weights, read_gguf

    options = split_overrides(overrides)
    _check_overrides(options["workload"])
    machine = load_arch(arch, options["arch"])
    if machine.value.kind != "pim":
        raise InputError(f"--arch must be of kind pim to generate text, not {machine.value.kind} as {arch} is")
    if machine.value.host_traffic is not None:
        raise machine.tree.error("must be null to generate text", ("host_traffic",))
    file = read_gguf(model)
    work = load_workload(model, options["workload"])
    vocabulary = _vocabulary(file, work)
    ids = encode_prompt(vocabulary, prompt)
    reserved = {"prompt_tokens": len(ids), "generate_tokens": tokens}
    work = replace(work, value=work.value.model_copy(update=reserved))
    check_decoder(work)
    _check_context(work)
    find_runner(machine, work).estimate_commands(machine, work)  # what cannot be mapped must not cost the loading
    weights = load_weights(model, work.value)
    session = Session(work.value, machine.value, weights, cache_scales=_cache_scales(machine, work, weights, ids))
    meter = Meter(machine.value, session.mapping.spec)
    session.watch = meter.add
    shown = display(prompt, meter.readings, len(ids), quiet=quiet) if output == "text" else Silent()
    start = time.perf_counter()
    try:
        made = continue_prompt(session, vocabulary, ids, tokens, ignore_eos=ignore_eos, show=shown.show)
    finally:
        shown.close()
    wall = time.perf_counter() - start
    simulated = _simulated(meter, len(ids), len(made.token_ids))
    if output != "text":
        write_json({**asdict(made), **simulated, "wall_seconds": wall})
    elif not quiet:
        print(_summary(len(ids), len(made.token_ids), made.stop, simulated, wall), file=sys.stderr)


def _vocabulary(file: GgufFile, work: Loaded[Any]) -> Vocabulary:
    """The vocabulary of the file, which must be as long as the logits."""
    from pimsim.workload.importers.vocabulary import Vocabulary

    vocabulary, wanted = Vocabulary(file), work.value.model.vocabulary
    if vocabulary.size != wanted:
        raise InputError(
            f"{file.path}: the vocabulary must have {wanted:,} tokens, as many as logits, not {vocabulary.size:,}"
        )
    return vocabulary


def _check_overrides(options: Sequence[tuple[str, str]]) -> None:
    for path, _ in options:
        if path in RESERVED:
            raise InputError(f"--set workload.{path} must be left out: it follows from --prompt and --tokens")


def _check_context(work: Loaded[Any]) -> None:
    """Refuse what is longer than the model was made for."""
    prompt, tokens, context = work.value.prompt_tokens, work.value.generate_tokens, work.value.model.context
    if prompt + tokens - 1 > context:
        raise InputError(
            f"the prompt and --tokens must fit the model's context of {context:,} tokens, not {prompt:,} + {tokens:,} - 1 "
            f"= {prompt + tokens - 1:,}"
        )


def _cache_scales(
    machine: Loaded[Any], work: Loaded[Any], weights: Mapping[str, Any], ids: Sequence[int]
) -> dict[int, tuple[float, float]] | None:
    """Scales of int8 keys and values, from the prompt in float64; None in other formats."""
    from pimsim.session import calibrated
    from pimsim.workload.models import build_graph

    if machine.value.pim.format != "int8":
        return None
    return calibrated(build_graph(work.value), work.value, weights, ids)


def _simulated(meter: Meter, prompt: int, generated: int) -> dict[str, Any]:
    """Simulated time and energy of the program that has computed the tokens."""
    at_tokens = meter.readings[prompt - 1 :]
    seconds, joules = at_tokens[-1]
    return {
        "seconds_per_token": seconds / generated,
        "joules_per_token": joules / generated,
        "uncosted": meter.uncosted,
        "token_seconds": [reading.seconds for reading in at_tokens],
        "token_joules": [reading.joules for reading in at_tokens],
    }


def _summary(prompt: int, generated: int, stop: str, simulated: dict[str, Any], wall: float) -> str:
    seconds, joules = simulated["seconds_per_token"], simulated["joules_per_token"]
    return (
        f"{generated} tokens ({stop}) behind a prompt of {prompt}\n"
        f"simulated: {seconds * 1e3:.4g} ms and {joules * 1e3:.4g} mJ per token, {1 / seconds:,.4g} tokens/s\n"
        f"wall: {wall:.3g} s, {generated / wall:.3g} tokens/s"
    )


__all__ = ["FORMATS", "generate"]
