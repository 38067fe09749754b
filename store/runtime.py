"""The narrow facade between node code and the world: everything that a node may touch.

Two implementations exist: `store/server/` (asyncio, sockets, a data directory) and `harness/sim` (a deterministic
simulator). Node code imports neither, nor asyncio, time, random or threads; a lint rule holds that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol


class DiskError(Exception):
    """The disk refused: full, unreadable, or an fsync failed. After a failed fsync nothing unsynced may be trusted."""


class BadMessage(Exception):
    """A frame that no node of this ring sends. The network closes the connection that it came by."""


class Timer(Protocol):
    def cancel(self) -> None: ...


class Future(Protocol):
    """The part of asyncio's Future that node code uses; awaitable once or many times."""

    def done(self) -> bool: ...
    def result(self) -> Any: ...
    def exception(self) -> BaseException | None: ...
    def add_done_callback(self, fn: Callable[[Any], object], /) -> None:
        """Calls `fn(future)` soon after the future is done, never at once: a task for each would cost far more."""
        ...

    def set_result(self, result: Any, /) -> None: ...
    def set_exception(self, exception: BaseException, /) -> None: ...
    def __await__(self) -> Any: ...


class Clock(Protocol):
    @property
    def boot(self) -> str:
        """Names the run of the machine: while it is the same, `mono_ns` goes on from one life of the node to the next.
        Empty where nobody can tell."""
        ...

    def mono_ns(self) -> int:
        """Nanoseconds that only go forward, from an arbitrary start; comparable while `boot` is the same."""
        ...

    def wall_ns(self) -> int:
        """Nanoseconds since the epoch as this node believes: may jump, drift, and run backwards."""
        ...


class Network(Protocol):
    def send(self, dst: str, frame: bytes) -> None:
        """Queues one frame for the node `dst`; returns at once and never raises.

        At most once, in order per connection; a connection that breaks loses what it carried, silently.
        `dst` may be this node itself.
        """
        ...

    def meet(self, node: str, address: str) -> None:
        """From now on `node` can be sent to, at this address; what was known of it is forgotten if that was another."""
        ...

    def forget(self, node: str) -> None:
        """Undoes `meet` of a node that the configuration does not name."""
        ...

    def on_message(self, handler: Callable[[str, bytes], None]) -> None:
        """Sets the one handler, called with (source node's name, frame). It raises BadMessage for what is no message."""
        ...


class Disk(Protocol):
    """A flat directory of files. Appends reach the page cache at once; only `fsync` makes them durable.

    A process kill keeps the page cache; a power loss drops any subset of the unsynced writes and tears others at
    512-byte sectors. A created, renamed or unlinked name is durable only after `fsync_dir`. All raise DiskError.
    """

    def names(self) -> list[str]: ...
    def size(self, name: str) -> int: ...
    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes: ...
    def append(self, name: str, content: bytes) -> None:
        """Appends, creating the file if need be."""
        ...

    def truncate(self, name: str, size: int) -> None: ...
    def rename(self, old: str, new: str) -> None: ...
    def unlink(self, name: str) -> None: ...
    def fsync(self, name: str) -> Awaitable[None]: ...
    def fsync_dir(self) -> Awaitable[None]: ...


class Runtime(Protocol):
    """One life (incarnation) of one node. After a crash nothing scheduled through it ever runs again."""

    @property
    def node(self) -> str: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def net(self) -> Network: ...
    @property
    def disk(self) -> Disk: ...

    def draw(self, what: str, *identity: object) -> int:
        """64 random bits. In the simulator a stable hash of (seed, node, what, identity); secrets on real nodes."""
        ...

    def future(self) -> Future: ...

    def call_later(self, delay_ns: int, callback: Callable[..., None], *args: Any) -> Timer: ...

    def sleep(self, delay_ns: int) -> Awaitable[None]: ...

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> None:
        """Runs a task owned by this life. An exception in it is a bug: it is logged with its traceback."""
        ...

    def log(self, text: str) -> None:
        """One line for the node's log."""
        ...

    def halt(self, reason: str) -> None:
        """Ends this life at once, as a crash would: nothing of it is sent, written or run any more."""
        ...
