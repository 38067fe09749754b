"""The way to the clients: HTTP/1.1 on raw connections, with limits on what one client may cost."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, cast

from store.api import BadRequest, Request, RequestParser, encode_error
from store.config import Config
from store.metrics import Metrics
from store.server.runtime import Running, traced

REQUEST_SECONDS_MAX = 20.0
"""From a request's first byte to its last."""
IDLE_SECONDS_MAX = 120.0
LINGER_SECONDS_MAX = 2.0
"""How long a client that was told that we close may take to close its side: closing first could cost it the reply."""
PIPELINE_MAX = 256
"""Requests of one connection in flight before no more are read."""
DRAIN_SECONDS_MAX = 5.0

BUG = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"


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
