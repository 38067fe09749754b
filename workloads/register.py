"""Many keys, blind and informed writes and deletes: each client writes with the context of its last answer."""

from __future__ import annotations

from history.generator import Ask, Context, Generator, fn, stagger
from history.op import Op, Process
from workloads import body
from workloads.client import Client
from workloads.connection import Connection
from workloads.requests import Read, Recorder, get, write
from workloads.workload import Options


class Register:
    name = "register"
    sentence = "Many keys; every client gets, puts and deletes with its last causal context. Shows lost writes and siblings."
    checkers = (
        "lost_writes",
        "siblings",
        "sessions",
        "resurrection",
        "convergence",
        "durability",
        "availability",
    )
    final_f = "get"

    def keys(self, options: Options) -> list[str]:
        return [f"k{i}" for i in range(options.keys)]

    def generator(self, options: Options) -> Generator:
        keys = self.keys(options)

        def ask(ctx: Context, i: int) -> Ask:
            """Four reads, five writes and one delete in ten; the id is the operation's number."""
            key = keys[ctx.draw("key", i) % len(keys)]
            choice = ctx.draw("f", i) % 10
            if choice < 4:
                return Ask("get", key)
            return Ask("put" if choice < 9 else "delete", key, i + 1)

        return stagger(int(1e9 / options.rate), fn("register", ask))

    def client(self, connection: Connection, process: Process, options: Options) -> Client:
        return _Client(connection, options.n)


class _Client:
    def __init__(self, connection: Connection, n: int) -> None:
        self._connection = connection
        self._n = n
        self._last: dict[str, Read] = {}

    def prepare(self, op: Op) -> Op:
        """Names what the write will replace. A delete of what was never read has nothing to remove: it reads instead."""
        node = self._connection.node
        if op.f == "get":
            return Op(op.process, "invoke", "get", op.key, node=node, meta=op.meta)
        last = self._last.get(op.key, Read())
        if op.f == "delete" and not last.ids:
            return Op(op.process, "invoke", "get", op.key, node=node)
        return Op(op.process, "invoke", op.f, op.key, op.value, node=node, meta={"context": list(last.ids)})

    async def invoke(self, op: Op, recorder: Recorder) -> Op:
        if op.f == "get":
            done, read = await get(self._connection, op, self._n)
        else:
            context = self._last.get(op.key, Read()).siblings.context
            content = body.encode(body.Body(op.value)) if op.f == "put" else None
            done, read = await write(self._connection, op, content, context)
        if done.type == "ok":
            self._last[op.key] = read
        return done

    def close(self) -> None:
        self._connection.close()
