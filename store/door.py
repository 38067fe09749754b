"""The door for peers' frames: what is no message, or carries what no node writes, is refused before anything acts on it."""

from __future__ import annotations

from collections.abc import Container

import msgspec

from store import messages, versions
from store.api import KEY_BYTES_MAX, Request
from store.messages import (
    EntriesDone,
    Forward,
    Message,
    Read,
    ReadDone,
    Reap,
    ReapAsk,
    Refused,
    Repair,
    Write,
    WriteDone,
)
from store.runtime import BadMessage
from store.versions import BadRecord

_decode_request = msgspec.msgpack.Decoder(Request).decode


def opened(frame: bytes, members: Container[str]) -> Message:
    """The message in a frame, its key and record such as a node of this ring would send. Raises BadMessage."""
    try:
        message: Message = messages.decode(frame)
        match message:
            case Write():
                _key(message.key)
                versions.check(message.record)
                if message.hint_for and message.hint_for not in members:
                    raise BadMessage(f"a hint for {message.hint_for!r}, which is no member")
            case Read() | WriteDone():
                pass  # the most frequent of all; who reads no key gets no record
            case ReadDone():
                if message.record:
                    versions.check(message.record)
            case Repair() | EntriesDone():
                for key, record in message.items:
                    _key(key)
                    versions.check(record)
            case ReapAsk() | Reap():
                for key, record in message.entries:
                    _key(key)
                    versions.check(record)
            case Refused():
                _key(message.key)
                versions.check(message.record)
            case _:
                pass
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise BadMessage(f"no message: {problem}") from None
    except BadRecord as problem:
        raise BadMessage(f"no record: {problem}") from None
    return message


def forwarded(message: Forward) -> Request:
    """The client's request that another node passed on: a write of a key, nothing else. Raises BadMessage."""
    try:
        request = _decode_request(message.request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise BadMessage(f"no forwarded request: {problem}") from None
    if request.method == "GET" or not request.path.startswith("/kv/"):
        raise BadMessage(
            f"a forwarded {request.method} of {request.path[:80]!r}: only writes of keys are forwarded"
        )
    return request


def _key(key: bytes) -> None:
    bucket, slash, name = key.partition(b"/")
    if not (bucket and slash and name) or len(key) > KEY_BYTES_MAX or not bucket.isascii():
        raise BadMessage(f"no key: {key[:80]!r}")
