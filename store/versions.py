"""Dotted version sets: what a replica knows about one key, and how two replicas' knowledge joins.

A vector clock says which events a record has seen; every live value carries the one event (its *dot*) that wrote it. So a
write through a stale context replaces exactly what its client had read, and no more: a plain version vector per object
would turn every interleaved write into a sibling. Preguica, Baquero, Almeida, Fonte, Goncalves: "Dotted Version Vectors",
2012; DeCandia et al. 2007, section 4.4 for clocks and their truncation.

Absent and zero are the same clock: no entry is ever zero. Counters of one actor are contiguous: a clock that holds
(a, 5) has seen a's events 1 to 5, since records always travel whole.
"""

from __future__ import annotations

import binascii
import zlib
from base64 import urlsafe_b64decode
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any

import msgspec

Entry = tuple[int, int, int]
"""(actor, counter, wall_seconds): the actor's latest event that is known, and when its coordinator believed it happened.

Only truncation asks when, and seconds tell it enough: nanoseconds would take four bytes more, in every entry of every key.
"""

SECOND_NS = 1_000_000_000

Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
"""Room for every event and every clock that there will be, and none for one that counting on would overflow."""

CheckedEntry = tuple[Annotated[int, msgspec.Meta(ge=0)], Number, Number]


class Version(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One live value, or a tombstone, under its dot (actor, counter). `wall_ns` orders versions in `lww` buckets only.

    `end` is False for a value that stays, True for a tombstone, and otherwise the wall clock's nanoseconds at which the value
    expires: one field, so that values that stay pay nothing for those that do not.
    """

    actor: Annotated[int, msgspec.Meta(ge=0)]
    counter: Number
    wall_ns: Number
    body: bytes
    end: bool | int = False

    @property
    def deleted(self) -> bool:
        return self.end is True

    def gone(self, wall_ns: int) -> bool:
        """Whether this is a tombstone, or by this clock as good as one."""
        end = self.end
        return end is True or (end is not False and end <= wall_ns)


NOTHING, BURIED, EXPIRED = 0, 1, 2
"""What there is to do about a record: see `due`."""


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """All that is known of a key. Both tuples are sorted, so equal knowledge has equal bytes.

    `truncated` is sticky: this clock, or one that was joined into it, once lost entries.
    """

    clock: tuple[CheckedEntry, ...] = ()
    versions: tuple[Version, ...] = ()
    truncated: bool = False


EMPTY = Record()

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)
encode = _encoder.encode

decode_once = _decoder.decode
"""As `decode`, for who passes by every record of a node and will not meet it again soon."""


def due(record: Record, wall_ns: int) -> int:
    """BURIED where nothing but tombstones is left, EXPIRED where a value has expired by then and is no tombstone yet."""
    buried = True
    for version in record.versions:
        end = version.end
        if end is not True:
            if end is not False and end <= wall_ns:
                return EXPIRED
            buried = False
    return BURIED if buried else NOTHING


_decode_kept = lru_cache(256)(_decoder.decode)
"""A node meets the same record again and again: as a replica, as a coordinator, in each answer."""

_KEPT_BYTES_MAX = 4_096


def decode(encoded: bytes) -> Record:
    """The record in these bytes. Raises msgspec.DecodeError."""
    return _decode_kept(encoded) if len(encoded) <= _KEPT_BYTES_MAX else _decoder.decode(encoded)


class BadRecord(Exception):
    """Bytes that no node writes as a record."""


def check(encoded: bytes) -> None:
    """Whether a peer may have meant these bytes as a record: in the one encoding that equal knowledge has. Raises
    BadRecord. A zero entry passes: it says what its absence says."""
    _check_kept(encoded) if len(encoded) <= _KEPT_BYTES_MAX else _check(encoded)


def _check(encoded: bytes) -> None:
    try:
        record = decode(encoded)
    except msgspec.DecodeError as problem:
        raise BadRecord(str(problem)) from None
    if encode(record) != encoded:
        raise BadRecord("not in its one encoding")
    clock, live = record.clock, record.versions
    if len(clock) > 1 and not _ascend([entry[0] for entry in clock]):
        raise BadRecord("a clock names every actor once, in order")
    if len(live) > 1 and not _ascend([_dot(version) for version in live]):
        raise BadRecord("a record has every dot once, in order")


_check_kept = lru_cache(256)(_check)


def _ascend(keys: list[Any]) -> bool:
    return all(a < b for a, b in pairwise(keys))


def merged(held: bytes, incoming: bytes, *, lww: bool) -> bytes:
    """The encoded join of two encoded records, one of the two themselves where it says all."""
    a, b = decode(held), decode(incoming)
    joined = sync_lww(a, b) if lww else sync(a, b)
    if joined is a:
        return held
    return incoming if joined is b else encode(joined)


def counters(clock: Iterable[Entry]) -> dict[int, int]:
    return {actor: counter for actor, counter, _ in clock}


def descends(clock: dict[int, int], other: Iterable[Entry]) -> bool:
    """Whether `clock` has seen every event that `other` has seen."""
    get = clock.get
    for actor, counter, _ in other:  # noqa: SIM110 # `all` with a generator costs twice as much, in the hottest of paths
        if get(actor, 0) < counter:
            return False
    return True


def join(clock: tuple[Entry, ...], other: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """The least clock that descends from both."""
    latest = {entry[0]: entry for entry in clock}
    news = False
    for entry in other:
        known = latest.get(entry[0])
        if known is None or entry[1:] > known[1:]:
            latest[entry[0]] = entry
            news = True
    return tuple(sorted(latest.values())) if news else clock


def _dot(version: Version) -> tuple[int, int]:
    return version.actor, version.counter


def sync(a: Record, b: Record) -> Record:
    """What somebody knows who knows both: commutative, associative, idempotent.

    A version survives if both hold it, or if the side that lacks it has not seen its dot.
    """
    seen_a, seen_b = counters(a.clock), counters(b.clock)
    # Records travel whole, so who has seen all events of the other has also seen what they replaced.
    if descends(seen_a, b.clock) and (len(a.clock) > len(b.clock) or seen_a != seen_b):
        return a if a.truncated or not b.truncated else Record(a.clock, a.versions, True)
    if descends(seen_b, a.clock) and seen_a != seen_b:
        return b if b.truncated or not a.truncated else Record(b.clock, b.versions, True)
    held_a = {_dot(v) for v in a.versions}
    held_b = {_dot(v) for v in b.versions}
    live = {_dot(v): v for v in a.versions if _dot(v) in held_b or v.counter > seen_b.get(v.actor, 0)}
    live |= {_dot(v): v for v in b.versions if _dot(v) in held_a or v.counter > seen_a.get(v.actor, 0)}
    versions = tuple(live[dot] for dot in sorted(live))
    return Record(join(a.clock, b.clock), versions, a.truncated or b.truncated)


def sync_lww(a: Record, b: Record) -> Record:
    """Last writer wins: of all versions the one with the newest timestamp stays; ties go to the greater dot, and between
    a value and the tombstone that its expiry made of it to the tombstone."""
    versions = a.versions + b.versions
    if not versions:
        return EMPTY
    newest = max(versions, key=lambda v: (v.wall_ns, v.actor, v.counter, v.end is True))
    return Record((), (newest,))


def put(
    record: Record,
    context: tuple[Entry, ...],
    actor: int,
    wall_ns: int,
    body: bytes,
    *,
    deleted: bool = False,
    ttl_ns: int = 0,
    entries_max: int = 10,
) -> Record:
    """The record after a write that replaces what `context` covers. Only a coordinator may call it: it makes a dot."""
    covered = counters(context)
    kept = [v for v in record.versions if v.counter > covered.get(v.actor, 0)]
    known = join(record.clock, context)
    counter = counters(known).get(actor, 0) + 1
    new = Version(actor, counter, wall_ns, body, deleted or (wall_ns + ttl_ns if ttl_ns else False))
    versions = tuple(sorted([*kept, new], key=_dot))
    clock = join(known, ((actor, counter, wall_ns // SECOND_NS),))
    short = truncate(clock, versions, entries_max)
    return Record(short, versions, record.truncated or short != clock)


def put_lww(
    record: Record,
    actor: int,
    counter: int,
    wall_ns: int,
    body: bytes,
    *,
    deleted: bool = False,
    ttl_ns: int = 0,
) -> Record:
    """The record after a write at `wall_ns`, or just after what is stored where that is newer."""
    newest = max((v.wall_ns + 1 for v in record.versions), default=0)
    end = deleted or (wall_ns + ttl_ns if ttl_ns else False)
    return Record((), (Version(actor, counter, max(wall_ns, newest), body, end),))


def expire(record: Record, actor: int, wall_ns: int, *, entries_max: int = 10) -> Record:
    """The record after what has expired by `wall_ns` was replaced by a tombstone, a new event of `actor`.

    By exactly those dots: a context that covers them would cover the actor's earlier events too, which may be live.
    """
    kept = [v for v in record.versions if not (v.gone(wall_ns) and v.end is not True)]
    counter = counters(record.clock).get(actor, 0) + 1
    if all(v.end is True for v in kept):
        kept.append(Version(actor, counter, wall_ns, b"", True))
    versions = tuple(sorted(kept, key=_dot))
    clock = join(record.clock, ((actor, counter, wall_ns // SECOND_NS),))
    short = truncate(clock, versions, entries_max)
    return Record(short, versions, record.truncated or short != clock)


def expire_lww(record: Record) -> Record:
    """The record with its value made a tombstone where it stands: at its own timestamp, so that no later write can lose
    to it, and the same wherever it is made."""
    return Record((), tuple(Version(v.actor, v.counter, v.wall_ns, b"", True) for v in record.versions))


def truncate(clock: tuple[Entry, ...], versions: tuple[Version, ...], entries_max: int) -> tuple[Entry, ...]:
    """Drops the oldest entries beyond `entries_max` (the paper's threshold is 10), never one that carries a live dot.

    On the coordinator's path only: truncating in repair, handoff or replication would let replicas disagree for ever.
    """
    excess = len(clock) - entries_max
    if excess <= 0:
        return clock
    live = {v.actor for v in versions}
    old = sorted((entry for entry in clock if entry[0] not in live), key=lambda e: (e[2], e[0]))
    dropped = {entry[0] for entry in old[:excess]}
    return tuple(entry for entry in clock if entry[0] not in dropped)


class BadContext(Exception):
    """A causal context that this store did not hand out for this key."""


_clock_decoder = msgspec.msgpack.Decoder(tuple[CheckedEntry, ...])


_URLSAFE = bytes.maketrans(b"+/", b"-_")


def encode_context(clock: tuple[Entry, ...], key: bytes) -> bytes:
    """An opaque token; a checksum binds it to its key, so that garbage and mix-ups are refused, never stored."""
    packed = _encoder.encode(clock)
    checked = zlib.crc32(packed, zlib.crc32(key)).to_bytes(4, "big") + packed
    return binascii.b2a_base64(checked, newline=False).translate(_URLSAFE)


def decode_context(token: str, key: bytes) -> tuple[Entry, ...]:
    """The clock in a token. Raises BadContext."""
    try:
        raw = urlsafe_b64decode(token.encode("ascii"))
        clock = _clock_decoder.decode(raw[4:])
    except (ValueError, binascii.Error, msgspec.DecodeError) as problem:
        raise BadContext("not a causal context of this store") from problem
    if zlib.crc32(raw[4:], zlib.crc32(key)).to_bytes(4, "big") != raw[:4]:
        raise BadContext("a causal context of another key, or a damaged one")
    if any(counter < 1 for _, counter, _ in clock) or not _ascend([entry[0] for entry in clock]):
        raise BadContext("not a clock")
    return clock
