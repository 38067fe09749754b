"""How old a divergence may be, as a node says: over restarts, reboots and wrong clocks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pytest
import ringed
from cluster import SECOND, Cluster

from harness.samples import parse
from harness.sim.world import SimWorld
from nemeses.fault import Kill, PowerLoss, Restart, Skew
from store.config import Config
from store.node import Node
from store.runtime import Runtime

NODES = ("n1", "n2", "n3", "n4", "n5")
NODE_OF: dict[str, Node] = {}
"""The latest life of each node of the scene that is playing."""


def play(scene: Callable[[Cluster], Awaitable[None]]) -> None:
    peers = dict.fromkeys(NODES, "")

    def build(node: str, runtime: Runtime) -> Node:
        NODE_OF[node] = Node(Config(node=node, peers=peers, horizon_mark_ms=2_000), runtime)
        return NODE_OF[node]

    world = SimWorld(NODES, 1, build)

    async def main() -> None:
        await world.start()
        try:
            await scene(Cluster(world))
        finally:
            await world.stop()

    world.run(main())


async def age(c: Cluster, node: str) -> float:
    """The age of the oldest hint that the node holds, as it says; its horizon is never below that."""
    status = msgspec.json.decode((await c.ask(node, "GET", "/status")).body)
    assert status["consistency_horizon_seconds"] >= status["oldest_hint_seconds"]
    return status["oldest_hint_seconds"]


async def hint(c: Cluster) -> tuple[str, str]:
    """Leaves one hint somewhere: (its holder, the home replica that it is for)."""
    dead, *alive = await c.homes("k")
    await c.world.inject(Kill((dead,)))
    assert (await c.ask(alive[0], "PUT", "/kv/b/k", b"v")).status == 204
    await c.world.sleep(SECOND)
    holders = [node for node in NODES if node != dead and await c.hints(node)]
    assert len(holders) == 1
    return holders[0], dead


def test_a_hint_grows_older_until_it_is_handed_off() -> None:
    async def scene(c: Cluster) -> None:
        holder, dead = await hint(c)
        before = await age(c, holder)
        assert 0.7 <= before <= 1.0
        await c.world.sleep(20 * SECOND)
        assert await age(c, holder) - before == pytest.approx(20, abs=0.01)
        await c.world.inject(Restart((dead,)))
        await c.until(lambda: c.hints(holder), [])
        assert await age(c, holder) == 0

    play(scene)


@pytest.mark.parametrize("off_seconds", [-120, 120])
def test_a_hint_is_as_old_as_before_when_its_holder_is_killed_whatever_the_wall_clock_says(
    off_seconds: int,
) -> None:
    async def scene(c: Cluster) -> None:
        holder, _ = await hint(c)
        await c.world.sleep(20 * SECOND)
        await c.world.inject(Kill((holder,)))
        await c.world.sleep(10 * SECOND)
        await c.world.inject(Skew({holder: off_seconds * SECOND}))
        await c.world.inject(Restart((holder,)))
        assert 30.7 < await age(c, holder) < 32.5

    play(scene)


def test_after_a_power_loss_the_wall_clock_says_how_old_a_hint_is() -> None:
    async def scene(c: Cluster) -> None:
        holder, _ = await hint(c)
        await c.world.sleep(20 * SECOND)
        await c.world.inject(PowerLoss((holder,)))
        await c.world.sleep(10 * SECOND)
        await c.world.inject(Restart((holder,)))
        assert 30.7 < await age(c, holder) < 32.5

    play(scene)


def test_after_a_power_loss_that_set_the_clock_back_peers_say_how_old_a_hint_is() -> None:
    async def scene(c: Cluster) -> None:
        holder, _ = await hint(c)
        await c.world.sleep(20 * SECOND)
        await c.world.inject(PowerLoss((holder,)))
        await c.world.sleep(10 * SECOND)
        await c.world.inject(Skew({holder: -500 * SECOND}))
        await c.world.inject(Restart((holder,)))
        await c.world.sleep(SECOND)
        # Told at 2 s intervals: the peers' claim may reach back to just before the hint.
        assert 31.7 < await age(c, holder) < 35

    play(scene)


def test_a_hint_that_takes_the_place_of_one_for_a_node_that_left_is_as_old_as_that() -> None:
    async def scene(c: Cluster) -> None:
        holder, dead = await hint(c)
        await c.world.sleep(20 * SECOND)
        homes = await c.homes("k")
        # Who is replaced never comes back; another home replica is down, so that somebody has to keep a hint for it.
        other = next(home for home in homes if home not in (dead, holder))
        await c.world.inject(Kill((other,)))
        node = NODE_OF[holder]
        node.hints.departed = lambda target: target == dead

        async def retarget(key: bytes, record: bytes) -> None:
            await node.hints.store(other, key, record)

        node.hints.retarget = retarget
        await c.world.sleep(6 * SECOND)
        assert {h["target"] for h in await c.hints(holder)} == {other}
        assert 26 < await age(c, holder) < 28

    play(scene)


def test_the_horizon_grows_while_a_node_is_dead_and_falls_once_another_has_taken_its_place() -> None:
    async def scene(c: ringed.Ringed) -> None:
        living = ("n1", "n2", "n4", "n5", "n6")
        await c.fill(40)
        await c.world.inject(Kill(("n3",)))
        await c.world.sleep(30 * SECOND)
        await c.fill(40)
        assert 30 < await horizon(c, living) < 40
        assert await c.change("n2", "replace", dead="n3", name="n6") == 202
        await c.settled(4, living, *living)
        await c.world.sleep(12 * SECOND)
        assert await horizon(c, living) < 10
        assert [await c.hints(node) for node in living] == [[]] * 5

    ringed.play(scene)


async def horizon(c: Cluster, nodes: tuple[str, ...]) -> float:
    pages = [await c.world.scrape(node) for node in nodes]
    return max(parse(page)["dynamo_consistency_horizon_seconds"] for page in pages if page is not None)


def test_ranges_that_a_node_is_given_again_are_not_as_old_as_when_it_had_them_last() -> None:
    async def scene(c: ringed.Ringed) -> None:
        await c.fill(40)
        members = ("n1", "n2", "n3", "n4", "n5")
        for turn in range(2):
            assert await c.change("n2", "join", name="n6") == 202
            highest = 0.0
            for _ in range(30):
                await c.world.sleep(SECOND // 2)
                highest = max(highest, await horizon(c, (*members, "n6")))
            assert highest < 15, f"join {turn + 1}"
            assert await c.change("n2", "leave", name="n6") == 202
            await c.settled(8 * (turn + 1), members, *members)
            await c.world.sleep(60 * SECOND)

    ringed.play(scene)
