"""What the probes saw over time, and how many operations succeeded where and when."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import msgspec

from harness.report.values import items, mapping
from history.history import History, Operation
from history.op import NEMESIS, PROBE

POINTS_MAX = 4_000
"""Points of one line; beyond them each stretch of time keeps its highest."""


class Points(msgspec.Struct, frozen=True):
    """A line of steps: times in microseconds and values; -1 where the node gave no answer."""

    at_us: list[int]
    values: list[int]

    @property
    def highest(self) -> int:
        return max(self.values, default=-1)


class Phase(msgspec.Struct, frozen=True):
    """A stretch of the run; `start` is the line that opened it."""

    name: str
    start: int
    start_ns: int
    end_ns: int


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """How many token ranges the nodes held different contents of, whenever all had been looked at."""

    points: Points
    ranges: int
    settled_ns: int | None
    """The first look from which on they agreed for good; None when the last look still saw a difference."""


class Share(msgspec.Struct, frozen=True):
    """How a group of operations ended."""

    ok: int = 0
    fail: int = 0
    info: int = 0

    @property
    def total(self) -> int:
        return self.ok + self.fail + self.info


def phases(history: History) -> list[Phase]:
    """The phases that the run wrote down, in order; none in foreign histories."""
    opened = [e for e in history.events if e.f == "phase" and e.type == "info" and e.process == NEMESIS]
    ends = [*(e.time for e in opened[1:]), end_ns(history)]
    return [
        Phase(str(e.value), e.index, e.time, max(end, e.time)) for e, end in zip(opened, ends, strict=False)
    ]


def end_ns(history: History) -> int:
    return max((e.time for e in history.events), default=0)


def top_level(operations: Sequence[Operation]) -> list[Operation]:
    """What clients asked for, without the store requests inside."""
    return [o for o in operations if o.parent is None]


def hints(operations: Sequence[Operation]) -> dict[str, Points]:
    """For each node, how many hints it held for others at each look."""
    found: dict[str, Points] = {}
    for o in operations:
        if o.process != PROBE or o.f != "hints" or o.node is None:
            continue
        points = found.setdefault(o.node, Points([], []))
        points.at_us.append((o.complete or o.invoke).time // 1_000)
        waiting = items(o.value) if o.type == "ok" else None
        points.values.append(-1 if waiting is None else len(waiting))
    return {node: thinned(found[node]) for node in sorted(found)}


def agreement(operations: Sequence[Operation]) -> Agreement | None:
    """From the `digest` observations: in how many token ranges any two nodes differed. None where nobody looked."""
    latest: dict[str, dict[str, Any]] = {}
    points = Points([], [])
    ranges: set[str] = set()
    looked: set[str] = set()
    settled: int | None = None
    observed = [o for o in operations if o.process == PROBE and o.f == "digest" and o.node is not None]
    nodes = {o.node for o in observed}
    for position, o in enumerate(observed):
        assert o.node is not None
        if o.type == "ok":
            latest[o.node] = mapping(o.value)
            ranges |= latest[o.node].keys()
        looked.add(o.node)
        # A look at the whole ring is over when a node comes round again.
        if looked != nodes and position + 1 < len(observed) and observed[position + 1].node not in looked:
            continue
        looked = set()
        apart = sum(len({str(held[r]) for held in latest.values() if r in held}) > 1 for r in ranges)
        at = (o.complete or o.invoke).time
        points.at_us.append(at // 1_000)
        points.values.append(apart)
        settled = None if apart else (at if settled is None else settled)
    if not points.at_us:
        return None
    return Agreement(points=thinned(points), ranges=len(ranges), settled_ns=settled)


def thinned(points: Points) -> Points:
    """At most POINTS_MAX points: the highest of each of so many equal stretches."""
    if len(points.at_us) <= POINTS_MAX:
        return points
    first, last = points.at_us[0], points.at_us[-1]
    width = max(1, (last - first) // POINTS_MAX + 1)
    best: dict[int, tuple[int, int]] = {}
    for at, value in zip(points.at_us, points.values, strict=True):
        stretch = (at - first) // width
        if stretch not in best or value > best[stretch][1]:
            best[stretch] = (at, value)
    kept = [best[stretch] for stretch in sorted(best)]
    return Points([at for at, _ in kept], [value for _, value in kept])


def availability(operations: Sequence[Operation], spans: Sequence[Phase]) -> dict[str, dict[str, Share]]:
    """node -> phase -> how its operations ended; a run without phases is one phase, named `run`."""
    opened = [p.start for p in spans]
    counts: dict[str, dict[str, list[int]]] = {}
    for o in operations:
        position = bisect_right(opened, o.index) - 1
        phase = spans[position].name if position >= 0 else "run"
        ended = counts.setdefault(o.node or "—", {}).setdefault(phase, [0, 0, 0])
        ended[("ok", "fail", "info").index(o.type)] += 1
    return {n: {p: Share(*ended) for p, ended in counts[n].items()} for n in sorted(counts)}
