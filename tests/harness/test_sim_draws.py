"""Scenes of draws keyed by identity: stable across processes, independent of order, evenly spread."""

from __future__ import annotations

import pytest

from harness.sim.draws import Draws, Latencies, table_of


def test_a_draw_is_the_same_forever() -> None:
    # Written down once: a change here makes every recorded seed tell another story.
    draws = Draws(42, "node", "n1")
    assert draws("gossip-peer", 7) == 0x3EDC673BB9A6AAA5
    assert draws("operation", ("a", 1), b"x", None) == 0x56F1E7F2C8F2BCBB


def test_a_draw_depends_on_each_part_of_its_identity_and_on_nothing_else() -> None:
    draws = Draws(1)
    asked = [
        ("a",),
        ("a", 1),
        ("a", "1"),
        ("a", b"1"),
        ("a", 1, 2),
        ("a", (1, 2)),
        ("a1",),
        ("b", 1),
        ("a", None),
    ]
    answers = [draws(*question) for question in asked]
    assert len(set(answers)) == len(asked)
    assert [Draws(1)(*question) for question in reversed(asked)] == answers[::-1]
    assert Draws(2)("a", 1) != draws("a", 1) != Draws(1, "scope")("a", 1)


def test_a_set_draws_the_same_whatever_its_order() -> None:
    assert Draws(1)("x", {"a", "b", "c"}) == Draws(1)("x", {"c", "b", "a"})


def test_an_identity_that_has_no_stable_form_is_refused() -> None:
    with pytest.raises(TypeError):
        Draws(1)("x", object())


def test_draws_are_spread_evenly() -> None:
    draws = Draws(5)
    counts = [0] * 10
    for k in range(10_000):
        counts[draws.below(10, "even", k)] += 1
    assert max(counts) < 1_150 and min(counts) > 850
    assert {draws.between(3, 5, "b", k) for k in range(50)} == {3, 4, 5}
    assert 200 < sum(draws.one_in(4, "o", k) for k in range(1000)) < 300


def test_the_nth_latency_of_a_link_is_its_own() -> None:
    table = table_of(((0, 300_000), (1000, 900_000)))
    ab, again, ba = (Latencies(3, table, "link", *pair) for pair in (("a", "b"), ("a", "b"), ("b", "a")))
    first = [ab() for _ in range(100)]
    assert [again() for _ in range(100)] == first
    assert [ba() for _ in range(100)] != first
    assert all(300_000 <= latency < 904_096 for latency in first)


def test_a_table_follows_its_quantiles() -> None:
    table = table_of(((0, 300), (900, 900), (990, 1_500), (1000, 15_000)))
    assert len(table) == 1024 and table == sorted(table)
    assert sum(value < 900 for value in table) == pytest.approx(0.9 * 1024, abs=1)
    assert sum(value >= 1_500 for value in table) == pytest.approx(0.01 * 1024, abs=1)
    assert max(table) < 15_000
