"""The simulated world: nodes, clients' transports and faults on one deterministic loop (harness.world.World).

Everything that happens follows from the seed, the nodes' code and what the harness asks. `trace` proves it: the same run has the
same hash, in any process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from functools import partial
from heapq import heappush
from typing import Any, Protocol, cast
from zlib import crc32

import msgspec

from harness.sim import tripwires
from harness.sim.draws import Draws, Latencies, table_of
from harness.sim.loop import SimLoop
from harness.sim.network import Network
from harness.sim.runtime import EPOCH_NS, Machine, SimRuntime
from harness.sim.trace import Trace
from harness.world import BY_THE_SYSTEM, Refused, Silence, Support, Unsupported
from nemeses.fault import (
    Evidence,
    FailFsync,
    Fault,
    FillDisk,
    HealPartition,
    Join,
    Kill,
    Leave,
    MendDisk,
    Partition,
    Pause,
    PowerLoss,
    Replace,
    ResetClocks,
    Restart,
    Resume,
    Rollback,
    Rot,
    SettleRing,
    Skew,
    SlowFsync,
    Snapshot,
    Wipe,
)
from store.runtime import Runtime

CLIENT_NS = table_of(((0, 200_000), (950, 600_000), (1000, 1_000_000)))
"""Between a client and a node, each way; nothing ever cuts this."""

START_NS_MIN, START_NS_MAX = 20_000_000, 80_000_000
"""How long a process takes until its first line of code runs."""

ANSWER_NS_MAX = 5_000_000_000
"""How long a started node may take until it answers."""

WRITING_NS_MAX = 400_000_000
WRITING_NS = 4_000_000
"""A power loss waits so long at most for a disk that is writing, and then strikes within so long."""
BITE_NS_MAX = 600_000_000
"""How long an injection waits for its fault to touch somebody: a node under load writes far more often."""

POLL_NS = 20_000_000
_PING = b"GET /ping HTTP/1.1\r\nHost: node\r\n\r\n"

MECHANISMS = {
    "partition": "per-link verdicts in the simulated network",
    "kill": "the process's tasks are parked for ever; the page cache stays",
    "pause": "whatever is due to the process waits, in order, until it resumes",
    "clock": "an offset on the node's simulated wall clock; monotonic clocks are untouched",
    "power": "the process is parked for ever, and a drawn subset of its unsynced writes and names is dropped or torn",
    "wipe": "the process is parked for ever, and its simulated disk emptied",
    "rollback": "the process is parked for ever, and a copy of its simulated disk that was taken earlier is put back",
    "rot": "drawn bits of durable files are flipped, or their sectors made unreadable",
    "fsync": "an fsync fails and drops what it was for, as if it were clean; or every fsync takes longer",
    "disk-full": "appends have no room, and are cut short",
}


class SimNode(Protocol):
    """What a system under test has to be to run here: `store.node.Node` is one."""

    async def start(self) -> None: ...

    async def http(self, request: bytes) -> bytes:
        """One whole HTTP request for one whole response."""
        ...

    def exposition(self) -> bytes:
        """Its metrics page. Changes nothing by being asked."""
        ...


Build = Callable[[str, Runtime], SimNode]


class _Seat:
    """A node's place in the world: its machine, and the life that runs there, if one does."""

    __slots__ = ("calls", "life", "machine", "node", "parked", "serving", "toll")

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.life: SimRuntime | None = None
        self.node: SimNode | None = None
        self.serving = False
        self.calls: dict[_Call, None] = {}
        """Requests that reached the process and are not answered."""
        self.toll = 0
        """What its death took: tasks, requests and frames; after a power loss, unsynced writes and names alone."""
        self.parked: list[SimRuntime] = []

    @property
    def state(self) -> str:
        if self.life is None:
            return "dead"
        return "running" if self.life.gate.open else "paused"


class _Call:
    """One request of one client on its way."""

    __slots__ = ("future", "payload", "transport")

    def __init__(self, transport: SimTransport, payload: bytes, future: asyncio.Future[bytes]) -> None:
        self.transport = transport
        self.payload = payload
        self.future = future

    def answered(self, response: bytes) -> None:
        future = self.future
        if not future.done():
            future.set_result(response)

    def refused(self) -> None:
        if not self.future.done():
            self.future.set_exception(Refused("connection refused"))

    def cut(self) -> None:
        if not self.future.done():
            self.future.set_exception(Silence("the connection broke before the answer"))

    def expired(self) -> None:
        if not self.future.done():
            self.future.set_exception(Silence("no answer in time"))


class SimTransport:
    """One client's connection to one node (harness.world.Transport)."""

    __slots__ = (
        "_call",
        "_closed",
        "_code",
        "_deadline_ns",
        "_loop",
        "_request_ns",
        "_response_ns",
        "_seat",
        "_trace",
        "_watch_ns",
    )

    def __init__(self, world: SimWorld, seat: _Seat, client: str) -> None:
        node = seat.machine.node
        self._seat = seat
        self._loop = world.loop
        self._trace = world.trace
        self._call: _Call | None = None
        """What is under way."""
        self._deadline_ns = 0
        self._watch_ns = 0
        """When to look for a call that is overdue; 0: never. One timer that sets itself anew, since one for each request
        would stand in the heap long after its answer."""
        self._closed = False
        self._code = world.trace.code(f"http {client}>{node}")
        self._request_ns, self._response_ns = world.client_latencies(client, node)

    async def request(self, payload: bytes, timeout_ns: int) -> bytes:
        assert not self._closed, "this transport is closed"
        assert self._call is None, "a transport carries one request at a time"
        loop = self._loop
        future: asyncio.Future[bytes] = asyncio.Future(loop=loop)
        call = _Call(self, payload, future)
        now_ns = loop.now_ns
        arrives_ns = now_ns + self._request_ns()
        heappush(loop.heap, (arrives_ns, loop.sequence(), self._arrived, (call,), None))
        self._call = call
        self._deadline_ns = now_ns + timeout_ns
        if not now_ns < self._watch_ns <= self._deadline_ns:
            self._watch_at(self._deadline_ns)
        try:
            return await future
        finally:
            self._call = None

    def _watch_at(self, when_ns: int) -> None:
        self._watch_ns = when_ns
        self._loop.post_ns(when_ns, self._watch)

    def _watch(self) -> None:
        now_ns = self._loop.now_ns
        if now_ns != self._watch_ns:
            return  # an earlier look was asked for since
        self._watch_ns = 0
        if self._call is not None:
            if now_ns < self._deadline_ns:
                self._watch_at(self._deadline_ns)
            else:
                self._call.expired()

    def close(self) -> None:
        self._closed = True

    def _arrived(self, call: _Call) -> None:
        """At the node's door: a dead process refuses, a paused one lets wait, a living one answers."""
        seat = self._seat
        self._trace.add((self._loop.now_ns, self._code, call.payload))
        self._trace.flush()
        life = seat.life
        if life is None or not seat.serving:
            self.back(call.refused)
            return
        seat.calls[call] = None
        if life.gate.open:
            self._accept(call, life)
        else:
            life.gate.defer(self._accept, (call, life))

    def _accept(self, call: _Call, life: SimRuntime) -> None:
        life.tasks.spawn(self._serve(call), "http")

    async def _serve(self, call: _Call) -> None:
        seat = self._seat
        node = seat.node
        assert node is not None, "a request reached a node that was never built"
        try:
            response = await node.http(call.payload)
        except Exception:
            del seat.calls[call]
            self.back(call.cut)
            raise  # into the node's log
        del seat.calls[call]
        self._trace.add((self._loop.now_ns, self._code, response))
        self.back(call.answered, response)

    def back(self, fn: Callable[..., None], *args: Any) -> None:
        """Calls back at the client's end of the wire."""
        loop = self._loop
        heappush(loop.heap, (loop.now_ns + self._response_ns(), loop.sequence(), fn, args, None))


@contextmanager
def _no_collection() -> Generator[None]:
    """Garbage is collected between runs only: when the collector strikes depends on what ran before."""
    enabled = gc.isenabled()
    gc.disable()
    # What the last run left: frozen garbage would never be young again, and a campaign's worker would grow run by run.
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


class SimWorld:
    """A world of `nodes`, each made by `build(name, runtime)` once for every life of it. It runs one `main`, once."""

    def __init__(
        self,
        nodes: tuple[str, ...],
        seed: int,
        build: Build,
        *,
        record: tuple[int, ...] = (),
        guarded: tuple[str, ...] = tripwires.GUARDED,
    ) -> None:
        """`record`: chunks of the trace to keep (harness.sim.trace). `guarded`: packages that hold node code."""
        self.seed = seed
        self.loop = SimLoop()
        self.trace = Trace(record)
        self._draws = Draws(seed, "world")
        self._build = build
        self._guarded = guarded
        self._nodes = nodes
        self._seats = {n: _Seat(Machine(n, self.loop, self._draws)) for n in nodes}
        self._network = Network(self.loop, nodes, self._draws, self.trace)
        self._fault_code = self.trace.code("fault")
        self._client_latencies: dict[tuple[str, str], tuple[Latencies, Latencies]] = {}
        self._power_losses = 0
        self._started_ns = 0
        self._ran = False
        self._stopped = False
        self._tasks: dict[asyncio.Task[Any], None] = {}

    @property
    def name(self) -> str:
        return "sim"

    @property
    def nodes(self) -> tuple[str, ...]:
        return self._nodes

    def now_ns(self) -> int:
        return self.loop.now_ns - self._started_ns

    def sleep(self, delay_ns: int) -> Awaitable[None]:
        future: asyncio.Future[None] = asyncio.Future(loop=self.loop)
        loop = self.loop
        loop.post_ns(loop.now_ns + max(0, delay_ns), _release, future)
        return future

    def future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self.loop)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        task = self.loop.create_task(coroutine, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._forget_task)
        return task

    def _forget_task(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)

    async def start(self) -> None:
        for node in self._nodes:
            self._launch(node)
        await asyncio.gather(*(self._answers(node) for node in self._nodes))
        mute = [node for node in self._nodes if not self._seats[node].serving]
        if mute:
            raise RuntimeError(f"{', '.join(mute)} did not start; the end of its log: {self._tail(mute[0])}")
        self._started_ns = self.loop.now_ns

    async def stop(self) -> None:
        await self._settled()
        self._stop_nodes()

    def transport(self, node: str, *, client: str) -> SimTransport:
        self._know((node,))
        return SimTransport(self, self._seats[node], client)

    async def scrape(self, node: str) -> bytes | None:
        seat = self._seats[node]
        if seat.node is None or not seat.serving or seat.state != "running":
            return None
        return seat.node.exposition()

    def client_latencies(self, client: str, node: str) -> tuple[Latencies, Latencies]:
        """The delays there and back: one stream for each pair, however often the client connects."""
        pair = self._client_latencies.get((client, node))
        if pair is None:
            pair = self._client_latencies[client, node] = (
                Latencies(self.seed, CLIENT_NS, "request", client, node),
                Latencies(self.seed, CLIENT_NS, "response", client, node),
            )
        return pair

    def support(self, family: str) -> Support:
        if family == BY_THE_SYSTEM.family:
            return BY_THE_SYSTEM
        if family in MECHANISMS:
            return Support(family, MECHANISMS[family])
        return Support(family, remedy=f"the simulator makes {', '.join(MECHANISMS)}; choose one of those")

    def addresses(self) -> dict[str, str]:
        return {}

    def logs(self) -> dict[str, str]:
        return {
            node: "".join(
                f"{(at_ns - self._started_ns) / 1e9:+.6f} {text}\n" for at_ns, text in seat.machine.lines
            )
            for node, seat in self._seats.items()
        }

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        """Also ends the world: the trace is sealed, whatever was left is closed, and it cannot run again."""
        if self._ran:
            main.close()
            raise RuntimeError("a simulated world runs once; make a new one")
        self._ran = True
        with _no_collection(), tripwires.laid(self._guarded):
            try:
                result = self.loop.run_until_complete(self.spawn(main, name="main"))
            except KeyboardInterrupt:
                # It may have struck in the middle of an event, which nothing can unwind; the interrupt is what counts.
                self.trace.seal()
                with contextlib.suppress(Exception):
                    self._close()
                raise
            except BaseException:
                self.trace.seal()
                self._close()
                raise
            self.trace.seal()
            self._close()
            return result

    def _close(self) -> None:
        self._stop_nodes()
        # What nodes had left to do at this instant; what asyncio has left is in Handles.
        of_nodes = [entry for entry in self.loop.ready if entry[1] is not None]
        for entry in of_nodes:
            self.loop.ready.remove(entry)
        leftovers = [*self._tasks]
        leftovers += [task for task in asyncio.all_tasks(self.loop) if task not in self._tasks]
        for task in leftovers:
            task.cancel()
        if leftovers:
            self.loop.run_until_complete(_gathered(leftovers))
        for seat in self._seats.values():
            for life in seat.parked:
                life.tasks.close()
        self.loop.close()

    # Processes.

    def _know(self, nodes: tuple[str, ...]) -> None:
        for node in nodes:
            if node not in self._seats:
                raise ValueError(f"there is no node {node!r}; this world has {', '.join(self._nodes)}")

    def _tail(self, node: str) -> str:
        return self.logs()[node][-2000:] or "(empty)"

    def _launch(self, node: str) -> None:
        seat = self._seats[node]
        machine = seat.machine
        machine.lives += 1
        life = SimRuntime(self.loop, machine, self._network, self.seed, self.trace, machine.lives)
        life.ended = partial(self._exited, seat)
        seat.life = life
        seat.serving = False
        delay_ns = self._draws.between(START_NS_MIN, START_NS_MAX, "start", node, machine.lives)
        self.loop.post_ns(self.loop.now_ns + delay_ns, self._begin, seat, life, gate=life.gate)

    def _begin(self, seat: _Seat, life: SimRuntime) -> None:
        life.tasks.spawn(self._boot(seat, life), "start")

    async def _boot(self, seat: _Seat, life: SimRuntime) -> None:
        try:
            node = seat.node = self._build(life.node, life)
            await node.start()
        except Exception as problem:
            life.log(f"could not start: {problem!r}")
            # Not from within: the dying life's tasks are parked, this one among them.
            self.loop.post_ns(self.loop.now_ns, self._exited, seat, life, gate=life.gate)
            raise
        seat.serving = True

    def _exited(self, seat: _Seat, life: SimRuntime) -> None:
        if seat.life is life:
            self._die(seat)

    def _die(self, seat: _Seat) -> None:
        """The process is gone: nothing reaches it any more, nothing of it runs again."""
        life = seat.life
        assert life is not None, "only the living die"
        life.gate.open = False
        life.gate.shut = True
        life.gate.backlog.clear()
        seat.parked.append(life)
        seat.life = seat.node = None
        seat.serving = False
        seat.toll += self._network.died(life.node) + len(seat.calls) + len(life.tasks.living)
        for call in seat.calls:
            call.transport.back(call.cut)
        seat.calls.clear()

    def _stop_nodes(self) -> None:
        if not self._stopped:
            self._stopped = True
            for seat in self._seats.values():
                if seat.life is not None:
                    self._die(seat)

    async def _answers(self, node: str) -> bool:
        """Waits until the node answers `/ping`; False if it does not in time."""
        transport = self.transport(node, client="probe")
        deadline_ns = self.loop.now_ns + ANSWER_NS_MAX
        seat = self._seats[node]
        while self.loop.now_ns < deadline_ns and seat.life is not None:
            try:
                response = await transport.request(_PING, deadline_ns - self.loop.now_ns)
            except (Refused, Silence):
                await self.sleep(POLL_NS)
                continue
            if response.startswith(b"HTTP/1.1 200"):
                return True
            await self.sleep(POLL_NS)
        return False

    # Faults.

    async def _settled(self) -> None:
        """Until everything that is due at this instant has run: then no process is in the middle of anything."""
        future = self.future()
        self.loop.post_ns(self.loop.now_ns, _release, future)
        await future

    async def inject(self, fault: Fault) -> Evidence:
        await self._settled()
        injected_ns = self.now_ns()
        self.trace.add((self.loop.now_ns, self._fault_code, repr(fault).encode()))
        self.trace.flush()
        match fault:
            case Partition():
                return self._partition(fault, injected_ns)
            case HealPartition():
                return self._heal_partition(injected_ns)
            case Kill(nodes):
                return self._kill(nodes, injected_ns)
            case PowerLoss(nodes):
                self._know(nodes)
                await self._writing(nodes)
                return self._power_loss(nodes, self.now_ns())
            case Restart(nodes):
                return await self._restart(nodes, injected_ns)
            case Pause(nodes):
                return self._pause(nodes, injected_ns)
            case Resume(nodes):
                return self._resume(nodes, injected_ns)
            case Skew(offsets_ns):
                return self._skew(offsets_ns, injected_ns)
            case ResetClocks():
                return self._reset_clocks(injected_ns)
            case Join() | Leave() | Replace() | SettleRing():
                raise Unsupported("a ring is changed by the system under test, not by the world")
            case Wipe(nodes):
                return self._put_back("wipe", nodes, {node: {} for node in nodes}, injected_ns)
            case Snapshot(nodes):
                return self._snapshot(nodes, injected_ns)
            case Rollback(nodes):
                taken = {node: self._seats[node].machine.snapshot for node in nodes}
                return self._put_back("rollback", nodes, taken, injected_ns)
            case Rot():
                return self._rot(fault, injected_ns)
            case FailFsync(nodes):
                return await self._fail_fsync(nodes, injected_ns)
            case SlowFsync(nodes, factor):
                return self._slow_fsync(nodes, factor, injected_ns)
            case FillDisk(nodes):
                return await self._fill(nodes, injected_ns)
            case MendDisk(nodes):
                return await self._mend(nodes, injected_ns)

    def _evidence(
        self,
        family: str,
        injected_ns: int,
        before: dict[str, object],
        after: dict[str, object],
        verified: bool,
        fired: int | None = None,
    ) -> Evidence:
        return Evidence(
            verified=verified,
            mechanism="a new life on what the disk holds" if family == "restart" else MECHANISMS[family],
            injected_ns=injected_ns,
            verified_ns=self.now_ns(),
            before=before,
            after=after,
            fired=fired,
        )

    def _links(self, links: tuple[tuple[str, str], ...]) -> dict[str, object]:
        """Probe: which of these links carry."""
        carries = self._network.carries
        return {f"{src}>{dst}": "carries" if carries(src, dst) else "cut" for src, dst in links}

    def _cut_links(self) -> tuple[tuple[str, str], ...]:
        """Probe: every link between nodes that does not carry."""
        carries = self._network.carries
        return tuple((a, b) for a in self._nodes for b in self._nodes if a != b and not carries(a, b))

    def _states(self, nodes: tuple[str, ...]) -> dict[str, object]:
        """Probe: what the nodes' processes are doing."""
        return {node: self._seats[node].state for node in nodes}

    def _offsets(self, nodes: tuple[str, ...]) -> dict[str, object]:
        """Probe: how far each node's wall clock is from the true time, in nanoseconds."""
        true_ns = EPOCH_NS + self.loop.now_ns
        return {node: self._seats[node].machine.wall_ns() - true_ns for node in nodes}

    def _partition(self, fault: Partition, injected_ns: int) -> Evidence:
        self._know(tuple(node for link in fault.blocked for node in link))
        if any(src == dst for src, dst in fault.blocked):
            raise ValueError("a node cannot be cut off from itself: take such links out of `blocked`")
        # Links that stood cut are looked at too: a cut that is half healed shows in what carries again.
        watched = tuple(sorted({*fault.blocked, *self._cut_links()}))
        before = self._links(watched)
        self._network.partition(fault.blocked, fault.mode)
        after = self._links(watched)
        verified = before != after and fault.blocked != () and set(self._cut_links()) == set(fault.blocked)
        return self._evidence("partition", injected_ns, before, after, verified)

    def _heal_partition(self, injected_ns: int) -> Evidence:
        cut = self._cut_links()
        before = self._links(cut)
        self._network.partition((), "drop")
        verified = not self._cut_links()
        fired, self._network.hit = self._network.hit, 0
        return self._evidence("partition", injected_ns, before, self._links(cut), verified, fired)

    def _kill(self, nodes: tuple[str, ...], injected_ns: int) -> Evidence:
        self._know(nodes)
        before = self._states(nodes)
        for node in nodes:
            if self._seats[node].life is not None:
                self._die(self._seats[node])
        after = self._states(nodes)
        verified = before != after and all(state == "dead" for state in after.values())
        return self._evidence("kill", injected_ns, before, after, verified)

    async def _writing(self, nodes: tuple[str, ...]) -> None:
        """The first power loss of a run, and two in three after it, wait a moment for one of their nodes to be in the middle of
        a write: an idle disk has nothing to lose, and disks are idle most of the time."""
        self._power_losses += 1
        waits = self._power_losses == 1 or self._draws.below(3, "power-moment", self._power_losses)
        deadline_ns = self.loop.now_ns + WRITING_NS_MAX
        tries = 0
        while waits and self.loop.now_ns < deadline_ns:
            if any(self._seats[node].machine.platter.at_risk() for node in nodes):
                delay_ns = self._draws.below(WRITING_NS, "power-delay", self._power_losses, tries)
                await self.sleep(delay_ns >> tries)
                tries += 1
                if any(self._seats[node].machine.platter.at_risk() for node in nodes):
                    return
            await self.sleep(WRITING_NS // 10)

    def _power_loss(self, nodes: tuple[str, ...], injected_ns: int) -> Evidence:
        self._know(nodes)
        before = self._powered(nodes)
        # Machines of one make under one load write back alike: often none of them had begun to.
        written_back = self._draws.one_in(2, "power-written-back", self._power_losses)
        at_stake = sum(self._seats[node].machine.platter.unsynced() for node in nodes)
        for node in nodes:
            seat = self._seats[node]
            if seat.life is not None:
                self._die(seat)
            # Counted apart from what a kill would have taken: the writes are what this fault is about.
            seat.toll = seat.machine.platter.power_loss(written_back=written_back).total
            seat.machine.booted_ns = self.loop.now_ns
        after = self._powered(nodes)
        # Where the page cache held nothing a power loss does no more than a kill, and proves nothing about fsync.
        verified = before != after and at_stake > 0 and all(self._seats[node].life is None for node in nodes)
        return self._evidence("power", injected_ns, before, after, verified)

    def _powered(self, nodes: tuple[str, ...]) -> dict[str, object]:
        """Probe: process states, and how many writes and names only the page cache holds."""
        return {
            node: {
                "process": self._seats[node].state,
                "unsynced": self._seats[node].machine.platter.unsynced(),
            }
            for node in nodes
        }

    async def _restart(self, nodes: tuple[str, ...], injected_ns: int) -> Evidence:
        self._know(nodes)
        before = self._states(nodes)
        fired = 0
        for node in nodes:
            seat = self._seats[node]
            if seat.life is None and not self._stopped:
                fired += seat.toll
                seat.toll = 0
                self._launch(node)
        # A node that is paused cannot answer, and was not started: it is left as it is.
        awaited = tuple(node for node in nodes if before[node] != "paused")
        answers = await asyncio.gather(*(self._answers(node) for node in awaited))
        after = self._states(nodes)
        verified = all(answers) and all(state != "dead" for state in after.values())
        return self._evidence("restart", injected_ns, before, after, verified, fired)

    def _pause(self, nodes: tuple[str, ...], injected_ns: int) -> Evidence:
        self._know(nodes)
        before = self._states(nodes)
        for node in nodes:
            life = self._seats[node].life
            if life is not None:
                life.gate.open = False
        after = self._states(nodes)
        verified = before != after and all(state == "paused" for state in after.values())
        return self._evidence("pause", injected_ns, before, after, verified)

    def _resume(self, nodes: tuple[str, ...], injected_ns: int) -> Evidence:
        self._know(nodes)
        before = self._states(nodes)
        fired = 0
        for node in nodes:
            life = self._seats[node].life
            if life is not None and not life.gate.open:
                fired += len(life.gate.backlog)
                self.loop.release(life.gate)
        after = self._states(nodes)
        verified = all(state != "paused" for state in after.values())
        return self._evidence("pause", injected_ns, before, after, verified, fired)

    def _skew(self, offsets_ns: dict[str, int], injected_ns: int) -> Evidence:
        nodes = tuple(offsets_ns)
        self._know(nodes)
        before = self._offsets(nodes)
        for node, offset_ns in offsets_ns.items():
            self._seats[node].machine.offset_ns = offset_ns
        after = self._offsets(nodes)
        verified = before != after and after == dict(offsets_ns)
        return self._evidence("clock", injected_ns, before, after, verified)

    def _reset_clocks(self, injected_ns: int) -> Evidence:
        before = self._offsets(self._nodes)
        fired = 0
        for seat in self._seats.values():
            seat.machine.offset_ns = 0
            fired += seat.machine.skewed_readings
            seat.machine.skewed_readings = 0
        after = self._offsets(self._nodes)
        verified = not any(after.values())
        return self._evidence("clock", injected_ns, before, after, verified, fired)

    # Disks.

    def _disks(self, nodes: tuple[str, ...]) -> dict[str, object]:
        """Probe: process states, and a digest of every file as the next life would read it."""
        return {
            node: {
                "process": self._seats[node].state,
                "files": {
                    name: f"{len(content)} bytes, {crc32(content):08x}"
                    for name, content in sorted(self._seats[node].machine.platter.snapshot().items())
                },
            }
            for node in nodes
        }

    def _kill_those(self, nodes: tuple[str, ...]) -> None:
        for node in nodes:
            if self._seats[node].life is not None:
                self._die(self._seats[node])

    def _put_back(
        self, family: str, nodes: tuple[str, ...], taken: dict[str, dict[str, bytes] | None], injected_ns: int
    ) -> Evidence:
        """Kills the nodes and puts these files in the place of theirs; a node of which there is no copy is spared."""
        self._know(nodes)
        before = self._disks(nodes)
        for node in nodes:
            files = taken[node]
            if files is not None:
                self._kill_those((node,))
                self._seats[node].machine.platter.put_back(files)
        after = self._disks(nodes)
        dead = all(self._seats[node].life is None for node in nodes)
        return self._evidence(family, injected_ns, before, after, dead and _differ(before, after, "files"))

    def _snapshot(self, nodes: tuple[str, ...], injected_ns: int) -> Evidence:
        self._know(nodes)
        for node in nodes:
            self._seats[node].machine.snapshot = self._seats[node].machine.platter.snapshot()
        return self._evidence("rollback", injected_ns, {}, self._disks(nodes), True)

    def _rot(self, fault: Rot, injected_ns: int) -> Evidence:
        nodes = fault.nodes
        self._know(nodes)
        before = self._disks(nodes)
        if fault.stopped:
            self._kill_those(nodes)
        where = {
            node: self._seats[node].machine.platter.rot(fault.flips, unreadable=fault.unreadable)
            for node in nodes
        }
        after = self._disks(nodes)
        for node in nodes:
            after[node] = {"rotten": where[node], "state": after[node]}
        rotten = all(where.values()) and (fault.unreadable or any(before[n] != after[n] for n in nodes))
        return self._evidence("rot", injected_ns, before, after, rotten, sum(map(len, where.values())))

    async def _fail_fsync(self, nodes: tuple[str, ...], injected_ns: int) -> Evidence:
        self._know(nodes)
        before = self._hits(nodes)
        for node in nodes:
            self._seats[node].machine.platter.fsyncs_to_fail = 1
        after = await self._bitten(nodes, before)
        return self._evidence("fsync", injected_ns, before, after, all(after[n] != before[n] for n in nodes))

    def _slow_fsync(self, nodes: tuple[str, ...], factor: int, injected_ns: int) -> Evidence:
        self._know(nodes)
        before: dict[str, object] = {n: self._seats[n].machine.platter.slowed_by for n in nodes}
        for node in nodes:
            self._seats[node].machine.platter.slowed_by = factor
        after: dict[str, object] = {n: self._seats[n].machine.platter.slowed_by for n in nodes}
        return self._evidence("fsync", injected_ns, before, after, before != after)

    async def _fill(self, nodes: tuple[str, ...], injected_ns: int) -> Evidence:
        self._know(nodes)
        before = self._hits(nodes)
        for node in nodes:
            self._seats[node].machine.platter.full = True
        after = await self._bitten(nodes, before)
        return self._evidence(
            "disk-full", injected_ns, before, after, any(after[n] != before[n] for n in nodes)
        )

    def _hits(self, nodes: tuple[str, ...]) -> dict[str, object]:
        """Probe: process states, and how many syncs and appends a fault has touched."""
        return {
            node: {"process": self._seats[node].state, "touched": self._seats[node].machine.platter.hits}
            for node in nodes
        }

    async def _bitten(self, nodes: tuple[str, ...], before: dict[str, object]) -> dict[str, object]:
        """What the probe shows once the fault has touched every node, or when it was given time enough to."""
        deadline_ns = self.loop.now_ns + BITE_NS_MAX
        while self.loop.now_ns < deadline_ns and any(self._hits((n,))[n] == before[n] for n in nodes):
            await self.sleep(POLL_NS)
        return self._hits(nodes)

    async def _mend(self, nodes: tuple[str, ...], injected_ns: int) -> Evidence:
        self._know(nodes)
        fired = 0
        for node in nodes:
            platter = self._seats[node].machine.platter
            platter.full, platter.slowed_by, platter.fsyncs_to_fail = False, 1, 0
            fired += platter.hits
            platter.hits = 0
        started = await self._restart(nodes, injected_ns)
        return msgspec.structs.replace(started, mechanism="the simulated disk works as ever", fired=fired)


def _differ(before: dict[str, object], after: dict[str, object], what: str) -> bool:
    """Whether the probes of all nodes differ in this."""
    return all(_part(before[node], what) != _part(after[node], what) for node in before)


def _part(probe: object, what: str) -> object:
    assert isinstance(probe, dict)
    return cast("dict[str, object]", probe)[what]


def _release(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _gathered(tasks: list[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
