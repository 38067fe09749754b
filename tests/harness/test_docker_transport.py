"""The HTTP transport of real nodes: "certainly never sent" and "no answer" are never confused, nor one answer with another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from harness.docker.transport import HttpTransport
from harness.world import Refused, Silence

ASK = b"GET / HTTP/1.1\r\nHost: node\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
A_SECOND_NS = 1_000_000_000
A_MOMENT_NS = 50_000_000

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def play(serve: Serve, scene: Callable[[HttpTransport], Awaitable[None]]) -> int:
    """Runs a scene against a server that does as `serve` says; returns how many connections it took."""
    connections = 0

    async def main() -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            try:
                await serve(reader, writer)
            except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
                pass  # the scene is over
            finally:
                writer.close()

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        transport = HttpTransport(server.sockets[0].getsockname)
        try:
            await scene(transport)
        finally:
            transport.close()
            server.close()
            # What serves a connection ends with it.
            await asyncio.sleep(0)
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    asyncio.run(main())
    return connections


def answers(*chunks: bytes, gap_s: float = 0.0) -> Serve:
    """A server that answers every request with the same pieces."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            for chunk in chunks:
                writer.write(chunk)
                await writer.drain()
                await asyncio.sleep(gap_s)

    return serve


def test_a_connection_is_kept_between_requests() -> None:
    async def scene(transport: HttpTransport) -> None:
        assert [await transport.request(ASK, A_SECOND_NS) for _ in range(3)] == [OK] * 3

    assert play(answers(OK), scene) == 1


def test_an_answer_in_pieces_is_one_answer() -> None:
    async def scene(transport: HttpTransport) -> None:
        assert await transport.request(ASK, A_SECOND_NS) == OK
        assert await transport.request(ASK, A_SECOND_NS) == OK

    assert play(answers(OK[:10], OK[10:-1], OK[-1:], gap_s=0.01), scene) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ],
)
def test_an_answer_ends_where_http_says(answer: bytes) -> None:
    async def scene(transport: HttpTransport) -> None:
        assert await transport.request(ASK, A_SECOND_NS) == answer
        assert await transport.request(ASK, A_SECOND_NS) == answer

    assert play(answers(answer), scene) == 1


def test_a_closed_port_refuses() -> None:
    async def scene(transport: HttpTransport) -> None:
        # Port 1 of loopback: nobody listens there.
        with pytest.raises(Refused):
            await HttpTransport(lambda: ("127.0.0.1", 1)).request(ASK, A_SECOND_NS)

    assert play(answers(OK), scene) == 0


def test_no_answer_in_time_is_silence_and_the_late_one_is_never_taken_for_the_next() -> None:
    count = 0

    async def late_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        while True:
            await reader.readuntil(b"\r\n\r\n")
            count += 1
            answer = OK.replace(b"ok", b"%02d" % count)
            if count == 1:
                await asyncio.sleep(0.1)
            writer.write(answer)
            await writer.drain()

    async def scene(transport: HttpTransport) -> None:
        with pytest.raises(Silence):
            await transport.request(ASK, A_MOMENT_NS)
        await asyncio.sleep(0.1)
        assert (await transport.request(ASK, A_SECOND_NS)).endswith(b"02")

    assert play(late_once, scene) == 2


def test_a_connection_that_breaks_after_the_request_is_silence() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK[:-1])

    async def scene(transport: HttpTransport) -> None:
        with pytest.raises(Silence):
            await transport.request(ASK, A_SECOND_NS)

    assert play(hang_up, scene) == 1


def test_a_kept_connection_that_was_closed_meanwhile_is_opened_again() -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)

    async def scene(transport: HttpTransport) -> None:
        for _ in range(3):
            assert await transport.request(ASK, A_SECOND_NS) == OK
            await asyncio.sleep(0.02)

    assert play(once, scene) == 3


def test_a_node_that_says_close_is_believed() -> None:
    closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")

    async def scene(transport: HttpTransport) -> None:
        # The server keeps the connection open: only its word can tell us.
        assert await transport.request(ASK, A_SECOND_NS) == closing
        assert await transport.request(ASK, A_SECOND_NS) == closing

    assert play(answers(closing), scene) == 2


def test_what_is_not_http_is_silence() -> None:
    async def scene(transport: HttpTransport) -> None:
        with pytest.raises(Silence, match="not HTTP"):
            await transport.request(ASK, A_SECOND_NS)

    play(answers(b"SSH-2.0-whatever\r\n"), scene)


def test_two_answers_to_one_request_are_none() -> None:
    async def scene(transport: HttpTransport) -> None:
        for _ in range(2):
            with pytest.raises(Silence, match="more than one"):
                await transport.request(ASK, A_SECOND_NS)

    assert play(answers(OK + OK), scene) == 2


def test_bytes_that_nobody_asked_for_close_the_connection() -> None:
    async def scene(transport: HttpTransport) -> None:
        assert await transport.request(ASK, A_SECOND_NS) == OK
        await asyncio.sleep(0.05)
        assert await transport.request(ASK, A_SECOND_NS) == OK

    assert play(answers(OK, OK.replace(b"ok", b"no"), gap_s=0.02), scene) == 2


def test_a_cancelled_request_leaves_no_answer_behind() -> None:
    async def scene(transport: HttpTransport) -> None:
        asking = asyncio.ensure_future(transport.request(ASK, A_SECOND_NS))
        await asyncio.sleep(0.02)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await transport.request(ASK, A_SECOND_NS) == OK

    assert play(answers(b"", OK, gap_s=0.05), scene) == 2
