"""A campaign: a matrix of configurations and seeds from a YAML file, run cell by cell, resumable, failures first."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import msgspec

from harness import settings as configuration
from harness.cells import EXECUTE, Cell, CellResult, run_cells
from harness.environment import revision
from harness.outcomes import Night, Outcomes
from harness.settings import Settings, UsageProblem, unknown

DATABASE = "campaign.sqlite"
CELLS_MAX = 10_000_000

_AXES = ("combinations", "workloads", "nemeses", "worlds", "settings", "mutants")
_KEYS = ("name", *_AXES, "defaults", "seeds", "budget", "workers", "runs")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A campaign file, read: its configurations (without seeds) and how to go about them."""

    name: str
    configurations: tuple[Settings, ...]
    seeds: tuple[int, ...]
    budget_seconds: float | None = None
    workers: int | None = None
    runs: str = "runs"

    @property
    def folder(self) -> Path:
        """Where everything of this campaign lies: the outcomes, the summaries, the runs that were kept."""
        return Path(self.runs) / self.name

    def cells(self) -> list[Cell]:
        """Every configuration with every seed; seed by seed, so that a short budget still sees them all."""
        return [
            Cell(msgspec.structs.replace(c, seed=seed)) for seed in self.seeds for c in self.configurations
        ]


def read(path: Path, *, runs: str | None = None) -> Plan:
    """Reads a campaign file. Raises UsageProblem."""
    return plan(configuration.read_yaml(path), name=path.stem, source=str(path), runs=runs)


def plan(content: Mapping[str, Any], *, name: str, source: str, runs: str | None = None) -> Plan:
    """Makes a campaign of a file's content. Raises UsageProblem."""
    for key in content:
        if key not in _KEYS:
            raise unknown(f"key in {source}", key, _KEYS)
    name = str(content.get("name", name))
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) or name == "latest":
        raise UsageProblem(
            f"{source}: name {name!r} cannot name a folder: use letters, digits, dots and dashes"
        )
    seeds = seeds_of(content.get("seeds", 10), source)
    configurations = tuple(dict.fromkeys(_configurations(content, source)))
    if len(configurations) * len(seeds) > CELLS_MAX:
        raise UsageProblem(
            f"{source} asks for {len(configurations) * len(seeds)} cells: at most {CELLS_MAX} can be run"
        )
    return Plan(
        name=name,
        configurations=configurations,
        seeds=seeds,
        budget_seconds=budget_of(content.get("budget")),
        workers=_workers(content.get("workers"), source),
        runs=runs or str(content.get("runs", "runs")),
    )


def budget_of(text: str | float | None) -> float | None:
    """Seconds; None is no budget. Raises UsageProblem."""
    if text is None:
        return None
    try:
        seconds = configuration.duration_seconds(text)
    except ValueError as problem:
        raise UsageProblem(f"budget cannot be {text!r}: {problem}") from None
    if seconds <= 0:
        raise UsageProblem(f"budget cannot be {text!r}: choose more than 0s")
    return seconds


def _workers(value: object, source: str) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise UsageProblem(f"{source}: workers cannot be {value!r}: write a whole number of at least 1")


def seeds_of(value: object, source: str) -> tuple[int, ...]:
    """Seeds from a count (1 to that number), a range `100..199`, or a list of either.

    >>> seeds_of(3, ""), seeds_of("5..7", ""), seeds_of([9, "1..2"], "")
    ((1, 2, 3), (5, 6, 7), (9, 1, 2))
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return tuple(range(1, _few(value, source) + 1))
    if isinstance(value, str) and (found := re.fullmatch(r"(\d+)\.\.(\d+)", value.strip())):
        first, last = int(found[1]), int(found[2])
        if first <= last:
            _few(last - first + 1, source)
            return tuple(range(first, last + 1))
    if isinstance(value, list) and value:
        listed = [
            (one,)
            if isinstance(one, int) and not isinstance(one, bool) and one >= 0
            else seeds_of(one, source)
            for one in cast("list[object]", value)
        ]
        return tuple(dict.fromkeys(itertools.chain.from_iterable(listed)))
    raise UsageProblem(
        f"{source}: seeds cannot be {value!r}: write a count, a range such as 100..199, or a list"
    )


def _few(count: int, source: str) -> int:
    if count > CELLS_MAX:
        raise UsageProblem(f"{source} asks for {count} seeds: at most {CELLS_MAX} can be run")
    return count


def _configurations(content: Mapping[str, Any], source: str) -> Iterator[Settings]:
    """The product of all axes. Raises UsageProblem."""
    axes = {axis: _axis(axis, content.get(axis), source) for axis in _AXES}
    defaults: Any = content.get("defaults") or {}
    if not isinstance(defaults, dict):
        raise UsageProblem(f"{source}: defaults must hold keys and values, such as `time: 10s`")
    for combination, workload, nemesis, world, own, mutant in itertools.product(*axes.values()):
        said: dict[str, Any] = dict(cast("dict[str, Any]", defaults))
        for key, value in (
            ("combination", combination),
            ("workload", workload),
            ("nemesis", nemesis),
            ("world", world),
            ("mutant", mutant),
        ):
            if value is not None:
                said[key] = value
        said.update(own or {})
        for key in ("seed", "runs", "name"):
            if key in said:
                raise UsageProblem(
                    f"{source}: {key} cannot be set for a configuration: it is a key of its own"
                )
        yield configuration.resolve(file=said, file_name=source)


def _axis(axis: str, value: Any, source: str) -> list[Any]:
    """The values along one axis; [None] where nothing is said."""
    if value is None:
        return [None]
    if axis == "combinations" and value == "standard":
        return list(configuration.known_names("combination"))
    if axis == "mutants" and value == "all":
        return list(configuration.known_names("mutant"))
    values: list[Any] = list(cast("list[Any]", value)) if isinstance(value, list) else [value]
    if not values:
        raise UsageProblem(f"{source}: {axis} is empty: leave it out, or list at least one")
    if axis == "mutants":
        _known("mutant", values, (*configuration.known_names("mutant"), "all", "none"), source)
        # `none` among the mutants is the clean store.
        return [None if one in (None, "none") else one for one in values]
    if axis == "combinations":
        _known("combination", values, (*configuration.known_names("combination"), "standard"), source)
    for one in values:
        right = (
            isinstance(one, dict)
            if axis == "settings"
            else isinstance(one, str | (list if axis == "nemeses" else str))
        )
        if not right:
            form = "keys and values, such as {w: 3}" if axis == "settings" else "names"
            raise UsageProblem(f"{source}: {axis} cannot hold {one!r}: list {form}")
    return values


def _known(kind: str, values: list[Any], known: tuple[str, ...], source: str) -> None:
    """Raises UsageProblem for a name that is unknown; the words that stand for several names are known."""
    for one in values:
        if isinstance(one, str) and one not in known:
            raise unknown(f"{kind} in {source}", one, known)


class Campaign:
    """One night over a plan's cells. `results` runs what is left to run; afterwards `night` tells it all."""

    def __init__(self, plan: Plan, *, resume: bool) -> None:
        """Opens the outcomes and begins a night, or goes on with the last one. Raises UsageProblem."""
        self.plan = plan
        try:
            plan.folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise UsageProblem(
                f"cannot write {plan.folder}: {problem.strerror}: choose another --runs"
            ) from None
        self.outcomes = Outcomes(plan.folder / DATABASE)
        self.cells = plan.cells()
        last = self.outcomes.last()
        self.abandoned: tuple[Night, int] | None = None
        """The last night and how many cells it lacks, where this one begins although that one was never finished."""
        if resume and last is not None:
            self.night: Night = last
        else:
            if last is not None and last.finished is None:
                self.abandoned = last, last.cells - len(self.outcomes.done(last))
            self.night = self.outcomes.begin(_now(), revision(), len(self.cells))
        done = self.outcomes.done(self.night)
        before = self.outcomes.last(before=self.night)
        failed = self.outcomes.failed(before) if before is not None else set[str]()
        left = [(cell.key, cell) for cell in self.cells]
        left = [(key, cell) for key, cell in left if key not in done]
        self.left = [cell for _, cell in sorted(left, key=lambda pair: pair[0] not in failed)]

    def results(
        self, *, workers: int | None = None, budget_seconds: float | None = None, execute: str = EXECUTE
    ) -> Iterator[CellResult]:
        """Runs the cells that are left, yesterday's failures first; each outcome is stored before it is yielded."""
        go_on = deadline(budget_seconds)
        with closing(
            run_cells(self.left, workers, runs=str(self.plan.folder), execute=execute, go_on=go_on)
        ) as running:
            for result in running:
                self.outcomes.record(self.night, result)
                yield result

    def missing(self) -> int:
        """How many cells have no outcome in this night yet."""
        done = self.outcomes.done(self.night)
        return sum(cell.key not in done for cell in self.cells)

    def finish(self) -> bool:
        """Marks the night as finished if every cell has its outcome; says whether it has."""
        whole = {cell.key for cell in self.cells} <= self.outcomes.done(self.night)
        if whole:
            self.outcomes.finish(self.night, _now())
        return whole

    def close(self) -> None:
        self.outcomes.close()


def deadline(budget_seconds: float | None) -> Callable[[], bool]:
    """True until the budget is spent."""
    if budget_seconds is None:
        return lambda: True
    end = time.monotonic() + budget_seconds
    return lambda: time.monotonic() < end


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
