"""Faults as bands in time: from the harm that was done to the heal that ended it, and which nodes it hit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from harness.report.values import integer, items, mapping, names
from harness.report.wording import cut, duration
from history.history import NEVER, History, Operation
from history.op import NEMESIS
from nemeses.fault import FAMILY_OF

FAMILIES = (
    "partition",
    "kill",
    "power",
    "pause",
    "clock",
    "disk",
    "membership",
    "other",
)
"""In the order in which bands are drawn; `other` is what foreign histories call their own."""

_HEALS = {
    "heal-partition": ("partition",),
    "restart": ("kill", "power", "disk"),
    "mend-disk": ("disk",),
    "resume": ("pause",),
    "reset-clocks": ("clock",),
    "settle-ring": ("membership",),
}


PARTITION_TEXT_MAX = 160

_DISKS = ("wipe", "rollback", "rot", "fsync", "disk-full")

_SUFFERED = {
    "kill": "killed",
    "power-loss": "power lost",
    "pause": "paused",
    "wipe": "disk wiped",
    "rollback": "disk rolled back",
    "rot": "disk rots",
    "fail-fsync": "fsync fails",
    "slow-fsync": "fsync slow",
    "fill-disk": "disk full",
}


class Band(msgspec.Struct, frozen=True, kw_only=True):
    """One harm. Indexes are those of history lines; `end` is NEVER and `healed_ns` None where nothing ended it."""

    family: str
    fault: str
    label: str
    notes: dict[str, str]
    """What each node suffered; the nodes that it hit are the keys."""
    start: int
    end: int
    requested_ns: int
    start_ns: int
    verified_ns: int | None
    healed_ns: int | None
    verified: bool
    mechanism: str
    before: Any
    after: Any
    fired: int | None
    error: str | None
    why: str = ""
    """Of a harm that nobody saw bite: what speaks against it, where that is known."""

    @property
    def standing(self) -> bool:
        """Whether it was done at all."""
        return self.error is None


def bands(history: History, operations: Sequence[Operation]) -> list[Band]:
    """Every harm in the order in which it was asked for."""
    faults = [o for o in operations if o.process == NEMESIS]
    return [
        _band(history, faults, i) for i, o in enumerate(faults) if o.f not in _HEALS and o.f != "snapshot"
    ]


def _band(history: History, faults: list[Operation], position: int) -> Band:
    harm = faults[position]
    family = FAMILY_OF.get(harm.f, "other")
    family = "disk" if family in _DISKS else family
    asked = mapping(harm.invoke.value)
    evidence = mapping(harm.complete.value) if harm.complete is not None else {}
    notes, label = _suffered(harm, asked, history.header.nodes)
    heal = _heal(faults[position + 1 :], family, set(notes))
    moment = harm.complete or harm.invoke
    end, healed_ns = NEVER, None
    if family == "other" and harm.complete is not None:
        end, healed_ns = harm.complete.index, harm.complete.time
    if heal is not None and heal.complete is not None:
        end, healed_ns = heal.complete.index, heal.complete.time
    why = "" if evidence.get("verified") is True else _why(evidence)
    if family == "membership":
        end, healed_ns = _settled(harm, faults[position + 1 :], refused=bool(why))
    fired = evidence.get("fired")
    if heal is not None and heal.complete is not None:
        fired = mapping(heal.complete.value).get("fired", fired)
    return Band(
        family=family,
        fault=harm.f,
        label=label,
        notes=notes,
        start=harm.index if family == "other" else moment.index,
        end=end,
        requested_ns=harm.invoke.time,
        start_ns=harm.invoke.time
        if family == "other"
        else integer(evidence.get("injected_ns")) or moment.time,
        verified_ns=integer(evidence.get("verified_ns")) if evidence.get("verified") is True else None,
        healed_ns=healed_ns,
        verified=evidence.get("verified") is True,
        mechanism=str(evidence.get("mechanism", "")),
        before=evidence.get("before"),
        after=evidence.get("after"),
        fired=integer(fired),
        error=(harm.complete.error or "the world could not make it")
        if harm.type == "fail" and harm.complete
        else None,
        why=why,
    )


def _why(evidence: Mapping[str, Any]) -> str:
    refused = mapping(evidence.get("after")).get("refused")
    if refused:
        return f"refused: {refused}"
    before = mapping(evidence.get("before"))
    return "nothing changed by it" if before and before == evidence.get("after") else ""


def _settled(harm: Operation, later: list[Operation], *, refused: bool) -> tuple[int, int | None]:
    """When a change of the ring was seen to be over: at the next look that shows every node settled. What was refused was over
    at once."""
    if refused and harm.complete is not None:
        return harm.complete.index, harm.complete.time
    for o in later:
        if FAMILY_OF.get(o.f) != "membership" or o.complete is None or o.type == "fail":
            continue
        seen = mapping(o.complete.value)
        if _at_rest(seen.get("before")):
            return o.index, o.invoke.time
        if o.f == "settle-ring" and seen.get("verified") is True:
            return o.complete.index, o.complete.time
    return NEVER, None


def _at_rest(look: Any) -> bool:
    rings = [mapping(ring) for ring in mapping(look).values()]
    return bool(rings) and all(ring.get("phase") == "settled" for ring in rings)


def _heal(later: list[Operation], family: str, hit: set[str]) -> Operation | None:
    """What ended the harm: its heal, or (for partitions and clocks) the next harm that took its place."""
    waiting = set(hit)
    for fault in later:
        if fault.type == "fail":
            continue
        if family in ("partition", "clock") and FAMILY_OF.get(fault.f) == family:
            return fault
        if family in _HEALS.get(fault.f, ()):
            waiting -= set(names(mapping(fault.invoke.value).get("nodes")))
            if not waiting:
                return fault
    return None


def _suffered(harm: Operation, asked: Mapping[str, Any], nodes: Sequence[str]) -> tuple[dict[str, str], str]:
    """What each node suffered, and the whole in a few words."""
    match harm.f:
        case "partition":
            return _partition(asked, nodes)
        case _ if harm.f in _SUFFERED:
            word = _SUFFERED[harm.f]
            hit = names(asked.get("nodes"))
            return dict.fromkeys(hit, word), f"{harm.f} {' '.join(hit)}"
        case "join" | "leave" if "node" in asked:
            node = str(asked["node"])
            return {node: f"{harm.f}s"}, f"{harm.f} {node}"
        case "replace" if {"dead", "node"} <= asked.keys():
            dead, node = str(asked["dead"]), str(asked["node"])
            return {dead: f"replaced by {node}", node: f"replaces {dead}"}, f"replace {dead} by {node}"
        case "skew":
            offsets = {str(n): integer(ns) or 0 for n, ns in mapping(asked.get("offsets_ns")).items()}
            notes = {
                n: f"clock {'+' if ns >= 0 else '−'}{duration(abs(ns))}" for n, ns in offsets.items() if ns
            }
            return notes, "skew " + " ".join(
                f"{n} {note.removeprefix('clock ')}" for n, note in notes.items()
            )
        case _:
            return {}, harm.f


def _partition(asked: Mapping[str, Any], nodes: Sequence[str]) -> tuple[dict[str, str], str]:
    pairs = (names(link) for link in items(asked.get("blocked")) or [])
    blocked = {(pair[0], pair[1]) for pair in pairs if len(pair) == 2}
    everyone = list(nodes) or sorted({n for link in blocked for n in link})
    notes: dict[str, str] = {}
    for node in everyone:
        both = [n for n in everyone if (node, n) in blocked and (n, node) in blocked]
        mute = [n for n in everyone if (node, n) in blocked and n not in both]
        deaf = [n for n in everyone if (n, node) in blocked and n not in both]
        parts = [
            f"{verb} {' '.join(who)}"
            for verb, who in (("cut from", both), ("unheard by", mute), ("deaf to", deaf))
            if who
        ]
        if parts:
            notes[node] = ", ".join(parts)
    sides = _sides(everyone, blocked)
    shape = str(asked.get("shape", "partition"))
    drawing = " | ".join(" ".join(side) for side in sides) if len(sides) > 1 else ""
    sources, targets = sorted({a for a, _ in blocked}), sorted({b for _, b in blocked})
    if not drawing and len(blocked) == len(sources) * len(targets):
        drawing = f"{' '.join(sources)} → {' '.join(targets)}"
    if not drawing:
        drawing = _besides(everyone, blocked, notes)
    mode = " (reject)" if asked.get("mode") == "reject" else ""
    return notes, f"{shape}{': ' + drawing if drawing else ''}{mode}"


def _besides(everyone: Sequence[str], blocked: set[tuple[str, str]], notes: Mapping[str, str]) -> str:
    """A cut that leaves no two sides: those that a few nodes still join, or what each node suffers."""
    between = [n for n in everyone if n not in notes]
    sides = _sides([n for n in everyone if n in notes], blocked)
    if len(sides) > 1:
        return f"{' | '.join(' '.join(side) for side in sides)}, {' '.join(between)} between them"
    return cut("; ".join(f"{node} {note}" for node, note in notes.items()), PARTITION_TEXT_MAX)


def _sides(nodes: Sequence[str], blocked: set[tuple[str, str]]) -> list[list[str]]:
    """The groups of nodes that still hear each other, where they are groups at all."""
    sides: list[list[str]] = []
    left = list(nodes)
    while left:
        side = [left.pop(0)]
        for node in side:
            joined = [n for n in left if (node, n) not in blocked or (n, node) not in blocked]
            side += joined
            left = [n for n in left if n not in joined]
        sides.append(sorted(side))
    return sides
