"""The same scenes in every world: what a fault does to clients does not depend on how it is made."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from cluster import SECOND, Cluster

import store
from harness.docker.engine import DockerTrouble
from harness.docker.image import build
from harness.docker.world import DockerWorld
from harness.sim.world import SimWorld
from harness.world import Refused, Silence, Unsupported, World
from nemeses import partition
from nemeses.fault import HealPartition, Kill, Partition, Pause, Restart, Resume, Skew
from store.config import Config
from store.node import Node

NODES = ("n1", "n2", "n3", "n4", "n5")

Play = Callable[[Callable[[Cluster], Awaitable[None]]], None]


def _simulated(folder: Path) -> World:
    peers = dict.fromkeys(NODES, "")
    return SimWorld(NODES, 1, lambda node, runtime: Node(Config(node=node, peers=peers), runtime))


def _contained(folder: Path) -> World:
    if os.environ.get("SUNDER_NO_DOCKER") == "1":
        pytest.skip("SUNDER_NO_DOCKER=1")
    try:
        image = build()
    except DockerTrouble as trouble:
        if os.environ.get("SUNDER_REQUIRE_DOCKER") == "1":
            pytest.fail(f"SUNDER_REQUIRE_DOCKER=1, but: {trouble}")
        pytest.skip(str(trouble))

    def config(node: str, addresses: dict[str, str]) -> bytes:
        peers = {name: f"{address}:8001" for name, address in addresses.items()}
        return msgspec.json.encode(Config(node=node, peers=peers))

    return DockerWorld(NODES, config, Path(store.__file__).parents[1], image, folder, 1)


@pytest.fixture(
    params=[
        pytest.param(_simulated, id="sim"),
        pytest.param(_contained, id="docker", marks=pytest.mark.docker),
    ]
)
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    world: World = request.param(tmp_path)

    def play(scene: Callable[[Cluster], Awaitable[None]]) -> None:
        async def main() -> None:
            try:
                await world.start()
                await scene(Cluster(world))
            finally:
                await world.stop()

        world.run(main())

    return play


def test_a_home_replica_dies_and_hints_bring_everything_back(play: Play) -> None:
    async def scene(c: Cluster) -> None:
        dead, *alive = await c.homes("k")
        killed = await c.world.inject(Kill((dead,)))
        assert killed.verified
        with pytest.raises(Refused):
            await c.ask(dead, "GET", "/ping")
        assert (await c.ask(alive[0], "PUT", "/kv/b/k", b"v")).status == 204
        back = await c.world.inject(Restart((dead,)))
        assert back.verified
        await c.until(lambda: c.held(dead, "k"), [b"v"])

    play(scene)


def test_two_halves_each_take_writes_and_after_the_heal_both_are_siblings(play: Play) -> None:
    async def scene(c: Cluster) -> None:
        homes = await c.homes("k")
        fallbacks = [n for n in NODES if n not in homes]
        cut = Partition("custom", tuple(sorted(partition.between(homes, fallbacks))))
        assert (await c.world.inject(cut)).verified
        await c.world.sleep(3 * SECOND)
        assert (await c.ask(fallbacks[0], "PUT", "/kv/b/k", b"far")).status == 204
        assert (await c.ask(homes[0], "PUT", "/kv/b/k", b"near")).status == 204
        assert (await c.ask(homes[1], "GET", "/kv/b/k")).values == [b"near"]
        healed = await c.world.inject(HealPartition())
        assert healed.verified
        assert healed.fired
        for home in homes:
            await c.until(lambda home=home: c.held(home, "k"), [b"far", b"near"])

    play(scene)


def test_a_paused_node_is_silent_and_answers_when_it_goes_on(play: Play) -> None:
    async def scene(c: Cluster) -> None:
        assert (await c.world.inject(Pause(("n2",)))).verified
        with pytest.raises(Silence):
            await c.world.transport("n2", client="scene").request(b"GET /ping HTTP/1.1\r\n\r\n", SECOND // 2)
        assert (await c.world.inject(Resume(("n2",)))).verified
        assert (await c.ask("n2", "GET", "/ping")).status == 200

    play(scene)


def test_a_fault_that_changes_nothing_is_not_verified(play: Play) -> None:
    async def scene(c: Cluster) -> None:
        await c.world.inject(Kill(("n3",)))
        assert not (await c.world.inject(Kill(("n3",)))).verified
        await c.world.inject(Restart(("n3",)))

    play(scene)


def test_what_a_world_cannot_do_it_says_and_does_not_skip(play: Play) -> None:
    async def scene(c: Cluster) -> None:
        if c.world.support("clock").mechanism:
            assert (await c.world.inject(Skew({"n1": SECOND}))).verified
        else:
            assert c.world.support("clock").remedy
            with pytest.raises(Unsupported):
                await c.world.inject(Skew({"n1": SECOND}))

    play(scene)


def test_malformed_requests_and_contexts_get_4xx_and_the_node_lives_on(play: Play) -> None:
    async def scene(c: Cluster) -> None:
        for garbage in (
            b"\x00\xff\r\n\r\n",
            b"GET nonsense\r\n\r\n",
            b"PUT /kv/b/k HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        ):
            raw = await c.world.transport("n1", client="scene").request(garbage, SECOND)
            assert raw.startswith(b"HTTP/1.1 4")
        assert (await c.ask("n1", "PUT", "/kv/b/k", b"v", context="garbage")).status == 400
        assert (await c.ask("n1", "GET", "/ping")).status == 200

    play(scene)
