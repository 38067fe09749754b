"""What nodes say to each other: one closed union, encoded as msgpack arrays. Replies carry their request's id.

Most hold nothing that could refer back to them, and so need not be known to the garbage collector (`gc=False`).
"""

from __future__ import annotations

import msgspec


class Write(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """Join this record into yours, durably, then answer. With `hint_for`: keep it for that home replica instead."""

    id: int
    key: bytes
    record: bytes
    hint_for: str = ""


class WriteDone(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    id: int


class Read(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    id: int
    key: bytes


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

    heartbeats: dict[str, tuple[int, int]]
    answer: bool


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=50, gc=False):
    """Are you there? Asked before something is handed over that must be handed over once only."""

    id: int


class Pong(msgspec.Struct, frozen=True, array_like=True, tag=51, gc=False):
    id: int


class Age(msgspec.Struct, frozen=True, array_like=True, tag=55, gc=False):
    """A consistency horizon (store/horizon.py). `life` 0: the sender's own. Else that life of the sender asks, with an age of
    -1, what is remembered of an earlier one; the answer bears the same `life`."""

    age_ns: int
    life: int


Message = Write | WriteDone | Read | ReadDone | Forward | ForwardDone | Gossip | Ping | Pong | Age

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Message).decode
"""Raises msgspec.DecodeError for anything that is not a Message."""
