"""Samples of every node's metrics at a steady period, taken beside the run: nothing that happens in it depends on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from harness.world import World

FILE = "metrics.jsonl"
PERIOD_NS = 500_000_000


class Sample(msgspec.Struct, frozen=True):
    """One node's page, asked for at one moment. `values` by series, as `name{label="value"}`; None: it did not answer."""

    time: int
    node: str
    values: dict[str, float] | None


def parse(page: bytes) -> dict[str, float]:
    """The samples of a page in Prometheus' text format; NaN, which stands for no value, is left out.

    >>> parse(b'# TYPE a gauge\\na{b="c d"} 2\\ne NaN\\nf_total 1.5e3\\n')
    {'a{b="c d"}': 2.0, 'f_total': 1500.0}
    """
    values: dict[str, float] = {}
    for line in page.decode().splitlines():
        if line and line[0] != "#":
            series, _, text = line.rpartition(" ")
            value = float(text)
            if value == value:  # noqa: PLR0124 # NaN alone differs from itself
                values[series] = value
    return values


class Collector:
    """Asks every node of a world that has started, until it is stopped."""

    def __init__(self, world: World, take: Callable[[Sample], None], period_ns: int = PERIOD_NS) -> None:
        self._world = world
        self._take = take
        self._period_ns = period_ns
        self._tasks: list[Any] = []

    def start(self) -> None:
        for node in self._world.nodes:
            self._tasks.append(self._world.spawn(self._collect(node), name=f"metrics-{node}"))

    async def _collect(self, node: str) -> None:
        world = self._world
        due_ns = world.now_ns()
        while True:
            asked_ns = world.now_ns()
            page = await world.scrape(node)
            self._take(Sample(asked_ns, node, None if page is None else parse(page)))
            # Whoever is slow to answer misses looks, and is looked at again when all others are.
            due_ns += self._period_ns * max(1, -(-(world.now_ns() - due_ns) // self._period_ns))
            await world.sleep(due_ns - world.now_ns())

    def stop(self) -> None:
        """Stops at once: nobody waits for an answer that is under way."""
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()


class Writer:
    """Appends samples to a file, each flushed as it is taken."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")

    def take(self, sample: Sample) -> None:
        self._file.write(msgspec.json.encode(sample) + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> list[Sample]:
    """What a file holds, in order. A last line that was cut off is left out."""
    return list(_read(path.read_bytes().splitlines()))


def _read(lines: list[bytes]) -> Iterator[Sample]:
    decoder = msgspec.json.Decoder(Sample)
    for number, line in enumerate(lines, 1):
        try:
            yield decoder.decode(line)
        except msgspec.DecodeError:
            if number < len(lines):
                raise
