"""What two nodes say before they trust a connection, and how frames are cut out of a stream.

A connection between nodes carries frames one way, from the node that dialled it. It begins with a greeting:

    listener: Greeting(version, nonce)    dialler: Hello(version, src, dst, nonce, proof)    listener: Welcome(proof)

Each proof is an HMAC by the shared secret over the other side's nonce, so a stranger can neither speak nor listen, and
an old greeting is worth nothing. It keeps strangers out; it does not encrypt what follows.
"""

from __future__ import annotations

import hmac
import struct

import msgspec

PROTOCOL_VERSION = 1

GREETING_BYTES_MAX = 4_096


class Greeting(msgspec.Struct, frozen=True, array_like=True):
    version: int
    nonce: bytes


class Hello(msgspec.Struct, frozen=True, array_like=True):
    version: int
    src: str
    dst: str
    nonce: bytes
    proof: bytes


class Welcome(msgspec.Struct, frozen=True, array_like=True):
    proof: bytes


def proof_of(secret: str, nonce: bytes, *claims: str) -> bytes:
    if not secret:
        return b""
    return hmac.digest(secret.encode(), msgspec.msgpack.encode([nonce, *claims]), "sha256")


_LENGTH = struct.Struct(">I")
_length_at = _LENGTH.unpack_from
length_of = _LENGTH.pack


class BadFrame(Exception):
    """A peer, or a stranger, sent what this protocol does not know."""


class Frames:
    """Cuts a stream into frames: each a 4-byte big-endian length, then so many bytes."""

    __slots__ = ("_missing", "_parts", "bytes_max")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._parts: list[bytes] = []
        self._missing = 0

    def feed(self, content: bytes) -> list[bytes]:
        """The frames that these bytes complete. Raises BadFrame."""
        if self._parts:
            self._parts.append(content)
            self._missing -= len(content)
            if self._missing > 0:
                return []
            content = b"".join(self._parts)
            self._parts = []
        frames: list[bytes] = []
        start, size, bytes_max = 0, len(content), self.bytes_max
        missing = 0
        while start < size:
            body = start + 4
            if body > size:
                missing = body - size
                break
            (length,) = _length_at(content, start)
            if length > bytes_max:
                raise BadFrame(f"a frame of {length} bytes, at most {bytes_max} are taken")
            end = body + length
            if end > size:
                missing = end - size
                break
            frames.append(content[body:end])
            start = end
        if missing:
            self._parts.append(content[start:])
            self._missing = missing
        return frames


def framed(content: bytes) -> bytes:
    return length_of(len(content)) + content
