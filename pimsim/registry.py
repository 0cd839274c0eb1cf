"""Named choices: strategies, back ends and algorithms that a configuration picks by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Generic, TypeVar

from pimsim.errors import UnknownName

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind, each under a name of its own.

    >>> schedulers: Registry[type] = Registry("scheduler")
    >>> @schedulers.register("in_order")
    ... class InOrder: ...
    >>> schedulers.names()
    ['in_order']
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that enters what it decorates under ``name`` and returns it unchanged.

        Raises:
            ValueError: the name is taken.
        """

        def enter(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} must be registered only once")
            self._entries[name] = entry
            return entry

        return enter

    def get(self, name: str) -> T:
        """What is registered under ``name``.

        Raises:
            UnknownName: nothing is; the error lists the choices.
        """
        if name not in self._entries:
            raise UnknownName(self.kind, name, self._entries)
        return self._entries[name]

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        return sorted(self._entries)


class Lazy(Mapping[str, T]):
    """Classes or functions by name, each imported when it is asked for: a run builds the models of its own kinds only.

    >>> kinds: Lazy[type] = Lazy({"registry": "pimsim.registry:Registry"})
    >>> list(kinds), kinds["registry"].__name__
    (['registry'], 'Registry')
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        """``places``: name -> ``"module:name"``."""
        self._places = places

    def __getitem__(self, key: str) -> T:
        module, _, name = self._places[key].partition(":")
        found: T = getattr(import_module(module), name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
