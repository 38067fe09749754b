"""The smallest thing that convinces: a few operations, why each is needed, and how they hang together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

from checkers.supersession import Graph
from checkers.verdict import Anomaly, Edge
from history.history import History, Operation

OPERATIONS_MAX = 8
IDS_SHOWN_MAX = 6

MEANING = {
    "superseded": "the arrow's source replaced its target: it carried it in its causal context",
    "read-from": "the target returned what the source had written",
    "session": "one client did both, in this order",
    "real-time": "the source had ended before the target began",
    "observed": "the target is where we looked for the source's effect",
}
"""What each relation between two operations of a witness means."""

Step = tuple[Operation, str]
"""An operation and in a few words why the witness needs it."""

Link = tuple[Operation, str, Operation]
"""Source, name of the relation (checkers.verdict.Edge), destination."""


def anomaly(kind: str, key: Any, sentence: str, steps: Iterable[Step], links: Iterable[Link] = ()) -> Anomaly:
    """Steps are given most needed first: beyond eight operations the last ones are left out, with their links."""
    why: dict[int, str] = {}
    for op, reason in steps:
        if op.index in why:
            why[op.index] = why[op.index] if reason in why[op.index] else f"{why[op.index]}; {reason}"
        elif len(why) < OPERATIONS_MAX:
            why[op.index] = reason
    order = sorted(why)
    edges = dict.fromkeys(
        Edge(source.index, destination.index, name)
        for source, name, destination in links
        if source.index in why and destination.index in why and source.index != destination.index
    )
    return Anomaly(
        kind=kind,
        key=key,
        sentence=sentence,
        witness=tuple(order),
        why=tuple(why[index] for index in order),
        edges=tuple(edges),
    )


def introduced(graph: Graph | None, named: Iterable[Any], why: str) -> list[Step]:
    """The writes that a witness names, as steps of it."""
    if graph is None:
        return []
    return [(graph.puts[id], why) for id in named if id in graph.puts]


def ids(values: Iterable[Any]) -> str:
    """A short list of ids for a sentence.

    >>> ids([3, 1]), ids([]), ids(range(9))
    ('3, 1', 'nothing', '0, 1, 2, 3, 4, 5 and 3 more')
    """
    known = [str(v) for v in values]
    if not known:
        return "nothing"
    more = len(known) - IDS_SHOWN_MAX
    return ", ".join(known[:IDS_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")


def _operations(anomaly: Anomaly, history: History) -> list[Operation]:
    wanted = set(anomaly.witness)
    return [op for op in history.operations if op.index in wanted]


def describe(op: Operation, key: Any = None) -> str:
    """One operation in a line: what was asked and what came of it. `key` picks one key of an observation.

    >>> from history.text import parse
    >>> [op] = parse('''0 invoke put 4 key=x context=[1,2]
    ... 0 info put key=x''').operations
    >>> describe(op)
    'put x 4 over [1, 2] -> info'
    """
    words = [op.f]
    if op.key is not None:
        words.append(str(op.key))
    asked, done = op.invoke, op.complete
    if asked.value is not None and not isinstance(asked.value, dict):
        words.append(str(asked.value))
    if "context" in asked.meta:
        words.append(f"over [{ids(asked.meta['context'])}]" if asked.meta["context"] else "blind")
    if asked.meta.get("final"):
        words.append("(final)")
    if stage := asked.meta.get("stage"):
        words.append(f"(stage {stage})")
    words += ["->", op.type]
    if done is not None and done.type == "ok":
        words += _answer(op, key)
    return " ".join(words)


def _answer(op: Operation, key: Any) -> list[str]:
    answer: Any = op.value
    match op.f:
        case "get" | "read":
            return [f"[{ids(answer or ())}]"]
        case "put" | "delete" if "returned" in op.meta:
            return [f"[{ids(op.meta['returned'])}]"]
        case "replica":
            tombstone = ["and a tombstone"] if key in (op.meta.get("deleted") or ()) else []
            return [f"{key}: [{ids(answer.get(key) or ())}]", *tombstone]
        case "hints" if key is None:
            waiting = Counter(str(t) for t, _, _ in answer)
            return [", ".join(f"{n} for {t}" for t, n in sorted(waiting.items())) or "none"]
        case "hints":
            return ["; ".join(f"for {t}: {k} [{ids(held)}]" for t, k, held in answer if k == key) or "none"]
        case "remove" if "observed" in op.meta:
            return ["(was there)" if op.meta["observed"] else "(was not there)"]
        case _:
            return []


def lines(anomaly: Anomaly, history: History) -> list[str]:
    """The witness for a terminal: a line for each operation, then the relations between them."""
    why = dict(zip(anomaly.witness, anomaly.why, strict=True))
    rows = [
        (
            f"{op.index:>6}",
            f"{op.process}" + (f"@{op.node}" if op.node else ""),
            describe(op, anomaly.key),
            why[op.index],
        )
        for op in _operations(anomaly, history)
    ]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    told = [
        f"{index}  {who:<{widths[1]}}  {what:<{widths[2]}}  {reason}".rstrip()
        for index, who, what, reason in rows
    ]
    arrows = [f"        {e.source} -{e.name}-> {e.destination}" for e in anomaly.edges]
    wide = max((len(arrow) for arrow in arrows), default=0)
    # Each meaning once: the first arrow of its kind says it.
    first = {e.name: i for i, e in reversed(list(enumerate(anomaly.edges)))}
    return told + [
        f"{arrow:<{wide}}  {MEANING.get(e.name, '')}".rstrip() if first[e.name] == i else arrow
        for i, (arrow, e) in enumerate(zip(arrows, anomaly.edges, strict=True))
    ]


def graph(anomaly: Anomaly, history: History) -> Any:
    """The witness as a networkx.MultiDiGraph: nodes are op indexes, with `label`, `why`, `process`, `f` and `type`."""
    import networkx  # noqa: PLC0415  only pictures need it, and loading it would slow every start of the command

    drawn: Any = cast(Any, networkx).MultiDiGraph()  # its stubs leave attributes unknown
    why = dict(zip(anomaly.witness, anomaly.why, strict=True))
    for op in _operations(anomaly, history):
        drawn.add_node(
            op.index,
            label=describe(op, anomaly.key),
            why=why[op.index],
            process=str(op.process),
            node=op.node,
            f=op.f,
            type=op.type,
        )
    for edge in anomaly.edges:
        drawn.add_edge(edge.source, edge.destination, key=edge.name, name=edge.name)
    return drawn


def layout(anomaly: Anomaly, history: History) -> dict[str, Any]:
    """The witness as a picture's data: time runs to the right, each process has a lane of its own.

    `nodes`: index, x and y from 0 to 1, and the attributes of `graph`; `edges`: source, destination, name; `lanes`: the
    process of each lane with its y.
    """
    drawn = graph(anomaly, history)
    order = sorted(drawn.nodes)
    lanes = list(dict.fromkeys(drawn.nodes[index]["process"] for index in order))
    across = {index: _share(i, len(order)) for i, index in enumerate(order)}
    down = {process: _share(i, len(lanes)) for i, process in enumerate(lanes)}
    return {
        "nodes": [
            {"index": i, "x": across[i], "y": down[drawn.nodes[i]["process"]], **drawn.nodes[i]}
            for i in order
        ],
        "edges": [
            {"source": source, "destination": destination, "name": name}
            for source, destination, name in sorted(drawn.edges(keys=True))
        ],
        "lanes": [{"process": process, "y": y} for process, y in down.items()],
    }


def _share(i: int, n: int) -> float:
    return round((i + 0.5) / n, 4)
