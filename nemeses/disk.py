"""Disks that lose, forget, rot, fail and fill up.

Most of it is destructive: what a node acknowledged may be gone. So that a store may promise anything under it, only as many
nodes suffer such faults in one run as every write has copies to spare (`plan.budget`).
"""

from __future__ import annotations

from nemeses.draw import Draw, between, shuffled
from nemeses.fault import FailFsync, FillDisk, Rollback, Rot, SlowFsync, Snapshot, Wipe
from nemeses.process import some

SLOWER_MIN, SLOWER_MAX = 5, 60
FLIPS_MAX = 4
CREEP_FLIPS = 2_000


def _one(nodes: tuple[str, ...], draw: Draw, what: str, number: int) -> tuple[str, ...]:
    return shuffled(nodes, draw, what, number)[:1]


def wipe(nodes: tuple[str, ...], draw: Draw, number: int) -> Wipe:
    return Wipe(_one(nodes, draw, "wipe", number))


def rollback(nodes: tuple[str, ...], draw: Draw, number: int) -> Rollback:
    """To a copy that `snapshot` took."""
    return Rollback(_one(nodes, draw, "rollback", number))


def snapshot(fault: Rollback, interval_ns: int, draw: Draw, number: int) -> tuple[Snapshot, int]:
    """The copy that a rollback puts back, and how long before it was taken."""
    return Snapshot(fault.nodes), between(interval_ns // 2, 2 * interval_ns, draw, "snapshot-age", number)


def rot(nodes: tuple[str, ...], draw: Draw, number: int) -> Rot:
    """A few bits, or sectors that cannot be read any more; under a running node every second time."""
    return Rot(
        _one(nodes, draw, "rot", number),
        flips=between(1, FLIPS_MAX, draw, "rot-flips", number),
        unreadable=draw("rot-unreadable", number) % 4 == 0,
        stopped=draw("rot-stopped", number) % 2 == 0,
    )


def creep(node: str) -> Rot:
    """Most of what the disk of a running node holds."""
    return Rot((node,), flips=CREEP_FLIPS)


def fsync(nodes: tuple[str, ...], draw: Draw, number: int) -> FailFsync | SlowFsync:
    """An fsync fails, and claims that all is clean afterwards; or they are slow for a while."""
    one = _one(nodes, draw, "fsync", number)
    if draw("fsync-slow", number) % 3 == 0:
        return SlowFsync(one, between(SLOWER_MIN, SLOWER_MAX, draw, "fsync-factor", number))
    return FailFsync(one)


def fill(nodes: tuple[str, ...], draw: Draw, number: int) -> FillDisk:
    return FillDisk(some(nodes, draw, "fill", number, all_too=False))
