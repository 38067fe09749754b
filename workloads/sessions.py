"""Many keys, quorums of every shape, contexts new, old and none: what one client was shown must hang together."""

from __future__ import annotations

from typing import Any

from history.generator import Ask, Context, Generator, fn, stagger
from history.op import Op, Process
from workloads import body
from workloads.client import Client
from workloads.connection import Connection
from workloads.requests import Read, Recorder, get, write
from workloads.workload import Options

REMEMBERED = 3
"""Answers of one key that a client may take a context from; further back it writes blindly."""


class Sessions:
    name = "sessions"
    sentence = (
        "Many keys; each request has a quorum of its own, and writes use contexts new, old and none. "
        "Shows sessions that do not hang together, and quorums that are counted wrongly."
    )
    checkers = (
        "sessions",
        "lost_writes",
        "siblings",
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
            """Five reads, four puts and one delete in ten; six in ten ask for the quorum that is configured."""
            key = keys[ctx.draw("key", i) % len(keys)]
            choice = ctx.draw("f", i) % 10
            shape = ctx.draw("quorum", i) % 10
            if choice < 5:
                return Ask("get", key, meta=_quorum(shape, "r", "pr", options.n))
            meta: dict[str, Any] = _quorum(shape, "w", "pw", options.n)
            if choice < 9:
                back = (0, 0, 0, 0, 0, 1, 1, 2, REMEMBERED, REMEMBERED)[ctx.draw("back", i) % 10]
                return Ask("put", key, i + 1, meta={**meta, "back": back} if back else meta)
            return Ask("delete", key, i + 1, meta=meta)

        return stagger(int(1e9 / options.rate), fn("sessions", ask))

    def client(self, connection: Connection, process: Process, options: Options) -> Client:
        return _Client(connection, options.n)


def _quorum(shape: int, any_: str, primaries: str, n: int) -> dict[str, Any]:
    """All home replicas, or one, or (nothing said) as configured."""
    if shape < 6:
        return {}
    count = n if shape < 8 else 1
    return {any_: count, primaries: count}


class _Client:
    def __init__(self, connection: Connection, n: int) -> None:
        self._connection = connection
        self._n = n
        self._answers: dict[str, list[Read]] = {}

    def _context(self, op: Op) -> Read:
        """The answer whose context a write uses: the latest, or one from further back, or none."""
        answers: list[Read] = self._answers.get(op.key, [])
        back: int = op.meta.get("back", 0)
        return answers[-1 - back] if back < len(answers) else Read()

    def prepare(self, op: Op) -> Op:
        """Names what the write will replace. A delete of what was never read has nothing to remove: it reads instead."""
        node = self._connection.node
        if op.f == "get":
            return Op(op.process, "invoke", "get", op.key, node=node, meta=op.meta)
        read = self._context(op)
        if op.f == "delete" and not read.ids:
            return Op(op.process, "invoke", "get", op.key, node=node)
        meta = {**op.meta, "context": list(read.ids)}
        return Op(op.process, "invoke", op.f, op.key, op.value, node=node, meta=meta)

    async def invoke(self, op: Op, recorder: Recorder) -> Op:
        if op.f == "get":
            done, read = await get(self._connection, op, self._n)
        else:
            content = body.encode(body.Body(op.value)) if op.f == "put" else None
            done, read = await write(self._connection, op, content, self._context(op).siblings.context)
        if done.type == "ok":
            answers = self._answers.setdefault(op.key, [])
            answers.append(read)
            del answers[:-REMEMBERED]
        return done

    def close(self) -> None:
        self._connection.close()
