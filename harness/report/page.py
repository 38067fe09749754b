"""Puts the report's page together: the verdict, its witness, what happened around it, then everything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import msgspec

from checkers.verdict import Anomaly, Valid, Verdict
from harness.report import bands, columns, findings, loglines, metrics, picture, scene, sections, series
from harness.report.findings import Findings
from harness.report.markup import Markup, el, join, printable
from harness.report.wording import count, duration, plain
from harness.samples import Sample
from history.header import Header
from history.history import NEVER, History, Malformed, Operation
from history.op import NEMESIS, PROBE

SCRIPTS = ("data.js", "stack.js", "panels.js", "metrics.js", "page.js")
PAD_NS = 400_000_000
"""At least so much is shown before and after a witness."""
WINDOW_SHARE = 0.15

WORDS = {
    Valid.VALID: "valid",
    Valid.INVALID: "invalid",
    Valid.UNKNOWN: "unknown",
    Valid.HARNESS_ERROR: "harness error",
}


def render(
    history: History,
    results: Any,
    logs: Mapping[str, str],
    *,
    title: str,
    command: str,
    environment: Mapping[str, Any] | None = None,
    samples: Sequence[Sample] = (),
) -> str:
    """The whole report as one HTML page that asks for nothing from anywhere. Equal input gives an equal page.

    `results` is the content of results.json, or a list of verdicts; `logs` each node's log; `title` what the run is
    called; `command` what repeats it; `samples` the nodes' metrics, where they were collected.
    """
    found = findings.read(results, history.header)
    run = _Run.of(history)
    fired = metrics.fired(samples)
    shown = [(v, a) for v in found.verdicts for a in v.anomalies]
    windows = [_window(a, run) for _, a in shown]
    lines = loglines.read(logs)
    parts = {
        "Scene": scene.section(history, found.verdicts, run.bands, run.phases)
        if not run.malformed
        else Markup(),
        "Witness": sections.witnesses(shown, windows, run.by_line, run.bands, lines),
        "Timeline": _timeline(run),
        "Alerts": metrics.section(samples, fired, scene="scene" in history.header.guarantees),
        "Faults": sections.faults(run.bands, history.header.families),
        "Availability": sections.availability(run.availability, [p.name for p in run.phases]),
        "Checkers": sections.checkers(found),
        "Setup": sections.setup(history.header, environment or {}),
    }
    body = join(
        _top(found, title, [name for name, part in parts.items() if f'id="{name.lower()}"' in part]),
        picture.definitions(),
        el(
            "main",
            _verdict(found, run, command or found.repeat, environment or {}),
            *parts.values(),
            el(
                "p",
                "Made by sunder. This file holds everything that it shows and asks for nothing.",
                class_="foot",
            ),
        ),
    )
    data = _data(run, shown, windows, metrics.charts(samples, fired))
    return _page(found, title, body, data)


class _Run(msgspec.Struct, frozen=True, kw_only=True):
    """A history, looked at once for all sections."""

    history: History
    operations: tuple[Operation, ...]
    malformed: str
    clients: list[Operation]
    by_line: dict[int, Operation]
    bands: list[bands.Band]
    phases: list[series.Phase]
    availability: dict[str, dict[str, series.Share]]

    @classmethod
    def of(cls, history: History) -> _Run:
        malformed = ""
        operations: tuple[Operation, ...] = ()
        try:
            operations = history.operations
        except Malformed as problem:
            malformed = str(problem)
        clients = [o for o in operations if o.process not in (NEMESIS, PROBE)]
        by_line = {o.complete.index: o for o in operations if o.complete is not None}
        by_line |= {o.index: o for o in operations}
        phases = series.phases(history)
        return cls(
            history=history,
            operations=operations,
            malformed=malformed,
            clients=clients,
            by_line=by_line,
            bands=bands.bands(history, operations),
            phases=phases,
            availability=series.availability(series.top_level(clients), phases),
        )

    @property
    def span_us(self) -> tuple[int, int]:
        begin = min((e.time for e in self.history.events), default=0)
        return min(0, begin) // 1_000, series.end_ns(self.history) // 1_000 + 1


def _window(anomaly: Anomaly, run: _Run) -> tuple[int, int]:
    """The stretch of time, in nanoseconds, that shows an anomaly's witness and some time around it.

    Looks at the outcome after the heal lie far behind what went wrong: they count only where nothing but
    a fault stands before.
    """
    found = picture.witness(anomaly, run.by_line)
    healed = next((p.start for p in run.phases if p.name == "heal"), NEVER)
    before = [o for o in found if o.index < healed]
    chosen = before if any(o.process != NEMESIS for o in before) else found
    if not chosen:
        return 0, 0
    times = [t for o in chosen for t in (o.invoke.time, (o.complete or o.invoke).time)]
    pad = max(PAD_NS, int((max(times) - min(times)) * WINDOW_SHARE))
    first, last = run.span_us
    return max(first * 1_000, min(times) - pad), min(last * 1_000, max(times) + pad)


def _top(found: Findings, title: str, links: Sequence[str]) -> Markup:
    return el(
        "header",
        el(
            "a",
            sections.icon(str(found.verdict)),
            "sunder",
            class_=f"brand tone-{found.verdict}",
            href="#verdict",
        ),
        el("span", title, class_="run"),
        el("nav", *(el("a", name, href=f"#{name.lower()}") for name in links), aria_label="Sections"),
        class_="bar-top",
    )


def _verdict(found: Findings, run: _Run, command: str, environment: Mapping[str, Any]) -> Markup:
    header = run.history.header
    said = found.sentence.removeprefix(f"{found.verdict}: ")
    by = next((v.checker for v in found.verdicts if said.startswith(f"{v.checker}: ")), "")
    said = said.removeprefix(f"{by}: ")
    asked = sum(o.parent is None and not o.invoke.meta.get("final") for o in run.clients)
    verified = sum(b.verified for b in run.bands)
    facts: list[tuple[str, Any]] = [
        ("workload", header.workload or "—"),
        ("system", header.system),
        ("world", header.world),
        ("seed", found.seed),
        ("nodes", _nodes(header)),
        ("lasted", duration(series.end_ns(run.history)) if len(run.history) else "—"),
        ("operations", f"{asked:,}"),
        ("faults", f"{len(run.bands)}, {verified} verified" if run.bands else "none"),
    ]
    if found.mutant:
        facts.append(("planted bug", found.mutant))
    return el(
        "section",
        el(
            "div",
            sections.icon(str(found.verdict)),
            WORDS[found.verdict],
            el("span", by, class_="by") if by else None,
            class_="word",
        ),
        el("h1", _capital(said) or "No reason was given"),
        _repeat(command, header.world),
        el(
            "ul",
            *(
                el("li", el("span", name, class_="name"), el("span", value, class_="value"))
                for name, value in facts
            ),
            class_="facts",
        ),
        el("ul", *(el("li", _chip(v)) for v in found.verdicts), class_="chips", aria_label="Checkers"),
        *_notices(found, run, environment),
        id="verdict",
        class_=f"verdict tone-{found.verdict}",
    )


def _nodes(header: Header) -> str:
    members = header.config.get("nodes")
    spare = len(header.nodes) - members if isinstance(members, int) else 0
    more = f", {spare} of them spare at first" if spare > 0 else ""
    return f"{len(header.nodes)}{more}" if header.nodes else "—"


def _capital(sentence: str) -> str:
    """With a capital, unless it begins with a name such as n1."""
    first, space, rest = sentence.partition(" ")
    return f"{first.capitalize()}{space}{rest}" if first.isalpha() and first.islower() else sentence


def _repeat(command: str, world: str) -> Markup:
    if not command:
        return Markup()
    note = (
        "Repeats this run exactly: the same seed gives the same history."
        if world == "sim"
        else "Asks for the same operations and faults again. Real nodes keep their own time, so the outcome may differ."
    )
    return join(
        el(
            "div",
            el("code", command, id="command"),
            el("button", "Copy", type="button", class_="copy", data_copy="command"),
            class_="repeat",
        ),
        el("p", note, class_="repeat-note"),
    )


def _chip(v: Verdict) -> Markup:
    tone = str(v.valid) if v.judged else "measured"
    outcome = WORDS[v.valid] if v.judged else "measured only"
    if v.judged and v.valid is Valid.INVALID and v.anomalies:
        outcome += f", {count(len(v.anomalies), 'anomaly', 'anomalies')}"
    strong = " strong" if v.judged and v.valid is not Valid.VALID else ""
    return el(
        "a",
        sections.icon(tone),
        el("span", v.checker),
        el("span", outcome, class_="outcome"),
        href=f"#checker-{v.checker}",
        class_=f"chip tone-{tone}{strong}" + ("" if v.judged else " measured"),
    )


def _notices(found: Findings, run: _Run, environment: Mapping[str, Any]) -> list[Markup]:
    said: list[Markup] = []
    if environment.get("interrupted"):
        said.append(
            el(
                "p",
                "Interrupted: this run was stopped before its end. What there was is drawn and judged; nothing was waited for, "
                "and no final reads were made.",
                class_="notice",
            )
        )
    if found.mutant and found.verdict is not Valid.INVALID:
        said.append(
            el("p", f"A bug is planted ({found.mutant}), and this run has not found it.", class_="notice")
        )
    if run.history.torn:
        said.append(el("p", f"The history's last line was cut off: {run.history.torn}", class_="notice"))
    if run.malformed:
        said.append(
            el(
                "p",
                f"The history cannot be paired into operations, so that none are shown: {run.malformed}",
                class_="notice",
            )
        )
    if run.bands and not any(b.verified for b in run.bands):
        said.append(
            el(
                "p",
                f"Inert: {count(len(run.bands), 'fault was', 'faults were')} asked for and none was seen to bite. "
                "A run without harm proves nothing; the faults table says what was tried.",
                class_="notice",
            )
        )
    if not len(run.history):
        said.append(el("p", "The history holds no events: nothing was asked of the system.", class_="notice"))
    if found.error:
        said.append(
            el(
                "details",
                el("summary", "The harness failed; its traceback"),
                el("pre", found.error, class_="block"),
                class_="notice error",
            )
        )
    return said


def _timeline(run: _Run) -> Markup:
    if not run.operations:
        return el("section", el("h2", "Timeline"), el("p", "There are no operations to draw."), id="timeline")
    return el(
        "section",
        el("h2", "Timeline"),
        el(
            "p",
            "The whole run on one axis. Drag to look closer, double-click to see everything again; "
            "click an operation for all that is known of it.",
            class_="lead",
        ),
        el("div", class_="stack", data_stack="run"),
        el(
            "noscript",
            el("p", "The charts need JavaScript; everything else on this page does not.", class_="notice"),
        ),
        id="timeline",
    )


def _data(
    run: _Run,
    shown: Sequence[tuple[Verdict, Anomaly]],
    windows: Sequence[tuple[int, int]],
    charts: Sequence[metrics.Chart],
) -> str:
    """Everything that the charts draw, compressed."""
    pack = columns.Pack()
    concurrency = run.history.header.config.get("concurrency")
    places = columns.lanes(run.clients, concurrency if isinstance(concurrency, int) else None)
    keys = {plain(a.key, 80) for _, a in shown if a.key is not None}
    described = columns.pack_operations(pack, run.clients, places, windows, keys)
    hints = series.hints(run.operations)
    agreement = series.agreement(run.operations)
    marks = [
        [e.time // 1_000, printable(f"{e.f} {plain(e.value, 60)}" if e.value is not None else e.f)]
        for e in run.history.events
        if e.process == NEMESIS and e.type == "info" and e.f != "phase" and e.index not in run.by_line
    ]
    return pack.seal(
        {
            **described,
            "span": run.span_us,
            "nodes": [printable(n) for n in run.history.header.nodes],
            "phases": [[printable(p.name), p.start_ns // 1_000, p.end_ns // 1_000] for p in run.phases],
            "bands": [
                {
                    "family": b.family,
                    "label": printable(b.label),
                    "from": b.start_ns // 1_000,
                    "to": None if b.healed_ns is None else b.healed_ns // 1_000,
                    "verified": b.verified,
                    "notes": {printable(n): printable(note) for n, note in b.notes.items()},
                }
                for b in run.bands
                if b.standing
            ],
            "marks": marks[:2_000],
            "hints": {printable(n): [p.at_us, p.values] for n, p in hints.items()},
            "agreement": None
            if agreement is None
            else {
                "at": agreement.points.at_us,
                "apart": agreement.points.values,
                "ranges": agreement.ranges,
                "settled": None if agreement.settled_ns is None else agreement.settled_ns // 1_000,
            },
            "metrics": msgspec.to_builtins(charts),
            "anomalies": [
                {
                    "key": None if a.key is None else printable(plain(a.key, 80)),
                    "window": [w[0] // 1_000, w[1] // 1_000],
                    "operations": [
                        {
                            "number": i + 1,
                            "line": o.index,
                            "at": o.invoke.time // 1_000,
                            "lane": places.of.get(o.process),
                        }
                        for i, o in enumerate(picture.witness(a, run.by_line))
                    ],
                }
                for (_, a), w in zip(shown, windows, strict=True)
            ],
        }
    )


@cache
def _asset(name: str) -> str:
    return (files("harness.report") / "assets" / name).read_text("utf-8")


def _hash(content: str) -> str:
    return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _page(found: Findings, title: str, body: Markup, data: str) -> str:
    """The document. Its policy lets nothing run or load but what stands here: a hostile value stays text."""
    style = _asset("page.css")
    script = '"use strict";\n(() => {\n' + "\n".join(_asset(name) for name in SCRIPTS) + "\n})();\n"
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{_hash(style)}'; "
        f"script-src 'sha256-{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    head = join(
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="referrer", content="no-referrer"),
        el("title", f"{WORDS[found.verdict]}: {title}"),
        el("link", rel="icon", href=f"data:image/svg+xml,{quote(sections.favicon(str(found.verdict)))}"),
        el("style", Markup(style)),
    )
    return "<!doctype html>\n" + el(
        "html",
        el("head", head),
        el(
            "body",
            body,
            el("script", Markup(data), type="application/octet-stream", id="data"),
            el("script", Markup(script)),
        ),
        lang="en",
    )
