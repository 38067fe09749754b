"""The append-only log: CRC-framed records, group commit, recovery. Bitcask's shape, one file so far.

    frame = magic (2) | length (4) | crc32 of length and payload (4) | payload

Many appends share one write and one fsync (a batch). Each batch begins with a mark that says how much of the file was
durable before it. Recovery believes marks: what is broken behind the last one is a torn tail and is cut off (nobody was told
that it is safe); what is broken before it is damage, which is skipped and counted, and what follows it is kept.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import msgspec

from store.runtime import DiskError, Future, Runtime

NAME = "log-000001"
MAGIC = b"\x53\xd7"
_HEAD = struct.Struct(">2sII")
_head = _HEAD.pack


class Recovered(msgspec.Struct):
    """What opening the log found: payloads in order, and what had to be left behind."""

    payloads: list[bytes]
    bytes_cut: int = 0
    bad_records: int = 0


def frame(payload: bytes) -> bytes:
    length = len(payload)
    return _head(MAGIC, length, zlib.crc32(payload, length)) + payload


def _frame_at(content: bytes, offset: int) -> bytes | None:
    """The payload of the intact frame that begins at `offset`, if one does."""
    start = offset + _HEAD.size
    if start > len(content):
        return None
    magic, length, crc = _HEAD.unpack_from(content, offset)
    payload = content[start : start + length]
    if magic != MAGIC or len(payload) != length or zlib.crc32(payload, length) != crc:
        return None
    return payload


_MARK = b"M"


def _scan(content: bytes) -> Iterator[tuple[int, int, bytes | None]]:
    """(offset, end, payload) of every frame; payload None for a stretch that is no frame."""
    offset = 0
    while offset < len(content):
        payload = _frame_at(content, offset)
        if payload is not None:
            end = offset + _HEAD.size + len(payload)
            yield offset, end, payload
        else:
            end = content.find(MAGIC, offset + 1)
            while end != -1 and _frame_at(content, end) is None:
                end = content.find(MAGIC, end + 1)
            end = len(content) if end == -1 else end
            yield offset, end, None
        offset = end


def recover(content: bytes) -> tuple[Recovered, int]:
    """What the file's bytes hold, and the size to cut it to."""
    frames = list(_scan(content))
    durable = 0
    for _, _, payload in frames:
        if payload is not None and payload[:1] == _MARK:
            durable = max(durable, int.from_bytes(payload[1:], "big"))
    found = Recovered([])
    for offset, _, payload in frames:
        if payload is None:
            if offset >= durable:
                found.bytes_cut = len(content) - offset
                return found, offset
            found.bad_records += 1
        elif payload[:1] != _MARK:
            found.payloads.append(payload)
    return found, len(content)


class Log:
    """Appends are durable when the future that `append` returns is set; it carries DiskError if the disk refused."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._disk = runtime.disk
        self._batch: list[bytes] = []
        self._future: Future | None = None
        self._flushing = False
        self._broken: DiskError | None = None
        self.size_bytes = 0
        self.batch = 0
        """Number of the batch that the next append joins."""
        self.synced = -1
        """Number of the last durable batch."""
        self.syncs = 0
        self.records = 0
        """How many records those syncs made durable."""

    async def open(self) -> Recovered:
        """Reads what is there, cuts off a torn tail, and makes the file's existence durable."""
        disk = self._disk
        content = disk.read(NAME) if NAME in disk.names() else b""
        found, size = recover(content)
        if NAME not in disk.names():
            disk.append(NAME, b"")
        elif size < len(content):
            disk.truncate(NAME, size)
        # A kill keeps what the dead process had written but not synced: sync before believing it.
        await disk.fsync(NAME)
        await disk.fsync_dir()
        self.size_bytes = size
        return found

    def append(self, payload: bytes) -> Future:
        """Joins the next batch. The future is shared by all of the batch."""
        if self._broken is not None:
            raise self._broken
        self._batch.append(frame(payload))
        future = self._future
        if future is None:
            future = self._future = self._runtime.future()
        if not self._flushing:
            self._flushing = True
            self._runtime.spawn(self._flush(), name="log-flush")
        return future

    async def _flush(self) -> None:
        disk = self._disk
        while self._batch:
            records, future = self._batch, self._future
            assert future is not None
            self._batch, self._future = [], None
            number = self.batch
            self.batch += 1
            mark = frame(_MARK + self.size_bytes.to_bytes(8, "big"))
            content = mark + b"".join(records)
            try:
                disk.append(NAME, content)
                await disk.fsync(NAME)
            except DiskError as problem:
                # After a failed fsync the kernel may have dropped the pages: nothing here may be trusted again.
                self._broken = problem
                self._runtime.log(f"the log is broken, writes are refused from now on: {problem}")
                future.set_exception(problem)
                if self._future is not None:
                    self._future.set_exception(problem)
                return
            self.size_bytes += len(content)
            self.synced = number
            self.syncs += 1
            self.records += len(records)
            future.set_result(None)
        self._flushing = False
