"""Actor ids: who a coordinator is in a clock. Drawn anew in every life of a node, never taken up again.

A dot must never be made twice. A node that restarts may have lost its latest dots (they were sent before they were synced, the
disk was wiped, or an old copy of it was put back), so it never continues a counter of an earlier life: it draws a life id of
40 random bits, and counts the keys that it coordinates in that life in 24 more. Nothing of it has to be durable, so nothing that
happens to a disk can bring an id back. The same key gets a fresh id where its own entry is missing from a clock (it was
truncated) or where a client knows more of it than the node does.
"""

from __future__ import annotations

from store.gossip import Gossip
from store.log import LIFE, Log
from store.replica import packed, unpacked
from store.runtime import Runtime
from store.versions import Entry

EPOCH_BITS = 24
LIFE_BITS = 40
RETIRED_MAX = 100_000
"""Actors of forgotten keys that are remembered one by one."""
GENERATION_MAX = 1 << 60
"""No node has started so often: whoever says so is not believed."""


class Epochs:
    def __init__(self, runtime: Runtime, log: Log, gossip: Gossip) -> None:
        self._runtime = runtime
        self._log = log
        self._gossip = gossip
        self._life = 0
        self._lives: set[int] = set()
        """Life ids of this life: another one is drawn when the first has numbered as many keys as it can."""
        self._retired: set[int] = set()
        """Actor ids of this life whose record this node has forgotten."""
        self._next = 0
        self._drawn = 0
        self.generation = 0
        """How often this node has started, itself included, as far as its disk and its peers know."""

    def restore(self, payload: bytes) -> None:
        """Replays one log payload of the kind LIFE."""
        self.generation = max(self.generation, int.from_bytes(unpacked(payload)[0], "big"))

    def payload(self) -> bytes:
        return packed(LIFE, self.generation.to_bytes(8, "big"))

    async def start(self) -> None:
        """Begins a new life; returns when its generation is durable."""
        self._draw_life()
        self._gossip.outlived = self._outlived
        self.generation += 1
        await self._log.append(self.payload())

    def _outlived(self, generation: int) -> None:
        """A peer has heard of this node in that generation, which this disk knows nothing of: it lost what it knew."""
        if generation >= GENERATION_MAX:
            return
        self.generation = generation + 1
        self._log.append(self.payload())
        self._gossip.begin(self.generation)

    def _draw_life(self) -> None:
        self._drawn += 1
        self._life = self._runtime.draw("life", self._drawn) >> (64 - LIFE_BITS)
        self._lives.add(self._life)
        self._next = 0

    def actor(self, clock: tuple[Entry, ...], context: dict[int, int]) -> int:
        """The actor id under which this life may make the next dot of a key with this clock. At once, so that
        nothing can come between reading a record and writing its successor."""
        for actor, counter, _ in reversed(clock):
            ours = actor >> EPOCH_BITS in self._lives and actor not in self._retired
            if ours and context.get(actor, 0) <= counter:
                return actor
        return self.fresh()

    def retire(self, clock: tuple[Entry, ...]) -> None:
        """The key of this clock is being forgotten. An old context may bring an entry of it back, but not how far that
        actor had counted: it must not go on."""
        self._retired.update(actor for actor, _, _ in clock if actor >> EPOCH_BITS in self._lives)
        if len(self._retired) > RETIRED_MAX:
            # Everything older than now is retired with one draw; it costs each key one entry more in its clock.
            self._retired.clear()
            self._lives.clear()
            self._draw_life()

    def fresh(self) -> int:
        """An actor id that has never made a dot."""
        if self._next >> EPOCH_BITS:
            self._draw_life()
        self._next += 1
        return (self._life << EPOCH_BITS) | (self._next - 1)

    @property
    def life(self) -> int:
        """The actor id of all `lww` writes of this life."""
        return self._life << EPOCH_BITS
