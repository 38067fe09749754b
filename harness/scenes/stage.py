"""Puts a scene on: casts the nodes for its seats and keys for its roles, and turns its story into a schedule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from harness import alerts as rules_of
from harness.alerts import Rule
from harness.samples import Sample
from harness.scenes.scene import Ask, Load, Scene
from harness.systems.dynamo import Probe
from history.op import PROBE, Op
from history.recorder import Recorder
from history.schedule import Schedule, TimedFault, TimedOp

SECOND_NS = 1_000_000_000

CANDIDATES_MAX = 600
"""So many names are tried for a scene's keys; a key in 32 token ranges has its like among far fewer."""


class Cast(msgspec.Struct, frozen=True):
    """Who plays: seat -> node, role -> key, key -> its whole order of preference."""

    seats: dict[str, str]
    keys: dict[str, str]
    order: dict[str, list[str]]


class NoCast(Exception):
    """The ring has no keys for this scene; the message says what was looked for."""


def guarantee(scene: Scene, mode: str, scale: float) -> dict[str, Any]:
    """What the history's header says of the scene, so that it can be judged."""
    return {"scene": {"name": scene.name, "mode": mode, "scale": scale}}


def judge_alerts(recorder: Recorder, samples: Sequence[Sample], scale: float) -> None:
    """Writes down which alerts would have fired."""
    asked = recorder.invoke(Op(PROBE, "invoke", "alerts"))
    recorder.complete(asked.completed("ok", alerts(samples, scale)))


def alerts(samples: Sequence[Sample], scale: float) -> list[dict[str, Any]]:
    """What the shipped alert rules would have said of the run, their times scaled like the story's."""
    rules = [scaled(rule, scale) for rule in rules_of.read(rules_of.shipped())]
    return [
        {
            "alert": a.rule.alert,
            "labels": a.labels,
            "threshold": a.rule.expr.threshold,
            "for_seconds": a.rule.for_ns / SECOND_NS,
            "pending_ns": a.pending_ns,
            "fired_ns": a.fired_ns,
            "resolved_ns": a.resolved_ns,
            "highest": a.highest,
        }
        for a in rules_of.evaluate(rules, samples)
    ]


def scaled(rule: Rule, scale: float) -> Rule:
    """The rule in the story's time: for how long something must hold, and thresholds that are ages in seconds."""
    age = rule.expr.metric.endswith(("_horizon_seconds", "_lag_seconds"))
    expr = msgspec.structs.replace(
        rule.expr,
        threshold=rule.expr.threshold * (scale if age else 1),
        range_ns=int(rule.expr.range_ns * scale),
    )
    return msgspec.structs.replace(rule, expr=expr, for_ns=int(rule.for_ns * scale))


async def cast(
    scene: Scene, probes: Sequence[Probe], recorder: Recorder, n: int, drawn: int, scale: float
) -> Cast:
    """Asks the ring for keys' orders of preference until every role has its key, and writes down who plays. Other draws
    try other names. Raises NoCast."""
    chosen = await _choose(scene, probes[0], n, drawn)
    names = {**chosen.seats, **chosen.keys}
    value = {
        "name": scene.name,
        "sentence": scene.sentence,
        "seats": chosen.seats,
        "keys": chosen.keys,
        "order": chosen.order,
        "steps": [[at_s * scale, says] for at_s, says in told(scene, names)],
    }
    asked = recorder.invoke(Op(PROBE, "invoke", "scene"))
    recorder.complete(asked.completed("ok", value))
    return chosen


async def _choose(scene: Scene, probe: Probe, n: int, drawn: int) -> Cast:
    order: dict[str, list[str]] = {}
    for i in range(CANDIDATES_MAX):
        name = f"{scene.stem}{drawn % 10_000 + i}"
        found = await probe.order(name)
        first = next(iter(order.values()), found)
        if found == first or (scene.placed == "home" and first[0] in found[:n]):
            order[name] = found
        if len(order) == len(scene.keys):
            break
    else:
        raise NoCast(
            f"the scene {scene.name} needs {len(scene.keys)} keys placed alike, and found {len(order)}"
        )
    first = next(iter(order.values()))
    seats = {f"home{i + 1}": node for i, node in enumerate(first[:n])}
    seats |= {f"fallback{i + 1}": node for i, node in enumerate(first[n:])}
    return Cast(seats, dict(zip(scene.keys, order, strict=True)), order)


def told(scene: Scene, names: Mapping[str, str]) -> list[tuple[float, str]]:
    """The story in words; `names` says what seats and roles are called."""
    return [(step.at_s, step.says.format_map(_Kept(names))) for step in scene.story]


class _Kept(dict[str, str]):
    """Names that are unknown stay as they are written."""

    def __missing__(self, key: str) -> str:
        return key


def schedule(scene: Scene, cast: Cast, nodes: Sequence[str], *, end_ns: int, scale: float) -> Schedule:
    """The story as operations and faults at their times, by clients of the nodes that the cast names."""
    ops: list[TimedOp] = []
    faults: list[TimedFault] = []
    for step in scene.story:
        at_ns = int(step.at_s * scale * SECOND_NS)
        for act in step.acts:
            match act:
                case Ask():
                    ops.append(_op(scene, cast, nodes, act, at_ns, len(ops) + 1, scale))
                case Load():
                    for ask in _spread(scene, act):
                        ops.append(_op(scene, cast, nodes, ask, at_ns, len(ops) + 1, scale))
                case _:
                    faults.append(
                        TimedFault(at_ns, seated(msgspec.to_builtins(act), cast.seats), len(faults))
                    )
    return Schedule(
        concurrency=len(nodes) * scene.clients,
        ops=tuple(sorted(ops, key=lambda op: (op.time, op.order))),
        faults=tuple(faults),
        end=end_ns,
    )


def seated(value: Any, seats: Mapping[str, str]) -> Any:
    """A fault's JSON with nodes in the place of seats.

    >>> seated({"fault": "kill", "nodes": ("home1",)}, {"home1": "n3"})
    {'fault': 'kill', 'nodes': ['n3']}
    """
    match value:
        case str():
            return seats.get(value, value)
        case list() | tuple():
            return [seated(v, seats) for v in value]  # pyright: ignore[reportUnknownVariableType]  any JSON
        case dict():
            return {seats.get(k, k): seated(v, seats) for k, v in value.items()}  # pyright: ignore  any JSON
        case _:
            return value


def _spread(scene: Scene, load: Load) -> Iterator[Ask]:
    places = [(seat, c) for c in range(scene.clients) for seat in load.through]
    for i in range(int(load.for_s * load.per_second)):
        seat, client = places[(i % len(load.keys) if load.by_key else i) % len(places)]
        yield Ask(
            f=load.fs[i % len(load.fs)],
            key=load.keys[i % len(load.keys)],
            through=seat,
            after_s=i // load.at_once * load.at_once / load.per_second,
            client=client,
        )


def _op(
    scene: Scene, cast: Cast, nodes: Sequence[str], ask: Ask, at_ns: int, number: int, scale: float
) -> TimedOp:
    assert ask.client < scene.clients, (
        f"{scene.name} has {scene.clients} clients a node, not {ask.client + 1}"
    )
    thread = nodes.index(cast.seats[ask.through]) + len(nodes) * ask.client
    value = number if ask.f in ("put", "add") else None
    return TimedOp(
        at_ns + int(ask.after_s * scale * SECOND_NS), thread, ask.f, cast.keys[ask.key], value, {}, number
    )
