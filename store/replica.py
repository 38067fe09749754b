"""What this node itself holds: an index in memory of encoded records, every change of it in the log first or with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from store import versions
from store.log import DROP, PUT, Log
from store.merkle import HASH_VERSION, TokenRange
from store.ring import token
from store.runtime import Future
from store.versions import EMPTY, Record


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
    """Records by key, for each token range. Keys are `bucket/key` in bytes; records are encoded (store/versions.py)."""

    def __init__(
        self,
        log: Log,
        token_ranges: int,
        is_lww: Callable[[bytes], bool],
        hash_version: int = HASH_VERSION,
    ) -> None:
        self._log = log
        self._token_ranges = token_ranges
        self._is_lww = is_lww
        self.ranges: dict[int, TokenRange] = {
            r: TokenRange(token_ranges, hash_version) for r in range(token_ranges)
        }

    def __len__(self) -> int:
        return sum(len(r.records) for r in self.ranges.values())

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        for token_range in self.ranges.values():
            yield from token_range.records.items()

    def restore(self, payload: bytes) -> bytes:
        """Replays one log payload of the kind PUT or DROP; returns its key. Each PUT is all that was held of the key: the
        last counts."""
        key, *record = unpacked(payload)
        records = self.ranges[token(key) * self._token_ranges >> 64].records
        if record:
            records[key] = record[0]
        else:
            records.pop(key, None)
        return key

    def payload(self, key: bytes) -> bytes | None:
        """The log payload of what is held of a key, if anything."""
        record = self.load(key)
        return packed(PUT, key, record) if record else None

    def load(self, key: bytes) -> bytes:
        """The encoded record, empty if there is none; perhaps not yet durable."""
        return self.ranges[token(key) * self._token_ranges >> 64].records.get(key, b"")

    def unsynced(self, key: bytes) -> Future | None:
        """What to wait for before `load(key)` may be shown to anybody, if anything."""
        return self._log.unsynced(key)

    def settled(self) -> Future | None:
        """What to wait for before everything held now may be relied on, if anything."""
        return self._log.settled

    def record(self, key: bytes) -> Record:
        held = self.load(key)
        return versions.decode(held) if held else EMPTY

    def join(self, key: bytes, incoming: bytes) -> Future | None:
        """Joins a record into what is held. Returns what to wait for until it is durable; None if it is already."""
        held = self.load(key)
        if held == incoming:
            return self.unsynced(key)
        if held:
            incoming = versions.merged(held, incoming, lww=self._is_lww(key))
            if incoming == held:
                return self.unsynced(key)
        return self.store(key, incoming)

    def store(self, key: bytes, record: bytes) -> Future:
        """Replaces what is held by a record that descends from it. The future is set once it is durable."""
        future = self._log.append(packed(PUT, key, record), key)
        key_token = token(key)
        self.ranges[key_token * self._token_ranges >> 64].put(key, key_token, record)
        return future

    def rewrite(self, key: bytes) -> None:
        """Appends what is held of a key once more: the disk has lost it."""
        self._log.append(packed(PUT, key, self.load(key)), key)

    def drop(self, key: bytes) -> Future:
        """Forgets a key. The future is set once that is durable."""
        future = self._log.append(packed(DROP, key), key)
        key_token = token(key)
        self.ranges[key_token * self._token_ranges >> 64].drop(key, key_token)
        return future

    def digests(self) -> dict[int, str]:
        """Token range -> digest of everything held in it: equal iff the same keys have the same records."""
        return {number: f"{r.built().root:016x}" for number, r in self.ranges.items() if r.records}
