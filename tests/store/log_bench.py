"""A log on a simulated disk, and owners of its records, as a node would be: for scenes of crashes, merges and damage."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from harness.sim.disk import Platter, SimDisk
from harness.sim.draws import Draws
from harness.sim.future import Future, Tasks
from harness.sim.loop import Gate, Handle, SimLoop
from harness.sim.trace import Trace
from store.compaction import Compaction
from store.config import Config
from store.log import DROP, HINT, HINT_DONE, PUT, Entry, Log, Recovered, entry_of
from store.replica import packed, unpacked


class Life:
    """What a log needs of a Runtime (store.runtime.Runtime), on one simulated disk."""

    def __init__(self, loop: SimLoop, platter: Platter) -> None:
        self.loop = loop
        self.gate = Gate(self.failed)
        self.disk = SimDisk(loop, self.gate, platter, Trace())
        self.tasks = Tasks(loop.ready, self.task_failed)
        self.problems: list[str] = []
        self.halted = ""

    def failed(self, problem: BaseException) -> None:
        self.problems.append(repr(problem))

    def task_failed(self, name: str, problem: BaseException) -> None:
        self.problems.append(f"{name}: {problem!r}")

    def future(self) -> Future:
        return Future(self.loop.ready, self.gate.failed)

    def sleep(self, delay_ns: int) -> Future:
        done = self.future()
        self.loop.post_ns(self.loop.now_ns + delay_ns, done.set_result, gate=self.gate)
        return done

    def call_later(self, delay_ns: int, callback: Any, *args: Any) -> Handle:
        return self.loop.call_at_ns(self.loop.now_ns + delay_ns, callback, *args, gate=self.gate)

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> None:
        self.tasks.spawn(coroutine, name)

    def log(self, text: str) -> None:
        pass

    def halt(self, reason: str) -> None:
        self.halted = reason
        self.die()

    def die(self) -> None:
        self.gate.open, self.gate.shut = False, True
        self.gate.backlog.clear()


class Bench:
    """One disk and the lives of a log upon it. `memory` and `hints` are what the present life's owners hold."""

    def __init__(self, seed: int = 1, *, segment_bytes: int = 400, platter: Platter | None = None) -> None:
        self.loop = SimLoop()
        self.platter = platter or Platter("n1", Draws(seed))
        self.config = Config(
            node="n1", peers={"n1": ""}, log_segment_bytes=segment_bytes, log_merge_bytes_per_second=1 << 30
        )

    def start(self, *, tend: bool = False) -> Recovered:
        """A new life: opens the log."""
        self.life = Life(self.loop, self.platter)
        self.memory: dict[bytes, bytes] = {}
        self.hints: dict[int, bytes] = {}
        self.log = Log(self.config, self.life)  # type: ignore[arg-type]
        self.compaction = Compaction(self.config, self.life, self.log, self.payload_of)  # type: ignore[arg-type]
        found: list[Recovered] = []

        async def opened() -> None:
            found.append(await self.log.open(self.restore))
            if tend:
                self.compaction.start()

        self.do(opened())
        return found[0]

    def restore(self, payload: bytes) -> Entry | None:
        entry = entry_of(payload)
        match payload[:1]:
            case b"P":
                assert isinstance(entry, bytes)
                self.memory[entry] = unpacked(payload)[1]
            case b"X":
                assert isinstance(entry, bytes)
                self.memory.pop(entry, None)
            case b"H":
                assert isinstance(entry, int)
                self.hints[entry] = unpacked(payload)[1]
            case b"D":
                assert isinstance(entry, int)
                self.hints.pop(entry, None)
            case _:
                pass
        return entry

    def payload_of(self, entry: Entry) -> bytes | None:
        if isinstance(entry, int):
            return packed(HINT, entry.to_bytes(8, "big"), self.hints[entry]) if entry in self.hints else None
        assert isinstance(entry, bytes)
        return packed(PUT, entry, self.memory[entry]) if entry in self.memory else None

    def put(self, key: bytes, value: bytes) -> Future:
        return self._append(packed(PUT, key, value))

    def drop(self, key: bytes) -> Future:
        return self._append(packed(DROP, key))

    def hint(self, id: int, value: bytes) -> Future:
        return self._append(packed(HINT, id.to_bytes(8, "big"), value))

    def done(self, id: int) -> Future:
        return self._append(packed(HINT_DONE, id.to_bytes(8, "big")))

    def _append(self, payload: bytes) -> Future:
        self.restore(payload)
        future = self.log.append(payload)
        assert isinstance(future, Future)
        return future

    def settle(self) -> None:
        """Lets everything that is under way come to its end."""
        self.loop.drive()
        assert self.life.problems == []

    def do(self, *steps: Coroutine[Any, Any, Any]) -> None:
        for step in steps:
            self.life.tasks.spawn(step, "step")
        self.settle()

    def kill(self) -> None:
        self.life.die()
        self.loop.drive()

    def lose_power(self) -> None:
        self.lose_power_here()
        self.loop.drive()

    def lose_power_here(self) -> None:
        """In the middle of whatever is under way."""
        self.life.die()
        self.platter.power_loss()
