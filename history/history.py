"""A finished history: its events, paired into operations. Immutable; the only thing that checkers see."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, Literal

import msgspec

from history.header import Header
from history.op import NEMESIS, PROBE, Op, Process

NEVER = sys.maxsize
"""The end index of an operation that may still take effect: after everything."""


class Operation(msgspec.Struct, frozen=True, gc=False):
    """An invocation with its completion, if it has one. `parent` is the index of the enclosing invocation."""

    invoke: Op
    complete: Op | None = None
    parent: int | None = None

    @property
    def index(self) -> int:
        return self.invoke.index

    @property
    def end(self) -> int:
        """Index of the completion if it is certain (ok, fail), else NEVER."""
        done = self.complete
        return done.index if done is not None and done.type != "info" else NEVER

    @property
    def type(self) -> Literal["ok", "fail", "info"]:
        done = self.complete
        return "info" if done is None or done.type == "invoke" else done.type

    @property
    def possible(self) -> bool:
        """Whether it may have taken effect: acknowledged, or nobody knows."""
        return self.type != "fail"

    @property
    def f(self) -> str:
        return self.invoke.f

    @property
    def key(self) -> Any:
        return self.invoke.key

    @property
    def process(self) -> Process:
        return self.invoke.process

    @property
    def node(self) -> str | None:
        return self.invoke.node

    @property
    def value(self) -> Any:
        """The answer of an `ok` operation, else what was asked."""
        done = self.complete
        return done.value if done is not None and done.type == "ok" else self.invoke.value

    @property
    def meta(self) -> dict[str, Any]:
        """The completion's meta over the invocation's."""
        done = self.complete
        return self.invoke.meta if done is None else {**self.invoke.meta, **done.meta}


class Malformed(Exception):
    """The events are not a history; the message says which line and why."""


class History:
    """Events in order with their header.

    >>> h = History(Header(), [Op(0, "invoke", "put", "x", 1), Op(0, "ok", "put", "x")])
    >>> [(o.f, o.type, o.index, o.end) for o in h.operations]
    [('put', 'ok', 0, 1)]
    """

    def __init__(self, header: Header, events: Iterable[Op], *, torn: str = "") -> None:
        """`torn` tells of a last line that was cut off; empty when the journal ended cleanly."""
        self.header = header
        self.torn = torn
        self.events: tuple[Op, ...] = tuple(
            e if e.index == i else msgspec.structs.replace(e, index=i) for i, e in enumerate(events)
        )

    def __len__(self) -> int:
        return len(self.events)

    @cached_property
    def operations(self) -> tuple[Operation, ...]:
        """All operations in the order of invocation. Raises Malformed where the brackets do not match."""
        open_of: dict[Process, list[Op]] = {}
        parent_of: dict[int, int | None] = {}
        done_of: dict[int, Op] = {}
        invoked: list[Op] = []
        for event in self.events:
            stack = open_of.setdefault(event.process, [])
            if event.type == "invoke":
                parent_of[event.index] = stack[-1].index if stack else None
                stack.append(event)
                invoked.append(event)
            elif stack and stack[-1].f == event.f:
                done_of[stack.pop().index] = event
            elif event.type != "info":
                raise Malformed(
                    f"event {event.index}: process {event.process} completes {event.f!r}, which it has not invoked"
                )
        return tuple(Operation(op, done_of.get(op.index), parent_of[op.index]) for op in invoked)

    @cached_property
    def client(self) -> tuple[Operation, ...]:
        """Operations of clients: no nemesis, no probe."""
        return tuple(o for o in self.operations if o.process not in (NEMESIS, PROBE))

    @cached_property
    def nemesis(self) -> tuple[Operation, ...]:
        return tuple(o for o in self.operations if o.process == NEMESIS)

    @cached_property
    def observations(self) -> tuple[Operation, ...]:
        """Operations of the probe that were answered."""
        return tuple(o for o in self.operations if o.process == PROBE and o.type == "ok")

    def select(self, *f: str, where: Callable[[Operation], bool] | None = None) -> Iterator[Operation]:
        """Client operations with one of the names `f`."""
        for o in self.client:
            if o.f in f and (where is None or where(o)):
                yield o

    def observed(self, f: str, stage: str | None = None) -> list[Operation]:
        """Answered observations of the kind `f`, at the given stage if one is named."""
        return [o for o in self.observations if o.f == f and (stage is None or o.meta.get("stage") == stage)]

    @cached_property
    def phases(self) -> dict[str, int]:
        """Name of each phase -> index of the event that opened it."""
        return {str(e.value): e.index for e in self.events if e.f == "phase" and e.type == "info"}
