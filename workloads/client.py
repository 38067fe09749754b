"""What a workload gives to the interpreter: a client that turns one invocation into its completion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from history.op import Op
from history.recorder import Recorder


class Client(Protocol):
    """Serves one process, one operation at a time, and is closed when the process retires (or the run ends).

    `prepare` fills in what must be journaled before any byte leaves: a put's context, for one. It must not depend on
    what `op.meta` already holds under the names that it sets: a replayed operation comes with the first run's.

    `invoke` returns `op.completed("ok" | "fail" | "info", ...)`, of the same process and with the same `f`. What it
    raises is a bug of the harness: the operation becomes `info`, and the run says so. A composite operation brackets
    each store request with `recorder.invoke` and `recorder.complete` under its own process.

    Neither may touch asyncio: awaiting what a connection offers is enough. Being cancelled must end `invoke`.
    """

    def prepare(self, op: Op) -> Op: ...

    async def invoke(self, op: Op, recorder: Recorder) -> Op: ...

    def close(self) -> None: ...


Clients = Callable[[int, str], Client]
"""Opens a client for (process, node). No I/O here: connections open when they are first used."""
