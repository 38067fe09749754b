"""How long replicas took to agree after each heal, from the digests of their token ranges: a measurement, no verdict.

Only home replicas report a range, and only ranges of which they hold anything; a range agrees when all nodes that report it
report the same. Nodes are polled one after the other, so under load a disagreement may be a difference in time.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from history.history import NEVER, History, Operation


class Span(msgspec.Struct, frozen=True):
    """From one heal to the next harm or the final reads. Times are nanoseconds; `end` is an index."""

    healed_by: str
    start: int
    start_ns: int
    end: int


def after_heals(history: History) -> list[dict[str, Any]]:
    """For each heal: `event`, `healed_by`, `polls`, `agreed_after_ms` [last disagreement, first lasting agreement].

    The first bound is 0 if no disagreement was seen. The second is None where agreement did not last until the next fault
    or the final reads: the time is right-censored.
    """
    polls = [o for o in history.observed("digest") if o.node is not None]
    nodes = {o.node for o in polls}
    return [_measure(span, polls, nodes) for span in _spans(history)] if polls else []


def _spans(history: History) -> list[Span]:
    """Heals that follow one another without harm between them are one heal: the last of them."""
    stop = history.phases.get("final", NEVER)
    marks: list[tuple[int, Operation]] = []
    for o in history.nemesis:
        healed = o.complete is not None and o.invoke.meta.get("heal")
        marks.append((o.complete.index if healed and o.complete else o.index, o))
    marks.sort(key=lambda mark: mark[0])
    spans: list[Span] = []
    for i, (at, o) in enumerate(marks):
        following = marks[i + 1][1] if i + 1 < len(marks) else None
        done = o.complete
        if not o.invoke.meta.get("heal") or done is None or o.type != "ok" or at > stop:
            continue
        if following is None:
            spans.append(Span(o.f, at, done.time, stop))
        elif not following.invoke.meta.get("heal"):
            spans.append(Span(o.f, at, done.time, min(following.index, stop)))
    return spans


class _Agreement:
    """Which ranges the nodes' last digests agree about, kept up to date poll by poll."""

    def __init__(self, nodes: set[str | None]) -> None:
        self._silent = set(nodes)
        self._last: dict[str | None, dict[str, str]] = {}
        self._at_ns: dict[str | None, int] = {}
        self._reports: dict[str, Counter[str]] = {}
        self._split = 0

    def poll(self, node: str | None, digests: dict[str, str], at_ns: int) -> None:
        self._silent.discard(node)
        self._at_ns[node] = at_ns
        for name, digest in self._last.get(node, {}).items():
            self._count(name, digest, -1)
        for name, digest in digests.items():
            self._count(name, digest, 1)
        self._last[node] = digests

    def _count(self, name: str, digest: str, step: int) -> None:
        reports = self._reports.setdefault(name, Counter())
        self._split -= len(reports) > 1
        reports[digest] += step
        if not reports[digest]:
            del reports[digest]
        self._split += len(reports) > 1

    @property
    def split(self) -> bool:
        """Whether nodes that have reported differ about some range."""
        return self._split > 0

    @property
    def oldest_ns(self) -> int:
        """When the node was polled that was polled longest ago: a split is known of that time, not of now."""
        return min(self._at_ns.values())

    @property
    def reached(self) -> bool:
        """Whether every node has reported and no range is split."""
        return not self._silent and not self.split


def _measure(span: Span, polls: list[Operation], nodes: set[str | None]) -> dict[str, Any]:
    state = _Agreement(nodes)
    count = 0
    last_disagreement_ns = span.start_ns
    first_agreement_ns: int | None = None
    for o in polls:
        if not span.start < o.index < span.end:
            continue
        count += 1
        assert o.complete is not None, o.index
        state.poll(o.node, o.value, o.complete.time)
        if state.reached:
            first_agreement_ns = o.complete.time if first_agreement_ns is None else first_agreement_ns
        elif state.split:
            last_disagreement_ns, first_agreement_ns = state.oldest_ns, None
    after = None if first_agreement_ns is None else _ms(first_agreement_ns - span.start_ns)
    return {
        "event": span.start,
        "healed_by": span.healed_by,
        "polls": count,
        "agreed_after_ms": [_ms(last_disagreement_ns - span.start_ns), after],
    }


def _ms(duration_ns: int) -> float:
    return round(duration_ns / 1e6, 3)
