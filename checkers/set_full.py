"""Every element that was known to be in the set stays there (Jepsen's set-full), and no read shows one twice.

An element is known from the acknowledgement of its add or the end of the first read that shows it, whichever comes first;
it is lost iff the last read began later and lacks it. Absence counts only in reads that began after it was known.
"""

from __future__ import annotations

from typing import Any

import msgspec

from checkers.elements import Presence, Reads, presence, reads_by_key, unexplained
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
            seen = presence(reads.reads)
            found += unexplained(reads.reads, seen, added, "element")
            counts.attempts += len(added)
            counts.acknowledged += sum(add.type == "ok" for add in added.values())
            counts.reads += len(reads.reads)
            gone = _sorted_out(history, reads, seen, added, counts, undecided)
            lost += [add.invoke.value for add in gone]
            found += [_lost(add, reads, seen.get(add.invoke.value)) for add in gone]
        found.sort(key=lambda a: (RANK.index(a.kind), a.witness))
        reason = undecided[0] if undecided else ""
        if counts.reads == 0:
            reason = "no read succeeded"
        elif counts.stable + counts.lost_count == 0:
            reason = reason or "no element was known and then read"
        verdict = conclude(
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
        if counts.lost_count > 1:
            told = f"{counts.lost_count} elements of {counts.attempts} are lost ({counts.acknowledged} were acknowledged)"
            return msgspec.structs.replace(verdict, reason=f"{told}: {verdict.reason}")
        return verdict


def _known(add: Operation, seen: Presence | None) -> int:
    """The event from which on an element is known to be there."""
    acknowledged = add.end if add.type == "ok" else NEVER
    return acknowledged if seen is None else min(acknowledged, seen.shown.end)


def _sorted_out(
    history: History,
    reads: Reads,
    presences: dict[Any, Presence],
    added: dict[Any, Operation],
    counts: Counts,
    undecided: list[str],
) -> list[Operation]:
    """The adds of lost elements; all others are counted."""
    last = reads.last
    at = reads.reads.index(last) if last is not None else NEVER
    gone: list[Operation] = []
    unread = 0
    for value, add in added.items():
        seen = presences.get(value)
        known = _known(add, seen)
        if seen is not None:
            _count_stale(history, reads, seen, known, counts)
        if known == NEVER:
            continue
        if last is not None and last.index > known and (seen is None or seen.runs[-1][1] < at):
            counts.lost_count += 1
            gone.append(add)
        elif seen is None:
            counts.never_read += 1
            unread += last is None or last.index < known
        elif last is None:
            unread += 1
        else:
            counts.stable += 1
    if unread:
        key = next(iter(added.values())).key
        undecided.append(f"{unread} elements of key {key} were known, and no last read could show them")
    return gone


def _count_stale(history: History, reads: Reads, seen: Presence, known: int, counts: Counts) -> None:
    # The last read before a run of reads that show the element began latest of all that lack it.
    late = [start - 1 for start, _ in seen.runs if start > 0 and reads.reads[start - 1].index > known]
    if late:
        counts.stale += 1
        late_ns = reads.reads[late[-1]].invoke.time - history.events[known].time
        counts.stale_ms_max = max(counts.stale_ms_max, round(late_ns / 1e6, 3))


def _lost(add: Operation, reads: Reads, seen: Presence | None) -> Anomaly:
    value = add.invoke.value
    last = reads.last
    assert last is not None, value
    steps: list[Step] = []
    links: list[Link] = [(add, "observed", last)]
    if add.type == "ok":
        steps.append((add, "acknowledged, so it has to stay"))
        known = f"was acknowledged (event {add.end})"
    else:
        assert seen is not None, value
        steps.append((add, "nobody knew whether it had happened"))
        known = f"was read (event {seen.shown.index})"
    steps.append((last, f"the last read, begun after {value} was known, lacks it"))
    if seen is not None:
        steps.append((seen.shown, f"shows {value}: it had happened"))
        links.append((add, "read-from", seen.shown))
        steps.append((reads.reads[seen.runs[-1][1]], f"the last read that shows {value}"))
    sentence = (
        f"element {value} of key {add.key} {known} and is missing from the last read (event {last.index})"
    )
    return anomaly("lost", add.key, sentence, steps, links)
