"""Every claim of every scene holds on a history of the clean store, and fails on one in which the opposite is seen."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
import pytest

from checkers.registry import check_all
from checkers.scenes import CLAIMS
from checkers.scenes.second_failure import HORIZON, exposures
from checkers.scenes.stage import Stage
from checkers.verdict import Valid, Verdict
from harness import runner
from harness.scenes import SCENES
from harness.settings import resolve
from history.header import Header
from history.history import History
from history.op import PROBE, Op

Change = Callable[[Op], Op]


@cache
def played(scene: str, mode: str) -> History:
    more = {"time": "60s"} if SCENES[scene].elastic else {}
    return runner.execute(resolve({"scene": scene, "mode": mode, "seed": 4, **more})).history


def judged(history: History) -> Verdict:
    (verdict,) = [v for v in check_all(history, ["scene"]) if v.checker == "scene"]
    return verdict


def doctored(history: History, change: Change) -> History:
    return History(history.header, [change(op) for op in history.events])


def seen(
    f: str, alter: Callable[[Any, Op], Any], *, stage: str | None = None, after: str | None = None
) -> Any:
    """Alters what a probe saw; `after` names the fault from whose completion on."""

    def change(history: History) -> Change:
        begin = -1
        if after is not None:
            begin = next(o.complete.index for o in history.nemesis if o.f == after and o.complete)

        def one(op: Op) -> Op:
            fits = op.process == PROBE and op.f == f and op.type == "ok" and op.index > begin
            if not fits or (stage is not None and op.meta.get("stage") != stage):
                return op
            return msgspec.structs.replace(op, value=alter(op.value, op))

        return one

    return change


def told(f: str, alter: Callable[[Op], Op], *, final: bool | None = None) -> Any:
    """Alters what clients were told."""

    def change(history: History) -> Change:
        finals = {o.complete.index for o in history.client if o.invoke.meta.get("final") and o.complete}

        def one(op: Op) -> Op:
            fits = op.f == f and op.type == "ok" and op.process != PROBE
            return alter(op) if fits and (final is None or (op.index in finals) == final) else op

        return one

    return change


def seats(history: History) -> dict[str, str]:
    return history.observed("scene")[0].value["seats"]


def keys(history: History) -> dict[str, str]:
    return history.observed("scene")[0].value["keys"]


def at(seat: str, alter: Callable[[Any, dict[str, str]], Any], f: str, **more: Any) -> Any:
    """Alters what was seen at the node of a seat; `alter` gets the value and the scene's keys."""
    return lambda history: seen(
        f,
        lambda value, op: alter(value, keys(history)) if op.node == seats(history)[seat] else value,
        **more,
    )(history)


def with_record(role: str, **fields: Any) -> Callable[[Any, dict[str, str]], Any]:
    return lambda value, named: {**value, named[role]: {**value.get(named[role], {}), **fields}}


def fewer(value: list[Any], op: Op) -> list[Any]:
    """A queue of hints that shrinks while nobody is there to take them."""
    return value[: max(0, 60 - op.index // 20)]


DOCTORED: list[tuple[str, str, str, Any]] = [
    (
        "home-replica-failure",
        "siblings",
        "writes-go-on",
        told("put", lambda op: msgspec.structs.replace(op, type="fail")),
    ),
    ("home-replica-failure", "siblings", "hints-rise", seen("hints", lambda value, op: [])),
    ("home-replica-failure", "siblings", "hints-rise", seen("hints", fewer, after="kill")),
    (
        "home-replica-failure",
        "siblings",
        "hints-drain",
        lambda h: seen("hints", lambda v, op: [[seats(h)["home1"], "x", [1]]], stage="quiet")(h),
    ),
    (
        "home-replica-failure",
        "siblings",
        "brought-back",
        at("home1", lambda value, named: {**value, named["key3"]: []}, "replica", stage="quiet"),
    ),
    ("stale-rejoin", "siblings", "routed-round", seen("hints", lambda value, op: [])),
    (
        "stale-rejoin",
        "siblings",
        "clocks-tell",
        at("home2", with_record("stale", clock={"other": 1}), "records"),
    ),
    ("stale-rejoin", "siblings", "clocks-tell", at("home2", with_record("concurrent", clock={}), "records")),
    (
        "stale-rejoin",
        "siblings",
        "stale-is-replaced",
        at("home2", with_record("stale", ids=[1, 4]), "records", after="heal-partition"),
    ),
    (
        "stale-rejoin",
        "siblings",
        "concurrent-are-siblings",
        at("home3", with_record("concurrent", ids=[5]), "records", after="heal-partition"),
    ),
    (
        "stale-rejoin",
        "siblings",
        "siblings-are-resolved",
        told("get", lambda op: msgspec.structs.replace(op, value=[5, 6]), final=True),
    ),
    ("second-failure", "siblings", "hints-rise", seen("hints", lambda value, op: [])),
    (
        "second-failure",
        "siblings",
        "horizon-tells",
        seen("metrics", lambda value, op: {**value, HORIZON: 2.0}),
    ),
    ("second-failure", "siblings", "alert-in-time", seen("alerts", lambda value, op: [])),
    (
        "second-failure",
        "siblings",
        "alert-in-time",
        seen("alerts", lambda value, op: [{**a, "fired_ns": 45_000_000_000} for a in value]),
    ),
    (
        "second-failure",
        "siblings",
        "danger-passes",
        lambda h: seen(
            "records", lambda v, op: v if op.node == seats(h)["home2"] else {}, after="heal-partition"
        )(h),
    ),
    (
        "second-failure",
        "siblings",
        "nothing-is-lost",
        told("get", lambda op: msgspec.structs.replace(op, value=op.value[1:]), final=False),
    ),
    (
        "hot-key",
        "siblings",
        "writes-conflict",
        told("get", lambda op: msgspec.structs.replace(op, value=op.value[:1])),
    ),
    (
        "hot-key",
        "siblings",
        "siblings-keep-every-write",
        told("read", lambda op: msgspec.structs.replace(op, value=op.value[:-1]), final=True),
    ),
    (
        "hot-key",
        "lww",
        "last-writer-wins-loses",
        told("read", lambda op: msgspec.structs.replace(op, value=list(range(2_000))), final=True),
    ),
    (
        "hot-key",
        "siblings",
        "reads-spread",
        at("home1", lambda value, named: {**value, "dynamo_replica_reads_total": 0.0}, "metrics"),
    ),
    (
        "hot-key",
        "siblings",
        "reads-spread",
        at("fallback1", lambda value, named: {**value, "dynamo_replica_reads_total": 500.0}, "metrics"),
    ),
]


@pytest.mark.parametrize(
    ("scene", "mode", "claim", "change"), DOCTORED, ids=[f"{d[0]}-{d[2]}" for d in DOCTORED]
)
def test_a_claim_fails_where_the_opposite_is_seen(scene: str, mode: str, claim: str, change: Any) -> None:
    history = played(scene, mode)
    assert judged(history).valid is Valid.VALID
    verdict = judged(doctored(history, change(history)))
    assert verdict.valid is Valid.INVALID
    assert claim in [a.kind for a in verdict.anomalies]
    broken = next(a for a in verdict.anomalies if a.kind == claim)
    assert broken.sentence.startswith("not so: ")
    assert broken.witness, "no operation shows it"


def test_every_claim_is_made_to_fail_by_some_doctored_history() -> None:
    made: set[str] = set()
    for scene in SCENES:
        for mode in ("siblings", "lww") if scene == "hot-key" else ("siblings",):
            made |= {c["name"] for c in judged(played(scene, mode)).evidence["claims"]}
    assert made == {claim for _, _, claim, _ in DOCTORED}


@pytest.mark.parametrize("scene", list(CLAIMS))
def test_a_scene_of_which_nothing_was_seen_is_unknown(scene: str) -> None:
    history = played(scene, "siblings")
    cast = [e for e in history.events if e.f == "scene"]
    assert judged(History(history.header, cast)).valid is Valid.UNKNOWN


def test_a_history_without_a_scene_is_not_judged_by_one() -> None:
    verdict = judged(History(Header(), []))
    assert (verdict.judged, verdict.valid) == (False, Valid.UNKNOWN)


def test_what_a_second_failure_would_lose_is_counted_from_the_looks_alone() -> None:
    """Nobody but home2 holds write 2; write 1 is on two nodes, once under the write that replaced it."""
    cast = {"seats": {"home1": "a", "home2": "b"}, "keys": {"key": "x"}, "order": {"x": ["a", "b"]}}
    clock: dict[str, int] = {}
    events = [
        Op(PROBE, "invoke", "scene"),
        Op(PROBE, "ok", "scene", value=cast),
        Op(0, "invoke", "put", "x", 1, meta={"context": []}, time=0),
        Op(0, "ok", "put", "x", time=1),
        Op(1, "invoke", "put", "x", 2, meta={"context": [1]}, time=2),
        Op(1, "ok", "put", "x", time=3),
    ]
    for node, held in (("a", [1]), ("b", [2])):
        events.append(Op(PROBE, "invoke", "records", node=node, time=5_000_000_000))
        value = {"x": {"ids": held, "clock": clock, "tombstones": 0}}
        events.append(Op(PROBE, "ok", "records", value=value, node=node, time=5_000_000_000))
    (at_risk,) = exposures(Stage(History(Header(), events)))
    assert (at_risk.node, at_risk.writes) == ("b", 1)


def test_every_scene_has_its_claims() -> None:
    assert set(CLAIMS) == set(SCENES)
