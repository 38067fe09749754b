"""How many operations a second the interpreter records (an invocation and its completion are one operation).

    python tests/benchmarks/bench_interpreter.py [operations]

Clients answer at once, so that nothing is measured but generator, interpreter, recorder and journal. Goal: 100,000.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import uvloop

from harness.interpreter import interpret
from harness.world import World
from history.generator import Ask, Context, Generator, clients, draws, fn, limit, mix
from history.header import Header
from history.journal import Journal, MemoryJournal, Sink
from history.op import Op
from history.recorder import Recorder


class _Loop:
    """The part of a world that the interpreter uses, on a real loop."""

    name = "loop"
    nodes = ("n1", "n2", "n3", "n4", "n5")

    def __init__(self) -> None:
        self._start = time.monotonic_ns()

    def now_ns(self) -> int:
        return time.monotonic_ns() - self._start

    def sleep(self, delay_ns: int) -> Awaitable[None]:
        return asyncio.sleep(delay_ns / 1e9)

    def future(self) -> Any:
        return asyncio.get_running_loop().create_future()

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> Any:
        return asyncio.get_running_loop().create_task(coroutine, name=name)


class _Trivial:
    def __init__(self, process: int, node: str) -> None:
        pass

    def prepare(self, op: Op) -> Op:
        return op

    async def invoke(self, op: Op, recorder: Recorder) -> Op:
        return op.completed("ok", op.value)

    def close(self) -> None:
        pass


class _NoNemesis:
    def prepare(self, op: Op) -> Op:
        return op

    async def invoke(self, op: Op) -> Op:
        raise AssertionError("no faults here")


def _get(ctx: Context, i: int) -> Ask:
    return Ask("get", i % 10)


def _put(ctx: Context, i: int) -> Ask:
    return Ask("put", i % 10, i)


def measure(
    operations: int, generator: Generator, sink: Sink, *, concurrency: int, runner: Callable[[Any], Any]
) -> float:
    """Operations per second."""

    async def main() -> float:
        world = cast(World, _Loop())
        recorder = Recorder(sink, world.now_ns)
        begin = time.perf_counter()
        errors = await interpret(
            world, generator, _Trivial, _NoNemesis(), recorder, concurrency=concurrency, draw=draws(0)
        )
        assert not errors, errors[0]
        assert recorder.recorded == 2 * operations
        return operations / (time.perf_counter() - begin)

    return cast(float, runner(main()))


def main() -> None:
    operations = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    plain = limit(operations, fn("get", _get))
    mixed = clients(limit(operations, mix(fn("get", _get), fn("put", _put))))
    with tempfile.TemporaryDirectory() as folder:
        for loop, runner in (("asyncio", asyncio.run), ("uvloop", uvloop.run)):
            for title, generator in (("one function", plain), ("clients(limit(mix))", mixed)):
                for where in ("memory", "file"):
                    path = Path(folder) / f"{loop}-{title}.jsonl"
                    sink: Sink = Journal(path, Header()) if where == "file" else MemoryJournal(Header())
                    rate = measure(operations, generator, sink, concurrency=10, runner=runner)
                    sink.close()
                    print(f"{loop:8} {title:20} {where:7} {rate:>10,.0f} operations/s")


if __name__ == "__main__":
    main()
