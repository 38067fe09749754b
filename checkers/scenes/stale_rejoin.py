"""`stale-rejoin`: a home replica is cut off and routed round; on its return the clocks tell stale from concurrent."""

from __future__ import annotations

from typing import Any

from checkers.scenes.claim import Claim, unseen
from checkers.scenes.stage import Look, Stage, end, relation
from checkers.witness import ids
from history.history import NEVER, Operation


def stale_rejoin(s: Stage) -> list[Claim]:
    return [_routed_round(s), _was_stale(s), _stale_is_replaced(s), _concurrent_are_siblings(s), _resolved(s)]


def _during(s: Stage, key: str, through: str) -> Operation | None:
    """The acknowledged put of a key through a seat's node while the cut stood."""
    cut, healed = s.fault("partition"), s.fault("heal-partition")
    if cut is None:
        return None
    for o in s.writes(end(cut), healed.index if healed else NEVER):
        if o.key == s.keys[key] and o.node == s.seats[through] and o.type == "ok":
            return o
    return None


def _routed_round(s: Stage) -> Claim:
    name = "routed-round"
    sentence = (
        "a write that the cut-off node should have had is acknowledged, and a fallback keeps it as a hint"
    )
    away = s.seats.get("home2", "")
    write = _during(s, "stale", "home1")
    if write is None:
        cut = s.fault("partition")
        if cut is None:
            return unseen(name, sentence, "no node was cut off")
        return Claim(
            name=name,
            sentence=sentence,
            held=False,
            seen=f"no write of {s.keys['stale']} was acknowledged while {away} was cut off",
            steps=((cut, f"{away} is cut off"),),
        )
    for o in s.history.observed("hints"):
        if o.node in s.fallbacks and [away, write.key, [write.invoke.value]] in o.value:
            return Claim(
                name=name,
                sentence=sentence,
                held=True,
                seen=f"{write.invoke.value} was acknowledged, and {o.node} kept it for {away}",
            )
    return Claim(
        name=name,
        sentence=sentence,
        held=False,
        seen=f"no fallback was seen with a hint for {away} that holds {write.invoke.value}",
        key=write.key,
        steps=((write, "acknowledged; nobody was seen to keep it for the node that was away"),),
    )


def _apart(s: Stage, role: str) -> tuple[Look, Look] | None:
    """The last looks at a key, on either side, before the cut healed."""
    cut, healed = s.fault("partition"), s.fault("heal-partition")
    if cut is None or healed is None:
        return None
    key = s.keys[role]
    near = s.looks(s.seats["home1"], key, end(cut), healed.index)
    far = s.looks(s.seats["home2"], key, end(cut), healed.index)
    return (near[-1], far[-1]) if near and far else None


def _was_stale(s: Stage) -> Claim:
    name = "clocks-tell"
    sentence = "while the cut stands the clocks say of one key that the node is behind, and of the other that both sides went on"
    stale, concurrent = (_apart(s, role) for role in ("stale", "concurrent"))
    if stale is None or concurrent is None:
        return unseen(name, sentence, "the records of both sides were not seen while the cut stood")
    said = relation(stale[1].clock, stale[0].clock), relation(concurrent[1].clock, concurrent[0].clock)
    return Claim(
        name=name,
        sentence=sentence,
        held=said == ("before", "concurrent"),
        seen=f"{s.seats['home2']}'s clock stood {_words(said[0])} {s.seats['home1']}'s for {s.keys['stale']}, and "
        f"{_words(said[1])} it for {s.keys['concurrent']}",
        steps=tuple((look.op, f"clock {look.clock}") for look in (*stale, *concurrent)),
    )


def _words(said: str) -> str:
    return {"equal": "equal to", "concurrent": "concurrent to"}.get(said, said)


def _rejoined(s: Stage, role: str) -> dict[str, Look] | None:
    """The last look at each home replica after the heal, before the client resolved the siblings."""
    healed = s.fault("heal-partition")
    if healed is None:
        return None
    resolve = next((o for o in s.writes(end(healed)) if o.key == s.keys["concurrent"]), None)
    until = resolve.index if resolve is not None else s.history.phases.get("final", NEVER)
    last = {node: s.looks(node, s.keys[role], end(healed), until) for node in s.homes}
    return {node: looks[-1] for node, looks in last.items()} if all(last.values()) else None


def _stale_is_replaced(s: Stage) -> Claim:
    name = "stale-is-replaced"
    sentence = "on its return the stale value is replaced at every home replica, and no sibling is made of it"
    return _holds_everywhere(s, name, sentence, "stale", ("home1",))


def _concurrent_are_siblings(s: Stage) -> Claim:
    name = "concurrent-are-siblings"
    sentence = "on its return the values of both sides stand side by side at every home replica"
    return _holds_everywhere(s, name, sentence, "concurrent", ("home1", "home2"))


def _holds_everywhere(s: Stage, name: str, sentence: str, role: str, through: tuple[str, ...]) -> Claim:
    """Whether after the return every home replica held exactly what was written during the cut through these seats."""
    writes = [w for seat in through if (w := _during(s, role, seat)) is not None]
    looks = _rejoined(s, role)
    if len(writes) < len(through) or looks is None:
        return unseen(name, sentence, "not all that it takes was written and looked at")
    wanted = {w.invoke.value for w in writes}
    wrong = {node: look for node, look in looks.items() if set(look.ids) != wanted}
    held = ids(sorted(wanted))
    return Claim(
        name=name,
        sentence=sentence,
        held=not wrong,
        seen="; ".join(f"{node} held {ids(look.ids)}, not {held}" for node, look in wrong.items())
        or f"all of {', '.join(looks)} held {held}",
        key=s.keys[role],
        steps=(
            *((w, "acknowledged while the cut stood") for w in writes),
            *((look.op, f"{node} holds {ids(look.ids)}") for node, look in wrong.items()),
        ),
        links=tuple((w, "observed", look.op) for w in writes for look in wrong.values()),
    )


def _resolved(s: Stage) -> Claim:
    name = "siblings-are-resolved"
    sentence = "a client that has read both siblings replaces them by one value"
    healed = s.fault("heal-partition")
    key = s.keys.get("concurrent")
    resolve = next((o for o in s.writes(end(healed)) if o.key == key), None) if healed else None
    final = [o for o in s.history.client if o.invoke.meta.get("final") and o.key == key and o.type == "ok"]
    if resolve is None or not final:
        return unseen(name, sentence, "nobody resolved the siblings, or nobody read them afterwards")
    context: list[Any] = resolve.invoke.meta.get("context") or []
    return Claim(
        name=name,
        sentence=sentence,
        held=resolve.type == "ok" and len(context) == 2 and final[-1].value == [resolve.invoke.value],
        seen=f"{resolve.invoke.value} replaced {ids(context)}; the last read returned {ids(final[-1].value)}",
        key=key,
        steps=((resolve, f"replaces {ids(context)}"), (final[-1], f"returns {ids(final[-1].value)}")),
        links=((resolve, "read-from", final[-1]),),
    )
