"""A write of a key that this node is no home of goes to a home replica, once, which coordinates it and answers.

Twice would make two dots of one write: a coordinator that is silent may only be paused, and finishes when it goes on. So
whoever was not heard of just now is first asked whether it is there, and if it does not say so, the next one is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from store import door, messages
from store.api import Problem, Request, encode_error
from store.config import Config
from store.coordinator import Place, Want
from store.gossip import Gossip
from store.messages import Forward, ForwardDone, Ping, Pong
from store.metrics import Metrics
from store.quorum import Calls, Gather
from store.runtime import Future, Runtime

REMEMBERED_BYTES_MAX = 4 << 20
REMEMBERED_NS = 60_000_000_000
"""How long, and in how many bytes of answers, a coordinator recognises an operation again."""


class Answers:
    """What became of operations that were forwarded here, so that a repeated one is answered and not done again."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._mono_ns = runtime.clock.mono_ns
        self._running: dict[int, Future] = {}
        self._done: dict[int, tuple[int, bytes]] = {}
        """(when, answer), oldest first."""
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._running) + len(self._done)

    async def of(self, operation: int, perform: Callable[[], Awaitable[bytes]]) -> bytes:
        """The operation's one answer. `perform` never raises."""
        done = self._done.get(operation)
        if done is not None:
            return done[1]
        running = self._running.get(operation)
        if running is not None:
            return await running
        running = self._running[operation] = self._runtime.future()
        answer = await perform()
        now = self._mono_ns()
        del self._running[operation]
        self._done[operation] = (now, answer)
        self.bytes += len(answer)
        self._forget(now)
        running.set_result(answer)
        return answer

    def _forget(self, now: int) -> None:
        for operation in list(self._done):
            since, answer = self._done[operation]
            if now - since < REMEMBERED_NS and self.bytes <= REMEMBERED_BYTES_MAX:
                return
            del self._done[operation]
            self.bytes -= len(answer)


class Forwarding:
    """Both sides: `forward` hands a write over, `received` takes one that was."""

    def __init__(
        self,
        config: Config,
        runtime: Runtime,
        calls: Calls,
        gossip: Gossip,
        metrics: Metrics,
        handle: Callable[[Request], Awaitable[bytes]],
    ) -> None:
        self._runtime = runtime
        self._calls = calls
        self._gossip = gossip
        self._metrics = metrics
        self._handle = handle
        self._sloppy = config.sloppy and config.hinted_handoff
        self._replica_timeout_ns = config.replica_timeout_ms * 1_000_000
        self._doubted: set[str] = set()
        """Home replicas that owe an answer, though they may seem up."""
        self.answers = Answers(runtime)

    async def forward(self, place: Place, request: Request, want: Want) -> bytes | Want:
        """The answer of the home replica that coordinated the write; or what is left to ask for where no home can be
        reached, and this node has to coordinate it itself. Raises Problem where that is not allowed.

        After the one forward silence means that nobody knows, and the client is told so.
        """
        mono_ns = self._runtime.clock.mono_ns
        deadline_ns = mono_ns() + want.timeout_ns
        target = await self._there(place.homes, deadline_ns)
        left_ns = max(deadline_ns - mono_ns(), 1)
        if target is None:
            if not self._sloppy:
                raise Problem(503, "no home replica of the key seems up, and the quorum is strict")
            return msgspec.structs.replace(want, timeout_ns=left_ns)
        self._metrics.forwards += 1
        gather = Gather(self._runtime, self._calls, 1, left_ns, expects=ForwardDone, asked=(target,))
        operation = self._runtime.draw("operation", gather.id)
        packed = msgspec.msgpack.encode(request)
        self._runtime.net.send(target, messages.encode(Forward(gather.id, operation, packed)))
        answers: dict[str, Any] = await gather.future
        if target in answers:
            return answers[target].response
        self._gossip.missed(target)
        self._doubted.add(target)
        return encode_error(
            503, f"forwarded to {target}, which has not answered; the write may be done", got=0
        )

    async def _there(self, homes: tuple[str, ...], deadline_ns: int) -> str | None:
        """The first home replica that was heard of just now, or answers when it is asked."""
        gossip = self._gossip
        suspects: list[str] = []
        for home in homes:
            if not gossip.up(home):
                suspects.append(home)
                continue
            # Who is heard need not hear: a link may carry one way only.
            if home not in self._doubted and gossip.silent_ns(home) < self._replica_timeout_ns:
                return home
            if await self._answers((home,), deadline_ns):
                self._doubted.discard(home)
                return home
            self._doubted.add(home)
            gossip.missed(home)
        if self._sloppy or not suspects:
            return None
        # Nobody may stand in for a home replica, and that one is down is only a belief: they are asked, all at once.
        return await self._answers(tuple(suspects), deadline_ns)

    async def _answers(self, homes: tuple[str, ...], deadline_ns: int) -> str | None:
        """The first of them that says that it is there, if one does within the replica time-out."""
        left_ns = max(deadline_ns - self._runtime.clock.mono_ns(), 1)
        timeout_ns = min(self._replica_timeout_ns, left_ns)
        ask = Gather(self._runtime, self._calls, 1, timeout_ns, expects=Pong, asked=homes)
        frame = messages.encode(Ping(ask.id))
        for home in homes:
            self._runtime.net.send(home, frame)
        answers: dict[str, Any] = await ask.future
        return next(iter(answers), None)

    def received(self, src: str, message: Forward) -> None:
        """Performs a write that was forwarded here, at most once, and answers. Raises BadMessage."""
        request = door.forwarded(message)
        self._runtime.spawn(self._coordinate(src, message, request), name="forwarded")

    async def _coordinate(self, src: str, message: Forward, request: Request) -> None:
        response = await self.answers.of(message.operation, lambda: self._handle(request))
        self._runtime.net.send(src, messages.encode(ForwardDone(message.id, response)))
