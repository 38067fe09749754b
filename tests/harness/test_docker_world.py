"""Scenes with the real store in five containers: each fault does what it says, to nobody else, and is proven."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from docker_nodes import ANSWERS_PINGS, HALF_A_SECOND_NS, ROOT, Run, node_image, store_config, stub_world

from harness.docker import links
from harness.docker.node import Node, NotReady
from harness.docker.shell import Reply
from harness.docker.world import DockerWorld
from harness.samples import parse
from harness.world import Refused, Silence, Unsupported
from nemeses.fault import (
    HealPartition,
    Kill,
    Link,
    Partition,
    Pause,
    PowerLoss,
    ResetClocks,
    Restart,
    Resume,
    Skew,
)

pytestmark = pytest.mark.docker

NODES = ("n1", "n2", "n3", "n4", "n5")
PING = b"GET /ping HTTP/1.1\r\nHost: node\r\n\r\n"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DockerWorld, Run[Any]]]:
    """One world for all scenes, and the way to run a coroutine in it."""
    folder = tmp_path_factory.mktemp("world")
    world = DockerWorld(NODES, store_config, ROOT, node_image(), folder, 1)
    with asyncio.Runner() as runner:
        try:
            runner.run(world.start())
            yield world, runner.run
        finally:
            runner.run(world.stop())


@pytest.fixture
def world(scene: tuple[DockerWorld, Run[Any]]) -> Iterator[DockerWorld]:
    yield scene[0]
    # Every scene begins with a whole network and all nodes up.
    scene[1](mend(scene[0]))


@pytest.fixture
def run(scene: tuple[DockerWorld, Run[Any]]) -> Run[Any]:
    return scene[1]


async def mend(world: DockerWorld) -> None:
    healed = [await world.inject(fault) for fault in (HealPartition(), Resume(NODES), Restart(NODES))]
    assert all(evidence.verified for evidence in healed), healed


def inside(world: DockerWorld, node: str) -> Node:
    """The way into a node's container, which only scenes about it need."""
    return world._nodes[node]  # pyright: ignore[reportPrivateUsage]  no run needs it


async def ask(world: DockerWorld, node: str, payload: bytes, timeout_ns: int = 3_000_000_000) -> int:
    """The status code of the answer."""
    transport = world.transport(node, client="test")
    try:
        return int((await transport.request(payload, timeout_ns)).split(b" ", 2)[1])
    finally:
        transport.close()


def put(key: str, query: str = "") -> bytes:
    return f"PUT /kv/b/{key}{query} HTTP/1.1\r\nHost: node\r\nContent-Length: 1\r\n\r\nx".encode()


def get(key: str, query: str = "") -> bytes:
    return f"GET /kv/b/{key}{query} HTTP/1.1\r\nHost: node\r\n\r\n".encode()


async def until(world: DockerWorld, node: str, payload: bytes, wanted: set[int]) -> None:
    """Asks again until the answer is as wanted; the store needs a moment to notice that the network changed."""
    deadline = time.monotonic() + 30
    seen: set[int] = set()
    while time.monotonic() < deadline:
        status = await ask(world, node, payload)
        if status in wanted:
            return
        seen.add(status)
        await asyncio.sleep(0.1)
    pytest.fail(f"{node} never answered {wanted}, only {seen}")


def across(left: tuple[str, ...]) -> tuple[Link, ...]:
    return tuple((a, b) for a in NODES for b in NODES if (a in left) != (b in left))


async def connects(world: DockerWorld, source: str, destination: str) -> str:
    """What a node sees that opens a TCP connection to another's peer port: `connected`, `refused` or `silence`."""
    shell = inside(world, source).shell
    address = world.address(destination)
    reply = await shell.run(f"timeout 1 bash -c 'exec 3<>/dev/tcp/{address}/8001'")
    return {0: "connected", 1: "refused", 124: "silence"}[reply.status]


def test_every_node_answers_and_knows_its_name(world: DockerWorld, run: Run[Any]) -> None:
    async def statuses() -> list[bytes]:
        asked = b"GET /status HTTP/1.1\r\nHost: node\r\n\r\n"
        transports = [world.transport(node, client="test") for node in NODES]
        answers = [await transport.request(asked, 3_000_000_000) for transport in transports]
        for transport in transports:
            transport.close()
        return answers

    for node, answer in zip(NODES, run(statuses()), strict=True):
        assert f'"node":"{node}"'.encode() in answer


def test_metrics_are_scraped_and_a_node_that_is_paused_or_dead_gives_none(
    world: DockerWorld, run: Run[Any]
) -> None:
    async def play() -> tuple[list[bytes | None], bytes | None]:
        assert await ask(world, "n1", put("scraped")) == 204
        await world.inject(Pause(("n2",)))
        await world.inject(Kill(("n3",)))
        during = [await world.scrape(node) for node in ("n1", "n2", "n3")]
        await mend(world)
        return during, await world.scrape("n2")

    (alive, paused, dead), again = run(play())
    assert alive is not None
    assert parse(alive)['dynamo_request_seconds_count{op="put"}'] >= 1
    assert (paused, dead) == (None, None)
    assert again is not None
    assert "dynamo_consistency_horizon_seconds" in parse(again)


def test_halves_stop_the_quorum_across_them_and_only_there(world: DockerWorld, run: Run[Any]) -> None:
    async def play() -> None:
        evidence = await world.inject(Partition("halves", across(("n1", "n2"))))
        assert evidence.verified
        assert evidence.before["lost"] == []
        assert evidence.after["lost"] == sorted(f"{a}>{b}" for a, b in across(("n1", "n2")))
        assert evidence.after["carried"] == 8
        # Three answers are one more than the smaller side has nodes, sloppy quorum or not.
        await until(world, "n1", put("halves", "?w=3"), {503})
        await until(world, "n3", put("halves", "?w=3"), {200, 204})
        healed = await world.inject(HealPartition())
        assert healed.verified
        assert healed.fired is not None and healed.fired > 0
        await until(world, "n1", put("halves", "?w=3"), {200, 204})

    run(play())


def test_a_one_way_cut_is_one_way(world: DockerWorld, run: Run[Any]) -> None:
    async def play() -> None:
        evidence = await world.inject(Partition("one-way", (("n1", "n2"),)))
        assert evidence.verified
        assert evidence.after["lost"] == ["n1>n2"]
        assert (await world.inject(HealPartition())).after["lost"] == []

    run(play())


def test_a_new_partition_replaces_the_old_one(world: DockerWorld, run: Run[Any]) -> None:
    async def play() -> None:
        await world.inject(Partition("custom", (("n1", "n2"), ("n3", "n4"))))
        evidence = await world.inject(Partition("custom", (("n5", "n4"),)))
        assert evidence.verified
        assert evidence.before["lost"] == ["n1>n2", "n3>n4"]
        assert evidence.after["lost"] == ["n5>n4"]

    run(play())


def test_a_cut_between_all_nodes_spares_the_clients(world: DockerWorld, run: Run[Any]) -> None:
    async def play() -> None:
        everything = tuple((a, b) for a in NODES for b in NODES if a != b)
        evidence = await world.inject(Partition("custom", everything))
        assert evidence.verified
        assert evidence.after["carried"] == 0
        assert [await ask(world, node, PING) for node in NODES] == [200] * 5

    run(play())


def test_drop_is_silent_and_reject_answers_with_a_reset(world: DockerWorld, run: Run[Any]) -> None:
    async def play() -> None:
        assert await connects(world, "n1", "n2") == "connected"
        await world.inject(Partition("one-way", (("n1", "n2"),), mode="drop"))
        assert await connects(world, "n1", "n2") == "silence"
        evidence = await world.inject(Partition("one-way", (("n1", "n2"),), mode="reject"))
        assert evidence.verified
        assert await connects(world, "n1", "n2") == "refused"
        assert await connects(world, "n3", "n2") == "connected"

    run(play())


def test_rules_of_others_outlive_a_partition_and_its_healing(world: DockerWorld, run: Run[Any]) -> None:
    async def play() -> None:
        node = inside(world, "n1")
        shell = node.shell
        table = node.tables.four
        added = await shell.run(
            f"{table} -N OTHERS && {table} -A OTHERS -p icmp -j DROP && {table} -A INPUT -j OTHERS"
        )
        assert added.status == 0, added
        before = (await shell.run(f"{table} -S")).output
        await world.inject(Partition("isolate", across(("n1",))))
        during = (await shell.run(f"{table} -S")).output
        await world.inject(HealPartition())
        after = (await shell.run(f"{table} -S")).output
        assert before == after
        assert {line for line in during.splitlines() if links.CHAIN not in line} <= set(before.splitlines())
        assert during.count(f"-A {links.CHAIN}") == 4

    run(play())


def test_a_killed_store_is_gone_and_comes_back_with_its_data(world: DockerWorld, run: Run[Any]) -> None:
    async def play() -> None:
        await until(world, "n3", put("kept", "?w=3"), {200, 204})
        killed = await world.inject(Kill(("n1", "n2")))
        assert killed.verified
        assert killed.before == {"n1": "runs", "n2": "runs"}
        assert killed.after == {"n1": "gone, port refuses", "n2": "gone, port refuses"}
        with pytest.raises(Refused):
            await ask(world, "n1", PING)
        assert await ask(world, "n3", PING) == 200
        restarted = await world.inject(Restart(("n1", "n2", "n3")))
        assert restarted.verified
        assert restarted.before == {"n1": "gone", "n2": "gone", "n3": "runs"}
        assert restarted.after == {"n1": "answers", "n2": "answers", "n3": "runs"}
        await until(world, "n1", get("kept"), {200})
        assert "start 2" in world.logs()["n1"]

    run(play())


def test_killing_the_dead_proves_nothing(world: DockerWorld, run: Run[Any]) -> None:
    async def play() -> None:
        assert (await world.inject(Kill(("n4",)))).verified
        assert not (await world.inject(Kill(("n4",)))).verified
        assert not (await world.inject(Pause(("n4",)))).verified

    run(play())


def test_a_paused_store_is_silent_and_answers_once_it_goes_on(world: DockerWorld, run: Run[Any]) -> None:
    async def play() -> None:
        kept = world.transport("n5", client="test")
        assert b" 200 " in await kept.request(PING, HALF_A_SECOND_NS)
        paused = await world.inject(Pause(("n5",)))
        assert paused.verified
        assert (paused.before, paused.after) == ({"n5": "runs"}, {"n5": "stopped"})
        with pytest.raises(Silence):
            await kept.request(PING, HALF_A_SECOND_NS)
        resumed = await world.inject(Resume(("n5",)))
        assert resumed.verified
        assert (resumed.before, resumed.after) == ({"n5": "stopped"}, {"n5": "runs"})
        assert b" 200 " in await kept.request(PING, 3_000_000_000)
        kept.close()

    run(play())


def test_kill_reaches_a_paused_store(world: DockerWorld, run: Run[Any]) -> None:
    async def play() -> None:
        await world.inject(Pause(("n2",)))
        assert (await world.inject(Kill(("n2",)))).verified

    run(play())


def test_a_broken_shell_is_opened_again_and_the_store_outlives_it(world: DockerWorld, run: Run[Any]) -> None:
    async def play() -> None:
        node = inside(world, "n1")
        shell = node.shell
        first = (await shell.run("echo $$")).output
        with pytest.raises(Exception, match="more than"):
            await shell.run("sleep 5", timeout_s=0.1)
        second = (await shell.run("echo $$")).output
        assert first != second
        assert await node.state() == "runs"
        assert await ask(world, "n1", PING) == 200
        assert (await world.inject(Partition("isolate", across(("n1",))))).verified

    run(play())


def test_a_command_cannot_fake_its_own_end(world: DockerWorld, run: Run[Any]) -> None:
    async def play() -> None:
        shell = inside(world, "n1").shell
        reply = await shell.run(
            "printf '\\nffffffffffffffffffffffffffffffff 0\\nno newline'; echo oops >&2; (exit 7)"
        )
        assert reply.status == 7
        assert reply.output == "\nffffffffffffffffffffffffffffffff 0\nno newlineoops\n"

    run(play())


@pytest.mark.parametrize("fault", [Skew({"n1": 5}), ResetClocks(), PowerLoss(("n1",))])
def test_what_cannot_be_done_is_refused_with_a_remedy(
    world: DockerWorld, run: Run[Any], fault: Skew | ResetClocks | PowerLoss
) -> None:
    with pytest.raises(Unsupported, match="--world sim"):
        run(world.inject(fault))


def test_support_names_the_mechanism_of_every_fault_that_works(world: DockerWorld) -> None:
    assert all(world.support(family).mechanism for family in ("partition", "kill", "pause"))
    assert all(world.support(family).remedy for family in ("clock", "power"))


def test_a_node_that_dies_at_once_is_reported_with_its_last_words(tmp_path: Any) -> None:
    world = stub_world(tmp_path, "n1", program="raise SystemExit('the disk is on fire')")
    with pytest.raises(NotReady, match=r"n1 does not answer .*the disk is on fire"):
        world.run(world.start())


def test_a_restart_that_fails_is_not_verified(tmp_path: Any) -> None:
    once = (
        "import os\nif os.path.exists('/tmp/once'): raise SystemExit('only once')\nopen('/tmp/once', 'w')\n"
    )
    world = stub_world(tmp_path, "n1", program=once + ANSWERS_PINGS)

    async def play() -> None:
        await world.start()
        assert (await world.inject(Kill(("n1",)))).verified
        evidence = await world.inject(Restart(("n1",)))
        assert not evidence.verified
        assert evidence.after == {"n1": "does not answer; its log ends: only once"}

    world.run(play())


def test_a_cut_that_does_not_bite_is_not_verified(tmp_path: Any) -> None:
    world = stub_world(tmp_path, "n1", "n2", "n3")

    async def play() -> None:
        await world.start()
        n2 = inside(world, "n2")
        await n2.shell.run(f"{n2.tables.four} -I INPUT 1 -p udp -j ACCEPT")
        inert = await world.inject(
            Partition("isolate", (("n1", "n2"), ("n2", "n1"), ("n3", "n2"), ("n2", "n3")))
        )
        assert not inert.verified
        assert inert.after["lost"] == ["n2>n1", "n2>n3"]

    world.run(play())


def test_nodes_that_hear_nothing_at_all_prove_no_partition(tmp_path: Any) -> None:
    world = stub_world(tmp_path, "n1", "n2", "n3")

    async def play() -> None:
        await world.start()
        deaf = [inside(world, name) for name in world.nodes]
        for node in deaf:
            await node.shell.run(
                "; ".join(f"{node.tables.four} -A INPUT -p udp -s {other.address} -j DROP" for other in deaf)
            )
        evidence = await world.inject(Partition("one-way", (("n1", "n2"),)))
        assert evidence.before["carried"] == evidence.after["carried"] == 0
        assert not evidence.verified
        assert not (await world.inject(HealPartition())).verified

    world.run(play())


def test_what_fired_is_the_traffic_of_others_and_not_our_probes(tmp_path: Any) -> None:
    world = stub_world(tmp_path, "n1", "n2", "n3")
    cut = Partition("one-way", (("n1", "n2"),))

    async def play() -> None:
        await world.start()
        await world.inject(cut)
        assert (await world.inject(HealPartition())).fired == 0
        await world.inject(cut)
        for _ in range(3):
            await inside(world, "n1").shell.run(f"echo x >/dev/udp/{world.address('n2')}/9")
        # What one partition caught still counts when another takes its place.
        await world.inject(Partition("one-way", (("n2", "n1"),)))
        await inside(world, "n2").shell.run(f"echo x >/dev/udp/{world.address('n1')}/9")
        assert (await world.inject(HealPartition())).fired == 4
        assert (await world.inject(HealPartition())).fired == 0

    world.run(play())


def test_ipv6_is_cut_together_with_ipv4(tmp_path: Any) -> None:
    world = stub_world(tmp_path, "n1", "n2", "n3", ipv6=True)
    listens = "grep -q ':1F4A .*:0000 0A' /proc/net/tcp6"
    listen = "import socket; socket.create_server(('::', 8010), family=socket.AF_INET6).accept()"

    async def sh(node: str, command: str) -> Reply:
        return await inside(world, node).shell.run(command)

    async def settled(node: str) -> str:
        """The node's link-local address, once the kernel has made sure that nobody else has it (flag 0x40)."""
        await sh(node, "while grep -q -E ' [4c]0 +eth0' /proc/net/if_inet6; do sleep 0.05; done")
        addresses = (await sh(node, "cat /proc/net/if_inet6")).output.splitlines()
        digits = next(
            line.split()[0] for line in addresses if line.startswith("fe80") and line.endswith("eth0")
        )
        return ":".join(digits[index : index + 4] for index in range(0, 32, 4))

    async def reaches(source: str, destination: str, address: str) -> bool:
        await sh(
            destination,
            f'( timeout 5 python3 -c "{listen}" >/dev/null 2>&1 & ); until {listens}; do sleep 0.02; done',
        )
        connect = f"import socket; socket.create_connection(('{address}%eth0', 8010), 0.5)"
        reached = (await sh(source, f'python3 -c "{connect}"')).status == 0
        await sh(destination, f"pkill -f create_server; while {listens}; do sleep 0.02; done")
        return reached

    async def play() -> None:
        await world.start()
        addresses = {node: await settled(node) for node in world.nodes}
        n2 = addresses["n2"]
        assert await reaches("n1", "n2", n2)
        assert (await world.inject(Partition("one-way", (("n1", "n2"),)))).verified
        assert not await reaches("n1", "n2", n2)
        assert await reaches("n3", "n2", n2)
        assert (await world.inject(HealPartition())).verified
        assert await reaches("n1", "n2", n2)

    world.run(play())
