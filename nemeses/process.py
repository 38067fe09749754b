"""Processes killed, paused, and cut off from power."""

from __future__ import annotations

from nemeses.draw import Draw, shuffled
from nemeses.fault import Kill, Pause, PowerLoss


def some(nodes: tuple[str, ...], draw: Draw, what: str, number: int, *, all_too: bool) -> tuple[str, ...]:
    """One node most of the time, sometimes a minority, now and then all of them."""
    choice = draw(what + "-count", number) % 8
    minority = max(1, (len(nodes) - 1) // 2)
    count = 1 if choice < 4 else minority if choice < 7 or not all_too else len(nodes)
    return tuple(sorted(shuffled(nodes, draw, what + "-nodes", number)[:count]))


def kill(nodes: tuple[str, ...], draw: Draw, number: int) -> Kill:
    return Kill(some(nodes, draw, "kill", number, all_too=True))


def pause(nodes: tuple[str, ...], draw: Draw, number: int) -> Pause:
    return Pause(some(nodes, draw, "pause", number, all_too=False))


def power_loss(nodes: tuple[str, ...], draw: Draw, number: int) -> PowerLoss:
    """Every second one takes all nodes at once: a rack, where only what was synced is left anywhere."""
    if draw("power-all", number) % 2:
        return PowerLoss(nodes)
    return PowerLoss(some(nodes, draw, "power", number, all_too=False))
