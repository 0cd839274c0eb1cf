"""Energy of the processor from RAPL, where the system lets one read it."""

from __future__ import annotations

from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
"""Where Linux shows the counters."""


class Rapl:
    """Counters of all processor packages, summed; they include whatever else runs on the machine."""

    def __init__(self, root: Path = POWERCAP) -> None:
        self._zones = [
            (zone / "energy_uj", _number(zone / "max_energy_range_uj") or 0)
            for zone in sorted(root.glob("intel-rapl:*"))
            if _text(zone / "name").startswith("package")
        ]

    def read(self) -> list[int] | None:
        """Counters in microjoules; None if there is none, or one cannot be read (most systems: by root only)."""
        counters = [_number(path) for path, _ in self._zones]
        known = [value for value in counters if value is not None]
        return known if known and len(known) == len(counters) else None

    def joules(self, before: list[int] | None, after: list[int] | None) -> float | None:
        """Energy between two readings; a counter that went down has wrapped around once."""
        if before is None or after is None:
            return None
        moved = 0
        for (_, limit), start, end in zip(self._zones, before, after, strict=True):
            moved += end - start if end >= start else end - start + limit
        return moved * 1e-6


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None


__all__ = ["POWERCAP", "Rapl"]
