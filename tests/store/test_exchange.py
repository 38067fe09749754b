"""Scenes of anti-entropy alone: no hints, no read repair, so that whatever agrees in the end was made to by exchanges."""

from __future__ import annotations

from typing import Any

import msgspec
from cluster import SECOND, Cluster
from planted import NODES, Nodes, record

from nemeses.fault import HealPartition, Kill, Partition, Pause, PowerLoss, Restart, Resume
from store import versions


def test_what_one_node_alone_holds_reaches_the_others() -> None:
    nodes = Nodes()

    async def scene(c: Cluster) -> None:
        nodes.plant("n1", range(50))
        await c.world.sleep(3 * SECOND)
        assert nodes.agree
        assert len(nodes.held("n3")) == 50

    nodes.play(scene)


def test_newer_records_replace_older_ones_in_both_directions_and_concurrent_ones_become_siblings() -> None:
    nodes = Nodes()

    async def scene(c: Cluster) -> None:
        nodes.plant("n1", range(200))
        await c.world.sleep(3 * SECOND)
        nodes.plant("n1", range(20), b"new", 2)
        nodes.plant("n2", range(10, 30), b"other", 1, 8)
        nodes.plant("n3", range(190, 210), b"newer", 3)
        await c.world.sleep(4 * SECOND)
        assert nodes.agree
        held = nodes.held("n1")
        assert held[b"b/k5"] == record(b"new", 2)
        assert [v.body for v in versions.decode(held[b"b/k15"]).versions] == [b"new", b"other"]
        assert held[b"b/k195"] == record(b"newer", 3)
        assert len(held) == 210

    nodes.play(scene)


def test_a_large_range_is_descended_into_and_only_what_differs_is_sent() -> None:
    nodes = Nodes(token_ranges=1)

    async def scene(c: Cluster) -> None:
        for name in NODES:
            nodes.plant(name, range(5_000))
        await c.world.sleep(3 * SECOND)
        before = {name: nodes[name].anti_entropy.counters.keys_sent for name in NODES}
        assert before == dict.fromkeys(NODES, 0)
        nodes.plant("n1", range(2_500, 2_520), b"new", 2)
        nodes.plant("n2", range(6_000, 6_010))
        await c.world.sleep(4 * SECOND)
        assert nodes.agree
        sent = sum(nodes[name].anti_entropy.counters.keys_sent for name in NODES)
        # Thirty keys to two nodes each; one that two nodes offer at the same time goes twice.
        assert 60 <= sent <= 120

    nodes.play(scene)


def test_an_empty_node_and_a_full_one_meet_in_either_direction() -> None:
    for full, empty in (("n1", "n2"), ("n2", "n1")):
        nodes = Nodes(token_ranges=1, anti_entropy=False)
        nodes.own[full] = {}

        async def scene(c: Cluster, nodes: Nodes = nodes, full: str = full, empty: str = empty) -> None:
            nodes.plant(full, range(20_000))
            assert await nodes.exchange(empty, full)
            assert nodes.held(empty) == nodes.held(full)
            assert await nodes.exchange(full, "n3")
            assert nodes.agree

        nodes.play(scene)


def test_equal_replicas_send_their_roots_and_nothing_else() -> None:
    nodes = Nodes()

    async def scene(c: Cluster) -> None:
        for name in NODES:
            nodes.plant(name, range(1_000))
        await c.world.sleep(2 * SECOND)
        counters = nodes["n1"].anti_entropy.counters
        bytes_before, exchanges_before = counters.bytes_sent, counters.exchanges
        await c.world.sleep(20 * SECOND)
        exchanges = counters.exchanges - exchanges_before
        assert exchanges > 20 * 32
        assert counters.keys_sent == 0
        # A root and its range for each exchange that it began, half an answer for each that a peer began.
        assert (counters.bytes_sent - bytes_before) / exchanges < 12

    nodes.play(scene)


def test_an_exchange_with_a_dead_peer_fails_and_counts_nothing_as_exchanged() -> None:
    nodes = Nodes(anti_entropy=False)

    async def scene(c: Cluster) -> None:
        nodes.plant("n1", range(10))
        await c.world.inject(Kill(("n2",)))
        own = nodes["n1"].anti_entropy
        assert not await nodes.exchange("n1", "n2", 3)
        assert own.exchanged_ns == {}
        await c.world.inject(Restart(("n2",)))
        await c.world.sleep(SECOND)
        began = nodes["n1"].runtime.clock.mono_ns()
        assert await nodes.exchange("n1", "n2", 3)
        assert began <= own.exchanged_ns[3, "n2"] <= nodes["n1"].runtime.clock.mono_ns()

    nodes.play(scene)


def test_what_is_exchanged_is_durable_on_both_sides() -> None:
    nodes = Nodes(anti_entropy=False, token_ranges=1)

    async def scene(c: Cluster) -> None:
        nodes.plant("n1", range(40))
        nodes.plant("n2", range(30, 70))
        assert await nodes.exchange("n1", "n2")
        await c.world.inject(PowerLoss(("n1", "n2")))
        await c.world.inject(Restart(("n1", "n2")))
        await c.world.sleep(SECOND)
        assert len(nodes.held("n1")) == 70
        assert nodes.held("n1") == nodes.held("n2")

    nodes.play(scene)


def test_a_peer_that_dies_pauses_or_is_cut_off_in_mid_exchange_only_delays_it() -> None:
    harms = (
        (Kill(("n2",)), Restart(("n2",))),
        (PowerLoss(("n2",)), Restart(("n2",))),
        (Pause(("n2",)), Resume(("n2",))),
        (Partition("custom", (("n1", "n2"),)), HealPartition()),
        (Partition("custom", (("n2", "n1"),)), HealPartition()),
    )
    for harm, relief in harms:
        for after_ms in (1, 60, 104, 107, 111):
            nodes = Nodes(anti_entropy=False, token_ranges=1)

            async def scene(
                c: Cluster,
                nodes: Nodes = nodes,
                harm: Any = harm,
                relief: Any = relief,
                after_ms: int = after_ms,
            ) -> None:
                nodes.plant("n1", range(2_000))
                nodes.plant("n2", range(1_000, 3_000))
                await c.world.sleep(SECOND)
                first = nodes.exchange("n1", "n2")
                await c.world.sleep(after_ms * 1_000_000)
                await c.world.inject(harm)
                await c.world.sleep(5 * SECOND)
                await c.world.inject(relief)
                await c.world.sleep(SECOND)
                await first
                assert await nodes.exchange("n1", "n2")
                assert nodes.held("n1") == nodes.held("n2")
                assert len(nodes.held("n1")) == 3_000

            nodes.play(scene)


def test_a_peer_that_comes_back_is_compared_with_at_once() -> None:
    nodes = Nodes(anti_entropy_interval_ms=600_000)

    async def scene(c: Cluster) -> None:
        await c.world.sleep(2 * SECOND)
        await c.world.inject(Partition("custom", tuple((n, m) for n in NODES for m in NODES if n != m)))
        await c.world.sleep(5 * SECOND)
        nodes.plant("n1", range(20))
        await c.world.inject(HealPartition())
        await c.world.sleep(4 * SECOND)
        assert nodes.agree

    nodes.play(scene)


def test_the_status_page_tells_the_counters_and_the_lag_of_each_peer() -> None:
    nodes = Nodes()

    async def scene(c: Cluster) -> None:
        nodes.plant("n1", range(20))
        await c.world.sleep(5 * SECOND)
        await c.world.inject(Kill(("n3",)))
        await c.world.sleep(10 * SECOND)
        page = msgspec.json.decode((await c.ask("n1", "GET", "/admin/anti-entropy")).body)
        assert page["keys_sent"] > 0
        assert page["lag_seconds"]["n2"] < 2
        assert page["lag_seconds"]["n3"] > 9

    nodes.play(scene)
