"""How log records lie in a file: framed, checked, and bound to the place where they stand.

    frame = magic (2) | length (4) | check (4) | payload

The check is a CRC of the payload that starts from the file's name, the frame's offset and its length. So nothing that merely
contains a frame (a value that somebody filled with log bytes, a sector that a disk wrote to the wrong place) is ever taken for
one, not even where damage makes a reader look for the next frame in the middle of a value.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

import msgspec

from store.runtime import Disk, DiskError

MAGIC = b"\x53\xd7"
_HEAD = struct.Struct(">2sII")
HEAD_BYTES = _HEAD.size
_head = _HEAD.pack
_crc = zlib.crc32

_SPREAD = 0x9E3779B1
"""Odd, so that no two offsets of a file share a start; multiplied, so that near ones do not resemble each other."""

SECTOR_BYTES = 4096
"""What is given up where the disk cannot read."""


def seed_of(name: str) -> int:
    """What binds frames to the file `name`."""
    return _crc(name.encode())


def framed(payloads: Iterable[bytes], seed: int, offset: int) -> bytes:
    """The payloads as frames, to stand at `offset` of the file with this seed."""
    parts: list[bytes] = []
    for payload in payloads:
        length = len(payload)
        start = (seed ^ offset * _SPREAD ^ length) & 0xFFFFFFFF
        parts.append(_head(MAGIC, length, _crc(payload, start)))
        parts.append(payload)
        offset += HEAD_BYTES + length
    return b"".join(parts)


class Found(msgspec.Struct, frozen=True, gc=False):
    """One stretch of a file: an intact frame with its payload, or (None) bytes that are none."""

    offset: int
    end: int
    payload: bytes | None


class Reader:
    """Reads the frames of a file's first `size` bytes in order, slice by slice; what is no frame is skipped to the next
    one. What the disk cannot read counts as damage too."""

    def __init__(self, disk: Disk, name: str, size: int) -> None:
        self._disk = disk
        self._name = name
        self._seed = seed_of(name)
        self._size = size
        self._buffer = b""
        self._start = 0
        """Offset in the file of the buffer's first byte."""
        self._damaged_from: int | None = None

    def slice(self, bytes_max: int) -> list[Found] | None:
        """What the next `bytes_max` bytes complete; None at the end of the file."""
        have = self._start + len(self._buffer)
        if have >= self._size and not self._buffer and self._damaged_from is None:
            return None
        more = read(self._disk, self._name, have, min(bytes_max, self._size - have))
        if not more:
            self._size = have  # the file is shorter than it should be
        self._buffer += more
        whole = self._start + len(self._buffer) >= self._size
        found: list[Found] = []
        at = self._intact(found)
        while at < len(self._buffer):
            end, payload = self._frame_at(at)
            if payload is not None:
                self._end_damage(found, self._start + at)
                found.append(Found(self._start + at, self._start + end, payload))
                at = end
            elif end and not whole:
                break  # it may be a frame whose rest was not read yet
            else:
                if self._damaged_from is None:
                    self._damaged_from = self._start + at
                at = self._buffer.find(MAGIC, at + 1)
                if at == -1:
                    # The last byte may be the first half of a magic.
                    at = len(self._buffer) - (not whole and self._buffer.endswith(MAGIC[:1]))
                    break
        self._buffer = self._buffer[at:]
        self._start += at
        if whole:
            self._end_damage(found, self._start)
        return found

    def _intact(self, found: list[Found]) -> int:
        """Takes the whole frames at the beginning of the buffer, in one go: nearly all there are. Returns where they end."""
        if self._damaged_from is not None:
            return 0
        buffer, start, seed, unpack = self._buffer, self._start, self._seed, _HEAD.unpack_from
        at, size = 0, len(self._buffer)
        while (begin := at + HEAD_BYTES) <= size:
            magic, length, check = unpack(buffer, at)
            end = begin + length
            if magic != MAGIC or not length or end > size:
                break
            payload = buffer[begin:end]
            offset = start + at
            if _crc(payload, (seed ^ offset * _SPREAD ^ length) & 0xFFFFFFFF) != check:
                break
            found.append(Found(offset, start + end, payload))
            at = end
        return at

    def _end_damage(self, found: list[Found], end: int) -> None:
        if self._damaged_from is not None:
            found.append(Found(self._damaged_from, end, None))
            self._damaged_from = None

    def _frame_at(self, at: int) -> tuple[int, bytes | None]:
        """(end, payload) of an intact frame; (1, None) where more has to be read to tell; (0, None) where there is none."""
        buffer = self._buffer
        start = at + HEAD_BYTES
        offset = self._start + at
        if start > len(buffer):
            return int(offset + HEAD_BYTES <= self._size), None
        magic, length, check = _HEAD.unpack_from(buffer, at)
        if magic != MAGIC or not length or offset + HEAD_BYTES + length > self._size:
            return 0, None
        end = start + length
        if end > len(buffer):
            return 1, None
        payload = buffer[start:end]
        if _crc(payload, (self._seed ^ offset * _SPREAD ^ length) & 0xFFFFFFFF) != check:
            return 0, None
        return end, payload


def read(disk: Disk, name: str, offset: int, size: int) -> bytes:
    """That part of a file, with zeros for the sectors that cannot be read."""
    try:
        return disk.read(name, offset, size)
    except DiskError:
        parts: list[bytes] = []
        while size > 0:
            # Up to the next sector's edge.
            step = min(size, SECTOR_BYTES - offset % SECTOR_BYTES)
            try:
                parts.append(disk.read(name, offset, step))
            except DiskError:
                parts.append(bytes(step))
            offset += step
            size -= step
        return b"".join(parts)
