"""How the report words values, times and counts: short, exact enough, the same everywhere."""

from __future__ import annotations

from typing import Any

import msgspec

ELLIPSIS = "…"


def json(value: Any, limit: int = 240) -> str:
    """The value as compact JSON, cut off after `limit` characters.

    >>> json([1, 2, "a"]), json("x" * 20, limit=8)
    ('[1,2,"a"]', '"xxxxxx…')
    """
    try:
        written = msgspec.json.encode(value, enc_hook=repr).decode()
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError):
        # Foreign histories may hold values that JSON has no form for, such as maps keyed by lists.
        written = repr(value)
    return cut(written, limit)


def cut(written: str, limit: int) -> str:
    return written if len(written) <= limit else written[: limit - 1] + ELLIPSIS


def plain(value: Any, limit: int = 240) -> str:
    """A value as people write it: strings without quotes, lists with spaces, the rest as JSON."""
    if isinstance(value, str):
        return cut(value, limit)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        written = ", ".join(plain(v, limit) for v in value[: limit // 2])  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  any JSON
        return cut(written, limit)
    return json(value, limit)


def seconds(ns: float) -> str:
    """A moment of the run.

    >>> seconds(12_345_678_900)
    '12.346 s'
    """
    return f"{ns / 1e9:.3f} s"


def duration(ns: float) -> str:
    """A stretch of time in the unit that suits it.

    >>> [duration(ns) for ns in (900, 45_600, 3_210_000, 1_500_000_000, 65_000_000_000)]
    ['0.9 µs', '46 µs', '3.21 ms', '1.5 s', '65 s']
    """
    unit, size = next(((u, s) for u, s in (("s", 1e9), ("ms", 1e6)) if abs(ns) >= s), ("µs", 1e3))
    amount = ns / size
    return f"{amount:.0f} {unit}" if abs(amount) >= 20 else f"{amount:.3g} {unit}"


def count(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun.

    >>> count(1, "fault"), count(12_000, "fault"), count(0, "inquiry", "inquiries")
    ('1 fault', '12,000 faults', '0 inquiries')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
