"""Consistent hashing: which nodes are home to a key, who stands in for them, and how that changes.

Q token ranges of equal size, each placed on one node after another (DeCandia et al. 2007, section 6.2, strategy 3): the
ranges that a node owns are its virtual nodes. A preference list walks the ring from the key's range and takes every
physical node once, also where the walk wraps round. Who owns what is a `State`; a change of it goes through phases, each a
new epoch (store/membership.py, docs/decisions/008-membership.md).
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Literal

import msgspec
from xxhash import xxh3_64_intdigest

Phase = Literal["settled", "joint", "moved", "settling"]
"""settled: no change. joint: writes to old and new homes, reads from the old. moved: writes to both, reads from the new.
settling: the new alone, while what is owned no longer is handed over and forgotten."""


class Change(msgspec.Struct, frozen=True, array_like=True):
    """A change on its way: who comes or goes, and who will own the ranges."""

    kind: Literal["join", "leave", "replace"]
    node: str
    """Who comes; for `leave`, who goes."""
    dead: str
    """For `replace`: whose ranges `node` takes. Nobody waits for it."""
    owners: tuple[str, ...]


class State(msgspec.Struct, frozen=True, array_like=True):
    """What all nodes have to agree about. Each successor of a state follows from it alone, but for the start of a change."""

    epoch: int
    owners: tuple[str, ...]
    """Of each token range, before the change that is in progress."""
    members: dict[str, str]
    """Who takes part, with the addresses of their peer listeners: who is leaving still does, who is replaced does not."""
    phase: Phase = "settled"
    change: Change | None = None
    replaced: tuple[str, ...] = ()
    """Whose place others have ever taken. Their disks may hold what the ring has agreed to forget: none of them comes back."""

    @property
    def owners_next(self) -> tuple[str, ...]:
        return self.change.owners if self.change else self.owners

    @property
    def leaver(self) -> str:
        return self.change.node if self.change and self.change.kind == "leave" else ""

    @property
    def dead(self) -> str:
        return self.change.dead if self.change else ""

    def lasting(self) -> tuple[str, ...]:
        """The members that stay when the change is over."""
        return tuple(m for m in self.members if m != self.leaver)


encode = msgspec.msgpack.Encoder(order="deterministic").encode
decode = msgspec.msgpack.Decoder(State).decode
"""Raises msgspec.DecodeError for anything that is no State."""


def version_of(state: State) -> int:
    """Epoch and content as one number: a larger one is newer, and of two that were made at once one is the larger.

    The first ring follows from the configuration, not from an agreement; it is version 0 however it looks.
    """
    return state.epoch << 32 | zlib.crc32(encode(state)) if state.epoch else 0


EPOCH_MAX = 1 << 28
"""No ring has changed so often; what is above would not fit into frames as a version."""


def is_sound(state: State) -> bool:
    """Whether a ring could be in this state: who adopts one that no ring is in would keep it, and pass it on."""
    lasting, members = set(state.lasting()), set(state.members)
    return (
        0 <= state.epoch < EPOCH_MAX
        and (state.change is None) == (state.phase == "settled")
        and set(state.owners) <= (members | {state.dead} if state.dead else members)
        and set(state.owners_next) <= lasting
        and len(state.owners_next) == len(state.owners)
    )


def advanced(state: State) -> State:
    """The next phase of a change; every node that makes this step makes the same one."""
    match state.phase:
        case "joint":
            return msgspec.structs.replace(state, epoch=state.epoch + 1, phase="moved")
        case "moved":
            return msgspec.structs.replace(state, epoch=state.epoch + 1, phase="settling")
        case "settling":
            members = {m: state.members[m] for m in sorted(state.lasting())}
            return State(state.epoch + 1, state.owners_next, members, replaced=state.replaced)
        case "settled":
            raise AssertionError("nothing is in progress")


def first_owners(nodes: Iterable[str], token_ranges: int) -> tuple[str, ...]:
    """The first placement: a function of the names alone."""
    names = sorted(nodes)
    owners: list[str] = []
    while len(owners) < token_ranges:
        block = str(len(owners)).encode()
        # A new order in each round gives every node many different neighbours to share its load with.
        owners += sorted(names, key=lambda n: blake2b(n.encode(), key=block, digest_size=8).digest())
    return tuple(owners[:token_ranges])


def owners_with(owners: tuple[str, ...], node: str) -> tuple[str, ...]:
    """`node` takes its share of the ranges, one after another from whoever has most; no other range moves."""
    ranges = list(owners)
    share = len(ranges) // (len(set(ranges)) + 1)
    for _ in range(share):
        loads = Counter(owner for owner in ranges if owner != node)
        most = max(loads.values())
        rich = [i for i, owner in enumerate(ranges) if owner != node and loads[owner] == most]
        # Far from each other: neighbours of the same owner are one place in a preference list, not two.
        ranges[max(rich, key=lambda i: (_distance(ranges, i, node), -i))] = node
    return tuple(ranges)


def owners_without(owners: tuple[str, ...], node: str) -> tuple[str, ...]:
    """Each range of `node` goes to whoever has fewest, far from what that one has already; no other range moves."""
    ranges = list(owners)
    for i, owner in enumerate(owners):
        if owner == node:
            loads = Counter(other for other in ranges if other != node)
            least = min(loads.values())
            poor = sorted(other for other in loads if loads[other] == least)
            ranges[i] = max(poor, key=lambda other: _distance(ranges, i, other))
    return tuple(ranges)


def owners_replaced(owners: tuple[str, ...], dead: str, node: str) -> tuple[str, ...]:
    return tuple(node if owner == dead else owner for owner in owners)


def _distance(ranges: list[str], i: int, node: str) -> int:
    """Steps round the ring from range `i` to the nearest other one of `node`."""
    q = len(ranges)
    return min((min((i - j) % q, (j - i) % q) for j in range(q) if j != i and ranges[j] == node), default=q)


token = xxh3_64_intdigest
"""A key's place on the ring: 64 bits, of which the highest choose the token range and the next the Merkle leaf."""


class Ring:
    """The placement of `token_ranges` ranges, as this node knows it now. It begins with the same on every node that was told
    the same names, and follows the states that it is given.

    >>> ring = Ring(["n1", "n2", "n3", "n4", "n5"], token_ranges=32)
    >>> len(set(ring.order(31))), sorted(ring.order(31))[0]
    (5, 'n1')
    """

    def __init__(
        self, nodes: Iterable[str], token_ranges: int, addresses: Mapping[str, str] | None = None
    ) -> None:
        self.token_ranges = token_ranges
        members = {name: (addresses or {}).get(name, "") for name in sorted(nodes)}
        self.version = 0
        self.previous = 0
        """Of the state before: nodes that are one phase apart get on with each other."""
        self._show(State(0, first_owners(members, token_ranges), members))

    def adopt(self, state: State) -> bool:
        """Takes over a state if it is newer than the one known; whether it was."""
        version = version_of(state)
        if version <= self.version:
            return False
        self.previous, self.version = self.version, version
        self._show(state)
        return True

    def _show(self, state: State) -> None:
        self.state = state
        self.epoch = state.epoch
        self.nodes = tuple(sorted(state.members))
        """Who takes part now."""
        stay = state.lasting()
        old = _walks(state.owners, stay)
        new = _walks(state.owners_next, stay) if state.change else old
        self._orders = old if state.phase == "joint" else new
        self._both = (old, new) if state.phase in ("joint", "moved") else None
        self._new = new

    def range_of(self, key: bytes) -> int:
        """Number of the token range that holds the key."""
        return token(key) * self.token_ranges >> 64

    def order(self, token_range: int) -> tuple[str, ...]:
        """Every node, in the order of preference: the first N are home replicas and are read, the rest are fallbacks."""
        return self._orders[token_range]

    def preference(self, key: bytes) -> tuple[str, ...]:
        return self._orders[self.range_of(key)]

    def joint(self, token_range: int, n: int) -> tuple[tuple[str, ...], ...]:
        """While the range moves: its old and its new home replicas, each of which a write has to satisfy. Empty otherwise."""
        if self._both is None:
            return ()
        old, new = (walks[token_range][:n] for walks in self._both)
        return (old, new) if set(old) != set(new) else ()

    def holders(self, token_range: int, n: int) -> tuple[str, ...]:
        """Every node that has to hold the range now: its home replicas, while it moves the old and the new ones."""
        groups = self.joint(token_range, n) or (self._orders[token_range][:n],)
        return tuple(dict.fromkeys(node for group in groups for node in group))

    def heirs(self, token_range: int, n: int) -> tuple[str, ...]:
        """The home replicas when the change in progress is over."""
        return self._new[token_range][:n]


def _walks(owners: tuple[str, ...], others: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """The order of preference of every range: its owner and those that follow, each once, and at the end who owns nothing."""
    q = len(owners)
    ends = tuple(others)
    twice = owners + owners
    return tuple(tuple(dict.fromkeys([*twice[i : i + q], *ends])) for i in range(q))
