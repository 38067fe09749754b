"""`hot-key`: many clients write one key at once. Siblings keep every write; where the last writer wins losses are counted."""

from __future__ import annotations

from checkers.scenes.claim import Claim, unseen
from checkers.scenes.stage import Stage
from checkers.verdict import terms
from checkers.witness import Step, ids
from history.history import Operation

READ_SHARE_MIN = 1 / 6
"""Of the reads that replicas served, at least so much falls to each of three home replicas; even would be a third."""

ADDS_MIN = 100
CONFLICTS_MIN = 20


def hot_key(s: Stage) -> list[Claim]:
    lww = terms(s.history, "scene").get("mode") == "lww"
    return [*([] if lww else [_conflicts(s)]), _counted(s) if lww else _kept(s), _reads_spread(s)]


def _conflicts(s: Stage) -> Claim:
    name = "writes-conflict"
    sentence = "clients do write at once: reads return siblings"
    reads = [o for o in s.history.select("get") if o.type == "ok" and not o.invoke.meta.get("final")]
    if not reads:
        return unseen(name, sentence, "nothing was read")
    several = [o for o in reads if len(o.value) > 1]
    most = max(reads, key=lambda o: len(o.value))
    return Claim(
        name=name,
        sentence=sentence,
        held=len(several) >= CONFLICTS_MIN,
        seen=f"{len(several)} of {len(reads)} reads returned siblings, {len(most.value)} at the most",
        steps=((most, "the most siblings that any read returned"),),
    )


def _adds(s: Stage) -> list[Operation]:
    return [o for o in s.history.select("add") if o.type == "ok"]


def _missing(s: Stage) -> tuple[list[Operation], Operation | None]:
    """Acknowledged additions that the last read does not hold, and that read."""
    final = [o for o in s.history.select("read") if o.invoke.meta.get("final") and o.type == "ok"]
    if not final:
        return [], None
    held = set(final[-1].value)
    return [o for o in _adds(s) if o.invoke.value not in held], final[-1]


def _kept(s: Stage) -> Claim:
    name = "siblings-keep-every-write"
    sentence = "every acknowledged addition is in the set at last"
    missing, final = _missing(s)
    adds = len(_adds(s))
    if final is None or adds < ADDS_MIN:
        return unseen(
            name,
            sentence,
            f"{adds} additions were acknowledged, and the set was{'' if final else ' not'} read",
        )
    steps: list[Step] = [(o, "acknowledged") for o in missing[:5]]
    return Claim(
        name=name,
        sentence=sentence,
        held=not missing,
        seen=f"{ids(o.invoke.value for o in missing)} of {adds} acknowledged additions are gone"
        if missing
        else f"all {adds} acknowledged additions are there",
        key=s.keys.get("hot"),
        steps=(*steps, (final, "the last read does not hold them")),
        links=tuple((o, "observed", final) for o in missing[:5]),
    )


def _counted(s: Stage) -> Claim:
    name = "last-writer-wins-loses"
    sentence = "where the last writer wins some acknowledged additions are gone, and they are counted"
    missing, final = _missing(s)
    adds = len(_adds(s))
    if final is None or adds < ADDS_MIN:
        return unseen(
            name,
            sentence,
            f"{adds} additions were acknowledged, and the set was{'' if final else ' not'} read",
        )
    return Claim(
        name=name,
        sentence=sentence,
        held=bool(missing),
        seen=f"{len(missing)} of {adds} acknowledged additions are gone"
        if missing
        else f"all {adds} acknowledged additions are there",
        key=s.keys.get("hot"),
        steps=((final, "the last read holds every one of them"),),
    )


def _reads_spread(s: Stage) -> Claim:
    name = "reads-spread"
    sentence = "the home replicas share the reads of the key, and nobody else serves any"
    served = s.metric("dynamo_replica_reads_total")
    total = sum(served.get(node, 0) for node in s.homes)
    if not total:
        return unseen(name, sentence, "no metrics were seen")
    shares = {node: served.get(node, 0) / total for node in s.homes}
    strangers = sum(served.get(node, 0) for node in s.fallbacks)
    return Claim(
        name=name,
        sentence=sentence,
        held=min(shares.values()) >= READ_SHARE_MIN and strangers <= total / 20,
        seen=", ".join(f"{node} {share:.0%}" for node, share in shares.items())
        + f" of {total:.0f} reads served for other nodes; {strangers:.0f} beside them",
        steps=tuple((o, f"{node} had served {served[node]:.0f} reads") for node, o in s.metrics.items()),
    )
