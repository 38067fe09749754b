"""Scenes of the interpreter, in a world where time only jumps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from virtual_world import VirtualWorld

from harness.interpreter import FaultNemesis, interpret
from harness.world import Unsupported
from history.generator import (
    MS,
    SECOND,
    Ask,
    Context,
    Generator,
    any_of,
    clients,
    cycle,
    delay,
    draws,
    each,
    fn,
    limit,
    mark,
    mix,
    nemesis,
    phase,
    phases,
    sequence,
    stagger,
    time_limit,
    until_ok,
)
from history.header import Header
from history.history import History
from history.journal import MemoryJournal, read
from history.op import Op
from history.recorder import Recorder
from history.schedule import Schedule, Scripted, dumps, load
from nemeses.fault import Evidence, Fault, HealPartition, Kill, Partition, Restart

Behaviour = Callable[["Scene", Op, Recorder], Awaitable[Any]]


class Scene:
    """One world, one journal, clients that all behave in one way; `log` notes what clients were opened and closed."""

    def __init__(
        self, behave: Behaviour, *, concurrency: int = 2, injected: Callable[[Fault], Evidence] | None = None
    ) -> None:
        self.world = VirtualWorld(injected=injected)
        self.journal = MemoryJournal(Header(config={"concurrency": concurrency}))
        self.recorder = Recorder(self.journal, self.world.now_ns)
        self.behave = behave
        self.concurrency = concurrency
        self.nemesis = FaultNemesis(self.world)
        self.log: list[str] = []
        self.prepare: Callable[[Op], Any] = lambda op: op

    def open(self, process: int, node: str) -> _Client:
        self.log.append(f"open {process} {node}")
        return _Client(self, process)

    async def interpret(self, gen: Generator, **more: Any) -> list[str]:
        return await interpret(
            self.world,
            gen,
            self.open,
            self.nemesis,
            self.recorder,
            concurrency=self.concurrency,
            draw=draws(7),
            **more,
        )

    def run(self, gen: Generator, **more: Any) -> History:
        """The history of a run in which the harness made no mistake."""
        errors = self.world.run(self.interpret(gen, **more))
        assert errors == []
        assert self.world.alive == []
        return self.history()

    def history(self) -> History:
        return read(self.journal.bytes())


class _Client:
    def __init__(self, scene: Scene, process: int) -> None:
        self.scene = scene
        self.process = process

    def prepare(self, op: Op) -> Op:
        return self.scene.prepare(op)

    async def invoke(self, op: Op, recorder: Recorder) -> Op:
        return await self.scene.behave(self.scene, op, recorder)

    def close(self) -> None:
        self.scene.log.append(f"close {self.process}")


def count(name: str = "put") -> Generator:
    return fn(name, lambda ctx, i: Ask(name, "x", i))


async def at_once(scene: Scene, op: Op, recorder: Recorder) -> Op:
    return op.completed("ok", op.value)


async def slowly(scene: Scene, op: Op, recorder: Recorder) -> Op:
    await scene.world.sleep(10 * MS)
    return op.completed("ok", op.value)


async def hang(scene: Scene, op: Op, recorder: Recorder) -> Op:
    await scene.world.future()
    raise AssertionError("nothing sets that future")


def lines(history: History) -> list[str]:
    return [f"{e.time // MS} {e.process} {e.type} {e.f}" for e in history.events]


def test_operations_go_to_clients_and_come_back() -> None:
    history = Scene(slowly).run(limit(3, count()))
    assert lines(history) == [
        "0 0 invoke put",
        "0 1 invoke put",
        "10 0 ok put",
        "10 1 ok put",
        "10 0 invoke put",
        "20 0 ok put",
    ]
    assert [o.node for o in history.operations] == ["n1", "n2", "n1"]


def test_completions_are_recorded_before_anything_new_is_invoked() -> None:
    # Both answers are there in the same instant: no new operation may overlap the second one.
    history = Scene(slowly, concurrency=8).run(limit(80, count()))
    for e in history.events:
        if e.type == "invoke":
            assert all(o.end < e.index for o in history.operations if o.invoke.time < e.time)


def test_clients_that_answer_at_once_share_the_work() -> None:
    history = Scene(at_once, concurrency=4).run(limit(100, count()))
    assert {o.process for o in history.operations} == {0, 1, 2, 3}
    assert {o.type for o in history.operations} == {"ok"}


def test_operations_happen_at_the_very_nanosecond_they_are_due() -> None:
    history = Scene(at_once).run(limit(4, delay(1_234_567, count())))
    assert [o.invoke.time for o in history.operations] == [0, 1_234_567, 2_469_134, 3_703_701]


def test_after_info_a_thread_goes_on_under_a_fresh_process_with_a_new_client() -> None:
    async def unknown(scene: Scene, op: Op, recorder: Recorder) -> Op:
        return op.completed("info", error="silence")

    scene = Scene(unknown)
    history = scene.run(limit(5, count()))
    assert sorted(str(o.process) for o in history.operations) == sorted(
        map(str, [0, 1, 2, 3, history.operations[-1].process])
    )
    assert scene.log[:2] == ["open 0 n1", "close 0"] or scene.log[:2] == ["open 0 n1", "open 1 n2"]
    assert scene.log.count("open 2 n3") == 1
    assert {w.replace("open", "close").split()[1] for w in scene.log} == {
        str(o.process) for o in history.operations
    }
    assert len(scene.log) == 10


def test_clients_are_closed_when_the_run_is_over() -> None:
    scene = Scene(at_once)
    scene.run(limit(10, count()))
    assert scene.log == ["open 0 n1", "open 1 n2", "close 0", "close 1"]


def test_processes_stay_retired_from_one_call_to_the_next() -> None:
    async def mostly(scene: Scene, op: Op, recorder: Recorder) -> Op:
        return op.completed("info" if op.value == 0 else "ok")

    scene = Scene(mostly)

    async def twice() -> list[str]:
        return await scene.interpret(limit(1, count())) + await scene.interpret(
            clients(each(Ask("get", "x", 1)))
        )

    assert scene.world.run(twice()) == []
    first, *rest = scene.history().operations
    assert first.process == 0
    assert sorted(o.process for o in rest if isinstance(o.process, int)) == [1, 2]


def test_what_prepare_fills_in_is_journaled_with_the_invocation() -> None:
    scene = Scene(at_once)
    scene.prepare = lambda op: Op(op.process, "invoke", "get", op.key, node=op.node, meta={"context": [1, 2]})
    history = scene.run(limit(1, count("delete")))
    assert [(e.type, e.f, e.meta) for e in history.events] == [
        ("invoke", "get", {"context": [1, 2]}),
        ("ok", "get", {}),
    ]


def test_composite_operations_bracket_their_requests() -> None:
    async def composite(scene: Scene, op: Op, recorder: Recorder) -> Op:
        inner = recorder.invoke(Op(op.process, "invoke", "get", op.key))
        await scene.world.sleep(MS)
        recorder.complete(inner.completed("ok", []))
        return op.completed("ok")

    history = Scene(composite, concurrency=3).run(limit(9, count("add")))
    outer = [o for o in history.operations if o.parent is None]
    inner = [o for o in history.operations if o.parent is not None]
    assert len(outer) == len(inner) == 9
    assert all(history.operations[0].f == "add" and o.f == "get" and o.type == "ok" for o in inner)


def test_generators_hear_of_invocations_and_completions() -> None:
    heard: list[str] = []

    class Listening:
        hears = True

        def __init__(self, gen: Generator) -> None:
            self.gen = gen

        def op(self, ctx: Context) -> Any:
            step = self.gen.op(ctx)
            return step and (step[0], Listening(step[1]))

        def update(self, ctx: Context, event: Op) -> Generator:
            heard.append(f"{ctx.thread(event.process)} {event.type} {event.f}")
            return self

    Scene(slowly).run(Listening(sequence(mark("log", "begin"), limit(1, count()))))
    assert heard == ["-1 info log", "0 invoke put", "0 ok put"]


def test_until_ok_asks_until_it_succeeds() -> None:
    async def third(scene: Scene, op: Op, recorder: Recorder) -> Op:
        return op.completed("ok" if op.value == 2 else "fail")

    history = Scene(third, concurrency=1).run(until_ok(count()))
    assert [o.type for o in history.operations] == ["fail", "fail", "ok"]


# Time


def test_a_time_limit_holds_when_clients_hang() -> None:
    scene = Scene(hang)
    history = scene.run(
        phases(phase("safety"), time_limit(SECOND, count()), phase("heal")), grace_ns=5 * SECOND
    )
    assert history.events[history.phases["heal"]].time == 6 * SECOND
    told = [o.complete.error for o in history.operations if o.complete is not None]
    assert told == ["no completion within the grace of 5 s; abandoned"] * 2
    assert scene.log[-2:] == ["close 0", "close 1"]


def test_when_every_client_hangs_the_load_goes_on_after_the_grace() -> None:
    async def only_first_hangs(scene: Scene, op: Op, recorder: Recorder) -> Op:
        return await (hang if op.process in (0, 1) else slowly)(scene, op, recorder)

    history = Scene(only_first_hangs).run(limit(6, count()), grace_ns=SECOND)
    assert [(o.process, o.type) for o in history.operations[:2]] == [(0, "info"), (1, "info")]
    assert [o.type for o in history.operations[2:]] == ["ok"] * 4


def test_slow_operations_are_waited_for_within_the_grace() -> None:
    async def slow(scene: Scene, op: Op, recorder: Recorder) -> Op:
        await scene.world.sleep(4 * SECOND)
        return op.completed("ok")

    history = Scene(slow).run(limit(6, count()), grace_ns=5 * SECOND)
    assert {o.type for o in history.operations} == {"ok"}


def test_what_an_abandoned_client_says_later_does_not_count() -> None:
    async def stubborn(scene: Scene, op: Op, recorder: Recorder) -> Op:
        for _ in range(2):
            try:
                await scene.world.sleep(100 * SECOND)
            except asyncio.CancelledError:
                scene.log.append("will not go")
        recorder.invoke(Op(op.process, "invoke", "get", op.key))
        return op.completed("ok")

    scene = Scene(stubborn, concurrency=1)
    errors = scene.world.run(scene.interpret(limit(1, count()), grace_ns=SECOND))
    assert errors == ["the client of thread 0 does not end when it is cancelled"]
    assert "will not go" in scene.log
    assert [(o.f, o.type) for o in scene.history().operations] == [("put", "info")]


def test_an_answer_that_comes_after_the_operation_was_abandoned_does_not_count() -> None:
    async def late(scene: Scene, op: Op, recorder: Recorder) -> Op:
        try:
            await scene.world.sleep(100 * SECOND)
        except asyncio.CancelledError:
            scene.log.append("answers all the same")
        return op.completed("ok")

    scene = Scene(late, concurrency=1)
    history = scene.run(limit(2, count()), grace_ns=SECOND)
    assert scene.log.count("answers all the same") == 2
    assert [(o.process, o.type) for o in history.operations] == [(0, "info"), (1, "info")]


def test_cancelling_the_run_closes_every_client() -> None:
    scene = Scene(hang)

    async def main() -> None:
        task = scene.world.spawn(scene.interpret(count()), name="run")
        await scene.world.sleep(MS)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    scene.world.run(main())
    assert scene.log == ["open 0 n1", "open 1 n2", "close 0", "close 1"]
    assert [o.type for o in scene.history().operations] == ["info", "info"]
    assert scene.world.alive == []


def test_a_generator_that_waits_for_ever_is_our_bug() -> None:
    scene = Scene(at_once)
    with pytest.raises(AssertionError, match="waits for ever, with nothing in flight"):
        scene.world.run(scene.interpret(Ask("put", thread=9)))
    assert scene.world.alive == []


def test_a_generator_that_raises_ends_the_run_and_says_when() -> None:
    def make(ctx: Context, i: int) -> Ask:
        if i == 1:
            raise KeyError("no such key")
        return Ask("put")

    scene = Scene(slowly)
    with pytest.raises(KeyError) as problem:
        scene.world.run(scene.interpret(delay(MS, fn("put", make))))
    assert problem.value.__notes__ == [f"raised by the generator at {MS} ns"]
    assert scene.log == ["open 0 n1", "close 0"]
    assert scene.world.alive == []


# Mistakes of clients


def mistake(behave: Behaviour) -> tuple[str, History]:
    """What is said of a client's mistake; the run goes on after it."""

    async def once(scene: Scene, op: Op, recorder: Recorder) -> Any:
        return await (behave if op.value == 0 else at_once)(scene, op, recorder)

    scene = Scene(once, concurrency=1)
    errors = scene.world.run(scene.interpret(limit(2, count())))
    history = scene.history()
    wrong, right = (o for o in history.operations if o.parent is None)
    assert (wrong.process, wrong.type, right.process, right.type) == (0, "info", 1, "ok")
    assert wrong.meta["harness_error"] is True
    assert wrong.complete is not None
    assert len(errors) == 1
    said = errors[0].splitlines()[-1]
    assert said == f"event 0, process 0: {wrong.complete.error}"
    return errors[0], history


def test_a_client_that_raises_makes_its_operation_info_and_is_told() -> None:
    async def broken(scene: Scene, op: Op, recorder: Recorder) -> Op:
        raise ZeroDivisionError("division by zero")

    said, _ = mistake(broken)
    assert said.startswith("Traceback (most recent call last):")
    assert said.endswith("event 0, process 0: ZeroDivisionError: division by zero during 'put'")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda op: None, "returned None, which is no operation"),
        (lambda op: op, "returned the type 'invoke' and not ok or fail or info"),
        (lambda op: Op(5, "ok", op.f, op.key), "returned process 5 and not 0"),
        (lambda op: Op(op.process, "ok", "get", op.key), "returned f 'get' and not 'put'"),
        (lambda op: Op(op.process, "ok", op.f, "y"), "returned key 'y' and not 'x'"),
    ],
)
def test_a_client_that_returns_something_else_is_told_exactly_what(
    made: Callable[[Op], Any], said: str
) -> None:
    async def wrong(scene: Scene, op: Op, recorder: Recorder) -> Any:
        return made(op)

    text, _ = mistake(wrong)
    assert text == f"event 0, process 0: the client's invoke of 'put' {said}: return op.completed(...)"


def test_a_composite_that_leaves_a_request_open_is_told() -> None:
    async def leaving(scene: Scene, op: Op, recorder: Recorder) -> Op:
        recorder.invoke(Op(op.process, "invoke", "get", op.key))
        return op.completed("ok")

    text, history = mistake(leaving)
    assert text.endswith("the client completed 'put' with a request of it still open")
    assert [o.complete.error for o in history.operations if o.f == "get" and o.complete] == [
        "left open by put"
    ]


def test_a_client_that_cancels_itself_is_told() -> None:
    async def cancelling(scene: Scene, op: Op, recorder: Recorder) -> Op:
        raise asyncio.CancelledError

    text, _ = mistake(cancelling)
    assert text.endswith("the client cancelled itself during 'put'")


def test_a_client_that_cannot_prepare_or_open_is_told() -> None:
    def refuse(op: Op) -> Any:
        if op.value == 0:
            raise ValueError("no context")
        return None if op.value == 1 else op

    scene = Scene(at_once, concurrency=1)
    scene.prepare = refuse
    errors = scene.world.run(scene.interpret(limit(3, count())))
    assert [e.splitlines()[-1] for e in errors] == [
        "event 0, process 0: ValueError: no context before 'put' was invoked",
        "event 2, process 1: TypeError: prepare of 'put' returned None, which is no operation: "
        "return the operation it was given, filled in before 'put' was invoked",
    ]
    assert [o.type for o in scene.history().operations] == ["info", "info", "ok"]


def test_a_client_that_cannot_close_is_told() -> None:
    scene = Scene(at_once, concurrency=1)

    class Sticking(_Client):
        def close(self) -> None:
            raise OSError("busy")

    scene.open = lambda process, node: Sticking(scene, process)
    errors = scene.world.run(scene.interpret(limit(1, count())))
    assert [e.splitlines()[-1] for e in errors] == ["OSError: busy in close of the client of process 0"]


@pytest.mark.parametrize("index", [2, 5])
def test_a_full_disk_ends_the_run(index: int) -> None:
    """Whether it is a completion (2) or an invocation (5) that finds no room."""

    class Full:
        def append(self, op: Op) -> None:
            assert (op.type == "ok") is (op.index % 4 >= 2)
            if op.index == index:
                raise OSError(28, "No space left on device")

        def close(self) -> None: ...

    scene = Scene(slowly)
    scene.recorder = Recorder(Full(), scene.world.now_ns)
    with pytest.raises(OSError, match="No space left"):
        scene.world.run(scene.interpret(count()))
    assert scene.world.alive == []


# The nemesis

CUT = Partition("isolate", (("n1", "n2"),))


def evidence(fault: Fault) -> Evidence:
    if isinstance(fault, Kill):
        raise Unsupported("kill needs root: run as root")
    return Evidence(True, "links", 5, 6, {"reached": True}, {"reached": False})


def test_faults_are_journaled_as_json_with_their_evidence() -> None:
    scene = Scene(at_once, injected=evidence)
    history = scene.run(
        nemesis(
            sequence(
                Ask("harm", value=CUT), Ask("harm", value=Kill(("n1",))), Ask("heal", value=HealPartition())
            )
        )
    )
    cut, kill, heal = history.nemesis
    assert (cut.f, cut.invoke.value) == (
        "partition",
        {"fault": "partition", "shape": "isolate", "blocked": [["n1", "n2"]], "mode": "drop"},
    )
    assert (cut.type, cut.value["verified"], cut.value["after"]) == ("ok", True, {"reached": False})
    assert (kill.f, kill.type, kill.complete and kill.complete.error) == (
        "kill",
        "fail",
        "kill needs root: run as root",
    )
    assert (cut.invoke.meta, heal.invoke.meta) == (
        {"family": "partition"},
        {"family": "partition", "heal": True},
    )


def test_the_nemesis_knows_which_harms_stand() -> None:
    scene = Scene(at_once, injected=lambda fault: Evidence(True, "m", 0, 0))
    stood: list[tuple[str, ...]] = []

    async def main() -> None:
        for fault in (CUT, Kill(("n1",)), HealPartition(), Restart(("n1",))):
            await scene.interpret(nemesis(Ask("fault", value=fault)))
            stood.append(tuple(scene.nemesis.standing))

    scene.world.run(main())
    assert stood == [("partition",), ("partition", "kill"), ("kill",), ()]


def test_a_nemesis_that_raises_is_told_and_asked_again() -> None:
    calls: list[Fault] = []

    def at_first(fault: Fault) -> Evidence:
        calls.append(fault)
        if len(calls) == 1:
            raise RuntimeError("iptables is gone")
        return Evidence(True, "links", 0, 0)

    scene = Scene(at_once, injected=at_first)
    errors = scene.world.run(
        scene.interpret(nemesis(limit(2, fn("harm", lambda ctx, i: Ask("harm", value=CUT)))))
    )
    assert [e.splitlines()[-1] for e in errors] == [
        "event 0, process nemesis: RuntimeError: iptables is gone during 'partition'"
    ]
    assert [o.type for o in scene.history().nemesis] == ["info", "ok"]


# Replay


async def erratic(scene: Scene, op: Op, recorder: Recorder) -> Op:
    """As long and as lucky as its number says; some answer in the very instant that others do."""
    draw = draws(3)
    inner = recorder.invoke(Op(op.process, "invoke", "get", op.key))
    await scene.world.sleep(draw("latency", op.value) % 20 * MS // 2)
    recorder.complete(inner.completed("ok", []))
    await scene.world.sleep(draw("more", op.value) % 3 * MS)
    match draw("luck", op.value) % 5:
        case 0:
            return op.completed("info", error="silence")
        case 1:
            return op.completed("fail")
        case _:
            return op.completed("ok")


@pytest.mark.parametrize("rate", ["saturated", "staggered", "in lockstep"])
def test_a_schedule_gives_the_same_history_byte_for_byte(rate: str) -> None:
    put = mix(count("put"), count("add"))
    load_ = {"saturated": put, "staggered": stagger(MS, put), "in lockstep": delay(MS // 2, put)}[rate]
    faults = delay(7 * MS, cycle(sequence(Ask("cut", value=CUT), Ask("heal", value=HealPartition()))))
    final = (phase("heal"), clients(each(Ask("read", "x", 99, meta={"final": True}))))

    def scene() -> Scene:
        return Scene(erratic, concurrency=4, injected=lambda fault: Evidence(True, "m", 0, 0))

    first = scene()
    history = first.run(
        phases(phase("safety"), time_limit(SECOND, any_of(clients(load_), nemesis(faults))), *final)
    )
    assert len(history.client) > 300
    assert len(history.nemesis) > 100
    assert any(isinstance(o.process, int) and o.process >= 40 for o in history.operations)
    schedule = load(dumps(Schedule.from_history(history)))
    second = scene()
    second.run(phases(phase("safety"), Scripted(schedule), *final))
    assert second.journal.bytes() == first.journal.bytes()
