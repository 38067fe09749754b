"""`sunder report`: one HTML file from a saved run."""

from __future__ import annotations

from pathlib import Path

from harness import exits, results, screen
from harness.commands import check


def report(path: Path) -> int:
    """Renders the report again, judging the history first where the run never came to a verdict."""
    saved = results.read(path)
    history = check.read(saved.folder / results.HISTORY)
    found = saved.results
    if found is None or not found.results:
        from harness import runner

        names = list(saved.settings.checkers) if saved.settings.checkers is not None else None
        verdict, sentence, verdicts = runner.judge(history, names)
        found = results.Results(
            verdict=verdict, sentence=sentence, seed=history.header.seed, results=tuple(verdicts)
        )
    command = results.command_of(saved.settings)
    screen.out(
        str(results.report(saved.folder, history, found, results.read_logs(saved.folder), command=command))
    )
    return exits.VALID
