"""Merges: what they keep, that no crash in the middle of one loses or brings back anything, and damage that they find."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_bench import Bench

from harness.sim.draws import Draws
from store.segments import MERGE, Segment, inventory, worth_merging

KEYS = (b"a", b"b", b"c", b"gone", b"back")


def written(seed: int = 1) -> Bench:
    """Eight segments: overwritten, dropped and re-made keys, hints that are done and one that is not."""
    bench = Bench(seed, segment_bytes=1)  # every batch seals the segment before it
    bench.start()
    for step in (
        lambda: [bench.put(key, b"first") for key in KEYS],
        lambda: [bench.hint(number, b"hint") for number in (1, 2, 3)],
        lambda: [bench.drop(b"gone"), bench.drop(b"back"), bench.done(1)],
        lambda: [bench.put(b"a", b"second")],
        lambda: [bench.put(b"back", b"second"), bench.done(2)],
        lambda: [bench.put(b"b", b"second"), bench.hint(4, b"hint"), bench.done(4)],
        lambda: [bench.put(b"a", b"third"), bench.put(b"new", b"first")],
        lambda: [bench.put(b"c", b"second")],
    ):
        step()
        bench.settle()
    return bench


EXPECTED = {b"a": b"third", b"b": b"second", b"c": b"second", b"back": b"second", b"new": b"first"}
RUNS = [(i, j) for i in range(7) for j in range(i + 1, 8)]


def reopened(bench: Bench) -> tuple[dict[bytes, bytes], dict[int, bytes]]:
    bench.kill()
    assert bench.start().bad_records == 0
    return bench.memory, bench.hints


@pytest.mark.parametrize(("i", "j"), RUNS)
def test_a_merge_of_any_run_changes_nothing_that_a_start_finds(i: int, j: int) -> None:
    bench = written()
    run = bench.log.segments[i:j]
    before = bench.log.size_bytes
    bench.do(bench.compaction.merge(run))
    assert bench.log.size_bytes <= before
    assert reopened(bench) == (EXPECTED, {3: b"hint"})
    # The account that a start makes is the one that was kept.
    account = [(s.name, s.records, s.live, s.shadows) for s in bench.log.segments[:-1]]
    other = written()
    other.do(other.compaction.merge(other.log.segments[i:j]))
    assert [(s.name, s.records, s.live, s.shadows) for s in other.log.segments[:-1]] == account


def test_what_ends_an_entry_goes_with_the_last_file_that_may_hold_it() -> None:
    bench = written()
    bench.do(bench.compaction.merge(bench.log.segments[2:4]))
    assert bench.log.segments[2].shadows == 3  # two drops and a hint that is done, which older files hold
    bench.do(bench.compaction.merge(bench.log.segments[1:3]))
    assert bench.log.segments[1].shadows == 2  # the hint went with its end
    bench.do(bench.compaction.merge(bench.log.segments[0:2]))
    assert bench.log.segments[0].shadows == 0
    assert reopened(bench) == (EXPECTED, {3: b"hint"})


class Crash(BaseException):
    """The process is gone, in the middle of whatever it did."""


class CrashingDisk:
    """Passes on the first `left` steps; every step of the disk is a place to die in front of."""

    def __init__(self, bench: Bench, left: int) -> None:
        self._bench = bench
        self._disk = bench.life.disk
        self.left = left
        self.crashed = False

    def __getattr__(self, name: str) -> Any:
        step = getattr(self._disk, name)
        if name in ("names", "size", "read"):
            return step

        def taken(*args: Any) -> Any:
            if self.left == 0 and not self.crashed:
                self.crashed = True
                self._bench.life.die()
            if self.crashed:
                raise Crash
            self.left -= 1
            return step(*args)

        return taken


def crash_in_merge(left: int, power_seed: int | None, i: int, j: int) -> tuple[Bench, bool]:
    """A merge with a write beside it, cut short at the disk's step number `left`; whether it was."""
    bench = written(power_seed or 1)
    disk = CrashingDisk(bench, left)
    bench.log._disk = bench.compaction._disk = disk  # type: ignore[assignment]
    bench.life.tasks.spawn(bench.compaction.merge(bench.log.segments[i:j]), "merge")  # type: ignore[arg-type]
    bench.put(b"beside", b"1")
    bench.loop.drive()
    if power_seed is None:
        bench.kill()
    else:
        bench.lose_power()
    return bench, disk.crashed


@pytest.mark.parametrize(("i", "j"), [(0, 3), (1, 5), (2, 7), (3, 4)])
@pytest.mark.parametrize("power", [False, True])
def test_a_crash_at_any_step_of_a_merge_loses_nothing_and_brings_nothing_back(
    i: int, j: int, power: bool
) -> None:
    for left in range(60):
        crashed = False
        for seed in range(1, 9) if power else [None]:
            bench, crashed = crash_in_merge(left, seed, i, j)
            assert bench.start().bad_records == 0
            bench.memory.pop(b"beside", None)
            assert (bench.memory, bench.hints) == (EXPECTED, {3: b"hint"}), (left, seed)
            # And the log goes on from there, merges included.
            bench.put(b"a", b"fourth")
            bench.settle()
            bench.do(bench.compaction.merge(bench.log.segments[:-1]))
            assert reopened(bench)[0] == EXPECTED | {b"a": b"fourth"} | (
                {b"beside": b"1"} if b"beside" in bench.memory else {}
            )
        if not crashed:
            assert left > 8  # there were that many steps, and the last attempt came to its end
            return
    pytest.fail("the merge never ended")


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_any_life_with_merges_in_the_background_is_what_a_start_finds(seed: int) -> None:
    draws = Draws(seed)
    bench = Bench(seed, segment_bytes=draws.between(50, 600, "segment"))
    hints = 0
    for life in range(3):
        bench.start(tend=True)
        for number in range(60):
            key = b"k%d" % draws.below(8, "key", life, number)
            match draws.below(6, "what", life, number):
                case 0:
                    bench.drop(key)
                case 1:
                    hints += 1
                    bench.hint(hints, b"hint")
                case 2 if bench.hints:
                    bench.done(min(bench.hints))
                case _:
                    bench.put(key, b"%d.%d" % (life, number))
            if draws.one_in(3, "settle", life, number):
                bench.settle()
        bench.settle()
        memory, held = dict(bench.memory), dict(bench.hints)
        if draws.one_in(2, "power", life):
            bench.lose_power()
        else:
            bench.kill()
        bench.start(tend=True)
        bench.settle()
        assert (bench.memory, bench.hints) == (memory, held)
        bench.kill()
    assert bench.compaction.damaged == 0


def test_garbage_is_given_back_while_the_node_runs() -> None:
    bench = Bench(segment_bytes=500)
    bench.start(tend=True)
    for number in range(500):
        bench.put(b"hot", b"%050d" % number)
        bench.settle()
    assert bench.compaction.merges > 3
    assert bench.log.size_bytes < 3_000
    assert bench.compaction.reclaimed_bytes > 20_000


def test_the_account_of_an_entry_never_leads_through_all_merges() -> None:
    bench = written()
    for _ in range(5):
        bench.do(bench.compaction.merge(bench.log.segments[:3]))
    log: Any = bench.log
    steps: list[Segment] = []
    held: Segment = log._where[b"back"]
    while held.into is not None:
        steps.append(held)
        held = held.into
    assert len(steps) <= 1


def test_a_merge_without_room_is_given_up_and_changes_nothing() -> None:
    bench = written()
    bench.platter.full = True
    bench.do(bench.compaction.merge(bench.log.segments[:7]))
    bench.platter.full = False
    assert bench.life.halted == ""
    assert MERGE not in bench.platter.names, "it would take the room that the log needs"
    assert reopened(bench) == (EXPECTED, {3: b"hint"})


@pytest.mark.parametrize("merging", [False, True])
def test_rot_found_while_the_node_runs_is_mended_from_memory(merging: bool) -> None:
    for seed in range(1, 25):
        bench = written(seed)
        bench.do(bench.log.seal())
        [where] = bench.platter.rot(1, unreadable=seed % 4 == 0)
        seen: list[bytes | None] = []
        if merging:
            bench.do(bench.compaction.merge(bench.log.segments[:-1]))
        else:
            bench.do(bench.compaction.read_back(seen.append))
            assert None in seen
        assert bench.compaction.damaged == 1, where
        bench.kill()
        bench.start()
        live = {key: value for key, value in bench.memory.items() if key in EXPECTED}
        assert (live, bench.hints.get(3)) == (EXPECTED, b"hint"), where


def test_reading_back_shows_what_a_start_would_find() -> None:
    bench = written()
    seen: list[bytes] = []
    bench.put(b"late", b"1")
    bench.do(bench.compaction.read_back(lambda payload: seen.append(payload or b"damage")))
    other = Bench()
    other.start()
    for payload in seen:
        other.restore(payload)
    assert (other.memory, other.hints) == (bench.memory, bench.hints)
    assert b"late" in other.memory


def test_names_tell_what_a_merge_cut_short_has_left() -> None:
    kept, left = inventory(["log-000002", "log-000001", "merge", "log-000003", "log-000002-000003", "other"])
    assert [s.name for s in kept] == ["log-000001", "log-000002-000003"]
    assert left == ["merge", "log-000002", "log-000003"]


def test_a_run_is_worth_its_work_when_it_gives_back_half_or_makes_one_of_many() -> None:
    def segment(number: int, size: int, records: int, live: int) -> Segment:
        made = Segment(number, number, size)
        made.records, made.live = records, live
        return made

    full = [segment(n, 1000, 10, 10) for n in range(1, 8)]
    assert worth_merging(full, 1000) == []
    holed = [*full[:3], segment(4, 1000, 10, 1), segment(5, 1000, 10, 2), *full[5:]]
    assert [s.first for s in worth_merging(holed, 1000)][:1] in ([3], [4])
    small = [segment(n, 100, 1, 1) for n in range(1, 6)]
    assert len(worth_merging(small, 1000)) >= 4
    assert worth_merging(small[:3], 1000) == []
