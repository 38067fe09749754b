"""What workloads store: JSON that begins with the write's globally unique id, so that every answer can be traced."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, TypeVar
from zlib import crc32

import msgspec


class Body(msgspec.Struct, frozen=True):
    """A body without further content: what the register stores."""

    id: int


encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Body).decode

T = TypeVar("T", bound=Body)


def readable(bodies: tuple[bytes, ...], kind: type[T]) -> list[T]:
    """The stored bodies, but for those that nobody can have written: checkers learn of these by their ids."""
    found: list[T] = []
    for body in bodies:
        with suppress(msgspec.DecodeError):
            found.append(msgspec.json.decode(body, type=kind))
    return found


def id_of(body: bytes) -> int:
    """The id that a stored body holds. Bytes that nobody can have written get a negative one, which no write has."""
    try:
        return _decode(body).id
    except msgspec.DecodeError:
        return -1 - crc32(body)


def ids(bodies: tuple[bytes, ...]) -> list[Any]:
    """The ids of stored bodies, in order."""
    return [id_of(b) for b in bodies]
