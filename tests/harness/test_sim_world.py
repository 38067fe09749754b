"""Scenes of the simulated world: lives and deaths, transports, and faults that prove themselves."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import time
import uuid
from typing import Any

import pytest
from sim_toy import MS, NODES, OK, SECOND, Toy, ask, play, world

from harness.sim.tripwires import Nondeterminism
from harness.sim.world import SimWorld
from harness.world import Refused, Silence
from nemeses.fault import (
    FAMILIES,
    Evidence,
    Fault,
    HealPartition,
    Kill,
    Partition,
    Pause,
    PowerLoss,
    ResetClocks,
    Restart,
    Resume,
    Skew,
)
from store.runtime import Runtime


def injected(fault: Fault, *earlier: Fault) -> Evidence:
    """The evidence of a fault on a fresh world in which the earlier ones stand."""
    w = world()

    async def scene() -> Evidence:
        for harm in earlier:
            await w.inject(harm)
        return await w.inject(fault)

    return play(w, scene)


# Lives and transports.


def test_time_counts_from_the_end_of_the_start() -> None:
    w = world()

    async def scene() -> None:
        assert w.now_ns() == 0
        await w.sleep(5 * MS)
        assert w.now_ns() == 5 * MS
        assert [await ask(w, node) for node in NODES] == ["200"] * 3

    play(w, scene)
    assert w.name == "sim" and w.nodes == NODES


def test_a_dead_process_refuses_and_a_new_life_answers() -> None:
    w = world()

    async def scene() -> None:
        await w.inject(Kill(("n1",)))
        before = w.now_ns()
        assert await ask(w, "n1") == "Refused"
        assert 0.4 * MS <= w.now_ns() - before <= 2.1 * MS
        await w.inject(Restart(("n1",)))
        assert await ask(w, "n1") == "200"

    play(w, scene)


def test_a_death_between_request_and_answer_is_silence() -> None:
    w = world()

    async def scene() -> None:
        await w.inject(Pause(("n2", "n3")))
        waiting = w.spawn(ask(w, "n1"), name="client")
        await w.sleep(100 * MS)
        died = w.now_ns()
        await w.inject(Kill(("n1",)))
        assert await waiting == "Silence"
        assert w.now_ns() - died < 2 * MS

    play(w, scene)


def test_a_paused_node_is_silent_and_carries_the_request_out_when_it_resumes() -> None:
    w = world()

    async def scene() -> str:
        await w.inject(Pause(("n1",)))
        assert await ask(w, "n1", timeout_ns=SECOND) == "Silence"
        assert w.now_ns() == SECOND
        await w.inject(Resume(("n1",)))
        await w.sleep(100 * MS)
        return await ask(w, "n2", "/seen")

    assert "('n1', b'Wn1.1')" in play(w, scene)


def test_a_request_that_waits_at_a_paused_node_breaks_when_the_node_is_killed() -> None:
    w = world()

    async def scene() -> None:
        await w.inject(Pause(("n1",)))
        waiting = w.spawn(ask(w, "n1", timeout_ns=60 * SECOND), name="client")
        await w.sleep(SECOND)
        await w.inject(Kill(("n1",)))
        assert await waiting == "Silence"
        assert w.now_ns() < 2 * SECOND

    play(w, scene)


def test_a_node_that_raises_breaks_the_connection_logs_the_traceback_and_lives_on() -> None:
    w = world()

    async def scene() -> None:
        assert await ask(w, "n1", "/raise") == "Silence"
        assert await ask(w, "n1") == "200"

    play(w, scene)
    log = w.logs()["n1"]
    assert "task http failed:\nTraceback" in log and "LookupError: the toy was asked to break" in log
    assert "failed" not in w.logs()["n2"]


def test_a_handler_that_raises_is_logged_and_the_node_lives_on() -> None:
    class Touchy(Toy):
        def received(self, src: str, frame: bytes) -> None:
            if frame == b"B2":
                raise ValueError("no B2 here")
            super().received(src, frame)

    w = world(Touchy)

    async def scene() -> None:
        await w.sleep(SECOND)
        assert await ask(w, "n1") == "200"

    play(w, scene)
    assert any("ValueError: no B2 here" in log for log in w.logs().values())


def test_a_node_that_cannot_start_says_so() -> None:
    class Broken(Toy):
        async def start(self) -> None:
            if self.name == "n2":
                raise OSError("the disk is not mine")
            await super().start()

    with pytest.raises(RuntimeError, match=r"(?s)n2 did not start.*the disk is not mine"):
        play(world(Broken), lambda: asyncio.sleep(0))


def test_a_client_may_hang_up_while_it_waits() -> None:
    w = world()

    async def scene() -> None:
        transport = w.transport("n1", client="7")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(transport.request(b"PUT /x HTTP/1.1\r\n\r\n", SECOND), 0.0005)
        assert await transport.request(b"GET /ping HTTP/1.1\r\n\r\n", SECOND) == OK
        transport.close()

    play(w, scene)


def test_a_transport_to_nowhere_and_a_fault_on_nobody_are_mistakes() -> None:
    w = world()
    with pytest.raises(ValueError, match="no node 'n9'; this world has n1, n2, n3"):
        w.transport("n9", client="0")
    for fault in (
        Partition("x", (("n1", "n9"),)),
        Kill(("n9",)),
        PowerLoss(("n9",)),
        Restart(("n9",)),
        Pause(("n9",)),
        Resume(("n9",)),
        Skew({"n9": 1}),
    ):
        with pytest.raises(ValueError, match="no node 'n9'"):
            injected(fault)
    with pytest.raises(ValueError, match="from itself"):
        injected(Partition("x", (("n1", "n1"),)))


# Crash semantics.


class Parked(Toy):
    """Unwinds loudly: tells `unwound` when a finally runs, and does what no dying node may still do."""

    unwound: list[tuple[str, int]]

    async def start(self) -> None:
        await super().start()
        self.runtime.spawn(self._guarded(), name="guarded")

    async def _guarded(self) -> None:
        try:
            await self.runtime.sleep(3600 * SECOND)
        finally:
            self.unwound.append((self.name, self.runtime.clock.mono_ns()))
            self.runtime.net.send("n2", b"Wghost")
            self.runtime.disk.append("log", b"ghost")
            self.runtime.log("ghost")
            self.runtime.spawn(self._chatter(), name="ghost")
            await self.runtime.sleep(1)


def test_a_kill_parks_tasks_and_no_finally_runs_before_the_trace_is_sealed() -> None:
    Parked.unwound = []
    w = world(Parked)

    async def scene() -> None:
        await w.inject(Kill(("n1",)))
        await w.sleep(10 * SECOND)
        await w.inject(Restart(("n1",)))
        await w.sleep(10 * SECOND)
        gc.collect()
        assert Parked.unwound == []

    play(w, scene)
    assert len(Parked.unwound) == 4  # two lives of n1, one each of the others
    assert not any("ghost" in log for log in w.logs().values())


def test_a_kill_keeps_the_page_cache_and_a_power_loss_need_not() -> None:
    class Lazy(Toy):
        async def start(self) -> None:
            await super().start()
            self.runtime.disk.append("log", b"unsynced")

        async def http(self, request: bytes) -> bytes:
            return OK + b"%d" % self.runtime.disk.size("log")

    def size(fault: Fault, seed: int) -> tuple[str, int | None]:
        w = world(Lazy, seed=seed)

        async def scene() -> tuple[str, int | None]:
            await w.inject(fault)
            evidence = await w.inject(Restart(("n1",)))
            return await ask(w, "n1"), evidence.fired

        return play(w, scene)

    assert {size(Kill(("n1",)), seed)[0] for seed in range(10)} == {"16"}
    # The next life writes eight bytes more, whatever it found.
    assert {size(PowerLoss(("n1",)), seed) for seed in range(20)} == {("16", 0), ("8", 1)}


def test_power_mostly_fails_while_a_disk_is_writing_though_disks_are_mostly_idle() -> None:
    def unsynced(seed: int) -> bool:
        w = world(seed=seed)

        async def ask_all_the_time() -> None:
            while True:
                await ask(w, "n1")
                await w.sleep(50 * MS)

        async def scene() -> bool:
            asking = w.spawn(ask_all_the_time(), name="asking")
            await w.sleep(SECOND)
            before: dict[str, Any] = (await w.inject(PowerLoss(NODES))).before
            asking.cancel()
            return any(before[node]["unsynced"] for node in NODES)

        return play(w, scene)

    assert sum(unsynced(seed) for seed in range(30)) > 10  # a write takes a hundredth of the time


def test_no_frame_crosses_from_one_life_to_the_next() -> None:
    w = world()

    async def scene() -> str:
        client = w.spawn(ask(w, "n2"), name="client")
        await w.sleep(700_000)
        await w.inject(Kill(("n1",)))
        await client
        await w.inject(Restart(("n1",)))
        return await ask(w, "n1", "/seen")

    assert "Wn2.1" not in play(w, scene)


def test_monotonic_time_goes_on_through_a_kill_and_starts_anew_with_the_machine() -> None:
    w = world()

    async def scene() -> tuple[int, int, int]:
        first = int(await ask(w, "n1", "/mono"))
        await w.inject(Kill(("n1",)))
        await w.inject(Restart(("n1",)))
        second = int(await ask(w, "n1", "/mono"))
        await w.inject(PowerLoss(("n1",)))
        await w.inject(Restart(("n1",)))
        return first, second, int(await ask(w, "n1", "/mono"))

    first, second, third = play(w, scene)
    assert first < second < first + SECOND
    assert third < SECOND


# Faults and their evidence.


def test_a_partition_is_verified_by_its_links_and_counts_what_it_hit() -> None:
    w = world()

    async def scene() -> tuple[Evidence, Evidence]:
        cut = await w.inject(Partition("isolate", (("n1", "n2"), ("n1", "n3"))))
        assert await ask(w, "n1") == "503"
        return cut, await w.inject(HealPartition())

    cut, healed = play(w, scene)
    assert cut.verified and cut.fired is None
    assert cut.before == {"n1>n2": "carries", "n1>n3": "carries"}
    assert cut.after == {"n1>n2": "cut", "n1>n3": "cut"}
    assert healed.verified and healed.before == cut.after and healed.after == cut.before
    assert healed.fired is not None and healed.fired >= 2
    assert cut.injected_ns == cut.verified_ns < healed.injected_ns


def test_a_partition_that_cuts_nothing_new_is_not_verified() -> None:
    link = (("n1", "n2"),)
    assert injected(Partition("custom", link)).verified
    assert not injected(Partition("custom", ())).verified
    assert not injected(Partition("custom", link), Partition("custom", link)).verified
    assert injected(HealPartition()).fired == 0


@pytest.mark.parametrize("fault", [Kill(("n1", "n2")), Pause(("n1", "n2"))])
def test_a_harm_to_processes_is_verified_by_their_states(fault: Kill | Pause) -> None:
    evidence = injected(fault)
    assert evidence.verified
    assert evidence.before != evidence.after
    assert set(evidence.before) == {"n1", "n2"}


def test_a_power_loss_with_nothing_unsynced_is_no_more_than_a_kill_and_not_verified() -> None:
    evidence = injected(PowerLoss(("n1", "n2")))
    assert evidence.before["n1"] == {"process": "running", "unsynced": 0}
    assert evidence.after["n1"] == {"process": "dead", "unsynced": 0}
    assert not evidence.verified


def test_a_power_loss_waits_for_something_to_lose() -> None:
    class Writer(Toy):
        async def start(self) -> None:
            await super().start()
            self.runtime.spawn(self.write(), name="writer")

        async def write(self) -> None:
            await self.runtime.sleep(SECOND // 4)
            self.runtime.disk.append("log", b"unsynced")

    w = world(Writer)

    async def scene() -> tuple[int, Evidence]:
        asked_ns = w.now_ns()
        return asked_ns, await w.inject(PowerLoss(("n1",)))

    asked_ns, evidence = play(w, scene)
    assert evidence.verified
    assert evidence.before["n1"] == {"process": "running", "unsynced": 1}
    assert evidence.injected_ns - asked_ns <= SECOND // 4


def test_what_changes_nothing_is_not_verified() -> None:
    one = ("n1",)
    assert not injected(Kill(one), Kill(one)).verified
    assert not injected(Kill(())).verified
    assert not injected(Pause(one), Kill(one)).verified
    assert not injected(Pause(one), Pause(one)).verified
    assert not injected(PowerLoss(one), PowerLoss(one)).verified
    assert not injected(Skew({"n1": SECOND}), Skew({"n1": SECOND})).verified
    assert not injected(Skew({"n1": 0})).verified


def test_a_kill_of_several_is_verified_where_one_of_them_still_lived() -> None:
    evidence = injected(Kill(("n1", "n2")), Kill(("n1",)))
    assert evidence.verified
    assert evidence.before == {"n1": "dead", "n2": "running"}
    assert evidence.after == {"n1": "dead", "n2": "dead"}


def test_a_stopped_process_can_be_killed_and_a_restart_does_not_resume() -> None:
    one = ("n1",)
    assert injected(Kill(one), Pause(one)).before == {"n1": "paused"}
    assert injected(Restart(one), Pause(one)).after == {"n1": "paused"}
    assert injected(Restart(one), Pause(one), Kill(one)).after == {"n1": "running"}
    assert injected(Resume(one), Pause(one), Kill(one)).after == {"n1": "dead"}


def test_a_restart_is_verified_by_answers_and_starts_only_the_dead() -> None:
    w = world()

    async def scene() -> Evidence:
        await w.inject(Kill(("n1",)))
        return await w.inject(Restart(NODES))

    evidence = play(w, scene)
    assert evidence.verified and evidence.fired is not None and evidence.fired >= 1
    assert evidence.verified_ns > evidence.injected_ns
    assert evidence.before == {"n1": "dead", "n2": "running", "n3": "running"}
    assert [log.count("serving") for log in w.logs().values()] == [2, 1, 1]


def test_a_restart_that_fails_is_not_verified() -> None:
    class Once(Toy):
        async def start(self) -> None:
            if self.runtime.disk.names():
                raise OSError("once is enough")
            await super().start()

    w = world(Once)

    async def scene() -> Evidence:
        await w.inject(Kill(("n1",)))
        return await w.inject(Restart(("n1",)))

    evidence = play(w, scene)
    assert not evidence.verified and evidence.after == {"n1": "dead"}
    assert "once is enough" in w.logs()["n1"]


def test_a_restart_that_hangs_is_given_up_after_five_seconds() -> None:
    class Hangs(Toy):
        async def start(self) -> None:
            if self.runtime.disk.names():
                await self.runtime.sleep(3600 * SECOND)
            await super().start()

    w = world(Hangs)

    async def scene() -> Evidence:
        await w.inject(Kill(("n1",)))
        return await w.inject(Restart(("n1",)))

    evidence = play(w, scene)
    assert not evidence.verified
    assert 5 * SECOND <= evidence.verified_ns - evidence.injected_ns < 5.1 * SECOND


def test_a_pause_defers_everything_and_a_resume_replays_it_in_order() -> None:
    w = world()

    async def scene() -> tuple[Evidence, list[Any]]:
        await w.inject(Pause(("n1",)))
        await w.sleep(3 * SECOND)
        evidence = await w.inject(Resume(("n1",)))
        return evidence, eval(await ask(w, "n1", "/seen"))

    evidence, seen = play(w, scene)
    assert evidence.verified and evidence.fired is not None and evidence.fired > 5
    for peer in ("n2", "n3"):
        beats = [int(frame[1:]) for src, frame in seen if src == peer]
        assert beats == sorted(beats) and len(beats) > 2


def test_a_skew_moves_the_wall_clock_of_one_node_and_nothing_else() -> None:
    w = world()

    async def scene() -> Evidence:
        async def read(node: str, path: str) -> int:
            return int(await ask(w, node, path))

        wall = {node: await read(node, "/wall") for node in NODES}
        mono = {node: await read(node, "/mono") for node in NODES}
        evidence = await w.inject(Skew({"n1": -60 * SECOND}))
        assert evidence.verified and evidence.after == {"n1": -60 * SECOND}
        assert -61 * SECOND < await read("n1", "/wall") - wall["n1"] < -59 * SECOND
        assert 0 < await read("n2", "/wall") - wall["n2"] < SECOND
        assert 0 < await read("n1", "/mono") - mono["n1"] < SECOND
        await w.inject(Kill(("n1",)))
        await w.inject(Restart(("n1",)))
        assert await read("n1", "/wall") < wall["n1"]
        healed = await w.inject(ResetClocks())
        assert 0 < await read("n1", "/wall") - wall["n1"] < SECOND
        return healed

    healed = play(w, scene)
    assert healed.verified and healed.fired == 2
    assert healed.before == {"n1": -60 * SECOND, "n2": 0, "n3": 0}


def test_every_family_has_its_mechanism_and_an_unknown_one_a_remedy() -> None:
    w = world()
    assert all(w.support(family).mechanism for family in FAMILIES)
    assert not w.support("earthquake").mechanism
    assert "partition" in w.support("earthquake").remedy


# Ends.


def test_a_world_runs_once_and_leaves_nothing_running() -> None:
    w = world()
    left: list[str] = []

    async def forever() -> None:
        try:
            await w.sleep(3600 * SECOND)
        finally:
            left.append("unwound")

    async def scene() -> str:
        w.spawn(forever(), name="forgotten")
        await w.sleep(SECOND)
        return "result"

    assert play(w, scene) == "result"
    assert left == ["unwound"]
    assert w.loop.is_closed() and not w.loop.heap
    with pytest.raises(RuntimeError, match="runs once"):
        play(w, scene)


def test_after_a_stop_every_node_is_gone_and_stopping_twice_is_fine() -> None:
    w = world()

    async def scene() -> list[str]:
        await w.stop()
        await w.stop()
        return [await ask(w, node) for node in NODES]

    assert play(w, scene) == ["Refused"] * 3


def test_an_error_in_the_scene_comes_out_and_the_world_is_closed_all_the_same() -> None:
    w = world()

    async def scene() -> None:
        raise KeyError("from the scene")

    frozen = gc.get_freeze_count()
    with pytest.raises(KeyError, match="from the scene"):
        play(w, scene)
    assert w.loop.is_closed() and w.trace.hash
    assert gc.isenabled() and gc.get_freeze_count() == frozen


@pytest.mark.parametrize("where", ["main", "task", "callback"])
def test_an_interrupt_wherever_it_strikes_closes_the_world_and_leaves_nothing_pending(where: str) -> None:
    w = world()
    left: list[str] = []

    def strike() -> None:
        raise KeyboardInterrupt

    async def forever(name: str) -> None:
        try:
            await w.sleep(3600 * SECOND)
        finally:
            left.append(name)

    async def struck() -> None:
        await w.sleep(SECOND)
        strike()

    async def scene() -> None:
        w.spawn(forever("one"), name="one")
        w.spawn(forever("two"), name="two")
        if where == "callback":
            w.loop.post_ns(w.loop.now_ns + SECOND, strike)
        elif where == "task":
            w.spawn(struck(), name="struck")
        else:
            await struck()
        await w.sleep(3600 * SECOND)

    with pytest.raises(KeyboardInterrupt):
        play(w, scene)
    assert left == ["one", "two"]
    assert w.loop.is_closed() and not w.loop.heap
    assert not asyncio.all_tasks(w.loop)


def test_a_scene_that_waits_for_nothing_left_is_not_left_hanging() -> None:
    w = SimWorld((), 1, Toy)

    async def main() -> None:
        await w.future()

    with pytest.raises(RuntimeError, match="main still waits"):
        w.run(main())


@pytest.mark.parametrize("reach", [time.time, random.random, uuid.uuid4, lambda: os.urandom(1)])
def test_node_code_that_reaches_for_real_time_or_randomness_trips_a_wire(reach: Any) -> None:
    name = reach.__name__

    class Reaches(Toy):
        async def http(self, request: bytes) -> bytes:
            if b"ping" not in request:
                module, call = {
                    "time": (time, "time"),
                    "random": (random, "random"),
                    "uuid4": (uuid, "uuid4"),
                    "<lambda>": (os, "urandom"),
                }[name]
                getattr(module, call)(*([1] if call == "urandom" else []))
            return OK

    w = world(Reaches, guarded=(__name__,))

    async def scene() -> str:
        return await ask(w, "n1")

    real = time.time
    assert play(w, scene) == "Silence"
    assert Nondeterminism.__name__ in w.logs()["n1"]
    assert time.time is real


def test_the_harness_may_measure_real_time_while_the_world_runs() -> None:
    w = world()

    async def scene() -> float:
        return time.perf_counter()

    assert play(w, scene) > 0


def test_transports_say_no_more_than_the_protocol_allows() -> None:
    assert issubclass(Refused, Exception) and issubclass(Silence, Exception)
    w = world()

    async def scene() -> None:
        transport = w.transport("n1", client="0")
        first = w.spawn(transport.request(b"GET /ping HTTP/1.1\r\n\r\n", SECOND), name="first")
        await w.sleep(1)
        with pytest.raises(AssertionError, match="one request at a time"):
            await transport.request(b"GET /ping HTTP/1.1\r\n\r\n", SECOND)
        await first

    play(w, scene)


def test_each_life_is_built_anew_on_the_same_machine() -> None:
    built: list[tuple[str, Runtime]] = []

    def build(name: str, runtime: Runtime) -> Toy:
        built.append((name, runtime))
        return Toy(name, runtime)

    w = world(build)

    async def scene() -> None:
        await w.inject(Kill(("n2",)))
        await w.inject(Restart(("n2",)))

    play(w, scene)
    assert sorted(name for name, _ in built) == ["n1", "n2", "n2", "n3"]
    lives = [runtime for name, runtime in built if name == "n2"]
    assert lives[0] is not lives[1]
    # Or ids that must never be drawn twice would be, after a wipe of the disk.
    assert lives[0].draw("x", 1) != lives[1].draw("x", 1)
