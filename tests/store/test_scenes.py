"""Scenes of a small cluster in the simulator: quorums, hints, repair, and what a client is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from cluster import SECOND, Cluster

from harness.sim.world import SimWorld
from nemeses import partition
from nemeses.fault import HealPartition, Kill, Partition, Pause, PowerLoss, Restart, Resume, Skew
from store.config import Config
from store.node import Node

NODES = ("n1", "n2", "n3", "n4", "n5")


def play(scene: Callable[[Cluster], Awaitable[None]], **settings: Any) -> dict[str, str]:
    """Plays a scene on five fresh nodes; the nodes' logs."""

    def build(node: str, runtime: Any) -> Node:
        return Node(Config(node=node, peers=dict.fromkeys(NODES, ""), **settings), runtime)

    world = SimWorld(NODES, 1, build)

    async def main() -> None:
        await world.start()
        try:
            await scene(Cluster(world))
        finally:
            await world.stop()

    world.run(main())
    return world.logs()


def test_a_value_is_read_back_through_any_node() -> None:
    async def scene(c: Cluster) -> None:
        assert (await c.ask("n1", "PUT", "/kv/b/k", b"v")).status == 204
        for node in NODES:
            assert (await c.ask(node, "GET", "/kv/b/k")).body == b"v"
        assert (await c.ask("n1", "GET", "/kv/b/other")).status == 404

    play(scene)


def test_blind_writes_become_siblings_and_a_write_with_the_context_replaces_them() -> None:
    async def scene(c: Cluster) -> None:
        await c.ask("n1", "PUT", "/kv/b/k", b"one")
        await c.ask("n2", "PUT", "/kv/b/k", b"two")
        both = await c.ask("n3", "GET", "/kv/b/k")
        assert (both.status, both.values) == (300, [b"one", b"two"])
        await c.ask("n4", "PUT", "/kv/b/k", b"three", context=both.context)
        assert (await c.ask("n5", "GET", "/kv/b/k")).values == [b"three"]

    play(scene)


def test_siblings_come_as_multipart_to_those_who_ask_for_it() -> None:
    async def scene(c: Cluster) -> None:
        await c.ask("n1", "PUT", "/kv/b/k", b"one")
        await c.ask("n2", "PUT", "/kv/b/k", b"two")
        reply = await c.ask("n3", "GET", "/kv/b/k", head="Accept: multipart/mixed\r\n")
        boundary = reply.headers["content-type"].partition("boundary=")[2].encode()
        parts = [p.partition(b"\r\n\r\n")[2].strip() for p in reply.body.split(b"--" + boundary)[1:-1]]
        assert sorted(parts) == [b"one", b"two"]

    play(scene)


def test_a_delete_leaves_a_tombstone_whose_context_lets_the_next_write_replace_it() -> None:
    async def scene(c: Cluster) -> None:
        await c.ask("n1", "PUT", "/kv/b/k", b"v")
        assert (await c.ask("n1", "DELETE", "/kv/b/k")).status == 428
        read = await c.ask("n1", "GET", "/kv/b/k")
        assert (await c.ask("n1", "DELETE", "/kv/b/k", context=read.context)).status == 204
        gone = await c.ask("n2", "GET", "/kv/b/k")
        assert gone.status == 404
        await c.ask("n3", "PUT", "/kv/b/k", b"again", context=gone.context)
        assert (await c.ask("n4", "GET", "/kv/b/k")).values == [b"again"]

    play(scene)


def test_a_write_during_the_death_of_a_home_replica_is_hinted_and_handed_off() -> None:
    async def scene(c: Cluster) -> None:
        dead, *alive = await c.homes("k")
        await c.world.inject(Kill((dead,)))
        assert (await c.ask(alive[0], "PUT", "/kv/b/k", b"v")).status == 204
        await c.world.sleep(2 * SECOND)
        fallbacks = [n for n in NODES if n not in (dead, *alive)]
        hints = [h for n in fallbacks for h in await c.hints(n)]
        assert [(h["target"], h["key"]) for h in hints] == [(dead, "b/k")]
        await c.world.inject(Restart((dead,)))
        await c.world.sleep(6 * SECOND)
        assert await c.held(dead, "k") == [b"v"]
        assert [h for n in NODES for h in await c.hints(n)] == []

    play(scene)


def test_a_hint_survives_the_power_loss_of_its_holder() -> None:
    async def scene(c: Cluster) -> None:
        dead, *alive = await c.homes("k")
        await c.world.inject(Kill((dead,)))
        await c.ask(alive[0], "PUT", "/kv/b/k", b"v")
        await c.world.sleep(2 * SECOND)
        fallbacks = tuple(n for n in NODES if n not in (dead, *alive))
        await c.world.inject(PowerLoss(fallbacks))
        await c.world.inject(Restart((*fallbacks, dead)))
        await c.world.sleep(8 * SECOND)
        assert await c.held(dead, "k") == [b"v"]

    play(scene)


def test_without_fallbacks_the_coordinator_keeps_the_hint_itself_but_does_not_count_it() -> None:
    async def scene(c: Cluster) -> None:
        first, second, third = await c.homes("k")
        others = tuple(n for n in NODES if n not in (first, second, third))
        await c.world.inject(Kill((second, third, *others)))
        reply = await c.ask(first, "PUT", "/kv/b/k", b"v")
        assert reply.status == 503
        assert msgspec.json.decode(reply.body)["got"] == 1
        await c.world.sleep(2 * SECOND)
        assert sorted(h["target"] for h in await c.hints(first)) == sorted([second, third])

    play(scene)


def test_with_all_home_replicas_cut_off_a_fallback_coordinates() -> None:
    async def scene(c: Cluster) -> None:
        homes = await c.homes("k")
        fallbacks = [n for n in NODES if n not in homes]
        await c.world.inject(Partition("custom", tuple(sorted(partition.between(homes, fallbacks)))))
        await c.world.sleep(4 * SECOND)
        assert (await c.ask(fallbacks[0], "PUT", "/kv/b/k", b"far")).status == 204
        assert (await c.ask(homes[0], "PUT", "/kv/b/k", b"near")).status == 204
        # The seed's page calls W=2, R=2, N=3 always consistent. Under a sloppy quorum each side sees its own write only.
        assert (await c.ask(fallbacks[1], "GET", "/kv/b/k")).values == [b"far"]
        assert (await c.ask(homes[1], "GET", "/kv/b/k")).values == [b"near"]
        await c.world.inject(HealPartition())
        await c.world.sleep(8 * SECOND)
        for home in homes:
            assert await c.held(home, "k") == [b"far", b"near"]

    play(scene)


def test_a_fallback_that_coordinates_makes_every_dot_under_a_new_actor() -> None:
    async def scene(c: Cluster) -> None:
        homes = await c.homes("k")
        fallbacks = [n for n in NODES if n not in homes]
        await c.world.inject(Partition("custom", tuple(sorted(partition.between(homes, fallbacks)))))
        await c.world.sleep(4 * SECOND)
        for i in range(3):
            assert (await c.ask(fallbacks[0], "PUT", "/kv/b/k", b"%d" % i)).status == 204
        held = msgspec.json.decode((await c.ask(fallbacks[0], "GET", "/admin/replica/b/k")).body)
        # Its hints may be handed off one by one, in any order, and take what it knows of the key with them.
        assert [counter for _, counter in held["clock"]] == [1, 1, 1]

    play(scene)


def test_a_strict_quorum_refuses_what_a_sloppy_one_takes() -> None:
    async def scene(c: Cluster) -> None:
        homes = await c.homes("k")
        await c.world.inject(Kill((homes[0], homes[1])))
        await c.world.sleep(4 * SECOND)
        reply = await c.ask(homes[2], "PUT", "/kv/b/k", b"v")
        assert reply.status == 503
        assert msgspec.json.decode(reply.body)["needed"] == 2

    play(scene, sloppy=False)


def test_primaries_that_are_down_are_not_counted_though_fallbacks_answer() -> None:
    async def scene(c: Cluster) -> None:
        homes = await c.homes("k")
        await c.world.inject(Pause((homes[0], homes[1])))
        assert (await c.ask(homes[2], "PUT", "/kv/b/k?pw=2", b"v")).status == 503
        assert (await c.ask(homes[2], "PUT", "/kv/b/k", b"w")).status == 204
        assert (await c.ask(homes[2], "GET", "/kv/b/k?pr=2")).status == 503

    play(scene)


def test_a_read_brings_a_replica_that_is_behind_up_to_date_before_it_answers() -> None:
    async def scene(c: Cluster) -> None:
        homes = await c.homes("k")
        await c.world.inject(Kill((homes[0],)))
        await c.ask(homes[1], "PUT", "/kv/b/k", b"v")
        await c.world.inject(Restart((homes[0],)))
        await c.world.sleep(3 * SECOND)
        assert await c.held(homes[0], "k") == []
        assert (await c.ask(homes[1], "GET", "/kv/b/k?r=3&pr=3")).values == [b"v"]
        assert await c.held(homes[0], "k") == [b"v"]

    play(scene, hinted_handoff=False, anti_entropy=False)


def test_a_paused_coordinator_leaves_the_client_in_doubt_and_finishes_when_it_goes_on() -> None:
    async def scene(c: Cluster) -> None:
        homes = await c.homes("k")
        outsider = next(n for n in NODES if n not in homes)
        await c.world.inject(Pause((homes[0],)))
        reply = await c.ask(outsider, "PUT", "/kv/b/k", b"v")
        assert reply.status == 503
        await c.world.inject(Resume((homes[0],)))
        await c.world.sleep(3 * SECOND)
        assert (await c.ask(outsider, "GET", "/kv/b/k")).values == [b"v"]

    play(scene)


def test_an_acknowledged_write_survives_the_power_loss_of_every_node() -> None:
    async def scene(c: Cluster) -> None:
        for i in range(20):
            assert (await c.ask("n1", "PUT", f"/kv/b/k{i}", b"v")).status == 204
        await c.world.inject(PowerLoss(NODES))
        await c.world.inject(Restart(NODES))
        for i in range(20):
            assert (await c.ask("n2", "GET", f"/kv/b/k{i}")).values == [b"v"]

    play(scene)


def test_a_restarted_node_never_makes_a_dot_twice() -> None:
    async def scene(c: Cluster) -> None:
        home = (await c.homes("k"))[0]
        clocks: set[tuple[str, int]] = set()
        for i in range(3):
            await c.ask(home, "PUT", "/kv/b/k", b"%d" % i)
            await c.world.inject(PowerLoss((home,)))
            await c.world.inject(Restart((home,)))
            await c.world.sleep(SECOND)
        reply = await c.ask(home, "GET", "/admin/replica/b/k")
        clocks = {(actor, counter) for actor, counter in msgspec.json.decode(reply.body)["clock"]}
        assert len(clocks) == 3
        assert (await c.ask("n1", "GET", "/kv/b/k?r=3")).values == [b"0", b"1", b"2"]

    play(scene)


def test_in_a_lww_bucket_the_newest_timestamp_wins_even_if_its_clock_is_wrong() -> None:
    async def scene(c: Cluster) -> None:
        homes = await c.homes("k")
        await c.world.inject(Skew({homes[0]: 60 * SECOND}))
        others = [n for n in NODES if n != homes[0]]
        await c.world.inject(Partition("custom", tuple(sorted(partition.between(homes[:1], others)))))
        await c.ask(homes[0], "PUT", "/kv/b/k?w=1", b"ahead")
        await c.ask(homes[1], "PUT", "/kv/b/k?w=1", b"later")
        await c.world.inject(HealPartition())
        await c.world.sleep(8 * SECOND)
        assert (await c.ask(homes[1], "GET", "/kv/b/k?r=3")).values == [b"ahead"]

    play(scene, mode="lww")


@pytest.mark.parametrize(
    ("method", "path", "context", "status"),
    [
        ("PUT", "/kv/b/k", "garbage", 400),
        ("PUT", "/kv/b/k", "AAAA", 400),
        ("PUT", "/kv/b/k?w=9", "", 400),
        ("PUT", "/kv/b/k?w=x", "", 400),
        ("GET", "/kv/b/k?r=0", "", 400),
        ("GET", "/kv/b", "", 400),
        ("PATCH", "/kv/b/k", "", 405),
        ("GET", "/nowhere", "", 404),
        ("GET", "/admin/replica/b/none", "", 404),
        ("POST", "/status", "", 405),
    ],
)
def test_a_bad_request_is_refused_with_a_reason_and_the_node_lives_on(
    method: str, path: str, context: str, status: int
) -> None:
    async def scene(c: Cluster) -> None:
        reply = await c.ask("n1", method, path, context=context)
        assert reply.status == status
        assert msgspec.json.decode(reply.body)["error"]
        assert (await c.ask("n1", "GET", "/ping")).status == 200

    play(scene)


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("PUT", "/kv/ca%2Frt/x", 400, "a bucket's name has no slash"),
        ("GET", f"/kv/b/{'k' * 1_025}", 400, "at most 1024 bytes"),
        ("POST", "/admin/join", 400, "the body is empty; send JSON"),
        ("GET", "/admin/join", 405, "only POST to /admin/join"),
    ],
)
def test_a_refusal_names_its_cause(method: str, path: str, status: int, sentence: str) -> None:
    async def scene(c: Cluster) -> None:
        reply = await c.ask("n1", method, path)
        assert reply.status == status
        assert sentence in msgspec.json.decode(reply.body)["error"]

    play(scene)


def test_a_value_that_has_expired_is_called_so_and_a_deleted_one_deleted() -> None:
    async def scene(c: Cluster) -> None:
        await c.ask("n1", "PUT", "/kv/b/short?ttl_seconds=1", b"x")
        await c.ask("n1", "PUT", "/kv/b/gone", b"x")
        context = (await c.ask("n1", "GET", "/kv/b/gone")).context
        await c.ask("n1", "DELETE", "/kv/b/gone", context=context)
        assert b'"deleted or expired"' in (await c.ask("n1", "GET", "/kv/b/gone")).body
        await c.world.sleep(SECOND + SECOND // 100)
        assert b'"expired"' in (await c.ask("n1", "GET", "/kv/b/short")).body
        assert b'"no such key"' in (await c.ask("n1", "GET", "/kv/b/none")).body

    play(scene)


def test_status_counts_what_the_log_counts_before_anybody_has_asked_for_metrics() -> None:
    async def scene(c: Cluster) -> None:
        await c.ask("n1", "PUT", "/kv/b/k", b"x" * 1_000)
        home = (await c.homes("k"))[0]
        status = msgspec.json.decode((await c.ask(home, "GET", "/status")).body)
        assert status["counts"]["log_bytes"] == status["log_bytes"] > 1_000
        assert 0 < status["counts"]["fsyncs"] <= status["counts"]["fsync_records"]

    play(scene)


@pytest.mark.parametrize(
    ("method", "query", "sentence"),
    [
        ("PUT", "ttl=1", "a PUT has no parameter 'ttl'; the nearest known one is ttl_seconds"),
        ("PUT", "r=2", "a PUT has no parameter 'r'; the known ones are pw, returnbody"),
        ("GET", "timeout=5", "a GET has no parameter 'timeout'; the nearest known one is timeout_ms"),
        ("GET", "r=1&ttl_seconds=1", "a GET has no parameter 'ttl_seconds'; "),
        ("PUT", "returnbody=yes", "returnbody must be true or false"),
    ],
)
def test_a_parameter_that_there_is_not_is_refused_and_nothing_is_written(
    method: str, query: str, sentence: str
) -> None:
    async def scene(c: Cluster) -> None:
        reply = await c.ask("n1", method, f"/kv/b/k?{query}", b"x")
        assert reply.status == 400
        assert sentence in msgspec.json.decode(reply.body)["error"]
        assert (await c.ask("n1", "GET", "/kv/b/k?r=2&timeout_ms=500")).status == 404

    play(scene)


def test_in_a_lww_bucket_a_context_is_ignored_whatever_it_says() -> None:
    async def scene(c: Cluster) -> None:
        assert (await c.ask("n1", "PUT", "/kv/b/k", b"x", context="garbage")).status == 204
        assert (await c.ask("n2", "GET", "/kv/b/k")).body == b"x"

    play(scene, mode="lww")


def test_bytes_that_are_no_http_are_refused_and_the_node_lives_on() -> None:
    async def scene(c: Cluster) -> None:
        for garbage in (
            b"\x00\xff\x00",
            b"GET / HTTP/9.9\r\n\r\n",
            b"PUT /kv/b/k HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        ):
            raw = await c.world.transport("n1", client="scene").request(garbage, SECOND)
            assert raw.startswith(b"HTTP/1.1 400 ")
        assert (await c.ask("n1", "GET", "/ping")).status == 200

    play(scene)


def test_a_value_too_large_and_a_key_with_too_many_siblings_are_refused() -> None:
    async def scene(c: Cluster) -> None:
        assert (await c.ask("n1", "PUT", "/kv/b/k", bytes(101))).status == 413
        home = (await c.homes("k"))[0]
        for i in range(4):
            assert (await c.ask(home, "PUT", "/kv/b/k", b"%d" % i)).status == 204
        assert (await c.ask(home, "PUT", "/kv/b/k", b"more")).status == 409
        read = await c.ask(home, "GET", "/kv/b/k")
        assert len(read.values) == 4
        assert (await c.ask(home, "PUT", "/kv/b/k", b"one", context=read.context)).status == 204
        assert (await c.ask(home, "GET", "/kv/b/k")).values == [b"one"]

    play(scene, value_bytes_max=100, siblings_max=4, siblings_warn=3)


def test_a_clock_that_lost_entries_says_so_to_clients() -> None:
    async def scene(c: Cluster) -> None:
        home = (await c.homes("k"))[0]
        context = ""
        for i in range(3):
            reply = await c.ask(home, "PUT", "/kv/b/k?returnbody=true", b"%d" % i, context=context)
            context = reply.context
            await c.world.inject(Kill((home,)))
            await c.world.inject(Restart((home,)))
        reply = await c.ask(home, "GET", "/kv/b/k")
        assert reply.headers.get("x-clock-truncated") == "true"
        assert reply.values == [b"2"]

    play(scene, clock_entries_max=2)


def test_status_and_metrics_tell_of_pending_hints() -> None:
    async def scene(c: Cluster) -> None:
        dead, *alive = await c.homes("k")
        await c.world.inject(Kill((dead,)))
        await c.ask(alive[0], "PUT", "/kv/b/k", b"v")
        await c.world.sleep(2 * SECOND)
        pages = [(await c.ask(n, "GET", "/metrics")).body.decode() for n in NODES if n != dead]
        assert sum(f'dynamo_hinted_handoff_pending{{target="{dead}"}} 1' in page for page in pages) == 1
        status = [msgspec.json.decode((await c.ask(n, "GET", "/status")).body) for n in NODES if n != dead]
        assert sum(s["hinted_handoff_pending"] for s in status) == 1
        assert any(not s["peers"][dead]["up"] for s in status)

    play(scene)
