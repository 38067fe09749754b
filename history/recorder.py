"""The recorder: gives every event its index and time, and holds clients to well-bracketed operations."""

from __future__ import annotations

from collections.abc import Callable

from history.journal import Sink
from history.op import NEMESIS, PROBE, Op, Process


class Retired(Exception):
    """The process has been retired: whoever still speaks for it was abandoned, and nothing it says counts."""


class Recorder:
    """Appends to the sink in the order of calls. `now_ns` is the world's monotonic clock.

    Operations of one process nest: a client brackets the store requests of a composite operation by calling `invoke`
    and `complete` with its own process number. Events that break the brackets are a bug and fail an assertion.
    """

    def __init__(self, sink: Sink, now_ns: Callable[[], int]) -> None:
        self._append = sink.append
        self._now_ns = now_ns
        self._next = 0
        self._open: dict[Process, list[Op]] = {}
        self._retired: set[Process] = set()

    @property
    def recorded(self) -> int:
        """How many events there are so far: the next one's index."""
        return self._next

    def invoke(self, op: Op) -> Op:
        """Records an invocation and returns it with its index and time. Raises Retired."""
        assert op.type == "invoke", f"an invocation has the type invoke, not {op.type!r}: {op}"
        process = op.process
        if process in self._retired:
            raise Retired(f"process {process} was retired and cannot invoke {op.f!r}")
        recorded = self._record(op)
        stack = self._open.get(process)
        if stack is None:
            self._open[process] = [recorded]
        else:
            stack.append(recorded)
        return recorded

    def complete(self, op: Op) -> Op:
        """Records the completion of the process's innermost open operation. Raises Retired.

        `info` may complete an outer one: what it encloses is then closed as `info` first.
        """
        process = op.process
        if process in self._retired:
            raise Retired(f"process {process} was retired and cannot complete {op.f!r}")
        assert op.type != "invoke", f"a completion has the type ok, fail or info, not invoke: {op}"
        stack = self._open.get(process)
        assert stack, f"process {process} completes {op.f!r} but has nothing open"
        if op.type == "info":
            assert any(o.f == op.f for o in stack), (
                f"process {process} completes {op.f!r} but has not invoked it"
            )
            while stack[-1].f != op.f:
                inner = stack.pop()
                self._record(inner.completed("info", error=f"left open by {op.f}"))
        assert stack[-1].f == op.f, f"process {process} completes {op.f!r} while {stack[-1].f!r} is open"
        stack.pop()
        return self._record(op)

    def event(self, op: Op) -> Op:
        """Records an event that opens and closes nothing (a phase, a remark)."""
        assert op.type == "info", f"an event has the type info, not {op.type!r}: {op}"
        assert all(o.f != op.f for o in self._open.get(op.process, ())), (
            f"{op.f!r} is open and would be closed: {op}"
        )
        return self._record(op)

    def depth(self, process: Process) -> int:
        """How many operations the process has open."""
        return len(self._open.get(process, ()))

    def retire(self, process: Process) -> None:
        """Nothing more may come from this client process. The nemesis and the probe never retire."""
        assert process not in (NEMESIS, PROBE), f"{process} does not retire"
        self._open.pop(process, None)
        self._retired.add(process)

    def retired(self, process: Process) -> bool:
        return process in self._retired

    def _record(self, op: Op) -> Op:
        index = self._next
        now = self._now_ns()
        recorded = Op(op.process, op.type, op.f, op.key, op.value, op.error, op.node, op.meta, now, index)
        self._append(recorded)
        self._next = index + 1
        return recorded
