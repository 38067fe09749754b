"""Reaping: a key of which nothing but tombstones is left is forgotten, once no older copy can come back from anywhere.

A home replica of a token range asks *all* nodes to enter a new round of the range (store/rounds.py), with the tombstones that
are old enough. Who enters looks, at that moment, whether it holds anything else of a key, whether a hint for it or a request of
its own is outstanding, and says yes or no to each. What all have agreed to is reaped: frames that were made before are refused
by everybody from then on. Whoever does not answer stalls it. The argument is in docs/decisions/009.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from store import expiry, messages, versions
from store.coordinator import Coordinator
from store.messages import Reap, ReapAnswer, ReapAsk, Refused
from store.quorum import Gather
from store.rounds import Rounds
from store.runtime import DiskError, Future
from store.versions import Record

MILLISECOND = 1_000_000
SLICE = 2_000
"""Records that are looked at without giving way to requests."""
PAUSE_NS = 5 * MILLISECOND
BURIALS = 32
"""Expired keys that are written at a time."""
ASK_BYTES_MAX = 1 << 20

Entries = tuple[tuple[bytes, bytes], ...]
"""(key, the encoded record that is to be forgotten)."""


class Reaper:
    """The worker that proposes, and this node's part as one of those who are asked."""

    def __init__(
        self, coordinator: Coordinator, rounds: Rounds, steady: Callable[[], tuple[str, ...] | None]
    ) -> None:
        """`steady`: all nodes that may know anything of any key, or None while their number is changing."""
        self._c = coordinator
        self._rounds = rounds
        self._steady = steady
        config = coordinator.config
        self._after_ns = config.reap_after_ms * MILLISECOND
        self._interval_ns = config.reap_interval_ms * MILLISECOND
        self._batch = config.reap_batch
        self._tombstones: dict[int, int] = {}
        self._stalled_since_ns: int | None = None
        """Since when nothing could be reaped although there was something to reap."""

    def start(self) -> None:
        self._c.runtime.spawn(self._work(), name="reaper")

    def tombstones(self) -> int:
        """Keys held here of which nothing but tombstones is left, as of the last look at each token range."""
        return sum(self._tombstones.values())

    def stalled_ns(self) -> int:
        """For how long reaping has been stalled; 0 if it is not."""
        if self._stalled_since_ns is None:
            return 0
        return self._c.runtime.clock.mono_ns() - self._stalled_since_ns

    async def _work(self) -> None:
        runtime = self._c.runtime
        turn = 0
        while True:
            turn += 1
            jitter = runtime.draw("reap-jitter", turn) % (self._interval_ns // 4 + 1)
            await runtime.sleep(self._interval_ns - self._interval_ns // 8 + jitter)
            tried = done = False
            for token_range, held in self._c.replica.ranges.items():
                if not held.records:
                    self._tombstones.pop(token_range, None)
                    continue
                old = await self._look(token_range)
                for batch in self._batches(old):
                    tried = True
                    done |= await self._reap(token_range, batch)
            if done or not tried:
                self._stalled_since_ns = None
            elif self._stalled_since_ns is None:
                self._stalled_since_ns = runtime.clock.mono_ns()

    async def _look(self, token_range: int) -> list[tuple[bytes, bytes]]:
        """Looks at every record of a token range: buries what has expired, returns the tombstones that may be reaped."""
        c = self._c
        old: list[tuple[bytes, bytes]] = []
        expired: list[bytes] = []
        count = 0
        records = c.replica.ranges[token_range].records
        wall_ns = c.runtime.clock.wall_ns()
        # The first home replica proposes first; the next ones after twice and three times as long, what it has missed.
        order = c.ring.order(token_range)[: c.config.n]
        turn = order.index(c.config.node) + 1 if c.config.node in order else 0
        for number, key in enumerate(list(records), 1):
            if not number % SLICE:
                await c.runtime.sleep(PAUSE_NS)
            encoded = records.get(key)
            if encoded is None:
                continue
            record = versions.decode_once(encoded)
            match versions.due(record, wall_ns):
                case versions.BURIED:
                    count += 1
                    if turn and _newest_ns(record) + turn * self._after_ns <= wall_ns:
                        old.append((key, encoded))
                case versions.EXPIRED if turn and expiry.is_ours(c, key):
                    expired.append(key)
                case _:
                    pass
        self._tombstones[token_range] = count
        for begin in range(0, len(expired), BURIALS):
            await self._bury(expired[begin : begin + BURIALS])
        return old

    async def _bury(self, keys: list[bytes]) -> None:
        """Buries what has expired of these keys, side by side: a quorum that is not there costs a timeout."""
        over = self._c.runtime.future()
        left = len(keys)

        async def bury(key: bytes) -> None:
            nonlocal left
            await expiry.bury(self._c, key)
            left -= 1
            if not left:
                over.set_result(None)

        for key in keys:
            self._c.runtime.spawn(bury(key), name="bury")
        await over

    def _batches(self, old: list[tuple[bytes, bytes]]) -> Iterator[Entries]:
        batch: list[tuple[bytes, bytes]] = []
        size = 0
        for key, record in old:
            size += len(key) + len(record)
            if batch and (len(batch) >= self._batch or size > ASK_BYTES_MAX):
                yield tuple(batch)
                batch, size = [], len(key) + len(record)
            batch.append((key, record))
        if batch:
            yield tuple(batch)

    async def _reap(self, token_range: int, entries: Entries) -> bool:
        """Proposes to forget these; returns whether everybody was heard and agreed to any of them."""
        c = self._c
        everybody, ring = self._steady(), self._rounds.ring
        if everybody is None or not all(map(c.gossip.up, everybody)):
            return False
        round = self._rounds.floors[token_range] + 1
        clear = [entry for entry in entries if self._clear(*entry)]
        if not clear:
            return False
        try:
            await self._rounds.raise_to(token_range, round)
        except DiskError:
            return False
        others = tuple(node for node in everybody if node != c.config.node)
        timeout_ns = c.config.request_timeout_ms * MILLISECOND
        gather = Gather(c.runtime, c.calls, len(others), timeout_ns, expects=ReapAnswer, asked=others)
        frame = messages.encode(ReapAsk(gather.id, token_range, round, tuple(clear), ring))
        for node in others:
            c.runtime.net.send(node, frame)
        answers: dict[str, ReapAnswer] = await gather.future
        latest = max((answer.round for answer in answers.values()), default=0)
        if latest > self._rounds.floors[token_range]:
            with suppress(DiskError):
                self._rounds.raise_to(token_range, latest)
        agreed = set(range(len(clear))).intersection(*(answer.agreed for answer in answers.values()))
        if len(answers) < len(others) or not agreed or self._rounds.ring != ring:
            return False
        reap = Reap(token_range, round, tuple(clear[i] for i in sorted(agreed)))
        frame = messages.encode(reap)
        for node in others:
            c.runtime.net.send(node, frame)
        self._forget(reap)
        return True

    def _clear(self, key: bytes, record: bytes) -> bool:
        """Whether this node holds nothing else of the key, and nothing of it is outstanding here."""
        held = self._c.replica.load(key)
        return (not held or held == record) and not self.outstanding(key)

    def outstanding(self, key: bytes) -> bool:
        """Whether this node may yet send what it knew of the key before now."""
        return self._rounds.outstanding(key) or self._c.hints.holds(key)

    def received(self, src: str, message: Refused | ReapAsk | Reap) -> None:
        match message:
            case Refused():
                self._rounds.refused(src, message, self.outstanding)
            case ReapAsk():
                self._asked(src, message)
            case Reap():
                self._forget(message)

    def _asked(self, src: str, message: ReapAsk) -> None:
        floors = self._rounds.floors
        if not message.token_range < len(floors):
            return
        floor = floors[message.token_range]
        agreed = tuple(i for i, entry in enumerate(message.entries) if self._clear(*entry))
        steady = self._steady() is not None and message.ring == self._rounds.ring
        if message.round <= floor or not agreed or not steady:
            self._c.runtime.net.send(src, messages.encode(ReapAnswer(message.id, floor, ())))
            return
        try:
            durable = self._rounds.raise_to(message.token_range, message.round)
        except DiskError:
            return
        durable.add_done_callback(partial(self._agree, src, ReapAnswer(message.id, message.round, agreed)))

    def _agree(self, src: str, answer: ReapAnswer, durable: Future) -> None:
        if durable.exception() is None:
            self._c.runtime.net.send(src, messages.encode(answer))

    def _forget(self, reap: Reap) -> None:
        c = self._c
        floors = self._rounds.floors
        if not reap.token_range < len(floors) or reap.round > floors[reap.token_range]:
            # Everybody had agreed, this node too: its disk has forgotten that, and may hold what is older than the tombstones.
            c.metrics.reaps_refused += 1
            c.runtime.log("asked to reap in a round that this node never entered: was its disk rolled back?")
            return
        for key, record in reap.entries:
            c.epochs.retire(versions.decode(record).clock)
            if c.replica.load(key) == record:
                try:
                    c.replica.drop(key)
                except DiskError:
                    return
                c.metrics.reaped += 1


def _newest_ns(record: Record) -> int:
    if record.versions:
        return max(v.wall_ns for v in record.versions)
    return max((seconds for _, _, seconds in record.clock), default=0) * versions.SECOND_NS
