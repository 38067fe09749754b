"""Operations as columns of small integers, so that a million of them fit into a page.

Each column is an array of unsigned 32-bit numbers, stored as byte planes (all lowest bytes, then all second bytes, ...): the high
planes are nearly constant and vanish when compressed. Times are differences in quanta. Assets/data.js reads it back.
"""

from __future__ import annotations

import base64
import sys
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from heapq import heappop, heappush
from itertools import islice, pairwise
from math import log2
from typing import Any

import msgspec

from harness.report.markup import printable
from harness.report.values import items
from harness.report.wording import ELLIPSIS, cut, json
from history.history import Operation
from history.op import Process

EXACT_MAX = 300_000
"""Beyond so many operations times are rounded: starts to a quarter of the mean gap, durations to 5 %."""
STEPS_PER_OCTAVE = 8

DETAILED_MAX = 60_000
"""Operations whose values are kept as text, if there are no more of them."""
DETAILED_NEAR_MAX = 4_000
"""With more only those near a witness are, and as many others on its key."""
WORDS_MAX = 5_000
"""Distinct keys and errors that are kept; what comes later is all called `…`."""
TEXT_MAX = 160
SAMPLE_BYTES = 1 << 16
TYPES = ("ok", "fail", "info", "open")
"""`open` was never completed: nobody knows."""


class Lanes(msgspec.Struct, frozen=True):
    """Where processes are drawn. `of` maps each to its lane; `names` says for each lane what ran there."""

    of: dict[Process, int]
    names: tuple[str, ...]


def lanes(operations: Sequence[Operation], concurrency: int | None = None) -> Lanes:
    """One lane for each worker: a process that went on under a fresh number after `info` stays in its lane.

    Fresh numbers differ by the concurrency; where that is unknown or does not fit, a lane is reused once it is idle.
    """
    first: dict[Process, int] = {}
    last: dict[Process, int] = {}
    for o in operations:
        first.setdefault(o.process, o.index)
        last[o.process] = max(
            o.index, last.get(o.process, 0), o.complete.index if o.complete is not None else 0
        )
    numbered = sorted((p for p in first if isinstance(p, int)), key=first.__getitem__)
    of: dict[Process, int] = {}
    if concurrency and _apart(numbered, concurrency, first, last):
        slots = {slot: lane for lane, slot in enumerate(sorted({p % concurrency for p in numbered}))}
        of = {p: slots[p % concurrency] for p in numbered}
    else:
        idle: list[tuple[int, int]] = []  # (when its last process ended, lane)
        fresh = 0
        for process in numbered:
            if idle and idle[0][0] < first[process]:
                _, lane = heappop(idle)
            else:
                lane, fresh = fresh, fresh + 1
            of[process] = lane
            heappush(idle, (last[process], lane))
    count = len(set(of.values()))
    named = sorted((p for p in first if not isinstance(p, int)), key=str)
    of |= {p: count + i for i, p in enumerate(named)}
    holds: dict[int, list[Process]] = {}
    for process, lane in of.items():
        holds.setdefault(lane, []).append(process)
    return Lanes(of, tuple(_lane_name(holds[lane]) for lane in sorted(holds)))


def _apart(
    processes: Iterable[int], concurrency: int, first: Mapping[Process, int], last: Mapping[Process, int]
) -> bool:
    """Whether no two processes that share a slot ever ran at the same time."""
    until: dict[int, int] = {}
    for process in processes:
        slot = process % concurrency
        if until.get(slot, -1) > first[process]:
            return False
        until[slot] = last[process]
    return True


def _lane_name(processes: list[Process]) -> str:
    name = f"process {processes[0]}" if isinstance(processes[0], int) else processes[0]
    return name if len(processes) == 1 else f"{name} {ELLIPSIS}"


class Pack:
    """Columns and a header, each compressed by itself, put together into one block of text."""

    def __init__(self) -> None:
        self._directory: dict[str, list[int]] = {}
        self._blocks: list[bytes] = []
        self._size = 0

    def column(self, name: str, values: Iterable[int]) -> None:
        """Adds a column of numbers from 0 to 2**32 - 1."""
        raw = array("I", values)
        assert raw.itemsize == 4, "the C compiler's unsigned int has four bytes wherever Python runs"
        if sys.byteorder == "big":
            raw.byteswap()
        content = raw.tobytes()
        width = max(1, (max(raw, default=0).bit_length() + 7) // 8)
        self._add(name, len(raw), width, b"".join(content[plane::4] for plane in range(width)))

    def texts(self, name: str, lines: Iterable[str]) -> None:
        """Adds texts without line breaks; the width 0 marks them."""
        content = "\n".join(lines).encode()
        self._add(name, len(content), 0, content)

    def _add(self, name: str, count: int, width: int, content: bytes) -> None:
        block = _squeezed(content)
        self._directory[name] = [count, width, self._size, len(block)]
        self._blocks.append(block)
        self._size += len(block)

    def seal(self, header: Mapping[str, Any]) -> str:
        """Length of the packed header (4 bytes), the header as JSON, the columns; all in base64."""
        head = _squeezed(msgspec.json.encode({**header, "columns": self._directory}))
        return base64.b64encode(b"".join((len(head).to_bytes(4, "little"), head, *self._blocks))).decode()


def _squeezed(content: bytes) -> bytes:
    """Deflated the better of two ways: columns of measurements hold no repetitions, and looking for them costs a tenth.

    The middle of long content decides for all of it.
    """
    middle = content[max(0, len(content) // 2 - SAMPLE_BYTES // 2) :][:SAMPLE_BYTES]
    way = min((zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY), key=lambda way: len(_deflated(middle, way)))
    return _deflated(content, way)


def _deflated(content: bytes, way: int) -> bytes:
    deflate = zlib.compressobj(9, strategy=way)
    return deflate.compress(content) + deflate.flush()


def pack_operations(
    pack: Pack,
    operations: Sequence[Operation],
    places: Lanes,
    windows: Sequence[tuple[int, int]],
    keys: set[str],
) -> dict[str, Any]:
    """Adds the clients' operations, by time, and returns what the header has to say of them.

    `windows` (nanoseconds) and `keys` name what is kept in detail where not everything can be.
    """
    ordered = sorted(operations, key=lambda o: o.invoke.time)  # stable: order of lines where times are equal
    exact = len(ordered) <= EXACT_MAX
    origin = min(0, ordered[0].invoke.time) if ordered else 0
    quantum = 1_000 if exact else _quantum(ordered)
    starts = [(o.invoke.time - origin) // quantum for o in ordered]
    pack.column("start", (b - a for a, b in pairwise([0, *starts])))
    pack.column("took", (_took(o, exact) for o in ordered))
    pack.column("type", (TYPES.index(o.type) if o.complete is not None else 3 for o in ordered))
    lane_of = [places.of[o.process] for o in ordered]
    pack.column("lane", lane_of)
    codes: dict[str, dict[Any, int]] = {"f": {}, "key": {}, "error": {}, "node": {}}
    pack.column("f", (_code(codes["f"], o.f) for o in ordered))
    pack.column("key", (_code(codes["key"], None if o.key is None else _word(o.key)) for o in ordered))
    pack.column("error", (_code(codes["error"], _error(o)) for o in ordered))
    pack.column("node", _changes((_code(codes["node"], o.node) for o in ordered), lane_of))
    pack.column("depth", _depths(ordered))
    pack.column("siblings", (_siblings(o) for o in ordered if o.f == "get" and o.type == "ok"))
    if exact:
        lines = [o.index for o in ordered]
        pack.column("line", (_zigzag(b - a) for a, b in pairwise([0, *lines])))
    detailed = _detailed(ordered, windows, keys)
    if len(detailed) < len(ordered):
        pack.column("detailed", (b - a for a, b in pairwise([0, *detailed])))
    chosen = [ordered[i] for i in detailed]
    pack.texts("asked", (_text(o.invoke.value) for o in chosen))
    pack.texts("answer", (_text(o.complete.value) if o.complete and o.type == "ok" else "" for o in chosen))
    pack.texts("meta", (_text(o.meta) if o.meta else "" for o in chosen))
    return {
        "count": len(ordered),
        "exact": exact,
        "quantum": quantum,
        "origin": origin // 1_000,
        "steps": STEPS_PER_OCTAVE,
        "everything": len(detailed) == len(ordered),
        "processes": _processes(pack, ordered, places),
        "lanes": places.names,
        "words": {
            name: [None if w is None else printable(str(w)) for w in words] for name, words in codes.items()
        },
    }


def _quantum(ordered: Sequence[Operation]) -> int:
    """A quarter of the mean gap between operations, in nanoseconds: whole microseconds, at least one."""
    gap = (ordered[-1].invoke.time - ordered[0].invoke.time) / len(ordered)
    return max(1_000, int(gap / 4_000) * 1_000)


def _took(o: Operation, exact: bool) -> int:
    if o.complete is None:
        return 0
    us = max(0, o.complete.time - o.invoke.time) // 1_000
    return min(us, 0xFFFFFFFF) if exact else round(STEPS_PER_OCTAVE * log2(1 + us))


def _code(codes: dict[Any, int], word: str | None) -> int:
    if len(codes) >= WORDS_MAX and word not in codes:
        word = ELLIPSIS
    return codes.setdefault(word, len(codes))


def _word(key: Any) -> str:
    return cut(key, 80) if isinstance(key, str) else json(key, 80)


def _error(o: Operation) -> str | None:
    return None if o.complete is None or not o.complete.error else cut(o.complete.error, TEXT_MAX)


def _changes(codes: Iterable[int], lane_of: Sequence[int]) -> Iterable[int]:
    """0 where the code is that of the lane's previous operation, else one more than the code."""
    last: dict[int, int] = {}
    for code, lane in zip(codes, lane_of, strict=True):
        yield 0 if last.get(lane) == code else code + 1
        last[lane] = code


def _depths(ordered: Sequence[Operation]) -> list[int]:
    """How many operations enclose each."""
    depth: dict[int, int] = {}
    for o in sorted(ordered, key=lambda o: o.index):
        depth[o.index] = 0 if o.parent is None else min(255, depth.get(o.parent, 0) + 1)
    return [depth[o.index] for o in ordered]


def _siblings(o: Operation) -> int:
    """1 + the number of siblings that an answered `get` returned; 0 where it was something else than a list."""
    siblings = items(o.value)
    return 0 if siblings is None else 1 + len(siblings)


def _zigzag(number: int) -> int:
    return number * 2 if number >= 0 else -number * 2 - 1


def _detailed(ordered: Sequence[Operation], windows: Sequence[tuple[int, int]], keys: set[str]) -> list[int]:
    """Positions of the operations that are kept in detail, in order."""
    if len(ordered) <= DETAILED_MAX:
        return list(range(len(ordered)))
    begun = [o.invoke.time for o in ordered]
    near: dict[int, None] = {}
    for start, end in windows:
        near |= dict.fromkeys(range(bisect_left(begun, start), bisect_right(begun, end)))
    chosen = set(list(near)[:DETAILED_NEAR_MAX])
    if keys:
        others = (i for i, o in enumerate(ordered) if i not in near and _word(o.key) in keys)
        chosen |= set(islice(others, DETAILED_NEAR_MAX))
    return sorted(chosen)


def _text(value: Any) -> str:
    return "" if value is None else printable(json(value, TEXT_MAX)).replace("\n", "\\n")


def _processes(pack: Pack, ordered: Sequence[Operation], places: Lanes) -> list[Process]:
    """Adds where each process begins in its lane: from there on the lane's operations are its own.

    Numbers are told as differences to the process before in the lane; returns the names of those that have no number.
    """
    begun: dict[Process, int] = {}
    for i, o in enumerate(ordered):
        begun.setdefault(o.process, i)
    last: dict[int, int] = {}
    numbers: list[int] = []
    named: list[Process] = []
    for process in begun:
        if isinstance(process, int):
            lane = places.of[process]
            numbers.append(1 + _zigzag(process - last.get(lane, 0)))
            last[lane] = process
        else:
            numbers.append(0)
            named.append(printable(process))
    pack.column("begun", (b - a for a, b in pairwise([0, *begun.values()])))
    pack.column("process", numbers)
    return named
