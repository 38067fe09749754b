"""The real network between nodes, in one process: order, loss, limits, and peers that stall or lie."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import pytest
from node_processes import free_ports

from store.config import Config
from store.server import peers as way
from store.server.greeting import PROTOCOL_VERSION, Frames, Greeting, Welcome
from store.server.peers import Incoming, RealNetwork


class Side:
    """One node's network, with what it received and logged."""

    def __init__(self, name: str, ports: dict[str, int], **settings: Any) -> None:
        self.port = ports[name]
        self.received: list[tuple[str, bytes]] = []
        self.logged: list[str] = []
        peers = {peer: f"127.0.0.1:{port}" for peer, port in ports.items()}
        config = Config(node=name, peers=peers, **settings)
        self.net = RealNetwork(config, asyncio.get_running_loop(), self.logged.append)
        self.net.on_message(lambda src, frame: self.received.append((src, frame)))
        self._listener: asyncio.Server | None = None

    async def listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: Incoming(self.net), "127.0.0.1", self.port)

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self.net.close()


class Stranger(asyncio.Protocol):
    """A listener in the place of a peer: greets, gives the answer it was made with, keeps what it hears."""

    def __init__(self, welcome: Welcome | None, *, reads: bool = True) -> None:
        self._welcome = welcome
        self._reads = reads
        self._frames = Frames(1 << 20)
        self.heard: list[bytes] = []
        self.greeted = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.greeted += 1
        self._send(Greeting(PROTOCOL_VERSION, b"nonce"))

    def data_received(self, data: bytes) -> None:
        for frame in self._frames.feed(data):
            self.heard.append(frame)
            if len(self.heard) == 1 and self._welcome is not None:
                self._send(self._welcome)
                if not self._reads:
                    self.transport.pause_reading()

    def _send(self, message: Any) -> None:
        content = msgspec.msgpack.encode(message)
        self.transport.write(struct.pack(">I", len(content)) + content)


async def until(condition: Callable[[], bool], meanwhile: Callable[[], None] = lambda: None) -> None:
    async with asyncio.timeout(20):
        while not condition():
            meanwhile()
            await asyncio.sleep(0.005)


def run(scene: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scene()
        await asyncio.sleep(0.02)  # closed transports let go of their sockets in the next turns of the loop

    asyncio.run(main())


def ports() -> dict[str, int]:
    return dict(zip("ab", free_ports(2), strict=True))


def test_frames_arrive_in_order_under_their_senders_name_also_at_oneself() -> None:
    async def scene() -> None:
        where = ports()
        a, b = Side("a", where, secret="s"), Side("b", where, secret="s")
        await b.listen()
        frames = [b"%d" % i * i for i in range(200)]
        for frame in frames:
            a.net.send("b", frame)
        a.net.send("a", b"self")
        assert a.received == []
        await until(lambda: len(b.received) == len(frames) and len(a.received) == 1)
        assert b.received == [("a", frame) for frame in frames]
        assert a.received == [("a", b"self")]
        assert (a.net.metrics.frames_sent, b.net.metrics.frames_received) == (200, 200)
        a.close()
        b.close()

    run(scene)


def test_frames_to_a_peer_that_is_away_are_dropped_and_counted_and_said_once() -> None:
    async def scene() -> None:
        where = ports()
        a, b = Side("a", where), Side("b", where)
        await until(lambda: a.net.metrics.frames_dropped >= 20, lambda: a.net.send("b", b"lost"))
        assert len(a.logged) == 1
        assert a.logged[0].startswith(f"no connection to b at 127.0.0.1:{where['b']}: ")
        await b.listen()
        await until(lambda: ("a", b"found") in b.received, lambda: a.net.send("b", b"found"))
        assert a.logged[1:] == [f"connected to b at 127.0.0.1:{where['b']}"]
        a.net.send("nobody", b"x")
        a.close()
        b.close()

    run(scene)


def test_a_peer_that_dials_in_is_dialled_back_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(way, "REDIAL_SECONDS_MIN", 3_600.0)

    async def scene() -> None:
        where = ports()
        a, b = Side("a", where), Side("b", where)
        await a.listen()
        await until(lambda: a.net.metrics.frames_dropped > 0, lambda: a.net.send("b", b"lost"))
        await b.listen()
        b.net.send("a", b"hello")
        await until(lambda: a.received == [("b", b"hello")])
        a.net.send("b", b"welcome back")
        await until(lambda: b.received == [("a", b"welcome back")])
        a.close()
        b.close()

    run(scene)


def test_the_queue_to_a_peer_that_never_answers_is_bounded() -> None:
    async def scene() -> None:
        where = ports()
        a = Side("a", where, frame_bytes_max=1 << 20)
        stranger = Stranger(None)
        listener = await asyncio.get_running_loop().create_server(lambda: stranger, "127.0.0.1", where["b"])
        for _ in range(100):
            a.net.send("b", bytes(1 << 20))
        assert a.net.metrics.frames_dropped in range(80, 90)
        await until(lambda: stranger.greeted == 1)
        assert (a.net.metrics.frames_sent, len(stranger.heard) <= 1) == (0, True)
        a.close()
        listener.close()

    run(scene)


def test_a_connection_that_stands_still_is_given_up_and_dialled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(way, "STALL_SECONDS_MAX", 0.3)

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        where = ports()
        a = Side("a", where)
        strangers: list[Stranger] = []

        def accept() -> Stranger:
            strangers.append(Stranger(Welcome(b""), reads=False))
            return strangers[-1]

        listener = await loop.create_server(accept, "127.0.0.1", where["b"])

        def press() -> None:
            a.net.send("b", bytes(1 << 16))
            a.net.sweep(loop.time())

        await until(lambda: len(strangers) >= 2, press)
        assert a.net.metrics.connections_lost >= 1
        a.close()
        listener.close()
        for stranger in strangers:
            stranger.transport.abort()

    run(scene)


def test_a_listener_that_does_not_know_the_secret_gets_no_frame() -> None:
    async def scene() -> None:
        where = ports()
        a = Side("a", where, secret="s")
        stranger = Stranger(Welcome(b"forged"))
        listener = await asyncio.get_running_loop().create_server(lambda: stranger, "127.0.0.1", where["b"])
        a.net.send("b", b"confidential")
        await until(lambda: a.net.metrics.bad_frames == 1)
        assert a.logged[0] == "closing the connection to b: it does not know the shared secret"
        assert (len(stranger.heard), a.net.metrics.frames_sent) == (1, 0)
        await until(lambda: a.net.metrics.frames_dropped == 1)
        a.close()
        listener.close()

    run(scene)


def test_a_stranger_that_says_nothing_is_hung_up_on() -> None:
    async def scene() -> None:
        where = ports()
        b = Side("b", where)
        await b.listen()
        reader, writer = await asyncio.open_connection("127.0.0.1", where["b"])
        await until(lambda: len(b.net.incoming) == 1)
        now = asyncio.get_running_loop().time()
        b.net.sweep(now + way.GREETING_SECONDS_MAX - 1)
        assert len(b.net.incoming) == 1
        b.net.sweep(now + way.GREETING_SECONDS_MAX + 1)
        await until(lambda: len(b.net.incoming) == 0)
        await reader.read()  # ends with the connection
        writer.close()
        b.close()

    run(scene)
