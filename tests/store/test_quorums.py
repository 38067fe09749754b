"""Scenes about counting: whose answers count, what R promises after a repair, and until when a client waits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from cluster import SECOND, Cluster

from harness.sim.world import SimWorld
from nemeses.fault import Kill, Partition, Pause, Restart, Resume
from store import messages, versions
from store.__main__ import mistakes
from store.api import Request
from store.config import Bucket, Config
from store.forwarding import REMEMBERED_BYTES_MAX, REMEMBERED_NS, Answers
from store.messages import Forward, ReadDone, WriteDone
from store.node import Node
from store.quorum import Calls
from store.runtime import DiskError
from store.versions import Record

NODES = ("n1", "n2", "n3", "n4", "n5")


class Muffled:
    """A runtime whose network drops some of what its node sends."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self.net = self
        self.drops: Callable[[str, messages.Message], bool] = lambda _dst, _message: False

    def send(self, dst: str, frame: bytes) -> None:
        if not self.drops(dst, messages.decode(frame)):
            self._runtime.net.send(dst, frame)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime.net if name == "on_message" else self._runtime, name)


class Scene(Cluster):
    """A cluster whose nodes can be reached into."""

    world: SimWorld

    def __init__(self, world: SimWorld, nodes: dict[str, Node]) -> None:
        super().__init__(world)
        self.nodes = nodes

    def mute(self, node: str, drops: Callable[[str, messages.Message], bool]) -> None:
        runtime: Any = self.nodes[node].runtime
        runtime.drops = drops


def ignored(_src: str, _answer: Any) -> None:
    """A listener that is not interested."""


def play(scene: Callable[[Scene], Awaitable[None]], **settings: Any) -> dict[str, str]:
    """Plays a scene on five fresh nodes; the nodes' logs."""
    nodes: dict[str, Node] = {}

    def build(node: str, runtime: Any) -> Node:
        muffled: Any = Muffled(runtime)
        nodes[node] = Node(Config(node=node, peers=dict.fromkeys(NODES, ""), **settings), muffled)
        return nodes[node]

    world = SimWorld(NODES, 1, build)

    async def main() -> None:
        await world.start()
        try:
            await scene(Scene(world, nodes))
        finally:
            await world.stop()

    world.run(main())
    return world.logs()


def test_only_the_expected_kind_of_answer_of_a_node_that_was_asked_counts() -> None:
    calls, heard = Calls(), list[str]()
    asked = {"a"}
    id = calls.open(lambda src, _: heard.append(src), WriteDone, asked)
    calls.answered("a", id, ReadDone(id, b""))
    calls.answered("stranger", id, WriteDone(id))
    assert heard == []
    asked.add("b")  # turned to later
    calls.answered("a", id, WriteDone(id))
    calls.answered("b", id, WriteDone(id))
    assert heard == ["a", "b"]


def test_a_stranger_that_guesses_an_id_cannot_acknowledge_a_write() -> None:
    async def scene(c: Scene) -> None:
        homes = await c.homes("k")
        stranger = next(n for n in NODES if n not in homes)
        await c.world.inject(Pause(tuple(n for n in NODES if n not in (homes[0], stranger))))
        first = c.nodes[homes[0]].calls.open(ignored, WriteDone, ())

        async def forge() -> None:
            for _ in range(20):
                await c.world.sleep(SECOND // 100)
                for id in range(first, first + 10):
                    c.nodes[stranger].runtime.net.send(homes[0], messages.encode(WriteDone(id)))

        forging = c.world.spawn(forge(), name="forger")
        reply = await c.ask(homes[0], "PUT", "/kv/b/k?timeout_ms=200", b"v")
        await forging
        assert (reply.status, msgspec.json.decode(reply.body)["got"]) == (503, 1)

    play(scene)


def test_r_nodes_hold_what_a_read_returned_though_the_second_answer_came_from_an_empty_fallback() -> None:
    async def scene(c: Scene) -> None:
        homes = await c.homes("k")
        fallbacks = [n for n in NODES if n not in homes]
        await c.world.inject(Kill((homes[1], homes[2], *fallbacks)))
        await c.ask(homes[0], "PUT", "/kv/b/k?w=1", b"v")
        await c.world.sleep(4 * SECOND)
        await c.world.inject(Restart(tuple(fallbacks)))
        await c.world.sleep(2 * SECOND)
        assert [await c.held(n, "k") for n in fallbacks] == [[], []]
        assert (await c.ask(homes[0], "GET", "/kv/b/k")).values == [b"v"]
        assert [b"v"] in [await c.held(n, "k") for n in fallbacks]

    play(scene)


def test_a_read_and_its_repair_together_take_no_longer_than_the_request_may() -> None:
    async def scene(c: Scene) -> None:
        homes = await c.homes("k")
        first = homes[0]
        c.mute(
            first, lambda _dst, message: isinstance(message, messages.Write)
        )  # neither write nor repair arrives
        await c.ask(first, "PUT", "/kv/b/k?w=1", b"v")
        began_ns = c.world.now_ns()
        reply = await c.ask(first, "GET", "/kv/b/k?timeout_ms=600")
        assert reply.status == 503
        assert b"repair" in reply.body
        assert c.world.now_ns() - began_ns < 700_000_000

    play(scene)


def test_a_home_replica_and_the_fallback_that_stood_in_for_it_count_as_one_copy() -> None:
    async def scene(c: Scene) -> None:
        homes = await c.homes("k")
        await c.world.inject(Pause(tuple(homes[1:])))

        async def wake() -> None:
            await c.world.sleep(SECOND // 2)
            await c.world.inject(Resume((homes[1],)))

        def drops(_dst: str, message: messages.Message) -> bool:
            return isinstance(message, messages.Write) and message.hint_for == homes[2]

        c.mute(homes[0], drops)  # nobody can stand in for the third
        waking = c.world.spawn(wake(), name="wake")
        reply = await c.ask(homes[0], "PUT", "/kv/b/k?w=3", b"v")
        await waking
        # The first, the second, and a fallback with a hint for the second have it: three nodes, two copies.
        assert (reply.status, msgspec.json.decode(reply.body)["got"]) == (503, 2)

    play(scene)


def test_a_disk_that_is_slower_than_a_read_may_be_changes_nothing_any_more() -> None:
    async def scene(c: Scene) -> None:
        homes = await c.homes("k")
        node = c.nodes[homes[0]]
        await c.world.inject(Kill(tuple(n for n in NODES if n not in homes[:2])))
        syncing = node.runtime.future()

        def unsynced(*_: Any) -> Any:
            return syncing

        coordinator: Any = node.coordinator
        coordinator.unsynced = unsynced
        assert (await c.ask(homes[0], "GET", "/kv/b/k")).status == 503
        syncing.set_result(None)
        await c.world.sleep(SECOND)
        assert len(node.calls) == 0

    logs = play(scene, sloppy=False, anti_entropy=False)
    assert "Traceback" not in "".join(logs.values())


def test_a_home_replica_that_only_seems_down_is_asked_where_home_replicas_are_wanted() -> None:
    async def scene(c: Scene) -> None:
        homes = await c.homes("k")
        for home in homes[1:]:
            c.nodes[homes[0]].gossip.missed(home)
        assert (await c.ask(homes[0], "PUT", "/kv/b/k?pw=3&w=3", b"v")).status == 204
        for home in homes[1:]:
            c.nodes[homes[0]].gossip.missed(home)
        assert (await c.ask(homes[0], "GET", "/kv/b/k?pr=3")).values == [b"v"]

    play(scene)


def test_a_bucket_has_its_own_quorums_and_its_own_repair() -> None:
    async def scene(c: Scene) -> None:
        homes = await c.homes("k")
        await c.world.inject(Pause(tuple(homes[1:])))
        assert (await c.ask(homes[0], "PUT", "/kv/strict/k", b"v")).status == 503
        assert (await c.ask(homes[0], "PUT", "/kv/loose/k", b"v")).status == 204
        assert (await c.ask(homes[0], "PUT", "/kv/strict/k?pw=0&w=1", b"v")).status == 204
        await c.world.inject(Resume(tuple(homes[1:])))
        for bucket in ("clock", "loose"):
            await c.ask("n1", "PUT", f"/kv/{bucket}/k", b"one")
            await c.ask("n2", "PUT", f"/kv/{bucket}/k", b"two")
        assert len((await c.ask("n3", "GET", "/kv/loose/k")).values) >= 2
        assert (await c.ask("n3", "GET", "/kv/clock/k")).values == [b"two"]

    play(
        scene,
        buckets={
            "strict": Bucket(w=3, pw=3),
            "loose": Bucket(w=1, r=1, read_repair="off"),
            "clock": Bucket(mode="lww"),
        },
    )


def test_a_bucket_that_asks_for_more_than_n_is_a_mistake_of_its_configuration() -> None:
    config = Config(node="n1", peers=dict.fromkeys(NODES, "h:1"), buckets={"b": Bucket(w=4, pr=-1)})
    assert mistakes(config) == [
        "`buckets.b.w` must be from 1 to n, which is 3",
        "`buckets.b.pr` must be from 0 to n, which is 3",
    ]


def test_a_write_that_the_disk_refuses_leaves_no_request_open() -> None:
    async def scene(c: Scene) -> None:
        home = (await c.homes("k"))[0]
        node = c.nodes[home]
        replica: Any = node.replica

        def refuse(*_: Any) -> Any:
            raise DiskError("full")

        replica.store = refuse
        before = len(node.calls)
        assert (await c.ask(home, "PUT", "/kv/b/k", b"v")).status == 503
        assert len(node.calls) == before

    play(scene)


def test_a_fallback_that_coordinates_refuses_a_key_with_too_many_siblings_too() -> None:
    async def scene(c: Scene) -> None:
        homes = await c.homes("k")
        await c.world.inject(Kill(tuple(homes)))
        await c.world.sleep(4 * SECOND)
        fallback = next(n for n in NODES if n not in homes)
        for i in range(3):
            assert (await c.ask(fallback, "PUT", "/kv/b/k", b"%d" % i)).status == 204
        assert (await c.ask(fallback, "PUT", "/kv/b/k", b"more")).status == 409

    play(scene, siblings_max=3, siblings_warn=2)


def test_what_a_fallback_knows_of_a_hot_key_is_not_worked_out_anew_from_all_its_hints() -> None:
    async def scene(c: Scene) -> None:
        homes = await c.homes("k")
        await c.world.inject(Kill(tuple(homes)))
        await c.world.sleep(4 * SECOND)
        fallback, other = (n for n in NODES if n not in homes)
        context = ""
        for i in range(20):
            page = "/kv/b/k?returnbody=true"
            context = (await c.ask(fallback, "PUT", page, b"%d" % i, context=context)).context
        hints = c.nodes[fallback].hints
        known = hints.record(b"b/k", lww=False)
        assert known is not None
        assert [v.body for v in known.versions] == [b"19"]
        hints.store(homes[0], b"b/k", versions.encode(versions.put(known, (), 7, 0, b"beside")))
        joins = 0

        def counted(a: Record, b: Record) -> Record:
            nonlocal joins
            joins += 1
            return sync(a, b)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(versions, "sync", counted)
            known = hints.record(b"b/k", lww=False)
        assert known is not None
        assert (joins, sorted(v.body for v in known.versions)) == (1, [b"19", b"beside"])
        await c.world.inject(Restart(tuple(homes)))
        await c.until(lambda: c.hints(fallback), [])
        assert hints.record(b"b/k", lww=False) is None
        assert sorted((await c.ask(other, "GET", "/kv/b/k")).values) == [b"19", b"beside"]

    sync = versions.sync
    play(scene)


def test_what_truncation_costs_is_counted() -> None:
    async def scene(c: Scene) -> None:
        home = (await c.homes("k"))[0]
        context = ""
        for i in range(4):
            context = (
                await c.ask(home, "PUT", "/kv/b/k?returnbody=true", b"%d" % i, context=context)
            ).context
            await c.world.inject(Kill((home,)))
            await c.world.inject(Restart((home,)))
            page = (await c.ask(home, "GET", "/metrics")).body
            assert b"dynamo_clock_truncations_total 0\n" in page
        await c.ask(home, "PUT", "/kv/b/k", b"last", context=context)
        page = (await c.ask(home, "GET", "/metrics")).body
        assert b"dynamo_clock_truncations_total 1\n" in page
        assert b"dynamo_clock_entries_dropped_total 1\n" in page

    play(scene, clock_entries_max=2)


def test_a_write_goes_past_a_home_replica_that_has_just_died() -> None:
    async def scene(c: Scene) -> None:
        homes = await c.homes("k")
        outsider = next(n for n in NODES if n not in homes)
        await c.world.sleep(SECOND)
        await c.world.inject(Kill((homes[0],)))
        await c.world.sleep(SECOND // 2)
        assert c.nodes[outsider].gossip.up(homes[0])
        assert (await c.ask(outsider, "PUT", "/kv/b/k", b"v")).status == 204

    play(scene, gossip_interval_ms=60_000, suspect_after_ms=200_000)


def test_a_write_goes_past_a_home_replica_that_is_heard_and_does_not_hear() -> None:
    async def scene(c: Scene) -> None:
        homes = await c.homes("k")
        outsider = next(n for n in NODES if n not in homes)
        await c.world.sleep(SECOND)
        await c.world.inject(Partition("custom", ((outsider, homes[0]),)))
        statuses = [(await c.ask(outsider, "PUT", "/kv/b/k", b"%d" % i)).status for i in range(3)]
        # The first has to find out; nobody knows whether it is done.
        assert statuses == [503, 204, 204]

    play(scene, gossip_interval_ms=50)


def test_a_strict_quorum_asks_home_replicas_that_seem_down_before_it_refuses() -> None:
    async def scene(c: Scene) -> None:
        homes = await c.homes("k")
        outsider = next(n for n in NODES if n not in homes)
        for home in homes:
            c.nodes[outsider].gossip.missed(home)
        assert (await c.ask(outsider, "PUT", "/kv/b/k", b"v")).status == 204
        await c.world.inject(Kill(tuple(homes)))
        began_ns = c.world.now_ns()
        assert (await c.ask(outsider, "PUT", "/kv/b/k", b"v")).status == 503
        assert c.world.now_ns() - began_ns < SECOND * 11 // 10

    play(scene, sloppy=False, gossip_interval_ms=60_000)


def test_a_forwarded_operation_that_comes_again_is_answered_and_not_done_again() -> None:
    async def scene(c: Scene) -> None:
        home = (await c.homes("k"))[0]
        other = next(n for n in NODES if n != home)
        request = msgspec.msgpack.encode(Request("PUT", "/kv/b/k", {}, {}, b"v"))
        for id in (1, 2):
            c.nodes[other].runtime.net.send(home, messages.encode(Forward(id, 77, request)))
            await c.world.sleep(SECOND // id)
        assert await c.held(home, "k") == [b"v"]

    play(scene)


def test_answers_are_forgotten_once_they_are_many_or_old() -> None:
    async def scene(c: Scene) -> None:
        answers = Answers(c.nodes["n1"].runtime)

        def said(size: int) -> Callable[[], Awaitable[bytes]]:
            async def perform() -> bytes:
                return bytes(size)

            return perform

        for operation in range(3):
            await answers.of(operation, said(REMEMBERED_BYTES_MAX // 2))
        assert (len(answers), answers.bytes) == (2, REMEMBERED_BYTES_MAX // 2 * 2)
        assert await answers.of(2, said(1)) == bytes(REMEMBERED_BYTES_MAX // 2)
        await c.world.sleep(REMEMBERED_NS)
        assert await answers.of(9, said(1)) == bytes(1)
        assert (len(answers), answers.bytes) == (1, 1)

    play(scene)


@pytest.mark.parametrize("dead", [0, 1, 2])
def test_under_a_strict_quorum_with_overlap_a_client_reads_its_own_write_whoever_dies(dead: int) -> None:
    async def scene(c: Scene) -> None:
        homes = await c.homes("k")
        coordinator = homes[1 if dead == 0 else 0]
        assert (await c.ask(coordinator, "PUT", "/kv/b/k", b"v")).status == 204
        await c.world.inject(Kill((homes[dead],)))
        for node in NODES:
            if node != homes[dead]:
                assert (await c.ask(node, "GET", "/kv/b/k")).values == [b"v"]

    play(scene, sloppy=False)
