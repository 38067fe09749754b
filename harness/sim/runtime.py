"""store.runtime.Runtime in simulated time: what one life of one node may touch, and the machine that outlives it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Coroutine
from heapq import heappush
from typing import Any

from harness.sim.disk import Platter, SimDisk
from harness.sim.draws import Draws
from harness.sim.future import Future, Tasks
from harness.sim.loop import Gate, Handle, SimLoop
from harness.sim.network import Network, SimNet
from harness.sim.trace import Trace
from store.runtime import BadMessage

EPOCH_NS = 1_767_225_600_000_000_000
"""2026-01-01T00:00:00Z: what true clocks tell when a simulation begins."""

TIMER_NS_MIN = 1_000
"""No timer fires sooner: a node that sleeps for no time in a circle must not stop the clock."""


class Machine:
    """What of a node outlives its process: disk, wall clock, log."""

    def __init__(self, node: str, loop: SimLoop, draws: Draws) -> None:
        self.node = node
        self.platter = Platter(node, draws)
        self.offset_ns = 0
        """How far the wall clock is off."""
        self.skewed_readings = 0
        """How often it was read while it was off."""
        self.booted_ns = -draws.below(10 * 86_400_000_000_000, "uptime", node)
        """Nodes were switched on at different times, so their monotonic clocks differ; a power loss starts one anew."""
        self.lives = 0
        self.snapshot: dict[str, bytes] | None = None
        """A copy of the disk, for a rollback."""
        self.lines: list[tuple[int, str]] = []
        self._loop = loop

    def log(self, text: str) -> None:
        self.lines.append((self._loop.now_ns, text))

    def wall_ns(self) -> int:
        return EPOCH_NS + self._loop.now_ns + self.offset_ns


class SimClock:
    """The clocks of one life (store.runtime.Clock)."""

    __slots__ = ("_booted_ns", "_loop", "_machine")

    def __init__(self, loop: SimLoop, machine: Machine) -> None:
        self._loop = loop
        self._machine = machine
        self._booted_ns = machine.booted_ns

    @property
    def boot(self) -> str:
        return str(self._booted_ns)

    def mono_ns(self) -> int:
        return self._loop.now_ns - self._booted_ns

    def wall_ns(self) -> int:
        offset_ns = self._machine.offset_ns
        if offset_ns:
            self._machine.skewed_readings += 1
        return EPOCH_NS + self._loop.now_ns + offset_ns


class SimRuntime:
    """One life of one node. Its gate says whether anything still reaches it; what it began is parked when it dies."""

    __slots__ = (
        "_draws",
        "_heap",
        "_loop",
        "_machine",
        "_ready",
        "_sequence",
        "clock",
        "disk",
        "ended",
        "gate",
        "net",
        "node",
        "number",
        "tasks",
    )

    def __init__(
        self, loop: SimLoop, machine: Machine, network: Network, seed: int, trace: Trace, number: int
    ) -> None:
        self.node = machine.node
        self.number = number
        """Which life of the node this is."""
        self.gate = Gate(self._callback_failed)
        self.ended: Callable[[SimRuntime], None] = lambda life: None
        """Told, an instant later, that this life has ended itself."""
        self.clock = SimClock(loop, machine)
        self.net = SimNet(loop, network, machine.node, self.gate, trace)
        self.disk = SimDisk(loop, self.gate, machine.platter, trace)
        self.tasks = Tasks(loop.ready, self._task_failed)
        self._loop = loop
        self._machine = machine
        self._draws = Draws(seed, "node", machine.node)
        self._ready = loop.ready
        self._heap = loop.heap
        self._sequence = loop.sequence

    def draw(self, what: str, *identity: object) -> int:
        # With the life: what must never be drawn twice (ids above all) would be, on a disk that was wiped.
        return self._draws(what, self.number, *identity)

    def future(self) -> Future:
        return Future(self._ready, self.gate.failed)

    def call_later(self, delay_ns: int, callback: Callable[..., None], *args: Any) -> Handle:
        if delay_ns < TIMER_NS_MIN:  # noqa: PLR1730 # max() costs a call in the hot path
            delay_ns = TIMER_NS_MIN
        when_ns = self._loop.now_ns + delay_ns
        handle = Handle(when_ns, callback, args)
        heappush(self._heap, (when_ns, self._sequence(), handle, None, self.gate))
        return handle

    def sleep(self, delay_ns: int) -> Future:
        if delay_ns < TIMER_NS_MIN:  # noqa: PLR1730 # max() costs a call in the hot path
            delay_ns = TIMER_NS_MIN
        done = Future(self._ready, self.gate.failed)
        heappush(self._heap, (self._loop.now_ns + delay_ns, self._sequence(), done.set_result, (), self.gate))
        return done

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> None:
        if self.gate.shut:
            coroutine.close()
        else:
            self.tasks.spawn(coroutine, name)

    def log(self, text: str) -> None:
        if not self.gate.shut:
            self._machine.log(text)

    def halt(self, reason: str) -> None:
        if self.gate.shut:
            return
        self.log(f"ends itself: {reason}")
        self.gate.open = False
        self.gate.shut = True
        # Not from within: the dying life's tasks are parked, the one that runs now among them.
        self._loop.post_ns(self._loop.now_ns, self.ended, self)

    def _task_failed(self, name: str, problem: BaseException) -> None:
        self.log(f"task {name} failed:\n{''.join(traceback.format_exception(problem)).rstrip()}")

    def _callback_failed(self, problem: BaseException) -> None:
        if isinstance(problem, BadMessage):
            self.log(f"a frame is refused: {problem}")
            return
        self.log(f"a callback failed:\n{''.join(traceback.format_exception(problem)).rstrip()}")
