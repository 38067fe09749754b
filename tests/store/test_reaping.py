"""Scenes of tombstones and of values that expire: when a deleted key is forgotten, what stalls that, and what comes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import pytest
import ringed
from cluster import SECOND, Cluster

from harness.sim.world import SimWorld
from nemeses.fault import Kill, PowerLoss, Restart, Skew
from store.config import Bucket, Config
from store.node import Node

NODES = ("n1", "n2", "n3", "n4", "n5")
QUICK: dict[str, Any] = {"reap_after_ms": 1_000, "reap_interval_ms": 500}


def play(scene: Callable[[Cluster], Awaitable[None]], **settings: Any) -> dict[str, str]:
    """Plays a scene on five fresh nodes that reap soon; the nodes' logs."""

    def build(node: str, runtime: Any) -> Node:
        return Node(Config(node=node, peers=dict.fromkeys(NODES, ""), **{**QUICK, **settings}), runtime)

    world = SimWorld(NODES, 1, build)

    async def main() -> None:
        await world.start()
        try:
            await scene(Cluster(world))
        finally:
            await world.stop()

    world.run(main())
    return world.logs()


async def delete(c: Cluster, node: str, key: str) -> None:
    read = await c.ask(node, "GET", f"/kv/b/{key}")
    assert (await c.ask(node, "DELETE", f"/kv/b/{key}", context=read.context)).status == 204


async def holders(c: Cluster, key: str, nodes: Sequence[str] = NODES) -> list[str]:
    """Those of the nodes that know anything of the key: a value, or a tombstone."""
    pages = {node: await c.ask(node, "GET", f"/admin/replica/b/{key}") for node in nodes}
    return [node for node, page in pages.items() if page.status == 200]


async def metric(c: Cluster, node: str, name: str) -> float:
    page = (await c.ask(node, "GET", "/metrics")).body.decode()
    return float(next(line for line in page.splitlines() if line.startswith(f"{name} ")).split()[1])


def test_a_deleted_key_is_forgotten_everywhere_and_a_read_then_gives_no_context() -> None:
    async def scene(c: Cluster) -> None:
        await c.ask("n1", "PUT", "/kv/b/k", b"v")
        await delete(c, "n2", "k")
        homes = await c.homes("k")
        assert await holders(c, "k") == sorted(homes)
        await c.world.sleep(4 * SECOND)
        assert await holders(c, "k") == []
        read = await c.ask("n3", "GET", "/kv/b/k")
        assert read.status == 404
        assert "x-causal-context" not in read.headers
        assert [await metric(c, home, "dynamo_reaped_total") for home in homes] == [1, 1, 1]

    play(scene)


def test_what_was_forgotten_stays_so_after_a_power_loss() -> None:
    async def scene(c: Cluster) -> None:
        await c.ask("n1", "PUT", "/kv/b/k", b"v")
        await delete(c, "n2", "k")
        await c.world.sleep(4 * SECOND)
        await c.world.inject(PowerLoss(NODES))
        await c.world.inject(Restart(NODES))
        assert await holders(c, "k") == []

    play(scene)


def test_one_node_that_is_away_stalls_reaping_even_if_it_is_no_home_of_the_key() -> None:
    async def scene(c: Cluster) -> None:
        homes = await c.homes("k")
        away = next(n for n in NODES if n not in homes)
        await c.ask(homes[0], "PUT", "/kv/b/k", b"v")
        await delete(c, homes[0], "k")
        await c.world.inject(Kill((away,)))
        await c.world.sleep(6 * SECOND)
        assert sorted(await holders(c, "k", homes)) == sorted(homes)
        assert await metric(c, homes[0], "dynamo_reap_stalled_seconds") > 0
        assert await metric(c, homes[0], "dynamo_tombstones") == 1
        await c.world.inject(Restart((away,)))
        await c.world.sleep(6 * SECOND)
        assert await holders(c, "k") == []
        assert await metric(c, homes[0], "dynamo_reap_stalled_seconds") == 0

    play(scene)


def test_a_value_is_hidden_when_its_time_is_over_and_then_buried_and_forgotten() -> None:
    async def scene(c: Cluster) -> None:
        await c.ask("n1", "PUT", "/kv/b/k?ttl_seconds=2", b"v")
        assert (await c.ask("n2", "GET", "/kv/b/k")).values == [b"v"]
        await c.world.sleep(2 * SECOND)
        gone = await c.ask("n3", "GET", "/kv/b/k")
        assert gone.status == 404
        await c.world.sleep(SECOND)
        for home in await c.homes("k"):
            page = await c.ask(home, "GET", "/admin/replica/b/k")
            held = msgspec.json.decode(page.body)
            assert (held["values"], held["tombstones"]) == ([], 1)
        await c.world.sleep(4 * SECOND)
        assert await holders(c, "k") == []

    play(scene)


def test_a_sibling_that_expires_leaves_the_others_alone() -> None:
    async def scene(c: Cluster) -> None:
        home = (await c.homes("k"))[0]
        await c.ask(home, "PUT", "/kv/b/k", b"stays")
        await c.ask(home, "PUT", "/kv/b/k?ttl_seconds=1", b"goes")
        assert (await c.ask("n2", "GET", "/kv/b/k")).values == [b"goes", b"stays"]
        await c.world.sleep(SECOND)
        assert (await c.ask("n2", "GET", "/kv/b/k")).values == [b"stays"]
        await c.world.sleep(3 * SECOND)
        for node in await c.homes("k"):
            assert await c.held(node, "k") == [b"stays"]

    play(scene)


def test_what_has_expired_is_hidden_from_who_asks_for_multipart_too() -> None:
    async def scene(c: Cluster) -> None:
        home = (await c.homes("k"))[0]
        for value, more in ((b"one", ""), (b"two", ""), (b"goes", "?ttl_seconds=1")):
            await c.ask(home, "PUT", f"/kv/b/k{more}", value)
        await c.world.sleep(SECOND)
        body = (await c.ask("n2", "GET", "/kv/b/k", head="Accept: multipart/mixed\r\n")).body
        assert [body.count(value) for value in (b"one", b"two", b"goes")] == [1, 1, 0]

    play(scene, reap_interval_ms=60_000)


def test_an_old_context_after_a_reap_never_makes_a_dot_twice() -> None:
    async def scene(c: Cluster) -> None:
        home, other, _ = await c.homes("k")
        old = (await c.ask(home, "PUT", "/kv/b/k?returnbody=true", b"1")).context
        newer = (await c.ask(home, "PUT", "/kv/b/k?returnbody=true", b"2", context=old)).context
        assert (await c.ask(home, "DELETE", "/kv/b/k", context=newer)).status == 204
        await c.world.sleep(4 * SECOND)
        assert await holders(c, "k") == []
        # The first context brings back the home's actor, which has counted further than it says.
        await c.ask(other, "PUT", "/kv/b/k", b"3", context=old)
        await c.ask(home, "PUT", "/kv/b/k", b"4")
        await c.ask(home, "PUT", "/kv/b/k", b"5", context=newer)
        assert (await c.ask(home, "GET", "/kv/b/k")).values == [b"3", b"4", b"5"]

    play(scene)


def test_in_a_lww_bucket_an_expired_value_never_takes_a_later_write_with_it() -> None:
    async def scene(c: Cluster) -> None:
        await c.ask("n1", "PUT", "/kv/b/k?ttl_seconds=1", b"goes")
        await c.world.sleep(SECOND)
        assert (await c.ask("n2", "GET", "/kv/b/k")).status == 404
        await c.ask("n1", "PUT", "/kv/b/k", b"stays")
        await c.world.sleep(3 * SECOND)
        assert (await c.ask("n2", "GET", "/kv/b/k")).values == [b"stays"]

    play(scene, mode="lww")


def test_nothing_is_reaped_until_a_join_is_over_and_then_the_new_node_is_asked_too() -> None:
    async def scene(c: ringed.Ringed) -> None:
        await c.fill(20)
        assert await c.change("n1", "join", name="n6") == 202
        await c.phase("n1", "joint")
        away = (await c.homes("k1"))[0]
        await c.world.inject(Kill((away,)))  # the change waits for it
        via = "n1" if away != "n1" else "n2"
        await delete(c, via, "k0")
        await c.world.sleep(5 * SECOND)
        known = [n for n in ringed.ALL if n != away]
        assert await holders(c, "k0", known) != []
        await c.world.inject(Restart((away,)))
        await c.settled(4, (*ringed.MEMBERS, "n6"), *ringed.MEMBERS, "n6")
        await c.until(lambda: holders(c, "k0", ringed.ALL), [])
        await c.world.inject(Kill(("n6",)))
        await delete(c, "n1", "k2")
        await c.world.sleep(5 * SECOND)
        assert await holders(c, "k2", ringed.MEMBERS) != []

    ringed.play(scene, **QUICK)


def test_a_bucket_gives_its_values_a_time_to_live_unless_the_request_says_otherwise() -> None:
    async def scene(c: Cluster) -> None:
        await c.ask("n1", "PUT", "/kv/b/short", b"v")
        await c.ask("n1", "PUT", "/kv/b/long?ttl_seconds=9", b"v")
        await c.ask("n1", "PUT", "/kv/b/ever?ttl_seconds=0", b"v")
        await c.ask("n1", "PUT", "/kv/other/ever", b"v")

        async def there() -> list[str]:
            paths = ("/kv/b/short", "/kv/b/long", "/kv/b/ever", "/kv/other/ever")
            return [path for path in paths if (await c.ask("n2", "GET", path)).status == 200]

        await c.world.sleep(SECOND)
        assert await there() == ["/kv/b/long", "/kv/b/ever", "/kv/other/ever"]
        await c.world.sleep(9 * SECOND)
        assert await there() == ["/kv/b/ever", "/kv/other/ever"]

    play(scene, buckets={"b": Bucket(ttl_seconds=1)})


def test_nodes_hide_an_expired_value_as_much_apart_as_their_clocks_are() -> None:
    async def scene(c: Cluster) -> None:
        homes = await c.homes("k")
        ahead = next(n for n in NODES if n not in homes)
        await c.world.inject(Skew({ahead: 60 * SECOND}))
        await c.ask(homes[0], "PUT", "/kv/b/k?ttl_seconds=30", b"v")
        for node in NODES:
            assert (await c.ask(node, "GET", "/kv/b/k")).status == (404 if node == ahead else 200)

    play(scene)


@pytest.mark.parametrize("text", ["x", "-1", "1.5", "100000001", ""])
def test_a_time_to_live_that_is_no_number_of_seconds_is_refused(text: str) -> None:
    async def scene(c: Cluster) -> None:
        for node in NODES:
            assert (await c.ask(node, "PUT", f"/kv/b/k?ttl_seconds={text}", b"v")).status == 400
        assert await holders(c, "k") == []

    play(scene)
