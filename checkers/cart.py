"""What was put into a cart stays until somebody takes it out, and what was taken out stays out.

Every item is added once only. It is lost iff its add was acknowledged, no remove that may have seen it may have happened,
and the last read, begun after the add was acknowledged, lacks it. It came back iff a remove that saw it was acknowledged and
a last read, begun after that, shows it; earlier reads that do are only counted.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import msgspec

from checkers.elements import Presence, Reads, presence, reads_by_key, unexplained
from checkers.verdict import ANOMALIES_MAX, Anomaly, Verdict, conclude
from checkers.witness import Link, Step, anomaly
from history.history import History, Operation

RANK = ("lost", "came-back", "duplicate", "phantom", "failed-but-visible")


class Counts(msgspec.Struct):
    """Evidence, added up over the carts."""

    carts: int = 0
    added: int = 0
    """Acknowledged adds."""
    removed: int = 0
    """Acknowledged removes that saw their item."""
    judged: int = 0
    """Acknowledged adds and removes with a later last read."""
    lost_count: int = 0
    came_back_count: int = 0
    reappearances: int = 0
    """(read, item) pairs before the last reads that show an item after its acknowledged removal."""
    reads: int = 0


class Cart:
    name = "cart"

    def check(self, history: History) -> Verdict:
        counts = Counts()
        found: list[Anomaly] = []
        undecided: list[str] = []
        adds: dict[Any, dict[Any, Operation]] = {}
        removes: dict[Any, dict[Any, list[Operation]]] = {}
        for op in history.select("add"):
            adds.setdefault(op.key, {}).setdefault(op.invoke.value, op)
        for op in history.select("remove", where=_may_have_removed):
            removes.setdefault(op.key, {}).setdefault(op.invoke.value, []).append(op)
        lost: list[Any] = []
        back: list[Any] = []
        for key, reads in reads_by_key(history).items():
            counts.carts += 1
            counts.reads += len(reads.reads)
            added = adds.get(key, {})
            seen = presence(reads.reads)
            found += unexplained(reads.reads, seen, added, "item")
            cart = _CartOf(added, removes.get(key, {}), reads, seen, counts)
            gone, returned = cart.lost(), cart.came_back()
            lost += [op.invoke.value for op in gone]
            back += [remove.invoke.value for remove, _ in returned]
            found += [cart.explain_lost(op) for op in gone] + [cart.explain_back(*pair) for pair in returned]
            if cart.unread:
                undecided.append(
                    f"{cart.unread} changes of cart {key} were acknowledged, and no last read came later"
                )
        counts.lost_count, counts.came_back_count = len(lost), len(back)
        found.sort(key=lambda a: (RANK.index(a.kind), a.witness))
        reason = undecided[0] if undecided else ""
        if counts.reads == 0:
            reason = "no read succeeded"
        elif counts.judged == 0:
            reason = reason or "no add and no remove was acknowledged"
        return conclude(
            history,
            self.name,
            anomalies=found,
            undecided=reason,
            evidence={
                **msgspec.to_builtins(counts),
                "lost": lost[:ANOMALIES_MAX],
                "came_back": back[:ANOMALIES_MAX],
                "kinds": {kind: n for kind in RANK if (n := sum(a.kind == kind for a in found))},
                "undecided": undecided[:ANOMALIES_MAX],
            },
        )


def _may_have_removed(op: Operation) -> bool:
    """Whether a remove may have happened and may have seen its item."""
    return op.possible and not (op.type == "ok" and op.meta.get("observed") is False)


class _CartOf:
    """One cart: its items' adds, removes that may have removed them, and reads."""

    def __init__(
        self,
        added: dict[Any, Operation],
        removes: dict[Any, list[Operation]],
        reads: Reads,
        seen: dict[Any, Presence],
        counts: Counts,
    ) -> None:
        self.added = added
        self.removes = removes
        self.reads = reads
        self.seen = seen
        self.counts = counts
        self.last = reads.last
        self.at_last: set[Any] = set(self.last.value or ()) if self.last is not None else set()
        self.unread = 0

    def _is_judged(self, op: Operation) -> bool:
        if self.last is None or self.last.index < op.end:
            self.unread += 1
            return False
        self.counts.judged += 1
        return True

    def lost(self) -> list[Operation]:
        acknowledged = [op for op in self.added.values() if op.type == "ok"]
        self.counts.added += len(acknowledged)
        return [
            op
            for op in acknowledged
            if self._is_judged(op)
            and op.invoke.value not in self.removes
            and op.invoke.value not in self.at_last
        ]

    def came_back(self) -> list[tuple[Operation, Operation]]:
        """(remove, last read) for each item that is there again."""
        removed: dict[Any, Operation] = {}
        for item, removes in self.removes.items():
            sure = [op for op in removes if op.type == "ok" and op.meta.get("observed")]
            if sure:
                removed[item] = min(sure, key=lambda op: op.end)
        self.counts.removed += len(removed)
        judges = self.reads.final or ((self.last,) if self.last is not None else ())
        shown = [(read, set(read.value or ())) for read in judges]
        back: list[tuple[Operation, Operation]] = []
        for item, remove in removed.items():
            self._is_judged(remove)
            later = [read for read, items in shown if read.index > remove.end and item in items]
            self.counts.reappearances += self._shown_after(item, remove) - len(later)
            if later:
                back.append((remove, later[0]))
        return back

    def _shown_after(self, item: Any, remove: Operation) -> int:
        """The number of reads that began after the removal and show the item."""
        seen = self.seen.get(item)
        if seen is None:
            return 0
        start = bisect_right(self.reads.reads, remove.end, key=lambda read: read.index)
        return sum(max(0, last - max(first, start) + 1) for first, last in seen.runs)

    def explain_lost(self, add: Operation) -> Anomaly:
        item = add.invoke.value
        last = self.last
        assert last is not None, item
        steps: list[Step] = [
            (add, "acknowledged, and no remove of it may have happened"),
            (last, f"the last read, begun after that, lacks {item}"),
        ]
        links: list[Link] = [(add, "observed", last), (add, "real-time", last)]
        seen = self.seen.get(item)
        for read in (seen.first, self.reads.reads[seen.runs[-1][1]]) if seen is not None else ():
            steps.append((read, f"shows {item}: it had been there"))
            links.append((add, "read-from", read))
        sentence = (
            f"item {item} was added to cart {add.key} (event {add.index}) and never removed, "
            f"and the last read (event {last.index}) lacks it"
        )
        return anomaly("lost", add.key, sentence, steps, links)

    def explain_back(self, remove: Operation, read: Operation) -> Anomaly:
        item = remove.invoke.value
        steps: list[Step] = [
            (remove, f"acknowledged; it saw {item} and took it out"),
            (read, f"begun after that, when all was quiet, and shows {item}"),
        ]
        links: list[Link] = [(remove, "real-time", read)]
        add = self.added.get(item)
        if add is not None:
            steps.append((add, "the only time that it was added"))
            links += [(add, "observed", remove), (add, "read-from", read)]
        sentence = (
            f"item {item} was removed from cart {remove.key} (event {remove.index}) and is there again "
            f"in the last read (event {read.index})"
        )
        return anomaly("came-back", remove.key, sentence, steps, links)
