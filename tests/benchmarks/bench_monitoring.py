"""What monitoring costs: of one request, of one scrape, and as a share of a small PUT.

    python tests/benchmarks/bench_monitoring.py

The PUT is measured in the simulator, with all of its three replicas, as CPU time. Nodes do there what they do in containers, but
make no system call, so that the share is if anything too high. With and without take turns in pairs; the median pair counts.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from time import monotonic_ns, perf_counter, process_time
from timeit import repeat
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[2]))

from harness.samples import parse
from harness.sim.world import SimWorld
from store.config import Config
from store.metrics import Latencies, Metrics
from store.node import Node

NODES = ("n1", "n2", "n3")
PUTS = 4_000
PAIRS = 9


def nanoseconds(statement: str, **names: Any) -> float:
    """Of one execution, the loop itself taken off."""
    count = 200_000
    best = min(repeat(statement, globals=names, number=count, repeat=7))
    return (best - min(repeat("pass", number=count, repeat=7))) * 1e9 / count


def puts(*, scrapes: int = 0) -> tuple[float, float, bytes]:
    """CPU seconds of so many PUTs, wall seconds of one scrape, and its page."""
    config = dict.fromkeys(NODES, "")
    nodes: dict[str, Node] = {}

    def build(node: str, runtime: Any) -> Node:
        nodes[node] = Node(Config(node=node, peers=config), runtime)
        return nodes[node]

    world = SimWorld(NODES, 1, build)
    spent = scrape = 0.0
    page = b""

    async def main() -> None:
        nonlocal spent, scrape, page
        await world.start()
        transport = world.transport("n1", client="0")
        began = process_time()
        for i in range(PUTS):
            request = f"PUT /kv/b/k{i} HTTP/1.1\r\nContent-Length: 5\r\n\r\nvalue".encode()
            await transport.request(request, 5_000_000_000)
        spent = process_time() - began
        for _ in range(scrapes):
            began = perf_counter()
            page = nodes["n1"].exposition()
            scrape = min(scrape or 1.0, perf_counter() - began)
        await world.stop()

    world.run(main())
    return spent, scrape, page


class Unwatched(Latencies):
    """Latencies that nobody keeps."""

    __slots__ = ()

    def observe(self, duration_ns: int) -> None:
        pass


def main() -> None:
    metrics, latencies = Metrics(), Latencies()
    observe = nanoseconds("observe(1)", observe=latencies.observe)
    clock = nanoseconds("mono()", mono=monotonic_ns)
    counter = nanoseconds("m.replica_writes += 1", m=metrics)
    whole = observe + 2 * clock + 3 * counter
    print(f"observe a latency       {observe:7.0f} ns")
    print(f"read the clock          {clock:7.0f} ns, twice a request")
    print(f"count                   {counter:7.0f} ns, about three times a request")
    print(f"together                {whole:7.0f} ns a request")

    shares: list[float] = []
    per_put = 0.0
    for _ in range(PAIRS):
        with_metrics, _, _ = puts()
        with mock.patch.object(Latencies, "observe", Unwatched.observe):
            without, _, _ = puts()
        shares.append((with_metrics - without) / without)
        per_put = min(per_put or 1.0, with_metrics / PUTS)
    _, scrape, page = puts(scrapes=50)
    print(f"a PUT, three replicas   {per_put * 1e6:7.1f} us of CPU")
    print(f"monitoring's share      {100 * whole / 1e9 / per_put:7.2f} % (by the parts)")
    print(
        f"                        {100 * statistics.median(shares):7.2f} % (with and without, median of {PAIRS} pairs;"
        f" {100 * min(shares):.1f} to {100 * max(shares):.1f})"
    )
    print(
        f"a scrape                {scrape * 1e6:7.0f} us, {len(parse(page))} series, {len(page)} bytes:"
        f" {100 * scrape / 15:.4f} % of a core at one every 15 s"
    )


if __name__ == "__main__":
    main()
