"""The consistency horizon against the true age of the oldest divergence, worked out from the replicas themselves."""

from __future__ import annotations

from typing import Any

import pytest
from cluster import SECOND, Cluster

from harness.samples import parse
from harness.sim.draws import Draws
from harness.sim.world import SimWorld
from harness.world import Refused, Silence
from nemeses.fault import Kill, Restart
from nemeses.plan import healers, plan
from store import versions
from store.config import Config
from store.node import Node

NODES = ("n1", "n2", "n3", "n4", "n5")
KEYS = tuple(f"k{i}" for i in range(8))
FAMILIES = ("partition", "kill", "pause", "clock", "power")
INTERVAL_NS = 2 * SECOND
POLL_NS = SECOND // 10
LOAD_NS = 25 * SECOND
SETTLE_NS = 6 * SECOND
"""After the heal: peers are heard of again, and each pair is compared."""
CALM_NS = 12 * SECOND

Dot = tuple[int, int]


class Watched(Node):
    """A node that stands for its name only once it has recovered: until then its last life does."""

    def __init__(self, config: Config, runtime: Any, run: Run) -> None:
        super().__init__(config, runtime)
        self._run = run

    async def start(self) -> None:
        await super().start()
        self._run.standing[self.config.node] = self
        if not len(self.replica) and not self.hints.pending():
            self._run.truth.blank_ns[self.config.node] = self._run.world.now_ns()


class Truth:
    """Which writes some home replica, or a hint's holder, has and some home replica lacks; and since when.

    A write is known by its dot. It counts from the look at which it was first seen missing, so that an age is never
    too high; between two nodes neither of which answers nobody can be asked to know it, and one whose disk was wiped
    cannot know what was before.
    """

    def __init__(self, standing: dict[str, Node]) -> None:
        self._standing = standing
        self._dots: dict[bytes, set[Dot]] = {}
        self._since: dict[tuple[bytes, Dot, str, str], int] = {}
        self.blank_ns: dict[str, int] = {}
        """When a node came up that held nothing."""

    def age_ns(self, now_ns: int, answering: set[str]) -> int:
        """The age of the oldest divergence that a node knows of which answers."""
        seen: set[tuple[bytes, Dot, str, str]] = set()
        for name in KEYS:
            key = b"b/" + name.encode()
            homes = next(iter(self._standing.values())).coordinator.place(key).homes
            known = {home: self._standing[home].replica.load(key) for home in homes}
            clocks = {home: self._dots_of(key, encoded) for home, encoded in known.items()}
            for node in NODES:
                for target, hinted, encoded in self._standing[node].hints.pending():
                    if hinted == key and target in homes and node in answering:
                        for dot in self._live(encoded):
                            if not self._covers(clocks[target], dot):
                                seen.add((key, dot, target, node))
            for dot in self._dots.get(key, set()):
                for lacking in homes:
                    if not self._covers(clocks[lacking], dot):
                        seen.update(
                            (key, dot, lacking, holder)
                            for holder in homes
                            if self._covers(clocks[holder], dot)
                        )
        self._since = {d: self._since.get(d, now_ns) for d in seen}
        since_ns = [
            min(max(since, self.blank_ns.get(node, 0)) for node in (lacking, holder) if node in answering)
            for (_, _, lacking, holder), since in self._since.items()
            if lacking in answering or holder in answering
        ]
        return now_ns - min(since_ns, default=now_ns)

    def _dots_of(self, key: bytes, encoded: bytes) -> dict[int, int]:
        self._dots.setdefault(key, set()).update(self._live(encoded))
        return {actor: counter for actor, counter, _ in versions.decode(encoded).clock} if encoded else {}

    @staticmethod
    def _live(encoded: bytes) -> list[Dot]:
        return [(v.actor, v.counter) for v in versions.decode(encoded).versions] if encoded else []

    @staticmethod
    def _covers(clock: dict[int, int], dot: Dot) -> bool:
        return clock.get(dot[0], 0) >= dot[1]


class Run:
    """One seed: load and faults, then a calm; what was seen at every look."""

    def __init__(self, seed: int, **settings: Any) -> None:
        self.standing: dict[str, Node] = {}
        self.truth = Truth(self.standing)
        self.draw = Draws(seed, "truth")
        self.too_low: list[str] = []
        self.too_high: list[str] = []
        self.oldest_ns = 0
        self.oldest_calm_ns = 0
        self.calm_from_ns = LOAD_NS + SETTLE_NS
        config = {
            "peers": dict.fromkeys(NODES, ""),
            "anti_entropy_interval_ms": INTERVAL_NS // 1_000_000,
            "horizon_mark_ms": INTERVAL_NS // 1_000_000,
            "clock_entries_max": 1_000,
            **settings,
        }
        self.world = SimWorld(
            NODES, seed, lambda node, runtime: Watched(Config(node=node, **config), runtime, self)
        )

    def play(self) -> None:
        self.world.run(self._main())

    async def _main(self) -> None:
        world = self.world
        try:
            await world.start()
            for client in range(4):
                world.spawn(self._client(client), name=f"client-{client}")
            harms = [
                world.spawn(self._harm(), name="harm"),
                world.spawn(self._destroy(), name="destroy"),
            ]
            while world.now_ns() < self.calm_from_ns + CALM_NS:
                await world.sleep(POLL_NS)
                await self._look()
            for harm in harms:
                await harm  # or one that failed would have harmed nobody, in silence
        finally:
            await world.stop()

    async def _client(self, client: int) -> None:
        cluster = Cluster(self.world)
        turn = 0
        while self.world.now_ns() < self.calm_from_ns + CALM_NS // 2:
            turn += 1
            await self.world.sleep(SECOND // 20 + self.draw("pause", client, turn) % (SECOND // 5))
            node = NODES[self.draw("node", client, turn) % len(NODES)]
            key = KEYS[self.draw("key", client, turn) % len(KEYS)]
            try:
                read = await cluster.ask(node, "GET", f"/kv/b/{key}")
                context = read.headers.get("x-causal-context", "")
                await cluster.ask(node, "PUT", f"/kv/b/{key}", b"%d-%d" % (client, turn), context=context)
            except (Refused, Silence):
                continue

    async def _harm(self) -> None:
        for timed in plan(FAMILIES, NODES, LOAD_NS, 4 * SECOND, self.draw):
            await self.world.sleep(timed.at_ns - self.world.now_ns())
            await self.world.inject(timed.fault)
        await self.world.sleep(LOAD_NS - self.world.now_ns())
        for fault in healers(FAMILIES, NODES):
            await self.world.inject(fault)

    async def _destroy(self) -> None:
        """In two of three seeds one node loses its disk, or gets an old state of it back."""
        kind = self.draw("destroy") % 3
        node = NODES[self.draw("destroyed") % len(NODES)]
        platter = self.world._seats[node].machine.platter
        await self.world.sleep(SECOND * (2 + self.draw("snapshot") % 8))
        snapshot = platter.snapshot()
        await self.world.sleep(SECOND * (1 + self.draw("destruction") % 8))
        if kind == 0:
            return
        await self.world.inject(Kill((node,)))
        if kind == 1:
            platter.put_back({})
        else:
            platter.put_back(snapshot)
        await self.world.inject(Restart((node,)))

    async def _look(self) -> None:
        world = self.world
        pages = {node: await world.scrape(node) for node in NODES}
        said = {
            node: parse(page)["dynamo_consistency_horizon_seconds"]
            for node, page in pages.items()
            if page is not None
        }
        now_ns = world.now_ns()
        true_ns = self.truth.age_ns(now_ns, set(said))
        self.oldest_ns = max(self.oldest_ns, true_ns)
        horizon = max(said.values(), default=0.0)
        at = f"at {now_ns / 1e9:.1f} s the horizon is {horizon:.3f} s, and the truth {true_ns / 1e9:.3f} s"
        # A microsecond: seconds are printed as floats.
        if said and horizon * 1e9 < true_ns - 1_000:
            self.too_low.append(at)
        if now_ns >= self.calm_from_ns:
            self.oldest_calm_ns = max(self.oldest_calm_ns, true_ns)
            if horizon * 1e9 > true_ns + 2 * INTERVAL_NS:
                self.too_high.append(at)


def judge(seed: int) -> int:
    """Plays a seed; the age of the oldest divergence that there was."""
    run = Run(seed)
    run.play()
    assert run.too_low == [], f"seed {seed}"
    assert run.too_high == [], f"seed {seed}"
    return run.oldest_ns


def test_the_horizon_is_never_below_the_truth_nor_two_intervals_above_it_once_all_is_calm() -> None:
    oldest = [judge(seed) for seed in range(5)]
    assert max(oldest) > 3 * SECOND, "nothing ever diverged for long: this proves nothing"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 300))
def test_the_horizon_is_never_below_the_truth_over_many_seeds(seed: int) -> None:
    judge(seed)
