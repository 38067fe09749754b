"""A node's configuration: one frozen record, read from JSON, the same in every world."""

from __future__ import annotations

from typing import Literal

import msgspec

from store.merkle import HASH_VERSION

NAME_MAX = 64
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
NAME_RULE = f"letters, digits, `.`, `_` and `-`, at most {NAME_MAX} of them"


def is_name(text: str) -> bool:
    """Whether a node may be called so."""
    return 0 < len(text) <= NAME_MAX and _NAME_CHARACTERS.issuperset(text)


Mode = Literal["siblings", "lww"]
ReadRepair = Literal["blocking", "async", "off"]


class Bucket(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one bucket has otherwise than the rest; None: as the node's configuration says. N is the same for all."""

    mode: Mode | None = None
    r: int | None = None
    w: int | None = None
    pr: int | None = None
    pw: int | None = None
    read_repair: ReadRepair | None = None
    ttl_seconds: int | None = None


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a node is told at its start. Times are milliseconds; sizes are bytes."""

    node: str
    peers: dict[str, str]
    """Nodes that this one knows, itself included: name -> `host:port` of the peer listener (unused in the simulator)."""
    members: tuple[str, ...] = ()
    """Those of `peers` that form the first ring; empty: all of them. Later rings are agreed upon, and kept on disk."""
    join: bool = False
    """Whether to ask the ring that the other `peers` belong to, until it takes this node in."""
    host: str = "0.0.0.0"
    http_port: int = 8000
    peer_port: int = 8001
    directory: str = "/var/lib/sunder"

    token_ranges: int = 32
    """Q: the fixed number of token ranges (DeCandia et al. 2007, section 6.2, strategy 3)."""
    n: int = 3
    r: int = 2
    w: int = 2
    pr: int = 0
    """Home replicas among the R that must really have answered; 0: any responders do."""
    pw: int = 0
    mode: Mode = "siblings"
    """How concurrent writes are resolved."""
    buckets: dict[str, Bucket] = {}
    """Buckets that differ, by name."""

    sloppy: bool = True
    hinted_handoff: bool = True
    read_repair: ReadRepair = "blocking"

    request_timeout_ms: int = 1_000
    """How long a coordinator waits for its quorum before it answers 503."""
    replica_timeout_ms: int = 250
    """How long a coordinator waits for one replica before it turns to a fallback."""
    gossip_interval_ms: int = 1_000
    suspect_after_ms: int = 2_500
    """A peer that was not heard of for so long is routed around, never forgotten."""
    hint_retry_ms: int = 500
    hint_retry_max_ms: int = 4_000
    hints_per_second: int = 2_000

    horizon_mark_ms: int = 10_000
    """How often the horizon is written to the log and told to peers, so that it outlives this node."""
    ttl_seconds: int = 0
    """How long a value lives that is written without saying so; 0: until it is replaced."""
    reap_after_ms: int = 3_600_000
    """How old a tombstone has to be, by the wall clock, until it may be forgotten. It decides how long deleted keys take up
    room, not whether they can come back."""
    reap_interval_ms: int = 300_000
    """How often every record is looked at for values that have expired and tombstones that are old."""
    reap_batch: int = 1_000
    """Keys that all nodes are asked about at once."""

    anti_entropy: bool = True
    """Whether this node compares its hash trees with other home replicas', and repairs what differs. It answers always."""
    anti_entropy_interval_ms: int = 5_000
    anti_entropy_bytes_per_second: int = 16 << 20
    anti_entropy_rebuild_ms: int = 3_600_000
    """How often the disk is read back, to find and mend what has silently gone bad there."""
    hash_version: int = HASH_VERSION
    """How this node hashes its trees. Nodes of different versions do not compare; hints and read repair go on. Raise it on one
    node after the other."""

    clock_entries_max: int = 10
    siblings_warn: int = 25
    siblings_max: int = 100
    value_bytes_max: int = 1 << 20
    siblings_bytes_max: int = 4 << 20
    """What the siblings that a write leaves may hold together: with room for the writes of others at the same time, a
    record fits into a frame."""
    frame_bytes_max: int = 32 << 20
    http_connections_max: int = 4_096
    """Clients connected at a time; one more is answered 503 and hung up on."""
    requests_in_flight_max: int = 16_384
    """Requests of all clients; one more is answered 503 at once."""
    log_segment_bytes: int = 16 << 20
    """A segment of the log that has grown so far is sealed, and a new one begun."""
    log_idle_ms: int = 1_000
    """After so long without a write the log gets a closing mark."""
    log_merge_bytes_per_second: int = 8 << 20
    """How fast merges and readings of the whole disk go."""
    secret: str = ""
    """Shared secret for peer and admin ports; empty: none asked."""
