"""The whole fault surface, as one closed union of plain values. A world turns them into harm; nothing here does."""

from __future__ import annotations

from typing import Literal

import msgspec

Link = tuple[str, str]
"""(source, destination): what the source sends no longer reaches the destination."""


class Partition(msgspec.Struct, frozen=True, tag="partition", tag_field="fault"):
    """Replaces whatever partition stands: exactly the links in `blocked` are cut (between nodes; clients are spared).

    `shape` names how it was drawn (halves, isolate, majorities-ring, bridge, one-way, custom). `drop` loses packets in
    silence, `reject` answers with a reset.
    """

    shape: str
    blocked: tuple[Link, ...]
    mode: Literal["drop", "reject"] = "drop"


class HealPartition(msgspec.Struct, frozen=True, tag="heal-partition", tag_field="fault"):
    """Every link carries again."""


class Kill(msgspec.Struct, frozen=True, tag="kill", tag_field="fault"):
    """kill -9: the process is gone, its page cache stays."""

    nodes: tuple[str, ...]


class PowerLoss(msgspec.Struct, frozen=True, tag="power-loss", tag_field="fault"):
    """The process is gone and so is any subset of what it had not synced."""

    nodes: tuple[str, ...]


class Restart(msgspec.Struct, frozen=True, tag="restart", tag_field="fault"):
    """Starts those of the nodes that are not running, on what their disks hold."""

    nodes: tuple[str, ...]


class Pause(msgspec.Struct, frozen=True, tag="pause", tag_field="fault"):
    """SIGSTOP: nothing runs, connections stay open."""

    nodes: tuple[str, ...]


class Resume(msgspec.Struct, frozen=True, tag="resume", tag_field="fault"):
    """SIGCONT for those of the nodes that are paused."""

    nodes: tuple[str, ...]


class Skew(msgspec.Struct, frozen=True, tag="skew", tag_field="fault"):
    """Sets each named node's wall clock to the true time plus its offset (nanoseconds, either sign)."""

    offsets_ns: dict[str, int]


class ResetClocks(msgspec.Struct, frozen=True, tag="reset-clocks", tag_field="fault"):
    """Every wall clock tells the true time again."""


class Join(msgspec.Struct, frozen=True, tag="join", tag_field="fault"):
    """A spare node is asked to be taken into the ring."""

    node: str


class Leave(msgspec.Struct, frozen=True, tag="leave", tag_field="fault"):
    """A member is asked to leave; it goes on running."""

    node: str


class Replace(msgspec.Struct, frozen=True, tag="replace", tag_field="fault"):
    """A member is said to be dead, and another node is put in its place; then it is killed."""

    dead: str
    node: str


class SettleRing(msgspec.Struct, frozen=True, tag="settle-ring", tag_field="fault"):
    """Whoever is dead is started, until all nodes know the same ring and no change of it is in progress."""


RingChange = Join | Leave | Replace
RingFault = RingChange | SettleRing
"""Those that the system under test makes, and not the world."""


class Wipe(msgspec.Struct, frozen=True, tag="wipe", tag_field="fault"):
    """The process is gone, and its disk is empty."""

    nodes: tuple[str, ...]


class Snapshot(msgspec.Struct, frozen=True, tag="snapshot", tag_field="fault"):
    """Copies the nodes' disks as they are, for a later Rollback. Hurts nobody, heals nothing."""

    nodes: tuple[str, ...]


class Rollback(msgspec.Struct, frozen=True, tag="rollback", tag_field="fault"):
    """The process is gone, and its disk is what the last Snapshot of it shows. Without one nothing happens."""

    nodes: tuple[str, ...]


class Rot(msgspec.Struct, frozen=True, tag="rot", tag_field="fault"):
    """Flips that many bits of what is durable on each node's disk, or makes their sectors unreadable. `stopped`: the process
    is killed first; otherwise it runs on and does not notice."""

    nodes: tuple[str, ...]
    flips: int
    unreadable: bool = False
    stopped: bool = False


class FailFsync(msgspec.Struct, frozen=True, tag="fail-fsync", tag_field="fault"):
    """The next fsync of a file fails. The pages it was for are dropped and count as clean: the one after would succeed."""

    nodes: tuple[str, ...]


class SlowFsync(msgspec.Struct, frozen=True, tag="slow-fsync", tag_field="fault"):
    """Every fsync takes `factor` times as long."""

    nodes: tuple[str, ...]
    factor: int


class FillDisk(msgspec.Struct, frozen=True, tag="fill-disk", tag_field="fault"):
    """No room is left: appends fail, after a part of them was written."""

    nodes: tuple[str, ...]


class MendDisk(msgspec.Struct, frozen=True, tag="mend-disk", tag_field="fault"):
    """There is room again, and syncs work as ever; those of the nodes that are not running are started. What was lost or rotten
    stays so."""

    nodes: tuple[str, ...]


Fault = (
    Partition
    | HealPartition
    | Kill
    | PowerLoss
    | Restart
    | Pause
    | Resume
    | Skew
    | ResetClocks
    | Wipe
    | Snapshot
    | Rollback
    | Rot
    | FailFsync
    | SlowFsync
    | FillDisk
    | MendDisk
    | RingFault
)

Harm = (
    Partition
    | Kill
    | PowerLoss
    | Pause
    | Skew
    | Wipe
    | Rollback
    | Rot
    | FailFsync
    | SlowFsync
    | FillDisk
    | RingChange
)
"""The faults that hurt; the others heal."""


class Evidence(msgspec.Struct, frozen=True):
    """What was seen of a fault: `before` and `after` are the world's probes, `verified` says that they show the harm.

    Times are nanoseconds since the run began. `fired` counts what the fault hit while it stood (packets, messages,
    unsynced writes), where the world can count it; it is reported by the healing fault.
    """

    verified: bool
    mechanism: str
    injected_ns: int
    verified_ns: int
    before: dict[str, object] = {}
    after: dict[str, object] = {}
    fired: int | None = None


SENTENCES = {
    "partition": "Links between nodes drop or reject, one way or both: halves, a lone node, a ring of majorities, a bridge.",
    "kill": "kill -9 of one node, a minority or all; started again later, with the page cache as it was.",
    "pause": "One node or a minority stops for a while; its connections stay open.",
    "clock": "Wall clocks jump by 50 ms to two minutes, either way.",
    "power": "Nodes lose power, and with it any part of what they had not synced.",
    "wipe": "A node comes back with an empty disk.",
    "rollback": "A node comes back with an older copy of its disk.",
    "rot": "Bits of durable files flip, or their sectors cannot be read.",
    "fsync": "An fsync fails and drops what it was for; or every fsync is slow.",
    "disk-full": "Appends have no room and are cut short; later there is room again.",
    "membership": "Nodes join, leave and are replaced while clients go on.",
}
"""What each family does."""

FAMILIES = tuple(SENTENCES)
"""Names for `--nemesis`: which packages exist."""

FAMILY_OF: dict[str, str] = {
    "partition": "partition",
    "heal-partition": "partition",
    "kill": "kill",
    "restart": "kill",
    "pause": "pause",
    "resume": "pause",
    "skew": "clock",
    "reset-clocks": "clock",
    "power-loss": "power",
    "join": "membership",
    "leave": "membership",
    "replace": "membership",
    "settle-ring": "membership",
    "wipe": "wipe",
    "snapshot": "rollback",
    "rollback": "rollback",
    "rot": "rot",
    "fail-fsync": "fsync",
    "slow-fsync": "fsync",
    "fill-disk": "disk-full",
    "mend-disk": "disk-full",
}

DESTRUCTIVE = ("wipe", "rollback", "rot", "fsync")
"""Families whose faults may take from a node what it acknowledged. Power loss is none: what was synced survives it."""
