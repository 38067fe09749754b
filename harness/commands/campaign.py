"""`sunder campaign`: runs a matrix, stores every outcome at once, and sums the night up."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec

from checkers.verdict import Valid
from harness import campaign as campaigns
from harness import exits, results, screen, summary
from harness.cells import CellResult
from harness.commands.run import interruptible

MARKDOWN = "summary.md"


def campaign(
    file: Path,
    *,
    budget: str | None,
    workers: int | None,
    resume: bool,
    runs: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Returns the exit code. Raises UsageProblem."""
    plan = campaigns.read(file, runs=runs)
    budget_seconds = campaigns.budget_of(budget) if budget is not None else plan.budget_seconds
    if dry_run:
        for cell in plan.cells():
            screen.out(f"{cell.label}  seed {cell.settings.seed}")
        screen.note(
            f"{len(plan.configurations)} configurations, {len(plan.seeds)} seeds each: nothing was run"
        )
        return exits.VALID
    with closing(campaigns.Campaign(plan, resume=resume)) as running:
        screen.note(
            f"{plan.name}: {len(running.left)} of {len(running.cells)} cells to run, night {running.night.id};"
            f" outcomes go to {plan.folder / campaigns.DATABASE}"
        )
        if running.abandoned is not None:
            night, missing = running.abandoned
            screen.note(
                f"night {night.id} was left with {missing} cells not run: `sunder campaign {file} --resume` would have gone on"
                f" with it; this is night {running.night.id}, from the beginning"
            )
        stopped = follow(running, workers or plan.workers, budget_seconds, as_json=as_json)
        code = conclude(running, as_json=as_json)
        if stopped:
            screen.note(f"interrupted: `sunder campaign {file} --resume` goes on")
            return exits.INTERRUPTED
        if left := running.missing():
            screen.note(
                f"the budget is spent and {left} cells were not run: `sunder campaign {file} --resume` goes on"
            )
        return code


def follow(
    running: campaigns.Campaign, workers: int | None, budget_seconds: float | None, *, as_json: bool
) -> bool:
    """Shows each outcome that matters as it comes. True if it was interrupted."""
    done = failed = 0
    total = len(running.left)
    try:
        with interruptible(), screen.line() as show:
            for result in running.results(workers=workers, budget_seconds=budget_seconds):
                done += 1
                failed += result.cell.settings.mutant is None and result.verdict is not Valid.VALID
                if as_json:
                    screen.out(line(result))
                elif result.cell.settings.mutant is None and result.verdict is not Valid.VALID:
                    screen.note(
                        f"{result.verdict}: {result.cell.label} seed {result.cell.settings.seed}: {result.answer.sentence}"
                    )
                show(lambda: f"{done} of {total} cells, {failed} not valid")  # noqa: B023  made at once or never
    except KeyboardInterrupt:
        return True
    return False


def line(result: CellResult) -> str:
    cell, answer = result.cell, result.answer
    content = {
        "cell": cell.key,
        "label": cell.label,
        "seed": cell.settings.seed,
        "mutant": cell.settings.mutant,
        "verdict": answer.verdict,
        "sentence": answer.sentence,
        "fingerprints": answer.fingerprints,
        "seconds": round(answer.seconds, 3),
        "attempts": result.attempts,
        "path": answer.folder,
    }
    return msgspec.json.encode(content).decode()


def conclude(running: campaigns.Campaign, *, as_json: bool) -> int:
    """Writes the summaries of the night so far and returns its exit code."""
    running.finish()
    night = summary.summarise(running.plan.name, running.outcomes, running.night, left=running.missing())
    folder = running.plan.folder
    results.put(folder / MARKDOWN, text := summary.markdown(night))
    results.put(folder / results.JUNIT, summary.xml(night, running.outcomes))
    if not as_json:
        screen.out(text.splitlines()[0].removeprefix("# "))
        for group in night.groups[:10]:
            screen.out(f"    {group.fingerprint}: {len(group.cells)} of {group.ran}, such as")
            screen.out(f"        {summary.repeat(group.cells[0])}")
        for found in night.found:
            told = (
                f"found in {found.cells} of {found.ran}, first by seed {found.seed}"
                if found.cells
                else "NOT FOUND"
            )
            screen.out(f"    mutant {found.mutant}: {told}")
        screen.out(f"summary  {folder / MARKDOWN}")
        screen.out(f"junit    {folder / results.JUNIT}")
    return night.exit_code
