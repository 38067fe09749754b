"""Numbers that checkers report beside their verdicts: shares, latencies, windows without success, staleness."""

from checkers.availability import Availability
from checkers.set_full import SetFull
from checkers.siblings import Siblings
from checkers.verdict import Valid
from history.header import Header
from history.history import History
from history.op import Op
from history.text import parse


def at(ms: int, process: int, kind: str, f: str, node: str = "n1") -> Op:
    return Op(process, kind, f, "x", node=node, time=ms * 10**6)  # type: ignore[arg-type]  a test names its types


def test_shares_and_latencies_are_told_by_phase_and_node() -> None:
    history = History(
        Header(),
        [
            Op("nemesis", "info", "phase", value="safety"),
            at(0, 0, "invoke", "add"),
            at(1, 0, "invoke", "get"),
            at(3, 0, "ok", "get"),
            at(9, 0, "info", "add"),
            at(10, 1, "invoke", "add", "n2"),
            at(14, 1, "ok", "add", "n2"),
            Op("nemesis", "info", "phase", value="final", time=20 * 10**6),
            at(20, 2, "invoke", "read"),
            at(21, 2, "fail", "read"),
        ],
    )
    evidence = Availability().check(history).evidence
    assert evidence["phases"] == {
        "safety": {"ok": 1, "fail": 0, "info": 1, "ok_share": 0.5},
        "final": {"ok": 0, "fail": 1, "info": 0, "ok_share": 0.0},
    }
    assert evidence["nodes"]["n1"] == {"ok": 0, "fail": 1, "info": 1, "ok_share": 0.0}
    assert evidence["latency_ms"]["safety"] == {
        "get": {"count": 1, "p50": 2.0, "p99": 2.0, "max": 2.0},
        "add": {"count": 1, "p50": 4.0, "p99": 4.0, "max": 4.0},
    }


def test_the_longest_time_without_success_runs_from_one_success_to_the_next() -> None:
    history = History(
        Header(),
        [
            at(0, 0, "invoke", "put"),
            at(2, 0, "ok", "put"),
            at(3, 0, "invoke", "put"),
            at(40, 0, "info", "put"),
            at(41, 1, "invoke", "put"),
            at(52, 1, "ok", "put"),
            at(53, 1, "invoke", "put"),
            at(54, 1, "ok", "put"),
        ],
    )
    assert Availability().check(history).evidence["without_success"] == {
        "run": {"length_ms": 50.0, "start_ms": 2.0, "not_ok": 1}
    }


def test_times_that_run_backwards_make_no_negative_measures() -> None:
    history = History(Header(), [at(9, 0, "invoke", "put"), at(5, 0, "ok", "put")])
    evidence = Availability().check(history).evidence
    assert evidence["latency_ms"]["run"]["put"]["max"] == 0.0
    assert evidence["without_success"]["run"]["length_ms"] == 0.0


def test_a_stale_read_is_measured_from_when_the_element_was_known() -> None:
    verdict = SetFull().check(
        parse("""
            0 invoke add 1 key=set
            0 ok     add 1 key=set
            1 invoke read key=set
            1 ok     read [] key=set
            1 invoke read key=set
            1 ok     read [] key=set
            1 invoke read key=set final=true
            1 ok     read [1] key=set
        """)
    )
    assert verdict.valid is Valid.VALID
    assert (verdict.evidence["stale"], verdict.evidence["stale_ms_max"]) == (1, 3.0)


def test_more_siblings_than_two_sequential_writers_can_make_are_an_explosion() -> None:
    verdict = Siblings().check(
        parse("""
            0 invoke put 1 key=x context=[]
            0 ok     put 1 key=x
            1 invoke put 2 key=x context=[]
            1 ok     put 2 key=x
            0 invoke put 3 key=x context=[1]
            0 ok     put 3 key=x
            1 invoke put 4 key=x context=[2]
            1 ok     put 4 key=x
            0 invoke get key=x
            0 ok     get [1,2,3,4] key=x
        """)
    )
    assert [a.kind for a in verdict.anomalies] == ["false-concurrency", "false-concurrency", "explosion"]
    assert verdict.anomalies[-1].sentence == (
        "get (event 8) returned 4 siblings of key x; the clients' own writes leave at most 2 concurrent"
    )
    assert verdict.anomalies[-1].witness == (0, 2, 4, 6, 8)
