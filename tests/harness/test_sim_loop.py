"""Scenes of the simulated event loop: order, asyncio's own primitives, and its ends."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from harness.sim.loop import Deadlock, Gate, SimLoop


def run(coroutine: Any) -> Any:
    loop = SimLoop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


def test_timers_fire_by_time_and_then_in_the_order_of_their_creation() -> None:
    loop = SimLoop()
    fired: list[str] = []
    for when, name in ((2, "c"), (1, "a"), (2, "d"), (1, "b")):
        loop.call_at_ns(when, fired.append, name)
    loop.drive()
    assert fired == ["a", "b", "c", "d"]
    assert loop.now_ns == 2


def test_what_a_timer_sets_off_runs_before_the_next_timer_of_the_same_instant() -> None:
    loop = SimLoop()
    fired: list[str] = []
    loop.call_at_ns(5, lambda: loop.call_soon(fired.append, "consequence"))
    loop.call_at_ns(5, fired.append, "next")
    loop.drive()
    assert fired == ["consequence", "next"]


def test_a_cancelled_timer_does_not_fire_and_moves_no_clock() -> None:
    loop = SimLoop()
    handle = loop.call_at_ns(9, pytest.fail, "a cancelled timer fired")
    handle.cancel()
    assert handle.cancelled()
    loop.drive()
    assert loop.now_ns == 0


def test_sleep_takes_simulated_time_to_the_nanosecond() -> None:
    async def main() -> int:
        await asyncio.sleep(3600.000000001)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        return loop.now_ns

    assert run(main()) == 3_600_000_000_001


def test_a_timeout_cancels_what_it_guards_and_its_finally_runs() -> None:
    unwound: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                try:
                    await asyncio.sleep(10)
                finally:
                    unwound.append(loop.time())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.5)
        assert loop.time() == 2.5

    run(main())
    assert unwound == [2.0]


def test_a_task_that_swallows_one_cancellation_can_be_cancelled_again() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
        await asyncio.sleep(10)
        return "never"

    async def main() -> None:
        task = asyncio.create_task(stubborn())
        await asyncio.sleep(1)
        task.cancel("first")
        await asyncio.sleep(2)
        assert not task.done()
        task.cancel("second")
        with pytest.raises(asyncio.CancelledError, match="second"):
            await task

    run(main())


def test_gather_queue_event_lock_and_task_group_work_unchanged() -> None:
    async def main() -> list[int]:
        queue: asyncio.Queue[int] = asyncio.Queue(maxsize=1)
        ready = asyncio.Event()
        lock = asyncio.Lock()
        got: list[int] = []

        async def producer() -> None:
            for n in range(3):
                async with lock:
                    await queue.put(n)
            ready.set()

        async def consumer() -> None:
            while not (ready.is_set() and queue.empty()):
                got.append(await asyncio.wait_for(queue.get(), 1))
                await asyncio.sleep(0.1)

        async with asyncio.TaskGroup() as group:
            group.create_task(producer())
            group.create_task(consumer())
        return got + await asyncio.gather(asyncio.sleep(1, 10), asyncio.sleep(2, 20))

    assert run(main()) == [0, 1, 2, 10, 20]


def test_context_variables_belong_to_their_task() -> None:
    name = contextvars.ContextVar("name", default="nobody")

    async def child(value: str) -> str:
        name.set(value)
        await asyncio.sleep(1)
        return name.get()

    async def main() -> list[str]:
        return [*await asyncio.gather(child("a"), child("b")), name.get()]

    assert run(main()) == ["a", "b", "nobody"]


def test_a_callback_that_fails_without_a_gate_ends_the_run() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_later(1, lambda: 1 / 0)
        await asyncio.sleep(5)

    loop = SimLoop()
    task = loop.create_task(main())
    with pytest.raises(ZeroDivisionError):
        loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)


def test_waiting_for_what_cannot_happen_is_a_deadlock_that_says_who_waits_and_when() -> None:
    async def main() -> None:
        await asyncio.sleep(1.5)
        await asyncio.Event().wait()

    loop = SimLoop()
    task = loop.create_task(main(), name="the waiter")
    with pytest.raises(Deadlock, match=r"at 1\.500000 s, yet the waiter still waits"):
        loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)


def test_a_loop_is_not_entered_twice_and_not_used_after_its_end() -> None:
    loop = SimLoop()

    async def main() -> None:
        with pytest.raises(RuntimeError, match="running already"):
            loop.run_until_complete(asyncio.sleep(0))
        with pytest.raises(RuntimeError, match="running"):
            loop.close()

    with pytest.warns(RuntimeWarning, match="never awaited"):
        loop.run_until_complete(main())
    loop.close()
    loop.close()
    unused = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="closed"):
        loop.run_until_complete(unused)
    unused.close()


def test_a_held_gate_keeps_order_and_lets_no_later_event_overtake() -> None:
    loop = SimLoop()
    gate = Gate(lambda problem: pytest.fail(repr(problem)))
    fired: list[str] = []
    for when, name in ((1, "a"), (2, "b"), (5, "same instant as the release"), (6, "later")):
        loop.post_ns(when, fired.append, name, gate=gate)
    off = loop.call_at_ns(3, fired.append, "called off while it waited", gate=gate)
    gate.open = False
    loop.post_ns(4, off.cancel)
    # Made last, so it fires behind the one of the same instant; that one is in the backlog by then.
    loop.post_ns(5, loop.release, gate)
    loop.drive()
    assert fired == ["a", "b", "same instant as the release", "later"]


def test_a_release_comes_before_what_is_due_at_the_same_instant() -> None:
    loop = SimLoop()
    gate = Gate(lambda problem: pytest.fail(repr(problem)))
    fired: list[str] = []
    gate.open = False
    loop.post_ns(1, fired.append, "first", gate=gate)
    loop.post_ns(5, loop.release, gate)
    loop.post_ns(5, fired.append, "second", gate=gate)
    loop.drive()
    assert fired == ["first", "second"]


def test_a_shut_gate_lets_nothing_through_and_a_failure_behind_a_gate_is_told_to_it() -> None:
    loop = SimLoop()
    problems: list[BaseException] = []
    gate = Gate(problems.append)
    loop.post_ns(1, lambda: 1 / 0, gate=gate)
    loop.post_ns(2, lambda: setattr(gate, "open", False) or setattr(gate, "shut", True))
    loop.post_ns(3, pytest.fail, "something passed a shut gate", gate=gate)
    loop.drive()
    assert [type(p) for p in problems] == [ZeroDivisionError]
    assert gate.backlog == []
