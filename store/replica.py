"""What this node itself holds: an index in memory of encoded records, every change of it in the log first or with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b

from store import versions
from store.log import Log
from store.runtime import Future
from store.versions import EMPTY, Record

PUT = b"P"
"""First byte of a log payload: a record under its key."""


def packed(kind: bytes, *parts: bytes) -> bytes:
    """A log payload: the kind, then each part behind its length."""
    return kind + b"".join([len(p).to_bytes(4, "big") + p for p in parts])


def unpacked(payload: bytes) -> list[bytes]:
    """The parts of a log payload."""
    parts: list[bytes] = []
    offset = 1
    while offset < len(payload):
        end = offset + 4 + int.from_bytes(payload[offset : offset + 4], "big")
        parts.append(payload[offset + 4 : end])
        offset = end
    return parts


class Replica:
    """Records by key. Keys are `bucket/key` in bytes; records are encoded (store/versions.py)."""

    def __init__(self, log: Log, range_of: Callable[[bytes], int], is_lww: Callable[[bytes], bool]) -> None:
        self._log = log
        self._range_of = range_of
        self._is_lww = is_lww
        self._records: dict[bytes, bytes] = {}
        self._digests: dict[int, int] = {}
        self._digest_of: dict[bytes, int] = {}
        """By key, as it went into `_digests`."""
        self._undigested: dict[bytes, None] = {}
        """Keys that changed since: writes are frequent, and looks at the digests are rare."""
        self._unsynced: dict[bytes, tuple[int, Future]] = {}

    def __len__(self) -> int:
        return len(self._records)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        yield from self._records.items()

    def restore(self, payload: bytes) -> None:
        """Replays one log payload of the kind PUT. Later ones descend from earlier ones."""
        key, record = unpacked(payload)
        self._records[key] = record
        self._undigested[key] = None

    def load(self, key: bytes) -> bytes:
        """The encoded record, empty if there is none; perhaps not yet durable."""
        return self._records.get(key, b"")

    def unsynced(self, key: bytes) -> Future | None:
        """What to wait for before `load(key)` may be shown to anybody, if anything."""
        pending = self._unsynced.get(key)
        if pending is None:
            return None
        batch, future = pending
        if batch > self._log.synced:
            return future
        if self._log.synced == self._log.batch - 1:
            self._unsynced.clear()
        return None

    def record(self, key: bytes) -> Record:
        held = self._records.get(key)
        return versions.decode(held) if held else EMPTY

    def join(self, key: bytes, incoming: bytes) -> Future | None:
        """Joins a record into what is held. Returns what to wait for until it is durable; None if it is already."""
        held = self._records.get(key)
        if held == incoming:
            return self.unsynced(key)
        if held:
            incoming = versions.merged(held, incoming, lww=self._is_lww(key))
            if incoming == held:
                return self.unsynced(key)
        return self.store(key, incoming)

    def store(self, key: bytes, record: bytes) -> Future:
        """Replaces what is held by a record that descends from it. The future is set once it is durable."""
        future = self._log.append(packed(PUT, key, record))
        self._records[key] = record
        self._undigested[key] = None
        self._unsynced[key] = (self._log.batch, future)
        return future

    def digests(self) -> dict[int, str]:
        """Token range -> digest of everything held in it: equal iff the same keys have the same records."""
        for key in self._undigested:
            token_range = self._range_of(key)
            digest = _digest(key, self._records[key])
            change = digest ^ self._digest_of.get(key, 0)
            self._digests[token_range] = self._digests.get(token_range, 0) ^ change
            self._digest_of[key] = digest
        self._undigested.clear()
        return {r: f"{d:016x}" for r, d in sorted(self._digests.items())}


def _digest(key: bytes, record: bytes) -> int:
    # Key and record are hashed together, so that two swapped records cannot cancel out.
    return int.from_bytes(blake2b(packed(b"", key, record), digest_size=8).digest(), "big")
