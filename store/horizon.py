"""The consistency horizon: how old a divergence that nobody has resolved yet may be; and how ages outlive their node.

horizon = max(age of the oldest hint, time since the start of the last complete exchange of each token range with each peer).
Whatever differed when an exchange began has been repaired when it is complete, so that the horizon is never below the truth.

An age must survive the node that measures it. A stamp in the log holds both clocks and the name of the machine's run
(`boot`): within one run the monotonic clock is exact, whatever happened to the wall clock. After a reboot only the wall clock
is left, which may be wrong; then peers, who were told the horizon and have clocks of their own, say how old it must be by
now, and the oldest claim counts.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping

from xxhash import xxh3_64_intdigest

from store import messages
from store.config import Config
from store.log import AGE, Log
from store.messages import Age
from store.metrics import Metrics
from store.replica import packed, unpacked
from store.runtime import Runtime

_STAMP = struct.Struct(">qqQ")

Pair = tuple[int, str]
"""A token range that this node is home of, and another of its homes."""


class Horizon:
    """Ages in nanoseconds. All moments are kept by the monotonic clock of this life."""

    def __init__(self, config: Config, runtime: Runtime, log: Log, metrics: Metrics) -> None:
        self._runtime = runtime
        self._log = log
        self._metrics = metrics
        self._mono_ns = runtime.clock.mono_ns
        self._peers = tuple(sorted(p for p in config.peers if p != config.node))
        self._interval_ns = config.horizon_mark_ms * 1_000_000
        self._pairs: Callable[[], Iterable[Pair]] = tuple
        self._exchanged_ns: Mapping[Pair, int] = {}
        self._boot = 0
        self._started_ns = 0
        self._wall_at_start_ns = 0
        """What the wall clock said, or should have said if it jumped forward since: it may have been mended."""
        self._life = 0
        self._hints: dict[int, int] = {}
        """Since when, by a hint's id."""
        self._hints_by_wall: dict[int, int] = {}
        """Likewise, by the wall clock of an earlier run of the machine."""
        self._shared: set[Pair] = set()
        """The pairs at the last look."""
        self._shared_since_ns: dict[Pair, int] = {}
        """When a change of the ring brought them, for those that it did. The others are as old as this node: what it restored
        holds for them until they are exchanged."""
        self._origin_ns: int | None = None
        self._origin_by_wall_ns: int | None = None
        self._claimed_ns: int | None = None
        """The oldest origin that a peer remembers of the earlier life."""
        self._looked_ns = 0
        self._told_ns: dict[str, int] = {}
        """Since when each peer's horizon lasts, as it said last."""
        self._unanswered: set[str] = set()

    def watch(self, pairs: Callable[[], Iterable[Pair]], exchanged_ns: Mapping[Pair, int]) -> None:
        """Which ranges are shared with whom, and when the last complete exchange of each began."""
        self._pairs, self._exchanged_ns = pairs, exchanged_ns

    def follow(self, peers: Iterable[str]) -> None:
        """From now on these are told, and can say what they remember."""
        self._peers = tuple(sorted(p for p in peers if p != self._runtime.node))
        self._unanswered.intersection_update(self._peers)
        self._told_ns = {peer: at_ns for peer, at_ns in self._told_ns.items() if peer in self._peers}

    def begin(self) -> None:
        """Takes the time at which this life began: before anything is restored."""
        clock = self._runtime.clock
        self._boot = xxh3_64_intdigest(clock.boot.encode()) if clock.boot else 0
        self._started_ns = self._looked_ns = clock.mono_ns()
        self._wall_at_start_ns = clock.wall_ns()
        self._metrics.begin(self._started_ns)
        self._origin_ns = self._started_ns

    # Hints.

    def hint_stamp(self, id: int) -> bytes:
        """The moment at which the hint was stored, for the log."""
        since = self._hints.get(id)
        if since is None:
            return _STAMP.pack(self._hints_by_wall[id], 0, 0)
        clock = self._runtime.clock
        return _STAMP.pack(clock.wall_ns() - (clock.mono_ns() - since), since, self._boot)

    def hint_stored(self, id: int, instead_of: int | None = None) -> None:
        """A new hint; one that takes the place of another is as old as that."""
        if instead_of in self._hints_by_wall:
            self._hints_by_wall[id] = self._hints_by_wall[instead_of]
        elif instead_of in self._hints:
            self._hints[id] = self._hints[instead_of]
        else:
            self._hints[id] = self._mono_ns()

    def hint_restored(self, id: int, stamp: bytes) -> None:
        wall_ns, mono_ns, boot = _STAMP.unpack(stamp)
        if boot == self._boot != 0:
            self._hints[id] = mono_ns
        else:
            self._hints_by_wall[id] = wall_ns

    def hint_dropped(self, id: int) -> None:
        self._hints.pop(id, None)
        self._hints_by_wall.pop(id, None)

    # What outlives this life.

    def restore(self, payload: bytes) -> None:
        """Replays one log payload of the kind AGE. The last one counts."""
        stamp, behind = unpacked(payload)
        wall_ns, mono_ns, boot = _STAMP.unpack(stamp)
        behind_ns = int.from_bytes(behind, "big")
        if boot == self._boot != 0:
            self._origin_ns, self._origin_by_wall_ns = mono_ns - behind_ns, None
        else:
            self._origin_ns, self._origin_by_wall_ns = None, wall_ns - behind_ns

    def restored(self) -> None:
        """The log has told all that it holds: marks it, first of all in this life."""
        self._shared = set(self._pairs())
        self.mark()

    def start(self, life: int) -> None:
        """Begins to tell peers and to mark the log. `life`, above 0, tells this life of the node from every other."""
        self._life = life
        if self._origin_by_wall_ns is not None or self._hints_by_wall:
            self._unanswered = set(self._peers)
        self._runtime.spawn(self._rounds(), name="horizon")

    async def _rounds(self) -> None:
        while True:
            self._tell()
            await self._runtime.sleep(self._interval_ns)
            self._metrics.turn(self._mono_ns())
            self.mark()

    def mark(self) -> None:
        """Writes to the log how far behind the exchanges are; joins the next batch, and is not waited for."""
        clock = self._runtime.clock
        self._wall_at_start_ns = max(
            self._wall_at_start_ns, clock.wall_ns() - (clock.mono_ns() - self._started_ns)
        )
        payload = self.payload()
        self._look()
        # A mark that is lost leaves an older one, which says that everything is older.
        self._log.append(payload)

    def payload(self) -> bytes:
        """The log payload of this moment: a stamp, and how far behind the exchanges are."""
        clock = self._runtime.clock
        stamp = _STAMP.pack(clock.wall_ns(), clock.mono_ns(), self._boot)
        return packed(AGE, stamp, max(self.lags_ns().values(), default=0).to_bytes(8, "big"))

    # What peers remember of an earlier life.

    def _tell(self) -> None:
        """Says this node's horizon to every peer; asks instead as long as the peer has not said what it remembers."""
        told = messages.encode(Age(self.age_ns(), 0)) if len(self._unanswered) < len(self._peers) else b""
        asked = messages.encode(Age(-1, self._life)) if self._unanswered else b""
        for peer in self._peers:
            self._runtime.net.send(peer, asked if peer in self._unanswered else told)

    def received(self, src: str, message: Age) -> None:
        now = self._mono_ns()
        if message.age_ns < 0:
            since = self._told_ns.get(src, now)
            self._runtime.net.send(src, messages.encode(Age(now - since, message.life)))
        elif message.life == 0:
            self._told_ns[src] = now - message.age_ns
        elif message.life == self._life:
            self._unanswered.discard(src)
            since = now - message.age_ns
            self._claimed_ns = since if self._claimed_ns is None else min(self._claimed_ns, since)

    # What is exported.

    def _by_wall(self, wall_ns: int) -> int:
        """A moment of an earlier run of the machine, by the clock of this one."""
        return self._started_ns - max(self._wall_at_start_ns - wall_ns, 0)

    def _origin(self) -> int:
        """Since when the pairs that this life has not exchanged may have diverged."""
        if self._origin_by_wall_ns is not None:
            return self._claimed(self._by_wall(self._origin_by_wall_ns))
        assert self._origin_ns is not None, "begin() was not called"
        return self._origin_ns

    def _claimed(self, since: int) -> int:
        return since if self._claimed_ns is None else min(since, self._claimed_ns)

    def lags_ns(self) -> dict[str, int]:
        """By peer: how long ago the last complete exchange began, of the range that is furthest behind."""
        now = self._mono_ns()
        oldest: dict[str, int] = {}
        exchanged_ns, shared_since_ns = self._exchanged_ns, self._shared_since_ns
        for pair in self._pairs():
            # What the ring has brought since the last look it had not brought before it.
            shared_ns = shared_since_ns.get(pair) if pair in self._shared else self._looked_ns
            since = exchanged_ns.get(pair)
            if since is None:
                since = self._origin() if shared_ns is None else shared_ns
            elif shared_ns is not None and shared_ns > since:
                since = shared_ns  # exchanged when both had the range before
            if since < oldest.get(pair[1], now + 1):
                oldest[pair[1]] = since
        return {peer: now - since for peer, since in oldest.items()}

    def _look(self) -> None:
        """Notes the pairs that a change of the ring has brought."""
        shared = set(self._pairs())
        for pair in self._shared - shared:
            self._shared_since_ns.pop(pair, None)
        self._shared_since_ns.update(dict.fromkeys(shared - self._shared, self._looked_ns))
        self._shared = shared
        self._looked_ns = self._mono_ns()

    def age_ns(self) -> int:
        """The horizon."""
        return max(self.oldest_hint_ns(), 0, *self.lags_ns().values())

    def oldest_hint_ns(self) -> int:
        """The age of the oldest hint; 0 without any."""
        now = self._mono_ns()
        since = min(self._hints.values(), default=now)
        if self._hints_by_wall:
            since = min(since, self._claimed(self._by_wall(min(self._hints_by_wall.values()))))
        return now - since
