"""Registry of named choices."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pimsim.errors import UnknownName
from pimsim.registry import Registry


def registry() -> Registry[int]:
    made: Registry[int] = Registry("engine")
    made.register("reference")(1)
    made.register("fast")(2)
    return made


def test_get_returns_what_was_registered() -> None:
    assert [registry().get(name) for name in ("fast", "reference")] == [2, 1]


def test_names_are_sorted() -> None:
    assert registry().names() == ["fast", "reference"]


def test_register_returns_what_it_decorates() -> None:
    functions: Registry[Callable[[int], int]] = Registry("function")

    @functions.register("double")
    def double(number: int) -> int:
        return 2 * number

    assert double(2) == 4
    assert functions.get("double") is double


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match=r"^engine 'fast' must be registered only once$"):
        registry().register("fast")(3)


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(
        UnknownName, match=r"^engine must be one of fast, reference, not 'fats'; did you mean 'fast'\?$"
    ):
        registry().get("fats")


def test_an_empty_registry_says_so() -> None:
    with pytest.raises(UnknownName, match=r"^engine must be one of \(none\), not 'fast'$"):
        Registry[int]("engine").get("fast")
