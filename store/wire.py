"""How lists of numbers travel in an exchange of hash trees, as few bytes as they need. Raises ValueError for garbage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

HASH_BYTES = 3
"""Of an inner node: a difference that they hide (one in 16 million) shows in the next exchange, which shows other bytes."""

DIGEST_BYTES = 4
"""Of one entry."""

SHIFTS = (0, 8, 16, 24, 32)
"""Where the shown bytes of a hash may begin."""


def pack_numbers(numbers: Iterable[int]) -> bytes:
    """Seven bits to a byte, the lowest first; the high bit says that more follow.

    >>> pack_numbers([1, 300]).hex(), unpack_numbers(pack_numbers([1, 300]))
    ('01ac02', [1, 300])
    """
    out = bytearray()
    for number in numbers:
        rest = number
        while rest > 127:
            out.append(rest & 127 | 128)
            rest >>= 7
        out.append(rest)
    return bytes(out)


def unpack_numbers(packed: bytes) -> list[int]:
    numbers: list[int] = []
    number = shift = 0
    for byte in packed:
        number |= (byte & 127) << shift
        if byte > 127:
            shift += 7
        else:
            numbers.append(number)
            number = shift = 0
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
    if shift:
        raise ValueError("a number without an end")
    return numbers


def pack_ascending(numbers: Sequence[int]) -> bytes:
    """Ascending numbers as the gaps between them.

    >>> unpack_ascending(pack_ascending([0, 5, 1000]), below=1024)
    [0, 5, 1000]
    """
    last = -1
    gaps: list[int] = []
    for number in numbers:
        gaps.append(number - last - 1)
        last = number
    return pack_numbers(gaps)


def unpack_ascending(packed: bytes, below: int) -> list[int]:
    last = -1
    numbers: list[int] = []
    for gap in unpack_numbers(packed):
        last += gap + 1
        numbers.append(last)
    if last >= below:
        raise ValueError(f"{last} is not below {below}")
    return numbers


def pack_bits(flags: Sequence[bool]) -> bytes:
    """
    >>> unpack_bits(pack_bits([True, False, True]), 3)
    [True, False, True]
    """
    out = bytearray((len(flags) + 7) // 8)
    for i, flag in enumerate(flags):
        if flag:
            out[i >> 3] |= 1 << (i & 7)
    return bytes(out)


def unpack_bits(packed: bytes, count: int) -> list[bool]:
    if len(packed) != (count + 7) // 8:
        raise ValueError(f"{len(packed)} bytes are not {count} bits")
    return [bool(packed[i >> 3] >> (i & 7) & 1) for i in range(count)]


def shown(hash: int, shift: int, size: int) -> bytes:
    """The `size` bytes of a hash from bit `shift` on."""
    return (hash >> shift & (1 << 8 * size) - 1).to_bytes(size, "little")


def pieces(packed: bytes, size: int, count: int) -> list[bytes]:
    if len(packed) != size * count:
        raise ValueError(f"{len(packed)} bytes are not {count} pieces of {size}")
    return [packed[i : i + size] for i in range(0, len(packed), size)]
