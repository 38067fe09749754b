"""The supersession graph: per key, who wrote what, which write replaced which, and what every reply said.

An edge w -> v stands for each v in the context of w, over all *possibly effective* writes (ok and info). Servers' clocks
play no part: a clock that covers values which the client never saw is the bug that is looked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from history.history import History, Operation


class Reply(msgspec.Struct, frozen=True):
    """The ids that one answer carried: an ok `get`, or the siblings that an ok write gave back."""

    op: Operation
    ids: tuple[Any, ...]

    @property
    def end(self) -> int:
        return self.op.end


class Graph(msgspec.Struct, kw_only=True):
    """All that clients did to one key. Filled by `survey`, then only read."""

    key: Any
    puts: dict[Any, Operation] = msgspec.field(default_factory=dict[Any, Operation])
    """Every put by its id, failed ones too, in the order of invocation."""
    contexts: dict[Any, tuple[Any, ...]] = msgspec.field(default_factory=dict[Any, tuple[Any, ...]])
    """Id of each possibly effective put -> ids that it replaced. Edges lead to earlier puts only, so there is no cycle."""
    deletes: list[Operation] = msgspec.field(default_factory=list[Operation])
    """Possibly effective deletes."""
    replies: list[Reply] = msgspec.field(default_factory=list[Reply])
    """In the order of invocation."""
    final: Operation | None = None
    """The last successful read after the heal, through the cluster."""
    final_ids: set[Any] = msgspec.field(default_factory=set[Any])
    """What all successful final reads returned together."""
    final_tried: bool = False
    truncated: bool = False
    """Whether a reply ever said that the key's clock had lost entries."""

    def closure(self, starts: Iterable[Any]) -> set[Any]:
        """Anc: the starts and all that they cover."""
        contexts = self.contexts
        seen = set(starts)
        todo = list(seen)
        while todo:
            for id in contexts.get(todo.pop(), ()):
                if id not in seen:
                    seen.add(id)
                    todo.append(id)
        return seen

    def covers(self, write: Operation) -> tuple[Any, ...]:
        """What a possibly effective put or delete replaces directly."""
        if write.f == "put":
            return self.contexts.get(write.invoke.value, ())
        return tuple(v for v in context(write) if v in self.puts and self.puts[v].index < write.index)

    def covered(self) -> dict[Any, Operation]:
        """Id -> of the acknowledged writes that cover it, directly or not, the one that was acknowledged first."""
        writes = [op for _, op in self.acknowledged()] + [d for d in self.deletes if d.type == "ok"]
        found: dict[Any, Operation] = {}
        for write in sorted(writes, key=lambda w: w.end):
            todo = list(self.covers(write))
            while todo:
                id = todo.pop()
                if id not in found:
                    found[id] = write
                    todo += self.contexts.get(id, ())
        return found

    @property
    def expires(self) -> bool:
        """Whether a put of the key may have expired: a look that misses it says nothing then."""
        return any(put.invoke.meta.get("ttl_seconds") for put in self.puts.values())

    def acknowledged(self) -> Iterator[tuple[Any, Operation]]:
        for id, put in self.puts.items():
            if put.type == "ok":
                yield id, put


class Descent:
    """Who descends from whom, asked again and again of one key.

    For each ancestor that is asked about, writes known to descend from it and known not to are remembered, so that each
    ancestor costs one walk over the graph in all, however many questions follow.
    """

    def __init__(self, graph: Graph) -> None:
        self._contexts = graph.contexts
        self._index = {id: op.index for id, op in graph.puts.items()}
        self._yes: dict[Any, set[Any]] = {}
        self._no: dict[Any, set[Any]] = {}

    def __call__(self, write: Any, ancestor: Any) -> bool:
        """Whether `write` covers `ancestor`, directly or through others."""
        if ancestor not in self._index or write not in self._contexts:
            return False
        yes = self._yes.setdefault(ancestor, {ancestor})
        no = self._no.setdefault(ancestor, set())
        if write in yes or write in no:
            return write in yes
        floor = self._index[ancestor]
        path: list[tuple[Any, Iterator[Any]]] = [(write, iter(self._contexts[write]))]
        while path:
            at, rest = path[-1]
            for v in rest:
                if v in yes:
                    yes.update(w for w, _ in path)
                    return True
                if v not in no and self._index[v] > floor:
                    path.append((v, iter(self._contexts.get(v, ()))))
                    break
            else:
                no.add(at)
                path.pop()
        return False


def context(write: Operation) -> tuple[Any, ...]:
    """The ids whose context a put or delete used."""
    return tuple(write.invoke.meta.get("context") or ())


class Reused(Exception):
    """Two puts of a key wrote the same id: nothing can be told apart."""


def survey(history: History) -> dict[Any, Graph]:
    """The graph of every key that a client touched. Raises Reused."""
    graphs: dict[Any, Graph] = {}
    for op in history.client:
        f = op.f
        if f not in ("put", "delete", "get"):
            continue
        graph = graphs.get(op.key)
        if graph is None:
            graph = graphs[op.key] = Graph(key=op.key)
        done = op.complete
        if f == "put":
            _put(graph, op)
        elif f == "delete" and op.possible:
            graph.deletes.append(op)
        elif f == "get" and op.invoke.meta.get("final"):
            graph.final_tried = True
            if done is not None and done.type == "ok":
                graph.final = op
                graph.final_ids.update(done.value or ())
        if done is not None and done.type == "ok":
            returned = done.value if f == "get" else done.meta.get("returned")
            if returned is not None:
                graph.replies.append(Reply(op, tuple(returned)))
            if done.meta.get("truncated"):
                graph.truncated = True
    return graphs


def _put(graph: Graph, op: Operation) -> None:
    id = op.invoke.value
    if id in graph.puts:
        raise Reused(
            f"key {graph.key!r}: id {id!r} was put twice (events {graph.puts[id].index} and {op.index})"
        )
    if op.possible:
        # Only what was put before can have been read. Any other id is a phantom, which `lost_writes` reports.
        graph.contexts[id] = tuple(v for v in dict.fromkeys(context(op)) if v in graph.puts)
    graph.puts[id] = op
