"""Scenes of a ring that changes: who holds what when, who answers, and what a crash at any point leaves behind."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from ringed import ALL, MEMBERS, SECOND, Ringed, play

from harness.sim.world import SimWorld
from nemeses import partition
from nemeses.fault import HealPartition, Kill, Partition, Pause, PowerLoss, Restart, Resume
from store import ring
from store.config import Config
from store.messages import RingState, encode
from store.node import Node
from store.ring import Change, Ring, State

WITH_SIX = (*MEMBERS, "n6")


def test_a_node_joins_and_holds_exactly_its_ranges_with_everything_in_them() -> None:
    async def scene(c: Ringed) -> None:
        await c.fill(60)
        assert await c.change("n2", "join", name="n6") == 202
        await c.settled(4, WITH_SIX)
        assert await c.unheld(60, ALL, via="n6") == []
        ring = await c.ring("n3")
        homes = [set(h) for h in ring["ranges"].values()]
        assert all(len(h) == 3 for h in homes)
        assert sum("n6" in h for h in homes) >= 32 // 6

    play(scene)


def test_a_node_leaves_when_others_hold_what_it_held_and_then_says_so() -> None:
    async def scene(c: Ringed) -> None:
        await c.fill(60)
        assert await c.change("n2", "leave", name="n4") == 202
        await c.settled(4, ("n1", "n2", "n3", "n5"))
        assert await c.unheld(60, ALL) == []
        assert (await c.ring("n4"))["members"].keys() == {"n1", "n2", "n3", "n5"}

    logs = play(scene)
    assert "left\n" in logs["n4"]
    assert "left\n" not in logs["n3"]


def test_a_dead_node_is_replaced_by_another_which_then_holds_what_it_held() -> None:
    async def scene(c: Ringed) -> None:
        await c.fill(60)
        await c.world.inject(Kill(("n3",)))
        assert await c.change("n2", "replace", dead="n3", name="n6") == 202
        living = tuple(n for n in ALL if n != "n3")
        await c.settled(4, ("n1", "n2", "n4", "n5", "n6"), *living)
        assert await c.unheld(60, living) == []

    play(scene)


def test_who_was_replaced_and_was_not_dead_learns_of_it_and_forgets_what_it_holds() -> None:
    async def scene(c: Ringed) -> None:
        await c.fill(30)
        cut = partition.between(("n3",), tuple(n for n in ALL if n != "n3"))
        await c.world.inject(Partition("isolate", tuple(sorted(cut))))
        assert await c.change("n2", "replace", dead="n3", name="n6") == 202
        members = ("n1", "n2", "n4", "n5", "n6")
        await c.settled(4, members, *members)
        await c.world.inject(HealPartition())
        await c.settled(4, members)
        await c.until(lambda: c.unheld(30, ALL), [])

    logs = play(scene)
    assert "replaced: what this node holds is not its own any more" in logs["n3"]


def test_a_second_change_is_refused_with_a_sentence_while_one_is_in_progress() -> None:
    async def scene(c: Ringed) -> None:
        await c.world.inject(Kill(("n5",)))  # so that the change cannot go on
        assert await c.change("n1", "join", name="n6") == 202
        reply = await c.ask("n1", "POST", "/admin/join", b'{"name": "n7"}')
        assert reply.status == 409
        assert b"one change at a time: the join of n6 is joint" in reply.body
        await c.world.sleep(2 * SECOND)
        ring = await c.ring("n1")
        assert ring["phase"] == "joint"
        assert ring["waiting"]["n5"] == "has not acknowledged this epoch"
        assert ring["waiting"]["n1"] == "the acknowledgement of n5"

    play(scene)


@pytest.mark.parametrize(
    ("kind", "body", "sentence"),
    [
        ("join", b'{"name": "n2"}', "n2 is a member already"),
        ("leave", b'{"name": "n6"}', "n6 is no member"),
        ("replace", b'{"name": "n6", "dead": "n7"}', "n7 is no member"),
        ("replace", b'{"name": "n6", "dead": "n1"}', "n1 lives"),
        ("join", b'{"nome": "n6"}', "nome"),
        ("join", b"garbage", "malformed"),
        ("join", b'{"name": "n 6"}', "letters, digits"),
        ("join", b'{"name": ""}', "letters, digits"),
        ("replace", b'{"name": "../n6", "dead": "n2"}', "letters, digits"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused_with_a_sentence(
    kind: str, body: bytes, sentence: str
) -> None:
    async def scene(c: Ringed) -> None:
        reply = await c.ask("n1", "POST", f"/admin/{kind}", body)
        assert reply.status in (400, 409)
        assert sentence in reply.body.decode()
        assert await c.known() == {(0, "settled", MEMBERS)}

    play(scene)


@pytest.mark.parametrize("body", [{"name": "n6"}, {"name": "n6", "dead": "n2"}])
def test_who_does_not_answer_is_not_let_in_and_holds_up_nobody_and_may_come_later(
    body: dict[str, str],
) -> None:
    kind = "replace" if "dead" in body else "join"

    async def scene(c: Ringed) -> None:
        await c.world.inject(Kill(("n6",)))
        reply = await c.ask("n1", "POST", f"/admin/{kind}", msgspec.json.encode(body))
        assert reply.status == 503
        told = msgspec.json.decode(reply.body)["error"]
        assert told.startswith('n6 does not answer as n6: start it there first, with "join": true')
        assert await c.known(*MEMBERS) == {(0, "settled", MEMBERS)}
        assert await c.change("n1", "join", name="n7") == 202
        await c.settled(4, (*MEMBERS, "n7"), *MEMBERS, "n7")
        await c.world.inject(Restart(("n6",)))
        assert await c.change("n1", kind, **body) == 202

    play(scene)


def test_so_few_members_that_a_key_could_not_have_n_homes_let_nobody_go() -> None:
    async def scene(c: Ringed) -> None:
        reply = await c.ask("n1", "POST", "/admin/leave", b'{"name": "n2"}')
        assert reply.status == 409
        assert b"let another join first" in reply.body

    play(scene, n=5)


def test_no_new_home_is_read_before_it_has_everything() -> None:
    """While a source of the transfer is away the ring stays where the old homes are read."""

    async def scene(c: Ringed) -> None:
        await c.fill(40)
        cut = partition.between(("n6",), tuple(n for n in MEMBERS if n != "n1"))
        # n6 hears of the change and acknowledges it through nobody but n1: nobody else's data reaches it.
        await c.world.inject(Partition("custom", tuple(sorted(cut))))
        assert await c.change("n1", "join", name="n6") == 202
        for _ in range(16):
            await c.world.sleep(SECOND // 2)
            rings = [await c.ring(n) for n in MEMBERS]
            assert all("n6" not in homes for ring in rings for homes in ring["ranges"].values())
        for i in range(40):
            assert (await c.ask(f"n{i % 5 + 1}", "GET", f"/kv/b/k{i}")).body == b"v%d" % i
        await c.world.inject(HealPartition())
        await c.settled(4, WITH_SIX)
        assert await c.unheld(40, ALL) == []

    play(scene)


def test_who_was_replaced_does_not_come_back_under_its_name() -> None:
    async def scene(c: Ringed) -> None:
        await c.world.inject(Kill(("n3",)))
        assert await c.change("n2", "replace", dead="n3", name="n6") == 202
        members = ("n1", "n2", "n4", "n5", "n6")
        await c.settled(4, members, *members)
        # It would come up with all that it holds, though the others have reaped without it.
        for kind, more in (("join", ""), ("replace", ', "dead": "n1"')):
            reply = await c.ask("n2", "POST", f"/admin/{kind}", f'{{"name": "n3"{more}}}'.encode())
            assert (reply.status, b"n3 was replaced" in reply.body) == (409, True)

    play(scene)


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 1 << 40},
        {"epoch": -1},
        {"owners": ("nobody",) * 32},
        {"phase": "joint"},
        {"change": Change("join", "n6", "", ("n1",) * 32)},
        {"phase": "joint", "change": Change("join", "n6", "", ("n1",))},
        {"phase": "joint", "change": Change("leave", "n2", "", ("n2",) * 32)},
    ],
    ids=["late", "early", "owners", "no change", "settled", "short", "leaver"],
)
def test_a_state_that_no_ring_is_ever_in_is_not_adopted(change: dict[str, Any]) -> None:
    nodes: dict[str, Node] = {}
    members: dict[str, str] = dict.fromkeys(MEMBERS, "")
    state = State(1, ring.first_owners(MEMBERS, 32), members)

    def build(node: str, runtime: Any) -> Node:
        nodes[node] = Node(Config(node=node, peers=members), runtime)
        return nodes[node]

    world = SimWorld(MEMBERS, 1, build)

    async def main() -> None:
        await world.start()
        try:
            c = Ringed(world)
            bad = RingState(ring.encode(msgspec.structs.replace(state, **change)))
            nodes["n2"].runtime.net.send("n1", encode(bad))
            await world.sleep(5 * SECOND)
            assert await c.known(*MEMBERS) == {(0, "settled", MEMBERS)}
            assert (await c.ask("n1", "PUT", "/kv/b/k?w=3", b"v")).status == 204
        finally:
            await world.stop()

    assert ring.is_sound(state)
    world.run(main())


def test_a_write_in_the_joint_phase_stands_with_the_old_and_with_the_new_homes() -> None:
    async def scene(c: Ringed) -> None:
        assert await c.change("n1", "join", name="n6") == 202
        await c.phase("n1", "joint")
        before = (await c.ring("n1"))["ranges"]
        await c.fill(20)
        await c.settled(4, WITH_SIX)
        assert (await c.ring("n1"))["ranges"] != before
        assert await c.unheld(20, ALL) == []

    play(scene)


def test_in_the_joint_phase_too_a_home_and_the_fallback_that_stood_in_for_it_count_as_one_copy() -> None:
    now = Ring(MEMBERS, 32)
    owners = ring.owners_with(now.state.owners, "n6")
    members: dict[str, str] = dict.fromkeys(WITH_SIX, "")
    now.adopt(State(1, now.state.owners, members, "joint", Change("join", "n6", "", owners)))
    groups = {f"k{i}": now.joint(now.range_of(b"b/k%d" % i), 3) for i in range(1_000)}
    key = next(k for k, g in groups.items() if g and {*g[0][:2]} < {*g[1]})
    first, second, third = groups[key][0]
    dead = next(n for n in MEMBERS if n not in groups[key][0])  # so that the change cannot go on

    async def scene(c: Ringed) -> None:
        await c.world.inject(Kill((dead,)))
        await c.world.sleep(4 * SECOND)
        assert await c.change(first, "join", name="n6") == 202
        await c.world.sleep(SECOND)

        async def wake() -> None:
            await c.world.sleep(SECOND // 2)
            await c.world.inject(Resume((second,)))

        await c.world.inject(Pause((second, third, "n6")))
        waking = c.world.spawn(wake(), name="wake")
        reply = await c.ask(first, "PUT", f"/kv/b/{key}?w=3", b"v")
        await waking
        assert (reply.status, msgspec.json.decode(reply.body)["got"]) == (503, 2)

    play(scene)


def test_hints_for_a_node_that_was_replaced_reach_those_who_took_its_place() -> None:
    async def scene(c: Ringed) -> None:
        dead, *alive = await c.homes("k")
        await c.world.inject(Kill((dead,)))
        assert (await c.ask(alive[0], "PUT", "/kv/b/k", b"v")).status == 204
        await c.world.sleep(SECOND)
        living = tuple(n for n in ALL if n != dead)
        assert {h["target"] for n in living for h in await c.hints(n)} == {dead}
        assert await c.change(alive[0], "replace", dead=dead, name="n6") == 202

        async def hints() -> list[object]:
            return [h for n in living for h in await c.hints(n)]

        await c.until(hints, [])
        await c.settled(4, tuple(sorted({*MEMBERS, "n6"} - {dead})), *living)
        assert await c.held("n6", "k") == [b"v"]

    play(scene, anti_entropy=False, read_repair="off")


def test_two_changes_begun_on_both_sides_of_a_partition_come_down_to_one() -> None:
    async def scene(c: Ringed) -> None:
        await c.fill(20)
        cut = partition.between(("n1", "n2", "n6"), ("n3", "n4", "n5", "n7"))
        await c.world.inject(Partition("halves", tuple(sorted(cut))))
        assert await c.change("n1", "join", name="n6") == 202
        assert await c.change("n3", "join", name="n7") == 202
        await c.world.sleep(3 * SECOND)
        assert {phase for _, phase, _ in await c.known(*MEMBERS)} == {"joint"}
        assert len(await c.known(*MEMBERS)) == 2
        await c.world.inject(HealPartition())

        async def epochs() -> set[tuple[int, str]]:
            return {(epoch, phase) for epoch, phase, _ in await c.known()}

        await c.until(epochs, {(4, "settled")})
        members = {m for _, _, m in await c.known()}
        assert members in ({WITH_SIX}, {(*MEMBERS, "n7")})
        assert await c.unheld(20, ALL) == []

    play(scene)


CHANGES: dict[str, tuple[str, dict[str, str], tuple[str, ...]]] = {
    "join": ("join", {"name": "n6"}, WITH_SIX),
    "leave": ("leave", {"name": "n4"}, ("n1", "n2", "n3", "n5")),
    "replace": ("replace", {"dead": "n3", "name": "n6"}, ("n1", "n2", "n4", "n5", "n6")),
}


@pytest.mark.parametrize("after_ms", [0, 1, 3, 10, 40, 120, 200, 300])
@pytest.mark.parametrize("kind", CHANGES)
def test_a_kill_of_everybody_at_any_moment_of_a_change_under_load_loses_nothing_and_the_change_is_finished(
    kind: str, after_ms: int
) -> None:
    async def scene(c: Ringed) -> None:
        change, body, members = CHANGES[kind]
        await c.fill(30)
        if kind == "replace":
            await c.world.inject(Kill(("n3",)))
        written: list[int] = []
        loading = True

        async def load() -> None:
            number = 30
            while loading:
                key, node = f"k{number}", f"n{number % 2 + 1}"
                try:
                    reply = await c.ask(node, "PUT", f"/kv/b/{key}", b"v%d" % number)
                except Exception:  # the process was killed: nobody knows
                    await c.world.sleep(SECOND // 50)
                else:
                    if reply.status == 204:
                        written.append(number)
                number += 1

        task = c.world.spawn(load(), name="load")
        assert await c.change("n1", change, **body) == 202
        await c.world.sleep(after_ms * 1_000_000)
        alive = tuple(n for n in ALL if n != "n3" or kind != "replace")
        await c.world.inject((Kill if after_ms % 2 else PowerLoss)(alive))
        await c.world.inject(Restart(alive))
        await c.settled(4, members, *alive)
        loading = False
        await task
        assert len(written) > 10
        for number in [*range(30), *written]:
            assert (await c.ask("n1", "GET", f"/kv/b/k{number}?r=3")).body == b"v%d" % number

    play(scene, seed=after_ms + 1)


@pytest.mark.parametrize("phase", ["joint", "moved", "settling"])
@pytest.mark.parametrize("victim", ["n1", "n4", "n6"])
def test_whoever_dies_in_whichever_phase_the_ring_waits_and_then_goes_on(phase: str, victim: str) -> None:
    async def scene(c: Ringed) -> None:
        await c.fill(40)
        assert await c.change("n2", "join", name="n6") == 202
        await c.phase("n2", phase)
        await c.world.inject(Kill((victim,)))
        for i in range(40, 50):
            while (await c.ask("n2", "PUT", f"/kv/b/k{i}", b"v%d" % i)).status != 204:
                await c.world.sleep(SECOND // 10)
        await c.world.inject(Restart((victim,)))
        await c.settled(4, WITH_SIX)
        await c.world.sleep(8 * SECOND)  # hints
        assert await c.unheld(50, ALL) == []

    play(scene)


def test_who_is_no_member_passes_requests_on_and_knows_the_present_ring_for_it() -> None:
    async def scene(c: Ringed) -> None:
        assert await c.change("n1", "join", name="n6") == 202
        await c.settled(4, WITH_SIX)
        assert await c.change("n1", "leave", name="n2") == 202
        await c.settled(8, ("n1", "n3", "n4", "n5", "n6"))
        assert (await c.ask("n7", "PUT", "/kv/b/k", b"v")).status == 204
        assert (await c.ask("n2", "GET", "/kv/b/k")).body == b"v"
        assert await c.held("n7", "k") == await c.held("n2", "k") == []

    play(scene)


def test_a_node_told_to_join_asks_until_it_is_taken_in() -> None:
    def build(node: str, runtime: object) -> Node:
        peers = dict.fromkeys(MEMBERS, "") if node != "n6" else {"n6": "", "n1": "", "n2": ""}
        return Node(Config(node=node, peers=peers, join=node == "n6"), runtime)  # type: ignore[arg-type]

    world = SimWorld(WITH_SIX, 1, build)

    async def main() -> None:
        await world.start()
        try:
            c = Ringed(world)
            await c.settled(4, WITH_SIX, *WITH_SIX)
        finally:
            await world.stop()

    world.run(main())


def test_what_a_replaced_node_still_knows_does_not_bring_back_what_the_others_have_reaped() -> None:
    async def scene(c: Ringed) -> None:
        homes = await c.homes("k")
        away, holder = homes[0], next(n for n in MEMBERS if n not in homes)
        # The fallback keeps a hint for the home that is away, and is cut off with it.
        others = tuple(n for n in MEMBERS if n not in (*homes, holder))
        await c.world.inject(Kill((away, *others)))
        assert (await c.ask(homes[1], "PUT", "/kv/b/k", b"v")).status == 204
        await c.world.sleep(SECOND)
        assert [h["target"] for h in await c.hints(holder)] == [away]
        await c.world.inject(Kill((holder,)))
        await c.world.inject(Restart((away, *others)))
        living = tuple(n for n in ALL if n != holder)
        assert await c.change(away, "replace", dead=holder, name="n6") == 202
        await c.settled(4, tuple(sorted({*MEMBERS, "n6"} - {holder})), *living)
        read = await c.ask(homes[1], "GET", "/kv/b/k")
        assert (await c.ask(homes[1], "DELETE", "/kv/b/k", context=read.context)).status == 204

        async def held() -> list[str]:
            return [n for n in living if (await c.ask(n, "GET", "/admin/replica/b/k")).status == 200]

        await c.until(held, [])  # reaped
        await c.world.inject(Restart((holder,)))
        await c.world.sleep(10 * SECOND)
        assert await held() == []
        assert await c.hints(holder) == []
        assert (await c.ask(homes[1], "GET", "/kv/b/k")).status == 404

    play(scene, reap_after_ms=300, reap_interval_ms=300)
