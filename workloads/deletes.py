"""Many keys that are deleted as often as they are written, or expire: what a store does with what it has to forget."""

from __future__ import annotations

from typing import Any

from history.generator import Ask, Context, Generator, fn, stagger
from history.op import Op, Process
from workloads import body
from workloads.client import Client
from workloads.connection import Connection
from workloads.requests import Read, Recorder, Requests, get, outcome, write
from workloads.workload import Options

TTL_SECONDS_MAX = 3


class Deletes:
    name = "deletes"
    sentence = "Many keys, deleted as often as written; one put in four expires. Shows what comes back from the dead."
    checkers = ("lost_writes", "resurrection", "siblings", "convergence", "availability")
    final_f = "get"

    def keys(self, options: Options) -> list[str]:
        return [f"k{i}" for i in range(options.keys)]

    def generator(self, options: Options) -> Generator:
        keys = self.keys(options)

        def ask(ctx: Context, i: int) -> Ask:
            """Two reads, four writes and four removals in ten; the id is the operation's number."""
            key = keys[ctx.draw("key", i) % len(keys)]
            choice = ctx.draw("f", i) % 10
            if choice < 2:
                return Ask("get", key)
            if choice < 6:
                meta: dict[str, Any] = {}
                if ctx.draw("ttl", i) % 4 == 0:
                    meta["ttl_seconds"] = 1 + ctx.draw("ttl-seconds", i) % TTL_SECONDS_MAX
                return Ask("put", key, i + 1, meta=meta)
            return Ask("remove", key, i + 1)

        return stagger(int(1e9 / options.rate), fn("deletes", ask))

    def client(self, connection: Connection, process: Process, options: Options) -> Client:
        return _Client(connection, options.n)


class _Client:
    """Writes with the context of its last answer; removes by reading first and then deleting what it has read."""

    def __init__(self, connection: Connection, n: int) -> None:
        self._connection = connection
        self._requests = Requests(connection, n)
        self._n = n
        self._last: dict[str, Read] = {}

    def prepare(self, op: Op) -> Op:
        meta = op.meta
        if op.f == "put":
            meta = {**meta, "context": list(self._last.get(op.key, Read()).ids)}
        return Op(op.process, "invoke", op.f, op.key, op.value, node=self._connection.node, meta=meta)

    async def invoke(self, op: Op, recorder: Recorder) -> Op:
        match op.f:
            case "get":
                done, read = await get(self._connection, op, self._n)
            case "put":
                context = self._last.get(op.key, Read()).siblings.context
                content = body.encode(body.Body(op.value))
                done, read = await write(self._connection, op, content, context)
            case _:
                done, read = await self._remove(op, recorder)
        if done.type == "ok":
            self._last[op.key] = read
        return done

    async def _remove(self, op: Op, recorder: Recorder) -> tuple[Op, Read]:
        got, read = await self._requests.get(op, recorder)
        if got.type != "ok":
            return op.completed("fail", op.value, error=got.error), Read()
        if not read.ids:
            return op.completed("ok", op.value), read
        deleted, left = await self._requests.delete(op, recorder, read)
        return outcome(op, deleted), left

    def close(self) -> None:
        self._connection.close()
