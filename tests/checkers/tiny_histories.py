"""Random histories of a few operations: clients that interleave, replies right or wrong, a heal, and what the probe then saw.

Hypothesis draws the size, how often things go wrong, and a seed: drawing every choice through it made most histories empty.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import strategies as st

from history.header import Header
from history.history import History
from history.op import Op

NODES = ("n1", "n2", "n3")
KEYS = ("x", "y")

GUARANTEES: tuple[dict[str, Any], ...] = (
    {},
    {"lost_writes": "causal", "convergence": {"after": "full-read", "bound_seconds": 0.02}},
    {"lost_writes": "lww", "convergence": {"after": "full-read", "bound_seconds": 1}},
    {"lost_writes": "lww-skewed", "convergence": {"after": "delivery"}},
    {"lost_writes": "causal", "convergence": {"after": "handoff", "bound_seconds": 0.02}},
    {"sessions": {"n": 3, "r": 2, "w": 2, "pr": 2, "pw": 2}, "durability": {"w": 2, "pw": 0}},
    {"sessions": {"n": 3, "r": 2, "w": 2, "pr": 1, "pw": 1, "strict": True, "regular": True}},
    {"sessions": {"n": 3, "r": 1, "w": 3, "pr": 0, "pw": 3, "strict": True, "blocking": False}},
    {
        "lost_writes": "causal",
        "convergence": {"after": "anti-entropy", "bound_seconds": 1, "comes_to_rest": True},
    },
    {"lost_writes": "causal", "convergence": {"after": "anti-entropy", "reaps": True}},
    {"lost_writes": "lww", "convergence": {"after": "full-read", "bound_seconds": 0.02, "reaps": True}},
)


class _Writer:
    def __init__(self, seed: int, wrong: int) -> None:
        self.random = Random(seed)
        self.wrong = wrong
        """How often out of a hundred something is not as it should be."""
        self.events: list[Op] = []

    def chance(self, percent: int) -> bool:
        return self.random.randrange(100) < percent

    def slip(self) -> bool:
        return self.chance(self.wrong)

    def any(self, values: Any) -> Any:
        return self.random.choice(values)

    def some(self, values: list[Any], most: int = 3) -> list[Any]:
        return [self.any(values) for _ in range(self.random.randint(0, most))] if values else []

    def add(self, op: Op) -> None:
        self.events.append(
            Op(
                op.process,
                op.type,
                op.f,
                op.key,
                op.value,
                op.error,
                op.node,
                op.meta,
                len(self.events) * 10**6,
            )
        )

    def both(self, op: Op, kind: Any, value: Any = None, **meta: Any) -> None:
        self.add(op)
        self.add(op.completed(kind, value, **meta))


def register_histories() -> st.SearchStrategy[History]:
    """get, put and delete with contexts on two keys; final reads; homes, hints and replicas at both stages."""
    return st.builds(_register, st.integers(0, 30), st.sampled_from([0, 5, 20, 60]), st.integers(0, 2**32))


def _register(size: int, wrong: int, seed: int) -> History:
    w = _Writer(seed, wrong)
    # In a foreign history a "final" read may overlap anything.
    early = w.chance(25)
    ids: dict[str, list[int]] = {key: [] for key in KEYS}
    contexts: dict[int, list[int]] = {}
    covered: set[int] = set()
    waiting: dict[int, Op] = {}
    new = 0

    def shown(key: str) -> list[Any]:
        """What nobody has replaced; or by a slip one less, or what it had replaced, or anything, or what never was."""
        right = [v for v in ids[key] if v not in covered]
        if not w.slip():
            return right
        match w.any(["one less", "rolled back", "anything"]):
            case "one less":
                return right[1:] if w.chance(50) else right[:-1]
            case "rolled back" if right:
                return right[:-1] + contexts[right[-1]]
            case _:
                return w.some(ids[key] + right + ([99] if w.chance(5) else []))

    for step in range(size + 3):
        process = w.any([0, 1, 2]) if step < size else step - size
        if step >= size and (process not in waiting or w.chance(20)):
            continue  # at the end most of what is open is answered
        if process in waiting:
            op = waiting.pop(process)
            kind = w.any(["ok"] * 8 + ["info", "info", "fail"])
            if kind == "info" and op.f == "get":
                kind = "fail"
            value = shown(op.key) if op.f == "get" and kind == "ok" else op.value
            meta: dict[str, Any] = {}
            if kind == "fail" and op.f == "put" and not w.slip():
                ids[op.key].remove(op.value)
            if kind == "ok" and w.chance(1):
                meta["truncated"] = True
            if kind == "ok" and op.f != "get" and w.chance(50):
                meta["returned"] = shown(op.key)
            w.add(op.completed(kind, value, **meta))
            continue
        key = w.any(KEYS) if w.chance(30) else KEYS[0]
        f = w.any(["put", "put", "put", "get", "delete"])
        meta = {}
        value = None
        if f != "get":
            new += 1
            value = new
            live = [v for v in ids[key] if v not in covered]
            context = live if w.chance(50) else w.some(ids[key] + ([new + 1] if w.slip() else []))
            meta = {"context": list(dict.fromkeys(context))}
            contexts[new] = context
            if w.chance(80):
                covered.update(context)
            if f == "put":
                ids[key].append(new)
                if w.chance(10):
                    meta["ttl_seconds"] = w.any([0.001, 0.02, 100])
        elif early and w.chance(30):
            meta = {"final": True}
        op = Op(process, "invoke", f, key, value, node=w.any(NODES), meta=meta)
        waiting[process] = op
        w.add(op)
    for _ in range(w.any([0, 1, 2])):
        _hints(w, ids, None)
    if w.chance(70):
        w.add(Op("nemesis", "info", "phase", None, "heal"))
    if w.chance(40):
        w.both(Op("nemesis", "invoke", "restart", None, {}, meta={"heal": True}), "ok", {"verified": True})
    homes = {key: list(NODES[:2]) for key in KEYS}
    if w.chance(90):
        w.both(Op("probe", "invoke", "homes", node="n1"), "ok", homes)
    _look(w, ids, shown, "quiet")
    for key in KEYS:
        for _ in range(2 if w.chance(10) else 1):
            if w.chance(30 if early else 95):
                op = Op("reader", "invoke", "get", key, meta={"final": True})
                ok = not (w.slip() and w.chance(30))
                w.both(op, "ok" if ok else "fail", shown(key) if ok else None)
    _look(w, ids, shown, "read")
    sent = dict.fromkeys(NODES, 3)
    for _ in range(w.any([0, 2, 3, 4])):
        for node in NODES:
            sent[node] += w.slip()
            w.both(
                Op("probe", "invoke", "exchanged", node=node, meta={"stage": "rest"}),
                "ok",
                sent[node],
                stage="rest",
            )
    return History(Header(nodes=NODES, guarantees=w.any(GUARANTEES)), w.events)


def _hints(w: _Writer, ids: dict[str, list[int]], stage: str | None) -> None:
    meta = {"stage": stage} if stage else {}
    node = w.any(NODES)
    held = [[w.any(NODES[:2]), key, w.some(ids[key], 2)] for key in KEYS if ids[key] and w.chance(30)]
    w.both(Op("probe", "invoke", "hints", node=node, meta=meta), "ok", held)


def _look(w: _Writer, ids: dict[str, list[int]], shown: Callable[[str], list[Any]], stage: str) -> None:
    """Sometimes hints first and then the replicas, as it should be; sometimes the other way round, or not at all."""
    order = ["hints", "replica"] if w.chance(80) else ["replica", "hints"]
    if w.chance(10):
        return
    right = {key: shown(key) for key in KEYS}
    for f in order:
        for node in NODES:
            op = Op("probe", "invoke", f, node=node, meta={"stage": stage})
            if w.slip() and w.chance(15):
                w.both(op, "fail")
            elif f == "hints":
                pending = [[NODES[0], "x", ids["x"][-1:]]] if ids["x"] and w.slip() and w.chance(30) else []
                w.both(op, "ok", pending, stage=stage)
            else:
                held = {key: shown(key) if w.slip() else right[key] for key in KEYS}
                deleted = [key for key in KEYS if w.slip() and w.chance(30)]
                w.both(op, "ok", held, stage=stage, **({"deleted": deleted} if deleted else {}))


def element_histories() -> st.SearchStrategy[History]:
    """add, remove and read of two keys, interleaved; perhaps phases and final reads."""
    return st.builds(_elements, st.integers(0, 30), st.sampled_from([0, 5, 20, 60]), st.integers(0, 2**32))


def _elements(size: int, wrong: int, seed: int) -> History:
    w = _Writer(seed, wrong)
    # In a foreign history a "final" read may overlap anything.
    early = w.chance(25)
    waiting: dict[int, Op] = {}
    there: dict[str, list[int]] = {key: [] for key in KEYS}
    removed: set[int] = set()
    new = 0

    def shown(key: str) -> list[int]:
        right = [v for v in there[key] if v not in removed]
        return w.some(there[key] + right + ([99] if w.chance(5) else [])) if w.slip() else right

    phases = w.chance(60)
    for step in range(size + 3):
        process = w.any([0, 1, 2]) if step < size else step - size
        if step >= size and (process not in waiting or w.chance(20)):
            continue
        if process in waiting:
            op = waiting.pop(process)
            kind = w.any(["ok"] * 8 + ["info", "info", "fail"])
            if op.f == "read":
                w.add(op.completed("fail") if kind != "ok" else op.completed("ok", shown(op.key)))
            elif op.f == "remove" and kind == "ok":
                observed = w.chance(80)
                if observed:
                    removed.add(op.value)
                w.add(op.completed(kind, op.value, observed=observed))
            else:
                if kind == "fail" and not w.slip():
                    there[op.key].remove(op.value) if op.f == "add" else None
                w.add(op.completed(kind, op.value))
            continue
        key = w.any(KEYS) if w.chance(30) else KEYS[0]
        f = w.any(["add", "add", "read", "remove"])
        value = None
        if f == "add":
            new += 1
            value = new
            there[key].append(new)
        elif f == "remove":
            value = w.any(there[key]) if there[key] else 1
        meta = {"final": True} if f == "read" and early and w.chance(40) else {}
        waiting[process] = Op(process, "invoke", f, key, value, meta=meta)
        w.add(waiting[process])
    if phases:
        w.add(Op("nemesis", "info", "phase", None, "final"))
    for key in KEYS:
        for _ in range(2 if w.chance(10) else 1):
            if w.chance(30 if early else 95):
                op = Op("reader", "invoke", "read", key, meta={"final": True} if w.chance(90) else {})
                ok = not (w.slip() and w.chance(30))
                w.both(op, "ok" if ok else "fail", shown(key) if ok else None)
    return History(Header(nodes=NODES), w.events)
