"""What a history tells of its scene: who played, when faults stood, and what was seen of hints, records and metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from history.history import NEVER, History, Operation

Clock = dict[str, int]
"""Actor -> counter. Absent and zero are the same."""


def relation(a: Clock, b: Clock) -> str:
    """How clock `a` stands to clock `b`: equal, before, after or concurrent.

    >>> relation({"a": 1}, {"a": 2}), relation({"a": 1, "b": 0}, {"a": 1}), relation({"a": 1}, {"b": 1})
    ('before', 'equal', 'concurrent')
    """
    ahead = any(n > b.get(actor, 0) for actor, n in a.items())
    behind = any(n > a.get(actor, 0) for actor, n in b.items())
    return {(False, False): "equal", (False, True): "before", (True, False): "after"}.get(
        (ahead, behind), "concurrent"
    )


class Look(msgspec.Struct, frozen=True):
    """One node's record of a key as it was seen: ids held, the record's clock, and by which operation."""

    op: Operation
    ids: tuple[Any, ...]
    clock: Clock


class Stage:
    """The history of one scene. Seats and roles are those that the scene's own observation names."""

    def __init__(self, history: History) -> None:
        self.history = history
        played = history.observed("scene")
        value: dict[str, Any] = played[0].value if played else {}
        self.seats: dict[str, str] = value.get("seats", {})
        self.keys: dict[str, str] = value.get("keys", {})
        self.order: dict[str, list[str]] = value.get("order", {})

    @property
    def cast(self) -> bool:
        """Whether the scene began at all."""
        return bool(self.seats)

    @property
    def homes(self) -> list[str]:
        """The nodes at the home seats, in the order of preference."""
        return [node for seat, node in self.seats.items() if seat.startswith("home")]

    @property
    def fallbacks(self) -> list[str]:
        return [node for seat, node in self.seats.items() if seat.startswith("fallback")]

    def fault(self, f: str) -> Operation | None:
        """The scene's own fault of this name: the first one that was answered."""
        return next((o for o in self.history.nemesis if o.f == f and o.type == "ok"), None)

    def writes(self, after: int = -1, before: int = NEVER) -> list[Operation]:
        """Puts (of composite operations those inside) invoked between two events."""
        return [o for o in self.history.select("put") if after < o.index < before]

    def hints(self, target: str) -> Iterator[tuple[Operation, int]]:
        """Every look at a node's hints, and how many it held for the target."""
        for o in self.history.observed("hints"):
            yield o, sum(t == target for t, _, _ in o.value)

    def looks(self, node: str, key: str, after: int = -1, before: int = NEVER) -> list[Look]:
        """What was seen of a key at a node between two events, in order."""
        found: list[Look] = []
        for o in self.history.observed("records"):
            if o.node == node and after < o.index < before and key in o.value:
                record = o.value[key]
                found.append(Look(o, tuple(record["ids"]), record["clock"]))
        return found

    @property
    def metrics(self) -> dict[str, Operation]:
        """Each node's last look at its metrics."""
        return {o.node: o for o in self.history.observed("metrics") if o.node is not None}

    def metric(self, name: str) -> dict[str, float]:
        """Each node's last seen value of a metric, all labels added up."""
        return {
            node: sum(v for sample, v in o.value.items() if sample.partition("{")[0] == name)
            for node, o in self.metrics.items()
        }


def end(o: Operation) -> int:
    """The event that completed an answered operation."""
    assert o.complete is not None, o.index
    return o.complete.index
