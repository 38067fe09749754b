"""XOR hash trees: two replicas of a token range find the keys that they hold differently, by their hashes alone.

A leaf is the XOR of the hashes of the entries that fall to it, an inner node the XOR of its children. So an update touches
one leaf and the root, the order of updates does not matter, a tree can be built while updates arrive, and trees of
different depth are comparable: the deeper one folds to what the shallower one would be.

An entry's hash binds the record to its key, so that two records that change places do not cancel out. It is no defence
against somebody who chooses records to collide.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable
from itertools import islice

from xxhash import xxh3_64_intdigest

from store.ring import token

HASH_VERSION = 1
"""Goes up whenever equal entries hash differently than before. Trees of different versions are never compared."""

DEPTH_MIN = 4
WHOLE = (1 << 64) - 1

BULK_MIN = 4_096
"""From so many entries or leaves on numpy is worth its calls, and its import."""

BULK_MAX = 1 << 16
"""Entries at a time: more would be no faster, and take a hundred bytes each meanwhile."""


def entry_hash(key_token: int, record: bytes, version: int = HASH_VERSION) -> int:
    """64 bits of a key and its record together. Every version salts differently."""
    return xxh3_64_intdigest(record, key_token + version - HASH_VERSION & WHOLE)


def position(key_token: int, token_ranges: int) -> int:
    """Where in its token range a key falls: the 64 bits of its token below those that choose the range."""
    return key_token * token_ranges & WHOLE


def depth_for(entries: int) -> int:
    """The depth of a tree that has about one leaf for each entry."""
    return max(DEPTH_MIN, (entries - 1).bit_length())


class Tree:
    """The tree of one token range, 2**depth leaves. Only leaves and root are kept; `fold` makes what lies between."""

    __slots__ = ("_shift", "_token_ranges", "_version", "depth", "leaves", "root")

    def __init__(self, token_ranges: int, depth: int, version: int = HASH_VERSION) -> None:
        self.depth = depth
        self.leaves = array("Q", bytes(8 << depth))
        self.root = 0
        self._shift = 64 - depth
        self._token_ranges = token_ranges
        self._version = version

    def change(self, key_token: int, difference: int) -> None:
        """`difference` is the XOR of the hash of the entry that was (0: none) and of the one that is."""
        self.leaves[(key_token * self._token_ranges & WHOLE) >> self._shift] ^= difference
        self.root ^= difference

    def add(self, keys: Collection[bytes], records: Collection[bytes]) -> None:
        """Adds entries that the tree does not hold."""
        if len(keys) >= BULK_MIN:
            key, record = iter(keys), iter(records)
            while batch := list(islice(key, BULK_MAX)):
                self._add_bulk(batch, islice(record, BULK_MAX))
            return
        for key, record in zip(keys, records, strict=True):
            key_token = token(key)
            self.change(key_token, entry_hash(key_token, record, self._version))

    def _add_bulk(self, keys: list[bytes], records: Iterable[bytes]) -> None:
        import numpy as np  # noqa: PLC0415  # small stores never need it, and a node's start should not wait for it

        salt = self._version - HASH_VERSION
        seeds = list(map(token, keys))
        tokens = np.array(seeds, np.uint64)
        if salt:
            seeds = [seed + salt & WHOLE for seed in seeds]
        hashes = np.fromiter(map(xxh3_64_intdigest, records, seeds), np.uint64, count=len(seeds))
        places = tokens * np.uint64(self._token_ranges) >> np.uint64(
            self._shift
        )  # wraps round, as `position` does
        np.bitwise_xor.at(np.frombuffer(self.leaves, np.uint64), places.astype(np.intp), hashes)
        self.root ^= int(np.bitwise_xor.reduce(hashes))

    def fold(self, depth: int) -> array[int]:
        """The nodes at `depth`, as a tree of that depth would have them for leaves. Not to be changed."""
        assert 0 <= depth <= self.depth, depth
        level = self.leaves
        steps = self.depth - depth
        if steps and len(level) >= BULK_MIN:
            import numpy as np  # noqa: PLC0415  # see above

            folded = np.frombuffer(level, np.uint64)
            for _ in range(steps):
                folded = folded[0::2] ^ folded[1::2]
            return array("Q", folded.tobytes())
        for _ in range(steps):
            level = array("Q", [a ^ b for a, b in zip(level[0::2], level[1::2], strict=True)])
        return level


class TokenRange:
    """What a replica holds of one token range: its records by key, and their tree once somebody has asked for it."""

    __slots__ = ("_token_ranges", "_version", "growing", "records", "touched", "tree")

    def __init__(self, token_ranges: int, version: int = HASH_VERSION) -> None:
        self.records: dict[bytes, bytes] = {}
        self.tree: Tree | None = None
        self.growing: Tree | None = None
        """A tree that is being built in slices beside the writes: since XOR knows no order, it takes both as they come."""
        self.touched: set[bytes] | None = None
        """Keys changed since the beginning of a look at the disk, while there is one."""
        self._token_ranges = token_ranges
        self._version = version

    def put(self, key: bytes, key_token: int, record: bytes) -> None:
        """Replaces the record of a key."""
        held = self.records.get(key)
        self.records[key] = record
        tree = self.tree
        if tree is None and self.growing is None and self.touched is None:
            return
        change = entry_hash(key_token, record, self._version)
        if held is not None:
            change ^= entry_hash(key_token, held, self._version)
        if tree is not None and self.growing is None and self.touched is None:
            tree.change(key_token, change)  # by far the most frequent case
        else:
            self._changed(key, key_token, change)

    def drop(self, key: bytes, key_token: int) -> None:
        """Forgets a key, if it is held."""
        held = self.records.pop(key, None)
        if held is not None:
            self._changed(key, key_token, entry_hash(key_token, held, self._version))

    def _changed(self, key: bytes, key_token: int, difference: int) -> None:
        if self.tree is not None:
            self.tree.change(key_token, difference)
        if self.growing is not None:
            self.growing.change(key_token, difference)
        if self.touched is not None:
            self.touched.add(key)

    def hash_of(self, key_token: int, record: bytes) -> int:
        return entry_hash(key_token, record, self._version)

    def new_tree(self) -> Tree:
        """An empty tree as deep as the records ask for."""
        return Tree(self._token_ranges, depth_for(len(self.records)), self._version)

    def built(self) -> Tree:
        """The tree, made at once if there is none yet."""
        tree = self.tree
        if tree is None:
            tree = self.tree = self.new_tree()
            tree.add(self.records.keys(), self.records.values())
        return tree

    @property
    def ready(self) -> bool:
        """Whether `built` returns at once, or nearly."""
        return self.tree is not None or len(self.records) <= BULK_MIN

    @property
    def crowded(self) -> bool:
        """Whether the tree has become too shallow for what it holds."""
        return self.tree is not None and len(self.records) > 2 * len(self.tree.leaves)
