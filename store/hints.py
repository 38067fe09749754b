"""Hinted handoff: writes kept for home replicas that could not be reached, until each has them durably.

A hint is durable before it counts towards W; it is forgotten only after the target's durable acknowledgement; it survives a
restart of its holder, and is tried for ever, with back-off and a rate limit (DeCandia et al. 2007, section 4.6).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import islice

from store import messages, versions
from store.config import Config
from store.gossip import Gossip
from store.horizon import Horizon
from store.log import HINT, HINT_DONE, Log
from store.metrics import Metrics
from store.quorum import Calls, Gather
from store.replica import packed, unpacked
from store.rounds import Rounds
from store.runtime import Future, Runtime
from store.versions import Record

WINDOW = 32
"""Hints in flight to one target at a time."""
JOINED_MIN = 8
"""From so many hints of one key on, what they know together is kept: a key that is hot gets one with every write."""


class Hints:
    """Pending hints by target, oldest first. Ids are this node's own and never reused in one log."""

    def __init__(
        self,
        config: Config,
        runtime: Runtime,
        log: Log,
        calls: Calls,
        gossip: Gossip,
        rounds: Rounds,
        metrics: Metrics,
        horizon: Horizon,
    ) -> None:
        self._config = config
        self._runtime = runtime
        self._log = log
        self._calls = calls
        self._gossip = gossip
        self._rounds = rounds
        self._metrics = metrics
        self._horizon = horizon
        self._next = 0
        self._pending: dict[str, dict[int, tuple[bytes, bytes]]] = {}
        self._by_key: dict[bytes, dict[int, bytes]] = {}
        self._joined: dict[bytes, tuple[int, Record]] = {}
        """What the many hints of a key know together, up to the one of this id. Those that were handed off since count too: what
        they said is no less true."""
        self._unsynced: dict[bytes, dict[int, Future]] = {}
        self._draining: set[str] = set()
        self._wakers: dict[str, Future] = {}
        self._passing: dict[bytes, int] = {}
        """The hint that is just being kept for others, by its key: what is kept instead is as old as it is."""
        self.closed = False
        """Another node has taken this one's place: what it knows must not come back, and nothing new is kept."""
        self.departed: Callable[[str], bool] = lambda target: False
        """Whether a target is gone from the ring for ever, so that its hints are for others now."""
        self.retarget: Callable[[bytes, bytes], Awaitable[None]] = _nowhere
        """Keeps (key, record) for the key's present home replicas, durably."""

    def restore(self, payload: bytes) -> int:
        """Replays one log payload of the kind HINT or HINT_DONE; returns the hint's number."""
        parts = unpacked(payload)
        id = int.from_bytes(parts[0], "big")
        self._next = max(self._next, id)
        if payload[:1] == HINT:
            _, target, key, record, stamp = parts
            self._add(target.decode(), id, key, record)
            self._horizon.hint_restored(id, stamp)
        else:
            self._drop(parts[1].decode(), id)
        return id

    def payload(self, id: int) -> bytes | None:
        """The log payload of a pending hint, if it is one."""
        for target, hints in self._pending.items():
            if (hint := hints.get(id)) is not None:
                stamp = self._horizon.hint_stamp(id)
                return packed(HINT, id.to_bytes(8, "big"), target.encode(), *hint, stamp)
        return None

    def start(self) -> None:
        for target in self._pending:
            self._drain_soon(target)

    def store(self, target: str, key: bytes, record: bytes) -> Future:
        """Keeps a record for `target`. The future is set to None once it is durable, and the hint is listed only then; never
        if hints are closed."""
        done = self._runtime.future()
        if self.closed:
            return done
        self._next += 1
        id = self._next
        # Known at once to this node as a coordinator, or its next write of the key would make the same dot again.
        self._by_key.setdefault(key, {})[id] = record
        self._unsynced.setdefault(key, {})[id] = done
        self._horizon.hint_stored(id, self._passing.get(key))
        self._runtime.spawn(self._store(id, target, key, record, done), name="hint-store")
        return done

    async def _store(self, id: int, target: str, key: bytes, record: bytes, done: Future) -> None:
        stamp = self._horizon.hint_stamp(id)
        await self._log.append(packed(HINT, id.to_bytes(8, "big"), target.encode(), key, record, stamp))
        self._add(target, id, key, record)
        unsynced = self._unsynced[key]
        del unsynced[id]
        if not unsynced:
            del self._unsynced[key]
        if self.closed:
            self._forget(target, id)
            return
        self._metrics.hints_stored += 1
        done.set_result(None)
        self._drain_soon(target)

    def unsynced(self, key: bytes) -> Future | None:
        """What to wait for before `record(key)` may be shown to anybody, if anything."""
        waiting = self._unsynced.get(key)
        return next(reversed(waiting.values())) if waiting else None

    def holds(self, key: bytes) -> bool:
        """Whether a hint for the key is held for anybody, durable or not yet."""
        return key in self._by_key

    def _add(self, target: str, id: int, key: bytes, record: bytes) -> None:
        self._pending.setdefault(target, {})[id] = (key, record)
        self._by_key.setdefault(key, {})[id] = record

    def _drop(self, target: str, id: int) -> None:
        self._horizon.hint_dropped(id)
        hint = self._pending.get(target, {}).pop(id, None)
        if hint is None:
            return
        if not self._pending[target]:
            del self._pending[target]
        held = self._by_key[hint[0]]
        del held[id]
        if not held:
            del self._by_key[hint[0]]
            self._joined.pop(hint[0], None)

    def record(self, key: bytes, *, lww: bool) -> Record | None:
        """What the hints held for this key know of it together, whoever they are for."""
        held = self._by_key.get(key)
        if not held:
            return None
        merge = versions.sync_lww if lww else versions.sync
        latest, joined = self._joined.get(key, (0, versions.EMPTY))
        for id in reversed(held):
            if id <= latest:
                break
            joined = merge(joined, versions.decode(held[id]))
        if len(held) >= JOINED_MIN:
            self._joined[key] = next(reversed(held)), joined
        return joined

    def pending(self) -> list[tuple[str, bytes, bytes]]:
        """(target, key, encoded record) of every durable hint not yet handed off."""
        return [(t, key, record) for t, hints in self._pending.items() for key, record in hints.values()]

    def depths(self) -> dict[str, int]:
        return {target: len(hints) for target, hints in self._pending.items()}

    def back(self, target: str) -> None:
        """The target was heard of again: do not wait out the back-off."""
        waker = self._wakers.get(target)
        if waker is not None and not waker.done():
            waker.set_result(None)

    def _drain_soon(self, target: str) -> None:
        if target not in self._draining:
            self._draining.add(target)
            self._runtime.spawn(self._drain(target), name=f"handoff-{target}")

    async def _drain(self, target: str) -> None:
        retry_ns = self._config.hint_retry_ms * 1_000_000
        wait_ns = retry_ns
        pause_ns = WINDOW * 1_000_000_000 // self._config.hints_per_second
        while target in self._pending:
            if self.departed(target):
                await self._pass_on(target)
                continue
            delivered = self._gossip.up(target) and await self._deliver(target)
            if delivered:
                wait_ns = retry_ns
                await self._runtime.sleep(pause_ns)
            else:
                await self._back_off(target, wait_ns)
                wait_ns = min(2 * wait_ns, self._config.hint_retry_max_ms * 1_000_000)
        self._draining.discard(target)

    async def _pass_on(self, target: str) -> None:
        """Gives up none of the hints for a target that is gone: each is kept for those who are at home there now."""
        for id, (key, record) in list(self._pending[target].items()):
            self._passing[key] = id
            await self.retarget(key, record)
            del self._passing[key]
            self._forget(target, id)
            self._metrics.hints_retargeted += 1

    def _forget(self, target: str, id: int) -> None:
        self._drop(target, id)
        # Not waited for: if this is lost the hint is handed off once more, which changes nothing.
        self._log.append(packed(HINT_DONE, id.to_bytes(8, "big"), target.encode()))

    def forget_all(self) -> None:
        """Gives up every durable hint."""
        for target, hints in list(self._pending.items()):
            for id in list(hints):
                self._forget(target, id)

    async def _back_off(self, target: str, wait_ns: int) -> None:
        waker = self._wakers[target] = self._runtime.future()
        timer = self._runtime.call_later(wait_ns, self.back, target)
        await waker
        timer.cancel()
        del self._wakers[target]

    async def _deliver(self, target: str) -> bool:
        """Hands over one window of hints, each under its own id. Returns whether all were acknowledged."""
        window = list(islice(self._pending[target].items(), WINDOW))
        sent: list[tuple[int, Gather]] = []
        for id, (key, record) in window:
            gather = Gather(
                self._runtime,
                self._calls,
                1,
                self._config.request_timeout_ms * 1_000_000,
                expects=messages.WriteDone,
                asked=(target,),
            )
            self._runtime.net.send(target, self._rounds.write(gather.id, key, record))
            sent.append((id, gather))
        complete = True
        for id, gather in sent:
            if target in await gather.future:
                self._forget(target, id)
                self._metrics.hints_delivered += 1
            else:
                complete = False
        if not complete:
            self._gossip.missed(target)
        return complete


async def _nowhere(key: bytes, record: bytes) -> None:
    raise AssertionError("in a ring that never changes nobody departs")
