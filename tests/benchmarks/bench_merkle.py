"""Measures anti-entropy: building and updating trees, their memory, and what exchanges send.

    python tests/benchmarks/bench_merkle.py

Nothing here passes or fails. Bytes are those of the real messages between two nodes in the simulator; only CPU times depend on
the machine, and each is the best of several.
"""

from __future__ import annotations

import http.client
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from time import process_time
from typing import Any

sys.path[:0] = [
    str(Path(__file__).parents[1]),
    str(Path(__file__).parents[2]),
    str(Path(__file__).parents[1] / "store"),
]

from cluster import SECOND, Cluster  # noqa: E402 # found by the path above
from node_processes import NodeProcesses  # noqa: E402 # found by the path above
from planted import Nodes, record  # noqa: E402 # found by the path above

from nemeses.fault import HealPartition, Partition  # noqa: E402 # found by the path above
from store.merkle import TokenRange, depth_for, entry_hash  # noqa: E402 # found by the path above
from store.ring import token  # noqa: E402 # found by the path above

MILLION = 1_000_000


def best(times: int, work: Callable[[], Any]) -> float:
    found = float("inf")
    for _ in range(times):
        began = process_time()
        work()
        found = min(found, process_time() - began)
    return found


def trees() -> None:
    for ranges in (1, 32):
        held = [TokenRange(ranges) for _ in range(ranges)]
        for i in range(MILLION):
            key = b"bucket/key-%d" % i
            held[token(key) * ranges >> 64].records[key] = record(b"value-%d" % i)

        def build(held: list[TokenRange] = held) -> None:
            for r in held:
                r.tree = None
                r.built()

        seconds = best(3, build)
        tracemalloc.start()
        build()
        current, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        print(
            f"build, {MILLION:,} keys in {ranges} ranges: {seconds:.3f} s; "
            f"kept {current / 1e6:.1f} MB, {peak / 1e6:.1f} MB at the peak"
        )
    r, key = held[0], next(iter(held[0].records))
    key_token, old, new = token(key), r.records[key], record(b"another", 2)
    tree, difference = r.built(), entry_hash(token(key), b"x")
    n = 200_000

    def hashes() -> None:
        for _ in range(n):
            entry_hash(key_token, old)
            entry_hash(key_token, new)

    def updates() -> None:
        for _ in range(n):
            tree.change(key_token, difference)

    def puts() -> None:
        for _ in range(n):
            r.put(key, key_token, new)

    print(
        f"update of leaf and root: {best(5, updates) / n * 1e6:.2f} us; with both hashes {best(5, puts) / n * 1e6:.2f} us, "
        f"of which the hashes {best(5, hashes) / n * 1e6:.2f} us"
    )


def exchanges(ranges: int, diverged: int) -> None:
    """Two of a million keys' replicas, of which some records are newer on one of them and some on the other."""
    nodes = Nodes(token_ranges=ranges, anti_entropy=False, anti_entropy_bytes_per_second=1 << 40)

    async def scene(c: Cluster) -> None:
        sets = [nodes[name].replica.ranges for name in ("n1", "n2")]
        for i in range(MILLION):
            key = b"b/k%d" % i
            number = token(key) * ranges >> 64
            value = record(b"v")
            for held in sets:
                held[number].records[key] = value
        for held in sets:
            for r in held.values():
                r.tree = None
                r.built()
        step = MILLION // diverged
        for i in range(diverged):
            key = b"b/k%d" % (i * step)
            sets[i % 2][token(key) * ranges >> 64].put(key, token(key), record(b"new", 2))
        began_ns, cpu = c.world.now_ns(), process_time()
        for number in range(ranges):
            assert await nodes.exchange("n1", "n2", number)
        seconds, cpu = (c.world.now_ns() - began_ns) / 1e9, process_time() - cpu
        assert nodes.held("n1") == nodes.held("n2")
        counters = [nodes[name].anti_entropy.counters for name in ("n1", "n2")]
        total = sum(k.bytes_sent for k in counters)
        records = sum(k.record_bytes_sent for k in counters)
        keys = sum(k.keys_sent for k in counters)
        print(
            f"{diverged:,} of {MILLION:,} keys diverged, {ranges} ranges: {(total - records) / diverged:.0f} bytes a key beside "
            f"keys and records, {total / diverged:.0f} with them; {keys / diverged:.2f} records sent a key; one range after "
            f"the other {seconds:.1f} simulated s, {cpu:.1f} s of CPU for both nodes"
        )

    nodes.play(scene)


def idle() -> None:
    nodes = Nodes(anti_entropy_interval_ms=1_000)

    async def scene(c: Cluster) -> None:
        for name in ("n1", "n2", "n3"):
            nodes.plant(name, range(10_000))
        await c.world.sleep(3 * SECOND)
        counters = [nodes[name].anti_entropy.counters for name in ("n1", "n2", "n3")]
        before = sum(k.bytes_sent for k in counters), sum(k.exchanges for k in counters)
        await c.world.sleep(60 * SECOND)
        total = sum(k.bytes_sent for k in counters) - before[0]
        pairs = sum(k.exchanges for k in counters) - before[1]
        print(f"idle: {total / pairs:.1f} bytes for each range, peer and interval, of which the root is 8")

    nodes.play(scene)


def heal() -> None:
    """Ten thousand keys written while one of three nodes was cut off."""
    nodes = Nodes(anti_entropy_interval_ms=5_000)

    async def scene(c: Cluster) -> None:
        for name in ("n1", "n2", "n3"):
            nodes.plant(name, range(100_000))
        await c.world.sleep(2 * SECOND)
        links = [(a, b) for a in ("n1", "n2") for b in ("n3",)]
        await c.world.inject(Partition("isolate", tuple(links + [(b, a) for a, b in links])))
        await c.world.sleep(5 * SECOND)
        for name in ("n1", "n2"):
            nodes.plant(name, range(0, 100_000, 10), b"new", 2)
        await c.world.sleep(SECOND)
        await c.world.inject(HealPartition())
        began_ns, cpu = c.world.now_ns(), process_time()
        while not nodes.agree:
            await c.world.sleep(SECOND // 20)
        print(
            f"10,000 of 100,000 keys diverged: equal {(c.world.now_ns() - began_ns) / 1e9:.2f} simulated s after the heal, "
            f"{process_time() - cpu:.1f} s of CPU for three nodes and this look at them"
        )

    nodes.play(scene)


def over_sockets() -> None:
    """Ten thousand keys overwritten while one of three real nodes was dead. Seconds depend on the machine and its load."""
    settings = {"hinted_handoff": False, "sloppy": False, "read_repair": "off"}
    with (
        tempfile.TemporaryDirectory() as directory,
        NodeProcesses(Path(directory), **settings) as ring,
        closing(http.client.HTTPConnection("127.0.0.1", ring.http_ports["a"])) as connection,
    ):

        def overwrite() -> None:
            for i in range(10_000):
                connection.request("PUT", f"/kv/b/k{i}", b"x" * 100)
                assert connection.getresponse().read() == b""

        def alike() -> bool:
            return len({ring.ask(name, "GET", "/admin/digest").body for name in "abc"}) == 1

        overwrite()
        while not alike():
            time.sleep(0.1)
        ring.kill("c")
        overwrite()
        ring.start("c")
        began = time.monotonic()
        while not alike():
            time.sleep(0.05)
        print(
            f"10,000 keys diverged, three processes: equal {time.monotonic() - began:.1f} s after the dead one answers"
        )


def main() -> None:
    print(f"a tree of {MILLION:,} keys has 2**{depth_for(MILLION)} leaves")
    trees()
    idle()
    heal()
    over_sockets()
    for ranges in (1, 32):
        for diverged in (10, 1_000):
            exchanges(ranges, diverged)


if __name__ == "__main__":
    main()
