"""The parts of the report that need no script: witnesses, faults, availability, checkers, setup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from checkers.verdict import Anomaly, Valid, Verdict
from checkers.witness import MEANING
from harness.report import picture
from harness.report.bands import Band
from harness.report.findings import Findings
from harness.report.loglines import Line, Logs
from harness.report.markup import Content, Markup, el, join
from harness.report.series import Share
from harness.report.values import items
from harness.report.wording import count, cut, duration, json, plain, seconds
from history.header import Header
from history.history import Operation

LOG_LINES_MAX = 240
LOG_TEXT_MAX = 400
LIST_MAX = 40
FAULTS_SHOWN = 60
TEXT_MAX = 4_000
OPEN_ANOMALIES = 1
ANOMALIES_SHOWN = 6

_SHAPES = {
    "valid": "M3.2 8.4 L6.6 11.8 L12.8 4.6",
    "invalid": "M4 4 L12 12 M12 4 L4 12",
    "unknown": "M5.3 6 A2.7 2.7 0 1 1 8 8.8 V9.9 M8 12.3 V12.4",
    "harness-error": "M8 3.4 V9.2 M8 12.2 V12.3",
    "measured": "M3 11.5 H13 M5 11.5 V7.5 M8 11.5 V4.5 M11 11.5 V9",
}
_TONES = {"valid": "#1a7f4b", "invalid": "#b3261e", "unknown": "#b07d00", "harness-error": "#6d3fb3"}


def icon(tone: str) -> Markup:
    """A sign for a verdict: each has a shape of its own."""
    return el(
        "svg",
        el(
            "path",
            d=_SHAPES[tone],
            fill="none",
            stroke="currentColor",
            stroke_width=2.2,
            stroke_linecap="round",
        ),
        class_="icon",
        viewBox="0 0 16 16",
        aria_hidden="true",
    )


def favicon(tone: str) -> str:
    """The verdict on the browser's tab."""
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">'
        f'<circle cx="8" cy="8" r="8" fill="{_TONES[tone]}"/>'
        f'<path d="{_SHAPES[tone]}" fill="none" stroke="#fff" stroke-width="2" stroke-linecap="round"/></svg>'
    )


def witnesses(
    shown: Sequence[tuple[Verdict, Anomaly]],
    windows: Sequence[tuple[int, int]],
    by_line: dict[int, Operation],
    faults: Sequence[Band],
    logs: Logs,
) -> Markup:
    """Each anomaly, the worst first: its sentence, its picture, why each operation is needed, and what stood around.

    What was only measured comes after what was judged, in a section of its own.
    """
    parts: dict[bool, list[Markup]] = {True: [], False: []}
    for i, ((v, a), window) in enumerate(zip(shown, windows, strict=True)):
        parts[v.judged].append(_anomaly(i, v, a, window, by_line, faults, logs))
    judged, measured = parts[True], parts[False]
    every = "a small set of operations that cannot all have been right"
    lead = (
        f"This is {every}."
        if len(judged) == 1
        else f"{len(judged)} anomalies, the worst first: each {every}."
    )
    return join(
        el("section", el("h2", "Witness"), el("p", lead, class_="lead"), _folded(judged), id="witness")
        if judged
        else None,
        el(
            "section",
            el("h2", "Measured anomalies"),
            el("p", "The system never promised to avoid these, so they decide nothing.", class_="lead"),
            _folded(measured),
            id="measured",
        )
        if measured
        else None,
    )


def _folded(anomalies: Sequence[Markup]) -> Markup:
    """The first few; the rest behind a line that says how many there are."""
    first, rest = anomalies[:ANOMALIES_SHOWN], anomalies[ANOMALIES_SHOWN:]
    return join(
        *first, el("details", el("summary", f"{len(rest):,} more"), *rest, class_="more") if rest else None
    )


def _anomaly(
    position: int,
    verdict: Verdict,
    anomaly: Anomaly,
    window: tuple[int, int],
    by_line: dict[int, Operation],
    faults: Sequence[Band],
    logs: Logs,
) -> Markup:
    name = f"a{position + 1}"
    operations = picture.witness(anomaly, by_line)
    kind = f"{verdict.checker} / {anomaly.kind}" + ("" if verdict.judged else " (measured only)")
    inside: list[Markup] = []
    if operations:
        inside = [
            el("div", picture.draw(anomaly, by_line, faults, name), class_="scroll"),
            _meanings(anomaly),
            _story(anomaly, operations, name),
            el(
                "h4",
                "Around the witness ",
                el("span", f"{seconds(max(0, window[0]))} to {seconds(window[1])}", class_="hint"),
            ),
            el("div", class_="stack", data_stack=position),
            *_log(logs, window, operations),
        ]
    else:
        inside = [el("p", "This anomaly names no operations of the history.", class_="hint")]
    return el(
        "details",
        el("summary", el("span", anomaly.sentence, class_="said"), el("span", kind, class_="kind")),
        el("div", *inside, class_="inside"),
        class_="anomaly",
        id=name,
        open=verdict.judged and position < OPEN_ANOMALIES,
    )


def _meanings(anomaly: Anomaly) -> Markup:
    used = [n for n in MEANING if any(e.name == n for e in anomaly.edges)]
    if not used:
        return Markup()
    return el("ul", *(el("li", el("b", name), f": {MEANING[name]}") for name in used), class_="meanings")


def _story(anomaly: Anomaly, operations: Sequence[Operation], name: str) -> Markup:
    items: list[Markup] = []
    for i, o in enumerate(operations):
        lasted = "never ended" if o.complete is None else f"took {_lasted(o.complete.time - o.invoke.time)}"
        ended = {"ok": "ok", "fail": "failed: did not happen", "info": "info: may have happened"}[o.type]
        who = f"process {o.process}" if isinstance(o.process, int) else str(o.process)
        key = "" if o.key is None else f" {plain(o.key, 30)}"
        asked = f" {told}" if (told := picture.asked(o, 40)) else ""
        answer = (
            f" → {picture.brief(o, anomaly.key).partition(' → ')[2]}"
            if o.f in picture.ANSWERS and o.type == "ok"
            else ""
        )
        items.append(
            el(
                "li",
                el("span", i + 1, class_="n"),
                el("span", f"{o.f}{key}{asked}{answer}", _context(o), class_="what"),
                el(
                    "span",
                    f"{who}{' via ' + o.node if o.node else ''}, {ended}",
                    el("br"),
                    f"{seconds(o.invoke.time)}, {lasted}, event {o.index}",
                    class_="where",
                ),
                el("span", anomaly.why[i] if i < len(anomaly.why) else "", class_="why"),
                id=f"{name}-{i + 1}",
            )
        )
    return el("ol", *items, class_="story")


def _word(value: Any) -> str:
    return "" if value is None else f"{plain(value, 40)} "


def _lasted(ns: int) -> str:
    """A duration; the simulator does some things in no time at all."""
    return "no time" if ns <= 0 else duration(ns)


def _context(o: Operation) -> Markup:
    """Which values a write said that it had seen."""
    context = items(o.invoke.meta.get("context"))
    if context is None:
        return Markup()
    seen = plain(context, 60)
    return join(el("br"), el("span", f"having seen {seen}" if seen else "having seen nothing", class_="hint"))


def _log(logs: Logs, window: tuple[int, int], operations: Sequence[Operation]) -> list[Markup]:
    """What the nodes wrote around the witness, with the witness's own operations in between."""
    if not logs.lines:
        return []
    lines = logs.between(*window)
    if not lines:
        return [
            el("h4", "What the nodes wrote ", el("span", "nothing in this stretch of time", class_="hint"))
        ]
    dropped = max(0, len(lines) - LOG_LINES_MAX)
    if dropped:
        # The lines nearest to an operation of the witness tell most.
        moments = [o.invoke.time for o in operations]
        lines = sorted(lines, key=lambda x: min(abs(x.at_ns - m) for m in moments))[:LOG_LINES_MAX]
    rows: list[tuple[int, int, Line | int]] = [(line.at_ns, 1, line) for line in lines]
    rows += [(o.invoke.time, 0, i) for i, o in enumerate(operations)]
    items: list[Markup] = []
    for at, _, row in sorted(rows, key=lambda r: r[:2]):
        if isinstance(row, int):
            o = operations[row]
            who = f"process {o.process}" if isinstance(o.process, int) else str(o.process)
            content = join(
                el("span", f"({row + 1})", class_="node"),
                el("span", f"{who}: {o.f} {_word(o.key)}{picture.asked(o, 40)}"),
            )
            items.append(el("li", el("span", f"{at / 1e9:.6f}", class_="at"), content, class_="mark"))
        else:
            content = join(el("span", row.node, class_="node"), el("span", cut(row.text, LOG_TEXT_MAX)))
            items.append(el("li", el("span", f"{at / 1e9:.6f}", class_="at"), content))
    notes = [count(len(lines), "line")]
    if dropped:
        notes.append(f"{dropped:,} farther ones left out: the run's folder holds them all")
    if logs.aligned:
        notes.append(
            "nodes' own clocks, matched to the run's where the last node came up: good to about half a second"
        )
    return [
        el("h4", "What the nodes wrote ", el("span", "; ".join(notes), class_="hint")),
        el("ol", *items, class_="log", tabindex=0, aria_label="Node logs around the witness"),
    ]


def faults(bands: Sequence[Band], families: Sequence[str]) -> Markup:
    """Every harm with the evidence that it bit."""
    if not bands:
        asked = (
            f"The run asked for {', '.join(families)}, and none came."
            if families
            else "The run asked for no faults."
        )
        return el("section", el("h2", "Faults"), el("p", asked, class_="lead"), id="faults")
    verified = sum(b.verified for b in bands)
    rows = [
        el(
            "tr",
            el("th", swatch(b.family), b.label, el("span", b.mechanism, class_="under hint"), scope="row"),
            el("td", seconds(b.requested_ns), class_="number"),
            el("td", "—" if b.error else seconds(b.start_ns), class_="number"),
            el("td", _verified(b)),
            el("td", *_healed(b), class_="number"),
            el("td", "—" if b.fired is None else f"{b.fired:,}", class_="number"),
            el("td", _probes(b)),
        )
        for b in bands
    ]
    table = _fault_table(rows[:FAULTS_SHOWN])
    if len(rows) > FAULTS_SHOWN:
        rest = rows[FAULTS_SHOWN:]
        table = join(
            table, el("details", el("summary", f"{len(rest):,} more"), _fault_table(rest), class_="more")
        )
    return el(
        "section",
        el("h2", "Faults"),
        el(
            "p",
            f"{verified} of {count(len(bands), 'fault')} verified: a fault counts only where a probe saw that it bit. "
            "“Hit” counts the packets, messages or writes that met it.",
            class_="lead",
        ),
        table,
        id="faults",
    )


def _fault_table(rows: Sequence[Markup]) -> Markup:
    heads = ("fault", "requested", "injected", "verified", "healed", "hit", "before and after")
    numbers = ("requested", "injected", "healed", "hit")
    head = el("tr", *(el("th", h, scope="col", class_="number" if h in numbers else None) for h in heads))
    return el("div", el("table", el("thead", head), el("tbody", *rows)), class_="scroll")


def swatch(family: str) -> Markup:
    """The pattern in which a family's bands are drawn."""
    return el(
        "svg",
        el(
            "rect",
            x=0.5,
            y=0.5,
            width=17,
            height=11,
            rx=2,
            fill=f"url(#weave-{family})",
            class_=f"strip {family}",
        ),
        class_="picture swatch",
        viewBox="0 0 18 12",
        aria_hidden="true",
    )


def _verified(band: Band) -> Markup:
    if band.error:
        state = el("span", icon("invalid"), el("span", "not made"), class_="state tone-invalid")
        return join(state, el("span", band.error, class_="under"))
    if band.verified:
        later = 0 if band.verified_ns is None else band.verified_ns - band.start_ns
        when = f"after {duration(later)}" if later > 0 else "at once"
        return el("span", icon("valid"), el("span", when), class_="state tone-valid")
    state = el("span", icon("unknown"), el("span", "not verified"), class_="state tone-unknown")
    return join(state, el("span", band.why, class_="under")) if band.why else state


def _healed(band: Band) -> list[Content]:
    if band.error or (band.family == "membership" and band.why):
        return ["—"]
    if band.healed_ns is None:
        return ["never"]
    return [
        seconds(band.healed_ns),
        el(
            "span",
            f"{'seen settled after' if band.family == 'membership' else 'stood'} {duration(band.healed_ns - band.start_ns)}",
            class_="under",
        ),
    ]


def _probes(band: Band) -> Markup:
    if not band.before and not band.after:
        return Markup("—")
    return el(
        "details",
        el("summary", "probes"),
        el("pre", f"before  {json(band.before, 1_200)}\nafter   {json(band.after, 1_200)}"),
    )


def availability(shares: Mapping[str, Mapping[str, Share]], phases: Sequence[str]) -> Markup:
    """How operations ended, by the node that was asked and the phase in which."""
    if not shares:
        return Markup()
    order = [p for p in dict.fromkeys([*phases, "run"]) if any(p in s for s in shares.values())]
    rows = [
        el("tr", el("th", node, scope="row"), *(el("td", _share(shares[node].get(p))) for p in order))
        for node in shares
    ]
    whole = [
        Share(*(sum(getattr(s[p], end) for s in shares.values() if p in s) for end in ("ok", "fail", "info")))
        for p in order
    ]
    rows.append(el("tr", el("th", "all nodes", scope="row"), *(el("td", _share(s)) for s in whole)))
    return el(
        "section",
        el("h2", "Availability"),
        el("p", "Share of what clients asked that was answered ok, by node and phase.", class_="lead"),
        el(
            "div",
            el(
                "table",
                el(
                    "thead",
                    el("tr", el("th", "node", scope="col"), *(el("th", p, scope="col") for p in order)),
                ),
                el("tbody", *rows),
            ),
            class_="scroll",
        ),
        id="availability",
    )


def _share(share: Share | None) -> Markup:
    if share is None or not share.total:
        return el("span", "nothing asked", class_="share none")
    width = 72.0
    ok, fail = width * share.ok / share.total, width * share.fail / share.total
    counts = f"{share.ok:,} ok"
    if share.fail:
        counts += f", {share.fail:,} fail"
    if share.info:
        counts += f", {share.info:,} info"
    percent = 100 * share.ok / share.total
    written = f"{percent:.0f} %" if share.ok in (0, share.total) else f"{min(99.9, max(0.1, percent)):.1f} %"
    return el(
        "div",
        el(
            "svg",
            el("rect", x=0, y=0, width=f"{ok:.2f}", height=8, class_="fill-ok"),
            el("rect", x=f"{ok:.2f}", y=0.5, width=f"{fail:.2f}", height=7, class_="fill-fail"),
            el(
                "rect",
                x=f"{ok + fail:.2f}",
                y=2,
                width=f"{width - ok - fail:.2f}",
                height=4,
                class_="fill-info",
            ),
            viewBox="0 0 72 8",
            aria_hidden="true",
        ),
        el("span", el("b", written), el("span", f" {counts}", class_="hint")),
        class_="share",
    )


def checkers(found: Findings) -> Markup:
    """What each checker found, with its evidence."""
    if not found.verdicts:
        return el(
            "section",
            el("h2", "Checkers"),
            el("p", "No checker has read this history.", class_="lead"),
            id="checkers",
        )
    return el(
        "section",
        el("h2", "Checkers"),
        el("p", "What was judged, what was only measured, and the evidence of each.", class_="lead"),
        *(_checker(v) for v in found.verdicts),
        id="checkers",
    )


def _checker(v: Verdict) -> Markup:
    tone = str(v.valid) if v.judged else "measured"
    outcome = str(v.valid).replace("-", " ") if v.judged else "measured"
    parts: list[Markup] = []
    if not v.judged:
        said = f"It would have been {v.valid}; but this was not promised, so that it decides nothing."
        parts.append(el("p", said, class_="hint"))
    if v.anomalies:
        parts.append(el("ol", *(el("li", a.sentence) for a in v.anomalies)))
    if v.evidence:
        parts.append(evidence(v.evidence))
    return el(
        "details",
        el(
            "summary",
            icon(tone),
            el("span", v.checker, class_="title"),
            el("span", outcome, class_="outcome"),
            el("span", v.reason, class_="reason"),
        ),
        el("div", *(parts or [el("p", "It gave no evidence.", class_="hint")]), class_="inside"),
        class_=f"checker tone-{tone}",
        id=f"checker-{v.checker}",
        open=v.judged and v.valid is not Valid.VALID,
    )


def evidence(value: Mapping[str, Any]) -> Markup:
    """Nested facts as a list of terms."""
    parts: list[Markup] = []
    for name, fact in list(value.items())[:LIST_MAX]:
        parts.append(el("dt", str(name).replace("_", " ")))
        parts.append(el("dd", _fact(fact)))
    if len(value) > LIST_MAX:
        parts.append(el("dt", ""))
        parts.append(el("dd", f"and {len(value) - LIST_MAX:,} more in results.json", class_="hint"))
    return el("dl", *parts, class_="evidence")


def _fact(fact: Any) -> Markup:
    match fact:
        case None | "":
            return el("span", "—", class_="hint")
        case bool():
            return el("span", "yes" if fact else "no")
        case int():
            return el("span", f"{fact:,}" if abs(fact) >= 10_000 else fact)
        case dict() if fact:
            return evidence(cast("dict[str, Any]", fact))
        case list() if fact:
            items = cast("list[Any]", fact)
            if all(isinstance(i, dict) for i in items):
                return _table(cast("list[dict[str, Any]]", items))
            more = f" and {len(items) - LIST_MAX:,} more" if len(items) > LIST_MAX else ""
            return el("span", ", ".join(plain(i, 400) for i in items[:LIST_MAX]) + more)
        case list() | dict():
            return el("span", "none", class_="hint")
        case str() if "\n" in fact:
            return el("pre", cut(fact, TEXT_MAX), class_="block")
        case _:
            return el("span", plain(fact, TEXT_MAX))


def _table(rows: list[dict[str, Any]]) -> Markup:
    heads = list(dict.fromkeys(str(name) for row in rows for name in row))
    body = [el("tr", *(el("td", _cell(row.get(h))) for h in heads)) for row in rows[:LIST_MAX]]
    if len(rows) > LIST_MAX:
        body.append(
            el("tr", el("td", f"and {len(rows) - LIST_MAX:,} more", colspan=len(heads), class_="hint"))
        )
    table = el(
        "table",
        el("thead", el("tr", *(el("th", h.replace("_", " "), scope="col") for h in heads))),
        el("tbody", *body),
    )
    return el("div", table, class_="scroll")


def _cell(value: Any) -> str:
    return "" if value is None else plain(value, 300)


def setup(header: Header, environment: Mapping[str, Any]) -> Markup:
    """What was run, with which promises, on what."""
    about = {
        "name": header.name,
        "system": header.system,
        "world": header.world,
        "workload": header.workload,
        "seed": header.seed,
        "nodes": list(header.nodes),
        "fault families": list(header.families),
    }
    groups: list[tuple[str, Mapping[str, Any]]] = [
        ("Run", about),
        ("Configuration", header.config),
        ("Guarantees", header.guarantees),
        ("Mechanisms", header.mechanisms),
        ("Environment", environment),
    ]
    return el(
        "section",
        el("h2", "Setup"),
        el(
            "div",
            *(el("div", el("h3", name), evidence(content)) for name, content in groups if content),
            class_="setup",
        ),
        id="setup",
    )
