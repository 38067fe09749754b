"""Scenes of what a reap must not be overtaken by: frames on their way, requests under way, hints that come in between."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from cluster import SECOND, Cluster

from harness.sim.world import SimWorld
from nemeses.fault import Kill, Restart
from store import messages
from store.config import Config
from store.messages import Message, Read, ReadDone, Reap, ReapAnswer, ReapAsk, Write
from store.node import Node

NODES = ("n1", "n2", "n3", "n4", "n5")
Which = Callable[[str, Message], bool]


class Valve:
    """A runtime whose network keeps some of what its node sends on its way for as long as a scene wants."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self.net = self
        self.keeps: Which = lambda _dst, _message: False
        self.kept: list[tuple[str, bytes]] = []

    def send(self, dst: str, frame: bytes) -> None:
        if self.keeps(dst, messages.decode(frame)):
            self.kept.append((dst, frame))
        else:
            self._runtime.net.send(dst, frame)

    def let_go(self) -> int:
        """Sends what was kept; how many frames that were."""
        kept, self.kept = self.kept, []
        self.keeps = lambda _dst, _message: False
        for dst, frame in kept:
            self._runtime.net.send(dst, frame)
        return len(kept)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime.net if name in ("on_message", "meet") else self._runtime, name)


class Scene(Cluster):
    """A cluster whose nodes can be reached into."""

    world: SimWorld

    def __init__(self, world: SimWorld, nodes: dict[str, Node]) -> None:
        super().__init__(world)
        self.nodes = nodes

    def valve(self, node: str) -> Valve:
        valve: Any = self.nodes[node].runtime
        return valve

    def holders(self, key: str) -> list[str]:
        """Who knows anything of a key as a replica."""
        return sorted(n for n, node in self.nodes.items() if node.replica.load(f"b/{key}".encode()))

    async def reaped(self, key: str, seconds: int = 6) -> None:
        async def look() -> list[str]:
            return self.holders(key)

        await self.until(look, [], seconds)

    def refused(self, *nodes: str) -> int:
        return sum(self.nodes[node].metrics.stale_writes_refused for node in nodes)


def play(scene: Callable[[Scene], Awaitable[None]], **settings: Any) -> dict[str, str]:
    """Plays a scene on five fresh nodes that reap soon, and repair nothing by themselves; the nodes' logs."""
    nodes: dict[str, Node] = {}
    quick: dict[str, Any] = {"reap_after_ms": 1_000, "reap_interval_ms": 500, "anti_entropy": False}

    def build(node: str, runtime: Any) -> Node:
        valve: Any = Valve(runtime)
        config = Config(node=node, peers=dict.fromkeys(NODES, ""), **{**quick, **settings})
        nodes[node] = Node(config, valve)
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


def writes(*dsts: str, hint: bool = False) -> Which:
    """Writes to these nodes, hints or others."""
    return lambda dst, message: isinstance(message, Write) and dst in dsts and bool(message.hint_for) == hint


async def ask(c: Scene, src: str, dst: str, question: ReapAsk) -> tuple[int, Sequence[int]]:
    """The round of the one who was asked, and what it agreed to."""
    heard: list[ReapAnswer] = []
    id = c.nodes[src].calls.open(lambda _, answer: heard.append(answer), ReapAnswer, (dst,))
    asked = ReapAsk(id, question.token_range, question.round, question.entries, question.ring)
    c.nodes[src].runtime.net.send(dst, messages.encode(asked))
    await c.world.sleep(SECOND // 5)
    return heard[0].round, heard[0].agreed


async def delete(c: Scene, node: str, key: str) -> None:
    read = await c.ask(node, "GET", f"/kv/b/{key}")
    assert (await c.ask(node, "DELETE", f"/kv/b/{key}", context=read.context)).status == 204


def test_a_write_that_was_on_its_way_during_a_reap_is_refused() -> None:
    async def scene(c: Scene) -> None:
        a, b, last = await c.homes("k")
        valve = c.valve(a)
        valve.keeps = writes(last)
        # Somebody else keeps a hint for the third home, which thus learns of the value all the same.
        await c.ask(a, "PUT", "/kv/b/k", b"v")
        valve.keeps = lambda _dst, _message: False
        await c.world.sleep(2 * SECOND)
        assert await c.held(last, "k") == [b"v"]
        await delete(c, b, "k")
        await c.reaped("k")
        assert valve.let_go() == 1
        await c.world.sleep(SECOND)
        assert c.holders("k") == []
        assert c.refused(last) == 1

    play(scene)


def test_a_read_that_has_seen_the_value_holds_the_reap_up_until_it_is_over() -> None:
    async def scene(c: Scene) -> None:
        a, b, last = await c.homes("k")
        reader = next(n for n in NODES if n not in (a, b, last))
        c.valve(a).keeps = writes(last)
        await c.ask(a, "PUT", "/kv/b/k", b"v")
        c.valve(a).kept.clear()  # the third home never hears of the value
        c.valve(a).let_go()
        for home in (a, b):
            c.valve(home).keeps = lambda dst, message: isinstance(message, ReadDone) and dst == reader
        reading = c.world.spawn(c.ask(reader, "GET", "/kv/b/k?timeout_ms=20000"), name="reading")
        await c.world.sleep(SECOND // 10)
        await c.world.spawn(delete(c, last, "k"), name="deleting")
        await c.world.sleep(4 * SECOND)
        # The reader has heard that the third home lacks the key, and will hear of the value: it is bound to repair.
        assert c.holders("k") == sorted((a, b, last))
        assert c.valve(a).let_go() + c.valve(b).let_go() >= 2
        assert (await reading).values == [b"v"]
        await c.reaped("k")
        assert (await c.ask(reader, "GET", "/kv/b/k")).status == 404

    play(scene, sloppy=False)


def test_a_hint_that_arrives_between_the_question_and_the_reap_is_refused() -> None:
    async def scene(c: Scene) -> None:
        a, b, last = await c.homes("k")
        fallbacks = [n for n in NODES if n not in (a, b, last)]
        await c.world.inject(Kill((last,)))
        await c.world.sleep(4 * SECOND)
        c.valve(a).keeps = writes(*fallbacks, hint=True)
        await c.ask(a, "PUT", "/kv/b/k", b"v")
        await c.world.inject(Restart((last,)))
        kept, c.valve(a).kept = c.valve(a).kept, []
        c.valve(a).let_go()
        keeper = kept[0][0]
        other = next(n for n in fallbacks if n != keeper)
        await c.world.sleep(6 * SECOND)
        await delete(c, b, "k")
        c.valve(other).keeps = lambda _dst, message: isinstance(message, ReapAnswer)
        await c.world.sleep(3 * SECOND)
        assert c.valve(other).kept  # everybody has agreed; one answer is still to come
        c.valve(a).send(*kept[0])
        await c.world.sleep(SECOND)
        assert await c.hints(keeper) == []
        assert c.refused(keeper) == 1
        c.valve(other).let_go()
        await c.reaped("k")

    play(scene)


def test_a_hint_holds_the_reap_up_until_it_is_handed_off() -> None:
    async def scene(c: Scene) -> None:
        a, b, last = await c.homes("k")
        keeper = next(n for n in NODES if n not in (a, b, last))
        await c.ask(a, "PUT", "/kv/b/k", b"v")
        old = c.nodes[a].replica.load(b"b/k")
        await delete(c, b, "k")
        c.valve(keeper).keeps = writes(last)
        c.nodes[keeper].hints.store(last, b"b/k", old)
        await c.world.sleep(4 * SECOND)
        assert c.holders("k") == sorted((a, b, last))
        c.valve(keeper).let_go()
        await c.reaped("k")
        await c.world.sleep(SECOND)
        assert c.holders("k") == []

    play(scene)


def test_a_write_that_a_reap_of_another_key_overtakes_is_sent_again_and_done() -> None:
    async def scene(c: Scene) -> None:
        ring = c.nodes["n1"].ring
        here = ring.range_of(b"b/k")
        neighbour = next(f"j{i}" for i in range(10_000) if ring.range_of(b"b/j%d" % i) == here)
        a, b, last = await c.homes("k")
        await c.ask(a, "PUT", f"/kv/b/{neighbour}", b"v")
        await delete(c, b, neighbour)
        c.valve(a).keeps = writes(b, last)
        writing = c.world.spawn(c.ask(a, "PUT", "/kv/b/k?timeout_ms=20000", b"w"), name="writing")
        await c.reaped(neighbour)
        assert not writing.done()
        c.valve(a).let_go()
        assert (await writing).status == 204
        await c.world.sleep(SECOND)
        assert c.refused(b, last) == 2
        assert [await c.held(node, "k") for node in (a, b, last)] == [[b"w"]] * 3

    play(scene, sloppy=False)


def test_a_home_that_never_hears_of_a_reap_proposes_it_itself_later() -> None:
    async def scene(c: Scene) -> None:
        a, b, last = await c.homes("k")
        await c.ask(a, "PUT", "/kv/b/k", b"v")
        await delete(c, b, "k")
        for node in NODES:
            c.valve(node).keeps = lambda dst, message: isinstance(message, Reap) and dst == last
        await c.world.sleep(2 * SECOND)
        assert c.holders("k") == [last]
        await c.reaped("k", seconds=3)

    play(scene)


def test_a_reap_that_comes_late_takes_nothing_that_was_written_since() -> None:
    async def scene(c: Scene) -> None:
        a, b, last = await c.homes("k")
        await c.ask(a, "PUT", "/kv/b/k", b"v")
        await delete(c, b, "k")
        c.valve(a).keeps = lambda dst, message: isinstance(message, Reap) and dst == last
        await c.world.sleep(2 * SECOND)
        assert c.holders("k") == [last]
        await c.ask(b, "PUT", "/kv/b/k", b"new")
        assert c.valve(a).let_go() == 1
        await c.world.sleep(SECOND)
        for node in (a, b, last):
            assert await c.held(node, "k") == [b"new"]

    play(scene)


def test_who_heard_of_a_round_otherwise_or_goes_by_another_ring_does_not_agree_to_it() -> None:
    async def scene(c: Scene) -> None:
        a, b, last = await c.homes("k")
        await c.ask(a, "PUT", "/kv/b/k", b"v")
        await delete(c, b, "k")
        here = c.nodes[a].ring.range_of(b"b/k")
        entry = (b"b/k", c.nodes[a].replica.load(b"b/k"))
        c.nodes[b].rounds.raise_to(here, 5)
        await c.world.sleep(SECOND // 10)
        ring = c.nodes[b].ring.version
        assert await ask(c, a, b, ReapAsk(0, here, 5, (entry,), ring)) == (5, ())
        assert await ask(c, a, b, ReapAsk(0, here, 6, (entry,), ring + 1)) == (5, ())
        assert await ask(c, a, b, ReapAsk(0, here, 6, (entry,), ring)) == (6, (0,))
        assert await ask(c, a, last, ReapAsk(0, here, 6, (entry,), ring)) == (6, (0,))

    play(scene, reap_after_ms=3_600_000)


def test_who_knows_of_a_change_of_the_ring_agrees_to_nothing() -> None:
    async def scene(c: Scene) -> None:
        a, b, _ = await c.homes("k")
        await c.ask(a, "PUT", "/kv/b/k", b"v")
        await delete(c, a, "k")
        here = c.nodes[a].ring.range_of(b"b/k")
        entry = (b"b/k", c.nodes[a].replica.load(b"b/k"))
        c.valve(b).keeps = lambda _dst, message: (
            not isinstance(message, ReapAnswer)
        )  # the others never hear of it
        c.nodes[b].membership.begin_join("n6", "")
        asked = ReapAsk(0, here, 1, (entry,), c.nodes[b].ring.version)
        assert await ask(c, a, b, asked) == (0, ())

    play(scene, reap_after_ms=3_600_000)


def test_who_has_answered_a_read_of_a_later_round_does_not_agree_to_it_any_more() -> None:
    async def scene(c: Scene) -> None:
        a, b, _ = await c.homes("k")
        here = c.nodes[a].ring.range_of(b"b/k")
        # The reader may have agreed already, and what it reads here may be older than the tombstone.
        c.nodes[a].runtime.net.send(b, messages.encode(Read(1, b"b/k", 3)))
        await c.world.sleep(SECOND // 10)
        assert c.nodes[b].rounds.stamps[here] == 3

    play(scene, reap_after_ms=3_600_000)


def test_a_node_that_never_entered_the_round_reaps_nothing_and_says_so() -> None:
    async def scene(c: Scene) -> None:
        a, b, _ = await c.homes("k")
        await c.ask(a, "PUT", "/kv/b/k", b"v")
        await delete(c, a, "k")
        record = c.nodes[b].replica.load(b"b/k")
        here = c.nodes[a].ring.range_of(b"b/k")
        c.nodes[a].runtime.net.send(b, messages.encode(Reap(here, 7, ((b"b/k", record),))))
        await c.world.sleep(SECOND)
        assert c.nodes[b].replica.load(b"b/k") == record
        assert c.nodes[b].metrics.reaps_refused == 1

    logs = play(scene, reap_after_ms=3_600_000)
    assert any("rolled back" in log for log in logs.values())
