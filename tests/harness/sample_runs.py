"""Made-up runs for tests of the report: a register workload under faults, with probes, logs and results, from a seed."""

from __future__ import annotations

import heapq
from hashlib import blake2b
from typing import Any

import msgspec

from checkers.verdict import Anomaly, Edge, Valid, Verdict
from history.header import Header
from history.history import History
from history.op import NEMESIS, PROBE, Op, Process

NODES = ("n1", "n2", "n3", "n4", "n5")
MS = 1_000_000
SECOND = 1_000 * MS
EVIDENCE = {
    "partition": ("links", {"n1>n3": True}, {"n1>n3": False}, 4_812),
    "kill": ("process", {"n2": "running"}, {"n2": "gone"}, 31),
    "pause": ("process", {"n4": "running"}, {"n4": "stopped"}, 204),
    "skew": ("clock", {"n5": 0}, {"n5": -2_000_000_000}, None),
}


def drawn(limit: int, *identity: object) -> int:
    """A number below `limit` that depends on the identity alone."""
    return int.from_bytes(blake2b(repr(identity).encode(), digest_size=8).digest(), "big") % limit


def faults(seconds: int) -> list[tuple[int, dict[str, Any]]]:
    """Partitions, kills, pauses and clock skew in turn, each healed two seconds later."""
    plan: list[tuple[int, dict[str, Any]]] = []
    kinds: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
        (
            {
                "fault": "partition",
                "shape": "halves",
                "blocked": [[a, b] for a in NODES for b in NODES if (a in NODES[:2]) != (b in NODES[:2])],
                "mode": "drop",
            },
            {"fault": "heal-partition"},
        ),
        ({"fault": "kill", "nodes": ["n2"]}, {"fault": "restart", "nodes": ["n2"]}),
        ({"fault": "pause", "nodes": ["n4", "n1"]}, {"fault": "resume", "nodes": ["n4", "n1"]}),
        ({"fault": "skew", "offsets_ns": {"n5": -2 * SECOND, "n3": 40 * MS}}, {"fault": "reset-clocks"}),
        (
            {
                "fault": "partition",
                "shape": "one-way",
                "blocked": [["n1", b] for b in NODES[1:]],
                "mode": "reject",
            },
            {"fault": "heal-partition"},
        ),
    )
    for burst, at in enumerate(range(3, max(4, seconds - 2), 4)):
        harm, heal = kinds[burst % len(kinds)]
        start = at * SECOND + drawn(SECOND, "start", burst)
        plan += [(start, harm), (start + 2 * SECOND + drawn(SECOND, "hold", burst), heal)]
    return plan


def history(
    *,
    seconds: int = 30,
    rate: int = 100,
    clients: int = 10,
    keys: int = 6,
    seed: int = 7,
    inert: bool = False,
    probes: bool = True,
    torn: str = "",
) -> History:
    """A run of about `rate` operations a second for `seconds`, then heal, recovery and final reads."""
    events: list[tuple[int, int, Op]] = []
    number = 0

    def add(at: int, op: Op) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (at, number, op))

    end = seconds * SECOND
    plan = [f for f in faults(seconds) if f[0] < end]
    for at, name in ((0, "safety"), (end, "heal"), (end + 50 * MS, "recovery"), (end + 4 * SECOND, "final")):
        add(at, Op(NEMESIS, "info", "phase", None, name))
    for at, fault in plan:
        _fault(add, at, fault, inert)
    if any(f["fault"] == "partition" for _, f in plan):
        _fault(add, end + MS, {"fault": "heal-partition"}, inert)
    harms = _harms(plan, end)
    free: list[tuple[int, Process]] = [(0, p) for p in range(clients)]
    heapq.heapify(free)
    latest: dict[str, list[int]] = {f"k{i}": [] for i in range(keys)}
    for i in range(rate * seconds):
        at = i * SECOND // rate + drawn(SECOND // rate, seed, "jitter", i)
        ready, process = free[0]
        if ready > at:
            continue
        heapq.heappop(free)
        again, took = _operation(add, at, process, i, latest, harms, seed, clients)
        heapq.heappush(free, (at + took, again))
    for i, key in enumerate(latest):
        at = end + 5 * SECOND + i * 8 * MS
        meta = {"final": True}
        add(at, Op("reader", "invoke", "get", key, node=NODES[i % 5], meta=meta))
        add(at + 4 * MS, Op("reader", "ok", "get", key, list(latest[key][-2:]), node=NODES[i % 5], meta=meta))
    if probes:
        for step in range(1, seconds * 4 + 16):
            for node in NODES:
                _probe(add, step * 250 * MS, node, harms, end)
    ordered = [msgspec.structs.replace(op, time=at) for at, _, op in sorted(events, key=lambda e: e[:2])]
    header = Header(
        name="register",
        workload="register",
        seed=seed,
        nodes=NODES,
        guarantees={"lost_writes": "causal", "siblings": True},
        families=("partition", "kill", "pause", "clock"),
        mechanisms={"partition": "simulated links", "kill": "simulated process"},
        config={"n": 3, "r": 2, "w": 2, "concurrency": clients, "rate": rate, "mutant": "hint-pop-first"},
    )
    return History(header, ordered, torn=torn)


def _fault(add: Any, at: int, fault: dict[str, Any], inert: bool) -> None:
    tag = fault["fault"]
    add(at, Op(NEMESIS, "invoke", tag, None, fault))
    mechanism, before, after, fired = EVIDENCE.get(tag, ("heal", {}, {}, 12))
    evidence = {
        "verified": not inert,
        "mechanism": f"simulated {mechanism}",
        "injected_ns": at + MS,
        "verified_ns": at + 2 * MS,
        "before": before,
        "after": before if inert else after,
        "fired": 0 if inert else fired,
    }
    add(at + 3 * MS, Op(NEMESIS, "ok", tag, None, evidence))


def _harms(plan: list[tuple[int, dict[str, Any]]], end: int) -> list[tuple[int, int, str]]:
    """(start, end, tag) of every harm of the plan."""
    return [
        (at, plan[i + 1][0] if i + 1 < len(plan) else end, fault["fault"])
        for i, (at, fault) in enumerate(plan)
        if i % 2 == 0
    ]


def _operation(
    add: Any,
    at: int,
    process: Process,
    i: int,
    latest: dict[str, list[int]],
    harms: list[tuple[int, int, str]],
    seed: int,
    clients: int,
) -> tuple[Process, int]:
    """Adds one operation; returns the process that goes on and how long it was busy."""
    assert isinstance(process, int)
    node = NODES[process % 5]
    key = f"k{drawn(len(latest), seed, 'key', i)}"
    tag = next((t for a, b, t in harms if a <= at < b), None)
    luck = drawn(100, seed, "luck", i)
    octave = drawn(1000, seed, "took", i) / 1000
    took = int(0.6 * MS * 2 ** (octave * octave * 5))
    trouble = tag is not None and tag != "skew" and (node in ("n1", "n2") or luck < 8)
    if trouble:
        took = int(took * (1 + drawn(60, seed, "slow", i)))
    read = drawn(10, seed, "f", i) < 4
    known = latest[key][-1 - drawn(2, seed, "sib", i) * (len(latest[key]) > 1) :]
    f = "get" if read else "put"
    value = None if read else i + 1
    meta: dict[str, Any] = {} if read else {"context": known[:1]}
    add(at, Op(process, "invoke", f, key, value, node=node, meta=meta))
    if trouble and luck < 34:
        if read or luck < 12:
            took = 1_000 * MS if read else 20 * MS
            error = "no answer in 1 s" if read else "503: 1 of 2 replicas answered"
            add(at + took, Op(process, "fail", f, key, value, error, node))
            return process, took
        took = 1_000 * MS
        add(at + took, Op(process, "info", f, key, value, "the connection broke after the bytes left", node))
        return process + clients, took
    if read:
        add(at + took, Op(process, "ok", f, key, list(known), node=node))
    else:
        latest[key].append(i + 1)
        add(at + took, Op(process, "ok", f, key, value, node=node, meta={"returned": [i + 1]}))
    return process, took


def _probe(add: Any, at: int, node: str, harms: list[tuple[int, int, str]], end: int) -> None:
    standing = next(((a, t) for a, b, t in harms if a <= at < b), None)
    recent = next((b for _, b, t in reversed(harms) if t == "partition" and b <= at < b + 2 * SECOND), None)
    at += NODES.index(node) * MS
    if standing is not None and standing[1] == "kill" and node == "n2":
        for f in ("hints", "digest"):
            add(at, Op(PROBE, "invoke", f, node=node))
            add(at, Op(PROBE, "fail", f, None, None, "connection refused", node))
        return
    pending = 0
    if standing is not None and standing[1] in ("partition", "kill") and node in ("n3", "n5", "n1"):
        pending = (at - standing[0]) // (60 * MS)
    elif recent is not None and node == "n3":
        pending = (recent + 2 * SECOND - at) // (80 * MS)
    add(at, Op(PROBE, "invoke", "hints", node=node))
    add(at, Op(PROBE, "ok", "hints", None, [["n2", "k1", [i]] for i in range(pending)], node))
    apart = (standing is not None and standing[1] == "partition") or recent is not None
    version = at // SECOND if apart and node in ("n1", "n2") else "same"
    digest = {str(r): f"{drawn(1 << 60, r, version if r % 3 == 0 else 'same'):016x}" for r in range(32)}
    add(at, Op(PROBE, "invoke", "digest", node=node))
    add(at, Op(PROBE, "ok", "digest", None, digest, node))


def logs(h: History) -> dict[str, str]:
    """Node logs in the simulator's form, a line for every tenth operation of the node and for what goes wrong."""
    lines: dict[str, list[str]] = {node: [f"{0:11.6f} {node} listening"] for node in NODES}
    for o in h.client:
        if o.node in lines and (o.index % 41 == 0 or o.type != "ok"):
            text = (
                f"{o.f} {o.key}: quorum of 2 answered"
                if o.type == "ok"
                else f"{o.f} {o.key}: no quorum, n2 silent"
            )
            lines[o.node].append(f"{o.invoke.time / 1e9:11.6f} {o.node} {text}")
    return {node: "\n".join(found) + "\n" for node, found in lines.items()}


def lost_write(h: History, key: str = "k1", skip: int = 3) -> Anomaly:
    """An anomaly that claims the loss of some acknowledged put, with operations near it as its witness."""
    puts = [o for o in h.select("put") if o.key == key and o.type == "ok"]
    position = len(puts) // 2 + skip
    before, lost, after = puts[position - 1 : position + 2]
    reads = [o for o in h.select("get") if o.key == key and o.type == "ok"]
    seen = next((o for o in reads if o.index > lost.end), reads[-1])
    final = next(o for o in reads if o.meta.get("final"))
    return Anomaly(
        kind="vanished",
        key=key,
        sentence=f"put {lost.value} of {key} was acknowledged and is gone: no final value covers it",
        witness=(before.index, lost.index, after.index, seen.index, final.index),
        why=(
            "the value that the lost put replaced",
            "acknowledged, so it had to stay",
            f"does not name {lost.value} in its context, so it cannot have replaced it",
            "the last read that might have seen it",
            f"read of all home replicas at the end: {lost.value} is not there",
        ),
        edges=(
            Edge(lost.index, before.index, "superseded"),
            Edge(after.index, seen.index, "read-from"),
            Edge(lost.index, after.index, "real-time"),
            Edge(after.index, final.index, "observed"),
        ),
    )


def verdicts(*anomalies: Anomaly) -> list[Verdict]:
    """What checkers might say: invalid with anomalies, else valid; one unknown and one that only measures."""
    lost = (
        Verdict(
            checker="lost_writes",
            valid=Valid.INVALID,
            reason=f"{len(anomalies)} acknowledged writes are lost",
            anomalies=anomalies,
            evidence={"acknowledged": 1_204, "lost": [a.witness[1] for a in anomalies], "excused": 0},
        )
        if anomalies
        else Verdict(checker="lost_writes", valid=Valid.VALID, evidence={"acknowledged": 1_204, "lost": []})
    )
    return [
        lost,
        Verdict(checker="siblings", valid=Valid.VALID, evidence={"most": 2, "unresolved": 0}),
        Verdict(
            checker="resurrection",
            valid=Valid.UNKNOWN,
            judged=False,
            reason="no delete was acknowledged, so nothing could come back",
            evidence={"deletes": 0},
        ),
        Verdict(
            checker="convergence",
            valid=Valid.VALID,
            evidence={"hints": {"seen": 40, "delivered": 40}, "agreed_after_seconds": 1.25},
        ),
        Verdict(checker="availability", valid=Valid.VALID, judged=False, evidence={"ok": 0.91}),
    ]


def results(*found: Verdict, verdict: str = "invalid", sentence: str = "") -> dict[str, Any]:
    """Content of results.json."""
    worst = next((v for v in found if str(v.valid) == verdict and v.reason), None)
    reason = f"{worst.checker}: {worst.reason}" if worst else "nothing that was promised was broken"
    return {
        "verdict": verdict,
        "sentence": sentence or f"{verdict}: {reason}",
        "seed": 7,
        "name": "register",
        "world": "sim",
        "mutant": "hint-pop-first" if verdict == "invalid" else None,
        "repeat": "sunder run --workload register --seed 7",
        "results": {v.checker: msgspec.to_builtins(v) for v in found},
    }
