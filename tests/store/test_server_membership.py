"""A ring of real processes that changes: addresses that no configuration knew, and strangers who ask to be let in."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from node_processes import START_SECONDS_MAX, NodeProcesses, free_ports


class Growing(NodeProcesses):
    """Three nodes run from the start and know each other; a fourth, whom they do not know, is started later."""

    def __enter__(self) -> Growing:
        self.everybody = {name: f"127.0.0.1:{port}" for name, port in self.peer_ports.items()}
        self.first = {name: self.everybody[name] for name in "abc"}
        for name in "abc":
            self.launch(name, peers=self.first)
        for name in "abc":
            self.await_ping(name)
        return self

    def ring(self, name: str) -> dict[str, Any]:
        return msgspec.json.decode(self.ask(name, "GET", "/admin/ring").body)

    def members(self, name: str) -> tuple[str, tuple[str, ...]]:
        known = self.ring(name)
        return known["phase"], tuple(known["nodes"])

    def change(self, via: str, kind: str, **body: str) -> int:
        return self.ask(via, "POST", f"/admin/{kind}", msgspec.json.encode(body)).status

    def until(self, look: Callable[[], object], expected: object) -> None:
        patience = time.monotonic() + START_SECONDS_MAX
        while (seen := look()) != expected:
            assert time.monotonic() < patience, f"{seen}; {self.log('a')}\n{self.log('d')}"
            time.sleep(0.05)


def test_a_node_that_no_configuration_names_joins_and_another_leaves_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    with Growing(tmp_path, "abcd") as ring:
        for i in range(40):
            assert ring.put("a", f"k{i}", b"%d" % i).status == 204
        ring.start("d", join=True)
        ring.until(
            lambda: "it calls itself 'd'" in ring.log("a"), True
        )  # no secret: an operator has to say so
        assert ring.change("b", "join", name="d", address="nowhere") == 409
        # A slip in name or address begins nothing, and leaves nothing behind that lets anybody in.
        assert ring.change("b", "join", name="d", address=ring.everybody["a"]) == 409
        for name, at in (("d", free_ports(1)[0]), ("g", ring.peer_ports["d"])):
            slip = msgspec.json.encode({"name": name, "address": f"127.0.0.1:{at}"})
            reply = ring.ask("b", "POST", "/admin/join", slip)
            assert reply.status == 503
            assert f"{name} does not answer at 127.0.0.1:{at} as {name}: start it there first" in str(
                reply.body
            )
        assert ring.members("b") == ("settled", ("a", "b", "c"))
        assert ring.change("b", "join", name="d", address=ring.everybody["d"]) == 202
        for name in "abcd":
            ring.until(partial(ring.members, name), ("settled", ("a", "b", "c", "d")))
        assert ring.change("d", "leave", name="a") == 202
        for name in "abcd":
            ring.until(partial(ring.members, name), ("settled", ("b", "c", "d")))
        assert ring.stop("a") == 0
        assert "left" in ring.log("a")
        for i in range(40):
            for name in "bcd":
                assert ring.get(name, f"k{i}").body == b"%d" % i
        held = {name: ring.ask(name, "GET", "/admin/replica/b").body for name in "bcd"}
        assert held["b"] == held["c"] == held["d"]
        # Who knows the ring from its disk needs no other address than those.
        ring.kill("d")
        ring.start("d", join=True, peers={"d": ring.everybody["d"], "b": ring.everybody["b"]})
        ring.until(lambda: ring.members("d"), ("settled", ("b", "c", "d")))
        assert ring.put("d", "k0", b"again").status == 204


def test_a_node_that_knows_the_secret_is_taken_in_when_it_asks(tmp_path: Path) -> None:
    class Secret(Growing):
        def ring(self, name: str) -> dict[str, Any]:
            return msgspec.json.decode(self.log_free(name))

        def log_free(self, name: str) -> bytes:
            head = (
                b"GET /admin/ring HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s\r\nConnection: close\r\n\r\n"
            )
            return self.say(name, head).partition(b"\r\n\r\n")[2]

    with Secret(tmp_path, "abcd", secret="s") as ring:
        assert ring.change("a", "join", name="d", address=ring.everybody["d"]) == 401
        ring.start("d", join=True, peers={"d": ring.everybody["d"], "c": ring.everybody["c"]})
        for name in "abcd":
            ring.until(partial(ring.members, name), ("settled", ("a", "b", "c", "d")))
