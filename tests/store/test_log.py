"""What recovery makes of a log: torn tails cut, damage skipped, acknowledged records kept."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_bench import Bench

from harness.sim.disk import Platter
from harness.sim.draws import Draws
from store.frames import framed, seed_of
from store.log import PUT, mark
from store.replica import packed

NAME = "log-000001"
SEED = seed_of(NAME)


def put(key: bytes, value: bytes) -> bytes:
    return packed(PUT, key, value)


def batches(*groups: list[bytes]) -> tuple[bytes, list[int]]:
    """A segment of these batches, and where each ends."""
    content = b""
    ends: list[int] = []
    for group in groups:
        content += framed([mark(len(content)), *group], SEED, len(content))
        ends.append(len(content))
    return content, ends


def opened(content: bytes) -> tuple[Bench, int, int]:
    """A node started on this one segment; bytes cut, bad records."""
    bench = Bench()
    if content:
        bench.loop.now_ns = 1
        disk_of(bench.platter, content)
    found = bench.start()
    return bench, found.bytes_cut, found.bad_records


def disk_of(platter: Platter, content: bytes, name: str = NAME) -> None:
    """Puts a durable file there."""
    life = Bench(platter=platter)
    life.start()
    for old in life.life.disk.names():
        life.life.disk.unlink(old)
    life.life.disk.append(name, content)

    async def sync() -> None:
        await life.life.disk.fsync(name)
        await life.life.disk.fsync_dir()

    life.do(sync())
    life.kill()


THREE = (
    [put(b"a", b"one"), put(b"b", b"two")],
    [put(b"a", b"three")],
    [put(b"c", b"four" * 20), put(b"b", b"five")],
)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_tail_torn_at_any_byte_loses_only_what_was_never_acknowledged(data: st.DataObject) -> None:
    content, ends = batches(*THREE)
    cut = data.draw(st.integers(ends[1], len(content)))
    bench, _, bad = opened(content[:cut])
    assert bench.memory[b"a"] == b"three" and bench.memory[b"b"] in (b"two", b"five")
    assert bad == 0
    bench.kill()
    again = bench.start()
    assert (again.bytes_cut, again.bad_records) == (0, 0)


def test_damage_before_the_last_mark_is_skipped_and_what_follows_is_kept() -> None:
    content, _ = batches(*THREE)
    broken = bytearray(content)
    broken[content.index(b"one")] ^= 1
    bench, cut, bad = opened(bytes(broken))
    assert (bench.memory, cut, bad) == ({b"a": b"three", b"b": b"five", b"c": b"four" * 20}, 0, 1)


def test_a_hole_of_zeros_in_the_last_batch_cuts_from_the_hole() -> None:
    content, _ = batches([put(b"a", b"one")], [put(b"b", b"two"), put(b"c", b"three")])
    start = content.index(b"two") - 4
    bench, cut, _ = opened(content[:start] + bytes(8) + content[start + 8 :])
    assert bench.memory == {b"a": b"one"}
    assert cut > 0


def test_what_is_whole_behind_a_hole_at_the_very_beginning_is_cut_too() -> None:
    content, _ = batches([put(b"a", b"one"), put(b"b", b"two")])
    bench, cut, bad = opened(bytes(30) + content[30:])
    assert (bench.memory, cut, bad) == ({}, len(content), 0)


def test_a_frame_inside_a_damaged_value_is_not_believed() -> None:
    inner = framed([mark(0), put(b"a", b"inner")], SEED, 0)
    content, _ = batches([put(b"v", inner)], [put(b"b", b"after")])
    broken = bytearray(content)
    broken[content.index(inner) - 1] ^= 1
    bench, _, bad = opened(bytes(broken))
    assert (bench.memory, bad) == ({b"b": b"after"}, 1)


def test_a_frame_that_a_disk_wrote_to_the_wrong_place_is_damage() -> None:
    content, ends = batches([put(b"a", b"old")], [put(b"a", b"new")], [])
    first, second = content[: ends[0]], content[ends[0] : ends[1]]
    assert len(first) == len(second)
    bench, _, bad = opened(first + first + content[ends[1] :])
    assert (bench.memory, bad) == ({b"a": b"old"}, 1)


def test_an_empty_log_holds_nothing() -> None:
    bench, cut, bad = opened(b"")
    assert (bench.memory, cut, bad) == ({}, 0, 0)


@pytest.mark.parametrize("bit", [0, 7])
def test_rot_at_any_byte_of_a_closed_log_costs_one_record_and_is_counted(bit: int) -> None:
    """The last batch is no exception: the log was idle, and so it got a closing mark."""
    writer = Bench(segment_bytes=4096)
    writer.start()
    for number in range(4):
        writer.put(b"k%d" % number, b"v%d" % number)
        writer.put(b"last", b"%d" % number)
        writer.settle()
    expected = dict(writer.memory)
    content = writer.life.disk.read(NAME)
    for at in range(len(content)):
        broken = bytearray(content)
        broken[at] ^= 1 << bit
        bench, cut, bad = opened(bytes(broken))
        missing = {key for key in expected if bench.memory.get(key) != expected[key]}
        assert len(missing) <= 1, at
        if missing:
            assert (bad, cut) == (1, 0), at


def test_what_stands_unmarked_is_written_anew_before_it_is_believed() -> None:
    """An fsync fails, the page cache calls its pages clean; the next life reads them there, and then the power fails."""
    bench = Bench()
    bench.start()
    bench.platter.fsyncs_to_fail = 1
    bench.put(b"k", b"v")
    bench.settle()
    assert "log is broken" in bench.life.halted
    bench.start()
    assert bench.memory == {b"k": b"v"}
    bench.lose_power()
    bench.start()
    assert bench.memory == {b"k": b"v"}


def test_a_node_whose_log_cannot_be_written_ends_itself() -> None:
    bench = Bench()
    bench.start()
    bench.platter.full = True
    durable = bench.put(b"k", b"v")
    bench.settle()
    assert "no space" in bench.life.halted
    assert not durable.done()


def test_unsynced_knows_what_is_on_its_way_and_forgets_what_is_durable() -> None:
    bench = Bench()
    bench.start()
    first = bench.put(b"a", b"1")
    bench.loop.post_ns(bench.loop.now_ns + 1, lambda: seen.append(bench.log.unsynced(b"a")))
    seen: list[object] = [bench.log.unsynced(b"a"), bench.log.unsynced(b"b")]
    bench.settle()
    assert seen == [first, None, first]
    assert bench.log.unsynced(b"a") is None


@given(st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_over_many_power_losses_what_was_durable_stays(seed: int) -> None:
    draws = Draws(seed)
    bench = Bench(seed, segment_bytes=1500)
    safe: dict[bytes, int] = {}
    values = itertools.count()
    for life in range(4):
        found = bench.start(tend=True)
        assert found.bad_records == 0
        assert all(int(bench.memory[key]) >= value for key, value in safe.items())

        def write(number: int, life: int = life) -> None:
            key, value = b"k%d" % draws.below(5, "key", life, number), next(values)
            durable = bench.put(key, b"%0300d" % value)
            durable.add_done_callback(lambda _: safe.update({key: max(value, safe.get(key, 0))}))

        now_ns = bench.loop.now_ns
        for number in range(30):
            bench.life.call_later(draws.below(30_000_000, "at", life, number), write, number)
        bench.loop.call_at_ns(now_ns + draws.below(40_000_000, "power", life), bench.lose_power_here)
        bench.loop.drive()


def test_a_log_from_before_an_unclean_stop_is_merged_and_stays_whole() -> None:
    bench = Bench(segment_bytes=200)
    for life in range(6):
        bench.start(tend=True)
        for number in range(10):
            bench.put(b"k%d" % number, b"life %d" % life)
            bench.settle()
        bench.kill()
    bench.start(tend=True)
    bench.settle()
    assert bench.memory == {b"k%d" % number: b"life 5" for number in range(10)}
    assert len(bench.log.segments) < 6
