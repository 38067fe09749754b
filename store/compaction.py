"""Merges of sealed segments, and reading everything back from disk: slices in the background, off the read and write path.

A merge writes what still counts of neighbouring segments, in order, to a file of its own, syncs it, renames it to the name that
stands for all of them, syncs the directory, and only then unlinks them. Whenever that is cut short, opening the log finds either
the old files or the new one beside some of them, and knows by the names which count (store/segments.py).

What ends an entry (a drop, a hint that is done) is kept as long as an older file may hold what it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from store.config import Config
from store.frames import Found, Reader, framed
from store.log import MARK, Entry, Log, entry_of, is_shadow, mark
from store.runtime import DiskError, Future, Runtime
from store.segments import MERGE, Segment, worth_merging

SLICE_BYTES = 64 << 10

Visit = Callable[[bytes | None], None]


class Compaction:
    def __init__(
        self, config: Config, runtime: Runtime, log: Log, payload_of: Callable[[Entry], bytes | None]
    ) -> None:
        """`payload_of`: the log payload of what memory holds of an entry, if anything."""
        self._runtime = runtime
        self._disk = runtime.disk
        self._log = log
        self._payload_of = payload_of
        self._segment_bytes = config.log_segment_bytes
        self._pause_ns = SLICE_BYTES * 1_000_000_000 // config.log_merge_bytes_per_second
        self._busy: Future | None = None
        self._waker: Future | None = None
        self.merges = 0
        self.reclaimed_bytes = 0
        self.damaged = 0
        """Stretches of segments that turned out to be damaged while the node ran."""
        self.rewritten = 0
        """Records that were lost to damage on disk, and were appended anew from memory."""

    def start(self) -> None:
        self._log.rotated = self._wake
        self._runtime.spawn(self._tend(), name="compaction")

    def _wake(self) -> None:
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)

    async def _tend(self) -> None:
        while True:
            run = worth_merging(self._log.segments[:-1], self._segment_bytes)
            if run and await self._merge_alone(run):
                continue
            self._waker = self._runtime.future()
            await self._waker

    async def _merge_alone(self, run: list[Segment]) -> bool:
        if self._busy is not None:
            return False  # whoever is at it wakes us
        busy = self._busy = self._runtime.future()
        try:
            return await self.merge(run)
        except DiskError as problem:
            self._runtime.halt(f"a merge left the log in doubt: {problem}")
            return False
        finally:
            self._done(busy)

    def _done(self, busy: Future) -> None:
        self._busy = None
        busy.set_result(None)
        self._wake()

    async def merge(self, run: list[Segment]) -> bool:
        """Makes one segment of these neighbours; False where the disk has no room for it."""
        log, disk = self._log, self._disk
        older = log.segments[: log.segments.index(run[0])]
        target = Segment(run[0].first, run[-1].last)
        if MERGE in disk.names():
            disk.unlink(MERGE)
        try:
            for segment in run:
                await self._copy(segment, await self._survey(segment, None), target, older)
            disk.append(MERGE, framed([mark(target.size)], target.seed, target.size))
        except DiskError as problem:
            # Nothing of the old has been touched, and nobody was told anything. What room there is belongs to the log.
            with suppress(DiskError):
                disk.unlink(MERGE)
            self._runtime.log(f"a merge of {len(run)} segments was given up: {problem}")
            return False
        await disk.fsync(MERGE)
        disk.rename(MERGE, target.name)
        await disk.fsync_dir()
        target.size = disk.size(target.name)
        self.merges += 1
        self.reclaimed_bytes += sum(segment.size for segment in run) - target.size
        log.replaced(run, target)
        for segment in run:
            if segment.name != target.name:
                disk.unlink(segment.name)
        await disk.fsync_dir()
        return True

    async def _survey(self, segment: Segment, visit: Visit | None) -> dict[Entry, int]:
        """Reads a sealed segment: where in it the latest record of each of its live entries stands. What damage took from
        it is appended anew from memory."""
        log = self._log
        reader = Reader(self._disk, segment.name, segment.size)
        latest: dict[Entry, int] = {}
        damaged = 0
        while (found := reader.slice(SLICE_BYTES)) is not None:
            for f in found:
                payload = f.payload
                if payload is None:
                    damaged += 1
                elif payload[:1] == MARK:
                    continue
                elif not is_shadow(payload):
                    entry = entry_of(payload)
                    if entry is not None and log.holder(entry) is segment:
                        latest[entry] = f.offset
                if visit is not None:
                    visit(payload)
            await self._runtime.sleep(self._pause_ns)
        self.damaged += damaged
        if damaged or len(latest) < segment.live:
            await self._rescue(segment, latest, visit)
        return latest

    async def _rescue(self, segment: Segment, latest: dict[Entry, int], visit: Visit | None) -> None:
        durable: Future | None = None
        for entry in self._log.held_by(segment):
            if entry not in latest and (payload := self._payload_of(entry)) is not None:
                durable = self._log.append(payload, entry)
                self.rewritten += 1
                if visit is not None:
                    visit(payload)
        if durable is not None:
            await durable

    async def _copy(
        self, segment: Segment, latest: dict[Entry, int], target: Segment, older: list[Segment]
    ) -> None:
        """Appends to the merge what of the segment still counts."""
        reader = Reader(self._disk, segment.name, segment.size)
        while (found := reader.slice(SLICE_BYTES)) is not None:
            kept = [
                f.payload
                for f in found
                if f.payload is not None and self._keeps(f, segment, latest, target, older)
            ]
            if kept:
                content = framed(kept, target.seed, target.size)
                self._disk.append(MERGE, content)
                target.size += len(content)
                target.records += len(kept)
            await self._runtime.sleep(self._pause_ns)

    def _keeps(
        self, f: Found, segment: Segment, latest: dict[Entry, int], target: Segment, older: list[Segment]
    ) -> bool:
        payload = f.payload
        if payload is None or payload[:1] == MARK:
            return False
        entry = entry_of(payload)
        if entry is None:
            target.kept += 1
            return True
        if is_shadow(payload):
            needed = any(s.may_hold(entry) for s in older) if isinstance(entry, int) else bool(older)
            target.shadows += needed
            return needed
        needed = latest.get(entry) == f.offset and self._log.holder(entry) is segment
        if needed and isinstance(entry, int):
            target.saw_hint(entry)
        return needed

    async def read_back(self, visit: Visit) -> int:
        """Reads all that is on disk again, as a start would: `visit` gets each payload in order, None for a stretch of damage,
        and at the end of a segment what had to be appended anew because of it. Returns how many stretches were damaged.

        What is appended from now on is not among it.
        """
        await self._log.seal()
        while self._busy is not None:
            await self._busy
        busy = self._busy = self._runtime.future()
        before = self.damaged
        for segment in self._log.segments[:-1]:
            await self._survey(segment, visit)
        self._done(busy)
        return self.damaged - before
