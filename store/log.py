"""The append-only log: records in segments, group commit, recovery. Bitcask's shape.

Many appends share one write and one fsync (a batch). Each batch begins with a mark that says how much of the file was durable
before it; a closing mark says it of the whole file, at rotation, at a graceful stop and when the log has been idle. Recovery
believes marks: what is broken behind the last one is a torn tail and is cut off (nobody was told that it is safe); what is broken
before it is damage, which is skipped and counted, and what follows it is kept. What is whole behind the last mark is believed
only once it has been written anew and synced: it may stand in a page cache that calls it clean after an fsync that failed.

Payloads begin with a letter, their kind. Who they are about is their entry, and only an entry's latest record counts:

    P  a record under its key       entry: the key             X  forget the key       ends the same entry
    H  a hint                       entry: its number          D  the hint is done     ends the same entry
    E  a life of this node          entry: the letter
    A  how old divergences may be   entry: the letter
    R  the round of a token range   entry: both
    G  the ring                     entry: the letter
    M  a mark; the log's own

Payloads of any other kind are kept for ever, unless `LATEST` names their kind: then only the latest counts. Restorers get them
in the order in which they were appended. Each P is all that the node held of the key when it was appended, so that replay
repeats what memory went through, whether or not one descends from the one before; merges keep that order.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from store.config import Config
from store.frames import Found, Reader, framed, read
from store.runtime import DiskError, Future, Runtime
from store.segments import MERGE, Segment, inventory

PUT, DROP, HINT, HINT_DONE, LIFE, AGE, ROUND, MARK = b"P", b"X", b"H", b"D", b"E", b"A", b"R", b"M"
RING = b"G"
_SHADOWS = DROP + HINT_DONE
LATEST = frozenset({LIFE, AGE, RING})
"""Kinds of which only the latest payload counts."""

Entry = bytes | int | str
Restore = Callable[[bytes], Entry | None]
"""Takes a payload back; may return its entry, so that log and owner share one object."""

RECOVERY_SLICE_BYTES = 1 << 20


class Recovered(msgspec.Struct):
    """What opening the log found, but for the payloads, which the restorer got."""

    bytes_cut: int = 0
    bad_records: int = 0


def entry_of(payload: bytes) -> Entry | None:
    """Who a payload is about; None: it always counts."""
    kind = payload[:1]
    if kind in (PUT, DROP):
        return payload[5 : 5 + int.from_bytes(payload[1:5], "big")]
    if kind in (HINT, HINT_DONE):
        return int.from_bytes(payload[5 : 5 + int.from_bytes(payload[1:5], "big")], "big")
    if kind == ROUND:
        return "R" + payload[5:9].hex()
    return kind.decode() if kind in LATEST else None


def is_shadow(payload: bytes) -> bool:
    """Whether it ends an entry that an older file may hold."""
    return payload[0] in _SHADOWS


def mark(size: int) -> bytes:
    """Says that the file's first `size` bytes are durable."""
    return MARK + size.to_bytes(8, "big")


def split(found: list[Found]) -> tuple[list[Found], list[Found], int]:
    """What a segment's marks make of what was read: (before the last mark, behind it, where it has to be cut)."""
    durable = 0
    for f in found:
        if f.payload is not None and f.payload[:1] == MARK:
            durable = max(durable, int.from_bytes(f.payload[1:], "big"))
    end = found[-1].end if found else 0
    end = next((f.offset for f in found if f.payload is None and f.offset >= durable), end)
    safe = [f for f in found if f.offset < durable]
    tail = [f for f in found if f.offset >= durable and f.payload is not None and f.end <= end]
    return safe, tail, end


class Log:
    """Appends are durable when the future that `append` returns is set. After a failed write or fsync the node ends."""

    def __init__(self, config: Config, runtime: Runtime) -> None:
        self._runtime = runtime
        self._disk = runtime.disk
        self._segment_bytes = config.log_segment_bytes
        self._idle_ns = config.log_idle_ms * 1_000_000
        self._batch: list[tuple[bytes, Entry | None]] = []
        self._entries: set[Entry | None] = set()
        """Of the batch that the next append joins."""
        self._future: Future | None = None
        self._writing: set[Entry | None] = set()
        self._written: Future | None = None
        """The batch on its way to the disk."""
        self._flushing = False
        self._close: Future | None = None
        """Set once the active segment ends in a closing mark, which somebody asked for."""
        self._seal: Future | None = None
        """Likewise, once it is sealed."""
        self._closed = True
        """Whether the active segment ends in a closing mark."""
        self._watched = False
        self._where: dict[Entry, Segment] = {}
        """Which segment holds the latest durable record of an entry."""
        self.segments: list[Segment] = []
        """In order; the last takes the appends."""
        self.rotated: Callable[[], None] = lambda: None
        """Called when a segment was sealed."""
        self.syncs = 0
        self.records = 0
        """How many records those syncs made durable."""

    @property
    def size_bytes(self) -> int:
        return sum(segment.size for segment in self.segments)

    async def open(self, restore: Restore) -> Recovered:
        """Reads what is there, cuts off a torn tail, ends half-done merges, and makes durable what it believes."""
        disk = self._disk
        self.segments, left = inventory(disk.names())
        for name in left:
            disk.unlink(name)
        found = Recovered()
        for segment in self.segments:
            await self._recover(segment, restore, found)
        if not self.segments:
            self.segments.append(Segment(1, 1))
            disk.append(self.segments[-1].name, b"")
            await disk.fsync(self.segments[-1].name)
        await disk.fsync_dir()
        return found

    async def _recover(self, segment: Segment, restore: Restore, recovered: Recovered) -> None:
        size = self._disk.size(segment.name)
        reader = Reader(self._disk, segment.name, size)
        found: list[Found] = []
        while (part := reader.slice(RECOVERY_SLICE_BYTES)) is not None:
            found += part
        safe, tail, end = split(found)
        for f in safe + tail:
            payload = f.payload
            if payload is None:
                recovered.bad_records += 1
                segment.hints_low, segment.hints_high = 0, 1 << 64  # whatever it was
            elif payload[0] != MARK[0]:
                entry = restore(payload)
                self._account(segment, payload, entry_of(payload) if entry is None else entry)
        recovered.bytes_cut += size - end
        segment.size = size
        if not tail or end < size or tail[-1].payload != mark(tail[-1].offset):
            await self._rewrite(segment, end)

    async def _rewrite(self, segment: Segment, end: int) -> None:
        """The segment's first `end` bytes and a closing mark, written anew in its place, at once and durably.

        Not where they stand: what is behind the last mark was perhaps acknowledged, and has to be there at every moment.
        """
        disk = self._disk
        disk.append(MERGE, read(disk, segment.name, 0, end) + framed([mark(end)], segment.seed, end))
        await disk.fsync(MERGE)
        disk.rename(MERGE, segment.name)
        await disk.fsync_dir()
        segment.size = disk.size(segment.name)

    def _account(self, segment: Segment, payload: bytes, entry: Entry | None) -> None:
        """A record became durable: its entry's older one is garbage from now on."""
        segment.records += 1
        if entry is None:
            segment.kept += 1
            return
        shadow = is_shadow(payload)
        held = self._where.pop(entry, None) if shadow else self._where.get(entry)
        if held is not None:
            while held.into is not None:
                held = held.into
            held.live -= 1
        if shadow:
            segment.shadows += 1
            return
        self._where[entry] = segment
        segment.live += 1
        if type(entry) is int:
            segment.saw_hint(entry)

    def holder(self, entry: Entry) -> Segment | None:
        """The segment that holds the latest durable record of the entry."""
        held = self._where.get(entry)
        if held is not None and held.into is not None:
            while held.into is not None:
                held = held.into
            # Or what is never written again would lead through every file that it was ever merged into.
            self._where[entry] = held
        return held

    def held_by(self, segment: Segment) -> list[Entry]:
        """All entries whose latest durable record the segment holds. Slow: it looks at every entry there is."""
        return [entry for entry in self._where if self.holder(entry) is segment]

    def replaced(self, run: list[Segment], target: Segment) -> None:
        """These neighbours have become one file."""
        for segment in run:
            segment.into = target
        # What was live in them is in the new one: whatever was found damaged has been written anew, elsewhere.
        target.live = sum(segment.live for segment in run)
        at = self.segments.index(run[0])
        self.segments[at : at + len(run)] = [target]

    def append(self, payload: bytes, entry: Entry | None = None) -> Future:
        """Joins the next batch. The future is shared by all of the batch. `entry`: what `entry_of` would say, from a caller
        who has that very object already."""
        if entry is None:
            entry = entry_of(payload)
        self._batch.append((payload, entry))
        self._entries.add(entry)
        future = self._future
        if future is None:
            future = self._future = self._runtime.future()
            self._flush_soon()
        return future

    @property
    def settled(self) -> Future | None:
        """What to wait for until all that was appended is durable; None if it is already."""
        return self._future or self._written

    def unsynced(self, entry: Entry) -> Future | None:
        """What to wait for until all that was appended about the entry is durable; None if it is already."""
        if entry in self._entries:
            return self._future
        return self._written if entry in self._writing else None

    async def close(self) -> None:
        """Puts a closing mark behind everything that was appended; returns when it is durable."""
        if self._close is None:
            self._close = self._runtime.future()
        future = self._close
        self._flush_soon()
        await future

    async def seal(self) -> None:
        """Ends the active segment, unless it is empty: then all that was appended before stands in sealed ones."""
        if self._seal is None:
            self._seal = self._runtime.future()
        future = self._seal
        self._flush_soon()
        await future

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._runtime.spawn(self._flush(), name="log-flush")

    async def _flush(self) -> None:
        try:
            while self._batch or self._seal is not None or self._close is not None:
                if self._batch:
                    await self._write_batch()
                elif (sealed := self._seal) is not None:
                    self._seal = None
                    await self._rotate()
                    sealed.set_result(None)
                elif (closed := self._close) is not None:
                    self._close = None
                    await self._mark()
                    closed.set_result(None)
        except DiskError as problem:
            # The kernel may have dropped the pages and call them clean: nothing here may be trusted again, and a node that
            # cannot write must not go on answering as if it could.
            self._runtime.halt(f"the log is broken: {problem}")
            return
        self._flushing = False

    async def _write_batch(self) -> None:
        disk = self._disk
        if self.segments[-1].size >= self._segment_bytes:
            await self._rotate()
        segment = self.segments[-1]
        batch, future = self._batch, self._future
        assert future is not None
        self._writing, self._written = self._entries, future
        self._batch, self._entries, self._future = [], set(), None
        content = framed([mark(segment.size), *[payload for payload, _ in batch]], segment.seed, segment.size)
        disk.append(segment.name, content)
        await disk.fsync(segment.name)
        segment.size += len(content)
        self._closed = False
        self.syncs += 1
        self.records += len(batch)
        for payload, entry in batch:
            self._account(segment, payload, entry)
        self._writing, self._written = set(), None
        if not self._watched:
            self._watched = True
            self._runtime.call_later(self._idle_ns, self._idle, self.syncs)
        future.set_result(None)

    def _idle(self, syncs: int) -> None:
        """Closes the segment if nothing was written since: damage to the last batch could not be told from a torn tail."""
        self._watched = self.syncs != syncs or self._flushing
        if self._watched:
            self._runtime.call_later(self._idle_ns, self._idle, self.syncs)
        elif not self._closed:
            self._close = self._runtime.future()
            self._flush_soon()

    async def _mark(self) -> None:
        """Puts a closing mark at the end of the active segment, if none stands there."""
        segment = self.segments[-1]
        if not self._closed:
            content = framed([mark(segment.size)], segment.seed, segment.size)
            self._disk.append(segment.name, content)
            await self._disk.fsync(segment.name)
            segment.size += len(content)
            self._closed = True

    async def _rotate(self) -> None:
        """Seals the active segment and begins the next."""
        await self._mark()
        if self.segments[-1].records:
            following = Segment(self.segments[-1].last + 1, self.segments[-1].last + 1)
            self._disk.append(following.name, b"")
            await self._disk.fsync_dir()
            self.segments.append(following)
            self.rotated()
