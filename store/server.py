"""The real world's side of the facade: sockets, a data directory, the machine's clocks. Node code runs on it unchanged.

    clients --HTTP/1.1--> HttpConnection --Request--> Node --Runtime--> Disk      one directory, one fsync thread
                                                              |    ---> Network   one outgoing connection per peer

A connection between nodes carries frames one way, from the node that dialled it. It begins with a greeting:

    listener: Greeting(version, nonce)    dialler: Hello(version, src, dst, nonce, proof)    listener: Welcome(proof)

Each proof is an HMAC by the shared secret over the other side's nonce, so a stranger can neither speak nor listen, and
an old greeting is worth nothing. It keeps strangers out; it does not encrypt what follows.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import hmac
import os
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, cast

import msgspec
import uvloop

from store.api import BadRequest, Request, RequestParser, encode_error
from store.config import Config
from store.metrics import Metrics
from store.node import Node
from store.runtime import DiskError

PROTOCOL_VERSION = 1

GREETING_BYTES_MAX = 4_096
GREETING_SECONDS_MAX = 5.0
DIAL_SECONDS_MAX = 1.0
STALL_SECONDS_MAX = 2.0
"""A connection to a peer that moves nothing for so long, having something to move, is given up and dialled again."""
REDIAL_SECONDS_MIN = 0.05
REDIAL_SECONDS_MAX = 1.0

REQUEST_SECONDS_MAX = 20.0
"""From a request's first byte to its last."""
IDLE_SECONDS_MAX = 120.0
LINGER_SECONDS_MAX = 2.0
"""How long a client that was told that we close may take to close its side: closing first could cost it the reply."""
PIPELINE_MAX = 256
"""Requests of one connection in flight before no more are read."""
DRAIN_SECONDS_MAX = 5.0
SWEEP_SECONDS = 0.5

BUG = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"


class CannotServe(Exception):
    """This node cannot start here; the message says why and what to do."""


class RealClock:
    """The machine's own clocks."""

    mono_ns = staticmethod(time.monotonic_ns)
    wall_ns = staticmethod(time.time_ns)


class RealDisk:
    """A directory, locked against a second process for the life of this one. Raises CannotServe, later DiskError."""

    def __init__(self, directory: str, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._fds: dict[str, int] = {}
        self._refused: dict[str, str] = {}
        # One worker: fsyncs of one disk only get in each other's way, and closes queue up behind them.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fsync")
        try:
            os.makedirs(directory, exist_ok=True)
            self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as problem:
            raise CannotServe(
                f"cannot use the data directory {directory}: {problem.strerror}; name another in `directory`"
            ) from problem
        try:
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CannotServe(
                f"another process uses the data directory {directory}; stop it, or name another in `directory`"
            ) from None

    def names(self) -> list[str]:
        with os.scandir(self._directory) as entries:
            return sorted(entry.name for entry in entries if entry.is_file())

    def size(self, name: str) -> int:
        try:
            return os.fstat(self._fd(name)).st_size
        except OSError as problem:
            raise self._error("cannot stat", name, problem) from problem

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        try:
            fd = self._fd(name)
            missing = os.fstat(fd).st_size - offset if size < 0 else size
            parts: list[bytes] = []
            while missing > 0 and (part := os.pread(fd, missing, offset)):
                parts.append(part)
                offset += len(part)
                missing -= len(part)
        except OSError as problem:
            raise self._error("cannot read", name, problem) from problem
        return b"".join(parts)

    def append(self, name: str, content: bytes) -> None:
        self._check(name)
        written = 0
        try:
            fd = self._fds.get(name) or self._fd(name, os.O_CREAT)
            written = os.write(fd, content)
            # A short write is rare: the disk is full, or content passes 2 GB.
            while written < len(content):
                written += os.write(fd, content[written:])
        except OSError as problem:
            if written:
                self._refused[name] = "an append was torn"
            raise self._error("cannot append to", name, problem) from problem

    def truncate(self, name: str, size: int) -> None:
        self._check(name)
        try:
            os.ftruncate(self._fd(name), size)
        except OSError as problem:
            raise self._error("cannot truncate", name, problem) from problem

    def rename(self, old: str, new: str) -> None:
        try:
            os.rename(old, new, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except OSError as problem:
            raise self._error("cannot rename", old, problem) from problem
        self._close(new)
        if old in self._fds:
            self._fds[new] = self._fds.pop(old)
        if old in self._refused:
            self._refused[new] = self._refused.pop(old)

    def unlink(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._directory)
        except OSError as problem:
            raise self._error("cannot unlink", name, problem) from problem
        self._close(name)

    async def fsync(self, name: str) -> None:
        self._check(name)
        try:
            await self._loop.run_in_executor(self._thread, os.fdatasync, self._fd(name))
        except OSError as problem:
            # The kernel may have dropped the dirty pages and called them clean: a second fsync would lie.
            self._refused[name] = f"an earlier fsync failed: {problem.strerror}"
            raise self._error("cannot fsync", name, problem) from problem

    async def fsync_dir(self) -> None:
        try:
            await self._loop.run_in_executor(self._thread, os.fsync, self._directory)
        except OSError as problem:
            raise DiskError(f"cannot fsync the directory: {problem.strerror}") from problem

    def close(self) -> None:
        """Makes everything durable that was appended; at the end of a graceful stop."""
        self._thread.shutdown()
        for name, fd in self._fds.items():
            if name not in self._refused:
                os.fsync(fd)
            os.close(fd)
        self._fds.clear()
        os.close(self._directory)

    def _fd(self, name: str, flags: int = 0) -> int:
        fd = self._fds.get(name)
        if fd is None:
            fd = os.open(name, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | flags, 0o644, dir_fd=self._directory)
            self._fds[name] = fd
        return fd

    def _close(self, name: str) -> None:
        self._refused.pop(name, None)
        fd = self._fds.pop(name, None)
        if fd is not None:
            self._thread.submit(os.close, fd)

    def _check(self, name: str) -> None:
        if name in self._refused:
            raise DiskError(f"{name} takes nothing more: {self._refused[name]}")

    def _error(self, what: str, name: str, problem: OSError) -> DiskError:
        return DiskError(f"{what} {name}: {problem.strerror}")


class Greeting(msgspec.Struct, frozen=True, array_like=True):
    version: int
    nonce: bytes


class Hello(msgspec.Struct, frozen=True, array_like=True):
    version: int
    src: str
    dst: str
    nonce: bytes
    proof: bytes


class Welcome(msgspec.Struct, frozen=True, array_like=True):
    proof: bytes


def _proof(secret: str, nonce: bytes, *claims: str) -> bytes:
    if not secret:
        return b""
    return hmac.digest(secret.encode(), msgspec.msgpack.encode([nonce, *claims]), "sha256")


class BadFrame(Exception):
    """A peer, or a stranger, sent what this protocol does not know."""


class Frames:
    """Cuts a stream into frames: each a 4-byte big-endian length, then so many bytes."""

    __slots__ = ("_missing", "_parts", "bytes_max")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._parts: list[bytes] = []
        self._missing = 0

    def feed(self, content: bytes) -> list[bytes]:
        """The frames that these bytes complete. Raises BadFrame."""
        if self._parts:
            self._parts.append(content)
            self._missing -= len(content)
            if self._missing > 0:
                return []
            content = b"".join(self._parts)
            self._parts = []
        frames: list[bytes] = []
        start, size = 0, len(content)
        missing = 0
        while start < size:
            body = start + 4
            if body > size:
                missing = body - size
                break
            length = int.from_bytes(content[start:body], "big")
            if length > self.bytes_max:
                raise BadFrame(f"a frame of {length} bytes, at most {self.bytes_max} are taken")
            end = body + length
            if end > size:
                missing = end - size
                break
            frames.append(content[body:end])
            start = end
        if missing:
            self._parts.append(content[start:])
            self._missing = missing
        return frames


def _framed(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content


def _prepare(transport: asyncio.BaseTransport) -> None:
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)


class Incoming(asyncio.Protocol):
    """Frames from one peer, once it has said who it is."""

    def __init__(self, network: RealNetwork) -> None:
        self._network = network
        self._frames = Frames(GREETING_BYTES_MAX)
        self._nonce = os.urandom(16)
        self._since = network.loop.time()
        self._transport: asyncio.Transport
        self.src = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        _prepare(transport)
        self._network.incoming.add(self)
        greeting = msgspec.msgpack.encode(Greeting(PROTOCOL_VERSION, self._nonce))
        self._transport.write(_framed(greeting))

    def data_received(self, data: bytes) -> None:
        network = self._network
        network.metrics.bytes_received += len(data)
        try:
            frames = self._frames.feed(data)
            if not self.src and frames:
                self._greeted(frames.pop(0))
            handler, src = network.handler, self.src
            network.metrics.frames_received += len(frames)
            for frame in frames:
                handler(src, frame)
        except (BadFrame, msgspec.DecodeError) as problem:
            network.metrics.bad_frames += 1
            who = self.src or "a stranger"
            network.log(f"closing the connection from {who} at {self._address()}: {problem}")
            self._transport.abort()

    def _greeted(self, frame: bytes) -> None:
        hello = msgspec.msgpack.decode(frame, type=Hello)
        config = self._network.config
        if hello.version != PROTOCOL_VERSION:
            raise BadFrame(f"it speaks version {hello.version}, this node {PROTOCOL_VERSION}")
        if hello.dst != config.node:
            raise BadFrame(f"it was looking for {hello.dst!r}; correct `peers` in its configuration")
        if hello.src not in config.peers:
            raise BadFrame(f"it calls itself {hello.src!r}, which is not in `peers`")
        proof = _proof(config.secret, self._nonce, "hello", hello.src, hello.dst)
        if not hmac.compare_digest(proof, hello.proof):
            raise BadFrame("it does not know the shared secret")
        self.src = hello.src
        self._frames.bytes_max = config.frame_bytes_max
        welcome = Welcome(_proof(config.secret, hello.nonce, "welcome", hello.dst, hello.src))
        self._transport.write(_framed(msgspec.msgpack.encode(welcome)))
        self._network.heard_from(hello.src)

    def connection_lost(self, exc: Exception | None) -> None:
        self._network.incoming.discard(self)
        if self.src:
            self._network.metrics.connections_lost += 1

    def sweep(self, now: float) -> None:
        if not self.src and now - self._since > GREETING_SECONDS_MAX:
            self._transport.abort()

    def close(self) -> None:
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
        except (BadFrame, msgspec.DecodeError) as problem:
            self._network.metrics.bad_frames += 1
            self._network.log(f"closing the connection to {self._peer.name}: {problem}")
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
            proof = _proof(secret, greeting.nonce, "hello", src, dst)
            hello = Hello(PROTOCOL_VERSION, src, dst, self._nonce, proof)
            self.transport.write(_framed(msgspec.msgpack.encode(hello)))
            return
        welcome = msgspec.msgpack.decode(frame, type=Welcome)
        if not hmac.compare_digest(welcome.proof, _proof(secret, self._nonce, "welcome", dst, src)):
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
        self._address = address
        self._network = network
        self._queue: list[bytes] = []
        self._queue_bytes = 0
        self._queue_bytes_max = max(16 << 20, 2 * network.config.frame_bytes_max)
        self._flush_due = False
        self._connection: Outgoing | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._rest_seconds = REDIAL_SECONDS_MIN
        self._rest_until = 0.0
        self._mourned = False

    def send(self, frame: bytes) -> None:
        size = len(frame)
        self._queue_bytes += size + 4
        if self._queue_bytes > self._queue_bytes_max:
            self._queue_bytes -= size + 4
            self._network.metrics.frames_dropped += 1
            return
        self._queue.append(size.to_bytes(4, "big"))
        self._queue.append(frame)
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
        host, port = split_address(self._address)
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
            self._network.log(f"no connection to {self.name} at {self._address}: {why}; trying again")

    def connected(self, connection: Outgoing) -> None:
        self._connection = connection

    def welcomed(self) -> None:
        self._rest_seconds = REDIAL_SECONDS_MIN
        if self._mourned:
            self._mourned = False
            self._network.log(f"connected to {self.name} at {self._address} again")
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
        self.closing = False
        self._peers = {
            name: Peer(name, address, self) for name, address in config.peers.items() if name != config.node
        }

    def send(self, dst: str, frame: bytes) -> None:
        peer = self._peers.get(dst)
        if peer is not None:
            peer.send(frame)
        elif dst == self.config.node:
            self.loop.call_soon(self.handler, dst, frame)
        else:
            self.metrics.frames_dropped += 1

    def on_message(self, handler: Callable[[str, bytes], None]) -> None:
        self.handler = handler

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


class Running:
    """A coroutine on its way: what asyncio's Task does, but for cancellation, context and the registry of all tasks.

    Those cost about as much as a small request, and node code, which never holds a task, cannot use them.
    """

    __slots__ = ("_coroutine", "_ended", "_loop", "_name")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, None],
        ended: Callable[[str, BaseException | None], None],
        name: str,
    ) -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._ended = ended
        self._name = name

    def step(self, _: object = None) -> None:
        """Runs until the coroutine waits for a future again, or ends."""
        try:
            future = self._coroutine.send(None)
        except StopIteration:
            self._ended(self._name, None)
        except Exception as problem:
            self._ended(self._name, problem)
        else:
            if future is None:  # asyncio.sleep(0)
                self._loop.call_soon(self.step)
            else:
                # The protocol between asyncio's futures and whoever drives a coroutine.
                future._asyncio_future_blocking = False
                future.add_done_callback(self.step)


class RealRuntime:
    """One life of one node on this machine: everything ends with the process."""

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        self.node = config.node
        self.clock = RealClock()
        self.disk = RealDisk(config.directory, loop)
        self.net = RealNetwork(config, loop, self.log)
        self.future = loop.create_future
        self._loop = loop

    def draw(self, what: str, *identity: object) -> int:
        return int.from_bytes(os.urandom(8), "big")

    def call_later(self, delay_ns: int, callback: Callable[..., None], *args: Any) -> asyncio.TimerHandle:
        return self._loop.call_later(delay_ns / 1e9, callback, *args)

    def sleep(self, delay_ns: int) -> Awaitable[None]:
        return asyncio.sleep(delay_ns / 1e9)

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> None:
        self._loop.call_soon(Running(self._loop, coroutine, self._ended, name).step)

    def _ended(self, name: str, problem: BaseException | None) -> None:
        if problem is not None:
            self.log(f"bug in {name}: {traced(problem)}")

    def log(self, text: str) -> None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        sys.stderr.write(f"{stamp}.{int(now % 1 * 1000):03d}Z {self.node} {text}\n")
        sys.stderr.flush()


def traced(problem: BaseException) -> str:
    return "".join(traceback.format_exception(problem)).rstrip()


class Turn:
    """One request's place in the order of its connection's responses."""

    __slots__ = ("answered", "response")

    def __init__(self) -> None:
        self.response: bytes | None = None
        self.answered: asyncio.Future[None] | None = None
        """Made by the next request on the same path, if it has to wait."""


class HttpConnection(asyncio.Protocol):
    """One client. Requests that it pipelines run side by side, but never two on the same path: those keep their order."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._parser = RequestParser(server.config.value_bytes_max)
        self._turns: deque[Turn] = deque()
        self._latest: dict[str, Turn] = {}
        self._transport: asyncio.Transport
        self._reading = True
        self._writable = True
        self._last_request = False
        self._lingering = False
        self._flush_due = False
        now = server.now
        self._heard_at = self._wrote_at = now
        self._partial_since: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server.connections.add(self)
        self._server.metrics.http_connections += 1

    def data_received(self, data: bytes) -> None:
        if self._last_request:
            return
        server = self._server
        self._heard_at = server.now
        try:
            requests = self._parser.feed(data)
        except BadRequest as problem:
            self._refuse(problem.status, str(problem))
            return
        if requests:
            self._partial_since = None
            server.metrics.http_requests += len(requests)
            for request in requests:
                self._begin(request)
                if not request.keep_alive:
                    self._last_request = True
                    break
            self._regulate()
        elif self._partial_since is None:
            self._partial_since = server.now

    def _begin(self, request: Request) -> None:
        turn = Turn()
        before = self._latest.get(request.path) if self._turns else None
        self._turns.append(turn)
        self._latest[request.path] = turn
        server = self._server
        Running(server.loop, self._answer(request, turn, before), server.answered, request.path).step()

    async def _answer(self, request: Request, turn: Turn, before: Turn | None) -> None:
        if before is not None and before.response is None:
            before.answered = self._server.loop.create_future()
            await before.answered
        try:
            turn.response = await self._server.answer(request)
        except Exception:
            turn.response = BUG
            raise
        finally:
            self._close_turn(request, turn)

    def _close_turn(self, request: Request, turn: Turn) -> None:
        if turn.answered is not None:
            turn.answered.set_result(None)
        if self._latest.get(request.path) is turn:
            del self._latest[request.path]
        self._flush_soon()

    def _flush_soon(self) -> None:
        # One write for all responses of this turn of the loop: a system call costs as much as half a request.
        if not self._flush_due and self._turns[0].response is not None:
            self._flush_due = True
            self._server.loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Writes every response whose turn has come."""
        self._flush_due = False
        turns = self._turns
        ready: list[bytes] = []
        while turns and (response := turns[0].response) is not None:
            ready.append(response)
            turns.popleft()
        if self._transport.is_closing():
            return
        self._transport.write(b"".join(ready) if len(ready) > 1 else ready[0])
        self._wrote_at = self._server.now
        if self._last_request and not turns:
            self._linger()
        else:
            self._regulate()

    def _refuse(self, status: int, text: str) -> None:
        """Answers what was asked before, then says what is wrong, then closes."""
        self._server.metrics.http_bad_requests += 1
        self._last_request = True
        turn = Turn()
        turn.response = encode_error(status, text)
        self._turns.append(turn)
        self._flush_soon()

    def _linger(self) -> None:
        # Closing with unread bytes in the socket would reset the connection, and the reply could be lost on its way.
        self._lingering = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()

    def _regulate(self) -> None:
        """Reads on only while the client takes its responses and does not run too far ahead of them."""
        wanted = self._writable and len(self._turns) < PIPELINE_MAX
        if wanted != self._reading and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def pause_writing(self) -> None:
        self._writable = False
        self._regulate()

    def resume_writing(self) -> None:
        self._writable = True
        self._regulate()

    def eof_received(self) -> bool:
        if self._lingering or not self._turns:
            return False
        self._last_request = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        # Requests already begun go on: a client that hangs up must not leave half a write behind.
        self._server.connections.discard(self)
        self._server.metrics.http_connections -= 1

    def sweep(self, now: float) -> None:
        """Gives up on clients that send too slowly, do not read, or say nothing any more."""
        if self._lingering:
            if now - self._wrote_at > LINGER_SECONDS_MAX:
                self._transport.abort()
        elif not self._writable:
            if now - self._wrote_at > IDLE_SECONDS_MAX:
                self._transport.abort()
        elif self._turns:
            pass
        elif self._partial_since is not None and now - self._partial_since > REQUEST_SECONDS_MAX:
            self._refuse(408, f"a request must arrive within {REQUEST_SECONDS_MAX:.0f} s of its first byte")
        elif now - max(self._heard_at, self._wrote_at) > IDLE_SECONDS_MAX:
            self._transport.close()

    def finish(self) -> bool:
        """Takes no more requests. Returns whether some are still in flight; closes if none is."""
        self._last_request = True
        if not self._turns:
            self._transport.close()
        return bool(self._turns)


class HttpServer:
    """The clients' side of a node."""

    def __init__(
        self,
        config: Config,
        answer: Callable[[Request], Coroutine[Any, Any, bytes]],
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
        log: Callable[[str], None],
    ) -> None:
        self.config = config
        self.answer = answer
        self.metrics = metrics
        self.loop = loop
        self.log = log
        self.connections: set[HttpConnection] = set()
        self.now = loop.time()
        """The loop's time at the last sweep: exact enough for time limits of seconds, and free to read."""

    def answered(self, path: str, problem: BaseException | None) -> None:
        if problem is not None:
            self.log(f"bug in answering {path}: {traced(problem)}")

    def sweep(self, now: float) -> None:
        self.now = now
        for connection in list(self.connections):
            connection.sweep(now)

    async def drain(self) -> None:
        """Answers what is in flight, then closes every connection."""
        until = self.loop.time() + DRAIN_SECONDS_MAX
        while self.loop.time() < until:
            busy = [connection for connection in list(self.connections) if connection.finish()]
            await asyncio.sleep(0.01)
            if not busy:
                break


def _bind(host: str, port: int) -> socket.socket:
    """A socket that is bound but does not listen: clients are refused, and not kept waiting, until the node is ready."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setblocking(False)
    try:
        listener.bind((host, port))
    except OSError as problem:
        listener.close()
        raise CannotServe(
            f"cannot listen on {host}:{port}: {problem.strerror}; stop what uses the port, or choose another"
        ) from problem
    return listener


async def _serve(config: Config) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    runtime = RealRuntime(config, loop)
    loop.set_exception_handler(lambda _, context: runtime.log(_complaint(context)))
    http_socket, peer_socket = _bind(config.host, config.http_port), _bind(config.host, config.peer_port)
    node = Node(config, runtime)
    runtime.net.metrics = node.metrics
    http = HttpServer(config, node.api.handle, node.metrics, loop, runtime.log)

    await node.start()
    peer_listener = await loop.create_server(lambda: Incoming(runtime.net), sock=peer_socket, backlog=128)
    http_listener = await loop.create_server(lambda: HttpConnection(http), sock=http_socket, backlog=1024)
    # What is alive now lives as long as the node: the collector need not look at it again.
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    http_port, peer_port = http_socket.getsockname()[1], peer_socket.getsockname()[1]
    runtime.log(f"listening: clients on {config.host}:{http_port}, peers on {config.host}:{peer_port}")

    while not stopping.is_set():
        now = loop.time()
        http.sweep(now)
        runtime.net.sweep(now)
        with suppress(TimeoutError):
            async with asyncio.timeout(SWEEP_SECONDS):
                await stopping.wait()

    runtime.log("stopping: answering what is in flight")
    http_listener.close()
    await http.drain()
    peer_listener.close()
    runtime.net.close()
    runtime.disk.close()
    runtime.log("stopped")


def _complaint(context: dict[str, Any]) -> str:
    problem = context.get("exception")
    return f"{context['message']}: {traced(problem)}" if problem else str(context["message"])


def run(config: Config) -> None:
    """Serves until SIGTERM or SIGINT, then answers what is in flight and stops. Raises CannotServe."""
    uvloop.run(_serve(config))
