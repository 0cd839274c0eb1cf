"""JSON Schemas of the YAML files, for editors that complete and check while one types."""

from __future__ import annotations

from typing import Any, Union

from pydantic import TypeAdapter

from pimsim.arch.dram import DramConfig
from pimsim.arch.kinds import ARCH_KINDS
from pimsim.errors import UnknownName
from pimsim.explore.config import SweepConfig
from pimsim.model import Model
from pimsim.workload.kinds import WORKLOAD_KINDS

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_MODELS: dict[str, tuple[type[Model], ...]] = {
    "arch": tuple(ARCH_KINDS.values()),
    "dram": (DramConfig,),
    "sweep": (SweepConfig,),
    "workload": tuple(WORKLOAD_KINDS.values()),
}
_BASE = {
    "type": ["string", "null"],
    "description": "file or shipped configuration to inherit from: mappings merge, scalars and lists replace",
}


def schema(kind: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one kind of file.

    Every mapping may have a ``base``, and nothing is required, because a base may supply it.

    Raises:
        UnknownName: there is no schema of that kind.
    """
    if kind not in _MODELS:
        raise UnknownName("schema", kind, _MODELS)
    loosened = dict(_loosen(TypeAdapter(Union[_MODELS[kind]]).json_schema()))  # type: ignore[arg-type]  # noqa: UP007
    return {"$schema": DIALECT, **loosened, "title": f"pimsim {kind}"}


def _loosen(node: Any) -> Any:
    """The same schema with ``base`` in every mapping and without lists of required keys."""
    if isinstance(node, list):
        return [_loosen(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("type") != "object":
        return {key: _loosen(value) for key, value in node.items()}
    loosened = {
        key: _loosen(value) for key, value in node.items() if key not in ("required", "properties", "minProperties")
    }
    fields = {name: _loosen(field) for name, field in node.get("properties", {}).items()}
    return {**loosened, "properties": {**fields, "base": _BASE}}


__all__ = ["DIALECT", "schema"]
