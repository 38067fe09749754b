"""The story of a scene at the top of its report: what happened step by step, what had to be seen, and pictures of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from checkers.observed import stage as looks_of
from checkers.scenes.second_failure import HORIZON, exposures, fired
from checkers.scenes.stage import Look, Stage, end, relation
from checkers.verdict import Verdict
from harness.report import scene_pictures as pictures
from harness.report.bands import Band
from harness.report.markup import Markup, el, join
from harness.report.sections import icon
from harness.report.series import Phase
from harness.report.wording import count, plain
from harness.scenes import SCENES
from history.history import NEVER, History

_TONES = {"yes": "valid", "NO": "invalid", "not shown": "unknown"}


def section(
    history: History, verdicts: Sequence[Verdict], bands: Sequence[Band], phases: Sequence[Phase]
) -> Markup:
    """Nothing where the history is not that of a scene."""
    played = history.observed("scene")
    if not played:
        return Markup()
    told: Mapping[str, Any] = played[0].value
    scene = Stage(history)
    verdict = next((v for v in verdicts if v.checker == "scene"), None)
    name = str(told.get("name", ""))
    claims: list[dict[str, str]] = verdict.evidence.get("claims", []) if verdict is not None else []
    figures = FIGURES.get(name, ())
    steps = [(float(at_s), str(says)) for at_s, says in told.get("steps", [])]
    return el(
        "section",
        el("h2", f"Scene: {name}"),
        el("p", str(told.get("sentence", "")), class_="lead"),
        el("div", _steps(name, steps, claims), _claims(claims), class_="scene-told"),
        *(figure(scene, bands, steps, phases) for figure in figures),
        id="scene",
    )


def _steps(name: str, steps: Sequence[tuple[float, str]], claims: Sequence[dict[str, str]]) -> Markup:
    """The story. Where not all of it was seen it is only a plan, and each step says what was seen instead."""
    as_told = bool(claims) and all(c["held"] == "yes" for c in claims)
    story = SCENES[name].story if name in SCENES else ()
    instead: list[list[str]] = [
        [c["seen"] for c in claims if c["held"] == "NO" and i < len(story) and c["name"] in story[i].shows]
        for i in range(len(steps))
    ]
    return el(
        "div",
        el("h3", "What happened" if as_told else "What was planned"),
        el(
            "ol",
            *(
                el(
                    "li",
                    el("span", i + 1, class_="n"),
                    el("span", f"{at_s:g} s", class_="at"),
                    el(
                        "span",
                        says,
                        *(el("span", f"Seen instead: {seen}", class_="under") for seen in instead[i]),
                    ),
                )
                for i, (at_s, says) in enumerate(steps)
            ),
            class_="steps",
        ),
    )


def _claims(claims: Sequence[dict[str, str]]) -> Markup:
    if not claims:
        return Markup()
    return el(
        "div",
        el("h3", "What had to be seen"),
        el(
            "ul",
            *(
                el(
                    "li",
                    icon(_TONES[c["held"]]),
                    el("span", c["claim"], el("span", f"{c['held']}: {c['seen']}", class_="under")),
                    class_=f"tone-{_TONES[c['held']]}",
                )
                for c in claims
            ),
            class_="claims",
        ),
    )


Figure = Callable[[Stage, Sequence[Band], Sequence[tuple[float, str]], Sequence[Phase]], Markup]


def _figure(title: str, hint: str, *content: Markup) -> Markup:
    return el("figure", el("figcaption", el("b", title), " ", el("span", hint, class_="hint")), *content)


def _time(
    scene: Stage,
    bands: Sequence[Band],
    steps: Sequence[tuple[float, str]],
    phases: Sequence[Phase],
    *rows: pictures.Row,
) -> Markup:
    last_ns = next((p.start_ns for p in phases if p.name == "final"), phases[-1].end_ns if phases else 0)
    return el(
        "div",
        pictures.over_time(last_ns, bands, [at_s for at_s, _ in steps], phases, rows),
        class_="scroll",
    )


def _hints_over_time(
    scene: Stage, bands: Sequence[Band], steps: Sequence[tuple[float, str]], phases: Sequence[Phase]
) -> Markup:
    """Writes, and the depth of the queue for each node that hints were for, all holders together."""
    rows = [_operations(scene, "put"), *_queues(scene)]
    return _figure(
        "Writes and hints over time",
        "numbers are the steps of the story; bands are faults",
        _time(scene, bands, steps, phases, *rows),
    )


def _queues(scene: Stage) -> list[pictures.Row]:
    rows: list[pictures.Row] = []
    targets = {t for o in scene.history.observed("hints") for t, _, _ in o.value}
    for target in sorted(targets):
        depth: dict[str | None, int] = {}
        points: list[tuple[int, float]] = []
        for o, held in scene.hints(target):
            depth[o.node] = held
            assert o.complete is not None
            points.append((o.complete.time, sum(depth.values())))
        rows.append(pictures.Row(f"hints for {target}", "steps", points))
    return rows


def _operations(scene: Stage, f: str) -> pictures.Row:
    """Operations of one kind, acknowledged and not, in half seconds."""
    done = [o for o in scene.history.select(f) if not o.invoke.meta.get("final")]
    return pictures.Row(
        f"{f}s, per 0.5 s",
        "bars",
        [(o.invoke.time, 1.0) for o in done if o.type == "ok"],
        [(o.invoke.time, 1.0) for o in done if o.type != "ok"],
        ("acknowledged", "not acknowledged"),
    )


def _preference_list(
    scene: Stage, bands: Sequence[Band], steps: Sequence[tuple[float, str]], phases: Sequence[Phase]
) -> Markup:
    """Who sits where in the order of preference, what it suffered, and what it kept for others."""
    kept: dict[str, dict[str, int]] = {}
    for o in scene.history.observed("hints"):
        counts: dict[str, int] = {}
        for target, _, _ in o.value:
            counts[target] = counts.get(target, 0) + 1
        for target, number in counts.items():
            mine = kept.setdefault(o.node or "", {})
            mine[target] = max(number, mine.get(target, 0))
    boxes: list[pictures.Box] = []
    for seat, node in scene.seats.items():
        suffered = [
            said
            for b in bands
            if node in b.notes and b.healed_ns is not None
            for said in (b.notes[node], f"{b.start_ns / 1e9:.1f} to {b.healed_ns / 1e9:.1f} s")
        ]
        kept_for = [f"kept {count(n, 'hint')} for {t}" for t, n in sorted(kept.get(node, {}).items())]
        boxes.append(pictures.Box(node, seat, suffered, kept_for))
    arrows = [(node, target) for node, targets in kept.items() for target in targets]
    # The seats are those of the first key's list.
    first, *others = scene.order or [""]
    whose = first
    if others:
        alike = all(scene.order[key] == scene.order[first] for key in others)
        whose = (
            f"all {len(scene.order)} keys" if alike else f"{first}; the other keys have lists of their own"
        )
    return _figure(
        "The preference list",
        f"of {whose}: home replicas, then fallbacks; an arrow leads from who kept hints to whom they were for",
        el("div", pictures.preference_list(boxes, arrows), class_="scroll"),
    )


def _clocks(
    scene: Stage, bands: Sequence[Band], steps: Sequence[tuple[float, str]], phases: Sequence[Phase]
) -> Markup:
    """Each key's record at each home replica: before the cut, while it stood, after the return, at last."""
    cut, healed = scene.fault("partition"), scene.fault("heal-partition")
    if cut is None or healed is None:
        return Markup()
    resolve = next((o for o in scene.writes(end(healed)) if o.key == scene.keys["concurrent"]), None)
    moments = (
        ("before the cut", -1, cut.index),
        ("while it stood", end(cut), healed.index),
        ("after the return", end(healed), resolve.index if resolve else NEVER),
        ("at last", resolve.index if resolve else end(healed), NEVER),
    )
    letters: dict[str, str] = {}
    rows: list[Markup] = []
    for role, key in scene.keys.items():
        for name, after, before in moments:
            last = {n: found[-1] for n in scene.homes if (found := scene.looks(n, key, after, before))}
            if not last:
                continue
            first = last.get(scene.homes[0])
            cells = [
                el("td", _record(last.get(n), letters), _stands(last.get(n), first, scene.homes[0], n))
                for n in scene.homes
            ]
            rows.append(
                el("tr", el("th", key, el("span", f"{role}, {name}", class_="under"), scope="row"), *cells)
            )
    head = el("tr", el("th", "key", scope="col"), *(el("th", n, scope="col") for n in scene.homes))
    return _figure(
        "Clocks, before and after",
        "the values that each home replica held, and its record's clock: letters are actors, numbers their events",
        el("div", el("table", el("thead", head), el("tbody", *rows), class_="clocks"), class_="scroll"),
    )


def _record(look: Look | None, letters: dict[str, str]) -> Markup:
    if look is None:
        return el("span", "not seen", class_="hint")
    for actor in sorted(look.clock, key=lambda a: look.clock[a]):
        letters.setdefault(actor, chr(ord("a") + len(letters) % 26))
    entries = sorted((letters[actor], n) for actor, n in look.clock.items())
    return join(
        el("b", plain(list(look.ids), 40) or "nothing"),
        *(el("span", letter, el("sub", n), class_="entry") for letter, n in entries),
    )


def _stands(look: Look | None, first: Look | None, name: str, node: str) -> Markup:
    """How a record's clock stands to that of the first home replica."""
    if look is None or first is None or node == name:
        return Markup()
    said = relation(look.clock, first.clock)
    words = {"equal": f"as {name}", "before": f"before {name}: stale", "after": f"after {name}"}
    word = words.get(said, f"concurrent to {name}")
    return el("span", word, class_=f"under stands {said}")


def _fate_over_time(
    scene: Stage, bands: Sequence[Band], steps: Sequence[tuple[float, str]], phases: Sequence[Phase]
) -> Markup:
    """What became of every acknowledged addition, and how many siblings reads returned meanwhile."""
    final = [o for o in scene.history.select("read") if o.invoke.meta.get("final") and o.type == "ok"]
    held = set(final[-1].value) if final else set[Any]()
    adds = [o for o in scene.history.select("add") if o.type == "ok"]
    reads = [o for o in scene.history.select("get") if o.type == "ok"]
    rows = [
        pictures.Row(
            "additions, per 0.5 s",
            "bars",
            [(o.invoke.time, 1.0) for o in adds if o.invoke.value in held],
            [(o.invoke.time, 1.0) for o in adds if o.invoke.value not in held],
            ("there at last", "gone"),
        ),
        pictures.Row(
            "siblings in a read",
            "steps",
            [(o.complete.time, float(len(o.value))) for o in reads if o.complete is not None],
        ),
    ]
    gone = sum(o.invoke.value not in held for o in adds)
    hint = f"{len(adds)} acknowledged, {gone or 'none'} gone" if final else "never read at last"
    return _figure("What became of the additions", hint, _time(scene, bands, steps, phases, *rows))


def _load(
    scene: Stage, bands: Sequence[Band], steps: Sequence[tuple[float, str]], phases: Sequence[Phase]
) -> Markup:
    """What each node did for the hot key: requests that it coordinated, and work that it did as a replica."""
    asked = {node: o.value for node, o in scene.metrics.items()}
    columns = (
        ("reads coordinated", 'dynamo_request_seconds_count{op="get"}'),
        ("writes coordinated", 'dynamo_request_seconds_count{op="put"}'),
        ("passed on to a home", "dynamo_forwards_total"),
        ("reads served as a replica", "dynamo_replica_reads_total"),
        ("writes kept as a replica", "dynamo_replica_writes_total"),
    )
    rows = [
        (node, seat, [float(asked.get(node, {}).get(sample, 0)) for _, sample in columns])
        for seat, node in scene.seats.items()
    ]
    return _figure(
        "Load on each node",
        "by its seat in the key's preference list, at the last look; what a replica does for itself is not counted",
        el("div", pictures.bars([title for title, _ in columns], rows), class_="scroll"),
    )


def _brought_back(
    scene: Stage, bands: Sequence[Band], steps: Sequence[tuple[float, str]], phases: Sequence[Phase]
) -> Markup:
    """Of each key: what the node that was dead missed, and what it held once the hints had come."""
    killed, back = scene.fault("kill"), scene.fault("restart")
    quiet = looks_of(scene.history, "quiet")
    dead = scene.seats.get("home1", "")
    if killed is None or back is None or dead not in quiet.replicas:
        return Markup()
    rows: list[Markup] = []
    for key in scene.order:
        before = scene.looks(dead, key, -1, end(killed))
        missed = [
            o.invoke.value for o in scene.writes(end(killed), back.index) if o.key == key and o.type == "ok"
        ]
        held = quiet.holds(dead, key)
        others = [n for n in scene.order[key][: len(scene.homes)] if n != dead]
        told = "as " + " and ".join(others)
        if any(set(quiet.holds(n, key)) != set(held) for n in others if n in quiet.replicas):
            told = "NOT as the others"
        rows.append(
            el(
                "tr",
                el("th", key, scope="row"),
                el("td", plain(list(before[-1].ids), 40) if before else "nothing"),
                el("td", plain(missed, 80) or "none"),
                el("td", plain(held, 40), el("span", told, class_="under")),
            )
        )
    heads = ("key", f"{dead} held when it died", "written meanwhile", f"{dead} held after the hints")
    return _figure(
        "What the hints brought back",
        "each write replaces the one before; looked at before anybody read anything",
        el(
            "div",
            el(
                "table",
                el("thead", el("tr", *(el("th", h, scope="col") for h in heads))),
                el("tbody", *rows),
            ),
            class_="scroll",
        ),
    )


def _risk_over_time(
    scene: Stage, bands: Sequence[Band], steps: Sequence[tuple[float, str]], phases: Sequence[Phase]
) -> Markup:
    """Hints, the consistency horizon against its alert, and what one more failure would have lost, on one axis."""
    away = scene.seats.get("home2", "")
    horizon: list[pictures.Point] = []
    last: dict[str, float] = {}
    for o in scene.history.observed("metrics"):
        assert o.complete is not None, o.index
        last[o.node or ""] = o.value.get(HORIZON, 0.0)
        horizon.append((o.complete.time, max(last.values())))
    told = fired(scene)
    line, mark = None, None
    if told is not None:
        _, alert = told
        threshold, for_s = alert["threshold"], alert["for_seconds"]
        line = (float(threshold), f"alert above {threshold:g} s for {for_s:g} s")
        mark = (int(alert["fired_ns"]), f"alert at {alert['fired_ns'] / 1e9:.1f} s")
    at_risk = exposures(scene)
    rows = [
        *[row for row in _queues(scene) if row.title == f"hints for {away}"],
        pictures.Row("horizon, worst node", "steps", horizon, line=line, mark=mark, unit=" s"),
        pictures.Row(
            "writes that a second",
            "steps",
            [(e.time_ns, float(e.writes)) for e in at_risk],
            under="failure would lose",
        ),
    ]
    return _figure(
        "Hints, horizon, and what was at stake",
        "by the probe's looks, those after the return too; at stake: acknowledged writes that stood on one node alone",
        _time(scene, bands, steps, phases, *rows),
    )


FIGURES: dict[str, tuple[Figure, ...]] = {
    "home-replica-failure": (_hints_over_time, _preference_list, _brought_back),
    "stale-rejoin": (_hints_over_time, _preference_list, _clocks),
    "hot-key": (_fate_over_time, _load),
    "second-failure": (_risk_over_time, _preference_list),
}
"""The pictures of each scene, in order."""
