"""What harm is planned: every shape cuts what its name says, every harm is healed, the seed alone decides."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.sim.draws import Draws
from nemeses import membership, partition
from nemeses.fault import (
    FAMILIES,
    FailFsync,
    HealPartition,
    Join,
    Kill,
    Leave,
    MendDisk,
    Partition,
    Replace,
    ResetClocks,
    Restart,
    Resume,
    Rollback,
    Rot,
    SettleRing,
    Skew,
    SlowFsync,
    Snapshot,
    Wipe,
)
from nemeses.plan import budget, creeping, healers, is_harm, plan, undo

FIVE = ("a", "b", "c", "d", "e")
SECOND = 1_000_000_000


def hears(blocked: set[tuple[str, str]], node: str) -> set[str]:
    """Whom the node still hears, itself included."""
    return {other for other in FIVE if (other, node) not in blocked}


def test_halves_part_two_from_three() -> None:
    cut = partition.halves(FIVE)
    assert hears(cut, "a") == {"a", "b"}
    assert hears(cut, "e") == {"c", "d", "e"}


def test_an_isolated_node_hears_nobody_and_is_heard_by_nobody() -> None:
    cut = partition.isolate(FIVE)
    assert hears(cut, "a") == {"a"}
    assert hears(cut, "b") == {"b", "c", "d", "e"}


def test_a_bridge_is_heard_by_both_sides() -> None:
    cut = partition.bridge(FIVE)
    assert hears(cut, "c") == set(FIVE)
    assert hears(cut, "a") == {"a", "b", "c"}
    assert hears(cut, "e") == {"c", "d", "e"}


def test_in_a_ring_of_majorities_all_hear_a_majority_and_no_two_the_same() -> None:
    cut = partition.majorities_ring(FIVE)
    majorities = [frozenset(hears(cut, n)) for n in FIVE]
    assert all(len(m) == 3 for m in majorities)
    assert len(set(majorities)) == 5


def test_one_way_cuts_one_direction_only() -> None:
    cut = partition.one_way(FIVE)
    assert ("a", "e") in cut
    assert ("e", "a") not in cut


def test_a_half_healed_cut_carries_one_direction_of_every_pair() -> None:
    whole = Partition("halves", tuple(sorted(partition.halves(FIVE))))
    half = partition.half_healed(whole, Draws(1), 1)
    assert len(half.blocked) * 2 == len(whole.blocked)
    assert all((b, a) not in half.blocked for a, b in half.blocked)


@given(st.integers(0, 2**32), st.sets(st.sampled_from(FAMILIES), min_size=1))
def test_every_harm_is_healed_before_the_family_strikes_again_and_at_the_end(
    seed: int, chosen: set[str]
) -> None:
    families = tuple(sorted(chosen))
    standing: dict[str, object] = {}
    for timed in plan(families, FIVE, 20 * SECOND, 2 * SECOND, Draws(seed)):
        fault = timed.fault
        if isinstance(fault, Join | Leave | Replace | Snapshot):
            continue  # a change of the ring goes on until it is complete; a copy hurts nobody
        if is_harm(fault):
            kind = type(fault).__name__ if isinstance(fault, Partition | Skew) else "process"
            assert kind not in standing or (isinstance(fault, Partition) and fault.shape == "half-healed")
            standing[kind] = fault
        else:
            kind = next(k for k, harm in standing.items() if undo(harm) == fault)  # pyright: ignore
            del standing[kind]
    heals = {type(h) for h in healers(families, FIVE)}
    assert {type(undo(harm)) for harm in standing.values()} <= heals  # pyright: ignore


@given(st.integers(0, 2**32))
def test_the_seed_alone_decides(seed: int) -> None:
    args = (FAMILIES, FIVE, 10 * SECOND, 2 * SECOND)
    assert plan(*args, Draws(seed)) == plan(*args, Draws(seed))


def test_no_family_means_no_fault() -> None:
    assert plan((), FIVE, 10 * SECOND, 2 * SECOND, Draws(1)) == []
    assert healers((), FIVE) == []


@pytest.mark.parametrize(
    ("families", "expected"),
    [
        (
            ("clock", "kill", "partition", "pause"),
            [HealPartition(), Resume(FIVE), Restart(FIVE), ResetClocks()],
        ),
        (("kill", "power"), [Restart(FIVE)]),
        (("wipe", "rot", "fsync", "partition"), [HealPartition(), MendDisk(FIVE), Restart(FIVE)]),
    ],
)
def test_healers_mend_links_first_and_clocks_last(families: tuple[str, ...], expected: list[object]) -> None:
    assert healers(families, FIVE) == expected


def test_over_many_seeds_every_shape_and_mode_is_drawn() -> None:
    drawn = [partition.draw(FIVE, Draws(seed), 1) for seed in range(200)]
    assert {p.shape for p in drawn} == set(partition.SHAPES)
    assert {p.mode for p in drawn} == {"drop", "reject"}
    assert all(isinstance(p, Partition) and p.blocked for p in drawn)


@given(st.integers(0, 2**31), st.booleans())
def test_changes_of_the_ring_make_sense_one_after_the_other_and_at_most_one_member_is_lost(
    seed: int, replaces: bool
) -> None:
    inside: set[str] = set(FIVE)
    outside, dead = {"x", "y"}, set[str]()
    for number in range(1, 13):
        change = membership.change(FIVE, ("x", "y"), Draws(seed), number, replaces=replaces)
        match change:
            case Join(node):
                assert node in outside
                inside.add(node)
                outside.discard(node)
            case Leave(node):
                assert node in inside
                inside.discard(node)
                outside.add(node)
            case Replace(gone, node):
                assert replaces
                assert gone in inside
                assert node in outside
                assert not dead
                dead.add(gone)
                inside.discard(gone)
                inside.add(node)
                outside.discard(node)
            case None:
                raise AssertionError("somebody can always join or leave here")
        assert len(inside) >= membership.MEMBERS_MIN


def test_changes_of_the_ring_are_settled_last_when_nothing_is_cut_and_nobody_is_dead() -> None:
    events = plan(
        ("membership", "kill"), FIVE, 60 * SECOND, 2 * SECOND, Draws(3), spares=("x", "y"), replaces=True
    )
    made = [e.fault for e in events if isinstance(e.fault, Join | Leave | Replace)]
    assert len(made) > 5
    assert not [e for e in events if isinstance(e.fault, SettleRing)]
    assert healers(("membership", "kill", "partition"), FIVE)[-1] == SettleRing()


@given(st.integers(0, 2**32), st.integers(1, 3))
def test_destructive_faults_stay_within_the_budget_and_others_do_not(seed: int, w_min: int) -> None:
    draws = Draws(seed)
    may = budget(FIVE, w_min, draws)
    assert len(may) == w_min - 1
    hit: set[str] = set()
    for timed in plan(FAMILIES, FIVE, 60 * SECOND, 2 * SECOND, draws, destructible=may):
        if isinstance(timed.fault, Wipe | Rollback | Rot | FailFsync | SlowFsync):
            hit.update(timed.fault.nodes)
    assert hit <= set(may)
    assert bool(hit) == (w_min > 1)


def test_without_a_budget_any_node_may_be_hit() -> None:
    hit: set[str] = set()
    for seed in range(20):
        for timed in plan(("wipe", "rot"), FIVE, 20 * SECOND, 2 * SECOND, Draws(seed)):
            if isinstance(timed.fault, Wipe | Rot):
                hit.update(timed.fault.nodes)
    assert hit == set(FIVE)


@given(st.integers(0, 2**32))
def test_a_rollback_puts_back_a_copy_that_was_taken_before(seed: int) -> None:
    taken: set[tuple[str, ...]] = set()
    for timed in plan(("rollback", "kill"), FIVE, 20 * SECOND, 2 * SECOND, Draws(seed)):
        if isinstance(timed.fault, Snapshot):
            taken.add(timed.fault.nodes)
        if isinstance(timed.fault, Rollback):
            assert timed.fault.nodes in taken


def test_creeping_rot_strikes_every_node_in_turn_and_all_restart_when_the_last_had_time_to_look() -> None:
    for seed in range(20):
        planned = creeping(FIVE, 60 * SECOND, 2 * SECOND, Draws(seed))
        rots = [(t.at_ns, t.fault) for t in planned if isinstance(t.fault, Rot)]
        assert sorted(node for _, rot in rots for node in rot.nodes) == sorted(FIVE)
        assert not any(rot.stopped for _, rot in rots)
        assert {later - at for (at, _), (later, _) in pairwise(rots)} == {2 * SECOND}
        assert [t.fault for t in planned[-2:]] == [Kill(FIVE), Restart(FIVE)]
        assert planned[-2].at_ns == rots[-1][0] + 2 * SECOND < 60 * SECOND
