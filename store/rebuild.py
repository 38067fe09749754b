"""Trees rebuilt from the disk, so that what silently went bad there is found while there is still a good copy to mend it from.

In every period all that is on disk is read back in slices. Damaged stretches are counted, and what they took is appended anew
from memory (store/compaction.py). The records that were whole make trees of their own; where those differ from the trees
that the writes have kept up to date, what the disk should hold is appended anew, and the tree is built anew.

Writes go on meanwhile. What they touch is left out of the comparison: it has just been written, and its turn comes again.
"""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable

from store.exchange import SLICE, SLICE_PAUSE_NS, Counters
from store.log import PUT
from store.merkle import TokenRange, Tree, position
from store.replica import Replica, unpacked
from store.ring import token
from store.runtime import DiskError, Runtime

Visit = Callable[[bytes | None], None]


class Rebuild:
    """`read_back(visit)` reads the disk: it gives every payload to `visit`, None for a damaged stretch, and returns how
    many were damaged."""

    def __init__(
        self,
        runtime: Runtime,
        replica: Replica,
        counters: Counters,
        token_ranges: int,
        read_back: Callable[[Visit], Awaitable[int]],
    ) -> None:
        self._runtime = runtime
        self._replica = replica
        self._counters = counters
        self._token_ranges = token_ranges
        self._read_back = read_back
        self._busy = False

    async def work(self, period_ns: int) -> None:
        """For ever. With jitter: no two nodes should read their disks at the same time."""
        turn = 0
        while True:
            turn += 1
            jitter = self._runtime.draw("rebuild-jitter", turn) % (period_ns // 4 + 1)
            await self._runtime.sleep(period_ns - period_ns // 8 + jitter)
            await self.from_disk()

    async def from_memory(self, held: TokenRange) -> None:
        """Builds a range's tree anew, in slices, while writes go on; does nothing while that is under way."""
        if held.growing is not None:
            return
        began_ns = self._runtime.clock.mono_ns()
        tree = held.growing = held.new_tree()
        # The records themselves never change: these lists are a snapshot, and whatever comes later reaches `growing`.
        keys, records = list(held.records), list(held.records.values())
        for begin in range(0, len(keys), SLICE):
            if begin:
                await self._runtime.sleep(SLICE_PAUSE_NS)
            tree.add(keys[begin : begin + SLICE], records[begin : begin + SLICE])
        held.tree, held.growing = tree, None
        self._counters.build_ns = self._runtime.clock.mono_ns() - began_ns

    async def from_disk(self) -> None:
        """One look at the disk; does nothing while another is under way."""
        if self._busy:
            return
        self._busy = True
        began_ns = self._runtime.clock.mono_ns()
        ranges = self._replica.ranges
        trees: dict[int, Tree] = {}
        for number, held in ranges.items():
            held.touched = set()
            trees[number] = held.new_tree()

        def visit(payload: bytes | None) -> None:
            if payload is None or payload[:1] != PUT:
                return
            key, record = unpacked(payload)
            key_token = token(key)
            number = key_token * self._token_ranges >> 64
            held = ranges[number]
            if held.records.get(key) == record:
                trees[number].change(key_token, held.hash_of(key_token, record))

        try:
            damaged = await self._read_back(visit)
            self._counters.damaged_frames += damaged
            for number, held in ranges.items():
                await self._compare(held, trees[number])
            self._counters.rebuilds += 1
            self._counters.build_ns = self._runtime.clock.mono_ns() - began_ns
        except DiskError as problem:
            self._counters.rebuild_failures += 1
            self._runtime.log(f"the disk could not be read back: {problem}")
        for held in ranges.values():
            held.touched = None
        self._busy = False

    async def _compare(self, held: TokenRange, tree: Tree) -> None:
        """Mends what the tree of the disk lacks of a range."""
        touched, held.touched = held.touched, None
        own = held.built()
        depth = min(own.depth, tree.depth)
        wrong = _differing(own.fold(depth), tree.fold(depth))
        if not wrong:
            return
        shift = 64 - depth
        for key in touched or ():
            wrong.discard(position(token(key), self._token_ranges) >> shift)
        if not wrong:
            return
        keys = list(held.records)
        for begin in range(0, len(keys), SLICE):
            if begin:
                await self._runtime.sleep(SLICE_PAUSE_NS)
            for key in keys[begin : begin + SLICE]:
                if position(token(key), self._token_ranges) >> shift in wrong and key in held.records:
                    self._replica.rewrite(key)
                    self._counters.keys_rewritten += 1
        await self.from_memory(held)


def _differing(a: array[int], b: array[int]) -> set[int]:
    """Where two levels of trees differ."""
    return set() if a == b else {i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y}
