"""What may go by itself, without a delete: values whose time to live may be over, and tombstones that are reaped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from checkers.supersession import Graph
from checkers.verdict import terms
from history.history import History


class Fleeting:
    """Times are the history's. Where clocks may differ any time to live may be over: the store goes by wall clocks."""

    def __init__(self, history: History) -> None:
        self._last_ns = history.events[-1].time if history.events else 0
        header = history.header
        self._skewed = "clock" in header.families or header.world != "sim"
        self.reaps = bool(terms(history, "convergence").get("reaps"))
        """Whether tombstones may be forgotten in the course of the run."""
        self._gone: dict[Any, set[Any]] = {}

    def gone(self, graph: Graph) -> set[Any]:
        """Ids that an expiry may have taken away by the end: those that may have expired, and what they had replaced."""
        found = self._gone.get(graph.key)
        if found is None:
            found = self._gone[graph.key] = graph.closure(
                id for id in graph.contexts if self._over(graph, id)
            )
        return found

    def _over(self, graph: Graph, id: Any) -> bool:
        put = graph.puts[id]
        ttl_seconds = put.invoke.meta.get("ttl_seconds")
        if not ttl_seconds:
            return False
        return self._skewed or self._last_ns - put.invoke.time >= ttl_seconds * 1e9

    def comparable(
        self, held: Mapping[str, tuple[frozenset[Any], bool]], graph: Graph | None
    ) -> dict[str, tuple[frozenset[Any], bool]]:
        """(ids, whether a tombstone is held) by node, without what may have gone between one look and the next."""
        gone = self.gone(graph) if graph is not None else set[Any]()
        return {
            node: (ids - gone, tombstone and not gone and not (self.reaps and not ids))
            for node, (ids, tombstone) in held.items()
        }
