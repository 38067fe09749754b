"""What a key costs one node beyond its value, and what a clock costs a record.

    python tests/benchmarks/bench_memory.py [--keys 1000000] [--bytes 20]

One node on the real runtime takes all keys as a replica does, by messages of a peer, in batches that are synced; then its trees
are built. Counted is what the process has grown by (resident set, after a collection), less the values: index, trees, the log's
bookkeeping, caches, and the keys' own names. Goals: 350 bytes a key, 60 bytes of clock for three entries.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import tempfile
from pathlib import Path

import uvloop

from store import messages, versions
from store.config import Config
from store.messages import Write
from store.node import Node
from store.server.runtime import RealRuntime
from store.versions import EMPTY, Record

WALL_NS = 1_800_000_000_000_000_000
BATCH = 2_000


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def clock_bytes(entries: int) -> int:
    """Of a record's encoding, with counters that no longer fit a byte."""
    record = EMPTY
    for i in range(entries):
        for _ in range(200):
            record = versions.put(record, record.clock, (1 << 63) + i * 12_345_678_901, WALL_NS + i, b"")
    without = Record((), record.versions)
    return len(versions.encode(record)) - len(versions.encode(without))


def written(number: int, size: int) -> bytes:
    body = number.to_bytes(8, "big") * (size // 8 + 1)
    return versions.encode(versions.put(EMPTY, (), (1 << 63) + 7, WALL_NS + number, body[:size]))


async def measure(keys: int, size: int) -> float:
    """Bytes a key beyond the value."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        peers = {"a": "127.0.0.1:1", "b": "127.0.0.1:1", "c": "127.0.0.1:1"}
        config = Config(node="a", peers=peers, directory=directory)
        runtime = RealRuntime(config, asyncio.get_running_loop())
        node = Node(config, runtime)
        await node.start()
        gc.collect()
        before = resident_bytes()
        for begin in range(0, keys, BATCH):
            for number in range(begin, min(begin + BATCH, keys)):
                frame = messages.encode(Write(number, b"bench/%08d" % number, written(number, size), "", 0))
                node.received("b", frame)
            settled = node.replica.settled()
            if settled is not None:
                await settled
        node.replica.digests()
        gc.collect()
        grown = resident_bytes() - before
        assert len(node.replica) == keys
        return grown / keys - size


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--bytes", type=int, default=20, help="size of a value")
    options = parser.parse_args()
    print(f"Python {sys.version.split()[0]}: {' '.join(sys.argv)}")
    for entries in (1, 3, 10):
        print(f"clock of {entries:2} entries: {clock_bytes(entries):4} bytes")
    empty, full = versions.encode(EMPTY), written(1, 0)
    print(
        f"record of one value with its dot and clock: {len(full)} bytes and the value's own (nothing: {len(empty)})"
    )
    beyond = uvloop.run(measure(options.keys, options.bytes))
    print(
        f"{options.keys:,} keys: {beyond:.0f} bytes a key beyond the value, trees and the key's name included"
    )


if __name__ == "__main__":
    main()
