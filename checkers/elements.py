"""What readers saw of things that are added once: reads in order, and which read has the last word."""

from __future__ import annotations

from collections.abc import Iterable
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


def unexplained(reads: Iterable[Operation], added: dict[Any, Operation], what: str) -> list[Anomaly]:
    """What reads show that cannot be: never added, added without effect for certain, or twice at once."""
    found: dict[tuple[str, Any], Anomaly] = {}
    for read in reads:
        values: list[Any] = read.value or []
        once: set[Any] = set()
        for v in values:
            add = added.get(v)
            if v in once:
                sentence = f"read (event {read.index}) of key {read.key} shows {what} {v} twice"
                found.setdefault(("duplicate", v), _only(read, "duplicate", sentence, f"shows {v} twice"))
            once.add(v)
            if add is None or add.index > read.end:
                when = "nobody ever added" if add is None else f"was added only later (event {add.index})"
                sentence = f"read (event {read.index}) of key {read.key} shows {what} {v}, which {when}"
                found.setdefault(("phantom", v), _only(read, "phantom", sentence, f"shows {v}"))
            elif add.type == "fail" and ("failed-but-visible", v) not in found:
                sentence = (
                    f"adding {what} {v} to key {read.key} failed for certain, and event {read.index} shows it"
                )
                steps: list[Step] = [
                    (add, "failed: certainly without effect"),
                    (read, f"shows {v} nevertheless"),
                ]
                found["failed-but-visible", v] = anomaly(
                    "failed-but-visible", read.key, sentence, steps, [(add, "read-from", read)]
                )
    return list(found.values())


def _only(read: Operation, kind: str, sentence: str, why: str) -> Anomaly:
    return anomaly(kind, read.key, sentence, [(read, why)])
