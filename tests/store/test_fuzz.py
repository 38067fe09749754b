"""Garbage, to every node by every way in: it never ends a node, never makes it raise, and never changes a key that it does
not name. In the simulator through `Node.http` and `Node.received`; on real processes over their sockets."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from typing import Any
from unittest import mock

import garbage
import msgspec
import pytest
from cluster import SECOND, Cluster
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from node_processes import NodeProcesses

from harness.sim.world import SimWorld
from harness.world import Silence
from store import door, messages
from store.config import Config
from store.node import Node
from store.runtime import BadMessage
from store.server.greeting import PROTOCOL_VERSION

NODES = ("a", "b", "c")
KEYS = [f"/kv/{garbage.KEPT}/k{i}" for i in range(4)]

throws = st.lists(
    st.tuples(st.sampled_from(NODES), st.just("http"), garbage.requests)
    | st.tuples(st.sampled_from(NODES), st.just("peer"), garbage.frames),
    min_size=1,
    max_size=20,
)
thoroughly = settings(
    max_examples=10_000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
ordinarily = settings(thoroughly, max_examples=200)


def _throw_in_the_simulator(thrown: list[tuple[str, str, bytes]]) -> None:
    nodes: dict[str, Node] = {}

    def build(name: str, runtime: Any) -> Node:
        nodes[name] = Node(Config(node=name, peers=dict.fromkeys(NODES, ""), siblings_max=5), runtime)
        return nodes[name]

    world = SimWorld(NODES, 1, build)
    c = Cluster(world)

    async def holdings() -> list[Any]:
        pages = [(await c.ask(node, "GET", f"/admin/replica/{garbage.KEPT}")).body for node in NODES]
        return [*pages, *[(await c.ask("a", "GET", key)).body for key in KEYS]]

    async def main() -> None:
        await world.start()
        for number, key in enumerate(KEYS):
            for _ in range(1 + number % 2):
                assert (await c.ask("b", "PUT", key, b"%d" % number)).status == 204
        await world.sleep(SECOND // 4)
        before = await holdings()
        for node, way, content in thrown:
            if way == "http":
                try:
                    response = await world.transport(node, client="stranger").request(content, 5 * SECOND)
                except Silence:
                    raise AssertionError(f"{node} did not answer {content!r}") from None
                assert response.startswith(b"HTTP/1.1 ")
                assert not response.startswith(b"HTTP/1.1 500")
            else:
                _received(nodes[node], content)
        await world.sleep(SECOND // 4)
        assert await holdings() == before
        for node in NODES:
            # What garbage did to the key that it names must not be beyond reading, merging and writing.
            for method in ("GET", "PUT", "GET"):
                assert (await c.ask(node, method, "/kv/other/k", b"x")).status in (200, 204, 300, 404, 409)
        assert (await c.ask("c", "PUT", KEYS[0], b"still")).status == 204
        await world.stop()

    with mock.patch("harness.sim.world._no_collection", nullcontext):  # it costs more than all the rest
        world.run(main())
    for name, log in world.logs().items():
        assert "bug in" not in log and "failed:" not in log, f"{name}:\n{log}"


def _received(node: Node, frame: bytes) -> None:
    src = "b" if node.config.node == "a" else "a"
    with suppress(BadMessage):
        node.received(src, frame)


_PUT = b"PUT /kv/other/k HTTP/1.1\r\n"
_UNFINISHED = (
    _PUT + b"Content-Length: 1\r\n\r\nx" + _PUT + b"Transfer-Encoding: chunked\r\n\r\na0\r\n\r\n\r\nx"
)


@given(throws)
@example([("a", "http", _UNFINISHED)])
@ordinarily
def test_garbage_changes_no_key_and_no_node_stumbles(thrown: list[tuple[str, str, bytes]]) -> None:
    _throw_in_the_simulator(thrown)


@pytest.mark.slow
@given(throws)
@thoroughly
def test_much_garbage_changes_no_key_and_no_node_stumbles(thrown: list[tuple[str, str, bytes]]) -> None:
    _throw_in_the_simulator(thrown)


def test_a_heartbeat_that_nobody_could_outdo_is_refused() -> None:
    outdone = messages.encode(messages.Gossip({"a": ((1 << 64) - 1, (1 << 64) - 1)}, False))
    with pytest.raises(BadMessage):
        door.opened(outdone, NODES)


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcesses]:
    with NodeProcesses(tmp_path_factory.mktemp("fuzz")) as ring:
        for i in range(20):
            assert ring.ask("a", "PUT", f"/kv/{garbage.KEPT}/k{i}", b"%d" % i).status == 204
        yield ring
        for name in "abc":
            assert ring.stop(name) == 0
            assert "bug" not in ring.log(name)


@pytest.fixture(scope="module")
def before(ring: NodeProcesses) -> dict[str, Any]:
    held = ring.everything(garbage.KEPT)
    while any(len(keys) < 20 for keys in held.values()):
        held = ring.everything(garbage.KEPT)  # the third replica was not waited for
    return held


def _throw_at_processes(
    ring: NodeProcesses, before: dict[str, Any], thrown: list[tuple[str, str, bytes]]
) -> None:
    for name, way, content in thrown:
        if way == "http":
            ring.throw(name, content)
        else:
            hello = msgspec.msgpack.encode([PROTOCOL_VERSION, "b" if name == "a" else "a", name, b"", b""])
            framed = [struct.pack(">I", len(part)) + part for part in (hello, content)]
            # Introduced as a peer, as a stranger, and as neither.
            ring.throw(
                name, b"".join(framed[len(content) % 2 :]) if len(content) % 3 else content, port="peer"
            )
    assert [ring.alive(name) for name in "abc"] == [True] * 3
    assert ring.everything(garbage.KEPT) == before


@given(thrown=throws)
@settings(ordinarily, suppress_health_check=[*HealthCheck])
def test_garbage_over_sockets_changes_no_key_and_ends_no_process(
    ring: NodeProcesses, before: dict[str, Any], thrown: list[tuple[str, str, bytes]]
) -> None:
    _throw_at_processes(ring, before, thrown)


@pytest.mark.slow
@given(thrown=throws)
@settings(thoroughly, suppress_health_check=[*HealthCheck])
def test_much_garbage_over_sockets_changes_no_key_and_ends_no_process(
    ring: NodeProcesses, before: dict[str, Any], thrown: list[tuple[str, str, bytes]]
) -> None:
    _throw_at_processes(ring, before, thrown)
