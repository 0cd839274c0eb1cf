"""The ASIC's SRAM as a map of named buffers."""

from __future__ import annotations

from pimsim.errors import CapacityExceeded


class SramMap:
    """Buffers at fixed element addresses. Buffers of one *overlay* share space because they never live at the same time."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._places: dict[str, tuple[int, int]] = {}
        self._top = 0

    def add(self, name: str, length: int) -> int:
        """Reserve ``length`` elements above everything else; returns the address."""
        self._places[name] = (self._top, length)
        self._top += length
        return self._places[name][0]

    def overlay(self, *groups: dict[str, int]) -> None:
        """Reserve groups of buffers that share the same space: one group is live at a time."""
        start, top = self._top, self._top
        for group in groups:
            self._top = start
            for name, length in group.items():
                self.add(name, length)
            top = max(top, self._top)
        self._top = top

    def __getitem__(self, name: str) -> int:
        return self._places[name][0]

    def length(self, name: str) -> int:
        """Elements of a buffer."""
        return self._places[name][1]

    @property
    def used(self) -> int:
        """Elements in use."""
        return self._top

    @property
    def free(self) -> int:
        """Elements left."""
        return self.capacity - self._top

    def check(self, what: str, element_bytes: int) -> None:
        """Raises: CapacityExceeded, naming the largest buffers, if the map is larger than the SRAM."""
        if self._top <= self.capacity:
            return
        largest = sorted(self._places.items(), key=lambda entry: -entry[1][1])[:4]
        raise CapacityExceeded(
            f"asic.sram_bytes must hold the buffers of {what}: {self._top * element_bytes} bytes, "
            f"not {self.capacity * element_bytes} (largest: "
            + ", ".join(f"{name} {length * element_bytes}" for name, (_, length) in largest)
            + ")"
        )
