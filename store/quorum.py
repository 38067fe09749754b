"""Request ids and one future for many answers: how a coordinator asks several replicas at once."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

from store.runtime import Runtime

Answer = Callable[[str, Any], None]
"""Called with (responder, reply message) for every answer while the id is open."""


class Calls:
    """Open requests of this node by id. One id may be asked of many nodes; every answer goes to its one listener, if
    it is of the kind that was asked for and comes from a node that was asked: whoever else knows the id has no vote.

    No two lives of a node may use the same ids: an answer to a request of the dead life can still arrive, and would be
    taken for the answer to another question, about another key.
    """

    def __init__(self) -> None:
        self._next = 0
        self._open: dict[int, tuple[Answer, type, Container[str]]] = {}

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    def __contains__(self, id: int) -> bool:
        """Whether the id is open."""
        return id in self._open

    def begin(self, first: int) -> None:
        """Begins this life's ids far from those of every other: `first` is drawn."""
        self._next = first

    def open(self, listener: Answer, expects: type, asked: Container[str]) -> int:
        """`expects` is the kind of message that answers; `asked` may go on growing while the id is open."""
        self._next += 1
        self._open[self._next] = (listener, expects, asked)
        return self._next

    def close(self, id: int) -> None:
        self._open.pop(id, None)

    def answered(self, src: str, id: int, message: Any) -> None:
        """An answer to a closed id came too late and is ignored."""
        call = self._open.get(id)
        if call is not None and type(message) is call[1] and src in call[2]:
            call[0](src, message)


class Gather:
    """One future that is set to the answers by responder, once `need` of those asked have answered or the time is over."""

    __slots__ = ("_calls", "_timer", "answers", "future", "id", "need")

    def __init__(
        self,
        runtime: Runtime,
        calls: Calls,
        need: int,
        timeout_ns: int,
        *,
        expects: type,
        asked: Container[str],
    ) -> None:
        self.answers: dict[str, Any] = {}
        self.need = need
        self.future = runtime.future()
        self._calls = calls
        self.id = calls.open(self._answered, expects, asked)
        self._timer = runtime.call_later(timeout_ns, self._finish)
        if need == 0:
            self._finish()

    def _answered(self, src: str, message: Any) -> None:
        self.answers[src] = message
        if len(self.answers) >= self.need:
            self._finish()

    def _finish(self) -> None:
        self._timer.cancel()
        self._calls.close(self.id)
        if not self.future.done():
            self.future.set_result(self.answers)
