"""Time to live: a value written with one is hidden once its time is over, and then replaced by a tombstone.

The time is the wall clock's, the coordinator's for the end and that of whoever looks for the present: nodes whose clocks
differ hide a value as much apart. The first home replica that seems up writes the tombstone, as a write like every other.
"""

from __future__ import annotations

from store import versions
from store.coordinator import Coordinator, Unsatisfied
from store.runtime import Clock, DiskError
from store.versions import Record, Version

SECOND = 1_000_000_000


def shown(record: Record, clock: Clock) -> tuple[Version, ...]:
    """What clients may be shown of a record: all but what has expired."""
    live = record.versions
    for version in live:
        if version.end is not False and version.end is not True:
            wall_ns = clock.wall_ns()
            return tuple(v for v in live if v.end is True or not v.gone(wall_ns))
    return live


def is_ours(coordinator: Coordinator, key: bytes) -> bool:
    """Whether this node is the first home replica of the key that seems up."""
    up = coordinator.gossip.up
    first = next((home for home in coordinator.place(key).homes if up(home)), "")
    return first == coordinator.config.node


async def bury(coordinator: Coordinator, key: bytes) -> bool:
    """Replaces what has expired of a key by a tombstone, on a home replica of it. Returns whether a quorum has it; if
    not it may have been done nevertheless, and can be done again."""
    place = coordinator.place(key)
    wall_ns = coordinator.runtime.clock.wall_ns()
    held = coordinator.replica.record(key)
    if not place.is_home or versions.due(held, wall_ns) != versions.EXPIRED:
        return True
    if place.terms.lww:
        record = versions.expire_lww(held)
    else:
        actor = coordinator.epochs.actor(held.clock, {})
        record = versions.expire(held, actor, wall_ns, entries_max=coordinator.config.clock_entries_max)
        coordinator.truncated(held.clock, record)
    try:
        await coordinator.write(key, record, place.terms.write)
    except (Unsatisfied, DiskError):
        return False
    coordinator.metrics.expired += 1
    return True
