"""What workloads store: JSON that begins with the write's globally unique id, so that every answer can be traced."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec


class Body(msgspec.Struct, frozen=True):
    """A body without further content: what the register stores."""

    id: int


encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Body).decode

T = TypeVar("T", bound=Body)


def decode(body: bytes, kind: type[T]) -> T:
    """A stored body. Raises msgspec.DecodeError: a system that returns bytes nobody wrote has failed already."""
    return msgspec.json.decode(body, type=kind)


def ids(bodies: tuple[bytes, ...]) -> list[Any]:
    """The ids of stored bodies, in order."""
    return [_decode(b).id for b in bodies]
