"""A cluster with spare nodes, for scenes in which the ring changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from cluster import SECOND, Cluster

from harness.sim.world import SimWorld
from store.config import Config
from store.node import Node

MEMBERS = ("n1", "n2", "n3", "n4", "n5")
SPARES = ("n6", "n7")
ALL = (*MEMBERS, *SPARES)


class Ringed(Cluster):
    """Five members and two spares; says what each node knows of the ring."""

    async def ring(self, node: str) -> dict[str, Any]:
        return msgspec.json.decode((await self.ask(node, "GET", "/admin/ring")).body)

    async def change(self, node: str, kind: str, **body: str) -> int:
        return (await self.ask(node, "POST", f"/admin/{kind}", msgspec.json.encode(body))).status

    async def known(self, *nodes: str) -> set[tuple[int, str, tuple[str, ...]]]:
        """(epoch, phase, members), as each node knows them."""
        rings = [await self.ring(node) for node in nodes or ALL]
        return {(r["epoch"], r["phase"], tuple(r["nodes"])) for r in rings}

    async def settled(self, epoch: int, members: tuple[str, ...], *nodes: str, seconds: int = 30) -> None:
        """Waits until the nodes know the ring of this epoch, with these members and no change in progress."""
        await self.until(lambda: self.known(*nodes), {(epoch, "settled", members)}, seconds)

    async def phase(self, node: str, phase: str) -> None:
        """Waits until the node is in this phase: looks often, since phases are short."""
        for _ in range(20_000):
            if (await self.ring(node))["phase"] == phase:
                return
            await self.world.sleep(1_000_000)
        raise AssertionError(f"{node} never was {phase}: {await self.ring(node)}")

    async def fill(self, count: int, *, via: str = "n1") -> None:
        for i in range(count):
            assert (await self.ask(via, "PUT", f"/kv/b/k{i}", b"v%d" % i)).status == 204

    async def unheld(self, count: int, nodes: tuple[str, ...], *, via: str = "n1") -> list[tuple[str, str]]:
        """(key, home replica) wherever a home replica does not hold the value that was put, by the ring of `via`; and
        (key, node) wherever another of the nodes holds any."""
        held = {
            node: msgspec.json.decode((await self.ask(node, "GET", "/admin/replica/b")).body)
            for node in nodes
        }
        wrong: list[tuple[str, str]] = []
        for i in range(count):
            reply = await self.ask(via, "GET", f"/admin/preference-list/b/k{i}")
            homes = msgspec.json.decode(reply.body)["homes"]
            wrong += [(f"k{i}", n) for n in nodes if (n in homes) != (f"k{i}" in held[n])]
        return wrong


def play(scene: Callable[[Ringed], Awaitable[None]], seed: int = 1, **settings: Any) -> dict[str, str]:
    """Plays a scene on five fresh members and two spares; the nodes' logs."""

    def build(node: str, runtime: Any) -> Node:
        return Node(Config(node=node, peers=dict.fromkeys(ALL, ""), members=MEMBERS, **settings), runtime)

    world = SimWorld(ALL, seed, build)

    async def main() -> None:
        await world.start()
        try:
            await scene(Ringed(world))
        finally:
            await world.stop()

    world.run(main())
    logs = world.logs()
    assert "Traceback" not in "".join(logs.values()), logs
    return logs


__all__ = ["ALL", "MEMBERS", "SECOND", "SPARES", "Ringed", "play"]
