"""Scenes of writing a run down as a schedule, and of running that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from history.generator import (
    MS,
    Ask,
    Generator,
    any_of,
    clients,
    fn,
    imperfect,
    limit,
    mix,
    nemesis,
    phase,
    phases,
    quick,
    simulate,
    sleep,
    stagger,
    time_limit,
)
from history.header import Header
from history.history import History, Malformed
from history.op import Op
from history.schedule import Schedule, Scripted, TimedFault, TimedOp, dumps, load
from history.text import parse

law = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""No test is judged by wall time."""

KILL = {"fault": "kill", "nodes": ["n1"]}


def run(gen: Generator, concurrency: int = 3, answer: Any = imperfect) -> History:
    return simulate(gen, concurrency=concurrency, answer=answer)


def load_under_faults() -> Generator:
    return phases(
        phase("safety"),
        time_limit(
            200 * MS,
            any_of(
                clients(
                    stagger(
                        MS // 4,
                        mix(
                            fn("get", lambda c, i: Ask("get", "x")),
                            fn("put", lambda c, i: Ask("put", "y", i)),
                        ),
                    )
                ),
                nemesis(stagger(20 * MS, fn("kill", lambda c, i: Ask("kill", value=KILL)), name="faults")),
            ),
        ),
        phase("heal"),
        nemesis(Ask("restart", value={"fault": "restart", "nodes": ["n1"]})),
        sleep(5 * MS),
        limit(2, fn("read", lambda c, i: Ask("get", "x", meta={"final": True}))),
    )


def invocations(history: History, until: int | None = None) -> list[tuple[Any, ...]]:
    return [
        (o.invoke.time, o.process, o.f, o.key, o.invoke.value)
        for o in history.operations
        if until is None or o.index < until
    ]


def test_a_schedule_holds_client_operations_and_faults_up_to_the_heal() -> None:
    history = run(load_under_faults())
    schedule = Schedule.from_history(history, concurrency=3)
    assert 500 < len(schedule.ops) < 1100
    assert 4 < len(schedule.faults) < 20
    assert schedule.end == history.events[history.phases["heal"]].time
    assert schedule.events == len(schedule.ops) + len(schedule.faults)
    assert not any(o.meta.get("final") for o in schedule.ops)
    assert all(f.fault == KILL for f in schedule.faults)


def test_requests_inside_composites_probes_and_final_reads_are_derived() -> None:
    history = parse("""
        0       invoke add  1 key=x
        0       invoke get    key=x
        0       ok     get  [] key=x
        0       ok     add  1 key=x
        probe   invoke hints  node=n1
        probe   ok     hints []
        1       invoke read   key=x final=true
        1       ok     read [1] key=x
    """)
    schedule = Schedule.from_history(history, concurrency=2)
    assert schedule.ops == (TimedOp(0, 0, "add", "x", 1),)
    assert schedule.end == 0


def test_the_schedule_runs_as_the_run_did() -> None:
    history = run(load_under_faults())
    schedule = load(dumps(Schedule.from_history(history, concurrency=3)))
    again = run(phases(phase("safety"), Scripted(schedule), phase("heal")))
    healed = history.phases["heal"]
    assert any(isinstance(o.process, int) and o.process > 100 for o in history.operations), (
        "processes were renewed"
    )
    assert [e for e in again.events if e.index <= healed] == [e for e in history.events if e.index <= healed]


def test_a_busy_process_delays_its_next_operation_and_drops_none() -> None:
    ops = (*(TimedOp(t, 0, "put", "x", t) for t in (0, 10, 20)), TimedOp(15, 1, "get", "x"))
    h = simulate(
        Scripted(Schedule(concurrency=2, ops=ops)),
        answer=lambda op: (100 if op.value == 0 else 1, op.completed("ok")),
    )
    assert invocations(h) == [
        (0, 0, "put", "x", 0),
        (15, 1, "get", "x", None),
        (100, 0, "put", "x", 10),
        (101, 0, "put", "x", 20),
    ]


def test_equal_times_keep_their_order() -> None:
    ops = (TimedOp(5, 1, "b", order=1), TimedOp(5, 0, "c", order=2), TimedOp(5, 2, "a", order=0))
    faults = (TimedFault(5, KILL, order=3),)
    h = simulate(Scripted(Schedule(concurrency=3, ops=ops, faults=faults)), concurrency=3)
    assert [o.f for o in h.operations] == ["a", "b", "c", "kill"]
    assert h.nemesis[0].invoke.value == KILL


def test_nothing_more_happens_before_the_end() -> None:
    h = simulate(
        phases(Scripted(Schedule(ops=(TimedOp(5, 0, "get"),), end=50)), phase("heal")), concurrency=1
    )
    assert h.events[-1].time == 50


def test_a_fault_may_be_given_as_the_value_itself() -> None:
    class Freeze(msgspec.Struct, tag="freeze", tag_field="fault"):
        nodes: tuple[str, ...]

    schedule = Schedule(faults=(TimedFault(3, Freeze(("n1",))),))
    assert simulate(Scripted(schedule)).nemesis[0].invoke.value == {"fault": "freeze", "nodes": ("n1",)}
    assert load(dumps(schedule)).faults[0].fault == {"fault": "freeze", "nodes": ["n1"]}


def test_how_many_clients_there_were_comes_from_the_header() -> None:
    events = [Op(7, "invoke", "get", "x")]
    schedule = Schedule.from_history(
        History(Header(config={"concurrency": 5}, seed=3, workload="register"), events)
    )
    assert (schedule.concurrency, schedule.ops[0].thread) == (5, 2)
    assert (schedule.seed, schedule.workload, schedule.config) == (3, "register", {"concurrency": 5})
    with pytest.raises(Malformed, match="does not say how many clients"):
        Schedule.from_history(History(Header(), events))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no JSON object"),
        (b"\x00\xff", "no JSON object"),
        (b"[1]", "no JSON object"),
        (b"[" * 50_000, "no JSON object"),
        (b"{}", "format is not 'sunder-schedule'"),
        (b'{"format":"sunder-history"}', "format is not 'sunder-schedule'"),
        (b'{"format":"sunder-schedule","version":9}', "version 9 cannot be read"),
        (b'{"format":"sunder-schedule","version":1,"seeed":1}', "seeed"),
        (b'{"format":"sunder-schedule","version":1,"seed":"x"}', "the schedule is damaged"),
        (b'{"format":"sunder-schedule","version":1,"concurrency":0}', "at least one client"),
        (
            b'{"format":"sunder-schedule","version":1,"ops":[{"time":1,"thread":1,"f":"get"}]}',
            "operation 0 is for thread 1, but there are 1",
        ),
        (
            b'{"format":"sunder-schedule","version":1,"ops":[{"time":-1,"thread":0,"f":"get"}]}',
            "operation 0 has the time -1",
        ),
        (
            b'{"format":"sunder-schedule","version":1,"ops":[{"time":1,"thread":0,"f":"get","key":[1]}]}',
            "the schedule is damaged",
        ),
        (
            b'{"format":"sunder-schedule","version":1,"faults":[{"time":1,"fault":"kill"}]}',
            "does not say which fault it is",
        ),
        (
            b'{"format":"sunder-schedule","version":1,"faults":[{"time":-1,"fault":{"fault":"kill"}}]}',
            "fault 0 has the time -1",
        ),
    ],
)
def test_what_is_no_schedule_is_said_in_a_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "schedule.json"
    path.write_bytes(content)
    for source in (path, content):
        with pytest.raises(Malformed) as problem:
            load(source)
        assert said in str(problem.value)
        assert "\n" not in str(problem.value)


def test_a_schedule_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(Malformed, match="No such file"):
        load(tmp_path / "schedule.json")
    with pytest.raises(Malformed, match="Is a directory"):
        load(tmp_path)


timed_ops = st.builds(
    TimedOp,
    st.integers(0, 300),
    st.integers(0, 2),
    st.sampled_from(["get", "put"]),
    st.sampled_from(["x", "y"]),
    st.integers() | st.none(),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=1),
    st.integers(0, 1000),
)
schedules = st.builds(
    Schedule,
    seed=st.integers(0, 2**63 - 1),
    concurrency=st.just(3),
    ops=st.lists(timed_ops, max_size=12).map(tuple),
    faults=st.lists(
        st.builds(TimedFault, st.integers(0, 300), st.just(KILL), st.integers(0, 1000)), max_size=3
    ).map(tuple),
    end=st.integers(0, 500),
)


@law
@given(schedules)
def test_written_and_read_it_is_the_same(schedule: Schedule) -> None:
    assert load(dumps(schedule)) == schedule


@law
@given(schedules)
def test_every_step_is_run_once_never_early_and_in_its_threads_order(schedule: Schedule) -> None:
    h = simulate(Scripted(schedule), concurrency=3, answer=imperfect)
    assert len(h.operations) == schedule.events
    for thread in range(3):
        mine = sorted((o for o in schedule.ops if o.thread == thread), key=lambda o: (o.time, o.order))
        done = [o for o in h.client if isinstance(o.process, int) and o.process % 3 == thread]
        assert [(o.f, o.key, o.invoke.value) for o in done] == [(o.f, o.key, o.value) for o in mine]
        assert all(o.invoke.time >= planned.time for o, planned in zip(done, mine, strict=True))


@law
@given(schedules)
def test_a_schedule_of_its_own_run_gives_that_run_again(schedule: Schedule) -> None:
    first = simulate(Scripted(schedule), concurrency=3, answer=imperfect)
    second = simulate(Scripted(Schedule.from_history(first, concurrency=3)), concurrency=3, answer=imperfect)
    assert second.events == first.events


def test_with_nobody_slow_everything_happens_at_its_time() -> None:
    ops = tuple(TimedOp(10 * t, t % 2, "get", "x", order=t) for t in range(20))
    h = simulate(Scripted(Schedule(concurrency=2, ops=ops)), answer=quick)
    assert [o.invoke.time for o in h.operations] == [o.time for o in ops]
