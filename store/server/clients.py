"""The way to the clients: HTTP/1.1 on raw connections, with limits on what one client, and all together, may cost."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast

from store.api import BadRequest, Request, RequestParser, encode_error, traced
from store.config import Config
from store.metrics import Metrics
from store.server.complaints import Complaints
from store.server.runtime import Running

HEAD_SECONDS_MAX = 10.0
"""From a request's first byte to the end of its head."""
REQUEST_SECONDS_MAX = 30.0
"""From a request's first byte to its last."""
IDLE_SECONDS_MAX = 120.0
STALL_SECONDS_MAX = 20.0
"""How long a client that has responses to take may take none."""
TAKE_SECONDS_MAX = 120.0
"""And how long it may take, taking some, until it has caught up."""
LINGER_SECONDS_MAX = 2.0
"""How long a client that was told that we close may take to close its side: closing first could cost it the reply."""
PIPELINE_MAX = 256
"""Requests of one connection in flight before no more are begun, or read."""
CONNECTION_BYTES_MAX = 4 << 20
"""Bodies of one connection's requests in flight before no more are begun, or read."""
BYTES_MAX = 256 << 20
"""Bodies of all connections' requests, whole or not, before more are refused."""
REFUSED_MAX = 256
"""Connections over the limit that are told so; further ones are reset, since a polite refusal costs a descriptor too."""
DRAIN_SECONDS_MAX = 5.0

BUG = encode_error(500, "a bug of the node's, which its log describes; a write may be done")
BUSY = encode_error(503, "this node has too much to do; nothing was done, try again later")
FULL = encode_error(503, "this node has too many connections; nothing was done, try another node")


class Turn:
    """One request's place in the order of its connection's responses."""

    __slots__ = ("answered", "body_bytes", "response")

    def __init__(self, body_bytes: int) -> None:
        self.body_bytes = body_bytes
        self.response: bytes | None = None
        self.answered: asyncio.Future[None] | None = None
        """Made by the next request on the same path, if it has to wait."""


class HttpConnection(asyncio.Protocol):
    """One client. Requests that it pipelines run side by side, but never two on the same path: those keep their order."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._parser = RequestParser(server.config.value_bytes_max)
        self._backlog: deque[Request] = deque()
        """Parsed, and not begun yet."""
        self._turns: deque[Turn] = deque()
        self._latest: dict[str, Turn] = {}
        self._transport: asyncio.Transport
        self._bodies = 0
        """Bytes of the bodies in `_turns`."""
        self._reading = True
        self._writable = True
        self._last_request = False
        self._farewell = b""
        """What is said after the last response."""
        self._flush_due = False
        now = server.now
        self._heard_at = self._wrote_at = now
        self._partial_since = now
        self._partial_bytes = 0
        """What the request that is not whole yet holds, and 1 for its existence."""
        self._closing_since: float | None = None
        """When our side was closed."""
        self._handed = self._taken = 0
        self._took_at = self._behind_since = now

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        server = self._server
        server.connections.add(self)
        server.metrics.http_connections += 1
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        excess = len(server.connections) - server.connections_max
        if excess > 0:
            server.metrics.http_connections_refused += 1
            server.complain(
                f"a client is refused: {server.connections_max} connections are open, `http_connections_max`"
            )
            self._last_request = True
            if excess > REFUSED_MAX:
                self._transport.abort()
            else:
                self._farewell = FULL
                self._flush_soon()

    def data_received(self, data: bytes) -> None:
        if self._last_request:
            return
        server = self._server
        self._heard_at = server.now
        parser = self._parser
        try:
            requests = parser.feed(data)
        except BadRequest as problem:
            self._refuse(problem.status, str(problem))
            return
        if requests:
            server.metrics.http_requests += len(requests)
            self._backlog.extend(requests)
            server.bytes_held += sum([len(request.body) for request in requests])
            self._begin_some()
        if parser.partial:
            if requests or not self._partial_bytes:
                self._partial_since = server.now
            self._hold_partial(parser.body_bytes + 1)
            if server.bytes_held > BYTES_MAX:
                self._refuse(503, "this node has too much to do; nothing was done, try again later")
        elif self._partial_bytes:
            self._hold_partial(0)

    def _hold_partial(self, size: int) -> None:
        self._server.bytes_held += size - self._partial_bytes
        self._partial_bytes = size

    def _begin_some(self) -> None:
        """Begins what may run beside what runs already, then reads on or does not."""
        backlog = self._backlog
        while backlog and self._has_room():
            request = backlog.popleft()
            if not request.keep_alive:
                self._last_request = True
                self._drop_backlog()
            self._begin(request)
        self._regulate()

    def _has_room(self) -> bool:
        return self._writable and len(self._turns) < PIPELINE_MAX and self._bodies < CONNECTION_BYTES_MAX

    def _drop_backlog(self) -> None:
        self._server.bytes_held -= sum([len(request.body) for request in self._backlog])
        self._backlog.clear()

    def _begin(self, request: Request) -> None:
        turn = Turn(len(request.body))
        self._bodies += turn.body_bytes
        before = self._latest.get(request.path) if self._turns else None
        self._turns.append(turn)
        server = self._server
        server.in_flight += 1
        if server.in_flight > server.config.requests_in_flight_max or server.bytes_held > BYTES_MAX:
            server.metrics.http_requests_shed += 1
            turn.response = BUSY
            self._close_turn(request, turn)
            return
        self._latest[request.path] = turn
        if before is None and request.method == "GET" and request.path.startswith("/kv/"):
            server.begin_get(request, partial(self._respond, request, turn))
        else:
            Running(server.loop, self._answer(request, turn, before), server.answered, request.path).step()

    def _respond(self, request: Request, turn: Turn, response: bytes) -> None:
        turn.response = response
        self._close_turn(request, turn)

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
        self._server.in_flight -= 1
        self._bodies -= turn.body_bytes
        self._server.bytes_held -= turn.body_bytes
        if turn.answered is not None:
            turn.answered.set_result(None)
        if self._latest.get(request.path) is turn:
            del self._latest[request.path]
        self._flush_soon()

    def _flush_soon(self) -> None:
        # One write for all responses of this turn of the loop: a system call costs as much as half a request.
        turns = self._turns
        if not self._flush_due and (turns[0].response is not None if turns else self._farewell):
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
        over = self._last_request and not turns and not self._backlog
        if over and self._farewell:
            ready.append(self._farewell)
        content = b"".join(ready) if len(ready) > 1 else ready[0]
        self._handed += len(content)
        self._transport.write(content)
        self._wrote_at = self._server.now
        if over:
            self._linger()
        else:
            self._begin_some()

    def _refuse(self, status: int, text: str) -> None:
        """Answers what was asked before, then says what is wrong, then closes."""
        self._server.metrics.http_bad_requests += 1
        self._last_request = True
        self._hold_partial(0)
        self._farewell = encode_error(status, text)
        self._flush_soon()

    def _linger(self) -> None:
        # Closing with unread bytes in the socket would reset the connection, and the reply could be lost on its way.
        self._closing_since = self._server.now
        if self._transport.can_write_eof():
            self._transport.write_eof()
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()

    def _regulate(self) -> None:
        """Reads on only while the client takes its responses and does not run too far ahead of them."""
        wanted = not self._backlog and self._has_room()
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
        if self._closing_since is None:
            self._begin_some()

    def eof_received(self) -> bool:
        if self._closing_since is not None or not (self._turns or self._backlog or self._farewell):
            return False
        self._last_request = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        # Requests already begun go on: a client that hangs up must not leave half a write behind.
        self._server.connections.discard(self)
        self._server.metrics.http_connections -= 1
        self._hold_partial(0)
        self._drop_backlog()

    def sweep(self, now: float) -> None:
        """Gives up on clients that send too slowly, do not read, or say nothing any more."""
        untaken = self._transport.get_write_buffer_size()
        if untaken:
            self._sweep_reader(now, untaken)
            return
        self._behind_since = self._took_at = now
        if self._closing_since is not None:
            if now - self._closing_since > LINGER_SECONDS_MAX:
                self._transport.abort()
        elif self._turns or self._backlog or self._farewell:
            pass
        elif self._partial_bytes:
            waited = now - self._partial_since
            if waited > REQUEST_SECONDS_MAX:
                self._refuse(
                    408, f"a request must arrive within {REQUEST_SECONDS_MAX:.0f} s of its first byte"
                )
            elif waited > HEAD_SECONDS_MAX and not self._parser.head_done:
                self._refuse(
                    408, f"a request's head must arrive within {HEAD_SECONDS_MAX:.0f} s of its first byte"
                )
        elif now - max(self._heard_at, self._wrote_at) > IDLE_SECONDS_MAX:
            self._close(now)

    def _sweep_reader(self, now: float, untaken: int) -> None:
        taken = self._handed - untaken
        if taken != self._taken:
            self._taken, self._took_at = taken, now
        if now - self._took_at > STALL_SECONDS_MAX or now - self._behind_since > TAKE_SECONDS_MAX:
            self._transport.abort()
        elif self._closing_since is not None:
            self._closing_since = now

    def _close(self, now: float) -> None:
        self._closing_since = now
        self._transport.close()

    def finish(self) -> bool:
        """Takes no more requests. Returns whether some are still in flight; closes if none is."""
        self._last_request = True
        busy = bool(self._turns or self._backlog)
        if not busy:
            self._close(self._server.now)
        return busy


class HttpServer:
    """The clients' side of a node."""

    def __init__(
        self,
        config: Config,
        answer: Callable[[Request], Coroutine[Any, Any, bytes]],
        begin_get: Callable[[Request, Callable[[bytes], None]], None],
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
        log: Callable[[str], None],
    ) -> None:
        self.config = config
        self.answer = answer
        self.begin_get = begin_get
        self.metrics = metrics
        self.loop = loop
        self.log = log
        self.complain = Complaints(log, loop.time)
        self.connections: set[HttpConnection] = set()
        self.connections_max = config.http_connections_max
        self.in_flight = 0
        """Requests begun and not answered, of all connections."""
        self.bytes_held = 0
        """Their bodies, and those of requests that are not whole yet."""
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
