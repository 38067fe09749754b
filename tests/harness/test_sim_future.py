"""Scenes of node code's futures and tasks: waiting, callbacks, failures, parking."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sim_toy import OK, SECOND, Toy, ask, play, world

from harness.sim.future import Future, Tasks
from harness.sim.loop import SimLoop


class Bench:
    def __init__(self) -> None:
        self.loop = SimLoop()
        self.failures: list[Any] = []
        self.tasks = Tasks(self.loop.ready, lambda name, problem: self.failures.append((name, repr(problem))))

    def future(self) -> Future:
        return Future(self.loop.ready, self.failures.append)


def test_everyone_who_awaits_a_future_gets_its_result_in_the_order_of_their_waiting() -> None:
    bench = Bench()
    future = bench.future()
    got: list[tuple[str, int]] = []

    async def wait(name: str) -> None:
        got.append((name, await future))

    for name in ("a", "b", "c"):
        bench.tasks.spawn(wait(name), name)
    bench.loop.drive()
    assert got == [] and len(bench.tasks.living) == 3
    future.set_result(7)
    assert got == []  # never from within set_result
    bench.tasks.spawn(wait("late"), "late")
    bench.loop.drive()
    assert got == [("a", 7), ("b", 7), ("c", 7), ("late", 7)]
    assert not bench.tasks.living


def test_an_exception_reaches_every_waiter_and_an_unheard_one_bothers_nobody() -> None:
    bench = Bench()
    future, unheard = bench.future(), bench.future()
    caught: list[str] = []

    async def wait() -> None:
        try:
            await future
        except OSError as problem:
            caught.append(str(problem))

    bench.tasks.spawn(wait(), "one")
    bench.tasks.spawn(wait(), "two")
    bench.loop.drive()
    unheard.set_exception(OSError("unheard"))
    future.set_exception(OSError("full"))
    bench.loop.drive()
    assert caught == ["full", "full"] and bench.failures == []
    assert isinstance(future.exception(), OSError)
    with pytest.raises(OSError, match="full"):
        future.result()


def test_a_result_is_set_once_and_asked_for_only_when_it_is_there() -> None:
    future = Bench().future()
    assert not future.done()
    for early in (future.result, future.exception):
        with pytest.raises(asyncio.InvalidStateError, match="not set"):
            early()
    future.set_result(1)
    assert future.done() and future.result() == 1 and future.exception() is None
    with pytest.raises(asyncio.InvalidStateError, match="set already"):
        future.set_result(2)


def test_callbacks_are_called_soon_with_the_future_whether_or_not_it_is_done() -> None:
    bench = Bench()
    future = bench.future()
    called: list[Any] = []
    future.add_done_callback(lambda f: called.append(("first", f.result())))
    future.add_done_callback(lambda f: called.append(("second", f.result())))
    future.set_result(3)
    future.add_done_callback(lambda f: called.append(("third", f.result())))
    assert called == []
    bench.loop.drive()
    assert called == [("first", 3), ("second", 3), ("third", 3)]


def test_a_callback_that_fails_is_told_of_and_keeps_nobody_else_from_running() -> None:
    bench = Bench()
    future = bench.future()
    called: list[Any] = []
    future.add_done_callback(lambda f: 1 / 0)
    future.add_done_callback(called.append)
    future.set_result(None)
    bench.loop.drive()
    assert [type(problem) for problem in bench.failures] == [ZeroDivisionError]
    assert called == [future]


def test_a_failing_callback_of_a_node_stands_in_its_log() -> None:
    class Fails(Toy):
        async def http(self, request: bytes) -> bytes:
            if b"ping" not in request:
                self.runtime.sleep(1).add_done_callback(lambda _: 1 / 0)  # type: ignore[attr-defined]
            return OK

    w = world(Fails)

    async def scene() -> str:
        await ask(w, "n1")
        await w.sleep(SECOND)
        return await ask(w, "n1")

    assert play(w, scene) == "200"
    assert "ZeroDivisionError" in w.logs()["n1"]


def test_a_task_that_fails_is_told_of_by_name() -> None:
    bench = Bench()

    async def fails() -> None:
        raise LookupError("here")

    bench.tasks.spawn(fails(), "the failing one")
    bench.loop.drive()
    assert bench.failures == [("the failing one", "LookupError('here')")]
    assert not bench.tasks.living


def test_a_task_that_awaits_something_foreign_is_ended_with_the_reason() -> None:
    bench = Bench()

    async def strays() -> None:
        await asyncio.Future(loop=bench.loop)

    bench.tasks.spawn(strays(), "stray")
    bench.loop.drive()
    assert "did not come from its Runtime" in bench.failures[0][1]
    assert not bench.tasks.living


def test_closing_unwinds_what_is_parked_even_if_it_awaits_or_raises_on_its_way() -> None:
    bench = Bench()
    never = bench.future()
    unwound: list[str] = []

    async def awaits() -> None:
        try:
            await never
        finally:
            unwound.append("awaits")
            await bench.future()

    async def raises() -> None:
        try:
            await never
        finally:
            unwound.append("raises")
            raise ValueError("on the way out")

    bench.tasks.spawn(awaits(), "awaits")
    bench.tasks.spawn(raises(), "raises")
    bench.loop.drive()
    assert unwound == []
    bench.tasks.spawn(raises(), "never begun")
    bench.tasks.close()
    assert unwound == ["awaits", "raises"] and not bench.tasks.living
    assert bench.failures == []
