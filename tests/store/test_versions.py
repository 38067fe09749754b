"""Laws of dotted version sets, and the scenes that they exist for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import versions
from store.versions import (
    EMPTY,
    EXPIRED,
    SECOND_NS,
    BadContext,
    Entry,
    Record,
    due,
    expire,
    expire_lww,
    put,
    put_lww,
    sync,
    sync_lww,
)

ACTORS = 3


@st.composite
def replicas(draw: st.DrawFn) -> list[Record]:
    """Three replicas after any sequence of writes, with any stale context, of expiries, and of exchanges between them."""
    held: list[Record] = [EMPTY] * ACTORS
    contexts: list[tuple[Entry, ...]] = [()]
    for number in range(draw(st.integers(0, 12))):
        at = draw(st.integers(0, ACTORS - 1))
        if draw(st.booleans()):
            context = draw(st.sampled_from(contexts))
            kind: dict[str, Any] = draw(
                st.sampled_from([{}, {"deleted": True}, {"ttl_ns": draw(st.integers(1, 4))}])
            )
            held[at] = put(held[at], context, at + 1, number, b"%d" % number, **kind)
        elif due(held[at], number) == EXPIRED:
            held[at] = expire(held[at], at + 1, number)
        else:
            held[at] = sync(held[at], held[draw(st.integers(0, ACTORS - 1))])
        contexts.append(held[at].clock)
    return held


@given(replicas())
def test_sync_is_commutative_associative_and_idempotent(held: list[Record]) -> None:
    a, b, c = held
    assert sync(a, b) == sync(b, a)
    assert sync(a, sync(b, c)) == sync(sync(a, b), c)
    assert sync(a, a) == a
    assert sync(a, EMPTY) == a


@given(replicas())
def test_equal_knowledge_has_equal_bytes(held: list[Record]) -> None:
    a, b, _ = held
    assert versions.encode(sync(a, b)) == versions.encode(sync(b, a))
    assert versions.decode(versions.encode(a)) == a


@given(replicas())
def test_no_clock_ever_holds_a_zero_entry_and_every_dot_is_covered_by_its_clock(held: list[Record]) -> None:
    for record in held:
        assert all(counter > 0 for _, counter, _ in record.clock)
        seen = versions.counters(record.clock)
        assert all(v.counter <= seen[v.actor] for v in record.versions)


@given(replicas())
def test_lww_keeps_one_version_the_same_in_any_order(held: list[Record]) -> None:
    a, b, c = held
    assert sync_lww(a, sync_lww(b, c)) == sync_lww(sync_lww(c, a), b)
    assert len(sync_lww(a, b).versions) <= 1


@given(replicas(), st.integers(0, 16))
def test_an_expiry_takes_exactly_what_has_expired_and_no_older_copy_brings_it_back(
    held: list[Record], wall_ns: int
) -> None:
    record, other, _ = held
    if due(record, wall_ns) != EXPIRED:
        return
    after = expire(record, 9, wall_ns)
    stays = {(v.actor, v.counter) for v in record.versions if v.end is True or not v.gone(wall_ns)}
    goes = {(v.actor, v.counter) for v in record.versions} - stays
    dots = {(v.actor, v.counter) for v in after.versions}
    assert stays <= dots
    assert dots - stays <= {(9, 1)}
    assert sync(record, after) == after
    assert not goes & {(v.actor, v.counter) for v in sync(after, other).versions}


def test_in_lww_an_expired_value_loses_to_its_tombstone_and_to_every_write_that_came_after_it() -> None:
    value = put_lww(EMPTY, 1, 1, 100, b"v", ttl_ns=10)
    buried = expire_lww(value)
    assert sync_lww(value, buried) == sync_lww(buried, value) == buried
    behind = put_lww(value, 2, 1, 50, b"w")  # by a node whose clock is behind, and which knew the value
    assert sync_lww(behind, buried) == sync_lww(buried, behind) == behind


def test_a_hundred_interleaved_writes_by_two_clients_leave_two_siblings() -> None:
    record = EMPTY
    last: dict[int, tuple[Entry, ...]] = {0: (), 1: ()}
    for i in range(100):
        # Each client writes with the context of its own last reply, which the other's write has overtaken.
        record = put(record, last[i % 2], 7, i, b"%d" % i)
        last[i % 2] = record.clock
    assert [v.body for v in record.versions] == [b"98", b"99"]


def test_a_write_replaces_what_its_client_read_and_nothing_else() -> None:
    first = put(EMPTY, (), 1, 0, b"a")
    second = put(first, (), 1, 1, b"b")
    third = put(second, first.clock, 1, 2, b"c")
    assert [v.body for v in third.versions] == [b"b", b"c"]


def test_absent_and_zero_are_the_same_clock() -> None:
    assert versions.descends({1: 1}, ()) and versions.descends({}, ())
    assert not versions.descends({}, ((1, 1, 0),))


def test_truncation_drops_the_oldest_entries_but_never_a_live_dot() -> None:
    record = EMPTY
    for actor in range(1, 13):
        record = put(record, record.clock, actor, (100 - actor) * SECOND_NS, b"x")
    assert len(record.clock) == 10
    assert record.truncated
    # Actor 12 has the oldest timestamp of all, and the only live dot.
    assert {12} == {v.actor for v in record.versions} <= {actor for actor, _, _ in record.clock}
    blind = EMPTY
    for actor in range(1, 13):
        blind = put(blind, (), actor, actor, b"x")
    assert len(blind.clock) == 12
    assert not blind.truncated


def test_a_lww_write_is_newer_than_what_is_stored_even_if_the_clock_is_behind() -> None:
    ahead = versions.put_lww(EMPTY, 1, 1, 1_000, b"ahead")
    behind = versions.put_lww(ahead, 2, 1, 5, b"behind")
    assert sync_lww(ahead, behind).versions[0].body == b"behind"


def test_a_context_is_taken_back_only_for_its_own_key() -> None:
    clock = put(EMPTY, (), 1, 0, b"a").clock
    token = versions.encode_context(clock, b"b/k").decode()
    assert versions.decode_context(token, b"b/k") == clock
    with pytest.raises(BadContext):
        versions.decode_context(token, b"b/other")


@given(st.text(max_size=80))
def test_garbage_is_never_a_context(token: str) -> None:
    with pytest.raises(BadContext):
        versions.decode_context(token, b"b/k")
