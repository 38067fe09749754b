"""A node: wires its parts together over a Runtime, recovers what its disk holds, and answers peers and clients."""

from __future__ import annotations

from functools import partial
from typing import Any

from store import api, door, messages, metrics
from store.antientropy import AntiEntropy
from store.api import Api, BadRequest, RequestParser
from store.compaction import Compaction
from store.config import Config
from store.coordinator import Coordinator
from store.epochs import Epochs
from store.forwarding import Forwarding
from store.gossip import Gossip
from store.hints import Hints
from store.horizon import Horizon
from store.log import AGE, DROP, HINT, HINT_DONE, LIFE, PUT, RING, ROUND, Entry, Log, Restore
from store.membership import Membership, first_members
from store.messages import (
    Forward,
    ForwardDone,
    Ping,
    Pong,
    Read,
    ReadDone,
    ReapAnswer,
    RingAsk,
    RingJoin,
    RingProgress,
    RingState,
    Write,
    WriteDone,
)
from store.metrics import Metrics
from store.newcomers import Newcomers
from store.quorum import Calls
from store.reaper import Reaper
from store.replica import Replica
from store.ring import Ring
from store.rounds import Rounds
from store.runtime import BadMessage, Future, Runtime
from store.transfer import Transfer


class Node:
    """One life of one node. `start` recovers and begins to serve; then `http` and peer messages may come."""

    def __init__(self, config: Config, runtime: Runtime) -> None:
        self.config = config
        self.runtime = runtime
        self.metrics = Metrics()
        self.ring = Ring(first_members(config), config.token_ranges, config.peers)
        self.log = Log(config, runtime)
        self.compaction = Compaction(config, runtime, self.log, self._payload_of)
        self.calls = Calls()
        self.gossip = Gossip(config, runtime, self.metrics)
        self.epochs = Epochs(runtime, self.log, self.gossip)
        self.replica = Replica(self.log, config.token_ranges, self._is_lww, config.hash_version)
        self.horizon = Horizon(config, runtime, self.log, self.metrics)
        self.rounds = Rounds(runtime.net, self.log, self.calls, self.metrics, config.token_ranges)
        self.hints = Hints(
            config, runtime, self.log, self.calls, self.gossip, self.rounds, self.metrics, self.horizon
        )
        self.coordinator = Coordinator(
            config,
            runtime,
            self.ring,
            self.replica,
            self.hints,
            self.epochs,
            self.gossip,
            self.calls,
            self.rounds,
            self.metrics,
        )
        self.anti_entropy = AntiEntropy(
            config,
            runtime,
            self.replica,
            self.calls,
            self.gossip,
            self.rounds,
            lambda r: self.ring.holders(r, config.n),
            self.compaction.read_back,
        )
        self.horizon.watch(self.anti_entropy.pairs, self.anti_entropy.exchanged_ns)
        self.membership = Membership(
            config,
            runtime,
            self.ring,
            self.log,
            self.gossip,
            self.hints,
            self.replica,
            Transfer(config, self.ring, self.replica, self.gossip, self.epochs, self.anti_entropy.exchange),
        )
        self.membership.listeners.append(self._ring_changed)
        self.newcomers = Newcomers(config, runtime, self.membership, self.calls)
        self.reaper = Reaper(self.coordinator, self.rounds, self.membership.steady)
        self.api = Api(self)
        self.forwarding = Forwarding(
            config,
            runtime,
            self.calls,
            self.gossip,
            self.metrics,
            partial(self.api.handle, forwarded=True),
        )
        self._started_ns = runtime.clock.mono_ns()
        self._parser: RequestParser | None = None

    def _ring_changed(self) -> None:
        """Whatever follows from the ring is worked out anew."""
        nodes = self.ring.nodes
        self.coordinator.forget_places()
        self.rounds.ring = self.ring.version
        self.gossip.follow(nodes, self.ring.version)
        self.horizon.follow(nodes)
        self.anti_entropy.follow(nodes)

    def _is_lww(self, key: bytes) -> bool:
        return self.coordinator.place(key).lww

    def _payload_of(self, entry: Entry) -> bytes | None:
        """What the log has to hold of an entry, as memory knows it."""
        if isinstance(entry, int):
            return self.hints.payload(entry)
        if isinstance(entry, bytes):
            return self.replica.payload(entry)
        if entry[:1] == "R":
            return self.rounds.payload(int(entry[1:], 16))
        if entry == "G":
            return self.membership.payload()
        if entry == "A":
            return self.horizon.payload()
        return self.epochs.payload() if entry == "E" else None

    async def start(self) -> None:
        """Recovers from the log, takes a new generation and actor ids, and joins the others."""
        self.horizon.begin()
        restorers: dict[bytes, Restore] = {
            PUT: self.replica.restore,
            RING: self.membership.restore,
            HINT: self.hints.restore,
            HINT_DONE: self.hints.restore,
            DROP: self.replica.restore,
            ROUND: self.rounds.restore,
            LIFE: self.epochs.restore,
            AGE: self.horizon.restore,
        }
        found = await self.log.open(lambda payload: restorers[payload[:1]](payload))
        self.metrics.bad_records += found.bad_records
        self.metrics.records_dropped_at_recovery += found.bytes_cut > 0
        self.horizon.restored()
        await self.epochs.start()
        self.calls.begin(self.runtime.draw("calls", self.epochs.generation) >> 2)
        self.runtime.net.on_message(self.received)
        self.gossip.start(self.epochs.generation)
        self.hints.start()
        self.membership.start()
        self.horizon.start((self.runtime.draw("horizon-life") >> 3) + 1)
        self.anti_entropy.start()
        self.reaper.start()
        self.compaction.start()
        self.runtime.log(
            f"serving: start {self.epochs.generation}, {len(self.replica)} keys, {len(self.hints.pending())} hints, "
            f"{found.bytes_cut} bytes of torn tail cut, {found.bad_records} damaged records skipped"
        )

    def received(self, src: str, frame: bytes) -> None:
        """One message of a peer. Raises BadMessage for what no member of the ring would send; nothing was done then."""
        known = self.membership.known
        message = door.opened(frame, known)
        if src not in known and not isinstance(message, RingJoin):
            raise BadMessage(f"{src!r} is no member")
        if self.gossip.heard(src):
            self.hints.back(src)
            self.anti_entropy.back(src)
        match message:
            case Write():
                self._write(src, message)
            case Read():
                self._read(src, message)
            case WriteDone() | ReadDone() | ForwardDone() | Pong() | ReapAnswer():
                self.calls.answered(src, message.id, message)
            case (
                messages.RootsDone() | messages.CompareDone() | messages.EntriesDone() | messages.RepairDone()
            ):
                self.calls.answered(src, message.id, message)
            case Forward():
                self.forwarding.received(src, message)
            case messages.Age():
                self.horizon.received(src, message)
            case messages.Gossip():
                self.gossip.received(src, message)
                if message.ring != self.ring.version:
                    self.membership.heard(src, message.ring)
            case (
                messages.Roots()
                | messages.Compare()
                | messages.Entries()
                | messages.More()
                | messages.Repair()
            ):
                if self.membership.may_exchange(src):
                    self.anti_entropy.received(src, message)
            case RingState() | RingProgress() | RingAsk() | RingJoin():
                self.membership.received(src, message)
            case Ping():
                self.runtime.net.send(src, messages.encode(Pong(message.id)))
            case messages.Refused() | messages.ReapAsk() | messages.Reap():
                self.reaper.received(src, message)

    def _write(self, src: str, message: Write) -> None:
        version = self.ring.version
        if message.ring != version and not self.membership.serves(src, message):
            return  # silence: who counts answers by an old ring has been told of the present one
        if self.rounds.refuses(src, message):
            return
        if message.hint_for:
            durable = self.hints.store(message.hint_for, message.key, message.record)
        elif version and message.ring <= version and not self.coordinator.place(message.key).holds:
            durable = self.membership.keep_for_homes(message.key, message.record)
        else:
            self.metrics.replica_writes += 1
            durable = self.replica.join(message.key, message.record)
        self._answer(durable, src, WriteDone(message.id))

    def _read(self, src: str, message: Read) -> None:
        if message.ring != self.ring.version and not self.membership.serves(src, message):
            return
        ahead = self.rounds.ahead(message.key, message.round)
        if ahead is None:
            self._answer_read(src, message)
        else:
            ahead.add_done_callback(partial(self._answer_read, src, message))

    def _answer_read(self, src: str, message: Read, ahead: Future | None = None) -> None:
        if ahead is not None and ahead.exception() is not None:
            return
        self.metrics.replica_reads += 1
        key = message.key
        place = self.coordinator.place(key)
        record = self.coordinator.held(key, place)
        durable = self.coordinator.unsynced(key, place)
        self._answer(durable, src, ReadDone(message.id, record))

    def _answer(self, durable: Future | None, src: str, answer: WriteDone | ReadDone) -> None:
        """Sends the answer once what it says is durable."""
        frame = messages.encode(answer)
        if durable is None:
            self.runtime.net.send(src, frame)
        else:
            durable.add_done_callback(partial(self._send_durably, src, frame))

    def _send_durably(self, src: str, frame: bytes, durable: Future) -> None:
        self.runtime.net.send(src, frame)

    async def http(self, request: bytes) -> bytes:
        """One whole HTTP request for one whole response; what the simulator calls."""
        parser, self._parser = self._parser, None
        if parser is None:
            parser = RequestParser(self.config.value_bytes_max)
        try:
            requests = parser.feed(request)
        except BadRequest as problem:
            return api.encode_error(problem.status, str(problem))
        if len(requests) != 1:
            return api.encode_error(400, "one whole request at a time")
        if requests[0].keep_alive and not parser.partial:
            self._parser = parser  # it stands at the beginning of a request, as on a connection that is kept
        return await self.api.handle(requests[0])

    def _count_log(self) -> None:
        """Takes over what the log counts by itself."""
        self.metrics.log_bytes = self.log.size_bytes
        self.metrics.fsyncs = self.log.syncs
        self.metrics.fsync_records = self.log.records

    def status(self) -> dict[str, Any]:
        self._count_log()
        depths = self.hints.depths()
        now = self.runtime.clock.mono_ns()
        return {
            "node": self.config.node,
            "generation": self.epochs.generation,
            "keys": len(self.replica),
            "hinted_handoff_pending": sum(depths.values()),
            "hints_by_target": depths,
            "peers": self.gossip.view(),
            "log_bytes": self.log.size_bytes,
            "siblings_max": self.metrics.siblings(),
            # The names under which the literature and dashboards ask for them.
            "quorum_failures_per_sec": self.metrics.quorum_failures_per_second(now),
            "merkle_tree_build_latency_ms": self.anti_entropy.counters.build_ns / 1e6,
            "anti_entropy_lag_seconds": max(self.horizon.lags_ns().values(), default=0) / 1e9,
            "consistency_horizon_seconds": self.horizon.age_ns() / 1e9,
            "oldest_hint_seconds": self.horizon.oldest_hint_ns() / 1e9,
            "read_repairs": self.metrics.read_repairs,
            "counts": self.metrics.counts(),
            "request_latency_p99_ms": {
                op: _milliseconds(latencies.quantiles(0.99)[0])
                for op, latencies in (("get", self.metrics.gets), ("put", self.metrics.puts))
            },
        }

    def exposition(self) -> bytes:
        """The Prometheus page."""
        self._count_log()
        view = self.gossip.view()
        gauges = metrics.Gauges(
            keys=len(self.replica),
            peers=len(view),
            peers_up=sum(bool(peer["up"]) for peer in view.values()),
            hints_pending=self.hints.depths(),
            uptime_ns=self.runtime.clock.mono_ns() - self._started_ns,
            horizon_ns=self.horizon.age_ns(),
            exchange_bytes=self.anti_entropy.counters.bytes_sent,
            tree_build_ns=self.anti_entropy.counters.build_ns,
            lags_ns=self.horizon.lags_ns(),
            tombstones=self.reaper.tombstones(),
            reap_stalled_ns=self.reaper.stalled_ns(),
        )
        return metrics.expose(self.metrics, gauges)


def _milliseconds(duration_ns: int | None) -> float | None:
    return None if duration_ns is None else duration_ns / 1e6
