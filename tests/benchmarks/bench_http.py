"""PUTs and GETs a second over real sockets: three nodes, every write synced on W=2 of N=3, the load from this process.

    python tests/benchmarks/bench_http.py [--runs 5] [--seconds 5] [--connections 8] [--depth 32] [--bytes 100]

Each connection keeps `--depth` requests in flight. All keys are different, so no write makes a sibling. Beside the rate
stands the processor time that the three nodes and the load spent on one request: on a busy machine it says more than the rate.
Goals on two ordinary cores, everything on them included: 20,000 PUTs and 50,000 GETs a second.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple, cast

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1] / "store"))  # a script sees only its own directory
from node_processes import NodeProcesses

REQUESTS_MAX = 400_000


class Measured(NamedTuple):
    requests: int
    seconds: float
    latencies_ms: list[float]
    load_cpu_seconds: float
    node_cpu_seconds: float

    def line(self, what: str) -> str:
        ranked = sorted(self.latencies_ms)
        p50, p99 = ranked[len(ranked) // 2], ranked[len(ranked) * 99 // 100]
        return (
            f"{what}: {self.requests / self.seconds:8,.0f}/s  p50 {p50:6.1f} ms  p99 {p99:6.1f} ms  "
            f"cpu a request: nodes {self.node_cpu_seconds / self.requests * 1e6:5.1f} us, "
            f"load {self.load_cpu_seconds / self.requests * 1e6:4.1f} us"
        )


class Source:
    """Requests to send, each once, until none is left or the time is over."""

    def __init__(self, requests: list[bytes], seconds: float) -> None:
        self._requests = requests
        self._until = time.perf_counter() + seconds
        self.next = 0

    def take(self, count: int) -> list[bytes]:
        if time.perf_counter() > self._until:
            return []
        taken = self._requests[self.next : self.next + count]
        self.next += len(taken)
        return taken


class Load(asyncio.Protocol):
    """One connection that keeps `depth` requests in flight, and insists that every answer has the expected status."""

    def __init__(self, source: Source, depth: int, status: bytes) -> None:
        self._source = source
        self._depth = depth
        self._expected = b"HTTP/1.1 " + status
        self._rest = b""
        self._sent: deque[tuple[float, int]] = deque()
        self.answered = 0
        self.outstanding = 0
        self.latencies_ms: list[float] = []
        self.done = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._refill()

    def _refill(self) -> None:
        requests = self._source.take(self._depth - self.outstanding)
        if requests:
            self._sent.append((time.perf_counter(), len(requests)))
            self.outstanding += len(requests)
            self.transport.write(b"".join(requests))
        elif not self.outstanding and not self.done.done():
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        # Bodies are of letters that no status line has, so counting status lines counts answers.
        text = self._rest + data
        count = text.count(self._expected)
        if text.count(b"HTTP/1.1 ") > count + text.endswith(b"HTTP/1.1 "):
            cut = text.rfind(b"HTTP/1.1 ")
            if count + 1 < text.count(b"HTTP/1.1 ") or len(text) - cut >= len(self._expected):
                self.done.set_exception(AssertionError(f"an unexpected answer: {text[:500]!r}"))
                return
        self._rest = text[-(len(self._expected) - 1) :]
        self.answered += count
        self.outstanding -= count
        now = time.perf_counter()
        while count:
            began, pending = self._sent[0]
            answered = min(count, pending)
            self.latencies_ms.extend([(now - began) * 1e3] * answered)
            count -= answered
            if answered == pending:
                self._sent.popleft()
            else:
                self._sent[0] = (began, pending - answered)
        if self.outstanding <= self._depth // 2:
            self._refill()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("a node closed the connection"))


def cpu_seconds(pids: list[int]) -> float:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def measure(
    ring: NodeProcesses, requests: list[bytes], status: bytes, seconds: float, connections: int, depth: int
) -> tuple[Measured, int]:
    """The figures, and how many of the requests were sent."""
    loop = asyncio.get_running_loop()
    source = Source(requests, seconds)
    load_began, nodes_began = time.process_time(), cpu_seconds(ring.pids())
    began = time.perf_counter()
    loads: list[Load] = []
    for port in list(ring.http_ports.values()) * connections:
        _, load = await loop.create_connection(lambda: Load(source, depth, status), "127.0.0.1", port)
        loads.append(load)
    try:
        async with asyncio.timeout(seconds + 30):
            await asyncio.gather(*(load.done for load in loads))
        measured = Measured(
            sum(load.answered for load in loads),
            time.perf_counter() - began,
            [ms for load in loads for ms in load.latencies_ms],
            time.process_time() - load_began,
            cpu_seconds(ring.pids()) - nodes_began,
        )
    finally:
        for load in loads:
            load.transport.abort()
    return measured, source.next


def _ring(directory: str) -> NodeProcesses:
    # A loaded machine stalls a sync for longer than the usual limits: those are for nodes that died, not for this.
    return NodeProcesses(
        Path(directory), replica_timeout_ms=5_000, request_timeout_ms=10_000, suspect_after_ms=10_000
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1, help="rings to measure, one after the other")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each of the two runs may send")
    parser.add_argument("--connections", type=int, default=8, help="connections to each node")
    parser.add_argument("--depth", type=int, default=32, help="requests in flight on each connection")
    parser.add_argument("--bytes", type=int, default=100, help="size of a value")
    options = parser.parse_args()

    model = next(
        (s for s in Path("/proc/cpuinfo").read_text().splitlines() if s.startswith("model name")), "?"
    )
    print(
        f"{os.cpu_count()} x {model.partition(': ')[2]}, Python {platform.python_version()}: {' '.join(sys.argv)}"
    )
    body = b"v" * options.bytes
    paths = [b"/kv/bench/%08d" % i for i in range(REQUESTS_MAX)]
    head = b" HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n" % len(body)
    puts = [b"PUT " + path + head + body for path in paths]
    shape = (options.seconds, options.connections, options.depth)
    runs = [_run(paths, puts, shape) for _ in range(options.runs)]
    for what, of_kind in zip(("PUT", "GET"), zip(*runs, strict=True), strict=True):
        rates = sorted(m.requests / m.seconds for m in of_kind)
        cpu = sorted((m.node_cpu_seconds + m.load_cpu_seconds) / m.requests * 1e6 for m in of_kind)
        print(
            f"{what} in {len(rates)} runs: median {rates[len(rates) // 2]:,.0f}/s, from {rates[0]:,.0f} to {rates[-1]:,.0f}; "
            f"cpu a request {cpu[len(cpu) // 2]:.1f} us, from {cpu[0]:.1f} to {cpu[-1]:.1f}, "
            f"so that {os.cpu_count()} cores of its own would serve {(os.cpu_count() or 1) / cpu[len(cpu) // 2] * 1e6:,.0f}/s"
        )


def _run(paths: list[bytes], puts: list[bytes], shape: tuple[float, int, int]) -> tuple[Measured, Measured]:
    """PUTs, then GETs, of one fresh ring."""
    with tempfile.TemporaryDirectory() as directory, _ring(directory) as ring:
        put, written = uvloop.run(measure(ring, puts, b"204", *shape))
        print(put.line("PUT"))
        # A stride that shares no factor with the number of keys visits them all, out of order.
        order = [(i * 7_919) % written for i in range(REQUESTS_MAX)]
        gets = [b"GET " + paths[i] + b" HTTP/1.1\r\nHost: bench\r\n\r\n" for i in order]
        get, _ = uvloop.run(measure(ring, gets, b"200", *shape))
        print(get.line("GET"))
        for name in "abc":
            assert ring.stop(name) == 0, ring.log(name)
        return put, get


if __name__ == "__main__":
    main()
