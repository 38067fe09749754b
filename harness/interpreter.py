"""Applies a generator to the world: asks for operations, has clients and the nemesis perform them, records it all."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

import msgspec

from harness.world import Unsupported, World
from history.generator import (
    NEMESIS_THREAD,
    NEVER,
    SECOND,
    Ask,
    Context,
    Draw,
    Generator,
    Pending,
    bit,
)
from history.op import NEMESIS, Op, Process
from history.recorder import Recorder
from nemeses.fault import (
    FAMILY_OF,
    Evidence,
    Fault,
    Harm,
    HealPartition,
    Join,
    Leave,
    MendDisk,
    Replace,
    ResetClocks,
    Restart,
    Resume,
    RingFault,
    SettleRing,
    Snapshot,
)
from workloads.client import Client, Clients

GRACE_NS = 30 * SECOND
"""Longer than any client's own timeout: only what hangs is abandoned."""

LETTING_GO_NS = SECOND
"""How long cancelled clients get to unwind before the run goes on without them."""


class Nemesis(Protocol):
    """Does harm. `prepare` makes the journaled form; `invoke` returns its completion, as a client does."""

    def prepare(self, op: Op) -> Op: ...

    async def invoke(self, op: Op) -> Op: ...


class _NemesisClient:
    """The nemesis in the place of a client; it has no store requests to bracket, and outlives every process."""

    def __init__(self, nemesis: Nemesis) -> None:
        self.prepare = nemesis.prepare
        self._invoke = nemesis.invoke

    async def invoke(self, op: Op, recorder: Recorder) -> Op:
        return await self._invoke(op)

    def close(self) -> None:
        """Nothing to release."""


class FaultNemesis:
    """Injects the fault in `op.value` into the world: `ok` with the evidence, `fail` when the world cannot make it."""

    def __init__(self, world: World, ring: Callable[[RingFault], Awaitable[Evidence]] | None = None) -> None:
        """`ring`: how the system under test is made to change its ring, where it has one."""
        self._world = world
        self._ring = ring
        self.standing: dict[str, None] = {}
        """Tags of the harms that were made and not yet healed, oldest first."""

    def prepare(self, op: Op) -> Op:
        """The fault as JSON, named by its tag; `meta.family` is its family, `meta.heal` says that it only heals."""
        fault = _fault(op)
        value: dict[str, Any] = msgspec.to_builtins(fault)
        tag: str = value["fault"]
        meta: dict[str, Any] = {"family": FAMILY_OF[tag]}
        if not isinstance(fault, Harm):
            meta["heal"] = True
        return Op(op.process, op.type, tag, op.key, value, op.error, op.node, meta)

    async def invoke(self, op: Op) -> Op:
        fault = _fault(op)
        try:
            evidence = await self._inject(fault)
        except Unsupported as problem:
            return op.completed("fail", error=str(problem))
        match fault:
            case Snapshot():
                pass
            case MendDisk():
                self._healed("rot", "fail-fsync", "slow-fsync", "fill-disk")
            case HealPartition():
                self._healed("partition")
            case Restart():
                self._healed("kill", "power-loss", "wipe", "rollback")
            case Resume():
                self._healed("pause")
            case ResetClocks():
                self._healed("skew")
            case SettleRing():
                self._healed("join", "leave", "replace")
            case Join() | Leave() | Replace():
                if evidence.verified:
                    self.standing[op.f] = None
            case _:
                self.standing[op.f] = None
        return op.completed("ok", msgspec.to_builtins(evidence))

    async def _inject(self, fault: Fault) -> Evidence:
        if not isinstance(fault, RingFault):
            return await self._world.inject(fault)
        if self._ring is None:
            raise Unsupported("this system's nodes cannot join, leave or be replaced")
        return await self._ring(fault)

    def _healed(self, *tags: str) -> None:
        for tag in tags:
            self.standing.pop(tag, None)


def _fault(op: Op) -> Fault:
    return msgspec.convert(msgspec.to_builtins(op.value), Fault)


class _Worker:
    """One thread: serves the operations that it is handed, one after the other."""

    __slots__ = ("abandoned", "ended", "handed", "op", "server", "task", "thread")

    def __init__(self, thread: int, handed: Any) -> None:
        self.thread = thread
        self.handed = handed  # future: set when `op` is there
        self.op: Op | None = None  # what is in flight
        self.server: Client | None = None
        self.abandoned = False
        self.ended = True  # until its task takes its first step
        self.task: Any = None


async def interpret(
    world: World,
    generator: Generator,
    clients: Clients,
    nemesis: Nemesis,
    recorder: Recorder,
    *,
    concurrency: int,
    draw: Draw,
    grace_ns: int = GRACE_NS,
) -> list[str]:
    """Runs the generator to its end and returns what went wrong with the harness itself.

    Each of those errors is text that ends in a line of its own that says it, after the traceback if there is one.

    Client threads are 0 to concurrency - 1. A thread begins as the process of its own number; after `info` it goes on
    as process + concurrency, with a new client (and, over several calls with one recorder, never as a retired one).
    When the generator can do nothing but wait for completions, and has waited for `grace_ns`, then what is in flight
    becomes `info` and its tasks are cancelled. On the way out, errors and cancellation included, all clients are closed.
    """
    run = _Interpretation(world, generator, clients, nemesis, recorder, concurrency, draw, grace_ns)
    try:
        await run.loop()
    finally:
        run.close()
    await run.let_go()
    return run.errors


class _Interpretation:
    def __init__(
        self,
        world: World,
        generator: Generator,
        clients: Clients,
        nemesis: Nemesis,
        recorder: Recorder,
        concurrency: int,
        draw: Draw,
        grace_ns: int,
    ) -> None:
        assert concurrency > 0, f"at least one client is needed, not {concurrency}"
        self.errors: list[str] = []
        self._world = world
        self._nodes = world.nodes
        self._generator = generator
        self._hears = generator.hears
        self._clients = clients
        self._nemesis = nemesis
        self._recorder = recorder
        self._concurrency = concurrency
        self._draw = draw
        self._grace_ns = grace_ns
        self._processes = tuple(self._unretired(t) for t in range(concurrency))
        self._everyone = (1 << (concurrency + 1)) - 2  # without the nemesis: see Context.free
        self._busy = 0
        self._count = 0
        self._workers: dict[int, _Worker] = {}
        self._gone: list[_Worker] = []
        self._completed: list[Op] = []
        self._failure: BaseException | None = None
        self._closing = False
        self._asked = False
        self._steady = False
        """Completions need not wake the main task: the generator waits for nothing but the time, and does not hear."""
        self._wake = world.future()
        self._alarms: list[tuple[int, asyncio.Future[None]]] = []

    def _unretired(self, process: int) -> int:
        while self._recorder.retired(process):
            process += self._concurrency
        return process

    # The main task

    async def loop(self) -> None:
        now_ns = self._world.now_ns
        waiting_since = -1
        while True:
            # Completions are recorded when they happen, before this task runs again: nothing is invoked while an
            # answer that is already here stands unrecorded, which would invent concurrency.
            if self._completed:
                context = self._context(now_ns())
                completed, self._completed = self._completed, []
                for op in completed:
                    self._update(context, op)
            if self._failure is not None:
                raise self._failure
            now = now_ns()
            until = self._invoke_all(now)
            if until is None and not self._busy:
                return
            if until is None or until == NEVER:
                assert self._busy, (
                    f"the generator waits for ever, with nothing in flight: {self._generator!r}"
                )
                if waiting_since < 0 or self._asked:
                    waiting_since = now
                until = waiting_since + self._grace_ns
                if now >= until:
                    self._abandon_all()
                    waiting_since = -1
                    continue
            else:
                waiting_since = -1
            self._alarm(until)
            if self._wake.done():
                await self._world.sleep(0)  # others get their turn even when every invocation fails at once
            else:
                await self._wake
            self._wake = self._world.future()

    def _invoke_all(self, now: int) -> int | None:
        """Invokes whatever is due; returns when to ask again (NEVER: after an event), or None when exhausted."""
        self._asked = self._steady = False
        while True:
            context = self._context(now)
            try:
                step = self._generator.op(context)
            except Exception as problem:
                problem.add_note(f"raised by the generator at {now} ns")
                raise
            if step is None:
                return None
            ask, self._generator = step
            if isinstance(ask, Pending):
                self._steady = ask.steady and not self._hears
                return ask.until
            self._asked = True
            if ask.type == "info":
                self._update(context, self._recorder.event(_op(NEMESIS, ask, "info")))
            else:
                self._invoke(context, ask)
            now = self._world.now_ns()

    def _invoke(self, context: Context, ask: Ask) -> None:
        thread = ask.thread
        if thread is None:
            assert context.free, f"the generator asks for {ask} while no client is free"
            thread = context.pick()
        worker = self._workers.get(thread) or self._open(thread, ask)
        assert worker.op is None, f"the generator gives {ask} to thread {thread}, which is busy"
        if thread == NEMESIS_THREAD:
            template = _op(NEMESIS, ask, "invoke")
        else:
            process = self._processes[thread]
            node = self._nodes[process % len(self._nodes)]
            template = Op(process, "invoke", ask.f, ask.key, ask.value, None, node, ask.meta)
        problem: Exception | None = None
        try:
            server = worker.server
            if server is None:
                server = worker.server = self._serve(template)
            op = server.prepare(template)
            if op is not template and (wrong := _mismatch(template, op, ("invoke",))):
                raise TypeError(
                    f"prepare of {template.f!r} {wrong}: return the operation it was given, filled in"
                )
        except Exception as raised:
            problem, op = raised, template
        worker.op = op = self._recorder.invoke(op)
        self._busy |= 2 << thread if thread >= 0 else 1
        self._count += 1
        self._update(context, op)
        if problem is None:
            worker.handed.set_result(None)
        else:
            self._finish(
                worker, op, self._error(op, f"{_told(problem)} before {op.f!r} was invoked", problem)
            )

    def _serve(self, op: Op) -> Client:
        if not isinstance(op.process, int):
            return _NemesisClient(self._nemesis)
        assert op.node is not None
        return self._clients(op.process, op.node)

    def _context(self, now: int) -> Context:
        return Context(
            now, self._everyone & ~self._busy, self._busy, self._processes, self._count, self._draw
        )

    def _update(self, context: Context, op: Op) -> None:
        if not self._hears:
            return
        try:
            self._generator = self._generator.update(context, op)
        except Exception as problem:
            problem.add_note(f"raised by the generator when told of event {op.index}: {op}")
            raise

    # Workers

    def _open(self, thread: int, ask: Ask) -> _Worker:
        assert NEMESIS_THREAD <= thread < self._concurrency, f"there is no thread {thread} for {ask}"
        worker = _Worker(thread, self._world.future())
        self._workers[thread] = worker
        name = "nemesis" if thread == NEMESIS_THREAD else f"client {thread}"
        worker.task = self._world.spawn(self._work(worker), name=name)
        return worker

    async def _work(self, worker: _Worker) -> None:
        future = self._world.future
        worker.ended = False
        try:
            while True:
                await worker.handed
                worker.handed = future()
                op, server = worker.op, worker.server
                assert op is not None
                assert server is not None
                try:
                    done = await server.invoke(op, self._recorder)
                except asyncio.CancelledError as problem:
                    if worker.abandoned or self._closing:
                        return
                    done = self._error(op, f"the client cancelled itself during {op.f!r}", problem)
                except Exception as problem:
                    if worker.abandoned or self._closing:
                        return
                    done = self._error(op, f"{_told(problem)} during {op.f!r}", problem)
                if worker.abandoned or self._closing:
                    return
                if wrong := _mismatch(op, done, ("ok", "fail", "info")):
                    done = self._error(
                        op, f"the client's invoke of {op.f!r} {wrong}: return op.completed(...)"
                    )
                self._finish(worker, op, done)
        except Exception as problem:  # the recorder's sink failed, or our own assertion: the run cannot go on
            self._failure = problem
            self._rouse()
        finally:
            worker.ended = True

    def _finish(self, worker: _Worker, op: Op, done: Op) -> None:
        """Records the completion and frees the thread, under a fresh process number after `info`."""
        process: Process = op.process
        if self._recorder.depth(process) > 1 and done.type != "info":
            done = self._error(op, f"the client completed {op.f!r} with a request of it still open")
        completed = self._recorder.complete(done)
        if self._hears:
            self._completed.append(completed)
        worker.op = None
        self._busy &= ~bit(worker.thread)
        if done.type == "info" and isinstance(process, int):
            self._recorder.retire(process)
            fresh = self._unretired(process + self._concurrency)
            thread = worker.thread
            self._processes = (*self._processes[:thread], fresh, *self._processes[thread + 1 :])
            self._close_client(worker, process)
        if not self._steady:
            self._rouse()

    def _error(self, op: Op, sentence: str, problem: BaseException | None = None) -> Op:
        """Notes a harness error and returns the completion that admits it."""
        self._note(f"event {op.index}, process {op.process}: {sentence}", problem)
        return op.completed("info", error=sentence, harness_error=True)

    def _note(self, sentence: str, problem: BaseException | None = None) -> None:
        trace = "".join(traceback.format_exception(problem)) if problem is not None else ""
        self.errors.append(trace + sentence)

    def _close_client(self, worker: _Worker, process: Process) -> None:
        server, worker.server = worker.server, None
        if server is None:
            return
        try:
            server.close()
        except Exception as problem:
            self._note(f"{_told(problem)} in close of the client of process {process}", problem)

    def _abandon_all(self) -> None:
        for worker in list(self._workers.values()):
            op = worker.op
            if op is None:
                continue
            worker.abandoned = True
            worker.task.cancel()
            self._gone.append(worker)
            del self._workers[worker.thread]
            told = f"no completion within the grace of {self._grace_ns / SECOND:g} s; abandoned"
            self._finish(worker, op, op.completed("info", error=told))

    # Waking up

    def _rouse(self) -> None:
        if not self._wake.done():
            self._wake.set_result(None)

    def _alarm(self, until: int) -> None:
        """Makes sure that the main task wakes by then. An earlier alarm will do: it only asks once more."""
        if self._alarms and self._alarms[-1][0] <= until:
            return
        # In the simulator what sleeps is a future, and no task is needed to wait for it.
        sleeping = asyncio.ensure_future(self._world.sleep(max(0, until - self._world.now_ns())))
        sleeping.add_done_callback(self._ring)
        self._alarms.append((until, sleeping))

    def _ring(self, sleeping: asyncio.Future[None]) -> None:
        if sleeping.cancelled():
            return
        # Later alarms were set earlier, so this one is the last of the list.
        until, _ = self._alarms.pop()
        if self._world.now_ns() < until:  # timers of a real loop are not that exact
            self._alarm(until)
        else:
            self._rouse()

    # The end

    def close(self) -> None:
        """Cancels every task and closes every client; never waits."""
        self._closing = True
        for _, sleeping in self._alarms:
            sleeping.cancel()
        for worker in self._workers.values():
            worker.task.cancel()
            self._gone.append(worker)
            self._close_client(worker, self._processes[worker.thread] if worker.thread >= 0 else NEMESIS)
        self._workers.clear()

    async def let_go(self) -> None:
        """Gives the cancelled tasks a bounded time to end, and tells of those that do not."""
        patience = self._world.now_ns() + LETTING_GO_NS
        pause_ns = 0
        while True:
            await self._world.sleep(pause_ns)
            left = [worker for worker in self._gone if not worker.ended]
            if not left:
                return
            if self._world.now_ns() >= patience:
                break
            pause_ns = LETTING_GO_NS // 100 if pause_ns else 1
        for worker in left:
            self._note(f"the client of thread {worker.thread} does not end when it is cancelled")


def _op(process: Process, ask: Ask, type: Literal["invoke", "info"]) -> Op:
    return Op(process, type, ask.f, ask.key, ask.value, None, None, ask.meta)


def _told(problem: BaseException) -> str:
    text = str(problem)
    return f"{type(problem).__name__}: {text}" if text else type(problem).__name__


def _mismatch(op: Op, made: object, types: tuple[str, ...]) -> str:
    """What is wrong with what a client made of the operation; empty when nothing is."""
    if not isinstance(made, Op):
        return f"returned {made!r}, which is no operation"
    if made.type not in types:
        return f"returned the type {made.type!r} and not {' or '.join(types)}"
    if made.process != op.process:
        return f"returned process {made.process!r} and not {op.process!r}"
    # Preparing may turn what makes no sense for this client into something that does (a read in the place of a delete
    # of what was never seen); what was invoked is then what is completed.
    if made.type != "invoke" and made.f != op.f:
        return f"returned f {made.f!r} and not {op.f!r}"
    if made.type != "invoke" and made.key != op.key:
        return f"returned key {made.key!r} and not {op.key!r}"
    return ""
