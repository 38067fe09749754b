"""Scenes of reading the disk back: rot is found while a good copy is left, and writes that go on are no cause for alarm."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from cluster import SECOND, Cluster
from planted import Nodes, record

from nemeses.fault import PowerLoss, Restart
from store.ring import token

KEYS = 400


def alone(**settings: Any) -> Nodes:
    """Nodes that nobody mends but themselves."""
    return Nodes(anti_entropy=False, log_idle_ms=100, **settings)


def rot(nodes: Nodes, name: str, flips: int) -> None:
    assert nodes.world._seats[name].machine.platter.rot(flips, unreadable=False)  # pyright: ignore[reportPrivateUsage]


async def done(nodes: Nodes, c: Cluster, name: str, work: Coroutine[Any, Any, None]) -> None:
    finished = nodes.world.future()

    async def run() -> None:
        await work
        finished.set_result(None)

    nodes[name].runtime.spawn(run(), name="scene")
    await finished


async def restarted(c: Cluster, name: str) -> None:
    await c.world.inject(PowerLoss((name,)))
    await c.world.inject(Restart((name,)))
    await c.world.sleep(SECOND)


def test_rot_that_nobody_looks_for_takes_records_at_the_next_start() -> None:
    nodes = alone()

    async def scene(c: Cluster) -> None:
        nodes.plant("n1", range(KEYS))
        await c.world.sleep(SECOND)
        rot(nodes, "n1", 8)
        await restarted(c, "n1")
        assert len(nodes.held("n1")) < KEYS

    nodes.play(scene)


def test_rot_is_found_by_reading_the_disk_back_and_mended_from_memory() -> None:
    nodes = alone()

    async def scene(c: Cluster) -> None:
        nodes.plant("n1", range(KEYS))
        await c.world.sleep(SECOND)
        before = nodes.held("n1")
        rot(nodes, "n1", 8)
        await done(nodes, c, "n1", nodes["n1"].anti_entropy.rebuild())
        assert 1 <= nodes["n1"].anti_entropy.counters.damaged_frames <= 8
        await c.world.sleep(SECOND)
        await restarted(c, "n1")
        assert nodes.held("n1") == before

    nodes.play(scene)


def test_the_disk_is_read_back_in_every_period() -> None:
    nodes = Nodes(anti_entropy_rebuild_ms=5_000)

    async def scene(c: Cluster) -> None:
        nodes.plant("n1", range(KEYS))
        await c.world.sleep(12 * SECOND)
        assert nodes["n1"].anti_entropy.counters.rebuilds >= 2
        rot(nodes, "n1", 4)
        await c.world.sleep(6 * SECOND)
        assert nodes["n1"].anti_entropy.counters.damaged_frames >= 1

    nodes.play(scene)


def test_writes_that_go_on_are_not_taken_for_losses() -> None:
    nodes = alone(token_ranges=1)

    async def scene(c: Cluster) -> None:
        nodes.plant("n1", range(2_000))
        await c.world.sleep(SECOND)
        for turn in range(3):
            finished = nodes.world.spawn(
                done(nodes, c, "n1", nodes["n1"].anti_entropy.rebuild()), name="rebuild"
            )
            for i in range(200):
                nodes.plant("n1", range(10 * i, 10 * i + 12), b"new", 2 + turn)
                await c.world.sleep(SECOND // 2_000)
            await finished
        counters = nodes["n1"].anti_entropy.counters
        assert (counters.rebuilds, counters.damaged_frames, counters.keys_rewritten) == (3, 0, 0)
        held = nodes["n1"].replica.ranges[0]
        kept_up = held.built().root
        held.tree = None
        assert held.built().root == kept_up

    nodes.play(scene)


def test_a_record_that_the_disk_never_got_is_written_again() -> None:
    nodes = alone()

    async def scene(c: Cluster) -> None:
        nodes.plant("n1", range(KEYS))
        await c.world.sleep(SECOND)
        replica = nodes["n1"].replica
        key = b"b/lost"
        replica.ranges[nodes["n1"].ring.range_of(key)].put(key, token(key), record(b"v"))
        await done(nodes, c, "n1", nodes["n1"].anti_entropy.rebuild())
        assert nodes["n1"].anti_entropy.counters.keys_rewritten >= 1
        await c.world.sleep(SECOND)
        await restarted(c, "n1")
        assert nodes.held("n1")[key] == record(b"v")

    nodes.play(scene)


def test_a_tree_that_has_gone_wrong_is_built_anew() -> None:
    nodes = alone()

    async def scene(c: Cluster) -> None:
        nodes.plant("n1", range(KEYS))
        await c.world.sleep(SECOND)
        held = nodes["n1"].replica.ranges[3]
        right = held.built().root
        held.built().change(token(b"b/k1"), 12_345)
        await done(nodes, c, "n1", nodes["n1"].anti_entropy.rebuild())
        assert held.built().root == right

    nodes.play(scene)


def test_sectors_that_cannot_be_read_are_mended_like_any_other_damage() -> None:
    nodes = alone()

    async def scene(c: Cluster) -> None:
        nodes.plant("n1", range(KEYS))
        await c.world.sleep(SECOND)
        before = nodes.held("n1")
        assert nodes.world._seats["n1"].machine.platter.rot(2, unreadable=True)  # pyright: ignore[reportPrivateUsage]
        for _ in range(2):
            await done(nodes, c, "n1", nodes["n1"].anti_entropy.rebuild())
        assert nodes["n1"].anti_entropy.counters.damaged_frames >= 1
        assert nodes["n1"].anti_entropy.counters.rebuild_failures == 0
        await c.world.sleep(SECOND)
        await restarted(c, "n1")
        assert nodes.held("n1") == before

    nodes.play(scene)
