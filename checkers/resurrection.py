"""Once all is quiet nothing is visible that an acknowledged put or delete covers. Earlier reappearances are only counted.

Quiet: a final read that began after the write was acknowledged and, where agreement after such a read is promised, every
single node looked at after it. Keys whose clock ever lost entries only count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from checkers.observed import Stage, homes, stage
from checkers.supersession import Graph, Reused, survey
from checkers.verdict import Anomaly, Verdict, conclude, terms
from checkers.witness import Link, Step, anomaly
from history.history import History, Operation


class Counts(msgspec.Struct):
    """Evidence, added up over the keys."""

    covered: int = 0
    """Ids that an acknowledged write covers."""
    reappearances: int = 0
    """(reply, id) pairs where a read that began after the acknowledgement returned the id: allowed until all is quiet."""
    final_reads: int = 0
    truncated_keys: int = 0
    truncated_anomalies: int = 0


class Resurrection:
    name = "resurrection"

    def check(self, history: History) -> Verdict:
        mode = str(history.header.guarantees.get("lost_writes") or "causal")
        try:
            graphs = survey(history)
        except Reused as problem:
            return conclude(history, self.name, undecided=str(problem))
        agreed = terms(history, "convergence").get("after") in ("full-read", "anti-entropy")
        after = stage(history, "read") if agreed else Stage({}, {})
        at_home = homes(history)
        counts = Counts()
        found: list[Anomaly] = []
        unread: list[str] = []
        for graph in graphs.values():
            covered = _covered(graph, mode, at_home.get(graph.key, ()))
            counts.covered += len(covered)
            counts.final_reads += graph.final is not None
            counts.reappearances += _reappearances(graph, covered)
            if covered and graph.final is None:
                unread.append(str(graph.key))
            wrong = _back(graph, covered, after)
            if graph.truncated:
                counts.truncated_keys += 1
                counts.truncated_anomalies += len(wrong)
            else:
                found += wrong
        found.sort(key=lambda a: a.witness)
        reason = ""
        if counts.final_reads == 0:
            reason = "no final read succeeded, so nothing is known of the time when all was quiet"
        elif unread:
            reason = f"{len(unread)} keys had no successful final read, such as {unread[0]}"
        elif counts.covered == 0:
            reason = "no acknowledged write covered anything"
        return conclude(
            history,
            self.name,
            anomalies=found,
            undecided=reason,
            evidence={**msgspec.to_builtins(counts), "resurrected": len(found)},
        )


def _covered(graph: Graph, mode: str, at_home: Sequence[str]) -> dict[Any, Operation]:
    """Id -> the acknowledged write that covers it and has to win.

    lww: only deletes, and only of what their own context named. Where clocks may differ (`lww-skewed`) even such a delete may
    get an older timestamp, unless the home replica that made it had itself made the value: it then knew a lower bound.
    """
    if mode == "causal":
        return graph.covered()
    found: dict[Any, Operation] = {}
    for delete in sorted((d for d in graph.deletes if d.type == "ok"), key=lambda d: d.end):
        for v in graph.covers(delete):
            put = graph.puts[v]
            same = put.type == "ok" and put.end < delete.index and put.node == delete.node
            if mode != "lww-skewed" or (same and put.node in at_home):
                found.setdefault(v, delete)
    return found


def _reappearances(graph: Graph, covered: dict[Any, Operation]) -> int:
    return sum(
        1
        for reply in graph.replies
        if reply.op.f == "get" and not reply.op.meta.get("final")
        for v in set(reply.ids)
        if v in covered and covered[v].end < reply.op.index
    )


def _back(graph: Graph, covered: dict[Any, Operation], after: Stage) -> list[Anomaly]:
    """What is visible though covered, each id where it is seen first."""
    looks = [(r.op, list(r.ids)) for r in graph.replies if r.op.f == "get" and r.op.meta.get("final")]
    if graph.final is not None:
        looks += [
            (o, after.holds(node, graph.key))
            for node, o in sorted(after.replicas.items())
            if o.index > graph.final.index
        ]
    found: dict[Any, Anomaly] = {}
    for op, ids in looks:
        for v in ids:
            write = covered.get(v)
            if write is not None and v not in found and write.end < op.index:
                found[v] = _seen(graph, op, v, write)
    return list(found.values())


def _seen(graph: Graph, op: Operation, v: Any, write: Operation) -> Anomaly:
    put = graph.puts[v]
    steps: list[Step] = [
        (put, "the value"),
        (write, f"acknowledged; it covers {v}"),
        (op, f"began after that, when all was quiet, and shows {v}"),
    ]
    links: list[Link] = [(write, "superseded", put), (write, "real-time", op), (put, "read-from", op)]
    if v not in graph.covers(write):
        between = next(w for w in graph.covers(write) if v in graph.closure([w]))
        steps.append((graph.puts[between], f"covered by event {write.index}; descends from {v}"))
    sentence = (
        f"{v} of key {graph.key} is visible when all is quiet (event {op.index}), "
        f"though an acknowledged {write.f} (event {write.index}) covers it"
    )
    return anomaly("resurrected", graph.key, sentence, steps, links)
