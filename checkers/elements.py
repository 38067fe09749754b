"""What readers saw of things that are added once: reads in order, and which read has the last word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from checkers.verdict import Anomaly
from checkers.witness import Step, anomaly
from history.history import History, Operation


class Reads(msgspec.Struct, frozen=True):
    """The successful reads of one key, in the order of invocation."""

    reads: tuple[Operation, ...]
    final: tuple[Operation, ...]
    """Those that asked after the heal."""
    quiesced: bool
    """Whether the last read has the last word: it asked after the heal, or the history has no phases, and so no other end."""

    @property
    def last(self) -> Operation | None:
        judges = self.final or (self.reads if self.quiesced else ())
        return judges[-1] if judges else None


def reads_by_key(history: History) -> dict[Any, Reads]:
    """Of every key that a composite operation touched, also where no read of it succeeded."""
    seen: dict[Any, list[Operation]] = {}
    for op in history.select("add", "remove", "read"):
        reads = seen.setdefault(op.key, [])
        if op.f == "read" and op.type == "ok":
            reads.append(op)
    return {
        key: Reads(
            tuple(reads),
            final := tuple(r for r in reads if r.invoke.meta.get("final")),
            bool(final) or not history.phases,
        )
        for key, reads in seen.items()
    }


class Presence:
    """What the reads of a key showed of one element."""

    __slots__ = ("first", "runs", "shown")

    def __init__(self, first: Operation) -> None:
        self.first = first
        """The first read, by invocation, that shows it."""
        self.shown = first
        """The read that shows it and was over first."""
        self.runs: list[tuple[int, int]] = []
        """Positions of the first and the last read of each unbroken run of reads that show it."""


def presence(reads: Sequence[Operation]) -> dict[Any, Presence]:
    """Element -> what reads showed of it.

    Python's work is done where something appears or disappears, not for each element of each read.
    """
    found: dict[Any, Presence] = {}
    since: dict[Any, int] = {}
    before: set[Any] = set()
    for position, read in enumerate(reads):
        now: set[Any] = set(read.value or ())
        for v in before - now:
            found[v].runs.append((since.pop(v), position - 1))
        for v in now - before:
            since[v] = position
            if v not in found:
                found[v] = Presence(read)
        before = now
    for v, start in since.items():
        found[v].runs.append((start, len(reads) - 1))
    for seen in found.values():
        for start, last in seen.runs:
            position = start
            # A read that began only after the earliest known end cannot be over before it.
            while position <= last and reads[position].index < seen.shown.end:
                if reads[position].end < seen.shown.end:
                    seen.shown = reads[position]
                position += 1
    return found


def unexplained(
    reads: Sequence[Operation], seen: dict[Any, Presence], added: dict[Any, Operation], what: str
) -> list[Anomaly]:
    """What reads show that cannot be: never added, added without effect for certain, or twice at once."""
    found: dict[tuple[str, Any], Anomaly] = {}
    for read in reads:
        values: list[Any] = read.value or []
        if len(set(values)) == len(values):
            continue
        for v, times in Counter(values).items():
            if times > 1 and ("duplicate", v) not in found:
                sentence = f"read (event {read.index}) of key {read.key} shows {what} {v} {times} times"
                steps: list[Step] = [(read, f"shows {v} {times} times")]
                found["duplicate", v] = anomaly("duplicate", read.key, sentence, steps)
    for v, shown in seen.items():
        add, read = added.get(v), shown.shown
        if add is None or add.index > read.end:
            when = "nobody ever added" if add is None else f"was added only later (event {add.index})"
            sentence = f"read (event {read.index}) of key {read.key} shows {what} {v}, which {when}"
            found["phantom", v] = anomaly("phantom", read.key, sentence, [(read, f"shows {v}")])
        elif add.type == "fail":
            sentence = (
                f"adding {what} {v} to key {read.key} failed for certain, and event {read.index} shows it"
            )
            steps = [(add, "failed: certainly without effect"), (read, f"shows {v} nevertheless")]
            found["failed-but-visible", v] = anomaly(
                "failed-but-visible", read.key, sentence, steps, [(add, "read-from", read)]
            )
    return list(found.values())
