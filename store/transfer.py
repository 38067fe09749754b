"""Token ranges that change hands: fetched before anybody is read for them, handed over before anybody forgets them.

Both are exchanges of anti-entropy, after which each side holds the join of what both held (store/exchange.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from store.config import Config
from store.epochs import Epochs
from store.gossip import Gossip
from store.replica import Replica
from store.ring import Ring

Exchange = Callable[[str, int], Awaitable[bool]]
"""exchange(peer, token range): both hold the join of what they held; whether that is durably so on both sides."""


class Transfer:
    """What this node has to take over and to give away, by the ring as it stands."""

    def __init__(
        self, config: Config, ring: Ring, replica: Replica, gossip: Gossip, epochs: Epochs, exchange: Exchange
    ) -> None:
        self._config = config
        self._ring = ring
        self._replica = replica
        self._gossip = gossip
        self._epochs = epochs
        self._exchange = exchange
        self._w_min = min([config.w, *(bucket.w for bucket in config.buckets.values() if bucket.w)])
        self.fetched: set[int] = set()
        """Token ranges that this node holds as a new home, in the present change."""
        self.ahead = False
        """Whether this node was written to as a home by a ring that it does not know yet."""

    async def fetch(self) -> str:
        """Takes over every range that this node is to hold, from so many who hold it that every quorum of writes is met.
        Returns what it waits for; empty when all is there."""
        n, me = self._config.n, self._config.node
        ring = self._ring
        version = ring.version
        for token_range in range(ring.token_ranges):
            groups = ring.joint(token_range, n)
            if not groups or me in groups[0] or me not in groups[1] or token_range in self.fetched:
                continue
            sources = [home for home in groups[0] if home != ring.state.dead]
            if not await self._reconciled(token_range, sources, min(n - self._w_min + 1, len(sources))):
                return f"token range {token_range}, to be fetched from {', '.join(sources)}"
            if ring.version != version:
                return "a newer ring"
            self.fetched.add(token_range)
        return ""

    async def hand_over(self) -> str:
        """Gives every range that this node holds and no longer owns to all its home replicas, and forgets it. Returns what
        it waits for; empty when nothing is left."""
        n, me = self._config.n, self._config.node
        for token_range, kept in self._replica.ranges.items():
            homes = self._ring.holders(token_range, n)
            if me in homes or not kept.records:
                continue
            if not await self._reconciled(token_range, homes, len(homes)):
                return f"token range {token_range}, to be handed over to {', '.join(homes)}"
            if self.ahead or self._ring.holders(token_range, n) != homes:
                return "a newer ring"
            # All of it: what came meanwhile came from a home, out of the exchange, since writes are kept as hints.
            for key in list(kept.records):
                self._drop(key)
        return ""

    def forget(self) -> None:
        """Gives up what a node that is no member holds. It left, and has handed everything over; or it was replaced, and
        what it knows may be older than what the others have agreed to forget since: it must not come back."""
        for kept in self._replica.ranges.values():
            for key in list(kept.records):
                self._drop(key)

    def _drop(self, key: bytes) -> None:
        # The range may come back here one day: this node must not go on counting where it does not know how far it was.
        self._epochs.retire(self._replica.record(key).clock)
        self._replica.drop(key)

    async def _reconciled(self, token_range: int, peers: Iterable[str], need: int) -> bool:
        """Whether this node and at least `need` of the peers each hold what both held of the range; tries all that seem up."""
        reached = 0
        for peer in sorted(peers, key=lambda p: not self._gossip.up(p)):
            if reached >= need and not self._gossip.up(peer):
                break
            reached += await self._exchange(peer, token_range)
        return reached >= need
