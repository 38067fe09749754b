"""What real nodes bear: thousands of connections, strangers that hold on, garbage on both ports while clients write."""

from __future__ import annotations

import itertools
import resource
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from node_processes import NodeProcesses

PING = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
CONNECTIONS_MAX = 2_000


@pytest.fixture(autouse=True)
def _descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * CONNECTIONS_MAX:
        pytest.skip(f"the system allows {hard} open files, and this opens {2 * CONNECTIONS_MAX}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def connected(port: int, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            for _ in range(count)
        ]


def status(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65_536)[9:12]
    except ConnectionError:
        return b""


def test_thousands_of_clients_are_served_and_those_over_the_limit_are_told_so(tmp_path: Path) -> None:
    with NodeProcesses(tmp_path, http_connections_max=CONNECTIONS_MAX) as ring:
        port = ring.http_ports["a"]
        with connected(port, CONNECTIONS_MAX) as clients:
            for sock in clients:
                sock.sendall(PING)
            assert {status(sock) for sock in clients} == {b"200"}
            with connected(port, 400) as late:
                answers = [status(sock) for sock in late]
            # So many are told so at a time; the rest are reset, and all of them are gone.
            assert set(answers) <= {b"503", b""}
            assert answers.count(b"503") >= 200
            for sock in clients[::100]:
                sock.sendall(PING)
            assert {status(sock) for sock in clients[::100]} == {b"200"}
            assert ring.put("b", "others", b"x").status == 204
        assert ring.put("a", "after", b"x").status == 204
        assert "`http_connections_max`" in ring.log("a")
        assert ring.log("a").count("is refused") <= 20


def test_a_lower_limit_of_the_system_is_heeded_and_said(tmp_path: Path) -> None:
    with NodeProcesses(tmp_path, http_connections_max=10**9) as ring:
        assert "open files, so at most" in ring.log("a")
        assert ring.put("a", "k", b"x").status == 204


def test_clients_that_dribble_cost_the_others_nothing(tmp_path: Path) -> None:
    with NodeProcesses(tmp_path) as ring, connected(ring.http_ports["a"], 500) as slow:
        for i, byte in enumerate(PING[:8]):
            for sock in slow:
                sock.sendall(bytes([byte]))
            assert ring.put("a", f"k{i}", b"x").status == 204
        for sock in slow:
            sock.sendall(PING[8:])
        assert {status(sock) for sock in slow} == {b"200"}


def test_strangers_that_hold_the_peer_port_do_not_keep_a_peer_out(tmp_path: Path) -> None:
    with NodeProcesses(tmp_path, secret="s") as ring, connected(ring.peer_ports["a"], 300):
        ring.stop("b")
        ring.start("b", secret="s")
        ring.await_up("a", "b")
        ring.await_up("b", "a")
        assert ring.put("b", "k", b"x").status == 204
        assert ring.get("a", "k").body == b"x"
        assert ring.log("a").count("a stranger") <= 20


def test_garbage_on_both_ports_changes_no_key(tmp_path: Path) -> None:
    with NodeProcesses(tmp_path) as ring:
        kept = {f"k{i}": b"%d" % i for i in range(40)}
        assert {ring.put("abc"[i % 3], key, body).status for i, (key, body) in enumerate(kept.items())} == {
            204
        }
        before = ring.everything()
        while any(len(held) < len(kept) for held in before.values()):
            before = ring.everything()  # the third replica was not waited for
        stop = threading.Event()
        throwers = [
            threading.Thread(target=_throw, args=(ring, name, port, stop))
            for name, port in itertools.product("ab", ("http", "peer"))
        ]
        for thrower in throwers:
            thrower.start()
        try:
            assert {ring.put("c", f"new{i}", b"x").status for i in range(40)} == {204}
        finally:
            stop.set()
            for thrower in throwers:
                thrower.join()
        after = ring.everything()
        assert {name: {key: held[key] for key in kept} for name, held in after.items()} == before
        assert [ring.alive(name) for name in "abc"] == [True] * 3
        assert "bug" not in "".join(ring.log(name) for name in "abc")


def _throw(ring: NodeProcesses, name: str, port: str, stop: threading.Event) -> None:
    for number in itertools.count():
        if stop.is_set() or number == 300:
            return
        # Every length, with a frame's length before some of it, cut off anywhere.
        content = bytes((number * 31 + i * i) % 256 for i in range(number % 200))
        with suppress(ConnectionError):
            ring.throw(name, struct.pack(">I", number % 50) + content if number % 3 else content, port=port)
