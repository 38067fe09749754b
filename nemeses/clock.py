"""Wall clocks that tell different times."""

from __future__ import annotations

from nemeses.draw import Draw, between, shuffled
from nemeses.fault import Skew

SKEW_MS_MIN = 50
SKEW_MS_MAX = 120_000


def skew(nodes: tuple[str, ...], draw: Draw, number: int) -> Skew:
    """Some nodes jump by 50 ms to two minutes, forward or back; small and large offsets are equally likely."""
    count = between(1, max(1, len(nodes) - 1), draw, "skew-count", number)
    offsets: dict[str, int] = {}
    for node in sorted(shuffled(nodes, draw, "skew-nodes", number)[:count]):
        doublings = between(0, 11, draw, "skew-size", number, node)
        size_ms = min(SKEW_MS_MAX, SKEW_MS_MIN << doublings)
        sign = 1 if draw("skew-sign", number, node) % 2 else -1
        offsets[node] = sign * size_ms * 1_000_000
    return Skew(offsets)
