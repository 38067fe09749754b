"""Placement of keys on nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.ring import (
    Change,
    Ring,
    State,
    advanced,
    decode,
    encode,
    first_owners,
    owners_replaced,
    owners_with,
    owners_without,
)

FIVE = ["n1", "n2", "n3", "n4", "n5"]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_a_preference_list_names_every_physical_node_once_also_where_it_wraps(count: int) -> None:
    nodes = [f"n{i}" for i in range(count)]
    ring = Ring(nodes, 32)
    for token_range in range(32):
        assert sorted(ring.order(token_range)) == sorted(nodes)


def test_every_node_sees_the_same_ring_whatever_the_order_it_was_told() -> None:
    keys = [b"b/%d" % i for i in range(200)]
    one, other = Ring(FIVE, 32), Ring(reversed(FIVE), 32)
    assert [one.preference(k) for k in keys] == [other.preference(k) for k in keys]


def test_keys_spread_over_the_nodes() -> None:
    ring = Ring(FIVE, 64)
    homes = Counter(n for i in range(5_000) for n in ring.preference(b"b/%d" % i)[:3])
    assert max(homes.values()) < 1.5 * min(homes.values())


def test_neighbours_differ_from_range_to_range() -> None:
    ring = Ring(FIVE, 64)
    assert len({ring.order(i)[:3] for i in range(64)}) > 10


CHANGES = st.lists(
    st.tuples(st.sampled_from(["join", "leave", "replace"]), st.integers(0, 1_000)), min_size=1, max_size=12
)


def members_of(owners: tuple[str, ...]) -> list[str]:
    return sorted(set(owners))


def changed(owners: tuple[str, ...], kind: str, which: int, fresh: str) -> tuple[str, ...]:
    members = members_of(owners)
    chosen = members[which % len(members)]
    if kind == "join" or (kind == "leave" and len(members) <= 3):
        return owners_with(owners, fresh)
    return owners_without(owners, chosen) if kind == "leave" else owners_replaced(owners, chosen, fresh)


def walk(owners: tuple[str, ...], changes: list[tuple[str, int]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for number, (kind, which) in enumerate(changes):
        owners = changed(owners, kind, which, f"m{number}")
        yield kind, owners


@given(CHANGES, st.sampled_from([32, 64, 100]))
def test_whatever_changes_a_few_ranges_move_and_the_loads_stay_level(
    changes: list[tuple[str, int]], token_ranges: int
) -> None:
    owners = first_owners(FIVE, token_ranges)
    for _, after in walk(owners, changes):
        moved = [i for i in range(token_ranges) if owners[i] != after[i]]
        came = set(after) - set(owners)
        gone = set(owners) - set(after)
        # Nothing moves that need not: only to whoever came, or away from whoever went.
        assert all(after[i] in came or owners[i] in gone for i in moved)
        if came and not gone:
            assert len(moved) == token_ranges // len(set(after))
        loads = Counter(after).values()
        assert max(loads) - min(loads) <= 2
        owners = after


@given(CHANGES, st.sampled_from([3, 32]))
def test_a_key_always_has_n_distinct_homes_in_the_old_ring_in_the_new_and_in_every_phase_between(
    changes: list[tuple[str, int]], token_ranges: int
) -> None:
    ring = Ring(FIVE[:3] if token_ranges == 3 else FIVE, token_ranges)
    for kind, after in walk(ring.state.owners, changes):
        before = ring.state
        came, gone = set(after) - set(before.owners), set(before.owners) - set(after)
        members = dict.fromkeys(sorted({*before.members, *came} - (gone if kind == "replace" else set())), "")
        dead = next(iter(gone)) if kind == "replace" else ""
        node = next(iter(came or gone), "")
        if not node or len(members) - (kind == "leave") < 3:
            continue
        change = Change("leave" if gone and not came else kind, node, dead, after)  # type: ignore[arg-type]
        state = State(before.epoch + 1, before.owners, members, "joint", change)
        while True:
            assert ring.adopt(state)
            for r in range(token_ranges):
                assert len(set(ring.order(r)[:3])) == 3
                for group in ring.joint(r, 3):
                    assert len(set(group)) == 3
                assert set(ring.order(r)[:3]) <= set(ring.holders(r, 3))
            if state.change is None:
                break
            state = advanced(state)
        assert set(ring.nodes) == set(members) - ({node} if change.kind == "leave" else set())


def test_of_two_changes_begun_at_once_everybody_keeps_the_same_one_in_whatever_order_they_hear_of_them() -> (
    None
):
    first = Ring(FIVE, 32).state
    states = [
        State(
            1,
            first.owners,
            {**first.members, name: ""},
            "joint",
            Change("join", name, "", owners_with(first.owners, name)),
        )
        for name in ("n6", "n7")
    ]
    rings = [Ring(FIVE, 32), Ring(FIVE, 32)]
    for ring, order in zip(rings, (states, states[::-1]), strict=True):
        for state in order:
            ring.adopt(state)
    assert rings[0].state == rings[1].state
    assert rings[0].version == rings[1].version


def test_a_state_survives_its_encoding_and_an_older_one_is_not_adopted() -> None:
    ring = Ring(FIVE, 32)
    before = ring.state
    joint = State(
        1, before.owners, {**before.members, "n6": ""}, "joint", Change("join", "n6", "", before.owners)
    )
    assert decode(encode(joint)) == joint
    assert ring.adopt(advanced(joint))
    assert not ring.adopt(joint)
    assert ring.state.phase == "moved"
