"""One worker process of a campaign: reads cells from standard input, runs each, and answers with one line.

A worker hosts one variant of the store for its whole life; whoever starts it decides which. It imports once and runs
many seeds. Whatever a run prints goes to standard error, so that answers stay readable.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from checkers.verdict import Valid
from harness import environment as surroundings
from harness import results
from harness.mutants import apply
from harness.settings import Settings

if TYPE_CHECKING:
    from harness.runner import Outcome

KEPT = (Valid.INVALID, Valid.HARNESS_ERROR)
"""Verdicts whose run keeps a folder where the same seed would give the same run again; elsewhere every run does."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A cell to run; `runs` is where it may leave a folder (None: nowhere)."""

    settings: Settings
    runs: str | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a job. `events` is the length of the history."""

    verdict: Valid
    sentence: str
    fingerprints: tuple[str, ...] = ()
    seconds: float = 0.0
    events: int = 0
    trace: str | None = None
    folder: str | None = None
    error: str = ""


def work(job: Job, execute: Any, variant: apply.Variant | None) -> Answer:
    """Runs one cell. The harness's own exceptions become a harness error: they accuse nobody."""
    settings = job.settings
    if variant is not None:
        settings = msgspec.structs.replace(settings, store_path=variant.directory)
    began = time.monotonic()
    folder: Path | None = None
    try:
        if job.runs is not None and settings.world != "sim":
            folder = new_folder(Path(job.runs), settings, variant)
        outcome: Outcome = execute(settings, folder, None)
    except Exception as problem:
        return Answer(
            verdict=Valid.HARNESS_ERROR,
            sentence=f"The harness failed: {type(problem).__name__}: {problem}",
            seconds=time.monotonic() - began,
            folder=str(folder) if folder is not None else None,
            error=traceback.format_exc(),
        )
    error = results.traceback_of(outcome.verdicts)
    try:
        if job.runs is not None and folder is None and outcome.verdict in KEPT:
            folder = new_folder(Path(job.runs), settings, variant)
        if folder is not None:
            keep(folder, settings, outcome, variant)
    except Exception:
        # The verdict stands, whatever became of its folder.
        error = traceback.format_exc()
    return Answer(
        verdict=outcome.verdict,
        sentence=outcome.sentence,
        fingerprints=results.fingerprints(outcome.history.header, outcome.verdicts),
        seconds=time.monotonic() - began,
        events=len(outcome.history),
        trace=outcome.trace,
        folder=str(folder) if folder is not None else None,
        error=error,
    )


def keep(folder: Path, settings: Settings, outcome: Outcome, variant: apply.Variant | None) -> None:
    command = results.command_of(settings)
    around = surroundings.describe(variant)
    found = results.finish(folder, settings, outcome, environment=around, command=command)
    results.report(folder, outcome.history, found, outcome.logs, command=command)


def new_folder(runs: Path, settings: Settings, variant: apply.Variant | None) -> Path:
    assert settings.seed is not None
    folder = results.create(runs, settings.title, settings.seed, datetime.now(UTC))
    results.begin(folder, settings, surroundings.describe(variant))
    return folder


def serve(execute_name: str) -> None:
    """Answers jobs until standard input ends: also when the campaign itself was killed."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    module, _, function = execute_name.partition(":")
    execute = getattr(importlib.import_module(module), function)
    variant = apply.current()
    gc.freeze()
    for line in sys.stdin.buffer:
        answer = work(msgspec.json.decode(line, type=Job), execute, variant)
        answers.write(msgspec.json.encode(answer) + b"\n")
        answers.flush()
        gc.collect()


if __name__ == "__main__":
    serve(sys.argv[1])
