"""What the probe saw of single nodes after the heal, before and after the final reads."""

from __future__ import annotations

from typing import Any

import msgspec

from history.history import History, Operation
from history.op import PROBE

STAGES = ("quiet", "read")
"""After the heal and the wait, before any final read; after every key was read at R = N."""


class Stage(msgspec.Struct, frozen=True):
    """Each node's last answered observation of a stage, by node."""

    replicas: dict[str, Operation]
    hints: dict[str, Operation]

    def holds(self, node: str, key: Any) -> list[Any]:
        """The ids that an observed node holds of a key, as a home replica."""
        return list(self.replicas[node].value.get(key) or ())

    def deleted(self, node: str, key: Any) -> bool:
        """Whether an observed node holds a tombstone of a key."""
        return key in (self.replicas[node].meta.get("deleted") or ())


def stage(history: History, name: str) -> Stage:
    return Stage(
        {o.node: o for o in history.observed("replica", name) if o.node is not None},
        {o.node: o for o in history.observed("hints", name) if o.node is not None},
    )


def last_stage(history: History) -> tuple[str, Stage]:
    """The last stage at which any node was looked at; an empty one where none was."""
    for name in reversed(STAGES):
        seen = stage(history, name)
        if seen.replicas or seen.hints:
            return name, seen
    return "", Stage({}, {})


def homes(history: History) -> dict[Any, list[str]]:
    """Key -> its home replicas, as last observed; empty where the ring was not asked."""
    seen = history.observed("homes")
    return dict(seen[-1].value) if seen else {}


def unseen_hints(history: History) -> list[str]:
    """Nodes that were asked for their hints after the heal and never answered."""
    asked = [
        o for o in history.operations if o.process == PROBE and o.f == "hints" and o.invoke.meta.get("stage")
    ]
    answered = {o.node for o in asked if o.type == "ok"}
    return sorted({o.node for o in asked if o.node is not None} - answered)


def pending_hints(history: History) -> dict[Any, Operation]:
    """Key -> the observation that last showed a hint for it pending, by each holder's last look after the heal."""
    last: dict[str | None, Operation] = {}
    for name in STAGES:
        for o in history.observed("hints", name):
            last[o.node] = o
    return {key: o for o in last.values() for _, key, _ in o.value}
