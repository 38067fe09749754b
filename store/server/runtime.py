"""The real Runtime: asyncio behind the facade, and the machine's own clocks."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from store.api import traced
from store.config import Config
from store.server.disk import RealDisk
from store.server.peers import RealNetwork
from store.server.timers import Timers

HALTED = 74
"""The exit status of a node that ended itself (EX_IOERR in sysexits.h: its disk failed)."""


class RealClock:
    """The machine's own clocks."""

    def __init__(self) -> None:
        try:
            self.boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            self.boot = ""  # no Linux: ages are then told by the wall clock, and by peers

    mono_ns = staticmethod(time.monotonic_ns)
    wall_ns = staticmethod(time.time_ns)


class Running:
    """A coroutine on its way: what asyncio's Task does, but for cancellation, context and the registry of all tasks.

    Those cost about as much as a small request, and node code, which never holds a task, cannot use them.
    """

    __slots__ = ("_coroutine", "_ended", "_loop", "_name")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, None],
        ended: Callable[[str, BaseException | None], None],
        name: str,
    ) -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._ended = ended
        self._name = name

    def step(self, _: object = None) -> None:
        """Runs until the coroutine waits for a future again, or ends."""
        try:
            future = self._coroutine.send(None)
        except StopIteration:
            self._ended(self._name, None)
        except Exception as problem:
            self._ended(self._name, problem)
        else:
            if future is None:  # asyncio.sleep(0)
                self._loop.call_soon(self.step)
            else:
                # The protocol between asyncio's futures and whoever drives a coroutine.
                future._asyncio_future_blocking = False
                future.add_done_callback(self.step)


class RealRuntime:
    """One life of one node on this machine: everything ends with the process."""

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        self.node = config.node
        self.clock = RealClock()
        self.disk = RealDisk(config.directory, loop)
        self.disk.claim(config.node)
        self.net = RealNetwork(config, loop, self.log)
        self.future = loop.create_future
        self.call_later = Timers(loop).call_later
        self._loop = loop

    def draw(self, what: str, *identity: object) -> int:
        return int.from_bytes(os.urandom(8), "big")

    def sleep(self, delay_ns: int) -> Awaitable[None]:
        return asyncio.sleep(delay_ns / 1e9)

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> None:
        self._loop.call_soon(Running(self._loop, coroutine, self._ended, name).step)

    def _ended(self, name: str, problem: BaseException | None) -> None:
        if problem is not None:
            self.log(f"bug in {name}: {traced(problem)}")

    def log(self, text: str) -> None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        sys.stderr.write(f"{stamp}.{int(now % 1 * 1000):03d}Z {self.node} {text}\n")
        sys.stderr.flush()

    def halt(self, reason: str) -> None:
        self.log(f"ends itself: {reason}")
        # Not by an exception or an orderly stop: those would go on to write and to answer.
        os._exit(HALTED)
