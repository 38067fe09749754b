"""Store requests inside a composite operation, each written down in brackets of its own before its bytes leave."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from history.op import Op
from workloads import body
from workloads.connection import Connection, Definite, Indefinite, Siblings


class Recorder(Protocol):
    """The part of the interpreter's recorder that clients use."""

    def invoke(self, op: Op) -> Op: ...

    def complete(self, op: Op) -> Op: ...


class Read(msgspec.Struct, frozen=True):
    """What a read returned, and so what a write may replace."""

    siblings: Siblings = Siblings()
    ids: tuple[Any, ...] = ()


def marks(siblings: Siblings) -> dict[str, Any]:
    """The flags of a reply that checkers need to know of."""
    return {name: True for name in ("tombstone", "truncated") if getattr(siblings, name)}


async def get(connection: Connection, op: Op, n: int) -> tuple[Op, Read]:
    """Performs `op`, a `get`: its completion, and what was read. Final reads ask all `n` home replicas, others `meta.r` and
    `meta.pr` where it says so.

    A read changed nothing, heard or not: without an answer it is `fail`.
    """
    r, pr = (n, n) if op.meta.get("final") else (op.meta.get("r"), op.meta.get("pr"))
    try:
        siblings = await connection.get(op.key, r=r, pr=pr)
    except (Definite, Indefinite) as problem:
        return op.completed("fail", error=str(problem)), Read()
    read = Read(siblings, tuple(body.ids(siblings.values)))
    return op.completed("ok", list(read.ids), **marks(siblings)), read


async def write(
    connection: Connection, op: Op, content: bytes | None, context: str | None
) -> tuple[Op, Read]:
    """Performs `op`, a `put` of `content` or (None) a `delete`: its completion, and the siblings after it. A put whose
    `meta.ttl_seconds` says so expires."""
    w, pw = op.meta.get("w"), op.meta.get("pw")
    try:
        if content is None:
            siblings = await connection.delete(op.key, context=context, w=w, pw=pw)
        else:
            ttl_seconds = op.meta.get("ttl_seconds")
            siblings = await connection.put(
                op.key, content, context=context, w=w, pw=pw, ttl_seconds=ttl_seconds
            )
    except Definite as problem:
        return op.completed("fail", op.value, error=str(problem)), Read()
    except Indefinite as problem:
        return op.completed("info", op.value, error=str(problem)), Read()
    read = Read(siblings, tuple(body.ids(siblings.values)))
    return op.completed("ok", op.value, returned=list(read.ids), **marks(siblings)), read


class Requests:
    """Requests of one client, bracketed inside the composite operation that makes them."""

    def __init__(self, connection: Connection, n: int) -> None:
        self._connection = connection
        self._n = n

    async def get(self, outer: Op, recorder: Recorder) -> tuple[Op, Read]:
        meta = {"final": True} if outer.meta.get("final") else {}
        op = recorder.invoke(
            Op(outer.process, "invoke", "get", outer.key, node=self._connection.node, meta=meta)
        )
        done, read = await get(self._connection, op, self._n)
        return recorder.complete(done), read

    async def put(self, outer: Op, recorder: Recorder, id: int, content: bytes, read: Read) -> Op:
        op = recorder.invoke(
            Op(
                outer.process,
                "invoke",
                "put",
                outer.key,
                id,
                node=self._connection.node,
                meta={"context": list(read.ids)},
            )
        )
        done, _ = await write(self._connection, op, content, read.siblings.context)
        return recorder.complete(done)

    async def delete(self, outer: Op, recorder: Recorder, read: Read) -> tuple[Op, Read]:
        """Deletes what was read; the completion, and what is left."""
        meta = {"context": list(read.ids)}
        op = recorder.invoke(
            Op(
                outer.process,
                "invoke",
                "delete",
                outer.key,
                outer.value,
                node=self._connection.node,
                meta=meta,
            )
        )
        done, left = await write(self._connection, op, None, read.siblings.context)
        return recorder.complete(done), left


def outcome(outer: Op, put: Op, **meta: Any) -> Op:
    """The completion of a composite write whose one effect is `put`."""
    return outer.completed(put.type if put.type != "invoke" else "info", outer.value, error=put.error, **meta)
