"""Partitions of the network between nodes: five shapes, dropped in silence or rejected."""

from __future__ import annotations

from collections.abc import Iterable

from nemeses.draw import Draw, shuffled
from nemeses.fault import Link, Partition

SHAPES = ("halves", "isolate", "majorities-ring", "bridge", "one-way")


def between(left: Iterable[str], right: Iterable[str]) -> set[Link]:
    """Every link between two groups, both ways."""
    right = tuple(right)
    return {link for a in left for b in right for link in ((a, b), (b, a))}


def halves(nodes: tuple[str, ...]) -> set[Link]:
    """A minority and a majority that do not hear each other.

    >>> len(halves(("a", "b", "c", "d", "e")))
    12
    """
    middle = len(nodes) // 2
    return between(nodes[:middle], nodes[middle:])


def isolate(nodes: tuple[str, ...]) -> set[Link]:
    """The first node alone."""
    return between(nodes[:1], nodes[1:])


def bridge(nodes: tuple[str, ...]) -> set[Link]:
    """Two halves that only the node in the middle still hears, and that both hear it."""
    middle = len(nodes) // 2
    return between(nodes[:middle], nodes[middle + 1 :])


def majorities_ring(nodes: tuple[str, ...]) -> set[Link]:
    """Every node hears a majority, and no two the same one: each only its neighbours on a ring."""
    count = len(nodes)
    reach = count // 4 + (count % 4 > 1) if count > 3 else 1
    near = {frozenset((nodes[i], nodes[(i + d) % count])) for i in range(count) for d in range(1, reach + 1)}
    return {(a, b) for a in nodes for b in nodes if a != b and frozenset((a, b)) not in near}


def one_way(nodes: tuple[str, ...]) -> set[Link]:
    """What the minority sends does not arrive; it still hears the majority."""
    middle = max(1, len(nodes) // 2)
    return {(a, b) for a in nodes[:middle] for b in nodes[middle:]}


def half_healed(cut: Partition, draw: Draw, number: int) -> Partition:
    """The cut on its way to being healed: each pair of nodes can speak in one direction again, which one is drawn.

    Whoever hears a peer believes it to be up, and what it then sends is lost: the hour of truth for hinted handoff.
    """
    rank = {node: draw("half-healed", number, node) for link in cut.blocked for node in link}
    blocked = tuple(
        (a, b) for a, b in cut.blocked if (b, a) not in cut.blocked or (rank[a], a) < (rank[b], b)
    )
    return Partition("half-healed", blocked)


_SHAPES = {
    "halves": halves,
    "isolate": isolate,
    "majorities-ring": majorities_ring,
    "bridge": bridge,
    "one-way": one_way,
}


def draw(nodes: tuple[str, ...], draw: Draw, number: int) -> Partition:
    """The `number`-th partition of a run: shape, sides and mode drawn."""
    shapes = SHAPES if len(nodes) > 3 else ("halves", "isolate", "one-way")
    shape = shapes[draw("shape", number) % len(shapes)]
    mixed = shuffled(nodes, draw, "sides", number)
    mode = "reject" if draw("mode", number) % 4 == 0 else "drop"
    return Partition(shape, tuple(sorted(_SHAPES[shape](mixed))), mode)
