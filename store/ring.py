"""Consistent hashing: which nodes are home to a key, and who stands in for them.

Q token ranges of equal size, each placed on one node after another (DeCandia et al. 2007, section 6.2, strategy 3): the
ranges that a node owns are its virtual nodes. A preference list walks the ring from the key's range and takes every
physical node once, also where the walk wraps round.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from xxhash import xxh3_64_intdigest

PLACEMENTS_CACHED_MAX = 65_536


def token(key: bytes) -> int:
    """A key's place on the ring: 64 bits, of which the highest choose the token range and the next the Merkle leaf."""
    return xxh3_64_intdigest(key)


class Ring:
    """The placement of `token_ranges` ranges on `nodes`: the same on every node that was told the same names.

    >>> ring = Ring(["n1", "n2", "n3", "n4", "n5"], token_ranges=32)
    >>> len(set(ring.order(31))), sorted(ring.order(31))[0]
    (5, 'n1')
    """

    def __init__(self, nodes: Iterable[str], token_ranges: int) -> None:
        self.nodes = tuple(sorted(nodes))
        self.token_ranges = token_ranges
        owners: list[str] = []
        while len(owners) < token_ranges:
            block = str(len(owners)).encode()
            # A new order in each round gives every node many different neighbours to share its load with.
            owners += sorted(self.nodes, key=lambda n: blake2b(n.encode(), key=block, digest_size=8).digest())
        self.owners = tuple(owners[:token_ranges])
        self._orders = tuple(self._walk(i) for i in range(token_ranges))
        self._ranges: dict[bytes, int] = {}

    def _walk(self, start: int) -> tuple[str, ...]:
        turn = (self.owners[(start + i) % self.token_ranges] for i in range(self.token_ranges))
        return tuple(dict.fromkeys([*turn, *self.nodes]))

    def range_of(self, key: bytes) -> int:
        """Number of the token range that holds the key."""
        found = self._ranges.get(key)
        if found is None:
            if len(self._ranges) >= PLACEMENTS_CACHED_MAX:
                self._ranges.clear()
            found = self._ranges[key] = token(key) * self.token_ranges >> 64
        return found

    def order(self, token_range: int) -> tuple[str, ...]:
        """Every node, in the order of preference: the first N are home replicas, the rest are fallbacks."""
        return self._orders[token_range]

    def preference(self, key: bytes) -> tuple[str, ...]:
        return self._orders[self.range_of(key)]
