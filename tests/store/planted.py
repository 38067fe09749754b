"""Nodes of a simulated world within reach of a scene: it plants records in single ones, and looks at what they hold."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from cluster import Cluster

from harness.sim.world import SimWorld
from store import versions
from store.config import Config
from store.node import Node
from store.versions import Record, Version

NODES = ("n1", "n2", "n3")
OFF: dict[str, Any] = {"hinted_handoff": False, "read_repair": "off", "sloppy": False, "w": 1, "r": 1}


class Nodes:
    """The nodes of a simulated world, each within reach: scenes plant records in them, and look."""

    def __init__(self, **settings: Any) -> None:
        self.settings: dict[str, Any] = {"anti_entropy_interval_ms": 1_000, **OFF, **settings}
        self.own: dict[str, dict[str, Any]] = {}
        """Settings of single nodes."""
        self.by_name: dict[str, Node] = {}
        self.world = SimWorld(NODES, 1, self._build)

    def _build(self, node: str, runtime: Any) -> Node:
        settings = {**self.settings, **self.own.get(node, {})}
        self.by_name[node] = Node(Config(node=node, peers=dict.fromkeys(NODES, ""), **settings), runtime)
        return self.by_name[node]

    def __getitem__(self, name: str) -> Node:
        return self.by_name[name]

    def play(self, scene: Callable[[Cluster], Awaitable[None]]) -> None:
        async def main() -> None:
            await self.world.start()
            try:
                await scene(Cluster(self.world))
            finally:
                await self.world.stop()

        self.world.run(main())

    def plant(self, name: str, numbers: range, body: bytes = b"v", counter: int = 1, actor: int = 7) -> None:
        for i in numbers:
            self[name].replica.join(b"b/k%d" % i, record(body, counter, actor))

    def exchange(self, name: str, peer: str, token_range: int = 0) -> asyncio.Future[bool]:
        """Begins one exchange as a task of the node's present life."""
        done: asyncio.Future[bool] = self.world.future()

        async def run() -> None:
            done.set_result(await self[name].anti_entropy.exchange(peer, token_range))

        self[name].runtime.spawn(run(), name="exchange")
        return done

    def held(self, name: str) -> dict[bytes, bytes]:
        return dict(self[name].replica.items())

    @property
    def agree(self) -> bool:
        return self.held("n1") == self.held("n2") == self.held("n3")


def record(body: bytes, counter: int = 1, actor: int = 7) -> bytes:
    return versions.encode(Record(((actor, counter, 0),), (Version(actor, counter, 0, body),)))
