"""The witness as a space-time diagram: a lane for each process, operations as bars, what relates them as named arrows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import msgspec

from checkers.verdict import Anomaly, Edge
from checkers.witness import MEANING
from harness.report.bands import FAMILIES, Band
from harness.report.markup import Markup, el, join
from harness.report.values import items, mapping, names
from harness.report.wording import cut, duration, plain, seconds
from history.history import NEVER, Operation
from history.op import NEMESIS, PROBE

GUTTER = 118
LANE = 72
BAR = 28
STEP = 26
WIDTH = 1_150
"""Diagrams are spread out to this width where their steps need not grow beyond STEP_MAX."""
STEP_MAX = 120
STRIPS_MAX = 20
CHARACTER = 6.7
LABEL_MAX = 34
STRIP = 18
BREAK = 44
GAP_MIN_NS = 20_000_000
GAPS_MAX = 5

ANSWERS = frozenset({"get", "read", "replica", "hints", "homes", "digest"})
"""Operations that ask: their value is the answer."""


class _Placed(msgspec.Struct, frozen=True):
    """A bar of the diagram, in pixels."""

    number: int
    operation: Operation
    left: float
    right: float
    lane: int
    label: str


class _Strip(msgspec.Struct, frozen=True):
    """The stretch of the axis, in pixels, of one fault or of several that touch there."""

    bands: tuple[Band, ...]
    left: float
    right: float

    @property
    def label(self) -> str:
        return self.bands[0].label if len(self.bands) == 1 else f"{len(self.bands)} faults"


def witness(anomaly: Anomaly, operations: dict[int, Operation]) -> list[Operation]:
    """The operations of the witness, in order; an index may be that of an invocation or of its completion."""
    return [operations[i] for i in anomaly.witness if i in operations]


def draw(anomaly: Anomaly, operations: dict[int, Operation], faults: Sequence[Band], name: str) -> Markup:
    """The diagram as SVG. Its horizontal axis is the order of events, not time: gaps say how long they lasted.

    Bars link to the elements `name-1`, `name-2`, ...; the page has to hold `definitions()` once.
    """
    ops = witness(anomaly, operations)
    if not ops:
        return Markup()
    lanes = list(dict.fromkeys(_lane(o) for o in sorted(ops, key=lambda o: o.index)))
    axis = _Axis(ops, [_bar_width(brief(o, anomaly.key)) for o in ops])
    strips = _strips(faults, ops, axis)
    top = 14 + STRIP * len(strips)
    placed = [
        _Placed(
            i + 1,
            o,
            axis.at(o.index),
            axis.right if o.end == NEVER else axis.at(o.end),
            lanes.index(_lane(o)),
            brief(o, anomaly.key),
        )
        for i, o in enumerate(ops)
    ]
    by_index = {p.operation.index: p for p in placed}
    for o, p in zip(ops, placed, strict=True):
        if o.complete is not None:
            by_index.setdefault(o.complete.index, p)
    bottom = top + LANE * len(lanes) + 6
    width, height = axis.right + 16, bottom + 34
    arrows = _Arrows(placed, top, width)
    edges = [arrows.draw(e, by_index) for e in anomaly.edges]
    body = join(
        *(_strip_row(family, strips[family], 8 + STRIP * row) for row, family in enumerate(strips)),
        *(_lane_line(text, top + LANE * i, width) for i, text in enumerate(lanes)),
        *(line for line, _ in edges),  # under the bars, so that no arrow strikes out a label
        *(_bar(p, top, name) for p in placed),
        *(label for _, label in edges),
        _axis(axis, bottom, placed),
    )
    said = f"{len(ops)} operations in order: " + "; ".join(
        f"{p.number}, {lanes[p.lane]}, {p.label}" for p in placed
    )
    return el(
        "svg",
        el("title", said),
        body,
        class_="picture",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=f"{width:.0f}",
        height=f"{height:.0f}",
        role="img",
    )


def brief(o: Operation, key: Any) -> str:
    """An operation in a few words: what was asked, and what came of it."""
    value = o.value
    if o.process == PROBE and key is not None and o.type == "ok":
        # Of all that a node holds only what concerns the witness.
        if o.f in ("replica", "homes"):
            value = mapping(value).get(str(key), [])
        elif o.f == "hints":
            held = [
                hint for hint in map(items, items(value) or []) if hint and len(hint) == 3 and hint[1] == key
            ]
            value = [f"{target}: {plain(ids, 20)}" for target, _, ids in held]
    elif o.process == PROBE and o.f == "hints" and o.type == "ok":
        # No key is in question: how many, and for whom.
        listed = [hint for hint in map(items, items(value) or []) if hint]
        waiting = Counter(str(hint[0]) for hint in listed)
        value = [f"{n} for {target}" for target, n in sorted(waiting.items())]
    elif o.process == NEMESIS:
        return f"{o.f} {asked(o, LABEL_MAX - 8)}{'' if o.type == 'ok' else ' failed' if o.type == 'fail' else ' ?'}".replace(
            "  ", " "
        ).rstrip()
    answers = o.f in ANSWERS
    if o.type == "fail":
        return f"{o.f} failed" if answers else f"{o.f} {plain(o.invoke.value, 12)} failed"
    if o.type == "info":
        return f"{o.f} {'' if answers else plain(o.invoke.value, 12)} ?".replace("  ", " ")
    if answers:
        return f"{o.f} → {plain(value, LABEL_MAX - 8) or 'nothing'}"
    return f"{o.f} {'' if value is None else plain(value, LABEL_MAX - 8)}".rstrip()


def asked(o: Operation, limit: int) -> str:
    """What an operation was asked with; of a fault, whom it was for."""
    value = o.invoke.value
    if o.process != NEMESIS or not isinstance(value, dict):
        return "" if value is None else plain(value, limit)
    fault = mapping(cast("object", value))
    whom = [*names(fault.get("nodes")), *mapping(fault.get("offsets_ns"))]
    whom += [str(fault[part]) for part in ("shape", "dead", "node") if part in fault]
    return cut(" ".join(whom), limit)


def _lane(o: Operation) -> str:
    if o.process == PROBE:
        return f"probe of {o.node}"
    return f"process {o.process}" if isinstance(o.process, int) else o.process


def _bar_width(label: str) -> float:
    return 34 + CHARACTER * len(label)


class _Axis:
    """Event order on paper: each event right of the one before, every bar wide enough for its label."""

    def __init__(self, ops: Sequence[Operation], widths: Sequence[float]) -> None:
        moments: dict[int, int] = {}
        ends: dict[int, tuple[int, float]] = {}
        for o, width in zip(ops, widths, strict=True):
            moments[o.index] = o.invoke.time
            if o.end == NEVER:
                continue
            assert o.complete is not None
            moments[o.end] = o.complete.time
            ends[o.end] = (o.index, width)
        order = sorted(moments)
        longest = sorted(
            (
                (moments[b] - moments[a], b)
                for a, b in pairwise(order)
                if moments[b] - moments[a] >= GAP_MIN_NS
            ),
            reverse=True,
        )[:GAPS_MAX]
        gaps = {b for _, b in longest}
        self._order = order
        self._at: dict[int, float] = {}
        self.gaps: list[tuple[float, float, int]] = []
        bars = {o.index: width for o, width in zip(ops, widths, strict=True)}
        endless = [o.index for o in ops if o.end == NEVER]
        self._place(moments, ends, gaps, STEP)
        spare = WIDTH - max([self._at[order[-1]] + 24, *(self._at[i] + bars[i] + 30 for i in endless)])
        free = sum(i not in ends for i in order[1:])
        if spare > 0 and free:
            self._place(moments, ends, gaps, min(STEP_MAX, STEP + spare / free))
        self.right = max(
            [self._at[order[-1]] + 24, GUTTER + 420.0, *(self._at[i] + bars[i] + 30 for i in endless)]
        )

    def _place(
        self, moments: dict[int, int], ends: dict[int, tuple[int, float]], gaps: set[int], step: float
    ) -> None:
        """Puts events one after another: `step` apart, the end of a bar as far as its label needs."""
        self.gaps.clear()
        x = float(GUTTER)
        for position, index in enumerate(self._order):
            if position:
                before = self._order[position - 1]
                x += STEP if index in ends else step
                x += BREAK if index in gaps else 0
                if index in ends:
                    start, width = ends[index]
                    x = max(x, self._at[start] + width)
                if index in gaps:
                    self.gaps.append((self._at[before], x, moments[index] - moments[before]))
            self._at[index] = x

    def at(self, index: int) -> float:
        """Where an event stands; events in between are placed between their neighbours."""
        if index in self._at:
            return self._at[index]
        before = [i for i in self._order if i < index]
        after = [i for i in self._order if i > index]
        if not before:
            return GUTTER - 8.0
        if not after:
            return self.right
        a, b = before[-1], after[0]
        return self._at[a] + (self._at[b] - self._at[a]) * (index - a) / (b - a)


def definitions() -> Markup:
    """What all diagrams and swatches of a page refer to: arrow heads and the patterns of fault bands."""
    heads = [
        el(
            "marker",
            el("path", d="M0 0 L9 4 L0 8 z"),
            id=f"head-{edge}",
            class_=f"head {edge}",
            markerWidth=9,
            markerHeight=8,
            refX=8,
            refY=4,
            orient="auto",
            markerUnits="userSpaceOnUse",
        )
        for edge in MEANING
    ]
    patterns = [
        el(
            "pattern",
            el("path", d=d, class_=f"weave {family}"),
            id=f"weave-{family}",
            width=8,
            height=8,
            patternUnits="userSpaceOnUse",
        )
        for family, d in WEAVES.items()
    ]
    return el(
        "svg",
        el("defs", *heads, *patterns),
        class_="picture definitions",
        width=0,
        height=0,
        aria_hidden="true",
    )


WEAVES = {
    "partition": "M-2 2 L2 -2 M0 8 L8 0 M6 10 L10 6",
    "kill": "M0 0 L8 8 M8 0 L0 8",
    "power": "M0 4 H8 M4 0 V8",
    "disk": "M1 1 L5 5 M5 7 L7 5",
    "pause": "M2 0 V8 M6 0 V8",
    "clock": "M0 2 H8 M0 6 H8",
    "membership": "M4 1 L7 4 L4 7 L1 4 z",
    "other": "M4 3 V5",
}
"""The pattern of each family's bands, so that they can be told apart without colour; assets/panels.js draws the same."""


def _strips(faults: Sequence[Band], ops: Sequence[Operation], axis: _Axis) -> dict[str, list[_Strip]]:
    """The faults that stood while the witness happened, by family, as stretches of the axis."""
    first = min(o.index for o in ops)
    last = max(o.index if o.end == NEVER else o.end for o in ops)
    standing = [b for b in faults if b.standing and b.start <= last and b.end >= first]
    strips: dict[str, list[_Strip]] = {}
    for family in FAMILIES:
        for b in standing:
            if b.family == family:
                left, right = axis.at(b.start), axis.right if b.end == NEVER else axis.at(b.end)
                row = strips.setdefault(family, [])
                if len(standing) > STRIPS_MAX and row and left < row[-1].right + 2:
                    # Too many to be told apart: one strip for those that touch.
                    row[-1] = _Strip((*row[-1].bands, b), row[-1].left, max(row[-1].right, right))
                else:
                    row.append(_Strip((b,), left, max(right, left + 6)))
    return strips


def _strip_row(family: str, strips: Sequence[_Strip], y: float) -> Markup:
    parts = [el("text", family, x=GUTTER - 16, y=y + 10, class_="strip-name")]
    for s in strips:
        title = el(
            "title", "; ".join(f"{b.label}, {seconds(b.start_ns)} to {_until(b)}" for b in s.bands[:8])
        )
        bar = el(
            "rect",
            x=f"{s.left:.1f}",
            y=y,
            width=f"{s.right - s.left:.1f}",
            height=STRIP - 5,
            rx=2,
            fill=f"url(#weave-{family})",
            class_=f"strip {family}" if all(b.verified for b in s.bands) else f"strip {family} unverified",
        )
        fits = int((s.right - s.left - 12) / 5.6)
        label = None
        if fits >= 6:
            label = el("text", cut(s.label, fits), x=f"{s.left + 5:.1f}", y=y + 10, class_="strip-label")
        parts.append(el("g", title, bar, label))
    return join(*parts)


def _until(band: Band) -> str:
    return "the end" if band.healed_ns is None else seconds(band.healed_ns)


def _lane_line(label: str, y: float, width: float) -> Markup:
    middle = y + LANE / 2
    return join(
        el("line", x1=GUTTER - 8, x2=f"{width - 8:.0f}", y1=middle, y2=middle, class_="lane"),
        el("text", cut(label, 15), x=GUTTER - 16, y=middle + 4, class_="lane-name"),
    )


def _bar(p: _Placed, top: float, name: str) -> Markup:
    """Filled: happened. Hollow: did not. Open to the right: may take effect at any time, for ever."""
    o = p.operation
    y = top + LANE * p.lane + (LANE - BAR) / 2
    left, right = p.left, p.right
    if o.type == "info":
        shape = f"M{right:.1f} {y} H{left:.1f} V{y + BAR} H{right:.1f}"
        bar = el("path", d=shape, class_="bar info")
    else:
        bar = el(
            "rect",
            x=f"{left:.1f}",
            y=y,
            width=f"{right - left:.1f}",
            height=BAR,
            rx=3,
            class_=f"bar {o.type}",
        )
    return el(
        "a",
        el("title", f"{o.f} by {_lane(o)} via {o.node or 'no node'} at {seconds(o.invoke.time)}"),
        bar,
        el("circle", cx=f"{left + 14:.1f}", cy=y + BAR / 2, r=8.5, class_="number-ring"),
        el("text", p.number, x=f"{left + 14:.1f}", y=y + BAR / 2 + 4, class_="number"),
        el("text", p.label, x=f"{left + 27:.1f}", y=y + BAR / 2 + 4, class_="bar-text"),
        href=f"#{name}-{p.number}",
        class_="operation",
        data_line=o.index,
    )


class _Arrows:
    """Draws edges, and keeps their labels from lying on each other or on a bar's own text."""

    def __init__(self, placed: Sequence[_Placed], top: float, width: float) -> None:
        self._top = top
        self._width = width
        self._anchors: dict[tuple[int, bool], list[float]] = {}
        self._pairs: set[frozenset[int]] = set()
        self._taken = [
            (
                p.left,
                top + LANE * p.lane + (LANE - BAR) / 2,
                p.left + _bar_width(p.label),
                top + LANE * p.lane + (LANE + BAR) / 2,
            )
            for p in placed
        ]

    def draw(self, edge: Edge, bars: dict[int, _Placed]) -> tuple[Markup, Markup]:
        """The line and its name."""
        source, target = bars.get(edge.source), bars.get(edge.destination)
        if source is None or target is None or source is target:
            return Markup(), Markup()
        points = self._route(source, target)
        (x0, y0), (x1, y1), (x2, y2), (x3, y3) = points
        kind = edge.name if edge.name in MEANING else "observed"
        x, y = self._label_place(points, len(edge.name))
        line = el(
            "path",
            d=f"M{x0:.1f} {y0:.1f} C{x1:.1f} {y1:.1f} {x2:.1f} {y2:.1f} {x3:.1f} {y3:.1f}",
            marker_end=f"url(#head-{kind})",
            class_=f"edge {kind}",
        )
        return line, el("text", edge.name, x=f"{x:.1f}", y=f"{y + 4:.1f}", class_=f"edge-name {kind}")

    def _anchor(self, bar: _Placed, x: float, up: bool, inward: int) -> float:
        """A free place on the bar's upper or lower side near `x`: arrows that share a corner stand side by side."""
        side = (bar.number, up)
        while any(abs(x - other) < 14 for other in self._anchors.get(side, ())):
            x += 15 * inward
        self._anchors.setdefault(side, []).append(x)
        return x

    def _route(self, source: _Placed, target: _Placed) -> list[tuple[float, float]]:
        middle = [self._top + LANE * p.lane + LANE / 2 for p in (source, target)]
        if source.left >= target.right:
            x0, x3, inward = source.left + 14, target.right - 10, (1, -1)
        elif source.right <= target.left:
            x0, x3, inward = source.right - 10, target.left + 14, (-1, 1)
        else:
            shared = (max(source.left, target.left) + min(source.right, target.right)) / 2
            x0, x3, inward = shared - 8, shared + 8, (-1, 1)
        if source.lane == target.lane:
            x0, x3 = self._anchor(source, x0, True, inward[0]), self._anchor(target, x3, True, inward[1])
            rise = middle[0] - BAR / 2
            lift = rise - 22 - min(16.0, abs(x3 - x0) / 20)
            return [(x0, rise), (x0 + (x3 - x0) * 0.1, lift), (x3 - (x3 - x0) * 0.1, lift), (x3, rise)]
        down = 1 if target.lane > source.lane else -1
        x0 = self._anchor(source, x0, down < 0, inward[0])
        x3 = self._anchor(target, x3, down > 0, inward[1])
        y0, y3 = middle[0] + down * BAR / 2, middle[1] - down * BAR / 2
        bend = max(24.0, abs(y3 - y0) * 0.5)
        pair = frozenset((source.number, target.number))
        near, far = (
            (1.7, 0.1) if pair in self._pairs else (1.0, 1.0)
        )  # a second arrow swings lower than the first
        self._pairs.add(pair)
        return [(x0, y0), (x0, y0 + down * bend * near), (x3, y3 - down * bend * far), (x3, y3)]

    def _label_place(self, points: list[tuple[float, float]], length: int) -> tuple[float, float]:
        """A point of the curve where the label lies on nothing else; the middle if there is none."""
        half = length * 3.1 + 4
        best = _bezier(points, 0.5)
        for t in (0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74, 0.18, 0.82):
            x, y = _bezier(points, t)
            x = min(max(x, half), self._width - half)
            box = (x - half, y - 8, x + half, y + 8)
            if not any(
                box[0] < right and box[2] > left and box[1] < low and box[3] > high
                for left, high, right, low in self._taken
            ):
                self._taken.append(box)
                return x, y
        self._taken.append((best[0] - half, best[1] - 8, best[0] + half, best[1] + 8))
        return best


def _bezier(points: list[tuple[float, float]], t: float) -> tuple[float, float]:
    u = 1 - t
    weights = (u * u * u, 3 * u * u * t, 3 * u * t * t, t * t * t)
    return (
        sum(w * p[0] for w, p in zip(weights, points, strict=True)),
        sum(w * p[1] for w, p in zip(weights, points, strict=True)),
    )


def _axis(axis: _Axis, y: float, placed: Sequence[_Placed]) -> Markup:
    """When each operation began, where there is room, and how long the long gaps lasted."""
    parts: list[Markup] = [
        el("line", x1=GUTTER - 8, x2=f"{axis.right:.1f}", y1=y, y2=y, class_="axis"),
    ]
    free = 0.0
    for p in sorted(placed, key=lambda p: p.left):
        parts.append(el("line", x1=f"{p.left:.1f}", x2=f"{p.left:.1f}", y1=y - 3, y2=y + 3, class_="axis"))
        if p.left >= free:
            parts.append(
                el("text", seconds(p.operation.invoke.time), x=f"{p.left:.1f}", y=y + 17, class_="time")
            )
            free = p.left + 62
    for left, right, lasted in axis.gaps:
        middle = (left + right) / 2
        parts.append(el("rect", x=f"{middle - 5:.1f}", y=y - 3, width=10, height=6, class_="break"))
        parts.append(el("text", f"{duration(lasted)} later", x=f"{middle:.1f}", y=y + 30, class_="gap"))
    return join(*parts)
