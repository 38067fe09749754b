"""What a node counts about itself: plain integers in the hot path, Prometheus text when somebody asks."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping

import msgspec

RECENT = 4_096
"""Requests that the quantiles look back on."""

QUANTILES = (0.5, 0.99, 0.999)


class Latencies:
    """How long requests took: count and sum over the node's life, exact quantiles of the latest `RECENT`.

    Quantiles over a whole life would hide today's trouble behind last week's calm.
    """

    __slots__ = ("_recent", "count", "sum_ns")

    def __init__(self) -> None:
        self.count = 0
        self.sum_ns = 0
        self._recent: deque[int] = deque(maxlen=RECENT)

    def observe(self, duration_ns: int) -> None:
        self.count += 1
        self.sum_ns += duration_ns
        self._recent.append(duration_ns)

    def quantiles(self, *quantiles: float) -> list[int | None]:
        """Nanoseconds that a fraction q of the recent requests did not exceed; None without any."""
        ranked = sorted(self._recent)
        if not ranked:
            return [None] * len(quantiles)
        return [ranked[min(int(q * len(ranked)), len(ranked) - 1)] for q in quantiles]


class Window(msgspec.Struct):
    """The last two turns: when they were, and what had been counted by then."""

    from_ns: int = 0
    turned_ns: int = 0
    failures_before: int = 0
    failures_turned: int = 0
    siblings_before: int = 0


QUORUM_FAILURES = (
    ("get", "primaries"),
    ("get", "repair"),
    ("get", "responders"),
    ("put", "primaries"),
    ("put", "responders"),
)
"""(op, reason) of what can be missing; shown from the start, since a rate needs the zero before the one."""


class Metrics(msgspec.Struct):
    """One life's counters. The node increments them as plain attributes; nothing here locks or formats."""

    # Requests that clients sent to this node and that it answered, 503 included. One that another node forwarded here is
    # that node's; one that was refused as the client's mistake says nothing about the store.
    puts: Latencies = msgspec.field(default_factory=Latencies)
    gets: Latencies = msgspec.field(default_factory=Latencies)
    deletes: Latencies = msgspec.field(default_factory=Latencies)
    forwards: int = 0
    """Requests passed on to a home replica, this node being none."""
    quorum_failures: dict[tuple[str, str], int] = msgspec.field(default_factory=lambda: defaultdict(int))
    """By (op, reason); absent ones count as zero."""
    read_repairs: int = 0
    """Replicas that were sent a newer record because of a read."""
    clock_truncations: int = 0
    """Writes whose clock had to lose entries."""
    clock_entries_dropped: int = 0
    sibling_max: int = 0
    """The most live values that a key was returned with, since the last turn of the window."""
    window: Window = msgspec.field(default_factory=Window)

    hints_stored: int = 0
    hints_delivered: int = 0
    hints_retargeted: int = 0
    """Hints for nodes that left, kept for the present home replicas instead."""
    replica_writes: int = 0
    """Records received from coordinators, this node itself included."""
    replica_reads: int = 0
    reaped: int = 0
    """Keys forgotten here, after all nodes had agreed that nothing older can come back."""
    expired: int = 0
    """Keys of which this node replaced an expired value by a tombstone."""
    stale_writes_refused: int = 0
    """Writes from peers that were made in an earlier round of their token range."""
    reaps_refused: int = 0
    """Reaps in a round that this node never entered: its disk has forgotten something."""
    gossip_rounds: int = 0
    suspicions: int = 0

    records_dropped_at_recovery: int = 0
    """Torn frames behind the last durable mark: nobody had been told that they were safe."""
    bad_records: int = 0
    """Damaged frames before it: skipped, counted, never believed."""
    log_bytes: int = 0
    fsyncs: int = 0
    fsync_records: int = 0
    """Records that those fsyncs made durable: divided by `fsyncs`, the size of the group commits."""

    # The real network's; the simulator has its own, and leaves these at zero.
    bad_frames: int = 0
    """Frames or greetings from peers that were not understood; each cost its connection."""
    frames_sent: int = 0
    frames_received: int = 0
    frames_dropped: int = 0
    """Frames not sent, the peer being unreachable or its queue full."""
    bytes_sent: int = 0
    bytes_received: int = 0
    connections_lost: int = 0
    http_connections: int = 0
    """Clients connected now."""
    http_connections_refused: int = 0
    http_requests: int = 0
    http_requests_shed: int = 0
    """Answered 503 at once, too many being in flight."""
    http_bad_requests: int = 0

    def quorum_failed(self, op: str, reason: str) -> None:
        self.quorum_failures[op, reason] += 1

    def counts(self) -> dict[str, int]:
        """Every plain count by its field's name: more than the page shows, which is kept short."""
        found = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: count for name, count in found.items() if isinstance(count, int)}

    def begin(self, now_ns: int) -> None:
        """Opens the window."""
        self.window.from_ns = self.window.turned_ns = now_ns

    def turn(self, now_ns: int) -> None:
        """Closes a stretch of the window: what it held counts until the next turn, and no longer."""
        w = self.window
        w.from_ns, w.turned_ns = w.turned_ns, now_ns
        w.failures_before, w.failures_turned = w.failures_turned, sum(self.quorum_failures.values())
        w.siblings_before, self.sibling_max = self.sibling_max, 0

    def siblings(self) -> int:
        """The most live values that a key was returned with of late: one or two stretches of the window."""
        return max(self.sibling_max, self.window.siblings_before)

    def quorum_failures_per_second(self, now_ns: int) -> float:
        """Of late: over one or two stretches of the window."""
        w = self.window
        failed = sum(self.quorum_failures.values()) - w.failures_before
        return failed * 1e9 / (now_ns - w.from_ns) if now_ns > w.from_ns else 0.0


class Gauges(msgspec.Struct, frozen=True, kw_only=True):
    """What is read off the node's own state at the moment of the scrape."""

    keys: int
    """Records held here, tombstones included."""
    peers: int
    peers_up: int
    hints_pending: Mapping[str, int]
    """Durable hints not yet handed off, by the home replica they are for."""
    uptime_ns: int
    horizon_ns: int = 0
    """Age that an unresolved divergence known or unknown to this node may have (store/horizon.py)."""
    exchange_bytes: int = 0
    tree_build_ns: int = 0
    lags_ns: Mapping[str, int] = {}
    """By peer: time since the start of the last complete exchange of the token range that is furthest behind."""
    tombstones: int = 0
    """Keys of which nothing but tombstones is held, as of the last look."""
    reap_stalled_ns: int = 0
    """For how long nothing could be reaped although something was due."""


Label = tuple[str, str]


class _Page:
    """Prometheus' text format 0.0.4, one family after the other."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, kind: str, name: str, promise: str) -> None:
        self._lines.append(f"# HELP {name} {promise}\n# TYPE {name} {kind}")

    def sample(self, name: str, number: float | str, labels: Iterable[Label] = ()) -> None:
        shown = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
        self._lines.append(f"{name}{{{shown}}} {number}" if shown else f"{name} {number}")

    def counter(self, name: str, promise: str, number: int) -> None:
        self.family("counter", name, promise)
        self.sample(name, number)

    def gauge(self, name: str, promise: str, number: float) -> None:
        self.family("gauge", name, promise)
        self.sample(name, number)

    def encoded(self) -> bytes:
        return ("\n".join(self._lines) + "\n").encode()


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _requests(page: _Page, m: Metrics) -> None:
    page.family(
        "summary", "dynamo_request_seconds", f"Seconds to an answer; quantiles of the latest {RECENT}."
    )
    for op, latencies in (("delete", m.deletes), ("get", m.gets), ("put", m.puts)):
        for q, duration_ns in zip(QUANTILES, latencies.quantiles(*QUANTILES), strict=True):
            seconds = "NaN" if duration_ns is None else duration_ns / 1e9
            page.sample("dynamo_request_seconds", seconds, [("op", op), ("quantile", str(q))])
        page.sample("dynamo_request_seconds_sum", latencies.sum_ns / 1e9, [("op", op)])
        page.sample("dynamo_request_seconds_count", latencies.count, [("op", op)])
    page.counter("dynamo_forwards_total", "Requests passed on to a home replica.", m.forwards)
    page.family(
        "counter", "dynamo_quorum_failures_total", "Requests that did not get the answers they needed."
    )
    for op, reason in sorted({*QUORUM_FAILURES, *m.quorum_failures}):
        count = m.quorum_failures.get((op, reason), 0)
        page.sample("dynamo_quorum_failures_total", count, [("op", op), ("reason", reason)])
    page.counter("dynamo_read_repairs_total", "Replicas brought up to date by a read.", m.read_repairs)
    page.counter(
        "dynamo_clock_truncations_total", "Writes whose clock had to lose entries.", m.clock_truncations
    )
    page.counter("dynamo_clock_entries_dropped_total", "Entries lost by them.", m.clock_entries_dropped)
    page.gauge("dynamo_siblings", "Most live values that one key was returned with of late.", m.siblings())


def _convergence(page: _Page, m: Metrics, g: Gauges) -> None:
    page.gauge(
        "dynamo_consistency_horizon_seconds",
        "Age of the oldest divergence that may be unresolved; never below the truth.",
        g.horizon_ns / 1e9,
    )
    page.family(
        "gauge",
        "dynamo_anti_entropy_lag_seconds",
        "Since the last complete exchange with the peer began, of the token range furthest behind.",
    )
    for peer, lag_ns in sorted(g.lags_ns.items()):
        page.sample("dynamo_anti_entropy_lag_seconds", lag_ns / 1e9, [("peer", peer)])
    page.counter(
        "dynamo_anti_entropy_exchange_bytes_total",
        "Bytes of anti-entropy sent to peers, repairs included.",
        g.exchange_bytes,
    )
    page.gauge(
        "dynamo_merkle_tree_build_seconds",
        "Duration of the last build of a Merkle tree.",
        g.tree_build_ns / 1e9,
    )


def _handoff(page: _Page, m: Metrics, g: Gauges) -> None:
    page.family("gauge", "dynamo_hinted_handoff_pending", "Durable hints waiting for their home replica.")
    for target, count in sorted(g.hints_pending.items()):
        page.sample("dynamo_hinted_handoff_pending", count, [("target", target)])
    page.counter("dynamo_hints_stored_total", "Hints made durable for another node.", m.hints_stored)
    page.counter(
        "dynamo_hints_delivered_total", "Hints that their home replica acknowledged.", m.hints_delivered
    )


def _replica(page: _Page, m: Metrics, g: Gauges) -> None:
    page.gauge("dynamo_keys", "Keys held here, tombstones included.", g.keys)
    page.counter("dynamo_replica_writes_total", "Records received as a replica.", m.replica_writes)
    page.counter("dynamo_replica_reads_total", "Records read as a replica.", m.replica_reads)
    page.gauge("dynamo_log_bytes", "Size of the log.", m.log_bytes)
    page.counter("dynamo_fsyncs_total", "Synchronisations of the log.", m.fsyncs)
    page.counter("dynamo_fsync_records_total", "Records made durable by them.", m.fsync_records)
    page.counter("dynamo_bad_records_total", "Damaged records skipped at start.", m.bad_records)


def _deletes(page: _Page, m: Metrics, g: Gauges) -> None:
    page.gauge("dynamo_tombstones", "Keys of which only tombstones are held, at the last look.", g.tombstones)
    page.counter("dynamo_reaped_total", "Keys forgotten after all nodes had agreed to it.", m.reaped)
    page.gauge(
        "dynamo_reap_stalled_seconds",
        "How long nothing could be reaped though something was due.",
        g.reap_stalled_ns / 1e9,
    )
    page.counter("dynamo_expired_total", "Expired values replaced by tombstones.", m.expired)
    page.counter(
        "dynamo_stale_writes_refused_total",
        "Writes from peers that a reap had overtaken.",
        m.stale_writes_refused,
    )


def _peers(page: _Page, m: Metrics, g: Gauges) -> None:
    page.gauge("dynamo_peers", "Other nodes of the ring.", g.peers)
    page.gauge("dynamo_peers_up", "Those that this node believes to be up.", g.peers_up)
    page.counter("dynamo_suspicions_total", "Times that a peer began to be suspected.", m.suspicions)
    page.counter(
        "dynamo_frames_dropped_total", "Frames dropped: peer unreachable or queue full.", m.frames_dropped
    )
    page.counter("dynamo_bad_frames_total", "Frames and greetings not understood.", m.bad_frames)
    page.counter("dynamo_peer_bytes_sent_total", "Bytes handed to peers' connections.", m.bytes_sent)
    page.counter(
        "dynamo_peer_connections_lost_total", "Connections to or from peers that broke.", m.connections_lost
    )


def expose(metrics: Metrics, gauges: Gauges) -> bytes:
    """The node's `/metrics` page."""
    page = _Page()
    _requests(page, metrics)
    _convergence(page, metrics, gauges)
    _handoff(page, metrics, gauges)
    _replica(page, metrics, gauges)
    _deletes(page, metrics, gauges)
    _peers(page, metrics, gauges)
    page.gauge("dynamo_http_connections", "Clients connected now.", metrics.http_connections)
    page.counter(
        "dynamo_http_refused_total",
        "Connections and requests refused for being too many.",
        metrics.http_connections_refused + metrics.http_requests_shed,
    )
    page.counter("dynamo_http_bad_requests_total", "HTTP requests not understood.", metrics.http_bad_requests)
    page.gauge("dynamo_uptime_seconds", "Seconds since this node began to serve.", gauges.uptime_ns / 1e9)
    return page.encoded()
