"""The report as a whole: one page that asks for nothing, hides nothing, and lets nobody's values run."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import sample_runs

from checkers.verdict import Anomaly, Edge, Valid, Verdict
from harness.report import render
from history.header import Header
from history.history import History
from history.op import Op
from history.text import parse

COMMAND = "sunder run --workload register --seed 7"


class Page(HTMLParser):
    """Elements with their attributes, scripts and styles with their content, and all visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.code: list[tuple[str, dict[str, str | None], str]] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else ""
        if self._inside:
            self.code.append((tag, dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            tag, attributes, content = self.code[-1]
            self.code[-1] = (tag, attributes, content + data)
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def ids(self) -> set[str | None]:
        return {attributes.get("id") for _, attributes in self.elements}


@pytest.fixture(scope="module")
def run() -> History:
    return sample_runs.history(seconds=12)


@pytest.fixture(scope="module")
def red(run: History) -> str:
    anomalies = [sample_runs.lost_write(run), sample_runs.lost_write(run, "k2", -4)]
    results = sample_runs.results(*sample_runs.verdicts(*anomalies))
    return render(run, results, sample_runs.logs(run), title="register/night-7", command=COMMAND)


def rendered(history: History, results: Any, logs: dict[str, str] | None = None) -> Page:
    return Page(render(history, results, logs or {}, title="run", command=COMMAND))


def test_the_page_asks_for_nothing_from_anywhere(red: str) -> None:
    page = Page(red)
    assert not {tag for tag, _ in page.elements} & {"iframe", "img", "object", "embed", "form", "base"}
    for tag, attributes in page.elements:
        for name in ("src", "href", "action", "data"):
            address = attributes.get(name) or ""
            assert not address or address.startswith(("#", "data:image/svg+xml,")), (tag, address)
    for _, _, content in page.code:
        assert not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest|WebSocket|import\(", content)


def test_its_policy_admits_its_own_style_and_script_and_nothing_else(red: str) -> None:
    page = Page(red)
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    own = [(tag, content) for tag, a, content in page.code if a.get("type") != "application/octet-stream"]
    assert [tag for tag, _ in own] == ["style", "script"]
    for tag, content in own:
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_the_verdict_comes_first_with_the_command_that_repeats_it(red: str) -> None:
    text = Page(red).text
    heading, command = text.index("2 acknowledged writes are lost"), text.index(COMMAND)
    assert (
        text.index("invalid")
        < heading
        < command
        < text.index("Witness", command)
        < text.index("Timeline", command)
    )
    assert "lost_writes invalid, 2 anomalies" in text
    assert "resurrection measured only" in text


@pytest.mark.parametrize(("verdict", "said"), [("valid", True), ("unknown", True), ("invalid", False)])
def test_a_planted_bug_that_was_not_found_is_told_beside_the_verdict(
    run: History, verdict: str, said: bool
) -> None:
    found = {"verdict": verdict, "mutant": "no-dots", "results": []}
    assert ("A bug is planted (no-dots), and this run has not found it." in rendered(run, found).text) == said


def test_every_witness_is_told_and_drawn(run: History, red: str) -> None:
    text = Page(red).text
    for anomaly in (sample_runs.lost_write(run), sample_runs.lost_write(run, "k2", -4)):
        assert anomaly.sentence in text
        for why in anomaly.why:
            assert why in text
        for index in anomaly.witness:
            assert f"event {index} " in text
    assert red.count('class="picture" ') == 2
    for edge in ("superseded", "read-from", "real-time", "observed"):
        assert red.count(f'class="edge-name {edge}"') == 2


def test_log_lines_stand_beside_the_witness_and_far_ones_do_not(run: History) -> None:
    lost = sample_runs.lost_write(run)
    at = run.events[lost.witness[1]].time / 1e9
    logs = {"n1": f"+{at:.6f} a line of that moment\n+{at + 60:.6f} a line of long after\n"}
    text = rendered(run, sample_runs.results(*sample_runs.verdicts(lost)), logs).text
    assert "a line of that moment" in text
    assert "a line of long after" not in text


def test_equal_input_gives_an_equal_page_whatever_the_hash_seed() -> None:
    script = (
        "import hashlib, sample_runs\n"
        "from harness.report import render\n"
        "h = sample_runs.history(seconds=6)\n"
        "r = sample_runs.results(*sample_runs.verdicts(sample_runs.lost_write(h)))\n"
        "print(hashlib.sha256(render(h, r, sample_runs.logs(h), title='t', command='c').encode()).hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent)},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "<!-- <script>",
    "]]>\x00\x1b[31m\u202e\ud800",
]


def test_what_the_store_returned_cannot_run_or_break_the_page() -> None:
    ops: list[Op] = [Op("nemesis", "info", "phase", None, HOSTILE[0])]
    for i, evil in enumerate(HOSTILE):
        ops += [
            Op(i, "invoke", "put", evil, evil, node=evil, meta={evil: evil}),
            Op(i, "fail", "put", evil, evil, evil, evil),
            Op("probe", "invoke", "hints", node=evil),
            Op("probe", "ok", "hints", None, [[evil, evil, [evil]]], evil),
            Op(
                "nemesis",
                "invoke",
                "partition",
                None,
                {"fault": "partition", "shape": evil, "blocked": [[evil, "b"]]},
            ),
            Op(
                "nemesis",
                "ok",
                "partition",
                None,
                {"verified": True, "mechanism": evil, "before": {evil: evil}},
            ),
            Op("nemesis", "invoke", evil, None, evil),
            Op("nemesis", "fail", evil, None, evil, evil),
        ]
    history = History(
        Header(
            name=HOSTILE[0],
            nodes=tuple(HOSTILE),
            config={e: e for e in HOSTILE},
            mechanisms={"kill": HOSTILE[0]},
        ),
        ops,
        torn=HOSTILE[0],
    )
    verdicts = [
        Verdict(
            checker="lost_writes",
            valid=Valid.INVALID,
            reason=evil,
            anomalies=(
                Anomaly(
                    kind=evil, key=evil, sentence=evil, witness=(1, 3), why=(evil,), edges=(Edge(1, 3, evil),)
                ),
            ),
            evidence={evil: [evil, {evil: evil}], "rows": [{evil: evil}], "trace": f"{evil}\n{evil}"},
        )
        for evil in HOSTILE
    ]
    logs = {evil: f"0.0 {evil}\n2026-01-01T00:00:00Z {evil}" for evil in HOSTILE}
    html = render(
        history, verdicts, logs, title=HOSTILE[0], command=HOSTILE[0], environment={HOSTILE[0]: HOSTILE}
    )
    html.encode()
    page = Page(html)
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert "img" not in {tag for tag, _ in page.elements}
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]
    assert "\x00" not in html
    assert "\u202e" not in html
    assert HOSTILE[1] in page.text


def test_a_run_without_anomalies_has_no_witness() -> None:
    run = sample_runs.history(seconds=5)
    page = rendered(run, sample_runs.results(*sample_runs.verdicts(), verdict="valid"))
    assert "witness" not in page.ids()
    assert "Nothing that was promised was broken" in page.text


def test_an_inert_run_says_that_no_fault_bit() -> None:
    run = sample_runs.history(seconds=12, inert=True)
    text = rendered(run, sample_runs.results(*sample_runs.verdicts(), verdict="unknown")).text
    assert "Inert: 2 faults were asked for and none was seen to bite." in text
    assert "0 of 2 faults verified" in text


def test_an_empty_history_is_told_in_a_sentence() -> None:
    page = rendered(
        History(Header(), []),
        {"verdict": "unknown", "sentence": "unknown: nothing was judged", "results": {}},
    )
    assert "The history holds no events: nothing was asked of the system." in page.text
    assert not [a for _, a in page.elements if "data-stack" in a]


def test_a_torn_history_says_where_it_was_cut() -> None:
    run = sample_runs.history(seconds=4, torn="line 912 is not whole")
    text = rendered(run, sample_runs.results(*sample_runs.verdicts(), verdict="valid")).text
    assert "The history's last line was cut off: line 912 is not whole" in text


def test_a_history_that_cannot_be_paired_still_gets_its_verdict_shown() -> None:
    history = History(Header(), [Op(0, "ok", "put", "x", 1)])
    results: dict[str, Any] = {
        "verdict": "harness-error",
        "sentence": "harness-error: lost_writes: it crashed",
        "error": "Traceback",
        "results": {},
    }
    text = rendered(history, results).text
    assert "cannot be paired into operations" in text
    assert "process 0 completes 'put', which it has not invoked" in text
    assert "harness error" in text


def test_bare_verdicts_are_composed_the_worst_first() -> None:
    history = parse("0 invoke put 1 key=x\n0 ok put key=x")
    verdicts = [
        Verdict(checker="siblings", valid=Valid.VALID),
        Verdict(checker="lost_writes", valid=Valid.UNKNOWN, reason="no final read"),
        Verdict(checker="causal", valid=Valid.INVALID, judged=False, reason="by design"),
    ]
    text = rendered(history, verdicts).text
    assert "unknown lost_writes No final read" in text
    assert (
        text.index("lost_writes unknown") < text.index("siblings valid") < text.index("causal measured only")
    )


def test_what_was_only_measured_is_no_witness() -> None:
    run = sample_runs.history(seconds=5)
    lost = sample_runs.lost_write(run)
    measured = Verdict(
        checker="lost_writes", valid=Valid.INVALID, judged=False, reason="not promised", anomalies=(lost,)
    )
    page = rendered(run, [measured, Verdict(checker="siblings", valid=Valid.VALID)])
    assert "witness" not in page.ids()
    assert "measured" in page.ids()
    assert lost.sentence in page.text


def test_a_witness_of_operations_that_are_not_in_the_history_is_still_told() -> None:
    history = parse("0 invoke put 1 key=x\n0 ok put key=x")
    anomaly = Anomaly(
        kind="vanished", sentence="something vanished", witness=(77,), edges=(Edge(77, 78, "session"),)
    )
    text = rendered(history, [Verdict(checker="lost_writes", valid=Valid.INVALID, anomalies=(anomaly,))]).text
    assert "something vanished" in text
    assert "This anomaly names no operations of the history." in text


def test_many_anomalies_and_faults_are_folded_but_all_there() -> None:
    run = sample_runs.history(seconds=300, rate=2)
    anomalies = [Anomaly(kind="vanished", sentence=f"write {i} vanished") for i in range(20)]
    page = rendered(run, [Verdict(checker="lost_writes", valid=Valid.INVALID, anomalies=tuple(anomalies))])
    assert all(a.sentence in page.text for a in anomalies)
    assert page.text.count("14 more") == 2  # behind six anomalies, and behind sixty faults
    assert "74 of 74 faults verified" in page.text


def test_availability_is_counted_by_node_and_phase() -> None:
    history = parse("""
        nemesis info phase safety
        0 invoke put 1 key=x node=n1
        0 ok     put 1 key=x node=n1
        1 invoke put 2 key=x node=n1
        1 fail   put 2 key=x node=n1
        nemesis info phase final
        0 invoke get key=x node=n2
        0 ok     get [1] key=x node=n2
    """)
    text = rendered(history, []).text
    assert "node safety final n1 50.0 % 1 ok, 1 fail nothing asked n2 nothing asked 100 % 1 ok" in text
