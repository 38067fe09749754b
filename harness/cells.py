"""Runs many cells on worker processes, and loses only the cell that a crashed worker had."""

from __future__ import annotations

import contextlib
import hashlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import IO

import msgspec

from checkers.verdict import Valid
from harness import settings as configuration
from harness.mutants import apply
from harness.settings import Settings
from harness.worker import Answer, Job

EXECUTE = "harness.runner:execute"
ATTEMPTS_MAX = 2
GRACE_SECONDS = 300.0
"""How much longer than its own time a cell may take before its worker is taken for hung."""

HEAL_SECONDS = 60.0
"""How long an interrupted worker may take to heal and remove what stands outside its process."""

_NOT_IDENTITY = ("seed", "runs", "name", "leave_running")


class Cell(msgspec.Struct, frozen=True):
    """One test of a campaign: settings with their seed."""

    settings: Settings

    @property
    def label(self) -> str:
        """The configuration in words; cells that differ only in their seed share it."""
        plain = msgspec.structs.replace(self.settings, seed=None, name=None, runs="runs", leave_running=False)
        words = configuration.flags(plain)
        said: list[str] = []
        for word in words:
            if word.startswith("--"):
                said.append(word[2:])
            else:
                said[-1] += f"={word}"
        return " ".join(said) or f"workload={plain.workload}"

    @property
    def key(self) -> str:
        """Names the cell in every night: the configuration's digest and the seed."""
        kept = {k: v for k, v in configuration.written(self.settings).items() if k not in _NOT_IDENTITY}
        digest = hashlib.sha256(msgspec.json.encode(kept, order="sorted")).hexdigest()[:16]
        return f"{digest}-{self.settings.seed}"


class CellResult(msgspec.Struct, frozen=True):
    """A cell with what became of it, after so many attempts."""

    cell: Cell
    answer: Answer
    attempts: int = 1

    @property
    def verdict(self) -> Valid:
        return self.answer.verdict


class _Worker:
    """A worker process, the variant that it hosts, and the cell that it has at the moment."""

    def __init__(self, mutant: str | None, environment: dict[str, str], execute: str) -> None:
        self.mutant = mutant
        self.cell: Cell | None = None
        self.attempt = 0
        self.deadline = 0.0
        self.heard = b""
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed in `stop`
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "harness.worker", execute],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
            # Ctrl-C is for the campaign, which then stops its workers in order.
            start_new_session=True,
        )

    def give(self, cell: Cell, attempt: int, runs: str | None) -> None:
        assert self.process.stdin is not None
        self.cell, self.attempt = cell, attempt
        s = cell.settings
        self.deadline = time.monotonic() + s.time_seconds + s.recovery_seconds + GRACE_SECONDS
        # A worker that is already dead is noticed when its answers end.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(msgspec.json.encode(Job(settings=s, runs=runs)) + b"\n")
            self.process.stdin.flush()

    def hear(self) -> Answer | None:
        """The answer, once it is whole. Raises EOFError when the worker is gone."""
        assert self.process.stdout is not None
        content = os.read(self.process.stdout.fileno(), 1 << 16)
        if not content:
            raise EOFError
        self.heard += content
        line, newline, rest = self.heard.partition(b"\n")
        if not newline:
            return None
        self.heard = rest
        return msgspec.json.decode(line, type=Answer)

    def last_words(self) -> str:
        """The end of what the worker wrote to standard error."""
        end = self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, end - 4_000))
        return self.errors.read().decode("utf-8", "replace")

    def stop(self) -> None:
        """Ends the process. One that made something outside of itself is given time to remove it."""
        if self.cell is not None and self.cell.settings.world != "sim" and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(HEAL_SECONDS)
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self.errors.close()


def default_workers() -> int:
    return len(os.sched_getaffinity(0))


def run_cells(
    cells: Iterable[Cell],
    workers: int | None = None,
    *,
    runs: str | None = None,
    execute: str = EXECUTE,
    go_on: Callable[[], bool] = lambda: True,
) -> Generator[CellResult]:
    """Yields each cell's result as it comes, in no particular order. Closing the iterator stops the workers.

    `workers` are processes (None: one a processor); each hosts one variant of the store at a time. Cells outside the
    simulator run one after another. `runs` is where failing cells leave folders; `execute` the function that runs a
    cell, as `module:function`; no further cell begins once `go_on` is false. A cell that ends in a harness error or
    loses its worker is tried a second time.
    """
    pool = _Pool(_Queue(cells), workers or default_workers(), runs, execute, go_on)
    with contextlib.ExitStack() as variants:
        pool.variants = variants
        try:
            yield from pool.results()
        finally:
            pool.stop()


class _Queue:
    """Cells that wait, in lanes by what it takes to run them, so that the next one is found at once among a million."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self.count = 0
        self.lanes: dict[tuple[str | None, bool], deque[tuple[int, Cell, int]]] = {}
        for cell in cells:
            self.add(cell, 1)

    def add(self, cell: Cell, attempt: int) -> None:
        lane = (cell.settings.mutant, cell.settings.world != "sim")
        self.lanes.setdefault(lane, deque()).append((self.count, cell, attempt))
        self.count += 1

    def take(self, hosted: set[str | None], *, outside: bool) -> tuple[Cell, int] | None:
        """The first cell of a variant that a free worker hosts already, else the first of all, with its attempt;
        cells outside the simulator only where `outside` allows one more."""
        may = [lane for lane, waiting in self.lanes.items() if waiting and (outside or not lane[1])]
        if not may:
            return None
        best = min(may, key=lambda lane: (lane[0] not in hosted, self.lanes[lane][0][0]))
        _, cell, attempt = self.lanes[best].popleft()
        return cell, attempt

    def clear(self) -> None:
        self.lanes.clear()


class _Pool:
    """The cells that wait, the workers that run, and who gets what."""

    def __init__(
        self,
        waiting: _Queue,
        size: int,
        runs: str | None,
        execute: str,
        go_on: Callable[[], bool],
    ) -> None:
        self.waiting = waiting
        self.size = size
        self.runs = runs
        self.execute = execute
        self.go_on = go_on
        self.workers: list[_Worker] = []
        self.environments: dict[str | None, dict[str, str]] = {}
        self.variants = contextlib.ExitStack()
        self.selector = selectors.DefaultSelector()

    def results(self) -> Iterator[CellResult]:
        self.assign()
        while any(w.cell is not None for w in self.workers):
            ready = self.selector.select(timeout=1.0)
            for key, _ in ready:
                yield from self.hear(key.data)
            now = time.monotonic()
            for worker in [w for w in self.workers if w.cell is not None and now > w.deadline]:
                yield from self.lose(worker, "The worker did not answer in time and was stopped.")
            self.assign()

    def assign(self) -> None:
        """Gives every free worker a cell, as long as there are cells that may begin."""
        if not self.go_on():
            self.waiting.clear()
        while True:
            free = [w for w in self.workers if w.cell is None]
            if not free and len(self.workers) >= self.size:
                return
            outside = any(w.cell is not None and w.cell.settings.world != "sim" for w in self.workers)
            choice = self.waiting.take({w.mutant for w in free}, outside=not outside)
            if choice is None:
                return
            cell, attempt = choice
            mutant = cell.settings.mutant
            worker = next((w for w in free if w.mutant == mutant), None)
            if worker is None:
                if len(self.workers) >= self.size:
                    self.retire(free[0])
                worker = self.start(mutant)
            worker.give(cell, attempt, self.runs)

    def start(self, mutant: str | None) -> _Worker:
        if mutant not in self.environments:
            self.environments[mutant] = self.environment(mutant)
        worker = _Worker(mutant, self.environments[mutant], self.execute)
        self.workers.append(worker)
        self.selector.register(worker.process.stdout, selectors.EVENT_READ, worker)  # pyright: ignore[reportArgumentType]  a pipe was asked for
        return worker

    def environment(self, mutant: str | None) -> dict[str, str]:
        if mutant is None:
            return dict(os.environ)
        from harness.mutants.catalog import MUTANTS

        return self.variants.enter_context(apply.copied(MUTANTS[mutant])).environment(os.environ)

    def hear(self, worker: _Worker) -> Iterator[CellResult]:
        try:
            answer = worker.hear()
        except (EOFError, msgspec.MsgspecError):
            if worker.cell is None:
                self.retire(worker)
            else:
                yield from self.lose(worker, "The worker crashed.")
            return
        if answer is None:
            return
        cell, attempt = worker.cell, worker.attempt
        assert cell is not None
        worker.cell = None
        if answer.verdict is Valid.HARNESS_ERROR and attempt < ATTEMPTS_MAX:
            self.waiting.add(cell, attempt + 1)
        else:
            yield CellResult(cell, answer, attempt)

    def lose(self, worker: _Worker, sentence: str) -> Iterator[CellResult]:
        """The worker is gone, and with it what it had: its cell is tried once more on another."""
        cell, attempt = worker.cell, worker.attempt
        assert cell is not None
        words = self.retire(worker)
        if attempt < ATTEMPTS_MAX:
            self.waiting.add(cell, attempt + 1)
            return
        yield CellResult(
            cell,
            Answer(verdict=Valid.HARNESS_ERROR, sentence=sentence, error=words),
            attempt,
        )

    def retire(self, worker: _Worker) -> str:
        """Ends a worker and returns its last words."""
        words = worker.last_words()
        self.selector.unregister(worker.process.stdout)  # pyright: ignore[reportArgumentType]  a pipe was asked for
        worker.stop()
        self.workers.remove(worker)
        return words

    def stop(self) -> None:
        for worker in list(self.workers):
            self.retire(worker)
        self.selector.close()
