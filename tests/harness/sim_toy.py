"""A toy replicated counter for the simulator's scenes: writes to every peer, synced before it is acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from harness.sim.world import SimWorld
from harness.world import Refused, Silence
from store.runtime import Runtime

NODES = ("n1", "n2", "n3")
OK = b"HTTP/1.1 200 OK\r\n\r\n"
SECOND = 1_000_000_000
MS = 1_000_000


class Toy:
    """`GET /ping`, `PUT /x` (to all nodes, answered when two have it on disk), `GET /wall`, `GET /mono`, `GET /seen`."""

    def __init__(self, name: str, runtime: Runtime) -> None:
        self.name = name
        self.runtime = runtime
        self.peers = NODES
        self.seen: list[tuple[str, bytes]] = []
        self._next = 0
        self._open: dict[bytes, list[Any]] = {}

    async def start(self) -> None:
        disk = self.runtime.disk
        disk.append("log", b"")
        await disk.fsync("log")
        await disk.fsync_dir()
        self.runtime.net.on_message(self.received)
        self.runtime.spawn(self._chatter(), name="chatter")
        self.runtime.log(f"serving with {disk.size('log')} bytes")

    async def _chatter(self) -> None:
        beat = 0
        while True:
            beat += 1
            peer = self.peers[self.runtime.draw("peer", beat) % len(self.peers)]
            self.runtime.net.send(peer, b"B%d" % beat)
            await self.runtime.sleep(100 * MS + self.runtime.draw("beat", beat) % (50 * MS))

    def received(self, src: str, frame: bytes) -> None:
        self.seen.append((src, frame))
        if frame[:1] == b"W":
            self.runtime.spawn(self._write(src, frame), name="write")
        elif frame[:1] == b"A" and frame[1:] in self._open:
            waiting = self._open[frame[1:]]
            waiting[0] += 1
            if waiting[0] == 2:
                del self._open[frame[1:]]
                waiting[2].cancel()
                waiting[1].set_result(True)

    async def _write(self, src: str, frame: bytes) -> None:
        self.runtime.disk.append("log", frame)
        await self.runtime.disk.fsync("log")
        self.runtime.net.send(src, b"A" + frame[1:])

    async def http(self, request: bytes) -> bytes:
        match request.split(b" ")[1]:
            case b"/ping":
                return OK
            case b"/wall":
                return OK + b"%d" % self.runtime.clock.wall_ns()
            case b"/mono":
                return OK + b"%d" % self.runtime.clock.mono_ns()
            case b"/seen":
                return OK + repr(self.seen).encode()
            case b"/raise":
                raise LookupError("the toy was asked to break")
            case _:
                return await self._put()

    async def _put(self) -> bytes:
        self._next += 1
        id = f"{self.name}.{self._next}".encode()
        done = self.runtime.future()
        timer = self.runtime.call_later(SECOND, done.set_result, False)
        self._open[id] = [0, done, timer]
        for peer in self.peers:
            self.runtime.net.send(peer, b"W" + id)
        return OK if await done else b"HTTP/1.1 503 Unavailable\r\n\r\n"


def world(
    build: Callable[[str, Runtime], Any] = Toy,
    *,
    seed: int = 1,
    nodes: tuple[str, ...] = NODES,
    **options: Any,
) -> SimWorld:
    return SimWorld(nodes, seed, build, **options)


def play(world: SimWorld, scene: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Starts the world, plays the scene, and ends the world."""

    async def main() -> Any:
        await world.start()
        return await scene()

    return world.run(main())


async def ask(
    world: SimWorld, node: str, path: str = "/x", *, client: str = "0", timeout_ns: int = 2 * SECOND
) -> str:
    """The body of the answer, or its status, or the name of what went wrong."""
    transport = world.transport(node, client=client)
    try:
        response = await transport.request(f"GET {path} HTTP/1.1\r\n\r\n".encode(), timeout_ns)
    except (Refused, Silence) as problem:
        return type(problem).__name__
    body = response.partition(b"\r\n\r\n")[2].decode()
    return body or response[9:12].decode()
