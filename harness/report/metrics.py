"""What the nodes said about themselves, as charts over the run's time axis, and the alerts that this would have set off."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from harness import alerts
from harness.alerts import Alert, labelled
from harness.report.markup import Markup, el, printable
from harness.report.wording import plain, seconds
from harness.samples import PERIOD_NS, Sample

POINTS_MAX = 1_500
"""Points of one line; beyond them each stretch of time keeps its highest."""

Value = float | None
"""None where no node gave an answer."""


class Line(msgspec.Struct, frozen=True):
    name: str
    values: list[Value]


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """`lines[0]` is drawn filled, the rest as lines; `each` are single nodes, drawn faintly behind them."""

    title: str
    unit: str
    at_us: list[int]
    lines: list[Line]
    each: list[Line] = []
    threshold: float | None = None
    alerts: list[tuple[str, int, int | None]] = []
    """(name, fired, over) in microseconds, of those that watch what is drawn here."""


class Rounds:
    """Samples put together by rounds: one look at all nodes each."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self.nodes: dict[str, None] = {}
        by_round: dict[int, dict[str, tuple[int, dict[str, float]]]] = {}
        self._labelled: dict[str, tuple[str, dict[str, str]]] = {}
        for s in samples:
            self.nodes.setdefault(s.node)
            if s.values is not None:
                by_round.setdefault(s.time // PERIOD_NS, {})[s.node] = (s.time, s.values)
            else:
                by_round.setdefault(s.time // PERIOD_NS, {})
        self._rounds = [by_round[r] for r in sorted(by_round)]
        self.at_us = [r * PERIOD_NS // 1_000 for r in sorted(by_round)]

    def _matches(self, series: str, metric: str, labels: Mapping[str, str]) -> bool:
        found = self._labelled.get(series)
        if found is None:
            name, pairs = labelled(series)
            found = self._labelled[series] = (name, dict(pairs))
        return found[0] == metric and all(found[1].get(k) == v for k, v in labels.items())

    def _chosen(self, values: Mapping[str, float], metric: str, labels: Mapping[str, str]) -> list[float]:
        return [v for series, v in values.items() if self._matches(series, metric, labels)]

    def over_nodes(
        self, put: Callable[[list[float]], float], metric: str, *, absent: Value = None, **labels: str
    ) -> list[Value]:
        """For each round, all series of that metric on all nodes put together; `absent` where nodes answer without one."""
        line: list[Value] = []
        for pages in self._rounds:
            found = [v for _, values in pages.values() for v in self._chosen(values, metric, labels)]
            line.append(put(found) if found else (absent if pages else None))
        return line

    def of_node(self, node: str, metric: str) -> list[Value]:
        line: list[Value] = []
        for pages in self._rounds:
            found = self._chosen(pages[node][1], metric, {}) if node in pages else []
            line.append(max(found) if found else None)
        return line

    def rate(self, metric: str, **labels: str) -> list[Value]:
        """For each round, by how much all nodes' counters grew a second since each node's last answer."""
        line: list[Value] = []
        before: dict[str, tuple[int, float]] = {}
        for pages in self._rounds:
            rates: list[float] = []
            for node, (time, values) in pages.items():
                total = sum(self._chosen(values, metric, labels))
                if node in before and time > before[node][0]:
                    then, count = before[node]
                    # A counter that falls has started anew from zero.
                    grown = total - count if total >= count else total
                    rates.append(grown * 1e9 / (time - then))
                before[node] = (time, total)
            line.append(sum(rates) if rates else None)
        return line


def fired(samples: Sequence[Sample]) -> list[Alert]:
    """What the rules that ship with the store make of the samples."""
    return alerts.evaluate(alerts.read(alerts.shipped()), samples) if samples else []


def charts(samples: Sequence[Sample], fired: Sequence[Alert]) -> list[Chart]:
    """What is drawn of a run's samples: only what ever moved, but for the horizon and the hints."""
    if not samples:
        return []
    r = Rounds(samples)
    latency = "dynamo_request_seconds"

    def median(values: list[float]) -> float:
        return sorted(values)[len(values) // 2]

    def chart(
        title: str,
        unit: str,
        *lines: tuple[str, list[Value]],
        each: str = "",
        threshold: float | None = None,
        watched: str = "",
    ) -> Chart:
        return Chart(
            title=title,
            unit=unit,
            at_us=r.at_us,
            lines=[Line(name, values) for name, values in lines],
            each=[Line(printable(node), r.of_node(node, each)) for node in r.nodes] if each else [],
            threshold=threshold,
            alerts=[
                (
                    a.rule.alert,
                    a.fired_ns // 1_000,
                    None if a.resolved_ns is None else a.resolved_ns // 1_000,
                )
                for a in fired
                if a.rule.expr.metric == watched
            ],
        )

    horizon, hints = "dynamo_consistency_horizon_seconds", "dynamo_hinted_handoff_pending"
    lag, failures = "dynamo_anti_entropy_lag_seconds", "dynamo_quorum_failures_total"
    always = [
        chart(
            "Consistency horizon",
            "s",
            ("oldest of all nodes", r.over_nodes(max, horizon)),
            each=horizon,
            threshold=300,
            watched=horizon,
        ),
        chart(
            "Hints pending",
            "",
            ("of all nodes", r.over_nodes(sum, hints, absent=0)),
            threshold=1_000,
            watched=hints,
        ),
    ]
    more = [
        chart(
            "Latency as the slowest node sees it",
            "s",
            ("99 % of puts", r.over_nodes(max, latency, op="put", quantile="0.99")),
            ("99 % of gets", r.over_nodes(max, latency, op="get", quantile="0.99")),
            ("median put", r.over_nodes(median, latency, op="put", quantile="0.5")),
            watched=latency,
        ),
        chart(
            "Quorum failures",
            "/s",
            ("puts", r.rate(failures, op="put")),
            ("gets", r.rate(failures, op="get")),
            watched=failures,
        ),
        chart("Read repairs", "/s", ("replicas", r.rate("dynamo_read_repairs_total"))),
        chart(
            "Most siblings of one key, of late",
            "",
            ("siblings", r.over_nodes(max, "dynamo_siblings")),
            watched="dynamo_siblings",
        ),
        chart("Anti-entropy traffic", "B/s", ("sent", r.rate("dynamo_anti_entropy_exchange_bytes_total"))),
        chart(
            "Anti-entropy lag",
            "s",
            ("the peer furthest behind", r.over_nodes(max, lag)),
            each=lag,
            watched=lag,
        ),
        chart(
            "Made durable",
            "/s",
            ("records", r.rate("dynamo_fsync_records_total")),
            ("fsyncs", r.rate("dynamo_fsyncs_total")),
        ),
    ]
    return [thinned(c) for c in (*always, *(c for c in more if any(v for x in c.lines for v in x.values)))]


def thinned(chart: Chart) -> Chart:
    """At most POINTS_MAX points: the highest of each of so many equal stretches."""
    count = math.ceil(len(chart.at_us) / POINTS_MAX)
    if count <= 1:
        return _rounded(chart, chart.at_us, lambda values: values)

    def highest(values: list[Value]) -> list[Value]:
        stretches = (values[i : i + count] for i in range(0, len(values), count))
        return [max((v for v in stretch if v is not None), default=None) for stretch in stretches]

    return _rounded(chart, chart.at_us[::count], highest)


def _rounded(chart: Chart, at_us: list[int], keep: Callable[[list[Value]], list[Value]]) -> Chart:
    def line(x: Line) -> Line:
        return Line(x.name, [None if v is None else float(f"{v:.4g}") for v in keep(x.values)])

    return msgspec.structs.replace(
        chart, at_us=at_us, lines=[line(x) for x in chart.lines], each=[line(x) for x in chart.each]
    )


def section(samples: Sequence[Sample], fired: Sequence[Alert], *, scene: bool = False) -> Markup:
    """The alerts that would have fired, by the rules that ship with the store."""
    if not samples:
        return Markup()
    rows = [_row(a) for a in fired]
    heads = ("alert", "about", "held from", "fired", "over", "highest", "meaning")
    table = el(
        "div",
        el(
            "table",
            el("thead", el("tr", *(el("th", h, scope="col") for h in heads))),
            el("tbody", *rows),
        ),
        class_="scroll",
    )
    return el(
        "section",
        el("h2", "Alerts"),
        el(
            "p",
            "What the store's own alert rules would have said, over the metrics that were collected beside the run."
            if rows
            else "None of the store's own alert rules would have fired.",
            class_="lead",
        ),
        el(
            "p",
            "These samples were taken at moments of their own, and by the rules as they ship. The scene's claims and pictures go "
            "by the probe's looks at the nodes, and by rules in the story's time: their figures lie up to a look beside these.",
            class_="hint",
        )
        if rows and scene
        else None,
        table if rows else None,
        id="alerts",
    )


def _row(a: Alert) -> Markup:
    cells: list[Any] = [
        a.rule.alert,
        ", ".join(f"{k} {v}" for k, v in a.labels.items()) or "all nodes",
        seconds(a.pending_ns),
        seconds(a.fired_ns),
        "still firing at the end" if a.resolved_ns is None else seconds(a.resolved_ns),
        plain(a.highest),
        a.summary,
    ]
    return el("tr", *(el("td", cell) for cell in cells))
