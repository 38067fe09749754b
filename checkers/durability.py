"""Each acknowledged write stood on as many home replicas as it had asked for: seen once handoff has ended, before any read.

W counts distinct home replicas that have the write, or for which somebody keeps it with a hint. So when no hint is left, and
nobody has lost what was durable, that many home replicas hold the write or one that covers it, whoever died meanwhile.
"""

from __future__ import annotations

from typing import Any

import msgspec

from checkers.observed import homes, stage, unseen_hints
from checkers.supersession import Graph, Reused, survey
from checkers.verdict import Anomaly, Verdict, conclude, terms
from checkers.witness import Link, Step, anomaly
from history.history import History, Operation


class Counts(msgspec.Struct):
    """Evidence, added up over the keys."""

    acknowledged: int = 0
    judged: int = 0
    perhaps_deleted: int = 0
    """Of those judged: a delete that may have happened covers them, and nobody has to hold them."""
    copies_lacking: int = 0
    undecided_keys: int = 0


class Durability:
    name = "durability"

    def check(self, history: History) -> Verdict:
        try:
            graphs = survey(history)
        except Reused as problem:
            return conclude(history, self.name, undecided=str(problem))
        asked = terms(history, self.name)
        at_home, quiet = homes(history), stage(history, "quiet")
        waiting = {key for look in quiet.hints.values() for _, key, _ in look.value}
        silent = unseen_hints(history)
        counts = Counts()
        found: list[Anomaly] = []
        undecided = ""
        for key, graph in graphs.items():
            acknowledged = [op for _, op in graph.acknowledged()]
            if not acknowledged or graph.expires:
                continue
            counts.acknowledged += len(acknowledged)
            nodes = at_home.get(key) or []
            if silent or key in waiting or not nodes or any(n not in quiet.replicas for n in nodes):
                counts.undecided_keys += 1
                continue
            holds = {n: graph.closure(quiet.holds(n, key)) for n in nodes}
            gone = graph.closure(v for d in graph.deletes for v in graph.covers(d))
            for put in acknowledged:
                id = put.invoke.value
                counts.judged += 1
                if id in gone:
                    counts.perhaps_deleted += 1
                    continue
                wanted = min(_wanted(put, asked), len(nodes))
                have = [n for n in nodes if id in holds[n]]
                if len(have) < wanted:
                    counts.copies_lacking += wanted - len(have)
                    looks = [quiet.replicas[n] for n in nodes if n not in have]
                    found.append(_lacking(graph, put, have, wanted, looks))
        if counts.judged == 0:
            undecided = "of no acknowledged put all home replicas could be looked at after the handoff"
        found.sort(key=lambda a: a.witness)
        return conclude(
            history, self.name, anomalies=found, undecided=undecided, evidence=msgspec.to_builtins(counts)
        )


def _wanted(put: Operation, asked: dict[str, Any]) -> int:
    """W of the put, or pw where that is more: what it said itself, else what is configured."""
    meta = put.invoke.meta
    return max(meta.get("w", asked.get("w", 1)), meta.get("pw", asked.get("pw", 0)))


def _lacking(graph: Graph, put: Operation, have: list[str], wanted: int, looks: list[Operation]) -> Anomaly:
    id = put.invoke.value
    where = ", ".join(have) or "nobody"
    sentence = (
        f"put {id} of key {graph.key} (event {put.index}) was acknowledged with W = {wanted}; after the handoff "
        f"{where} of its home replicas has it or what covers it"
    )
    steps: list[Step] = [(put, f"acknowledged: {wanted} home replicas have it, or a hint for them exists")]
    steps += [(look, f"{look.node} has neither {id} nor what covers it") for look in looks]
    links: list[Link] = [(put, "observed", look) for look in looks]
    return anomaly("too-few-copies", graph.key, sentence, steps, links)
