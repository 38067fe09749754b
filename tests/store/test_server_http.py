"""One client's connection over a transport that only notes what is done to it: order, limits, patience."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from store.api import Request, encode_response
from store.config import Config
from store.metrics import Metrics
from store.server import clients
from store.server.clients import HttpConnection, HttpServer


class Noted(asyncio.Transport):
    """What the connection wrote and how it ended."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.done: list[str] = []
        self.untaken = 0
        """What the client has not taken of it."""

    def get_write_buffer_size(self) -> int:
        return self.untaken

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self

    def setsockopt(self, *_: object) -> None:
        pass

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return bool({"close", "abort"} & set(self.done))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.done.append("eof")

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")

    def pause_reading(self) -> None:
        self.done.append("pause")

    def resume_reading(self) -> None:
        self.done.append("resume")

    def statuses(self) -> list[str]:
        return [part[:3] for part in self.written.decode().split("HTTP/1.1 ")[1:]]


class Toy:
    """A node that answers a path when told to; `/bug` raises. Order of arrival in `asked`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.reading: list[Callable[[bytes], None]] = []
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self.logged: list[str] = []
        loop = asyncio.get_running_loop()
        config = Config(node="a", peers={}, value_bytes_max=1_000)
        self.server = HttpServer(config, self._answer, self._begin_get, Metrics(), loop, self.logged.append)
        self.transport = Noted()
        self.connection = HttpConnection(self.server)
        self.connection.connection_made(self.transport)
        self.began = loop.time()

    def _begin_get(self, request: Request, respond: Callable[[bytes], None]) -> None:
        self.asked.append(f"GET of a key: {request.path}")
        self.reading.append(respond)

    async def _answer(self, request: Request) -> bytes:
        self.asked.append(f"{request.method} {request.path}")
        if request.path == "/bug":
            raise KeyError("planted")
        if request.path.startswith("/slow"):
            self._waiting[request.path] = asyncio.get_running_loop().create_future()
            await self._waiting[request.path]
        return encode_response(200, request.path.encode())

    def answer(self, path: str) -> None:
        self._waiting.pop(path).set_result(None)

    def send(self, *requests: str, more: str = "") -> None:
        lines = "".join(f"{request} HTTP/1.1\r\nHost: x\r\n{more}\r\n" for request in requests)
        self.connection.data_received(lines.encode())

    def later(self, seconds: float) -> None:
        self.server.sweep(self.began + seconds)


def with_toy(scene: Callable[[Toy], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        await scene(Toy())

    asyncio.run(main())


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_responses_leave_in_the_order_of_their_requests() -> None:
    async def scene(toy: Toy) -> None:
        toy.send("GET /slow/1", "GET /2", "GET /slow/3")
        await settle()
        assert (toy.asked, toy.transport.written) == (["GET /slow/1", "GET /2", "GET /slow/3"], b"")
        toy.answer("/slow/3")
        await settle()
        assert toy.transport.written == b""
        toy.answer("/slow/1")
        await settle()
        bodies = [part.rpartition(b"\r\n")[2] for part in toy.transport.written.split(b"HTTP/1.1 ")[1:]]
        assert bodies == [b"/slow/1", b"/2", b"/slow/3"]

    with_toy(scene)


def test_a_request_waits_for_earlier_ones_on_its_path() -> None:
    async def scene(toy: Toy) -> None:
        toy.send("PUT /slow/x", "GET /slow/x", "GET /slow/x", "GET /y", more="Content-Length: 0\r\n")
        await settle()
        assert toy.asked == ["PUT /slow/x", "GET /y"]
        toy.answer("/slow/x")
        await settle()
        assert toy.asked == ["PUT /slow/x", "GET /y", "GET /slow/x"]
        toy.answer("/slow/x")
        await settle()
        toy.answer("/slow/x")
        await settle()
        assert toy.transport.statuses() == ["200"] * 4

    with_toy(scene)


def test_a_bug_is_a_500_with_its_traceback_in_the_log_and_the_connection_lives_on() -> None:
    async def scene(toy: Toy) -> None:
        toy.send("GET /bug", "GET /after")
        await settle()
        assert toy.transport.statuses() == ["500", "200"]
        assert toy.logged[0].startswith("bug in answering /bug: Traceback")
        assert toy.logged[0].endswith("KeyError: 'planted'")
        assert toy.transport.done == []

    with_toy(scene)


def test_a_request_that_dribbles_in_is_answered_408_and_the_connection_closes() -> None:
    async def scene(toy: Toy) -> None:
        toy.connection.data_received(b"GET /x HT")
        toy.later(clients.HEAD_SECONDS_MAX - 1)
        toy.connection.data_received(b"TP/1.1\r\n")
        assert toy.transport.written == b""
        toy.later(clients.HEAD_SECONDS_MAX + 1)
        await settle()
        assert (toy.transport.statuses(), toy.transport.done) == (["408"], ["eof"])
        toy.connection.data_received(b"\r\nGET /more HTTP/1.1\r\n\r\n")
        toy.later(clients.HEAD_SECONDS_MAX + 1 + clients.LINGER_SECONDS_MAX + 1)
        await settle()
        assert (toy.asked, toy.transport.done) == ([], ["eof", "abort"])

    with_toy(scene)


def test_a_body_may_take_longer_than_a_head_but_not_for_ever() -> None:
    async def scene(toy: Toy) -> None:
        toy.send("PUT /x", more="Content-Length: 10\r\n")
        toy.later(clients.HEAD_SECONDS_MAX + 1)
        toy.connection.data_received(b"12345")
        toy.later(clients.REQUEST_SECONDS_MAX - 1)
        await settle()
        assert toy.transport.written == b""
        toy.later(clients.REQUEST_SECONDS_MAX + 1)
        await settle()
        assert (toy.asked, toy.transport.statuses()) == ([], ["408"])
        assert toy.server.bytes_held == 0

    with_toy(scene)


def test_one_read_full_of_requests_begins_no_more_of_them_than_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clients, "PIPELINE_MAX", 3)

    async def scene(toy: Toy) -> None:
        toy.send(*(f"GET /slow/{i}" for i in range(7)))
        await settle()
        assert (len(toy.asked), toy.transport.done) == (3, ["pause"])
        for i in range(7):
            toy.answer(f"/slow/{i}")
            await settle()
        assert toy.transport.statuses() == ["200"] * 7
        assert (toy.asked, toy.transport.done) == ([f"GET /slow/{i}" for i in range(7)], ["pause", "resume"])
        assert (toy.server.in_flight, toy.server.bytes_held) == (0, 0)

    with_toy(scene)


def test_large_bodies_in_flight_are_limited_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "CONNECTION_BYTES_MAX", 1_500)

    async def scene(toy: Toy) -> None:
        for i in range(4):
            toy.send(f"PUT /slow/{i}", more="Content-Length: 1000\r\n")
            toy.connection.data_received(b"x" * 1_000)
        await settle()
        assert (len(toy.asked), toy.server.bytes_held) == (2, 4_000)
        for i in range(4):
            toy.answer(f"/slow/{i}")
            await settle()
        assert (toy.transport.statuses(), toy.server.bytes_held) == (["200"] * 4, 0)

    with_toy(scene)


def test_when_too_much_is_in_flight_a_request_is_refused_at_once_and_politely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(toy: Toy) -> None:
        toy.server.in_flight = toy.server.config.requests_in_flight_max - 1
        toy.send("GET /slow/1", "GET /slow/2")
        toy.answer("/slow/1")
        await settle()
        assert (toy.asked, toy.transport.statuses()) == (["GET /slow/1"], ["200", "503"])
        toy.send("GET /3")
        await settle()
        assert (toy.transport.statuses()[2:], toy.transport.done) == (["200"], [])
        monkeypatch.setattr(clients, "BYTES_MAX", 100)
        toy.send("PUT /x", more="Content-Length: 1000\r\n")
        toy.connection.data_received(b"x" * 500)
        await settle()
        assert (toy.transport.statuses()[3:], toy.transport.done) == (["503"], ["eof"])
        assert toy.server.bytes_held == 0

    with_toy(scene)


def test_one_connection_too_many_is_told_so_and_hung_up_on() -> None:
    async def scene(toy: Toy) -> None:
        toy.server.connections_max = 1
        late, wire = HttpConnection(toy.server), Noted()
        late.connection_made(wire)
        late.data_received(b"GET /1 HTTP/1.1\r\n\r\n")
        await settle()
        assert (toy.asked, wire.statuses(), wire.done) == ([], ["503"], ["eof"])
        late.connection_lost(None)
        toy.send("GET /2")
        await settle()
        assert toy.transport.statuses() == ["200"]

    with_toy(scene)


def test_an_idle_connection_is_closed_but_not_one_that_waits_for_its_answer() -> None:
    async def scene(toy: Toy) -> None:
        toy.send("GET /slow/1")
        toy.later(2 * clients.IDLE_SECONDS_MAX)
        assert toy.transport.done == []
        toy.answer("/slow/1")
        await settle()
        toy.later(3 * clients.IDLE_SECONDS_MAX - 1)
        assert toy.transport.done == []
        toy.later(3 * clients.IDLE_SECONDS_MAX + 1)
        assert toy.transport.done == ["close"]

    with_toy(scene)


def test_a_client_too_far_ahead_of_its_answers_is_not_read_until_it_has_some() -> None:
    async def scene(toy: Toy) -> None:
        toy.send(*(f"GET /slow/{i}" for i in range(clients.PIPELINE_MAX)))
        assert toy.transport.done == ["pause"]
        toy.answer("/slow/0")
        await settle()
        assert toy.transport.done == ["pause", "resume"]

    with_toy(scene)


def test_a_client_that_does_not_take_its_answers_is_not_read_and_given_up_in_the_end() -> None:
    async def scene(toy: Toy) -> None:
        toy.send("GET /1", more="Connection: close\r\n")
        await settle()
        toy.connection.pause_writing()
        toy.transport.untaken = 30
        toy.later(clients.STALL_SECONDS_MAX - 1)
        toy.transport.untaken = 20
        toy.later(clients.STALL_SECONDS_MAX)
        assert "abort" not in toy.transport.done
        toy.later(2 * clients.STALL_SECONDS_MAX - 1)
        assert "abort" not in toy.transport.done
        toy.later(2 * clients.STALL_SECONDS_MAX + 1)
        assert toy.transport.done[-1] == "abort"

    with_toy(scene)


def test_a_client_that_takes_its_answers_by_the_byte_is_given_up_too() -> None:
    async def scene(toy: Toy) -> None:
        toy.send("GET /1")
        await settle()
        toy.connection.pause_writing()
        toy.later(0)
        seconds = 0
        while "abort" not in toy.transport.done:
            seconds += 10
            toy.transport.untaken = 1_000 - seconds
            toy.later(seconds)
        assert clients.TAKE_SECONDS_MAX < seconds <= clients.TAKE_SECONDS_MAX + 20

    with_toy(scene)


def test_connection_close_is_heeded_after_the_answer() -> None:
    async def scene(toy: Toy) -> None:
        toy.send("GET /1", more="Connection: close\r\n")
        toy.send("GET /2")
        await settle()
        assert (toy.asked, toy.transport.statuses(), toy.transport.done) == (["GET /1"], ["200"], ["eof"])

    with_toy(scene)


def test_a_half_closed_client_still_gets_its_answer() -> None:
    async def scene(toy: Toy) -> None:
        toy.send("GET /slow/1")
        assert toy.connection.eof_received()
        toy.answer("/slow/1")
        await settle()
        assert (toy.transport.statuses(), toy.transport.done) == (["200"], ["eof"])
        assert not toy.connection.eof_received()

    with_toy(scene)


def test_a_write_goes_on_when_its_client_hangs_up() -> None:
    async def scene(toy: Toy) -> None:
        toy.send("PUT /slow/1", more="Content-Length: 0\r\n")
        toy.transport.abort()
        toy.connection.connection_lost(None)
        toy.answer("/slow/1")
        await settle()
        assert (toy.transport.written, toy.logged, toy.server.connections) == (b"", [], set())

    with_toy(scene)


def test_a_drain_answers_what_is_in_flight_and_takes_no_more() -> None:
    async def scene(toy: Toy) -> None:
        toy.send("GET /slow/1")
        drain = asyncio.get_running_loop().create_task(toy.server.drain())
        await settle()
        toy.send("GET /2")
        toy.answer("/slow/1")
        await drain
        assert (toy.asked, toy.transport.statuses()) == (["GET /slow/1"], ["200"])
        assert toy.transport.done[-1] == "close"

    with_toy(scene)


def test_a_get_of_a_key_needs_no_task_and_keeps_its_place_behind_a_write_of_it() -> None:
    async def scene(toy: Toy) -> None:
        toy.send("GET /kv/b/k", "PUT /kv/b/k", "GET /kv/b/k", more="Content-Length: 0\r\n")
        await settle()
        assert toy.asked == ["GET of a key: /kv/b/k"]
        toy.reading[0](encode_response(404))
        await settle()
        assert toy.asked == ["GET of a key: /kv/b/k", "PUT /kv/b/k", "GET /kv/b/k"]
        assert toy.transport.statuses() == ["404", "200", "200"]
        assert (toy.server.in_flight, toy.server.bytes_held) == (0, 0)

    with_toy(scene)
