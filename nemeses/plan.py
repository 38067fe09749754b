"""When which harm is done: correlated bursts of faults from the chosen families, each healed again, and a final healer.

The whole plan of a run is drawn beforehand, from the seed alone: `sunder run --dry-run` prints it, and a schedule holds it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from nemeses import clock, disk, membership, partition, process
from nemeses.draw import Draw, between, shuffled
from nemeses.fault import (
    DESTRUCTIVE,
    FAMILY_OF,
    FailFsync,
    Fault,
    FillDisk,
    Harm,
    HealPartition,
    Join,
    Kill,
    Leave,
    MendDisk,
    Partition,
    Pause,
    PowerLoss,
    Replace,
    ResetClocks,
    Restart,
    Resume,
    Rollback,
    Rot,
    SettleRing,
    Skew,
    SlowFsync,
    Wipe,
)


class Package(msgspec.Struct, frozen=True):
    """One family of faults: how to draw its n-th harm, how to undo one, and what heals whatever may be left."""

    family: str
    draw: Callable[[tuple[str, ...], Draw, int], Harm]
    final: Callable[[tuple[str, ...]], Fault]


PACKAGES: dict[str, Package] = {
    p.family: p
    for p in (
        Package("partition", partition.draw, lambda nodes: HealPartition()),
        Package("kill", process.kill, Restart),
        Package("pause", process.pause, Resume),
        Package("clock", clock.skew, lambda nodes: ResetClocks()),
        Package("power", process.power_loss, Restart),
        Package("wipe", disk.wipe, Restart),
        Package("rollback", disk.rollback, Restart),
        Package("rot", disk.rot, MendDisk),
        Package("fsync", disk.fsync, MendDisk),
        Package("disk-full", disk.fill, MendDisk),
    )
}


def undo(fault: Harm) -> Fault:
    """The fault that heals this one."""
    match fault:
        case Partition():
            return HealPartition()
        case Kill(nodes) | PowerLoss(nodes) | Wipe(nodes) | Rollback(nodes):
            return Restart(nodes)
        case Rot(nodes) | FailFsync(nodes) | SlowFsync(nodes) | FillDisk(nodes):
            return MendDisk(nodes)
        case Pause(nodes):
            return Resume(nodes)
        case Skew():
            return ResetClocks()
        case Join() | Leave() | Replace():
            return SettleRing()


def is_harm(fault: Fault) -> bool:
    return isinstance(fault, Harm)


def family(fault: Fault) -> str:
    return FAMILY_OF[msgspec.json.decode(msgspec.json.encode(fault))["fault"]]


PROCESS = ("kill", "pause", "power", "wipe", "rollback", "rot", "fsync", "disk-full")
"""Families that take a process away: one at a time, or the evidence of one would be spoilt by the other."""


class Timed(msgspec.Struct, frozen=True, order=True):
    """A fault and when it is due, in nanoseconds since the run began."""

    at_ns: int
    number: int
    fault: Fault


def budget(nodes: tuple[str, ...], w_min: int, draw: Draw) -> tuple[str, ...]:
    """The nodes that may suffer destructive faults in one run: one less than the copies that every write has at least, since
    nothing between two of its faults proves that all has been repaired."""
    return shuffled(nodes, draw, "budget")[: max(0, w_min - 1)]


def plan(
    families: tuple[str, ...],
    nodes: tuple[str, ...],
    time_ns: int,
    interval_ns: int,
    draw: Draw,
    *,
    destructible: tuple[str, ...] | None = None,
    spares: tuple[str, ...] = (),
    replaces: bool = False,
) -> list[Timed]:
    """Bursts about every `interval_ns` until `time_ns`; what still stands then is left to `healers`.

    In a burst one to three families strike within a fraction of the interval, so that harms overlap. A family strikes
    again only after its last harm was healed; processes and disks are hit by one family at a time. Destructive faults hit
    `destructible` alone (None: anybody).
    Changes of the ring are not undone: they go on until they are complete. `spares` can join it; `replaces` says whether
    a node may be replaced as dead.
    """
    events: list[Timed] = []
    if destructible is not None and not destructible:
        families = tuple(f for f in families if f not in DESTRUCTIVE)
    busy_until: dict[str, int] = {}
    struck = dict.fromkeys(families, 0)
    number = 0
    burst = 0
    at_ns = interval_ns // 2
    while families and at_ns < time_ns:
        burst += 1
        # Whoever struck least goes first, so that no family that was asked for stays out of a short run by chance.
        order = sorted(families, key=lambda f: (struck[f], draw("burst-order", burst, f), f))
        for name in order[: between(1, min(3, len(families)), draw, "burst-size", burst)]:
            lock = "process" if name in PROCESS else name
            start = at_ns + draw("burst-offset", burst, name) % (interval_ns // 4 + 1)
            start = max(start, busy_until.get(lock, 0))
            if start >= min(time_ns, at_ns + interval_ns):
                continue
            number += 1
            struck[name] += 1
            hold_ns = between(interval_ns // 5, interval_ns, draw, "hold", number)
            if name == "membership":
                change = membership.change(nodes, spares, draw, struck[name], replaces=replaces)
                if change is not None:
                    events.append(Timed(start, 3 * number, change))
                    busy_until[lock] = start + hold_ns
                continue
            targets = (*nodes, *spares) if destructible is None or name not in DESTRUCTIVE else destructible
            harm = PACKAGES[name].draw(targets, draw, number)
            if isinstance(harm, Rollback):
                copy, age_ns = disk.snapshot(harm, interval_ns, draw, number)
                events.append(Timed(max(0, start - age_ns), 3 * number + 1, copy))
            events.append(Timed(start, 3 * number, harm))
            end = start + hold_ns
            if isinstance(harm, Partition) and draw("half-heal", number) % 2:
                half = partition.half_healed(harm, draw, number)
                events.append(Timed(end, 3 * number + 1, half))
                end += between(interval_ns, 2 * interval_ns, draw, "half-hold", number)
            events.append(Timed(end, 3 * number + 2, undo(harm)))
            busy_until[lock] = end + interval_ns // 20
        at_ns += between(interval_ns * 3 // 4, interval_ns * 5 // 4, draw, "burst-gap", burst)
    return sorted((e for e in events if e.at_ns < time_ns), key=lambda e: (e.at_ns, e.number))


def creeping(nodes: tuple[str, ...], time_ns: int, interval_ns: int, draw: Draw) -> list[Timed]:
    """Rot that creeps: one running node's disk after the other, an interval apart, and in the end all restart at once.

    No budget bounds it: who reads its disk back within an interval loses nothing, whoever does not loses what was written before.
    """
    events: list[Timed] = []
    at_ns = max(interval_ns // 4, time_ns - (len(nodes) + 1) * interval_ns)
    for number, node in enumerate(shuffled(nodes, draw, "creep"), 1):
        events.append(Timed(at_ns, 2 * number, disk.creep(node)))
        events.append(Timed(at_ns + interval_ns // 8, 2 * number + 1, MendDisk((node,))))
        at_ns += interval_ns
    number = 2 * len(nodes) + 2
    events += [Timed(at_ns, number, Kill(nodes)), Timed(at_ns + interval_ns // 4, number + 1, Restart(nodes))]
    return [e for e in events if e.at_ns < time_ns]


def healers(families: tuple[str, ...], nodes: tuple[str, ...]) -> list[Fault]:
    """What ends all harm of these families, in order: links first, then processes, then clocks."""
    order = (
        "partition",
        "pause",
        "disk-full",
        "fsync",
        "rot",
        "kill",
        "power",
        "wipe",
        "rollback",
        "clock",
        "membership",
    )
    heal: list[Fault] = []
    for name in order:
        if name in families:
            fault = SettleRing() if name == "membership" else PACKAGES[name].final(nodes)
            if fault not in heal:
                heal.append(fault)
    return heal
