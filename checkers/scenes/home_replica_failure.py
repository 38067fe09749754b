"""`home-replica-failure`: writes go on while a home replica is dead, hints rise and drain, and bring everything back."""

from __future__ import annotations

from checkers.observed import stage
from checkers.scenes.claim import Claim, unseen
from checkers.scenes.queue import rises
from checkers.scenes.stage import Stage, end
from history.history import NEVER

SUSPECTED_AFTER_NS = 3_000_000_000
"""By then every coordinator has noticed that the dead node is silent, and routes round it."""

ACKNOWLEDGED_SHARE = 0.9
WRITES_MIN = 20
PEAK_MIN = 10


def home_replica_failure(s: Stage) -> list[Claim]:
    return [
        _writes_go_on(s),
        rises(s, s.seats.get("home1", ""), s.fault("kill"), s.fault("restart"), least=PEAK_MIN),
        _hints_drain(s),
        _brought_back(s),
    ]


def _writes_go_on(s: Stage) -> Claim:
    name = "writes-go-on"
    sentence = "while a home replica is dead writes are acknowledged as before"
    killed = s.fault("kill")
    if killed is None:
        return unseen(name, sentence, "no home replica died")
    assert killed.complete is not None
    since_ns = killed.complete.time + SUSPECTED_AFTER_NS
    back = s.fault("restart")
    writes = [o for o in s.writes(end(killed), back.index if back else NEVER) if o.invoke.time >= since_ns]
    if len(writes) < WRITES_MIN:
        return unseen(
            name, sentence, f"only {len(writes)} writes were asked for while it was known to be dead"
        )
    refused = [o for o in writes if o.type != "ok"]
    acknowledged = len(writes) - len(refused)
    return Claim(
        name=name,
        sentence=sentence,
        held=acknowledged >= ACKNOWLEDGED_SHARE * len(writes),
        seen=f"{acknowledged} of {len(writes)} writes, from {SUSPECTED_AFTER_NS / 1e9:g} s after its death on, were acknowledged",
        steps=((killed, "the home replica dies"), *((o, "was not acknowledged") for o in refused[:4])),
    )


def _hints_drain(s: Stage) -> Claim:
    name = "hints-drain"
    sentence = "once the node is back the queue drains to nothing, by handing off"
    dead = s.seats.get("home1", "")
    back = s.fault("restart")
    looks = stage(s.history, "quiet").hints
    if back is None or len(looks) < len(s.order and s.seats):
        return unseen(name, sentence, "not every node was asked for its hints after the heal")
    left = {node: o for node, o in looks.items() if any(t == dead for t, _, _ in o.value)}
    delivered = int(sum(s.metric("dynamo_hints_delivered_total").values()))
    return Claim(
        name=name,
        sentence=sentence,
        held=not left and delivered > 0,
        seen=f"{', '.join(sorted(left))} still held hints for {dead}"
        if left
        else f"none is left; the nodes count {delivered} hints delivered",
        steps=((back, f"{dead} is back"), *((o, "still holds hints for it") for o in left.values())),
    )


def _brought_back(s: Stage) -> Claim:
    name = "brought-back"
    sentence = (
        "the node that was dead holds what the other home replicas hold, before anybody has read anything"
    )
    dead = s.seats.get("home1", "")
    replicas = stage(s.history, "quiet")
    if dead not in replicas.replicas:
        return unseen(name, sentence, f"{dead} was not looked at after the heal")
    for key, order in s.order.items():
        homes = order[: len(s.homes)]
        others = [n for n in homes if n != dead and n in replicas.replicas]
        held = set(replicas.holds(dead, key))
        for other in others:
            if lacking := set(replicas.holds(other, key)) - held:
                return Claim(
                    name=name,
                    sentence=sentence,
                    held=False,
                    seen=f"{other} holds {sorted(lacking, key=str)} of {key}, {dead} does not",
                    key=key,
                    steps=(
                        (replicas.replicas[dead], f"{dead} lacks it"),
                        (replicas.replicas[other], f"{other} holds it"),
                    ),
                )
    return Claim(
        name=name, sentence=sentence, held=True, seen=f"{dead} holds the same of all {len(s.order)} keys"
    )
