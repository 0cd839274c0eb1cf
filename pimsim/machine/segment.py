"""Runs of commands seen through their timing only: what repeats is recognised, whatever rows it touches.

`Segments` turns the items of a step into a tree of `Node`s. Rows, columns and SRAM addresses are left out (timing does
not depend on them), equal structures become the same object, and long sequences become balanced trees, so that a
part that
was seen before is found again wherever it stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pimsim.program.isa import Item, Run, Where

FAN_OUT = 8
"""Children of a sequence node: few enough to descend quickly, many enough to keep the tree flat."""


class Node:
    """A leaf (a run of commands), a sequence or a loop; interned, so identity is equality.

    `plain` and `refreshed` are the memories of the fast engine: the outcome from a state without a refresh inside, and
    with one that falls due after so many ticks.
    """

    __slots__ = ("body", "children", "command", "count", "kind", "plain", "refreshed", "sweep", "where")

    def __init__(self, kind: Literal["run", "seq", "loop"]) -> None:
        self.kind = kind
        self.command = ""
        self.where: Where = ()
        self.count = 1
        self.sweep = False
        self.children: tuple[Node, ...] = ()
        self.body: Node | None = None
        self.plain: dict[int, Any] = {}
        self.refreshed: dict[tuple[int, int], Any] = {}


class Segments:
    """The interning table."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[object, ...], Node] = {}
        self._of_items: dict[int, tuple[object, Node]] = {}

    def node(self, items: Sequence[Item]) -> Node:
        """The node of a step's items; the same tuple object is looked up by identity."""
        found = self._of_items.get(id(items))
        if found is not None:
            return found[1]
        node = self._sequence([self._item(item) for item in items])
        self._of_items[id(items)] = (items, node)  # keeps the tuple alive, so that its identity stays its own
        return node

    def forget_items(self) -> None:
        """Drop the identity table (its tuples may then be freed)."""
        self._of_items.clear()

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def clear(self) -> None:
        """Forget every node."""
        self._nodes.clear()
        self._of_items.clear()

    def run(self, command: str, where: Where, count: int, sweep: bool = False) -> Node:
        """The leaf for ``count`` commands of one kind."""
        key = ("run", command, where, count, sweep)
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = Node("run")
            node.command, node.where, node.count, node.sweep = command, where, count, sweep
        return node

    def loop(self, body: Node, count: int) -> Node:
        """The node for ``count`` passes over ``body``."""
        if count == 1:
            return body
        key = ("loop", id(body), count)
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = Node("loop")
            node.body, node.count = body, count
        return node

    def _item(self, item: Item) -> Node:
        if isinstance(item, Run):
            return self.run(item.command, item.where, item.count, item.sweep)
        return self.loop(self.node(item.body), item.count)

    def _sequence(self, nodes: list[Node]) -> Node:
        while len(nodes) > FAN_OUT:
            nodes = [self._sequence(nodes[i : i + FAN_OUT]) for i in range(0, len(nodes), FAN_OUT)]
        if len(nodes) == 1:
            return nodes[0]
        key = ("seq", *map(id, nodes))
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = Node("seq")
            node.children = tuple(nodes)
        return node
