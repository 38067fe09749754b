"""What a checker says: valid, invalid or unknown, and the smallest evidence that convinces."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Protocol, cast

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

    `name` is one of: session (one process did the source before the destination), read-from (the destination
    returned what the source wrote), superseded (the source covers the destination), real-time (the source was over
    before the destination began), observed (the destination saw, or should have seen, what the source did).
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
    evidence: dict[str, Any] = {}


ANOMALIES_MAX = 20


class Checker(Protocol):
    @property
    def name(self) -> str: ...

    def check(self, history: History) -> Verdict: ...


def promised(history: History, checker: str) -> bool:
    """Whether the header declares the guarantee that this checker judges."""
    return bool(history.header.guarantees.get(checker))


def terms(history: History, checker: str) -> dict[str, Any]:
    """The terms of a guarantee that has some; empty where it has none or was not given."""
    given = history.header.guarantees.get(checker)
    return cast(dict[str, Any], given) if isinstance(given, dict) else {}


def conclude(
    history: History,
    checker: str,
    *,
    anomalies: Sequence[Anomaly] = (),
    undecided: str = "",
    evidence: dict[str, Any] | None = None,
    judged: bool | None = None,
) -> Verdict:
    """Invalid with any anomaly, else unknown with a reason to be, else valid. `anomalies` worst first.

    A measurement (`judged` False) says what the verdict would have been. `judged` None: as the header promises.
    """
    if anomalies:
        more = f" (and {len(anomalies) - 1} more)" if len(anomalies) > 1 else ""
        valid, reason = Valid.INVALID, anomalies[0].sentence + more
    else:
        valid, reason = (Valid.UNKNOWN, undecided) if undecided else (Valid.VALID, "")
    return Verdict(
        checker=checker,
        valid=valid,
        judged=promised(history, checker) if judged is None else judged,
        reason=reason,
        anomalies=tuple(anomalies[:ANOMALIES_MAX]),
        evidence=evidence or {},
    )


def compose(verdicts: list[Verdict]) -> Valid:
    """The verdict of a whole run. Unjudged verdicts do not count; with none judged the run is unknown."""
    judged = [v.valid for v in verdicts if v.judged]
    return next((p for p in PRECEDENCE if p in judged), Valid.UNKNOWN)
