"""Coordinates one client request over the replicas of a key: N, R, W, sloppy quorum, hints, read repair.

DeCandia et al. 2007, sections 4.5 and 4.6. Answers are counted by distinct responder. Silence is never taken for failure.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec

from store import messages, versions
from store.config import Config
from store.epochs import Epochs
from store.gossip import Gossip
from store.hints import Hints
from store.messages import ReadDone, WriteDone
from store.metrics import Metrics
from store.quorum import Calls, Gather
from store.replica import Replica
from store.ring import PLACEMENTS_CACHED_MAX, Ring
from store.runtime import Future, Runtime
from store.versions import EMPTY, Entry, Record


class Unsatisfied(Exception):
    """Too few replicas answered in time. A write may nevertheless have reached some, and may spread."""

    def __init__(self, op: str, reason: str, got: int, needed: int) -> None:
        super().__init__(f"{op}: {reason}: got {got} of {needed}")
        self.reason, self.got, self.needed = reason, got, needed


class Place(msgspec.Struct, frozen=True):
    """What never changes about a key: worked out once, asked for at every step of every request."""

    order: tuple[str, ...]
    """Every node in the order of preference."""
    homes: tuple[str, ...]
    fallbacks: tuple[str, ...]
    is_home: bool
    """Whether this node is one."""
    lww: bool


class Want(msgspec.Struct, frozen=True):
    """How many must answer: any responders, and home replicas among them (0: not asked for)."""

    responders: int
    primaries: int
    timeout_ns: int


class Coordinator:
    def __init__(
        self,
        config: Config,
        runtime: Runtime,
        ring: Ring,
        replica: Replica,
        hints: Hints,
        epochs: Epochs,
        gossip: Gossip,
        calls: Calls,
        metrics: Metrics,
    ) -> None:
        self.config = config
        self.runtime = runtime
        self.ring = ring
        self.replica = replica
        self.hints = hints
        self.epochs = epochs
        self.gossip = gossip
        self.calls = calls
        self.metrics = metrics
        self.replica_timeout_ns = config.replica_timeout_ms * 1_000_000
        self.sloppy = config.sloppy and config.hinted_handoff
        self._lww_writes = 0
        self._places: dict[bytes, Place] = {}

    def place(self, key: bytes) -> Place:
        """Who is home to the key, who stands in, and how its writes are reconciled."""
        place = self._places.get(key)
        if place is None:
            if len(self._places) >= PLACEMENTS_CACHED_MAX:
                self._places.clear()
            order, n = self.ring.preference(key), self.config.n
            homes = order[:n]
            place = Place(order, homes, order[n:], self.config.node in homes, self._is_lww(key))
            self._places[key] = place
        return place

    def _is_lww(self, key: bytes) -> bool:
        bucket = key.partition(b"/")[0].decode()
        return self.config.modes.get(bucket, self.config.mode) == "lww"

    async def put(
        self, key: bytes, body: bytes, context: tuple[Entry, ...], want: Want, *, deleted: bool = False
    ) -> Record:
        """Writes, and returns this node's record after the write once W stand durably. Raises Unsatisfied."""
        await self.epochs.renew()
        record = self._next_record(key, body, context, deleted)
        write = _Write(self, key, versions.encode(record), want)
        got, primaries = await write.future
        if got < want.responders:
            raise self._unsatisfied("put", "responders", got, want.responders)
        if primaries < want.primaries:
            raise self._unsatisfied("put", "primaries", primaries, want.primaries)
        return record

    def _next_record(self, key: bytes, body: bytes, context: tuple[Entry, ...], deleted: bool) -> Record:
        place = self.place(key)
        lww = place.lww
        held = self.replica.record(key) if place.is_home else self.hints.record(key, lww=lww) or EMPTY
        wall_ns = self.runtime.clock.wall_ns()
        if lww:
            self._lww_writes += 1
            return versions.put_lww(
                held, self.epochs.node_id, self._lww_writes, wall_ns, body, deleted=deleted
            )
        # What a fallback knows of a key shrinks as its hints are handed off: it must never go on counting from there.
        actor = (
            self.epochs.actor(held.clock, versions.counters(context))
            if place.is_home
            else self.epochs.fresh()
        )
        return versions.put(
            held, context, actor, wall_ns, body, deleted=deleted, entries_max=self.config.clock_entries_max
        )

    async def get(self, key: bytes, want: Want) -> Record:
        """The joined knowledge of R responders; with blocking read repair R of them hold it before it is returned."""
        read = _Read(self, key, want)
        answers: dict[str, bytes] = await read.future
        homes = self.place(key).homes
        if len(answers) < want.responders:
            raise self._unsatisfied("get", "responders", len(answers), want.responders)
        primaries = sum(1 for node in answers if node in homes)
        if primaries < want.primaries:
            raise self._unsatisfied("get", "primaries", primaries, want.primaries)
        encoded = self.joined(key, answers.values())
        if self.config.read_repair != "off" and encoded:
            behind = [node for node, held in answers.items() if held != encoded and node in homes]
            repaired = await self._repair(key, encoded, behind, want)
            if (
                self.config.read_repair == "blocking"
                and len(answers) - len(behind) + repaired < want.responders
            ):
                raise self._unsatisfied(
                    "get", "repair", len(answers) - len(behind) + repaired, want.responders
                )
        return versions.decode(encoded) if encoded else EMPTY

    def joined(self, key: bytes, answers: Any) -> bytes:
        """The encoded join of encoded records; empty answers know nothing."""
        distinct = list(dict.fromkeys(a for a in answers if a))
        if len(distinct) <= 1:
            return distinct[0] if distinct else b""
        lww = self.place(key).lww
        joined = distinct[0]
        for other in distinct[1:]:
            joined = versions.merged(joined, other, lww=lww)
        return joined

    async def _repair(self, key: bytes, encoded: bytes, behind: list[str], want: Want) -> int:
        """Sends the merged siblings to the home replicas that are strictly behind; returns how many have them durably."""
        if not behind:
            return 0
        self.metrics.read_repairs += len(behind)
        others = [node for node in behind if node != self.config.node]
        blocking = self.config.read_repair == "blocking"
        gather = Gather(self.runtime, self.calls, len(others) if blocking else 0, want.timeout_ns)
        frame = messages.encode(messages.Write(gather.id, key, encoded))
        for node in others:
            self.runtime.net.send(node, frame)
        repaired = 0
        if len(others) < len(behind):
            durable = self.replica.join(key, encoded)
            if durable is not None:
                await durable
            repaired += 1
        return repaired + len(await gather.future)

    def _unsatisfied(self, op: str, reason: str, got: int, needed: int) -> Unsatisfied:
        failures = self.metrics.quorum_failures
        failures[op, reason] = failures.get((op, reason), 0) + 1
        return Unsatisfied(op, reason, got, needed)


class _Write:
    """One write on its way: who has it durably, who stands in for whom. Goes on after the client was answered, until
    every home replica has the write or a hint for it exists."""

    def __init__(self, coordinator: Coordinator, key: bytes, encoded: bytes, want: Want) -> None:
        self._c = coordinator
        self._key = key
        self._encoded = encoded
        self._want = want
        node = coordinator.config.node
        place = coordinator.place(key)
        self._homes = place.homes
        self._fallbacks: Iterator[str] = iter(place.fallbacks)
        self._covered: set[str] = set()
        """Home replicas that have the write, or for which a durable hint exists."""
        self._standing_in: dict[str, str] = {}
        self._own_hints: set[str] = set()
        self._acks: set[str] = set()
        self._primaries = 0
        """Home replicas among `_acks`."""
        self._deadline_ns = coordinator.runtime.clock.mono_ns() + want.timeout_ns
        self.future = coordinator.runtime.future()
        """(responders, home replicas among them), when both suffice or the time is over."""
        self._id = coordinator.calls.open(self._answered)
        self._timer = coordinator.runtime.call_later(
            min(coordinator.replica_timeout_ns, want.timeout_ns), self._late
        )
        if place.is_home:
            self._kept(coordinator.replica.store(key, encoded), node)
        down: list[str] = []
        direct: list[str] = []
        for home in self._homes:
            if home != node:
                (direct if not coordinator.sloppy or coordinator.gossip.up(home) else down).append(home)
        if direct:
            frame = messages.encode(messages.Write(self._id, key, encoded))
            for home in direct:
                coordinator.runtime.net.send(home, frame)
        for home in down:
            self._stand_in(home)

    def _kept(self, durable: Future, home: str) -> None:
        """This node's own copy, for itself or as a hint for `home`, counts once it is durable."""
        durable.add_done_callback(partial(self._kept_durably, home))

    def _kept_durably(self, home: str, durable: Future) -> None:
        if durable.exception() is None:  # else the log has said so; this copy does not count
            self._ack(self._c.config.node, home)

    def _answered(self, src: str, message: WriteDone) -> None:
        self._ack(src, self._standing_in.get(src, src))

    def _ack(self, responder: str, home: str) -> None:
        acks = self._acks
        if responder not in acks:
            acks.add(responder)
            self._primaries += responder in self._homes
        self._covered.add(home)
        want = self._want
        if len(acks) >= want.responders and self._primaries >= want.primaries and not self.future.done():
            self.future.set_result((len(acks), self._primaries))
        if len(self._covered) == len(self._homes) and self.future.done():
            self._close()

    def _close(self) -> None:
        self._timer.cancel()
        self._c.calls.close(self._id)

    def _stand_in(self, home: str) -> None:
        """Finds the next node in the order of preference that keeps the write for `home`."""
        c = self._c
        node = c.config.node
        if node not in self._homes and node not in self._standing_in:
            self._standing_in[node] = home
            self._kept(c.hints.store(home, self._key, self._encoded), home)
            return
        for fallback in self._fallbacks:
            if fallback != node and c.gossip.up(fallback):
                self._standing_in[fallback] = home
                frame = messages.encode(messages.Write(self._id, self._key, self._encoded, home))
                c.runtime.net.send(fallback, frame)
                return
        self._keep_hint(home)

    def _keep_hint(self, home: str) -> None:
        """Nobody else is left: this node keeps the hint. It makes no further copy, and so does not count towards W."""
        c = self._c
        if home not in self._own_hints:
            self._own_hints.add(home)
            durable = c.hints.store(home, self._key, self._encoded)
            durable.add_done_callback(partial(self._own_hint_durably, home))

    def _own_hint_durably(self, home: str, durable: Future) -> None:
        if durable.exception() is not None:
            return
        self._covered.add(home)
        if len(self._covered) == len(self._homes) and self.future.done():
            self._close()

    def _late(self) -> None:
        """Some replica owes an answer. Turns to fallbacks for those, and gives the client up at the deadline; whoever
        has neither the write nor a hint by then gets one that this node keeps, so that nobody is left behind for ever."""
        c = self._c
        now = c.runtime.clock.mono_ns()
        over = now >= self._deadline_ns
        uncovered = [home for home in self._homes if home not in self._covered]
        stand_ins = {home: fallback for fallback, home in self._standing_in.items()}
        for home in uncovered:
            owing = stand_ins.get(home, home)
            if owing != c.config.node:
                c.gossip.missed(owing)
            if c.sloppy:
                (self._keep_hint if over else self._stand_in)(home)
        if over and not self.future.done():
            self.future.set_result((len(self._acks), self._primaries))
        if over or (self.future.done() and not c.sloppy):
            self._close()
        else:
            wait = min(c.replica_timeout_ns, max(self._deadline_ns - now, 1))
            self._timer = c.runtime.call_later(wait, self._late)


class _Read:
    """One read on its way: asks N nodes, later the rest of the order of preference, until enough have answered."""

    def __init__(self, coordinator: Coordinator, key: bytes, want: Want) -> None:
        self._c = coordinator
        self._key = key
        self._want = want
        c = coordinator
        place = c.place(key)
        order = place.order
        n = len(place.homes)
        self._place = place
        self._answers: dict[str, bytes] = {}
        self._deadline_ns = c.runtime.clock.mono_ns() + want.timeout_ns
        self.future = c.runtime.future()
        """Answers by responder, when they suffice or the time is over."""
        self._id = c.calls.open(self._answered)
        asked = [home for home in place.homes if not c.sloppy or c.gossip.up(home)]
        rest = [node for node in order if node not in asked]
        if c.sloppy:
            while len(asked) < n and rest:
                asked.append(rest.pop(0))
        self._rest = rest if c.sloppy else []
        self._asked = asked
        self._timer = c.runtime.call_later(min(c.replica_timeout_ns, want.timeout_ns), self._late)
        self._result: bytes | None = None
        self._ask(asked)

    def _ask(self, nodes: list[str]) -> None:
        c = self._c
        frame = b""
        for node in nodes:
            if node == c.config.node:
                self._read_self()
            else:
                frame = frame or messages.encode(messages.Read(self._id, self._key))
                c.runtime.net.send(node, frame)

    def _read_self(self) -> None:
        c = self._c
        record = own_record(c.replica, c.hints, self._key, self._place)
        durable = own_unsynced(c.replica, c.hints, self._key, self._place)
        if durable is None:
            self._take(c.config.node, record)
        else:
            durable.add_done_callback(partial(self._read_durably, record))

    def _read_durably(self, record: bytes, durable: Future) -> None:
        if durable.exception() is None:
            self._take(self._c.config.node, record)

    def _answered(self, src: str, message: ReadDone) -> None:
        self._take(src, message.record)

    def _take(self, src: str, record: bytes) -> None:
        if self.future.done():
            self._repair_late(src, record)
            return
        self._answers[src] = record
        want = self._want
        if len(self._answers) >= want.responders and (
            not want.primaries or self._primaries() >= want.primaries
        ):
            self._finish()

    def _primaries(self) -> int:
        return sum(1 for node in self._answers if node in self._place.homes)

    def _finish(self) -> None:
        answers = dict(self._answers)
        self.future.set_result(answers)
        if len(answers) == len(self._asked) or self._c.config.read_repair == "off":
            self._close()

    def _close(self) -> None:
        self._timer.cancel()
        self._c.calls.close(self._id)

    def _repair_late(self, src: str, record: bytes) -> None:
        """An answer after R: nobody waits for it, but a replica that is behind is brought up to what R had said."""
        c = self._c
        self._answers[src] = record
        encoded = c.joined(self._key, self._answers.values())
        if src in self._place.homes and record != encoded:
            c.metrics.read_repairs += 1
            c.runtime.net.send(src, messages.encode(messages.Write(0, self._key, encoded)))
        if len(self._answers) == len(self._asked):
            self._close()

    def _late(self) -> None:
        c = self._c
        now = c.runtime.clock.mono_ns()
        for node in self._asked:
            if node not in self._answers and node != c.config.node:
                c.gossip.missed(node)
        if self.future.done():
            self._close()
            return
        if now >= self._deadline_ns:
            self.future.set_result(dict(self._answers))
            self._close()
            return
        more, self._rest = self._rest, []
        self._asked = [*self._asked, *more]
        self._ask(more)
        wait = min(c.replica_timeout_ns, max(self._deadline_ns - now, 1))
        self._timer = c.runtime.call_later(wait, self._late)


def own_unsynced(replica: Replica, hints: Hints, key: bytes, place: Place) -> Future | None:
    """What this node must wait for before it may show what it holds: a read never returns what a power loss takes back."""
    return replica.unsynced(key) if place.is_home else hints.unsynced(key)


def own_record(replica: Replica, hints: Hints, key: bytes, place: Place) -> bytes:
    """What this node alone knows of a key, encoded: its replica as a home, what its hints say otherwise."""
    if place.is_home:
        return replica.load(key)
    record = hints.record(key, lww=place.lww)
    return versions.encode(record) if record is not None else b""
