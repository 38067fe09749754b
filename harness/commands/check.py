"""`sunder check`: judges saved histories again, each path on its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from checkers.verdict import Valid, Verdict
from harness import exits, results, screen
from harness.settings import UsageProblem, known_names, unknown
from history import journal
from history.history import History, Malformed


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one path. A path that could not be read has no verdict; `error` says why."""

    path: str
    verdict: Valid | None
    sentence: str = ""
    results: dict[str, Verdict] = {}
    error: str | None = None


def check(
    paths: Sequence[Path], *, checkers: tuple[str, ...] | None, as_json: bool, partial: bool = False
) -> int:
    """Returns the worst exit code of all paths. Raises UsageProblem for an unknown checker."""
    for name in checkers or ():
        if name not in (known := known_names("checker")):
            raise unknown("checker", name, known)
    codes: list[int] = []
    for path in paths:
        try:
            judged = judge(path, checkers, partial=partial)
            codes.append(exits.USAGE if judged.verdict is None else exits.OF[judged.verdict])
        except UsageProblem as problem:
            judged = Judged(path=str(path), verdict=None, error=str(problem))
            codes.append(exits.USAGE)
        except Exception as problem:
            # A broken checker costs its own path only; the others are still judged.
            reason = f"{path} could not be judged: {type(problem).__name__}: {problem}"
            judged = Judged(path=str(path), verdict=Valid.HARNESS_ERROR, error=reason)
            codes.append(exits.HARNESS_ERROR)
        show(judged, as_json=as_json)
    return exits.worst(codes)


def show(judged: Judged, *, as_json: bool) -> None:
    if judged.error is not None:
        screen.note(f"sunder: {judged.error}")
    if as_json:
        screen.out(msgspec.json.encode(judged).decode())
    elif judged.verdict is not None and judged.error is None:
        screen.out(screen.headline(judged.verdict, judged.sentence))
        screen.out(f"    {judged.path}")
        for name, verdict in judged.results.items():
            measured = "" if verdict.judged else " (measured only)"
            screen.out(f"    {name:20} {verdict.valid}{measured}  {verdict.reason}".rstrip())


def judge(path: Path, checkers: tuple[str, ...] | None, *, partial: bool) -> Judged:
    """Reads and judges one path. Raises UsageProblem with one sentence where it holds no whole history."""
    from harness import runner

    file = history_file(path)
    history = read(file)
    if history.torn:
        if not (partial or cut_off(file)):
            raise UsageProblem(f"{file} is truncated: {history.torn}; add --partial to judge what is there")
        screen.note(f"{file}: {history.torn}; judged without it")
    try:
        valid, sentence, verdicts = runner.judge(history, list(checkers) if checkers is not None else None)
    except Malformed as problem:
        raise UsageProblem(f"{file}: {problem}") from None
    return Judged(path=str(path), verdict=valid, sentence=sentence, results={v.checker: v for v in verdicts})


def history_file(path: Path) -> Path:
    """The history that a path means. Raises UsageProblem."""
    if not path.exists():
        raise UsageProblem(f"there is no {path}: give a run folder or a history file")
    if path.is_dir():
        if not (path / results.HISTORY).is_file():
            raise UsageProblem(f"{path} holds no {results.HISTORY}: give a run folder or a history file")
        return path / results.HISTORY
    if not path.is_file():
        raise UsageProblem(f"{path} is neither a folder nor a file: give a run folder or a history file")
    return path


def read(file: Path) -> History:
    """Reads a history file. Raises UsageProblem, whatever the file holds."""
    try:
        return journal.read(file)
    except Malformed as problem:
        raise UsageProblem(str(problem)) from None


def cut_off(file: Path) -> bool:
    """Whether this is the journal of a run that was killed: it began, and it never came to results.

    Such a run may have been in the middle of a line. A cut line anywhere else is a damaged file.
    """
    return (file.parent / results.SETTINGS).is_file() and not (file.parent / results.RESULTS).is_file()
