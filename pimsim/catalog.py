"""The configurations that come with pimsim, by kind and name."""

from __future__ import annotations

from pathlib import Path

from pimsim.errors import ConfigError, UnknownName
from pimsim.yamlio import load_tree, shipped_folders

KINDS = ("arch", "baseline", "dram", "sweep", "workload")
"""Kinds of configuration file; each has a folder of its own."""

_SUFFIXES = (".yaml", ".yml")


def folder(kind: str) -> Path:
    """The folder with the shipped files of one kind.

    Raises:
        UnknownName: there is no such kind.
    """
    archs, workloads = shipped_folders()
    folders = {"arch": archs, "baseline": archs / "baselines", "dram": archs / "dram", "workload": workloads}
    folders["sweep"] = archs.parent / "sweeps"
    if kind not in folders:
        raise UnknownName("kind", kind, folders)
    return folders[kind]


def names(kind: str) -> list[str]:
    """Names of the shipped files of one kind, sorted.

    Raises:
        UnknownName: there is no such kind.
    """
    return sorted(path.stem for path in folder(kind).glob("*.yaml"))


def find(kind: str, name_or_path: str | Path) -> Path:
    """The file that is meant: an existing path wins, then the shipped file ``NAME`` or ``NAME.yaml``.

    Raises:
        UnknownName: there is neither; the error lists the shipped names.
        ConfigError: the path is a folder.
    """
    path, shipped = Path(name_or_path), names(kind)
    if _exists(path) and not path.is_dir():
        return path
    name = _shipped_name(kind, str(name_or_path))
    if name in shipped:
        return folder(kind) / f"{name}.yaml"
    if _exists(path) and str(name_or_path):
        raise ConfigError("must be a file, not a folder", file=path)
    raise UnknownName(kind, str(name_or_path), shipped)


def describe(kind: str, name: str) -> str:
    """First line of the description of a configuration, or an empty string.

    Raises:
        UnknownName: there is no such configuration.
        ConfigError: its file is not valid YAML.
    """
    description = load_tree(find(kind, name)).data.get("description")
    lines = description.strip().splitlines() if isinstance(description, str) else []
    return lines[0] if lines else ""


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _shipped_name(kind: str, given: str) -> str:
    """The name without suffix and without the folder that files of this kind lie in."""
    for suffix in _SUFFIXES:
        given = given.removesuffix(suffix)
    return given.removeprefix(f"{folder(kind).name}/") if kind in ("baseline", "dram", "sweep") else given
