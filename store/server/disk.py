"""The real disk: one directory, locked against a second process, with one thread that syncs."""

from __future__ import annotations

import asyncio
import fcntl
import os
from concurrent.futures import ThreadPoolExecutor

from store.runtime import DiskError

OWNER, OWNER_NEW = "node", "node.new"
"""The file that says whose directory this is, and what becomes it."""


class CannotServe(Exception):
    """This node cannot start here; the message says why and what to do."""


class RealDisk:
    """A directory, locked against a second process for the life of this one. Raises CannotServe, later DiskError."""

    def __init__(self, directory: str, loop: asyncio.AbstractEventLoop) -> None:
        self._path = directory
        self._loop = loop
        self._fds: dict[str, int] = {}
        self._refused: dict[str, str] = {}
        # One worker: fsyncs of one disk only get in each other's way, and closes queue up behind them.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fsync")
        try:
            os.makedirs(directory, exist_ok=True)
            self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as problem:
            raise CannotServe(
                f"cannot use the data directory {directory}: {problem.strerror}; name another in `directory`"
            ) from problem
        try:
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CannotServe(
                f"another process uses the data directory {directory}; stop it, or name another in `directory`"
            ) from None

    def claim(self, node: str) -> None:
        """Sees to it that no other node than this one ever serves what is here: its clocks and its part of the ring would not be
        that node's. A directory of which nobody says whose it is becomes this node's. Raises CannotServe."""
        try:
            owner = self.read(OWNER).decode("utf-8", "replace") if OWNER in self.names() else ""
            if not owner:
                if OWNER_NEW in self.names():
                    self.unlink(OWNER_NEW)  # of a start that was cut short
                self.append(OWNER_NEW, node.encode())
                os.fsync(self._fd(OWNER_NEW))
                self.rename(OWNER_NEW, OWNER)
                os.fsync(self._directory)
        except OSError as problem:
            raise CannotServe(f"cannot use the data directory {self._path}: {problem.strerror}") from problem
        except DiskError as problem:
            raise CannotServe(f"cannot use the data directory {self._path}: {problem}") from problem
        if owner not in ("", node):
            raise CannotServe(
                f"the data directory {self._path} is that of node {owner!r}, not of {node!r}; name another in `directory`"
            )

    def names(self) -> list[str]:
        with os.scandir(self._directory) as entries:
            return sorted(entry.name for entry in entries if entry.is_file())

    def size(self, name: str) -> int:
        try:
            return os.fstat(self._fd(name)).st_size
        except OSError as problem:
            raise self._error("cannot stat", name, problem) from problem

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        try:
            fd = self._fd(name)
            missing = os.fstat(fd).st_size - offset if size < 0 else size
            parts: list[bytes] = []
            while missing > 0 and (part := os.pread(fd, missing, offset)):
                parts.append(part)
                offset += len(part)
                missing -= len(part)
        except OSError as problem:
            raise self._error("cannot read", name, problem) from problem
        return b"".join(parts)

    def append(self, name: str, content: bytes) -> None:
        self._check(name)
        written = 0
        try:
            fd = self._fds.get(name) or self._fd(name, os.O_CREAT)
            written = os.write(fd, content)
            # A short write is rare: the disk is full, or content passes 2 GB.
            while written < len(content):
                written += os.write(fd, content[written:])
        except OSError as problem:
            if written:
                self._refused[name] = "an append was torn"
            raise self._error("cannot append to", name, problem) from problem

    def truncate(self, name: str, size: int) -> None:
        self._check(name)
        try:
            os.ftruncate(self._fd(name), size)
        except OSError as problem:
            raise self._error("cannot truncate", name, problem) from problem

    def rename(self, old: str, new: str) -> None:
        try:
            os.rename(old, new, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except OSError as problem:
            raise self._error("cannot rename", old, problem) from problem
        self._close(new)
        if old in self._fds:
            self._fds[new] = self._fds.pop(old)
        if old in self._refused:
            self._refused[new] = self._refused.pop(old)

    def unlink(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._directory)
        except OSError as problem:
            raise self._error("cannot unlink", name, problem) from problem
        self._close(name)

    async def fsync(self, name: str) -> None:
        self._check(name)
        try:
            await self._loop.run_in_executor(self._thread, os.fdatasync, self._fd(name))
        except OSError as problem:
            # The kernel may have dropped the dirty pages and called them clean: a second fsync would lie.
            self._refused[name] = f"an earlier fsync failed: {problem.strerror}"
            raise self._error("cannot fsync", name, problem) from problem

    async def fsync_dir(self) -> None:
        try:
            await self._loop.run_in_executor(self._thread, os.fsync, self._directory)
        except OSError as problem:
            raise DiskError(f"cannot fsync the directory: {problem.strerror}") from problem

    def close(self) -> None:
        """Makes everything durable that was appended; at the end of a graceful stop."""
        self._thread.shutdown()
        for name, fd in self._fds.items():
            if name not in self._refused:
                os.fsync(fd)
            os.close(fd)
        self._fds.clear()
        os.close(self._directory)

    def _fd(self, name: str, flags: int = 0) -> int:
        fd = self._fds.get(name)
        if fd is None:
            fd = os.open(name, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | flags, 0o644, dir_fd=self._directory)
            self._fds[name] = fd
        return fd

    def _close(self, name: str) -> None:
        self._refused.pop(name, None)
        fd = self._fds.pop(name, None)
        if fd is not None:
            self._thread.submit(os.close, fd)

    def _check(self, name: str) -> None:
        if name in self._refused:
            raise DiskError(f"{name} takes nothing more: {self._refused[name]}")

    def _error(self, what: str, name: str, problem: OSError) -> DiskError:
        return DiskError(f"{what} {name}: {problem.strerror}")
