"""The real disk, the frames between nodes, and the way coroutines run, each by itself."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.runtime import DiskError
from store.server.disk import CannotServe, RealDisk
from store.server.greeting import BadFrame, Frames
from store.server.peers import split_address
from store.server.runtime import Running


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[RealDisk]:
    disk = RealDisk(str(directory), asyncio.get_running_loop())
    yield disk
    disk.close()


def on_disk(scene: Callable[[RealDisk], Coroutine[Any, Any, None]], directory: Path) -> None:
    async def main() -> None:
        async with opened(directory) as disk:
            await scene(disk)

    asyncio.run(main())


def test_what_was_appended_is_read_back_in_parts_and_after_a_restart(tmp_path: Path) -> None:
    async def write(disk: RealDisk) -> None:
        disk.append("log", b"hello ")
        disk.append("log", b"world")
        await disk.fsync("log")
        await disk.fsync_dir()
        assert (disk.names(), disk.size("log")) == (["log"], 11)

    async def reread(disk: RealDisk) -> None:
        assert disk.read("log") == b"hello world"
        assert disk.read("log", 6) == b"world"
        assert disk.read("log", 6, 2) == b"wo"
        assert disk.read("log", 99) == b""
        disk.append("log", b"!")
        disk.truncate("log", 5)
        disk.append("log", b"?")
        assert disk.read("log") == b"hello?"

    on_disk(write, tmp_path)
    on_disk(reread, tmp_path)


def test_a_renamed_file_keeps_its_content_and_an_unlinked_one_is_gone(tmp_path: Path) -> None:
    async def scene(disk: RealDisk) -> None:
        disk.append("new", b"1")
        disk.append("old", b"2")
        disk.rename("new", "old")
        disk.append("old", b"3")
        assert (disk.names(), disk.read("old")) == (["old"], b"13")
        disk.unlink("old")
        assert disk.names() == []
        with pytest.raises(DiskError, match="cannot read old: No such file or directory"):
            disk.read("old")

    on_disk(scene, tmp_path)


def test_after_a_failed_fsync_the_file_takes_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def scene(disk: RealDisk) -> None:
        disk.append("log", b"x")
        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", failing)
            with pytest.raises(DiskError, match="cannot fsync log: Input/output error"):
                await disk.fsync("log")
        for refused in (lambda: disk.append("log", b"y"), lambda: disk.truncate("log", 0)):
            with pytest.raises(DiskError, match="an earlier fsync failed"):
                refused()
        with pytest.raises(DiskError, match="an earlier fsync failed"):
            await disk.fsync("log")
        disk.append("other", b"z")
        await disk.fsync("other")

    on_disk(scene, tmp_path)


def test_a_full_disk_is_a_disk_error_and_a_torn_append_is_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    room = [3]

    def filling(fd: int, content: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(fd, content[: room[0]])
        room[0] -= written
        return written

    async def scene(disk: RealDisk) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", filling)
            with pytest.raises(DiskError, match="cannot append to log: No space left on device"):
                disk.append("log", b"hello")
            with pytest.raises(DiskError, match="cannot append to other: No space left on device"):
                disk.append("other", b"hello")
        with pytest.raises(DiskError, match="an append was torn"):
            disk.append("log", b"!")
        disk.append("other", b"!")
        assert (disk.read("log"), disk.read("other")) == (b"hel", b"!")

    on_disk(scene, tmp_path)


def test_two_disks_cannot_share_a_directory(tmp_path: Path) -> None:
    async def scene(disk: RealDisk) -> None:
        with pytest.raises(CannotServe, match="another process uses the data directory"):
            RealDisk(str(tmp_path), asyncio.get_running_loop())

    on_disk(scene, tmp_path)
    on_disk(lambda disk: disk.fsync_dir(), tmp_path)


@given(st.lists(st.binary(max_size=50)), st.lists(st.integers(1, 20)))
def test_frames_survive_however_the_stream_is_cut(frames: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)
    reader = Frames(50)
    read: list[bytes] = []
    for cut in [*cuts, len(stream)]:
        read += reader.feed(stream[:cut])
        stream = stream[cut:]
    assert read == frames


def test_a_frame_over_the_limit_is_refused_before_it_is_awaited() -> None:
    with pytest.raises(BadFrame, match="a frame of 51 bytes, at most 50 are taken"):
        Frames(50).feed((51).to_bytes(4, "big"))


@pytest.mark.parametrize(
    ("address", "parts"),
    [("10.0.0.1:80", ("10.0.0.1", 80)), ("[::1]:80", ("::1", 80)), ("node-a:8001", ("node-a", 8001))],
)
def test_addresses_are_split_into_host_and_port(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":80", "host:0", "host:65536", "host:http", "host:٣"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="is not host:port"):
        split_address(address)


def test_a_spawned_coroutine_starts_later_waits_and_reports_its_end() -> None:
    heard: list[object] = []

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        future, failure = loop.create_future(), loop.create_future()

        async def work() -> None:
            heard.append("began")
            await asyncio.sleep(0)
            heard.append(await future)
            try:
                await failure
            except DiskError as problem:
                heard.append(str(problem))
            raise KeyError("bug")

        running = Running(loop, work(), lambda name, problem: heard.append((name, repr(problem))), "work")
        loop.call_soon(running.step)
        assert heard == []
        await asyncio.sleep(0.01)
        future.set_result("result")
        failure.set_exception(DiskError("refused"))
        await asyncio.sleep(0.01)

    asyncio.run(scene())
    assert heard == ["began", "result", "refused", ("work", "KeyError('bug')")]
