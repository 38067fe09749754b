"""Each metric against what really happened: what nodes answered, sent, appended and hold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from cluster import SECOND, Cluster

from harness.samples import parse
from harness.sim.world import SimWorld
from nemeses.fault import HealPartition, Kill, Partition, Pause, Restart, Resume
from store import messages, versions
from store.config import Config
from store.coordinator import Unsatisfied
from store.exchange import SLICE
from store.log import Entry
from store.messages import (
    Compare,
    CompareDone,
    Entries,
    EntriesDone,
    More,
    Repair,
    RepairDone,
    Roots,
    RootsDone,
)
from store.node import Node
from store.runtime import Future

NODES = ("n1", "n2", "n3", "n4", "n5")
EXCHANGE = (Roots, RootsDone, Compare, CompareDone, Entries, EntriesDone, More, Repair, RepairDone)


class Overheard:
    """A runtime whose network counts what its node sends and receives."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self.net = self
        self.exchange_bytes = 0
        self.sent: Counter[str] = Counter()
        self.received: Counter[str] = Counter()

    def send(self, dst: str, frame: bytes) -> None:
        message = messages.decode(frame)
        self.sent[type(message).__name__] += 1
        if isinstance(message, EXCHANGE):
            self.exchange_bytes += len(frame)
        self._runtime.net.send(dst, frame)

    def on_message(self, handler: Callable[[str, bytes], None]) -> None:
        def heard(src: str, frame: bytes) -> None:
            message = messages.decode(frame)
            hint = isinstance(message, messages.Write) and message.hint_for
            self.received["Hint" if hint else type(message).__name__] += 1
            handler(src, frame)

        self._runtime.net.on_message(heard)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)


class Witness(Node):
    """A node that writes down what it does, by other means than its metrics."""

    def __init__(self, config: Config, runtime: Any) -> None:
        self.overheard = Overheard(runtime)
        super().__init__(config, self.overheard)  # pyright: ignore[reportArgumentType]
        self.answered: list[tuple[str, int, int]] = []
        """(op, status, how long it took) of requests that came from clients."""
        self.unsatisfied: Counter[tuple[str, str]] = Counter()
        self.appended: list[Future] = []
        self.payloads: list[bytes] = []
        self._watch_log()
        self._watch_coordinator()

    def _watch_log(self) -> None:
        append = self.log.append

        def watched(payload: bytes, entry: Entry | None = None) -> Future:
            future = append(payload, entry)
            self.appended.append(future)
            self.payloads.append(payload)
            return future

        self.log.append = watched

    def _watch_coordinator(self) -> None:
        for op in ("get", "put"):
            asked: Callable[..., Awaitable[Any]] = getattr(self.coordinator, op)

            async def watched(
                *args: Any, op: str = op, asked: Callable[..., Awaitable[Any]] = asked, **more: Any
            ) -> Any:
                try:
                    return await asked(*args, **more)
                except Unsatisfied as problem:
                    self.unsatisfied[op, problem.reason] += 1
                    raise

            setattr(self.coordinator, op, watched)

    async def http(self, request: bytes) -> bytes:
        began = self.runtime.clock.mono_ns()
        response = await super().http(request)
        method, path = request.split(b" ", 2)[:2]
        status = int(response[9:12])
        if path.startswith(b"/kv/") and (status < 405 or status == 503):
            lasted = self.runtime.clock.mono_ns() - began
            self.answered.append(
                ({b"GET": "get", b"PUT": "put", b"DELETE": "delete"}[method], status, lasted)
            )
        return response


class Scene(Cluster):
    def __init__(self, world: SimWorld, nodes: dict[str, Witness]) -> None:
        super().__init__(world)
        self.nodes = nodes

    async def shown(self, node: str) -> dict[str, float]:
        page = await self.world.scrape(node)
        assert page is not None
        return parse(page)

    async def summed(self, metric: str) -> float:
        """Over all nodes, and all of its series."""
        pages = [await self.shown(node) for node in NODES]
        return sum(
            value for page in pages for series, value in page.items() if series.partition("{")[0] == metric
        )


def play(scene: Callable[[Scene], Awaitable[None]], **settings: Any) -> None:
    nodes: dict[str, Witness] = {}

    def build(node: str, runtime: Any) -> Node:
        nodes[node] = Witness(Config(node=node, peers=dict.fromkeys(NODES, ""), **settings), runtime)
        return nodes[node]

    world = SimWorld(NODES, 3, build)

    async def main() -> None:
        await world.start()
        try:
            await scene(Scene(world, nodes))
        finally:
            await world.stop()

    world.run(main())


async def trouble(c: Scene) -> None:
    """Writes and reads through every node, some while two nodes are paused and others are cut off."""
    for turn in range(120):
        if turn == 30:
            await c.world.inject(Pause(("n1", "n2")))
        if turn == 60:
            await c.world.inject(Resume(("n1", "n2")))
            cut = tuple((a, b) for a in ("n3", "n4") for b in NODES if b not in ("n3", "n4"))
            await c.world.inject(Partition("drop", (*cut, *((b, a) for a, b in cut))))
        if turn == 90:
            await c.world.inject(HealPartition())
        node = NODES[turn % 5] if not 30 <= turn < 60 else NODES[2 + turn % 3]
        key = f"k{turn * 7 % 11}"
        read = await c.ask(node, "GET", f"/kv/b/{key}?r=3&timeout_ms=700")
        context = read.headers.get("x-causal-context", "") if turn % 3 else ""
        await c.ask(node, "PUT", f"/kv/b/{key}?w=3&pw=2&timeout_ms=700", b"%d" % turn, context=context)
        if context and turn % 20 == 1:
            await c.ask(node, "DELETE", f"/kv/b/{key}", context=context)
    await c.world.sleep(12 * SECOND)


def test_requests_failures_latencies_appends_and_exchanged_bytes_are_what_really_happened() -> None:
    async def scene(c: Scene) -> None:
        await trouble(c)
        failures = hints = 0
        for name, node in c.nodes.items():
            shown = await c.shown(name)
            for op in ("get", "put", "delete"):
                durations = sorted(lasted for kind, _, lasted in node.answered if kind == op)
                assert shown[f'dynamo_request_seconds_count{{op="{op}"}}'] == len(durations)
                assert shown[f'dynamo_request_seconds_sum{{op="{op}"}}'] == pytest.approx(
                    sum(durations) / 1e9
                )
                if durations:
                    p99 = durations[min(int(0.99 * len(durations)), len(durations) - 1)] / 1e9
                    assert shown[f'dynamo_request_seconds{{op="{op}",quantile="0.99"}}'] == p99
            counted = {
                (m[1], m[2]): int(value)
                for series, value in shown.items()
                if (m := re.fullmatch(r'dynamo_quorum_failures_total\{op="(\w+)",reason="(\w+)"\}', series))
                and value
            }
            assert counted == dict(node.unsatisfied)
            failures += sum(counted.values())
            durable = sum(f.done() and f.exception() is None for f in node.appended)
            assert shown["dynamo_fsync_records_total"] == durable
            assert shown["dynamo_anti_entropy_exchange_bytes_total"] == node.overheard.exchange_bytes > 0
            assert shown["dynamo_keys"] == len(dict(node.replica.items()))
            heard = node.overheard.received
            assert shown["dynamo_replica_reads_total"] == heard["Read"] > 0
            assert shown["dynamo_replica_writes_total"] == heard["Write"] > 0
            assert shown["dynamo_forwards_total"] == node.overheard.sent["Forward"]
            assert (shown["dynamo_peers"], shown["dynamo_peers_up"]) == (4, 4)
            assert shown["dynamo_uptime_seconds"] == pytest.approx(c.world.now_ns() / 1e9, abs=0.2)
            disk = node.runtime.disk
            logs = [file for file in disk.names() if file.startswith("log-")]
            assert shown["dynamo_log_bytes"] == sum(map(disk.size, logs)) > 1_000
            stored = sum(p[:1] == b"H" for p in node.payloads)
            assert shown["dynamo_hints_stored_total"] == stored
            hints += stored
        assert failures > 5
        assert hints > 5
        # Two nodes were paused, and two cut off from three: each was missed by somebody.
        assert await c.summed("dynamo_suspicions_total") > 4
        assert {op for node in c.nodes.values() for op, _, _ in node.answered} == {"get", "put", "delete"}

    play(scene)


def test_pending_hints_are_those_on_the_holders_disk_and_all_that_were_stored_are_delivered() -> None:
    async def scene(c: Scene) -> None:
        dead = (await c.homes("k0"))[0]
        await c.world.inject(Kill((dead,)))
        alive = [node for node in NODES if node != dead]
        await c.world.sleep(4 * SECOND)  # until it is missed by all
        for turn in range(40):
            assert (await c.ask(alive[turn % 4], "PUT", f"/kv/b/k{turn}", b"v")).status == 204
        await c.world.sleep(2 * SECOND)
        series = f'dynamo_hinted_handoff_pending{{target="{dead}"}}'
        before = {node: (await c.shown(node)).get(series, 0) for node in alive}
        # Their next lives know nothing but what is on the disks.
        await c.world.inject(Kill(tuple(alive)))
        await c.world.inject(Restart(tuple(alive)))
        assert {node: (await c.shown(node)).get(series, 0) for node in alive} == before
        assert sum(before.values()) > 10
        await c.world.inject(Restart((dead,)))
        await c.world.sleep(10 * SECOND)
        assert await c.summed("dynamo_hinted_handoff_pending") == 0
        assert await c.summed("dynamo_hints_delivered_total") == sum(before.values())

    play(scene)


def test_a_read_repair_is_counted_for_each_replica_that_a_read_brought_up_to_date() -> None:
    async def scene(c: Scene) -> None:
        first, second, third = await c.homes("k")
        await c.world.inject(Kill((second, third)))
        await c.ask(first, "PUT", "/kv/b/k?w=1", b"v")
        await c.world.inject(Restart((second, third)))
        await c.world.sleep(3 * SECOND)
        assert (await c.held(second, "k"), await c.held(third, "k")) == ([], [])
        assert await c.summed("dynamo_read_repairs_total") == 0
        assert (await c.ask(first, "GET", "/kv/b/k?r=3")).body == b"v"
        assert (await c.held(second, "k"), await c.held(third, "k")) == ([b"v"], [b"v"])
        assert await c.summed("dynamo_read_repairs_total") == 2

    play(scene, sloppy=False, anti_entropy=False)


def test_siblings_are_the_most_that_a_key_was_returned_with_of_late() -> None:
    async def scene(c: Scene) -> None:
        home = (await c.homes("k"))[0]
        for value in (b"a", b"b", b"c"):
            await c.ask(home, "PUT", "/kv/b/k", value)
        read = await c.ask(home, "GET", "/kv/b/k")
        assert len(read.values) == 3
        assert (await c.shown(home))["dynamo_siblings"] == 3
        await c.ask(home, "PUT", "/kv/b/k", b"d", context=read.context)
        await c.world.sleep(25 * SECOND)
        await c.ask(home, "GET", "/kv/b/k")
        assert (await c.shown(home))["dynamo_siblings"] == 1

    play(scene)


def test_the_lag_of_a_peer_grows_while_it_is_cut_off_and_of_nobody_else() -> None:
    async def scene(c: Scene) -> None:
        await c.world.sleep(10 * SECOND)
        await c.world.inject(Partition("drop", (("n1", "n2"), ("n2", "n1"))))
        await c.world.sleep(30 * SECOND)
        shown = await c.shown("n1")
        lags = {peer: shown[f'dynamo_anti_entropy_lag_seconds{{peer="{peer}"}}'] for peer in NODES[1:]}
        assert 30 < lags.pop("n2") < 36
        assert all(lag < 10 for lag in lags.values())
        assert 30 < shown["dynamo_consistency_horizon_seconds"] < 36
        assert (await c.shown("n3"))["dynamo_consistency_horizon_seconds"] < 10
        await c.world.inject(HealPartition())
        await c.world.sleep(10 * SECOND)
        assert (await c.shown("n1"))["dynamo_consistency_horizon_seconds"] < 10

    play(scene)


def test_a_page_of_a_node_among_five_has_about_fifty_series() -> None:
    async def scene(c: Scene) -> None:
        await trouble(c)
        assert len(await c.shown("n1")) in range(45, 61)

    play(scene)


def test_damaged_records_on_the_disk_are_counted_at_the_next_start() -> None:
    async def scene(c: Scene) -> None:
        home = (await c.homes("k"))[0]
        for turn in range(60):
            await c.ask(home, "PUT", f"/kv/b/k{turn}", b"%d" % turn)
        await c.world.sleep(15 * SECOND)
        assert (await c.shown(home))["dynamo_bad_records_total"] == 0
        await c.world.inject(Kill((home,)))
        assert c.world._seats[home].machine.platter.rot(3, unreadable=False)
        await c.world.inject(Restart((home,)))
        assert (await c.shown(home))["dynamo_bad_records_total"] in (1, 2, 3)
        assert sum([(await c.shown(node))["dynamo_bad_records_total"] for node in NODES if node != home]) == 0

    play(scene)


def test_building_a_large_tree_takes_the_time_of_its_rests() -> None:
    async def scene(c: Scene) -> None:
        node = c.nodes["n1"]
        token_range = node.ring.range_of(b"b/k0")
        keys = [b"b/k%d" % i for i in range(400_000)]
        mine = [key for key in keys if node.ring.range_of(key) == token_range][: 2 * SLICE + 1]
        record = versions.encode(versions.put(versions.EMPTY, (), 1 << 40, 1, b"v"))
        for key in mine:
            node.replica.join(key, record)
        await c.world.sleep(SECOND)
        await c.world.inject(Kill(("n1",)))
        await c.world.inject(Restart(("n1",)))
        await c.world.sleep(2 * SECOND)
        assert (await c.shown("n1"))["dynamo_merkle_tree_build_seconds"] >= 0.002

    play(scene, anti_entropy=False)


def test_status_has_the_names_that_the_literature_uses_and_the_values_of_the_page() -> None:
    async def scene(c: Scene) -> None:
        homes = await c.homes("k")
        await c.world.inject(Kill(tuple(homes[1:])))
        for turn in range(8):
            reply = await c.ask(homes[0], "PUT", "/kv/b/k?pw=2&timeout_ms=300", b"%d" % turn)
            assert reply.status == 503
        status: Any = msgspec.json.decode((await c.ask(homes[0], "GET", "/status")).body)
        shown = await c.shown(homes[0])
        seconds = c.world.now_ns() / 1e9  # the window reaches back to the node's start
        assert status["quorum_failures_per_sec"] == pytest.approx(8 / seconds, rel=0.05)
        pending = [value for series, value in shown.items() if "hinted_handoff_pending" in series]
        assert status["hinted_handoff_pending"] == sum(pending)
        assert status["consistency_horizon_seconds"] == pytest.approx(
            shown["dynamo_consistency_horizon_seconds"], abs=0.01
        )
        lags = [value for series, value in shown.items() if series.startswith("dynamo_anti_entropy_lag")]
        assert status["anti_entropy_lag_seconds"] == pytest.approx(max(lags), abs=0.01)
        assert status["merkle_tree_build_latency_ms"] == 1_000 * shown["dynamo_merkle_tree_build_seconds"]
        assert status["read_repairs"] == shown["dynamo_read_repairs_total"]
        assert status["counts"]["replica_writes"] == shown["dynamo_replica_writes_total"]
        await c.world.sleep(25 * SECOND)
        status = msgspec.json.decode((await c.ask(homes[0], "GET", "/status")).body)
        assert status["quorum_failures_per_sec"] == 0

    play(scene)
