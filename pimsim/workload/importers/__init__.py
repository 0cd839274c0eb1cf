"""Workloads from model files: a Hugging Face ``config.json`` or a GGUF file."""

from __future__ import annotations

from pathlib import Path

from pimsim.workload.config import WorkloadConfig
from pimsim.workload.requests import SUFFIX as REQUESTS_SUFFIX
from pimsim.workload.requests import requests_tree
from pimsim.workload.trace import SUFFIX, trace_tree
from pimsim.yamlio import Tree, load_tree, validate

GGUF_MAGIC = b"GGUF"
"""First bytes of a GGUF file."""


def load_workload_tree(path: Path) -> Tree:
    """The tree of a workload: imported from a model file, or read from YAML.

    A file is GGUF if it ends in ``.gguf`` or begins with GGUF's magic, a Hugging Face configuration if it ends in
    ``.json`` and does not have the key ``model`` of a workload, and a trace of instructions if it ends in ``.trace``,
    and a trace of requests if it ends in ``.csv``.

    Raises:
        ConfigError: the file cannot be read, or it lacks a field or has a wrong one.
        WorkloadError: its model cannot be expressed.
    """
    if path.suffix.lower() == ".gguf" or _begins(path, GGUF_MAGIC):
        from pimsim.workload.importers import gguf

        return gguf.workload_tree(path)
    if path.suffix.lower() == SUFFIX:
        return trace_tree(path)
    if path.suffix.lower() == REQUESTS_SUFFIX:
        return requests_tree(path)
    if path.suffix.lower() == ".json":
        tree = load_tree(path, inherit=False)
        if "model" not in tree.data:
            from pimsim.workload.importers import hf

            return hf.workload_tree(tree)
    return load_tree(path)


def import_workload(path: Path | str) -> WorkloadConfig:
    """The workload of a model file or YAML file, without overrides.

    Raises:
        ConfigError: the file cannot be read, or it lacks a field or has a wrong one.
        WorkloadError: its model cannot be expressed.
    """
    return validate(load_workload_tree(Path(path)), WorkloadConfig)


def _begins(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(len(magic)) == magic
    except (OSError, ValueError):
        return False


__all__ = ["GGUF_MAGIC", "import_workload", "load_workload_tree"]
