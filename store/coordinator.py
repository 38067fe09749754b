"""Coordinates one client request over the replicas of a key: N, R, W, sloppy quorum, hints, read repair.

DeCandia et al. 2007, sections 4.5 and 4.6. Answers are counted by distinct responder. Silence is never taken for failure.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from store import versions
from store.config import Bucket, Config, ReadRepair
from store.epochs import Epochs
from store.gossip import Gossip
from store.hints import Hints
from store.metrics import Metrics
from store.quorum import Calls
from store.read import Read
from store.replica import Replica
from store.ring import Ring, token
from store.rounds import Rounds
from store.runtime import Future, Runtime
from store.versions import EMPTY, Entry, Record
from store.write import Write


class Short(msgspec.Struct, frozen=True):
    """What a request lacked when its time was over."""

    reason: str
    got: int
    needed: int


class Unsatisfied(Exception):
    """Too few replicas answered in time. A write may nevertheless have reached some, and may spread."""

    def __init__(self, op: str, short: Short) -> None:
        super().__init__(f"{op}: {short.reason}: got {short.got} of {short.needed}")
        self.reason, self.got, self.needed = short.reason, short.got, short.needed


class Want(msgspec.Struct, frozen=True):
    """How many must answer: any responders, and home replicas among them (0: not asked for)."""

    responders: int
    primaries: int
    timeout_ns: int

    def short(self, responders: int, primaries: int, reason: str = "") -> Short:
        """What so many lack. `reason`: what they were counted for, if not for their answers."""
        if responders < self.responders:
            return Short(reason or "responders", responders, self.responders)
        return Short(reason or "primaries", primaries, self.primaries)


class Terms(msgspec.Struct, frozen=True):
    """What holds in one bucket: its own word where it has one, the node's configuration otherwise."""

    lww: bool
    read: Want
    write: Want
    read_repair: ReadRepair
    ttl_seconds: int


def terms(config: Config, bucket: Bucket) -> Terms:
    def own(said: int | None, otherwise: int) -> int:
        return otherwise if said is None else said

    timeout_ns = config.request_timeout_ms * 1_000_000
    return Terms(
        lww=(bucket.mode or config.mode) == "lww",
        read=Want(own(bucket.r, config.r), own(bucket.pr, config.pr), timeout_ns),
        write=Want(own(bucket.w, config.w), own(bucket.pw, config.pw), timeout_ns),
        read_repair=bucket.read_repair or config.read_repair,
        ttl_seconds=own(bucket.ttl_seconds, config.ttl_seconds),
    )


class Place(msgspec.Struct, frozen=True):
    """What the ring and the configuration say about a key: worked out once, asked for at every step of every request."""

    order: tuple[str, ...]
    """Every node in the order of preference."""
    homes: tuple[str, ...]
    fallbacks: tuple[str, ...]
    is_home: bool
    """Whether this node is one, and no other is taking its place."""
    terms: Terms
    """What its bucket asks for."""
    holders: tuple[str, ...]
    """Who has to have every write: the home replicas; while the key's range moves, the old and the new ones."""
    holds: bool
    """Whether this node is one."""
    groups: tuple[tuple[str, ...], ...] = ()
    """While the key's range moves: the old and the new home replicas, each of which a write has to satisfy."""

    @property
    def lww(self) -> bool:
        return self.terms.lww


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
        rounds: Rounds,
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
        self.rounds = rounds
        self.metrics = metrics
        self.replica_timeout_ns = config.replica_timeout_ms * 1_000_000
        self.sloppy = config.sloppy and config.hinted_handoff
        self._lww_writes = 0
        self._token_ranges = ring.token_ranges
        self._terms = terms(config, Bucket())
        self._terms_of = {name.encode(): terms(config, bucket) for name, bucket in config.buckets.items()}
        self._places: dict[bytes, dict[int, Place]] = {name: {} for name in (b"", *self._terms_of)}
        """By bucket, where it has terms of its own (b"" for all others), and token range."""

    def place(self, key: bytes) -> Place:
        """Who is home to the key, who stands in, and how its writes are reconciled."""
        bucket = b""
        if self._terms_of:
            name = key.partition(b"/")[0]
            if name in self._terms_of:
                bucket = name
        places = self._places[bucket]
        token_range = token(key) * self._token_ranges >> 64
        place = places.get(token_range)
        if place is None:
            ring, n, node = self.ring, self.config.n, self.config.node
            order = ring.order(token_range)
            homes, holders = order[:n], ring.holders(token_range, n)
            member = node in ring.state.members
            place = Place(
                order,
                homes,
                tuple([other for other in order[n:] if other not in holders]),
                member and node in homes,
                self._terms_of.get(bucket, self._terms),
                holders,
                member and node in holders,
                ring.joint(token_range, n),
            )
            places[token_range] = place
        return place

    def forget_places(self) -> None:
        """The ring has changed."""
        for places in self._places.values():
            places.clear()

    async def put(
        self,
        key: bytes,
        body: bytes,
        context: tuple[Entry, ...],
        want: Want,
        *,
        deleted: bool = False,
        ttl_ns: int = 0,
    ) -> Record:
        """Writes, and returns this node's record after the write once W stand durably. Raises Unsatisfied.

        `ttl_ns`: how long the value is to live by this node's wall clock; 0: until it is replaced.
        """
        record = self._next_record(key, body, context, deleted, ttl_ns)
        await self.write(key, record, want)
        return record

    async def write(self, key: bytes, record: Record, want: Want) -> None:
        """Spreads a record that this node has just made. Raises Unsatisfied."""
        encoded = versions.encode(record)
        write = Write(self, key, encoded, want)
        short = await write.future
        while short is None and write.ring != self.ring.version and write.elsewhere():
            # The ring changed meanwhile, and this quorum may be one that nobody asks any more: before the client is told,
            # the write stands where it belongs now. (Before this node acknowledged the change, so nobody has passed it by.)
            write = Write(self, key, encoded, want, again=True)
            short = await write.future
        if short is not None:
            raise self._unsatisfied("put", short)

    def _next_record(
        self, key: bytes, body: bytes, context: tuple[Entry, ...], deleted: bool, ttl_ns: int
    ) -> Record:
        place = self.place(key)
        lww = place.lww
        held = self.known(key, place)
        wall_ns = self.runtime.clock.wall_ns()
        if lww:
            self._lww_writes += 1
            writes, life = self._lww_writes, self.epochs.life
            return versions.put_lww(held, life, writes, wall_ns, body, deleted=deleted, ttl_ns=ttl_ns)
        # What a fallback knows of a key shrinks as its hints are handed off: it must never go on counting from there.
        actor = (
            self.epochs.actor(held.clock, versions.counters(context))
            if place.is_home
            else self.epochs.fresh()
        )
        entries_max = self.config.clock_entries_max
        record = versions.put(
            held,
            context,
            actor,
            wall_ns,
            body,
            deleted=deleted,
            ttl_ns=ttl_ns,
            entries_max=entries_max,
        )
        if len(record.clock) >= entries_max:
            self.truncated((*held.clock, *context), record)
        return record

    def truncated(self, known: tuple[Entry, ...], record: Record) -> None:
        """What a truncated clock forgot of `known` may come back as a false sibling: the price is counted. An entry may come back
        older than it was, in an old context or from an old replica: its actor must not go on counting from there."""
        kept = {entry[0] for entry in record.clock}
        dropped = {entry[0]: entry for entry in known if entry[0] not in kept}
        if dropped:
            self.metrics.clock_truncations += 1
            self.metrics.clock_entries_dropped += len(dropped)
            self.epochs.retire(tuple(dropped.values()))

    async def get(self, key: bytes, want: Want) -> Record:
        """The joined knowledge of R responders; with blocking read repair R of them hold it before it is returned."""
        return self.read_record(await self.read(key, want))

    def read(self, key: bytes, want: Want) -> Future:
        """Begins what `get` does; `read_record` says what came of the future's result."""
        return Read(self, key, want).future

    def read_record(self, answer: bytes | Short) -> Record:
        """The record that a read ended with. Raises Unsatisfied."""
        if isinstance(answer, Short):
            raise self._unsatisfied("get", answer)
        return versions.decode(answer) if answer else EMPTY

    def known(self, key: bytes, place: Place) -> Record:
        """What this node would build its next write of the key on, whether it is a home of it or a fallback."""
        if place.holds:
            return self.replica.record(key)
        return self.hints.record(key, lww=place.terms.lww) or EMPTY

    def joined(self, key: bytes, answers: Iterable[bytes]) -> bytes:
        """The encoded join of encoded records; empty answers know nothing."""
        joined = b""
        for answer in answers:
            if answer and answer != joined:
                joined = versions.merged(joined, answer, lww=self.place(key).lww) if joined else answer
        return joined

    def held(self, key: bytes, place: Place) -> bytes:
        """What this node alone knows of a key, encoded: its replica as a home, what its hints say otherwise."""
        held = self.replica.load(key)
        if place.is_home:
            return held
        # A former or a future home may hold both; in a ring that is not changing one of the two is always empty.
        record = self.hints.record(key, lww=place.terms.lww)
        if record is None:
            return held
        return self.joined(key, (held, versions.encode(record)))

    def unsynced(self, key: bytes, place: Place) -> Future | None:
        """What this node must wait for before it may show what it holds: a read never returns what a power loss takes
        back."""
        own = self.replica.unsynced(key)
        if place.is_home:
            return own
        hinted = self.hints.unsynced(key)
        if own is None or hinted is None:
            return hinted if own is None else own
        return both(self.runtime.future(), own, hinted)

    def _unsatisfied(self, op: str, short: Short) -> Unsatisfied:
        failures = self.metrics.quorum_failures
        failures[op, short.reason] = failures.get((op, short.reason), 0) + 1
        return Unsatisfied(op, short)


def both(done: Future, first: Future, second: Future) -> Future:
    """`done`, to be set when both are, with the error of either."""

    def ended(future: Future) -> None:
        problem = future.exception()
        if done.done():
            return
        if problem is not None:
            done.set_exception(problem)
        elif first.done() and second.done():
            done.set_result(None)

    first.add_done_callback(ended)
    second.add_done_callback(ended)
    return done
