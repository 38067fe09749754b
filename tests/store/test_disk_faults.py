"""What disks do to nodes: each fault by its effect, its evidence, and what the store makes of it."""

from __future__ import annotations

import resource
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from cluster import SECOND, Cluster
from node_processes import NodeProcesses

from harness.sim.world import SimWorld
from nemeses.fault import (
    FailFsync,
    FillDisk,
    Kill,
    MendDisk,
    PowerLoss,
    Restart,
    Rollback,
    Rot,
    SlowFsync,
    Wipe,
)
from store.config import Config
from store.node import Node
from store.server.runtime import HALTED

NODES = ("n1", "n2", "n3")


def run(scene: Callable[[Cluster], Awaitable[None]], seed: int = 1, **settings: Any) -> SimWorld:
    def build(node: str, runtime: Any) -> Node:
        config = Config(node=node, peers=dict.fromkeys(NODES, ""), anti_entropy=False, **settings)
        return Node(config, runtime)

    world = SimWorld(NODES, seed, build)

    async def main() -> None:
        await world.start()
        try:
            await scene(Cluster(world))
        finally:
            await world.stop()

    world.run(main())
    return world


async def write_on(c: Cluster, count: int = 40) -> None:
    """Writes through n2, a few a second, whatever comes of them."""
    for number in range(count):
        await c.ask("n2", "PUT", f"/kv/b/later{number}", b"x")
        await c.world.sleep(SECOND // 50)


def test_a_node_whose_fsync_fails_ends_itself_and_comes_back_with_what_it_had_acknowledged() -> None:
    async def scene(c: Cluster) -> None:
        assert (await c.ask("n1", "PUT", "/kv/b/k?w=3", b"v")).status == 204
        c.world.spawn(write_on(c), name="writes")
        failed = await c.world.inject(FailFsync(("n1",)))
        assert failed.verified and failed.after["n1"] == {"process": "dead", "touched": 1}
        mended = await c.world.inject(MendDisk(("n1",)))
        assert mended.verified and mended.fired == 1
        # What the page cache had shown as clean was written anew: a power loss does not take it.
        before = await c.held("n1", "later0")
        await c.world.inject(PowerLoss(("n1",)))
        await c.world.inject(Restart(("n1",)))
        assert await c.held("n1", "k") == [b"v"]
        assert await c.held("n1", "later0") == before

    world = run(scene)
    assert "ends itself: the log is broken" in world.logs()["n1"]


def test_a_full_disk_ends_the_node_and_no_start_succeeds_before_there_is_room() -> None:
    async def scene(c: Cluster) -> None:
        assert (await c.ask("n1", "PUT", "/kv/b/k?w=3", b"v")).status == 204
        c.world.spawn(write_on(c), name="writes")
        assert (await c.world.inject(FillDisk(("n1",)))).verified
        assert not (await c.world.inject(Restart(("n1",)))).verified
        assert (await c.world.inject(MendDisk(("n1",)))).verified
        assert await c.held("n1", "k") == [b"v"]

    run(scene)


def test_rot_is_counted_at_the_next_start_and_the_rest_is_kept() -> None:
    async def scene(c: Cluster) -> None:
        for number in range(20):
            await c.ask("n1", "PUT", f"/kv/b/k{number}?w=3", b"v" * 50)
        await c.world.sleep(3 * SECOND)
        rotten = await c.world.inject(Rot(("n1",), flips=1, stopped=True))
        assert rotten.verified and rotten.fired == 1
        assert (await c.world.inject(MendDisk(("n1",)))).verified
        held = [number for number in range(20) if await c.held("n1", f"k{number}") == [b"v" * 50]]
        assert len(held) >= 19

    assert "1 damaged records skipped" in run(scene).logs()["n1"].split("serving: start 2")[1]


def test_a_sector_that_cannot_be_read_costs_its_records_and_no_more() -> None:
    async def scene(c: Cluster) -> None:
        for number in range(60):
            await c.ask("n1", "PUT", f"/kv/b/k{number}?w=3", b"v" * 300)
        await c.world.sleep(3 * SECOND)
        assert (await c.world.inject(Rot(("n1",), flips=1, unreadable=True, stopped=True))).verified
        assert (await c.world.inject(MendDisk(("n1",)))).verified
        held = [number for number in range(60) if await c.held("n1", f"k{number}")]
        assert 35 < len(held) < 60

    run(scene)


def test_slow_syncs_slow_writes_down_until_the_disk_is_mended() -> None:
    async def scene(c: Cluster) -> None:
        async def lasted() -> int:
            began = c.world.now_ns()
            await c.ask("n1", "PUT", "/kv/b/k?w=3&timeout_ms=3000", b"v")
            return c.world.now_ns() - began

        usual = min([await lasted() for _ in range(5)])
        assert (await c.world.inject(SlowFsync(("n1",), 50))).verified
        slow = min([await lasted() for _ in range(5)])
        mended = await c.world.inject(MendDisk(("n1",)))
        assert mended.fired is not None and mended.fired >= 5
        again = min([await lasted() for _ in range(5)])
        assert slow > 5 * usual and slow > 5 * again

    run(scene)


def test_a_rollback_without_a_copy_does_nothing_and_does_not_count() -> None:
    async def scene(c: Cluster) -> None:
        evidence = await c.world.inject(Rollback(("n1",)))
        assert not evidence.verified
        assert (await c.ask("n1", "GET", "/ping")).status == 200

    run(scene)


def test_a_wipe_counts_only_where_there_was_something() -> None:
    async def scene(c: Cluster) -> None:
        assert (await c.world.inject(Wipe(("n1",)))).verified
        assert not (await c.world.inject(Wipe(("n1",)))).verified

    run(scene)


def test_merges_go_on_under_kills_and_keep_every_key() -> None:
    async def scene(c: Cluster) -> None:
        for round in range(4):
            for number in range(30):
                reply = await c.ask("n1", "PUT", f"/kv/b/k{number}?w=3", b"%d" % round)
                assert reply.status == 204
            await c.world.inject(Kill(("n1",)))
            await c.world.inject(Restart(("n1",)))
        for number in range(30):
            assert len(await c.held("n1", f"k{number}")) == 4

    run(scene, log_segment_bytes=512)


def test_a_real_node_that_cannot_write_ends_with_its_own_status_and_starts_again_with_all_it_had_said(
    tmp_path: Path,
) -> None:
    """The kernel refuses to let any of its files grow beyond 64 KB."""
    with NodeProcesses(tmp_path, log_segment_bytes=1 << 20) as nodes:
        resource.prlimit(nodes.pid("a"), resource.RLIMIT_FSIZE, (65_536, 65_536))
        acknowledged: list[int] = []
        for number in range(200):
            if not nodes.alive("a"):
                break
            try:
                if nodes.put("a", f"k{number}", b"v" * 1_000).status == 204:
                    acknowledged.append(number)
            except OSError:
                break
        assert nodes.ended("a") == HALTED
        assert "ends itself: the log is broken: cannot append to log-000001: File too large" in nodes.log("a")
        nodes.start("a")
        assert len(acknowledged) > 20
        for number in acknowledged:
            assert nodes.get("a", f"k{number}").body == b"v" * 1_000
