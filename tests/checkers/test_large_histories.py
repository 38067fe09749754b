"""Long chains, siblings that linger and many reads: the checkers walk them once, and without recursion."""

from checkers.lost_writes import LostWrites
from checkers.resurrection import Resurrection
from checkers.set_full import SetFull
from checkers.siblings import Siblings
from checkers.verdict import Valid
from history.header import Header
from history.history import History
from history.op import Op

LENGTH = 20_000


def chain(length: int, *, lingering: bool, shown: list[int]) -> History:
    """Put 1 is blind and stays, if `lingering`; puts 2 to `length` replace one another; `shown` is read at last."""
    events: list[Op] = []
    beside = [1] if lingering else []
    for i in range(1, length + 1):
        context = [i - 1] if i > 2 or (i == 2 and not lingering) else []
        live = sorted({i, *beside})
        events += [
            Op(0, "invoke", "put", "x", i, meta={"context": context}),
            Op(0, "ok", "put", "x", i, meta={"returned": live}),
        ]
    events += [
        Op("reader", "invoke", "get", "x", meta={"final": True}),
        Op("reader", "ok", "get", "x", value=shown),
    ]
    return History(Header(), events)


def test_a_long_chain_of_replacements_is_covered_by_its_last_write() -> None:
    history = chain(LENGTH, lingering=False, shown=[LENGTH])
    assert LostWrites().check(history).valid is Valid.VALID
    assert Resurrection().check(history).evidence["covered"] == LENGTH - 1


def test_of_a_long_chain_that_is_gone_only_the_end_is_reported() -> None:
    verdict = LostWrites().check(chain(LENGTH, lingering=False, shown=[1]))
    assert (verdict.evidence["lost"], verdict.evidence["lost_total"]) == ([LENGTH], LENGTH - 1)
    assert len(verdict.anomalies) == 1


def test_a_sibling_that_lingers_beside_a_long_chain_is_concurrent_with_all_of_it() -> None:
    verdict = Siblings().check(chain(LENGTH, lingering=True, shown=[1, LENGTH]))
    assert verdict.valid is Valid.VALID
    assert verdict.evidence["replies_with_siblings"] == LENGTH


def test_an_ancestor_far_down_a_long_chain_is_found() -> None:
    verdict = Siblings().check(chain(LENGTH, lingering=False, shown=[1, LENGTH]))
    assert {a.kind for a in verdict.anomalies} == {"false-concurrency", "explosion"}


def test_a_hundred_reads_of_a_large_set_find_the_one_element_that_went() -> None:
    events: list[Op] = []
    for i in range(1, LENGTH + 1):
        events += [Op(0, "invoke", "add", "set", i), Op(0, "ok", "add", "set", i)]
        if i % (LENGTH // 100) == 0:
            there = [v for v in range(1, i + 1) if v != 7 or i < LENGTH // 2]
            events += [Op(1, "invoke", "read", "set"), Op(1, "ok", "read", "set", value=there)]
    verdict = SetFull().check(History(Header(), events))
    assert verdict.evidence["lost"] == [7]
    assert verdict.evidence["stable"] == LENGTH - 1
