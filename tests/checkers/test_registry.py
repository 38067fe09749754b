"""Several checkers over one history: one that crashes accuses itself alone, and inert faults are never passed over."""

import pytest

import checkers
from checkers import CHECKERS, UnknownChecker, Valid, Verdict, check_all, compose
from checkers.verdict import Checker, conclude
from history.header import Header
from history.history import History, Malformed
from history.op import Op
from history.text import parse

LOST = """
    0 invoke put 1 key=x context=[]
    0 ok     put 1 key=x returned=[1]
    reader invoke get key=x final=true
    reader ok     get [] key=x
"""


class Crashes:
    name = "siblings"

    def check(self, history: History) -> Verdict:
        raise ZeroDivisionError(f"of {len(history)} events\nnone was right")


def test_every_checker_is_registered_under_its_own_name() -> None:
    assert all(CHECKERS[name]().name == name for name in CHECKERS)
    assert all(v.checker == name for name, v in zip(CHECKERS, check_all(parse(LOST)), strict=True))


def test_a_checker_that_crashes_is_a_harness_error_and_silences_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crashing: type[Checker] = Crashes
    monkeypatch.setitem(checkers.registry.CHECKERS, "siblings", crashing)
    crashed, lost = check_all(
        parse(LOST, Header(guarantees={"lost_writes": "causal"})), ["siblings", "lost_writes"]
    )
    assert (crashed.valid, crashed.judged) == (Valid.HARNESS_ERROR, True)
    assert crashed.evidence["error"] == "none was right"
    assert crashed.evidence["at"].startswith("test_registry:")
    assert crashed.evidence["at"].endswith(" in check")
    assert lost.valid is Valid.INVALID
    assert compose([crashed, lost]) is Valid.INVALID


def test_a_run_whose_faults_did_not_bite_is_unknown_even_when_nobody_asks() -> None:
    header = Header(guarantees={"availability": True}, families=("kill",))
    kept, inert = check_all(parse(LOST, header), ["availability"])
    assert (kept.checker, kept.valid) == ("availability", Valid.VALID)
    assert (inert.checker, inert.valid, inert.judged) == ("faults", Valid.UNKNOWN, True)
    assert (
        inert.reason
        == "inert: kill: no fault was ever injected: make the run longer, or the interval between faults shorter"
    )
    assert compose([kept, inert]) is Valid.UNKNOWN


def test_families_that_are_inert_for_the_same_reason_share_its_sentence() -> None:
    header = Header(families=("kill", "pause", "clock"))
    [inert] = check_all(parse(LOST, header), [])
    assert inert.reason.startswith("inert: kill, pause, clock: no fault was ever injected")
    assert inert.reason.count("injected") == 1


def test_a_run_without_faults_is_not_asked_about_them() -> None:
    assert [v.checker for v in check_all(parse(LOST), ["availability"])] == ["availability"]
    [asked] = check_all(parse(LOST), ["faults"])
    assert not asked.judged


def test_a_checker_asked_for_twice_answers_once() -> None:
    assert len(check_all(parse(LOST), ["cart", "cart"])) == 1


def test_a_checker_that_does_not_exist_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownChecker, match="'lost_write': did you mean 'lost_writes'"):
        check_all(parse(LOST), ["lost_write"])


def test_what_is_no_history_is_nobody_s_verdict() -> None:
    with pytest.raises(Malformed, match="process 0 completes 'put'"):
        check_all(History(Header(), [Op(0, "ok", "put", "x", 1)]))


def test_no_checker_fails_on_an_empty_history_and_none_calls_it_valid() -> None:
    verdicts = check_all(History(Header(guarantees=dict.fromkeys(CHECKERS, True)), []))
    assert {v.valid for v in verdicts} == {Valid.UNKNOWN}
    assert all(v.reason for v in verdicts)


def test_a_measurement_says_what_it_found_and_does_not_count() -> None:
    [measured] = check_all(parse(LOST), ["lost_writes"])
    assert (measured.valid, measured.judged) == (Valid.INVALID, False)
    assert compose([measured]) is Valid.UNKNOWN


def test_invalid_beats_a_harness_error_which_beats_unknown_which_beats_valid() -> None:
    empty = History(Header(), [])
    given = [conclude(empty, "a", judged=True), conclude(empty, "b", undecided="no", judged=True)]
    assert compose(given) is Valid.UNKNOWN
    given.append(Verdict(checker="c", valid=Valid.HARNESS_ERROR))
    assert compose(given) is Valid.HARNESS_ERROR
    given.append(Verdict(checker="d", valid=Valid.INVALID))
    assert compose(given) is Valid.INVALID
