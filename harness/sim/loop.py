"""A lean event loop over simulated time: a heap of timers, a deque of what is due now, whole nanoseconds.

It is written against `asyncio.AbstractEventLoop`, so asyncio's own Task, Future, timeout, gather, Event and Queue run on it
unchanged. Timers fire by (time, order of creation), and everything that one of them sets off at the same instant runs before
the next one: whoever acts from a timer finds nothing half done.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from heapq import heappop, heappush
from typing import Any, Final, TypeVar

import msgspec

from harness.sim.future import Future

T = TypeVar("T")

_LOG = logging.getLogger("asyncio")


class Deadlock(RuntimeError):
    """Nothing is left to do, and what the loop was to finish still waits."""


class _Finished(BaseException):
    """Leaves the loop from within the callback that saw its purpose fulfilled."""


class Gate:
    """What stands between the world and one life of a node: every timer, message and completion passes through it.

    Open: they pass. Held: they wait, in order. Shut: they fall away for ever.
    """

    __slots__ = ("backlog", "failed", "open", "shut")

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self.open = True
        self.shut = False
        self.backlog: list[tuple[Any, Any]] = []
        """(callback, arguments) as in the loop's heap: a timer called off while it waits here will not fire."""
        self.failed = failed
        """Told of an exception that left a callback behind this gate."""

    def defer(self, fn: Any, args: Any) -> None:
        """Keeps what came while the gate was held; drops what came after it was shut."""
        if not self.shut:
            self.backlog.append((fn, args))


class Handle(msgspec.Struct, eq=False):
    """A callback that can be called off before it is due. (A Struct is made in a third of the time of a class.)"""

    when_ns: int
    fn: Callable[..., object] | None
    args: tuple[Any, ...]
    context: Context | None = None

    def cancel(self) -> None:
        self.fn = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.fn is None

    def when(self) -> float:
        """Seconds of the loop's time, as asyncio counts."""
        return self.when_ns / 1e9


Entry = tuple[int, int, Any, Any, Gate | None]
"""(when, sequence number, callback, its arguments, gate); arguments None: the callback is a Handle that may be cancelled."""


class SimLoop(asyncio.AbstractEventLoop):
    """Runs callbacks in simulated time. The fields without underscore are for the simulator's hot paths."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.heap: Final[list[Entry]] = []
        self.ready: Final[deque[tuple[Any, Any]]] = deque()
        """(callback, arguments) to run at this instant; arguments None: the callback is a Handle."""
        self.sequence: Final[Callable[[], int]] = itertools.count(1).__next__
        self._urgent: Final[Callable[[], int]] = itertools.count(-(1 << 62)).__next__
        self.events = 0
        """Timers fired so far (counted whenever the loop comes to a halt)."""
        self._running = False
        self._closed = False
        self._exception_handler: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None = None

    # What the simulator uses.

    def call_at_ns(
        self, when_ns: int, fn: Callable[..., object], *args: Any, gate: Gate | None = None
    ) -> Handle:
        """Calls `fn` at that time (at once if it is past), through `gate`; the handle can call it off."""
        when_ns = max(when_ns, self.now_ns)
        handle = Handle(when_ns, fn, args)
        heappush(self.heap, (when_ns, self.sequence(), handle, None, gate))
        return handle

    def post_ns(self, when_ns: int, fn: Callable[..., object], *args: Any, gate: Gate | None = None) -> None:
        """Like `call_at_ns`, for what is never called off."""
        heappush(self.heap, (when_ns, self.sequence(), fn, args, gate))

    def release(self, gate: Gate) -> None:
        """Opens a held gate. What waited runs at this instant, in order, before whatever else is due now."""
        gate.open = True
        backlog, gate.backlog = gate.backlog, []
        for fn, args in backlog:
            heappush(self.heap, (self.now_ns, self._urgent(), fn, args, gate))

    def drive(self) -> None:  # noqa: PLR0915 # the hot path, in one piece: a call for each event would show
        """Runs until `_Finished` is raised or nothing is left to do."""
        heap, ready, pop = self.heap, self.ready, heappop
        popleft = ready.popleft
        gate: Gate | None = None
        args: Any = ()
        fired = 0
        while True:
            try:
                while True:
                    while ready:
                        fn, args = popleft()
                        if args is None:
                            handle = fn
                            fn = handle.fn
                            if fn is None:
                                continue
                            if handle.context is None:
                                fn(*handle.args)
                            else:
                                handle.context.run(fn, *handle.args)
                        else:
                            fn(*args)
                    if not heap:
                        self.events += fired
                        return
                    when_ns, _, fn, args, gate = pop(heap)
                    if gate is not None and not gate.open:
                        self.now_ns = when_ns
                        gate.defer(fn, args)
                        gate = None
                        continue
                    if args is None:
                        handle = fn
                        fn = handle.fn
                        if fn is None:
                            gate = None
                            continue
                        args = handle.args
                        if handle.context is not None:
                            fn, args = handle.context.run, (fn, *args)
                    self.now_ns = when_ns
                    fired += 1
                    fn(*args)
                    gate = None
            except (_Finished, KeyboardInterrupt, SystemExit):
                self.events += fired
                raise
            except BaseException as problem:
                # From behind a gate it is the node's mistake, and the node's log tells of it; so it is from a callback of a
                # node's future, which is called with that future. Otherwise it is ours.
                if gate is not None:
                    gate.failed(problem)
                    gate = None
                elif args and type(args[0]) is Future:
                    args[0].failed(problem)
                else:
                    self.events += fired
                    raise

    # What asyncio uses.

    def time(self) -> float:
        return self.now_ns / 1e9

    def call_soon(  # pyright: ignore[reportIncompatibleMethodOverride] # our Handle does all that asyncio asks of one
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        handle = Handle(self.now_ns, callback, args, context)
        self.ready.append((handle, None))
        return handle

    def call_soon_threadsafe(  # pyright: ignore[reportIncompatibleMethodOverride] # as above; there are no threads
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(  # pyright: ignore[reportIncompatibleMethodOverride] # as above
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        return self._timer(self.now_ns + round(delay * 1e9), callback, args, context)

    def call_at(  # pyright: ignore[reportIncompatibleMethodOverride] # as above
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        return self._timer(round(when * 1e9), callback, args, context)

    def _timer(
        self, when_ns: int, fn: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> Handle:
        handle = Handle(max(when_ns, self.now_ns), fn, args, context)
        heappush(self.heap, (handle.when_ns, self.sequence(), handle, None, None))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # pyright: ignore[reportIncompatibleMethodOverride] # newer Pythons add options, passed on as they are
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
        **options: Any,
    ) -> asyncio.Task[T]:
        return asyncio.Task(coro, loop=self, name=name, context=context, **options)

    def run_until_complete(self, future: Any) -> Any:
        """The future's result. Raises Deadlock where nothing is left that could bring it about."""
        if self._closed:
            raise RuntimeError("this loop is closed; make a new one")
        if self._running or events._get_running_loop() is not None:
            raise RuntimeError("an event loop is running already")
        task = asyncio.ensure_future(future, loop=self)
        waiting = True

        def finish(_: asyncio.Future[Any]) -> None:
            # An interrupt within the task leaves this in the queue, where a later run must not take it for its own end.
            if waiting:
                raise _Finished

        task.add_done_callback(finish)
        self._running = True
        events._set_running_loop(self)
        try:
            self.drive()
        except _Finished:
            return task.result()
        finally:
            waiting = False
            self._running = False
            events._set_running_loop(None)
            task.remove_done_callback(finish)
        raise Deadlock(
            f"nothing is left to do at {self.now_ns / 1e9:.6f} s, yet {task.get_name()} still waits "
            "for something that can no longer happen"
        )

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Forgets whatever was still to come. Safe to call twice."""
        if self._running:
            raise RuntimeError("a running loop cannot be closed")
        self._closed = True
        self.heap.clear()
        self.ready.clear()

    async def shutdown_asyncgens(self) -> None:
        """Nothing to do: generators are closed by whoever holds them."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Nothing to do: there are no threads in simulated time."""

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        """Ignored: asyncio's debug mode reads the real clock."""

    def get_exception_handler(self) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None:
        return self._exception_handler

    def set_exception_handler(
        self, handler: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None
    ) -> None:
        self._exception_handler = handler

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        _LOG.error("%s", context.get("message"), exc_info=context.get("exception"))

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self._exception_handler is None:
            self.default_exception_handler(context)
        else:
            self._exception_handler(self, context)
