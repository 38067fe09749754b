"""What a look of the reaper at every record costs: `python tests/benchmarks/bench_reaper.py [keys]`.

Prints microseconds a record, and the share of one CPU that this is when every record is looked at once in the default interval.
"""

from __future__ import annotations

import sys
from time import perf_counter

from store import versions
from store.config import Config
from store.versions import Record, Version

WALL_NS = 1_790_000_000_000_000_000


def main(keys: int) -> None:
    records = [
        versions.encode(Record(((i << 24, 1, WALL_NS),), (Version(i << 24, 1, WALL_NS, bytes(100)),)))
        for i in range(keys)
    ]
    costs: list[float] = []
    for _ in range(5):
        began = perf_counter()
        for encoded in records:
            versions.due(versions.decode_once(encoded), WALL_NS)
        costs.append((perf_counter() - began) / keys)
    interval_seconds = Config(node="n", peers={"n": ""}).reap_interval_ms / 1_000
    share = min(costs) * keys / interval_seconds
    print(f"{keys:,} records: {min(costs) * 1e6:.2f} us each (best of 5; worst {max(costs) * 1e6:.2f})")
    print(f"every {interval_seconds:g} s: {share:.2%} of a CPU")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
