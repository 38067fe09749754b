"""A client for scenes, over the nodes of any world: it says to which node it speaks, and reads what comes back."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from harness.world import World

SECOND = 1_000_000_000


class Reply(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def context(self) -> str:
        return self.headers["x-causal-context"]

    @property
    def values(self) -> list[bytes]:
        if self.status == 300:
            return sorted(b64decode(v) for v in msgspec.json.decode(self.body) if v is not None)
        return [self.body] if self.status == 200 else []


class Cluster:
    """The nodes of a world that has been started."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def ask(
        self, node: str, method: str, path: str, body: bytes = b"", *, context: str = "", head: str = ""
    ) -> Reply:
        more = f"X-Causal-Context: {context}\r\n" if context else ""
        request = (
            f"{method} {path} HTTP/1.1\r\nContent-Length: {len(body)}\r\n{more}{head}\r\n".encode() + body
        )
        transport = self.world.transport(node, client="scene")
        raw = await transport.request(request, 5 * SECOND)
        top, _, rest = raw.partition(b"\r\n\r\n")
        lines = top.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
        return Reply(int(lines[0].split()[1]), headers, rest)

    async def homes(self, key: str) -> list[str]:
        reply = await self.ask("n1", "GET", f"/admin/preference-list/b/{key}")
        return msgspec.json.decode(reply.body)["homes"]

    async def held(self, node: str, key: str) -> list[bytes]:
        reply = await self.ask(node, "GET", f"/admin/replica/b/{key}")
        if reply.status == 404:
            return []
        return sorted(b64decode(v) for v in msgspec.json.decode(reply.body)["values"])

    async def hints(self, node: str) -> list[dict[str, Any]]:
        return msgspec.json.decode((await self.ask(node, "GET", "/admin/hints")).body)

    async def until(self, look: Callable[[], Awaitable[Any]], expected: Any, seconds: int = 20) -> None:
        """Looks until it sees what is expected; fails with what it saw last."""
        seen = await look()
        for _ in range(seconds * 4):
            if seen == expected:
                return
            await self.world.sleep(SECOND // 4)
            seen = await look()
        assert seen == expected
