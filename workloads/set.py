"""One key, read-modify-write of a growing set: the classic that last-writer-wins loses."""

from __future__ import annotations

from history.generator import Ask, Context, Generator, fn, stagger
from history.op import Op, Process
from workloads import body
from workloads.client import Client
from workloads.connection import Connection
from workloads.requests import Read, Recorder, Requests, outcome
from workloads.workload import Options

KEY = "set"


class Elements(body.Body, frozen=True):
    """All elements that the writer knew of, its own included."""

    elements: list[int]


class GrowingSet:
    name = "set"
    sentence = (
        "One key; clients read a set, add an element and write it back. Shows what last-writer-wins loses."
    )
    checkers = ("set_full", "lost_writes", "siblings", "convergence", "availability")
    final_f = "read"

    def keys(self, options: Options) -> list[str]:
        return [KEY]

    def generator(self, options: Options) -> Generator:
        def ask(ctx: Context, i: int) -> Ask:
            """Three adds to one read; the element is the operation's number."""
            if ctx.draw("f", i) % 4 == 0:
                return Ask("read", KEY)
            return Ask("add", KEY, i + 1)

        return stagger(int(1e9 / options.rate), fn("set", ask))

    def client(self, connection: Connection, process: Process, options: Options) -> Client:
        return _Client(connection, options.n)


def merge(read: Read) -> list[int]:
    """The union of all siblings: additions never conflict."""
    return sorted({e for held in body.readable(read.siblings.values, Elements) for e in held.elements})


class _Client:
    def __init__(self, connection: Connection, n: int) -> None:
        self._connection = connection
        self._requests = Requests(connection, n)

    def prepare(self, op: Op) -> Op:
        return Op(op.process, "invoke", op.f, op.key, op.value, node=self._connection.node, meta=op.meta)

    async def invoke(self, op: Op, recorder: Recorder) -> Op:
        got, read = await self._requests.get(op, recorder)
        if got.type != "ok":
            return op.completed("fail", op.value, error=got.error)
        elements = merge(read)
        if op.f == "read":
            return op.completed("ok", elements)
        content = body.encode(Elements(op.value, [*elements, op.value]))
        return outcome(op, await self._requests.put(op, recorder, op.value, content, read))

    def close(self) -> None:
        self._connection.close()
