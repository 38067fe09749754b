"""Futures and tasks of node code: the part of asyncio that the store's facade offers, at a third of its cost.

Node code cannot cancel (the facade has no such verb), so a task is a coroutine that is resumed when what it awaits is done.
Resumption always goes through the loop's queue of what is due now, as with asyncio: nothing runs inside `set_result`.
"""

from __future__ import annotations

from asyncio import InvalidStateError
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import msgspec

Entry = tuple[Callable[..., object], tuple[Any, ...]]
"""(callback, arguments) as in the loop's queue of what is due now."""


class Future(msgspec.Struct, eq=False):
    """A result to come (store.runtime.Future); awaitable once or many times."""

    ready: deque[tuple[Any, Any]]
    """The loop's queue of what is due now."""
    failed: Callable[[BaseException], None]
    """Told of an exception that left a callback."""
    state: bool = False
    value: Any = None
    error: BaseException | None = None
    waiter: Entry | None = None
    """Most futures have one waiter; the others stand in `more`."""
    more: list[Entry] | None = None

    def done(self) -> bool:
        return self.state

    def result(self) -> Any:
        if not self.state:
            raise InvalidStateError("the result is not set")
        if self.error is not None:
            raise self.error
        return self.value

    def exception(self) -> BaseException | None:
        if not self.state:
            raise InvalidStateError("the result is not set")
        return self.error

    def set_result(self, result: Any = None, /) -> None:
        """Without an argument, as timers call it: None."""
        if self.state:
            raise InvalidStateError("the result is set already")
        self.state = True
        self.value = result
        if self.waiter is not None:
            self.ready.append(self.waiter)
            # It may hold this future: such circles would pile up, for nobody collects them in a run.
            self.waiter = None
            if self.more is not None:
                self.ready.extend(self.more)
                self.more = None

    def set_exception(self, exception: BaseException, /) -> None:
        self.set_result()
        self.error = exception

    def add_done_callback(self, fn: Callable[[Any], object], /) -> None:
        if self.state:
            self.ready.append((fn, (self,)))
        else:
            self.wake((fn, (self,)))

    def wake(self, waiter: Entry) -> None:
        """Puts `waiter` into the loop's queue once the result is set. Only for a future that is not done."""
        if self.waiter is None:
            self.waiter = waiter
        elif self.more is None:
            self.more = [waiter]
        else:
            self.more.append(waiter)

    def __await__(self) -> Generator[Future, None, Any]:
        if not self.state:
            yield self
        if self.error is not None:
            raise self.error
        return self.value


class Tasks:
    """The tasks of one life of a node. Whoever dies keeps them, parked: never resumed, and closed only at the end."""

    __slots__ = ("failed", "living", "ready")

    def __init__(self, ready: deque[tuple[Any, Any]], failed: Callable[[str, BaseException], None]) -> None:
        self.ready = ready
        self.failed = failed
        """Told the name of a task and what it raised."""
        self.living: dict[_Task, None] = {}
        """In order of their creation."""

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        task = _Task(self, coroutine, coroutine.send, name)
        self.living[task] = None
        self.ready.append((task.step, ()))

    def close(self) -> None:
        """Ends every parked task. What they raise or await while they unwind concerns nobody any more."""
        for task in self.living:
            task.close()
        self.living.clear()


class _Task(msgspec.Struct, eq=False):
    tasks: Tasks
    coroutine: Coroutine[Any, Any, None]
    send: Callable[[None], Any]
    name: str

    def step(self) -> None:
        try:
            awaited = self.send(None)
        except StopIteration:
            del self.tasks.living[self]
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as problem:
            del self.tasks.living[self]
            self.tasks.failed(self.name, problem)
        else:
            if type(awaited) is not Future:
                self._stray(awaited)
            elif awaited.waiter is None:
                awaited.waiter = (self.step, ())
            else:
                awaited.wake((self.step, ()))

    def _stray(self, awaited: object) -> None:
        del self.tasks.living[self]
        self.close()
        problem = TypeError(f"node code awaited {awaited!r}, which did not come from its Runtime")
        self.tasks.failed(self.name, problem)

    def close(self) -> None:
        for _ in range(100):
            try:
                self.coroutine.close()
            except RuntimeError:
                continue  # it awaited while it unwound: close it again
            except BaseException:
                return
            return
