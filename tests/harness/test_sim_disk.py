"""Scenes of the simulated disk: what fsync covers, what a kill keeps, and what a power loss may take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from harness.sim.disk import SECTOR_BYTES, SPELL_NS, Platter, SimDisk
from harness.sim.draws import Draws
from harness.sim.future import Tasks
from harness.sim.loop import Gate, SimLoop
from harness.sim.trace import Trace
from store.runtime import DiskError


async def until(done: Awaitable[None]) -> None:
    await done


class Bench:
    """One disk on a loop of its own."""

    def __init__(self, seed: int = 1) -> None:
        self.loop = SimLoop()
        self.platter = Platter("n1", Draws(seed))
        self.gate = Gate(self.failed)
        self.disk = SimDisk(self.loop, self.gate, self.platter, Trace())

    def failed(self, problem: BaseException) -> None:
        raise problem

    def do(self, *steps: Awaitable[None]) -> None:
        """Runs the steps side by side to their ends."""

        def failed(name: str, problem: BaseException) -> None:
            raise problem

        tasks = Tasks(self.loop.ready, failed)
        for step in steps:
            tasks.spawn(until(step), "step")
        self.loop.drive()
        assert not tasks.living

    def file(self, content: bytes) -> None:
        """A durable file `f` of a durable name."""
        self.disk.append("f", content)
        self.do(self.disk.fsync("f"), self.disk.fsync_dir())


def outcomes(scene: Callable[[Bench], Any], seeds: int = 60) -> set[Any]:
    return {scene(Bench(seed)) for seed in range(seeds)}


def test_files_are_read_appended_cut_renamed_and_unlinked() -> None:
    disk = Bench().disk
    disk.append("b", b"hello ")
    disk.append("b", b"world")
    disk.append("a", b"")
    assert (disk.names(), disk.size("b"), disk.read("b"), disk.read("b", 6, 3)) == (
        ["a", "b"],
        11,
        b"hello world",
        b"wor",
    )
    disk.truncate("b", 5)
    disk.truncate("b", 7)
    assert disk.read("b") == b"hello\0\0"
    disk.rename("b", "a")
    assert (disk.names(), disk.read("a", 4)) == (["a"], b"o\0\0")
    disk.unlink("a")
    assert disk.names() == []


def test_a_missing_file_is_a_disk_error() -> None:
    bench = Bench()
    disk = bench.disk
    for touch in (
        lambda: disk.read("x"),
        lambda: disk.size("x"),
        lambda: disk.truncate("x", 0),
        lambda: disk.rename("x", "y"),
        lambda: disk.unlink("x"),
        lambda: bench.do(disk.fsync("x")),
    ):
        with pytest.raises(DiskError, match="no file 'x'"):
            touch()


def test_what_was_synced_survives_every_power_loss() -> None:
    def scene(bench: Bench) -> bytes:
        bench.file(b"safe")
        assert bench.platter.power_loss().total == 0
        return bench.disk.read("f")

    assert outcomes(scene) == {b"safe"}


def test_an_fsync_takes_time_and_covers_only_what_was_written_before_it_was_called() -> None:
    bench = Bench()
    bench.file(b"")
    began_ns = bench.loop.now_ns
    bench.disk.append("f", b"before")
    bench.loop.post_ns(began_ns + 1, bench.disk.append, "f", b"|after")
    bench.do(bench.disk.fsync("f"))
    assert 200_000 <= bench.loop.now_ns - began_ns < 160_100_000
    assert bench.platter.unsynced() == 1
    assert bench.platter.durable_names["f"].last - bench.platter.durable_names["f"].synced == 1
    assert bench.disk.read("f") == b"before|after"


def test_a_disk_has_quiet_spells_and_busy_ones() -> None:
    bench = Bench()
    bench.file(b"")
    means_ms: list[float] = []
    for spell in range(1, 60):
        bench.loop.now_ns = spell * SPELL_NS
        began_ns = bench.loop.now_ns
        for _ in range(10):
            bench.do(until(bench.disk.fsync("f")))
        means_ms.append((bench.loop.now_ns - began_ns) / 10e6)
    busy = sum(mean > 4 for mean in means_ms)
    quiet = sum(mean < 2 for mean in means_ms)
    assert 5 < busy < 25 and busy + quiet == 59


def test_a_power_loss_during_an_fsync_may_lose_what_it_was_to_cover() -> None:
    def scene(bench: Bench) -> bytes:
        bench.file(b"old")
        bench.disk.append("f", b"new")

        def cut() -> None:
            bench.gate.open, bench.gate.shut = False, True
            bench.platter.power_loss()

        bench.loop.post_ns(bench.loop.now_ns + 1, cut)
        tasks = Tasks(bench.loop.ready, lambda name, problem: pytest.fail(repr(problem)))
        tasks.spawn(until(bench.disk.fsync("f")), "parked")
        bench.loop.drive()
        assert len(tasks.living) == 1
        tasks.close()
        return bench.disk.read("f")

    found = outcomes(scene)
    assert {b"old", b"oldnew"} <= found


def test_two_fsyncs_at_once_do_not_confuse_each_other() -> None:
    def scene(bench: Bench) -> bytes:
        bench.file(b"")
        for part in (b"a", b"b", b"c"):
            bench.disk.append("f", part)
            bench.loop.post_ns(
                bench.loop.now_ns,
                lambda: Tasks(bench.loop.ready, lambda n, p: None).spawn(until(bench.disk.fsync("f")), "s"),
            )
        bench.loop.drive()
        bench.platter.power_loss()
        return bench.disk.read("f")

    assert outcomes(scene) == {b"abc"}


def test_a_power_loss_keeps_any_subset_and_holes_read_as_zeros() -> None:
    def scene(bench: Bench) -> bytes:
        bench.file(b"0")
        for part in (b"a", b"b", b"c"):
            bench.disk.append("f", part)
        lost = bench.platter.power_loss()
        found = bench.disk.read("f")
        kept = len(found.replace(b"\0", b"")) - 1
        assert lost.writes + lost.torn == 3 - kept
        assert bench.platter.unsynced() == 0
        return found

    assert outcomes(scene, 200) == {
        b"0", b"0a", b"0ab", b"0abc", b"0\0b", b"0\0bc", b"0\0\0c", b"0a\0c",
    }  # fmt: skip


def test_a_power_loss_tears_writes_at_sectors_and_nowhere_else() -> None:
    def scene(bench: Bench) -> str:
        bench.file(b"." * 100)
        bench.disk.append("f", b"x" * (3 * SECTOR_BYTES))
        bench.platter.power_loss()
        found = bench.disk.read("f").ljust(100 + 3 * SECTOR_BYTES, b"\0")
        assert found[:100] == b"." * 100
        pieces = [found[100:512], found[512:1024], found[1024:1536], found[1536:]]
        assert all(len(set(piece)) == 1 for piece in pieces)
        return "".join("x" if piece[:1] == b"x" else "-" for piece in pieces)

    found = outcomes(scene, 300)
    assert {"xxxx", "----"} < found
    assert len(found) > 6


def test_a_name_that_was_not_synced_may_vanish_and_so_may_its_removal() -> None:
    def scene(bench: Bench) -> tuple[str, ...]:
        bench.disk.append("old", b"1")
        bench.do(bench.disk.fsync("old"), bench.disk.fsync_dir())
        bench.disk.append("new", b"2")
        bench.do(bench.disk.fsync("new"))
        bench.disk.unlink("old")
        bench.platter.power_loss()
        return tuple(bench.disk.names())

    assert outcomes(scene) == {(), ("old",), ("new",), ("new", "old")}


def test_a_rename_is_there_or_not_but_never_half() -> None:
    def scene(bench: Bench) -> tuple[tuple[str, bytes], ...]:
        for name in ("f", "g"):
            bench.disk.append(name, name.encode())
        bench.do(bench.disk.fsync("f"), bench.disk.fsync("g"), bench.disk.fsync_dir())
        bench.disk.rename("g", "f")
        bench.platter.power_loss()
        return tuple((name, bench.disk.read(name)) for name in bench.disk.names())

    assert outcomes(scene) == {(("f", b"f"), ("g", b"g")), (("f", b"g"),)}


def test_an_fsync_of_the_directory_covers_only_names_made_before_it() -> None:
    bench = Bench()
    bench.disk.append("before", b"")
    bench.loop.post_ns(1, bench.disk.append, "after", b"")
    bench.do(bench.disk.fsync_dir())
    assert list(bench.platter.durable_names) == ["before"]
    bench.do(bench.disk.fsync_dir())
    assert list(bench.platter.durable_names) == ["before", "after"]


def test_a_cut_that_was_not_synced_may_be_undone() -> None:
    def scene(bench: Bench) -> bytes:
        bench.file(b"long")
        bench.disk.truncate("f", 1)
        bench.platter.power_loss()
        return bench.disk.read("f")

    assert outcomes(scene) == {b"long", b"l"}


def test_the_fate_of_a_write_does_not_hang_on_the_others() -> None:
    def fate(writes: int) -> list[bytes]:
        bench = Bench(seed=8)
        bench.file(b"")
        for _ in range(writes):
            bench.disk.append("f", b"x" * SECTOR_BYTES)
        bench.platter.power_loss()
        content = bench.disk.read("f").ljust(writes * SECTOR_BYTES, b"\0")
        return [content[k : k + 1] for k in range(0, len(content), SECTOR_BYTES)]

    assert fate(12)[:5] == fate(5)
