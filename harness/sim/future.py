"""Futures and tasks of node code: the part of asyncio that the store's facade offers, at a third of its cost.

Node code cannot cancel (the facade has no such verb), so a task is a coroutine that is resumed when what it awaits is done.
Resumption always goes through the loop's queue of what is due now, as with asyncio: nothing runs inside `set_result`.
"""

from __future__ import annotations

from asyncio import InvalidStateError
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any


class Future:
    """A result to come (store.runtime.Future); awaitable once or many times."""

    __slots__ = ("_done", "_error", "_ready", "_value", "_waiters")

    def __init__(self, ready: deque[tuple[Any, Any]]) -> None:
        self._ready = ready
        self._done = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._waiters: list[Callable[[], None]] = []

    def done(self) -> bool:
        return self._done

    def result(self) -> Any:
        if not self._done:
            raise InvalidStateError("the result is not set")
        if self._error is not None:
            raise self._error
        return self._value

    def set_result(self, result: Any, /) -> None:
        if self._done:
            raise InvalidStateError("the result is set already")
        self._done = True
        self._value = result
        ready = self._ready
        for waiter in self._waiters:
            ready.append((waiter, ()))

    def set_exception(self, exception: BaseException, /) -> None:
        self.set_result(None)
        self._error = exception

    def fire(self) -> None:
        """Sets the result to None: a timer's callback."""
        self.set_result(None)

    def __await__(self) -> Generator[Future, None, Any]:
        if not self._done:
            yield self
            if not self._done:
                raise RuntimeError("the task was resumed before what it awaits was done")
        if self._error is not None:
            raise self._error
        return self._value


class Tasks:
    """The tasks of one life of a node. Whoever dies keeps them, parked: never resumed, and closed only at the end."""

    __slots__ = ("_failed", "_ready", "living")

    def __init__(self, ready: deque[tuple[Any, Any]], failed: Callable[[str, BaseException], None]) -> None:
        self._ready = ready
        self._failed = failed
        self.living: dict[_Task, None] = {}
        """In order of their creation."""

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        task = _Task(self, coroutine, name)
        self.living[task] = None
        self._ready.append((task.step, ()))

    def failed(self, name: str, problem: BaseException) -> None:
        self._failed(name, problem)

    def close(self) -> None:
        """Ends every parked task. What they raise or await while they unwind concerns nobody any more."""
        for task in self.living:
            task.close()
        self.living.clear()


class _Task:
    __slots__ = ("_coroutine", "_name", "_send", "_tasks")

    def __init__(self, tasks: Tasks, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks = tasks
        self._coroutine = coroutine
        self._name = name
        self._send = coroutine.send

    def step(self) -> None:
        try:
            awaited = self._send(None)
        except StopIteration:
            del self._tasks.living[self]
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as problem:
            del self._tasks.living[self]
            self._tasks.failed(self._name, problem)
        else:
            if type(awaited) is Future:
                awaited._waiters.append(self.step)  # pyright: ignore[reportPrivateUsage] # one mechanism, two classes
            else:
                del self._tasks.living[self]
                self._coroutine.close()
                self._tasks.failed(
                    self._name,
                    TypeError(f"node code awaited {awaited!r}, which did not come from its Runtime"),
                )

    def close(self) -> None:
        for _ in range(100):
            try:
                self._coroutine.close()
            except RuntimeError:
                continue  # it awaited while it unwound: close it again
            except BaseException:
                return
            return
