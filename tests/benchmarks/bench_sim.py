"""What the simulator costs: microseconds of processor time for each primitive, and simulated seconds per second.

    python tests/benchmarks/bench_sim.py [simulated seconds]

The best of three is printed, since other work on the machine can only make it slower.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from harness.sim.draws import Draws
from harness.sim.loop import Gate, SimLoop
from harness.sim.network import Network
from harness.sim.runtime import Machine, SimRuntime
from harness.sim.trace import Trace
from harness.sim.world import SimWorld
from harness.world import Refused, Silence
from store.config import Config
from store.node import Node
from store.runtime import Runtime

NODES = ("n1", "n2", "n3", "n4", "n5")
OK = b"HTTP/1.1 200 OK\r\n\r\n"
ROUNDS = 1000
TASKS = 50


def best(measure: Callable[[], float]) -> float:
    return min(measure() for _ in range(3))


class Bench:
    """Five lives on a bare loop."""

    def __init__(self) -> None:
        self.loop = SimLoop()
        self.trace = Trace()
        draws = Draws(1)
        self.network = Network(self.loop, NODES, draws, self.trace)
        self.lives = [
            SimRuntime(self.loop, Machine(node, self.loop, draws), self.network, 1, self.trace, 1)
            for node in NODES
        ]

    def drive_us(self, events: int) -> float:
        began = time.process_time()
        self.loop.drive()
        self.trace.flush()
        return (time.process_time() - began) / events * 1e6


def timers_us() -> float:
    bench = Bench()
    gate = Gate(print)
    left = [ROUNDS * TASKS]

    def tick(k: int) -> None:
        if left[0] > 0:
            left[0] -= 1
            bench.loop.post_ns(bench.loop.now_ns + 1000 + k, tick, k, gate=gate)

    for k in range(300):
        tick(k)
    return bench.drive_us(ROUNDS * TASKS)


def messages_us() -> float:
    bench = Bench()
    left = [ROUNDS * TASKS]

    def listen(life: SimRuntime) -> None:
        def hear(src: str, frame: bytes) -> None:
            if left[0] > 0:
                left[0] -= 1
                life.net.send(src, frame)

        life.net.on_message(hear)

    for life in bench.lives:
        listen(life)
    for life in bench.lives:
        for dst in NODES:
            for _ in range(TASKS // 5):
                life.net.send(dst, b"x" * 80)
    return bench.drive_us(ROUNDS * TASKS)


def tasks_us(work: Callable[[SimRuntime], Coroutine[Any, Any, None]]) -> Callable[[], float]:
    """How long one round of `work` takes, fifty tasks side by side."""

    def measure() -> float:
        bench = Bench()
        for life in bench.lives:
            for _ in range(TASKS // 5):
                life.spawn(work(life), name="work")
        return bench.drive_us(ROUNDS * TASKS)

    return measure


async def sleeps(life: SimRuntime) -> None:
    for _ in range(ROUNDS):
        await life.sleep(1000)


async def syncs(life: SimRuntime) -> None:
    for _ in range(ROUNDS):
        life.disk.append("log", b"x" * 100)
        await life.disk.fsync("log")


async def nothing() -> None:
    pass


async def spawns(life: SimRuntime) -> None:
    for _ in range(ROUNDS):
        life.spawn(nothing(), name="nothing")
        await life.sleep(1000)


def draws_us() -> float:
    draw = Draws(1)
    began = time.process_time()
    for k in range(ROUNDS * TASKS):
        draw("what", "n1", k)
    return (time.process_time() - began) / (ROUNDS * TASKS) * 1e6


class Toy:
    """Writes to three nodes, waits for two of them to have it on disk: the least that a replicated store does."""

    def __init__(self, name: str, runtime: Runtime) -> None:
        self.runtime = runtime
        at = NODES.index(name)
        self.replicas = [NODES[(at + k) % 5] for k in range(3)]
        self.open: dict[bytes, list[Any]] = {}
        self.next = 0

    async def start(self) -> None:
        self.runtime.net.on_message(self.received)

    def received(self, src: str, frame: bytes) -> None:
        if frame[:1] == b"W":
            self.runtime.spawn(self.write(src, frame), name="write")
        elif waiting := self.open.get(frame[1:9]):
            waiting[0] += 1
            if waiting[0] == 2:
                del self.open[frame[1:9]]
                waiting[2].cancel()
                waiting[1].set_result(True)

    async def write(self, src: str, frame: bytes) -> None:
        self.runtime.disk.append("log", frame)
        await self.runtime.disk.fsync("log")
        self.runtime.net.send(src, b"A" + frame[1:9])

    async def http(self, request: bytes) -> bytes:
        if request.startswith(b"GET /ping"):
            return OK
        self.next += 1
        id = self.next.to_bytes(8, "big")
        done = self.runtime.future()
        self.open[id] = [0, done, self.runtime.call_later(1_000_000_000, done.set_result, False)]
        for replica in self.replicas:
            self.runtime.net.send(replica, b"W" + id + request)
        await done
        return OK


def store_node(name: str, runtime: Runtime) -> Node:
    return Node(Config(node=name, peers={node: node for node in NODES}), runtime)


def world_figures(build: Callable[[str, Any], Any], seconds: float) -> tuple[float, float, float]:
    """(simulated seconds per second, events per second, events per operation) at 100 operations a second."""
    world = SimWorld(NODES, 1, build)
    operations = [0]

    async def client(number: int) -> None:
        transport = world.transport(NODES[number % 5], client=str(number))
        turn, context = 0, ""
        while world.now_ns() < seconds * 1e9:
            turn += 1
            key = f"/kv/b/k{(turn // 2 * 7 + number) % 20}"
            body = b"x" * 60
            if turn % 2:
                request = f"GET {key} HTTP/1.1\r\nHost: n\r\n\r\n".encode()
            else:
                request = (
                    f"PUT {key} HTTP/1.1\r\nHost: n\r\n{context}Content-Length: 60\r\n\r\n".encode() + body
                )
            try:
                response = await transport.request(request, 2_000_000_000)
            except (Refused, Silence):
                response = b""
            at = response.find(b"X-Causal-Context: ")
            context = response[at : response.find(b"\r\n", at) + 2].decode() if at >= 0 else ""
            operations[0] += 1
            await world.sleep(95_000_000)

    async def main() -> None:
        await world.start()
        for task in [world.spawn(client(number), name="client") for number in range(10)]:
            await task

    began = time.process_time()
    world.run(main())
    spent = time.process_time() - began
    return seconds / spent, world.loop.events / spent, world.loop.events / operations[0]


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    for name, measure in (
        ("timer", timers_us),
        ("message", messages_us),
        ("sleep", tasks_us(sleeps)),
        ("append and fsync", tasks_us(syncs)),
        ("spawn and sleep", tasks_us(spawns)),
        ("draw", draws_us),
    ):
        print(f"{name:<18}{best(measure):6.2f} us")
    for name, build in (("toy", Toy), ("store", store_node)):
        figures = max(world_figures(build, seconds) for _ in range(3))
        print(
            f"{name:<18}{figures[0]:6.0f} simulated seconds/s, {figures[1]:.0f} events/s, {figures[2]:.1f} events/op"
        )


if __name__ == "__main__":
    main()
