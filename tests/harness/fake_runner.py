"""A runner without a world: what it does is decided by the seed, so that the shell around runs can be tested alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from checkers.verdict import Anomaly, Valid, Verdict, compose
from harness.settings import Settings
from history import schedule as schedules
from history.header import Header
from history.history import History
from history.journal import MemoryJournal, read
from history.op import Op
from history.schedule import Schedule

INVALID, UNKNOWN, BROKEN, CRASHES, CRASHES_ONCE, INTERRUPTED, HANGS = 7, 8, 9, 13, 14, 15, 16


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    verdict: Valid
    sentence: str
    verdicts: list[Verdict]
    history: History
    journal: bytes
    schedule: Schedule
    logs: dict[str, str]
    environment: dict[str, Any]
    seed: int
    duration_seconds: float
    trace: str | None = None


def execute(
    settings: Settings, folder: Path | None = None, progress: Callable[[Any], None] | None = None
) -> Outcome:
    assert settings.seed is not None
    kind = settings.seed % 100
    if note := os.environ.get("FAKE_NOTES"):
        with open(note, "a") as file:
            file.write(f"{os.getpid()} {settings.seed} {settings.mutant}\n")
    if kind == CRASHES or (kind == CRASHES_ONCE and _first_time(settings.seed)):
        os.write(2, b"last words\n")
        os._exit(3)
    if kind == BROKEN:
        raise RuntimeError("the harness tripped")
    if kind == HANGS:
        time.sleep(600)
    content = journal(settings)
    if folder is not None:
        (folder / "history.jsonl").write_bytes(content)
    if kind == INTERRUPTED:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
    history = read(content)
    verdict, sentence, verdicts = judge(history)
    return Outcome(
        verdict=verdict,
        sentence=sentence,
        verdicts=verdicts,
        history=history,
        journal=content,
        schedule=schedules.Schedule.from_history(history),
        logs={"n1": "started\n"},
        environment={"mechanisms": {}},
        seed=settings.seed,
        duration_seconds=0.25,
        trace="abc",
    )


def replay(
    schedule: Schedule,
    settings: Settings,
    folder: Path | None = None,
    progress: Callable[[Any], None] | None = None,
) -> Outcome:
    return execute(msgspec.structs.replace(settings, seed=schedule.seed), folder, progress)


def _first_time(seed: int) -> bool:
    mark = Path(os.environ["FAKE_NOTES"] + f".{seed}")
    if mark.exists():
        return False
    mark.touch()
    return True


def journal(settings: Settings) -> bytes:
    header = Header(
        name=settings.title,
        workload=settings.workload,
        seed=settings.seed or 0,
        families=settings.nemesis,
        guarantees={"lost_writes": "causal"},
        config={"concurrency": settings.concurrency},
    )
    sink = MemoryJournal(header)
    for index, event in enumerate(
        (
            Op(0, "invoke", "put", "x", 1, meta={"context": []}),
            Op(0, "ok", "put", "x"),
            Op(1, "invoke", "get", "x"),
            Op(1, "ok", "get", "x", []),
        )
    ):
        sink.append(msgspec.structs.replace(event, index=index, time=index * 1_000_000))
    return sink.bytes()


def judge(history: History, names: list[str] | None = None) -> tuple[Valid, str, list[Verdict]]:
    kind = history.header.seed % 100
    valid = {INVALID: Valid.INVALID, UNKNOWN: Valid.UNKNOWN}.get(kind, Valid.VALID)
    lost = Verdict(
        checker="lost_writes",
        valid=valid,
        reason="" if valid is Valid.VALID else f"1 acknowledged write is {valid}",
        anomalies=(
            (
                Anomaly(
                    kind="lost",
                    key="x",
                    sentence="write 1 of x was acknowledged and is not read",
                    witness=(0, 2),
                    why=("acknowledged", "misses it"),
                ),
            )
            if valid is Valid.INVALID
            else ()
        ),
    )
    measured = Verdict(checker="availability", valid=Valid.INVALID, judged=False, reason="only measured")
    verdicts = [v for v in (lost, measured) if names is None or v.checker in names]
    verdict = compose(verdicts)
    return verdict, f"{verdict}: said the fake", verdicts
