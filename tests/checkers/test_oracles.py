"""Every checker against its definition written out plainly, on thousands of tiny histories, right and wrong."""

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, settings
from tiny_histories import element_histories, register_histories

from checkers import reference
from checkers.availability import Availability
from checkers.cart import Cart
from checkers.convergence import Convergence
from checkers.durability import Durability
from checkers.lost_writes import LostWrites
from checkers.reference import Expected
from checkers.resurrection import Resurrection
from checkers.sessions import Sessions
from checkers.set_full import SetFull
from checkers.siblings import Siblings
from checkers.verdict import ANOMALIES_MAX, Checker, Valid, Verdict
from checkers.witness import OPERATIONS_MAX, layout, lines
from history.history import History

many = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def agree(checker: Checker, history: History, expected: Expected) -> Verdict:
    verdict = checker.check(history)
    found = Counter((a.kind, a.key) for a in verdict.anomalies if a.kind != "explosion")
    wanted = Counter((kind, key) for kind, key, _ in expected.found)
    assert verdict.valid is expected.valid, (verdict, expected)
    assert wanted.total() > ANOMALIES_MAX or found == wanted, (verdict, expected)
    assert bool(verdict.reason) == (verdict.valid is not Valid.VALID)
    for a in verdict.anomalies:
        assert 1 <= len(a.witness) <= OPERATIONS_MAX
        assert list(a.witness) == sorted(set(a.witness))
        assert all(history.events[i].type == "invoke" for i in a.witness)
        assert all(a.why) and len(a.why) == len(a.witness)
        assert {e.source for e in a.edges} | {e.destination for e in a.edges} <= set(a.witness)
        assert len(lines(a, history)) == len(a.witness) + len(a.edges)
        assert [n["index"] for n in layout(a, history)["nodes"]] == list(a.witness)
    return verdict


@many
@given(register_histories())
def test_lost_writes_decides_what_its_definition_says(history: History) -> None:
    expected = reference.lost_writes(history)
    verdict = agree(LostWrites(), history, expected)
    kinds = ("vanished", "rolled-back", "clobbered", "clobbered-in-order")
    lost: set[Any] = {id for kind, _, id in expected.found if kind in kinds}
    assert set(verdict.evidence["lost"]) == lost


@many
@given(register_histories())
def test_siblings_decides_what_its_definition_says(history: History) -> None:
    verdict = agree(Siblings(), history, reference.siblings(history))
    for a in verdict.anomalies:
        if a.kind == "explosion":
            op = next(o for o in history.client if f"event {o.index})" in a.sentence)
            returned = len(op.value) if op.f == "get" else len(op.meta["returned"])
            assert returned > reference.antichain(history, a.key, op.end)


@many
@given(register_histories())
def test_resurrection_decides_what_its_definition_says(history: History) -> None:
    agree(Resurrection(), history, reference.resurrection(history))


@settings(parent=many, max_examples=1_000)
@given(register_histories())
def test_sessions_decides_what_its_definition_says(history: History) -> None:
    agree(Sessions(), history, reference.sessions(history))


@many
@given(register_histories())
def test_durability_decides_what_its_definition_says(history: History) -> None:
    agree(Durability(), history, reference.durability(history))


@many
@given(register_histories())
def test_convergence_decides_what_its_definition_says(history: History) -> None:
    agree(Convergence(), history, reference.convergence(history))


@many
@given(element_histories())
def test_set_full_decides_what_its_definition_says(history: History) -> None:
    expected = reference.set_full(history)
    verdict = agree(SetFull(), history, expected)
    assert set(verdict.evidence["lost"]) == {v for kind, _, v in expected.found if kind == "lost"}
    keys = {o.key for o in history.client}
    assert verdict.evidence["stale"] == sum(len(reference.stale(history, key)) for key in keys)


@many
@given(element_histories())
def test_cart_decides_what_its_definition_says(history: History) -> None:
    expected = reference.cart(history)
    verdict = agree(Cart(), history, expected)
    assert set(verdict.evidence["came_back"]) == {v for kind, _, v in expected.found if kind == "came-back"}


@many
@given(element_histories())
def test_availability_decides_what_its_definition_says(history: History) -> None:
    agree(Availability(), history, reference.availability(history))
