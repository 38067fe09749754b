"""What Prometheus would have said: alert rules, read from the very file that ships, over samples of a finished run.

Understood is what our rules need, and nothing else is guessed at:

    EXPR      = VECTOR OP NUMBER                     OP: > >= < <= == !=
    VECTOR    = AGGREGATE [by (LABEL, ...)] (INNER) | INNER     AGGREGATE: max min sum avg; `by` before or after
    INNER     = METRIC [{LABEL="VALUE", ...}] | rate(METRIC[{...}][RANGE]) | increase(...)

An alert is pending from the first sample at which its expression holds, and fires once it has held for as long as `for` says;
each combination of labels by itself. A node that does not answer has no samples, and so takes no part.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import msgspec
import yaml

from harness.samples import PERIOD_NS, Sample
from harness.settings import duration_seconds

Labels = tuple[tuple[str, str], ...]
"""Sorted (label, value) pairs."""

Series = dict[tuple[str, Labels], list[tuple[int, float]]]
"""(time in ns, value) in order, by metric and labels; the label `instance` names the node."""

STALE_NS = 3_000_000_000
"""A sample older than this says nothing any more."""

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
_AGGREGATES: dict[str, Callable[[list[float]], float]] = {
    "max": max,
    "min": min,
    "sum": sum,
    "avg": lambda values: sum(values) / len(values),
}

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_SELECTOR = re.compile(rf"({_NAME})\s*(?:\{{([^}}]*)\}})?\s*(?:\[(\w+)\])?")
_MATCHER = re.compile(rf'\s*({_NAME})\s*(=|!=)\s*"((?:[^"\\]|\\.)*)"\s*')
_BY = r"by\s*\(([^()]*)\)"
_AGGREGATE = re.compile(rf"({'|'.join(_AGGREGATES)})\s*(?:{_BY}\s*)?\((.*?)\)\s*(?:{_BY})?", re.S)
_RATE = re.compile(r"(rate|increase)\s*\((.*)\)", re.S)
# An operator within a matcher is followed by a quote, never by nothing but a number.
_COMPARISON = re.compile(r"(.*?)(>=|<=|==|!=|>|<)\s*([0-9.eE+-]+)\s*", re.S)


class BadRule(ValueError):
    """Not a rule that is understood here; the message says which and why."""


class Expression(msgspec.Struct, frozen=True, kw_only=True):
    """A comparison of one vector with a number."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...] = ()
    """(label, `=` or `!=`, value)."""
    function: str = ""
    """`rate`, `increase` or none, over `range_ns`."""
    range_ns: int = 0
    aggregate: str = ""
    by: tuple[str, ...] = ()
    compare: str
    threshold: float


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    alert: str
    expr: Expression
    for_ns: int = 0
    labels: dict[str, str] = {}
    summary: str = ""


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of time in which a rule's expression held for long enough. Times in ns of the samples."""

    rule: Rule
    labels: dict[str, str]
    pending_ns: int
    fired_ns: int
    resolved_ns: int | None
    """None: it fired until the last sample."""
    highest: float
    """The largest value of the expression's left side while it held."""

    @property
    def summary(self) -> str:
        return re.sub(
            r"\{\{\s*\$labels\.(\w+)\s*\}\}", lambda m: self.labels.get(m[1], ""), self.rule.summary
        )


def shipped() -> Path:
    """The rules file that comes with the store."""
    return Path(str(files("store") / "monitoring" / "rules.yaml"))


def read(path: Path) -> list[Rule]:
    """The rules of a Prometheus rules file. Raises BadRule."""
    content: Any = yaml.safe_load(path.read_text())
    rules: list[Rule] = []
    for group in content["groups"]:
        for found in group["rules"]:
            rule = cast(Mapping[str, Any], found)
            try:
                rules.append(
                    Rule(
                        alert=rule["alert"],
                        expr=parse(rule["expr"]),
                        for_ns=int(duration_seconds(rule.get("for", 0)) * 1e9),
                        labels=rule.get("labels", {}),
                        summary=rule.get("annotations", {}).get("summary", ""),
                    )
                )
            except (KeyError, ValueError) as problem:
                raise BadRule(f"{path.name}: {rule.get('alert', rule)}: {problem}") from None
    return rules


def parse(text: str) -> Expression:
    """An expression of the form above. Raises BadRule.

    >>> e = parse('sum by (op) (rate(failures_total{reason!="repair"}[1m])) > 1')
    >>> (e.aggregate, e.by, e.function, e.range_ns, e.metric, e.matchers, e.compare, e.threshold)
    ('sum', ('op',), 'rate', 60000000000, 'failures_total', (('reason', '!=', 'repair'),), '>', 1.0)
    """
    comparison = _COMPARISON.fullmatch(text.strip()) or _wrong(text, "it compares nothing with a number")
    vector = comparison[1].strip()
    aggregate, by = "", ()
    aggregated = _AGGREGATE.fullmatch(vector)
    if aggregated:
        aggregate, vector = aggregated[1], aggregated[3].strip()
        labels = aggregated[2] if aggregated[2] is not None else aggregated[4]
        by = tuple(sorted(label.strip() for label in labels.split(",") if label.strip())) if labels else ()
    function = ""
    rated = _RATE.fullmatch(vector)
    if rated:
        function, vector = rated[1], rated[2].strip()
    selector = _SELECTOR.fullmatch(vector) or _wrong(text, f"{vector!r} is no metric with labels")
    if bool(selector[3]) != bool(function):
        _wrong(text, "a range belongs to rate or increase, and they need one")
    return Expression(
        metric=selector[1],
        matchers=_matchers(selector[2] or "", text),
        function=function,
        range_ns=int(duration_seconds(selector[3]) * 1e9) if selector[3] else 0,
        aggregate=aggregate,
        by=by,
        compare=comparison[2],
        threshold=float(comparison[3]),
    )


def _wrong(text: str, why: str) -> Any:
    raise BadRule(f"{text!r} is not understood: {why}")


def _matchers(inside: str, text: str) -> tuple[tuple[str, str, str], ...]:
    found: list[tuple[str, str, str]] = []
    offset = 0
    while offset < len(inside.rstrip().rstrip(",")):
        matcher = _MATCHER.match(inside, offset) or _wrong(text, f"{{{inside}}} are no labels")
        found.append((matcher[1], matcher[2], matcher[3]))
        offset = matcher.end()
        if inside[offset : offset + 1] == ",":
            offset += 1
    return tuple(found)


_LABEL = re.compile(rf'({_NAME})="((?:[^"\\]|\\.)*)"')


def labelled(series: str) -> tuple[str, Labels]:
    """The metric and the labels of a series as a sample names it.

    >>> labelled('hints{target="n2"}')
    ('hints', (('target', 'n2'),))
    """
    metric, _, rest = series.partition("{")
    return metric, tuple(sorted(_LABEL.findall(rest)))


def by_series(samples: Iterable[Sample], metrics: frozenset[str]) -> Series:
    """The samples of those metrics, each series by itself. It ends with NaN where its node no longer shows it."""
    found: Series = {}
    names: dict[str, tuple[str, Labels]] = {}
    shown: dict[str, set[tuple[str, Labels]]] = {}
    for sample in samples:
        now: set[tuple[str, Labels]] = set()
        for series, value in (sample.values or {}).items():
            named = names.get(series)
            if named is None:
                named = names[series] = labelled(series)
            if named[0] in metrics:
                key = (named[0], tuple(sorted((*named[1], ("instance", sample.node)))))
                found.setdefault(key, []).append((sample.time, value))
                now.add(key)
        for key in shown.get(sample.node, set()) - now:
            found[key].append((sample.time, math.nan))
        shown[sample.node] = now
    return found


class _Line:
    """One series, looked at in the order of time."""

    def __init__(self, labels: Labels, points: Sequence[tuple[int, float]]) -> None:
        self.labels = dict(labels)
        self._points = points
        self._next = 0
        self._first = 0

    def at(self, now_ns: int, e: Expression) -> float | None:
        """The value at that time, or what it grew by within the range before; None where there is none."""
        points = self._points
        while self._next < len(points) and points[self._next][0] <= now_ns:
            self._next += 1
        if self._next == 0 or now_ns - points[self._next - 1][0] > STALE_NS:
            return None
        last = points[self._next - 1][1]
        if not e.function or math.isnan(last):
            return None if math.isnan(last) else last
        while points[self._first][0] < now_ns - e.range_ns:
            self._first += 1
        window = [p for p in points[self._first : self._next] if not math.isnan(p[1])]
        if len(window) < 2:
            return None
        # A counter that falls has started anew from zero.
        grown = sum(b - a if b >= a else b for (_, a), (_, b) in pairwise(window))
        return grown * 1e9 / (window[-1][0] - window[0][0]) if e.function == "rate" else grown


class _Pending(msgspec.Struct):
    since_ns: int
    fired_ns: int | None
    highest: float


def evaluate(rules: Iterable[Rule], samples: Sequence[Sample]) -> list[Alert]:
    """Every alert that would have fired, in order of time; the rules are evaluated after every round of samples."""
    rules = list(rules)
    series = by_series(samples, frozenset(rule.expr.metric for rule in rules))
    times = sorted({sample.time // PERIOD_NS: sample.time for sample in samples}.values())
    return sorted(
        (alert for rule in rules for alert in _alerts(rule, series, times)),
        key=lambda a: (a.fired_ns, a.rule.alert),
    )


def _alerts(rule: Rule, series: Series, times: Sequence[int]) -> list[Alert]:
    e = rule.expr
    lines = [
        _Line(labels, points)
        for (metric, labels), points in series.items()
        if metric == e.metric
        and all((dict(labels).get(name, "") == value) == (sign == "=") for name, sign, value in e.matchers)
    ]
    compare = _COMPARE[e.compare]
    alerts: list[Alert] = []
    pending: dict[Labels, _Pending] = {}

    def over(labels: Labels, resolved_ns: int | None) -> None:
        held = pending.pop(labels)
        if held.fired_ns is not None:
            alerts.append(
                Alert(
                    rule=rule,
                    labels=dict(labels),
                    pending_ns=held.since_ns,
                    fired_ns=held.fired_ns,
                    resolved_ns=resolved_ns,
                    highest=held.highest,
                )
            )

    for now_ns in times:
        holding = {
            labels: value
            for labels, value in _vector(e, lines, now_ns).items()
            if compare(value, e.threshold)
        }
        for labels in [labels for labels in pending if labels not in holding]:
            over(labels, now_ns)
        for labels, value in holding.items():
            held = pending.setdefault(labels, _Pending(now_ns, None, value))
            held.highest = max(held.highest, value)
            if held.fired_ns is None and now_ns - held.since_ns >= rule.for_ns:
                held.fired_ns = now_ns
    for labels in list(pending):
        over(labels, None)
    return alerts


def _vector(e: Expression, lines: Sequence[_Line], now_ns: int) -> dict[Labels, float]:
    """The value of the left side by labels."""
    groups: dict[Labels, list[float]] = {}
    for line in lines:
        value = line.at(now_ns, e)
        if value is not None:
            names = e.by if e.aggregate else tuple(sorted(line.labels))
            labels = tuple((name, line.labels[name]) for name in names if name in line.labels)
            groups.setdefault(labels, []).append(value)
    return {labels: _AGGREGATES[e.aggregate or "max"](values) for labels, values in groups.items()}
