"""How long five containers take to answer, how fast a partition stands, and what a request through the bridge costs.

Run by hand: `python tests/benchmarks/bench_docker.py [ROUNDS]`. Needs an engine and the node image (`sunder image`).
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from harness.docker.engine import engine
from harness.docker.image import current
from harness.docker.world import DockerWorld
from nemeses.fault import HealPartition, Kill, Partition, Pause, Restart, Resume
from store.config import Config

NODES = ("n1", "n2", "n3", "n4", "n5")
HALVES = tuple((a, b) for a in NODES for b in NODES if (a in NODES[:2]) != (b in NODES[:2]))
PING = b"GET /ping HTTP/1.1\r\nHost: node\r\n\r\n"
PUT = b"PUT /kv/bench/key HTTP/1.1\r\nHost: node\r\nContent-Length: 100\r\n\r\n" + b"x" * 100
REQUESTS = 500


def config(node: str, addresses: dict[str, str]) -> bytes:
    peers = {name: f"{address}:8001" for name, address in addresses.items()}
    return msgspec.json.encode(Config(node=node, peers=peers))


def measure(tag: str, folder: Path, seen: dict[str, list[float]]) -> None:
    """One world from start to stop; appends milliseconds to `seen`."""
    world = DockerWorld(NODES, config, Path(__file__).parents[2], tag, folder, 1)

    def note(what: str, began: float) -> None:
        seen.setdefault(what, []).append((time.perf_counter() - began) * 1000)

    async def main() -> None:
        began = time.perf_counter()
        await world.start()
        note("five containers answer /ping", began)
        # The store's own start-up chatter would be measured too.
        await world.sleep(1_000_000_000)
        for _ in range(5):
            for what, fault in (
                ("partition 2|3", Partition("halves", HALVES)),
                ("heal", HealPartition()),
                ("reject 2|3", Partition("halves", HALVES, mode="reject")),
                ("replace by one-way", Partition("one-way", (("n1", "n2"),))),
                ("heal", HealPartition()),
            ):
                began = time.perf_counter()
                evidence = await world.inject(fault)
                assert evidence.verified, evidence
                note(f"{what}, probed and counted", began)
                applied = evidence.after["applied_us"]
                assert isinstance(applied, int)
                seen.setdefault(f"{what}, applied on all nodes", []).append(applied / 1000)
        for what, fault in (
            ("kill two", Kill(NODES[:2])),
            ("restart two until /ping", Restart(NODES[:2])),
            ("pause two", Pause(NODES[:2])),
            ("resume two", Resume(NODES[:2])),
        ):
            began = time.perf_counter()
            evidence = await world.inject(fault)
            assert evidence.verified, evidence
            note(what, began)
        transport = world.transport("n3", client="bench")
        for what, payload in (("GET /ping", PING), ("PUT, w = 2 of 3", PUT)):
            for _ in range(REQUESTS):
                began = time.perf_counter()
                await transport.request(payload, 5_000_000_000)
                note(what, began)
        transport.close()
        began = time.perf_counter()
        await world.stop()
        note("stop and remove", began)

    world.run(main())


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with contextlib.closing(engine()) as client:
        tag = current(client)
    seen: dict[str, list[float]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            measure(tag, Path(folder), seen)
    for what, figures in seen.items():
        print(
            f"{what:38} median {statistics.median(figures):9.2f} ms, "
            f"best {min(figures):9.2f}, worst {max(figures):9.2f}, n {len(figures)}"
        )


if __name__ == "__main__":
    main()
