"""Packages that `pip install pimsim` leaves out: what needs one asks for it before it does anything else."""

from __future__ import annotations

from importlib.util import find_spec

from pimsim.errors import InputError

_DISTRIBUTIONS = {"vcd": "pyvcd"}
"""Modules whose package has another name."""


def require(extra: str, what: str, *modules: str) -> None:
    """Refuse to begin without modules of an extra of ``pyproject.toml``.

    >>> require("report", "a table", "math")

    Raises:
        InputError: one is not installed; the message names the packages and how to install them.
    """
    missing = [_DISTRIBUTIONS.get(module, module) for module in modules if find_spec(module) is None]
    if missing:
        packages = f"package{'s' if len(missing) > 1 else ''} {' and '.join(missing)}"
        raise InputError(f"{what} must have the {packages}: pip install 'pimsim[{extra}]'")


__all__ = ["require"]
