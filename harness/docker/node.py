"""One node's container seen through its shell: starts the store's process in it, signals it, and says how it is."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

from harness.docker.engine import DockerTrouble
from harness.docker.links import SETUP, Peer, Tables, tables
from harness.docker.shell import Shell
from harness.docker.transport import HttpTransport
from harness.world import Refused, Silence

T = TypeVar("T")

State = Literal["runs", "stopped", "gone"]

HTTP_PORT = 8000
CONFIG = "/run/sunder/config.json"
LOG = "/var/log/sunder.log"
POLL_S = 0.01
PING = b"GET /ping HTTP/1.1\r\nHost: node\r\n\r\n"
PING_TIMEOUT_NS = 1_000_000_000
LAUNCH = f"( setsid python3 -m store --config {CONFIG} >>{LOG} 2>&1 </dev/null & echo $! )"
"""In a session of its own under process 1, so that the store outlives the shell that started it."""


class NotReady(DockerTrouble):
    """A node did not come up; the message holds the end of its log."""


class Node:
    """A name, an address, and a way in. The store in it is one process at a time."""

    def __init__(self, name: str, address: str, shell: Shell, log: Path) -> None:
        """`log` is where the node's log appears on this side."""
        self.name = name
        self.address = address
        self.shell = shell
        self.log = log
        self.peer = Peer(address, "")
        self.tables = Tables("", "")
        self._pid = 0
        self._born = ""
        """The process's start time in clock ticks: with the PID it names the process for certain."""

    async def launch(self) -> None:
        """Starts the store on what the data directory holds; it is not ready yet. Raises NotReady."""
        reply = await self.shell.run(LAUNCH)
        if reply.status or not reply.output.strip().isdigit():
            raise NotReady(f"{self.name} could not be launched: {reply.output.strip()}")
        self._pid = int(reply.output)
        self._born = (await self._stat())[1]

    async def set_up_links(self) -> None:
        """Makes the chains for partitions and learns what the node's packets look like."""
        said = await self.shell.run(f"cat /sys/class/net/eth0/address\n{SETUP}")
        mac, _, printed = said.output.strip().partition("\n")
        self.peer = Peer(self.address, mac)
        self.tables = tables(printed)

    async def signal(self, name: str) -> None:
        """Sends `KILL`, `STOP` or `CONT`; what came of it is for `state` to say."""
        await self.shell.run(f"kill -{name} {self._pid} 2>/dev/null")

    async def state(self) -> State:
        letter, born = await self._stat()
        # A zombie is not gone: its main thread has ended, but the others may still hold the port and the files.
        if not letter or born != self._born:
            return "gone"
        return "stopped" if letter in "Tt" else "runs"

    async def _stat(self) -> tuple[str, str]:
        """(state letter, start time) of the process with the store's PID; empty when there is none."""
        reply = await self.shell.run(f"cat /proc/{self._pid}/stat 2>/dev/null")
        # The command in parentheses may hold anything: fields are counted from its end (proc(5)).
        fields = reply.output.rpartition(")")[2].split()
        return (fields[0], fields[19]) if len(fields) > 19 else ("", "")

    async def answers(self, limit_s: float) -> bool:
        """Whether GET /ping is answered with 200 within the limit; gives up at once when the process ends."""
        deadline = time.monotonic() + limit_s
        with contextlib.closing(self.transport()) as asking:
            while time.monotonic() < deadline:
                with contextlib.suppress(Refused, Silence):
                    if (await asking.request(PING, PING_TIMEOUT_NS)).split(b" ", 2)[1] == b"200":
                        return True
                if await self.state() == "gone":
                    return False
                await asyncio.sleep(POLL_S)
        return False

    async def refuses(self) -> bool:
        """Whether a client's connection is refused: nobody holds the port."""
        with contextlib.closing(self.transport()) as asking:
            try:
                await asking.request(PING, PING_TIMEOUT_NS)
            except Refused:
                return True
            except Silence:
                return False
        return False

    def last_words(self) -> str:
        """The end of the log, for a sentence."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return f"its log ends: {lines[-1]}" if lines else "its log is empty"

    def transport(self) -> HttpTransport:
        return HttpTransport(lambda: (self.address, HTTP_PORT))


async def everywhere(awaitables: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The same on several nodes at once; the first error cancels the others and is raised as it is, not in a group."""
    tasks = [asyncio.ensure_future(each) for each in awaitables]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
