"""Every element that was known to be in the set stays there (Jepsen's set-full), and no read shows one twice.

An element is known from the acknowledgement of its add or the end of the first read that shows it, whichever comes first;
it is lost iff the last read began later and lacks it. Absence counts only in reads that began after it was known.
"""

from __future__ import annotations

from typing import Any

import msgspec

from checkers.elements import Reads, reads_by_key, unexplained
from checkers.verdict import ANOMALIES_MAX, Anomaly, Verdict, conclude
from checkers.witness import Link, Step, anomaly
from history.history import NEVER, History, Operation

RANK = ("lost", "duplicate", "phantom", "failed-but-visible")


class Counts(msgspec.Struct):
    """Evidence, added up over the keys."""

    attempts: int = 0
    acknowledged: int = 0
    stable: int = 0
    """Known, and in the last read that could show it."""
    lost_count: int = 0
    never_read: int = 0
    """Acknowledged, in no read, and no later read could have shown it."""
    stale: int = 0
    """Absent from a read that began after it was known, and present in a later one: measured only."""
    stale_ms_max: float = 0.0
    """The longest time from when an element was known to the start of a read without it that was not the last word."""
    reads: int = 0


class _Element:
    """What reads have shown of one element so far."""

    __slots__ = ("add", "first", "known", "last_seen", "stale_at")

    def __init__(self, add: Operation) -> None:
        self.add = add
        self.known = add.end if add.type == "ok" else NEVER
        self.first: Operation | None = None
        self.last_seen = -1
        """Position of the last read that shows it."""
        self.stale_at = -1
        """Position of the last read that lacks it, though it was known and was seen later."""


class SetFull:
    name = "set_full"

    def check(self, history: History) -> Verdict:
        counts = Counts()
        found: list[Anomaly] = []
        undecided: list[str] = []
        lost: list[Any] = []
        by_key = reads_by_key(history)
        adds: dict[Any, dict[Any, Operation]] = {}
        for op in history.select("add"):
            adds.setdefault(op.key, {}).setdefault(op.invoke.value, op)
        for key, reads in by_key.items():
            added = adds.get(key, {})
            found += unexplained(reads.reads, added, "element")
            gone = self._key(history, reads, added, counts, undecided)
            lost += [e.add.invoke.value for e in gone]
            found += [_lost(e, reads) for e in gone]
        found.sort(key=lambda a: (RANK.index(a.kind), a.witness))
        reason = undecided[0] if undecided else ""
        if counts.reads == 0:
            reason = "no read succeeded"
        elif counts.stable + counts.lost_count == 0:
            reason = reason or "no element was known and then read"
        return conclude(
            history,
            self.name,
            anomalies=found,
            undecided=reason,
            evidence={
                **msgspec.to_builtins(counts),
                "lost": lost[:ANOMALIES_MAX],
                "kinds": {kind: n for kind in RANK if (n := sum(a.kind == kind for a in found))},
                "undecided": undecided[:ANOMALIES_MAX],
            },
        )

    def _key(
        self,
        history: History,
        reads: Reads,
        added: dict[Any, Operation],
        counts: Counts,
        undecided: list[str],
    ) -> list[_Element]:
        """The key's lost elements. Each read costs its own length, not the number of all elements."""
        elements = {value: _Element(add) for value, add in added.items()}
        counts.attempts += len(elements)
        counts.acknowledged += sum(e.add.type == "ok" for e in elements.values())
        counts.reads += len(reads.reads)
        for read in reads.reads:
            for v in read.value or ():
                e = elements.get(v)
                if e is not None and read.end < e.known:
                    e.known = read.end
        for position, read in enumerate(reads.reads):
            for v in read.value or ():
                e = elements.get(v)
                if e is None:
                    continue
                gap = position - 1
                if e.last_seen < gap and reads.reads[gap].index > e.known:
                    e.stale_at = gap
                e.first = e.first or read
                e.last_seen = position
        return self._sorted_out(history, reads, elements, counts, undecided)

    def _sorted_out(
        self,
        history: History,
        reads: Reads,
        elements: dict[Any, _Element],
        counts: Counts,
        undecided: list[str],
    ) -> list[_Element]:
        last = reads.last
        at = reads.reads.index(last) if last is not None else NEVER
        gone: list[_Element] = []
        unread = 0
        for e in elements.values():
            if e.stale_at >= 0:
                counts.stale += 1
                late_ns = reads.reads[e.stale_at].invoke.time - history.events[e.known].time
                counts.stale_ms_max = max(counts.stale_ms_max, round(late_ns / 1e6, 3))
            if e.known == NEVER:
                continue
            if last is not None and last.index > e.known and e.last_seen < at:
                counts.lost_count += 1
                gone.append(e)
            elif e.first is None:
                counts.never_read += 1
                unread += last is None or last.index < e.known
            elif last is None:
                unread += 1
            else:
                counts.stable += 1
        if unread:
            key = next(iter(elements.values())).add.key
            undecided.append(f"{unread} elements of key {key} were known, and no last read could show them")
        return gone


def _lost(e: _Element, reads: Reads) -> Anomaly:
    value = e.add.invoke.value
    last = reads.last
    assert last is not None, value
    steps: list[Step] = []
    links: list[Link] = []
    if e.add.type == "ok":
        steps.append((e.add, "acknowledged, so it has to stay"))
        known = f"was acknowledged (event {e.add.end})"
    else:
        steps.append((e.add, "nobody knew whether it had happened"))
        known = f"was read (event {e.known})"
    if e.first is not None:
        steps.append((e.first, f"shows {value}: it had happened"))
        links.append((e.add, "read-from", e.first))
    steps.append((last, f"the last read, begun after {value} was known, lacks it"))
    links.append((e.add, "observed", last))
    if e.last_seen >= 0:
        steps.append((reads.reads[e.last_seen], f"the last read that shows {value}"))
    sentence = (
        f"element {value} of key {e.add.key} {known} and is missing from the last read (event {last.index})"
    )
    return anomaly("lost", e.add.key, sentence, steps, links)
