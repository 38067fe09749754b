"""What each client was shown hangs together: read your writes, monotonic reads, monotonic writes, writes follow reads.

Terry et al., "Session guarantees for weakly consistent replicated data", 1994; per key, and with siblings: a read shows a
value when that, or one that covers it, is among the siblings. Judged between a write (or an earlier reply) and a read whose
home replicas must have overlapped, and only for reads that began after it was over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from checkers.supersession import Descent, Graph, Reused, survey
from checkers.verdict import Anomaly, Verdict, conclude, promised, terms
from checkers.witness import Link, Step, anomaly, ids
from history.history import History, Operation
from history.op import Process

RANK = ("read-your-writes", "monotonic-reads", "monotonic-writes", "writes-follow-reads", "stale-read")
"""Kinds of anomaly, worst first."""

EXAMINED_MAX = 1_000
"""Reads of one key that lack something and are asked for monotonic writes and writes that follow reads: each costs a walk
over the graph. A system that keeps its promise has none."""


class Terms(msgspec.Struct, frozen=True):
    """How many of a key's `n` home replicas an operation reaches for certain that says nothing itself."""

    n: int = 0
    r: int = 1
    w: int = 1
    pr: int = 1
    pw: int = 1
    strict: bool = False
    """Whether only home replicas answer, so that R and W count as primaries too."""
    blocking: bool = True
    """Whether what a read returned stands on as many home replicas before the client sees it."""
    regular: bool = False
    """Whether a read shows what anybody was told before it began, not only its own session."""

    def reach(self, op: Operation) -> int:
        asked = op.invoke.meta
        if op.f == "get":
            any_, primaries, r, pr = asked.get("r"), asked.get("pr"), self.r, self.pr
            if asked.get("final"):
                return self.n or 1
        else:
            any_, primaries, r, pr = asked.get("w"), asked.get("pw"), self.w, self.pw
        certain = pr if primaries is None else primaries
        return max(certain, r if any_ is None else any_) if self.strict else certain


class Counts(msgspec.Struct):
    """Evidence, added up over the keys."""

    reads: int = 0
    reads_judged: int = 0
    """Reads that had to show something."""
    sessions: int = 0
    """(process, key) pairs with an answer."""
    unexamined: int = 0
    truncated_keys: int = 0
    truncated_anomalies: int = 0
    """What would be anomalies if their keys' clocks had never lost entries."""


class Must(msgspec.Struct, frozen=True):
    """A value that has to be shown from now on, since `told` was over; `reach` home replicas hold it."""

    id: Any
    reach: int
    told: Operation


class Sessions:
    name = "sessions"

    def check(self, history: History) -> Verdict:
        try:
            graphs = survey(history)
        except Reused as problem:
            return conclude(history, self.name, undecided=str(problem))
        agreed = msgspec.convert(terms(history, self.name), Terms)
        if not promised(history, self.name):
            agreed = Terms(
                regular=True
            )  # a measurement: every operation as if it reached the one replica that there is
        counts = Counts()
        found: list[Anomaly] = []
        for graph in graphs.values():
            wrong = list(_Judge(graph, agreed, counts).anomalies())
            if graph.truncated:
                counts.truncated_keys += 1
                counts.truncated_anomalies += len(wrong)
            else:
                found += wrong
        found.sort(key=lambda a: (RANK.index(a.kind), a.witness))
        return conclude(
            history,
            self.name,
            anomalies=found,
            undecided="" if counts.reads_judged else "no read began after something that it had to show",
            evidence={
                **msgspec.to_builtins(counts),
                "kinds": {kind: n for kind in RANK if (n := sum(a.kind == kind for a in found))},
            },
        )


class Frontier:
    """What has to be shown, without what something else covers that has to be shown as surely."""

    def __init__(self, covers: Descent) -> None:
        self._covers = covers
        self.musts: dict[Any, Must] = {}

    def add(self, must: Must) -> None:
        held = self.musts.get(must.id)
        if held is not None and held.reach >= must.reach:
            return
        covers = self._covers
        others = [other for other in self.musts.values() if other.id != must.id]
        if any(other.reach >= must.reach and covers(other.id, must.id) for other in others):
            return
        for other in others:
            if other.reach <= must.reach and covers(must.id, other.id):
                del self.musts[other.id]
        self.musts[must.id] = must


class _Judge:
    """One key, event by event."""

    def __init__(self, graph: Graph, agreed: Terms, counts: Counts) -> None:
        self._graph = graph
        self._terms = agreed
        self._counts = counts
        self._covers = Descent(graph)
        self._sessions: dict[Process, Frontier] = {}
        self._all = Frontier(self._covers)
        self._owed: dict[Any, list[Must]] = {}
        """Put -> what its session had been shown or written before, and it does not cover."""
        self._excused = _deleted(graph)
        self._removed = _removed(graph)
        self._reported: set[tuple[str, Any]] = set()
        self._examined = 0

    def anomalies(self) -> Iterator[Anomaly]:
        began: dict[int, list[Must]] = {}
        for _, step, op in sorted(_steps(self._graph), key=lambda s: s[:2]):
            if step == ANSWERED:
                if op.f == "get":
                    yield from self._read(op, began.pop(op.index))
                self._tell(op)
            elif op.f == "get":
                began[op.index] = list(self._all.musts.values())
            elif op.f == "put" and op.possible:
                self._owe(op)
        self._counts.sessions += len(self._sessions)

    def _known(self, op: Operation) -> list[Any]:
        """The ids of an answer that somebody may have put by then; others are phantoms, which are not judged here."""
        shown = op.value if op.f == "get" else op.meta.get("returned")
        graph = self._graph
        return [v for v in dict.fromkeys(shown or ()) if v in graph.contexts and graph.puts[v].index < op.end]

    def _tell(self, op: Operation) -> None:
        """After this answer its session, and all that begins later, has to be shown no less."""
        reach = self._terms.reach(op)
        session = self._sessions.setdefault(op.process, Frontier(self._covers))
        shown = self._known(op) if op.f != "get" or self._terms.blocking else []
        if op.f == "put":
            shown.append(op.invoke.value)
        for id in shown:
            must = Must(id, reach, op)
            session.add(must)
            self._all.add(must)

    def _owe(self, put: Operation) -> None:
        session = self._sessions.get(put.process)
        if session is None or not session.musts:
            return
        before = self._graph.contexts[put.invoke.value]
        owed = [m for m in session.musts.values() if not self._shows(before, m.id)]
        if owed:
            self._owed[put.invoke.value] = owed

    def _shows(self, shown: Iterable[Any], id: Any) -> bool:
        return any(v == id or self._covers(v, id) for v in shown)

    def _binds(self, must: Must, reach: int, read: Operation) -> bool:
        excused = self._excused.get(must.id)
        overlap = must.reach + reach > self._terms.n
        return overlap and (excused is None or excused > read.end)

    def _new(self, kind: str, subject: Any) -> bool:
        if (kind, subject) in self._reported:
            return False
        self._reported.add((kind, subject))
        return True

    def _read(self, read: Operation, began: list[Must]) -> Iterator[Anomaly]:
        shown = self._known(read)
        reach = self._terms.reach(read)
        self._counts.reads += 1
        self._counts.reads_judged += any(m.reach + reach > self._terms.n for m in began)
        session = self._sessions.get(read.process)
        for must in session.musts.values() if session is not None else ():
            if self._binds(must, reach, read) and not self._shows(shown, must.id):
                put = self._graph.puts[must.id]
                kind = "read-your-writes" if put.process == read.process else "monotonic-reads"
                if self._new(kind, (read.process, must.id)):
                    yield self._lacks(kind, must, read)
        yield from self._undone(read, shown, reach)
        lacking = [m for m in began if self._binds(m, reach, read) and not self._shows(shown, m.id)]
        if lacking:
            if self._terms.regular:
                for must in lacking:
                    if self._new("stale-read", must.id):
                        yield self._lacks("stale-read", must, read)
            yield from self._out_of_order(read, shown, reach)

    def _undone(self, read: Operation, shown: list[Any], reach: int) -> Iterator[Anomaly]:
        """What is shown although a delete that was acknowledged before removed it."""
        for v in shown:
            for delete in self._removed.get(v, ()):
                if delete.end > read.index or self._terms.reach(delete) + reach <= self._terms.n:
                    continue
                own = delete.process == read.process
                if not own and not self._terms.regular:
                    continue
                kind, subject = ("read-your-writes", (read.process, v)) if own else ("stale-read", v)
                if self._new(kind, subject):
                    yield self._back(kind, v, delete, read)

    def _out_of_order(self, read: Operation, shown: list[Any], reach: int) -> Iterator[Anomaly]:
        """Puts that are shown without what their own sessions had written or been shown before."""
        if self._examined == EXAMINED_MAX:
            self._counts.unexamined += 1
            return
        self._examined += 1
        below = self._graph.closure(shown)
        for id, owed in self._owed.items():
            put = self._graph.puts[id]
            if id not in below or put.process == read.process:
                continue
            for must in owed:
                if must.told.end > read.index or must.id in below or not self._binds(must, reach, read):
                    continue
                own = self._graph.puts[must.id].process == put.process
                kind = "monotonic-writes" if own else "writes-follow-reads"
                if self._new(kind, (id, must.id)):
                    yield self._without(kind, put, must, read)

    def _lacks(self, kind: str, must: Must, read: Operation) -> Anomaly:
        put, told, key = self._graph.puts[must.id], must.told, self._graph.key
        who = "a client" if kind == "stale-read" else "it"
        had = "had put" if told is put else "had been shown"
        sentence = (
            f"get (event {read.index}) of key {key} by process {read.process} returned {ids(read.value)}, and so neither "
            f"{must.id} nor what covers it, which {who} {had} before (event {told.index})"
        )
        steps: list[Step] = [
            (read, f"does not show {must.id}"),
            (told, f"was over before, and told of {must.id}"),
        ]
        links: list[Link] = [(told, "real-time" if kind == "stale-read" else "session", read)]
        if told is not put:
            steps.append((put, f"wrote {must.id}"))
            links.append((put, "read-from", told))
        return anomaly(kind, key, sentence, steps, links)

    def _back(self, kind: str, v: Any, delete: Operation, read: Operation) -> Anomaly:
        put, key = self._graph.puts[v], self._graph.key
        sentence = (
            f"get (event {read.index}) of key {key} by process {read.process} returned {v}, "
            f"which the delete of event {delete.index} had removed before"
        )
        steps: list[Step] = [
            (read, f"shows {v} again"),
            (delete, f"acknowledged before; it removed {v}"),
            (put, f"wrote {v}"),
        ]
        own = delete.process == read.process
        links: list[Link] = [
            (delete, "session" if own else "real-time", read),
            (delete, "superseded", put),
            (put, "read-from", read),
        ]
        return anomaly(kind, key, sentence, steps, links)

    def _without(self, kind: str, put: Operation, must: Must, read: Operation) -> Anomaly:
        first, key, told = self._graph.puts[must.id], self._graph.key, must.told
        did = "had put" if kind == "monotonic-writes" else "had been shown"
        sentence = (
            f"get (event {read.index}) of key {key} shows {put.invoke.value} (event {put.index}) without {must.id}, "
            f"which process {put.process} {did} before (event {told.index})"
        )
        steps: list[Step] = [
            (read, f"shows {put.invoke.value}, or what covers it, without {must.id}"),
            (put, f"wrote {put.invoke.value}"),
            (told, f"told its session of {must.id} before"),
        ]
        links: list[Link] = [(told, "session", put), (put, "observed", read)]
        if told is not first:
            steps.append((first, f"wrote {must.id}"))
            links.append((first, "read-from", told))
        return anomaly(kind, key, sentence, steps, links)


BEGAN, ANSWERED = 0, 1


def _steps(graph: Graph) -> Iterator[tuple[int, int, Operation]]:
    """(event, which, operation): when each read and put began, and when each operation was answered."""
    for reply in graph.replies:
        if reply.op.f == "get":
            yield reply.op.index, BEGAN, reply.op
            yield reply.op.end, ANSWERED, reply.op
    for put in graph.puts.values():
        yield put.index, BEGAN, put
        if put.type == "ok":
            yield put.end, ANSWERED, put
    for delete in graph.deletes:
        if delete.type == "ok":
            yield delete.end, ANSWERED, delete


def _deleted(graph: Graph) -> dict[Any, int]:
    """Id -> event of the first delete, or put that expires, that may have removed it."""
    found: dict[Any, int] = {}
    removals = [(delete.index, graph.covers(delete)) for delete in graph.deletes]
    removals += [
        (put.index, (id,))
        for id, put in graph.puts.items()
        if id in graph.contexts and put.invoke.meta.get("ttl_seconds")
    ]
    for index, first in sorted(removals):
        todo = list(first)
        while todo:
            id = todo.pop()
            if id not in found:
                found[id] = index
                todo += graph.contexts.get(id, ())
    return found


def _removed(graph: Graph) -> dict[Any, list[Operation]]:
    """Id -> the acknowledged deletes that removed it."""
    found: dict[Any, list[Operation]] = {}
    for delete in graph.deletes:
        if delete.type == "ok":
            for id in graph.closure(graph.covers(delete)):
                found.setdefault(id, []).append(delete)
    return found
