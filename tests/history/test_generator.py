"""Scenes of generators under a simulated clock, and the laws of their combinators."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from history.generator import (
    MS,
    NOTHING,
    SECOND,
    Ask,
    Context,
    Generator,
    any_of,
    clients,
    cycle,
    delay,
    draws,
    each,
    fn,
    imperfect,
    limit,
    log,
    mapped,
    mix,
    nemesis,
    once,
    per_key,
    phase,
    phases,
    quick,
    repeat,
    reserve,
    sequence,
    simulate,
    sleep,
    stagger,
    synchronize,
    time_limit,
    until_ok,
)
from history.history import History
from history.op import Op

law = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""No test is judged by wall time."""


def count(name: str = "op") -> Generator:
    """Operations that carry their own number."""
    return fn(name, lambda ctx, i: Ask(name, value=i))


def asked(history: History) -> list[tuple[Any, str, Any]]:
    return [(o.process, o.f, o.invoke.value) for o in history.operations]


def names(history: History) -> list[str]:
    return [
        e.f if e.f != "phase" else f"phase {e.value}" for e in history.events if e.type in ("invoke", "info")
    ]


def at(history: History) -> list[int]:
    return [o.invoke.time for o in history.operations]


# Leaves


def test_an_ask_happens_once() -> None:
    assert asked(simulate(Ask("read"), concurrency=3)) == [(0, "read", None)]


def test_a_function_makes_operations_by_number_until_it_answers_none() -> None:
    gen = fn("write", lambda ctx, i: Ask("write", value=i) if i < 3 else None)
    assert [v for _, _, v in asked(simulate(gen))] == [0, 1, 2]


def test_a_function_that_makes_no_ask_is_told_so() -> None:
    gen = fn("write", lambda ctx, i: "write")  # pyright: ignore[reportArgumentType]  the mistake under test
    with pytest.raises(AssertionError, match="the function of 'write' returned 'write': return an Ask"):
        simulate(gen)


def test_sleep_counts_from_when_it_is_first_asked() -> None:
    h = simulate(sequence(Ask("a"), sleep(5 * MS), Ask("b")), answer=quick)
    assert at(h) == [0, 5 * MS]


def test_a_mark_is_written_down_and_asks_nobody() -> None:
    h = simulate(sequence(phase("safety"), log("hello"), Ask("a")))
    assert [(e.process, e.type, e.f, e.value) for e in h.events[:2]] == [
        ("nemesis", "info", "phase", "safety"),
        ("nemesis", "info", "log", "hello"),
    ]
    assert h.phases == {"safety": 0}
    assert [o.f for o in h.operations] == ["a"]


# How many


def test_limit_once_and_repeat_count_operations() -> None:
    assert len(simulate(limit(5, count())).operations) == 5
    assert asked(simulate(once(count()))) == [(0, "op", 0)]
    assert [v for _, _, v in asked(simulate(repeat(count(), 3)))] == [0, 0, 0]


def test_cycle_begins_again_and_an_empty_cycle_ends() -> None:
    ab = sequence(Ask("a"), Ask("b"))
    assert [f for _, f, _ in asked(simulate(cycle(ab, 2)))] == ["a", "b", "a", "b"]
    assert [f for _, f, _ in asked(simulate(limit(5, cycle(ab))))] == ["a", "b", "a", "b", "a"]
    assert asked(simulate(cycle(NOTHING))) == []
    assert asked(simulate(cycle(ab, 0))) == []


def test_until_ok_stops_at_the_first_success_of_its_own_operations() -> None:
    outcomes = iter(["fail", "info", "ok"])

    def answer(op: Op) -> tuple[int, Op]:
        if op.f == "other":
            return 1, op.completed("ok")
        return 10, op.completed(next(outcomes))  # pyright: ignore[reportArgumentType]  literals above

    gen = any_of(
        limit(4, fn("other", lambda ctx, i: Ask("other", thread=1))),
        until_ok(fn("own", lambda ctx, i: Ask("own", thread=0))),
    )
    h = simulate(gen, answer=answer)
    assert [(o.process, o.type) for o in h.operations if o.f == "own"] == [
        (0, "fail"),
        (0, "info"),
        (2, "ok"),
    ]


# When


def test_stagger_keeps_its_rate_over_all_threads() -> None:
    h = simulate(limit(2000, stagger(MS, count())), concurrency=10)
    assert h.operations[-1].invoke.time == pytest.approx(2000 * MS, rel=0.05)
    gaps = [b - a for a, b in zip(at(h), at(h)[1:], strict=False)]
    assert max(gaps) < 2 * MS
    assert min(gaps) < MS / 10


def test_stagger_makes_no_burst_after_a_long_wait() -> None:
    h = simulate(
        limit(20, stagger(MS, count())),
        concurrency=1,
        answer=lambda op: (100 * MS if op.value == 0 else 0, op.completed("ok")),
    )
    times = at(h)
    assert times[1] >= 100 * MS
    assert times[-1] >= times[1] + 10 * MS


def test_stagger_beside_a_busier_generator_still_gets_its_turn() -> None:
    gen = time_limit(
        SECOND,
        any_of(clients(stagger(MS, count())), nemesis(stagger(100 * MS, count("fault"), name="faults"))),
    )
    h = simulate(gen, concurrency=3)
    assert 5 <= len(h.nemesis) <= 15


def test_delay_spaces_operations_evenly_from_the_first() -> None:
    assert at(simulate(limit(4, delay(3 * MS, count())))) == [0, 3 * MS, 6 * MS, 9 * MS]


def test_a_time_limit_holds_while_every_client_hangs() -> None:
    h = simulate(
        sequence(time_limit(5 * MS, count()), phase("after")),
        concurrency=2,
        answer=lambda op: (60 * SECOND, op.completed("info")),
    )
    assert [e.time for e in h.events if e.f == "phase"] == [5 * MS]
    assert len(h.operations) == 2


def test_a_time_limit_cuts_a_sleep_short() -> None:
    h = simulate(sequence(time_limit(MS, sleep(SECOND)), Ask("a")))
    assert at(h) == [MS]


# One after the other


def test_phases_wait_for_what_is_in_flight_and_sequences_do_not() -> None:
    steps = (limit(2, count("a")), limit(2, count("b")))

    def uneven(op: Op) -> tuple[int, Op]:
        return (100 if op.process == 0 else 10), op.completed("ok")

    waited = simulate(phases(*steps), answer=uneven)
    assert [o.invoke.time for o in waited.operations if o.f == "b"] == [100, 100]
    overlapped = simulate(sequence(*steps), answer=uneven)
    assert min(o.invoke.time for o in overlapped.operations if o.f == "b") == 10


def test_synchronize_under_clients_does_not_wait_for_the_nemesis() -> None:
    slow = nemesis(once(count("fault")))
    answer = lambda op: (1000 if op.f == "fault" else 10, op.completed("ok"))  # noqa: E731  a table of latencies
    h = simulate(any_of(slow, clients(sequence(Ask("a"), synchronize(Ask("b"))))), answer=answer)
    assert [o.invoke.time for o in h.operations if o.f == "b"] == [10]
    h = simulate(any_of(slow, sequence(Ask("a"), synchronize(Ask("b")))), answer=answer)
    assert [o.invoke.time for o in h.operations if o.f == "b"] == [1000]


def test_a_whole_run_goes_through_its_phases_in_order() -> None:
    gen = phases(
        phase("safety"),
        time_limit(
            10 * MS,
            any_of(clients(delay(4 * MS, count("put"))), nemesis(sequence(sleep(2 * MS), Ask("kill")))),
        ),
        phase("heal"),
        nemesis(Ask("restart")),
        sleep(5 * MS),
        phase("final"),
        clients(each(Ask("read"))),
    )
    h = simulate(gen, concurrency=2)
    assert names(h) == [
        "phase safety",
        "put",
        "kill",
        "put",
        "put",
        "phase heal",
        "restart",
        "phase final",
        "read",
        "read",
    ]
    assert [o.process for o in h.operations if o.f in ("kill", "restart")] == ["nemesis", "nemesis"]
    assert h.events[h.phases["final"]].time >= 15 * MS


# Side by side


def test_any_of_takes_turns_and_goes_on_when_one_is_exhausted() -> None:
    h = simulate(any_of(limit(1, count("a")), limit(3, count("b"))), concurrency=1)
    assert [f for _, f, _ in asked(h)] == ["a", "b", "b", "b"]


def test_mix_follows_its_weights_and_drops_what_is_exhausted() -> None:
    h = simulate(limit(3000, mix(count("a"), count("b"), weights=(1, 2))))
    shares = Counter(f for _, f, _ in asked(h))
    assert shares["b"] == pytest.approx(2000, rel=0.1)
    h = simulate(limit(20, mix(limit(3, count("a")), count("b"))))
    assert Counter(f for _, f, _ in asked(h)) == {"a": 3, "b": 17}


def test_mix_refuses_weights_that_do_not_fit() -> None:
    with pytest.raises(AssertionError, match="2 generators need as many weights, not 1"):
        mix(count(), count(), weights=(1,))
    with pytest.raises(AssertionError, match="weights are positive"):
        mix(count(), count(), weights=(1, 0))


# By whom


def test_reserve_keeps_threads_apart_even_when_processes_are_renewed() -> None:
    gen = limit(60, reserve((1, repeat(Ask("a"))), (2, repeat(Ask("b"))), default=repeat(Ask("c"))))
    h = simulate(gen, concurrency=5, answer=imperfect)
    threads: dict[str, set[int]] = {"a": set(), "b": set(), "c": set()}
    for o in h.operations:
        assert isinstance(o.process, int)
        threads[o.f].add(o.process % 5)
    assert threads == {"a": {0}, "b": {1, 2}, "c": {3, 4}}
    assert any(isinstance(o.process, int) and o.process >= 5 for o in h.operations)


def test_every_thread_runs_each_for_itself() -> None:
    h = simulate(clients(each(limit(2, count()))), concurrency=3)
    assert Counter(o.process for o in h.operations) == {0: 2, 1: 2, 2: 2}
    assert sorted(o.invoke.value for o in h.operations) == [0, 0, 0, 1, 1, 1]


def test_client_operations_never_go_to_the_nemesis() -> None:
    h = simulate(limit(50, count()), concurrency=2)
    assert {o.process for o in h.operations} == {0, 1}


def test_the_nemesis_does_one_thing_at_a_time() -> None:
    h = simulate(nemesis(limit(3, count("fault"))), concurrency=2)
    assert at(h) == [0, 10, 20]
    assert {o.process for o in h.operations} == {"nemesis"}


def test_work_is_spread_evenly_and_not_in_step_with_a_cycle() -> None:
    h = simulate(limit(1000, delay(MS, cycle(sequence(Ask("a"), Ask("b"))))), concurrency=10)
    pairs = Counter((o.process, o.f) for o in h.operations)
    assert len(pairs) == 20
    assert max(pairs.values()) <= 2 * min(pairs.values())


def test_keys_come_one_after_the_other() -> None:
    h = simulate(per_key(["x", "y"], lambda key: limit(3, count())), concurrency=2)
    assert [o.key for o in h.operations] == ["x", "x", "x", "y", "y", "y"]


def test_groups_of_threads_work_at_keys_of_their_own() -> None:
    h = simulate(
        per_key(lambda i: f"k{i}" if i < 6 else None, lambda key: limit(4, count()), group=2),
        concurrency=4,
        answer=imperfect,
    )
    groups: dict[str, set[int]] = {}
    for o in h.operations:
        assert isinstance(o.process, int)
        groups.setdefault(o.key, set()).add(o.process % 4 // 2)
    assert sorted(groups) == [f"k{i}" for i in range(6)]
    assert all(len(g) == 1 for g in groups.values())
    assert Counter(o.key for o in h.operations) == {f"k{i}": 4 for i in range(6)}


def test_groups_that_do_not_divide_the_clients_are_refused() -> None:
    with pytest.raises(AssertionError, match="3 clients do not divide into groups of 2"):
        simulate(per_key(["x"], lambda key: count(), group=2), concurrency=3)


def test_mapped_changes_operations() -> None:
    h = simulate(mapped(lambda a: Ask(a.f, a.key, a.value, {"final": True}), limit(2, count())))
    assert [o.meta for o in h.operations] == [{"final": True}] * 2


# The simulation itself


def test_a_generator_that_waits_for_ever_is_found_out() -> None:
    with pytest.raises(AssertionError, match="waits for ever"):
        simulate(Ask("a", thread=7), concurrency=2)


def test_an_endless_generator_is_cut_off() -> None:
    with pytest.raises(AssertionError, match="past 100 events"):
        simulate(count(), events=100)


def test_after_info_a_thread_goes_on_under_a_fresh_process() -> None:
    h = simulate(limit(4, count()), concurrency=1, answer=lambda op: (5, op.completed("info")))
    assert [o.process for o in h.operations] == [0, 1, 2, 3]


def test_draws_depend_on_seed_and_identity_alone() -> None:
    draw = draws(7)
    first = draw("gap", 1)
    draw("gap", 2)
    assert draw("gap", 1) == first == draws(7)("gap", 1)
    assert len({first, draw("gap", 2), draw("other", 1), draws(8)("gap", 1)}) == 4


# Laws


def trees() -> st.SearchStrategy[Generator]:
    leaf = st.one_of(
        st.builds(lambda n: limit(n, count("n")), st.integers(0, 4)),
        st.builds(Ask, st.sampled_from(["a", "b"])),
        st.builds(sleep, st.integers(0, 50)),
        st.just(phase("p")),
    )

    def grow(inner: st.SearchStrategy[Generator]) -> st.SearchStrategy[Generator]:
        several = st.lists(inner, min_size=1, max_size=3)
        return st.one_of(
            several.map(lambda g: sequence(*g)),
            several.map(lambda g: phases(*g)),
            several.map(lambda g: any_of(*g)),
            several.map(lambda g: mix(*g)),
            st.builds(limit, st.integers(0, 5), inner),
            st.builds(stagger, st.integers(0, 30), inner),
            st.builds(delay, st.integers(0, 30), inner),
            st.builds(time_limit, st.integers(0, 100), inner),
            st.builds(lambda g: clients(each(g)), inner),
            st.builds(lambda g: cycle(g, 2), inner),
            st.builds(until_ok, inner),
            st.builds(lambda a, b: reserve((1, a), default=b), inner, inner),
            st.builds(lambda g: per_key(["x", "y"], lambda key: g), inner),
        )

    return st.recursive(leaf, grow, max_leaves=8)


@law
@given(trees(), st.integers(2, 4))
def test_every_tree_ends_and_gives_each_process_one_operation_at_a_time(
    gen: Generator, concurrency: int
) -> None:
    h = simulate(gen, concurrency=concurrency, answer=imperfect)
    open_of: set[Any] = set()
    for e in h.events:
        if e.type == "invoke":
            assert e.process not in open_of
            open_of.add(e.process)
        elif e.f != "phase":
            open_of.remove(e.process)
    assert not open_of
    assert [e.time for e in h.events] == sorted(e.time for e in h.events)


@law
@given(trees())
def test_the_same_tree_gives_the_same_history(gen: Generator) -> None:
    # A generator is a value: running it does not use it up.
    assert simulate(gen, answer=imperfect).events == simulate(gen, answer=imperfect).events


@law
@given(trees())
def test_asking_twice_is_asking_once(gen: Generator) -> None:
    """`op` is a function of generator and context: an answer that nobody took leaves no trace."""

    class Twice:
        def __init__(self, gen: Generator) -> None:
            self.gen = gen

        @property
        def hears(self) -> bool:
            return self.gen.hears

        def op(self, ctx: Context) -> Any:
            self.gen.op(ctx)
            step = self.gen.op(ctx)
            return step and (step[0], Twice(step[1]))

        def update(self, ctx: Context, event: Op) -> Generator:
            return Twice(self.gen.update(ctx, event))

    assert simulate(Twice(gen), answer=imperfect).events == simulate(gen, answer=imperfect).events


@law
@given(trees())
def test_whoever_does_not_hear_is_not_changed_by_an_update(gen: Generator) -> None:
    class Deaf:
        """Keeps every update from the generator."""

        def __init__(self, gen: Generator) -> None:
            self.gen = gen

        hears = False

        def op(self, ctx: Context) -> Any:
            step = self.gen.op(ctx)
            return step and (step[0], Deaf(step[1]))

        def update(self, ctx: Context, event: Op) -> Generator:
            return self

    if not gen.hears:
        assert simulate(Deaf(gen), answer=imperfect).events == simulate(gen, answer=imperfect).events


@law
@given(st.integers(0, 10), trees())
def test_limit_is_an_upper_bound_and_a_prefix(n: int, gen: Generator) -> None:
    # Latency 0 and one client: with nothing in flight, the first n steps cannot depend on the rest.
    whole = [(e.f, e.value) for e in simulate(gen, concurrency=2, answer=quick).events if e.type != "ok"]
    part = [
        (e.f, e.value) for e in simulate(limit(n, gen), concurrency=2, answer=quick).events if e.type != "ok"
    ]
    assert part == whole[:n]
