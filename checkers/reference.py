"""The definitions written out as plainly as possible: oracles for property tests on tiny histories, with no regard to cost.

Every function returns what a checker's verdict has to be, and its anomalies as (kind, key, subject). Nothing is shared with
the checkers but the history.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import msgspec

from checkers.verdict import Valid
from history.history import NEVER, History, Operation
from history.op import PROBE

Found = set[tuple[str, Any, Any]]


class Expected(msgspec.Struct, frozen=True):
    """What is right about a history: the verdict and every anomaly."""

    valid: Valid
    found: Found


def _expected(found: Found, undecided: bool) -> Expected:
    return Expected(Valid.INVALID if found else Valid.UNKNOWN if undecided else Valid.VALID, found)


# Supersession.


def _keys(history: History) -> list[Any]:
    keys = [o.key for o in history.client if o.f in ("get", "put", "delete")]
    held = [key for name in ("quiet", "read") for o in history.observed("replica", name) for key in o.value]
    return list(dict.fromkeys(keys + held))


def _puts(history: History, key: Any) -> dict[Any, Operation]:
    return {o.invoke.value: o for o in history.client if o.f == "put" and o.key == key}


def _context(puts: dict[Any, Operation], write: Operation) -> set[Any]:
    """Direct edges of a possibly effective write: to what was put before it."""
    if not write.possible:
        return set()
    return {v for v in write.invoke.meta.get("context") or () if v in puts and puts[v].index < write.index}


def _anc(puts: dict[Any, Operation], ids: set[Any]) -> set[Any]:
    """The reflexive, transitive closure, by adding edges until nothing is new."""
    reached = set(ids)
    while True:
        more = {v for id in reached if id in puts for v in _context(puts, puts[id])} - reached
        if not more:
            return reached
        reached |= more


def _deletes(history: History, key: Any, *types: str) -> list[Operation]:
    return [o for o in history.client if o.f == "delete" and o.key == key and o.type in types]


def _replies(history: History, key: Any) -> list[tuple[Operation, list[Any]]]:
    replies: list[tuple[Operation, list[Any]]] = []
    for o in history.client:
        if o.key != key or o.complete is None or o.type != "ok":
            continue
        if o.f == "get":
            replies.append((o, list(o.value)))
        elif o.f in ("put", "delete") and "returned" in o.complete.meta:
            replies.append((o, list(o.complete.meta["returned"])))
    return replies


def _finals(history: History, key: Any) -> list[tuple[Operation, list[Any]]]:
    return [(o, ids) for o, ids in _replies(history, key) if o.f == "get" and o.invoke.meta.get("final")]


def _truncated(history: History, key: Any) -> bool:
    return any(o.type == "ok" and o.meta.get("truncated") for o in history.client if o.key == key)


# What the probe saw.


def _replicas(history: History, stage: str) -> dict[str | None, Operation]:
    return {o.node: o for o in history.observed("replica", stage)}


def _hints(history: History, stage: str) -> dict[str | None, Operation]:
    return {o.node: o for o in history.observed("hints", stage)}


def _homes(history: History) -> dict[Any, list[str]]:
    seen = history.observed("homes")
    return seen[-1].value if seen else {}


def _last(history: History) -> dict[str | None, Operation]:
    if _replicas(history, "read") or _hints(history, "read"):
        return _replicas(history, "read")
    return _replicas(history, "quiet")


def _doubt(history: History, key: Any) -> bool:
    looks = {**_hints(history, "quiet"), **_hints(history, "read")}
    if any(k == key for o in looks.values() for _, k, _ in o.value):
        return True
    asked = {
        o.node
        for o in history.operations
        if o.process == PROBE and o.f == "hints" and o.invoke.meta.get("stage")
    }
    if asked - set(looks):
        return True
    homes = _homes(history).get(key)
    polled = bool(homes) and all(home in _last(history) for home in homes or ())
    return not _finals(history, key) and not polled


# The checkers.


def lost_writes(history: History) -> Expected:
    mode = history.header.guarantees.get("lost_writes") or "causal"
    found: Found = set()
    undecided = not any(o.f == "put" and o.type == "ok" for o in history.client)
    for key in _keys(history):
        puts = _puts(history, key)
        sightings = _replies(history, key) + [
            (o, o.value.get(key, [])) for s in ("quiet", "read") for o in _replicas(history, s).values()
        ]
        # The first sighting decides what is said of an id that cannot be.
        odd: dict[Any, str] = {}
        for o, ids in sightings:
            for id in ids:
                if id not in puts or puts[id].index > o.end:
                    odd.setdefault(id, "phantom")
                elif puts[id].type == "fail":
                    odd.setdefault(id, "failed-but-visible")
        found |= {(kind, key, id) for id, kind in odd.items()}
        visible = {id for _, ids in _finals(history, key) for id in ids}
        visible |= {id for o in _last(history).values() for id in o.value.get(key, [])}
        lost: set[Any] = set()
        for id, put in puts.items():
            deleted = any(id in _anc(puts, _context(puts, d)) for d in _deletes(history, key, "ok", "info"))
            expired = id in _expired(history, puts)
            if put.type == "ok" and id not in _anc(puts, visible) and not deleted and not expired:
                lost.add(id)
        if mode != "causal":
            here = [puts[v] for v in visible | _expired(history, puts) if v in puts]
            winners = here + _deletes(history, key, "ok", "info")
            lost = {id for id in lost if all(w.end < puts[id].index for w in winners)}
            if mode == "lww-skewed":
                continue
        if lost and _doubt(history, key):
            undecided = True
            continue
        for id in lost:
            others = lost - {id}
            if mode == "causal" and not any(id in _anc(puts, _context(puts, puts[o])) for o in others):
                found.add((_how(history, key, puts, id, visible), key, id))
            elif mode == "lww":
                found.add(("clobbered-in-order" if visible & set(puts) else "vanished", key, id))
    return _expected(found, undecided)


def _expired(history: History, puts: dict[Any, Operation]) -> set[Any]:
    """What the end of a time to live may have taken away: the values, and what they had replaced."""
    end = history.events[-1].time
    skewed = "clock" in history.header.families or history.header.world != "sim"
    over = [
        id
        for id, put in puts.items()
        if put.possible
        and (ttl_seconds := put.invoke.meta.get("ttl_seconds"))
        and (skewed or end - put.invoke.time >= ttl_seconds * 1e9)
    ]
    return _anc(puts, set(over))


def _how(history: History, key: Any, puts: dict[Any, Operation], id: Any, visible: set[Any]) -> str:
    if _anc(puts, _context(puts, puts[id])) & visible:
        return "rolled-back"
    beside = {v for _, ids in _replies(history, key) if id in ids for v in ids}
    return "clobbered" if any(v in puts for v in visible - beside) else "vanished"


def siblings(history: History) -> Expected:
    """Without explosions, for which `antichain` gives the exact bound: each has one of the other anomalies beside it."""
    found: Found = set()
    answered = False
    for key in _keys(history):
        puts = _puts(history, key)
        answered = answered or bool(_replies(history, key))
        if _truncated(history, key):
            continue
        for _, ids in _replies(history, key):
            found |= {("duplicate", key, id) for id in ids if ids.count(id) > 1}
            for w in ids:
                if w in puts:
                    below = _anc(puts, _context(puts, puts[w]))
                    found |= {("false-concurrency", key, (w, v)) for v in ids if v in below}
        finals = _finals(history, key)
        if finals and len(finals[-1][1]) > 1:
            final, ids = finals[-1]
            for v in ids:
                beside = any(w in puts and v in _anc(puts, _context(puts, puts[w])) for w in ids)
                covering = _covering(history, key, puts, v)
                if not beside and any(w.end < final.index for w in covering):
                    found.add(("unresolved", key, v))
    return _expected(found, not answered)


def _covering(history: History, key: Any, puts: dict[Any, Operation], v: Any) -> list[Operation]:
    """Acknowledged writes that cover v."""
    writes = [p for p in puts.values() if p.type == "ok"] + _deletes(history, key, "ok")
    return [w for w in writes if v in _anc(puts, _context(puts, w))]


def antichain(history: History, key: Any, before: int) -> int:
    """The most possible puts of the key, invoked before an event, of which none covers another."""
    puts = _puts(history, key)
    possible = [id for id, p in puts.items() if p.possible and p.index < before]
    for size in range(len(possible), 0, -1):
        for chosen in combinations(possible, size):
            if all(v == w or v not in _anc(puts, _context(puts, puts[w])) for w in chosen for v in chosen):
                return size
    return 0


def resurrection(history: History) -> Expected:
    mode = history.header.guarantees.get("lost_writes") or "causal"
    promise = history.header.guarantees.get("convergence")
    agreed = isinstance(promise, dict) and promise.get("after") in ("full-read", "anti-entropy")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  a header's terms are free-form
    found: Found = set()
    read = any(_finals(history, key) for key in _keys(history))
    unread = False
    anything = False
    for key in _keys(history):
        puts = _puts(history, key)
        looks = _finals(history, key)
        if looks and agreed:
            last = looks[-1][0].index
            looks = looks + [
                (o, o.value.get(key, [])) for o in _replicas(history, "read").values() if o.index > last
            ]
        for v in puts:
            covering = _covering(history, key, puts, v)
            if mode != "causal":
                covering = [
                    d
                    for d in covering
                    if d.f == "delete"
                    and v in _context(puts, d)
                    and (mode != "lww-skewed" or _same_home(history, key, puts[v], d))
                ]
            if not covering:
                continue
            anything = True
            unread = unread or not _finals(history, key)
            back = any(v in ids and w.end < o.index for o, ids in looks for w in covering)
            if back and not _truncated(history, key):
                found.add(("resurrected", key, v))
    return _expected(found, not read or unread or not anything)


def _same_home(history: History, key: Any, put: Operation, delete: Operation) -> bool:
    at_home = _homes(history).get(key, [])
    return put.type == "ok" and put.end < delete.index and put.node == delete.node and put.node in at_home


def durability(history: History) -> Expected:
    asked: Any = history.header.guarantees.get("durability") or {}
    quiet, hints, homes = _replicas(history, "quiet"), _hints(history, "quiet"), _homes(history)
    looked = {
        o.node
        for o in history.operations
        if o.process == PROBE and o.f == "hints" and o.invoke.meta.get("stage")
    }
    answered = set(hints) | set(_hints(history, "read"))
    found: Found = set()
    judged = False
    for key in _keys(history):
        puts = _puts(history, key)
        nodes = homes.get(key, [])
        if any(p.invoke.meta.get("ttl_seconds") for p in puts.values()):
            continue
        pending = any(k == key for look in hints.values() for _, k, _ in look.value)
        if looked - answered or pending or not nodes or any(n not in quiet for n in nodes):
            continue
        for id, put in puts.items():
            deletes = _deletes(history, key, "ok", "info")
            judged = judged or put.type == "ok"
            if put.type != "ok" or any(id in _anc(puts, _context(puts, d)) for d in deletes):
                continue
            meta = put.invoke.meta
            wanted = max(meta.get("w", asked.get("w", 1)), meta.get("pw", asked.get("pw", 0)))
            have = sum(id in _anc(puts, set(quiet[n].value.get(key, []))) for n in nodes)
            if have < min(wanted, len(nodes)):
                found.add(("too-few-copies", key, id))
    return _expected(found, not judged)


def sessions(history: History) -> Expected:
    told: Any = history.header.guarantees.get("sessions")
    agreed: dict[str, Any] = {"n": 0, "r": 1, "w": 1, "pr": 1, "pw": 1, "blocking": True, "regular": True}
    if told:
        agreed |= {"regular": False, **told}
    n, regular = agreed["n"], agreed["regular"]

    def reach(o: Operation) -> int:
        if o.invoke.meta.get("final"):
            return n or 1
        any_, primaries = ("r", "pr") if o.f == "get" else ("w", "pw")
        certain = o.invoke.meta.get(primaries, agreed[primaries])
        return max(certain, o.invoke.meta.get(any_, agreed[any_])) if agreed.get("strict") else certain

    found: Found = set()
    judged = False
    for key in _keys(history):
        puts = _puts(history, key)

        def known(o: Operation, shown: list[Any], puts: dict[Any, Operation] = puts) -> set[Any]:
            return {v for v in shown if v in puts and puts[v].possible and puts[v].index < o.end}

        answers = [
            o for o in history.client if o.key == key and o.f in ("get", "put", "delete") and o.type == "ok"
        ]
        # (id, how many home replicas have it, whose, since when)
        events: list[tuple[Any, int, Any, int]] = []
        for o, shown in _replies(history, key):
            if o.f != "get" or agreed["blocking"]:
                events += [(v, reach(o), o.process, o.end) for v in known(o, shown)]
        events += [(o.invoke.value, reach(o), o.process, o.end) for o in answers if o.f == "put"]

        def frontier(
            before: int, process: Any, puts: dict[Any, Operation] = puts, events: Any = events
        ) -> Any:
            """What was established before an event (in one session, or in any): id -> reach."""
            reached: dict[Any, int] = {}
            for v, r, who, end in events:
                if end < before and process in (None, who):
                    reached[v] = max(r, reached.get(v, 0))
            return {
                v: r
                for v, r in reached.items()
                if not any(u != v and v in _anc(puts, {u}) and r <= reached[u] for u in reached)
            }

        def gone(v: Any, read: Operation, key: Any = key, puts: dict[Any, Operation] = puts) -> bool:
            deletes = _deletes(history, key, "ok", "info")
            removed = [(d, _context(puts, d)) for d in deletes]
            removed += [
                (p, {id}) for id, p in puts.items() if p.possible and p.invoke.meta.get("ttl_seconds")
            ]
            return any(w.index < read.end and v in _anc(puts, ids) for w, ids in removed)

        wrong: Found = set()
        for read in (o for o in answers if o.f == "get"):
            shown = known(read, list(read.value))
            below = _anc(puts, shown)

            def lacks(
                v: Any, r: int, read: Operation = read, below: set[Any] = below, gone: Any = gone
            ) -> bool:
                return v not in below and r + reach(read) > n and not gone(v, read)

            judged = judged or any(end < read.index and r + reach(read) > n for _, r, _, end in events)
            for v, r in frontier(read.index, read.process).items():
                if lacks(v, r):
                    kind = "read-your-writes" if puts[v].process == read.process else "monotonic-reads"
                    wrong.add((kind, key, (read.process, v)))
            if regular:
                wrong |= {
                    ("stale-read", key, v) for v, r in frontier(read.index, None).items() if lacks(v, r)
                }
            for d in _deletes(history, key, "ok"):
                if d.end < read.index and reach(d) + reach(read) > n:
                    for v in shown & _anc(puts, _context(puts, d)):
                        if d.process == read.process:
                            wrong.add(("read-your-writes", key, (read.process, v)))
                        elif regular:
                            wrong.add(("stale-read", key, v))
            for w in (
                p for id, p in puts.items() if id in below and p.possible and p.process != read.process
            ):
                for v, r in frontier(w.index, w.process).items():
                    since = min(e for u, s, who, e in events if (u, s, who) == (v, r, w.process))
                    if since < read.index and v not in _anc(puts, _context(puts, w)) and lacks(v, r):
                        kind = "monotonic-writes" if puts[v].process == w.process else "writes-follow-reads"
                        wrong.add((kind, key, (w.invoke.value, v)))
        if not _truncated(history, key):
            found |= wrong
    return _expected(found, not judged)


def convergence(history: History) -> Expected:
    promise: Any = history.header.guarantees.get("convergence") or {}
    lww = str(history.header.guarantees.get("lost_writes") or "").startswith("lww")
    found: Found = set()
    undecided = False
    homes = _homes(history)
    after, quiet = _replicas(history, "read"), _replicas(history, "quiet")
    terms = promise.get("after", "full-read")
    if terms in ("full-read", "handoff", "anti-entropy"):
        name = "read" if terms == "full-read" else "quiet"
        after = after if terms == "full-read" else quiet
        waiting = {hint[1] for look in _hints(history, name).values() for hint in look.value}
        undecided = not homes or not after
        for key, nodes in homes.items():
            if any(node not in after for node in nodes):
                undecided = True
                continue
            gone = _expired(history, _puts(history, key)) if history.events else set[Any]()
            held: list[tuple[set[Any], bool]] = []
            for n in nodes:
                ids = set(after[n].value.get(key, []))
                tombstone = key in (after[n].meta.get("deleted") or [])
                reaped = bool(promise.get("reaps")) and not ids
                held.append((ids - gone, tombstone and not gone and not reaped))
            if any(h != held[0] for h in held):
                tried = terms == "full-read" and any(
                    o.f == "get" and o.key == key and o.invoke.meta.get("final") for o in history.client
                )
                if key in waiting or (tried and not _finals(history, key)):
                    undecided = True
                else:
                    found.add(("diverged", key, None))
    else:
        undecided = not quiet
    ends = _hints(history, "quiet")
    for target, key, id in _hinted(history):
        kind = _fate(history, target, key, id, quiet, ends, lww, promise)
        undecided = undecided or kind == "undecided"
        if kind not in ("undecided", "delivered"):
            found.add((kind, key, target))
    if promise.get("comes_to_rest"):
        looks = history.observed("exchanged", "rest")
        nodes = {o.node for o in looks}
        own = [[o.value for o in looks if o.node == node] for node in nodes]
        sent = [sum(turn) for turn in zip(*own, strict=False)]
        if len(sent) > 2 and sent == sorted(set(sent)):
            found.add(("restless", None, None))
    return _expected(found, undecided)


def _hinted(history: History) -> set[tuple[str, Any, Any]]:
    return {
        (target, key, id)
        for o in history.observed("hints")
        if o.meta.get("stage") != "read"
        for target, key, ids in o.value
        for id in ids
    }


def _fate(
    history: History,
    target: str,
    key: Any,
    id: Any,
    quiet: dict[str | None, Operation],
    ends: dict[str | None, Operation],
    lww: bool,
    promise: Any,
) -> str:
    bound_seconds, reaps = promise.get("bound_seconds"), bool(promise.get("reaps"))

    def shows(o: Operation) -> bool:
        return any(t == target and k == key and id in ids for t, k, ids in o.value)

    if target not in quiet:
        return "undecided"
    look = quiet[target]
    puts = _puts(history, key)
    held = set(look.value.get(key, []))
    tombstone = key in (look.meta.get("deleted") or [])
    if id in _anc(puts, held) or (lww and (held or tombstone)):
        return "delivered"
    if id in _expired(history, puts):
        return "delivered"
    for d in _deletes(history, key, "ok", "info"):
        later = any(v in puts and puts[v].index > d.index for v in held)
        if (id in _anc(puts, _context(puts, d)) and (tombstone or later or reaps)) or (lww and reaps):
            return "delivered"
    holders = {o.node for o in history.observed("hints") if o.meta.get("stage") != "read" and shows(o)}
    if any(h in ends and shows(ends[h]) for h in holders):
        end = next(ends[h] for h in _by_first_sight(history, holders, shows) if h in ends and shows(ends[h]))
        off = [o.complete.time for o in history.nemesis if o.complete and o.complete.index < end.index]
        off += [e.time for e in history.events if e.f == "phase" and e.value == "heal"][-1:]
        waited_ns = end.invoke.time - max(off, default=0)
        return "undelivered" if bound_seconds is not None and waited_ns > bound_seconds * 1e9 else "undecided"
    if any(h not in ends or ends[h].index > look.index for h in holders):
        return "undecided"
    return "hint-lost"


def _by_first_sight(history: History, holders: set[str | None], shows: Any) -> list[str | None]:
    seen = [
        o.node
        for o in history.observed("hints")
        if o.node in holders and o.meta.get("stage") != "read" and shows(o)
    ]
    return list(dict.fromkeys(seen))


def _element_reads(history: History, key: Any) -> tuple[list[Operation], Operation | None, list[Operation]]:
    """All successful reads, the one with the last word, and all that ask after the heal."""
    reads = [o for o in history.client if o.f == "read" and o.key == key and o.type == "ok"]
    final = [o for o in reads if o.invoke.meta.get("final")]
    judges = final or (reads if not history.phases else [])
    return reads, judges[-1] if judges else None, final or judges[-1:]


def _odd(reads: list[Operation], adds: dict[Any, Operation], key: Any) -> Found:
    found: Found = {("duplicate", key, v) for o in reads for v in o.value if o.value.count(v) > 1}
    for v in {v for o in reads for v in o.value}:
        if v not in adds or any(v in o.value and adds[v].index > o.end for o in reads):
            found.add(("phantom", key, v))
        elif adds[v].type == "fail":
            found.add(("failed-but-visible", key, v))
    return found


def _composite_keys(history: History) -> list[Any]:
    return list(dict.fromkeys(o.key for o in history.client if o.f in ("add", "remove", "read")))


def set_full(history: History) -> Expected:
    found: Found = set()
    unread = False
    shown = False
    any_read = False
    for key in _composite_keys(history):
        adds = {o.invoke.value: o for o in history.client if o.f == "add" and o.key == key}
        reads, last, _ = _element_reads(history, key)
        any_read = any_read or bool(reads)
        found |= _odd(reads, adds, key)
        for v, add in adds.items():
            showing = [o for o in reads if v in o.value]
            known = min([o.end for o in showing] + ([add.end] if add.type == "ok" else []), default=NEVER)
            if known == NEVER:
                continue
            if last is not None and last.index > known and not any(o.index >= last.index for o in showing):
                found.add(("lost", key, v))
                shown = True
            elif last is None or (not showing and last.index < known):
                unread = True
            elif showing:
                shown = True
    return _expected(found, unread or not any_read or not shown)


def stale(history: History, key: Any) -> set[Any]:
    """Elements absent from a read that began after they were known, and present in a later one."""
    reads, _, _ = _element_reads(history, key)
    found: set[Any] = set()
    for add in (o for o in history.client if o.f == "add" and o.key == key):
        v = add.invoke.value
        showing = [o for o in reads if v in o.value]
        known = min([o.end for o in showing] + ([add.end] if add.type == "ok" else []), default=NEVER)
        for o in reads:
            if o.index > known and v not in o.value and any(later.index > o.index for later in showing):
                found.add(v)
    return found


def cart(history: History) -> Expected:
    found: Found = set()
    undecided = False
    judged = False
    any_read = False
    for key in _composite_keys(history):
        adds = {o.invoke.value: o for o in history.client if o.f == "add" and o.key == key}
        removes = [o for o in history.client if o.f == "remove" and o.key == key]
        reads, last, judges = _element_reads(history, key)
        any_read = any_read or bool(reads)
        found |= _odd(reads, adds, key)
        for v, add in adds.items():
            if add.type != "ok":
                continue
            if last is None or last.index < add.end:
                undecided = True
                continue
            judged = True
            perhaps = [
                r
                for r in removes
                if r.invoke.value == v
                and (r.type == "info" or (r.type == "ok" and r.meta.get("observed") is not False))
            ]
            if not perhaps and v not in last.value:
                found.add(("lost", key, v))
        for v in {r.invoke.value for r in removes}:
            sure = [r for r in removes if r.invoke.value == v and r.type == "ok" and r.meta.get("observed")]
            if not sure:
                continue
            first = min(r.end for r in sure)
            if last is None or last.index < first:
                undecided = True
            else:
                judged = True
            if any(v in o.value and o.index > first for o in judges):
                found.add(("came-back", key, v))
    return _expected(found, undecided or not any_read or not judged)


def availability(history: History) -> Expected:
    asked = [o for o in history.client if o.parent is None]
    if not any(o.type == "ok" for o in asked):
        return Expected(Valid.UNKNOWN, set())
    final = [o for o in asked if o.invoke.meta.get("final")]
    keys = {o.key for o in final}
    found: Found = {
        ("unavailable-after-heal", key, None)
        for key in keys
        if all(o.type != "ok" for o in final if o.key == key)
    }
    return _expected(found, not final)
