"""Loading of architectures, workloads and DRAM standards: YAML, overrides, validation and checks across fields."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import ValidationError

from pimsim import catalog
from pimsim.arch.dram import Command, DramConfig, DramSpec
from pimsim.arch.formats import FLOAT_BITS, accumulators_of, format_bytes
from pimsim.arch.kinds import ARCH_KINDS
from pimsim.arch.system import ArchConfig, AsicConfig
from pimsim.errors import ConfigError, WorkloadError, did_you_mean
from pimsim.model import TRUST_WORDS, Documented, Model
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.importers import load_workload_tree
from pimsim.workload.kinds import WORKLOAD_KINDS
from pimsim.yamlio import FieldPath, Tree, apply_overrides, dotted, load_tree, validate

if TYPE_CHECKING:  # a run imports the models of its own kinds only
    from pimsim.arch.aim import AimConfig
    from pimsim.arch.controller import SchedulerConfig
    from pimsim.arch.mcu import McuConfig
    from pimsim.arch.memory import MemoryConfig
    from pimsim.workload.attention_only import AttentionConfig

M = TypeVar("M", bound=Model)
PREFIXES = ("arch", "workload")
"""First parts of an override path on the command line."""

COMMAND_LINE = "assumed: --set on the command line"
"""Source of a number that was overridden."""

_NOT_CONTENT = {"sources", "description"}


@dataclass(frozen=True)
class Source:
    """Where a part of a configuration comes from: the part, and ``"<trust>: <origin>"``."""

    path: FieldPath
    text: str
    declared_at: FieldPath
    """The field path of the entry itself."""


@dataclass(frozen=True)
class Loaded(Generic[M]):
    """A validated configuration and where each of its values is written."""

    value: M
    tree: Tree
    path: Path

    @cached_property
    def content(self) -> dict[str, Any]:
        """The resolved configuration as plain data, defaults filled in, without sources and descriptions."""
        return dict(_content(self.value, self.value.model_dump(mode="json")))

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the content in hexadecimal; the same for every way to write the same configuration."""
        return hashlib.sha256(json.dumps(self.content, separators=(",", ":")).encode()).hexdigest()

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """Every entry of every ``sources`` mapping, with its path from the top."""
        return tuple(_sources(self.value, ()))

    @cached_property
    def numbers(self) -> tuple[FieldPath, ...]:
        """Path of every number that is written in a file or on the command line."""
        return tuple(path for path in _numbers(self.tree.data, ()))

    def source_of(self, path: FieldPath) -> str | None:
        """Where the value at ``path`` comes from, or None if nothing says so.

        The entry with the longest matching path counts. An entry of a base file says nothing about a value that the
        file on top of it has replaced.
        """
        if self.tree.position(path).file.startswith("--set "):
            return COMMAND_LINE
        rank = self._rank(path)
        matching = [
            source
            for source in self.sources
            if path[: len(source.path)] == source.path and self._rank(source.declared_at) <= rank
        ]
        return max(matching, key=lambda source: len(source.path)).text if matching else None

    def _rank(self, path: FieldPath) -> int:
        """How deep in the chain of bases a value is written; 0 is the file that was asked for."""
        return self._ranks.get(self.tree.position(path).file, 0)

    @cached_property
    def _ranks(self) -> dict[str, int]:
        return {str(file): rank for rank, file in enumerate(self.tree.files)}


def load_arch(name_or_path: str | Path, overrides: Iterable[tuple[str, str]] = ()) -> Loaded[Any]:
    """The architecture in a file or of a shipped name, checked by what `ARCH_CHECKS` has for its kind.

    Raises:
        UnknownName: there is no such architecture.
        ConfigError: a value or an override is wrong; the error names the file, the line and the field path.
    """
    path = catalog.find("arch", name_or_path)
    return arch_of(load_tree(path), path, overrides)


def arch_of(tree: Tree, path: Path, overrides: Iterable[tuple[str, str]] = ()) -> Loaded[Any]:
    """`load_arch` for a file that has been read already; the tree stays as it is.

    Raises:
        ConfigError: a value or an override is wrong; the error names the file, the line and the field path.
    """
    loaded = _of_its_kind(ARCH_KINDS, tree, path, overrides, prefix="arch")
    ARCH_CHECKS[loaded.value.kind](loaded)
    return loaded


def load_workload(name_or_path: str | Path, overrides: Iterable[tuple[str, str]] = ()) -> Loaded[Any]:
    """The workload in a file or of a shipped name; a model file (``config.json``, GGUF) is imported.

    Raises:
        UnknownName: there is no such workload.
        ConfigError: a value or an override is wrong; the error names the file, the line and the field path.
        WorkloadError: the model of a model file cannot be expressed.
    """
    path = catalog.find("workload", name_or_path)
    return workload_of(load_workload_tree(path), path, overrides)


def workload_of(tree: Tree, path: Path, overrides: Iterable[tuple[str, str]] = ()) -> Loaded[Any]:
    """`load_workload` for a file that has been read already; the tree stays as it is.

    Raises:
        ConfigError: a value or an override is wrong; the error names the file, the line and the field path.
    """
    loaded = _of_its_kind(WORKLOAD_KINDS, tree, path, overrides, prefix="workload")
    check_sources(loaded)
    check = WORKLOAD_CHECKS.get(loaded.value.kind)
    if check is not None:
        check(loaded)
    return loaded


def base_tree(kind: str, name_or_path: str | Path) -> tuple[Tree, Path]:
    """What `arch_of` or `workload_of` starts from: the file of an ``"arch"`` or a ``"workload"``, read.

    Raises:
        UnknownName: there is no such file.
        ConfigError: it cannot be read.
    """
    path = catalog.find(kind, name_or_path)
    return (load_tree(path) if kind == "arch" else load_workload_tree(path)), path


def load_dram(name_or_path: str | Path, overrides: Iterable[tuple[str, str]] = ()) -> Loaded[DramConfig]:
    """The DRAM standard in a file or of a shipped name, its expressions checked.

    Raises:
        UnknownName: there is no such DRAM standard.
        ConfigError: a value or an override is wrong; the error names the file, the line and the field path.
    """
    loaded = _load("dram", DramConfig, name_or_path, overrides, prefix="dram")
    check_sources(loaded)
    _check_dram(loaded.tree, loaded.value, ())
    return loaded


def split_overrides(options: Iterable[str], prefixes: Sequence[str] = PREFIXES) -> dict[str, list[tuple[str, str]]]:
    """Texts such as ``arch.dram.channels=16`` by their first part, each as (path, value).

    >>> split_overrides(["arch.dram.channels=16"])
    {'arch': [('dram.channels', '16')], 'workload': []}

    Raises:
        ConfigError: there is no ``=``, no field, or the first part is none of ``prefixes``.
    """
    split: dict[str, list[tuple[str, str]]] = {prefix: [] for prefix in prefixes}
    for option in options:
        path, equals, value = option.partition("=")
        prefix, _, rest = path.strip().partition(".")
        at = f"--set {option}"
        if not equals:
            raise ConfigError(f"must be path=value, such as {_EXAMPLES[prefixes[0]]}", file=at)
        if prefix not in split:
            starts = " or ".join(f"{each}." for each in prefixes)
            raise ConfigError(
                f"the path must start with {starts}, not {prefix!r}{did_you_mean(prefix, prefixes)}", file=at
            )
        if not rest:
            raise ConfigError(f"the path must name a field, such as {_EXAMPLES[prefix]}", file=at)
        split[prefix].append((rest, value))
    return split


_EXAMPLES = {"arch": "arch.dram.channels=16", "workload": "workload.generate_tokens=64", "dram": "dram.channels=2"}


def check_arch(loaded: Loaded[ArchConfig]) -> None:
    """Check what must hold between fields of an architecture.

    Raises:
        ConfigError: a timing rule, command or expression names something that does not exist, a row of weights does
            not fit the MAC units, a value is far beyond any machine, the DRAM lacks a command that programs are made
            of, refreshes leave no time for commands, or an entry of ``sources`` is malformed.
    """
    check_sources(loaded)
    _check_dram(loaded.tree, loaded.value.dram, ("dram",))
    check_limits(loaded.tree, loaded.value.dram, ("dram",))
    _check_commands(loaded.tree, loaded.value.dram)
    _check_pim(loaded.tree, loaded.value)
    _check_asic(loaded.tree, loaded.value.asic)
    if loaded.value.host_traffic is not None:
        spec, controller = loaded.value.dram.resolve(), loaded.value.host_traffic.controller
        check_controller_of(loaded, spec, controller, ("host_traffic", "controller"))


def check_aim(loaded: Loaded[AimConfig]) -> None:
    """Check what must hold between fields of a GDDR6-AiM machine.

    Raises:
        ConfigError: as `check_arch`, or the DRAM lacks a command of AiM.
    """
    check_sources(loaded)
    _check_dram(loaded.tree, loaded.value.dram, ("dram",))
    check_limits(loaded.tree, loaded.value.dram, ("dram",))
    dram = loaded.value.dram
    missing = [name for name in _AIM if name not in dram.commands]
    if missing:
        raise loaded.tree.error(
            f"must have the commands of AiM, {', '.join(_AIM)}; missing: {', '.join(missing)}", ("dram", "commands")
        )
    if len(dram.levels) != 2:
        raise loaded.tree.error(
            f"must have two levels, such as {{bankgroup: 4, bank: 4}}, not {len(dram.levels)}", ("dram", "levels")
        )
    if dram.ticks_per_clock != 1:
        raise loaded.tree.error(f"must be 1, not {dram.ticks_per_clock}", ("dram", "ticks_per_clock"))
    if dram.channels > _AIM_CHANNELS:
        raise loaded.tree.error(
            f"must be at most {_AIM_CHANNELS}, the bits of a channel mask, not {dram.channels}", ("dram", "channels")
        )


_AIM = (
    *("ACT", "PRE", "PREA", "RD", "WR", "ACT16", "MAC", "MAC16", "AF16"),
    *("EWMUL16", "RDCP", "WRCP", "WRA16", "WRGB", "WRMAC16", "RDMAC16", "RDAF16", "TMOD", "REFab"),
)
_AIM_CHANNELS = 32

_STREAMS = ("query", "key", "value", "scores", "statistics", "output")
"""Streams of the attention unit that need a port."""


def check_fpga(loaded: Loaded[Any]) -> None:
    """Check what must hold between fields of a streaming accelerator.

    Raises:
        ConfigError: a beat is not a whole number of words, a port is narrower than a word, a port is named twice, or a
            stream has no port of the machine.
    """
    check_sources(loaded)
    tree, fpga = loaded.tree, loaded.value.fpga
    ports, placement = fpga.ports, fpga.attention.placement
    if fpga.beat_bits % fpga.word_bits:
        raise tree.error(
            f"must be a multiple of word_bits, which is {fpga.word_bits}, not {fpga.beat_bits}", ("fpga", "beat_bits")
        )
    if ports.width_bits < fpga.word_bits:
        raise tree.error(
            f"must be at least word_bits, which is {fpga.word_bits}, so that a port is no narrower than a word, "
            f"not {ports.width_bits}",
            ("fpga", "ports", "width_bits"),
        )
    if len(set(ports.names)) != len(ports.names):
        raise tree.error(f"must name each port once, not {', '.join(ports.names)}", ("fpga", "ports", "names"))
    if fpga.memory is not None:
        _check_memory(tree, fpga.memory)
    at: FieldPath = ("fpga", "attention", "placement")
    if set(placement) != set(_STREAMS):
        raise tree.error(f"must place exactly {', '.join(_STREAMS)}, not {', '.join(placement)}", at)
    _check_placement(tree, placement, ports.names, at)
    if fpga.attention.softmax == "three_pass" and fpga.attention.three_pass is None:
        raise tree.error("must be given, as softmax is three_pass", ("fpga", "attention", "three_pass"))
    if fpga.encoder is not None:
        _check_encoder(tree, fpga)
    for number, port in enumerate(fpga.primitives.ports if fpga.primitives is not None else ()):
        _check_placement(tree, {str(number): port}, ports.names, ("fpga", "primitives", "ports"))


def _check_memory(tree: Tree, memory: Any) -> None:
    at: FieldPath = ("fpga", "memory", "dram")
    if memory.dram is None:
        if memory.kind == "dram":
            raise tree.error("must be given, as kind is dram", at)
        return
    _check_dram(tree, memory.dram, at)
    check_limits(tree, memory.dram, at)
    plain = [(c.effect, c.data) for c in memory.dram.commands.values() if c.scope == list(memory.dram.levels)[-1]]
    for effect, data in (("open", "none"), ("close", "none"), ("none", "read"), ("none", "write")):
        if (effect, data) not in plain:
            raise tree.error(
                f"must have a command of one bank with effect {effect} and data {data} behind memory ports",
                (*at, "commands"),
            )
    before = [c.after for c in memory.dram.commands.values() if c.after is not None]
    before += [
        name
        for name, c in memory.dram.commands.items()
        if (c.effect, c.data, c.needs) == ("none", "none", "any") and c.scope == list(memory.dram.levels)[-1]
    ]
    if before:
        raise tree.error(
            f"must open, read and write a bank with one command each behind memory ports; {memory.dram.name} needs "
            f"{', '.join(before)} before",
            (*at, "commands"),
        )


def _check_placement(tree: Tree, placement: Mapping[str, str], ports: list[str], at: FieldPath) -> None:
    for stream, port in placement.items():
        if port not in ports:
            raise tree.error(
                f"must be one of {', '.join(ports)}, not {port!r}{did_you_mean(port, ports)}", (*at, stream)
            )


_ENCODER_STREAMS = ("image", "residual", "normed", "projected", "hidden", "parameters")
"""Streams of the units around attention that need a port."""


def _check_encoder(tree: Tree, fpga: Any) -> None:
    encoder, words, at = fpga.encoder, fpga.beat_bits // fpga.word_bits, ("fpga", "encoder")
    if encoder.linear_units == "separate" and encoder.separate_tile is None:
        raise tree.error("must be given, as linear_units is separate", (*at, "separate_tile"))
    if encoder.gelu == "direct" and encoder.direct_gelu is None:
        raise tree.error("must be given, as gelu is direct", (*at, "direct_gelu"))
    for name in ("tile", "separate_tile"):
        tile = getattr(encoder, name)
        if tile is not None and tile % words:
            raise tree.error(f"must be a multiple of the words of a beat, which are {words}, not {tile}", (*at, name))
    for name in ("weight_bits", "pixel_bits"):
        bits = getattr(encoder, name)
        if fpga.beat_bits % bits:
            raise tree.error(f"must divide beat_bits, which is {fpga.beat_bits}, not {bits}", (*at, name))
    placement = encoder.placement
    if set(placement) != set(_ENCODER_STREAMS):
        raise tree.error(
            f"must place exactly {', '.join(_ENCODER_STREAMS)}, not {', '.join(placement)}", (*at, "placement")
        )
    _check_placement(tree, placement, fpga.ports.names, (*at, "placement"))
    shared = [name for name in ("normed", "hidden", "projected") if placement[name] == placement["parameters"]]
    if encoder.weight_prefetch != "none" and shared:
        raise tree.error(
            f"must be a port without {shared[0]}, as weights come while an expert computes, not {placement['parameters']}",
            (*at, "placement", "parameters"),
        )


def check_memory(loaded: Loaded[MemoryConfig]) -> None:
    """Check what must hold between fields of a memory behind a controller.

    Raises:
        ConfigError: as `check_arch` of its DRAM, the DRAM does not say how long a burst is, or the controller does not
            fit it.
    """
    check_sources(loaded)
    _check_dram(loaded.tree, loaded.value.dram, ("dram",))
    check_limits(loaded.tree, loaded.value.dram, ("dram",))
    check_controller_of(loaded, loaded.value.dram.resolve(), loaded.value.controller, ("controller",))


def check_mcu(loaded: Loaded[McuConfig]) -> None:
    """Check the sources of a microcontroller; between its fields nothing must hold.

    Raises:
        ConfigError: as `check_sources`.
    """
    check_sources(loaded)


def check_controller_of(loaded: Loaded[Any], spec: DramSpec, controller: SchedulerConfig, at: FieldPath) -> None:
    """`check_controller`, with errors at their place in the file.

    Raises:
        ConfigError: the DRAM does not say how long a burst is, or the controller does not fit it.
    """
    from pimsim.arch.controller import check_controller

    if not spec.timing.get("nBL"):
        raise loaded.tree.error("must have nBL, the clocks of a burst on the data pins", ("dram", "timing"))
    try:
        check_controller(spec, controller)
    except ConfigError as error:
        raise loaded.tree.error(error.message, (*at, *error.path.split(".")[1:])) from None


def check_hybrid(loaded: Loaded[Any]) -> None:
    """Check what must hold between fields of a hybrid machine.

    Raises:
        ConfigError: as `check_arch`, or lanes have no ports, a beat is not a whole number of elements, or work is fixed
            to a side though the placement is another one.
    """
    from pimsim.arch.hybrid import PLACEABLE

    check_arch(loaded)  # a hybrid machine has all that a PIM machine has
    tree, arch = loaded.tree, loaded.value
    fpga, element = arch.fpga, 8 * format_bytes(arch.pim.format)
    if arch.pim.format not in FLOAT_BITS:
        raise tree.error(
            f"must be {', '.join(FLOAT_BITS)} on a hybrid machine, not {arch.pim.format!r}", ("pim", "format")
        )
    for name in ("beat_bits", "ports.width_bits"):
        at: FieldPath = ("fpga", *name.split("."))
        given = fpga.beat_bits if name == "beat_bits" else fpga.ports.width_bits
        if given % element:
            raise tree.error(f"must be a multiple of the {element} bits of a {arch.pim.format}, not {given}", at)
    for name, lanes, ports in (("attention", fpga.attention.lanes, 2), ("linear", fpga.linear.lanes, 1)):
        if lanes * ports > fpga.ports.count:
            most = fpga.ports.count // ports
            per = "two ports, one for keys and one for values" if ports == 2 else "a port"
            raise tree.error(
                f"must be at most {most}, as each lane has {per}, of {fpga.ports.count}, not {lanes}",
                ("fpga", name, "lanes"),
            )
    for work in arch.fixed:
        if work not in PLACEABLE:
            raise tree.error(
                f"must be about {', '.join(PLACEABLE)}, not {work!r}{did_you_mean(work, PLACEABLE)}", ("fixed", work)
            )
    if arch.fixed and arch.placement != "fixed":
        raise tree.error(f"must be left out unless placement is fixed, not {arch.placement}", ("fixed",))
    if arch.dispatch == "serial":
        raise tree.error("must be overlap on a hybrid machine, not 'serial'", ("dispatch",))


ARCH_CHECKS: dict[str, Callable[[Loaded[Any]], None]] = {
    "pim": check_arch,
    "aim": check_aim,
    "fpga": check_fpga,
    "memory": check_memory,
    "hybrid": check_hybrid,
    "mcu": check_mcu,
}
"""Kind of architecture -> what checks it across fields."""


def check_attention(loaded: Loaded[AttentionConfig]) -> None:
    """Check that an attention problem has parameters that its algorithm knows, and sizes that it takes.

    Raises:
        ConfigError: a parameter is unknown or out of range, sizes do not fit each other, or the algorithm has no such
            phase or case.
    """
    tree, work = loaded.tree, loaded.value
    try:
        method = work.method()
    except WorkloadError as error:
        named = next((key for key in work.parameters if f" {key} of" in str(error) or repr(key) in str(error)), None)
        raise tree.error(str(error), ("parameters", *([named] if named else []))) from None
    try:
        case = work.case()
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise tree.error(message, (message.split()[0],)) from None
    try:
        method.check(case)
    except WorkloadError as error:
        raise tree.error(str(error), ("algorithm" if case.phase in method.phases else "phase",)) from None


MAX_TOKENS = 10_000_000
"""Prompt and generated tokens."""

MAX_MODEL = {"layers": 10_000, "d_model": 1_000_000, "d_ff": 10_000_000, "vocabulary": 100_000_000, "context": 10**9}
"""Largest shape of a decoder; what is larger is a slip, and would only fail for lack of memory."""


def check_decoder(loaded: Loaded[WorkloadConfig]) -> None:
    """Refuse a decoder that is far beyond what can be simulated.

    Raises:
        ConfigError: it has too many tokens or its model is too large.
    """
    limits: dict[tuple[str, ...], int] = {("prompt_tokens",): MAX_TOKENS, ("generate_tokens",): MAX_TOKENS}
    limits |= {("model", name): limit for name, limit in MAX_MODEL.items()}
    for path, limit in limits.items():
        value = getattr(loaded.value.model if path[0] == "model" else loaded.value, path[-1])
        if value > limit:
            raise loaded.tree.error(f"must be at most {limit:,}, not {value:,}", path)


WORKLOAD_CHECKS: dict[str, Callable[[Loaded[Any]], None]] = {"attention": check_attention, "decoder": check_decoder}
"""Kind of workload -> what checks it across fields, for kinds that need it."""


def check_limits(tree: Tree, dram: DramConfig, at: FieldPath = ()) -> None:
    """Refuse a DRAM that no simulation could get through: far too large, or always busy refreshing.

    Raises:
        ConfigError: a value lies outside what is meant to be possible; the limits are far beyond any real part.
    """
    _check_names(tree, dram, at)
    _check_sizes(tree, dram, at)
    spec = dram.resolve()
    _check_times(tree, spec, at)
    _check_refresh(tree, dram, spec, at)


def check_sources(loaded: Loaded[M]) -> None:
    """Check that every ``sources`` entry has a trust word and is about a field that exists.

    Raises:
        ConfigError: an entry is malformed or names no field.
    """
    data = loaded.value.model_dump(mode="json")
    for source in loaded.sources:
        _check_path(loaded.tree, data, source)
        trust, colon, origin = source.text.partition(":")
        if trust not in TRUST_WORDS or not colon or not origin.strip():
            raise loaded.tree.error(
                f"must be '<trust>: <origin>' with a trust word of {', '.join(TRUST_WORDS)}, not {source.text!r}"
                f"{did_you_mean(trust, TRUST_WORDS)}",
                source.declared_at,
            )


def unsourced(loaded: Loaded[M]) -> list[str]:
    """Dotted path of every number that is written down and that no ``sources`` entry covers."""
    return [dotted(path) for path in loaded.numbers if loaded.source_of(path) is None]


def _load(
    kind: str, model: type[M], name_or_path: str | Path, overrides: Iterable[tuple[str, str]], *, prefix: str
) -> Loaded[M]:
    path = catalog.find(kind, name_or_path)
    tree = apply_overrides(load_tree(path), overrides, model=model, prefix=prefix)
    return Loaded(validate(tree, model), tree, path)


def _of_its_kind(
    kinds: Mapping[str, type[Documented]],
    tree: Tree,
    path: Path,
    overrides: Iterable[tuple[str, str]],
    *,
    prefix: str,
) -> Loaded[Any]:
    """The tree as the model of its ``kind``, which an override may change."""
    tree = apply_overrides(tree, overrides, model=_model_of(kinds, tree), prefix=prefix)
    return Loaded(validate(tree, _model_of(kinds, tree)), tree, path)


def _model_of(kinds: Mapping[str, type[Documented]], tree: Tree) -> type[Documented]:
    kind = tree.data.get("kind", next(iter(kinds)))
    if not isinstance(kind, str) or kind not in kinds:
        hint = did_you_mean(kind, kinds) if isinstance(kind, str) else ""
        raise tree.error(f"must be one of {', '.join(kinds)}, not {kind!r}{hint}", ("kind",))
    return kinds[kind]


# ------------------------------------------------------------------------------------------------------------ checks


def _check_dram(tree: Tree, dram: DramConfig, at: FieldPath) -> None:
    """Resolve once; errors, whose paths start with ``dram``, get their place in the file."""
    try:
        dram.resolve()
    except ConfigError as error:
        if error.file is not None:
            raise
        raise tree.error(error.message, (*at, *_path_in(tree, error.path, at))) from None


def _path_in(tree: Tree, text: str, at: FieldPath) -> FieldPath:
    parts: list[str | int] = []
    for part in text.removeprefix("dram").strip(".").split("."):
        index = (*at, *parts, int(part)) if part.isdecimal() else None
        parts.append(int(part) if index is not None and index in tree.positions else part)
    return tuple(parts)


def _check_pim(tree: Tree, arch: ArchConfig) -> None:
    pim, dram = arch.pim, arch.dram
    weight_bytes = format_bytes(pim.format)
    if pim.multipliers is not None and pim.multipliers * weight_bytes != dram.burst_bytes:
        fitting = dram.burst_bytes / weight_bytes
        raise tree.error(
            f"must be dram.burst_bytes / bytes of a {pim.format} = {dram.burst_bytes} / {weight_bytes} = {fitting:g}, "
            f"so that one column access feeds every multiplier, not {pim.multipliers}",
            ("pim", "multipliers"),
        )
    fitting_accumulators = accumulators_of(pim.format)
    if pim.accumulator is not None and pim.accumulator not in fitting_accumulators:
        raise tree.error(
            f"must be one of {', '.join(fitting_accumulators)} to add up products of {pim.format}, not {pim.accumulator!r}",
            ("pim", "accumulator"),
        )
    if pim.global_buffer_bytes % dram.burst_bytes:
        raise tree.error(
            f"must be a multiple of dram.burst_bytes, which is {dram.burst_bytes}, not {pim.global_buffer_bytes}",
            ("pim", "global_buffer_bytes"),
        )
    registers = dram.register_files.get("accumulator", pim.accumulators)
    if pim.accumulators != registers:
        raise tree.error(
            f"must be dram.register_files.accumulator, which is {registers}, not {pim.accumulators}",
            ("pim", "accumulators"),
        )


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_TRACE_COLUMNS = ("cycle", "command", "row", "column")
"""Columns of a command trace that are not the index of a level."""

_SIZES = {
    "tck_ps": (10, 1_000_000),
    "ticks_per_clock": (1, 64),
    "channels": (1, 1024),
    "rows": (1, 2**32),
    "columns": (1, 2**20),
    "burst_bytes": (1, 2**16),
}
_MAX_BANKS = 1024
_MAX_REGISTERS = 1024
_MAX_WINDOW = 1024
_MAX_TICKS = 1_000_000
"""Largest gap, latency and bus occupancy; a wait goes through its refreshes one by one."""

_MAX_INTERVAL = 10**12
_ASIC_SIZES = {
    "clock_mhz": (1, 100_000),
    "adder_latency": (1, 1000),
    "multiplier_latency": (1, 1000),
    "functions.exp_taylor_terms": (1, 1000),
    "functions.reciprocal_newton_steps": (1, 1000),
    "functions.rsqrt_newton_steps": (1, 1000),
}


def _check_range(tree: Tree, value: float, bounds: tuple[int, int], path: FieldPath, what: str = "") -> None:
    low, high = bounds
    if not low <= value <= high:
        subject = f"{what} must" if what else "must"
        raise tree.error(f"{subject} lie in {low:,}..{high:,}, not {_number(value)}", path)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) and abs(value) < 10**15 else f"{float(value):g}"


def _check_names(tree: Tree, dram: DramConfig, at: FieldPath) -> None:
    """Levels, register files and commands stand in the columns of traces."""
    for field, names in (("levels", dram.levels), ("register_files", dram.register_files), ("commands", dram.commands)):
        for name in names:
            path = (*at, field, name)
            if not _NAME.fullmatch(name):
                raise tree.error(f"must have a name of letters, digits and _ . - such as bank, not {name!r}", path)
            if field != "commands" and name in _TRACE_COLUMNS:
                raise tree.error(f"must not be called {name!r}, which is a column of command traces", path)


def _check_sizes(tree: Tree, dram: DramConfig, at: FieldPath) -> None:
    for field, bounds in _SIZES.items():
        _check_range(tree, getattr(dram, field), bounds, (*at, field))
    _check_range(tree, math.prod(dram.levels.values()), (1, _MAX_BANKS), (*at, "levels"), "banks of a channel")
    for name, count in dram.register_files.items():
        _check_range(tree, count, (1, _MAX_REGISTERS), (*at, "register_files", name))
    for number, rule in enumerate(dram.rules):
        _check_range(tree, rule.window, (1, _MAX_WINDOW), (*at, "rules", number, "window"))


def _check_times(tree: Tree, spec: DramSpec, at: FieldPath) -> None:
    for name, command in spec.commands.items():
        path = (*at, "commands", name)
        _check_range(tree, command.latency, (0, _MAX_TICKS), (*path, "latency"), "ticks")
        _check_range(tree, command.ticks, (1, _MAX_TICKS), (*path, "ticks"))
    for rule in spec.rules:
        if rule.gap > _MAX_TICKS:
            pair = f"{rule.prev[0]} -> {rule.next[0]} ({rule.text})"
            _check_range(tree, rule.gap, (0, _MAX_TICKS), (*at, "rules"), f"ticks of the rule {pair}")


def _check_refresh(tree: Tree, dram: DramConfig, spec: DramSpec, at: FieldPath) -> None:
    """Between two refreshes, the rows that they closed must be opened again and at least one command must issue."""
    if dram.refresh.policy == "none":
        return
    path = (*at, "refresh", "interval")
    refresh = next(command for command in spec.commands.values() if command.refresh)
    precharges = [c for c in spec.commands.values() if _closes(c) and c.scope == refresh.scope]
    if not precharges:
        raise tree.error(
            f"must be none, or the DRAM must have a command with effect: close, needs: any and scope: {refresh.scope}, "
            f"which goes before {refresh.name}",
            (*at, "refresh", "policy"),
        )
    needed = _refresh_cycle(spec, refresh, precharges[0])
    if spec.refresh_interval <= needed:
        raise tree.error(
            f"must be longer than {needed:,} ticks, which {precharges[0].name}, {refresh.name} and an activate may "
            f"take, so that commands get through; not {spec.refresh_interval:,} ({dram.refresh.interval})",
            path,
        )
    _check_range(tree, spec.refresh_interval, (1, _MAX_INTERVAL), path, "ticks")


def _closes(command: Command) -> bool:
    return command.effect == "close" and command.needs != "open"


def _refresh_cycle(spec: DramSpec, refresh: Command, precharge: Command) -> int:
    """At most so many ticks pass from a due time to the first command that needs the rows again."""
    opens = {name for name, command in spec.commands.items() if command.effect == "open"}
    uses = {name for name, command in spec.commands.items() if command.needs == "open"}
    others = set(spec.commands) - {refresh.name}
    depth = 0 if refresh.scope == "channel" else spec.levels.index(refresh.scope) + 1
    nodes = math.prod(spec.counts[:depth])
    closing = _gap(spec, others, {precharge.name}) + _gap(spec, others, {refresh.name})
    between = _gap(spec, {refresh.name}, {precharge.name, refresh.name}) if nodes > 1 else 0
    opening = _gap(spec, {refresh.name, precharge.name}, opens) + _gap(spec, opens, opens | uses)
    return nodes * (closing + between) + opening


def _gap(spec: DramSpec, prev: set[str], next_: set[str]) -> int:
    """Largest gap from one of ``prev`` to one of ``next_``, the command bus included."""
    gaps = [rule.gap for rule in spec.rules if prev.intersection(rule.prev) and next_.intersection(rule.next)]
    return max([*gaps, *(spec.commands[name].ticks for name in prev)], default=1)


def _check_asic(tree: Tree, asic: AsicConfig) -> None:
    for name, bounds in _ASIC_SIZES.items():
        value: Any = asic
        for part in name.split("."):
            value = getattr(value, part)
        _check_range(tree, value, bounds, ("asic", *name.split(".")))


_PROGRAM = {
    "ACT": {"scope": "bank", "effect": "open", "data": "none"},
    "PREpb": {"scope": "bank", "effect": "close", "data": "none"},
    "RD": {"scope": "bank", "effect": "none", "needs": "open", "data": "read"},
    "WR": {"scope": "bank", "effect": "none", "needs": "open", "data": "write"},
    "PREab": {"scope": "channel", "effect": "close", "data": "none"},
    "ACT_AB": {"scope": "channel", "effect": "open", "data": "none"},
    "MAC_AB": {"scope": "channel", "effect": "none", "needs": "open", "data": "none"},
    "WR_GB": {"scope": "channel", "effect": "none", "data": "write"},
    "RD_MAC": {"scope": "channel", "effect": "none", "data": "read"},
}
"""The commands that programs are made of, and what the mapper relies on; a bank is the innermost level."""


def _check_commands(tree: Tree, dram: DramConfig) -> None:
    innermost = tuple(dram.levels)[-1]
    missing = [name for name in _PROGRAM if name not in dram.commands]
    if missing:
        raise tree.error(
            f"must have the commands of a program, {', '.join(_PROGRAM)}; missing: {', '.join(missing)}",
            ("dram", "commands"),
        )
    for name, facts in _PROGRAM.items():
        for field, wanted in facts.items():
            value = innermost if wanted == "bank" else wanted
            given = getattr(dram.commands[name], field)
            if given != value:
                raise tree.error(f"must be {value}, not {given!r}", ("dram", "commands", name, field))
        if dram.commands[name].after is not None:
            raise tree.error("must be left out for a command of a program", ("dram", "commands", name, "after"))


def _check_path(tree: Tree, data: Any, source: Source) -> None:
    """Walk the path of an entry through the resolved configuration."""
    for depth, part in enumerate(source.path):
        inner = dict(_below(data))
        if part not in inner:
            fields = [str(key) for key in inner if isinstance(data, dict) and key != "sources"]
            known = f"one of {', '.join(fields)}" if fields else "a field"
            message = f"must be about {known}, not {dotted(source.path[depth:])!r}{did_you_mean(str(part), fields)}"
            raise tree.error(message, source.declared_at)
        data = inner[part]


# ----------------------------------------------------------------------------------------------------------- walking


def _sections(value: Any, path: FieldPath) -> Iterator[tuple[FieldPath, Documented]]:
    """Every section with a ``sources`` field, outermost first."""
    if isinstance(value, Documented):
        yield path, value
    for key, inner in _below(value):
        yield from _sections(inner, (*path, key))


def _below(value: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, Model):
        yield from ((name, getattr(value, name)) for name in type(value).model_fields)
    elif isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list | tuple):
        yield from enumerate(value)


def _sources(value: Model, path: FieldPath) -> Iterator[Source]:
    for at, section in _sections(value, path):
        for key, text in section.sources.items():
            yield Source((*at, *_parts(section, key)), text, (*at, "sources", key))


def _parts(section: Any, key: str) -> FieldPath:
    """The parts of a dotted path; a part is an index where the value around it is a list."""
    parts: list[str | int] = []
    here = section
    for part in key.split("."):
        step = int(part) if isinstance(here, list | tuple) and part.isdecimal() else part
        parts.append(step)
        here = dict(_below(here)).get(step)
    return tuple(parts)


def _numbers(data: Any, path: FieldPath) -> Iterator[FieldPath]:
    if isinstance(data, int | float) and not isinstance(data, bool):
        yield path
    elif isinstance(data, dict | list):
        for key, inner in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _numbers(inner, (*path, key))


def _content(value: Any, data: Any) -> Any:
    """Plain data of a model without the fields that are only documentation."""
    if isinstance(value, Model):
        fields = [name for name in type(value).model_fields if name not in _NOT_CONTENT]
        return {name: _content(getattr(value, name), data[name]) for name in fields}
    if isinstance(value, dict):
        return {key: _content(value[key], data[key]) for key in data}
    if isinstance(value, list | tuple):
        return [_content(inner, data[index]) for index, inner in enumerate(value)]
    return data


__all__ = [
    "ARCH_CHECKS",
    "COMMAND_LINE",
    "PREFIXES",
    "Loaded",
    "Source",
    "arch_of",
    "base_tree",
    "check_arch",
    "check_decoder",
    "check_limits",
    "check_sources",
    "load_arch",
    "load_dram",
    "load_workload",
    "split_overrides",
    "unsourced",
    "workload_of",
]
