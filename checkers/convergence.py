"""After the heal replicas agree: all home replicas of a key after its full read, and every hint reaches whom it is for.

Agreement is judged at stage `read` where `{"after": "full-read"}` is promised, at stage `quiet`, before any read could
repair, where `{"after": "handoff"}` or `{"after": "anti-entropy"}` is, and else only counted. Delivery: each id of a hint
that was once seen durable, or a descendant of it, is at its target at stage `quiet`; not judged where `{"delivery": false}`
says so. Where `comes_to_rest` is promised, anti-entropy stops sending keys once nothing is written.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec

from checkers.digests import after_heals
from checkers.fleeting import Fleeting
from checkers.observed import Stage, homes, stage
from checkers.supersession import Graph, Reused, survey
from checkers.verdict import ANOMALIES_MAX, Anomaly, Verdict, conclude, terms
from checkers.witness import Link, Step, anomaly, ids, introduced
from history.history import History, Operation

AGREED_AT = {"full-read": "read", "handoff": "quiet", "anti-entropy": "quiet"}
"""The stage from which on all home replicas agree, by what has brought that about."""

_BY = {
    "full-read": "after the full read",
    "handoff": "though no hint for it is pending",
    "anti-entropy": "though anti-entropy had time to compare them",
}

RANK = ("hint-lost", "undelivered", "diverged", "ring-unsettled", "restless")
"""Kinds of anomaly, worst first."""


NAMED_MAX = 3
"""So many missing writes an anomaly names, and its witness introduces."""


class Counts(msgspec.Struct):
    """Evidence, added up over keys and hints."""

    keys: int = 0
    keys_agreed: int = 0
    keys_diverged: int = 0
    keys_unobserved: int = 0
    hints_seen: int = 0
    """(holder, target, key, id) that some observation showed durable."""
    hints_delivered: int = 0
    hints_pending: int = 0
    hints_unobserved: int = 0
    polls_of_hints: int = 0


class Convergence:
    name = "convergence"

    def check(self, history: History) -> Verdict:
        promise = terms(history, self.name)
        lww = str(history.header.guarantees.get("lost_writes") or "").startswith("lww")
        try:
            graphs = survey(history)
        except Reused as problem:
            return conclude(history, self.name, undecided=str(problem))
        counts = Counts()
        undecided: list[str] = []
        doubts: list[str] = []
        after = promise.get("after", "full-read")
        fleeting = Fleeting(history)
        diverged = _agreement(history, graphs, fleeting, counts, doubts, after)
        found = _Delivery(history, graphs, fleeting, lww, _bound_ns(promise), counts, undecided).check()
        if not promise.get("delivery", True):
            # Hints were destroyed, or their targets left: what became of each is counted, not judged.
            found, undecided = [], []
        if after in AGREED_AT:
            found += diverged
            undecided += doubts
        elif not history.observed("replica", "quiet"):
            undecided.append("no node was looked at after the heal")
        if promise.get("one_ring"):
            found += _unsettled(history)
        if promise.get("comes_to_rest"):
            found += _restless(history)
        found.sort(key=lambda a: (RANK.index(a.kind), a.witness))
        return conclude(
            history,
            self.name,
            anomalies=found,
            undecided=undecided[0] if undecided else "",
            evidence={
                **msgspec.to_builtins(counts),
                "undecided": undecided[:ANOMALIES_MAX],
                "after_heals": after_heals(history),
                "kinds": {kind: n for kind in RANK if (n := sum(a.kind == kind for a in found))},
            },
        )


def _bound_ns(promise: dict[str, Any]) -> int | None:
    seconds = promise.get("bound_seconds")
    return None if seconds is None else int(float(seconds) * 1e9)


def _agreement(
    history: History,
    graphs: dict[Any, Graph],
    fleeting: Fleeting,
    counts: Counts,
    undecided: list[str],
    promised: str,
) -> list[Anomaly]:
    """Keys whose home replicas hold different ids, or of which some hold a tombstone and some do not, at the stage from
    which on they have to agree, when no hint for the key is pending: that write is still on its way."""
    name = AGREED_AT.get(promised, "read")
    after = stage(history, name)
    when = "after the heal" if name == "quiet" else "after the final reads"
    at_home = homes(history)
    pending = {key for look in after.hints.values() for _, key, _ in look.value}
    if not at_home:
        undecided.append("nobody was asked which nodes are the home replicas")
    elif not after.replicas:
        undecided.append(f"no node was looked at {when}")
    found: list[Anomaly] = []
    for key, nodes in at_home.items():
        counts.keys += 1
        unseen = [node for node in nodes if node not in after.replicas]
        graph = graphs.get(key)
        if unseen:
            counts.keys_unobserved += 1
            if after.replicas:
                undecided.append(f"{', '.join(unseen)} was not looked at {when}, a home of {key}")
            continue
        held = {node: (frozenset(after.holds(node, key)), after.deleted(node, key)) for node in nodes}
        held = fleeting.comparable(held, graph)
        if len(set(held.values())) <= 1:
            counts.keys_agreed += 1
            continue
        counts.keys_diverged += 1
        if key in pending:
            undecided.append(f"a hint for {key} is still pending, and its home replicas differ")
        elif promised == "full-read" and graph is not None and graph.final_tried and graph.final is None:
            undecided.append(f"{key} was never read in full, and its home replicas differ")
        else:
            found.append(_diverged(key, held, after, graph, promised))
    return found


def _unsettled(history: History) -> list[Anomaly]:
    """Nodes that after the heal do not come down to one ring with no change in progress: by the last `settle-ring`."""
    asked = [o for o in history.nemesis if o.f == "settle-ring" and o.complete is not None and o.type == "ok"]
    if not asked or asked[-1].value.get("verified"):
        return []
    last = asked[-1]
    seen: dict[str, dict[str, Any]] = last.value.get("after", {})
    rings = sorted({f"epoch {ring['epoch']} {ring['phase']}" for ring in seen.values()})
    waits = {f"{m} {what}" for ring in seen.values() for m, what in ring.get("waiting", {}).items()}
    sentence = f"the ring did not settle after the heal: its nodes know {', '.join(rings) or 'nothing'}"
    if waits:
        sentence += f"; {min(waits)}"
    return [anomaly("ring-unsettled", None, sentence, [(last, "every node ran, and nothing was cut")])]


def _restless(history: History) -> list[Anomaly]:
    """Anti-entropy that goes on sending keys when all is quiet: more of them at every look at stage `rest`."""
    looks: dict[str | None, list[Operation]] = {}
    for o in history.observed("exchanged", "rest"):
        looks.setdefault(o.node, []).append(o)
    turns = list(zip(*looks.values(), strict=False))
    sent = [sum(o.value for o in turn) for turn in turns]
    if len(sent) < 3 or any(b <= a for a, b in pairwise(sent)):
        return []
    node, own = max(looks.items(), key=lambda item: item[1][-1].value - item[1][0].value)
    first, last = own[0], own[-1]
    steps: list[Step] = [
        (first, f"anti-entropy of {node} had sent {first.value} keys when all was quiet"),
        (last, f"and {last.value} when nothing had happened since"),
    ]
    sentence = (
        f"anti-entropy never comes to rest: {sent[-1] - sent[0]} more keys sent in {len(sent) - 1} looks, "
        f"though nothing was written"
    )
    return [anomaly("restless", None, sentence, steps, [(first, "observed", last)])]


def _diverged(
    key: Any,
    held: dict[str, tuple[frozenset[Any], bool]],
    after: Stage,
    graph: Graph | None,
    promised: str,
) -> Anomaly:
    first = next(iter(held.values()))
    other = next(node for node, h in held.items() if h != first)
    different = first[0] ^ held[other][0]
    steps: list[Step] = []
    links: list[Link] = []
    told: list[str] = []
    for node in (next(iter(held)), other):
        values, deleted = held[node]
        what = f"{ids(sorted(values, key=str))}{' and a tombstone' if deleted else ''}"
        told.append(f"{node} holds {what}")
        steps.append((after.replicas[node], f"holds {what}"))
    if graph is not None:
        apart = sorted((v for v in different if v in graph.puts), key=lambda v: graph.puts[v].index)
        for id in apart[:NAMED_MAX]:
            steps.append((graph.puts[id], f"{id} is at one of them only"))
            links += [(graph.puts[id], "observed", after.replicas[n]) for n, h in held.items() if id in h[0]]
        if graph.final is not None and promised == "full-read":
            steps.append((graph.final, "the full read, after which they have to agree"))
            links += [(graph.final, "real-time", after.replicas[node]) for node in held]
    sentence = f"home replicas of key {key} differ {_BY.get(promised, '')}: {'; '.join(told)}"
    return anomaly("diverged", key, sentence, steps, links)


class _Hint:
    """One id on its way to one target: who was seen to hold it, and when each was last seen to."""

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last: dict[str | None, Operation] = {}


class _Delivery:
    """Every hint once seen durable is delivered."""

    def __init__(
        self,
        history: History,
        graphs: dict[Any, Graph],
        fleeting: Fleeting,
        lww: bool,
        bound_ns: int | None,
        counts: Counts,
        undecided: list[str],
    ) -> None:
        self.history = history
        self.graphs = graphs
        self.fleeting = fleeting
        self.lww = lww
        self.bound_ns = bound_ns
        self.counts = counts
        self.undecided = undecided
        self.quiet = stage(history, "quiet")
        self._reached: dict[tuple[str, Any], set[Any]] = {}
        self._deleted: dict[Any, dict[Any, int]] = {}

    def check(self) -> list[Anomaly]:
        wrong: dict[tuple[str, str, Any], list[tuple[Any, _Hint]]] = {}
        for (target, key, id), hint in self._seen().items():
            kind = self._fate(target, key, id, hint)
            if kind:
                wrong.setdefault((kind, target, key), []).append((id, hint))
        return [self._anomaly(kind, target, key, missing) for (kind, target, key), missing in wrong.items()]

    def _seen(self) -> dict[tuple[str, Any, Any], _Hint]:
        seen: dict[tuple[str, Any, Any], _Hint] = {}
        for o in self.history.observed("hints"):
            self.counts.polls_of_hints += 1
            if o.meta.get("stage") == "read":
                continue  # what is first seen only then says nothing of the stage before
            for target, key, held in o.value:
                for id in held:
                    seen.setdefault((target, key, id), _Hint()).last[o.node] = o
        self.counts.hints_seen = sum(len(hint.last) for hint in seen.values())
        return seen

    def _fate(self, target: str, key: Any, id: Any, hint: _Hint) -> str:
        """The kind of anomaly, or nothing; adds to the counts and doubts."""
        look = self.quiet.replicas.get(target)
        if look is None:
            self.counts.hints_unobserved += len(hint.last)
            self.undecided.append(f"{target} was not looked at after the heal; a hint for it was seen")
            return ""
        if self._arrived(target, key, id, look):
            self.counts.hints_delivered += len(hint.last)
            return ""
        ends = [self.quiet.hints.get(holder or "") for holder in hint.last]
        pending = [end for end in ends if end is not None and end in hint.last.values()]
        if pending:
            self.counts.hints_pending += len(pending)
            waited_ns = pending[0].invoke.time - self._healed_ns(pending[0].index)
            if self.bound_ns is not None and waited_ns > self.bound_ns:
                return "undelivered"
            self.undecided.append(
                f"a hint for {target} was still pending {waited_ns / 1e9:.1f} s after the heal"
            )
            return ""
        if any(end is None or end.index > look.index for end in ends):
            self.counts.hints_unobserved += len(hint.last)
            self.undecided.append(f"a holder of a hint for {target} was not looked at before {target} itself")
            return ""
        return "hint-lost"

    def _arrived(self, target: str, key: Any, id: Any, look: Operation) -> bool:
        """Whether the target holds the id, or what replaced it."""
        held = self.quiet.holds(target, key)
        graph = self.graphs.get(key)
        if id in held:
            return True
        tombstone = self.quiet.deleted(target, key)
        if self.lww and (held or tombstone):
            return True
        if graph is None:
            return False
        if id in self.fleeting.gone(graph) or (self.lww and self.fleeting.reaps and graph.deletes):
            return True
        if (target, key) not in self._reached:
            self._reached[target, key] = graph.closure(held)
        if id in self._reached[target, key]:
            return True
        deleted = self._deletes(key, graph).get(id)
        if deleted is None:
            return False
        # A later write may have replaced the tombstone: its context covers it without naming any id.
        return (
            tombstone
            or self.fleeting.reaps
            or any(v in graph.puts and graph.puts[v].index > deleted for v in held)
        )

    def _deletes(self, key: Any, graph: Graph) -> dict[Any, int]:
        """Id -> index of the first possibly effective delete that covers it."""
        if key not in self._deleted:
            first = self._deleted[key] = {}
            for d in graph.deletes:
                todo = list(graph.covers(d))
                while todo:
                    v = todo.pop()
                    if v not in first:
                        first[v] = d.index
                        todo += graph.contexts.get(v, ())
        return self._deleted[key]

    def _healed_ns(self, before: int) -> int:
        """When all faults were off: the heal, or what the nemesis did last before the given event."""
        times = [o.complete.time for o in self.history.nemesis if o.complete and o.complete.index < before]
        heal = self.history.phases.get("heal")
        if heal is not None:
            times.append(self.history.events[heal].time)
        return max(times, default=0)

    def _gone(self, holder: str | None, target: str, key: Any, id: Any, last: Operation) -> Operation:
        """The first look at the holder, after the last one that showed the hint, at which it was there no more."""
        looks = (o for o in self.history.observed("hints") if o.node == holder and o.index > last.index)
        return next(
            (o for o in looks if not any(t == target and k == key and id in v for t, k, v in o.value)),
            self.quiet.hints[holder or ""],
        )

    def _anomaly(self, kind: str, target: str, key: Any, missing: list[tuple[Any, _Hint]]) -> Anomaly:
        id, hint = missing[0]
        look = self.quiet.replicas[target]
        holder, last = max(hint.last.items(), key=lambda item: item[1].index)
        end = self.quiet.hints[holder or ""]
        graph = self.graphs.get(key)
        held = self.quiet.holds(target, key)
        instead = f"holds {ids(held)}, which does not cover it" if held else "holds nothing of the key"
        steps: list[Step] = [
            (last, f"the last look at {holder} that shows its durable hint with {id} for {target}"),
            (look, f"after the heal {target} {instead}"),
        ]
        links: list[Link] = [(last, "observed", look)]
        if kind == "hint-lost":
            steps.append((self._gone(holder, target, key, id, last), f"{holder} no longer has the hint"))
            fate = "the hint is gone and was not delivered"
        else:
            steps.append((end, f"{holder} still has the hint, after the promised time"))
            fate = f"it is still pending beyond {(self.bound_ns or 0) / 1e9:g} s after the heal"
        if graph is not None and id in graph.puts:
            steps.append((graph.puts[id], "the write that the hint carried"))
            links.append((graph.puts[id], "observed", last))
        # Whoever is named is introduced: the other writes that are missing, and what the target holds in their place.
        others = [v for v, _ in missing[1:NAMED_MAX]]
        steps += introduced(graph, others, "another write that hints carried, likewise missing")
        steps += introduced(graph, held, f"what {target} holds in its place")
        more = len(missing) - 1 - len(others)
        what = ids([id, *others]) + (f" and {more} more" if more > 0 else "")
        sentence = f"{holder} had a hint for {target} with {what} of key {key} (event {last.index}): {fate}"
        return anomaly(kind, key, sentence, steps, links)
