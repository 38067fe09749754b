"""Draws keyed by identity: the same question gives the same answer, whatever else was drawn before."""

from __future__ import annotations

from collections.abc import Callable

Draw = Callable[..., int]
"""draw(what, *identity) -> 64 random bits, the same for the same arguments in the same run."""


def shuffled(items: tuple[str, ...], draw: Draw, *identity: object) -> tuple[str, ...]:
    """The items in an order drawn under this identity."""
    return tuple(sorted(items, key=lambda item: (draw(*identity, item), item)))


def between(low: int, high: int, draw: Draw, *identity: object) -> int:
    """A whole number from `low` to `high`, both included."""
    return low + draw(*identity) % (high - low + 1)
