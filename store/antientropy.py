"""Anti-entropy: workers beside the read and write path that keep home replicas equal, whoever forgot to tell whom.

One worker for each peer: in every interval it sends the roots of all token ranges that both are home to in one frame, and
has those repaired that differ (DeCandia et al. 2007, section 4.7; store/exchange.py). A peer that comes back is compared
with at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from store import messages
from store.config import Config
from store.exchange import Counters, Exchange
from store.gossip import Gossip
from store.quorum import Calls
from store.rebuild import Rebuild, Visit
from store.replica import Replica
from store.rounds import Rounds
from store.runtime import DiskError, Future, Runtime

RANGES_MAX = 4_096
"""Roots in one frame."""

LANES = 8
"""Token ranges reconciled with one peer at a time: mostly they wait, for answers and for writes on their way."""

FIRST_ROUND_NS = 500_000_000
"""After its start a node soon looks what it missed."""


class AntiEntropy:
    """`homes(token range)`: the names of its home replicas, which may change. `read_back`: see store/rebuild.py."""

    def __init__(
        self,
        config: Config,
        runtime: Runtime,
        replica: Replica,
        calls: Calls,
        gossip: Gossip,
        rounds: Rounds,
        homes: Callable[[int], Sequence[str]],
        read_back: Callable[[Visit], Awaitable[int]],
    ) -> None:
        self._config = config
        self._runtime = runtime
        self._replica = replica
        self._gossip = gossip
        self._homes = homes
        self._interval_ns = config.anti_entropy_interval_ms * 1_000_000
        self.counters = Counters()
        self._rebuild = Rebuild(runtime, replica, self.counters, config.token_ranges, read_back)
        self._exchange = Exchange(config, runtime, replica, calls, rounds, self.counters)
        self.exchanged_ns: dict[tuple[int, str], int] = {}
        """(token range, peer) -> monotonic time of the START of the last exchange that left nothing unrepaired."""
        self._started_ns = runtime.clock.mono_ns()
        self._compared: set[str] = set()
        """Peers that have a worker."""
        self._wakers: dict[str, Future] = {}
        self._woken: set[str] = set()

    def start(self) -> None:
        """Builds the trees of what was recovered, and begins to compare."""
        self._runtime.spawn(self._build_all(), name="anti-entropy-build")
        if self._config.anti_entropy:
            period_ns = self._config.anti_entropy_rebuild_ms * 1_000_000
            self._runtime.spawn(self._rebuild.work(period_ns), name="anti-entropy-rebuild")
        self.follow(sorted(self._config.peers))

    def follow(self, peers: Sequence[str]) -> None:
        """Compares with these too from now on, wherever both are home to a range."""
        for peer in peers:
            if self._config.anti_entropy and peer != self._config.node and peer not in self._compared:
                self._compared.add(peer)
                self._runtime.spawn(self._rounds(peer), name=f"anti-entropy-{peer}")

    def received(self, src: str, message: messages.ExchangeRequest) -> None:
        """A question or a repair of a peer."""
        self._exchange.received(src, message)

    def back(self, peer: str) -> None:
        """The peer was heard of again: do not wait out the interval."""
        self._woken.add(peer)
        waker = self._wakers.get(peer)
        if waker is not None and not waker.done():
            waker.set_result(None)

    def shared(self, peer: str) -> list[int]:
        """The token ranges to which both this node and the peer are home."""
        node = self._config.node
        ranges: list[int] = []
        for r in self._replica.ranges:
            homes = self._homes(r)
            if node in homes and peer in homes:
                ranges.append(r)
        return ranges

    def pairs(self) -> list[tuple[int, str]]:
        """Every token range that this node is home to, with each of its other homes."""
        node = self._config.node
        found: list[tuple[int, str]] = []
        for r in self._replica.ranges:
            homes = self._homes(r)
            if node in homes:
                found += [(r, home) for home in homes if home != node]
        return found

    def lag_ns(self, peer: str) -> int:
        """How old the oldest of this life's latest whole exchanges with the peer is; since the start where there is none."""
        oldest = min(
            (self.exchanged_ns.get((r, peer), self._started_ns) for r in self.shared(peer)), default=None
        )
        return 0 if oldest is None else self._runtime.clock.mono_ns() - oldest

    def status(self) -> dict[str, object]:
        """For `/admin/anti-entropy`: the counters, and how far behind each peer's comparison is."""
        lags = {peer: self.lag_ns(peer) / 1e9 for peer in sorted(self._compared) if self.shared(peer)}
        lags.pop(self._config.node, None)
        return {**msgspec.structs.asdict(self.counters), "lag_seconds": lags}

    async def exchange(self, peer: str, token_range: int) -> bool:
        """Reconciles one range with the peer, both ways. True when every confirmed difference was repaired durably on
        both sides, so that each held at the end what the other had held at the start."""
        return await self._exchange_all(peer, [token_range])

    async def rebuild(self) -> None:
        """Reads the disk back now, and mends what it has lost."""
        await self._rebuild.from_disk()

    async def _rounds(self, peer: str) -> None:
        number = 0
        await self._pause(peer, FIRST_ROUND_NS, number)
        while True:
            number += 1
            # Who seems down wakes this worker when it is heard of.
            if self._gossip.up(peer):
                await self._deepen()
                ranges = self.shared(peer)
                for begin in range(0, len(ranges), RANGES_MAX):
                    await self._exchange_all(peer, ranges[begin : begin + RANGES_MAX])
            await self._pause(peer, self._interval_ns, number)

    async def _pause(self, peer: str, wait_ns: int, number: int) -> None:
        """Until the interval is over or the peer comes back. With jitter, or all nodes would compare at the same time."""
        if peer in self._woken:
            self._woken.discard(peer)
            return
        jitter = self._runtime.draw("anti-entropy-jitter", peer, number) % (wait_ns // 4 + 1)
        waker = self._wakers[peer] = self._runtime.future()
        timer = self._runtime.call_later(wait_ns - wait_ns // 8 + jitter, self._alarm, waker)
        await waker
        timer.cancel()
        self._woken.discard(peer)

    @staticmethod
    def _alarm(waker: Future) -> None:
        if not waker.done():
            waker.set_result(None)

    async def _exchange_all(self, peer: str, ranges: Sequence[int]) -> bool:
        """Reconciles these ranges with the peer; whether all of them are, and known to be durable here."""
        start_ns = self._runtime.clock.mono_ns()
        asked = [r for r in ranges if self._replica.ranges[r].ready]
        answer, settled = await self._exchange.roots(peer, asked)
        if answer is None:
            self.counters.failed += len(asked)
            return False
        if answer.version != self._exchange.version:
            self.counters.versions_skipped += len(asked)
            return False
        try:
            if settled is not None:
                await settled
        except DiskError:
            return False
        differing = {r: (depth, keys) for r, depth, keys in answer.differing}
        unknown = {*answer.busy, *differing}
        for r in asked:
            if r not in unknown:
                self.exchanged_ns[r, peer] = start_ns
        complete = len(asked) == len(ranges) and not answer.busy
        rest = [r for r in asked if r in differing]
        lanes: list[Future] = []

        async def lane(done: Future) -> None:
            repaired = True
            while rest:
                r = rest.pop(0)
                if await self._exchange.reconcile(peer, r, *differing[r]):
                    self.exchanged_ns[r, peer] = start_ns
                else:
                    self.counters.failed += 1
                    repaired = False
                    if not self._gossip.up(peer):
                        rest.clear()
            done.set_result(repaired)

        for _ in range(min(len(rest), LANES)):
            done = self._runtime.future()
            lanes.append(done)
            self._runtime.spawn(lane(done), name=f"reconcile-{peer}")
        for done in lanes:
            complete = await done and complete
        return complete

    async def _build_all(self) -> None:
        for held in list(self._replica.ranges.values()):
            if held.ready:
                held.built()
            else:
                await self._rebuild.from_memory(held)

    async def _deepen(self) -> None:
        """Trees that have become too shallow for what they hold are built anew."""
        for held in list(self._replica.ranges.values()):
            if held.crowded:
                await self._rebuild.from_memory(held)
