"""pimsim: cycle-accurate simulation of processing-in-memory and FPGA attention accelerators.

::

    result = pimsim.simulate("pim_gpt", "gpt2_decode")

Everything is loaded on first use, so that ``import pimsim`` is instant.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in `typing`, which takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

    from pimsim.config import load_arch, load_workload
    from pimsim.errors import PimsimError
    from pimsim.explore.api import sweep
    from pimsim.result import Result
    from pimsim.run import simulate

__version__ = "0.1.0"

_HOMES = {
    "PimsimError": "pimsim.errors",
    "Result": "pimsim.result",
    "load_arch": "pimsim.config",
    "load_workload": "pimsim.config",
    "simulate": "pimsim.run",
    "sweep": "pimsim.explore.api",
}

__all__ = ["PimsimError", "Result", "__version__", "load_arch", "load_workload", "simulate", "sweep"]


def __getattr__(name: str) -> Any:
    """Load an exported name from its module on first use."""
    from importlib import import_module

    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
