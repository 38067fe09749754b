"""The hash of everything that happened, in chunks: two runs are the same when their traces are, and where not, it says where.

An event is (time, code, payload). Events are only appended to a list; hashing happens a chunk at a time, in C.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import msgspec

CHUNK_EVENTS = 1024

_encode = msgspec.msgpack.Encoder().encode


class Event(msgspec.Struct, frozen=True):
    """One event written out, as a recording keeps it."""

    time_ns: int
    what: str
    payload: bytes


class Divergence(msgspec.Struct, frozen=True):
    """The first chunk in which two traces differ: the number to record when both are run again."""

    chunk: int
    events: tuple[int, int]
    """Numbers of the first event in it and of the first one behind it."""


class Trace:
    """The running trace of one world. `record` names the chunks whose events are kept (see `diverge`)."""

    __slots__ = ("_codes", "_names", "_pending", "_sealed", "_state", "add", "chunks", "record", "recorded")

    def __init__(self, record: tuple[int, ...] = ()) -> None:
        self._pending: list[int | bytes] = []
        self.add: Callable[[tuple[int, int, bytes]], None] = self._pending.extend
        """Adds the event (time_ns, code, payload): the hot path, a bare list.extend."""
        self._state = b""
        self._codes: dict[str, int] = {}
        self._names: list[str] = []
        self._sealed = False
        self.chunks: list[str] = []
        """One chained hash for each chunk: equal up to the first difference."""
        self.record = record
        self.recorded: list[Event] = []

    def code(self, what: str) -> int:
        """The number that stands for this kind of event (`frame n1>n2`)."""
        code = self._codes.get(what)
        if code is None:
            code = self._codes[what] = len(self._names)
            self._names.append(what)
            # What a number stands for is part of the trace.
            self.add((0, -1, what.encode()))
        return code

    def flush(self) -> None:
        """Hashes what is pending, in whole chunks; called now and then, so that payloads need not be kept long."""
        pending = self._pending
        size = CHUNK_EVENTS * 3
        if len(pending) < size:
            return
        done = 0
        while len(pending) - done >= size:
            self._chunk(pending[done : done + size])
            done += size
        del pending[:done]

    def seal(self) -> None:
        """Ends the trace: nothing that is added later counts."""
        if self._sealed:
            return
        self.flush()
        self._chunk(self._pending[:])
        self._sealed = True
        self._pending.clear()

    @property
    def hash(self) -> str:
        """The hash of the sealed trace: 32 hex digits."""
        assert self._sealed, "a trace has its hash once it is sealed"
        return self.chunks[-1]

    def _chunk(self, flat: list[Any]) -> None:
        digest = sha256(self._state)
        digest.update(_encode(flat))  # MessagePack leaves no doubt where one event ends and the next begins
        self._state = digest.digest()[:16]
        if len(self.chunks) in self.record:
            for i in range(0, len(flat), 3):
                code: int = flat[i + 1]
                what = "new code" if code < 0 else self._names[code]
                self.recorded.append(Event(flat[i], what, flat[i + 2]))
        self.chunks.append(self._state.hex())


def diverge(left: list[str], right: list[str]) -> Divergence | None:
    """Where the chunk hashes of two sealed traces part; None where they never do.

    Run both again with `record=(divergence.chunk,)`, then ask `first_difference` of what they recorded.
    """
    if left == right:
        return None
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False))
    number = sum(1 for _ in same)
    return Divergence(number, (number * CHUNK_EVENTS, (number + 1) * CHUNK_EVENTS))


def first_difference(left: list[Event], right: list[Event]) -> tuple[int, Event | None, Event | None] | None:
    """(position in the chunk, the one event, the other) of the first two that differ; None for an end that came early."""
    for position in range(max(len(left), len(right))):
        a = left[position] if position < len(left) else None
        b = right[position] if position < len(right) else None
        if a != b:
            return position, a, b
    return None
