"""Timers that are nearly always called off: each costs an append to a queue of its delay, not a place in the loop's heap."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic_ns
from typing import Any


class Timer:
    """A callback that can be called off before it is due."""

    __slots__ = ("args", "callback", "due_ns")

    def __init__(self, due_ns: int, callback: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.due_ns = due_ns
        self.callback: Callable[..., None] | None = callback
        self.args = args

    def cancel(self) -> None:
        self.callback = None
        self.args = ()


class Timers:
    """Timers of one delay fall due in the order in which they were set: the loop has to know of the first one only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queues: dict[int, deque[Timer]] = {}

    def call_later(self, delay_ns: int, callback: Callable[..., None], *args: Any) -> Timer:
        timer = Timer(monotonic_ns() + delay_ns, callback, args)
        queue = self._queues.get(delay_ns)
        if queue is None:
            queue = self._queues[delay_ns] = deque()
            self._loop.call_later(delay_ns / 1e9, self._fire, delay_ns)
        while queue and queue[0].callback is None:
            queue.popleft()
        queue.append(timer)
        return timer

    def _fire(self, delay_ns: int) -> None:
        queue = self._queues[delay_ns]
        now = monotonic_ns()
        while queue and (queue[0].callback is None or queue[0].due_ns <= now):
            timer = queue.popleft()
            if timer.callback is not None:
                self._loop.call_soon(timer.callback, *timer.args)
        if queue:
            self._loop.call_later((queue[0].due_ns - now) / 1e9, self._fire, delay_ns)
        else:
            del self._queues[delay_ns]
