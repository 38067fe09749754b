"""What a checker says: valid, invalid or unknown, and the smallest evidence that convinces."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol

import msgspec

from history.history import History


class Valid(StrEnum):
    VALID = "valid"
    INVALID = "invalid"
    UNKNOWN = "unknown"
    HARNESS_ERROR = "harness-error"


PRECEDENCE = (Valid.INVALID, Valid.HARNESS_ERROR, Valid.UNKNOWN, Valid.VALID)
"""When verdicts compose the first of these that occurs wins: an unknown never hides a failure."""


class Edge(msgspec.Struct, frozen=True):
    """A named relation between two operations of a witness, by their invocations' indexes.

    `name` is one of: session, read-from, superseded (the source covers the destination), real-time, observed.
    """

    source: int
    destination: int
    name: str


class Anomaly(msgspec.Struct, frozen=True, kw_only=True):
    """One contradiction: `kind` (for fingerprints), the key, a sentence, and 1 to 8 operations that show it.

    `witness` holds op indexes (of lines in the history) in order; `why[i]` says in a few words why operation i of the
    witness is needed.
    """

    kind: str
    key: Any = None
    sentence: str
    witness: tuple[int, ...] = ()
    why: tuple[str, ...] = ()
    edges: tuple[Edge, ...] = ()


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`judged` is False where the header declared no such guarantee: then the result is a measurement and
    never makes a run invalid. `reason` is one sentence, present unless valid. `anomalies` worst first, at most
    `ANOMALIES_MAX` kept; `evidence` holds counts and small lists, JSON-ready."""

    checker: str
    valid: Valid
    judged: bool = True
    reason: str = ""
    anomalies: tuple[Anomaly, ...] = ()
    evidence: dict[str, Any] = {}  # noqa: RUF012  msgspec copies an empty mutable default per instance


ANOMALIES_MAX = 20


class Checker(Protocol):
    @property
    def name(self) -> str: ...

    def check(self, history: History) -> Verdict: ...


def compose(verdicts: list[Verdict]) -> Valid:
    """The verdict of a whole run. Unjudged verdicts do not count; with none judged the run is unknown."""
    judged = [v.valid for v in verdicts if v.judged]
    return next((p for p in PRECEDENCE if p in judged), Valid.UNKNOWN)
