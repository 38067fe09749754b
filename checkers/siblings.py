"""Siblings are concurrent: no reply holds a value beside one that covers it, nor one value twice, nor more than can be.

Judged within one reply, since a coordinator may answer before a write that covers a sibling has reached its replicas.
Keys whose clock ever lost entries only count: a truncated clock forgets what it covered, by design.
"""

from __future__ import annotations

from typing import Any

import msgspec

from checkers.supersession import Descent, Graph, Reply, Reused, survey
from checkers.verdict import Anomaly, Verdict, conclude
from checkers.witness import Link, Step, anomaly
from history.history import History

RANK = ("duplicate", "false-concurrency", "explosion", "unresolved")
"""Kinds of anomaly, worst first."""


class Counts(msgspec.Struct):
    """Evidence, added up over the keys."""

    replies: int = 0
    replies_with_siblings: int = 0
    siblings_max: int = 0
    unresolved_keys: int = 0
    """Keys with more than one value at last; condemned only where a write covers one of them."""
    truncated_keys: int = 0
    truncated_anomalies: int = 0
    """What would be anomalies if their keys' clocks had never lost entries."""


class Siblings:
    name = "siblings"

    def check(self, history: History) -> Verdict:
        try:
            graphs = survey(history)
        except Reused as problem:
            return conclude(history, self.name, undecided=str(problem))
        counts = Counts()
        found: list[Anomaly] = []
        for graph in graphs.values():
            for reply in graph.replies:
                counts.replies += 1
                counts.replies_with_siblings += len(reply.ids) > 1
                counts.siblings_max = max(counts.siblings_max, len(reply.ids))
            wrong = _duplicates(graph) + _false_concurrency(graph) + _explosion(graph)
            if graph.final is not None and len(graph.final.value or ()) > 1:
                counts.unresolved_keys += 1
                wrong += _unresolved(graph)
            if graph.truncated:
                counts.truncated_keys += 1
                counts.truncated_anomalies += len(wrong)
            else:
                found += wrong
        found.sort(key=lambda a: (RANK.index(a.kind), a.witness))
        return conclude(
            history,
            self.name,
            anomalies=found,
            undecided="" if counts.replies > 0 else "no read and no write was answered with siblings",
            evidence={
                **msgspec.to_builtins(counts),
                "kinds": {kind: n for kind in RANK if (n := sum(a.kind == kind for a in found))},
            },
        )


def _duplicates(graph: Graph) -> list[Anomaly]:
    """One id twice in one reply: one write under two dots. The first reply for each id is reported."""
    found: dict[Any, Anomaly] = {}
    for reply in graph.replies:
        if len(set(reply.ids)) == len(reply.ids):
            continue
        for id in dict.fromkeys(v for v in reply.ids if reply.ids.count(v) > 1):
            if id not in found:
                steps: list[Step] = [(reply.op, f"returned {id} {reply.ids.count(id)} times")]
                links: list[Link] = []
                if id in graph.puts:
                    steps.append((graph.puts[id], "was made once"))
                    links.append((graph.puts[id], "read-from", reply.op))
                sentence = (
                    f"{reply.op.f} (event {reply.op.index}) returned {id} of key {graph.key} twice: "
                    "one write stands under two dots"
                )
                found[id] = anomaly("duplicate", graph.key, sentence, steps, links)
    return list(found.values())


def _false_concurrency(graph: Graph) -> list[Anomaly]:
    """A value beside one that covers it. The first reply for each pair is reported."""
    covers = Descent(graph)
    found: dict[tuple[Any, Any], Anomaly] = {}
    before: set[Any] = set()
    for reply in graph.replies:
        if len(reply.ids) < 2:
            continue
        here = {v for v in reply.ids if v in graph.puts}
        new = here - before  # pairs of old ones were judged with the reply before
        # A put covers only what was put before it.
        order = sorted(here, key=lambda v: graph.puts[v].index) if new else []
        for i, ancestor in enumerate(order):
            for write in order[i + 1 :]:
                if (
                    (ancestor in new or write in new)
                    and (write, ancestor) not in found
                    and covers(write, ancestor)
                ):
                    found[write, ancestor] = _together(graph, reply, write, ancestor)
        before = here
    return list(found.values())


def _together(graph: Graph, reply: Reply, write: Any, ancestor: Any) -> Anomaly:
    w, v = graph.puts[write], graph.puts[ancestor]
    steps: list[Step] = [
        (reply.op, f"returned {ancestor} and {write} side by side"),
        (w, f"had replaced {ancestor}" if ancestor in graph.contexts[write] else f"descends from {ancestor}"),
        (v, f"had been replaced by {write}"),
    ]
    links: list[Link] = [(w, "superseded", v), (v, "read-from", reply.op), (w, "read-from", reply.op)]
    sentence = (
        f"{reply.op.f} (event {reply.op.index}) returned {ancestor} and {write} of key {graph.key} as siblings, "
        f"though {write} covers {ancestor}"
    )
    return anomaly("false-concurrency", graph.key, sentence, steps, links)


def _explosion(graph: Graph) -> list[Anomaly]:
    """More values in a reply than the possible puts so far can leave concurrent; the worst reply is reported.

    The bound is a greedy partition of the puts into chains of supersession: of each chain one can be live (Dilworth 1950).
    """
    puts = [(op.index, id) for id, op in graph.puts.items() if id in graph.contexts]
    tails: set[Any] = set()
    chains = taken = 0
    worst: tuple[int, int, Reply] | None = None
    for end, _, reply in sorted((r.end, r.op.index, r) for r in graph.replies):
        while taken < len(puts) and puts[taken][0] < end:
            id = puts[taken][1]
            taken += 1
            previous = next((v for v in graph.contexts[id] if v in tails), None)
            if previous is None:
                chains += 1
            else:
                tails.discard(previous)
            tails.add(id)
        if len(reply.ids) <= chains:
            continue
        excess = sum(v in graph.contexts and graph.puts[v].index < end for v in reply.ids) - chains
        if excess > 0 and (worst is None or excess > worst[0]):
            worst = excess, chains, reply
    if worst is None:
        return []
    _, chains, reply = worst
    known = sorted((graph.puts[v] for v in set(reply.ids) if v in graph.puts), key=lambda o: o.index)
    sentence = (
        f"{reply.op.f} (event {reply.op.index}) returned {len(reply.ids)} siblings of key {graph.key}; "
        f"the clients' own writes leave at most {chains} concurrent"
    )
    steps: list[Step] = [(reply.op, f"returned {len(reply.ids)} siblings, at most {chains} are possible")]
    steps += [(o, "was returned as a sibling") for o in known]
    return [anomaly("explosion", graph.key, sentence, steps, [(o, "read-from", reply.op) for o in known])]


def _unresolved(graph: Graph) -> list[Anomaly]:
    """Of several values at last, those that an acknowledged write covers, though no value beside them does."""
    final = graph.final
    assert final is not None, graph.key
    beside = graph.closure(v for id in final.value for v in graph.contexts.get(id, ()))
    covered = graph.covered()
    found: list[Anomaly] = []
    for v in dict.fromkeys(final.value):
        write = covered.get(v)
        if write is None or write.end > final.index or v in beside:
            continue
        put = graph.puts[v]
        steps: list[Step] = [
            (final, f"the last read: {v} is still a sibling"),
            (write, f"acknowledged; it covers {v}"),
            (put, "was replaced"),
        ]
        links: list[Link] = [
            (write, "superseded", put),
            (put, "read-from", final),
            (write, "real-time", final),
        ]
        sentence = (
            f"{v} of key {graph.key} is still a sibling at last (event {final.index}), "
            f"though an acknowledged {write.f} (event {write.index}) covers it"
        )
        found.append(anomaly("unresolved", graph.key, sentence, steps, links))
    return found
