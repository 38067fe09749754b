"""The hash tree's laws: order-free, equal to its rebuild, comparable at every depth; and what two trees tell apart."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import merkle
from store.merkle import BULK_MIN, TokenRange, Tree, depth_for, entry_hash, position
from store.ring import token

RANGES = 8

entries = st.dictionaries(st.binary(min_size=1, max_size=6), st.binary(max_size=12), max_size=30)


def tree_of(records: dict[bytes, bytes], depth: int) -> Tree:
    tree = Tree(RANGES, depth)
    tree.add(records.keys(), records.values())
    return tree


@given(entries, st.randoms(use_true_random=False))
def test_the_order_of_writes_leaves_no_trace(records: dict[bytes, bytes], random: object) -> None:
    shuffled = list(records.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    a, b = tree_of(records, 5), tree_of(dict(shuffled), 5)
    assert (a.root, list(a.leaves)) == (b.root, list(b.leaves))


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=2), st.none() | st.binary(max_size=8)), max_size=60))
def test_an_updated_tree_equals_one_built_anew(writes: list[tuple[bytes, bytes | None]]) -> None:
    held = TokenRange(RANGES)
    held.built()
    for key, record in writes:
        if record is None:
            held.drop(key, token(key))
        else:
            held.put(key, token(key), record)
    updated = held.built()
    anew = tree_of(held.records, updated.depth)
    assert (updated.root, list(updated.leaves)) == (anew.root, list(anew.leaves))


@given(entries, st.integers(4, 9), st.integers(0, 4))
def test_a_deep_tree_folds_to_the_shallow_one(records: dict[bytes, bytes], deep: int, shallow: int) -> None:
    tree = tree_of(records, deep)
    assert list(tree.fold(shallow)) == list(tree_of(records, shallow).leaves)
    assert list(tree.fold(0)) == [tree.root]


def test_bulk_and_single_updates_make_the_same_tree() -> None:
    records = {b"k%d" % i: b"v%d" % i for i in range(3 * BULK_MIN)}
    for version in (merkle.HASH_VERSION, merkle.HASH_VERSION + 1):
        single, bulk = Tree(RANGES, 13, version), Tree(RANGES, 13, version)
        bulk.add(records.keys(), records.values())
        for key, record in records.items():
            single.change(token(key), entry_hash(token(key), record, version))
        assert (single.root, single.leaves) == (bulk.root, bulk.leaves)
        assert list(bulk.fold(6)) == list(folded_by_hand(bulk, 6))


def folded_by_hand(tree: Tree, depth: int) -> list[int]:
    level = list(tree.leaves)
    while len(level) > 1 << depth:
        level = [a ^ b for a, b in zip(level[::2], level[1::2], strict=True)]
    return level


def test_two_records_that_change_places_do_not_cancel_out() -> None:
    assert tree_of({b"a": b"1", b"b": b"2"}, 4).root != tree_of({b"a": b"2", b"b": b"1"}, 4).root


def test_the_same_record_under_two_keys_does_not_cancel_out() -> None:
    assert tree_of({b"a": b"1", b"b": b"1"}, 4).root != 0


def test_hash_versions_differ() -> None:
    assert entry_hash(7, b"r", 1) != entry_hash(7, b"r", 2)


def test_positions_spread_over_the_whole_range() -> None:
    seen = {position(token(b"%d" % i), RANGES) >> 60 for i in range(2_000)}
    assert seen == set(range(16))


@pytest.mark.parametrize(("records", "depth"), [(0, 4), (16, 4), (17, 5), (1 << 20, 20), ((1 << 20) + 1, 21)])
def test_depth_grows_with_the_number_of_keys(records: int, depth: int) -> None:
    assert depth_for(records) == depth


def test_a_tree_that_is_built_beside_the_writes_misses_none_of_them() -> None:
    held = TokenRange(RANGES)
    for i in range(100):
        held.put(b"k%d" % i, token(b"k%d" % i), b"old")
    growing = held.growing = held.new_tree()
    keys, records = list(held.records), list(held.records.values())
    for a, b in pairwise(range(0, 101, 20)):
        growing.add(keys[a:b], records[a:b])
        held.put(b"k%d" % a, token(b"k%d" % a), b"new")
        held.put(b"k%d" % (99 - a), token(b"k%d" % (99 - a)), b"new")
        held.drop(b"k%d" % (a + 1), token(b"k%d" % (a + 1)))
        held.put(b"more%d" % a, token(b"more%d" % a), b"new")
    anew = tree_of(held.records, growing.depth)
    assert (growing.root, growing.leaves) == (anew.root, anew.leaves)
