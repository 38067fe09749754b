"""Rounds: what tells a frame that was made before a reap from one that was made after it (docs/decisions/009).

A token range has a round, an integer that every node keeps durably and that only goes up. A `Write` is stamped with the
sender's round, and a receiver that has come further refuses it. A `Read` carries the reader's round, and whoever answers comes
up to it first. A node enters a round either because it was asked to (store/reaper.py), when it looks whether anything of the
keys in question is outstanding here, or by hearing of it, and then it can no longer be asked. So once all nodes have agreed, what
they knew before can no longer arrive anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from store import messages
from store.log import ROUND, Log
from store.metrics import Metrics
from store.quorum import Calls
from store.replica import packed, unpacked
from store.ring import token
from store.runtime import DiskError, Future, Network


class Rounds:
    """This node's rounds, and which keys its own requests still carry knowledge of."""

    def __init__(self, net: Network, log: Log, calls: Calls, metrics: Metrics, token_ranges: int) -> None:
        self._net = net
        self._log = log
        self._calls = calls
        self._metrics = metrics
        self._token_ranges = token_ranges
        self.ring = 0
        """The version of the ring that this node goes by, with which frames are stamped too."""
        self.floors = [0] * token_ranges
        """By token range: frames of an earlier round are refused. Goes up at once."""
        self.stamps = [0] * token_ranges
        """By token range: what this node's own writes are stamped with. Goes up once it is durable, or a life that ended in
        between could have sent what its successor knows nothing of."""
        self._rising: dict[int, Future] = {}
        self._open: dict[bytes, int] = {}

    def restore(self, payload: bytes) -> None:
        """Replays one log payload of the kind ROUND."""
        token_range, round = (int.from_bytes(part, "big") for part in unpacked(payload))
        if round > self.stamps[token_range]:
            self.floors[token_range] = self.stamps[token_range] = round

    def payload(self, token_range: int) -> bytes:
        """The log payload of how far a token range has come."""
        return packed(ROUND, token_range.to_bytes(4, "big"), self.floors[token_range].to_bytes(8, "big"))

    def raise_to(self, token_range: int, round: int) -> Future:
        """Comes up to a round that is not durable here yet. Raises DiskError."""
        if round > self.floors[token_range]:
            self.floors[token_range] = round
            durable = self._rising[token_range] = self._log.append(self.payload(token_range))
            durable.add_done_callback(partial(self._risen, token_range, round))
        return self._rising[token_range]

    def _risen(self, token_range: int, round: int, durable: Future) -> None:
        if durable.exception() is None:
            self.stamps[token_range] = max(round, self.stamps[token_range])

    def write(self, id: int, key: bytes, record: bytes, hint_for: str = "", ring: int | None = None) -> bytes:
        """The frame of a Write of what this node knows now, or has known ever since `begin(key)`.

        `ring`: the version by which the answer is counted, where that is not the present one."""
        stamp = self.stamps[token(key) * self._token_ranges >> 64]
        return messages.encode(
            messages.Write(id, key, record, hint_for, stamp, self.ring if ring is None else ring)
        )

    def read(self, id: int, key: bytes, ring: int) -> bytes:
        """The frame of a Read."""
        floor = self.floors[token(key) * self._token_ranges >> 64]
        return messages.encode(messages.Read(id, key, floor, ring))

    def stamp(self, items: Sequence[tuple[bytes, bytes]]) -> int:
        """What (key, record) of one token range, as this node holds them now, are to be stamped with."""
        return self.stamps[token(items[0][0]) * self._token_ranges >> 64] if items else 0

    def overtook(self, round: int, items: Sequence[tuple[bytes, bytes]]) -> int:
        """The round in which this node refuses these (key, record) of one token range, stamped with `round`; 0: in none."""
        floor = self.floors[token(items[0][0]) * self._token_ranges >> 64] if items else 0
        if round >= floor:
            return 0
        self._metrics.stale_writes_refused += 1
        return floor

    def begin(self, key: bytes) -> None:
        """A request of this node begins to carry what is known of the key."""
        self._open[key] = self._open.get(key, 0) + 1

    def end(self, key: bytes) -> None:
        """One that began carries it no longer."""
        left = self._open[key] - 1
        if left:
            self._open[key] = left
        else:
            del self._open[key]

    def outstanding(self, key: bytes) -> bool:
        """Whether a request of this node may still send what was known of the key when it began."""
        return key in self._open

    def refuses(self, src: str, message: messages.Write) -> bool:
        """Whether the write was made in an earlier round; if so its sender is told."""
        floor = self.floors[token(message.key) * self._token_ranges >> 64]
        if message.round >= floor:
            return False
        self._metrics.stale_writes_refused += 1
        back = messages.Refused(
            message.id, message.key, message.record, message.hint_for, floor, message.ring
        )
        self._net.send(src, messages.encode(back))
        return True

    def ahead(self, key: bytes, round: int) -> Future | None:
        """What to wait for before a read of this round may be answered, if anything. Raises DiskError."""
        return self.reach(token(key) * self._token_ranges >> 64, round)

    def reach(self, token_range: int, round: int) -> Future | None:
        """What to wait for until this node has durably come to this round, if anything. Raises DiskError."""
        return None if round <= self.stamps[token_range] else self.raise_to(token_range, round)

    def refused(self, src: str, message: messages.Refused, outstanding: Callable[[bytes], bool]) -> None:
        """A write of this node came too late at `src`: comes up to its round, and then sends the write again.

        Only while its request is open and the key outstanding: then nobody can have been told that it is not.
        """
        token_range = token(message.key) * self._token_ranges >> 64
        if message.round <= self.stamps[token_range]:
            self._again(src, message, outstanding, None)
            return
        try:
            durable = self.raise_to(token_range, message.round)
        except DiskError:
            return
        durable.add_done_callback(partial(self._again, src, message, outstanding))

    def _again(
        self,
        src: str,
        message: messages.Refused,
        outstanding: Callable[[bytes], bool],
        durable: Future | None,
    ) -> None:
        if durable is not None and durable.exception() is not None:
            return
        if message.id in self._calls and outstanding(message.key):
            self._net.send(
                src, self.write(message.id, message.key, message.record, message.hint_for, message.ring)
            )
