"""No dot is made twice: actor ids of lives, of wiped and rolled-back disks, of clocks that know less or more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from cluster import SECOND, Cluster

from harness.sim.world import SimWorld
from nemeses.fault import Kill, Restart, Rollback, Snapshot, Wipe
from store.config import Config
from store.epochs import EPOCH_BITS, Epochs
from store.gossip import Gossip
from store.log import Log
from store.metrics import Metrics
from store.node import Node

NODES = ("n1", "n2", "n3")


class Drawing:
    """A runtime that only draws."""

    def __init__(self) -> None:
        self.drawn = 0
        self.disk = self.clock = self
        self.appended: list[bytes] = []

    def draw(self, what: str, *identity: object) -> int:
        self.drawn += 1
        return self.drawn << 30

    def mono_ns(self) -> int:
        return 0


def epochs() -> Epochs:
    runtime: Any = Drawing()
    config = Config(node="n1", peers=dict.fromkeys(NODES, ""))
    made = Epochs(runtime, Log(config, runtime), Gossip(config, runtime, Metrics()))
    made._draw_life()
    return made


def test_a_key_keeps_its_actor_while_nobody_knows_more_of_it() -> None:
    life = epochs()
    actor = life.fresh()
    assert life.actor(((actor, 3, 0),), {}) == actor
    assert life.actor(((actor, 3, 0),), {actor: 3}) == actor
    assert life.actor(((actor, 3, 0),), {actor: 4}) != actor


def test_a_clock_without_this_lifes_entry_gets_a_fresh_one() -> None:
    life = epochs()
    mine = life.fresh()
    assert life.actor((), {}) not in (mine, life.actor((), {}))
    stranger = mine + (1 << EPOCH_BITS)
    assert life.actor(((stranger, 3, 0),), {}) != stranger


def test_an_actor_of_a_forgotten_key_is_not_taken_up_again() -> None:
    life = epochs()
    actor = life.fresh()
    life.retire(((actor, 3, 0),))
    assert life.actor(((actor, 2, 0),), {}) != actor


def test_when_the_numbers_run_out_another_life_id_is_drawn() -> None:
    life = epochs()
    first = life.fresh()
    life._next = 1 << EPOCH_BITS
    second = life.fresh()
    assert second >> EPOCH_BITS != first >> EPOCH_BITS
    assert life.actor(((first, 1, 0),), {}) == first, "what it made before is still its own"


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


async def generation(c: Cluster, node: str) -> int:
    page = await c.ask(node, "GET", "/status")
    return int(page.body.split(b'"generation":')[1].split(b",")[0])


def test_a_wiped_node_writes_dots_that_replicas_keep() -> None:
    async def scene(c: Cluster) -> None:
        for number in range(3):
            assert (await c.ask("n1", "PUT", "/kv/b/k?w=3", b"old%d" % number)).status == 204
        assert (await c.world.inject(Wipe(("n1",)))).verified
        assert (await c.world.inject(Restart(("n1",)))).verified
        assert (await c.ask("n1", "PUT", "/kv/b/k?w=3", b"new")).status == 204
        for node in ("n2", "n3"):
            assert await c.held(node, "k") == [b"new", b"old0", b"old1", b"old2"]

    run(scene)


def test_a_node_that_was_rolled_back_makes_no_dot_twice() -> None:
    async def scene(c: Cluster) -> None:
        first = await c.ask("n1", "PUT", "/kv/b/k?w=3&returnbody=true", b"1")
        await c.world.inject(Snapshot(("n1",)))
        await c.ask("n1", "PUT", "/kv/b/k?w=3", b"2", context=first.context)
        assert (await c.world.inject(Rollback(("n1",)))).verified
        await c.world.inject(Restart(("n1",)))
        assert await c.held("n1", "k") == [b"1"]
        await c.ask("n1", "PUT", "/kv/b/k?w=3", b"3", context=first.context)
        for node in NODES:
            assert b"3" in await c.held(node, "k")
        assert b"2" in await c.held("n2", "k")

    run(scene)


def test_an_actor_that_truncation_dropped_is_not_taken_up_again_when_an_old_replica_brings_its_entry_back() -> (
    None
):
    async def scene(c: Cluster) -> None:
        first, second, third = await c.homes("k")
        one = await c.ask(first, "PUT", "/kv/b/k?w=3&returnbody=true", b"1")
        await c.world.inject(Kill((third,)))
        two = await c.ask(first, "PUT", "/kv/b/k?returnbody=true", b"2", context=one.context)
        await c.ask(first, "PUT", "/kv/b/k?ttl_seconds=3", b"3", context=two.context)
        await c.world.sleep(SECOND)
        await c.ask(second, "PUT", "/kv/b/k", b"beside")  # as new as what expires: that entry is dropped
        await c.world.inject(Kill((second,)))
        await c.world.sleep(6 * SECOND)
        assert await c.held(first, "k") == [b"beside"]
        await c.world.inject(Restart((third,)))  # where the first one's entry is as old as its first write
        await c.world.sleep(4 * SECOND)
        back = await c.ask(first, "GET", "/kv/b/k")
        assert back.values == [b"1", b"beside"]
        assert (await c.ask(first, "PUT", "/kv/b/k", b"new", context=back.context)).status == 204
        await c.world.inject(Restart((second,)))  # which knows how far the first one had counted
        await c.world.sleep(4 * SECOND)
        for node in NODES:
            assert b"new" in (await c.ask(node, "GET", "/kv/b/k?r=3")).values

    run(scene, sloppy=False, hinted_handoff=False, clock_entries_max=1, reap_interval_ms=300)


def test_a_generation_goes_up_though_the_disk_has_forgotten_it() -> None:
    async def scene(c: Cluster) -> None:
        for _ in range(3):
            await c.world.inject(Kill(("n1",)))
            await c.world.inject(Restart(("n1",)))
        await c.world.sleep(5 * SECOND)
        assert await generation(c, "n1") == 4
        await c.world.inject(Wipe(("n1",)))
        await c.world.inject(Restart(("n1",)))
        await c.until(lambda: generation(c, "n1"), 5)

    run(scene)
