"""Placement of keys on nodes."""

from __future__ import annotations

from collections import Counter

import pytest

from store.ring import Ring

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
