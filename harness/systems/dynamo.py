"""The built-in store as a system under test: how its nodes are configured, what it promises, how clients and probes speak to it.

Sans-I/O: requests are built and responses read here; a world's Transport carries the bytes.
"""

from __future__ import annotations

from base64 import b64decode
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import msgspec

from harness import samples
from harness.settings import Settings
from harness.world import Refused, Silence, Transport
from nemeses.fault import DESTRUCTIVE
from store.config import Config
from store.merkle import HASH_VERSION
from workloads.body import id_of
from workloads.connection import Definite, Indefinite, Siblings

BUCKET = "b"
REAP_INTERVAL_MS_MAX = 300_000
REAPED_LATER_SECONDS = 1_800
"""A tombstone that is older than that at the end of a run has been reaped by no node, however wrong its clock was."""
CLIENT_TIMEOUT_NS = 2_000_000_000
"""Longer than a coordinator waits, so that a client hears its 503."""

PROBE_TIMEOUT_NS = 1_000_000_000


def config(settings: Settings, node: str, peers: dict[str, str]) -> Config:
    """One node's configuration. `peers` maps every node to its peer address (any text in the simulator)."""
    return Config(
        node=node,
        peers=peers,
        members=tuple(list(peers)[: settings.nodes]) if settings.spares else (),
        n=settings.n,
        r=settings.r,
        w=settings.w,
        pr=settings.pr,
        pw=settings.pw,
        mode=settings.mode,
        sloppy=settings.sloppy,
        hinted_handoff=settings.hinted_handoff,
        read_repair=settings.read_repair,
        anti_entropy=settings.anti_entropy,
        hash_version=HASH_VERSION + (settings.mixed_hashes and sorted(peers).index(node) % 2),
        anti_entropy_rebuild_ms=int(settings.anti_entropy_rebuild_seconds * 1_000),
        anti_entropy_interval_ms=int(settings.anti_entropy_interval_seconds * 1_000),
        reap_after_ms=int(settings.reap_after_seconds * 1_000),
        reap_interval_ms=int(min(settings.reap_after_seconds * 250, REAP_INTERVAL_MS_MAX)),
        log_segment_bytes=settings.log_segment_bytes,
    )


def guarantees(settings: Settings) -> dict[str, Any]:
    """What this store, so configured, promises; checkers judge nothing else (docs/checkers.md)."""
    promised: dict[str, Any] = {"availability": True}
    if settings.mode == "siblings":
        promised |= {
            "lost_writes": "causal",
            "siblings": True,
            "resurrection": True,
            "set_full": True,
            "cart": True,
        }
        if not set(settings.nemesis) - _KEEP_DISKS and (
            settings.workload == "sessions" or _overlap(settings)
        ):
            promised["sessions"] = _sessions(settings)
        if not set(settings.nemesis) - _KEEP_DISKS:
            promised["durability"] = {"w": settings.w, "pw": settings.pw}
    else:
        # Separate hosts have separate clocks, and a clock fault moves them apart: then newest is not last.
        skewed = settings.world != "sim" or "clock" in settings.nemesis
        promised |= {"lost_writes": "lww-skewed" if skewed else "lww", "resurrection": True}
    promised["convergence"] = {
        "after": _converges_after(settings),
        "bound_seconds": settings.recovery_seconds,
        "comes_to_rest": settings.anti_entropy,
    }
    if settings.reap_after_seconds <= settings.time_seconds + REAPED_LATER_SECONDS:
        # What one replica has reaped and another has not yet is sent once more.
        promised["convergence"] |= {"reaps": True, "comes_to_rest": False}
    if "membership" in settings.nemesis:
        # A hint whose target has left goes to others, and one on a node that was replaced is gone with it.
        promised["convergence"] |= {"delivery": False, "one_ring": True}
    if {"wipe", "rollback", "rot"} & set(settings.nemesis):
        # A hint may have been on the disk that is gone, and what it carried with it, once handed off.
        promised["convergence"]["delivery"] = False
    if settings.unrestricted and set(settings.nemesis) & set(DESTRUCTIVE):
        for name in LOSSES:
            promised.pop(name, None)
    return promised


LOSSES = ("lost_writes", "set_full", "cart", "resurrection", "sessions")
"""What no store can promise once destructive faults hit as many nodes as they like."""


_KEEP_DISKS = frozenset(("partition", "kill", "pause", "clock", "power"))
"""Faults under which a home replica keeps what it acknowledged, and stays one. Others make sessions a measurement."""


def _sessions(settings: Settings) -> dict[str, Any]:
    """How many home replicas a request reaches that says nothing itself (checkers/sessions.py)."""
    return {
        "n": settings.n,
        "r": settings.r,
        "w": settings.w,
        "pr": settings.pr,
        "pw": settings.pw,
        "strict": not (settings.sloppy and settings.hinted_handoff),
        "blocking": settings.read_repair == "blocking",
        "regular": True,
    }


def _overlap(settings: Settings) -> bool:
    """Whether the home replicas of a read and of a write before it have one in common."""
    strict = not (settings.sloppy and settings.hinted_handoff)
    read, write = (
        max(primaries, responders if strict else 0)
        for primaries, responders in ((settings.pr, settings.r), (settings.pw, settings.w))
    )
    return read + write > settings.n


def compares(settings: Settings) -> bool:
    """Whether anti-entropy reaches all home replicas: nodes that hash differently do not compare."""
    return settings.anti_entropy and not settings.mixed_hashes


def _converges_after(settings: Settings) -> str:
    """What has to have happened before all home replicas agree. Anti-entropy needs nothing but time. Without anti-
    entropy a coordinator that dies between a write and its hints leaves a replica behind until the key is read; one
    that lives on leaves none."""
    if compares(settings):
        return "anti-entropy"
    if settings.read_repair != "off":
        return "full-read"
    coordinators_live = not {"kill", "power"} & set(settings.nemesis)
    return "handoff" if settings.hinted_handoff and settings.sloppy and coordinators_live else "delivery"


_listed = msgspec.json.Decoder(list[bytes | None]).decode
"""Siblings as the store lists them: base64 text, null for a tombstone."""


def parse(response: bytes) -> tuple[int, Siblings]:
    """(status, siblings) of a reply about a key. The store writes its header names as they are spelled here."""
    status = int(response[9:12])
    head, _, body = response.partition(b"\r\n\r\n")
    _, _, after = head.partition(b"\r\nX-Causal-Context: ")
    context = after.partition(b"\r\n")[0].decode("latin-1") or None
    truncated = b"\r\nX-Clock-Truncated: true" in head
    match status:
        case 200:
            return status, Siblings((body,), context, False, truncated)
        case 300:
            listed = _listed(body)
            values = tuple([v for v in listed if v is not None])
            return status, Siblings(values, context, None in listed, truncated)
        case _:
            return status, Siblings((), context, context is not None, truncated)


@lru_cache(4_096)
def _path(key: str) -> str:
    return f"/kv/{BUCKET}/{quote(key, safe='')}"


def _quorum(*asked: tuple[str, int | None]) -> str:
    """The part of a query that says how many must answer, as far as it is said."""
    return "".join([f"&{name}={count}" for name, count in asked if count is not None])


class DynamoConnection:
    """One client's connection to one node (workloads.connection.Connection)."""

    def __init__(self, transport: Transport, node: str, value_bytes: int = 0) -> None:
        """`value_bytes`: bodies are padded to so many bytes, with spaces, which change nothing in JSON."""
        self.node = node
        self._transport = transport
        self._value_bytes = value_bytes

    async def get(self, key: str, *, r: int | None = None, pr: int | None = None) -> Siblings:
        query = _quorum(("r", r), ("pr", pr))
        target = f"{_path(key)}?{query[1:]}" if query else _path(key)
        status, siblings = parse(
            await self._request(f"GET {target} HTTP/1.1\r\nHost: {self.node}\r\n\r\n".encode())
        )
        if status not in (200, 300, 404):
            raise Indefinite(f"status {status}")
        return siblings

    async def put(
        self,
        key: str,
        body: bytes,
        *,
        context: str | None = None,
        w: int | None = None,
        pw: int | None = None,
        ttl_seconds: int | None = None,
    ) -> Siblings:
        query = _quorum(("w", w), ("pw", pw), ("ttl_seconds", ttl_seconds))
        return await self._write("PUT", key, body, context, query)

    async def delete(
        self, key: str, *, context: str | None, w: int | None = None, pw: int | None = None
    ) -> Siblings:
        return await self._write("DELETE", key, b"", context, _quorum(("w", w), ("pw", pw)))

    async def _write(self, method: str, key: str, body: bytes, context: str | None, quorum: str) -> Siblings:
        body = body.ljust(self._value_bytes) if method == "PUT" else body
        more = f"X-Causal-Context: {context}\r\n" if context else ""
        head = (
            f"{method} {_path(key)}?returnbody=true{quorum} HTTP/1.1\r\nHost: {self.node}\r\n"
            f"Content-Length: {len(body)}\r\n{more}\r\n"
        )
        status, siblings = parse(await self._request(head.encode() + body))
        if status in (200, 204, 300):
            return siblings
        if 400 <= status < 500:
            raise Definite(f"status {status}")
        raise Indefinite(f"status {status}")

    async def _request(self, payload: bytes) -> bytes:
        try:
            return await self._transport.request(payload, CLIENT_TIMEOUT_NS)
        except Refused:
            raise Definite("connection refused") from None
        except Silence as silence:
            raise Indefinite(str(silence) or "no answer") from None

    def close(self) -> None:
        self._transport.close()


class Probe:
    """Looks at single nodes, past the quorum, and repairs nothing by looking. Silence and Refused pass through."""

    def __init__(self, transport: Transport, node: str) -> None:
        self.node = node
        self._transport = transport

    async def _page(self, path: str) -> Any:
        return msgspec.json.decode(await self._bytes(path))

    async def _bytes(self, path: str) -> bytes:
        request = f"GET {path} HTTP/1.1\r\nHost: {self.node}\r\n\r\n".encode()
        response = await self._transport.request(request, PROBE_TIMEOUT_NS)
        if int(response[9:12]) != 200:
            raise Silence(f"{path}: status {int(response[9:12])}")
        return response.partition(b"\r\n\r\n")[2]

    async def replica(self) -> tuple[dict[str, list[int]], list[str]]:
        """(key -> ids held, keys that hold a tombstone)."""
        held: dict[str, Any] = await self._page(f"/admin/replica/{BUCKET}")
        ids = {key: [id_of(b64decode(v)) for v in record["values"]] for key, record in sorted(held.items())}
        return ids, [key for key, record in sorted(held.items()) if record["tombstones"]]

    async def records(self, keys: list[str]) -> dict[str, dict[str, Any]]:
        """Of those keys that this node holds as a home replica: `ids`, `clock` (actor -> counter), `tombstones`."""
        held: dict[str, Any] = await self._page(f"/admin/replica/{BUCKET}")
        return {
            key: {
                "ids": [id_of(b64decode(v)) for v in record["values"]],
                "clock": dict(record["clock"]),
                "tombstones": record["tombstones"],
            }
            for key in keys
            if (record := held.get(key)) is not None
        }

    async def metrics(self) -> dict[str, float]:
        """Every sample of `/metrics` by its name with labels; what is no number is left out."""
        return samples.parse(await self._bytes("/metrics"))

    async def order(self, key: str) -> list[str]:
        """Every node in the key's order of preference."""
        page: dict[str, Any] = await self._page(f"/admin/preference-list/{BUCKET}/{quote(key, safe='')}")
        return [*page["homes"], *page["fallbacks"]]

    async def hints(self) -> list[list[Any]]:
        """[target, key, ids] of every durable hint."""
        hints: list[dict[str, Any]] = await self._page("/admin/hints")
        prefix = f"{BUCKET}/"
        return [
            [
                hint["target"],
                hint["key"].removeprefix(prefix),
                [id_of(b64decode(v)) for v in hint["values"]],
            ]
            for hint in hints
        ]

    async def digest(self) -> dict[str, str]:
        """token range -> digest of what the node holds of it."""
        return await self._page("/admin/digest")

    async def exchanged(self) -> int:
        """How many keys this node's anti-entropy has sent in this life."""
        return (await self._page("/admin/anti-entropy"))["keys_sent"]

    async def ranges(self) -> dict[str, list[str]]:
        """token range -> its home replicas, by this node's ring."""
        return (await self._page("/admin/ring"))["ranges"]

    async def homes(self, keys: list[str]) -> dict[str, list[str]]:
        """key -> its home replicas, by this node's ring."""
        return {
            key: (await self._page(f"/admin/preference-list/{BUCKET}/{quote(key, safe='')}"))["homes"]
            for key in keys
        }
