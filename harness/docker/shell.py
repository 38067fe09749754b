"""A bash that stays open in a container: a command costs a tenth of a millisecond where an exec of its own costs fifty."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import socket
import struct
from typing import Any, NamedTuple, cast

from harness.docker.engine import DockerTrouble, Engine

TIMEOUT_S = 20.0


class Reply(NamedTuple):
    """How a command ended and what it wrote (both streams, in order)."""

    status: int
    output: str


class ShellBroken(DockerTrouble):
    """The shell ended or gave no answer in time: whether the command took effect is not known."""


class Shell:
    """One container's shell. Commands run one at a time; a broken shell is opened again for the next command."""

    def __init__(self, client: Engine, container: str) -> None:
        self._client = client
        self._container = container
        self._turn = asyncio.Lock()
        self._stream: _Stream | None = None

    async def run(self, command: str, timeout_s: float = TIMEOUT_S) -> Reply:
        """Runs a command (or several lines) and waits for its end. Raises ShellBroken.

        The command reads nothing; what it leaves in the background must not hold on to the shell's output.
        """
        async with self._turn:
            if self._stream is None or self._stream.ended:
                self.close()
                self._stream = await self._open()
            stream = self._stream
            # Unguessable, so that no command can print it; on a line of its own, so that output needs no newline.
            marker = secrets.token_hex(16)
            stream.transport.write(
                f"{{ {command}\n}} </dev/null 2>&1; printf '\\n%s %d\\n' {marker} $?\n".encode()
            )
            try:
                return await asyncio.wait_for(stream.until(marker), timeout_s)
            except BaseException as trouble:
                # Also when cancelled: the rest of this answer must not be taken for the next command's.
                self.close()
                if isinstance(trouble, TimeoutError):
                    raise ShellBroken(f"a command in a node's shell took more than {timeout_s:g} s") from None
                raise

    def close(self) -> None:
        """Ends the shell. What it started in sessions of their own lives on."""
        if self._stream is not None:
            self._stream.transport.abort()
            self._stream = None

    async def _open(self) -> _Stream:
        try:
            ours = await asyncio.to_thread(self._exec)
        except Exception as trouble:
            raise ShellBroken(
                f"no shell could be opened in container {self._container[:12]}: {trouble}"
            ) from trouble
        loop = asyncio.get_running_loop()
        create: Any = loop.create_unix_connection if ours.family == socket.AF_UNIX else loop.create_connection
        _transport, stream = await create(_Stream, sock=ours)
        return cast(_Stream, stream)

    def _exec(self) -> socket.socket:
        """The socket of a new exec, ours alone: the SDK's own reference to it is given up."""
        api = self._client.api
        made = api.exec_create(self._container, ["bash", "--noprofile", "--norc"], stdin=True)
        theirs = api.exec_start(made["Id"], socket=True)
        ours = socket.socket(fileno=os.dup(theirs.fileno()))
        ours.setblocking(False)
        response = getattr(theirs, "_response", None)
        # Closing the response closes the socket under it, and fails when that is closed already.
        (theirs if response is None else response).close()
        return ours


class _Stream(asyncio.Protocol):
    """Takes the engine's framing off (8 bytes: stream, three zeros, length) and waits for markers."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.ended = False
        self._raw = bytearray()
        self._text = bytearray()
        self._marker: re.Pattern[bytes] | None = None
        self._waiting: asyncio.Future[Reply] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._raw += data
        while len(self._raw) >= 8:
            (size,) = struct.unpack_from(">I", self._raw, 4)
            if len(self._raw) < 8 + size:
                break
            self._text += self._raw[8 : 8 + size]
            del self._raw[: 8 + size]
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ShellBroken("a node's shell ended in the middle of a command"))

    async def until(self, marker: str) -> Reply:
        if self.ended:
            raise ShellBroken("a node's shell ended before a command")
        self._marker = re.compile(rb"\n" + marker.encode() + rb" (\d+)\n")
        self._waiting = asyncio.get_running_loop().create_future()
        self._look()
        return await self._waiting

    def _look(self) -> None:
        if self._waiting is None or self._waiting.done() or self._marker is None:
            return
        found = self._marker.search(self._text)
        if found:
            # The match looks into the buffer: read it before the buffer moves.
            reply = Reply(int(found[1]), bytes(self._text[: found.start()]).decode(errors="replace"))
            end = found.end()
            del found
            del self._text[:end]
            self._waiting.set_result(reply)
