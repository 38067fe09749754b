"""What every world offers to the harness: nodes to run, time, clients' transports, and faults with evidence."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import Any, Protocol

import msgspec

from nemeses.fault import Evidence, Fault


class Refused(Exception):
    """The request certainly never reached a process: connection refused."""


class Silence(Exception):
    """No answer in time, or the connection broke after the bytes left: anything may have happened."""


class Transport(Protocol):
    """HTTP bytes to one node and back; kept open between requests; one request at a time."""

    async def request(self, payload: bytes, timeout_ns: int) -> bytes:
        """One whole HTTP/1.1 request for one whole response. Raises Refused or Silence."""
        ...

    def close(self) -> None: ...


class Support(msgspec.Struct, frozen=True):
    """How this world makes a fault family, or what to do so that it can. `mechanism` is empty when it cannot."""

    family: str
    mechanism: str = ""
    remedy: str = ""


BY_THE_SYSTEM = Support("membership", "POST to /admin/join, /admin/leave or /admin/replace of a member")
"""What no world does: it gives spare nodes, and the system under test changes its ring itself."""


class World(Protocol):
    """`sim`, `docker` (later `ssh`). All times are nanoseconds since `start` returned, by a monotonic clock."""

    @property
    def name(self) -> str: ...

    @property
    def nodes(self) -> tuple[str, ...]: ...

    def now_ns(self) -> int: ...

    def sleep(self, delay_ns: int) -> Awaitable[None]: ...

    def future(self) -> Any:
        """A new asyncio-compatible Future of this world's loop."""
        ...

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> Any:
        """Runs a harness task on this world's loop and returns it (awaitable)."""
        ...

    async def start(self) -> None:
        """Reaps leftovers, starts every node, and returns once each answers `GET /ping`."""
        ...

    async def stop(self) -> None:
        """Stops the nodes, brings their logs back, and leaves nothing behind. Safe to call twice, and after errors."""
        ...

    def transport(self, node: str, *, client: str) -> Transport:
        """A way to `node`'s HTTP port. `client` names who asks ("3", "probe"): it keys the simulator's draws."""
        ...

    async def scrape(self, node: str) -> bytes | None:
        """The node's metrics page; None while it cannot answer. In the simulator nobody in the world notices."""
        ...

    async def inject(self, fault: Fault) -> Evidence:
        """Does what the fault says and reports what was seen. Raises Unsupported."""
        ...

    def support(self, family: str) -> Support: ...

    def addresses(self) -> dict[str, str]:
        """Where each node takes clients' requests, where anybody but the harness can reach it."""
        ...

    def logs(self) -> dict[str, str]:
        """Each node's log so far (after `stop`: all of it)."""
        ...

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        """Drives `main` to its end on this world's loop and returns its result; the world's only blocking call."""
        ...


class Unsupported(Exception):
    """This world cannot make the fault; the message says what would help."""
