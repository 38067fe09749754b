"""The way to and from the other nodes: frames over TCP, from connections that are dialled when there is something to say."""

from __future__ import annotations

import asyncio
import hmac
import os
import socket
from collections.abc import Callable
from typing import cast

import msgspec

from store.api import traced
from store.config import Config
from store.metrics import Metrics
from store.runtime import BadMessage
from store.server.complaints import Complaints
from store.server.greeting import (
    GREETING_BYTES_MAX,
    PROTOCOL_VERSION,
    BadFrame,
    Frames,
    Greeting,
    Hello,
    Welcome,
    framed,
    length_of,
    proof_of,
)

GREETING_SECONDS_MAX = 5.0
STRANGERS_MAX = 64
"""Connections that have not said yet who they are. For one more the oldest is hung up on: a peer introduces itself at once."""
INCOMING_MAX = 8
"""Connections from one peer: it uses one, and has more only while it has not noticed that older ones are dead."""
DIAL_SECONDS_MAX = 1.0
STALL_SECONDS_MAX = 2.0
"""A connection to a peer that moves nothing for so long, having something to move, is given up and dialled again."""
REDIAL_SECONDS_MIN = 0.05
REDIAL_SECONDS_MAX = 1.0


def _prepare(transport: asyncio.BaseTransport) -> None:
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


class Incoming(asyncio.Protocol):
    """Frames from one peer, once it has said who it is."""

    def __init__(self, network: RealNetwork) -> None:
        self._network = network
        self._frames = Frames(GREETING_BYTES_MAX)
        self._nonce = os.urandom(16)
        self.since = network.loop.time()
        self._transport: asyncio.Transport
        self.src = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        _prepare(transport)
        network = self._network
        network.incoming.add(self)
        strangers = [connection for connection in network.incoming if not connection.src]
        if len(strangers) > STRANGERS_MAX:
            network.metrics.bad_frames += 1
            oldest = min(strangers, key=lambda connection: connection.since)
            oldest.close(f"{STRANGERS_MAX} others have not said who they are either, and it is the oldest")
        greeting = msgspec.msgpack.encode(Greeting(PROTOCOL_VERSION, self._nonce))
        self._transport.write(framed(greeting))

    def data_received(self, data: bytes) -> None:
        network = self._network
        network.metrics.bytes_received += len(data)
        try:
            frames = self._frames.feed(data)
            if not self.src and frames:
                self._greeted(frames.pop(0))
            network.metrics.frames_received += len(frames)
            network.take(self.src, frames)
        except (BadFrame, BadMessage, msgspec.DecodeError, UnicodeDecodeError) as problem:
            network.metrics.bad_frames += 1
            self.close(str(problem))

    def _greeted(self, frame: bytes) -> None:
        hello = msgspec.msgpack.decode(frame, type=Hello)
        config = self._network.config
        if hello.version != PROTOCOL_VERSION:
            raise BadFrame(f"it speaks version {hello.version}, this node {PROTOCOL_VERSION}")
        if hello.dst != config.node:
            raise BadFrame(f"it was looking for {hello.dst!r}; correct `peers` in its configuration")
        if not self._network.knows(hello.src) and not config.secret:
            raise BadFrame(
                f"it calls itself {hello.src!r}, which is neither in `peers` nor a member of the ring"
            )
        proof = proof_of(config.secret, self._nonce, "hello", hello.src, hello.dst)
        if not hmac.compare_digest(proof, hello.proof):
            raise BadFrame("it does not know the shared secret")
        older = [connection for connection in self._network.incoming if connection.src == hello.src]
        if len(older) >= INCOMING_MAX:
            min(older, key=lambda connection: connection.since).close("it has newer ones")
        self.src = hello.src
        self._frames.bytes_max = config.frame_bytes_max
        welcome = Welcome(proof_of(config.secret, hello.nonce, "welcome", hello.dst, hello.src))
        self._transport.write(framed(msgspec.msgpack.encode(welcome)))
        self._network.heard_from(hello.src)

    def connection_lost(self, exc: Exception | None) -> None:
        self._network.incoming.discard(self)
        if self.src:
            self._network.metrics.connections_lost += 1

    def sweep(self, now: float) -> None:
        if not self.src and now - self.since > GREETING_SECONDS_MAX:
            self.close()

    def close(self, why: str = "") -> None:
        """Hangs up; a reason goes into the log."""
        if why:
            who = self.src or "a stranger"
            self._network.complain(f"closing the connection from {who} at {self._address()}: {why}")
        self._transport.abort()

    def _address(self) -> str:
        peername = self._transport.get_extra_info("peername")
        return f"{peername[0]}:{peername[1]}" if peername else "an unknown address"


class Outgoing(asyncio.Protocol):
    """One connection that this node dialled."""

    def __init__(self, peer: Peer, network: RealNetwork) -> None:
        self._peer = peer
        self._network = network
        self._frames = Frames(GREETING_BYTES_MAX)
        self._nonce = os.urandom(16)
        self._greeted = False
        self.transport: asyncio.Transport
        self.since = network.loop.time()
        self.welcomed = False
        self.writable = True
        self.handed_bytes = 0
        self.moved_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        _prepare(transport)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALL_SECONDS_MAX * 1000))
        self._peer.connected(self)

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._frames.feed(data):
                self._answered(frame)
        except (BadFrame, msgspec.DecodeError, UnicodeDecodeError) as problem:
            self._network.metrics.bad_frames += 1
            self._network.complain(f"closing the connection to {self._peer.name}: {problem}")
            self.transport.abort()

    def _answered(self, frame: bytes) -> None:
        src, dst, secret = self._network.config.node, self._peer.name, self._network.config.secret
        if self.welcomed:
            raise BadFrame("frames go from the dialling side only")
        if not self._greeted:
            greeting = msgspec.msgpack.decode(frame, type=Greeting)
            if greeting.version != PROTOCOL_VERSION:
                raise BadFrame(f"it speaks version {greeting.version}, this node {PROTOCOL_VERSION}")
            self._greeted = True
            proof = proof_of(secret, greeting.nonce, "hello", src, dst)
            hello = Hello(PROTOCOL_VERSION, src, dst, self._nonce, proof)
            self.transport.write(framed(msgspec.msgpack.encode(hello)))
            return
        welcome = msgspec.msgpack.decode(frame, type=Welcome)
        if not hmac.compare_digest(welcome.proof, proof_of(secret, self._nonce, "welcome", dst, src)):
            raise BadFrame("it does not know the shared secret")
        self.welcomed = True
        self._peer.welcomed()

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self._peer.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._peer.disconnected(self, str(exc) if exc else "closed by the other side")


class Peer:
    """The way to one peer: a bounded queue, and the connection that empties it, dialled when there is something to say.

    Frames that cannot be sent now are dropped, not kept: whoever sent them has a time limit of its own.
    """

    def __init__(self, name: str, address: str, network: RealNetwork) -> None:
        self.name = name
        self.address = address
        self._network = network
        self._queue: list[bytes] = []
        self._queue_bytes = 0
        self._frame_bytes_max = network.config.frame_bytes_max
        self._queue_bytes_max = max(16 << 20, 2 * network.config.frame_bytes_max)
        self._flush_due = False
        self._connection: Outgoing | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._rest_seconds = REDIAL_SECONDS_MIN
        self._rest_until = 0.0
        self._mourned = False
        self._met = False
        """Whether a connection has ever stood."""

    def send(self, frame: bytes) -> None:
        size = len(frame)
        if size > self._frame_bytes_max:
            # The other side would close the connection over it, and lose what else was on its way.
            self._network.metrics.frames_dropped += 1
            self._network.complain(
                f"a frame of {size} bytes to {self.name} is over `frame_bytes_max`, and not sent"
            )
            return
        self._queue_bytes += size + 4
        if self._queue_bytes > self._queue_bytes_max:
            self._queue_bytes -= size + 4
            self._network.metrics.frames_dropped += 1
            return
        self._queue += (length_of(size), frame)
        if not self._flush_due:
            self._flush_due = True
            self._network.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Hands over everything queued in one write; once per turn of the loop."""
        self._flush_due = False
        connection = self._connection
        if connection is None:
            if self._queue and self._dialling is None:
                if self._network.loop.time() < self._rest_until:
                    self._drop()
                else:
                    self._dialling = self._network.loop.create_task(self._dial())
        elif connection.welcomed and connection.writable and self._queue:
            metrics = self._network.metrics
            metrics.frames_sent += len(self._queue) >> 1
            metrics.bytes_sent += self._queue_bytes
            connection.handed_bytes += self._queue_bytes
            connection.transport.write(b"".join(self._queue))
            self._queue.clear()
            self._queue_bytes = 0

    def _drop(self) -> None:
        self._network.metrics.frames_dropped += len(self._queue) >> 1
        self._queue.clear()
        self._queue_bytes = 0

    async def _dial(self) -> None:
        host, port = split_address(self.address)
        loop = self._network.loop
        try:
            async with asyncio.timeout(DIAL_SECONDS_MAX):
                await loop.create_connection(lambda: Outgoing(self, self._network), host, port)
        except OSError as problem:  # TimeoutError is one
            self._failed(problem.strerror or "no answer")
        finally:
            self._dialling = None

    def _failed(self, why: str) -> None:
        self._drop()
        self._rest_until = self._network.loop.time() + self._rest_seconds
        self._rest_seconds = min(2 * self._rest_seconds, REDIAL_SECONDS_MAX)
        if not self._mourned and not self._network.closing:
            self._mourned = True
            self._network.log(f"no connection to {self.name} at {self.address}: {why}; trying again")

    def connected(self, connection: Outgoing) -> None:
        self._connection = connection

    def welcomed(self) -> None:
        self._rest_seconds = REDIAL_SECONDS_MIN
        if self._mourned:
            self._mourned = False
            again = " again" if self._met else ""
            self._network.log(f"connected to {self.name} at {self.address}{again}")
        self._met = True
        self.flush()

    def disconnected(self, connection: Outgoing, why: str) -> None:
        if connection is self._connection:
            self._connection = None
            self._network.metrics.connections_lost += 1
            self._failed(why if connection.welcomed else f"{why} during the greeting; its log may say more")

    def alive(self) -> None:
        """The peer dialled us: it is worth dialling it at once."""
        self._rest_seconds = REDIAL_SECONDS_MIN
        self._rest_until = 0.0

    def sweep(self, now: float) -> None:
        connection = self._connection
        if connection is None:
            return
        moved = connection.handed_bytes - connection.transport.get_write_buffer_size()
        waiting = moved < connection.handed_bytes or not connection.welcomed
        if not waiting or moved != connection.moved_bytes:
            connection.moved_bytes, connection.since = moved, now
        elif now - connection.since > STALL_SECONDS_MAX:
            connection.transport.abort()

    def close(self) -> None:
        if self._dialling is not None:
            self._dialling.cancel()
        if self._connection is not None:
            self._connection.transport.close()


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`. Raises ValueError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError(f"{address!r} is not host:port")
    return host.strip("[]"), int(port)


class RealNetwork:
    """Frames between the nodes of the ring over TCP."""

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop, log: Callable[[str], None]) -> None:
        self.config = config
        self.loop = loop
        self.log = log
        self.metrics = Metrics()
        """Where to count; the node's own, once there is a node."""
        self.handler: Callable[[str, bytes], None] = lambda src, frame: None
        self.incoming: set[Incoming] = set()
        self.complain = Complaints(log, loop.time)
        self.closing = False
        self._peers = {
            name: Peer(name, address, self) for name, address in config.peers.items() if name != config.node
        }

    def send(self, dst: str, frame: bytes) -> None:
        peer = self._peers.get(dst)
        if peer is not None:
            peer.send(frame)
        elif dst == self.config.node:
            self.loop.call_soon(self._take_own, frame)
        else:
            self.metrics.frames_dropped += 1

    def knows(self, node: str) -> bool:
        """Whether a node may be let in by its name alone. Others may where they prove to know a secret: to ask to join."""
        return node in self.config.peers or node in self._peers

    def meet(self, node: str, address: str) -> None:
        known = self._peers.get(node)
        if node != self.config.node and address and (known is None or known.address != address):
            self._peers[node] = Peer(node, address, self)
            if known is not None:
                known.close()

    def forget(self, node: str) -> None:
        known = self._peers.pop(node, None)
        if known is not None:
            known.close()

    def on_message(self, handler: Callable[[str, bytes], None]) -> None:
        self.handler = handler

    def take(self, src: str, frames: list[bytes]) -> None:
        """Hands frames to the node. Raises BadMessage at the first that is no message; what came before it counts."""
        handler = self.handler
        for frame in frames:
            try:
                handler(src, frame)
            except BadMessage:
                raise
            except Exception as problem:
                # A bug of ours: it costs this frame, and no other.
                self.log(f"bug in taking a frame from {src}: {traced(problem)}")

    def _take_own(self, frame: bytes) -> None:
        self.take(self.config.node, [frame])

    def heard_from(self, src: str) -> None:
        if src in self._peers:
            self._peers[src].alive()

    def sweep(self, now: float) -> None:
        for peer in self._peers.values():
            peer.sweep(now)
        for connection in list(self.incoming):
            connection.sweep(now)

    def close(self) -> None:
        self.closing = True
        for peer in self._peers.values():
            peer.close()
        for connection in list(self.incoming):
            connection.close()
