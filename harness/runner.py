"""One test from its settings to its verdict: load and faults, heal, quiescence, final reads, judgement.

Safety phase first (anything goes), then liveness: clients stop, all faults are healed, hints drain; then every node is looked
at alone, and only then each key is read through the cluster, since such a read repairs and hides what had diverged.
"""

from __future__ import annotations

import platform
import secrets
import tempfile
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec

import checkers
from checkers.verdict import Valid, Verdict, compose
from harness import samples
from harness.interpreter import FaultNemesis, interpret
from harness.scenes import SCENES, stage
from harness.settings import Settings
from harness.sim.draws import Draws
from harness.sim.world import SimWorld
from harness.systems import dynamo
from harness.systems.membership import RingNemesis
from harness.world import Refused, Silence, World
from history.generator import Generator, any_of, clients, time_limit
from history.header import Header
from history.history import History
from history.journal import Journal, MemoryJournal, Sink, read
from history.op import NEMESIS, PROBE, Op, Process
from history.recorder import Recorder
from history.schedule import Schedule, Scripted, TimedFault
from nemeses.fault import DESTRUCTIVE
from nemeses.plan import Timed, budget, creeping, healers, plan
from store.node import Node
from workloads import WORKLOADS
from workloads.workload import Options, Workload

READER = "reader"
"""The client that reads every key at last."""

OBSERVE_EVERY_NS = 500_000_000
LOOKS_MAX = 600
QUIET_AT_LEAST_NS = 2_500_000_000
"""Longer than a coordinator works on a write whose client has gone, so that no hint comes after the look at hints."""

REST_LOOKS = 4
"""At what anti-entropy sends once all is quiet: one exchange that was still on its way proves nothing."""

FINAL_ATTEMPTS_MAX = 20
FINAL_RETRY_NS = 250_000_000
GRACE_NS = 5_000_000_000


LOSSES = frozenset({"lost_writes", "set_full", "cart", "durability"})
"""The checkers whose findings nobody may overlook: a scene that did not go as told is a smaller matter."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run has come; times in seconds of its world."""

    phase: str
    seconds: float
    total_seconds: float
    ok: int = 0
    fail: int = 0
    info: int = 0
    faults: tuple[str, ...] = ()


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A finished run. `trace` is the simulator's hash of every event; `journal` the history's bytes."""

    verdict: Valid
    sentence: str
    verdicts: list[Verdict]
    history: History
    journal: bytes
    schedule: Schedule
    logs: dict[str, str]
    environment: dict[str, Any]
    seed: int
    duration_seconds: float
    trace: str | None = None


def execute(
    settings: Settings, folder: Path | None = None, progress: Callable[[Progress], None] | None = None
) -> Outcome:
    """Runs one test to its end. With a folder the history is journaled there as it happens."""
    seed = settings.seed if settings.seed is not None else secrets.randbits(31)
    return _Run(msgspec.structs.replace(settings, seed=seed), seed, folder, progress, None).execute()


def replay(
    schedule: Schedule,
    settings: Settings,
    folder: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Runs a written-down schedule: its operations and faults at their times, the same final phase."""
    settings = msgspec.structs.replace(settings, seed=schedule.seed)
    return _Run(settings, schedule.seed, folder, progress, schedule).execute()


def judge(history: History, names: list[str] | None = None) -> tuple[Valid, str, list[Verdict]]:
    """The verdict on a history: by the named checkers, or by those of its workload."""
    if names is None:
        workload = WORKLOADS.get(history.header.workload)
        names = list(workload.checkers) if workload else list(checkers.CHECKERS)
        if workload and "scene" in history.header.guarantees:
            names.insert(0, "scene")
    verdicts = losses_first(checkers.check_all(history, names))
    verdict = compose(verdicts)
    return verdict, sentence(verdict, verdicts), verdicts


def losses_first(verdicts: list[Verdict]) -> list[Verdict]:
    """In the order in which they came, but those that found data lost before all others."""
    return sorted(verdicts, key=lambda v: not (v.judged and v.valid is Valid.INVALID and v.checker in LOSSES))


def sentence(verdict: Valid, verdicts: list[Verdict]) -> str:
    """The verdict in one sentence."""
    judged = [v for v in verdicts if v.judged]
    worst = next((v for v in judged if v.valid is verdict), None)
    match verdict:
        case Valid.VALID:
            return f"valid: nothing that was promised was broken ({', '.join(v.checker for v in judged)})"
        case Valid.UNKNOWN if worst is None:
            return "unknown: nothing was judged"
        case _:
            assert worst is not None
            also = [v.checker for v in judged if v.valid is Valid.INVALID and v is not worst]
            more = f"; {len(also)} more invalid: {', '.join(also)}" if also else ""
            return f"{verdict}: {worst.checker}: {worst.reason}{more}"


def faults_of(settings: Settings, seed: int) -> list[Timed]:
    """Every fault that a run with this seed will ask for, in order; what `--dry-run` prints."""
    names, draw = node_names(settings), Draws(seed)
    if settings.creeping_rot:
        return creeping(
            names, int(settings.time_seconds * 1e9), int(settings.nemesis_interval_seconds * 1e9), draw
        )
    return plan(
        settings.nemesis,
        names,
        int(settings.time_seconds * 1e9),
        int(settings.nemesis_interval_seconds * 1e9),
        draw,
        destructible=None if settings.unrestricted else budget(names, settings.w_min, draw),
        spares=spare_names(settings),
        # Whoever is replaced is lost as a wiped disk is: one budget for both.
        replaces=settings.w > 1 and not set(DESTRUCTIVE) & set(settings.nemesis),
    )


def node_names(settings: Settings) -> tuple[str, ...]:
    return tuple(f"n{i + 1}" for i in range(settings.nodes))


def spare_names(settings: Settings) -> tuple[str, ...]:
    """Nodes that run and are no members of the ring at first."""
    return tuple(f"n{settings.nodes + i + 1}" for i in range(settings.spares))


def build_world(settings: Settings, seed: int, folder: Path | None) -> World:
    if settings.world == "sim":
        names = (*node_names(settings), *spare_names(settings))
        peers = dict.fromkeys(names, "")
        return SimWorld(
            names, seed, lambda node, runtime: Node(dynamo.config(settings, node, peers), runtime)
        )
    # The Docker SDK is loaded only by those who use it.
    import store
    from harness.docker.engine import engine
    from harness.docker.image import current
    from harness.docker.world import DockerWorld

    def config(node: str, addresses: dict[str, str]) -> bytes:
        peers = {name: f"{address}:8001" for name, address in addresses.items()}
        return msgspec.json.encode(dynamo.config(settings, node, peers))

    client = engine()
    try:
        image = current(client)
    finally:
        client.close()
    return DockerWorld(
        (*node_names(settings), *spare_names(settings)),
        config,
        Path(settings.store_path or Path(store.__file__).parents[1]),
        image,
        folder or Path(tempfile.mkdtemp(prefix="sunder-")),
        seed,
        leave_running=settings.leave_running,
    )


class _Counted:
    """A sink that also counts what clients asked for by how it ended, for the progress line: as the report does, without
    the store requests inside."""

    def __init__(self, sink: Sink) -> None:
        self._append = sink.append
        self.close = sink.close
        self.counts = {"ok": 0, "fail": 0, "info": 0}
        self._depth: dict[Process, int] = {}

    def append(self, op: Op) -> None:
        self._append(op)
        if not isinstance(op.process, int):
            return
        depth = self._depth.get(op.process, 0)
        if op.type == "invoke":
            self._depth[op.process] = depth + 1
            return
        self._depth[op.process] = depth - 1
        if depth == 1:
            self.counts[op.type] += 1


class _Run:
    def __init__(
        self,
        settings: Settings,
        seed: int,
        folder: Path | None,
        progress: Callable[[Progress], None] | None,
        schedule: Schedule | None,
    ) -> None:
        self.settings = settings
        self.seed = seed
        self.schedule = schedule
        self.folder = folder
        self.progress = progress
        self.workload: Workload = WORKLOADS[settings.workload]
        self.scene = SCENES[settings.scene] if settings.scene is not None else None
        self.cast: stage.Cast | None = None
        self.scale = self.scene.scale(settings.time_seconds) if self.scene is not None else 1.0
        self.metrics: list[samples.Sample] = []
        # A scene of ten minutes need not be looked at as often as one of ten seconds.
        looks_ns = int(settings.time_seconds * 1e9) // LOOKS_MAX if self.scene is not None else 0
        self.observe_every_ns = max(OBSERVE_EVERY_NS, looks_ns)
        self.options = Options(keys=settings.keys, rate=settings.rate, n=settings.n)
        self.draw = Draws(seed)
        self.world = build_world(settings, seed, folder)
        self.header = Header(
            name=settings.title,
            world=settings.world,
            workload=settings.workload,
            seed=seed,
            nodes=self.world.nodes,
            guarantees={
                **dynamo.guarantees(settings),
                **(stage.guarantee(self.scene, settings.mode, self.scale) if self.scene else {}),
            },
            families=settings.nemesis,
            mechanisms={f: self.world.support(f).mechanism for f in settings.nemesis},
            config=configuration(settings),
        )
        self.sink = (
            MemoryJournal(self.header) if folder is None else Journal(folder / "history.jsonl", self.header)
        )
        self.counted = _Counted(self.sink)
        # Nobody looks at the counts when no progress is asked for.
        self.recorder = Recorder(self.counted if progress else self.sink, self.world.now_ns)
        self.nemesis = FaultNemesis(self.world, RingNemesis(self.world).inject)
        self.observing = True
        self.samples = samples.Writer(folder / samples.FILE) if folder is not None else None
        self.phase = "safety"
        self._probes = {node: self._probe(node) for node in self.world.nodes}

    def execute(self) -> Outcome:
        began = perf_counter()
        error = ""
        errors: list[str] = []
        try:
            errors = self.world.run(self._main())
        except Exception:
            # What was journaled is still worth judging, but the run says that it is the harness that broke.
            error = traceback.format_exc()
        finally:
            self.sink.close()
            if self.samples is not None:
                self.samples.close()
        journal = self.sink.bytes() if isinstance(self.sink, MemoryJournal) else self.sink.path.read_bytes()
        history = read(journal)
        verdict, text, verdicts = judge(
            history, list(self.settings.checkers) if self.settings.checkers else None
        )
        if error or errors:
            broken = error or errors[0]
            verdicts = [harness_error(broken), *verdicts]
            verdict = compose(verdicts)
            text = sentence(verdict, verdicts)
        return Outcome(
            verdict=verdict,
            sentence=text,
            verdicts=verdicts,
            history=history,
            journal=journal,
            schedule=self.schedule or Schedule.from_history(history),
            logs=self.world.logs(),
            environment=self._environment(),
            seed=self.seed,
            duration_seconds=perf_counter() - began,
            trace=self.world.trace.hash if isinstance(self.world, SimWorld) else None,
        )

    async def _main(self) -> list[str]:
        collector = samples.Collector(self.world, self.samples.take) if self.samples is not None else None
        try:
            await self.world.start()
            if collector is not None:
                collector.start()
            if self.scene is not None:
                self.cast = await stage.cast(
                    self.scene,
                    list(self._probes.values()),
                    self.recorder,
                    self.settings.n,
                    self.draw("scene"),
                    self.scale,
                )
            self._phase("safety")
            observers = [
                self.world.spawn(self._observe(node), name=f"observe-{node}") for node in self.world.nodes
            ]
            errors = await self._load()
            await self._heal()
            await self._recover()
            self.observing = False
            for observer in observers:
                await observer
            if self.scene is not None:
                stage.judge_alerts(self.recorder, self.metrics, self.scale)
            await self._final()
            return errors
        finally:
            if collector is not None:
                collector.stop()
            await self.world.stop()

    def _phase(self, name: str) -> None:
        self.phase = name
        self.recorder.event(Op(NEMESIS, "info", "phase", None, name))

    async def _load(self) -> list[str]:
        """Clients and faults side by side for the time set; what the clients' own errors were."""
        time_ns = int(self.settings.time_seconds * 1e9)
        if self.schedule is not None:
            generator: Generator = Scripted(self.schedule)
        elif self.scene is not None:
            assert self.cast is not None
            generator = Scripted(
                stage.schedule(self.scene, self.cast, self.world.nodes, end_ns=time_ns, scale=self.scale)
            )
        else:
            drawn = faults_of(self.settings, self.seed)
            faults = Schedule(
                concurrency=self.settings.concurrency,
                faults=tuple(
                    TimedFault(t.at_ns, msgspec.to_builtins(t.fault), order) for order, t in enumerate(drawn)
                ),
            )
            load = time_limit(time_ns, self.workload.generator(self.options))
            generator = any_of(clients(load), Scripted(faults))
        return await interpret(
            self.world,
            generator,
            lambda process, node: self.workload.client(
                self._connection(node, str(process)), process, self.options
            ),
            self.nemesis,
            self.recorder,
            concurrency=self.settings.concurrency,
            draw=self.draw,
            grace_ns=GRACE_NS,
        )

    def _connection(self, node: str, client: str) -> dynamo.DynamoConnection:
        return dynamo.DynamoConnection(
            self.world.transport(node, client=client), node, self.settings.value_bytes
        )

    async def _heal(self) -> None:
        self._phase("heal")
        for fault in healers(self.settings.nemesis, self.world.nodes):
            asked = self.nemesis.prepare(Op(NEMESIS, "invoke", "heal", None, fault))
            invocation = self.recorder.invoke(asked)
            self.recorder.complete(await self.nemesis.invoke(invocation))

    async def _recover(self) -> None:
        """Waits until no node holds a hint for another and, where anti-entropy is on, all home replicas agree, both seen
        twice; at most the recovery time."""
        self._phase("recovery")
        began = self.world.now_ns()
        quiet = 0
        while self.world.now_ns() - began < self.settings.recovery_seconds * 1e9:
            await self.world.sleep(OBSERVE_EVERY_NS)
            pending = [await self._look("hints", self._probes[node]) for node in self.world.nodes]
            still = all(p == [] for p in pending) and (
                not dynamo.compares(self.settings) or await self._agreed()
            )
            quiet = quiet + 1 if still else 0
            if quiet >= 2 and self.world.now_ns() - began >= QUIET_AT_LEAST_NS:
                return

    async def _agreed(self) -> bool:
        """Whether the home replicas of every token range report the same digest; False when some node is silent."""
        digests = {node: await self._look("digest", self._probes[node]) for node in self.world.nodes}
        try:
            ranges = await self._probes[self.world.nodes[0]].ranges()
        except (Refused, Silence):
            return False
        if any(digest is None for digest in digests.values()):
            return False
        return all(len({digests[home].get(r) for home in homes}) == 1 for r, homes in ranges.items())

    async def _final(self) -> None:
        self._phase("final")
        keys = list(self.cast.keys.values()) if self.cast else self.workload.keys(self.options)
        for node in self.world.nodes:
            if await self._look("homes", self._probes[node], keys=keys) is not None:
                break
        await self._look_at_all("quiet")
        for key in keys:
            await self._read_at_last(key)
        await self._drained()
        await self._look_at_all("read")
        if self.settings.anti_entropy:
            await self._at_rest()

    async def _at_rest(self) -> None:
        """Looks how many keys anti-entropy sends while nothing happens, once in every interval."""
        for turn in range(REST_LOOKS):
            if turn:
                await self.world.sleep(int(self.settings.anti_entropy_interval_seconds * 1.25e9))
            for node in self.world.nodes:
                await self._look("exchanged", self._probes[node], stage="rest")

    async def _drained(self) -> None:
        """The final reads may have left hints: waits until none is pending, at most the recovery time."""
        began = self.world.now_ns()
        while self.world.now_ns() - began < self.settings.recovery_seconds * 1e9:
            pending = [
                await self._look("hints", self._probes[node], stage="read") for node in self.world.nodes
            ]
            if all(p == [] for p in pending):
                return
            await self.world.sleep(OBSERVE_EVERY_NS)

    async def _look_at_all(self, stage: str) -> None:
        for f in ("hints", "replica"):
            for node in self.world.nodes:
                await self._look(f, self._probes[node], stage=stage)

    async def _read_at_last(self, key: str) -> None:
        """Reads a key from all its home replicas, through one node after another until one can."""
        nodes = self.world.nodes
        for attempt in range(FINAL_ATTEMPTS_MAX):
            node = nodes[attempt % len(nodes)]
            client = self.workload.client(self._connection(node, READER), READER, self.options)
            asked = client.prepare(
                Op(READER, "invoke", self.workload.final_f, key, node=node, meta={"final": True})
            )
            done = self.recorder.complete(await client.invoke(self.recorder.invoke(asked), self.recorder))
            client.close()
            if done.type == "ok":
                return
            await self.world.sleep(FINAL_RETRY_NS)

    async def _observe(self, node: str) -> None:
        """Looks at one node's hints and digests at a steady period, all through load, heal and recovery.

        Digests show how soon replicas agree after a heal: under a load without faults every other look is enough.
        """
        probe = self._probe(node)
        turn = 0
        while self.observing:
            await self.world.sleep(self.observe_every_ns)
            turn += 1
            await self._look("hints", probe)
            if turn % 2 == 0 or self.phase != "safety" or self.settings.nemesis:
                await self._look("digest", probe)
            if self.cast is not None:
                await self._look("records", probe, keys=list(self.cast.keys.values()))
                seen = await self._look("metrics", probe)
                self.metrics.append(samples.Sample(self.world.now_ns(), node, seen))
            if self.progress is not None:
                self.progress(self._progress())

    def _probe(self, node: str) -> dynamo.Probe:
        return dynamo.Probe(self.world.transport(node, client=PROBE), node)

    async def _look(
        self, f: str, probe: dynamo.Probe, *, stage: str | None = None, keys: list[str] | None = None
    ) -> Any:
        """One observation by a probe, written down; None when the node did not answer."""
        meta = {"stage": stage} if stage else {}
        asking: Coroutine[Any, Any, Any]
        match f:
            case "hints":
                asking = probe.hints()
            case "digest":
                asking = probe.digest()
            case "exchanged":
                asking = probe.exchanged()
            case "homes":
                asking = probe.homes(keys or [])
            case "records":
                asking = probe.records(keys or [])
            case "metrics":
                asking = probe.metrics()
            case _:
                asking = probe.replica()
        invocation = Op(PROBE, "invoke", f, None, node=probe.node, meta=meta)
        try:
            answer: Any = await asking
        except (Refused, Silence) as problem:
            self.recorder.invoke(invocation)
            self.recorder.complete(invocation.completed("fail", error=str(problem) or type(problem).__name__))
            return None
        more: dict[str, Any] = {}
        if f == "replica":
            answer, deleted = answer
            more = {"deleted": deleted} if deleted else {}
        # Written down together: probes overlap, and an observation is one moment's look, not a client's operation.
        self.recorder.invoke(invocation)
        self.recorder.complete(invocation.completed("ok", answer, **meta, **more))
        return answer

    def _progress(self) -> Progress:
        counts = self.counted.counts
        return Progress(
            phase=self.phase,
            seconds=self.world.now_ns() / 1e9,
            total_seconds=self.settings.time_seconds,
            ok=counts.get("ok", 0),
            fail=counts.get("fail", 0),
            info=counts.get("info", 0),
            faults=tuple(self.nemesis.standing),
        )

    def _environment(self) -> dict[str, Any]:
        return {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "mechanisms": self.header.mechanisms,
            **({"addresses": self.world.addresses()} if self.settings.leave_running else {}),
        }


def configuration(settings: Settings) -> dict[str, Any]:
    """The settings as the header and the schedule carry them: what was asked, no paths."""
    content: dict[str, Any] = msgspec.to_builtins(settings)
    for name in ("runs", "store_path", "leave_running", "name", "checkers"):
        content.pop(name, None)
    return content


def harness_error(text: str) -> Verdict:
    last = text.strip().splitlines()[-1]
    return Verdict(
        checker="harness",
        valid=Valid.HARNESS_ERROR,
        reason=f"the harness failed: {last}",
        evidence={"traceback": text},
    )
