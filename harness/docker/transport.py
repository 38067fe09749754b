"""HTTP bytes to one node over a kept connection, with the difference between "never sent" and "no answer" kept straight."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httptools

from harness.world import Refused, Silence


class HttpTransport:
    """One client's connection to one node; implements `harness.world.Transport`. Not for HEAD requests."""

    def __init__(self, where: Callable[[], tuple[str, int]]) -> None:
        """`where` gives the address (host, port) at the time of connecting: a transport may be older than its node."""
        self._where = where
        self._connection: _Connection | None = None
        self._busy = False

    async def request(self, payload: bytes, timeout_ns: int) -> bytes:
        """One whole request for one whole response.

        Raises Refused when no connection came about, so that not one byte left; Silence when bytes left and no whole
        response came back in time.
        """
        assert not self._busy, "one request at a time on a transport"
        self._busy = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_ns / 1e9
        try:
            connection = self._connection
            # A kept connection that the node closed meanwhile is no reason to fail: nothing was written to it yet.
            if connection is None or connection.closed:
                connection = self._connection = await self._connect(deadline)
            response = connection.ask(payload)
            try:
                async with asyncio.timeout_at(deadline):
                    return await response
            except TimeoutError:
                raise Silence(f"no answer in {timeout_ns / 1e9:g} s") from None
        except BaseException:
            # Whatever went wrong, a late answer must never be taken for the next request's.
            self.close()
            raise
        finally:
            self._busy = False

    def close(self) -> None:
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    async def _connect(self, deadline: float) -> _Connection:
        loop = asyncio.get_running_loop()
        host, port = self._where()
        try:
            async with asyncio.timeout_at(deadline):
                _transport, connection = await loop.create_connection(_Connection, host, port)
        except OSError as trouble:  # TimeoutError is one
            raise Refused(f"no connection to {host}:{port}: {trouble or 'timed out'}") from None
        return connection


class _Connection(asyncio.Protocol):
    """Collects the bytes of a response until the parser says that it is whole."""

    def __init__(self) -> None:
        self.closed = False
        self._transport: Any = None
        self._received = bytearray()
        self._response: asyncio.Future[bytes] | None = None
        self._parser: Any = None
        self._whole = False
        self._begun = 0

    def ask(self, payload: bytes) -> asyncio.Future[bytes]:
        self._received = bytearray()
        self._whole = False
        self._begun = 0
        self._parser = httptools.HttpResponseParser(self)
        self._response = asyncio.get_running_loop().create_future()
        self._transport.write(payload)
        return self._response

    def abort(self) -> None:
        self.closed = True
        if self._response is not None and not self._response.done():
            self._response.cancel()
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._response is None or self._response.done():
            # Bytes that nobody asked for: the next response could not be told from them.
            self.abort()
            return
        self._received += data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as trouble:
            self.closed = True
            self._response.set_exception(Silence(f"the answer is not HTTP: {trouble}"))
            return
        if self._begun > 1:
            self.closed = True
            self._response.set_exception(Silence("more than one answer came to one request"))
        elif self._whole:
            self._response.set_result(bytes(self._received))

    def eof_received(self) -> None:
        self.closed = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._response is not None and not self._response.done():
            self._response.set_exception(
                Silence(f"the connection broke before the answer was whole: {exc or 'closed'}")
            )

    def on_message_begin(self) -> None:
        self._begun += 1

    def on_message_complete(self) -> None:
        # Only here does the parser know; once it is through with the message it says no.
        self.closed = self.closed or not self._parser.should_keep_alive()
        self._whole = True
