"""What nodes say to each other: one closed union, encoded as msgpack arrays. Replies carry their request's id.

Most hold nothing that could refer back to them, and so need not be known to the garbage collector (`gc=False`).
"""

from __future__ import annotations

from typing import Annotated

import msgspec

Round = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
"""A round of a token range (store/rounds.py)."""
Beat = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
"""A generation, or a heartbeat: more than can have been, and room for whoever has to outdo it."""
Index = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]


class Write(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """Join this record into yours, durably, then answer. With `hint_for`: keep it for that home replica instead.

    `round`: the sender's round of the key's token range (store/rounds.py).
    """

    id: int
    key: bytes
    record: bytes
    hint_for: str
    round: Round
    ring: Round = 0
    """Version of the ring that the sender goes by (store/ring.py)."""


class WriteDone(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    id: int


class Read(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    id: int
    key: bytes
    round: Round
    ring: Round = 0


class ReadDone(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    """The encoded record; empty when the node holds nothing for the key."""

    id: int
    record: bytes


class Forward(msgspec.Struct, frozen=True, array_like=True, tag=5, gc=False):
    """A client's whole HTTP request, for a home replica to coordinate. `operation` makes a repetition harmless."""

    id: int
    operation: int
    request: bytes


class ForwardDone(msgspec.Struct, frozen=True, array_like=True, tag=6, gc=False):
    id: int
    response: bytes


class Gossip(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Each node's (generation, heartbeat) as the sender knows it. `answer`: please tell me yours."""

    heartbeats: dict[str, tuple[Beat, Beat]]
    answer: bool
    ring: Round = 0
    """Version of the ring that the sender knows."""


class RingState(msgspec.Struct, frozen=True, array_like=True, tag=30, gc=False):
    """The ring as the sender knows it (store/ring.py): adopt it if it is newer than yours."""

    state: bytes


class RingProgress(msgspec.Struct, frozen=True, array_like=True, tag=31, gc=False):
    """The sender has this version of the ring durably, and has done its part of that phase, or waits for something."""

    version: Round
    done: bool
    waits: str


class RingAsk(msgspec.Struct, frozen=True, array_like=True, tag=32, gc=False):
    """Tell me of your ring: it is newer than mine."""


class RingJoin(msgspec.Struct, frozen=True, array_like=True, tag=33, gc=False):
    """Take me in; this is the address of my peer listener."""

    address: str


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=50, gc=False):
    """Are you there? Asked before something is handed over that must be handed over once only."""

    id: int


class Pong(msgspec.Struct, frozen=True, array_like=True, tag=51, gc=False):
    id: int


class Age(msgspec.Struct, frozen=True, array_like=True, tag=55, gc=False):
    """A consistency horizon (store/horizon.py). `life` 0: the sender's own. Else that life of the sender asks, with an age of
    -1, what is remembered of an earlier one; the answer bears the same `life`."""

    age_ns: Annotated[int, msgspec.Meta(ge=-1, lt=1 << 62)]
    life: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]


class Roots(msgspec.Struct, frozen=True, array_like=True, tag=20, gc=False):
    """These are my trees' roots of these token ranges, 8 bytes each: which differ from yours?"""

    id: int
    version: int
    """Of the hashes (store/merkle.py)."""
    ranges: tuple[int, ...]
    roots: bytes


class RootsDone(msgspec.Struct, frozen=True, array_like=True, tag=21, gc=False):
    """(token range, depth of the tree, keys) where roots differ. `busy`: ranges whose tree is not built yet."""

    id: int
    version: int
    differing: tuple[tuple[int, int, int], ...] = ()
    busy: tuple[int, ...] = ()


class Compare(msgspec.Struct, frozen=True, array_like=True, tag=22, gc=False):
    """Of these nodes at `depth` the descendants `bits` below hash to these at mine: which differ from yours?

    `nodes` ascend, packed as gaps; of each hash the three bytes from bit `shift` on are given (store/wire.py).
    """

    id: int
    version: int
    token_range: int
    depth: int
    bits: int
    shift: int
    nodes: bytes
    hashes: bytes


class CompareDone(msgspec.Struct, frozen=True, array_like=True, tag=23, gc=False):
    """One bit for each hash, set where it differs; None if the question does not fit the tree here."""

    id: int
    differing: bytes | None


class Entries(msgspec.Struct, frozen=True, array_like=True, tag=24, gc=False):
    """In these nodes I hold entries with these digests (4 bytes of the hash from bit `shift` on, `counts` for each node)."""

    id: int
    version: int
    token_range: int
    depth: int
    shift: int
    nodes: bytes
    counts: bytes
    digests: bytes
    round: Round


class More(msgspec.Struct, frozen=True, array_like=True, tag=25, gc=False):
    """Go on with the entries that you began to send as the answer to `session`."""

    id: int
    session: int


class EntriesDone(msgspec.Struct, frozen=True, array_like=True, tag=26, gc=False):
    """`wanted`: one bit for each digest that the answerer lacks. `items`: (key, record) of what the asker lacks, of which
    `left` are still to come; -1: this cannot be answered."""

    id: int
    wanted: bytes
    items: tuple[tuple[bytes, bytes], ...]
    left: int
    round: Round = 0


class Repair(msgspec.Struct, frozen=True, array_like=True, tag=27, gc=False):
    """Join these (key, record) of one token range into yours, durably, then answer."""

    id: int
    items: tuple[tuple[bytes, bytes], ...]
    round: Round


class RepairDone(msgspec.Struct, frozen=True, array_like=True, tag=28, gc=False):
    """`round`: if not 0, the repair was made in an earlier round than this, and was refused."""

    id: int
    round: Round = 0


ExchangeRequest = Roots | Compare | Entries | More | Repair
ExchangeReply = RootsDone | CompareDone | EntriesDone | RepairDone
RingMessage = RingState | RingProgress | RingAsk | RingJoin


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=40, gc=False):
    """A Write that was made in an earlier round than the refuser's, as it came, and that round."""

    id: int
    key: bytes
    record: bytes
    hint_for: str
    round: Round
    ring: Round = 0


class ReapAsk(msgspec.Struct, frozen=True, array_like=True, tag=41):
    """Enter this round of the token range, durably: of which of these (key, record) do you hold nothing else, and have
    nothing outstanding? `ring`: the version of the ring whose nodes are asked."""

    id: int
    token_range: Index
    round: Round
    entries: tuple[tuple[bytes, bytes], ...]
    ring: int


class ReapAnswer(msgspec.Struct, frozen=True, array_like=True, tag=42):
    """The numbers of the entries that nothing speaks against here. `round`: where the answerer now is."""

    id: int
    round: Round
    agreed: tuple[Index, ...]


class Reap(msgspec.Struct, frozen=True, array_like=True, tag=43):
    """Everybody has agreed in this round: forget each of these keys, if you hold exactly this record of it."""

    token_range: Index
    round: Round
    entries: tuple[tuple[bytes, bytes], ...]


Message = (
    Write
    | WriteDone
    | Read
    | ReadDone
    | Forward
    | ForwardDone
    | Gossip
    | Ping
    | Pong
    | Age
    | RingMessage
    | ExchangeRequest
    | ExchangeReply
    | Refused
    | ReapAsk
    | ReapAnswer
    | Reap
)

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Message).decode
"""Raises msgspec.DecodeError for anything that is not a Message."""
