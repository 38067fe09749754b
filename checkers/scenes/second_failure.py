"""`second-failure`: hints and horizon rise while a node is away; the alert fires before a second failure would lose data."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from checkers.scenes.claim import Claim, unseen
from checkers.scenes.queue import rises
from checkers.scenes.stage import Stage, end
from checkers.supersession import survey
from checkers.verdict import terms
from checkers.witness import ids
from history.history import NEVER, Operation

ALERT = "ConsistencyHorizon"
HORIZON = "dynamo_consistency_horizon_seconds"
HINTS_MIN = 50

SETTLED_NS = 2_000_000_000
"""A write is on its way to other nodes for so long at most: a timeout, fallbacks, and the request's own deadline."""

POLL_NS = 1_500_000_000
"""How far apart two looks at one node may be: so much the horizon may have grown since it was seen."""


class Exposure(msgspec.Struct, frozen=True):
    """What one more failure would have lost at a look: acknowledged writes that stood on `node` and nowhere else."""

    op: Operation
    time_ns: int
    node: str
    writes: int


def second_failure(s: Stage) -> list[Claim]:
    at_risk = exposures(s)
    return [
        rises(s, s.seats.get("home2", ""), s.fault("partition"), s.fault("heal-partition"), least=HINTS_MIN),
        _horizon_tells(s),
        _alert_in_time(s, at_risk),
        _danger_passes(s, at_risk),
        _nothing_lost(s),
    ]


def exposures(s: Stage) -> list[Exposure]:
    """For each look at a node: of all writes that were acknowledged two seconds before the oldest of the nodes' last looks, how
    many stood on one node alone, on the one where they are most.

    A node holds a write if its record or a hint of it holds the write's id, or that of a write that replaced it.
    """
    graphs = survey(s.history)
    closures: dict[tuple[Any, tuple[Any, ...]], frozenset[Any]] = {}

    def covered(key: Any, held: tuple[Any, ...]) -> frozenset[Any]:
        known = closures.get((key, held))
        if known is None:
            graph = graphs.get(key)
            known = closures[key, held] = frozenset(graph.closure(held)) if graph else frozenset(held)
        return known

    acknowledged = sorted(
        (put.complete.time, key, id)
        for key, graph in graphs.items()
        for id, put in graph.acknowledged()
        if put.complete is not None
    )
    records: dict[str, tuple[int, set[tuple[Any, Any]]]] = {}
    hints: dict[str, set[tuple[Any, Any]]] = {}
    found: list[Exposure] = []
    for o in s.history.observations:
        if o.node is None or o.complete is None:
            continue
        if o.f == "hints":
            hints[o.node] = {(key, w) for _, key, held in o.value for w in covered(key, tuple(held))}
        elif o.f == "records":
            held = {(key, w) for key, r in o.value.items() for w in covered(key, tuple(r["ids"]))}
            records[o.node] = o.complete.time, held
            if set(records) >= set(s.seats.values()):
                found.append(_exposed(o, o.complete.time, acknowledged, records, hints))
    return found


def _exposed(
    o: Operation,
    now_ns: int,
    acknowledged: list[tuple[int, Any, Any]],
    records: dict[str, tuple[int, set[tuple[Any, Any]]]],
    hints: dict[str, set[tuple[Any, Any]]],
) -> Exposure:
    oldest_ns = min(at for at, _ in records.values()) - SETTLED_NS
    alone: Counter[str] = Counter()
    for at, key, id in acknowledged:
        if at > oldest_ns:
            break
        holders = [
            n for n, (_, held) in records.items() if (key, id) in held or (key, id) in hints.get(n, ())
        ]
        if len(holders) == 1:
            alone[holders[0]] += 1
    node, writes = max(alone.items(), key=lambda item: (item[1], item[0]), default=("", 0))
    return Exposure(o, now_ns, node, writes)


def _horizon_tells(s: Stage) -> Claim:
    name = "horizon-tells"
    sentence = (
        "the consistency horizon rises while the node is away, and is never below the age of what it lacks"
    )
    cut, healed = s.fault("partition"), s.fault("heal-partition")
    missed = s.writes(end(cut)) if cut is not None else []
    first = next((o for o in missed if o.type == "ok" and o.complete is not None), None)
    if cut is None or first is None or first.complete is None:
        return unseen(name, sentence, "nothing was written while a node was away")
    since_ns = first.complete.time + SETTLED_NS
    highest = 0.0
    last: dict[str, tuple[int, float]] = {}
    for o in s.history.observed("metrics"):
        assert o.complete is not None, o.index
        if o.node is None or not end(cut) < o.index < (healed.index if healed else NEVER):
            continue
        now_ns = o.complete.time
        last[o.node] = now_ns, o.value.get(HORIZON, 0.0)
        told = max(value for _, value in last.values())
        highest = max(highest, told)
        if now_ns > since_ns and told < (now_ns - since_ns - POLL_NS) / 1e9:
            return Claim(
                name=name,
                sentence=sentence,
                held=False,
                seen=f"the highest horizon of any node was {told:.1f} s, {(now_ns - since_ns) / 1e9:.1f} s after a write "
                f"that {s.seats['home2']} lacks",
                steps=(
                    (cut, "a node goes away"),
                    (first, "a write that it lacks"),
                    (o, f"a horizon of {told:.1f} s"),
                ),
            )
    return Claim(
        name=name,
        sentence=sentence,
        held=highest > 0,
        seen=f"it rose to {highest:.1f} s by the last look before the node was back",
        steps=((cut, "a node goes away; no horizon rises"),),
    )


def fired(s: Stage) -> tuple[Operation, dict[str, Any]] | None:
    """The first firing of the alert on the horizon, and the observation that tells of it."""
    for o in s.history.observed("alerts"):
        for alert in o.value:
            if alert["alert"] == ALERT:
                return o, alert
    return None


def _alert_in_time(s: Stage, at_risk: list[Exposure]) -> Claim:
    name = "alert-in-time"
    sentence = "the alert on the horizon fires before a second failure would lose anything"
    danger = next((e for e in at_risk if e.writes), None)
    evaluated = s.history.observed("alerts")
    if danger is None or not evaluated:
        return unseen(
            name,
            sentence,
            "at no moment would a second failure have lost anything, or no alert was evaluated",
        )
    alert = fired(s)
    risk = (danger.op, f"from here on {danger.node} alone holds an acknowledged write")
    if alert is None:
        return Claim(
            name=name,
            sentence=sentence,
            held=False,
            seen=f"it never fired; from {danger.time_ns / 1e9:.1f} s on a failure of {danger.node} would have lost data",
            steps=(risk, (evaluated[-1], f"{ALERT} is not among the alerts that fired")),
        )
    told, content = alert
    fired_ns = int(content["fired_ns"])
    scale = float(terms(s.history, "scene").get("scale", 1))
    shown = f" (the rule's {content['threshold'] / scale:g} s for {content['for_seconds'] / scale:g} s, times {scale:g})"
    return Claim(
        name=name,
        sentence=sentence,
        held=fired_ns < danger.time_ns,
        seen=f"it fired at {fired_ns / 1e9:.1f} s, above {content['threshold']:g} s for {content['for_seconds']:g} s"
        f"{shown if scale != 1 else ''}; from {danger.time_ns / 1e9:.1f} s on a failure of {danger.node} would have lost data",
        steps=(risk, (told, f"{ALERT} fired at {fired_ns / 1e9:.1f} s")),
    )


def _danger_passes(s: Stage, at_risk: list[Exposure]) -> Claim:
    name = "danger-passes"
    sentence = (
        "once the node is back every acknowledged write is on other nodes again, before the second failure"
    )
    killed = s.fault("kill")
    before = [e for e in at_risk if killed is not None and e.op.index < killed.index]
    most = max(before, key=lambda e: e.writes, default=None)
    if killed is None or most is None or not most.writes:
        return unseen(name, sentence, "there was no second failure, or no danger before it")
    last = before[-1]
    return Claim(
        name=name,
        sentence=sentence,
        held=not last.writes,
        seen=f"at {most.time_ns / 1e9:.1f} s a failure of {most.node} would have lost {most.writes} writes, "
        f"at {last.time_ns / 1e9:.1f} s {last.writes or 'none'}",
        steps=(
            (most.op, f"{most.node} alone holds {most.writes} writes"),
            (last.op, f"still {last.writes}"),
            (killed, "it dies"),
        ),
    )


def _nothing_lost(s: Stage) -> Claim:
    name = "nothing-is-lost"
    sentence = "while the node is dead reads return every acknowledged write, or what replaced it"
    killed = s.fault("kill")
    heal = s.history.phases.get("heal", NEVER)
    reads = [o for o in s.history.select("get") if killed and end(killed) < o.index < heal and o.type == "ok"]
    graphs = survey(s.history)
    unread = set(s.keys.values()) - {o.key for o in reads}
    if killed is None or unread:
        return unseen(
            name,
            sentence,
            f"{ids(sorted(unread)) if killed else 'nothing'} was not read after the second failure",
        )
    for o in reads:
        graph = graphs[o.key]
        shown = graph.closure(o.value)
        lost = [(id, put) for id, put in graph.acknowledged() if put.end < o.index and id not in shown]
        if lost:
            return Claim(
                name=name,
                sentence=sentence,
                held=False,
                seen=f"a read of {o.key} lacks {ids(id for id, _ in lost)}",
                key=o.key,
                steps=(
                    (o, "lacks them"),
                    (killed, "the second failure"),
                    *((put, "acknowledged") for _, put in lost[:5]),
                ),
            )
    writes = sum(1 for graph in graphs.values() for _ in graph.acknowledged())
    return Claim(
        name=name,
        sentence=sentence,
        held=True,
        seen=f"all {writes} acknowledged writes, in {len(reads)} reads",
    )
