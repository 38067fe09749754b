"""Scenes of the trace: the same run has the same hash in any process, and two that differ show where."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sim_toy import MS, SECOND, Toy, ask, play, world

from harness.sim.trace import CHUNK_EVENTS, Event, Trace, diverge, first_difference
from harness.sim.world import SimWorld
from nemeses.fault import HealPartition, Kill, Partition, Pause, PowerLoss, ResetClocks, Restart, Resume, Skew

FAULTS = (
    Partition("one-way", (("n1", "n2"), ("n1", "n3"))),
    Skew({"n1": 3 * SECOND, "n3": -SECOND}),
    HealPartition(),
    Kill(("n2",)),
    Pause(("n1",)),
    Restart(("n2",)),
    Resume(("n1",)),
    PowerLoss(("n1", "n3")),
    ResetClocks(),
    Restart(("n1", "n3")),
)


def eventful(seed: int = 1, *, extra: bool = False, record: tuple[int, ...] = ()) -> SimWorld:
    """A run with clients and every fault; `extra` sends one request more, late."""
    w = world(seed=seed, record=record)

    async def client(number: int) -> None:
        for turn in range(60):
            await ask(w, w.nodes[(number + turn) % 3], client=str(number), timeout_ns=300 * MS)
            await w.sleep(20 * MS)

    async def scene() -> None:
        clients = [w.spawn(client(number), name=f"client {number}") for number in range(4)]
        for fault in FAULTS:
            await w.inject(fault)
            await w.sleep(150 * MS)
        for task in clients:
            await task
        if extra:
            await ask(w, "n1", client="9")

    play(w, scene)
    return w


def in_another_process(hash_seed: str) -> str:
    here = Path(__file__).parent
    code = "from test_sim_determinism import eventful; w = eventful(); print(w.trace.hash, w.logs())"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(here)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_a_seed_tells_the_same_story_under_every_hash_seed() -> None:
    first, second = in_another_process("1"), in_another_process("2718")
    assert first == second
    assert first.startswith(eventful().trace.hash)


def test_another_seed_tells_another_story() -> None:
    assert eventful(1).trace.hash != eventful(2).trace.hash


def test_two_runs_that_part_show_the_chunk_and_then_the_event() -> None:
    plain, extra = eventful(), eventful(extra=True)
    divergence = diverge(plain.trace.chunks, extra.trace.chunks)
    assert divergence is not None and divergence.chunk > 0
    assert divergence.events[0] == divergence.chunk * CHUNK_EVENTS
    again = [eventful(extra=e, record=(divergence.chunk,)).trace for e in (False, True)]
    assert [trace.hash for trace in again] == [plain.trace.hash, extra.trace.hash]
    found = first_difference(again[0].recorded, again[1].recorded)
    assert found is not None
    _, mine, other = found
    assert mine != other
    assert other is not None and other.what == "new code" and other.payload == b"http 9>n1"


def test_equal_traces_do_not_part() -> None:
    chunks = eventful().trace.chunks
    assert diverge(chunks, [*chunks]) is None
    assert first_difference([], []) is None


def test_a_trace_that_ends_early_parts_where_it_ends() -> None:
    assert diverge(["a", "b"], ["a", "b", "c"]) == diverge(["a", "b", "c"], ["a", "b"])
    divergence = diverge(["a", "b"], ["a", "b", "c"])
    assert divergence is not None and divergence.chunk == 2
    one = Event(1, "x", b"")
    assert first_difference([one], [one, one]) == (1, None, one)


def test_chunks_do_not_depend_on_when_they_are_flushed() -> None:
    eager, lazy = Trace(), Trace()
    for trace in (eager, lazy):
        code = trace.code("event")
        for k in range(3 * CHUNK_EVENTS + 5):
            trace.add((k, code, b"%d" % k))
            if trace is eager:
                trace.flush()
        trace.seal()
    assert eager.chunks == lazy.chunks and len(eager.chunks) == 4


def test_where_one_payload_ends_and_the_next_begins_is_hashed_too() -> None:
    hashes: set[str] = set()
    for payloads in ((b"ab", b"c"), (b"a", b"bc"), (b"abc", b"")):
        trace = Trace()
        for payload in payloads:
            trace.add((1, trace.code("x"), payload))
        trace.seal()
        hashes.add(trace.hash)
    assert len(hashes) == 3


def test_nothing_counts_after_the_seal() -> None:
    trace = Trace()
    trace.seal()
    sealed = trace.hash
    trace.add((1, 0, b"late"))
    trace.seal()
    assert trace.hash == sealed


def test_one_fault_more_leaves_the_fate_of_earlier_messages_alone() -> None:
    def beats(kill: bool) -> list[tuple[int, int]]:
        times: list[tuple[int, int]] = []

        class Listening(Toy):
            def received(self, src: str, frame: bytes) -> None:
                if self.name == "n3" and src == "n2":
                    times.append((int(frame[1:]), w.loop.now_ns))
                super().received(src, frame)

        w = world(Listening)

        async def scene() -> None:
            await w.sleep(SECOND)
            if kill:
                await w.inject(Kill(("n1",)))
            await w.sleep(5 * SECOND)

        play(w, scene)
        return times

    assert beats(kill=True) == beats(kill=False) != []
