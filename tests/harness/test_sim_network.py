"""Scenes of the simulated network: order, delay, partitions, and what dies with a connection."""

from __future__ import annotations

import pytest

from harness.sim.draws import Draws
from harness.sim.loop import Gate, SimLoop
from harness.sim.network import GIVE_UP_NS, Network, SimNet
from harness.sim.trace import Trace

MS = 1_000_000


class Bench:
    """Three nodes that write down what they hear and when."""

    def __init__(self, seed: int = 1) -> None:
        self.loop = SimLoop()
        self.trace = Trace()
        self.network = Network(self.loop, ("a", "b", "c"), Draws(seed), self.trace)
        self.heard: list[tuple[str, str, bytes]] = []
        self.times_ns: list[int] = []
        self.gates: dict[str, Gate] = {}
        self.nets: dict[str, SimNet] = {}
        for node in ("a", "b", "c"):
            self.live(node)

    def live(self, node: str) -> None:
        gate = self.gates[node] = Gate(lambda problem: pytest.fail(repr(problem)))
        self.nets[node] = SimNet(self.loop, self.network, node, gate, self.trace)

        def hear(src: str, frame: bytes) -> None:
            self.heard.append((src, node, frame))
            self.times_ns.append(self.loop.now_ns)

        self.nets[node].on_message(hear)

    def die(self, node: str) -> int:
        self.gates[node].open, self.gates[node].shut = False, True
        return self.network.died(node)

    def send(self, src: str, dst: str, *frames: bytes) -> None:
        for frame in frames:
            self.nets[src].send(dst, frame)

    def at_ms(self, ms: float, *calls: object) -> None:
        fn, *args = calls
        assert callable(fn)
        self.loop.post_ns(int(ms * MS), fn, *args)

    def frames(self, src: str, dst: str) -> list[bytes]:
        return [frame for a, b, frame in self.heard if (a, b) == (src, dst)]


NUMBERED = [b"%d" % k for k in range(200)]


def test_a_link_is_first_in_first_out_whatever_the_delays() -> None:
    bench = Bench()
    for k, frame in enumerate(NUMBERED):
        bench.at_ms(k / 10, bench.send, "a", "b", frame)
    bench.loop.drive()
    assert bench.frames("a", "b") == NUMBERED


def test_links_are_independent_of_each_other() -> None:
    def times(extra: bool) -> list[int]:
        bench = Bench()
        if extra:
            bench.send("c", "b", *NUMBERED)
            bench.send("b", "a", *NUMBERED)
        bench.send("a", "b", *NUMBERED[:20])
        bench.loop.drive()
        return [t for t, h in zip(bench.times_ns, bench.heard, strict=True) if h[:2] == ("a", "b")]

    assert times(extra=False) == times(extra=True)


def test_delays_are_those_of_a_local_network_with_a_tail() -> None:
    bench = Bench()
    for k in range(3000):
        bench.at_ms(k * 20, bench.send, "a", "b", b"")
    bench.loop.drive()
    delays_ms = sorted((t - k * 20 * MS) / MS for k, t in enumerate(bench.times_ns))
    assert delays_ms[0] >= 0.3 and delays_ms[1500] < 0.9 and 1.5 < delays_ms[-1] < 15.1
    assert sum(d > 1.5 for d in delays_ms) == pytest.approx(30, abs=20)


def test_a_node_hears_itself_at_once_and_no_partition_comes_between() -> None:
    bench = Bench()
    everything = [(x, y) for x in "abc" for y in "abc"]
    bench.network.partition(everything, "drop")
    bench.send("a", "a", b"me")
    bench.loop.drive()
    assert bench.heard == [("a", "a", b"me")]
    assert bench.loop.now_ns < 30_000


def test_a_cut_in_one_direction_leaves_the_other() -> None:
    bench = Bench()
    bench.network.partition([("a", "b")], "reject")
    bench.send("a", "b", b"lost")
    bench.send("b", "a", b"heard")
    bench.loop.drive()
    assert bench.heard == [("b", "a", b"heard")]
    assert (bench.network.carries("a", "b"), bench.network.carries("b", "a")) == (False, True)
    assert bench.network.hit == 1


def test_a_short_drop_only_delays_and_keeps_the_order() -> None:
    bench = Bench()
    bench.network.partition([("a", "b")], "drop")
    bench.send("a", "b", *NUMBERED[:5])
    bench.at_ms(1500, bench.network.partition, (), "drop")
    bench.at_ms(1501, bench.send, "a", "b", *NUMBERED[5:10])
    bench.loop.drive()
    assert bench.frames("a", "b") == NUMBERED[:10]
    assert 1501 * MS <= bench.times_ns[0] <= 3000 * MS
    assert bench.network.hit == 5


def test_a_long_drop_resets_the_connection_and_what_it_held_is_lost() -> None:
    bench = Bench()
    bench.network.partition([("a", "b")], "drop")
    bench.send("a", "b", b"lost")
    bench.at_ms(GIVE_UP_NS / MS + 1, bench.send, "a", "b", b"on a new connection")
    bench.at_ms(GIVE_UP_NS / MS + 500, bench.network.partition, (), "drop")
    bench.loop.drive()
    assert bench.frames("a", "b") == [b"on a new connection"]


def test_a_rejecting_partition_loses_at_once_what_a_dropping_one_held_up() -> None:
    bench = Bench()
    bench.network.partition([("a", "b")], "drop")
    bench.send("a", "b", b"stalled")
    bench.network.partition([("a", "b")], "reject")
    bench.network.partition((), "drop")
    bench.send("a", "b", b"after")
    bench.loop.drive()
    assert bench.frames("a", "b") == [b"after"]


def test_a_new_partition_replaces_the_old_one() -> None:
    bench = Bench()
    bench.network.partition([("a", "b"), ("a", "c")], "drop")
    bench.network.partition([("b", "c")], "drop")
    assert [link for link in (("a", "b"), ("a", "c"), ("b", "c")) if not bench.network.carries(*link)] == [
        ("b", "c")
    ]


def test_what_flies_to_a_dying_node_is_lost_and_never_reaches_its_next_life() -> None:
    bench = Bench()
    bench.send("a", "b", b"to the dead")
    bench.at_ms(0.1, bench.die, "b")
    bench.at_ms(0.2, bench.send, "a", "b", b"to nobody")
    bench.at_ms(0.25, bench.live, "b")
    bench.at_ms(0.26, bench.send, "a", "b", b"to the living")
    bench.loop.drive()
    assert bench.frames("a", "b") == [b"to the living"]


def test_of_what_a_dying_node_had_sent_each_link_delivers_the_earlier_part() -> None:
    lengths: set[int] = set()
    for seed in range(40):
        bench = Bench(seed)
        bench.send("a", "b", *NUMBERED[:4])
        bench.at_ms(0.1, bench.die, "a")
        bench.loop.drive()
        got = bench.frames("a", "b")
        assert got == NUMBERED[: len(got)]
        lengths.add(len(got))
    assert lengths == {0, 1, 2, 3, 4}


def test_a_death_loses_what_a_partition_had_stalled() -> None:
    bench = Bench()
    bench.network.partition([("a", "b"), ("b", "a")], "drop")
    bench.send("a", "b", b"to b")
    bench.send("b", "a", b"from b")
    assert bench.die("b") == 2
    bench.live("b")
    bench.network.partition((), "drop")
    bench.loop.drive()
    assert bench.heard == []


def test_a_node_that_nobody_knows_is_sent_into_the_void() -> None:
    bench = Bench()
    bench.send("a", "nobody", b"x")
    bench.loop.drive()
    assert bench.heard == []


def test_a_rejecting_partition_cuts_what_flies_at_a_drawn_point() -> None:
    lengths: set[int] = set()
    for seed in range(40):
        bench = Bench(seed)
        bench.send("a", "b", *NUMBERED[:4])
        bench.send("b", "a", b"the other way")
        bench.at_ms(0.1, bench.network.partition, [("a", "b")], "reject")
        bench.loop.drive()
        got = bench.frames("a", "b")
        assert got == NUMBERED[: len(got)]
        assert bench.network.hit == 4 - len(got)
        assert bench.frames("b", "a") == [b"the other way"]
        lengths.add(len(got))
    assert lengths == {0, 1, 2, 3, 4}
