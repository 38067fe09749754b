"""Generators: histories that have not happened yet, as pure values.

Whoever runs a generator asks `op(context)` for the next operation and tells it of every event by `update`:

* `None`: exhausted, for ever.
* `(Pending(until), g)`: nothing now. Ask `g` again after the next event, or at `until`. Always go on with `g`:
  clocks that begin when a generator is first asked are kept in it.
* `(Ask, g)`: this, now, by a free process. Go on with `g` if the Ask is taken, else with the generator as it was.

Nothing here reads a clock or draws a random number: time and draws come with the context, and a draw is keyed by what
it decides (the number of the operation), not taken from a stream.

A whole run, from load under faults to the reads that judge it:

    phases(
        phase("safety"),
        time_limit(60 * SECOND, any_of(
            clients(stagger(10 * MS, mix(fn("get", get), fn("put", put)))),
            nemesis(stagger(5 * SECOND, faults, name="faults")),
        )),
        phase("heal"),
        nemesis(heal),
        sleep(30 * SECOND),
        clients(each(reads)),
    )

After Jepsen's `jepsen.generator` (Kingsbury).
"""

from __future__ import annotations

import hashlib
import heapq
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import msgspec

from history.header import Header
from history.history import History
from history.op import NEMESIS, Op, Process

NEVER = sys.maxsize
MS = 1_000_000
SECOND = 1_000_000_000

NEMESIS_THREAD = -1
"""The thread of the nemesis; clients have 0, 1, and so on."""

Draw = Callable[..., int]
"""draw(what, *identity): 64 bits that depend on nothing else (and on the seed)."""

_PHI = 0x9E3779B97F4A7C15
_MASK64 = (1 << 64) - 1
_NEMESIS_BIT = 1
_CLIENT_BITS = -2


def bit(thread: int) -> int:
    """The thread's bit in a context's masks."""
    return 1 << (thread + 1)


class Context(msgspec.Struct, frozen=True, gc=False):
    """What a generator may know. `free` and `busy` are sets of threads, as bit masks (see `bit`).

    `free` holds those that an Ask without a thread may go to: idle clients, or the idle nemesis under `nemesis`.
    `busy` holds all in view that have an operation open. `processes[thread]` is the process that a client thread runs
    now; `count` how many operations were invoked so far.
    """

    time: int
    free: int
    busy: int
    processes: tuple[int, ...]
    count: int
    draw: Draw

    @property
    def free_threads(self) -> tuple[int, ...]:
        return tuple(t for t in range(-1, len(self.processes)) if self.free & bit(t))

    def pick(self) -> int:
        """The free thread whose turn it is; at least one must be free.

        Spread evenly, and without a period that could fall in step with a cycle of operations (multiples of the golden
        ratio are equidistributed: Weyl).
        """
        free = self.free
        rank = ((self.count * _PHI & _MASK64) * free.bit_count()) >> 64
        for _ in range(rank):
            free &= free - 1
        return (free & -free).bit_length() - 2

    def process(self, thread: int) -> Process:
        return NEMESIS if thread == NEMESIS_THREAD else self.processes[thread]

    def thread(self, process: Process) -> int:
        return process % len(self.processes) if isinstance(process, int) else NEMESIS_THREAD

    def within(self, threads: int) -> Context:
        """This context with only the threads of the mask in view."""
        free = (self.free | (~self.busy & _NEMESIS_BIT)) & threads
        return Context(self.time, free, self.busy & threads, self.processes, self.count, self.draw)


class Pending(msgspec.Struct, frozen=True, gc=False):
    """Nothing to do before the next event, or before the time `until`."""

    until: int = NEVER
    steady: bool = False
    """No event before `until` can change that: who runs the generator may save the trouble of asking."""


PENDING = Pending()


class Ask(msgspec.Struct, frozen=True, gc=False):
    """An operation that has not happened yet. Who runs it gives it process, node, time and index.

    `thread` None: any free one. Of type `info` it is an event and no operation: written down at once, under the
    nemesis, and nobody is asked (see `phase` and `log`). As a generator an Ask yields itself once.
    """

    f: str
    key: Any = None
    value: Any = None
    meta: dict[str, Any] = {}
    thread: int | None = None
    type: Literal["invoke", "info"] = "invoke"

    def on(self, thread: int) -> Ask:
        return Ask(self.f, self.key, self.value, self.meta, thread, self.type)

    @property
    def hears(self) -> bool:
        return False

    def op(self, ctx: Context) -> Step | None:
        if self.type == "info" or (ctx.free if self.thread is None else ctx.free & bit(self.thread)):
            return self, NOTHING
        return PENDING, self

    def update(self, ctx: Context, event: Op) -> Generator:
        return self


class Generator(Protocol):
    """A history that has not happened yet. Immutable."""

    @property
    def hears(self) -> bool:
        """Whether it, or anything that it may become, needs `update`: who runs it may then save the trouble."""
        ...

    def op(self, ctx: Context) -> Step | None: ...

    def update(self, ctx: Context, event: Op) -> Generator:
        """The generator after an invocation, a completion or an event of the run, whoever's it is.

        The context tells which thread runs which process; which threads are free is a matter of `op` alone.
        """
        ...


Step = tuple[Ask | Pending, Generator]


class _Nothing(msgspec.Struct, frozen=True):
    @property
    def hears(self) -> bool:
        return False

    def op(self, ctx: Context) -> Step | None:
        return None

    def update(self, ctx: Context, event: Op) -> Generator:
        return self


NOTHING: Generator = _Nothing()
"""Exhausted from the start."""


# Leaves


class _Fn(msgspec.Struct, frozen=True):
    name: str
    make: Callable[[Context, int], Ask | None]
    made: int

    @property
    def hears(self) -> bool:
        return False

    def op(self, ctx: Context) -> Step | None:
        if not ctx.free:
            return PENDING, self
        ask = self.make(ctx, self.made)
        if ask is None:
            return None
        assert isinstance(ask, Ask), (
            f"the function of {self.name!r} returned {ask!r}: return an Ask, or None to end"
        )
        if ask.thread is not None and not ctx.free & bit(ask.thread):
            return PENDING, self
        return ask, _Fn(self.name, self.make, self.made + 1)

    def update(self, ctx: Context, event: Op) -> Generator:
        return self


def fn(name: str, make: Callable[[Context, int], Ask | None]) -> Generator:
    """Operation i is `make(context, i)`; None ends it.

    `make` must be pure, for it may be called again for the same i: draws are `context.draw(name, ..., i)`.
    """
    return _Fn(name, make, 0)


class _Sleep(msgspec.Struct, frozen=True):
    delay_ns: int
    until: int | None = None

    @property
    def hears(self) -> bool:
        return False

    def op(self, ctx: Context) -> Step | None:
        until = ctx.time + self.delay_ns if self.until is None else self.until
        return None if ctx.time >= until else (Pending(until, True), _Sleep(self.delay_ns, until))

    def update(self, ctx: Context, event: Op) -> Generator:
        return self


def sleep(delay_ns: int) -> Generator:
    """Nothing, for so long; then exhausted. It counts from when it is first asked."""
    return _Sleep(delay_ns)


def mark(f: str, value: Any = None) -> Ask:
    """An event that is written down once and asks nobody."""
    return Ask(f, value=value, type="info")


def phase(name: str) -> Ask:
    """The event that opens a phase of the run."""
    return mark("phase", name)


def log(text: str) -> Ask:
    """A remark in the history."""
    return mark("log", text)


# How many


class _Limit(msgspec.Struct, frozen=True):
    left: int
    gen: Generator

    @property
    def hears(self) -> bool:
        return self.gen.hears

    def op(self, ctx: Context) -> Step | None:
        if self.left <= 0:
            return None
        step = self.gen.op(ctx)
        if step is None:
            return None
        ask, after = step
        if ask.__class__ is Pending:
            return (ask, self) if after is self.gen else (ask, _Limit(self.left, after))
        return ask, _Limit(self.left - 1, after)

    def update(self, ctx: Context, event: Op) -> Generator:
        after = self.gen.update(ctx, event)
        return self if after is self.gen else _Limit(self.left, after)


def limit(count: int, gen: Generator) -> Generator:
    """The first `count` operations of `gen`."""
    return _Limit(count, gen)


def once(gen: Generator) -> Generator:
    """The first operation of `gen`."""
    return _Limit(1, gen)


class _Repeat(msgspec.Struct, frozen=True):
    left: int
    gen: Generator

    @property
    def hears(self) -> bool:
        return self.gen.hears

    def op(self, ctx: Context) -> Step | None:
        step = self.gen.op(ctx) if self.left else None
        if step is None:
            return None
        ask, after = step
        if ask.__class__ is Pending:
            return (ask, self) if after is self.gen else (ask, _Repeat(self.left, after))
        return ask, (self if self.left < 0 else _Repeat(self.left - 1, self.gen))

    def update(self, ctx: Context, event: Op) -> Generator:
        after = self.gen.update(ctx, event)
        return self if after is self.gen else _Repeat(self.left, after)


def repeat(gen: Generator, times: int | None = None) -> Generator:
    """The first operation of `gen`, for ever or so many times."""
    return _Repeat(-1 if times is None else times, gen)


class _Cycle(msgspec.Struct, frozen=True):
    left: int
    whole: Generator
    gen: Generator

    @property
    def hears(self) -> bool:
        return self.whole.hears

    def op(self, ctx: Context) -> Step | None:
        left, step = self.left, self.gen.op(ctx)
        if step is None:
            left -= 1
            if not left:
                return None
            step = self.whole.op(ctx)
            if step is None:  # an empty generator stays empty, however often it is begun
                return None
        return step[0], _Cycle(left, self.whole, step[1])

    def update(self, ctx: Context, event: Op) -> Generator:
        after = self.gen.update(ctx, event)
        return self if after is self.gen else _Cycle(self.left, self.whole, after)


def cycle(gen: Generator, times: int | None = None) -> Generator:
    """All of `gen`, then all of it again, for ever or so many times."""
    return NOTHING if times is not None and times <= 0 else _Cycle(-1 if times is None else times, gen, gen)


class _UntilOk(msgspec.Struct, frozen=True):
    gen: Generator
    open: frozenset[Process] = frozenset()
    done: bool = False

    @property
    def hears(self) -> bool:
        return True

    def op(self, ctx: Context) -> Step | None:
        step = None if self.done else self.gen.op(ctx)
        if step is None:
            return None
        ask, after = step
        if isinstance(ask, Pending) or ask.type == "info":
            return ask, _UntilOk(after, self.open)
        if ask.thread is None:
            ask = ask.on(ctx.pick())
        assert ask.thread is not None
        return ask, _UntilOk(after, self.open | {ctx.process(ask.thread)})

    def update(self, ctx: Context, event: Op) -> Generator:
        after = self.gen.update(ctx, event)
        if event.type == "invoke" or event.process not in self.open:
            return self if after is self.gen else _UntilOk(after, self.open, self.done)
        return _UntilOk(after, self.open - {event.process}, self.done or event.type == "ok")


def until_ok(gen: Generator) -> Generator:
    """`gen`, until one of its operations has succeeded."""
    return _UntilOk(gen)


# When


class _Stagger(msgspec.Struct, frozen=True):
    name: str
    interval_ns: int
    gen: Generator
    number: int = 0
    due: int | None = None

    @property
    def hears(self) -> bool:
        return self.gen.hears

    def op(self, ctx: Context) -> Step | None:
        now, due = ctx.time, self.due
        if due is None:
            due = now + self._gap(ctx.draw, 0)
        if now < due:
            return Pending(due, True), (self if due == self.due else self._with(self.gen, self.number, due))
        step = self.gen.op(ctx)
        if step is None:
            return None
        ask, after = step
        if ask.__class__ is Pending:
            same = after is self.gen and due == self.due
            return ask, (self if same else self._with(after, self.number, due))
        # From when it was due, so that late timers do not lower the rate; but no burst after a long wait.
        base = max(due, now - self.interval_ns)
        return ask, self._with(after, self.number + 1, base + self._gap(ctx.draw, self.number + 1))

    def _gap(self, draw: Draw, number: int) -> int:
        return draw(self.name, number) % (2 * self.interval_ns) if self.interval_ns > 0 else 0

    def _with(self, gen: Generator, number: int, due: int) -> Generator:
        return _Stagger(self.name, self.interval_ns, gen, number, due)

    def update(self, ctx: Context, event: Op) -> Generator:
        after = self.gen.update(ctx, event)
        return (
            self if after is self.gen else _Stagger(self.name, self.interval_ns, after, self.number, self.due)
        )


def stagger(interval_ns: int, gen: Generator, *, name: str = "stagger") -> Generator:
    """`gen` with a gap before each operation, uniform over [0, 2 x interval): one per interval on average, in total.

    `name` keys the draws: give different ones to generators whose gaps must not be the same.
    """
    return _Stagger(name, interval_ns, gen)


class _Delay(msgspec.Struct, frozen=True):
    delay_ns: int
    gen: Generator
    due: int | None = None

    @property
    def hears(self) -> bool:
        return self.gen.hears

    def op(self, ctx: Context) -> Step | None:
        now = ctx.time
        due = now if self.due is None else self.due
        if now < due:
            return Pending(due, True), self
        step = self.gen.op(ctx)
        if step is None:
            return None
        ask, after = step
        if ask.__class__ is Pending:
            return (ask, self) if after is self.gen else (ask, _Delay(self.delay_ns, after, self.due))
        return ask, _Delay(self.delay_ns, after, (due if now - due < self.delay_ns else now) + self.delay_ns)

    def update(self, ctx: Context, event: Op) -> Generator:
        after = self.gen.update(ctx, event)
        return self if after is self.gen else _Delay(self.delay_ns, after, self.due)


def delay(delay_ns: int, gen: Generator) -> Generator:
    """The first operation at once, then one every `delay_ns` (or later, when nobody is free)."""
    return _Delay(delay_ns, gen)


class _TimeLimit(msgspec.Struct, frozen=True):
    limit_ns: int
    gen: Generator
    end: int | None = None

    @property
    def hears(self) -> bool:
        return self.gen.hears

    def op(self, ctx: Context) -> Step | None:
        end = ctx.time + self.limit_ns if self.end is None else self.end
        step = None if ctx.time >= end else self.gen.op(ctx)
        if step is None:
            return None
        ask, after = step
        if isinstance(ask, Pending) and ask.until > end:
            ask = Pending(end, ask.steady)
        same = after is self.gen and end == self.end
        return ask, (self if same else _TimeLimit(self.limit_ns, after, end))

    def update(self, ctx: Context, event: Op) -> Generator:
        after = self.gen.update(ctx, event)
        return self if after is self.gen else _TimeLimit(self.limit_ns, after, self.end)


def time_limit(limit_ns: int, gen: Generator) -> Generator:
    """`gen`, until so long after it was first asked. What is in flight then goes on."""
    return _TimeLimit(limit_ns, gen)


# One after the other


class _Sequence(msgspec.Struct, frozen=True):
    gens: tuple[Generator, ...]

    @property
    def hears(self) -> bool:
        return any(g.hears for g in self.gens)

    def op(self, ctx: Context) -> Step | None:
        for i, gen in enumerate(self.gens):
            step = gen.op(ctx)
            if step is not None:
                rest = self.gens[i + 1 :]
                if not rest:
                    return step
                ask, after = step
                if after is gen and i == 0:
                    return ask, self
                return ask, _Sequence((after, *rest))
        return None

    def update(self, ctx: Context, event: Op) -> Generator:
        head = self.gens[0]
        after = head.update(ctx, event)
        return self if after is head else _Sequence((after, *self.gens[1:]))


def sequence(*gens: Generator) -> Generator:
    """All of the first, then all of the second, and so on; nobody waits for what is in flight."""
    return _Sequence(gens) if gens else NOTHING


class _Synchronize(msgspec.Struct, frozen=True):
    gen: Generator

    @property
    def hears(self) -> bool:
        return self.gen.hears

    def op(self, ctx: Context) -> Step | None:
        return (PENDING, self) if ctx.busy else self.gen.op(ctx)

    def update(self, ctx: Context, event: Op) -> Generator:
        return self


def synchronize(gen: Generator) -> Generator:
    """Waits until every thread in view is idle, then is `gen`."""
    return _Synchronize(gen)


def phases(*gens: Generator) -> Generator:
    """One after the other, each only when everything before it has completed."""
    return sequence(*(_Synchronize(g) for g in gens))


# Side by side


class _AnyOf(msgspec.Struct, frozen=True):
    turn: int
    gens: tuple[Generator | None, ...]

    @property
    def hears(self) -> bool:
        return any(g is not None and g.hears for g in self.gens)

    def op(self, ctx: Context) -> Step | None:
        gens, count, until, alive, steady = self.gens, len(self.gens), NEVER, False, True
        for k in range(self.turn, self.turn + count):
            i = k % count
            gen = gens[i]
            if gen is None:
                continue
            step = gen.op(ctx)
            if step is None:
                gens = (*gens[:i], None, *gens[i + 1 :])
                left = [g for g in gens if g is not None]
                if len(left) == 1:
                    return left[0].op(ctx)  # who is left alone takes turns with nobody
                continue
            ask, after = step
            if after is not gen:
                gens = (*gens[:i], after, *gens[i + 1 :])
            if not isinstance(ask, Pending):
                return ask, _AnyOf((i + 1) % count, gens)
            alive = True
            until = min(until, ask.until)
            steady = steady and ask.steady
        if not alive:
            return None
        return (PENDING if until == NEVER else Pending(until, steady)), (
            self if gens is self.gens else _AnyOf(self.turn, gens)
        )

    def update(self, ctx: Context, event: Op) -> Generator:
        gens = self.gens
        for i, gen in enumerate(gens):
            if gen is not None:
                after = gen.update(ctx, event)
                if after is not gen:
                    gens = (*gens[:i], after, *gens[i + 1 :])
        return self if gens is self.gens else _AnyOf(self.turn, gens)


def any_of(*gens: Generator) -> Generator:
    """All of them beside each other: whichever has something now, in turn."""
    return _AnyOf(0, gens)


class _Mix(msgspec.Struct, frozen=True):
    name: str
    gens: tuple[Generator, ...]
    weights: tuple[int, ...]
    number: int = 0

    @property
    def hears(self) -> bool:
        return any(g.hears for g in self.gens)

    def op(self, ctx: Context) -> Step | None:
        gens, weights = self.gens, self.weights
        while gens:
            i, at = 0, ctx.draw(self.name, self.number) % sum(weights)
            while at >= (weight := weights[i]):
                at -= weight
                i += 1
            step = gens[i].op(ctx)
            if step is None:
                gens, weights = gens[:i] + gens[i + 1 :], weights[:i] + weights[i + 1 :]
                continue
            ask, after = step
            pending = ask.__class__ is Pending
            if pending and after is gens[i] and gens is self.gens:
                return ask, self
            if after is not gens[i]:
                gens = (*gens[:i], after, *gens[i + 1 :])
            return ask, _Mix(self.name, gens, weights, self.number if pending else self.number + 1)
        return None

    def update(self, ctx: Context, event: Op) -> Generator:
        gens = self.gens
        for i, gen in enumerate(gens):
            after = gen.update(ctx, event)
            if after is not gen:
                gens = (*gens[:i], after, *gens[i + 1 :])
        return self if gens is self.gens else _Mix(self.name, gens, self.weights, self.number)


def mix(*gens: Generator, weights: Sequence[int] | None = None, name: str = "mix") -> Generator:
    """Each operation from one of them, drawn (with the given weights) for that operation's number.

    `name` keys the draws. What is exhausted is left out from then on.
    """
    parts = tuple(weights) if weights is not None else (1,) * len(gens)
    assert len(parts) == len(gens), f"{len(gens)} generators need as many weights, not {len(parts)}"
    assert all(w > 0 for w in parts), f"weights are positive integers, not {parts}"
    return _Mix(name, gens, parts)


# By whom


class _On(msgspec.Struct, frozen=True):
    threads: int
    gen: Generator

    @property
    def hears(self) -> bool:
        return self.gen.hears

    def op(self, ctx: Context) -> Step | None:
        view = ctx.within(self.threads)
        if not view.free | view.busy:
            return None  # nobody in view will ever be free
        step = self.gen.op(view)
        if step is None:
            return None
        ask, after = step
        # All clients are what an Ask without a thread goes to anyway; a part of them must be named.
        if (
            self.threads != _CLIENT_BITS
            and isinstance(ask, Ask)
            and ask.thread is None
            and ask.type == "invoke"
        ):
            ask = ask.on(view.pick())
        return ask, (self if after is self.gen else _On(self.threads, after))

    def update(self, ctx: Context, event: Op) -> Generator:
        process = event.process
        thread = process % len(ctx.processes) if isinstance(process, int) else NEMESIS_THREAD
        if not self.threads >> (thread + 1) & 1:
            return self
        after = self.gen.update(ctx, event)
        return self if after is self.gen else _On(self.threads, after)


def clients(gen: Generator) -> Generator:
    """`gen` sees the clients alone: it neither waits for the nemesis nor hears of it."""
    return _On(_CLIENT_BITS, gen)


def nemesis(gen: Generator) -> Generator:
    """`gen` is run by the nemesis, and sees it alone."""
    return _On(_NEMESIS_BIT, gen)


def reserve(*groups: tuple[int, Generator], default: Generator) -> Generator:
    """The first so many client threads for the first generator, the next for the second; the rest for `default`.

    A part for which no thread is left is exhausted from the start.

    >>> reading, writing = repeat(Ask("read")), repeat(Ask("write"))
    >>> h = simulate(limit(6, reserve((1, writing), default=reading)), concurrency=3)
    >>> sorted({(o.process, o.f) for o in h.operations})
    [(0, 'write'), (1, 'read'), (2, 'read')]
    """
    parts: list[Generator] = []
    first = 1
    for count, gen in groups:
        assert count > 0, f"reserve at least one thread, not {count}"
        parts.append(_On(((1 << count) - 1) << first, gen))
        first += count
    return _AnyOf(0, (*parts, _On(-1 << first, default)))


class _Each(msgspec.Struct, frozen=True):
    whole: Generator
    gens: dict[int, Generator]

    @property
    def hears(self) -> bool:
        return self.whole.hears

    def op(self, ctx: Context) -> Step | None:
        threads = (ctx.free | ctx.busy) & _CLIENT_BITS or _NEMESIS_BIT
        until, alive, gens = NEVER, False, self.gens
        for thread in range(-1, len(ctx.processes)):
            mask = bit(thread)
            gen = gens.get(thread, self.whole)
            if not threads & mask or gen is NOTHING:
                continue
            view = ctx.within(mask)
            step = gen.op(view)
            if step is None:
                gens = {**gens, thread: NOTHING}
                continue
            ask, after = step
            if after is not gen:
                gens = {**gens, thread: after}
            if not isinstance(ask, Pending):
                return (ask.on(thread) if ask.type == "invoke" else ask), _Each(self.whole, gens)
            alive = True
            until = min(until, ask.until)
        return (Pending(until), self if gens is self.gens else _Each(self.whole, gens)) if alive else None

    def update(self, ctx: Context, event: Op) -> Generator:
        thread = ctx.thread(event.process)
        gen = self.gens.get(thread, self.whole)
        after = gen.update(ctx, event)
        return self if after is gen else _Each(self.whole, {**self.gens, thread: after})


def each(gen: Generator) -> Generator:
    """Every thread in view runs `gen` for itself."""
    return _Each(gen, {})


class _Mapped(msgspec.Struct, frozen=True):
    change: Callable[[Ask], Ask]
    gen: Generator

    @property
    def hears(self) -> bool:
        return self.gen.hears

    def op(self, ctx: Context) -> Step | None:
        step = self.gen.op(ctx)
        if step is None:
            return None
        ask, after = step
        if isinstance(ask, Ask):
            ask = self.change(ask)
        return ask, (self if after is self.gen else _Mapped(self.change, after))

    def update(self, ctx: Context, event: Op) -> Generator:
        after = self.gen.update(ctx, event)
        return self if after is self.gen else _Mapped(self.change, after)


def mapped(change: Callable[[Ask], Ask], gen: Generator) -> Generator:
    """`gen` with every operation changed by a pure function."""
    return _Mapped(change, gen)


class _PerKey(msgspec.Struct, frozen=True):
    """`current` holds what each group of threads is at: (key, generator), or None when it has nothing left."""

    keys: Callable[[int], Any]
    make: Callable[[Any], Generator]
    group: int
    taken: int = 0
    current: tuple[tuple[Any, Generator] | None, ...] | None = None
    turn: int = 0

    @property
    def hears(self) -> bool:
        return True  # the keys' generators are not made yet

    def op(self, ctx: Context) -> Step | None:
        state = self if self.current is not None else self._begun(len(ctx.processes))
        assert state.current is not None
        count, until, alive = len(state.current), NEVER, False
        for k in range(state.turn, state.turn + count):
            g = k % count
            view = ctx.within(self._mask(g))
            while (at := state.current[g]) is not None:
                key, gen = at
                step = gen.op(view)
                if step is None:
                    state = state._next_key(g)
                    assert state.current is not None
                    continue
                ask, after = step
                if after is not gen:
                    state = state._with(g, (key, after), state.taken, state.turn)
                    assert state.current is not None
                if isinstance(ask, Pending):
                    alive = True
                    until = min(until, ask.until)
                    break
                thread = ask.thread
                if thread is None and self.group and ask.type == "invoke":
                    thread = view.pick()
                keyed = Ask(ask.f, key, ask.value, ask.meta, thread, ask.type)
                return keyed, state._with(g, state.current[g], state.taken, (g + 1) % count)
        return (Pending(until), state) if alive else None

    def update(self, ctx: Context, event: Op) -> Generator:
        if self.current is None or event.process == NEMESIS:
            return self
        g = ctx.thread(event.process) // self.group if self.group else 0
        at = self.current[g]
        if at is None:
            return self
        after = at[1].update(ctx, event)
        return self if after is at[1] else self._with(g, (at[0], after), self.taken, self.turn)

    def _mask(self, group: int) -> int:
        return ((1 << self.group) - 1) << (1 + group * self.group) if self.group else _CLIENT_BITS

    def _begun(self, concurrency: int) -> _PerKey:
        if self.group:
            assert concurrency % self.group == 0, (
                f"{concurrency} clients do not divide into groups of {self.group}: change one of the two"
            )
        state = _PerKey(
            self.keys, self.make, self.group, 0, (None,) * (concurrency // self.group if self.group else 1)
        )
        assert state.current is not None
        for g in range(len(state.current)):
            state = state._next_key(g)
        return state

    def _next_key(self, group: int) -> _PerKey:
        key = self.keys(self.taken)
        if key is None:
            return self._with(group, None, self.taken, self.turn)
        return self._with(group, (key, self.make(key)), self.taken + 1, self.turn)

    def _with(self, group: int, at: tuple[Any, Generator] | None, taken: int, turn: int) -> _PerKey:
        assert self.current is not None
        current = (*self.current[:group], at, *self.current[group + 1 :])
        return _PerKey(self.keys, self.make, self.group, taken, current, turn)


def per_key(
    keys: Sequence[Any] | Callable[[int], Any], make: Callable[[Any], Generator], *, group: int | None = None
) -> Generator:
    """`make(key)` for each key in turn, its operations carrying the key.

    All clients work at one key together; with `group`, every so many threads work at a key of their own. `keys` is a
    sequence, or a function from 0, 1, ... to keys that answers None when there are no more.
    """
    if not callable(keys):
        listed = tuple(keys)

        def nth(i: int) -> Any:
            return listed[i] if i < len(listed) else None

        return _PerKey(nth, make, group or 0)
    return _PerKey(keys, make, group or 0)


# Without a world


def draws(seed: int) -> Draw:
    """A stable hash of (seed, what, identity), for who has no world's draws to give."""
    prefix = str(seed)

    def draw(what: str, *identity: object) -> int:
        text = f"{prefix}|{what}|{identity!r}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")

    return draw


Answer = Callable[[Op], tuple[int, Op]]
"""(latency in nanoseconds, completion) of an invocation."""


def quick(op: Op) -> tuple[int, Op]:
    """Succeeds at once."""
    return 0, op.completed("ok", op.value)


def perfect(op: Op) -> tuple[int, Op]:
    """Succeeds after 10 ns."""
    return 10, op.completed("ok", op.value)


def imperfect(op: Op) -> tuple[int, Op]:
    """Succeeds, fails or stays unknown after 10 ns, by turns over the history's lines."""
    return 10, op.completed(("ok", "info", "fail")[op.index // 2 % 3], op.value)


def simulate(
    gen: Generator,
    *,
    concurrency: int = 2,
    answer: Answer = perfect,
    draw: Draw | None = None,
    events: int = 100_000,
) -> History:
    """Runs a generator with neither loop nor clock: what it would ask of clients that answer so.

    Fails an assertion when it waits for ever, or goes on past so many events.
    """
    draw = draw or draws(0)
    line: list[Op] = []
    flying: list[tuple[int, int, Op]] = []
    processes = tuple(range(concurrency))
    everyone = (1 << (concurrency + 1)) - 1
    now = busy = count = 0

    def context() -> Context:
        return Context(now, everyone & ~busy & _CLIENT_BITS, busy, processes, count, draw)

    def record(op: Op) -> Op:
        assert len(line) < events, f"the generator goes on past {events} events: limit it"
        line.append(msgspec.structs.replace(op, time=now, index=len(line)))
        return line[-1]

    def land() -> None:
        nonlocal now, busy, processes, gen
        at, _, done = heapq.heappop(flying)
        now = max(now, at)
        thread = context().thread(done.process)
        busy &= ~bit(thread)
        done = record(done)
        event_context = context()
        if done.type == "info" and isinstance(done.process, int):
            renewed = done.process + concurrency
            processes = (*processes[:thread], renewed, *processes[thread + 1 :])
        gen = gen.update(event_context, done)

    while True:
        while flying and flying[0][0] <= now:
            land()
        ctx = context()
        step = gen.op(ctx)
        if step is None:
            while flying:
                land()
            return History(Header(), line)
        ask, gen = step
        if isinstance(ask, Pending):
            assert flying or ask.until < NEVER, f"the generator waits for ever, with nothing in flight: {gen}"
            assert ask.until > now, f"the generator waits for a time that has come ({ask.until}): {gen}"
            if flying and flying[0][0] <= ask.until:
                land()
            else:
                now = ask.until
        elif ask.type == "info":
            gen = gen.update(ctx, record(Op(NEMESIS, "info", ask.f, ask.key, ask.value, meta=ask.meta)))
        else:
            thread = ctx.pick() if ask.thread is None else ask.thread
            assert not busy & bit(thread), f"the generator gives {ask.f!r} to thread {thread}, which is busy"
            busy |= bit(thread)
            count += 1
            op = record(Op(ctx.process(thread), "invoke", ask.f, ask.key, ask.value, meta=ask.meta))
            gen = gen.update(context(), op)
            latency, done = answer(op)
            heapq.heappush(flying, (now + latency, op.index, done))
