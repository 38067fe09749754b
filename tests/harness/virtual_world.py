"""A world without a system under test, for scenes of the interpreter: asyncio's own loop, with time that only jumps."""

from __future__ import annotations

import asyncio
import heapq
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

from harness.world import Support, Transport
from nemeses.fault import Evidence, Fault


class _JumpingSelector(selectors.DefaultSelector):
    """Where the loop would block for lack of work, time jumps instead."""

    jump: Callable[[], None]

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout > 0:
            self.jump()
        return super().select(0)


class VirtualWorld:
    """Integer nanoseconds from 0. `injected` answers faults."""

    name = "virtual"

    def __init__(
        self, nodes: tuple[str, ...] = ("n1", "n2", "n3"), injected: Callable[[Fault], Evidence] | None = None
    ) -> None:
        self.nodes = nodes
        self._injected = injected
        self._now = 0
        self._timers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._set = 0
        self.tasks: list[asyncio.Task[Any]] = []
        self.alive: list[asyncio.Task[Any]] = []
        """Once `run` is over: the tasks that were not."""
        selector = _JumpingSelector()
        selector.jump = self._jump
        self._loop = asyncio.SelectorEventLoop(selector)

    def _jump(self) -> None:
        while self._timers and self._timers[0][2].done():  # cancelled
            heapq.heappop(self._timers)
        assert self._timers, "everything waits for ever"
        self._now = self._timers[0][0]
        while self._timers and self._timers[0][0] <= self._now:
            _, _, future = heapq.heappop(self._timers)
            if not future.done():
                future.set_result(None)

    def now_ns(self) -> int:
        return self._now

    async def sleep(self, delay_ns: int) -> None:
        future = self.future()
        self._set += 1
        heapq.heappush(self._timers, (self._now + delay_ns, self._set, future))
        await future

    def future(self) -> Any:
        return self._loop.create_future()

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> Any:
        task = self._loop.create_task(coroutine, name=name)
        self.tasks.append(task)
        return task

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def transport(self, node: str, *, client: str) -> Transport:
        raise AssertionError("nothing answers here")

    async def inject(self, fault: Fault) -> Evidence:
        assert self._injected is not None, f"no fault was expected: {fault}"
        return self._injected(fault)

    def support(self, family: str) -> Support:
        return Support(family)

    def logs(self) -> dict[str, str]:
        return {}

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        try:
            return self._loop.run_until_complete(main)
        finally:
            self._loop.run_until_complete(self._unwind())
            self._loop.close()

    async def _unwind(self) -> None:
        for _ in range(5):  # what was cancelled last may need a few turns to notice
            await asyncio.sleep(0)
        self.alive = [t for t in self.tasks if not t.done()]
        for task in self.alive:
            task.cancel()
        await asyncio.gather(*self.alive, return_exceptions=True)
