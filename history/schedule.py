"""Schedules: a finished run written down as explicit operations and faults, ready to be run again without a generator."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from history.generator import NEMESIS_THREAD, NEVER, PENDING, Ask, Context, Generator, Pending, Step
from history.history import History, Malformed
from history.op import NEMESIS, Op

FORMAT = "sunder-schedule"
VERSION = 1
_SIZE_MAX = 1 << 30


class TimedOp(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A client operation: at `time` (nanoseconds since the run began), by whatever process `thread` then runs.

    `order` is its index in the run it comes from: it names the operation, and decides between equal times.
    """

    time: int
    thread: int
    f: str
    key: str | int | float | bool | None = None
    value: Any = None
    meta: dict[str, Any] = {}
    order: int = 0


class TimedFault(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A fault (`nemeses/fault.py`, or its JSON), injected at `time`; `order` as for operations."""

    time: int
    fault: Any
    order: int = 0


class Schedule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a run of its safety phase needs. The rest (heal, wait, final reads) is derived from `config`.

    `end` is when the safety phase ends at the earliest, 0 for as soon as everything has completed.
    """

    format: Literal["sunder-schedule"] = FORMAT
    version: Literal[1] = VERSION
    name: str = "run"
    world: str = "sim"
    system: str = "dynamo"
    workload: str = ""
    seed: int = 0
    nodes: tuple[str, ...] = ()
    concurrency: int = 1
    config: dict[str, Any] = {}
    ops: tuple[TimedOp, ...] = ()
    faults: tuple[TimedFault, ...] = ()
    end: int = 0

    @property
    def events(self) -> int:
        """How many operations and faults there are: what minimising counts."""
        return len(self.ops) + len(self.faults)

    @classmethod
    def from_history(cls, history: History, *, concurrency: int | None = None) -> Schedule:
        """The schedule of a finished run: its clients' top-level operations and its faults, up to the heal.

        `concurrency` is needed where the header's `config` does not have it.
        """
        header = history.header
        known = concurrency if concurrency is not None else header.config.get("concurrency")
        if not isinstance(known, int) or isinstance(known, bool) or known < 1:
            raise Malformed(
                "the history's header does not say how many clients there were; give the concurrency"
            )
        healed = history.phases.get("heal", NEVER)
        ops: list[TimedOp] = []
        faults: list[TimedFault] = []
        for o in history.operations:
            if o.index >= healed or o.parent is not None:
                continue
            op = o.invoke
            if isinstance(op.process, int):
                if not op.meta.get("final"):
                    ops.append(
                        TimedOp(op.time, op.process % known, op.f, op.key, op.value, op.meta, op.index)
                    )
            elif op.process == NEMESIS:
                faults.append(TimedFault(op.time, op.value, op.index))
        return cls(
            name=header.name,
            world=header.world,
            system=header.system,
            workload=header.workload,
            seed=header.seed,
            nodes=header.nodes,
            concurrency=known,
            config=header.config,
            ops=tuple(ops),
            faults=tuple(faults),
            end=history.events[healed].time if healed != NEVER else 0,
        )


def dumps(schedule: Schedule) -> bytes:
    """Indented JSON with a line break at the end; `load` reads it back to an equal schedule."""
    return msgspec.json.format(msgspec.json.encode(schedule), indent=1) + b"\n"


def load(source: str | Path | bytes) -> Schedule:
    """The schedule in a file, or in the bytes of one. Raises Malformed with one sentence for whatever is not one."""
    if isinstance(source, bytes):
        name, content = "the given bytes", source
    else:
        name = str(source)
        try:
            if Path(source).stat().st_size > _SIZE_MAX:
                raise Malformed(f"{name}: too large for a schedule; name the schedule.json of a run")
            content = Path(source).read_bytes()
        except OSError as problem:
            raise Malformed(
                f"{name}: cannot be read ({problem.strerror or problem}); check the path"
            ) from None
        except ValueError as problem:  # a NUL in the path
            raise Malformed(f"{name!r}: cannot be read ({problem}); check the path") from None
    try:
        kind = msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        raise Malformed(
            f"{name}: this is not a schedule (no JSON object); name the schedule.json of a run"
        ) from None
    if kind.get("format") != FORMAT:
        raise Malformed(
            f"{name}: this is not a schedule (format is not {FORMAT!r}); name the schedule.json of a run"
        )
    if kind.get("version") != VERSION:
        raise Malformed(
            f"{name}: schedule version {kind.get('version')!r} cannot be read, only {VERSION}; "
            "use the release of sunder that wrote the file"
        )
    try:
        schedule = msgspec.convert(kind, Schedule)
    except msgspec.ValidationError as problem:
        raise Malformed(f"{name}: the schedule is damaged ({problem}); correct or restore the file") from None
    _validate(name, schedule)
    return schedule


def _validate(name: str, schedule: Schedule) -> None:
    if schedule.concurrency < 1:
        raise Malformed(f"{name}: concurrency is {schedule.concurrency}; at least one client is needed")
    for i, op in enumerate(schedule.ops):
        if not 0 <= op.thread < schedule.concurrency:
            raise Malformed(
                f"{name}: operation {i} is for thread {op.thread}, but there are {schedule.concurrency} "
                "(0 and up); correct the thread or raise the concurrency"
            )
        if op.time < 0:
            raise Malformed(f"{name}: operation {i} has the time {op.time}; times begin at 0")
    for i, fault in enumerate(schedule.faults):
        if fault.time < 0:
            raise Malformed(f"{name}: fault {i} has the time {fault.time}; times begin at 0")
        content: Any = fault.fault
        if not isinstance(content, dict) or not isinstance(cast("dict[str, Any]", content).get("fault"), str):
            raise Malformed(f"{name}: fault {i} does not say which fault it is; give it a field 'fault'")


_Queue = tuple[tuple[int, int, Ask], ...]


class Scripted(msgspec.Struct, frozen=True):
    """The generator that runs a schedule: every operation at its time on its thread, then nothing more until `end`.

    A busy thread delays its next operation and never drops it; other threads do not wait for it.

    >>> s = Schedule(ops=(TimedOp(5, 0, "get", "x"), TimedOp(7, 0, "get", "y")))
    >>> from history.generator import simulate
    >>> [(o.key, o.invoke.time) for o in simulate(Scripted(s), concurrency=1).operations]
    [('x', 5), ('y', 15)]
    """

    schedule: Schedule

    @property
    def hears(self) -> bool:
        return False

    def op(self, ctx: Context) -> Step | None:
        return _script(self.schedule).op(ctx)

    def update(self, ctx: Context, event: Op) -> Generator:
        return self


class _Script(msgspec.Struct, frozen=True):
    """Per thread, the nemesis first: its queue of (time, order, ask), and how many of it are done."""

    queues: tuple[_Queue, ...]
    heads: tuple[int, ...]
    end: int

    @property
    def hears(self) -> bool:
        return False

    def op(self, ctx: Context) -> Step | None:
        now, busy = ctx.time, ctx.busy
        until, left, steady, best, chosen = NEVER, False, True, (NEVER, NEVER), -1
        for i, (queue, head) in enumerate(zip(self.queues, self.heads, strict=True)):
            if head == len(queue):
                continue
            left = True
            if busy >> i & 1:  # the bit of thread i - 1
                steady = False
                continue
            time, order, _ = queue[head]
            if time > now:
                until = min(until, time)
            elif (time, order) < best:
                best, chosen = (time, order), i
        if chosen >= 0:
            head = self.heads[chosen]
            heads = (*self.heads[:chosen], head + 1, *self.heads[chosen + 1 :])
            return self.queues[chosen][head][2], _Script(self.queues, heads, self.end)
        if left:
            return (Pending(until, steady) if until < NEVER else PENDING), self
        return (Pending(self.end, True), self) if now < self.end else None

    def update(self, ctx: Context, event: Op) -> Generator:
        return self


def _script(schedule: Schedule) -> _Script:
    queues: list[list[tuple[int, int, Ask]]] = [[] for _ in range(schedule.concurrency + 1)]
    for fault in schedule.faults:
        value: dict[str, Any] = msgspec.to_builtins(fault.fault)
        queues[0].append((fault.time, fault.order, Ask(value["fault"], value=value, thread=NEMESIS_THREAD)))
    for op in schedule.ops:
        queues[op.thread + 1].append((op.time, op.order, Ask(op.f, op.key, op.value, op.meta, op.thread)))
    ordered = tuple(tuple(sorted(q, key=lambda step: step[:2])) for q in queues)
    return _Script(ordered, (0,) * len(ordered), schedule.end)
