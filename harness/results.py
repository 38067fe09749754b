"""The one room that writes run folders, and reads them back: `runs/<name>/<UTC time>-<seed>/`."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from checkers.verdict import Valid, Verdict
from harness import junit, samples
from harness import settings as configuration
from harness.settings import Settings, UsageProblem
from history import schedule as schedules
from history.header import Header

if TYPE_CHECKING:
    from harness.runner import Outcome
    from history.history import History

HISTORY = "history.jsonl"
SCHEDULE = "schedule.json"
RESULTS = "results.json"
SETTINGS = "settings.json"
ENVIRONMENT = "environment.json"
REPORT = "report.html"
JUNIT = "junit.xml"
REPRO = "repro.sh"
NODES = "nodes"
LATEST = "latest"


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided about one history. `error` is the traceback of a harness error."""

    format: str = "sunder-results"
    version: int = 1
    verdict: Valid
    sentence: str
    seed: int
    fingerprints: tuple[str, ...] = ()
    results: tuple[Verdict, ...] = ()
    error: str = ""


class Saved(msgspec.Struct, frozen=True):
    """A run folder that was read back; `results` is None where the run was cut off before it was judged."""

    folder: Path
    settings: Settings
    results: Results | None
    environment: dict[str, Any]


def fault_class(header: Header) -> str:
    """The fault families that a run asked for, as one word.

    >>> fault_class(Header(families=("pause", "kill"))), fault_class(Header())
    ('kill+pause', 'none')
    """
    return "+".join(sorted(header.families)) or "none"


def fingerprints(header: Header, verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    """checker/anomaly/fault class of everything that was judged invalid, each once, the worst first."""
    found: dict[str, None] = {}
    for verdict in verdicts:
        if verdict.judged and verdict.valid is Valid.INVALID:
            for kind in [a.kind for a in verdict.anomalies] or ["invalid"]:
                found[f"{verdict.checker}/{kind}/{fault_class(header)}"] = None
    return tuple(found)


def signatures(verdicts: Sequence[Verdict]) -> set[tuple[str, str]]:
    """(checker, anomaly) of everything that was judged invalid: what a replay has to show again."""
    return {
        (v.checker, kind)
        for v in verdicts
        if v.judged and v.valid is Valid.INVALID
        for kind in ([a.kind for a in v.anomalies] or ["invalid"])
    }


def traceback_of(verdicts: Sequence[Verdict]) -> str:
    """The traceback of the first harness error among them, if one left any."""
    broken = (v for v in verdicts if v.valid is Valid.HARNESS_ERROR)
    return next((str(v.evidence["traceback"]) for v in broken if "traceback" in v.evidence), "")


def create(runs: Path, title: str, seed: int, at: datetime) -> Path:
    """Makes a new, empty run folder that no other run has, and points `latest` to it. Raises UsageProblem."""
    stem = f"{at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{seed}"
    attempt = 1
    while True:
        folder = runs / title / (stem if attempt == 1 else f"{stem}-{attempt}")
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            if not folder.parent.is_dir():
                raise UsageProblem(
                    f"{folder.parent} is in the way: choose another --runs or --name"
                ) from None
            attempt += 1
        except OSError as problem:
            raise UsageProblem(f"cannot write {folder}: {problem.strerror}: choose another --runs") from None
    point_latest(runs, folder)
    return folder


def point_latest(runs: Path, folder: Path) -> None:
    """Points `runs/latest` to the folder in one step. A file of that name that is no link is left alone."""
    latest = runs / LATEST
    if latest.exists() and not latest.is_symlink():
        return
    temporary = runs / f".{LATEST}-{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(folder.relative_to(runs), target_is_directory=True)
    temporary.replace(latest)


def discard(runs: Path, folder: Path) -> None:
    """Removes a folder in which nothing happened; `latest` goes back to the newest run of that name, or away."""
    latest = runs / LATEST
    pointed = latest.is_symlink() and latest.resolve() == folder.resolve()
    shutil.rmtree(folder)
    if pointed:
        rest = sorted(folder.parent.iterdir())
        if rest:
            point_latest(runs, rest[-1])
        else:
            latest.unlink()
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


def put(path: Path, content: bytes | str, *, mode: int = 0o644) -> None:
    """Writes a whole file or none of it."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def begin(folder: Path, settings: Settings, environment: Mapping[str, Any]) -> None:
    """Writes down what is known before a run starts, so that a run that is cut off can be read all the same."""
    put(folder / SETTINGS, _json(configuration.written(settings)))
    put(folder / ENVIRONMENT, _json(environment))


def finish(
    folder: Path,
    settings: Settings,
    outcome: Outcome,
    *,
    environment: Mapping[str, Any],
    command: str,
) -> Results:
    """Writes everything that a run left but for the report, which can be drawn again: what cannot comes first."""
    if not (folder / HISTORY).exists():
        put(folder / HISTORY, outcome.journal)
    put(folder / SCHEDULE, schedules.dumps(outcome.schedule))
    results = Results(
        verdict=outcome.verdict,
        sentence=outcome.sentence,
        seed=outcome.seed,
        fingerprints=fingerprints(outcome.history.header, outcome.verdicts),
        results=tuple(outcome.verdicts),
        error=traceback_of(outcome.verdicts),
    )
    for node, log in outcome.logs.items():
        (folder / NODES).mkdir(exist_ok=True)
        put(folder / NODES / f"{node}.log", log)
    conclude(
        folder,
        settings,
        results,
        environment={
            **environment,
            **outcome.environment,
            "duration_seconds": round(outcome.duration_seconds, 3),
            **({"trace": outcome.trace} if outcome.trace else {}),
        },
        command=command,
    )
    return results


def conclude(
    folder: Path, settings: Settings, results: Results, *, environment: Mapping[str, Any], command: str
) -> None:
    """Writes the verdict, for people and for machines; all but the report."""
    put(folder / SETTINGS, _json(configuration.written(settings)))
    put(folder / RESULTS, _json(results))
    put(folder / ENVIRONMENT, _json(environment))
    seconds = environment.get("duration_seconds", 0.0)
    put(folder / JUNIT, junit.render(settings.title, cases(settings, results, seconds=seconds)))
    put(folder / REPRO, repro(settings, results, command), mode=0o755)


def cases(settings: Settings, results: Results, *, seconds: float) -> list[junit.Case]:
    """A JUnit case for each checker, after one for the run itself."""
    group = f"sunder.{settings.title}"
    run = junit.Case(
        group=group,
        name="run",
        verdict=Valid.VALID if results.verdict is Valid.INVALID else results.verdict,
        seconds=seconds,
        message=results.sentence,
        text=results.error or results.sentence,
    )
    judged = [
        junit.Case(
            group=group,
            name=v.checker,
            verdict=v.valid if v.judged else Valid.VALID,
            message=v.reason,
            text="\n".join(a.sentence for a in v.anomalies)
            or ("" if v.judged else "measured only: not promised"),
        )
        for v in results.results
    ]
    return [run, *judged]


def report(
    folder: Path, history: History, results: Results, logs: Mapping[str, str], *, command: str
) -> Path:
    """Renders the report of a run into its folder."""
    from harness.report import render

    environment = _mapping(folder / ENVIRONMENT) if (folder / ENVIRONMENT).is_file() else None
    taken = samples.read(folder / samples.FILE) if (folder / samples.FILE).is_file() else []
    page = render(
        history,
        results,
        logs,
        title=title(folder),
        command=command,
        environment=environment,
        samples=taken,
    )
    put(folder / REPORT, page)
    return folder / REPORT


def title(folder: Path) -> str:
    """How a report calls its run: name and folder, without the path."""
    whole = folder.resolve()
    return f"{whole.parent.name}/{whole.name}"


def repro(settings: Settings, results: Results, command: str) -> str:
    """A shell script that repeats the run."""
    note = (
        "The same seed gives the same history, byte for byte."
        if settings.world == "sim"
        else "A seed repeats the operations and faults that are asked for, not their timing in containers;\n"
        '# `sunder replay "$(dirname "$0")"` repeats this very schedule, and the simulator repeats it exactly.'
    )
    return (
        "#!/bin/sh\n"
        f"# {' '.join(results.sentence.split())}\n"
        f"# {note}\n"
        'for variable in $(env | sed -n "s/^\\(SUNDER_[A-Z_]*\\)=.*/\\1/p"); do unset "$variable"; done\n'
        f'exec {command} "$@"\n'
    )


def find(path: Path) -> Path:
    """The run folder that a path means: the folder itself, or one of the files in it. Raises UsageProblem."""
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise UsageProblem(f"there is no {path}: give the folder of a run, such as runs/{LATEST}")
    if not (folder / SETTINGS).is_file():
        raise UsageProblem(f"{path} is no run folder (it has no {SETTINGS}): give one, such as runs/{LATEST}")
    return folder


def read(path: Path) -> Saved:
    """Reads a run folder's settings, results and environment. Raises UsageProblem."""
    folder = find(path)
    written = _mapping(folder / SETTINGS)
    settings = Settings(**configuration.fields_of(written, source=str(folder / SETTINGS)))
    results: Results | None = None
    if (folder / RESULTS).is_file():
        try:
            results = msgspec.json.decode((folder / RESULTS).read_bytes(), type=Results)
        except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as problem:
            raise UsageProblem(f"{folder / RESULTS} cannot be read: {problem}") from None
    environment = _mapping(folder / ENVIRONMENT) if (folder / ENVIRONMENT).is_file() else {}
    return Saved(folder, settings, results, environment)


def _mapping(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as problem:
        raise UsageProblem(f"{path} cannot be read: {problem}") from None


def read_logs(folder: Path) -> dict[str, str]:
    """Each node's log that a run folder holds."""
    return {path.stem: path.read_text("utf-8", "replace") for path in sorted((folder / NODES).glob("*.log"))}


def command_of(settings: Settings, environment: Mapping[str, str] | None = None) -> str:
    """The exact command that makes this run again; `environment` is where it will be typed."""
    also = configuration.fields_of(configuration.variables(environment or {}), source="the environment")
    return shlex.join(["sunder", "run", *configuration.flags(settings, also=also)])
