"""No acknowledged write may vanish: it is there at last, or something that covers it is, or a delete that covers it was sent.

w is lost iff it was acknowledged, is not in Anc(F), and no possibly effective delete d has w in Anc(context(d)). F is what
the last reads and the last look at each replica show together; Anc is the closure of the supersession graph.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import msgspec

from checkers.fleeting import Fleeting
from checkers.observed import homes, last_stage, pending_hints, stage, unseen_hints
from checkers.supersession import Graph, Reply, Reused, survey
from checkers.verdict import ANOMALIES_MAX, Anomaly, Verdict, conclude
from checkers.witness import Link, Step, anomaly, ids
from history.history import NEVER, History, Operation

RANK = ("phantom", "failed-but-visible", "vanished", "rolled-back", "clobbered", "clobbered-in-order")
"""Kinds of anomaly, worst first."""


Lost = tuple[Any, Anomaly]
"""The id of a lost write, and how it was lost."""


class Counts(msgspec.Struct):
    """Evidence, added up over the keys."""

    acknowledged: int = 0
    indefinite: int = 0
    failed: int = 0
    lost_total: int = 0
    excused_by_indefinite_delete: int = 0
    excused_by_expiry: int = 0
    overwritten: int = 0
    """lww: gone because a later write took the place."""
    clobbered_concurrently: int = 0
    """lww: gone because a write that overlapped it took the place."""
    clobbered_in_order: int = 0
    """lww: gone although every survivor was complete before it was invoked."""


class LostWrites:
    name = "lost_writes"

    def check(self, history: History) -> Verdict:
        mode = history.header.guarantees.get(self.name) or "causal"
        try:
            graphs = survey(history)
        except Reused as problem:
            return conclude(history, self.name, undecided=str(problem))
        for name in ("quiet", "read"):
            for o in stage(history, name).replicas.values():
                for key in o.value:
                    graphs.setdefault(key, Graph(key=key))
        look = _Look(history)
        fleeting = Fleeting(history)
        counts = Counts()
        strange: list[Anomaly] = []
        gone: list[Lost] = []
        undecided: dict[str, str] = {}
        for graph in graphs.values():
            for put in graph.puts.values():
                match put.type:
                    case "ok":
                        counts.acknowledged += 1
                    case "info":
                        counts.indefinite += 1
                    case "fail":
                        counts.failed += 1
            strange += _unexplained(graph, look)
            lost = _lost(graph, look, fleeting, counts)
            if mode != "causal":
                lost = _in_order(graph, look, fleeting, lost, counts)
                if mode == "lww-skewed":
                    continue
            if lost:
                doubt = look.doubt(graph)
                if doubt:
                    undecided[str(graph.key)] = doubt
                elif mode == "causal":
                    counts.lost_total += len(lost)
                    gone += _classified(graph, look, lost)
                else:
                    gone += [(id, _out_of_order(graph, look, id)) for id in lost]
        return self._verdict(history, strange, gone, undecided, counts)

    def _verdict(
        self,
        history: History,
        strange: list[Anomaly],
        gone: list[Lost],
        undecided: dict[str, str],
        counts: Counts,
    ) -> Verdict:
        gone.sort(key=lambda lost: (RANK.index(lost[1].kind), lost[1].witness))
        strange.sort(key=lambda a: (RANK.index(a.kind), a.witness))
        found = strange + [a for _, a in gone]
        reason = ""
        if undecided:
            key, doubt = next(iter(undecided.items()))
            reason = f"{len(undecided)} keys are undecided, such as {key}: {doubt}"
        elif counts.acknowledged == 0:
            reason = "no put was acknowledged, so none could be lost"
        return conclude(
            history,
            self.name,
            anomalies=found,
            undecided=reason,
            evidence={
                **msgspec.to_builtins(counts),
                "lost": [id for id, _ in gone[:ANOMALIES_MAX]],
                "lost_frontier": len(gone),
                "kinds": {kind: n for kind in RANK if (n := sum(a.kind == kind for a in found))},
                "undecided": dict(list(undecided.items())[:ANOMALIES_MAX]),
                "undecided_keys": len(undecided),
            },
        )


class _Look:
    """What was seen of the nodes after the heal."""

    def __init__(self, history: History) -> None:
        self.stages = [stage(history, name) for name in ("quiet", "read")]
        _, self.last = last_stage(history)
        self.homes = homes(history)
        self.pending = pending_hints(history)
        self.unseen = unseen_hints(history)

    def visible(self, graph: Graph) -> set[Any]:
        """F: what the final reads and the last look at every node show of a key."""
        seen = set(graph.final_ids)
        for node in self.last.replicas:
            seen.update(self.last.holds(node, graph.key))
        return seen

    def sightings(self, graph: Graph) -> Iterable[tuple[Operation, list[Any]]]:
        """Everybody who returned ids of the key: replies, then single nodes."""
        for reply in graph.replies:
            yield reply.op, list(reply.ids)
        for s in self.stages:
            for node, o in s.replicas.items():
                yield o, s.holds(node, graph.key)

    def doubt(self, graph: Graph) -> str:
        """Why a write of the key that seems lost may not be."""
        if graph.key in self.pending:
            return "a hint was still pending at the last look"
        if self.unseen:
            return f"{', '.join(self.unseen)} never answered for its hints"
        known = self.homes.get(graph.key)
        if graph.final is None and (not known or any(home not in self.last.replicas for home in known)):
            return "no final read succeeded and not every home replica was looked at"
        return ""

    def last_looks(self, graph: Graph) -> list[Operation]:
        """The operations that show what is left of a key."""
        if graph.final is not None:
            return [graph.final]
        return [o for node, o in self.last.replicas.items() if node in self.homes.get(graph.key, ())]


def _unexplained(graph: Graph, look: _Look) -> list[Anomaly]:
    """Ids that somebody returned though nobody had put them, or though the put certainly had not happened."""
    found: dict[Any, Anomaly] = {}
    for op, seen in look.sightings(graph):
        for id in seen:
            if id in found:
                continue
            put = graph.puts.get(id)
            if put is None:
                sentence = (
                    f"{op.f} (event {op.index}) returned {id} of key {graph.key}, which nobody ever put"
                )
                found[id] = anomaly("phantom", graph.key, sentence, [(op, f"returned {id}")])
            elif put.index > op.end:
                sentence = f"{op.f} (event {op.index}) returned {id} of key {graph.key} before it was put"
                steps: list[Step] = [(op, f"returned {id}"), (put, "was invoked only then")]
                found[id] = anomaly("phantom", graph.key, sentence, steps, [(put, "read-from", op)])
            elif put.type == "fail":
                sentence = f"put {id} of key {graph.key} failed for certain, and event {op.index} returned it"
                steps = [(put, "failed: certainly without effect"), (op, f"returned {id} nevertheless")]
                found[id] = anomaly(
                    "failed-but-visible", graph.key, sentence, steps, [(put, "read-from", op)]
                )
    return list(found.values())


def _lost(graph: Graph, look: _Look, fleeting: Fleeting, counts: Counts) -> list[Any]:
    """Acknowledged puts of the key that neither a survivor, nor an expiry, nor a delete covers, in order of invocation."""
    covered = graph.closure(look.visible(graph))
    missing = [id for id, _ in graph.acknowledged() if id not in covered]
    if missing:
        gone = fleeting.gone(graph)
        counts.excused_by_expiry += sum(id in gone for id in missing)
        missing = [id for id in missing if id not in gone]
    if not missing or not graph.deletes:
        return missing
    certainly = graph.closure(v for d in graph.deletes if d.type == "ok" for v in graph.covers(d))
    perhaps = graph.closure(v for d in graph.deletes if d.type == "info" for v in graph.covers(d))
    counts.excused_by_indefinite_delete += sum(id in perhaps and id not in certainly for id in missing)
    return [id for id in missing if id not in certainly and id not in perhaps]


def _in_order(graph: Graph, look: _Look, fleeting: Fleeting, lost: list[Any], counts: Counts) -> list[Any]:
    """lww: those whose place was taken only by writes that were complete before they were invoked."""
    here = look.visible(graph) | fleeting.gone(graph)
    winners = [graph.puts[id] for id in here if id in graph.puts] + graph.deletes
    last_invoked = max((w.index for w in winners), default=-1)
    last_end = max((w.end for w in winners), default=-1)
    wrong: list[Any] = []
    for id in lost:
        put = graph.puts[id]
        if last_invoked > put.end:
            counts.overwritten += 1
        elif last_end > put.index:
            counts.clobbered_concurrently += 1
        else:
            counts.clobbered_in_order += 1
            wrong.append(id)
    return wrong


def _out_of_order(graph: Graph, look: _Look, id: Any) -> Anomaly:
    """lww: a write that lost to an earlier one, or to nothing."""
    put = graph.puts[id]
    survivors = sorted((graph.puts[v] for v in look.visible(graph) if v in graph.puts), key=lambda o: o.index)
    steps: list[Step] = [(put, "acknowledged; every survivor was complete before it began")]
    steps += [(o, "the last look: it is gone") for o in look.last_looks(graph)[:3]]
    steps += [(s, "survived, though older") for s in survivors[-2:]]
    links: list[Link] = [(s, "real-time", put) for s in survivors]
    what = f"{ids(s.invoke.value for s in survivors)} survived, complete before it was invoked"
    kind = "clobbered-in-order" if survivors else "vanished"
    sentence = f"put {id} of key {graph.key} (event {put.index}) was acknowledged and is lost: " + (
        what if survivors else "nothing is left"
    )
    return anomaly(kind, graph.key, sentence, steps, links)


def _classified(graph: Graph, look: _Look, lost: list[Any]) -> list[Lost]:
    """The frontier: lost writes that no other lost write covers, each with what is there instead."""
    shadowed = graph.closure(v for id in lost for v in graph.contexts[id])
    frontier = [id for id in lost if id not in shadowed]
    visible = look.visible(graph)
    # Whether a write descends from a survivor, for all writes in one pass: contexts lead to earlier puts only.
    descends: set[Any] = set()
    for id, context in graph.contexts.items():
        if any(v in visible or v in descends for v in context):
            descends.add(id)
    wanted = set(frontier)
    beside: dict[Any, set[Any]] = {id: set() for id in frontier}
    saw: dict[Any, Reply] = {}
    for reply in graph.replies:
        for id in wanted.intersection(reply.ids):
            beside[id] |= visible.intersection(reply.ids)
            if reply.op.index != graph.puts[id].index:
                saw.setdefault(id, reply)
    found: list[Lost] = []
    for id in frontier:
        rivals = [v for v in visible - beside[id] if v in graph.puts and id not in descends]
        if id in descends:
            found.append((id, _rolled_back(graph, look, id, visible, saw.get(id))))
        elif rivals:
            rival = min((graph.puts[v] for v in rivals), key=lambda o: o.index)
            found.append((id, _gone(graph, look, id, saw.get(id), rival)))
        else:
            found.append((id, _gone(graph, look, id, saw.get(id), None)))
    return found


def _told(graph: Graph, look: _Look, id: Any, saw: Reply | None) -> tuple[list[Step], list[Link]]:
    put = graph.puts[id]
    steps: list[Step] = [(put, "acknowledged, so it has to stay until something covers it")]
    links: list[Link] = []
    for o in look.last_looks(graph)[:3]:
        steps.append((o, f"the last look: neither {id} nor anything that covers it"))
        links.append((put, "observed", o))
    if saw is not None:
        steps.append((saw.op, f"returned {id}: it had taken effect"))
        links.append((put, "read-from", saw.op))
    return steps, links


def _rolled_back(graph: Graph, look: _Look, id: Any, visible: set[Any], saw: Reply | None) -> Anomaly:
    path = _path(graph, id, visible)
    back = path[-1]
    steps, links = _told(graph, look, id, saw)
    between = path[1:-1] if len(path) <= 4 else []
    chain = [graph.puts[v] for v in (id, *between, back)]
    steps.append((chain[-1], f"is visible again, though {id} had superseded it"))
    steps += [(o, "superseded in between") for o in chain[1:-1]]
    links += [(a, "superseded", b) for a, b in pairwise(chain)]
    sentence = (
        f"put {id} of key {graph.key} (event {graph.puts[id].index}) was acknowledged and is lost: "
        f"{back}, which it had superseded, is there again"
    )
    return anomaly("rolled-back", graph.key, sentence, steps, links)


def _gone(graph: Graph, look: _Look, id: Any, saw: Reply | None, rival: Operation | None) -> Anomaly:
    put = graph.puts[id]
    steps, links = _told(graph, look, id, saw)
    start = f"put {id} of key {graph.key} (event {put.index}) was acknowledged and is lost: "
    if rival is None:
        last = max([*graph.puts.values(), *graph.deletes], key=lambda o: o.index)
        if last.index != put.index and last.possible:
            steps.append((last, f"the last write of the key; it does not cover {id}"))
        return anomaly("vanished", graph.key, start + "nothing that covers it is left", steps, links)
    other = rival.invoke.value
    steps.append((rival, f"survived; neither covers the other, so both {id} and {other} had to stay"))
    if rival.end < put.index:
        links.append((rival, "real-time", put))
    elif put.end != NEVER and put.end < rival.index:
        links.append((put, "real-time", rival))
    sentence = start + f"{other} was written concurrently and is there instead of both"
    return anomaly("clobbered", graph.key, sentence, steps, links)


def _path(graph: Graph, id: Any, goals: set[Any]) -> list[Any]:
    """A shortest chain of supersessions from a write to any of the goals."""
    came: dict[Any, Any] = {id: None}
    row = [id]
    while row:
        following: list[Any] = []
        for w in row:
            for v in graph.contexts.get(w, ()):
                if v in came:
                    continue
                came[v] = w
                if v in goals:
                    path = [v]
                    while came[path[-1]] is not None:
                        path.append(came[path[-1]])
                    return path[::-1]
                following.append(v)
        row = following
    raise AssertionError(f"{id} does not descend from {goals}")
