"""``pimsim list``, ``pimsim show`` and ``pimsim schema``: what there is, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pimsim import catalog
from pimsim.commands.output import TABLE_FORMATS, choose, json_text, write_json, write_out
from pimsim.errors import InputError

PROGRAM_DRAM = "pim_gpt_gddr6"
"""The shipped DRAM whose commands programs are made of."""

DRAM_COMMANDS = {
    "ACT": "open a row of one bank",
    "PREpb": "close the row of one bank",
    "PREab": "close the rows of all banks of a channel",
    "RD": "read one column of an open row over the data pins",
    "WR": "write one column of an open row over the data pins",
    "REFab": "refresh all banks of a channel",
    "ACT_AB": "open the same row in all banks of a channel",
    "MAC_AB": "in all banks, multiply one column by the global buffer and add up in an accumulator",
    "WR_GB": "write one column of the global buffer over the data pins",
    "RD_MAC": "read one result of each bank from an accumulator over the data pins",
}

FUNCTIONS = {
    "add": "ASIC: sum of two vectors (bias, residual, partial sums)",
    "reciprocal": "ASIC: 1/x by Newton-Raphson steps",
    "scale": "ASIC: product of a vector and a factor",
    "layernorm": "ASIC: normalise a vector to mean 0 and variance 1, then scale and shift it",
    "softmax": "ASIC: exponentials of a row of scores after its maximum, and their sum",
    "gelu": "ASIC: GELU (tanh form) of each element",
    "gelu_erf": "ASIC: GELU (erf form) of each element",
    "relu": "ASIC: the larger of each element and 0",
    "rmsnorm": "ASIC: divide a vector by its root mean square, then scale it",
    "silu": "ASIC: SiLU of each element",
    "multiply": "ASIC: product of two vectors, element by element (gate of SwiGLU)",
    "rope": "ASIC: rotary position embedding of heads",
    "argmax": "ASIC: index of the largest element",
}


def list_names(kind: str, output: str) -> None:
    """Print what there is of one kind, each with a description.

    Raises:
        UnknownName: there is no such kind or format.
    """
    choose("kind", kind, KINDS)
    choose("format", output, TABLE_FORMATS)
    entries = KINDS[kind]()
    if output == "json":
        more = attention_details() if kind == "attention" else {}
        write_json([{"name": name, "description": text, **more.get(name, {})} for name, text in entries.items()])
    else:
        write_out("".join(f"{name}  {text}".rstrip() + "\n" for name, text in entries.items()))


def _shipped(kind: str) -> Callable[[], dict[str, str]]:
    return lambda: {name: catalog.describe(kind, name) for name in catalog.names(kind)}


def commands() -> dict[str, str]:
    """Every command of a program: those of the DRAM, then the functions of the ASIC, with a description each."""
    from pimsim.arch.functions import FUNCTIONS as FUNCTION_NAMES
    from pimsim.config import load_dram

    names = load_dram(PROGRAM_DRAM).value.commands
    return {name: DRAM_COMMANDS[name] for name in names} | {name: FUNCTIONS[name] for name in FUNCTION_NAMES}


def attention() -> dict[str, str]:
    """Every registered attention algorithm: description, phases, parameters with defaults, machines that run it, decoders."""
    from pimsim.workload.attention.base import discover

    details, found = attention_details(), {}
    for name, kind in discover().items():
        facts = details[name]
        settings = ", ".join(f"{field}={value}" for field, value in facts["parameters"].items())
        runs = ", ".join(facts["machines"]) or "no machine"
        inside = "; in decoders" if facts["decoders"] else ""
        found[name] = f"{kind.description} [{', '.join(kind.phases)}; {settings or 'no parameters'}; {runs}{inside}]"
    return found


def attention_details() -> dict[str, dict[str, Any]]:
    """Algorithm -> its phases, parameters with defaults, kinds of architecture that run it by itself, and its place in decoders.

    ``decoders`` says whether decoders on PIM channels take it (`workload.attention`), ``not_in_decoders`` why not.
    """
    from pimsim.runners import attention_machines
    from pimsim.workload.attention.base import discover
    from pimsim.workload.decoder_attention import in_decoders

    machines, why = attention_machines(), in_decoders()
    return {
        name: {
            "phases": list(kind.phases),
            "parameters": {field: info.default for field, info in kind.model_fields.items()},
            "machines": machines.get(name, []),
            "decoders": why[name] is None,
            "not_in_decoders": why[name],
        }
        for name, kind in discover().items()
    }


KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "archs": _shipped("arch"),
    "workloads": _shipped("workload"),
    "attention": attention,
    "dram": _shipped("dram"),
    "baselines": _shipped("baseline"),
    "sweeps": _shipped("sweep"),
    "commands": commands,
}
"""What can be listed."""


def show(arch: str | None, workload: str | None, overrides: Sequence[str], output: str) -> None:
    """Print a resolved configuration with the source of every number.

    Raises:
        InputError: both or none of the two are given, or the configuration is wrong.
    """
    from pimsim.config import load_arch, load_workload, split_overrides
    from pimsim.show import show as as_yaml
    from pimsim.show import show_json

    choose("format", output, ("yaml", "json"))
    if (arch is None) == (workload is None):
        given = "both" if arch is not None else "neither"
        raise InputError(f"exactly one of --arch and --workload must be given, not {given}")
    if arch is not None:
        machine = load_arch(arch, split_overrides(overrides, ["arch"])["arch"])
        text = json_text(show_json(machine)) if output == "json" else as_yaml(machine)
    else:
        work = load_workload(workload or "", split_overrides(overrides, ["workload"])["workload"])
        text = json_text(show_json(work)) if output == "json" else as_yaml(work)
    write_out(text)


def schema(kind: str) -> None:
    """Print the JSON Schema of one kind of file.

    Raises:
        UnknownName: there is no such kind.
    """
    from pimsim.schema import schema as json_schema

    write_json(json_schema(kind))


__all__ = ["KINDS", "commands", "list_names", "schema", "show"]
