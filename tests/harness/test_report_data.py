"""What the charts are drawn from: operations as columns, lanes, fault bands, looks of the probe, and log lines."""

from __future__ import annotations

import base64
import json
import re
import zlib
from importlib.resources import files
from itertools import accumulate
from typing import Any

import pytest
import sample_runs

from checkers.verdict import Anomaly, Edge
from checkers.witness import describe
from harness.report import bands, columns, loglines, picture, render, series
from history.header import Header
from history.history import NEVER, History
from history.op import Op
from history.text import parse

SECOND = 1_000_000_000


def unpack(page: str) -> tuple[dict[str, Any], dict[str, list[int]], dict[str, list[str]]]:
    """The header, the columns of numbers and the texts of a page's data: what assets/data.js does."""
    found = re.search(r'<script type="application/octet-stream" id="data">([^<]*)</script>', page)
    assert found is not None
    whole = base64.b64decode(found[1])
    base = 4 + int.from_bytes(whole[:4], "little")
    header = json.loads(zlib.decompress(whole[4:base]))
    numbers: dict[str, list[int]] = {}
    texts: dict[str, list[str]] = {}
    for name, (count, width, at, length) in header["columns"].items():
        content = zlib.decompress(whole[base + at : base + at + length])
        if width == 0:
            texts[name] = content.decode().split("\n")
        else:
            planes = [content[p * count : (p + 1) * count] for p in range(width)]
            numbers[name] = [sum(plane[i] << (8 * p) for p, plane in enumerate(planes)) for i in range(count)]
    return header, numbers, texts


def page_of(history: History) -> str:
    return render(history, [], {}, title="t", command="c")


def signed(code: int) -> int:
    return -((code + 1) // 2) if code & 1 else code // 2


def test_every_operation_comes_back_from_the_page_as_it_was() -> None:
    history = sample_runs.history(seconds=6)
    clients = sorted(history.client, key=lambda o: o.invoke.time)
    header, numbers, texts = unpack(page_of(history))
    assert header["count"] == len(clients)
    assert header["exact"]
    assert list(accumulate(numbers["start"])) == [o.invoke.time // 1_000 for o in clients]
    took = [(o.complete.time - o.invoke.time) // 1_000 if o.complete else 0 for o in clients]
    assert all(abs(a - b) <= 1 for a, b in zip(numbers["took"], took, strict=True))
    assert [columns.TYPES[t] for t in numbers["type"]] == [o.type for o in clients]
    assert [header["words"]["f"][f] for f in numbers["f"]] == [o.f for o in clients]
    assert [header["words"]["key"][k] for k in numbers["key"]] == [o.key for o in clients]
    assert list(accumulate(signed(c) for c in numbers["line"])) == [o.index for o in clients]
    assert [t and json.loads(t) for t in texts["asked"]] == [
        "" if o.invoke.value is None else o.invoke.value for o in clients
    ]
    node_of: dict[int, int] = {}
    for lane, code, o in zip(numbers["lane"], numbers["node"], clients, strict=True):
        node_of[lane] = code - 1 if code else node_of[lane]
        assert header["words"]["node"][node_of[lane]] == o.node


def test_processes_are_told_from_where_they_begin_in_their_lane() -> None:
    history = sample_runs.history(seconds=14)
    clients = sorted(history.client, key=lambda o: o.invoke.time)
    header, numbers, _ = unpack(page_of(history))
    named = iter(header["processes"])
    last: dict[int, int] = {}
    begun: dict[int, list[tuple[int, Any]]] = {}
    for position, code in zip(accumulate(numbers["begun"]), numbers["process"], strict=True):
        lane = numbers["lane"][position]
        process = last.get(lane, 0) + signed(code - 1) if code else next(named)
        if code:
            last[lane] = process
        begun.setdefault(lane, []).append((position, process))
    assert len(numbers["begun"]) > 10 + 1  # some processes were retired
    for i, (lane, o) in enumerate(zip(numbers["lane"], clients, strict=True)):
        assert [p for at, p in begun[lane] if at <= i][-1] == o.process


def test_a_great_many_operations_are_rounded_but_stay_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "EXACT_MAX", 100)
    history = sample_runs.history(seconds=6)
    clients = sorted(history.client, key=lambda o: o.invoke.time)
    header, numbers, _ = unpack(page_of(history))
    gap = clients[-1].invoke.time / len(clients)
    for quanta, code, o in zip(accumulate(numbers["start"]), numbers["took"], clients, strict=True):
        assert 0 <= o.invoke.time - quanta * header["quantum"] < gap / 4
        assert o.complete is not None
        took = (o.complete.time - o.invoke.time) / 1_000
        assert 2 ** (code / header["steps"]) - 1 == pytest.approx(took, rel=0.05)
    assert "line" not in numbers


def test_of_a_great_many_operations_those_near_the_witness_keep_their_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(columns, "DETAILED_MAX", 100)
    history = sample_runs.history(seconds=8)
    lost = sample_runs.lost_write(history)
    results = sample_runs.results(*sample_runs.verdicts(lost))
    header, numbers, texts = unpack(render(history, results, {}, title="t", command="c"))
    clients = sorted(history.client, key=lambda o: o.invoke.time)
    kept = [clients[i] for i in accumulate(numbers["detailed"])]
    assert not header["everything"]
    assert len(texts["asked"]) == len(kept) < len(clients)
    assert set(lost.witness) <= {o.index for o in kept}


def test_a_million_operations_would_fit_into_three_and_a_half_megabytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(columns, "EXACT_MAX", 100)
    monkeypatch.setattr(columns, "DETAILED_MAX", 100)
    small, large = (len(page_of(sample_runs.history(seconds=s, rate=1_000, probes=False))) for s in (4, 24))
    operations = 20 * 1_000
    assert (large - small) / operations < 3.4


def test_a_process_that_goes_on_after_info_stays_in_its_lane() -> None:
    history = parse("""
        0 invoke put 1
        1 invoke put 2
        0 info   put 1
        2 invoke put 3
        1 ok     put 2
        2 ok     put 3
    """)
    assert columns.lanes(history.client, 2).of == {0: 0, 1: 1, 2: 0}
    assert columns.lanes(history.client, 2).names == ("process 0 …", "process 1")
    assert columns.lanes(history.client).of == {0: 0, 1: 1, 2: 0}


def test_processes_that_overlap_never_share_a_lane_whatever_the_concurrency_says() -> None:
    history = parse("""
        0 invoke put 1
        3 invoke put 2
        0 ok     put 1
        3 ok     put 2
    """)
    assert columns.lanes(history.client, 3).of == {0: 0, 3: 1}


def found(text: str, nodes: tuple[str, ...] = ("n1", "n2", "n3")) -> list[bands.Band]:
    history = parse(text, Header(nodes=nodes))
    return bands.bands(history, history.operations)


def test_a_kill_lasts_until_all_its_nodes_run_again() -> None:
    (band,) = found("""
        nemesis invoke kill {"nodes":["n1","n2"]}
        nemesis ok     kill {"verified":true,"mechanism":"kill-9","injected_ns":500000,"verified_ns":600000}
        nemesis invoke restart {"nodes":["n1"]}
        nemesis ok     restart {"verified":true}
        nemesis invoke restart {"nodes":["n2"]}
        nemesis ok     restart {"verified":true,"fired":7}
    """)
    assert (band.family, band.start_ns, band.healed_ns, band.fired) == ("kill", 500_000, 5_000_000, 7)
    assert band.notes == {"n1": "killed", "n2": "killed"}
    assert band.verified


def test_a_partition_ends_where_the_next_one_takes_its_place() -> None:
    first, second = found("""
        nemesis invoke partition {"shape":"isolate","blocked":[["n1","n2"],["n2","n1"],["n1","n3"],["n3","n1"]]}
        nemesis ok     partition {"verified":true}
        nemesis invoke partition {"shape":"one-way","blocked":[["n2","n1"],["n2","n3"]],"mode":"reject"}
        nemesis ok     partition {"verified":false}
    """)
    assert first.label == "isolate: n1 | n2 n3"
    assert first.notes == {"n1": "cut from n2 n3", "n2": "cut from n1", "n3": "cut from n1"}
    assert first.healed_ns == 3_000_000
    assert second.label == "one-way: n2 → n1 n3 (reject)"
    assert second.notes == {"n1": "deaf to n2", "n2": "unheard by n1 n3", "n3": "deaf to n2"}
    assert (second.healed_ns, second.end, second.verified) == (None, NEVER, False)


def test_a_fault_that_could_not_be_made_hurts_nobody() -> None:
    (band,) = found("""
        nemesis invoke skew {"offsets_ns":{"n1":-2000000000}}
        nemesis fail   skew error="no-shim"
    """)
    assert not band.standing
    assert band.error == "no-shim"
    assert band.label == "skew n1 −2 s"


def test_a_change_of_the_ring_names_its_nodes_and_ends_where_the_ring_is_seen_settled() -> None:
    replace, leave = found("""
        nemesis invoke replace {"dead":"n1","node":"n3"}
        nemesis ok     replace {"verified":true}
        nemesis invoke leave {"node":"n2"}
        nemesis ok     leave {"verified":false,"before":{"n2":{"phase":"joint"}},"after":{"refused":"one-change-at-a-time"}}
        nemesis invoke settle-ring {} heal=true
        nemesis ok     settle-ring {"verified":true,"before":{"n2":{"phase":"joint"}}}
    """)
    assert (replace.label, replace.healed_ns) == ("replace n1 by n3", 5_000_000)
    assert replace.notes == {"n1": "replaced by n3", "n3": "replaces n1"}
    assert (leave.label, leave.verified, leave.why) == ("leave n2", False, "refused: one-change-at-a-time")
    assert leave.end < replace.end


def test_a_cut_without_two_sides_names_its_nodes_all_the_same() -> None:
    bridge, odd = found("""
        nemesis invoke partition {"shape":"bridge","blocked":[["n1","n3"],["n3","n1"]]}
        nemesis ok     partition {"verified":true}
        nemesis invoke partition {"shape":"half-healed","blocked":[["n1","n2"],["n2","n3"]]}
        nemesis ok     partition {"verified":false,"before":{"n1>n2":"cut"},"after":{"n1>n2":"cut"}}
    """)
    assert bridge.label == "bridge: n1 | n3, n2 between them"
    assert odd.label == "half-healed: n1 unheard by n2; n2 unheard by n3, deaf to n1; n3 deaf to n2"
    assert odd.why == "nothing changed by it"


def test_faults_of_foreign_histories_are_shown_under_their_own_names() -> None:
    (band,) = found("nemesis invoke strobe-clock 1\nnemesis ok strobe-clock 2")
    assert (band.family, band.fault, band.start_ns, band.healed_ns) == ("other", "strobe-clock", 0, 1_000_000)


def test_hints_are_counted_at_every_look_and_silence_is_not_zero() -> None:
    history = parse("""
        probe invoke hints node=n1
        probe ok     hints [["n2","x",[1]],["n3","y",[2]]] node=n1
        probe invoke hints node=n1
        probe fail   hints node=n1
        probe invoke hints node=n1
        probe ok     hints [] node=n1
    """)
    assert series.hints(history.operations)["n1"].values == [2, -1, 0]


def test_nodes_agree_for_good_from_the_first_look_after_their_last_difference() -> None:
    history = parse("""
        probe invoke digest node=n1
        probe ok     digest {"0":"a","1":"b"} node=n1
        probe invoke digest node=n2
        probe ok     digest {"0":"a","1":"c"} node=n2
        probe invoke digest node=n1
        probe ok     digest {"0":"a","1":"c"} node=n1
        probe invoke digest node=n2
        probe ok     digest {"0":"a","1":"c"} node=n2
    """)
    agreement = series.agreement(history.operations)
    assert agreement is not None
    assert agreement.points.values == [1, 0]
    assert (agreement.ranges, agreement.settled_ns) == (2, 7_000_000)


def test_thinning_a_line_keeps_its_highest_points() -> None:
    at = list(range(100_000))
    values = [9 if t == 54_321 else 0 for t in at]
    thin = series.thinned(series.Points(at, values))
    assert len(thin.at_us) <= series.POINTS_MAX
    assert (54_321, 9) in zip(thin.at_us, thin.values, strict=True)


def test_simulated_logs_tell_the_seconds_since_the_start() -> None:
    logs = loglines.read(
        {"n1": "-0.049177 serving: start 1\n+6.910997 n1 serving: start 2\n  a second line of it\n"}
    )
    assert not logs.aligned
    assert [(line.at_ns, line.text) for line in logs.lines] == [
        (-49_177_000, "serving: start 1"),
        (6_910_997_000, "serving: start 2"),
        (6_910_997_000, "  a second line of it"),
    ]
    assert [line.text for line in logs.between(0, SECOND)] == []


def test_real_logs_are_matched_to_the_run_where_the_last_node_came_up() -> None:
    logs = loglines.read(
        {
            "n1": "2026-01-01T00:00:10.250Z n1 listening: clients on 8000\n2026-01-01T00:00:13Z n1 3.5 is no time\n",
            "n2": "2026-01-01T00:00:11.000Z n2 listening: clients on 8000\n2026-13-41T99:00:00Z nonsense\n",
        }
    )
    assert logs.aligned
    assert [(line.at_ns, line.node, line.text) for line in logs.lines] == [
        (-750_000_000, "n1", "listening: clients on 8000"),
        (0, "n2", "listening: clients on 8000"),
        (0, "n2", "2026-13-41T99:00:00Z nonsense"),
        (2 * SECOND, "n1", "3.5 is no time"),
    ]


def drawn(history: History, anomaly: Anomaly) -> str:
    by_line = {o.index: o for o in history.operations}
    by_line |= {o.complete.index: o for o in history.operations if o.complete is not None}
    return picture.draw(anomaly, by_line, [], "a1")


def test_the_picture_tells_what_happened_from_what_did_not_and_what_nobody_knows() -> None:
    history = parse("""
        0 invoke put 1 key=x
        0 ok     put 1 key=x
        1 invoke put 2 key=x
        1 fail   put 2 key=x
        2 invoke put 3 key=x
        3 invoke get key=x
        3 ok     get [1] key=x
    """)
    svg = drawn(
        history,
        Anomaly(kind="k", key="x", sentence="s", witness=(0, 2, 4, 5), edges=(Edge(0, 5, "read-from"),)),
    )
    assert re.search(r'<rect [^>]*class="bar ok"', svg)
    assert re.search(r'<rect [^>]*class="bar fail"', svg)
    assert re.search(r'<path d="M[^"]* H[^"]* V[^"]* H[^"]*" class="bar info"', svg)  # no right edge
    assert svg.count('class="edge read-from"') == 1
    assert "4, process 3, get → 1" in svg
    assert [svg.index(f"process {p}</text>") for p in range(4)] == sorted(
        svg.index(f"process {p}</text>") for p in range(4)
    )


def test_a_witness_may_name_an_operation_by_its_completion() -> None:
    history = parse("0 invoke put 1\n0 ok put 1\n1 invoke get\n1 ok get []")
    anomaly = Anomaly(kind="k", sentence="s", witness=(1, 3), edges=(Edge(1, 3, "real-time"),))
    assert drawn(history, anomaly).count("<path d=") == 1


def test_of_what_a_node_holds_the_picture_shows_only_the_key_in_question() -> None:
    history = parse("""
        probe invoke hints node=n1
        probe ok     hints [["n2","x",[7,8]],["n2","y",[9]]] node=n1
        probe invoke replica node=n2
        probe ok     replica {"x":[7],"y":[9]} node=n2
        probe invoke replica node=n3
        probe ok     replica {"y":[9]} node=n3
    """)
    briefs = [picture.brief(o, "x") for o in history.operations]
    assert briefs == ["hints → n2: 7, 8", "replica → 7", "replica → nothing"]


def test_where_no_key_is_in_question_hints_are_counted_and_a_fault_says_whom_it_hit() -> None:
    history = parse("""
        nemesis invoke restart {"fault":"restart","nodes":["n3"]}
        nemesis ok     restart {"verified":true}
        probe invoke hints node=n1
        probe ok     hints [["n3","x",[7,8]],["n3","y",[9]]] node=n1
    """)
    restart, hints = history.operations
    assert [picture.brief(o, None) for o in (restart, hints)] == ["restart n3", "hints → 2 for n3"]
    assert describe(hints).endswith("-> ok 2 for n3")


def test_the_picture_does_not_stretch_with_the_time_between_operations() -> None:
    ops = [
        Op(0, "invoke", "put", "x", 1, time=0),
        Op(0, "ok", "put", "x", 1, time=1_000_000),
        Op(1, "invoke", "get", "x", time=3_600 * SECOND),
        Op(1, "ok", "get", "x", [], time=3_600 * SECOND + 1_000_000),
    ]
    svg = drawn(History(Header(), ops), Anomaly(kind="k", key="x", sentence="s", witness=(0, 2)))
    width = re.search(r'width="(\d+)"', svg)
    assert width is not None
    assert int(width[1]) < 1_200
    assert "3600 s later" in svg


def test_scripts_draw_the_same_patterns_as_the_pictures() -> None:
    script = (files("harness.report") / "assets" / "panels.js").read_text("utf-8")
    block = script[script.index("const WEAVES = {") : script.index("};")]
    assert dict(re.findall(r'(\w+): "([^"]+)"', block)) == picture.WEAVES
    style = (files("harness.report") / "assets" / "page.css").read_text("utf-8")
    for family in bands.FAMILIES:
        assert style.count(f"  --{family}: ") == 3, f"{family} has a colour in light, in dark and in print"
