"""The standard combinations: what "standard" means everywhere, in campaigns, in continuous integration and in the docs.

Each is ten seconds of load and faults, then quiescence. The isolation cells leave one repair mechanism on: read repair
heals what a broken handoff has lost and the other way round, so each would hide the other's bugs.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Combination(msgspec.Struct, frozen=True, kw_only=True):
    """A named cell: the settings that it changes, and the sentence that says what it is there for."""

    name: str
    sentence: str
    settings: dict[str, Any]


_TEN_SECONDS: dict[str, Any] = {
    "time_seconds": 10.0,
    "recovery_seconds": 30.0,
    "nemesis_interval_seconds": 2.0,
    "rate": 50.0,
    "keys": 8,
}


def _cell(name: str, sentence: str, workload: str, nemesis: str, **more: Any) -> Combination:
    families = tuple(f for f in nemesis.split(",") if f)
    return Combination(
        name=name,
        sentence=sentence,
        settings={**_TEN_SECONDS, "workload": workload, "nemesis": families, **more},
    )


COMBINATIONS: dict[str, Combination] = {
    c.name: c
    for c in (
        _cell(
            "cart", "The shopping cart under everything but power loss.", "cart", "partition,kill,pause,clock"
        ),
        _cell("set", "One contended key, read-modify-write.", "set", "partition,kill,pause,clock"),
        _cell(
            "register", "Many keys, contexts old and new, deletes.", "register", "partition,kill,pause,clock"
        ),
        _cell(
            "register-power",
            "What an fsync has promised survives a power loss.",
            "register",
            "power,partition",
        ),
        _cell("quiet", "No fault at all: causality alone must be right.", "register", ""),
        _cell(
            "strict",
            "Strict quorum: no fallbacks, no hints.",
            "register",
            "partition,kill,pause",
            sloppy=False,
        ),
        _cell(
            "handoff-only",
            "Isolation: hinted handoff alone. Every hint once seen durable is delivered.",
            "register",
            "partition,kill,pause",
            read_repair="off",
            anti_entropy=False,
        ),
        _cell(
            "handoff-converges",
            "Isolation: as before, but no coordinator dies: handoff alone makes all replicas agree.",
            "register",
            "partition,pause",
            read_repair="off",
            anti_entropy=False,
            keys=100,  # few writes are overwritten, so that what one lost hint leaves behind is still there at the end
        ),
        _cell(
            "read-repair-only",
            "Isolation: read repair alone.",
            "register",
            "partition,kill,pause",
            hinted_handoff=False,
            anti_entropy=False,
        ),
        _cell(
            "anti-entropy-only",
            "Isolation: anti-entropy alone makes all replicas agree, before any read.",
            "register",
            "partition,kill,pause",
            hinted_handoff=False,
            read_repair="off",
            keys=40,  # few writes are overwritten, so that what one replica missed is still missing at the end
        ),
        _cell(
            "creeping-rot",
            "All disks rot in turn and at last all nodes restart: who reads its disk back in time loses nothing.",
            "register",
            "rot,kill",
            creeping_rot=True,
            nodes=3,
            keys=400,  # few writes are overwritten, so that what had rotted everywhere is still missed at the end
            anti_entropy_rebuild_seconds=0.3,
        ),
        _cell(
            "mixed-hashes",
            "In the midst of an upgrade: nodes that hash their trees differently do not compare, and all else goes on.",
            "register",
            "partition,kill,pause",
            mixed_hashes=True,
        ),
        _cell(
            "deletes",
            "Deleted as often as written, some values expire; tombstones are reaped as soon as they can be.",
            "deletes",
            "partition,kill,pause",
            keys=30,
            reap_after_seconds=0.3,
        ),
        _cell(
            "deletes-membership",
            "Tombstones are reaped while nodes come, go and are replaced: nobody brings back what all had agreed to forget.",
            "deletes",
            "membership,partition,kill",
            spares=2,
            keys=30,
            reap_after_seconds=0.3,
        ),
        _cell(
            "deletes-lww",
            "The same in lww, under wrong clocks: only a delete that its own value's home has made must win.",
            "deletes",
            "partition,clock",
            mode="lww",
            reap_after_seconds=0.3,
        ),
        _cell(
            "membership",
            "Nodes join, leave and are replaced under load, while links and processes fail.",
            "register",
            "membership,partition,kill",
            spares=2,
            keys=40,  # few writes are overwritten, so that what a new home was not given is still missing at the end
        ),
        _cell(
            "membership-split",
            "Isolation: of two changes of the ring that two sides of a partition begin, all keep one.",
            "register",
            "membership,partition",
            nodes=7,
            spares=2,
            keys=40,
            nemesis_interval_seconds=1.0,
        ),
        _cell(
            "transfer-only",
            "Isolation: nothing but the transfers of a changing ring brings a write to its new homes.",
            "register",
            "membership",
            spares=3,
            keys=100,
            nemesis_interval_seconds=1.0,
            read_repair="off",
            anti_entropy=False,
        ),
        _cell(
            "power-kill",
            "Kills and power losses meet: what a kill left in the page cache is believed only once it is synced.",
            "register",
            "power,kill,partition",
            value_bytes=3_000,  # longer than a sector, so that frames are torn
            log_segment_bytes=16_384,
        ),
        _cell(
            "merges",
            "Small files are merged all the time, keys forgotten and made again, and nodes killed in the midst of it.",
            "deletes",
            "kill,partition",
            keys=200,  # most stay deleted, so that what comes back is there at the end
            reap_after_seconds=0.3,
            log_segment_bytes=1_024,
        ),
        _cell(
            "disk-lost",
            "One node's disk is wiped, or an old copy of it put back: no dot is made twice.",
            "register",
            "wipe,rollback,partition",
        ),
        _cell(
            "disk-rot",
            "One node's disk rots, while it runs and while it does not.",
            "register",
            "rot,kill,partition",
            log_segment_bytes=2_048,
        ),
        _cell(
            "disk-errors",
            "Fsyncs fail and disks fill up: a node that cannot write ends itself, and starts again with what was safe.",
            "register",
            "fsync,disk-full,power",
            log_segment_bytes=4_096,
            keys=150,  # few writes are overwritten, so that one that was believed too soon is missed
            read_repair="off",
            anti_entropy=False,  # either would heal what was believed too soon
        ),
        _cell(
            "lww",
            "Last writer wins: its losses are counted.",
            "set",
            "partition,kill,pause,clock",
            mode="lww",
        ),
        _cell(
            "primaries",
            "Sloppy quorum with pr = pw = 2: fallbacks help, and never count as home replicas. Sessions are judged.",
            "sessions",
            "partition,kill,pause",
            pr=2,
            pw=2,
        ),
        _cell(
            "strict-sessions",
            "Strict quorum over many keys, each request with a quorum of its own: sessions are judged.",
            "sessions",
            "partition,kill",
            sloppy=False,
            keys=50,  # replicas that have never heard of a key answer too
            rate=80.0,
        ),
        _cell(
            "one-key",
            "One key, strict quorum, partitions all the time: what a read has shown, the next one shows too.",
            "sessions",
            "partition",
            sloppy=False,
            keys=1,
            rate=150.0,
            concurrency=20,
            nemesis_interval_seconds=0.5,
        ),
        _cell(
            "every-copy",
            "An acknowledged write stands on every home replica, a read asks one, racks lose power: no copy counts too early.",
            "sessions",
            "power",
            w=3,
            r=1,
            sloppy=False,
            keys=40,
            rate=150.0,
            nemesis_interval_seconds=0.6,
            read_repair="off",
            anti_entropy=False,
        ),
        _cell(
            "hinted-copies",
            "An acknowledged write stands on every home replica or waits in a hint for it, and nothing else repairs.",
            "register",
            "power,partition",
            w=3,
            read_repair="off",
            anti_entropy=False,
            keys=100,
            rate=150.0,
            nemesis_interval_seconds=0.6,
        ),
        _cell(
            "actors",
            "One key whose coordinators die again and again under skewed clocks: more actors than its clock may hold.",
            "register",
            "kill,partition,clock",
            keys=1,
            nemesis_interval_seconds=0.7,
        ),
    )
}
