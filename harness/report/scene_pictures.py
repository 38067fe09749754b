"""Drawings for a scene's story: rows over one time axis under fault bands, the preference list, bars for each node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from harness.report.bands import FAMILIES, Band
from harness.report.markup import Markup, el, join
from harness.report.series import Phase
from harness.report.wording import cut

GUTTER = 160
WIDTH = 1_120
ROW = 74
ROW_GAP = 20
BAND = 18
BIN_NS = 500_000_000

Point = tuple[int, float]
"""Nanoseconds since the run began, and a value."""


class Row(msgspec.Struct, frozen=True):
    """One chart over time: `steps` is a line of steps with the area under it; `bars` counts points in half seconds, those
    of `over` on top. `line` and `mark` are a bound drawn across and a moment that is named."""

    title: str
    kind: Literal["steps", "bars"]
    points: Sequence[Point]
    over: Sequence[Point] = ()
    legend: tuple[str, ...] = ()
    line: tuple[float, str] | None = None
    mark: tuple[int, str] | None = None
    unit: str = ""
    under: str = ""
    """A second line of the title."""


class Box(msgspec.Struct, frozen=True):
    """A node of a preference list, with what it suffered and what it kept."""

    node: str
    seat: str
    suffered: Sequence[str]
    kept: Sequence[str]


class _Scale:
    def __init__(self, last_ns: int) -> None:
        self.last_ns = max(last_ns, 1)

    def x(self, at_ns: float) -> float:
        return GUTTER + (WIDTH - GUTTER - 16) * min(max(at_ns, 0), self.last_ns) / self.last_ns


def over_time(
    last_ns: int,
    bands: Sequence[Band],
    steps_s: Sequence[float],
    phases: Sequence[Phase],
    rows: Sequence[Row],
) -> Markup:
    """Rows of charts over one axis, the fault bands above them and through them, the story's steps at the top."""
    scale = _Scale(last_ns)
    standing = [b for b in bands if b.standing]
    families = [f for f in FAMILIES if any(b.family == f for b in standing)]
    top = 30 + BAND * len(families) + 16
    bottom = top + len(rows) * (ROW + ROW_GAP)
    parts: list[Markup] = [_shade(b, scale, bottom) for b in standing]
    parts += [_heal(phases, scale, bottom)]
    parts += _marks(steps_s, scale, bottom)
    for i, family in enumerate(families):
        y = 30 + BAND * i
        parts.append(el("text", family, x=GUTTER - 16, y=y + 10, class_="strip-name"))
        parts += [_band(b, scale, y) for b in standing if b.family == family]
    for i, row in enumerate(rows):
        parts.append(_row(row, scale, top + i * (ROW + ROW_GAP)))
    parts.append(_axis(scale, bottom))
    return el(
        "svg",
        el("title", "; ".join(_read_out(r) for r in rows)),
        *parts,
        class_="picture scene-picture",
        viewBox=f"0 0 {WIDTH} {bottom + 30}",
        width=WIDTH,
        height=bottom + 30,
        role="img",
    )


def _read_out(row: Row) -> str:
    """A chart for those who cannot see it."""
    if row.kind == "bars":
        names = row.legend or ("counted", "others")
        return f"{row.title}: {len(row.points)} {names[0]}, {len(row.over)} {names[-1]}"
    return f"{row.title}: at most {max((v for _, v in row.points), default=0):g}{row.unit}"


def _shade(band: Band, scale: _Scale, bottom: float) -> Markup:
    left, right = _stretch(band, scale)
    return el(
        "rect", x=f"{left:.1f}", y=26, width=f"{right - left:.1f}", height=bottom - 26, class_="scene-shade"
    )


def _stretch(band: Band, scale: _Scale) -> tuple[float, float]:
    left = scale.x(band.start_ns)
    right = scale.x(band.healed_ns if band.healed_ns is not None else scale.last_ns)
    return left, max(right, left + 3)


def _band(band: Band, scale: _Scale, y: float) -> Markup:
    left, right = _stretch(band, scale)
    bar = el(
        "rect",
        x=f"{left:.1f}",
        y=y,
        width=f"{right - left:.1f}",
        height=BAND - 5,
        rx=2,
        fill=f"url(#weave-{band.family})",
        class_=f"strip {band.family}" if band.verified else f"strip {band.family} unverified",
    )
    fits = int((right - left - 12) / 5.6)
    label = el("text", cut(band.label, fits), x=f"{left + 5:.1f}", y=y + 10, class_="strip-label")
    return el("g", el("title", band.label), bar, label if fits >= 6 else None)


def _heal(phases: Sequence[Phase], scale: _Scale, bottom: float) -> Markup:
    """Where the story ends and the run waits for quiescence."""
    heal = next((p for p in phases if p.name == "heal"), None)
    if heal is None or heal.start_ns >= scale.last_ns:
        return Markup()
    x = scale.x(heal.start_ns)
    return join(
        el("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=26, y2=bottom, class_="scene-mark"),
        el("text", "clients stop", x=f"{min(x + 4, WIDTH - 64):.1f}", y=22, class_="time"),
    )


def _marks(steps_s: Sequence[float], scale: _Scale, bottom: float) -> list[Markup]:
    """A line where each step of the story begins, and its number above: beside it where steps are too close."""
    parts: list[Markup] = []
    free = 0.0
    for i, at_s in enumerate(steps_s):
        x = scale.x(at_s * 1e9)
        shown = max(x, free)
        free = shown + 20
        parts += [
            el("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=25, y2=bottom, class_="scene-step"),
            el("circle", cx=f"{shown:.1f}", cy=15, r=8.5, class_="number-ring"),
            el("text", i + 1, x=f"{shown:.1f}", y=19, class_="number"),
        ]
    return parts


def _row(row: Row, scale: _Scale, top: float) -> Markup:
    parts = [
        el("text", row.title, x=GUTTER - 16, y=top + ROW / 2, class_="lane-name"),
        el("line", x1=GUTTER, x2=WIDTH - 16, y1=top + ROW, y2=top + ROW, class_="axis"),
    ]
    if row.under:
        parts.append(el("text", row.under, x=GUTTER - 16, y=top + ROW / 2 + 15, class_="lane-name"))
    parts += _bars(row, scale, top) if row.kind == "bars" else _steps(row, scale, top)
    if row.mark is not None:
        x = scale.x(row.mark[0])
        parts.append(el("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=top - 6, y2=top + ROW, class_="scene-alert"))
        parts.append(el("text", row.mark[1], x=f"{x + 5:.1f}", y=top + 2, class_="scene-alert-name"))
    return join(*parts)


def _steps(row: Row, scale: _Scale, top: float) -> list[Markup]:
    points = [(at, v) for at, v in row.points if at <= scale.last_ns]
    highest = max((v for _, v in points), default=0.0)
    bound = row.line[0] if row.line is not None else 0.0
    full = max(highest, bound * 1.15, 1.0)
    base = top + ROW

    def y(v: float) -> float:
        return base - (ROW - 12) * v / full

    path = f"M{GUTTER} {base:.1f}"
    for at, v in points:
        path += f" H{scale.x(at):.1f} V{y(v):.1f}"
    path += f" H{scale.x(scale.last_ns):.1f}"
    parts = [
        el("path", d=f"{path} V{base:.1f} Z", class_="scene-area"),
        el("path", d=path, class_="line-ink"),
    ]
    if highest:
        at = next(at for at, v in points if v == highest)
        parts.append(
            el(
                "text",
                f"{highest:.4g}{row.unit}",
                x=f"{scale.x(at) + 4:.1f}",
                y=f"{y(highest) - 3:.1f}",
                class_="scene-value",
            )
        )
    if row.line is not None:
        parts.append(
            el(
                "line",
                x1=GUTTER,
                x2=WIDTH - 16,
                y1=f"{y(bound):.1f}",
                y2=f"{y(bound):.1f}",
                class_="scene-bound",
            )
        )
        parts.append(
            el("text", row.line[1], x=WIDTH - 18, y=f"{y(bound) - 3:.1f}", class_="scene-bound-name")
        )
    return parts


def _bars(row: Row, scale: _Scale, top: float) -> list[Markup]:
    below, above = _binned(row.points), _binned(row.over)
    full = max((below.get(b, 0) + above.get(b, 0) for b in {*below, *above}), default=1)
    base = top + ROW
    parts: list[Markup] = []
    for b in sorted({*below, *above}):
        left, right = scale.x(b * BIN_NS), scale.x((b + 1) * BIN_NS)
        y = base
        for number, kind in ((below.get(b, 0), "fill-ok"), (above.get(b, 0), "scene-lost")):
            height = (ROW - 12) * number / full
            y -= height
            if number:
                parts.append(
                    el(
                        "rect",
                        x=f"{left + 0.5:.1f}",
                        y=f"{y:.1f}",
                        width=f"{max(1.0, right - left - 1):.1f}",
                        height=f"{height:.1f}",
                        class_=kind,
                    )
                )
    names = row.legend or ("", "")
    said = [f"{len(row.points)} {names[0]}", *([f"{len(row.over)} {names[1]} (hollow)"] if row.over else [])]
    parts += [
        el("text", text, x=GUTTER - 16, y=top + ROW / 2 + 15 + 13 * i, class_="strip-name")
        for i, text in enumerate(said)
    ]
    return parts


def _binned(points: Sequence[Point]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for at, _ in points:
        counts[at // BIN_NS] = counts.get(at // BIN_NS, 0) + 1
    return counts


def _axis(scale: _Scale, y: float) -> Markup:
    total_s = scale.last_ns / 1e9
    step = next((s for s in (1, 2, 5, 10, 30, 60, 120, 300) if total_s / s <= 14), 600)
    parts: list[Markup] = []
    for i in range(int(total_s / step) + 1):
        x = scale.x(i * step * 1e9)
        parts.append(el("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=y, y2=y + 4, class_="axis"))
        parts.append(el("text", f"{i * step} s", x=f"{x:.1f}", y=y + 17, class_="scene-tick"))
    return join(*parts)


def _role(seat: str) -> str:
    """A seat in words.

    >>> _role("home1"), _role("fallback2")
    ('home replica 1', 'fallback 2')
    """
    kind = "home" if seat.startswith("home") else "fallback"
    return f"{'home replica' if kind == 'home' else kind} {seat.removeprefix(kind)}"


BOX_WIDTH = 196
BOX_GAP = 18


def preference_list(boxes: Sequence[Box], arrows: Sequence[tuple[str, str]]) -> Markup:
    """The nodes in the order of preference. Arrows (from, to) arch above them."""
    middle = {b.node: 12 + i * (BOX_WIDTH + BOX_GAP) + BOX_WIDTH / 2 for i, b in enumerate(boxes)}
    lines = max((len(b.suffered) + len(b.kept) for b in boxes), default=0)
    top = 64 if arrows else 12
    height = 46 + 16 * lines
    parts: list[Markup] = []
    for source, target in arrows:
        if source in middle and target in middle:
            a, b = middle[source], middle[target]
            lift = min(top - 14, 18 + abs(a - b) / 14)
            parts.append(
                el(
                    "path",
                    d=f"M{a:.1f} {top} C{a:.1f} {top - lift:.1f} {b:.1f} {top - lift:.1f} {b:.1f} {top - 1}",
                    marker_end="url(#head-observed)",
                    class_="edge observed",
                )
            )
    for b in boxes:
        left = middle[b.node] - BOX_WIDTH / 2
        home = b.seat.startswith("home")
        parts.append(
            el(
                "rect",
                x=f"{left:.1f}",
                y=top,
                width=BOX_WIDTH,
                height=height,
                rx=6,
                class_="scene-home" if home else "scene-fallback",
            )
        )
        parts.append(el("text", b.node, x=f"{left + 12:.1f}", y=top + 22, class_="scene-node"))
        parts.append(
            el("text", _role(b.seat), x=f"{left + BOX_WIDTH - 12:.1f}", y=top + 22, class_="lane-name")
        )
        for i, (said, kind) in enumerate(
            [*((s, "scene-suffered") for s in b.suffered), *((k, "time") for k in b.kept)]
        ):
            parts.append(
                el(
                    "text",
                    cut(said, 28),
                    el("title", said),
                    x=f"{left + 12:.1f}",
                    y=top + 42 + 16 * i,
                    class_=kind,
                )
            )
    width = 24 + len(boxes) * (BOX_WIDTH + BOX_GAP)
    said = "; ".join(
        f"{b.node} ({b.seat}): {', '.join([*b.suffered, *b.kept]) or 'nothing of note'}" for b in boxes
    )
    return el(
        "svg",
        el("title", said),
        *parts,
        class_="picture scene-picture",
        viewBox=f"0 0 {width} {top + height + 12}",
        width=width,
        height=top + height + 12,
        role="img",
    )


def bars(titles: Sequence[str], rows: Sequence[tuple[str, str, Sequence[float]]]) -> Markup:
    """For each node (name, seat, a number for each title) bars side by side, each column on its own scale."""
    column = (WIDTH - GUTTER - 16) / max(1, len(titles))
    top, height = 30, 26
    parts: list[Markup] = [
        el("text", title, x=f"{GUTTER + i * column:.1f}", y=16, class_="time")
        for i, title in enumerate(titles)
    ]
    for r, (node, seat, numbers) in enumerate(rows):
        y = top + r * height
        parts.append(el("text", f"{node}, {_role(seat)}", x=GUTTER - 16, y=y + 14, class_="lane-name"))
        for i, number in enumerate(numbers):
            full = max(max((other[i] for _, _, other in rows), default=0), 1)
            width = (column - 70) * number / full
            x = GUTTER + i * column
            kind = "fill-ok" if seat.startswith("home") else "scene-other"
            parts.append(
                el(
                    "rect",
                    x=f"{x:.1f}",
                    y=y + 2,
                    width=f"{max(width, 0.8):.1f}",
                    height=height - 10,
                    class_=kind,
                )
            )
            parts.append(
                el("text", f"{number:,.0f}", x=f"{x + width + 5:.1f}", y=y + 14, class_="scene-value")
            )
    total = top + height * len(rows) + 6
    said = "; ".join(
        f"{n} ({s}): " + ", ".join(f"{t} {v:.0f}" for t, v in zip(titles, vs, strict=True))
        for n, s, vs in rows
    )
    return el(
        "svg",
        el("title", said),
        *parts,
        class_="picture scene-picture",
        viewBox=f"0 0 {WIDTH} {total}",
        width=WIDTH,
        height=total,
        role="img",
    )
