"""Randomness that belongs to identities: the same seed and the same question give the same 64 bits, in any order, anywhere.

Removing one operation or one fault from a run therefore does not reshuffle the fate of everything else. All of it is BLAKE2b
over an unambiguous encoding: nothing depends on `hash()`, on the process, or on the platform.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b
from sys import byteorder

import msgspec

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Draws:
    """The draws of one seed: `draws(what, *identity)` is 64 random bits.

    Identities are text, whole numbers below 2**64, bytes, None, and tuples or lists of those.

    >>> draws = Draws(7)
    >>> draws("latency", "n1", 3) == Draws(7)("latency", "n1", 3) != draws("latency", "n1", 4)
    True
    """

    __slots__ = ("_root", "_whats", "seed")

    def __init__(self, seed: int, *scope: object) -> None:
        self.seed = seed
        self._root = blake2b(_encode((str(seed), scope)), digest_size=8)
        self._whats: dict[str, blake2b] = {}

    def __call__(self, what: str, *identity: object) -> int:
        state = self._whats.get(what)
        if state is None:
            state = self._whats[what] = self._root.copy()
            state.update(_encode(what))
        state = state.copy()
        state.update(_encode(identity))
        return int.from_bytes(state.digest(), "big")

    def below(self, n: int, what: str, *identity: object) -> int:
        """A whole number from 0 to n - 1, evenly."""
        return self(what, *identity) * n >> 64

    def between(self, low: int, high: int, what: str, *identity: object) -> int:
        """A whole number from `low` to `high`, both included, evenly."""
        return low + (self(what, *identity) * (high - low + 1) >> 64)

    def one_in(self, n: int, what: str, *identity: object) -> bool:
        """True once in n times."""
        return self(what, *identity) * n < 1 << 64


Quantiles = Sequence[tuple[int, int]]
"""A distribution: (per mille of draws below, value), straight lines between the points, from 0 to 1000."""


def table_of(quantiles: Quantiles) -> list[int]:
    """1,024 equally likely values of the distribution, in whole-number arithmetic: the same on every platform.

    >>> table_of(((0, 0), (500, 512), (1000, 1536)))[::256]
    [0, 256, 512, 1024]
    """
    table: list[int] = []
    (low_at, low), *points = quantiles
    for k in range(1024):
        at = k * 1000
        while at > points[0][0] * 1024 and len(points) > 1:
            low_at, low = points.pop(0)
        high_at, high = points[0]
        table.append(low + (high - low) * (at - low_at * 1024) // ((high_at - low_at) * 1024))
    return table


class Latencies:
    """The delays of one link or one disk, in nanoseconds: the n-th call answers for the n-th message.

    One hash yields sixteen of them, so that a delay costs a fraction of a draw.
    """

    __slots__ = ("_block", "_head", "_table", "left")

    def __init__(self, seed: int, table: list[int], *identity: object) -> None:
        self._table = table
        self._head = _encode((str(seed), identity))
        self._block = 0
        self.left: list[int] = []
        """Drawn and not yet used, last first. Hot paths pop it themselves and call `refill` when it is empty."""

    def __call__(self) -> int:
        if not self.left:
            self.refill()
        return self.left.pop()

    def refill(self) -> None:
        bits = array("I", blake2b(self._head + self._block.to_bytes(8, "big")).digest())
        if byteorder == "big":
            bits.byteswap()
        self._block += 1
        table = self._table
        # Ten bits choose the value; others spread it by up to 4 us, so that few events fall on one instant.
        self.left.extend([table[b & 1023] + (b >> 20) for b in bits])
