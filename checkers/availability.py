"""After the heal every key can be read; and something succeeded at all. Everything else about success and time is measured.

Shares of ok, fail and info count what clients asked for; latencies also count the store requests inside composite operations.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from typing import Any

from checkers.verdict import ANOMALIES_MAX, Anomaly, Verdict, conclude
from checkers.witness import Step, anomaly
from history.history import History, Operation
from history.op import NEMESIS, PROBE

_NOT_CLIENTS = (NEMESIS, PROBE)
NO_PHASE = "run"
"""What the time before the first `phase` event is called; all of it where there is none."""


class Availability:
    name = "availability"

    def check(self, history: History) -> Verdict:
        phases = _Phases(history)
        outcomes: dict[str, Counter[str]] = {}
        by_node: dict[str, Counter[str]] = {}
        latencies: dict[tuple[str, str], list[int]] = {}
        final: dict[Any, list[Operation]] = {}
        succeeded = 0
        for op in history.client:
            phase = phases.of(op.index)
            done = op.complete
            if done is not None and op.type != "info":
                latencies.setdefault((phase, op.f), []).append(max(0, done.time - op.invoke.time))
            if op.parent is not None:
                continue
            outcomes.setdefault(phase, Counter())[op.type] += 1
            by_node.setdefault(op.node or "any", Counter())[op.type] += 1
            succeeded += op.type == "ok"
            if op.invoke.meta.get("final"):
                final.setdefault(op.key, []).append(op)
        unavailable = {key: tries for key, tries in final.items() if all(op.type != "ok" for op in tries)}
        reason = ""
        if succeeded == 0:
            reason = "nothing succeeded, so nothing was tested"
        elif not final:
            reason = "nothing was read after the heal"
        return conclude(
            history,
            self.name,
            # A run in which nothing ever worked says nothing about the time after the heal.
            anomalies=[_unavailable(key, tries) for key, tries in unavailable.items()] if succeeded else [],
            undecided=reason,
            evidence={
                "ok": succeeded,
                "phases": {phase: _shares(counts) for phase, counts in outcomes.items()},
                "nodes": {node: _shares(by_node[node]) for node in sorted(by_node)},
                "latency_ms": _latencies(latencies),
                "without_success": phases.longest_without_success(),
                "final_keys": len(final),
                "unavailable": [str(key) for key in unavailable][:ANOMALIES_MAX],
            },
        )


class _Phases:
    """Which phase an event belongs to, and how long each went without a success."""

    def __init__(self, history: History) -> None:
        self._history = history
        opened = sorted((index, name) for name, index in history.phases.items())
        self._starts = [index for index, _ in opened]
        self._names = [NO_PHASE] + [name for _, name in opened]

    def of(self, index: int) -> str:
        return self._names[bisect_right(self._starts, index)]

    def longest_without_success(self) -> dict[str, dict[str, Any]]:
        """Phase -> the longest time in which clients asked and none was told ok: its length, start and number of failures.

        It runs from a success, or the first invocation of the phase, to the next success or the last completion.
        """
        longest: dict[str, dict[str, Any]] = {}
        since: dict[str, int] = {}
        failures: Counter[str] = Counter()
        for event in self._history.events:
            if event.process in _NOT_CLIENTS:
                continue
            phase = self.of(event.index)
            start = since.setdefault(phase, event.time)
            failures[phase] += event.type in ("fail", "info")
            if event.type == "invoke":
                continue
            length_ms = round(max(0, event.time - start) / 1e6, 3)
            if length_ms >= longest.get(phase, {"length_ms": -1})["length_ms"]:
                longest[phase] = {
                    "length_ms": length_ms,
                    "start_ms": round(start / 1e6, 3),
                    "not_ok": failures[phase],
                }
            if event.type == "ok":
                since[phase] = event.time
                failures[phase] = 0
        return longest


def _shares(counts: Counter[str]) -> dict[str, Any]:
    """Numbers of ok, fail and info, and the share of ok."""
    total = counts.total()
    return {
        **{kind: counts[kind] for kind in ("ok", "fail", "info")},
        "ok_share": round(counts["ok"] / total, 4),
    }


def _latencies(latencies: dict[tuple[str, str], list[int]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Phase -> f -> number and percentiles in milliseconds, of operations that were answered."""
    told: dict[str, dict[str, dict[str, Any]]] = {}
    for (phase, f), durations in latencies.items():
        durations.sort()
        told.setdefault(phase, {})[f] = {
            "count": len(durations),
            "p50": _percentile(durations, 50),
            "p99": _percentile(durations, 99),
            "max": _percentile(durations, 100),
        }
    return told


def _percentile(ordered_ns: list[int], percent: int) -> float:
    """The smallest duration that at least so many percent do not exceed, in milliseconds.

    >>> [_percentile([1_000_000, 2_000_000, 3_000_000, 4_000_000], p) for p in (50, 99, 100)]
    [2.0, 4.0, 4.0]
    """
    rank = max(1, -(-len(ordered_ns) * percent // 100))
    return round(ordered_ns[rank - 1] / 1e6, 3)


def _unavailable(key: Any, tries: list[Operation]) -> Anomaly:
    steps: list[Step] = [
        (tries[-1], f"the last of {len(tries)} attempts after the heal, none of which succeeded")
    ]
    steps += [(op, "failed") for op in tries[:2]]
    error = next((op.complete.error for op in reversed(tries) if op.complete and op.complete.error), None)
    said = f" ({error})" if error else ""
    sentence = f"key {key} could not be read after the heal in {len(tries)} attempts{said}"
    return anomaly("unavailable-after-heal", key, sentence, steps)
