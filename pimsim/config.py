"""Loading of architectures, workloads and DRAM standards: YAML, overrides, validation and checks across fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pimsim import catalog
from pimsim.arch.dram import DramConfig
from pimsim.arch.kinds import ARCH_KINDS
from pimsim.checks import ARCH_CHECKS, WORKLOAD_CHECKS
from pimsim.checks.dram import check_dram
from pimsim.checks.sources import check_sources
from pimsim.errors import ConfigError, did_you_mean
from pimsim.loaded import COMMAND_LINE, Loaded, M, Source, unsourced
from pimsim.model import Documented
from pimsim.workload.importers import load_workload_tree
from pimsim.workload.kinds import WORKLOAD_KINDS
from pimsim.yamlio import Tree, apply_overrides, load_tree, validate

PREFIXES = ("arch", "workload")
"""First parts of an override path on the command line."""


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
    check_dram(loaded.tree, loaded.value, ())
    return loaded


_EXAMPLES = {"arch": "arch.dram.channels=16", "workload": "workload.generate_tokens=64", "dram": "dram.channels=2"}


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


__all__ = [
    "COMMAND_LINE",
    "PREFIXES",
    "Loaded",
    "Source",
    "arch_of",
    "base_tree",
    "load_arch",
    "load_dram",
    "load_workload",
    "split_overrides",
    "unsourced",
    "workload_of",
]
