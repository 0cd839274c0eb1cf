"""The resolved configuration, with the source of every number."""

from __future__ import annotations

from typing import Any, TypeVar

from pimsim.config import Loaded, unsourced
from pimsim.model import Documented, Model
from pimsim.yamlio import FieldPath, dotted, dump

M = TypeVar("M", bound=Model)


def show(loaded: Loaded[M]) -> str:
    """The resolved configuration as YAML that can be loaded again.

    Behind every number stands where it comes from: ``# trust: origin``, ``# no source``, or ``# default`` if it is
    written nowhere (not inside lists, whose items share a line). ``sources`` mappings are left out.
    """
    written = frozenset(loaded.numbers)
    config = _config(loaded.value)

    def comment(path: FieldPath) -> str:
        if path in written:
            return loaded.source_of(path) or "no source"
        in_list = any(isinstance(part, int) for part in path)
        return "default" if not in_list and _is_number(config, path) else ""

    return dump(config, comment)


def show_json(loaded: Loaded[M]) -> dict[str, Any]:
    """The same as plain data: ``config``, ``sources`` (of each number with one), ``unsourced`` and ``hash``."""
    sources = {dotted(path): loaded.source_of(path) for path in loaded.numbers}
    return {
        "config": _config(loaded.value),
        "sources": {path: source for path, source in sources.items() if source is not None},
        "unsourced": unsourced(loaded),
        "hash": loaded.hash,
    }


def _config(value: Any) -> Any:
    """Plain data of a model, without its sources."""
    if isinstance(value, Model):
        documented = isinstance(value, Documented)
        fields = [name for name in type(value).model_fields if not (documented and name == "sources")]
        return {name: _config(getattr(value, name)) for name in fields}
    if isinstance(value, dict):
        return {key: _config(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_config(inner) for inner in value]
    return value


def _is_number(data: Any, path: FieldPath) -> bool:
    for part in path:
        data = data[part]
    return isinstance(data, int | float) and not isinstance(data, bool)


__all__ = ["show", "show_json"]
