"""Actor ids: who a coordinator is in a clock. A random node id plus an epoch that is leased durably and never reused.

A dot must never be made twice. A node that restarts may have lost its latest dots (they were sent before they were synced),
so it never continues a counter of an earlier life: it takes a new epoch for each key that it coordinates in this life. The
same holds where its own entry is missing from a clock (it was truncated) or where a client knows more of it than it does.
"""

from __future__ import annotations

from store.log import Log
from store.replica import packed, unpacked
from store.runtime import Runtime
from store.versions import Entry

LEASE = b"E"
LEASED = 1 << 16
"""Epochs taken by one durable lease."""

EPOCH_BITS = 32
RETIRED_MAX = 100_000
"""Actors of forgotten keys that are remembered one by one."""


class Epochs:
    def __init__(self, runtime: Runtime, log: Log) -> None:
        self._runtime = runtime
        self._log = log
        self._node_id = 0
        self._first = 0
        self._next = 0
        self._end = 0
        self._retired: set[int] = set()
        self.generation = 0
        """How often this node has started, itself included."""

    def restore(self, payload: bytes) -> None:
        node_id, end, generation = (int.from_bytes(p, "big") for p in unpacked(payload))
        self._node_id, self._end, self.generation = (
            node_id,
            max(end, self._end),
            max(generation, self.generation),
        )

    async def start(self) -> None:
        """Begins a new life: node id (once), generation, first lease; returns when they are durable."""
        if not self._node_id:
            self._node_id = self._runtime.draw("node-id") % ((1 << 31) - 1) + 1
        self.generation += 1
        self._first = self._next = self._end
        await self._lease()

    async def _lease(self) -> None:
        end = self._end + LEASED
        await self._log.append(
            packed(LEASE, *(n.to_bytes(8, "big") for n in (self._node_id, end, self.generation)))
        )
        self._end = end

    async def renew(self) -> None:
        """Leases more epochs if none is left: await it before `actor`."""
        while self._next >= self._end:
            await self._lease()

    def actor(self, clock: tuple[Entry, ...], context: dict[int, int]) -> int:
        """The actor id under which this life may make the next dot of a key with this clock. At once, so that
        nothing can come between reading a record and writing its successor."""
        for actor, counter, _ in reversed(clock):
            if self._ours(actor) and context.get(actor, 0) <= counter and actor not in self._retired:
                return actor
        return self.fresh()

    def _ours(self, actor: int) -> bool:
        """Whether this life made the actor."""
        return actor >> EPOCH_BITS == self._node_id and actor & ((1 << EPOCH_BITS) - 1) >= self._first

    def retire(self, clock: tuple[Entry, ...]) -> None:
        """The key of this clock is being forgotten. An old context may bring an entry of it back, but not how far that
        actor had counted: it must not go on."""
        self._retired.update(actor for actor, _, _ in clock if self._ours(actor))
        if len(self._retired) > RETIRED_MAX:
            # Everything older than now is retired with one number; it costs each key one entry more in its clock.
            self._retired.clear()
            self._first = self._next

    def fresh(self) -> int:
        """An actor id that has never made a dot."""
        assert self._next < self._end, "renew() was not awaited"
        self._next += 1
        return (self._node_id << EPOCH_BITS) | (self._next - 1)

    @property
    def node_id(self) -> int:
        return self._node_id
