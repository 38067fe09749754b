"""The files of the log, what of each still counts, and which of them are worth merging.

A segment is named after the numbers that it stands for: `log-000003`, or `log-000003-000007` for the merge of five. A file whose
numbers all lie within another's is what a merge left behind when it was cut short.
"""

from __future__ import annotations

import re

from store.frames import seed_of

MERGE = "merge"
"""Where a merge, or a rewritten segment, grows until it is whole."""

RUN_MAX = 16
"""So many segments are merged at a time, at most."""
SMALL_MIN = 4
"""So many small neighbours are worth being one file, garbage or not."""

_NAME = re.compile(r"log-(\d{6,})(?:-(\d{6,}))?")


class Segment:
    """One file and its account. `live` counts the entries whose latest record it holds; `shadows` what ends entries of
    older files; `kept` what is never garbage."""

    __slots__ = (
        "first", "hints_high", "hints_low", "into", "kept", "last", "live", "name", "records", "seed", "shadows", "size",
    )  # fmt: skip

    def __init__(self, first: int, last: int, size: int = 0) -> None:
        self.first = first
        self.last = last
        self.name = f"log-{first:06d}" if first == last else f"log-{first:06d}-{last:06d}"
        self.seed = seed_of(self.name)
        self.size = size
        self.records = self.live = self.shadows = self.kept = 0
        self.hints_low: int | None = None
        self.hints_high = -1
        """Ids of the hints that it may hold lie between the two."""
        self.into: Segment | None = None
        """What it was merged into."""

    def may_hold(self, hint: int) -> bool:
        return self.hints_low is not None and self.hints_low <= hint <= self.hints_high

    def saw_hint(self, hint: int) -> None:
        if self.hints_low is None or hint < self.hints_low:
            self.hints_low = hint
        self.hints_high = max(self.hints_high, hint)

    def garbage_bytes(self, *, oldest: bool) -> int:
        """About how much smaller a merge would make it."""
        held = self.live + self.kept + (0 if oldest else self.shadows)
        return self.size * (self.records - held) // self.records if self.records else 0


def parse(name: str) -> Segment | None:
    """The segment of this name, if it is one's."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    first = int(found[1])
    return Segment(first, int(found[2] or first))


def inventory(names: list[str]) -> tuple[list[Segment], list[str]]:
    """The segments in order, and the names that a merge cut short has left over."""
    segments = [segment for name in names if (segment := parse(name)) is not None]
    segments.sort(key=lambda segment: (segment.first, -segment.last))
    kept: list[Segment] = []
    left = [MERGE] if MERGE in names else []
    for segment in segments:
        if kept and segment.last <= kept[-1].last:
            left.append(segment.name)
        else:
            kept.append(segment)
    return kept, left


def worth_merging(sealed: list[Segment], segment_bytes: int) -> list[Segment]:
    """The run of neighbours whose merge gives back most; empty where none is worth the work.

    One is worth it if it halves what it reads, or makes one ordinary file of several small ones: either way there is less to do
    afterwards, and so an end to it.
    """
    best: list[Segment] = []
    best_gain = -1
    for i in range(len(sealed)):
        size = gain = 0
        for j in range(i, min(i + RUN_MAX, len(sealed))):
            size += sealed[j].size
            gain += sealed[j].garbage_bytes(oldest=i == 0)
            rest = size - gain
            if rest > 4 * segment_bytes:
                break
            few = j - i + 1 >= SMALL_MIN and rest <= segment_bytes
            if (2 * gain >= size or few) and gain > best_gain:
                best, best_gain = sealed[i : j + 1], gain
    return best
