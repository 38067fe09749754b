"""Three real nodes on loopback: what clients, peers, strangers and signals can do to them."""

from __future__ import annotations

import json
import signal
import struct
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from node_processes import NodeProcesses

HEAD = "Host: x\r\nContent-Length: {}\r\n\r\n"


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcesses]:
    """Three nodes that stay up; every scene uses keys of its own, and may not harm them."""
    with NodeProcesses(tmp_path_factory.mktemp("ring"), value_bytes_max=1_000) as ring:
        yield ring
        assert [name for name in "abc" if not ring.alive(name)] == []
        assert [line for name in "abc" for line in ring.log(name).splitlines() if "bug" in line] == []


def test_a_value_written_through_one_node_is_read_through_another(ring: NodeProcesses) -> None:
    assert ring.put("a", "greeting/1", b"hello").status == 204
    reply = ring.get("b", "greeting/1")
    assert (reply.status, reply.body) == (200, b"hello")


def test_two_blind_writes_are_siblings_until_a_write_with_their_context_replaces_both(
    ring: NodeProcesses,
) -> None:
    ring.put("a", "siblings", b"one")
    ring.put("b", "siblings", b"two")
    siblings = ring.get("c", "siblings")
    assert siblings.status == 300
    assert {b64decode(body) for body in json.loads(siblings.body)} == {b"one", b"two"}
    assert ring.put("c", "siblings", b"both", siblings.context).status == 204
    assert ring.get("a", "siblings").body == b"both"


def test_a_deleted_key_is_gone_everywhere_and_still_has_a_context(ring: NodeProcesses) -> None:
    ring.put("a", "deleted", b"x")
    assert ring.ask("b", "DELETE", "/kv/b/deleted").status == 428
    context = ring.get("b", "deleted").context
    assert ring.ask("b", "DELETE", "/kv/b/deleted", context=context).status == 204
    reply = ring.get("c", "deleted")
    assert (reply.status, reply.context is None) == (404, False)


def test_a_context_that_is_garbage_or_of_another_key_is_refused_and_writes_nothing(
    ring: NodeProcesses,
) -> None:
    ring.put("a", "context-1", b"x")
    ring.put("a", "context-2", b"y")
    foreign = ring.get("a", "context-2").context
    assert [ring.put("a", "context-1", b"z", context).status for context in ("garbage", "AAAA", foreign)] == [
        400
    ] * 3
    assert ring.get("a", "context-1").body == b"x"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"\x00\xff\x13 garbage \r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), 400),
        (b"GET /ping HTTP/9.9\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (f"PUT /kv/b/bad HTTP/1.1\r\n{HEAD.format('-5')}x".encode(), 400),
        (f"PUT /kv/b/bad HTTP/1.1\r\n{HEAD.format('five')}x".encode(), 400),
        (f"PUT /kv/b/bad HTTP/1.1\r\n{HEAD.format('9' * 40)}x".encode(), 400),
        (f"PUT /kv/b/bad HTTP/1.1\r\n{HEAD.format('1, 2')}x".encode(), 400),
        (f"PUT /kv/b/bad HTTP/1.1\r\n{HEAD.format(2_000)}{'x' * 2_000}".encode(), 413),
        (b"PUT /kv/b/bad HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nx\r\n", 400),
        (
            b"PUT /kv/b/bad HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            + 5 * (b"190\r\n" + 400 * b"x" + b"\r\n")
            + b"0\r\n\r\n",
            413,
        ),
        (b"GET /ping HTTP/1.1\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /ping HTTP/1.1\r\n" + b"X-Many: 1\r\n" * 2_000 + b"\r\n", 431),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET /ping HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 400),
    ],
)
def test_bytes_that_are_no_request_are_answered_and_only_their_connection_ends(
    ring: NodeProcesses, content: bytes, status: int
) -> None:
    answer = ring.say("a", content)
    assert answer.split(b" ", 2)[:2] == [b"HTTP/1.1", str(status).encode()]
    assert answer.count(b"Content-Length: ") == 1
    assert ring.ask("a", "GET", "/ping").status == 200
    assert ring.get("a", "bad").status == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/kv/b", 400),
        ("GET", "/kv/b/k?r=0", 400),
        ("GET", "/kv/b/k?r=4", 400),
        ("GET", "/kv/b/k?r=two", 400),
        ("GET", "/kv/b/k?r=%CC%B2", 400),
        ("GET", "/kv/b/k?timeout_ms=0", 400),
        ("GET", f"/kv/b/{'k' * 2_000}", 400),
        ("PATCH", "/kv/b/k", 405),
        ("GET", "/nothing", 404),
        ("PUT", "/ping", 405),
        ("GET", "/admin/nothing", 404),
        ("GET", "/admin/replica", 400),
    ],
)
def test_a_request_that_makes_no_sense_is_a_4xx(
    ring: NodeProcesses, method: str, path: str, status: int
) -> None:
    assert ring.ask("a", method, path).status == status


def test_pipelined_requests_are_answered_in_order_and_those_on_one_key_see_each_other(
    ring: NodeProcesses,
) -> None:
    asked = b"".join(
        b"PUT /kv/b/pipe-%d HTTP/1.1\r\nContent-Length: 3\r\n\r\n%03dGET /kv/b/pipe-%d HTTP/1.1\r\n\r\n"
        % (i, i, i)
        for i in range(50)
    )
    answers = ring.say("b", asked + b"GET /ping HTTP/1.1\r\nConnection: close\r\n\r\n").split(b"HTTP/1.1 ")[
        1:
    ]
    assert [a[:3] for a in answers] == 50 * [b"204", b"200"] + [b"200"]
    assert [a[-3:] for a in answers[1:-1:2]] == [b"%03d" % i for i in range(50)]
    assert answers[-1].endswith(b"pong")


@pytest.mark.parametrize(
    "content",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">I", 0xFFFF_FFFF) + b"x",
        struct.pack(">I", 5) + b"hello",
        struct.pack(">I", 0),
        b"\x00" * 1_000,
    ],
)
def test_a_stranger_on_the_peer_port_is_hung_up_on_and_logged(ring: NodeProcesses, content: bytes) -> None:
    lines = ring.log("b").count("closing the connection from a stranger")
    ring.say("b", content, port="peer")
    ring.await_log("b", "closing the connection from a stranger")
    assert ring.log("b").count("closing the connection from a stranger") == lines + 1
    assert ring.put("b", "after-strangers", b"x").status == 204


@pytest.mark.parametrize(
    ("hello", "complaint"),
    [
        ([1, "a", "x", b"", b""], "it was looking for 'x'"),
        ([1, "z", "b", b"", b""], "it calls itself 'z'"),
        ([9, "a", "b", b"", b""], "it speaks version 9"),
        ([1, "a", "b", b"", b"forged"], "does not know the shared secret"),
    ],
)
def test_a_peer_that_does_not_belong_here_is_told_so_in_the_log(
    ring: NodeProcesses, hello: list[object], complaint: str
) -> None:
    encoded = msgspec.msgpack.encode(hello)
    ring.say("b", struct.pack(">I", len(encoded)) + encoded, port="peer")
    ring.await_log("b", complaint)


def test_a_message_that_is_none_ends_the_connection_of_the_peer_that_sent_it(ring: NodeProcesses) -> None:
    hello = msgspec.msgpack.encode([1, "a", "b", b"", b""])
    content = struct.pack(">I", len(hello)) + hello + struct.pack(">I", 3) + b"abc"
    ring.say("b", content, port="peer")
    ring.await_log("b", "closing the connection from a at")
    assert ring.put("b", "after-nonsense", b"x").status == 204


def test_metrics_and_status_are_served(ring: NodeProcesses) -> None:
    ring.put("a", "measured", b"x")
    page = ring.ask("a", "GET", "/metrics").body.decode()
    assert 'dynamo_request_seconds_count{op="put"}' in page
    assert json.loads(ring.ask("a", "GET", "/status").body)["node"] == "a"


def test_acknowledged_writes_survive_kill_9_of_all_nodes(tmp_path: Path) -> None:
    with NodeProcesses(tmp_path) as ring:
        assert {ring.put("abc"[i % 3], f"k{i}", b"%d" % i).status for i in range(60)} == {204}
        for name in "abc":
            ring.kill(name)
        for name in "abc":
            ring.launch(name)
        for name in "abc":
            ring.await_ping(name)
        assert [ring.get("a", f"k{i}").body for i in range(60)] == [b"%d" % i for i in range(60)]


def test_writes_go_on_while_one_node_is_dead_and_it_gets_them_back_by_hints(tmp_path: Path) -> None:
    with NodeProcesses(tmp_path, "abcd") as ring:
        ring.kill("d")
        for name in "abc":
            _await_view(ring, name, of="d", up=False)
        assert {ring.put("abc"[i % 3], f"k{i}", b"x").status for i in range(30)} == {204}
        preference = "/admin/preference-list/b/"
        homes = {
            f"k{i}": json.loads(ring.ask("a", "GET", f"{preference}k{i}").body)["homes"] for i in range(30)
        }
        missed = [key for key in homes if "d" in homes[key]]
        assert missed
        ring.start("d")
        for name in "abc":
            _await_no_hints(ring, name)
        assert {ring.ask("d", "GET", f"/admin/replica/b/{key}").status for key in missed} == {200}


def _await_view(ring: NodeProcesses, name: str, *, of: str, up: bool) -> None:
    _await(lambda: json.loads(ring.ask(name, "GET", "/status").body)["peers"][of]["up"] is up)


def _await_no_hints(ring: NodeProcesses, name: str) -> None:
    _await(lambda: json.loads(ring.ask(name, "GET", "/admin/hints").body) == [])


def _await(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, "this should have come true by now"
        time.sleep(0.02)


def test_a_paused_node_does_not_hold_up_the_others_and_serves_again_after(tmp_path: Path) -> None:
    with NodeProcesses(tmp_path) as ring:
        ring.put("a", "before", b"x")
        ring.signal("c", signal.SIGSTOP)
        assert {ring.put("ab"[i % 2], f"k{i}", b"x" * 50_000).status for i in range(20)} == {204}
        ring.signal("c", signal.SIGCONT)
        assert ring.get("c", "k19").body == b"x" * 50_000


def test_nodes_of_different_secrets_do_not_hear_each_other(tmp_path: Path) -> None:
    with NodeProcesses(tmp_path, secret="right", request_timeout_ms=300) as ring:
        assert ring.put("a", "k", b"x").status == 204
        ring.stop("c")
        ring.start("c", secret="wrong")
        ring.await_log("a", "closing the connection from a stranger")
        reply = ring.put("c", "k", b"y")
        assert (reply.status, json.loads(reply.body)["got"]) == (503, 1)
        assert ring.get("a", "k").body == b"x"
        assert ring.ask("a", "GET", "/admin/ring").status == 401


def test_sigterm_answers_what_is_in_flight_and_ends_with_0(tmp_path: Path) -> None:
    with NodeProcesses(tmp_path) as ring:
        ring.put("a", "k", b"x")
        assert [ring.stop(name) for name in "abc"] == [0, 0, 0]
        assert ring.log("a").endswith(" stopped\n")
