"""Node logs by the run's own time: which lines were written around a witness."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

_SIMULATED = re.compile(r"^\s*([+-]?\d{1,9}\.\d+)\s+")
_REAL = re.compile(r"^(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?)(Z|[+-]\d\d:?\d\d)?\s*")
_READY = re.compile(r"\b(listening|ready|started)\b", re.IGNORECASE)


class Line(msgspec.Struct, frozen=True, order=True):
    """One line; times in nanoseconds since the run began."""

    at_ns: int
    node: str
    text: str


class Logs(msgspec.Struct, frozen=True):
    """All lines of all nodes by time. `aligned` tells that wall time had to be matched to the run's own."""

    lines: tuple[Line, ...] = ()
    aligned: bool = False

    def between(self, start_ns: int, end_ns: int) -> list[Line]:
        return [line for line in self.lines if start_ns <= line.at_ns <= end_ns]


def read(logs: Mapping[str, str]) -> Logs:
    """Lines that begin with seconds since the start, or with a UTC time; others belong to the line before them.

    The run's beginning is in no real log: it is taken to be when the last node first said that it was ready.
    """
    simulated: list[Line] = []
    real: list[Line] = []
    ready: list[int] = []
    for node in sorted(logs):
        at, found = 0, simulated
        first: int | None = None
        said: int | None = None
        for whole in logs[node].splitlines():
            rest = whole
            if (match := _REAL.match(whole)) and (moment := _unix_ns(match)) is not None:
                at, found, rest = moment, real, whole[match.end() :]
                first = at if first is None else first
                if said is None and _READY.search(rest):
                    said = at
            elif found is simulated and (match := _SIMULATED.match(whole)):
                at, found, rest = round(float(match[1]) * 1e9), simulated, whole[match.end() :]
            if rest.strip():
                found.append(Line(at, node, rest.removeprefix(f"{node} ").rstrip()))
        if first is not None:
            ready.append(first if said is None else said)
    if not real:
        return Logs(_ordered(simulated))
    began = max(ready)
    return Logs(_ordered([*simulated, *(Line(x.at_ns - began, x.node, x.text) for x in real)]), aligned=True)


def _ordered(lines: Sequence[Line]) -> tuple[Line, ...]:
    return tuple(sorted(lines, key=lambda line: line.at_ns))


def _unix_ns(match: re.Match[str]) -> int | None:
    try:
        stamp = datetime.fromisoformat(match[1].replace(",", ".") + (match[2] or "").replace("Z", ""))
    except ValueError:
        return None
    moment = stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1_000
